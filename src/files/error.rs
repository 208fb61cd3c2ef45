//! What can go wrong when a file is written.

use std::io;
use std::path::PathBuf;

/// A file was not written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refuses.
    #[error("{} cannot be written: {error}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
    /// A file of this name is there.
    #[error("{} exists: choose another name, or replace it with --overwrite", .0.display())]
    Exists(PathBuf),
    /// The format does not have what was asked for.
    #[error("{0}")]
    Format(String),
    /// The rows cannot be written in this format.
    #[error("{}: {why}", .path.display())]
    Encode {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
}
