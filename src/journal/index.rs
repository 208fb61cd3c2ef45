//! The index of a journal, in memory: one small struct per record.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::error::{Damage, DamageKind};
use super::format::{RecordHeader, record_bytes};
use super::payload::NO_TIME;
use crate::raw::{Interval, Partition, Source};

/// The messages of one interval of positions of one partition, as the journal has them. Two records may overlap: messages of
/// an append that was not acknowledged may be there nevertheless, and are appended again.
#[derive(Debug, Clone)]
pub struct Record {
    /// The partition.
    pub partition: Partition,
    /// The interval's first offset.
    pub from: i64,
    /// The offset after its last.
    pub until: i64,
    /// The number of messages.
    pub messages: u32,
    /// The payload's length on disk, in bytes; [`Self::bytes`] has the record's. There is one of these structs for each record
    /// in the journal, so eight bytes matter.
    payload_bytes: u32,
    /// The oldest message's Kafka time, in milliseconds since the Unix epoch.
    pub oldest_ms: Option<i64>,
    /// The number of its segment.
    pub segment: u64,
    /// Where it begins there, in bytes.
    pub position: u64,
    /// Its number in the order of appends.
    pub sequence: u64,
}

impl Record {
    pub(super) fn new(source: Arc<Source>, segment: u64, position: u64, header: &RecordHeader) -> Self {
        Self {
            partition: Partition::new(source, header.partition),
            from: header.from,
            until: header.until,
            messages: header.messages,
            payload_bytes: header.payload_bytes,
            oldest_ms: (header.oldest_ms != NO_TIME).then_some(header.oldest_ms),
            segment,
            position,
            sequence: header.sequence,
        }
    }

    /// A record of an interval, without messages.
    #[cfg(test)]
    pub(crate) fn of(interval: Interval) -> Self {
        let Interval { partition, from, until } = interval;
        let (messages, payload_bytes, oldest_ms) = (0, 0, None);
        Self { partition, from, until, messages, payload_bytes, oldest_ms, segment: 1, position: 0, sequence: 0 }
    }
}

/// A segment in memory.
#[derive(Debug, Default)]
pub(super) struct Segment {
    /// Its size on disk, in bytes.
    pub(super) bytes: u64,
    /// Its records, by position.
    pub(super) records: Vec<Record>,
    /// The oldest message's time among them.
    pub(super) oldest_ms: Option<i64>,
    /// `true` if nothing more is written to it.
    pub(super) sealed: bool,
    /// `true` if it is sealed because a write or an fdatasync failed.
    pub(super) fenced: bool,
    /// `true` if its removal was requested; it is removed after all older ones.
    pub(super) leaving: bool,
}

impl Segment {
    /// A segment that is no longer written.
    pub(super) fn sealed(bytes: u64, records: Vec<Record>) -> Self {
        let oldest_ms = records.iter().filter_map(|record| record.oldest_ms).min();
        Self { bytes, records, oldest_ms, sealed: true, ..Self::default() }
    }

    /// Keeps some of its records.
    pub(super) fn keep(&mut self, is_kept: impl FnMut(&Record) -> bool) {
        self.records.retain(is_kept);
        self.oldest_ms = self.records.iter().filter_map(|record| record.oldest_ms).min();
    }

    /// Adds records that were acknowledged.
    pub(super) fn add(&mut self, records: Vec<Record>) {
        self.oldest_ms = self.oldest_ms.into_iter().chain(records.iter().filter_map(|record| record.oldest_ms)).min();
        self.records.extend(records);
    }
}

impl Record {
    /// Returns `true` if both are the same record at the same place.
    pub(super) fn is(&self, other: &Self) -> bool {
        let place = |record: &Self| (record.segment, record.position, record.sequence);
        place(self) == place(other) && self.interval() == other.interval()
    }

    /// The record's length on disk, in bytes.
    pub fn bytes(&self) -> u64 {
        record_bytes(u64::from(self.payload_bytes))
    }

    /// The positions it covers.
    pub fn interval(&self) -> Interval {
        Interval { partition: self.partition.clone(), from: self.from, until: self.until }
    }
}

/// A segment as callers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number.
    pub number: u64,
    /// Its size on disk, in bytes.
    pub bytes: u64,
    /// Number of its records.
    pub records: usize,
    /// `true` if nothing more is written to it.
    pub sealed: bool,
    /// `true` if that is because a write or an fdatasync failed.
    pub fenced: bool,
    /// `true` if a part of it is damaged.
    pub damaged: bool,
}

/// All segments with their records, and all known damage.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) segments: BTreeMap<u64, Segment>,
    /// In the order of segments and positions.
    pub(super) damage: Vec<Damage>,
}

impl Index {
    /// The records that callers see, the oldest first.
    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.segments.values().filter(|segment| !segment.leaving).flat_map(|segment| &segment.records)
    }

    /// The record at this place.
    pub(super) fn record(&self, segment: u64, position: u64) -> Option<&Record> {
        let records = &self.segments.get(&segment)?.records;
        records.binary_search_by_key(&position, |record| record.position).ok().map(|index| &records[index])
    }

    pub(super) fn segments(&self) -> Vec<SegmentInfo> {
        let damaged: HashSet<u64> = self.damage.iter().map(|damage| damage.segment).collect();
        let shown = self.segments.iter().filter(|(_, segment)| !segment.leaving);
        shown
            .map(|(number, segment)| SegmentInfo {
                number: *number,
                bytes: segment.bytes,
                records: segment.records.len(),
                sealed: segment.sealed,
                fenced: segment.fenced,
                damaged: damaged.contains(number),
            })
            .collect()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes).sum()
    }

    pub(super) fn is_damaged(&self, segment: u64) -> bool {
        self.damage.iter().any(|damage| damage.segment == segment)
    }

    /// Adds damage, in order, unless it is listed already.
    pub(super) fn report(&mut self, damage: Damage) {
        if let Err(at) = self.damage.binary_search(&damage) {
            self.damage.insert(at, damage);
        }
    }

    /// Lists a record as damaged and no longer as a record.
    pub(super) fn give_up(&mut self, record: &Record, what: DamageKind) -> Damage {
        let (segment, from) = (record.segment, record.position);
        let damage = Damage { segment, from, until: from + record.bytes(), what };
        if let Some(segment) = self.segments.get_mut(&segment) {
            segment.keep(|other| other.position != from);
        }
        self.report(damage.clone());
        damage
    }

    /// Forgets a segment and its damage, and missing segments that no longer lie after any segment.
    pub(super) fn forget(&mut self, number: u64) {
        self.segments.remove(&number);
        let oldest = self.segments.keys().next().copied();
        self.damage.retain(|damage| {
            damage.segment == 0
                || self.segments.contains_key(&damage.segment)
                || (damage.what == DamageKind::SegmentMissing && oldest.is_some_and(|oldest| oldest < damage.segment))
        });
    }
}
