//! A message as Kafka had it: where it stands, its bytes, and the memory that it takes. No I/O, and nothing of what is above.
//!
//! Intervals are half-open, `[from, until)`, and are intervals of *positions*, not of the offsets that messages happen to
//! have: compaction and transaction markers leave offsets without a message, and these belong to the interval as well.

pub mod headers;

mod budget;
mod message_set;

pub use budget::{Budget, Charge};
pub use message_set::{MessageSet, MessageSetBuilder, RawMessage};

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// The type of a topic's messages that do not name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `series-create`.
    Series,
    /// `point-batch`.
    Points,
    /// Points of another format, as the topic's input says.
    Other,
}

impl Kind {
    /// The word for it in a message's `type` and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Series => "series-create",
            Self::Points => "point-batch",
            Self::Other => "other",
        }
    }

    /// The kind that a message's `type` names.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Series, Self::Points].into_iter().find(|kind| kind.as_str() == word)
    }
}

/// A topic as it was made once in one cluster, for one pipeline: what progress is kept for. Its kind does not distinguish it: the
/// journal may have messages from before the topic became one of another input.
#[derive(Debug, Clone)]
pub struct Source {
    /// The type of the topic's messages that do not name it.
    pub kind: Kind,
    /// The cluster's id, as its brokers give it; empty if they give none.
    pub cluster_id: String,
    /// The topic's name.
    pub topic: String,
    /// The topic's id in base 64, as its brokers give it; empty if they give none.
    pub topic_id: String,
}

impl Source {
    fn identity(&self) -> (&str, &str, &str) {
        (&self.cluster_id, &self.topic, &self.topic_id)
    }

    /// Returns `true` if the topic was recreated: it has the id `id` now. `None` is no id, which shows nothing.
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

/// A partition of a source: what has an order of offsets, a progress, and one owner at a time.
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

/// What of `[from, until)` lies in none of the intervals, which are in their order.
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

/// Where a message stands, and when it was made.
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
