//! A partition by its topic's name, as Kafka's clients name it, and the range of its log.

use std::fmt;

use crate::raw::Partition;

/// A topic's name and the number of one of its partitions. Unlike [`Partition`] it does not identify which topic of that name
/// it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: String,
    /// The partition's number.
    pub number: i32,
}

impl TopicPartition {
    /// The partition with this number of the topic with this name.
    pub fn new(topic: impl Into<String>, number: i32) -> Self {
        Self { topic: topic.into(), number }
    }
}

impl From<&Partition> for TopicPartition {
    fn from(partition: &Partition) -> Self {
        Self::new(partition.source.topic.clone(), partition.number)
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.topic, self.number)
    }
}

/// The offsets in a partition's log: `[start, end)`, where `end` is the end of the last committed transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRange {
    /// The first offset that retention has kept.
    pub start: i64,
    /// The offset after the last message that may be read.
    pub end: i64,
}
