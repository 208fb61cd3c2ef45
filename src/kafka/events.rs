//! What the consumer's thread says, and what it is asked to do.

use std::sync::Arc;

use super::member::Member;
use super::partition::TopicPartition;
use crate::raw::{MessageSet, Source};

/// An assignment of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Assigned {
    /// The topic and the partition's number.
    pub partition: TopicPartition,
    /// Which assignment of it this is; never used twice.
    pub epoch: u64,
}

/// The next messages of a partition, of the assignment with this epoch.
pub type Messages = (MessageSet, u64);

/// What happens to the thread's partitions. Messages come by a channel of their own: while these wait for the database, the
/// pipeline still hears of rebalances. Their epochs tell what belongs together.
#[derive(Debug)]
pub enum Event {
    /// These partitions are ours, and wait for a [`Command::Start`].
    Assigned {
        /// The new assignments.
        assigned: Vec<Assigned>,
        /// How many message sets were sent before: among them may be some of the same partitions.
        sets_before: u64,
    },
    /// These partitions are no longer ours.
    Revoked {
        /// The partitions; none if a member without partitions has lost its membership.
        partitions: Vec<TopicPartition>,
        /// Whether this worker is no longer a member of its group: nobody knows yet whether others have the partitions.
        lost: bool,
    },
    /// Some partition's position is no longer, or not yet, in Kafka's log; it is not read from until it is moved. With the
    /// position after what was handed on of each partition that is read.
    OffsetsLost(Vec<(Assigned, Arc<Source>, i64)>),
    /// The group's leaving is done, or was given up.
    Stopped,
}

/// Where to read a partition from.
#[derive(Debug, Clone)]
pub struct Start {
    /// The assignment it is for; an older one is ignored.
    pub assigned: Assigned,
    /// The topic's identity, for the messages read.
    pub source: Arc<Source>,
    /// The first position to read.
    pub offset: i64,
    /// Every offset below it is applied; what lies between the two is on its way.
    pub next_offset: i64,
}

/// What the thread is asked to do.
#[derive(Debug)]
pub enum Command {
    /// Join the consumer group: until then no partition is assigned.
    Join,
    /// Read these topics and no others; none is a list, too.
    Subscribe(Vec<String>),
    /// Be this member of the group: the database turned out to be another one.
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
