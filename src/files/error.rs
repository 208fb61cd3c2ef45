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
    /// What has this name is a device, a pipe or a socket.
    #[error("{} is not a regular file, and is not replaced: write to it with --out - and the shell's >", .0.display())]
    NotAFile(PathBuf),
    /// This command has written it, for another series.
    #[error("{} is the file of another series, which this command has written: choose another folder", .0.display())]
    Twice(PathBuf),
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
