//! How the last segment ends: with an intact record, with a torn end, or with damage.

use super::error::DamageKind;
use super::files::Files;
use super::format::HEADER_BYTES;
use super::planted::{self, Bug};
use super::reader::{Body, Found, Reader};
use super::scan::Scan;

/// How the last segment ends.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// The end of what is kept.
    pub(super) end: u64,
    pub(super) is_torn: bool,
    /// The bytes after the last record that may have been records.
    pub(super) hidden_bytes: u64,
    pub(super) damage: Vec<(u64, u64, DamageKind)>,
}

/// Classifies the last segment's records by their payloads and keeps the intact ones. Damaged places after the last intact
/// record are a torn end if all of them have sectors that were never written; all others are damage.
pub(super) fn classify_tail<F: Files>(reader: &mut Reader<'_, F>, scan: &mut Scan) -> Tail {
    let bodies: Vec<Body> = scan.found.iter().map(|found| reader.check(found)).collect();
    let intact = bodies.iter().rposition(|body| *body == Body::Good).map_or(0, |index| index + 1);
    let intact_end = intact.checked_sub(1).map_or(HEADER_BYTES, |index| scan.found[index].end());
    scan.unreadable |= reader.unreadable;
    if scan.unreadable {
        // What cannot be read may or may not be zero.
        scan.content_end = scan.length.max(scan.end);
    }
    let what = scan.damage_kind();
    let bad_body = |(found, body): (&Found, &Body)| {
        (*body != Body::Good).then(|| (found.position, found.end(), DamageKind::Payload))
    };
    let mut damage: Vec<_> = scan.found[..intact].iter().zip(&bodies).filter_map(bad_body).collect();
    let mut tail: Vec<_> = scan.found[intact..].iter().zip(&bodies[intact..]).filter_map(bad_body).collect();
    let mut is_torn = bodies[intact..].iter().all(|body| *body == Body::Torn);
    for (from, until) in scan.bad.extract_if(.., |(from, _)| *from >= intact_end) {
        is_torn &= reader.is_torn_header(from);
        tail.push((from, until, what));
    }
    if scan.content_end > scan.end {
        let reaches_out = reader.record(scan.end).is_some_and(|found| !reader.is_whole(&found));
        is_torn &= reaches_out || reader.is_torn_header(scan.end);
        tail.push((scan.end, scan.content_end, what));
    }
    // What is left in both lies before the last intact record.
    let is_damaged_in_the_middle = !damage.is_empty() || !scan.bad.is_empty();
    if is_damaged_in_the_middle && planted::is_on(Bug::DamageIsTornTail) {
        return cut_at_first_damage(scan, &bodies);
    }
    if tail.is_empty() || (is_torn && !scan.unreadable) {
        let last_in_header = scan.header.map(|header| header.first_sequence.saturating_sub(1));
        scan.found.truncate(intact);
        scan.last_sequence = scan.found.last().map(|found| found.header.sequence).or(last_in_header);
        keep_intact(scan, &bodies);
        return Tail { end: intact_end, is_torn: !tail.is_empty(), hidden_bytes: 0, damage };
    }
    damage.append(&mut tail);
    keep_intact(scan, &bodies);
    // With a whole header's length, so that the next opening does not see the file's end in it.
    let end = scan.content_end.max(scan.end + HEADER_BYTES);
    Tail { end, is_torn: false, hidden_bytes: scan.content_end - scan.end, damage }
}

fn keep_intact(scan: &mut Scan, bodies: &[Body]) {
    let mut bodies = bodies.iter();
    scan.found.retain(|_| bodies.next() == Some(&Body::Good));
}

/// The planted bug: all after the first damaged place is treated as a torn end.
fn cut_at_first_damage(scan: &mut Scan, bodies: &[Body]) -> Tail {
    let first_gap = scan.bad.first().map_or(u64::MAX, |(from, _)| *from);
    let mut bodies = bodies.iter();
    let intact = scan.found.iter().take_while(|f| f.position < first_gap && bodies.next() == Some(&Body::Good)).count();
    scan.found.truncate(intact);
    scan.bad.clear();
    scan.last_sequence = scan.found.last().map(|found| found.header.sequence);
    let end = scan.found.last().map_or(HEADER_BYTES, Found::end);
    Tail { end, is_torn: true, ..Tail::default() }
}
