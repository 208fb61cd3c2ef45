//! Any bytes as a journal's segments.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Input;
use super::files::MemoryFiles;
use crate::journal::{Files, Inspection, Journal, Options, ReadError, Record, sealed};
use crate::raw::Kind;
use crate::raw::{MessageSet, MessageSetBuilder, RawMessage, Source};

const DIRECTORY: &str = "/journal";
const ID: [u8; 16] = *b"a journal's id..";

/// Opens and reads a journal built from the input: segments of its bytes, or a real one with changes.
///
/// # Panics
/// If a set does not match its record, an intact record is not delivered, what cannot be read is not reported as damage,
/// opening a second time returns something else, or what is appended is missing.
pub fn journal(input: &[u8]) {
    let mut input = Input(input);
    let choice = input.byte();
    let (is_real, is_sealed, has_identity) = (choice & 1 == 0, choice & 2 != 0, choice & 4 == 0);
    let files = MemoryFiles::default();
    let (path, bytes) = sealed::journal_file(Path::new(DIRECTORY), &ID);
    files.put(path.clone(), bytes);
    let mut intact = Vec::new();
    if is_real {
        let appended = real(&files, &mut input);
        let before: BTreeMap<PathBuf, Vec<u8>> = files.contents().into_iter().collect();
        change(&files, &mut input);
        let after: BTreeMap<PathBuf, Vec<u8>> = files.contents().into_iter().collect();
        // Without the file, the id must be in a segment's header, and may be changed too.
        if has_identity && !is_sealed && before.get(&path) == after.get(&path) {
            let bytes = |files: &BTreeMap<PathBuf, Vec<u8>>, record: &Record| {
                let (from, until) = (record.position as usize, (record.position + record.bytes()) as usize);
                files
                    .get(&sealed::segment_file(Path::new(DIRECTORY), record.segment))?
                    .get(from..until)
                    .map(<[u8]>::to_vec)
            };
            intact = appended;
            intact.retain(|record| bytes(&after, record) == bytes(&before, record));
        }
    } else {
        while !input.is_empty() {
            let (number, length) = (1 + u64::from(input.byte() % 4), input.below(2048));
            files.put(sealed::segment_file(Path::new(DIRECTORY), number), input.take(length).to_vec());
        }
    }
    if is_sealed {
        for number in 1..=8 {
            let path = sealed::segment_file(Path::new(DIRECTORY), number);
            if let Some((_, mut bytes)) = files.contents().into_iter().find(|(name, _)| *name == path) {
                sealed::seal(&mut bytes, &ID, number);
                files.put(path, bytes);
            }
        }
    }
    if !has_identity {
        files.unlink(&path).expect("it was put there");
    }
    check(&files, is_sealed, &intact);
}

fn open(files: &MemoryFiles) -> Option<Journal<MemoryFiles>> {
    let options =
        Options { directory: PathBuf::from(DIRECTORY), segment_bytes: 512, max_bytes: 1 << 40, min_free_bytes: 0 };
    // Only an unknown version is refused.
    Journal::open(files.clone(), options).ok()
}

/// Appends sets to an empty journal, and returns their records.
fn real(files: &MemoryFiles, input: &mut Input<'_>) -> Vec<Record> {
    let mut journal = open(files).expect("an empty journal opens");
    let mut from = 0;
    for _ in 0..input.below(8) {
        let set = set(input, from);
        from = set.interval().until;
        journal.append(&[set]).expect("memory does not fail");
    }
    journal.records().cloned().collect()
}

fn set(input: &mut Input<'_>, from: i64) -> MessageSet {
    let source = Source {
        kind: if input.byte() & 1 == 0 { Kind::Points } else { Kind::Series },
        cluster_id: "c".to_owned(),
        topic: "t".to_owned(),
        topic_id: String::new(),
    };
    let mut builder = MessageSetBuilder::new(Arc::new(source), i32::from(input.byte() % 2), from);
    for _ in 0..input.byte() % 4 {
        let length = usize::from(input.byte());
        let payload = input.take(length);
        let offset = builder.until() + i64::from(input.byte() % 2);
        let time_ms = Some(i64::from(input.byte()));
        builder.push(&RawMessage { offset, time_ms, payload: Some(payload), ..RawMessage::default() });
    }
    builder.extend_to(builder.until() + 1);
    builder.build(None)
}

/// Changes some bytes, or truncates a file.
fn change(files: &MemoryFiles, input: &mut Input<'_>) {
    for _ in 0..input.below(8) {
        let mut contents = files.contents();
        let index = input.below(contents.len());
        let (path, mut bytes) = contents.swap_remove(index);
        let at = input.below(bytes.len());
        match (input.byte() % 8, bytes.get_mut(at)) {
            (0, _) => bytes.truncate(at),
            (1, Some(_)) => bytes[at..].fill(0),
            (_, Some(byte)) => *byte ^= input.byte(),
            (_, None) => {}
        }
        files.put(path, bytes);
    }
}

/// A record's position and interval, with its messages.
type Read = (u64, u64, i64, i64, Vec<(i64, Option<Vec<u8>>)>);

/// A record's messages; `None` if they are damaged.
fn read(record: &Record, set: Result<MessageSet, ReadError>) -> Option<Read> {
    let set = set.ok()?;
    let interval = set.interval();
    assert_eq!(interval, record.interval());
    assert!(interval.from <= interval.until);
    assert_eq!(set.len(), record.messages as usize);
    let mut reached = interval.from;
    let mut messages = Vec::new();
    for message in set.messages() {
        assert!((reached..interval.until).contains(&message.offset), "{} in {interval:?}", message.offset);
        reached = message.offset + 1;
        messages.push((message.offset, message.payload.map(<[u8]>::to_vec)));
    }
    Some((record.segment, record.position, interval.from, interval.until, messages))
}

fn delivered(journal: &mut Journal<MemoryFiles>) -> Vec<Read> {
    let records: Vec<Record> = journal.records().cloned().collect();
    records.iter().filter_map(|record| read(record, journal.read(record))).collect()
}

fn check(files: &MemoryFiles, is_sealed: bool, intact: &[Record]) {
    let Ok(mut inspection) = Inspection::open(files.clone(), Path::new(DIRECTORY)) else {
        return assert!(open(files).is_none(), "a journal that cannot be inspected opens");
    };
    let records: Vec<Record> = inspection.records().cloned().collect();
    let seen: Vec<Read> = records.iter().filter_map(|record| read(record, inspection.read(record))).collect();
    for record in intact {
        let is_read =
            seen.iter().any(|(segment, position, ..)| (*segment, *position) == (record.segment, record.position));
        assert!(is_read, "an intact record is not delivered: {record:?}");
    }
    let damage = inspection.verify(|_| {});
    for record in &records {
        let is_read =
            seen.iter().any(|(segment, position, ..)| (*segment, *position) == (record.segment, record.position));
        let is_damaged = damage
            .iter()
            .any(|d| d.segment == record.segment && d.from <= record.position && record.position < d.until);
        // Verification compares checksums only.
        assert!(is_read || is_damaged || is_sealed, "verify passes what cannot be read: {record:?}");
    }
    // Opening may repair the end, and nothing else.
    let first = delivered(&mut open(files).expect("what can be inspected opens"));
    assert_eq!(first, seen, "an inspection sees something else");
    let mut journal = open(files).expect("it opened before");
    assert_eq!(delivered(&mut journal), first, "opening twice gives something else");
    let appended = set(&mut Input(&[0, 0, 1, 3, 1, 2, 3, 0, 9]), 1 << 40);
    if journal.append(std::slice::from_ref(&appended)).is_ok() {
        drop(journal);
        let after = delivered(&mut open(files).expect("it opened before"));
        assert_eq!(after.len(), first.len() + 1, "{after:?}");
        assert_eq!(after[..first.len()], first);
        assert_eq!(after[first.len()].2, 1 << 40);
        assert_eq!(after[first.len()].4.len(), appended.len());
    }
}
