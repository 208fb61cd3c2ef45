//! The open journal: its state, its usage, and reading a record.

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

/// The directory of a journal and its limits.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its directory, which is created if it is missing.
    pub directory: PathBuf,
    /// The length of a segment, in bytes. A record that is larger gets a segment with its length.
    pub segment_bytes: u64,
    /// Maximum size of all segments together on the disk, in bytes, including those in quarantine.
    pub max_bytes: u64,
    /// Minimum free space on the disk, in bytes.
    pub min_free_bytes: u64,
}

/// The usage of a journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// The size of its segments on the disk, in bytes, including those in quarantine.
    pub bytes: u64,
    /// Their maximum size, in bytes.
    pub limit_bytes: u64,
    /// The number of records.
    pub records: u64,
    /// The oldest message's Kafka time, in milliseconds since the Unix epoch.
    pub oldest_ms: Option<i64>,
    /// The number of segments that went into quarantine, including those found at the opening.
    pub quarantined: u64,
    /// The number of acknowledged records that were lost since it was opened.
    pub lost: u64,
}

/// A journal, opened by the one process that owns it. The module's documentation says what it guarantees.
pub struct Journal<F: Files = RealFiles> {
    pub(super) files: F,
    pub(super) options: Options,
    pub(super) place: Place<F>,
    /// Why the state in memory differs from the directory, if the directory could not be opened again.
    pub(super) gone: Option<String>,
    /// The acknowledged intervals that are lost, until [`Journal::take_lost`] returns them.
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
    /// The segments in quarantine, with their size on the disk, in bytes.
    pub(super) quarantined: BTreeMap<u64, u64>,
    /// Number of segments in quarantine since it was opened, including those found then.
    pub(super) quarantined_ever: u64,
    pub(super) torn_tails: u64,
    /// The segment that was read last, so that reading in order opens each file once.
    pub(super) reading: Option<(u64, F::File)>,
    /// Small records that are written together.
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
    /// The intervals of acknowledged records that are lost, each once.
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

    /// Its usage.
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

    /// The known damage, by segment and position. Damage that was only found by reading a record is found by reading again
    /// after the next opening.
    pub fn damage(&self) -> &[Damage] {
        &self.index.damage
    }

    /// The number of torn ends that the opening has cut off: the marks of a crash, not damage.
    pub fn torn_tails(&self) -> u64 {
        self.torn_tails
    }

    /// Calls `observe` with the time that each fdatasync of records took.
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
