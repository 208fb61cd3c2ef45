//! What the messages of a set were, by kinds.

use crate::raw::Kind;

/// What the messages of a set were.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Messages with points.
    pub point_batches: usize,
    /// Definitions of series.
    pub series_creates: usize,
    /// Null payloads.
    pub tombstones: usize,
    /// Messages of which nothing is stored, as their input is configured.
    pub skipped: usize,
    /// Messages that cannot be read.
    pub rejected: usize,
    /// Those of them after which none came that can.
    pub rejected_last: usize,
    /// Fields of all of them that mean nothing.
    pub unknown_fields: usize,
}

impl Counts {
    /// Each count with the word for its kind, as in the metrics.
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
