//! The exit codes of what can go wrong with backups.

use crate::cli::Failure;
use crate::repository::backup::Error;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Database(error) => error.into(),
            Error::Schema(error) => error.into(),
            Error::File(error) => error.into(),
            Error::Write { path, error } => Self::File { path, error },
            Error::Programs(_) | Error::Target(_) => Self::Usage(error.to_string()),
            Error::Program { .. } => Self::Unreachable(error.to_string()),
            Error::Read { .. } | Error::Damaged { .. } => Self::Damaged(error.to_string()),
        }
    }
}
