//! The sources of values.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// The source of a value, the weakest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Default,
    File(PathBuf),
    /// One of the analyzer's variables.
    Name(String),
    /// A variable of this program.
    Variable(String),
}

impl Source {
    /// Returns `true` if this source is stronger than `other`, regardless of their names.
    pub(super) fn is_above(&self, other: &Self) -> bool {
        let rank = |source: &Self| match source {
            Self::Default => 0,
            Self::File(_) => 1,
            Self::Name(_) => 2,
            Self::Variable(_) => 3,
        };
        rank(self) > rank(other)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            // A line break in a name would end the comment in which it is printed.
            Self::File(path) => write!(f, "file {}", path.display().to_string().escape_debug()),
            Self::Name(name) | Self::Variable(name) => f.write_str(name),
        }
    }
}

/// The sources of the values that are not defaults, by key.
#[derive(Debug, Clone, Default)]
pub(super) struct Sources(BTreeMap<String, Source>);

impl Sources {
    pub(super) fn get(&self, key: &str) -> &Source {
        self.0.get(key).unwrap_or(&Source::Default)
    }

    pub(super) fn set(&mut self, key: String, source: Source) {
        self.0.insert(key, source);
    }

    /// Resets the key to its default.
    pub(super) fn forget(&mut self, key: &str) {
        self.0.remove(key);
    }

    /// The key, with the source of its value unless that is the default.
    pub(super) fn label(&self, key: &str) -> String {
        match self.get(key) {
            Source::Default => key.to_owned(),
            source => format!("{key} ({source})"),
        }
    }
}
