//! The journal as its owner has it: its state, what it holds, and reading a record.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::current::Current;
use super::directory::segment_path;
use super::error::{Damage, DamageKind, ReadError};
use super::files::{Access, Files, RealFiles};
use super::format::JournalId;
use super::index::{Index, Record, SegmentInfo};
use super::payload::decode;
use super::place::{Place, is_gone};
use super::reader::Reader;
use crate::raw::{Interval, MessageSet};

/// Where a journal is and how large it may get.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its directory, which is created if it is missing.
    pub directory: PathBuf,
    /// The length of a segment, in bytes. A record that is larger gets a segment with its length.
    pub segment_bytes: u64,
    /// What all segments may take together on the disk, in bytes, with those in quarantine.
    pub max_bytes: u64,
    /// What is left to others on the disk, in bytes.
    pub min_free_bytes: u64,
}

/// What a journal holds, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// What its segments take on the disk, in bytes, with those in quarantine.
    pub bytes: u64,
    /// What they may take, in bytes.
    pub limit_bytes: u64,
    /// The number of records.
    pub records: u64,
    /// The oldest message's Kafka time, in milliseconds since the Unix epoch.
    pub oldest_ms: Option<i64>,
    /// The number of segments that went into quarantine, with those that were there at the opening.
    pub quarantined: u64,
    /// The number of records that were acknowledged and are not there any more, since it was opened.
    pub lost: u64,
}

/// A journal, opened by the one process that has it. The module's documentation says what it promises.
pub struct Journal<F: Files = RealFiles> {
    pub(super) files: F,
    pub(super) options: Options,
    pub(super) place: Place<F>,
    /// Why what is in memory is not what is in the directory, if that could not be opened again.
    pub(super) gone: Option<String>,
    /// What was acknowledged and is not there any more, until [`Journal::take_lost`] returns it.
    pub(super) lost: Vec<Interval>,
    pub(super) lost_records: u64,
    /// When the last append was acknowledged.
    pub(super) appended_at: Option<Instant>,
    pub(super) id: JournalId,
    pub(super) index: Index,
    /// The segment that is written.
    pub(super) current: Option<Current<F>>,
    /// The number of the next segment.
    pub(super) next_number: u64,
    /// The last segment that has acknowledged records; 0 for none.
    pub(super) previous: u64,
    /// The sequence number of the next record.
    pub(super) next_sequence: u64,
    /// The segments in quarantine, with what they take on the disk, in bytes.
    pub(super) quarantined: BTreeMap<u64, u64>,
    /// How many there were since it was opened, with those that were there then.
    pub(super) quarantined_ever: u64,
    pub(super) torn_tails: u64,
    /// The segment that was read last, so that reading in order opens each file once.
    pub(super) reading: Option<(u64, F::File)>,
    /// Small records that are written at once.
    pub(super) buffer: Vec<u8>,
    pub(super) on_sync: Box<dyn Fn(Duration) + Send>,
}

impl<F: Files> fmt::Debug for Journal<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("options", &self.options)
            .field("current", &self.current)
            .finish_non_exhaustive()
    }
}

impl<F: Files> Journal<F> {
    /// The intervals of records that were acknowledged and are not there any more, each once.
    pub fn take_lost(&mut self) -> Vec<Interval> {
        std::mem::take(&mut self.lost)
    }

    /// The records, the oldest first.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.index.records()
    }

    /// The messages of a record of this journal.
    ///
    /// # Errors
    /// If the record is damaged: it is then listed in [`Journal::damage`] and no longer in [`Journal::records`]. If its file
    /// cannot be opened now, the record stays.
    pub fn read(&mut self, record: &Record) -> Result<MessageSet, ReadError> {
        let (segment, position) = (record.segment, record.position);
        let Some(record) = self.index.record(segment, position).filter(|known| known.is(record)).cloned() else {
            return Err(ReadError::Gone { segment, position });
        };
        if self.reading.as_ref().is_none_or(|(number, _)| *number != segment) {
            match self.files.open(&segment_path(&self.options.directory, segment), Access::Read) {
                Ok(file) => self.reading = Some((segment, file)),
                Err(error) if is_gone(&error) => {
                    // It is lost with its segment, and perhaps others with it.
                    let what = format!("segment {segment} is not there any more");
                    return match self.open_again(what) {
                        Ok(()) => Err(ReadError::Gone { segment, position }),
                        Err(_) => Err(ReadError::Io { segment, source: error }),
                    };
                }
                Err(source) => return Err(ReadError::Io { segment, source }),
            }
        }
        let Some((_, file)) = &self.reading else { return Err(ReadError::Gone { segment, position }) };
        let length = self.files.length(file).map_err(|source| ReadError::Io { segment, source })?;
        let mut reader = Reader::new(&self.files, file, &self.id, segment, length);
        read_record(&mut reader, &record).map_err(|what| ReadError::Damaged(self.index.give_up(&record, what)))
    }

    /// The segments, the oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.index.segments()
    }

    /// What it holds, in numbers.
    pub fn usage(&self) -> Usage {
        let shown = || self.index.segments.values().filter(|segment| !segment.leaving);
        Usage {
            bytes: self.used_bytes(),
            limit_bytes: self.options.max_bytes,
            records: shown().map(|segment| segment.records.len() as u64).sum(),
            oldest_ms: shown().filter_map(|segment| segment.oldest_ms).min(),
            quarantined: self.quarantined_ever,
            lost: self.lost_records,
        }
    }

    /// What is known to be damaged, by segment and position. What was only found on reading is found again on reading after
    /// the next opening.
    pub fn damage(&self) -> &[Damage] {
        &self.index.damage
    }

    /// How many torn ends the opening has cut off: the marks of a crash, not damage.
    pub fn torn_tails(&self) -> u64 {
        self.torn_tails
    }

    /// Has `observe` called with the time that each fdatasync of records took.
    pub fn observe_syncs(&mut self, observe: impl Fn(Duration) + Send + 'static) {
        self.on_sync = Box::new(observe);
    }
}

/// The messages at the record's place, if they are the record's.
pub(super) fn read_record<F: Files>(reader: &mut Reader<'_, F>, record: &Record) -> Result<MessageSet, DamageKind> {
    let set = (|| {
        let found = reader.record(record.position).filter(|found| found.header.sequence == record.sequence)?;
        let set = decode(&found.header, &reader.payload(&found)?)?;
        (set.interval() == record.interval()).then_some(set)
    })();
    set.ok_or(if reader.unreadable { DamageKind::Unreadable } else { DamageKind::Payload })
}
