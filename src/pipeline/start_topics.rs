//! What Kafka says about topics whose partitions are to start, and what the log says of their starts.

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

/// The number of partitions that have a line each in the log when they start.
const MOST_LOGGED: usize = 20;

/// What Kafka says about the topics.
pub(super) struct Topics {
    pub(super) cluster_id: String,
    /// The topics that there are, each with its id; an empty one if the broker gives none.
    pub(super) ids: HashMap<String, String>,
    /// Why nothing is known of the others.
    pub(super) failures: HashMap<String, kafka::Error>,
    pub(super) ranges: HashMap<TopicPartition, LogRange>,
    /// The group's offsets: never above what the database has.
    pub(super) committed: HashMap<TopicPartition, i64>,
}

impl Topics {
    /// Asks for the topics of these partitions; `None` if the brokers do not give the cluster's id. Blocks.
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

/// What was found of one topic.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) starts: Vec<Start>,
    pub(super) commits: Vec<(Assigned, i64)>,
    /// What the database knows of it.
    pub(super) acceptance: Option<(Arc<Source>, Acceptance)>,
}

/// A topic whose partitions are to start.
pub(super) struct Topic<'a> {
    pub(super) source: &'a Arc<Source>,
    pub(super) kafka: &'a Topics,
    pub(super) in_flight: &'a InFlightPartitions,
}

impl Topic<'_> {
    /// Returns the offset that the group has of the partition.
    pub(super) fn group_offset(&self, assigned: &Assigned) -> Option<i64> {
        self.kafka.committed.get(&assigned.partition).copied()
    }

    pub(super) fn in_flight(&self, partition: i32) -> Option<&Vec<(i64, i64)>> {
        self.in_flight.get(&Partition::new(Arc::clone(self.source), partition))
    }
}

/// Logs where partitions start: a line for each, or one for all if there are many.
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
