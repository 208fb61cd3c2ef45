//! Assignment, revocation and start offsets of the consumer's partitions.

use rdkafka::consumer::Consumer;
use rdkafka::{Offset, TopicPartitionList};
use tracing::info;

use super::ConsumerThread;
use crate::kafka::assignment::Reader;
use crate::kafka::context::{log_failure, positions};
use crate::kafka::events::{Assigned, Event, Start};
use crate::kafka::partition::TopicPartition;
use crate::telemetry;
use crate::telemetry::metrics;

impl ConsumerThread {
    pub(super) fn on_assigned(&mut self, partitions: &[TopicPartition]) {
        info!(partitions = named(partitions), "partitions assigned");
        metrics::rebalance();
        let assigned = partitions.iter().map(|partition| self.new_epoch(partition)).collect();
        self.send_event(Event::Assigned { assigned, sets_before: self.sets.sent() });
    }

    /// Drops what was read and not handed on yet: the next owner reads it.
    pub(super) fn on_revoked(&mut self, partitions: Vec<TopicPartition>, lost: bool) {
        info!(partitions = named(&partitions), lost, "partitions revoked");
        for partition in &partitions {
            self.assignment.remove(partition);
            self.commits.remove(partition);
        }
        self.send_event(Event::Revoked { partitions, lost });
    }

    /// Reads partitions from these offsets; a partition that is read already is moved.
    pub(super) fn start(&mut self, starts: Vec<Start>) {
        let mut fresh = TopicPartitionList::new();
        let mut moved = TopicPartitionList::new();
        self.left_at.extend(positions(&self.consumer));
        for Start { assigned: Assigned { partition, epoch }, source, offset, .. } in starts {
            let TopicPartition { topic, number } = &partition;
            let Some(owned) = self.assignment.get(topic, *number).filter(|owned| owned.epoch == epoch) else {
                continue;
            };
            let reader = Reader::new(source, *number, offset, self.left_at.get(&partition).copied());
            if let Some(mut before) = owned.reader.replace(reader) {
                moved.add_partition(topic, *number);
                self.sets.hand_on(&mut before, epoch);
            }
            log_failure("set an offset", fresh.add_partition_offset(topic, *number, Offset::Offset(offset)));
        }
        if moved.count() > 0 {
            log_failure("move partitions", self.consumer.incremental_unassign(&moved));
        }
        if fresh.count() == 0 {
            return;
        }
        log_failure("start partitions", self.consumer.incremental_assign(&fresh));
        if self.paused {
            log_failure("pause new partitions", self.consumer.pause(&fresh));
        }
    }

    /// Stops reading these assignments; each returns with a new epoch.
    pub(super) fn restart(&mut self, assignments: &[Assigned]) {
        let mut reading = TopicPartitionList::new();
        let mut again = Vec::new();
        self.left_at.extend(positions(&self.consumer));
        for Assigned { partition, epoch } in assignments {
            let TopicPartition { topic, number } = partition;
            let Some(owned) = self.assignment.get(topic, *number).filter(|owned| owned.epoch == *epoch) else {
                continue;
            };
            if let Some(mut before) = owned.reader.take() {
                reading.add_partition(topic, *number);
                self.sets.hand_on(&mut before, *epoch);
            }
            again.push(self.new_epoch(partition));
        }
        if reading.count() > 0 {
            log_failure("stop partitions", self.consumer.incremental_unassign(&reading));
        }
        if !again.is_empty() {
            self.send_event(Event::Assigned { assigned: again, sets_before: self.sets.sent() });
        }
    }

    /// Stops reading these assignments until they are restarted. What was read of them and not handed on is dropped.
    pub(super) fn hold(&mut self, assignments: &[Assigned]) {
        let mut held = TopicPartitionList::new();
        self.left_at.extend(positions(&self.consumer));
        for Assigned { partition: TopicPartition { topic, number }, epoch } in assignments {
            let owned = self.assignment.get(topic, *number).filter(|owned| owned.epoch == *epoch);
            if owned.and_then(|owned| owned.reader.take()).is_some() {
                held.add_partition(topic, *number);
            }
        }
        if held.count() > 0 {
            log_failure("hold partitions", self.consumer.incremental_unassign(&held));
        }
    }

    /// Begins a new assignment of the partition.
    fn new_epoch(&mut self, partition: &TopicPartition) -> Assigned {
        self.last_epoch += 1;
        self.assignment.insert(partition, self.last_epoch);
        Assigned { partition: partition.clone(), epoch: self.last_epoch }
    }
}

/// Formats partitions for a log line.
fn named(partitions: &[TopicPartition]) -> String {
    telemetry::partitions(partitions.iter().map(|partition| (partition.topic.as_str(), partition.number)))
}
