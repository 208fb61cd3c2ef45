//! Faults that several parts of a message can have.

use super::Reason;
use super::json::Fault;

/// Returns the text, if it is valid as a series' id or a column's name.
pub(crate) fn checked_name(at: usize, text: &str, max_bytes: usize) -> Result<&str, Fault> {
    if text.is_empty() {
        return Err(Fault::new(Reason::Schema, at, "expected a name, found an empty string"));
    }
    if text.len() > max_bytes {
        let what = format!("the name has {} bytes, more than the {max_bytes} allowed", text.len());
        return Err(Fault::new(Reason::Limits, at, what));
    }
    Ok(text)
}

/// A field is missing from the object that begins or ends here.
pub(crate) fn missing(at: usize, field: &str) -> Fault {
    Fault::new(Reason::Schema, at, format!("expected {field}, which is missing"))
}

/// More columns than [`super::Limits::max_points`].
pub(crate) fn too_many_columns(at: usize, count: usize, limit: usize) -> Fault {
    Fault::new(Reason::Limits, at, format!("{count} columns, more than the {limit} allowed, as of points"))
}

/// More points than [`super::Limits::max_points`].
pub(crate) fn too_many_points(at: usize, limit: usize) -> Fault {
    Fault::new(Reason::TooLarge, at, format!("the message has more than the {limit} points allowed"))
}

/// Quotes the beginning of a text that may be anything.
pub(crate) fn quoted(text: &str) -> String {
    const SHOWN: usize = 100;
    let head: String = text.chars().take(SHOWN).collect();
    format!("{head:?}{}", if head.len() < text.len() { "…" } else { "" })
}
