//! Appending: the writes and one fdatasync for each segment that is touched, and what follows when one of them fails.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::current::Current;
use super::error::AppendError;
use super::files::Files;
use super::format::{HEADER, MAX_SEQUENCE, RecordHeader, RecordKind, salt};
use super::index::Record;
use super::journal::Journal;
use super::payload::{Encoded, Encoder, NO_TIME, runs};
use super::planted::{self, Bug};
use super::stop::Stop;
use crate::raw::MessageSet;

/// Maximum number of segments that may fail, one after the other, before an append gives up.
const ATTEMPTS: u32 = 2;

/// Size of the buffer that combines small records into one write, in bytes; smaller in tests, whose records are small.
const BUFFER_BYTES: usize = if cfg!(test) { 1 << 10 } else { 256 << 10 };

impl<F: Files> Journal<F> {
    /// Appends the sets. Sets of one partition stay in their order, and neighbours among them become one record; sets that
    /// cover no position are skipped. `Ok` means that all are durable.
    ///
    /// # Errors
    /// [`AppendError`]: none of the sets is acknowledged, though some may be in the journal.
    pub fn append(&mut self, sets: &[MessageSet]) -> Result<(), AppendError> {
        let mut encoder = Encoder::new().map_err(AppendError::Unavailable)?;
        let encoded: io::Result<Vec<Encoded>> =
            runs(sets.iter().cloned()).iter().map(|run| encoder.encode(run, Vec::new())).collect();
        self.append_encoded(&mut encoded.map_err(AppendError::Unavailable)?)
    }

    /// The same for sets that are already encoded.
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

    /// Writes as many sets as go into one segment, durably, and returns their number.
    fn write_some(&mut self, encoded: &mut [Encoded]) -> Result<usize, Stop> {
        let Some(first) = encoded.first() else { return Ok(0) };
        let mut current = match self.current.take() {
            Some(current) if current.fits(first) => current,
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
        // What is written to files that cannot be found again is not durable.
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

    /// Writes records of the sets while they fit into the segment. Returns the records, and the sequence number after them.
    fn write_records(
        &self,
        current: &mut Current<F>,
        encoded: &mut [Encoded],
        buffer: &mut Vec<u8>,
    ) -> io::Result<(Vec<Record>, u64)> {
        let mut sequence = self.next_sequence;
        let mut records = Vec::new();
        for next in encoded {
            if !current.fits(next) {
                break;
            }
            let source = match current.sources.get(&next.source) {
                Some(number) => *number,
                None => {
                    let number = self.write_source(current, next, sequence, buffer)?;
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

    /// Writes the record of a source that the segment does not have yet. Returns the source's number.
    fn write_source(
        &self,
        current: &mut Current<F>,
        next: &Encoded,
        sequence: u64,
        buffer: &mut Vec<u8>,
    ) -> io::Result<u32> {
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
        Ok(number)
    }

    /// Writes a record at the segment's position, small ones through the buffer. The header comes with the unsalted checksum
    /// of its payload; it is written and returned with the checksum salted for this place.
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
}
