//! Messages that wait for a lock that another session of the database holds.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::journal::Record;
use crate::pipeline::partitions::InFlightPartitions;
use crate::raw::{MessageSet, Partition};

/// Number of holes from which on a partition is not tried until they are filled. Its progress holds 1024 islands above them.
const MAX_HOLES: usize = 384;
/// Minimum time between two attempts at records that wait for a lock.
const LOCK_RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Messages that wait for a lock, and are journaled in any mode.
pub(super) struct SetAside {
    sets: VecDeque<MessageSet>,
    /// The number of holes that such messages leave in each partition.
    holes: HashMap<Partition, usize>,
    /// The time before which nothing that waits for a lock is tried.
    retry_at: Instant,
}

impl SetAside {
    pub(super) fn new() -> Self {
        Self { sets: VecDeque::new(), holes: HashMap::new(), retry_at: Instant::now() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    pub(super) fn push(&mut self, set: MessageSet) {
        *self.holes.entry(set.partition().clone()).or_default() += 1;
        self.sets.push_back(set);
    }

    /// Takes back a set that the journal refused.
    pub(super) fn push_refused(&mut self, set: MessageSet) {
        self.sets.push_front(set);
    }

    pub(super) fn pop(&mut self) -> Option<MessageSet> {
        self.sets.pop_front()
    }

    /// Returns `true` if what waits for a lock may be tried again.
    pub(super) fn may_retry(&self) -> bool {
        Instant::now() >= self.retry_at
    }

    pub(super) fn retry_later(&mut self) {
        self.retry_at = Instant::now() + LOCK_RETRY_INTERVAL;
    }

    /// Returns `true` if the partition has nearly as many holes as its progress can hold.
    pub(super) fn is_crowded(&self, partition: &Partition) -> bool {
        self.holes.get(partition).is_some_and(|holes| *holes >= MAX_HOLES)
    }

    /// Sets the holes to those of the journal's records that the database does not have.
    pub(super) fn set_holes(&mut self, missing: &[Record]) {
        self.holes = holes(missing);
    }
}

/// Returns the number of holes in each partition that these records would fill; adjacent records fill one.
fn holes(records: &[Record]) -> HashMap<Partition, usize> {
    let mut intervals = InFlightPartitions::new();
    for record in records {
        let key = record.partition.clone();
        intervals.entry(key).or_default().push((record.from, record.until));
    }
    let count = |mut all: Vec<(i64, i64)>| {
        all.sort_unstable();
        let mut reached = i64::MIN;
        let begins = |(from, until): &(i64, i64)| {
            let begins = *from > reached;
            reached = reached.max(*until);
            begins
        };
        all.into_iter().filter(begins).count()
    };
    intervals.into_iter().map(|(key, all)| (key, count(all))).collect()
}
