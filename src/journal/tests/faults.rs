//! Errors of the file system while the journal is in use, and limits.

use super::fault_files::{Call, Fault, FaultFiles, WRITING};
use super::{Log, SEGMENT_BYTES, Sets, delivered, open, options, seed};
use crate::journal::{AppendError, Damage, DamageKind, Inspection, Journal, Limit, ReadError, Record};
use crate::raw::{MessageSet, MessageSetBuilder, RawMessage};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;

/// The checker: one or more errors at a call of a workload; afterwards everything works again.
pub(super) fn inject(seed: u64, fault: Fault) -> Result<bool, String> {
    let files = FaultFiles::new(seed);
    let (mut journal, mut sets, mut log) = (open(&files), Sets::new(seed), Log::default());
    files.fail(Fault { nth: files.count(fault.call) + fault.nth, ..fault });
    let mut has_failed = false;
    for step in 0..10 {
        has_failed |= !log.append(&mut journal, &sets.some());
        log.check(&mut journal)?;
        if step == 6 {
            let oldest = journal.segments().first().map(|segment| segment.number);
            log.release(&journal, oldest.unwrap_or(0));
            // It may fail; then the segment is there or comes back.
            let _ = journal.remove_segment(oldest.unwrap_or(0));
        }
    }
    files.heal();
    if !log.append(&mut journal, &sets.some()) {
        return Err("it does not append when the fault is gone".to_owned());
    }
    log.check(&mut journal)?;
    if !journal.damage().is_empty() {
        return Err(format!("damage: {:?}", journal.damage()));
    }
    drop(journal);
    let violation = files.violations().into_iter().next();
    // Killed: what the last process has written is seen. Nothing of it is damage.
    files.restart();
    let alive = files.copy();
    let mut journal = open(&alive);
    log.check(&mut journal).map_err(|error| format!("after a restart: {error}"))?;
    if !journal.damage().is_empty() {
        return Err(format!("after a restart: damage {:?}", journal.damage()));
    }
    for power_failure in 0..4 {
        let files = files.after_crash(seed ^ power_failure);
        let mut journal = open(&files);
        log.check(&mut journal).map_err(|error| format!("after a power failure: {error}"))?;
        // If the directory's sync failed, a removed file may come back, and those removed after it are then missed: a
        // false alarm, which costs nothing but a look into Kafka.
        let is_alarm = fault.call == Call::SyncDirectory;
        if journal.damage().iter().any(|d| !is_alarm || d.what != DamageKind::SegmentMissing) {
            return Err(format!("after a power failure: damage {:?}", journal.damage()));
        }
    }
    match violation {
        Some(violation) => Err(violation),
        None => Ok(has_failed),
    }
}

#[test]
fn after_any_error_nothing_acknowledged_is_lost_and_no_file_is_synced_again() {
    let seed = seed();
    for call in WRITING {
        for errno in [EIO, ENOSPC, EROFS] {
            for times in [1, 2, 3, 1000] {
                let mut failures = 0;
                for nth in 0..14 {
                    let fault = Fault { call, nth, times, errno };
                    let result = inject(seed.wrapping_add(nth), fault);
                    failures += u32::from(result.unwrap_or_else(|error| panic!("{fault:?}: {error}")));
                }
                println!("{call:?} errno {errno} x{times}: {failures} of 14 runs refused an append");
                let must_pass = times == 1 && errno != ENOSPC;
                assert!(!must_pass || failures == 0, "one failure is answered by a new segment");
            }
        }
    }
}

#[test]
fn a_failed_sync_moves_what_waits_to_a_new_segment() {
    let files = FaultFiles::new(1);
    let (mut journal, mut sets, mut log) = (open(&files), Sets::new(1), Log::default());
    sets.payload = 10;
    assert!(log.append(&mut journal, &[sets.one()]));
    files.fail(Fault { call: Call::Sync, nth: files.count(Call::Sync), times: 1, errno: EIO });
    assert!(log.append(&mut journal, &[sets.one(), sets.one()]));
    let segments = journal.segments();
    assert_eq!(segments.iter().map(|s| (s.number, s.fenced)).collect::<Vec<_>>(), [(1, true), (2, false)]);
    log.check(&mut journal).unwrap();
    assert_eq!(files.violations(), [""; 0]);
}

#[test]
fn two_failures_in_a_row_are_reported_and_the_next_append_tries_again() {
    let files = FaultFiles::new(1);
    let (mut journal, mut sets, mut log) = (open(&files), Sets::new(1), Log::default());
    let lost = [sets.one()];
    let nth = files.count(Call::Write);
    files.fail(Fault { call: Call::Write, nth, times: 1000, errno: EIO });
    for _ in 0..50 {
        let error = journal.append(&lost).unwrap_err();
        assert!(matches!(&error, AppendError::Unavailable(error) if error.raw_os_error() == Some(EIO)), "{error}");
    }
    // A disk that fails for long does not fill with files.
    assert_eq!((journal.segments().len(), journal.usage().bytes), (0, 0));
    files.heal();
    assert!(log.append(&mut journal, &lost));
    log.check(&mut journal).unwrap();
}

#[test]
fn no_space_shows_before_the_first_record_of_a_segment() {
    let files = FaultFiles::new(1);
    let (mut journal, mut sets, mut log) = (open(&files), Sets::new(1), Log::default());
    assert!(log.append(&mut journal, &[sets.one()]));
    files.set_free(0);
    let writes = files.count(Call::Write);
    let mut refused = None;
    while refused.is_none() {
        let one = [sets.one()];
        refused = journal.append(&one).err();
        if refused.is_none() {
            log.attempted.extend(super::Plain::all(&one));
            log.acknowledged.extend(super::Plain::all(&one));
        }
    }
    assert!(files.count(Call::Write) > writes, "what is allocated can be used");
    assert!(matches!(refused, Some(AppendError::Full { limit: Limit::MinFreeBytes, .. })), "{refused:?}");
    log.check(&mut journal).unwrap();
    files.set_free(1 << 30);
    assert!(log.append(&mut journal, &[sets.one()]));
    log.check(&mut journal).unwrap();
}

/// The checker: a journal is filled; fullness is reported before anything is written, and nothing is dropped.
pub(super) fn fill() -> Result<(), String> {
    let files = FaultFiles::new(1);
    let limited = crate::journal::Options { max_bytes: 3 * SEGMENT_BYTES, ..options() };
    let mut journal = Journal::open(files.clone(), limited).map_err(|error| error.to_string())?;
    let (mut sets, mut log) = (Sets::new(1), Log::default());
    loop {
        let some = sets.some();
        let writes = files.count(Call::Write);
        match journal.append(&some) {
            Ok(()) => {
                log.attempted.extend(super::Plain::all(&some));
                log.acknowledged.extend(super::Plain::all(&some));
                log.check(&mut journal)?;
            }
            Err(AppendError::Full { limit: Limit::MaxBytes, used_bytes, needed_bytes })
                if used_bytes + needed_bytes > 3 * SEGMENT_BYTES && files.count(Call::Write) == writes =>
            {
                break;
            }
            Err(error) => return Err(error.to_string()),
        }
        if journal.usage().bytes > 3 * SEGMENT_BYTES {
            return Err("it takes more than it may".to_owned());
        }
    }
    // Not a set of it was written.
    log.check(&mut journal)?;
    let oldest = journal.segments()[0].number;
    log.release(&journal, oldest);
    journal.remove_segment(oldest).map_err(|error| error.to_string())?;
    if !log.append(&mut journal, &[sets.one()]) {
        return Err("it does not append when there is room again".to_owned());
    }
    log.check(&mut journal)
}

#[test]
fn full_is_reported_before_anything_is_written_and_nothing_is_dropped() {
    fill().unwrap();
}

#[test]
fn segments_in_quarantine_count_and_make_room_the_oldest_first() {
    let files = FaultFiles::new(1);
    let limited = crate::journal::Options { max_bytes: 4 * SEGMENT_BYTES, ..options() };
    let mut journal = Journal::open(files.clone(), limited.clone()).unwrap();
    let mut sets = Sets::new(1);
    let quarantined = || files.contents().into_keys().filter(|name| name.ends_with(".quarantine")).count();
    while journal.segments().len() < 3 {
        journal.append(&[sets.one()]).unwrap();
    }
    for number in [1, 2] {
        let record = journal.records().find(|record| record.segment == number).unwrap().clone();
        let name = format!("{number:020}.segment");
        let mut data = files.contents()[&name].clone();
        data[record.position as usize + 70] ^= 1;
        files.put(&name, data);
        journal.read(&record).unwrap_err();
        journal.remove_segment(number).unwrap();
    }
    let used = journal.usage();
    assert_eq!((used.bytes, used.quarantined, quarantined()), (files_bytes(&files), 2, 2));
    drop(journal);
    let mut journal = Journal::open(files.clone(), limited).unwrap();
    assert_eq!((journal.usage().bytes, journal.usage().quarantined), (files_bytes(&files), 2));

    // Both are deleted before it is full, the older one first, and no record is.
    let mut log = Log::default();
    let mut left = Vec::new();
    loop {
        let one = [sets.one()];
        match journal.append(&one) {
            Ok(()) => log.acknowledged.extend(super::Plain::all(&one)),
            Err(error) => {
                assert!(matches!(error, AppendError::Full { limit: Limit::MaxBytes, .. }), "{error}");
                break;
            }
        }
        assert!(journal.usage().bytes <= 4 * SEGMENT_BYTES);
        let names = files.contents().into_keys().filter(|name| name.ends_with(".quarantine"));
        left.push(names.collect::<Vec<_>>());
    }
    left.dedup();
    let name = |number: u64| format!("{number:020}.quarantine");
    let expected = [vec![name(1), name(2)], vec![name(2)], vec![]];
    assert!(left.iter().all(|names| expected.contains(names)) && left.last() == Some(&vec![]), "{left:?}");
    let delivered = delivered(&mut journal);
    assert!(log.acknowledged.iter().all(|set| delivered.contains(set)));
    assert_eq!(journal.usage().quarantined, 2);
}

/// The size of the segments, including those in quarantine.
fn files_bytes(files: &FaultFiles) -> u64 {
    files.contents().iter().filter(|(name, _)| name.contains('.')).map(|(_, data)| data.len() as u64).sum()
}

#[test]
fn a_segment_that_cannot_be_opened_is_damage_to_who_looks_and_one_that_is_gone_is_not() {
    const EACCES: i32 = 13;
    let files = FaultFiles::new(1);
    let (mut journal, mut sets, mut log) = (open(&files), Sets::new(1), Log::default());
    while journal.segments().len() < 4 {
        assert!(log.append(&mut journal, &sets.some()));
    }
    let segments = journal.segments();
    let directory = std::path::Path::new("/journal");
    let inspection = Inspection::open(files.clone(), directory).unwrap();
    for (nth, segment) in (0..).zip(&segments) {
        for errno in [EACCES, EIO] {
            files.fail(Fault { call: Call::Open, nth: files.count(Call::Open) + nth, times: 1, errno });
            let whole = Damage { segment: segment.number, from: 0, until: segment.bytes, what: DamageKind::Unreadable };
            assert_eq!(inspection.verify(|_| {}), [whole]);
            files.heal();
        }
    }
    assert_eq!(inspection.verify(|_| {}), []);

    files.deny(&format!("{:020}.segment", segments[1].number));
    let looking = Inspection::open(files.clone(), directory).unwrap();
    let unreadable = Damage { segment: segments[1].number, from: 0, until: 0, what: DamageKind::Unreadable };
    assert_eq!((looking.damage(), looking.verify(|_| {})), ([unreadable.clone()].as_slice(), vec![unreadable]));
    assert_eq!(looking.records().count(), journal.records().filter(|r| r.segment != segments[1].number).count());

    files.heal();
    journal.remove_segment(segments[0].number).unwrap();
    assert_eq!(inspection.verify(|_| {}), [], "the worker has removed it");
}

#[test]
fn a_place_that_cannot_be_read_is_damage_and_the_rest_is_delivered() {
    let files = FaultFiles::new(1);
    let (mut journal, mut sets, mut log) = (open(&files), Sets::new(1), Log::default());
    for _ in 0..10 {
        assert!(log.append(&mut journal, &sets.some()));
    }
    let records: Vec<_> = journal.records().cloned().collect();
    // The window, and the page after it.
    files.fail(Fault { call: Call::Read, nth: files.count(Call::Read), times: 4, errno: EIO });
    let error = journal.read(&records[0]).unwrap_err();
    assert!(matches!(&error, ReadError::Damaged(damage) if damage.what == DamageKind::Unreadable), "{error}");
    files.heal();
    assert_eq!(journal.damage().len(), 1);
    assert_eq!(delivered(&mut journal).len(), records.len() - 1);
    assert!(matches!(journal.read(&records[0]), Err(ReadError::Gone { .. })));
}

/// A disk that cannot read for a while: nothing is cut off or removed because of it.
#[test]
fn what_cannot_be_read_at_one_opening_is_there_at_the_next() {
    for seed in 0..4 {
        let files = FaultFiles::new(seed);
        let (mut journal, mut sets, mut log) = (open(&files), Sets::new(seed), Log::default());
        for _ in 0..8 {
            assert!(log.append(&mut journal, &sets.some()));
        }
        drop(journal);
        let reads = {
            let copy = files.copy();
            open(&copy);
            copy.count(Call::Read)
        };
        for nth in 0..reads {
            for times in [1, 2, 5, 1000] {
                let (files, mut log) = (files.copy(), log.clone());
                files.fail(Fault { call: Call::Read, nth, times, errno: EIO });
                if let Ok(mut journal) = Journal::open(files.clone(), options()) {
                    let shown: u64 = journal.usage().records;
                    assert!(shown == log.acknowledged.len() as u64 || !journal.damage().is_empty(), "{nth}, {times}");
                    assert!(log.append(&mut journal, &[sets.one()]));
                }
                files.heal();
                files.restart();
                let mut journal = open(&files);
                log.check(&mut journal).unwrap_or_else(|error| panic!("seed {seed}, read {nth} x{times}: {error}"));
            }
        }
    }
}

#[test]
fn opening_reads_headers_and_not_bodies() {
    let files = FaultFiles::new(1);
    let large = crate::journal::Options { segment_bytes: 1 << 20, ..options() };
    let mut journal = Journal::open(files.clone(), large.clone()).unwrap();
    let (mut sets, mut log) = (Sets::new(1), Log::default());
    sets.payload = 100_000;
    while journal.segments().len() < 6 {
        assert!(log.append(&mut journal, &[sets.one()]));
    }
    drop(journal);
    let bytes: usize = files.contents().values().map(Vec::len).sum();
    let before = files.bytes_read();
    let mut journal = Journal::open(files.clone(), large).unwrap();
    let read = files.bytes_read() - before;
    println!("{read} of {bytes} bytes read for {} records", journal.records().count());
    // What 100 MiB have room for is over a million records.
    assert!(size_of::<Record>() <= 80, "{} bytes a record in memory", size_of::<Record>());
    // The whole last segment, and the headers of the others.
    assert!(read < (1 << 20) + (1 << 17), "{read} of {bytes}");
    log.check(&mut journal).unwrap();
}

/// A slow topic gives sets of few messages, and each record takes memory: sets that wait together are one record per
/// partition.
#[test]
fn small_sets_that_wait_together_are_one_record_of_each_partition() {
    let files = FaultFiles::new(1);
    let large = crate::journal::Options { segment_bytes: 1 << 20, ..options() };
    let mut journal = Journal::open(files.clone(), large.clone()).unwrap();
    let sets: Vec<_> = (0..1000).map(|number| small_set(number % 8, number / 8)).collect();
    journal.append(&sets).unwrap();
    assert_eq!(journal.records().map(|record| record.messages).collect::<Vec<_>>(), [125; 8]);
    let delivered = delivered(&mut journal);
    drop(journal);
    let before = files.count(Call::Read);
    let mut journal = Journal::open(files.clone(), large).unwrap();
    assert_eq!(super::delivered(&mut journal), delivered);
    assert!(files.count(Call::Read) - before < 100);
}

fn small_set(partition: i64, offset: i64) -> MessageSet {
    let mut builder = MessageSetBuilder::new(super::source(0), partition as i32, offset);
    builder.push(&RawMessage { offset, payload: Some(b"{}"), ..RawMessage::default() });
    builder.build(None)
}

#[test]
fn one_write_and_one_sync_for_all_small_sets() {
    let files = FaultFiles::new(1);
    let large = crate::journal::Options { segment_bytes: 1 << 20, ..options() };
    let mut journal = Journal::open(files.clone(), large).unwrap();
    let mut sets = Sets::new(1);
    journal.append(&[sets.one()]).unwrap();
    let count = || [Call::Write, Call::Sync, Call::SyncDirectory, Call::Create].map(|call| files.count(call));
    let before = count();
    sets.payload = 0;
    let many: Vec<_> = (0..6).map(|_| sets.one()).collect();
    journal.append(&many).unwrap();
    let [write, sync, directory, create] = before;
    assert_eq!(count(), [write + 1, sync + 1, directory, create]);
}
