//! A scan of one segment from its first record to its last, by their headers, without classifying damage.

use super::error::DamageKind;
use super::files::Files;
use super::format::{HEADER_BYTES, SegmentHeader};
use super::reader::{Found, Reader};

/// The result of a scan.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) header: Option<SegmentHeader>,
    pub(super) is_blank: bool,
    pub(super) length: u64,
    pub(super) unreadable: bool,
    /// Records, by position, including those of sources.
    pub(super) found: Vec<Found>,
    /// Damaged places before the last of them, each between two others.
    pub(super) bad: Vec<(u64, u64)>,
    /// The end of the last record.
    pub(super) end: u64,
    /// The end of the bytes after it that are not zero.
    pub(super) content_end: u64,
    /// The last sequence number that is accounted for; `None` if there is neither a record nor a header.
    pub(super) last_sequence: Option<u64>,
}

impl Scan {
    /// The kind of its damaged places.
    pub(super) fn damage_kind(&self) -> DamageKind {
        if self.unreadable { DamageKind::Unreadable } else { DamageKind::NoRecord }
    }
}

/// Goes from record to record by their headers, and after a damaged place to the next one. Stops at the sequence number
/// `limit`: what follows was not acknowledged here.
pub(super) fn scan<F: Files>(reader: &mut Reader<'_, F>, limit: u64) -> Scan {
    let (header, is_blank) = reader.segment_header();
    let mut scan = Scan { header, is_blank, length: reader.length(), end: HEADER_BYTES, ..Scan::default() };
    scan.last_sequence = scan.header.map(|header| header.first_sequence.saturating_sub(1));
    let mut after = scan.last_sequence.unwrap_or(0);
    // `after` is the last sequence number that is accounted for: at the limit nothing more can be missing.
    while after.saturating_add(1) < limit {
        let here = reader.record(scan.end).filter(|found| reader.is_whole(found) && found.header.sequence > after);
        let found = match here {
            Some(found) => found,
            None => {
                let search = reader.search(scan.end, after);
                scan.content_end = search.content_end;
                let Some(next) = search.next else { break };
                if next.header.sequence >= limit {
                    break;
                }
                scan.bad.push((scan.end, next.position));
                next
            }
        };
        if found.header.sequence >= limit {
            break;
        }
        after = found.header.sequence;
        scan.end = found.end();
        scan.content_end = scan.end;
        scan.last_sequence = Some(after);
        scan.found.push(found);
    }
    scan.content_end = scan.content_end.max(scan.end);
    scan.unreadable = reader.unreadable;
    scan
}
