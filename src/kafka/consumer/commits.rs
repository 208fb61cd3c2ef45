//! The offsets that the consumer commits to Kafka. They are for tools that show the lag: the start is read from the database.

use std::time::Instant;

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use tracing::debug;

use super::ConsumerThread;
use crate::kafka::context::log_failure;
use crate::kafka::events::Assigned;
use crate::kafka::partition::TopicPartition;

impl ConsumerThread {
    /// Queues offsets for the next commit.
    pub(super) fn queue_commits(&mut self, offsets: Vec<(Assigned, i64)>) {
        for (Assigned { partition, epoch }, offset) in offsets {
            self.commits.insert(partition, (epoch, offset));
        }
    }

    /// Commits the queued offsets of partitions that are still owned.
    pub(super) fn commit(&mut self, mode: CommitMode) {
        self.last_commit = Instant::now();
        let mut list = TopicPartitionList::new();
        for (TopicPartition { topic, number }, (epoch, offset)) in self.commits.drain() {
            if self.assignment.get(&topic, number).is_some_and(|owned| owned.epoch == epoch) {
                log_failure(
                    "add an offset to commit",
                    list.add_partition_offset(&topic, number, Offset::Offset(offset)),
                );
            }
        }
        if list.count() > 0
            && let Err(error) = self.consumer.commit(&list, mode)
        {
            debug!(%error, "offsets were not committed to Kafka");
        }
    }
}
