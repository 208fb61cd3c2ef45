//! Parts of a batch, decoded again from its raw messages.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Batch, SeriesTombstones};
use crate::raw::{Charge, Interval, MessageSet, Partition};

/// Maximum number of holes that [`Batch::set_aside`] leaves in a partition. Progress holds 1024 islands above them, of several
/// batches.
pub const MAX_HOLES: usize = 128;

impl Batch {
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

    /// A batch for each partition; `None` if there is only one.
    pub fn by_partition(&self) -> Option<Vec<Self>> {
        let mut intervals = self.intervals();
        intervals.sort_by(Interval::partition_order);
        let parts: Vec<&[Interval]> = intervals.chunk_by(|a, b| a.partition_order(b).is_eq()).collect();
        (parts.len() > 1).then(|| parts.into_iter().map(|part| self.keep(part)).collect())
    }

    /// An empty batch with the same rules, charged to the same budget.
    fn empty(&self) -> Self {
        Self {
            charge: self.charge.as_ref().map(Charge::another),
            tombstones: Arc::clone(&self.tombstones),
            ..Self::new(self.decoder.clone())
        }
    }

    /// The batch's messages decoded again, with the points of these series rejected.
    pub fn without_series(&self, ids: impl IntoIterator<Item = String>) -> Self {
        let mut decoder = self.decoder.clone();
        decoder.reject_series(ids);
        Self { decoder, ..self.empty() }.with(self, &self.intervals())
    }

    /// The batch's messages decoded again, without the points that these deletions apply to.
    pub fn without_deleted(&self, tombstones: SeriesTombstones) -> Self {
        Self { tombstones: Arc::new(tombstones), ..self.empty() }.with(self, &self.intervals())
    }

    /// At most `count` batches of about as many messages each, which together cover what this one covers, in its order.
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

    /// The batch without the message of this number, and that message alone; `None` if there is no other.
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

    /// The batch without the messages whose number is `true` in `aside`, and those messages as separate sets; together they
    /// cover what the batch covers. After [`MAX_HOLES`] of them in a partition, the rest of the partition is set aside as
    /// well.
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
}
