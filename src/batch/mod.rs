//! Batches: what one transaction writes. Pure, no I/O.
//!
//! A [`MessageSet`] holds the raw messages of one interval of offsets of one partition, as they came from Kafka. A
//! [`Batch`] is a list of message sets, decoded: columnar [`Points`], series definitions, and dead letters. The raw messages
//! stay with the batch until it is committed, so that any part of it can be built again: the part that the database does not
//! have yet ([`Batch::keep`]), or some of its messages ([`Batch::split_into`]) when it is too much for one transaction.

mod counts;
mod dead_letter;
mod parts;
mod tombstones;

use std::sync::Arc;

use crate::input::Decoder;
use crate::message::{Message, Points, Rejected, SeriesCreate};
use crate::raw::{Budget, Charge, Interval, MessageAt, MessageSet, Partition, RawMessage};
pub use counts::{Counts, Tally};
pub use dead_letter::{DEAD_LETTER_PAYLOAD_BYTES, DeadLetter};
pub use parts::MAX_HOLES;
pub use tombstones::{SeriesTombstone, SeriesTombstones};

/// A `series-create` with the position and time by which definitions are ordered.
#[derive(Debug, Clone)]
pub struct Definition {
    /// The content of the message.
    pub series: SeriesCreate,
    /// Its position and time.
    pub at: MessageAt,
}

/// A `series-delete`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesDeletion {
    /// The id of the series.
    pub series: String,
    /// The Kafka time of the message, in milliseconds since the Unix epoch: later messages still count.
    pub message_ms: Option<i64>,
}

/// What one transaction writes: decoded messages, and the intervals of positions they cover.
#[derive(Debug)]
pub struct Batch {
    decoder: Decoder,
    sets: Vec<MessageSet>,
    points: Points,
    definitions: Vec<Definition>,
    deletions: Vec<SeriesDeletion>,
    dead_letters: Vec<DeadLetter>,
    /// What the messages of each partition were that has accepted or rejected ones.
    tallies: Vec<(Partition, Tally)>,
    /// For each message, the number of points up to its last.
    point_ends: Vec<u32>,
    oldest_ms: Option<i64>,
    /// `true` if a message has no Kafka time.
    has_untimed: bool,
    /// Deletions whose points are omitted.
    tombstones: Arc<SeriesTombstones>,
    deleted_points: usize,
    raw_bytes: usize,
    /// The memory of definitions and dead letters besides the raw messages, in bytes.
    other_bytes: usize,
    charge: Option<Charge>,
}

impl Batch {
    /// An empty batch whose messages `decoder` decodes.
    pub fn new(decoder: Decoder) -> Self {
        Self {
            decoder,
            sets: Vec::new(),
            points: Points::default(),
            definitions: Vec::new(),
            deletions: Vec::new(),
            dead_letters: Vec::new(),
            tallies: Vec::new(),
            point_ends: Vec::new(),
            oldest_ms: None,
            has_untimed: false,
            tombstones: Arc::default(),
            deleted_points: 0,
            raw_bytes: 0,
            other_bytes: 0,
            charge: None,
        }
    }

    /// The same, with its decoded points charged to `budget`.
    pub fn charged(decoder: Decoder, budget: &Budget) -> Self {
        Self { charge: Some(budget.charge(0)), ..Self::new(decoder) }
    }

    /// Decodes the messages of `set` and adds them; returns their counts.
    pub fn push(&mut self, set: MessageSet) -> Counts {
        let mut counts = Counts::default();
        for message in set.messages() {
            self.push_message(&set, &message, &mut counts);
        }
        self.count(set.partition(), &counts);
        self.raw_bytes += set.bytes();
        self.sets.push(set);
        self.recharge();
        counts
    }

    fn count(&mut self, partition: &Partition, counts: &Counts) {
        let first = self.dead_letters.len() - counts.rejected;
        let tally = Tally::new(counts, &self.dead_letters[first..]);
        if tally.accepted + tally.rejected == 0 {
            return;
        }
        match self.tallies.iter_mut().find(|(known, _)| known.is(partition)) {
            Some((_, known)) => known.add(tally),
            None => self.tallies.push((partition.clone(), tally)),
        }
    }

    fn push_message(&mut self, set: &MessageSet, message: &RawMessage<'_>, counts: &mut Counts) {
        let at = || message_at(set, message);
        match message.time_ms {
            Some(time) => self.oldest_ms = Some(self.oldest_ms.map_or(time, |oldest| oldest.min(time))),
            None => self.has_untimed = true,
        }
        let decoded = self.decoder.decode(set.source(), message, &mut self.points);
        counts.unknown_fields += self.decoder.take_unknown_fields();
        match decoded {
            Ok(Message::PointBatch { .. }) => {
                counts.point_batches += 1;
                counts.rejected_last = 0;
                if !self.tombstones.is_empty() {
                    let is_deleted = |series: &str, time_us| self.tombstones.covers(series, message.time_ms, time_us);
                    self.deleted_points += self.points.remove_from_message(is_deleted);
                }
            }
            Ok(Message::SeriesCreate(series)) => {
                counts.series_creates += 1;
                counts.rejected_last = 0;
                self.other_bytes += message.payload.map_or(0, <[u8]>::len) + size_of::<Definition>();
                self.definitions.push(Definition { series, at: at() });
            }
            Ok(Message::SeriesDelete { id }) => {
                counts.series_deletes += 1;
                counts.rejected_last = 0;
                self.other_bytes += id.len() + size_of::<SeriesDeletion>();
                self.deletions.push(SeriesDeletion { series: id, message_ms: message.time_ms });
            }
            Ok(Message::Tombstone) => counts.tombstones += 1,
            Ok(Message::Skipped | Message::Empty) => counts.skipped += 1,
            Err(rejected) => {
                counts.rejected += 1;
                counts.rejected_last += 1;
                let letter = DeadLetter::new(message, at(), rejected);
                self.other_bytes += letter.bytes();
                self.dead_letters.push(letter);
            }
        }
        // Bounded far below 2^32, as are the indices of points.
        self.point_ends.push(self.points.len() as u32);
    }

    /// The columnar points.
    pub fn points(&self) -> &Points {
        &self.points
    }

    /// The series definitions, in the order in which they were read.
    pub fn definitions(&self) -> &[Definition] {
        &self.definitions
    }

    /// The deletions of series, in the order in which they were read.
    pub fn deletions(&self) -> &[SeriesDeletion] {
        &self.deletions
    }

    /// The messages that cannot be written.
    pub fn dead_letters(&self) -> &[DeadLetter] {
        &self.dead_letters
    }

    /// What the messages of each partition were that has accepted or rejected ones.
    pub fn tallies(&self) -> &[(Partition, Tally)] {
        &self.tallies
    }

    /// The number of messages.
    pub fn message_count(&self) -> usize {
        self.sets.iter().map(MessageSet::len).sum()
    }

    /// The memory of the raw messages, of definitions and of dead letters, in bytes; points are counted separately.
    pub fn message_bytes(&self) -> usize {
        self.raw_bytes + self.other_bytes
    }

    /// The oldest message's Kafka time, in milliseconds since the Unix epoch; `None` if no message has one.
    pub fn oldest_ms(&self) -> Option<i64> {
        self.oldest_ms
    }

    /// The Kafka time of the message that a deletion of its series applies to first, as in [`SeriesTombstone::message_ms`].
    pub fn oldest_for_tombstones(&self) -> i64 {
        if self.has_untimed { i64::MIN } else { self.oldest_ms.unwrap_or(i64::MAX) }
    }

    /// The deletions whose points are omitted.
    pub fn tombstones(&self) -> &SeriesTombstones {
        &self.tombstones
    }

    /// The number of points that are omitted because of them.
    pub fn deleted_points(&self) -> usize {
        self.deleted_points
    }

    /// Returns `true` if it is large enough for one transaction: it has this many points, or messages of this many bytes.
    pub fn is_full(&self, max_points: usize, max_bytes: usize) -> bool {
        self.points.len() >= max_points || self.message_bytes() >= max_bytes
    }

    /// Returns `true` if it covers nothing.
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// Returns `true` if it has no point and no definition that the database could refuse.
    pub fn has_nothing_to_refuse(&self) -> bool {
        self.points.is_empty() && self.definitions.is_empty()
    }

    /// The message sets it was built from.
    pub fn sets(&self) -> &[MessageSet] {
        &self.sets
    }

    /// The intervals it covers, sorted by source, partition and position; those that touch are one.
    pub fn intervals(&self) -> Vec<Interval> {
        let mut all: Vec<Interval> = self.sets.iter().map(MessageSet::interval).collect();
        all.sort_by(|a, b| a.partition_order(b).then(a.from.cmp(&b.from)));
        let mut merged: Vec<Interval> = Vec::with_capacity(all.len());
        for next in all {
            match merged.last_mut() {
                Some(last) if last.partition_order(&next).is_eq() && last.until == next.from => last.until = next.until,
                _ => merged.push(next),
            }
        }
        merged
    }

    /// The number in this batch of the message that the point at `index` came from.
    pub fn message_of_point(&self, index: usize) -> Option<usize> {
        let message = self.point_ends.partition_point(|end| *end as usize <= index);
        (message < self.point_ends.len()).then_some(message)
    }

    /// The number of the message at this place; `None` if it is not in the batch.
    pub fn number_of(&self, at: &MessageAt) -> Option<usize> {
        let mut before = 0;
        for set in &self.sets {
            if *set.partition() == at.partition
                && let Some(found) = set.messages().position(|message| message.offset == at.offset)
            {
                return Some(before + found);
            }
            before += set.len();
        }
        None
    }

    /// The message of this number as a dead letter; `None` if there is none.
    pub fn dead_letter_of(&self, number: usize, rejected: Rejected) -> Option<DeadLetter> {
        let mut before = 0;
        for set in &self.sets {
            if let Some(message) = set.messages().nth(number - before) {
                return Some(DeadLetter::new(&message, message_at(set, &message), rejected));
            }
            before += set.len();
        }
        None
    }

    /// A charge to the same budget, for the memory that writing the batch needs.
    pub fn another_charge(&self) -> Option<Charge> {
        self.charge.as_ref().map(Charge::another)
    }

    /// The batch with its only message as a dead letter instead of what it decoded to.
    pub fn into_dead_letter(mut self, rejected: Rejected) -> Self {
        self.points = Points::default();
        self.definitions.clear();
        for (_, tally) in &mut self.tallies {
            tally.refuse(&rejected);
        }
        self.dead_letters = self.dead_letter_of(0, rejected).into_iter().collect();
        self.other_bytes = self.dead_letters.iter().map(DeadLetter::bytes).sum();
        self.recharge();
        self
    }

    fn recharge(&mut self) {
        if let Some(charge) = &mut self.charge {
            let ends = self.point_ends.capacity() * size_of::<u32>();
            charge.resize(self.points.bytes() + ends + self.other_bytes);
        }
    }
}

fn message_at(set: &MessageSet, message: &RawMessage<'_>) -> MessageAt {
    MessageAt { partition: set.partition().clone(), offset: message.offset, time_ms: message.time_ms }
}

#[cfg(test)]
mod tests;
