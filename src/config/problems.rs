//! What is wrong with a configuration, all of it at once.

use std::fmt;

use super::sources::Sources;

/// Everything that is wrong with a configuration: each with its key, what is wrong, and what to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(Vec<(String, String)>);

impl Problems {
    pub(super) fn push(&mut self, key: impl Into<String>, text: impl Into<String>) {
        self.0.push((key.into(), text.into()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Says of each key where its value comes from.
    pub(super) fn labelled(self, sources: &Sources) -> Self {
        Self(self.0.into_iter().map(|(key, text)| (sources.label(&key), text)).collect())
    }

    pub(super) fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "the configuration has {count} problem{}", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|(key, text)| write!(f, "\n  {key}: {text}"))
    }
}

impl std::error::Error for Problems {}
