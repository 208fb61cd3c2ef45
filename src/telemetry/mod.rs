//! The worker's reports: metrics, health, both over HTTP, and log lines.
//!
//! - [`metrics`]: every metric by name, and the functions that feed them.
//! - [`health`]: signs of life of the parts, and the reasons why data does not move.
//! - [`readiness`]: the signs that readiness needs, as a pure function of facts.
//! - [`http`]: `/metrics`, `/livez`, `/readyz` and `/status`.
//! - `one_line`: text from outside cannot begin a new line.
//! - [`logging`]: log lines on stderr, for people or as JSON; `log_writer` writes them without blocking the caller.
//! - [`log_limit`]: limits repeated log lines.

pub mod health;
pub mod http;
pub mod lag;
pub mod log_limit;
mod log_writer;
pub mod logging;
pub mod metrics;
mod one_line;
pub mod readiness;

use std::borrow::Cow;
use std::fmt::{self, Display, Write as _};
use std::path::Path;

/// Maximum number of names in a list in a log line.
const MAX_NAMES: usize = 30;
/// Maximum number of characters of a text from outside in a log line.
const MAX_CHARACTERS: usize = 256;

/// Text from outside in the form for a log line: control characters are escaped, and text longer than 256 characters is
/// truncated, with `…` in place of the rest.
pub fn escaped(text: &str) -> impl Display {
    Escaped(text)
}

/// All of a text from outside on one line: control characters are escaped.
pub fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(misleads) {
        return text.into();
    }
    let mut line = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if misleads(character) { line.extend(character.escape_default()) } else { line.push(character) }
    }
    line.into()
}

/// A path on one line: control characters are escaped.
pub fn shown(path: &Path) -> String {
    one_line(&path.to_string_lossy()).into_owned()
}

/// Partitions in the form for a log line: `topic[0], topic[1]`.
pub fn partitions<'a>(list: impl IntoIterator<Item = (&'a str, i32)>) -> String {
    list_of(list.into_iter().map(|(topic, partition)| format!("{topic}[{partition}]")))
}

/// Names in the form for a log line.
pub fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    list_of(names.into_iter().map(str::to_owned))
}

fn list_of(mut names: impl Iterator<Item = String>) -> String {
    let listed = names.by_ref().take(MAX_NAMES).collect::<Vec<_>>().join(", ");
    match names.count() {
        0 => listed,
        others => format!("{listed} and {others} others"),
    }
}

/// A time in the form for a log line, by RFC 3339; `us` is in microseconds since the Unix epoch.
pub fn time_us(us: i64) -> String {
    jiff::Timestamp::from_microsecond(us).map_or_else(|_| format!("{us} us"), |time| time.to_string())
}

struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut characters = self.0.chars();
        for character in characters.by_ref().take(MAX_CHARACTERS) {
            if misleads(character) {
                write!(formatter, "{}", character.escape_default())?;
            } else {
                formatter.write_char(character)?;
            }
        }
        if characters.next().is_some() { formatter.write_char('…') } else { Ok(()) }
    }
}

/// Returns `true` if a terminal or a viewer does not just show the character: controls, line separators, and characters that
/// change the direction of the text around them.
fn misleads(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_misleads_is_escaped() {
        let table = [
            ("", ""),
            ("plain \"text\", Zürich \\ 東京 🙂", "plain \"text\", Zürich \\ 東京 🙂"),
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\u{1b}[31mred\u{1b}[0m", "\\u{1b}[31mred\\u{1b}[0m"),
            ("\0\u{7f}\u{9b}", "\\u{0}\\u{7f}\\u{9b}"),
            ("\u{202e}txt\u{2028}", "\\u{202e}txt\\u{2028}"),
        ];
        for (text, expected) in table {
            assert_eq!(escaped(text).to_string(), expected);
        }
    }

    #[test]
    fn partitions_and_times_are_for_people() {
        assert_eq!(partitions([("t", 0), ("t", 12), ("u.v", 3)]), "t[0], t[12], u.v[3]");
        assert_eq!(partitions([]), "");
        let many: Vec<String> = (0..MAX_NAMES + 3).map(|number| format!("t{number}")).collect();
        assert!(list(many.iter().map(String::as_str)).ends_with(", t29 and 3 others"));
        assert_eq!(time_us(1_735_689_600_000_000), "2025-01-01T00:00:00Z");
        assert_eq!(time_us(i64::MIN), "-9223372036854775808 us");
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let whole = "é".repeat(MAX_CHARACTERS);
        assert_eq!(escaped(&whole).to_string(), whole);
        assert_eq!(escaped(&format!("{whole}x")).to_string(), format!("{whole}…"));
        assert_eq!(escaped(&"\n".repeat(1000)).to_string(), format!("{}…", "\\n".repeat(MAX_CHARACTERS)));
    }
}
