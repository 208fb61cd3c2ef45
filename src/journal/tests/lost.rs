//! Files that are removed, moved or truncated while the journal is in use.

use std::collections::BTreeSet;

use super::fault_files::{Call, Fault, FaultFiles};
use super::{Plain, Sets, delivered, open};
use crate::journal::{AppendError, Journal, OpenError};
use crate::raw::{Interval, MessageSet};

const EIO: i32 = 5;

/// What is done to the files between two appends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Loss {
    Directory,
    /// And another one is there.
    OtherDirectory,
    FirstSegment,
    LastSegment,
    Lock,
    JournalFile,
}

impl Loss {
    pub(super) const ALL: [Self; 6] =
        [Self::Directory, Self::OtherDirectory, Self::FirstSegment, Self::LastSegment, Self::Lock, Self::JournalFile];

    fn happen(self, files: &FaultFiles, journal: &Journal<FaultFiles>) {
        let segments = journal.segments();
        let segment = |number: u64| files.remove(&format!("{number:020}.segment"));
        match self {
            Self::Directory => files.remove_directory(),
            Self::OtherDirectory => {
                files.remove_directory();
                files.make_other();
            }
            Self::FirstSegment => segment(segments[0].number),
            Self::LastSegment => segment(segments[segments.len() - 1].number),
            Self::Lock => files.remove("LOCK"),
            Self::JournalFile => files.remove("JOURNAL"),
        }
    }
}

/// The checker: what is acknowledged after a loss is found when the directory is opened again, and what is not found of what
/// was acknowledged before was reported.
pub(super) fn lose(seed: u64, loss: Loss, is_clock_stopped: bool) -> Result<(), String> {
    let files = FaultFiles::new(seed);
    let (mut journal, mut sets) = (open(&files), Sets::new(seed));
    let mut acknowledged = Vec::new();
    let append = |journal: &mut Journal<FaultFiles>, sets: Vec<MessageSet>| {
        journal.append(&sets).map(|()| Plain::all(&sets)).map_err(|error| error.to_string())
    };
    while journal.segments().len() < 3 {
        acknowledged.extend(append(&mut journal, sets.some())?);
    }
    if is_clock_stopped {
        files.stop_clock();
    }
    loss.happen(&files, &journal);
    let after = append(&mut journal, vec![sets.one()])?;
    let more = append(&mut journal, sets.some())?;
    // Nobody else gets the directory while this process has it.
    match Journal::open(files.clone(), super::options()) {
        Err(OpenError::Locked { .. }) => {}
        other => return Err(format!("another process gets it: {other:?}")),
    }
    // An older segment is missed by the next check, while the directory's change time may show nothing.
    journal.probe().map_err(|error| error.to_string())?;
    let lost = journal.take_lost();
    if journal.usage().lost != lost.len() as u64 || !journal.take_lost().is_empty() {
        return Err("what is lost is told once".to_owned());
    }
    let is_told = |set: &Plain| {
        lost.iter().any(|Interval { partition, from, until }| {
            *partition.source == set.source
                && partition.number == set.partition
                && *from <= set.from
                && set.until <= *until
        })
    };
    let here: BTreeSet<Plain> = delivered(&mut journal).into_iter().collect();
    drop(journal);
    let mut next = open(&files);
    let found: BTreeSet<Plain> = delivered(&mut next).into_iter().collect();
    if let Some(set) = after.iter().chain(&more).find(|set| !found.contains(set) || !here.contains(set)) {
        return Err(format!("{loss:?}: lost {set:?}"));
    }
    match acknowledged.iter().find(|set| !found.contains(set) && !is_told(set)) {
        Some(set) => Err(format!("{loss:?}: lost without a word: {set:?}")),
        None => Ok(()),
    }
}

#[test]
fn what_is_acknowledged_after_a_loss_is_found_again_and_what_was_lost_is_reported() {
    for loss in Loss::ALL {
        for seed in 0..8 {
            for is_clock_stopped in [false, true] {
                lose(seed, loss, is_clock_stopped).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            }
        }
    }
}

#[test]
fn a_loss_without_an_append_is_found_by_a_look() {
    for loss in Loss::ALL {
        let files = FaultFiles::new(1);
        let (mut journal, mut sets) = (open(&files), Sets::new(1));
        while journal.segments().len() < 3 {
            journal.append(&sets.some()).unwrap();
        }
        let before: Vec<_> = journal.records().map(|record| (record.segment, record.interval())).collect();
        loss.happen(&files, &journal);
        journal.probe().unwrap();
        let lost = journal.take_lost();
        let expected: Vec<Interval> = match loss {
            Loss::Directory | Loss::OtherDirectory => before.iter().map(|(_, interval)| interval.clone()).collect(),
            Loss::FirstSegment | Loss::LastSegment => {
                let number = if matches!(loss, Loss::FirstSegment) { 1 } else { 3 };
                before.iter().filter(|(segment, _)| *segment == number).map(|(_, i)| i.clone()).collect()
            }
            Loss::Lock | Loss::JournalFile => Vec::new(),
        };
        assert_eq!(lost, expected, "{loss:?}");
        assert_eq!(journal.records().count(), before.len() - lost.len());
        if !matches!(loss, Loss::JournalFile) {
            assert!(
                matches!(Journal::open(files.clone(), super::options()), Err(OpenError::Locked { .. })),
                "{loss:?}"
            );
        }
        // And a second check finds nothing.
        journal.probe().unwrap();
        assert_eq!(journal.take_lost(), []);
        // An examination leaves nothing.
        assert!(!files.contents().contains_key("PROBE"));
    }
}

#[test]
fn a_segment_that_was_truncated_from_outside_is_found_by_a_check() {
    for number in [1_u64, 3] {
        for length in [0, 64, 300] {
            let files = FaultFiles::new(1);
            let (mut journal, mut sets) = (open(&files), Sets::new(1));
            while journal.segments().len() < 3 {
                journal.append(&sets.some()).unwrap();
            }
            let before: Vec<_> = journal.records().cloned().collect();
            files.cut(&format!("{number:020}.segment"), length);
            journal.probe().unwrap();
            let is_cut = |record: &&crate::journal::Record| {
                record.segment == number && record.position + record.bytes() > length as u64
            };
            let cut: Vec<_> = before.iter().filter(is_cut).map(crate::journal::Record::interval).collect();
            assert_eq!(journal.take_lost(), cut, "segment {number}, {length}");
            assert!(!cut.is_empty());
            assert_eq!(delivered(&mut journal).len(), before.len() - cut.len());
            journal.append(&[sets.one()]).unwrap();
        }
    }
}

#[test]
fn a_journal_that_another_process_took_takes_nothing_until_it_is_free() {
    let files = FaultFiles::new(1);
    let (mut journal, mut sets) = (open(&files), Sets::new(1));
    journal.append(&[sets.one()]).unwrap();
    files.remove("LOCK");
    let mut other = open(&files);
    let one = [sets.one()];
    for _ in 0..3 {
        let error = journal.append(&one).unwrap_err();
        assert!(matches!(&error, AppendError::Lost { why, .. } if why.contains("another process")), "{error}");
        assert!(journal.probe().is_err());
        // What it has acknowledged is still there.
        assert_eq!((journal.records().count(), journal.take_lost().len()), (1, 0));
    }
    other.append(&[sets.one()]).unwrap();
    drop(other);
    journal.append(&one).unwrap();
    assert_eq!(journal.records().count(), 3, "with what the other one has left");
    assert_eq!(journal.take_lost(), []);
}

#[test]
fn a_disk_that_cannot_be_checked_takes_nothing_and_loses_nothing() {
    let files = FaultFiles::new(1);
    let (mut journal, mut sets) = (open(&files), Sets::new(1));
    journal.append(&[sets.one()]).unwrap();
    files.fail(Fault { call: Call::Look, nth: files.count(Call::Look), times: 1000, errno: EIO });
    let one = [sets.one()];
    assert!(matches!(journal.append(&one), Err(AppendError::Unavailable(_))));
    assert!(matches!(journal.probe(), Err(AppendError::Unavailable(_))));
    files.heal();
    assert_eq!((journal.records().count(), journal.take_lost().len()), (1, 0));
    journal.append(&one).unwrap();
    journal.probe().unwrap();
}

#[test]
fn a_volume_that_never_has_room_is_reported_by_a_check_and_a_journal_that_fills_it_is_not() {
    let files = FaultFiles::new(1);
    let limited = crate::journal::Options { min_free_bytes: 10 * super::SEGMENT_BYTES, ..super::options() };
    let mut journal = Journal::open(files.clone(), limited).unwrap();
    files.set_free(11 * super::SEGMENT_BYTES - 1);
    let error = journal.probe().unwrap_err();
    assert!(error.to_string().contains("journal.min_free_bytes"), "{error}");
    assert!(matches!(error, AppendError::NoRoom { .. }));
    files.set_free(11 * super::SEGMENT_BYTES);
    journal.probe().unwrap();
    let mut sets = Sets::new(1);
    while journal.segments().len() < 2 {
        journal.append(&[sets.one()]).unwrap();
    }
    // What it takes itself is free again when it is drained.
    files.set_free(10 * super::SEGMENT_BYTES);
    let last = journal.segments()[1].number;
    journal.remove_segment(last).unwrap();
    journal.probe().unwrap();
}

/// Mostly an append asks one question more than it needs for its bytes.
#[test]
fn where_nothing_changed_one_question_is_asked() {
    let files = FaultFiles::new(1);
    let large = crate::journal::Options { segment_bytes: 1 << 20, ..super::options() };
    let mut journal = Journal::open(files.clone(), large).unwrap();
    let mut sets = Sets::new(1);
    journal.append(&[sets.one()]).unwrap();
    journal.place.settle();
    let before = (files.count(Call::Look), files.count(Call::List));
    for _ in 0..10 {
        journal.append(&[sets.one()]).unwrap();
    }
    assert_eq!((files.count(Call::Look), files.count(Call::List)), (before.0 + 10, before.1));
}
