//! A row of an imported file that has no message, because it cannot be read: its text, and why.
//!
//! It is a JSON object that no native message can be, and that is a dead letter with just this reason. Who repairs it replaces
//! it by a native message.

use serde::{Deserialize, Serialize};

/// How such a payload begins.
const BEGINNING: &[u8] = b"{\"unreadable\":";

#[derive(Serialize, Deserialize)]
struct Row<'a> {
    #[serde(borrow)]
    unreadable: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    row: std::borrow::Cow<'a, str>,
}

/// The payload of a row that cannot be read.
pub(crate) fn unreadable(why: &str, row: &str) -> Vec<u8> {
    let row = Row { unreadable: why.into(), row: row.into() };
    // Two texts can always be written.
    serde_json::to_vec(&row).unwrap_or_default()
}

/// Why the row cannot be read; `None` if the payload is none of these.
pub(crate) fn why_unreadable(payload: &[u8]) -> Option<String> {
    if !payload.starts_with(BEGINNING) {
        return None;
    }
    let row: Row<'_> = serde_json::from_slice(payload).ok()?;
    Some(row.unreadable.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_comes_back_with_any_text() {
        for (why, row) in [("it has 2 fields", "a,b"), ("\"quoted\"\n", "\u{0}\u{fffd}\"")] {
            let payload = unreadable(why, row);
            assert_eq!(why_unreadable(&payload).as_deref(), Some(why));
        }
        assert_eq!(why_unreadable(b"{\"time_series_id\":\"s\"}"), None);
        assert_eq!(why_unreadable(b"{\"unreadable\":"), None);
    }
}
