//! The check that the journal works, while nothing is appended.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::append::hanging;
use crate::journal::{AppendError, JournalHandle};

/// Interval between two probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Probes the journal, one probe at a time.
pub(super) struct Probe {
    running: JoinSet<Result<(), AppendError>>,
    /// When the last probe began.
    since: Instant,
    next_at: Instant,
    /// The result of the last probe.
    problem: Option<String>,
    succeeded_at: Option<Instant>,
}

impl Probe {
    pub(super) fn new() -> Self {
        Self {
            running: JoinSet::new(),
            since: Instant::now(),
            next_at: Instant::now(),
            problem: None,
            succeeded_at: None,
        }
    }

    /// Records the result of the last probe, and starts the next one if it is due.
    pub(super) fn tick(&mut self, journal: &JournalHandle) {
        while let Some(done) = self.running.try_join_next() {
            self.problem = match done {
                Ok(Ok(())) => {
                    self.succeeded_at = Some(Instant::now());
                    None
                }
                Ok(Err(failure)) => Some(failure.to_string()),
                Err(failure) => Some(format!("a look at the journal ended by an internal error: {failure}")),
            };
        }
        if self.running.is_empty() && Instant::now() >= self.next_at {
            (self.since, self.next_at) = (Instant::now(), Instant::now() + PROBE_INTERVAL);
            let journal = journal.clone();
            self.running.spawn(async move { journal.probe().await });
        }
    }

    pub(super) fn problem(&self) -> Option<String> {
        let since = (!self.running.is_empty()).then_some(self.since);
        hanging("a look at the journal", since).or_else(|| self.problem.clone())
    }

    pub(super) fn succeeded_at(&self) -> Option<Instant> {
        self.succeeded_at
    }
}
