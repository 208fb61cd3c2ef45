//! The step of the work during which the database fails, which the failure's meaning depends on.

use std::fmt;

/// A step of the work with the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The COPY of points, or the INSERT in its place.
    Copy,
    /// Creating or updating series by their definitions.
    DefineSeries,
    /// Making sure that the series of points have their rows.
    EnsureSeries,
    /// Storing dead letters.
    StoreDeadLetters,
    /// Counting those that are not stored.
    CountDeadLetters,
    /// The COMMIT, or checking deferred constraints and triggers before it.
    Commit,
    /// Any other, with its text for errors and log lines; nothing depends on it.
    Other(&'static str),
}

impl Step {
    /// The step in errors and log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::DefineSeries => "define series",
            Self::EnsureSeries => "list the columns and labels of series",
            Self::StoreDeadLetters => "store dead letters",
            Self::CountDeadLetters => "count dead letters that are not stored",
            Self::Commit => "commit",
            Self::Other(words) => words,
        }
    }

    /// Returns `true` if the server processes the content of messages in this step, and may refuse it.
    pub(in crate::database) fn has_rows(self) -> bool {
        match self {
            Self::Copy
            | Self::DefineSeries
            | Self::EnsureSeries
            | Self::StoreDeadLetters
            | Self::CountDeadLetters
            | Self::Commit => true,
            Self::Other(_) => false,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
