//! Why a file cannot be read.

use std::path::{Path, PathBuf};

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system does not give the file.
    #[error("{}: cannot be read: {error}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        error: std::io::Error,
    },
    /// It is not clear what the file means: what is to be said, or that it is nothing that can be read. Nothing was read.
    #[error("{}: {text}", .path.display())]
    Unclear {
        /// The file.
        path: PathBuf,
        /// What is not clear, and what to do.
        text: String,
    },
    /// The file ends where it should go on, or is damaged. What is before that place was read.
    #[error("{}: after row {row}: {text}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The last row that was read, counted from 1.
        row: i64,
        /// What is wrong.
        text: String,
    },
    /// The file was changed while it was read.
    #[error("{}: the file was changed while it was read: its rows are of both versions; import it again when it is complete", .0.display())]
    Changed(PathBuf),
    /// Who takes the rows wants no more.
    #[error("no more rows are wanted")]
    Stopped,
}

impl ReadError {
    pub(super) fn unclear(path: &Path, text: impl Into<String>) -> Self {
        Self::Unclear { path: path.to_owned(), text: text.into() }
    }

    pub(super) fn damaged(path: &Path, row: i64, text: impl std::fmt::Display) -> Self {
        Self::Damaged { path: path.to_owned(), row, text: text.to_string() }
    }
}
