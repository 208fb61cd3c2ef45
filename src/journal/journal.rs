//! The journal as its owner has it: open, read, remove.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::append::{Stop, is_out_of_space};
use super::directory::{self, Identity, Listing, quarantine_path, segment_path};
use super::error::{AppendError, Damage, DamageKind, OpenError, ReadError};
use super::examine::doubts;
use super::files::{Access, Files, RealFiles, Seen};
use super::format::{HEADER_BYTES, JournalId};
use super::index::{Index, Record, SegmentInfo};
use super::payload::decode;
use super::place::{Lost, Place, check_lengths, is_gone};
use super::reader::Reader;
use super::recovery::{Loaded, Unopened, load};
use crate::raw::{Interval, MessageSet, Source};

/// An append that was acknowledged so lately shows that the disk takes one.
const FRESH: Duration = Duration::from_secs(4);

/// Where a journal is and how large it may get.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its directory, made where it is missing.
    pub directory: PathBuf,
    /// The length of a segment, in bytes. A record that is larger gets a segment of its own length.
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
    /// What was acknowledged and is not there any more, until somebody takes it.
    lost: Vec<Interval>,
    lost_records: u64,
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
    quarantined_ever: u64,
    torn_tails: u64,
    /// The segment that was read last, so that reading in order opens each file once.
    reading: Option<(u64, F::File)>,
    /// Small records that are written at once.
    pub(super) buffer: Vec<u8>,
    pub(super) on_sync: Box<dyn Fn(Duration) + Send>,
}

/// The segment that is written.
#[derive(Debug)]
pub(super) struct Current<F: Files> {
    pub(super) number: u64,
    pub(super) file: F::File,
    pub(super) seen: Seen,
    /// Where the next record begins.
    pub(super) position: u64,
    /// Its length, in bytes.
    pub(super) bytes: u64,
    /// Whether it has its space on the disk already.
    pub(super) is_allocated: bool,
    /// The sources that have a record in it, with their numbers.
    pub(super) sources: HashMap<Arc<Source>, u32>,
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
    /// Opens the journal, made where there is none. Reads the headers of all records, and the payloads of the last segment.
    ///
    /// # Errors
    /// Where another process has it, the directory is not safe, or the file system fails. Damage is no error.
    pub fn open(files: F, options: Options) -> Result<Self, OpenError> {
        let place = Place::take(&files, &options.directory)?;
        let mut journal = Self {
            files,
            options,
            place,
            gone: None,
            lost: Vec::new(),
            lost_records: 0,
            appended_at: None,
            id: JournalId::default(),
            index: Index::default(),
            current: None,
            next_number: 1,
            previous: 0,
            next_sequence: 1,
            quarantined_ever: 0,
            quarantined: BTreeMap::new(),
            torn_tails: 0,
            reading: None,
            buffer: Vec::new(),
            on_sync: Box::new(|_| {}),
        };
        journal.load()?;
        Ok(journal)
    }

    /// Reads what is in the directory. Of what this process has acknowledged itself, only that is a record.
    fn load(&mut self) -> Result<(), OpenError> {
        let directory = self.options.directory.clone();
        let listing = Listing::read(&self.files, &directory)?;
        let identity = directory::identity(&self.files, &directory, &listing)?;
        let id = match identity {
            Identity::Known(id) | Identity::Recovered(id) => id,
            Identity::None => directory::random_id(&directory)?,
        };
        let mut loaded = load(&self.files, &directory, &id, &listing, Unopened::IsError)?;
        if !matches!(identity, Identity::Known(_)) {
            if !listing.segments.is_empty() {
                let what = DamageKind::JournalFile;
                loaded.index.report(Damage { segment: 0, from: 0, until: HEADER_BYTES, what });
            }
            directory::write_identity(&self.files, &directory, &id)?;
        }
        // One that cannot be opened now counts when it can.
        let length = |number: &u64| {
            self.files.length(&self.files.open(&quarantine_path(&directory, *number), Access::Read).ok()?).ok()
        };
        let quarantined: BTreeMap<u64, u64> =
            listing.quarantined.iter().map(|number| (*number, length(number).unwrap_or(0))).collect();
        let before = std::mem::take(&mut self.index);
        if self.id == id {
            for (number, segment) in &mut loaded.index.segments {
                let Some(known) = before.segments.get(number) else { continue };
                // What was written after a failure is not known to be durable, and its file is not synced again.
                segment.fenced = known.fenced;
                segment.keep(|record| before.record(*number, record.position).is_some_and(|known| known.is(record)));
            }
            // The last acknowledged segment may be missing: the next opening is to see that.
            self.previous = self.previous.max(loaded.last);
            self.next_sequence = self.next_sequence.max(loaded.next_sequence);
        } else {
            (self.previous, self.next_sequence) = (loaded.last, loaded.next_sequence);
        }
        let used = listing.segments.iter().chain(&listing.quarantined).max().copied().unwrap_or(0);
        // Never one that this process has used: a record that somebody still knows must not be another one.
        self.next_number = self.next_number.max(used + 1);
        self.quarantined_ever = self.quarantined_ever.max(quarantined.len() as u64);
        self.quarantined = quarantined;
        self.torn_tails += loaded.torn_tails;
        self.id = id;
        self.tidy(&mut loaded);
        self.index = loaded.index;
        let is_there =
            |record: &&Record| self.index.record(record.segment, record.position).is_some_and(|known| known.is(record));
        let missing = before.records().filter(|record| !is_there(record)).map(Record::interval).collect();
        self.lose(missing);
        // What was changed here is known.
        self.place.renew(&self.files, &directory).or_else(|lost| match lost {
            Lost::Gone(_) => Ok(()),
            Lost::Unknown(source) => Err(directory::failed(&self.files, "look at", &directory, source)),
        })
    }

    fn lose(&mut self, mut intervals: Vec<Interval>) {
        self.lost_records += intervals.len() as u64;
        self.lost.append(&mut intervals);
    }

    /// Opens the directory again, because what was written there is not there any more. It is made if it is missing. What is
    /// lost is returned by [`Journal::take_lost`].
    pub(super) fn open_again(&mut self, what: String) -> Result<(), AppendError> {
        let directory = self.options.directory.clone();
        if self.gone.is_none() {
            tracing::error!(directory = %directory.display(), what, "the journal has lost files; opening it again");
        }
        self.current = None;
        self.reading = None;
        let before = self.lost_records;
        let opened = match self.place.has_lock(&self.files, &directory) {
            Ok(true) => Ok(()),
            _ => Place::take(&self.files, &directory).map(|place| self.place = place),
        };
        match opened.and_then(|()| self.load()) {
            Ok(()) => {
                self.gone = None;
                let (kept, lost) = (self.index.records().count(), self.lost_records - before);
                tracing::warn!(
                    directory = %directory.display(),
                    kept,
                    lost,
                    "the journal is open again; what it has lost and the database lacks is read from Kafka again"
                );
                Ok(())
            }
            Err(failure) => {
                if self.place.is_elsewhere(&self.files, &directory) {
                    let missing = self.index.records().map(Record::interval).collect();
                    self.index = Index::default();
                    self.lose(missing);
                }
                self.gone = Some(what.clone());
                Err(AppendError::Lost { what, why: failure.to_string() })
            }
        }
    }

    /// Looks whether all that was acknowledged can be found again, and whether an append would be: for the times in which
    /// nothing is appended. What is missing is recreated if that is possible.
    ///
    /// # Errors
    /// Those of an append.
    pub fn probe(&mut self) -> Result<(), AppendError> {
        if let Some(what) = self.gone.clone() {
            self.open_again(what)?;
        }
        let again = match self.try_probe() {
            Err(Stop::Gone(what)) => {
                self.open_again(what)?;
                self.try_probe()
            }
            // An append tries twice as well.
            Err(Stop::Io(_)) => self.try_probe(),
            result => result,
        };
        again.map_err(Stop::into_error)
    }

    fn try_probe(&mut self) -> Result<(), Stop> {
        let directory = &self.options.directory;
        self.place.check(&self.files, directory, &self.index, self.current.as_ref())?;
        check_lengths(&self.files, directory, &self.index)?;
        if self.current.is_none() {
            // What the journal itself takes is free again when it is drained.
            check_volume(&self.files, directory, &self.options, self.used_bytes())?;
        }
        if self.appended_at.is_none_or(|at| at.elapsed() >= FRESH) {
            directory::probe(&self.files, directory).map_err(|error| match is_out_of_space(&error) {
                true => self.disk_is_full(HEADER_BYTES),
                false => error.into(),
            })?;
        }
        Ok(())
    }

    /// What is known against the kind of its file system.
    pub fn doubts(&self) -> Option<String> {
        doubts(&self.files, &self.options.directory)
    }

    /// The intervals of records that were acknowledged and are not there any more, each once.
    pub fn take_lost(&mut self) -> Vec<Interval> {
        std::mem::take(&mut self.lost)
    }

    /// Takes away what is not needed, and makes durable what the last process has written but perhaps not synced, because
    /// from now on it counts as a record. A failure does no harm: what was acknowledged is durable, and no cut-off byte is
    /// ever believed. So a disk that fails here does not keep the worker from its Kafka and its database.
    fn tidy(&self, loaded: &mut Loaded) {
        for number in &loaded.strays {
            if let Err(error) = self.files.unlink(&segment_path(&self.options.directory, *number)) {
                tracing::warn!(segment = number, %error, "an unused segment stays in the journal");
            }
        }
        let last = loaded.index.segments.keys().next_back().copied();
        for (number, segment) in &mut loaded.index.segments {
            let (cut, is_last) = (loaded.cuts.get(number).copied(), Some(*number) == last);
            if (cut.is_none() && !is_last) || segment.fenced {
                continue;
            }
            let mut settle = || {
                let file = self.files.open(&segment_path(&self.options.directory, *number), Access::Write)?;
                if let Some(length) = cut {
                    self.files.truncate(&file, length)?;
                    segment.bytes = length;
                }
                if is_last { self.files.sync_data(&file) } else { Ok(()) }
            };
            if let Err(error) = settle() {
                tracing::warn!(segment = number, %error, "the end of a segment was not put in order");
                segment.fenced = true;
            }
        }
    }

    /// The records, the oldest first.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.index.records()
    }

    /// The messages of a record of this journal.
    ///
    /// # Errors
    /// Where the record is damaged: it is then listed in [`Journal::damage`] and no longer in [`Journal::records`]. Where
    /// its file cannot be opened now, the record stays.
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

    /// Takes a segment away whose records are no longer needed; a damaged one is kept under another name, to be examined, until
    /// its space is needed. They go in the order of their numbers, so that a missing number always means damage: one that is not the
    /// oldest gives up its records at once, and its file when all older ones have gone. If the process ends before, it is
    /// there again. A number that the journal does not have is no error.
    ///
    /// # Errors
    /// Those of the file system. The segment then stays, or comes back after a crash: ask again.
    pub fn remove_segment(&mut self, number: u64) -> io::Result<()> {
        if self.gone.is_some() {
            // What is in the directory now may be another process's.
            return Ok(());
        }
        if self.current.as_ref().is_some_and(|current| current.number == number) {
            self.seal();
        }
        match self.index.segments.get_mut(&number) {
            Some(segment) => segment.leaving = true,
            None => return Ok(()),
        }
        while let Some((oldest, segment)) = self.index.segments.first_key_value()
            && segment.leaving
        {
            let oldest = *oldest;
            self.take_away(oldest)?;
        }
        Ok(())
    }

    fn take_away(&mut self, number: u64) -> io::Result<()> {
        let directory = &self.options.directory;
        let path = segment_path(directory, number);
        let is_damaged = self.index.is_damaged(number);
        let result = match is_damaged {
            true => self.files.rename(&path, &quarantine_path(directory, number)),
            false => self.files.unlink(&path),
        };
        match &result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return result,
            _ => {}
        }
        if self.reading.as_ref().is_some_and(|(reading, _)| *reading == number) {
            self.reading = None;
        }
        let bytes = self.index.segments.get(&number).map_or(0, |segment| segment.bytes);
        if is_damaged && result.is_ok() {
            self.quarantined.insert(number, bytes);
            self.quarantined_ever += 1;
        }
        self.index.forget(number);
        // Before the next one goes: after a crash no older segment may be back while a younger one is missing.
        self.files.sync_directory(directory)
    }

    /// What all its segments take on the disk, in bytes.
    pub(super) fn used_bytes(&self) -> u64 {
        self.index.bytes() + self.quarantined.values().sum::<u64>()
    }

    /// Deletes the oldest segment in quarantine, if there is one.
    pub(super) fn delete_quarantined(&mut self) -> bool {
        let Some((number, bytes)) = self.quarantined.pop_first() else { return false };
        match self.files.unlink(&quarantine_path(&self.options.directory, number)) {
            Ok(()) => {
                tracing::warn!(segment = number, bytes, "a segment in quarantine was deleted, its space is needed")
            }
            Err(error) => tracing::warn!(segment = number, %error, "a segment in quarantine was not deleted"),
        }
        true
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

/// Whether the volume at a place has room for a segment, if so many bytes that are used now were free.
pub(super) fn check_volume<F: Files>(files: &F, place: &Path, options: &Options, used_bytes: u64) -> Result<(), Stop> {
    let free_bytes = files.free_bytes(place)?.saturating_add(used_bytes);
    let needed_bytes = options.segment_bytes.saturating_add(options.min_free_bytes);
    if free_bytes < needed_bytes {
        return Err(Stop::Full(AppendError::NoRoom { free_bytes, needed_bytes }));
    }
    Ok(())
}

/// The messages at the record's place, where they are the record's.
pub(super) fn read_record<F: Files>(reader: &mut Reader<'_, F>, record: &Record) -> Result<MessageSet, DamageKind> {
    let set = (|| {
        let found = reader.record(record.position).filter(|found| found.header.sequence == record.sequence)?;
        let set = decode(&found.header, &reader.payload(&found)?)?;
        (set.interval() == record.interval()).then_some(set)
    })();
    set.ok_or(if reader.unreadable { DamageKind::Unreadable } else { DamageKind::Payload })
}
