//! Records of the journal that cannot be read now.

use std::time::{Duration, Instant};

/// Delay before records that cannot be read are tried again, at first.
const READ_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum of this delay, which doubles with each round.
const MAX_READ_RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// Records that cannot be read now. They are not drained: they are tried again, in rounds over all that the database does not
/// have.
#[derive(Debug)]
pub(super) struct Unread {
    why: Option<String>,
    /// `true` if some were found in this round.
    is_in_round: bool,
    next_round: Instant,
    retry_interval: Duration,
}

impl Unread {
    pub(super) fn new() -> Self {
        Self { why: None, is_in_round: false, next_round: Instant::now(), retry_interval: READ_RETRY_INTERVAL }
    }

    /// Returns the reason why the database still lacks `undrained` records, if some of them could not be read.
    pub(super) fn problem(&self, undrained: usize) -> Option<String> {
        let why = self.why.as_ref().filter(|_| undrained > 0)?;
        Some(format!("{undrained} records of the journal are not in the database and cannot all be read: {why}"))
    }

    pub(super) fn record_failure(&mut self, why: String) {
        (self.why, self.is_in_round) = (Some(why), true);
    }

    pub(super) fn end_round(&mut self) {
        if std::mem::take(&mut self.is_in_round) {
            self.next_round = Instant::now() + self.retry_interval;
            self.retry_interval = (self.retry_interval * 2).min(MAX_READ_RETRY_INTERVAL);
        } else {
            *self = Self::new();
        }
    }

    /// Returns `true` if the next round may begin.
    pub(super) fn may_read(&self) -> bool {
        Instant::now() >= self.next_round
    }
}
