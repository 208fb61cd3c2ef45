//! Counts of a set's messages, by type.

use super::DeadLetter;
use crate::message::Rejected;
use crate::raw::Kind;

/// Counts of a set's messages, by type.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Messages with points.
    pub point_batches: usize,
    /// Definitions of series.
    pub series_creates: usize,
    /// Deletions of series.
    pub series_deletes: usize,
    /// Null payloads.
    pub tombstones: usize,
    /// Messages that store nothing, by their nature or as their input is configured.
    pub skipped: usize,
    /// Messages that cannot be read.
    pub rejected: usize,
    /// Those of them after which none came with points or a definition.
    pub rejected_last: usize,
    /// Unknown fields in all messages.
    pub unknown_fields: usize,
}

impl Counts {
    /// Each count with the name of its type, as in the metrics.
    pub fn by_type(&self) -> [(&'static str, usize); 6] {
        [
            (Kind::Points.as_str(), self.point_batches),
            (Kind::Series.as_str(), self.series_creates),
            ("series-delete", self.series_deletes),
            ("tombstone", self.tombstones),
            ("skipped", self.skipped),
            ("rejected", self.rejected),
        ]
    }
}

/// What became of the messages of a partition: of those that were decoded, and in the end of those that were written.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Messages with points, a definition or a deletion.
    pub accepted: usize,
    /// Dead letters.
    pub rejected: usize,
    /// Those of them that could be decoded, and that the database has refused.
    pub refused: usize,
    /// Dead letters after which none was accepted.
    pub rejected_last: usize,
    /// Why the last one was rejected.
    pub last: Option<Rejected>,
}

impl Tally {
    /// The tally of messages with these dead letters.
    pub(super) fn new(counts: &Counts, letters: &[DeadLetter]) -> Self {
        Self {
            accepted: counts.point_batches + counts.series_creates + counts.series_deletes,
            rejected: counts.rejected,
            refused: letters.iter().filter(|letter| letter.rejected.reason.is_of_database()).count(),
            rejected_last: counts.rejected_last,
            last: letters.last().map(|letter| letter.rejected.clone()),
        }
    }

    /// Adds what came after it.
    pub fn add(&mut self, next: Self) {
        self.rejected_last = next.rejected_last + if next.accepted == 0 { self.rejected_last } else { 0 };
        self.accepted += next.accepted;
        self.rejected += next.rejected;
        self.refused += next.refused;
        self.last = next.last.or(self.last.take());
    }

    /// The same when the database has refused one more of the messages, which becomes a dead letter.
    pub fn refuse(&mut self, letter: &Rejected) {
        self.accepted = self.accepted.saturating_sub(1);
        self.rejected += 1;
        self.refused += 1;
        // Whether one of those that are stored came after it is not known.
        if self.accepted == 0 {
            self.rejected_last = self.rejected;
        }
        self.last = Some(letter.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Reason;

    #[test]
    fn what_was_rejected_last_is_counted_over_what_follows() {
        let tally = |accepted, rejected, rejected_last| Tally { accepted, rejected, rejected_last, ..Tally::default() };
        let mut all = tally(0, 3, 3);
        all.add(tally(0, 2, 2));
        assert_eq!(all, tally(0, 5, 5));
        all.add(tally(2, 4, 1));
        assert_eq!(all, tally(2, 9, 1));
        all.add(tally(0, 1, 1));
        assert_eq!(all, tally(2, 10, 2));
        let why = Rejected::new(Reason::UnknownSeries, "no row");
        all.refuse(&why);
        assert_eq!((all.accepted, all.rejected, all.refused, all.rejected_last), (1, 11, 1, 2));
        all.refuse(&why);
        assert_eq!((all.accepted, all.rejected, all.refused, all.rejected_last), (0, 12, 2, 12));
        assert_eq!(all.last, Some(why));
    }
}
