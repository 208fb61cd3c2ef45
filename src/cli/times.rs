//! Times and lengths of time as arguments of commands.

use jiff::Timestamp;

use crate::message::length::{UNITS, length_us};
use crate::message::{Limits, timestamp};

/// A length of time such as `5m`, in microseconds; at least one.
///
/// # Errors
/// What was expected.
pub(super) fn parse_length(text: &str) -> Result<i64, String> {
    length_us(text).filter(|length| *length > 0).ok_or_else(|| {
        let units: Vec<&str> = UNITS.iter().map(|(unit, _)| *unit).collect();
        format!("expected a number and a unit, such as 5m; the units are {}", units.join(", "))
    })
}

/// A time in microseconds since the Unix epoch: by RFC 3339, a date, a time without zone (UTC), `now`, or as long before now as
/// `-7d` says.
///
/// # Errors
/// What was expected.
pub(super) fn parse_time(text: &str) -> Result<i64, String> {
    time_of(text, Timestamp::now().as_microsecond())
}

fn time_of(text: &str, now_us: i64) -> Result<i64, String> {
    if text == "now" {
        return Ok(now_us);
    }
    if let Some(length) = text.strip_prefix('-').and_then(length_us) {
        return now_us.checked_sub(length).ok_or_else(|| "this is before all times".to_owned());
    }
    // Of the limits only those of times count.
    let limits = Limits {
        max_bytes: 0,
        max_points: 0,
        max_name_bytes: 0,
        min_us: i64::MIN,
        max_us: i64::MAX,
        deny_unknown_fields: false,
    };
    timestamp::of_text(text, 0, &limits)
        .map_err(|fault| format!("{}; or a length of time before now, such as -7d", fault.what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_absolute_or_before_now() {
        for (text, us) in [
            ("1970-01-02", 86_400_000_000),
            ("1969-12-31T23:59:59.5Z", -500_000),
            ("1970-01-01T01:00:00+01:00", 0),
            ("now", 1_000_000_000_000),
            ("-10s", 999_990_000_000),
            ("-1w", 395_200_000_000),
        ] {
            assert_eq!(time_of(text, 1_000_000_000_000), Ok(us), "{text}");
        }
        for text in ["", "yesterday", "7d", "-7", "-d", "-1y", "1e9", "-99999999999999999999d", "-1.5h"] {
            assert!(time_of(text, 0).unwrap_err().contains("-7d"), "{text}");
        }
    }

    #[test]
    fn a_length_has_a_unit() {
        for (text, us) in [("5m", 300_000_000), ("1us", 1), ("250ms", 250_000), ("2w", 1_209_600_000_000)] {
            assert_eq!(parse_length(text), Ok(us));
        }
        for text in ["", "5", "m", "0s", "-5m", "1.5h", "1mo", "99999999999999w"] {
            assert!(parse_length(text).is_err(), "{text}");
        }
    }
}
