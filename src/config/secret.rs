//! A value that must not be seen.

use std::fmt;

use serde::Deserialize;

/// The text shown instead of a secret.
pub(super) const MASK: &str = "***";

/// A string that neither `Debug` nor `Display` shows: they print `***`.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Hides `value`.
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The value itself, for its user.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns `true` if the value is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}
