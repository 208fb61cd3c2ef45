//! Why a write to the journal stops.

use std::io;

use super::error::AppendError;
use super::place::{Lost, is_gone};

/// What stops a write.
#[derive(Debug)]
pub(super) enum Stop {
    /// There is no room.
    Full(AppendError),
    /// Files of the journal are missing, replaced or truncated.
    Gone(String),
    /// The file system returned an error.
    Io(io::Error),
}

impl From<io::Error> for Stop {
    /// Only names that this process has created are looked up.
    fn from(error: io::Error) -> Self {
        if is_gone(&error) {
            Self::Gone(format!("a file or its directory is not there any more ({error})"))
        } else {
            Self::Io(error)
        }
    }
}

impl From<Lost> for Stop {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Gone(what) => Self::Gone(what),
            Lost::Unknown(error) => Self::Io(error),
        }
    }
}

impl Stop {
    /// The error for a caller that does not retry.
    pub(super) fn into_error(self) -> AppendError {
        match self {
            Self::Full(full) => full,
            Self::Gone(what) => AppendError::Unavailable(io::Error::new(io::ErrorKind::NotFound, what)),
            Self::Io(error) => AppendError::Unavailable(error),
        }
    }
}

/// Returns `true` if the disk is full, or this user's quota is used up.
pub(super) fn is_out_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
