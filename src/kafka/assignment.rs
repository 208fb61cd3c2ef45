//! The partitions this consumer owns, and how far each is read. Owned by the consumer's thread.

use std::sync::Arc;
use std::time::Instant;

use super::context::PartitionStatistics;
use super::lookup::TopicPartition;
use crate::batch::{Budget, MessageSet, MessageSetBuilder, RawMessage, Source};

/// A set is handed on when it holds this many bytes.
const SET_BYTES: usize = 128 * 1024;

/// All owned partitions.
#[derive(Debug, Default)]
pub(super) struct Assignment {
    topics: Vec<(String, Vec<Option<Owned>>)>,
}

/// One owned partition.
#[derive(Debug)]
pub(super) struct Owned {
    /// Which assignment of the partition this is: what was said of an earlier one does not count.
    pub(super) epoch: u64,
    /// `None` until its start offset is known.
    pub(super) reader: Option<Reader>,
}

/// How far a partition is read.
#[derive(Debug)]
pub(super) struct Reader {
    source: Arc<Source>,
    partition: i32,
    building: MessageSetBuilder,
    opened: Instant,
    /// Whether a message came since the partition was assigned, paused or resumed.
    read_since_break: bool,
}

impl Assignment {
    pub(super) fn insert(&mut self, (topic, partition): &TopicPartition, epoch: u64) {
        let index = self.topics.iter().position(|(name, _)| name == topic).unwrap_or_else(|| {
            self.topics.push((topic.clone(), Vec::new()));
            self.topics.len() - 1
        });
        let Ok(number) = usize::try_from(*partition) else { return };
        let partitions = &mut self.topics[index].1;
        if partitions.len() <= number {
            partitions.resize_with(number + 1, || None);
        }
        partitions[number] = Some(Owned { epoch, reader: None });
    }

    pub(super) fn remove(&mut self, partition: &TopicPartition) -> Option<Owned> {
        self.slot(&partition.0, partition.1)?.take()
    }

    pub(super) fn get(&mut self, topic: &str, partition: i32) -> Option<&mut Owned> {
        self.slot(topic, partition)?.as_mut()
    }

    fn slot(&mut self, topic: &str, partition: i32) -> Option<&mut Option<Owned>> {
        let (_, partitions) = self.topics.iter_mut().find(|(name, _)| name == topic)?;
        partitions.get_mut(usize::try_from(partition).ok()?)
    }

    /// The partitions that are read, in no order.
    pub(super) fn readers(&mut self) -> impl Iterator<Item = (u64, &mut Reader)> {
        self.topics
            .iter_mut()
            .flat_map(|(_, partitions)| partitions.iter_mut().flatten())
            .filter_map(|owned| owned.reader.as_mut().map(|reader| (owned.epoch, reader)))
    }

    /// All owned partitions, read or not.
    pub(super) fn owned(&self) -> Vec<TopicPartition> {
        self.topics
            .iter()
            .flat_map(|(topic, partitions)| {
                partitions.iter().zip(0..).filter(|(owned, _)| owned.is_some()).map(|(_, number)| (topic.clone(), number))
            })
            .collect()
    }
}

impl Reader {
    pub(super) fn new(source: Arc<Source>, partition: i32, start: i64) -> Self {
        Self {
            building: MessageSetBuilder::new(Arc::clone(&source), partition, start),
            source,
            partition,
            opened: Instant::now(),
            read_since_break: false,
        }
    }

    pub(super) fn partition(&self) -> TopicPartition {
        (self.source.topic.clone(), self.partition)
    }

    /// The position behind the last message.
    pub(super) fn position(&self) -> i64 {
        self.building.until()
    }

    /// Adds a message; whether the set is now full. `None` where the message lies before the position: it was read before.
    pub(super) fn push(&mut self, message: &RawMessage<'_>) -> Option<bool> {
        if message.offset < self.position() {
            return None;
        }
        if self.building.is_empty() {
            self.opened = Instant::now();
        }
        self.building.push(message);
        self.read_since_break = true;
        Some(self.building.bytes() >= SET_BYTES)
    }

    /// What was read since the last call.
    pub(super) fn take(&mut self, budget: &Budget) -> Option<MessageSet> {
        if self.building.is_empty() {
            return None;
        }
        let next = MessageSetBuilder::new(Arc::clone(&self.source), self.partition, self.position());
        Some(std::mem::replace(&mut self.building, next).build(Some(budget)))
    }

    /// When the first message of the set being built came; `None` while it is empty.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        (!self.building.is_empty()).then_some(self.opened)
    }

    /// Notes that what librdkafka had fetched ahead is thrown away.
    pub(super) fn interrupted(&mut self) {
        self.read_since_break = false;
    }

    /// Passes over the positions at the end of the log that hold no message: a transaction's markers, or what compaction has
    /// removed. Nothing else tells of them, and without this the last message of every transaction would look unread.
    ///
    /// The statistics are older than this moment, and may be of the time before a pause or an earlier assignment threw away
    /// what was fetched. They count only where they agree with what was handed over since: the end of the partition was
    /// reached, nothing waits, and the message that was handed over last is the one that came last to us after the break.
    pub(super) fn skip_empty_end(&mut self, statistics: &PartitionStatistics) {
        if self.read_since_break
            && statistics.waiting == 0
            && statistics.handed_over == self.position()
            && statistics.end_reached > self.position()
            && statistics.end_reached == statistics.last_stable
        {
            self.building.extend_to(statistics.end_reached);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Kind;

    fn reader(start: i64) -> Reader {
        let source = Source {
            kind: Kind::Points,
            cluster_id: String::new(),
            topic: "points".into(),
            topic_id: String::new(),
        };
        Reader::new(Arc::new(source), 0, start)
    }

    fn message(offset: i64) -> RawMessage<'static> {
        RawMessage { offset, time_ms: None, key: None, payload: Some(b"{}") }
    }

    fn statistics(handed_over: i64, end_reached: i64) -> PartitionStatistics {
        let last_stable = end_reached;
        PartitionStatistics { partition: ("points".into(), 0), waiting: 0, handed_over, end_reached, last_stable }
    }

    #[test]
    fn the_end_without_messages_is_passed_over() {
        let mut reader = reader(10);
        reader.push(&message(10)).unwrap();
        reader.skip_empty_end(&statistics(11, 13));
        assert_eq!(reader.position(), 13);
        let set = reader.take(&Budget::new(1000)).unwrap();
        assert_eq!((set.interval().from, set.interval().until, set.len()), (10, 13, 1));
    }

    #[test]
    fn statistics_from_before_a_break_count_for_nothing() {
        let mut reader = reader(10);
        reader.push(&message(10)).unwrap();
        reader.interrupted();
        reader.skip_empty_end(&statistics(11, 13));
        assert_eq!(reader.position(), 11, "messages fetched ahead were thrown away by the pause");
        reader.push(&message(11)).unwrap();
        reader.skip_empty_end(&statistics(11, 13));
        assert_eq!(reader.position(), 12, "the statistics are older than the last message");
        reader.skip_empty_end(&PartitionStatistics { waiting: 1, ..statistics(12, 13) });
        assert_eq!(reader.position(), 12, "a message waits");
    }

    #[test]
    fn a_message_below_the_position_is_not_taken_twice() {
        let mut reader = reader(10);
        assert_eq!(reader.push(&message(9)), None);
        assert_eq!(reader.push(&message(12)), Some(false));
        assert_eq!(reader.push(&message(12)), None);
        let set = reader.take(&Budget::new(1000)).unwrap();
        assert_eq!((set.interval().from, set.interval().until, set.len()), (10, 13, 1));
        assert!(reader.take(&Budget::new(1000)).is_none());
    }
}
