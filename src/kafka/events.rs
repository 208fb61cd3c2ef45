//! The events and the commands of the consumer's thread.

use std::sync::Arc;

use super::member::Member;
use super::partition::TopicPartition;
use crate::raw::{MessageSet, Source};

/// An assignment of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Assigned {
    /// The topic and the partition's number.
    pub partition: TopicPartition,
    /// Identifies this assignment; never used twice.
    pub epoch: u64,
}

/// The next messages of a partition.
#[derive(Debug)]
pub struct Messages {
    /// The messages.
    pub set: MessageSet,
    /// The epoch of the assignment that read them.
    pub epoch: u64,
}

/// How far the partition of an assignment was read.
#[derive(Debug, Clone)]
pub struct ReadPosition {
    /// The assignment.
    pub assigned: Assigned,
    /// The topic's identity.
    pub source: Arc<Source>,
    /// The offset after what was handed on.
    pub offset: i64,
}

/// Events of the thread's partitions. Messages have a separate channel: while they wait for the database, the pipeline still
/// receives rebalances. Epochs relate the two.
#[derive(Debug)]
pub enum Event {
    /// These partitions are owned now, and wait for a [`Command::Start`].
    Assigned {
        /// The new assignments.
        assigned: Vec<Assigned>,
        /// Number of message sets sent before: some may be of the same partitions.
        sets_before: u64,
    },
    /// These partitions are no longer owned.
    Revoked {
        /// The partitions; none if a member without partitions has lost its membership.
        partitions: Vec<TopicPartition>,
        /// `true` if this worker is no longer a member of its group: whether others have the partitions is not known yet.
        lost: bool,
    },
    /// Some partition's position is no longer, or not yet, in Kafka's log; it is not read until it is moved. It has the
    /// position of each partition being read.
    OffsetsLost(Vec<ReadPosition>),
    /// The consumer has left the group, or has given up leaving it.
    Stopped,
}

/// The start of a partition.
#[derive(Debug, Clone)]
pub struct Start {
    /// The assignment it is for; an older one is ignored.
    pub assigned: Assigned,
    /// The topic's identity, for the messages read.
    pub source: Arc<Source>,
    /// The first position to read.
    pub offset: i64,
    /// Every offset below it is applied; what lies between the two is in flight.
    pub next_offset: i64,
}

/// The commands to the thread.
#[derive(Debug)]
pub enum Command {
    /// Join the consumer group: until then no partition is assigned.
    Join,
    /// Read these topics and no others; the list may be empty.
    Subscribe(Vec<String>),
    /// Take this name in the group: the database turned out to be another one.
    Rename(Member),
    /// Read these partitions from these offsets; a partition that is read already is moved.
    Start(Vec<Start>),
    /// Stop reading these assignments; each comes back as a new [`Event::Assigned`].
    Restart(Vec<Assigned>),
    /// Stop reading these assignments until they are restarted.
    Hold(Vec<Assigned>),
    /// The database has everything of these assignments below these offsets.
    Commit(Vec<(Assigned, i64)>),
    /// Commit, leave the group, end.
    Stop,
}
