//! The times of records, by the place and the form that an input configures.

use jiff::fmt::strtime;
use jiff::tz::TimeZone;

use super::around::Around;
use crate::message::json::Fault;
use crate::message::timestamp::{self, Unit};
use crate::message::{Limits, Reason};

/// The form of a time in a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TimeForm {
    /// A text as in native messages, or a number of this unit; a number may be quoted if the unit was set.
    Any { unit: Unit, takes_quoted_numbers: bool },
    /// RFC 3339 and its relatives, and PostgreSQL's output.
    Text,
    /// A pattern of strftime; if it has no zone, times are UTC.
    Pattern(String),
}

impl TimeForm {
    /// Parses the form from the configuration.
    pub(crate) fn parse(unit: Option<&str>, format: Option<&str>) -> Result<Self, (&'static str, String)> {
        match (unit, format) {
            (Some(_), Some(_)) => {
                Err(("unit", "is set alongside format; a time is a number or a text, so remove one".to_owned()))
            }
            (Some(word), None) => {
                Ok(Self::Any { unit: parse_unit(word).map_err(|text| ("unit", text))?, takes_quoted_numbers: true })
            }
            (None, None) => Ok(Self::Any { unit: Unit::default(), takes_quoted_numbers: false }),
            (None, Some("rfc3339" | "postgresql")) => Ok(Self::Text),
            (None, Some(pattern)) if pattern.contains('%') => match check_pattern(pattern) {
                Ok(()) => Ok(Self::Pattern(pattern.to_owned())),
                Err(why) => Err(("format", format!("is {pattern:?}, {why}"))),
            },
            (None, Some(other)) => {
                let text = format!(
                    "is {other:?}; set \"rfc3339\", \"postgresql\", or a pattern such as \"%Y-%m-%d %H:%M:%S\""
                );
                Err(("format", text))
            }
        }
    }

    /// Parses a time that is a text into microseconds since the Unix epoch; `at` is its position in the message.
    pub(crate) fn of_text(&self, text: &str, at: usize, limits: &Limits) -> Result<i64, Fault> {
        let time = match self {
            Self::Any { unit, takes_quoted_numbers: true } if is_number(text) => {
                return timestamp::of_number(text.as_bytes(), *unit, at, limits, "the unit");
            }
            Self::Any { .. } | Self::Text => timestamp::of_text(text, at, limits)?,
            Self::Pattern(pattern) => {
                let time = of_pattern(pattern, text).map_err(|error| {
                    let what = format!("expected a time of the form {pattern:?}: {error}");
                    Fault::new(Reason::Schema, at, what)
                })?;
                timestamp::checked(time, at, limits)?
            }
        };
        Ok(time)
    }

    /// Parses a time that is a JSON number.
    pub(super) fn of_number(&self, number: &str, at: usize, limits: &Limits) -> Result<i64, Fault> {
        match self {
            Self::Any { unit, .. } => timestamp::of_number(number.as_bytes(), *unit, at, limits, "the unit"),
            Self::Text => {
                let what = "expected a time as text, found a number";
                Err(Fault::new(Reason::Schema, at, what))
            }
            Self::Pattern(pattern) => self.of_text(number, at, limits).map_err(|_| {
                Fault::new(Reason::Schema, at, format!("expected a time of the form {pattern:?}, found a number"))
            }),
        }
    }
}

/// Parses a time into microseconds since the Unix epoch. Without a zone it is UTC, and a date alone is its midnight: that a
/// pattern has one of these was checked when it was configured.
fn of_pattern(pattern: &str, text: &str) -> Result<i64, jiff::Error> {
    let parsed = strtime::parse(pattern, text)?;
    // Checked first, because an error would be allocated.
    let moment = if parsed.offset().is_some() {
        parsed.to_timestamp()?
    } else {
        let local = if parsed.hour().is_some() { parsed.to_datetime()? } else { parsed.to_date()?.at(0, 0, 0, 0) };
        local.to_zoned_datetime(TimeZone::UTC)?.timestamp()
    };
    // Rounded towards the past, as everywhere.
    let microseconds = moment.as_nanosecond().div_euclid(1000);
    // jiff's timestamps end in the year 9999.
    Ok(i64::try_from(microseconds).unwrap_or(i64::MAX))
}

/// Checks that a pattern parses what it formats: two moments of one day, up to the smallest part of a time that it has.
fn check_pattern(pattern: &str) -> Result<(), String> {
    if pattern.contains("%s") {
        return Err("which has %s; set unit = \"s\" instead of a format".to_owned());
    }
    if pattern.contains("%Q") || pattern.contains("%:Q") {
        return Err("which has the name of a zone; only offsets such as %z can be read".to_owned());
    }
    // 2024-05-01, in the afternoon and the night before, with all parts of a time.
    let moments = [1_714_576_029_123_456_i64, 1_714_532_645_678_901];
    let mut texts = Vec::new();
    let mut precisions = Vec::new();
    for moment in moments {
        let time = jiff::Timestamp::from_microsecond(moment).map_err(|error| error.to_string())?;
        let text = strtime::format(pattern, &time.to_zoned_datetime(TimeZone::UTC))
            .map_err(|error| format!("no pattern of strftime: {error}"))?;
        let read = of_pattern(pattern, &text).map_err(|error| format!("which does not name a moment: {error}"))?;
        let precision = [1, 1000, 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000]
            .into_iter()
            .find(|precision| read == moment.div_euclid(*precision) * precision);
        precisions.push(precision.ok_or("which does not say all of a time: a part is missing, such as %p after %I")?);
        texts.push(text);
    }
    // Texts that differ contain a time of day, which must not be dropped.
    let is_date = precisions.contains(&86_400_000_000);
    if is_date && texts[0] != texts[1] {
        return Err("which does not say all of a time of the day".to_owned());
    }
    Ok(())
}

/// Parses a unit of timestamps from the configuration.
pub(super) fn parse_unit(word: &str) -> Result<Unit, String> {
    Unit::from_word(word).ok_or_else(|| format!("is {word:?}; set \"s\", \"ms\", \"us\" or \"ns\""))
}

/// The message's own time in Kafka; `at` is the position for a fault.
pub(super) fn of_kafka(around: &Around<'_>, at: usize, limits: &Limits) -> Result<i64, Fault> {
    let what = "expected a time of the message in Kafka, which has none";
    let time_ms = around.time_ms.ok_or_else(|| Fault::new(Reason::Schema, at, what))?;
    timestamp::checked(time_ms.saturating_mul(1000), at, limits)
}

/// Returns `true` if the text is a decimal number in JSON's syntax.
pub(super) fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte))
        && text.parse::<f64>().is_ok_and(f64::is_finite)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON_US: i64 = 1_325_419_200_000_000;

    fn limits() -> Limits {
        Limits {
            max_bytes: 1000,
            max_points: 10,
            max_name_bytes: 100,
            min_us: -2_208_988_800_000_000,
            max_us: 7_258_118_400_000_000,
            deny_unknown_fields: false,
        }
    }

    #[test]
    fn each_form_reads_its_times() {
        let cases = [
            (None, None, "2012-01-01T12:00:00Z", true),
            (None, None, "2012-01-01 12:00:00+00", true),
            (None, None, "1325419200", false),
            (Some("s"), None, "1325419200", true),
            (Some("ms"), None, "1325419200000", true),
            (Some("us"), None, "1325419200000000", true),
            (Some("ns"), None, "1325419200000000000", true),
            (Some("s"), None, "2012-01-01T12:00:00Z", true),
            (None, Some("rfc3339"), "2012-01-01T13:00:00+01:00", true),
            (None, Some("rfc3339"), "1325419200", false),
            (None, Some("%d.%m.%Y %H:%M"), "01.01.2012 12:00", true),
            (None, Some("%d/%b/%Y:%H:%M:%S %z"), "01/Jan/2012:14:00:00 +0200", true),
            (None, Some("%Y%m%d%H"), "2012010112", true),
            (None, Some("%Y-%m-%d"), "2012-01-01 12:00", false),
        ];
        for (unit, format, text, is_read) in cases {
            let form = TimeForm::parse(unit, format).unwrap();
            let read = form.of_text(text, 7, &limits());
            assert_eq!(read.as_ref().ok(), is_read.then_some(&NOON_US), "{unit:?} {format:?} {text}: {read:?}");
        }
        let day = TimeForm::parse(None, Some("%Y-%m-%d")).unwrap().of_text("2012-01-01", 0, &limits()).unwrap();
        assert_eq!(day, NOON_US - 12 * 3_600_000_000, "a date is its midnight");
        let number = TimeForm::parse(Some("ms"), None).unwrap().of_number("1325419200000.5", 0, &limits()).unwrap();
        assert_eq!(number, NOON_US + 500);
        for (unit, format) in
            [(Some("m"), None), (Some("s"), Some("rfc3339")), (None, Some("iso")), (None, Some("%Q!%"))]
        {
            assert!(TimeForm::parse(unit, format).is_err(), "{unit:?} {format:?}");
        }
    }

    #[test]
    fn a_pattern_that_drops_a_part_of_a_time_is_refused() {
        let is_taken = |pattern: &str| TimeForm::parse(None, Some(pattern)).is_ok();
        for pattern in [
            "%Y-%m-%d",
            "%Y-%m-%d %H",
            "%Y-%m-%d %H:%M",
            "%Y-%m-%d %H:%M:%S",
            "%Y-%m-%d %H:%M:%S%.f",
            "%Y-%m-%dT%H:%M:%S%.3f%z",
            "%m/%d/%Y %I:%M %p",
            "%d/%b/%Y:%H:%M:%S %z",
            "%a %b %d %H:%M:%S %Y",
        ] {
            assert!(is_taken(pattern), "{pattern}");
        }
        for pattern in [
            "%Y-%m-%d %H:%S",
            "%Y-%m-%d %M:%S",
            "%Y-%m-%d %p",
            "%m/%d/%Y %I:%M",
            "%H:%M:%S",
            "%Y-%m",
            "%Y",
            "%%",
            "%s",
            "%s%.f",
            "%Y-%m-%d %H:%M:%S %Q",
            "%b %d %H:%M:%S",
        ] {
            assert!(!is_taken(pattern), "{pattern}");
        }
        let form = TimeForm::parse(None, Some("%Y-%m-%d %H:%M:%S%.f")).unwrap();
        let before = form.of_text("1969-12-31 23:59:59.9999999", 0, &limits()).unwrap();
        assert_eq!(before, -1, "towards the past, also before the epoch");
    }
}
