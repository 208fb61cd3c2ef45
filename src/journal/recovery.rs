//! Building the index from the files: which records there are, and exactly what is damaged. Nothing is written here.
//!
//! The sequence numbers decide. A segment's header says the first sequence number that was not acknowledged when the segment
//! was made; what an older segment has from that number on is a remainder of a write that failed, and what it lacks below it
//! is lost. Only the last segment has no successor that says so: there the sectors decide whether a damaged end was torn.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::directory::{Listing, failed, segment_path};
use super::error::{Damage, DamageKind, OpenError};
use super::files::{Access, Files};
use super::format::{HEADER_BYTES, JournalId, RecordKind, SegmentHeader};
use super::index::{Index, Record, Segment};
use super::payload::{decode, decode_source};
use super::reader::{Found, Reader};
use super::scan::{Scan, scan};
use super::tail::classify_tail;
use crate::raw::Source;

/// Maximum number of missing segments that are listed between two existing ones.
const LISTED_MISSING: u64 = 1024;

/// What was found in a directory.
#[derive(Debug, Default)]
pub(in crate::journal) struct Loaded {
    pub(in crate::journal) index: Index,
    /// Files of segments that never had an acknowledged record.
    pub(in crate::journal) orphans: Vec<u64>,
    /// Segments that are longer than their valid part, with its end.
    pub(in crate::journal) truncations: BTreeMap<u64, u64>,
    /// The last segment that may have acknowledged records; 0 for none.
    pub(in crate::journal) last: u64,
    /// The sequence number of the next record.
    pub(in crate::journal) next_sequence: u64,
    /// Number of torn ends.
    pub(in crate::journal) torn_tails: u64,
}

/// How a segment's file that exists and cannot be opened is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::journal) enum Unopened {
    /// As an error: the process that owns the journal must not go on without its content.
    IsError,
    /// As damage: a process that only reads sees the rest.
    IsDamage,
}

/// Loads the directory's segments.
///
/// # Errors
/// If a segment's file cannot be opened, and that is an error.
pub(in crate::journal) fn load<F: Files>(
    files: &F,
    directory: &Path,
    id: &JournalId,
    listing: &Listing,
    unopened: Unopened,
) -> Result<Loaded, OpenError> {
    let (loaded, sources) = (Loaded::default(), HashSet::new());
    let mut load = Load { files, directory, id, loaded, sources, unopened, unopened_segments: BTreeSet::new() };
    let mut headers = load.headers(listing)?;
    load.take_orphans(&mut headers, listing)?;
    load.report_missing(&headers, listing);
    for (index, (number, _)) in headers.iter().enumerate() {
        let next = headers.get(index + 1);
        // Only the direct successor says where this segment ends.
        let limit = next.and_then(|(_, header)| *header).filter(|header| header.previous == *number);
        load.segment(*number, next.is_none(), limit.map(|header| header.first_sequence))?;
    }
    load.loaded.next_sequence = load.loaded.next_sequence.max(1);
    Ok(load.loaded)
}

struct Load<'a, F: Files> {
    files: &'a F,
    directory: &'a Path,
    id: &'a JournalId,
    loaded: Loaded,
    /// All sources, so that records share them.
    sources: HashSet<Arc<Source>>,
    unopened: Unopened,
    unopened_segments: BTreeSet<u64>,
}

type Headers = Vec<(u64, Option<SegmentHeader>)>;

impl<F: Files> Load<'_, F> {
    /// The segment's file; `None` if it was deleted since it was listed, or is given up as damaged.
    fn open(&mut self, number: u64) -> Result<Option<(F::File, u64)>, OpenError> {
        let path = segment_path(self.directory, number);
        let open = || {
            let file = self.files.open(&path, Access::Read)?;
            let length = self.files.length(&file)?;
            Ok((file, length))
        };
        let opened: io::Result<_> = open();
        match opened {
            Ok(opened) => Ok(Some(opened)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(_) if self.unopened == Unopened::IsDamage => {
                self.unopened_segments.insert(number);
                self.report(number, 0, 0, DamageKind::Unreadable);
                Ok(None)
            }
            Err(error) => Err(failed(self.files, "open", &path, error)),
        }
    }

    fn headers(&mut self, listing: &Listing) -> Result<Headers, OpenError> {
        let mut headers = Headers::new();
        for number in &listing.segments {
            if let Some((file, length)) = self.open(*number)? {
                headers.push((*number, Reader::new(self.files, &file, self.id, *number, length).segment_header().0));
            }
        }
        Ok(headers)
    }

    /// Skips the segments that never had an acknowledged record: those that no successor names as the one before it, and a
    /// last one whose creation was not finished.
    fn take_orphans(&mut self, headers: &mut Headers, listing: &Listing) -> Result<(), OpenError> {
        while let Some((number, None)) = headers.last().copied() {
            let scan = self.scan(number, None)?;
            if !scan.is_blank || scan.unreadable || !scan.found.is_empty() {
                break;
            }
            self.loaded.torn_tails += u64::from(scan.length < HEADER_BYTES || scan.content_end > HEADER_BYTES);
            self.loaded.orphans.push(number);
            headers.pop();
        }
        let (mut kept, mut named) = (Headers::new(), None);
        for (number, header) in headers.drain(..).rev() {
            if named.is_some_and(|previous| number > previous) {
                self.loaded.orphans.push(number);
                continue;
            }
            named = header.map(|header: SegmentHeader| header.previous);
            kept.push((number, header));
        }
        kept.reverse();
        *headers = kept;
        let newest = |numbers: &BTreeSet<u64>| numbers.last().copied().unwrap_or(0);
        self.loaded.last = headers.last().map_or(0, |(number, _)| *number).max(newest(&listing.quarantined));
        Ok(())
    }

    /// Reports the segments that are missing between two that are there.
    fn report_missing(&mut self, headers: &Headers, listing: &Listing) {
        for pair in headers.windows(2) {
            let ((before, _), (number, header)) = (pair[0], pair[1]);
            let last = header.map_or(number - 1, |header| header.previous);
            let missing = (before + 1..=last).filter(|missing| !listing.quarantined.contains(missing));
            let missing = missing.filter(|missing| !self.unopened_segments.contains(missing));
            for segment in missing.take(LISTED_MISSING as usize) {
                let damage = Damage { segment, from: 0, until: 0, what: DamageKind::SegmentMissing };
                self.loaded.index.report(damage);
            }
        }
    }

    fn scan(&mut self, number: u64, limit: Option<u64>) -> Result<Scan, OpenError> {
        match self.open(number)? {
            Some((file, length)) => {
                Ok(scan(&mut Reader::new(self.files, &file, self.id, number, length), limit.unwrap_or(u64::MAX)))
            }
            None => Ok(Scan { is_blank: true, ..Scan::default() }),
        }
    }

    fn report(&mut self, segment: u64, from: u64, until: u64, what: DamageKind) {
        self.loaded.index.report(Damage { segment, from, until, what });
    }

    /// Loads one segment; `limit` is the sequence number of its successor's first record.
    fn segment(&mut self, number: u64, is_last: bool, limit: Option<u64>) -> Result<(), OpenError> {
        let Some((file, length)) = self.open(number)? else { return Ok(()) };
        let mut reader = Reader::new(self.files, &file, self.id, number, length);
        let mut scan = scan(&mut reader, limit.unwrap_or(u64::MAX));
        if scan.header.is_none() {
            self.report(number, 0, HEADER_BYTES.min(length), DamageKind::SegmentHeader);
            self.report_missing_end_before(number, &scan);
        }
        let mut end = scan.end;
        let mut skipped = 0;
        if is_last {
            let tail = classify_tail(&mut reader, &mut scan);
            end = tail.end;
            // As many sequence numbers are skipped as there may have been records, so that the next opening, for which this is
            // not the last segment, finds them missing again, or finds them.
            skipped = tail.hidden_bytes.div_ceil(HEADER_BYTES);
            self.loaded.torn_tails += u64::from(tail.is_torn);
            for (from, until, what) in tail.damage {
                self.report(number, from, until, what);
            }
        } else if let (Some(limit), Some(last)) = (limit, scan.last_sequence) {
            if last.saturating_add(1) < limit {
                end = scan.content_end;
                self.report(number, scan.end, end, DamageKind::EndMissing);
            }
        } else if scan.content_end > scan.end {
            end = scan.content_end;
            self.report(number, scan.end, end, scan.damage_kind());
        }
        for (from, until) in &scan.bad {
            self.report(number, *from, *until, scan.damage_kind());
        }
        // What cannot be read now may be readable later.
        if end < length && !scan.unreadable {
            self.loaded.truncations.insert(number, end);
        }
        let next = scan.last_sequence.map_or(0, |last| last.saturating_add(1));
        self.loaded.next_sequence = self.loaded.next_sequence.max(next).saturating_add(skipped);
        let records = self.records(&mut reader, number, &scan.found);
        self.loaded.index.segments.insert(number, Segment::sealed(length, records));
        Ok(())
    }

    /// Without its header, a segment's first record is the only one that says what the segment before it lacks.
    fn report_missing_end_before(&mut self, number: u64, scan: &Scan) {
        let Some((before, segment)) = self.loaded.index.segments.last_key_value() else { return };
        let first = scan.found.first().filter(|first| first.position == HEADER_BYTES);
        if *before + 1 == number && first.is_some_and(|first| first.header.sequence > self.loaded.next_sequence) {
            let (before, end) = (*before, self.loaded.truncations.get(before).copied().unwrap_or(segment.bytes));
            self.report(before, end, end, DamageKind::EndMissing);
        }
    }

    /// The records among what was found, each with its source.
    fn records(&mut self, reader: &mut Reader<'_, F>, segment: u64, found: &[Found]) -> Vec<Record> {
        let mut numbers: HashMap<u32, Arc<Source>> = HashMap::new();
        let mut records = Vec::new();
        for found in found {
            let known = match found.header.kind {
                RecordKind::Messages => numbers.get(&found.header.source).cloned(),
                RecordKind::Source => None,
            };
            // A record whose source record is lost has its source itself.
            let source = known.or_else(|| {
                let payload = reader.payload(found)?;
                let source = match found.header.kind {
                    RecordKind::Source => decode_source(&payload)?,
                    RecordKind::Messages => Source::clone(decode(&found.header, &payload)?.source()),
                };
                Some(self.share(source))
            });
            match source {
                None => self.report(segment, found.position, found.end(), DamageKind::Payload),
                Some(source) => {
                    if found.header.kind == RecordKind::Messages {
                        records.push(Record::new(Arc::clone(&source), segment, found.position, &found.header));
                    }
                    numbers.insert(found.header.source, source);
                }
            }
        }
        records
    }

    fn share(&mut self, source: Source) -> Arc<Source> {
        if let Some(known) = self.sources.get(&source) {
            return Arc::clone(known);
        }
        let source = Arc::new(source);
        self.sources.insert(Arc::clone(&source));
        source
    }
}
