//! A message as read from Kafka: its position, its bytes, and the memory that it uses. No I/O, and no imports from higher
//! modules.
//!
//! Intervals are half-open, `[from, until)`, and are intervals of *positions*, not of the offsets that messages happen to
//! have: compaction and transaction markers leave offsets without a message, and these belong to the interval as well.

pub(crate) mod file_row;
pub mod headers;

mod budget;
mod message_set;

pub use budget::{Budget, Charge};
pub use message_set::{MessageSet, MessageSetBuilder, RawMessage};

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// The type of a topic's messages that do not specify one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `series-create`.
    Series,
    /// `point-batch`.
    Points,
    /// Points in another format, which the topic's input specifies.
    Other,
}

impl Kind {
    /// Its name in a message's `type` and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Series => "series-create",
            Self::Points => "point-batch",
            Self::Other => "other",
        }
    }
}

/// The cluster of sources that are files, which `points import` has read: no Kafka cluster has an id of this length.
pub const FILE_CLUSTER: &str = "file";

/// One creation of a topic in one cluster, for one pipeline; progress is kept for it. Its kind is not part of its identity:
/// the journal may have messages from before the topic was assigned to another input.
#[derive(Debug, Clone)]
pub struct Source {
    /// The type of the topic's messages that do not specify one.
    pub kind: Kind,
    /// The cluster's id, as its brokers report it; empty if they report none.
    pub cluster_id: String,
    /// The topic's name.
    pub topic: String,
    /// The topic's id in base 64, as its brokers report it; empty if they report none.
    pub topic_id: String,
}

impl Source {
    fn identity(&self) -> (&str, &str, &str) {
        (&self.cluster_id, &self.topic, &self.topic_id)
    }

    /// Returns `true` if it is a file: its messages are native point batches, whatever inputs are configured, and Kafka knows
    /// nothing of it.
    pub fn is_file(&self) -> bool {
        self.cluster_id == FILE_CLUSTER
    }

    /// Returns `true` if the topic was recreated: `id` is its present id. `None`, an unknown id, proves nothing.
    pub fn was_recreated(&self, id: Option<&str>) -> bool {
        id.is_some_and(|id| id != self.topic_id)
    }
}

impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Source {}

impl Hash for Source {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl PartialOrd for Source {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Source {
    fn cmp(&self, other: &Self) -> Ordering {
        self.identity().cmp(&other.identity())
    }
}

/// A partition of a source: it has an order of offsets, progress, and one owner at a time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition {
    /// Its topic.
    pub source: Arc<Source>,
    /// Its number.
    pub number: i32,
}

impl Partition {
    /// The partition with this number of the source.
    pub fn new(source: Arc<Source>, number: i32) -> Self {
        Self { source, number }
    }

    /// As `==`, and at once for the same `Arc`.
    pub fn is(&self, other: &Self) -> bool {
        self.number == other.number && (Arc::ptr_eq(&self.source, &other.source) || self.source == other.source)
    }
}

impl std::fmt::Display for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[{}]", self.source.topic, self.number)
    }
}

/// An interval of positions of one partition: `[from, until)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interval {
    /// The partition.
    pub partition: Partition,
    /// The first position.
    pub from: i64,
    /// The position after the last.
    pub until: i64,
}

impl std::fmt::Display for Interval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} offsets {} to {}", self.partition, self.from, self.until - 1)
    }
}

impl Interval {
    /// Returns `true` if `offset` of the partition with this number lies inside.
    pub fn contains(&self, source: &Source, number: i32, offset: i64) -> bool {
        self.partition.number == number
            && *self.partition.source == *source
            && (self.from..self.until).contains(&offset)
    }

    /// The order by source and partition.
    pub fn partition_order(&self, other: &Self) -> Ordering {
        self.partition.cmp(&other.partition)
    }
}

/// Returns the parts of `[from, until)` that lie in none of the intervals, which are sorted.
pub fn holes(from: i64, until: i64, intervals: &[(i64, i64)]) -> Vec<(i64, i64)> {
    let mut holes = Vec::new();
    let mut reached = from;
    for (start, end) in intervals {
        if *start > reached && reached < until {
            holes.push((reached, (*start).min(until)));
        }
        reached = reached.max(*end);
    }
    if reached < until {
        holes.push((reached, until));
    }
    holes
}

/// A message's position, and the time of its creation.
#[derive(Debug, Clone)]
pub struct MessageAt {
    /// The partition.
    pub partition: Partition,
    /// Kafka's offset.
    pub offset: i64,
    /// Kafka's time, in milliseconds since the Unix epoch; `None` if the message has none.
    pub time_ms: Option<i64>,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_topic_that_became_one_of_another_input_is_the_same_source() {
        let source = |kind, id: &str| Source { kind, cluster_id: "c".into(), topic: "t".into(), topic_id: id.into() };
        let sources = [source(Kind::Points, "1"), source(Kind::Other, "1"), source(Kind::Other, "2")];
        assert_eq!(sources[0], sources[1]);
        assert_ne!(sources[1], sources[2]);
        assert_eq!(sources[0].cmp(&sources[1]), Ordering::Equal);
        assert_eq!(sources.into_iter().collect::<HashSet<_>>().len(), 2);
    }
}
