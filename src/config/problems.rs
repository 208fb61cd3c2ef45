//! The problems of a configuration, reported all at once.

use std::fmt;

use super::LogFormat;
use super::sources::Sources;

/// The problems of a configuration: each with its key, a description, and what to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    found: Vec<(String, String)>,
    log_format: Option<LogFormat>,
}

impl Problems {
    pub(super) fn push(&mut self, key: impl Into<String>, text: impl Into<String>) {
        self.found.push((key.into(), text.into()));
    }

    /// All problems in one line.
    pub(super) fn in_one_line(&self) -> String {
        self.found.iter().map(|(key, text)| format!("{key}: {text}")).collect::<Vec<_>>().join("; ")
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Adds the source of its value to each key.
    pub(super) fn labelled(self, sources: &Sources) -> Self {
        let found = self.found.into_iter().map(|(key, text)| (sources.label(&key), text)).collect();
        Self { found, ..self }
    }

    /// The format in which they are printed, if the configuration sets it.
    pub fn log_format(&self) -> LogFormat {
        self.log_format.unwrap_or(LogFormat::Human)
    }

    pub(super) fn set_log_format(&mut self, format: LogFormat) {
        self.log_format = Some(format);
    }

    pub(super) fn extend(&mut self, others: Self) {
        self.found.extend(others.found);
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.found.len();
        write!(f, "the configuration has {count} problem{}", if count == 1 { "" } else { "s" })?;
        self.found.iter().try_for_each(|(key, text)| write!(f, "\n  {key}: {text}"))
    }
}

impl std::error::Error for Problems {}
