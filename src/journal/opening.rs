//! Opening the journal: when its process starts, and again if files were lost.

use std::collections::BTreeMap;

use super::directory::{self, Identity, Listing, quarantine_path, segment_path};
use super::error::{AppendError, Damage, DamageKind, OpenError};
use super::files::{Access, Files};
use super::format::{HEADER_BYTES, JournalId};
use super::index::{Index, Record};
use super::journal::{Journal, Options};
use super::place::{Lost, Place};
use super::recovery::{Loaded, Unopened, load};
use crate::raw::Interval;

impl<F: Files> Journal<F> {
    /// Opens the journal, which is created if there is none. Reads the headers of all records, and the payloads of the last
    /// segment.
    ///
    /// # Errors
    /// If another process uses it, the directory is not safe, or the file system fails. Damage is not an error.
    pub fn open(files: F, options: Options) -> Result<Self, OpenError> {
        let place = Place::acquire(&files, &options.directory)?;
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

    /// Reads the directory. In segments that this process knows, only records that it has acknowledged are kept.
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
        // One that cannot be opened now is counted when it can.
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
            // The last acknowledged segment may be missing: the next opening must detect that.
            self.previous = self.previous.max(loaded.last);
            self.next_sequence = self.next_sequence.max(loaded.next_sequence);
        } else {
            (self.previous, self.next_sequence) = (loaded.last, loaded.next_sequence);
        }
        let used = listing.segments.iter().chain(&listing.quarantined).max().copied().unwrap_or(0);
        // Never one that this process has used: a known record must not become another one.
        self.next_number = self.next_number.max(used + 1);
        self.quarantined_ever = self.quarantined_ever.max(quarantined.len() as u64);
        self.quarantined = quarantined;
        self.torn_tails += loaded.torn_tails;
        self.id = id;
        self.finish_recovery(&mut loaded);
        self.index = loaded.index;
        let is_there =
            |record: &&Record| self.index.record(record.segment, record.position).is_some_and(|known| known.is(record));
        let missing = before.records().filter(|record| !is_there(record)).map(Record::interval).collect();
        self.lose(missing);
        // The changes made here are known.
        self.place.renew(&self.files, &directory).or_else(|lost| match lost {
            Lost::Gone(_) => Ok(()),
            Lost::Unknown(source) => Err(directory::failed(&self.files, "look at", &directory, source)),
        })
    }

    fn lose(&mut self, mut intervals: Vec<Interval>) {
        self.lost_records += intervals.len() as u64;
        self.lost.append(&mut intervals);
    }

    /// Opens the directory again, because files that were written there are missing. It is created if it is missing. Lost
    /// records are returned by [`Journal::take_lost`].
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
            _ => Place::acquire(&self.files, &directory).map(|place| self.place = place),
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

    /// Removes what is not needed, and makes durable what the last process has written but perhaps not synced, because from
    /// now on it counts as a record. A failure is harmless: acknowledged records are durable, and bytes that should be cut off
    /// are never trusted. So a disk that fails here does not keep the worker from Kafka and the database.
    fn finish_recovery(&self, loaded: &mut Loaded) {
        for number in &loaded.orphans {
            if let Err(error) = self.files.unlink(&segment_path(&self.options.directory, *number)) {
                tracing::warn!(segment = number, %error, "an unused segment stays in the journal");
            }
        }
        let last = loaded.index.segments.keys().next_back().copied();
        for (number, segment) in &mut loaded.index.segments {
            let (cut, is_last) = (loaded.truncations.get(number).copied(), Some(*number) == last);
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
}
