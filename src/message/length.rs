//! Lengths of time as text: a whole number and a unit.

/// The units, each in microseconds.
pub(crate) const UNITS: [(&str, i64); 7] = [
    ("us", 1),
    ("ms", 1000),
    ("s", 1_000_000),
    ("m", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
    ("w", 604_800_000_000),
];

/// A length of time such as `5m`, in microseconds; `None` if it is not one, or too long.
pub(crate) fn length_us(text: &str) -> Option<i64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let (_, us) = UNITS.iter().find(|(known, _)| *known == unit)?;
    number.parse::<i64>().ok()?.checked_mul(*us)
}
