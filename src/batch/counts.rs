//! Counts of a set's messages, by type.

use crate::raw::Kind;

/// Counts of a set's messages, by type.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Messages with points.
    pub point_batches: usize,
    /// Definitions of series.
    pub series_creates: usize,
    /// Null payloads.
    pub tombstones: usize,
    /// Messages that are skipped entirely, as configured for their input.
    pub skipped: usize,
    /// Messages that cannot be read.
    pub rejected: usize,
    /// Rejected messages after the last one that was not.
    pub rejected_last: usize,
    /// Unknown fields in all messages.
    pub unknown_fields: usize,
}

impl Counts {
    /// Each count with the name of its type, as in the metrics.
    pub fn by_type(&self) -> [(&'static str, usize); 5] {
        [
            (Kind::Points.as_str(), self.point_batches),
            (Kind::Series.as_str(), self.series_creates),
            ("tombstone", self.tombstones),
            ("skipped", self.skipped),
            ("rejected", self.rejected),
        ]
    }
}
