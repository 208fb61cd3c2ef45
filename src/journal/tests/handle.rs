//! The journal's thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::fault_files::{Call, Fault, FaultFiles};
use super::{Plain, SEGMENT_BYTES, Sets, open, options};
use crate::journal::encoders::{FAST_WINDOW_BYTES, FLOOD_WINDOW_BYTES, Pace, WINDOW};
use crate::journal::payload::{Compression, Encoder, runs};
use crate::journal::{AppendError, Journal, JournalHandle, ReadError};

#[tokio::test]
async fn callers_append_together_and_read_and_remove() {
    let files = FaultFiles::new(1);
    let large = crate::journal::Options { segment_bytes: 1 << 20, ..options() };
    let mut journal = Journal::open(files.clone(), large).unwrap();
    let syncs = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&syncs);
    journal.observe_syncs(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let handle = JournalHandle::start(journal).unwrap();
    let mut sets = Sets::new(1);
    let mut expected = Vec::new();
    let mut callers = Vec::new();
    for _ in 0..100 {
        let some = sets.some();
        expected.extend(Plain::all(&some));
        let handle = handle.clone();
        callers.push(tokio::spawn(async move { handle.append(some).await }));
    }
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    assert_eq!(handle.usage().records, expected.len() as u64);
    println!("{} syncs for 100 appends", syncs.load(Ordering::Relaxed));
    let mut read = Vec::new();
    let records = handle.records().await.unwrap();
    for record in &records {
        read.push(Plain::of(&handle.read(record.clone()).await.unwrap()));
    }
    read.sort();
    expected.sort();
    assert_eq!(read, expected);
    let segments = handle.segments().await.unwrap().iter().map(|segment| segment.number).collect();
    handle.remove_segments(segments).await;
    assert_eq!((handle.usage().records, handle.usage().bytes), (0, 0));
    assert!(matches!(handle.read(records[0].clone()).await, Err(ReadError::Gone { .. })));
    assert_eq!(handle.damage().await.unwrap(), []);
    assert!(!handle.has_ended());
    handle.close().await;
    // The lock is free, and the handle says that it is closed.
    open(&files);
    assert!(matches!(handle.append(sets.some()).await, Err(AppendError::Unavailable(_))));
}

#[tokio::test]
async fn all_callers_of_a_failed_write_get_its_error() {
    let files = FaultFiles::new(1);
    let handle = JournalHandle::start(open(&files)).unwrap();
    files.fail(Fault { call: Call::Sync, nth: files.count(Call::Sync), times: 1000, errno: 5 });
    let mut sets = Sets::new(1);
    let (a, b) = tokio::join!(handle.append(sets.some()), handle.append(sets.some()));
    for result in [a, b] {
        assert!(matches!(result, Err(AppendError::Unavailable(error)) if error.raw_os_error() == Some(5)));
    }
    files.heal();
    handle.append(sets.some()).await.unwrap();
}

/// A thread that has ended by a fault knows nothing; that is not the same as an empty journal.
#[tokio::test]
async fn a_thread_that_has_ended_is_distinguished_from_an_empty_journal() {
    let mut journal = open(&FaultFiles::new(1));
    journal.observe_syncs(|_| panic!("an internal error"));
    let handle = JournalHandle::start(journal).unwrap();
    assert_eq!(handle.records().await.map(|records| records.len()), Some(0));
    assert!(matches!(handle.append(Sets::new(1).some()).await, Err(AppendError::Unavailable(_))));
    assert!(handle.records().await.is_none());
    assert!(handle.has_ended());
    assert!(handle.segments().await.is_none() && handle.damage().await.is_none());
}

/// One append that there is room for is not refused because of another one that waits alongside it.
#[tokio::test]
async fn where_there_is_no_room_for_all_that_wait_there_is_for_some() {
    let files = FaultFiles::new(1);
    let limited = crate::journal::Options { max_bytes: 2 * SEGMENT_BYTES, ..options() };
    let handle = JournalHandle::start(Journal::open(files, limited).unwrap()).unwrap();
    let mut sets = Sets::new(1);
    let many: Vec<_> = (0..200).map(|_| sets.one()).collect();
    let (large, small) = tokio::join!(handle.append(many), handle.append(vec![sets.one()]));
    assert!(matches!(large, Err(AppendError::Full { .. })), "{large:?}");
    small.unwrap();
    assert_eq!(handle.usage().records, 1);
}

#[test]
fn more_is_compressed_less() {
    let start = Instant::now();
    let mut pace = Pace::new(start);
    let tenth = FAST_WINDOW_BYTES / 10;
    // Exactly as much as a window may have, window after window.
    for tenths in 0..50 {
        assert_eq!(pace.add(tenth, start + WINDOW / 10 * tenths), Compression::Compact, "{tenths}");
    }
    // Twice as much: known when the window's share is used up, and kept from window to window.
    let start = start + WINDOW * 5;
    for twentieths in 0..50 {
        let effort = pace.add(tenth, start + WINDOW / 20 * twentieths);
        assert_eq!(effort, if twentieths < 10 { Compression::Compact } else { Compression::Fast }, "{twentieths}");
    }
    // A pause is a window in which little came.
    assert_eq!(pace.add(tenth, start + WINDOW * 60), Compression::Compact);
    assert_eq!(pace.add(FAST_WINDOW_BYTES, start + WINDOW * 60), Compression::Fast);
    assert_eq!(pace.add(FLOOD_WINDOW_BYTES, start + WINDOW * 60), Compression::Off);
    assert_eq!(pace.add(1, start + WINDOW * 61), Compression::Off);
    assert_eq!(pace.add(1, start + WINDOW * 62), Compression::Compact);
}

#[test]
fn what_is_compressed_fast_or_not_at_all_is_read_like_the_rest() {
    let files = FaultFiles::new(1);
    let mut journal = Journal::open(files, crate::journal::Options { segment_bytes: 1 << 20, ..options() }).unwrap();
    let mut encoder = Encoder::new().unwrap();
    let mut sets = Sets::new(2);
    let mut expected = Vec::new();
    for number in 0..40 {
        encoder.set_effort([Compression::Fast, Compression::Compact, Compression::Off][number % 3]).unwrap();
        let some = sets.some();
        expected.extend(Plain::all(&some));
        for run in runs(some) {
            journal.append_encoded(&mut [encoder.encode(&run, Vec::new()).unwrap()]).unwrap();
        }
    }
    let records: Vec<_> = journal.records().cloned().collect();
    let mut read: Vec<_> = records.iter().map(|record| Plain::of(&journal.read(record).unwrap())).collect();
    read.sort();
    expected.sort();
    assert_eq!(read, expected);
}
