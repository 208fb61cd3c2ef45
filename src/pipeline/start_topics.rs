//! Kafka's answers about topics whose partitions are to start, and the log lines of their starts.

use std::collections::HashMap;
use std::sync::Arc;

use tracing::info;

use super::partitions::InFlightPartitions;
use crate::database::Acceptance;
use crate::kafka;
use crate::kafka::events::{Assigned, Start};
use crate::kafka::lookup::Lookup;
use crate::kafka::partition::{LogRange, TopicPartition};
use crate::raw::{Partition, Source};
use crate::telemetry;

/// Maximum number of partitions that are logged individually when they start.
const MOST_LOGGED: usize = 20;

/// Kafka's answer about the topics.
pub(super) struct Topics {
    pub(super) cluster_id: String,
    /// The topics that exist, each with its id; empty if the broker gives none.
    pub(super) ids: HashMap<String, String>,
    /// The errors of the other topics.
    pub(super) failures: HashMap<String, kafka::Error>,
    pub(super) ranges: HashMap<TopicPartition, LogRange>,
    /// The group's offsets, which are never above the database's progress.
    pub(super) committed: HashMap<TopicPartition, i64>,
}

impl Topics {
    /// Requests the topics of these partitions; `None` if the brokers do not give the cluster's id. Blocks.
    pub(super) fn ask(lookup: &Lookup, mut partitions: Vec<TopicPartition>) -> Result<Option<Self>, kafka::Error> {
        let mut names: Vec<&str> = partitions.iter().map(|one| one.topic.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let (mut ids, mut failures) = (HashMap::new(), HashMap::new());
        for (name, described) in lookup.topics(&names)? {
            match described {
                Ok(topic) => drop(ids.insert(name, topic.id.unwrap_or_default())),
                Err(failure) => drop(failures.insert(name, failure)),
            }
        }
        partitions.retain(|one| ids.contains_key(&one.topic));
        let ranges = lookup.log_ranges(&partitions)?;
        let committed = lookup.committed(&partitions)?;
        Ok(lookup.cluster_id().map(|cluster_id| Self { cluster_id, ids, failures, ranges, committed }))
    }
}

/// The result for one topic.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) starts: Vec<Start>,
    pub(super) commits: Vec<(Assigned, i64)>,
    /// The acceptance of its source, as the database has it.
    pub(super) acceptance: Option<(Arc<Source>, Acceptance)>,
}

/// A topic whose partitions are to start.
pub(super) struct Topic<'a> {
    pub(super) source: &'a Arc<Source>,
    pub(super) kafka: &'a Topics,
    pub(super) in_flight: &'a InFlightPartitions,
}

impl Topic<'_> {
    /// Returns the group's offset of the partition.
    pub(super) fn group_offset(&self, assigned: &Assigned) -> Option<i64> {
        self.kafka.committed.get(&assigned.partition).copied()
    }

    pub(super) fn in_flight(&self, partition: i32) -> Option<&Vec<(i64, i64)>> {
        self.in_flight.get(&Partition::new(Arc::clone(self.source), partition))
    }
}

/// Logs where partitions start, in a line for each, or in one line if there are many.
pub(super) fn log_starts(starts: &[Start], ranges: &HashMap<TopicPartition, LogRange>) {
    if starts.len() > MOST_LOGGED {
        let partitions = telemetry::partitions(starts.iter().map(|start| {
            let TopicPartition { topic, number } = &start.assigned.partition;
            (topic.as_str(), *number)
        }));
        info!(count = starts.len(), partitions, "partitions start");
        return;
    }
    for Start { assigned: Assigned { partition: TopicPartition { topic, number }, .. }, offset, .. } in starts {
        let log_end = ranges.get(&TopicPartition::new(topic.clone(), *number)).map(|range| range.end);
        info!(topic, partition = number, offset, log_end, "partition starts");
    }
}
