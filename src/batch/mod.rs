//! Batches: what one transaction writes. Pure, no I/O.
//!
//! A [`MessageSet`] holds the raw messages of one interval of offsets of one partition, as they came from Kafka. A
//! [`Batch`] is a list of message sets, decoded: columnar [`Points`], series definitions, and dead letters. The raw messages
//! stay with the batch until it is committed, so that any part of it can be built again: the part that the database does not
//! have yet ([`Batch::keep`]), or some of its messages ([`Batch::split_into`]) when it is too much for one transaction.

mod counts;
mod dead_letter;

use std::collections::HashMap;

use crate::input::Decoder;
use crate::message::{Message, Points, Rejected, SeriesCreate};
use crate::raw::{Budget, Charge, Interval, MessageAt, MessageSet, Partition, RawMessage};
pub use counts::{Counts, Tally};
pub use dead_letter::{DEAD_LETTER_PAYLOAD_BYTES, DeadLetter};

/// How many holes [`Batch::set_aside`] leaves in a partition. Progress holds 1024 islands above them, of several batches.
pub const MAX_HOLES: usize = 128;

/// A `series-create` with the place and time that make it newer or older than another.
#[derive(Debug, Clone)]
pub struct Definition {
    /// What the message says.
    pub series: SeriesCreate,
    /// Where it stands.
    pub at: MessageAt,
}

/// What one transaction writes: decoded messages, and the intervals of positions they cover.
#[derive(Debug)]
pub struct Batch {
    decoder: Decoder,
    sets: Vec<MessageSet>,
    points: Points,
    definitions: Vec<Definition>,
    dead_letters: Vec<DeadLetter>,
    /// What the messages of each partition were that has accepted or rejected ones.
    tallies: Vec<(Partition, Tally)>,
    /// For each message, the number of points up to its last.
    point_ends: Vec<u32>,
    oldest_ms: Option<i64>,
    raw_bytes: usize,
    /// What definitions and dead letters hold besides the raw messages.
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
            dead_letters: Vec::new(),
            tallies: Vec::new(),
            point_ends: Vec::new(),
            oldest_ms: None,
            raw_bytes: 0,
            other_bytes: 0,
            charge: None,
        }
    }

    /// The same, with its decoded points charged to `budget`.
    pub fn charged(decoder: Decoder, budget: &Budget) -> Self {
        Self { charge: Some(budget.charge(0)), ..Self::new(decoder) }
    }

    /// Decodes the messages of `set` and adds them; answers what they were.
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
        if let Some(time) = message.time_ms {
            self.oldest_ms = Some(self.oldest_ms.map_or(time, |oldest| oldest.min(time)));
        }
        let decoded = self.decoder.decode(set.source(), message, &mut self.points);
        counts.unknown_fields += self.decoder.take_unknown_fields();
        match decoded {
            Ok(Message::PointBatch { .. }) => {
                counts.point_batches += 1;
                counts.rejected_last = 0;
            }
            Ok(Message::SeriesCreate(series)) => {
                counts.series_creates += 1;
                counts.rejected_last = 0;
                self.other_bytes += message.payload.map_or(0, <[u8]>::len) + size_of::<Definition>();
                self.definitions.push(Definition { series, at: at() });
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
        // As the indices of points, bounded far below what 32 bits count.
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

    /// The memory of the raw messages, of definitions and of dead letters, in bytes; points are counted by themselves.
    pub fn message_bytes(&self) -> usize {
        self.raw_bytes + self.other_bytes
    }

    /// The oldest message's Kafka time, in milliseconds since the Unix epoch; `None` where no message has one.
    pub fn oldest_ms(&self) -> Option<i64> {
        self.oldest_ms
    }

    /// Returns `true` if it has as much as one transaction is to have: this many points, or messages of this many bytes.
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

    /// A batch of just those messages whose offsets lie in `missing`, decoded again, each once: a partition that was lost
    /// and assigned again is read again, and its two sets may overlap.
    pub fn keep(&self, missing: &[Interval]) -> Self {
        self.empty().with(self, missing)
    }

    /// This batch, with those messages of `other` whose offsets lie in `missing`.
    fn with(mut self, other: &Self, missing: &[Interval]) -> Self {
        let mut sets: Vec<(Interval, &MessageSet)> = other.sets.iter().map(|set| (set.interval(), set)).collect();
        sets.sort_by(|(a, _), (b, _)| a.partition_order(b).then(a.from.cmp(&b.from)));
        let mut reached: Option<Interval> = None;
        for (interval, set) in sets {
            let same = reached.take().filter(|last| last.partition_order(&interval).is_eq());
            let from = same.map_or(interval.from, |last| last.until.max(interval.from));
            for wanted in missing.iter().filter(|wanted| wanted.partition_order(&interval).is_eq()) {
                if let Some(part) = set.clip(wanted.from.max(from), wanted.until) {
                    self.push(part);
                }
            }
            reached = Some(Interval { until: interval.until.max(from), ..interval });
        }
        self
    }

    /// A batch for each partition; `None` if there is one only.
    pub fn by_partition(&self) -> Option<Vec<Self>> {
        let mut intervals = self.intervals();
        intervals.sort_by(Interval::partition_order);
        let parts: Vec<&[Interval]> = intervals.chunk_by(|a, b| a.partition_order(b).is_eq()).collect();
        (parts.len() > 1).then(|| parts.into_iter().map(|part| self.keep(part)).collect())
    }

    /// An empty batch with the same rules, charged to the same budget.
    fn empty(&self) -> Self {
        Self { charge: self.charge.as_ref().map(Charge::another), ..Self::new(self.decoder.clone()) }
    }

    /// The batch's messages decoded again, with the points of these series rejected.
    pub fn without_series(&self, ids: impl IntoIterator<Item = String>) -> Self {
        let mut decoder = self.decoder.clone();
        decoder.reject_series(ids);
        Self { decoder, ..self.empty() }.with(self, &self.intervals())
    }

    /// At most `count` batches of about as many messages each, that cover together what this one covers, in its order.
    pub fn split_into(&self, count: usize) -> Vec<Self> {
        let size = self.message_count().div_ceil(count.max(1)).max(1);
        let mut pieces = Vec::new();
        let mut piece = self.empty();
        for set in &self.sets {
            let mut rest = set.clone();
            while piece.message_count() + rest.len() > size {
                let room = size - piece.message_count();
                if room > 0 {
                    let (head, tail) = rest.split_at(room);
                    piece.push(head);
                    rest = tail;
                }
                pieces.push(std::mem::replace(&mut piece, self.empty()));
            }
            piece.push(rest);
        }
        if !piece.is_empty() {
            pieces.push(piece);
        }
        pieces
    }

    /// The message that the point at `index` came from, as its number in this batch.
    pub fn message_of_point(&self, index: usize) -> Option<usize> {
        let message = self.point_ends.partition_point(|end| *end as usize <= index);
        (message < self.point_ends.len()).then_some(message)
    }

    /// The batch without the message of this number, and that message alone; `None` where there is no other.
    pub fn without_message(&self, number: usize) -> Option<(Self, Self)> {
        if self.message_count() < 2 {
            return None;
        }
        let (mut rest, mut alone) = (self.empty(), self.empty());
        let mut before = 0;
        for set in &self.sets {
            let at = number.checked_sub(before).filter(|at| *at < set.len());
            before += set.len();
            let Some(at) = at else {
                rest.push(set.clone());
                continue;
            };
            let (head, tail) =
                if at > 0 { (Some(set.split_at(at).0), set.split_at(at).1) } else { (None, set.clone()) };
            let (one, tail) = if tail.len() > 1 {
                let (one, tail) = tail.split_at(1);
                (one, Some(tail))
            } else {
                (tail, None)
            };
            for part in [head, tail].into_iter().flatten() {
                rest.push(part);
            }
            alone.push(one);
        }
        Some((rest, alone))
    }

    /// The batch without those messages for which `aside` says so, by their numbers, and these as sets of their own; together
    /// they cover what the batch covers. After [`MAX_HOLES`] of them in a partition, the rest of it goes with them.
    pub fn set_aside(&self, aside: &[bool]) -> (Self, Vec<MessageSet>) {
        let (mut others, mut sets) = (self.empty(), Vec::new());
        let mut holes: HashMap<&Partition, usize> = HashMap::new();
        let mut number = 0;
        for set in &self.sets {
            let holes = holes.entry(set.partition()).or_default();
            let mut runs: Vec<(bool, i64)> = Vec::new();
            for message in set.messages() {
                let is_aside = aside.get(number).copied().unwrap_or_default() || *holes >= MAX_HOLES;
                number += 1;
                if runs.last().is_none_or(|(last, _)| *last != is_aside) {
                    *holes += usize::from(is_aside);
                    runs.push((is_aside, message.offset));
                }
            }
            if runs.is_empty() {
                others.push(set.clone());
            }
            let interval = set.interval();
            for (at, (is_aside, first)) in runs.iter().enumerate() {
                let from = if at == 0 { interval.from } else { *first };
                let until = runs.get(at + 1).map_or(interval.until, |(_, next)| *next);
                let Some(part) = set.clip(from, until) else { continue };
                if *is_aside {
                    sets.push(part);
                } else {
                    others.push(part);
                }
            }
        }
        (others, sets)
    }

    /// The number of the message at this place; `None` where it is not in the batch.
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

    /// The message of this number as a dead letter; `None` where there is none.
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

    /// A charge to the same budget, for what is made of the batch while it is written.
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
