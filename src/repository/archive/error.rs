//! What can go wrong with an archive.

use crate::files::read::ReadError;
use crate::{database, files, repository};

/// Points were not archived. What was dropped before is in files that were verified.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The points were not read.
    #[error(transparent)]
    Repository(#[from] repository::Error),
    /// A file was not read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file is not what was written: its points are still in the table.
    #[error("{0}")]
    Damaged(String),
    /// The command cannot be done as it was asked for.
    #[error("{0}")]
    Usage(String),
    /// Another session is in the way.
    #[error("{0}")]
    Busy(String),
    /// An internal error.
    #[error("{0}")]
    Internal(String),
}

impl From<database::Error> for ArchiveError {
    fn from(error: database::Error) -> Self {
        Self::Repository(error.into())
    }
}

impl From<files::Error> for ArchiveError {
    fn from(error: files::Error) -> Self {
        Self::Repository(error.into())
    }
}
