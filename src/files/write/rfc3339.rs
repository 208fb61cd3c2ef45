//! Times as texts.

use std::io::{self, Write as _};

const DAY_US: i64 = 86_400_000_000;

/// Appends a time, in microseconds since the Unix epoch, by RFC 3339 in UTC: with six digits of the second if it has a
/// fraction, and with none else.
///
/// # Errors
/// If its year does not have four digits, which RFC 3339 asks for.
pub(super) fn put(time_us: i64, out: &mut Vec<u8>) -> io::Result<()> {
    let (days, us) = (time_us.div_euclid(DAY_US), time_us.rem_euclid(DAY_US));
    let (year, month, day) = civil(days);
    if !(0..=9999).contains(&year) {
        let why = format!(
            "a time in the year {year} has no text by RFC 3339: write Parquet or Arrow, or choose times with --until"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let (seconds, fraction) = (us / 1_000_000, us % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
    if fraction > 0 {
        write!(out, ".{fraction:06}")?;
    }
    out.push(b'Z');
    Ok(())
}

/// The year, month and day of a day since the Unix epoch. A year of this calculation begins in March, so that the leap day is
/// its last. Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
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
            if let (Ok(()), Ok(time)) = (put(day * DAY_US, &mut out), expected) {
                assert_eq!(String::from_utf8(out).unwrap(), time.to_string());
            }
        }
        assert!(put(i64::MAX, &mut Vec::new()).is_err());
        assert!(put(i64::MIN, &mut Vec::new()).is_err());
    }
}
