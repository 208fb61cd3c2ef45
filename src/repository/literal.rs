//! Times as literals in SQL.

const DAY_US: i64 = 86_400_000_000;

/// A time as a literal; PostgreSQL's own reaches further than other libraries'.
pub(super) fn time(us: i64) -> String {
    let (days, rest) = (us.div_euclid(DAY_US), us.rem_euclid(DAY_US));
    // The number of a day, as PostgreSQL's input takes it: 2,440,588 is the Unix epoch.
    let (seconds, fraction) = (rest / 1_000_000, rest % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("'J{} {hour:02}:{minute:02}:{second:02}.{fraction:06}+00'", days + 2_440_588)
}
