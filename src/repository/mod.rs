//! What analysts do with series and points, as SQL and types: for the commands, and for tests.
//!
//! - [`Snapshot`]: the database at one moment, which everything that reads asks.
//! - `series`: series, their columns, and their first and last times.
//! - `glob`: patterns of ids.
//! - [`export`]: points as batches of Arrow.
//! - `error`: what can go wrong.

pub mod export;

mod error;
mod glob;
mod series;
mod snapshot;

pub use error::Error;
pub use glob::Glob;
pub use series::{ColumnSpan, Selection};
pub use snapshot::Snapshot;
