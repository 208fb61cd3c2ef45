//! What a failure with series, points and files means for the command.

use std::path::Path;

use crate::cli::Failure;
use crate::telemetry::one_line;
use crate::{files, repository};

impl From<files::Error> for Failure {
    fn from(error: files::Error) -> Self {
        match error {
            files::Error::Write { path, error } if path == Path::new(files::write::Sink::OUTPUT) => Self::Output(error),
            files::Error::Write { path, error } => Self::File { path, error },
            files::Error::Exists(_)
            | files::Error::NotAFile(_)
            | files::Error::Twice(_)
            | files::Error::Format(_)
            | files::Error::Encode { .. } => Self::Usage(one_line(&error.to_string()).into_owned()),
        }
    }
}

impl From<repository::Error> for Failure {
    fn from(error: repository::Error) -> Self {
        match error {
            repository::Error::Database(error) => error.into(),
            repository::Error::File(error) => error.into(),
            repository::Error::Hosts { .. }
            | repository::Error::NotFresh { .. }
            | repository::Error::Recovery { .. } => Self::Unreachable(error.to_string()),
            repository::Error::NotMigrated(_)
            | repository::Error::UnknownSeries(_)
            | repository::Error::Pattern { .. }
            | repository::Error::UnknownColumn { .. }
            | repository::Error::TimeColumn { .. }
            | repository::Error::View(_)
            | repository::Error::Time { .. } => Self::Usage(error.to_string()),
            repository::Error::Duplicate { .. } => Self::Damaged(error.to_string()),
        }
    }
}
