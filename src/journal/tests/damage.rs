//! Every byte flipped, every length cut: one at a time.

use std::collections::BTreeSet;
use std::path::Path;

use super::fault_files::FaultFiles;
use super::{Log, Plain, Sets, delivered, extents, open, options};
use crate::journal::format::{HEADER_BYTES, SegmentHeader, encode_journal};
use crate::journal::{Damage, DamageKind, Inspection, Journal};

/// A journal of some segments, closed as a process that was killed leaves it.
struct Small {
    files: FaultFiles,
    log: Log,
    /// Each record's file, bytes and content.
    records: Vec<(u64, u64, u64, Plain)>,
    last: u64,
}

impl Small {
    /// All records of a segment, in their order, with those of sources, which stand between the others.
    fn extents(&self, segment: u64) -> Vec<(u64, u64)> {
        let mut extents = Vec::new();
        let mut end = HEADER_BYTES;
        for (_, from, until, _) in self.records.iter().filter(|record| record.0 == segment) {
            if end < *from {
                extents.push((end, *from));
            }
            extents.push((*from, *until));
            end = *until;
        }
        extents
    }

    /// Where the last record of a segment ends.
    fn end(&self, segment: u64) -> u64 {
        self.extents(segment).last().map_or(HEADER_BYTES, |(_, until)| *until)
    }
}

fn small() -> Small {
    small_in(FaultFiles::new(1))
}

fn small_in(files: FaultFiles) -> Small {
    let (mut journal, mut sets, mut log) = (open(&files), Sets::new(5), Log::default());
    while journal.segments().len() < 3 || journal.segments()[2].records < 3 {
        assert!(log.append(&mut journal, &[sets.one()]));
    }
    let places: Vec<_> =
        extents(&journal).into_iter().flat_map(|(s, all)| all.into_iter().map(move |e| (s, e))).collect();
    let contents = delivered(&mut journal);
    let last = journal.segments()[2].number;
    let records = places.into_iter().zip(contents).map(|((segment, (from, until)), set)| (segment, from, until, set));
    Small { files, log, records: records.collect(), last }
}

fn segment_of(name: &str) -> Option<u64> {
    name.strip_suffix(".segment")?.parse().ok()
}

/// Opens changed files and checks what every change must leave: intact records, nothing else, the same twice. Returns the
/// damage and the torn ends.
fn check(
    small: &Small,
    files: &FaultFiles,
    is_intact: impl Fn(u64, u64, u64) -> bool,
) -> Result<(BTreeSet<Damage>, u64), String> {
    let mut log = Log { acknowledged: BTreeSet::new(), attempted: small.log.attempted.clone() };
    for (segment, from, until, set) in &small.records {
        if is_intact(*segment, *from, *until) {
            log.acknowledged.insert(set.clone());
        }
    }
    // Without writing, as the commands read it.
    let mut inspection = Inspection::open(files.clone(), Path::new("/journal")).map_err(|error| error.to_string())?;
    let seen: Vec<_> = inspection.records().cloned().collect();
    let seen: Vec<Plain> =
        seen.iter().filter_map(|record| inspection.read(record).ok()).map(|s| Plain::of(&s)).collect();
    let verified: BTreeSet<Damage> = inspection.verify(|_| {}).into_iter().collect();

    let mut journal = Journal::open(files.clone(), options()).map_err(|error| error.to_string())?;
    log.check(&mut journal)?;
    let (first, damage) = (delivered(&mut journal), journal.damage().to_vec());
    let torn = journal.torn_tails();
    if seen != first {
        return Err("an inspection delivers something else".to_owned());
    }
    let found: BTreeSet<Damage> = damage.iter().cloned().collect();
    if verified != found {
        return Err(format!("verify finds {verified:?}, reading finds {found:?}"));
    }
    drop(journal);
    let repaired = |damage: &Damage| damage.what != DamageKind::JournalFile;
    let mut journal = Journal::open(files.clone(), options()).map_err(|error| error.to_string())?;
    let second = delivered(&mut journal);
    if second != first || !journal.damage().iter().eq(damage.iter().filter(|d| repaired(d))) {
        return Err(format!("opening twice: {damage:?}, then {:?}", journal.damage()));
    }
    // Later it is not the last segment any more; the same damage is found by another rule.
    let mut sets = Sets::new(99);
    sets.next = 1_000_000;
    if !log.append(&mut journal, &[sets.one()]) {
        return Err("it does not append".to_owned());
    }
    drop(journal);
    let mut journal = Journal::open(files.clone(), options()).map_err(|error| error.to_string())?;
    log.check(&mut journal)?;
    let places = |damage: &[Damage]| -> BTreeSet<(u64, u64)> {
        damage.iter().filter(|d| repaired(d)).map(|d| (d.segment, d.from)).collect()
    };
    let (before, after) = (places(&damage), places(journal.damage()));
    if before != after {
        return Err(format!("after an append: {damage:?}, then {:?}", journal.damage()));
    }
    Ok((found, torn))
}

/// The checker for flipped bytes; a larger `step` skips bytes to save time.
pub(super) fn flip_every_byte(step: usize) -> Result<String, String> {
    let small = small();
    let (mut flips, mut reported, mut torn_ends, mut unused) = (0, 0, 0, 0);
    for (name, data) in small.files.contents() {
        for position in (0..data.len()).step_by(step) {
            let files = small.files.copy();
            let mut changed = data.clone();
            changed[position] ^= 1 << (position % 8);
            files.put(&name, changed);
            let at = position as u64;
            let segment = segment_of(&name);
            let is_hit = |s: u64, from: u64, until: u64| Some(s) == segment && (from..until).contains(&at);
            let (damage, torn) = check(&small, &files, |s, from, until| !is_hit(s, from, until))
                .map_err(|error| format!("{name}, byte {position}: {error}"))?;
            flips += 1;
            let number = segment.unwrap_or(0);
            let is_reported = damage.iter().any(|d| d.segment == number && (d.from..d.until).contains(&at));
            if let Some(other) = damage.iter().find(|d| d.segment != number || !(d.from..d.until).contains(&at)) {
                return Err(format!("{name}, byte {position}: damage reported where there is none: {other:?}"));
            }
            let end = segment.map_or(HEADER_BYTES, |segment| small.end(segment));
            let mut extents = small.extents(number).into_iter();
            let hit = extents.find(|(from, until)| (*from..*until).contains(&at)).unwrap_or((0, HEADER_BYTES));
            if is_reported {
                // Just what was hit, and what was hit from its beginning on.
                if at < end && damage.iter().any(|d| damage.len() > 1 || d.from != hit.0 || d.until > hit.1) {
                    return Err(format!("{name}, byte {position}: reported as {damage:?}"));
                }
                reported += 1;
            } else if torn > 0 {
                // After the last record, where a crash may have left anything.
                if number != small.last || at < end {
                    return Err(format!("{name}, byte {position}: taken for a torn end"));
                }
                torn_ends += 1;
            } else if at >= end || is_padding(&small, number, at) {
                unused += 1;
            } else {
                return Err(format!("{name}, byte {position}: not reported"));
            }
        }
    }
    Ok(format!("{flips} flips: {reported} reported, {unused} in padding, {torn_ends} in unused space after the end"))
}

/// Returns `true` if the byte is one of the up to 7 zeros that end a record.
fn is_padding(small: &Small, segment: u64, at: u64) -> bool {
    let (bytes, position) = (&small.files.contents()[&format!("{segment:020}.segment")], at as usize);
    small
        .extents(segment)
        .iter()
        .any(|(_, until)| (until - 7..*until).contains(&at) && bytes[position..*until as usize].iter().all(|b| *b == 0))
}

#[test]
fn every_flipped_byte_is_reported_and_costs_no_other_record() {
    println!("{}", flip_every_byte(1).unwrap());
}

#[test]
fn every_cut_off_file_delivers_what_is_left_and_says_so() {
    let small = small();
    let (mut cuts, mut damaged, mut torn_ends) = (0, 0, 0);
    for (name, data) in small.files.contents() {
        for length in 0..data.len() {
            let files = small.files.copy();
            files.put(&name, data[..length].to_vec());
            let segment = segment_of(&name);
            let is_intact = |s: u64, _: u64, until: u64| Some(s) != segment || until <= length as u64;
            let (damage, torn) =
                check(&small, &files, is_intact).unwrap_or_else(|error| panic!("{name} cut at {length}: {error}"));
            cuts += 1;
            damaged += usize::from(!damage.is_empty());
            torn_ends += usize::from(torn > 0);
            let lost = small.records.iter().any(|(s, from, until, _)| !is_intact(*s, *from, *until));
            let places: Vec<_> = damage.iter().map(|d| (d.segment, d.from, d.what)).collect();
            let expected = match segment {
                None if name == "JOURNAL" => vec![(0, 0, DamageKind::JournalFile)],
                Some(number) if number != small.last && (length as u64) < small.end(number) => {
                    // The rest ends where the first incomplete record began.
                    let mut extents = small.extents(number).into_iter();
                    let cut = extents.find(|(_, until)| *until > length as u64).map_or(0, |(from, _)| from);
                    match length < 64 {
                        true => vec![(number, 0, DamageKind::SegmentHeader)],
                        false => vec![(number, cut, DamageKind::EndMissing)],
                    }
                }
                _ => Vec::new(),
            };
            assert_eq!(places, expected, "{name} cut at {length}");
            // The rest of a record may be zeros, as if it had never been begun.
            let is_boundary = |at: usize| {
                at == 64
                    || small
                        .records
                        .iter()
                        .any(|(s, from, until, _)| Some(*s) == segment && (*until == at as u64 || *from == at as u64))
            };
            let begun = data[..length].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            let is_boundary = (begun..=length).any(is_boundary);
            if lost && segment == Some(small.last) {
                assert!(torn > 0 || is_boundary, "{name} cut at {length}: no torn end");
            }
        }
    }
    println!("{cuts} cuts: {damaged} reported as damage, {torn_ends} as a torn end");
}

/// The last byte of a header is one of its checksum, and zero in one of 256 journals.
#[test]
fn a_header_without_its_last_byte_is_none_even_where_that_byte_is_zero() {
    let first = |id| SegmentHeader { number: 1, previous: 0, first_sequence: 1, id }.encode();
    let ids = (0_u128..).map(u128::to_le_bytes);
    let id = ids.into_iter().find(|id| encode_journal(id)[63] == 0 && first(*id)[63] == 0).unwrap();
    let files = FaultFiles::new(1);
    files.put("JOURNAL", encode_journal(&id).to_vec());
    let small = small_in(files);
    let segment = format!("{:020}.segment", 1);
    assert_eq!(small.files.contents()[&segment][..64], first(id));
    for (name, expected) in [("JOURNAL", (0, DamageKind::JournalFile)), (&segment, (1, DamageKind::SegmentHeader))] {
        let files = small.files.copy();
        files.put(name, small.files.contents()[name][..63].to_vec());
        let (damage, _) = check(&small, &files, |number, _, _| Some(number) != segment_of(name)).unwrap();
        assert_eq!(damage.iter().map(|d| (d.segment, d.what)).collect::<Vec<_>>(), [expected], "{name}");
    }
}

#[test]
fn a_missing_segment_is_reported() {
    let small = small();
    let names: Vec<String> = small.files.contents().into_keys().filter(|name| segment_of(name).is_some()).collect();
    for (index, name) in names.iter().enumerate() {
        let files = small.files.copy();
        files.remove(name);
        let number = segment_of(name).unwrap();
        let (damage, _) = check(&small, &files, |segment, _, _| segment != number).unwrap();
        // The first and the last one are missing as if they had been removed or never made.
        let is_between = index > 0 && index + 1 < names.len();
        let missing: BTreeSet<Damage> = is_between
            .then_some(Damage { segment: number, from: 0, until: 0, what: DamageKind::SegmentMissing })
            .into_iter()
            .collect();
        assert_eq!(damage, missing, "{name}");
    }
}

#[test]
fn the_id_of_a_journal_is_found_in_its_segments() {
    let small = small();
    let files = small.files.copy();
    files.remove("JOURNAL");
    let (damage, _) = check(&small, &files, |_, _, _| true).unwrap();
    assert_eq!(damage.into_iter().map(|d| d.what).collect::<Vec<_>>(), [DamageKind::JournalFile]);
}

#[test]
fn a_damaged_segment_goes_into_quarantine() {
    let small = small();
    let files = small.files.copy();
    let (segment, from, ..) = small.records[0];
    let name = format!("{segment:020}.segment");
    let mut data = files.contents()[&name].clone();
    data[from as usize + 70] ^= 1;
    files.put(&name, data.clone());
    let mut journal = open(&files);
    delivered(&mut journal);
    assert!(journal.segments()[0].damaged);
    journal.remove_segment(segment).unwrap();
    assert_eq!((journal.usage().quarantined, journal.damage()), (1, [].as_slice()));
    drop(journal);
    let mut journal = open(&files);
    assert_eq!((journal.usage().quarantined, journal.damage()), (1, [].as_slice()));
    assert_eq!(files.contents()[&format!("{segment:020}.quarantine")], data);
    let left: Vec<Plain> = small.records.iter().filter(|r| r.0 != segment).map(|r| r.3.clone()).collect();
    assert_eq!(delivered(&mut journal), left);
}

/// The checker for bytes of another journal, as a disk's blocks may still hold them: all of it fits but the id.
pub(super) fn another_journals_records() -> Result<(), String> {
    let small = small();
    let other = FaultFiles::new(2);
    let (mut journal, mut sets) = (open(&other), Sets::new(6));
    sets.next = 1_000_000;
    while journal.segments().len() < 2 {
        journal.append(&[sets.one()]).map_err(|error| error.to_string())?;
    }
    let name = format!("{:020}.segment", 1);
    let mut mixed = small.files.contents()[&name][..64].to_vec();
    mixed.extend_from_slice(&other.contents()[&name][64..]);
    let files = small.files.copy();
    files.put(&name, mixed);
    let (damage, _) = check(&small, &files, |segment, _, _| segment != 1)?;
    if damage.is_empty() { Err("not reported".to_owned()) } else { Ok(()) }
}

#[test]
fn another_journals_records_are_damage() {
    another_journals_records().unwrap();
}

#[test]
fn a_record_at_another_place_is_damage() {
    let small = small();
    let files = small.files.copy();
    let names: Vec<String> = files.contents().into_keys().filter(|name| segment_of(name).is_some()).collect();
    // The second segment gets the records of the first, as if the disk had mixed up its blocks.
    let mut mixed = files.contents()[&names[1]][..64].to_vec();
    mixed.extend_from_slice(&files.contents()[&names[0]][64..]);
    files.put(&names[1], mixed);
    let second = segment_of(&names[1]).unwrap();
    let (damage, _) = check(&small, &files, |segment, _, _| segment != second).unwrap();
    assert!(damage.iter().all(|damage| damage.segment == second) && !damage.is_empty());
}
