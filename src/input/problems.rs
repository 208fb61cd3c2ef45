//! The problems of inputs, reported all at once.

/// A problem of an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key.
    pub key: String,
    /// A description of the problem, and what to do.
    pub text: String,
}

/// Collects the problems of one input.
#[derive(Debug)]
pub(super) struct Problems {
    label: String,
    found: Vec<Problem>,
}

impl Problems {
    /// An empty collection; `label` names the input.
    pub(super) fn new(label: String) -> Self {
        Self { label, found: Vec::new() }
    }

    /// All problems.
    pub(super) fn into_found(self) -> Vec<Problem> {
        self.found
    }

    pub(super) fn push(&mut self, key: &str, text: impl Into<String>) {
        let key = if key.is_empty() { self.label.clone() } else { format!("{}.{key}", self.label) };
        self.found.push(Problem { key, text: text.into() });
    }

    /// Returns the value; an error is added to the problems.
    pub(super) fn take<T>(&mut self, key: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|text| self.push(key, text)).ok()
    }
}
