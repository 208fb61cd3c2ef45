//! Reading a journal without its lock: alongside a running worker, or from the files of a dead host.

use std::io;
use std::path::{Path, PathBuf};

use super::directory::{self, Identity, Listing, segment_path};
use super::error::{Damage, DamageKind, OpenError, ReadError};
use super::files::{Access, Files, RealFiles};
use super::format::{HEADER_BYTES, JournalId};
use super::index::{Index, Record, SegmentInfo};
use super::journal::read_record;
use super::reader::{Body, Reader};
use super::recovery::{Unopened, load};
use crate::raw::MessageSet;

/// Size of a read while verifying, in bytes.
const LARGE_READ: usize = 1 << 20;
/// Maximum number of times that it is loaded if there is damage.
const ATTEMPTS: u32 = 3;

/// A journal as it was when it was opened, read-only and without its lock. Segments that a worker removes meanwhile read as
/// [`ReadError::Gone`].
#[derive(Debug)]
pub struct Inspection<F: Files = RealFiles> {
    files: F,
    directory: PathBuf,
    id: JournalId,
    index: Index,
    quarantined: u64,
    reading: Option<(u64, F::File, u64)>,
}

impl<F: Files> Inspection<F> {
    /// Reads the headers of all records, and the payloads of the last segment.
    ///
    /// # Errors
    /// If the directory or the file `JOURNAL` cannot be opened, or the format is a newer one. Damage is not an error, and a
    /// segment that cannot be opened is damage.
    pub fn open(files: F, directory: &Path) -> Result<Self, OpenError> {
        let mut attempts = 0;
        let (listing, identity, id, mut loaded) = loop {
            attempts += 1;
            let listing = Listing::read(&files, directory)?;
            let identity = directory::identity(&files, directory, &listing)?;
            let id = match identity {
                Identity::Known(id) | Identity::Recovered(id) => id,
                Identity::None => JournalId::default(),
            };
            let loaded = load(&files, directory, &id, &listing, Unopened::IsDamage)?;
            // A worker that is writing or removing segments leaves the same traces.
            if attempts == ATTEMPTS || loaded.index.damage.is_empty() {
                break (listing, identity, id, loaded);
            }
        };
        if !matches!(identity, Identity::Known(_)) && !listing.segments.is_empty() {
            let what = DamageKind::JournalFile;
            loaded.index.report(Damage { segment: 0, from: 0, until: HEADER_BYTES, what });
        }
        let quarantined = listing.quarantined.len() as u64;
        Ok(Self { files, directory: directory.to_owned(), id, index: loaded.index, quarantined, reading: None })
    }

    /// The records, the oldest first.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.index.records()
    }

    /// The segments, the oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.index.segments()
    }

    /// The known damage.
    pub fn damage(&self) -> &[Damage] {
        &self.index.damage
    }

    /// The number of segments in quarantine.
    pub fn quarantined(&self) -> u64 {
        self.quarantined
    }

    /// The bytes that [`Inspection::verify`] will read.
    pub fn bytes(&self) -> u64 {
        self.records().map(|record| record.bytes()).sum()
    }

    /// The messages of a record.
    ///
    /// # Errors
    /// If the record is damaged, or its segment was removed meanwhile.
    pub fn read(&mut self, record: &Record) -> Result<MessageSet, ReadError> {
        let (segment, position) = (record.segment, record.position);
        if self.reading.as_ref().is_none_or(|(number, ..)| *number != segment) {
            self.reading = None;
            let open = || {
                let file = self.files.open(&segment_path(&self.directory, segment), Access::Read)?;
                let length = self.files.length(&file)?;
                Ok((segment, file, length))
            };
            self.reading = Some(open().map_err(|source: io::Error| match source.kind() {
                io::ErrorKind::NotFound => ReadError::Gone { segment, position },
                _ => ReadError::Io { segment, source },
            })?);
        }
        let Some((_, file, length)) = &self.reading else { return Err(ReadError::Gone { segment, position }) };
        let mut reader = Reader::new(&self.files, file, &self.id, segment, *length);
        read_record(&mut reader, record).map_err(|what| {
            let (from, until) = (position, position + record.bytes());
            ReadError::Damaged(Damage { segment, from, until, what })
        })
    }

    /// Compares all payloads with their checksums, in constant memory, and returns all damage, in the order of segments and
    /// positions. `progress` gets the bytes that were read since its last call.
    pub fn verify(&self, mut progress: impl FnMut(u64)) -> Vec<Damage> {
        let mut damage = self.index.damage.clone();
        for (number, segment) in &self.index.segments {
            let opened = self.files.open(&segment_path(&self.directory, *number), Access::Read);
            let opened = opened.and_then(|file| Ok((self.files.length(&file)?, file)));
            let (length, file) = match opened {
                Ok(opened) => opened,
                // It was removed by the worker.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(_) => {
                    let (from, until, what) = (0, segment.bytes, DamageKind::Unreadable);
                    damage.push(Damage { segment: *number, from, until, what });
                    continue;
                }
            };
            let mut reader = Reader::new(&self.files, &file, &self.id, *number, length).with_window(LARGE_READ);
            for record in &segment.records {
                reader.unreadable = false;
                let body = reader.record_in_window(record.position).map_or(Body::Bad, |found| reader.check(&found));
                if body != Body::Good {
                    let what = if reader.unreadable { DamageKind::Unreadable } else { DamageKind::Payload };
                    let (from, until) = (record.position, record.position + record.bytes());
                    damage.push(Damage { segment: *number, from, until, what });
                }
                progress(record.bytes());
            }
        }
        damage.sort();
        damage.dedup();
        damage
    }
}
