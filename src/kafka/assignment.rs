//! The partitions this consumer owns, and the position of each. Owned by the consumer's thread.

use std::sync::Arc;
use std::time::Instant;

use super::partition::TopicPartition;
use crate::raw::{Budget, MessageSet, MessageSetBuilder, RawMessage, Source};

/// Size at which a set is handed on, in bytes.
const SET_BYTES: usize = 128 * 1024;

/// All owned partitions.
#[derive(Debug, Default)]
pub(super) struct Assignment {
    topics: Vec<(String, Vec<Option<Owned>>)>,
    /// Index of the topic that was last looked up: messages of one topic follow each other, and there may be hundreds of
    /// topics.
    last: usize,
}

/// One owned partition.
#[derive(Debug)]
pub(super) struct Owned {
    /// Identifies this assignment of the partition: events of an earlier one do not count.
    pub(super) epoch: u64,
    /// `None` until its start offset is known.
    pub(super) reader: Option<Reader>,
}

/// The reading state of a partition.
#[derive(Debug)]
pub(super) struct Reader {
    source: Arc<Source>,
    partition: i32,
    building: MessageSetBuilder,
    opened: Instant,
    /// The consumer's position when it last left the partition: until fetching has begun again, the consumer still reports it.
    left_at: Option<i64>,
}

impl Assignment {
    pub(super) fn insert(&mut self, TopicPartition { topic, number }: &TopicPartition, epoch: u64) {
        let index = self.topics.iter().position(|(name, _)| name == topic).unwrap_or_else(|| {
            self.topics.push((topic.clone(), Vec::new()));
            self.topics.len() - 1
        });
        let Ok(number) = usize::try_from(*number) else { return };
        let partitions = &mut self.topics[index].1;
        if partitions.len() <= number {
            partitions.resize_with(number + 1, || None);
        }
        partitions[number] = Some(Owned { epoch, reader: None });
    }

    pub(super) fn remove(&mut self, partition: &TopicPartition) -> Option<Owned> {
        let removed = self.slot(&partition.topic, partition.number)?.take();
        // Topics that a regular expression matches come and go.
        if self.topics[self.last].1.iter().all(Option::is_none) {
            self.topics.swap_remove(self.last);
        }
        removed
    }

    pub(super) fn get(&mut self, topic: &str, partition: i32) -> Option<&mut Owned> {
        self.slot(topic, partition)?.as_mut()
    }

    fn slot(&mut self, topic: &str, partition: i32) -> Option<&mut Option<Owned>> {
        if self.topics.get(self.last).is_none_or(|(name, _)| name != topic) {
            self.last = self.topics.iter().position(|(name, _)| name == topic)?;
        }
        self.topics[self.last].1.get_mut(usize::try_from(partition).ok()?)
    }

    /// The partitions being read, in no order.
    pub(super) fn readers(&mut self) -> impl Iterator<Item = (u64, &mut Reader)> {
        self.topics
            .iter_mut()
            .flat_map(|(_, partitions)| partitions.iter_mut().flatten())
            .filter_map(|owned| owned.reader.as_mut().map(|reader| (owned.epoch, reader)))
    }

    /// All owned partitions, whether read or not.
    pub(super) fn owned(&self) -> Vec<TopicPartition> {
        self.topics
            .iter()
            .flat_map(|(topic, partitions)| {
                partitions
                    .iter()
                    .zip(0..)
                    .filter(|(owned, _)| owned.is_some())
                    .map(|(_, number)| TopicPartition::new(topic.clone(), number))
            })
            .collect()
    }
}

impl Reader {
    pub(super) fn new(source: Arc<Source>, partition: i32, start: i64, left_at: Option<i64>) -> Self {
        Self {
            building: MessageSetBuilder::new(Arc::clone(&source), partition, start),
            source,
            partition,
            opened: Instant::now(),
            left_at,
        }
    }

    pub(super) fn source(&self) -> &Arc<Source> {
        &self.source
    }

    pub(super) fn partition(&self) -> TopicPartition {
        TopicPartition::new(self.source.topic.clone(), self.partition)
    }

    /// The position after the last message.
    pub(super) fn position(&self) -> i64 {
        self.building.until()
    }

    /// Adds a message. Returns `true` if the set is now full, and `None` if the message lies before the position, so that it
    /// was read before.
    pub(super) fn push(&mut self, message: &RawMessage<'_>) -> Option<bool> {
        if message.offset < self.position() {
            return None;
        }
        if self.building.is_empty() {
            self.opened = Instant::now();
        }
        self.building.push(message);
        self.left_at = None;
        Some(self.building.bytes() >= SET_BYTES)
    }

    /// Returns what was read since the last call.
    pub(super) fn take_set(&mut self, budget: &Budget) -> Option<MessageSet> {
        if self.building.is_empty() {
            return None;
        }
        let next = MessageSetBuilder::new(Arc::clone(&self.source), self.partition, self.position());
        let budget = Some(budget);
        #[cfg(feature = "planted-bugs")]
        let budget = budget.filter(|_| !crate::planted_bugs::is_on("memory-not-charged"));
        Some(std::mem::replace(&mut self.building, next).build(budget))
    }

    /// The arrival of the first message in the set being built; `None` while it is empty.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        (!self.building.is_empty()).then_some(self.opened)
    }

    /// Skips offsets without a message: a transaction's markers, or what compaction has removed. `position` is the consumer's
    /// own. At the end of the log nothing else reports them, and without this the last message of every transaction would look
    /// unread.
    pub(super) fn skip_to(&mut self, position: i64) {
        if self.left_at == Some(position) {
            return;
        }
        self.left_at = None;
        self.building.extend_to(position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::Kind;

    fn reader(start: i64, left_at: Option<i64>) -> Reader {
        let source =
            Source { kind: Kind::Points, cluster_id: String::new(), topic: "points".into(), topic_id: String::new() };
        Reader::new(Arc::new(source), 0, start, left_at)
    }

    fn message(offset: i64) -> RawMessage<'static> {
        RawMessage { offset, time_ms: None, key: None, payload: Some(b"{}"), ..RawMessage::default() }
    }

    #[test]
    fn topics_without_partitions_are_forgotten() {
        let mut assignment = Assignment::default();
        let partition = |topic: &str, number| TopicPartition::new(topic, number);
        for (topic, number) in [("a", 0), ("b", 0), ("b", 2), ("c", 0)] {
            assignment.insert(&partition(topic, number), 7);
        }
        assert!(assignment.remove(&partition("a", 0)).is_some() && assignment.remove(&partition("b", 0)).is_some());
        assert!(assignment.remove(&partition("b", 1)).is_none() && assignment.remove(&partition("a", 0)).is_none());
        assert_eq!(assignment.topics.len(), 2);
        assert_eq!(assignment.owned().len(), 2);
        assert!(assignment.remove(&partition("b", 2)).is_some() && assignment.remove(&partition("c", 0)).is_some());
        assert!(assignment.topics.is_empty() && assignment.get("b", 2).is_none());
        assignment.insert(&partition("b", 2), 8);
        assert_eq!(assignment.get("b", 2).map(|owned| owned.epoch), Some(8));
    }

    #[test]
    fn the_end_without_messages_is_skipped() {
        let mut reader = reader(10, None);
        reader.push(&message(10)).unwrap();
        reader.skip_to(13);
        assert_eq!(reader.position(), 13);
        let set = reader.take_set(&Budget::new(1000)).unwrap();
        assert_eq!((set.interval().from, set.interval().until, set.len()), (10, 13, 1));
        reader.skip_to(13);
        assert!(reader.take_set(&Budget::new(1000)).is_none());
    }

    #[test]
    fn the_position_of_an_earlier_assignment_counts_for_nothing() {
        let mut again = reader(10, Some(50));
        again.skip_to(50);
        assert_eq!(again.position(), 10);
        again.push(&message(10)).unwrap();
        again.skip_to(12);
        assert_eq!(again.position(), 12);
        let mut only_markers = reader(10, Some(50));
        only_markers.skip_to(11);
        assert_eq!(only_markers.position(), 11);
    }

    #[test]
    fn a_message_below_the_position_is_not_taken_twice() {
        let mut reader = reader(10, None);
        assert_eq!(reader.push(&message(9)), None);
        assert_eq!(reader.push(&message(12)), Some(false));
        assert_eq!(reader.push(&message(12)), None);
        let set = reader.take_set(&Budget::new(1000)).unwrap();
        assert_eq!((set.interval().from, set.interval().until, set.len()), (10, 13, 1));
        assert!(reader.take_set(&Budget::new(1000)).is_none());
    }
}
