//! Without a journal: messages that wait in memory for what another session has locked.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::raw::MessageSet;

/// How often they are tried again.
const LOCKED_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The messages, in turns: those that come back in one wait for the next.
#[derive(Debug)]
pub(super) struct LockedMessages {
    sets: VecDeque<MessageSet>,
    next_turn: Instant,
    /// How many sets are still to be tried in this turn.
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

    /// The next messages to try again, if it is time.
    pub(super) fn take(&mut self) -> Option<MessageSet> {
        if self.left == 0 && !self.sets.is_empty() && Instant::now() >= self.next_turn {
            self.left = self.sets.len();
            self.next_turn = Instant::now() + LOCKED_RETRY_INTERVAL;
        }
        self.left = self.left.checked_sub(1)?;
        self.sets.pop_front()
    }
}
