//! The times of records, as an input says where they stand and in which form.

use jiff::fmt::strtime;
use jiff::tz::TimeZone;

use super::around::Around;
use crate::message::json::Fault;
use crate::message::timestamp::{self, Unit};
use crate::message::{Limits, Reason};

/// The form of a time in a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TimeForm {
    /// A text as native messages have it, or a number of this unit; a number may stand in quotes if the unit was set.
    Any { unit: Unit, takes_quoted_numbers: bool },
    /// RFC 3339 and its relatives, and what PostgreSQL prints.
    Text,
    /// A pattern of strftime; without a zone in it, times are UTC.
    Pattern(String),
}

impl TimeForm {
    /// Reads the form from what the configuration says.
    pub(super) fn parse(unit: Option<&str>, format: Option<&str>) -> Result<Self, (&'static str, String)> {
        let known_unit = |word: &str| {
            Unit::from_word(word).ok_or(("unit", format!("is {word:?}; set \"s\", \"ms\", \"us\" or \"ns\"")))
        };
        match (unit, format) {
            (Some(_), Some(_)) => {
                Err(("unit", "is set alongside format; a time is a number or a text, so remove one".to_owned()))
            }
            (Some(word), None) => Ok(Self::Any { unit: known_unit(word)?, takes_quoted_numbers: true }),
            (None, None) => Ok(Self::Any { unit: Unit::default(), takes_quoted_numbers: false }),
            (None, Some("rfc3339" | "postgresql")) => Ok(Self::Text),
            (None, Some(pattern)) if pattern.contains('%') => {
                // A pattern that cannot print a moment can read none.
                let some = jiff::Timestamp::UNIX_EPOCH.to_zoned_datetime(TimeZone::UTC);
                match strtime::format(pattern, &some).and_then(|text| strtime::parse(pattern, text)) {
                    Ok(_) => Ok(Self::Pattern(pattern.to_owned())),
                    Err(error) => Err(("format", format!("is {pattern:?}, no pattern of strftime: {error}"))),
                }
            }
            (None, Some(other)) => {
                let text = format!(
                    "is {other:?}; set \"rfc3339\", \"postgresql\", or a pattern such as \"%Y-%m-%d %H:%M:%S\""
                );
                Err(("format", text))
            }
        }
    }

    /// A time that is a text, in microseconds since the Unix epoch; `at` is its byte in the message.
    pub(super) fn of_text(&self, text: &str, at: usize, limits: &Limits) -> Result<i64, Fault> {
        let time = match self {
            Self::Any { unit, takes_quoted_numbers: true } if is_number(text) => {
                return timestamp::of_number(text.as_bytes(), *unit, at, limits, "the unit");
            }
            Self::Any { .. } | Self::Text => timestamp::of_text(text, at, limits)?,
            Self::Pattern(pattern) => {
                let wrong = |error: jiff::Error| {
                    let what = format!("expected a time of the form {pattern:?}: {error}");
                    Fault::new(Reason::Schema, at, what)
                };
                let parsed = strtime::parse(pattern, text).map_err(wrong)?;
                // A date alone is its midnight.
                let local = parsed.to_datetime().or_else(|_| parsed.to_date().map(|date| date.at(0, 0, 0, 0)));
                let moment = match parsed.to_timestamp() {
                    Ok(moment) => moment,
                    Err(error) => {
                        let zoned = local.map_err(|_| error).and_then(|local| local.to_zoned_datetime(TimeZone::UTC));
                        zoned.map_err(wrong)?.timestamp()
                    }
                };
                timestamp::checked(moment.as_microsecond(), at, limits)?
            }
        };
        Ok(time)
    }

    /// A time that is a number as JSON writes it.
    pub(super) fn of_number(&self, number: &str, at: usize, limits: &Limits) -> Result<i64, Fault> {
        match self {
            Self::Any { unit, .. } => timestamp::of_number(number.as_bytes(), *unit, at, limits, "the unit"),
            Self::Text => Err(Fault::new(Reason::Schema, at, "expected a time as text, found a number: set time.unit")),
            Self::Pattern(pattern) => self.of_text(number, at, limits).map_err(|_| {
                Fault::new(Reason::Schema, at, format!("expected a time of the form {pattern:?}, found a number"))
            }),
        }
    }
}

/// The message's own time in Kafka, for what stands at the byte `at`.
pub(super) fn of_kafka(around: &Around<'_>, at: usize, limits: &Limits) -> Result<i64, Fault> {
    let what = "expected a time of the message in Kafka, which has none";
    let time_ms = around.time_ms.ok_or_else(|| Fault::new(Reason::Schema, at, what))?;
    timestamp::checked(time_ms.saturating_mul(1000), at, limits)
}

/// Returns `true` for a decimal number as JSON writes it.
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
}
