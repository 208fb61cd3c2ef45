//! Connections: how one is made, protected, set up, pooled and given up.
//!
//! - `connector`: makes one, host by host.
//! - `tls`: protects it.
//! - `settings`: what every session starts with.
//! - `pooler`: finds a pooler that shares sessions.
//! - `pool`, `session`: those that are kept, their limits and time-outs.

pub(super) mod connector;
pub(super) mod pool;
pub(super) mod pooler;
pub(super) mod session;
pub(super) mod settings;
pub(super) mod tls;
