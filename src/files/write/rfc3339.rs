//! Times as texts.

use std::io::{self, Write as _};

use jiff::SignedDuration;
use jiff::civil::{DateTime, date};

/// 1970-01-01, in UTC. The calendar's own times reach to the end of the year 9999, and those with a zone do not.
const EPOCH: DateTime = date(1970, 1, 1).at(0, 0, 0, 0);

/// Appends a time, in microseconds since the Unix epoch, by RFC 3339 in UTC: with six digits of the second if it has a
/// fraction, and with none otherwise.
///
/// # Errors
/// If its year does not have four digits, which RFC 3339 asks for.
pub(super) fn put(time_us: i64, out: &mut Vec<u8>) -> io::Result<()> {
    let time = EPOCH.checked_add(SignedDuration::from_micros(time_us)).ok().filter(|time| time.year() >= 0);
    let Some(time) = time else {
        let why = "a time before the year 0 or after 9999 has no text by RFC 3339: write Parquet or Arrow, or choose times with \
                   --from and --until";
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    };
    if time.subsec_nanosecond() == 0 { write!(out, "{time}Z") } else { write!(out, "{time:.6}Z") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_as_another_program_writes_it() {
        for time_us in [0, 1, -1, -500_000, 951_782_400_000_000, 1_709_164_800_000_001, -62_135_596_800_000_000] {
            let mut out = Vec::new();
            put(time_us, &mut out).unwrap();
            let text = String::from_utf8(out).unwrap();
            let time: jiff::Timestamp = text.parse().unwrap();
            assert_eq!(time.as_microsecond(), time_us, "{text}");
        }
        for day in (-800_000..800_000).step_by(97) {
            let mut out = Vec::new();
            let expected = jiff::Timestamp::from_second(day * 86_400);
            if let (Ok(()), Ok(time)) = (put(day * 86_400_000_000, &mut out), expected) {
                assert_eq!(String::from_utf8(out).unwrap(), time.to_string());
            }
        }
        // 0000-01-01 and 9999-12-31T23:59:59.999999.
        let (first, last) = (-62_167_219_200_000_000, 253_402_300_799_999_999);
        assert!(put(first, &mut Vec::new()).is_ok() && put(last, &mut Vec::new()).is_ok());
        assert!(put(first - 1, &mut Vec::new()).is_err() && put(last + 1, &mut Vec::new()).is_err());
        assert!(put(i64::MAX, &mut Vec::new()).is_err());
        assert!(put(i64::MIN, &mut Vec::new()).is_err());
    }
}
