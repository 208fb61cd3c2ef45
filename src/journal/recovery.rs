//! From the files to the index: which records there are, and exactly what is damaged. Nothing is written here.
//!
//! The sequence numbers decide. A segment's header says the first sequence number that was not acknowledged when the segment
//! was made; what an older segment has from that number on is a remainder of a write that failed, and what it lacks below it
//! is lost. Only the last segment has no successor that says so: there the sectors decide whether a bad end was torn.

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
use super::planted;
use super::planted::Bug;
use super::reader::{Body, Found, Reader};
use crate::raw::Source;

/// Numbers of missing segments that are listed between two that are there.
const LISTED_MISSING: u64 = 1024;

/// What was found in a directory.
#[derive(Debug, Default)]
pub(in crate::journal) struct Loaded {
    pub(in crate::journal) index: Index,
    /// Files of segments that never had an acknowledged record.
    pub(in crate::journal) strays: Vec<u64>,
    /// Segments that are longer than what is valid in them, and where that ends.
    pub(in crate::journal) cuts: BTreeMap<u64, u64>,
    /// The last segment that may have acknowledged records; 0 for none.
    pub(in crate::journal) last: u64,
    /// The sequence number of the next record.
    pub(in crate::journal) next_sequence: u64,
    /// Ends that were torn off.
    pub(in crate::journal) torn_tails: u64,
}

/// One segment, walked through.
#[derive(Debug, Default)]
struct Walk {
    header: Option<SegmentHeader>,
    is_blank: bool,
    length: u64,
    unreadable: bool,
    /// Records, by position, sources too.
    found: Vec<Found>,
    /// Bad places before the last of them, as they stand between the others.
    bad: Vec<(u64, u64)>,
    /// The end of the last record.
    end: u64,
    /// The end of what is not zero behind it.
    content_end: u64,
    /// The last sequence number that is accounted for; `None` where there is neither a record nor a header.
    last_sequence: Option<u64>,
}

impl Walk {
    fn bad_kind(&self) -> DamageKind {
        if self.unreadable { DamageKind::Unreadable } else { DamageKind::NoRecord }
    }
}

/// What a segment's file is that cannot be opened although it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::journal) enum Unopened {
    /// An error: who has the journal must not go on without what is in it.
    IsError,
    /// Damage: who only looks sees the rest.
    IsDamage,
}

/// Loads the directory's segments.
///
/// # Errors
/// Where a segment's file cannot be opened, and that is an error.
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
    load.take_strays(&mut headers, listing)?;
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
    /// The segment's file; `None` where it has gone since it was listed, or is given up as damaged.
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

    /// Leaves out the segments that never had an acknowledged record: those that no successor names as the one before it,
    /// and a last one that was not made to its end.
    fn take_strays(&mut self, headers: &mut Headers, listing: &Listing) -> Result<(), OpenError> {
        while let Some((number, None)) = headers.last().copied() {
            let walk = self.walk(number, None)?;
            if !walk.is_blank || walk.unreadable || !walk.found.is_empty() {
                break;
            }
            self.loaded.torn_tails += u64::from(walk.length < HEADER_BYTES || walk.content_end > HEADER_BYTES);
            self.loaded.strays.push(number);
            headers.pop();
        }
        let (mut kept, mut named) = (Headers::new(), None);
        for (number, header) in headers.drain(..).rev() {
            if named.is_some_and(|previous| number > previous) {
                self.loaded.strays.push(number);
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

    fn walk(&mut self, number: u64, limit: Option<u64>) -> Result<Walk, OpenError> {
        match self.open(number)? {
            Some((file, length)) => {
                Ok(walk(&mut Reader::new(self.files, &file, self.id, number, length), limit.unwrap_or(u64::MAX)))
            }
            None => Ok(Walk { is_blank: true, ..Walk::default() }),
        }
    }

    fn report(&mut self, segment: u64, from: u64, until: u64, what: DamageKind) {
        self.loaded.index.report(Damage { segment, from, until, what });
    }

    /// Loads one segment; `limit` is the sequence number of its successor's first record.
    fn segment(&mut self, number: u64, is_last: bool, limit: Option<u64>) -> Result<(), OpenError> {
        let Some((file, length)) = self.open(number)? else { return Ok(()) };
        let mut reader = Reader::new(self.files, &file, self.id, number, length);
        let mut walk = walk(&mut reader, limit.unwrap_or(u64::MAX));
        if walk.header.is_none() {
            self.report(number, 0, HEADER_BYTES.min(length), DamageKind::SegmentHeader);
            self.report_missing_end_before(number, &walk);
        }
        let mut end = walk.end;
        let mut left_out = 0;
        if is_last {
            let judged = judge_end(&mut reader, &mut walk);
            end = judged.end;
            // So many sequence numbers are left out as records may have stood there, so that the next opening, for which this
            // is not the last segment, finds them missing again, or finds them.
            left_out = judged.hidden_bytes.div_ceil(HEADER_BYTES);
            self.loaded.torn_tails += u64::from(judged.is_torn);
            for (from, until, what) in judged.damage {
                self.report(number, from, until, what);
            }
        } else if let (Some(limit), Some(last)) = (limit, walk.last_sequence) {
            if last.saturating_add(1) < limit {
                end = walk.content_end;
                self.report(number, walk.end, end, DamageKind::EndMissing);
            }
        } else if walk.content_end > walk.end {
            end = walk.content_end;
            self.report(number, walk.end, end, walk.bad_kind());
        }
        for (from, until) in &walk.bad {
            self.report(number, *from, *until, walk.bad_kind());
        }
        // What could not be read today may be readable tomorrow.
        if end < length && !walk.unreadable {
            self.loaded.cuts.insert(number, end);
        }
        let next = walk.last_sequence.map_or(0, |last| last.saturating_add(1));
        self.loaded.next_sequence = self.loaded.next_sequence.max(next).saturating_add(left_out);
        let records = self.records(&mut reader, number, &walk.found);
        self.loaded.index.segments.insert(number, Segment::sealed(length, records));
        Ok(())
    }

    /// Without its header, a segment's first record is the only one that says what the segment before it lacks.
    fn report_missing_end_before(&mut self, number: u64, walk: &Walk) {
        let Some((before, segment)) = self.loaded.index.segments.last_key_value() else { return };
        let first = walk.found.first().filter(|first| first.position == HEADER_BYTES);
        if *before + 1 == number && first.is_some_and(|first| first.header.sequence > self.loaded.next_sequence) {
            let (before, end) = (*before, self.loaded.cuts.get(before).copied().unwrap_or(segment.bytes));
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
            // A record whose source record is lost says itself where it is from.
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

/// Goes from record to record by their headers, and behind a bad place to the next one. Stops at the sequence number
/// `limit`: what follows was not acknowledged here.
fn walk<F: Files>(reader: &mut Reader<'_, F>, limit: u64) -> Walk {
    let (header, is_blank) = reader.segment_header();
    let mut walk = Walk { header, is_blank, length: reader.length(), end: HEADER_BYTES, ..Walk::default() };
    walk.last_sequence = walk.header.map(|header| header.first_sequence.saturating_sub(1));
    let mut after = walk.last_sequence.unwrap_or(0);
    // `after` is the last sequence number that is accounted for: at the limit nothing more can be missing.
    while after.saturating_add(1) < limit {
        let here = reader.record(walk.end).filter(|found| reader.is_whole(found) && found.header.sequence > after);
        let found = match here {
            Some(found) => found,
            None => {
                let search = reader.search(walk.end, after);
                walk.content_end = search.content_end;
                let Some(next) = search.next else { break };
                if next.header.sequence >= limit {
                    break;
                }
                walk.bad.push((walk.end, next.position));
                next
            }
        };
        if found.header.sequence >= limit {
            break;
        }
        after = found.header.sequence;
        walk.end = found.end();
        walk.content_end = walk.end;
        walk.last_sequence = Some(after);
        walk.found.push(found);
    }
    walk.content_end = walk.content_end.max(walk.end);
    walk.unreadable = reader.unreadable;
    walk
}

/// How the last segment ends.
#[derive(Debug, Default)]
struct End {
    /// Where what is kept ends.
    end: u64,
    is_torn: bool,
    /// The bytes behind the last record that may have been records.
    hidden_bytes: u64,
    damage: Vec<(u64, u64, DamageKind)>,
}

/// Judges the last segment's records by their payloads and leaves the intact ones. Bad places behind the last intact record
/// are a torn end where all of them have sectors that were never written; all others are damage.
fn judge_end<F: Files>(reader: &mut Reader<'_, F>, walk: &mut Walk) -> End {
    let bodies: Vec<Body> = walk.found.iter().map(|found| reader.check(found)).collect();
    let intact = bodies.iter().rposition(|body| *body == Body::Good).map_or(0, |index| index + 1);
    let intact_end = intact.checked_sub(1).map_or(HEADER_BYTES, |index| walk.found[index].end());
    walk.unreadable |= reader.unreadable;
    if walk.unreadable {
        // It may be zero, and it may not.
        walk.content_end = walk.length.max(walk.end);
    }
    let what = walk.bad_kind();
    let bad_body = |(found, body): (&Found, &Body)| {
        (*body != Body::Good).then(|| (found.position, found.end(), DamageKind::Payload))
    };
    let mut damage: Vec<_> = walk.found[..intact].iter().zip(&bodies).filter_map(bad_body).collect();
    let mut tail: Vec<_> = walk.found[intact..].iter().zip(&bodies[intact..]).filter_map(bad_body).collect();
    let mut is_torn = bodies[intact..].iter().all(|body| *body == Body::Torn);
    for (from, until) in walk.bad.extract_if(.., |(from, _)| *from >= intact_end) {
        is_torn &= reader.is_torn_header(from);
        tail.push((from, until, what));
    }
    if walk.content_end > walk.end {
        let reaches_out = reader.record(walk.end).is_some_and(|found| !reader.is_whole(&found));
        is_torn &= reaches_out || reader.is_torn_header(walk.end);
        tail.push((walk.end, walk.content_end, what));
    }
    // What is left in both lies before the last intact record.
    let is_damaged_in_the_middle = !damage.is_empty() || !walk.bad.is_empty();
    if is_damaged_in_the_middle && planted::is_on(Bug::DamageIsTornTail) {
        return cut_at_first_damage(walk, &bodies);
    }
    if tail.is_empty() || (is_torn && !walk.unreadable) {
        let last_in_header = walk.header.map(|header| header.first_sequence.saturating_sub(1));
        walk.found.truncate(intact);
        walk.last_sequence = walk.found.last().map(|found| found.header.sequence).or(last_in_header);
        keep_intact(walk, &bodies);
        return End { end: intact_end, is_torn: !tail.is_empty(), hidden_bytes: 0, damage };
    }
    damage.append(&mut tail);
    keep_intact(walk, &bodies);
    // With a whole header's length, so that the next opening does not see the file's end in it.
    let end = walk.content_end.max(walk.end + HEADER_BYTES);
    End { end, is_torn: false, hidden_bytes: walk.content_end - walk.end, damage }
}

fn keep_intact(walk: &mut Walk, bodies: &[Body]) {
    let mut bodies = bodies.iter();
    walk.found.retain(|_| bodies.next() == Some(&Body::Good));
}

/// What the planted bug does: it takes all behind the first bad place for a torn end.
fn cut_at_first_damage(walk: &mut Walk, bodies: &[Body]) -> End {
    let first_gap = walk.bad.first().map_or(u64::MAX, |(from, _)| *from);
    let mut bodies = bodies.iter();
    let intact = walk.found.iter().take_while(|f| f.position < first_gap && bodies.next() == Some(&Body::Good)).count();
    walk.found.truncate(intact);
    walk.bad.clear();
    walk.last_sequence = walk.found.last().map(|found| found.header.sequence);
    let end = walk.found.last().map_or(HEADER_BYTES, Found::end);
    End { end, is_torn: true, ..End::default() }
}
