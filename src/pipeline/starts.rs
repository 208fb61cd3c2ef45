//! The partitions that are assigned and not read yet, and the attempts to find their starts.

use std::future::pending;
use std::time::{Duration, Instant};

use tokio::task::{JoinError, JoinSet};
use tracing::error;

use super::partitions::InFlightPartitions;
use super::start::{Resolution, Starter};
use crate::database::Database;
use crate::kafka::events::{Assigned, ReadPosition};
use crate::kafka::partition::TopicPartition;

/// Delay after an attempt that found no start for some partition; it doubles up to [`MAX_DELAY`].
const MIN_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(5);

/// Partitions without a start offset, and the attempts to find it.
pub(super) struct Starts {
    starter: Starter,
    waiting: Waiting,
    /// `true` while an attempt searches for partitions that have lost their offsets.
    is_finding_lost: bool,
    delay: Duration,
    next_at: Instant,
    tasks: JoinSet<Resolution>,
}

/// Assignments without a start offset, each with the number of message sets that must be handled before its attempt: what was
/// read of a partition's last assignment must be known to be in flight, or it would look lost.
#[derive(Debug, Default)]
struct Waiting {
    assigned: Vec<(Assigned, u64)>,
    sets_taken: u64,
}

impl Waiting {
    /// Adds assignments. A partition that is assigned again before it was started is requested once: Kafka refuses a request
    /// that names a partition twice.
    fn add(&mut self, assigned: Vec<Assigned>, sets_before: u64) {
        self.assigned.retain(|(earlier, _)| assigned.iter().all(|one| one.partition != earlier.partition));
        self.assigned.extend(assigned.into_iter().map(|one| (one, sets_before)));
    }

    fn remove(&mut self, partitions: &[TopicPartition]) {
        self.assigned.retain(|(assigned, _)| !partitions.contains(&assigned.partition));
    }

    /// The assignments that can be resolved now.
    fn due(&self) -> Vec<Assigned> {
        let is_due = |sets_before: u64| sets_before <= self.sets_taken;
        self.assigned.iter().filter(|(_, sets)| is_due(*sets)).map(|(assigned, _)| assigned.clone()).collect()
    }
}

impl Starts {
    pub(super) fn new(starter: Starter) -> Self {
        Self {
            starter,
            waiting: Waiting::default(),
            is_finding_lost: false,
            delay: Duration::ZERO,
            next_at: Instant::now(),
            tasks: JoinSet::new(),
        }
    }

    pub(super) fn database(&self) -> &Database {
        &self.starter.database
    }

    /// Adds new assignments, before which `sets_before` message sets had been sent.
    pub(super) fn on_assigned(&mut self, assigned: Vec<Assigned>, sets_before: u64) {
        self.waiting.add(assigned, sets_before);
        self.delay = Duration::ZERO;
        self.next_at = Instant::now();
    }

    pub(super) fn on_revoked(&mut self, partitions: &[TopicPartition]) {
        self.waiting.remove(partitions);
    }

    /// Counts a message set that was handled.
    pub(super) fn on_set_taken(&mut self) {
        self.waiting.sets_taken += 1;
    }

    /// Searches for the partitions that have lost their offsets, in one attempt at a time: the result of a second one would
    /// move what the first has moved. What is lost meanwhile is found as stuck.
    pub(super) fn on_offsets_lost(&mut self, reading: Vec<ReadPosition>) {
        if !self.is_finding_lost {
            self.is_finding_lost = true;
            self.tasks.spawn(self.starter.clone().find_lost(reading));
        }
    }

    /// Returns `true` if no partition waits for its start.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.assigned.is_empty() && self.tasks.is_empty()
    }

    /// Begins an attempt for the partitions that are due, if it is time. If `is_journaling`, messages go to the journal, so
    /// that partitions start without the database.
    pub(super) fn tick(&mut self, is_journaling: bool, in_flight: impl FnOnce() -> InFlightPartitions) {
        self.starter.journaling = is_journaling;
        if !self.tasks.is_empty() || Instant::now() < self.next_at {
            return;
        }
        let due = self.waiting.due();
        if !due.is_empty() {
            self.tasks.spawn(self.starter.clone().resolve(due, in_flight()));
        }
    }

    /// Returns the result of the next attempt to end; never ready while none is under way.
    pub(super) async fn next(&mut self) -> Resolution {
        match self.tasks.join_next().await {
            Some(ended) => self.on_ended(ended),
            None => pending().await,
        }
    }

    fn on_ended(&mut self, ended: Result<Resolution, JoinError>) -> Resolution {
        let resolution = ended.unwrap_or_else(|failure| {
            error!(%failure, "finding the start of partitions ended by an internal error; trying again");
            // It may have been the search for lost offsets; the next event can then begin another one.
            Resolution { found_lost: true, ..Resolution::default() }
        });
        self.is_finding_lost &= !resolution.found_lost;
        let started = |assigned: &Assigned| resolution.starts.iter().any(|start| start.assigned == *assigned);
        self.waiting.assigned.retain(|(assigned, _)| !started(assigned));
        let delay = self.delay.max(MIN_DELAY);
        self.delay = (delay * 2).min(MAX_DELAY);
        self.next_at = Instant::now() + delay;
        resolution
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(number: i32, epoch: u64) -> Assigned {
        Assigned { partition: TopicPartition::new("t", number), epoch }
    }

    /// The partitions that are due after each step, as numbers and epochs.
    #[test]
    fn a_partition_is_due_when_what_was_read_of_it_before_was_taken() {
        /// The step's name, the step, and what is due after it.
        type Step = (&'static str, fn(&mut Waiting), &'static [(i32, u64)]);
        let steps: [Step; 8] = [
            ("nothing was read before", |w| w.add(vec![assigned(0, 1), assigned(1, 2)], 0), &[(0, 1), (1, 2)]),
            ("two sets were sent before", |w| w.add(vec![assigned(2, 3)], 2), &[(0, 1), (1, 2)]),
            ("one is taken", |w| w.sets_taken += 1, &[(0, 1), (1, 2)]),
            ("both are taken", |w| w.sets_taken += 1, &[(0, 1), (1, 2), (2, 3)]),
            ("assigned again before it was started", |w| w.add(vec![assigned(1, 4)], 2), &[(0, 1), (2, 3), (1, 4)]),
            ("assigned again, with a set on its way", |w| w.add(vec![assigned(0, 5)], 3), &[(2, 3), (1, 4)]),
            ("revoked", |w| w.remove(&[TopicPartition::new("t", 2), TopicPartition::new("other", 1)]), &[(1, 4)]),
            ("the set is taken", |w| w.sets_taken += 1, &[(1, 4), (0, 5)]),
        ];
        let mut waiting = Waiting::default();
        for (what, step, due) in steps {
            step(&mut waiting);
            let found: Vec<(i32, u64)> = waiting.due().iter().map(|one| (one.partition.number, one.epoch)).collect();
            assert_eq!(found, due, "{what}");
        }
    }
}
