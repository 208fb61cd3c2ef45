//! What is wrong with inputs, all of it at once.

/// One thing that is wrong with an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key.
    pub key: String,
    /// What is wrong with it, and what to do.
    pub text: String,
}

/// Collects what is wrong with one input.
#[derive(Debug)]
pub(super) struct Problems {
    label: String,
    found: Vec<Problem>,
}

impl Problems {
    /// None so far; `label` names the input.
    pub(super) fn new(label: String) -> Self {
        Self { label, found: Vec::new() }
    }

    /// All of them.
    pub(super) fn into_found(self) -> Vec<Problem> {
        self.found
    }

    pub(super) fn push(&mut self, key: &str, text: impl Into<String>) {
        let key = if key.is_empty() { self.label.clone() } else { format!("{}.{key}", self.label) };
        self.found.push(Problem { key, text: text.into() });
    }

    /// The value, if there is nothing wrong with it.
    pub(super) fn take<T>(&mut self, key: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|text| self.push(key, text)).ok()
    }
}
