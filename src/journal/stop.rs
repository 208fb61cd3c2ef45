//! Why a write to the journal stops.

use std::io;

use super::error::AppendError;
use super::place::{Lost, is_gone};

/// What stops a write.
#[derive(Debug)]
pub(super) enum Stop {
    /// There is no room.
    Full(AppendError),
    /// What was written before is not there any more.
    Gone(String),
    /// The file system said no.
    Io(io::Error),
}

impl From<io::Error> for Stop {
    /// Names are asked for only of what this process has made.
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
    /// What a caller gets who does not try again.
    pub(super) fn into_error(self) -> AppendError {
        match self {
            Self::Full(full) => full,
            Self::Gone(what) => AppendError::Unavailable(io::Error::new(io::ErrorKind::NotFound, what)),
            Self::Io(error) => AppendError::Unavailable(error),
        }
    }
}

/// Returns `true` if the disk, or the share of it that this user may have, is full.
pub(super) fn is_out_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
