//! Appending: the writes and one fdatasync for each segment that is touched, and what follows when one of them fails.

use std::collections::HashMap;
use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::directory::segment_path;
use super::error::{AppendError, Limit};
use super::files::Files;
use super::format::{HEADER, HEADER_BYTES, MAX_SEQUENCE, RecordHeader, RecordKind, SegmentHeader, salt};
use super::index::{Record, Segment};
use super::journal::{Current, Journal};
use super::payload::{Encoded, Encoder, NO_TIME, runs};
use super::place::{Lost, is_gone};
use super::planted::{self, Bug};
use crate::raw::MessageSet;

/// So many segments may fail, one after the other, before an append gives up.
const ATTEMPTS: u32 = 2;

/// Smaller records are gathered up to so many bytes for one write; the tests' records are small.
const BUFFER_BYTES: usize = if cfg!(test) { 1 << 10 } else { 256 << 10 };

/// What stops a write.
#[derive(Debug)]
pub(super) enum Stop {
    /// There is no room.
    Full(AppendError),
    /// What was written before is not there any more.
    Gone(String),
    /// The file system said no.
    Io(io::Error),
}

impl From<io::Error> for Stop {
    /// Names are asked for only of what this process has made.
    fn from(error: io::Error) -> Self {
        if is_gone(&error) {
            Self::Gone(format!("a file or its directory is not there any more ({error})"))
        } else {
            Self::Io(error)
        }
    }
}

impl From<Lost> for Stop {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Gone(what) => Self::Gone(what),
            Lost::Unknown(error) => Self::Io(error),
        }
    }
}

impl Stop {
    /// What a caller gets who does not try again.
    pub(super) fn into_error(self) -> AppendError {
        match self {
            Self::Full(full) => full,
            Self::Gone(what) => AppendError::Unavailable(io::Error::new(io::ErrorKind::NotFound, what)),
            Self::Io(error) => AppendError::Unavailable(error),
        }
    }
}

impl<F: Files> Journal<F> {
    /// Appends the sets. Sets of one partition stay in their order, and neighbours among them become one record; sets that
    /// cover no position are left out. `Ok` means that all are durable.
    ///
    /// # Errors
    /// [`AppendError`]: none of the sets is acknowledged, though some may be in the journal.
    pub fn append(&mut self, sets: &[MessageSet]) -> Result<(), AppendError> {
        let mut encoder = Encoder::new().map_err(AppendError::Unavailable)?;
        let encoded: io::Result<Vec<Encoded>> =
            runs(sets.iter().cloned()).iter().map(|run| encoder.encode(run, Vec::new())).collect();
        self.append_encoded(&mut encoded.map_err(AppendError::Unavailable)?)
    }

    /// The same for what is encoded already.
    pub(super) fn append_encoded(&mut self, encoded: &mut [Encoded]) -> Result<(), AppendError> {
        // One for each set and one for its source.
        let sequences = 2 * encoded.len() as u64;
        if self.next_sequence.saturating_add(sequences) > MAX_SEQUENCE {
            let what = "the journal's sequence numbers have run out: move its directory away, when it is drained";
            return Err(AppendError::Unavailable(io::Error::other(what)));
        }
        if let Some(what) = self.gone.clone() {
            self.open_again(what)?;
        }
        let mut written = 0;
        let mut failures = 0;
        while written < encoded.len() {
            let room = if written == 0 { self.check_room(self.needed(encoded)) } else { Ok(()) };
            match room.and_then(|()| self.write_some(&mut encoded[written..])) {
                Ok(more) => {
                    written += more;
                    failures = 0;
                }
                Err(Stop::Full(_)) if written == 0 && planted::is_on(Bug::DropWhenFull) => return Ok(()),
                Err(Stop::Full(full)) => return Err(full),
                Err(stop) => {
                    failures += 1;
                    if failures == ATTEMPTS {
                        return Err(stop.into_error());
                    }
                    match stop {
                        Stop::Gone(what) => {
                            self.open_again(what)?;
                            // What was written before it was noticed may be lost as well.
                            written = 0;
                        }
                        stop => {
                            let error = stop.into_error();
                            tracing::warn!(%error, "the journal goes on in a new segment");
                        }
                    }
                }
            }
        }
        self.appended_at = Some(Instant::now());
        Ok(())
    }

    /// The length of a segment that begins with this set.
    fn segment_bytes(&self, first: &Encoded) -> u64 {
        self.options.segment_bytes.max(HEADER_BYTES + first.source_bytes() + first.record_bytes())
    }

    /// What the new segments for these sets will take, in bytes.
    fn needed(&self, encoded: &[Encoded]) -> u64 {
        let (mut left, mut known) = match &self.current {
            Some(current) => (current.bytes - current.position, current.sources.keys().collect()),
            None => (0, HashSet::new()),
        };
        let mut needed = 0;
        for next in encoded {
            let with_source = |is_known: bool| next.record_bytes() + if is_known { 0 } else { next.source_bytes() };
            if with_source(known.contains(&next.source)) > left {
                let bytes = self.segment_bytes(next);
                needed += bytes;
                left = bytes - HEADER_BYTES;
                known.clear();
            }
            left -= with_source(!known.insert(&next.source));
        }
        needed
    }

    /// Whether there is room for new segments of so many bytes; segments in quarantine make room, the oldest first.
    fn check_room(&mut self, needed_bytes: u64) -> Result<(), Stop> {
        let is_reserved = self.current.as_ref().is_none_or(|current| current.is_allocated);
        if needed_bytes == 0 && is_reserved {
            return Ok(());
        }
        loop {
            let used_bytes = self.used_bytes();
            let free = || self.files.free_bytes(&self.options.directory);
            let limit = if needed_bytes > 0 && used_bytes.saturating_add(needed_bytes) > self.options.max_bytes {
                Limit::MaxBytes
            } else if free()? < needed_bytes.saturating_add(self.options.min_free_bytes) {
                Limit::MinFreeBytes
            } else {
                return Ok(());
            };
            if !self.delete_quarantined() {
                return Err(Stop::Full(AppendError::Full { limit, used_bytes, needed_bytes }));
            }
        }
    }

    /// Writes as many sets as go into one segment, durably, and gives their number.
    fn write_some(&mut self, encoded: &mut [Encoded]) -> Result<usize, Stop> {
        let Some(first) = encoded.first() else { return Ok(0) };
        let mut current = match self.current.take() {
            Some(current) if fits(&current, first) => current,
            other => {
                self.current = other;
                self.seal();
                self.make_segment(self.segment_bytes(first))?
            }
        };
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let result = self.write_records(&mut current, encoded, &mut buffer);
        self.buffer = buffer;
        let result = result.and_then(|written| self.sync(&current.file).map(|()| written)).map_err(Stop::Io);
        // What nobody finds again is not durable.
        let result = result.and_then(|written| {
            if !planted::is_on(Bug::NotFoundAgain) {
                self.place.check(&self.files, &self.options.directory, &self.index, Some(&current))?;
            }
            Ok(written)
        });
        match result {
            Ok((records, next_sequence)) => {
                let written = records.len();
                self.previous = current.number;
                self.next_sequence = next_sequence;
                if let Some(segment) = self.index.segments.get_mut(&current.number) {
                    segment.add(records);
                }
                self.current = Some(current);
                Ok(written)
            }
            Err(Stop::Io(error)) => {
                self.fence(current.number, &error);
                Err(Stop::Io(error))
            }
            Err(stop) => Err(stop),
        }
    }

    /// Writes records of the sets while they fit into the segment. Gives the records, and the sequence number behind them.
    fn write_records(
        &self,
        current: &mut Current<F>,
        encoded: &mut [Encoded],
        buffer: &mut Vec<u8>,
    ) -> io::Result<(Vec<Record>, u64)> {
        let mut sequence = self.next_sequence;
        let mut records = Vec::new();
        for next in encoded {
            if !fits(current, next) {
                break;
            }
            let source = match current.sources.get(&next.source) {
                Some(number) => *number,
                None => {
                    let number = current.sources.len() as u32 + 1;
                    current.sources.insert(Arc::clone(&next.source), number);
                    let payload = &next.source_payload;
                    let header = RecordHeader {
                        kind: RecordKind::Source,
                        flags: 0,
                        sequence,
                        from: 0,
                        until: 0,
                        source: number,
                        partition: 0,
                        messages: 0,
                        uncompressed_bytes: next.source_payload.len() as u32,
                        oldest_ms: NO_TIME,
                        payload_bytes: payload.len() as u32,
                        payload_crc: crc32c::crc32c(payload),
                    };
                    let mut record = vec![0; header.record_bytes() as usize];
                    record[HEADER..HEADER + payload.len()].copy_from_slice(payload);
                    self.write(current, header, &mut record, buffer)?;
                    sequence += 1;
                    number
                }
            };
            let header = RecordHeader {
                kind: RecordKind::Messages,
                flags: next.flags,
                sequence,
                from: next.from,
                until: next.until,
                source,
                partition: next.partition,
                messages: next.messages,
                uncompressed_bytes: next.uncompressed_bytes,
                oldest_ms: next.oldest_ms,
                payload_bytes: next.payload_bytes,
                payload_crc: next.payload_crc,
            };
            let position = current.position;
            let header = self.write(current, header, &mut next.record, buffer)?;
            records.push(Record::new(Arc::clone(&next.source), current.number, position, &header));
            sequence += 1;
        }
        self.flush(current, buffer)?;
        Ok((records, sequence))
    }

    /// Writes a record at the segment's position, small ones through the buffer. The header comes with the checksum of its
    /// payload alone, and is put into the record with that of this place, which it is given back with.
    fn write(
        &self,
        current: &mut Current<F>,
        header: RecordHeader,
        record: &mut [u8],
        buffer: &mut Vec<u8>,
    ) -> io::Result<RecordHeader> {
        let salt = salt(&self.id, current.number, current.position);
        let header = RecordHeader { payload_crc: header.payload_crc ^ salt, ..header };
        record[..HEADER].copy_from_slice(&header.encode(salt));
        if buffer.len() + record.len() > BUFFER_BYTES {
            self.flush(current, buffer)?;
        }
        if record.len() > BUFFER_BYTES {
            self.files.write_at(&current.file, record, current.position)?;
        } else {
            buffer.extend_from_slice(record);
        }
        current.position += record.len() as u64;
        Ok(header)
    }

    /// Writes what is in the buffer, which ends at the segment's position.
    fn flush(&self, current: &Current<F>, buffer: &mut Vec<u8>) -> io::Result<()> {
        if !buffer.is_empty() {
            self.files.write_at(&current.file, buffer, current.position - buffer.len() as u64)?;
            buffer.clear();
        }
        Ok(())
    }

    /// Makes durable what was written.
    fn sync(&self, file: &F::File) -> io::Result<()> {
        if planted::is_on(Bug::NoSync) {
            return Ok(());
        }
        let start = Instant::now();
        let result = self.files.sync_data(file);
        (self.on_sync)(start.elapsed());
        if result.is_err() && planted::is_on(Bug::SyncRetried) {
            return self.files.sync_data(file);
        }
        result
    }

    /// Makes the segment that is written from now on, whole and durable before it has any record: what the disk has no room
    /// for shows here.
    fn make_segment(&mut self, bytes: u64) -> Result<Current<F>, Stop> {
        self.check_room(bytes)?;
        let number = self.next_number;
        let path = segment_path(&self.options.directory, number);
        let header = SegmentHeader { number, previous: self.previous, first_sequence: self.next_sequence, id: self.id };
        // Even where it fails: a file of that name may be left.
        self.next_number += 1;
        let make = || {
            let file = self.files.create(&path)?;
            let is_allocated = match self.files.allocate(&file, bytes) {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::Unsupported => false,
                Err(error) => return Err(error),
            };
            self.files.write_at(&file, &header.encode(), 0)?;
            self.files.sync_data(&file)?;
            if !planted::is_on(Bug::NoDirectorySync) {
                self.files.sync_directory(&self.options.directory)?;
            }
            let seen = self.files.look_at(&file)?;
            Ok((file, seen, is_allocated))
        };
        let (file, seen, is_allocated) = match make() {
            Ok(made) => made,
            Err(error) => {
                // It may not be there. If it stays, the next opening knows it for a stray: no segment names it.
                let _ = self.files.unlink(&path);
                if !is_out_of_space(&error) {
                    return Err(error.into());
                }
                return if self.delete_quarantined() {
                    self.make_segment(bytes)
                } else {
                    Err(self.disk_is_full(bytes))
                };
            }
        };
        self.index.segments.insert(number, Segment { bytes, ..Segment::default() });
        Ok(Current { number, file, seen, position: HEADER_BYTES, bytes, is_allocated, sources: HashMap::new() })
    }

    pub(super) fn disk_is_full(&self, needed_bytes: u64) -> Stop {
        Stop::Full(AppendError::Full { limit: Limit::Disk, used_bytes: self.used_bytes(), needed_bytes })
    }

    /// Ends the segment that is written, and gives back the space that it does not use.
    pub(super) fn seal(&mut self) {
        let Some(current) = self.current.take() else { return };
        if self.drop_unused(current.number) {
            return;
        }
        let Some(segment) = self.index.segments.get_mut(&current.number) else { return };
        segment.sealed = true;
        if !current.is_allocated {
            segment.bytes = current.position;
        } else if current.position < current.bytes {
            // Not synced: after a crash the zeros are there again, and cut off again.
            match self.files.truncate(&current.file, current.position) {
                Ok(()) => segment.bytes = current.position,
                Err(error) => tracing::warn!(segment = current.number, %error, "a segment keeps its unused space"),
            }
        }
    }

    /// Ends a segment whose write or fdatasync failed. Nobody knows what of that write is on the disk, and a second fdatasync
    /// would say that all is: so there is none, and no other write either. What was acknowledged in it stays readable.
    fn fence(&mut self, number: u64, error: &io::Error) {
        tracing::warn!(segment = number, %error, "writing to a segment failed, it is not written any more");
        if self.drop_unused(number) {
            return;
        }
        if let Some(segment) = self.index.segments.get_mut(&number) {
            segment.sealed = true;
            segment.fenced = true;
        }
    }

    /// Takes away a segment in which nothing was acknowledged: a disk that fails for hours must not fill with them. No other
    /// segment will name it as the one before, so nobody will miss it.
    fn drop_unused(&mut self, number: u64) -> bool {
        let is_unused = self.previous != number;
        let has_gone = is_unused && self.files.unlink(&segment_path(&self.options.directory, number)).is_ok();
        if has_gone {
            self.index.forget(number);
        }
        has_gone
    }
}

pub(super) fn is_out_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether the set's record fits into the segment, with its source's where that is not there yet.
fn fits<F: Files>(current: &Current<F>, next: &Encoded) -> bool {
    let source = if current.sources.contains_key(&next.source) { 0 } else { next.source_bytes() };
    current.position + source + next.record_bytes() <= current.bytes
}
