//! Without a journal: messages that wait in memory for a lock that another session holds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::raw::MessageSet;

/// Interval between two turns of attempts.
const LOCKED_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The messages, in turns: those that are still locked in one wait for the next.
#[derive(Debug)]
pub(super) struct LockedMessages {
    sets: VecDeque<MessageSet>,
    next_turn: Instant,
    /// Number of sets left in this turn.
    left: usize,
}

impl LockedMessages {
    pub(super) fn new() -> Self {
        Self { sets: VecDeque::new(), next_turn: Instant::now(), left: 0 }
    }

    /// Keeps messages until the next turn.
    pub(super) fn add(&mut self, sets: impl IntoIterator<Item = MessageSet>) {
        self.sets.extend(sets);
    }

    /// Returns the next set to try again, if it is time.
    pub(super) fn take(&mut self) -> Option<MessageSet> {
        if self.left == 0 && !self.sets.is_empty() && Instant::now() >= self.next_turn {
            self.left = self.sets.len();
            self.next_turn = Instant::now() + LOCKED_RETRY_INTERVAL;
        }
        self.left = self.left.checked_sub(1)?;
        self.sets.pop_front()
    }
}
