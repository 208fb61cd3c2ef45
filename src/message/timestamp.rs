//! Timestamps in all their forms, as microseconds since the Unix epoch. Digits finer than a microsecond are truncated, towards
//! the past; a number with a fraction is rounded to the nearest microsecond instead, because such numbers come from binary
//! floating point and are seldom exact. Numbers are read as decimals: a double cannot represent every microsecond in the
//! accepted window.

use jiter::Peek;
use speedate::{Date, DateTime, MicrosecondsPrecisionOverflowBehavior, TimeConfig};

use super::json::{Cursor, Fault};
use super::{Limits, Reason};

const EXPECTED: &str = "a timestamp: RFC 3339, a date, a date-time without zone (UTC), or a number";

/// 0001-01-01T00:00:00Z, in microseconds since the Unix epoch: no earlier time is accepted, whatever is configured.
pub(crate) const YEAR_ONE_US: i64 = -62_135_596_800_000_000;

/// The unit of a timestamp that is a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Unit {
    /// Seconds, with or without a fraction.
    #[default]
    Seconds,
    /// Milliseconds.
    Milliseconds,
    /// Microseconds.
    Microseconds,
    /// Nanoseconds.
    Nanoseconds,
}

impl Unit {
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "s" => Self::Seconds,
            "ms" => Self::Milliseconds,
            "us" => Self::Microseconds,
            "ns" => Self::Nanoseconds,
            _ => return None,
        })
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Milliseconds => "ms",
            Self::Microseconds => "us",
            Self::Nanoseconds => "ns",
        }
    }

    /// The power of ten that converts this unit to microseconds.
    fn power(self) -> i32 {
        match self {
            Self::Seconds => 6,
            Self::Milliseconds => 3,
            Self::Microseconds => 0,
            Self::Nanoseconds => -3,
        }
    }
}

/// Reads a timestamp.
pub(crate) fn read(cursor: &mut Cursor<'_>, peek: Peek, unit: Unit, limits: &Limits) -> Result<i64, Fault> {
    let at = cursor.position();
    match peek {
        Peek::String => of_text(cursor.text()?, at, limits),
        Peek::NaN | Peek::Infinity => Err(not_finite(at)),
        peek if peek.is_num() => of_number(cursor.number(peek)?, unit, at, limits, "timestamp_unit"),
        peek => Err(cursor.unexpected(EXPECTED, peek)),
    }
}

/// A timestamp that is a text; `at` is its byte in the message.
pub(crate) fn of_text(text: &str, at: usize, limits: &Limits) -> Result<i64, Fault> {
    let time = parse(text).map_err(|why| Fault::new(Reason::Schema, at, format!("expected {EXPECTED}: {why}")))?;
    checked(time, at, limits)
}

/// A timestamp that is a number of `unit`, as JSON writes it; `at` is its byte in the message, and `key` is what sets the
/// unit.
pub(crate) fn of_number(number: &[u8], unit: Unit, at: usize, limits: &Limits, key: &str) -> Result<i64, Fault> {
    if number.contains(&b'I') {
        return Err(not_finite(at));
    }
    microseconds(number, unit).filter(|time| (limits.min_us..limits.max_us).contains(time)).ok_or_else(|| {
        let number = format!("the timestamp, as a number of the unit \"{}\",", unit.word());
        let what = format!("{}: is {key} right?", outside(&number, limits));
        Fault::new(Reason::TimeWindow, at, what)
    })
}

/// A time in microseconds since the Unix epoch, if it lies in the accepted window.
pub(crate) fn checked(time_us: i64, at: usize, limits: &Limits) -> Result<i64, Fault> {
    if (limits.min_us..limits.max_us).contains(&time_us) {
        return Ok(time_us);
    }
    Err(Fault::new(Reason::TimeWindow, at, outside("the timestamp", limits)))
}

fn outside(what: &str, limits: &Limits) -> String {
    // A window outside the calendar is never configured in practice.
    let shown = |us| jiff::Timestamp::from_microsecond(us).map_or_else(|_| format!("{us} us"), |time| time.to_string());
    let (min, max) = (shown(limits.min_us), shown(limits.max_us));
    format!("{what} lies outside the accepted window, from {min} to before {max}")
}

fn not_finite(at: usize) -> Fault {
    Fault::new(Reason::Schema, at, format!("expected {EXPECTED}, found a number that is not finite"))
}

/// A JSON number of `unit` in microseconds; `None` if it does not fit into 64 bits.
fn microseconds(number: &[u8], unit: Unit) -> Option<i64> {
    if let Some(us) = integer(number).and_then(|value| match unit {
        Unit::Seconds => value.checked_mul(1_000_000),
        Unit::Milliseconds => value.checked_mul(1000),
        Unit::Microseconds => Some(value),
        Unit::Nanoseconds => Some(value.div_euclid(1000)),
    }) {
        return Some(us);
    }
    let (negative, digits) = match number {
        [b'-', rest @ ..] => (true, rest),
        digits => (false, digits),
    };
    let mut mantissa: i128 = 0;
    let mut power = unit.power();
    let (mut in_fraction, mut is_rounded) = (false, false);
    let mut rest = digits.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'0'..=b'9' if mantissa < i128::MAX / 100 => {
                mantissa = mantissa * 10 + i128::from(byte - b'0');
                power -= i32::from(in_fraction);
            }
            // Beyond 36 digits only the number's magnitude matters.
            b'0'..=b'9' => power += i32::from(!in_fraction),
            b'.' => (in_fraction, is_rounded) = (true, true),
            // What JSON allows after the mantissa is the exponent.
            _ => {
                let exponent = std::str::from_utf8(rest.as_slice()).ok()?;
                power = power.checked_add(exponent.parse().ok()?)?;
                is_rounded = true;
                break;
            }
        }
    }
    let value = if negative { -mantissa } else { mantissa };
    let us = if value == 0 {
        0
    } else if power >= 0 {
        value.checked_mul(10_i128.checked_pow(power.unsigned_abs())?)?
    } else {
        match 10_i128.checked_pow(power.unsigned_abs()) {
            Some(divisor) if is_rounded => (value + divisor / 2).div_euclid(divisor),
            Some(divisor) => value.div_euclid(divisor),
            // Smaller than any microsecond.
            None => 0,
        }
    };
    i64::try_from(us).ok()
}

/// A number without fraction and exponent that fits into 64 bits, as nearly all do.
fn integer(number: &[u8]) -> Option<i64> {
    let (is_negative, digits) = match number {
        [b'-', rest @ ..] => (true, rest),
        digits => (false, digits),
    };
    if digits.len() > 19 {
        return None;
    }
    let mut value: u64 = 0;
    for digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        // Nineteen digits are below 2^64.
        value = value * 10 + u64::from(digit);
    }
    let value = i64::try_from(value).ok()?;
    Some(if is_negative { -value } else { value })
}

fn parse(text: &str) -> Result<i64, String> {
    let bytes = text.as_bytes();
    let is_number = || text.parse().is_ok_and(f64::is_finite);
    let why = |error: speedate::ParseError| match is_number() {
        true => "a number must stand without quotes".to_owned(),
        false => not_accepted(text).map_or_else(|| words(&error.to_string()), str::to_owned),
    };
    if bytes.len() == "2012-01-01".len() {
        return Ok(Date::parse_bytes_rfc3339(bytes).map_err(why)?.timestamp() * 1_000_000);
    }
    let date_time = |bytes: &[u8]| {
        let config = TimeConfig {
            microseconds_precision_overflow_behavior: MicrosecondsPrecisionOverflowBehavior::Truncate,
            ..TimeConfig::default()
        };
        let time = DateTime::parse_bytes_rfc3339_with_config(bytes, &config)?;
        // Years have four digits: the multiplication cannot overflow.
        Ok(time.timestamp_tz() * 1_000_000 + i64::from(time.time.microsecond))
    };
    match postgresql_zone(bytes) {
        None => date_time(bytes).map_err(why),
        Some(PostgresqlZone::Hours) => {
            let mut whole = [0; LONGEST + ":00".len()];
            whole[..bytes.len()].copy_from_slice(bytes);
            whole[bytes.len()..][..":00".len()].copy_from_slice(b":00");
            date_time(&whole[..bytes.len() + ":00".len()]).map_err(why)
        }
        Some(PostgresqlZone::Seconds { east, seconds }) => {
            let time = date_time(&bytes[..bytes.len() - ":00".len()]).map_err(why)?;
            Ok(if east { time - seconds * 1_000_000 } else { time + seconds * 1_000_000 })
        }
    }
}

/// Maximum length of a text that may end in one of PostgreSQL's zones, in bytes: its own texts have at most 35.
const LONGEST: usize = 48;

/// A zone as PostgreSQL prints it and RFC 3339 does not: `EncodeTimezone` in its source omits minutes that are zero, and
/// adds the seconds of the local mean times before time zones.
enum PostgresqlZone {
    /// `+05`
    Hours,
    /// `+00:19:32`
    Seconds {
        /// East of Greenwich: local times are ahead.
        east: bool,
        /// The seconds alone.
        seconds: i64,
    },
}

fn postgresql_zone(bytes: &[u8]) -> Option<PostgresqlZone> {
    // At least a date and an hour come before the zone; otherwise the hyphen is the date's own.
    if bytes.len() > LONGEST || bytes.len() < "2012-01-01 00:00+00".len() {
        return None;
    }
    match bytes {
        [.., b'0'..=b'9', b'+' | b'-', a, b] if a.is_ascii_digit() && b.is_ascii_digit() => Some(PostgresqlZone::Hours),
        [.., b'0'..=b'9', sign @ (b'+' | b'-'), _, _, b':', _, _, b':', ten @ b'0'..=b'5', one @ b'0'..=b'9'] => {
            let seconds = i64::from(ten - b'0') * 10 + i64::from(one - b'0');
            Some(PostgresqlZone::Seconds { east: *sign == b'+', seconds })
        }
        _ => None,
    }
}

/// Why a time that PostgreSQL prints is not accepted; `None` for all others.
fn not_accepted(text: &str) -> Option<&'static str> {
    if matches!(text, "infinity" | "-infinity") {
        return Some("infinity is not a point in time");
    }
    text.ends_with(" BC").then_some("years before Christ are not accepted")
}

/// Turns speedate's name of a fault, such as `out_of_range_day` or `invalid_char_tz_sign`, into plain words.
fn words(name: &str) -> String {
    let part = |part: &str| part.replace("sep", "separator").replace("tz", "zone").replace('_', " ");
    match (name.strip_prefix("invalid_char_"), name.strip_prefix("out_of_range_")) {
        (Some(place), _) => format!("a wrong character stands for the {}", part(place)),
        (_, Some(place)) => format!("the {} is out of range", part(place)),
        _ => part(name),
    }
}
