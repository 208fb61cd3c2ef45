//! What is kept of the data: retention and backups.

use ::metrics::{counter, gauge};

use super::table::{
    BACKUP_AGE_SECONDS, BACKUP_VERIFIED_AGE_SECONDS, OLDEST_POINT_SECONDS, RETENTION_DROPPED,
    RETENTION_OVERDUE_SECONDS, RETENTION_SECONDS,
};

/// Counts what was deleted because of its age.
pub fn expired_dropped(chunks: u64, points: u64) {
    counter!(RETENTION_DROPPED, "unit" => "chunk").increment(chunks);
    counter!(RETENTION_DROPPED, "unit" => "point").increment(points);
}

/// Records the retention, and for how long something should have been deleted, in seconds.
pub fn set_retention(drop_after_s: i64, overdue_s: f64) {
    gauge!(RETENTION_SECONDS).set(drop_after_s as f64);
    gauge!(RETENTION_OVERDUE_SECONDS).set(overdue_s);
}

/// Records the age of the oldest point, by its time in microseconds since the Unix epoch.
pub fn set_oldest_point(time_us: Option<i64>) {
    let now_us = jiff::Timestamp::now().as_microsecond();
    gauge!(OLDEST_POINT_SECONDS).set(time_us.map_or(0.0, |us| now_us.saturating_sub(us) as f64 / 1e6));
}

/// Records the ages of the newest backup and of the newest verified one, in seconds; NaN if there is none.
pub fn backup_ages(newest: Option<f64>, verified: Option<f64>) {
    gauge!(BACKUP_AGE_SECONDS).set(newest.unwrap_or(f64::NAN));
    gauge!(BACKUP_VERIFIED_AGE_SECONDS).set(verified.unwrap_or(f64::NAN));
}
