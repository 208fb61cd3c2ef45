//! Files into the database, each row exactly once by the claim that messages of Kafka have: a file is a source, and its rows
//! are messages with their numbers as offsets.
//!
//! - `assemble`: the messages of rows as message sets, of those rows that are missing.
//! - `check`: what a file has, without a database.
//! - `write`: the rows of a file, read on a thread, and written by several connections.

mod assemble;
mod check;
mod write;

pub use check::{Checked, check};
pub use write::{Imported, Settings, import};

use crate::database;
use crate::files::read::ReadError;

/// Why a file is not imported as a whole. What is written stays written, and the next import goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The database fails.
    #[error(transparent)]
    Database(#[from] database::Error),
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An internal error.
    #[error("{0}")]
    Internal(String),
}
