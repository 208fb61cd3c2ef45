//! Connections: how one is made, protected, set up, pooled and given up.
//!
//! - `connector`: makes one, host by host.
//! - `options`: its options, from the configuration.
//! - `tls`, `tls_error`: protects it; what its failures mean for an operator.
//! - `settings`: what every session starts with.
//! - `pooler`: finds a pooler that shares sessions.
//! - `pool`, `session`: those that are kept, their limits and timeouts.
//! - `step`: what a failure's meaning rests on.

pub(super) mod connector;
pub(super) mod options;
pub(super) mod pool;
pub(super) mod pooler;
pub(super) mod session;
pub(super) mod settings;
pub(super) mod step;
pub(super) mod tls;
pub(super) mod tls_error;
