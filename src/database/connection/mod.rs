//! Connections: how they are made, secured, set up, pooled and closed.
//!
//! - `connector`: makes one, host by host.
//! - `options`: its options, from the configuration.
//! - `libpq`: the same connection for PostgreSQL's own programs.
//! - `tls`, `tls_error`: TLS, and what its failures mean for an operator.
//! - `settings`: what every session starts with.
//! - `pooler`: detects a pooler that shares sessions.
//! - `pool`, `session`: the connections that are kept, their limits and timeouts.
//! - `answer`: waiting for an answer.
//! - `step`: the step that failed, which an error's meaning depends on.

pub(super) mod answer;
pub(super) mod connector;
pub(super) mod libpq;
pub(super) mod options;
pub(super) mod pool;
pub(super) mod pooler;
pub(super) mod session;
pub(super) mod settings;
pub(super) mod step;
pub(super) mod tls;
pub(super) mod tls_error;
