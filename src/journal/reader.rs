//! Reading one segment file: headers, payloads, and the search for the next record after a damaged place.

use super::files::Files;
use super::format::{ALIGNMENT, HEADER_BYTES, HeaderBytes, JournalId, RecordHeader, SegmentHeader, salt};

/// Minimum unit that a disk writes as a whole, in bytes.
const SECTOR: u64 = 512;
/// Size of a read, in bytes.
const WINDOW: usize = 64 * 1024;
/// Number of bytes given up around a place that the disk cannot read.
const PAGE: usize = 4096;

/// A record's header and its position.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) position: u64,
    pub(super) header: RecordHeader,
}

impl Found {
    /// The position after the record.
    pub(super) fn end(&self) -> u64 {
        self.position + self.header.record_bytes()
    }
}

/// The state of a record's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// It is what was written.
    Good,
    /// Not all of it was written: a sector is still as it was allocated, or lies after the file's end.
    Torn,
    /// It is damaged in another way.
    Bad,
}

/// The result of a search.
#[derive(Debug, Clone, Copy)]
pub(super) struct Search {
    /// The next record.
    pub(super) next: Option<Found>,
    /// The position after the last byte before it that is not zero, a multiple of [`ALIGNMENT`].
    pub(super) content_end: u64,
}

/// A segment's file.
#[derive(Debug)]
pub(super) struct Reader<'a, F: Files> {
    files: &'a F,
    file: &'a F::File,
    id: &'a JournalId,
    number: u64,
    length: u64,
    /// A place that the disk could not read.
    pub(super) unreadable: bool,
    /// The position of the bytes read ahead, and these bytes.
    window: (u64, Vec<u8>),
    window_bytes: usize,
}

impl<'a, F: Files> Reader<'a, F> {
    pub(super) fn new(files: &'a F, file: &'a F::File, id: &'a JournalId, number: u64, length: u64) -> Self {
        Self { files, file, id, number, length, unreadable: false, window: (0, Vec::new()), window_bytes: WINDOW }
    }

    /// Sets the size of a read.
    pub(super) fn with_window(mut self, bytes: usize) -> Self {
        self.window_bytes = bytes;
        self
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Fills `buffer`. Bytes that the disk cannot read, or the file does not have, are zero, which is not a record.
    fn read_into(&mut self, buffer: &mut [u8], position: u64) {
        if let Ok(read) = self.files.read_at(self.file, buffer, position) {
            buffer[read..].fill(0);
            return;
        }
        self.unreadable = true;
        for (index, page) in buffer.chunks_mut(PAGE).enumerate() {
            let read = self.files.read_at(self.file, page, position + (index * PAGE) as u64).unwrap_or(0);
            page[read..].fill(0);
        }
    }

    /// Moves the window to `position`; it then has up to `window_bytes` bytes, and none after the file's end.
    fn move_window(&mut self, position: u64) {
        let bytes = usize::try_from(self.length.saturating_sub(position)).unwrap_or(usize::MAX).min(self.window_bytes);
        let mut window = std::mem::take(&mut self.window.1);
        window.resize(bytes, 0);
        self.read_into(&mut window, position);
        self.window = (position, window);
    }

    /// Returns `true` if the file has all bytes of a header there: a partial header is not valid, whatever the missing bytes
    /// were.
    fn has_header(&self, position: u64) -> bool {
        self.length.saturating_sub(position) >= HEADER_BYTES
    }

    fn header_bytes(&mut self, position: u64) -> HeaderBytes {
        let mut bytes = [0; HEADER_BYTES as usize];
        self.read_into(&mut bytes, position);
        bytes
    }

    /// The segment's header, and `true` if there never was one: it is zero, or the file too short for it.
    pub(super) fn segment_header(&mut self) -> (Option<SegmentHeader>, bool) {
        let bytes = self.header_bytes(0);
        let is_ours = |h: &SegmentHeader| self.has_header(0) && h.number == self.number && h.id == *self.id;
        let header = SegmentHeader::decode(&bytes).filter(is_ours);
        (header, !self.has_header(0) || bytes.iter().all(|byte| *byte == 0))
    }

    fn decode(&self, bytes: &HeaderBytes, position: u64) -> Option<Found> {
        let header = RecordHeader::decode(bytes, || salt(self.id, self.number, position))?;
        Some(Found { position, header })
    }

    /// The record at `position`; only its header is read, and it may extend beyond the file's end.
    pub(super) fn record(&mut self, position: u64) -> Option<Found> {
        if !self.has_header(position) {
            return None;
        }
        let bytes = self.header_bytes(position);
        self.decode(&bytes, position)
    }

    /// The same through the window, for sequential reading.
    pub(super) fn record_in_window(&mut self, position: u64) -> Option<Found> {
        if !self.has_header(position) {
            return None;
        }
        let mut bytes = [0; HEADER_BYTES as usize];
        let mut filled = 0;
        self.pieces(position, position + HEADER_BYTES, |_, piece| {
            bytes[filled..filled + piece.len()].copy_from_slice(piece);
            filled += piece.len();
        });
        self.decode(&bytes, position)
    }

    /// Returns `true` if the record ends inside the file.
    pub(super) fn is_whole(&self, found: &Found) -> bool {
        found.end() <= self.length
    }

    /// Returns `true` if the header of a record at `position` was never written completely: a sector's share of it is zero, or
    /// it lies after the file's end.
    pub(super) fn is_torn_header(&mut self, position: u64) -> bool {
        if !self.has_header(position) {
            return true;
        }
        let bytes = self.header_bytes(position);
        let in_first = usize::try_from(SECTOR - position % SECTOR).unwrap_or(usize::MAX).min(bytes.len());
        let is_zero = |part: &[u8]| !part.is_empty() && part.iter().all(|byte| *byte == 0);
        is_zero(&bytes[..in_first]) || is_zero(&bytes[in_first..])
    }

    /// Searches for the next whole record at or after `from`, with a sequence number above `after`.
    pub(super) fn search(&mut self, from: u64, after: u64) -> Search {
        let header = HEADER_BYTES as usize;
        let mut content_end = from;
        let mut position = from;
        while position < self.length {
            self.move_window(position);
            let window = &self.window.1;
            // Headers that the window cuts off are checked in the next one.
            let is_last = position + window.len() as u64 >= self.length;
            let starts = if is_last { window.len() } else { window.len() - header };
            for at in (0..starts).step_by(ALIGNMENT as usize) {
                let here = position + at as u64;
                if let Some(bytes) = window.get(at..at + header).and_then(|bytes| bytes.try_into().ok())
                    && let Some(found) = self.decode(bytes, here)
                    && self.is_whole(&found)
                    && found.header.sequence > after
                {
                    return Search { next: Some(found), content_end };
                }
                if window[at..window.len().min(at + ALIGNMENT as usize)].iter().any(|byte| *byte != 0) {
                    content_end = here + ALIGNMENT;
                }
            }
            position += starts as u64;
        }
        Search { next: None, content_end }
    }

    /// Calls `f` with the bytes of `[from, until)`, piece by piece, through the window.
    fn pieces(&mut self, from: u64, until: u64, mut f: impl FnMut(u64, &[u8])) {
        let mut position = from;
        while position < until {
            let (start, window) = (self.window.0, &self.window.1);
            if position < start || position >= start + window.len() as u64 {
                self.move_window(position);
                if self.window.1.is_empty() {
                    return;
                }
                continue;
            }
            let at = (position - start) as usize;
            let end = window.len().min(at + usize::try_from(until - position).unwrap_or(usize::MAX));
            f(position, &window[at..end]);
            position += (end - at) as u64;
        }
    }

    /// Compares the payload with its checksum, in constant memory.
    pub(super) fn check(&mut self, found: &Found) -> Body {
        let from = found.position + HEADER_BYTES;
        let until = from + u64::from(found.header.payload_bytes);
        let mut crc = 0;
        // One sector's share of the payload after the other: `is_written` if a byte of it is not zero.
        let (mut sector, mut is_written, mut torn) = (from / SECTOR, false, until > self.length);
        self.pieces(from, until, |position, piece| {
            crc = crc32c::crc32c_append(crc, piece);
            let mut at = position;
            while at < position + piece.len() as u64 {
                if at / SECTOR != sector {
                    torn |= !is_written;
                    (sector, is_written) = (at / SECTOR, false);
                }
                let end = ((sector + 1) * SECTOR).min(position + piece.len() as u64);
                is_written |= piece[(at - position) as usize..(end - position) as usize].iter().any(|byte| *byte != 0);
                at = end;
            }
        });
        torn |= until > from && !is_written;
        let expected = found.header.payload_crc ^ salt(self.id, self.number, found.position);
        match (crc == expected && until <= self.length, torn) {
            (true, _) => Body::Good,
            (false, true) => Body::Torn,
            (false, false) => Body::Bad,
        }
    }

    /// The payload, if it is what was written.
    pub(super) fn payload(&mut self, found: &Found) -> Option<Vec<u8>> {
        if !self.is_whole(found) {
            return None;
        }
        let mut payload = vec![0; usize::try_from(found.header.payload_bytes).ok()?];
        self.read_into(&mut payload, found.position + HEADER_BYTES);
        let crc = crc32c::crc32c(&payload) ^ salt(self.id, self.number, found.position);
        (crc == found.header.payload_crc).then_some(payload)
    }
}
