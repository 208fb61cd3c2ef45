//! The segments of the journal that the database covers, until they are deleted.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::journal::JournalHandle;
use crate::pipeline::survey::Survey;

/// Segments whose records are all in the database.
pub(super) struct CoveredSegments {
    /// Time for which they are kept. After a failover the database may have lost its last commits.
    grace: Duration,
    /// Time since which each segment is covered.
    since: HashMap<u64, Instant>,
    removing: JoinSet<()>,
}

impl CoveredSegments {
    pub(super) fn new(grace: Duration) -> Self {
        Self { grace, since: HashMap::new(), removing: JoinSet::new() }
    }

    /// Records the segments that a survey found covered, and deletes those whose time has passed. The segment being written is
    /// deleted only if nothing was appended since the survey began (`is_unchanged`).
    pub(super) fn on_survey(&mut self, survey: &Survey, is_unchanged: bool, journal: &JournalHandle) {
        let covered = &survey.covered_segments;
        self.since.retain(|segment, _| covered.iter().any(|(number, _)| number == segment));
        for (segment, _) in covered {
            self.since.entry(*segment).or_insert_with(Instant::now);
        }
        let due: Vec<u64> = covered
            .iter()
            .filter(|(segment, sealed)| (*sealed || is_unchanged) && self.since[segment].elapsed() >= self.grace)
            .map(|(segment, _)| *segment)
            .collect();
        #[cfg(feature = "planted-bugs")]
        let due = if crate::planted_bugs::is_on("journal-segment-deleted-early") {
            survey.missing.iter().map(|record| record.segment).collect()
        } else {
            due
        };
        while self.removing.try_join_next().is_some() {}
        // One at a time, and alongside the loop: each requires a sync of the directory. The journal's thread does it before any
        // append that is requested later.
        if !due.is_empty() && self.removing.is_empty() {
            self.removing.spawn(journal.remove_segments(due));
        }
    }
}
