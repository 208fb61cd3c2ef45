use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::message::{Limits, Reason};
use crate::raw::Partition;
use crate::raw::{Kind, MessageSetBuilder, Source, headers};

fn decoder() -> Decoder {
    let limits = Limits {
        max_bytes: 1 << 20,
        max_points: 1000,
        max_name_bytes: 100,
        min_us: i64::MIN,
        max_us: i64::MAX,
        deny_unknown_fields: false,
    };
    Decoder::new(limits, crate::input::Inputs::default())
}

fn source(topic: &str) -> Arc<Source> {
    Arc::new(Source { kind: Kind::Points, cluster_id: "c".into(), topic: topic.into(), topic_id: "t".into() })
}

/// A set of `[from, until)` with a message at each of the offsets; its one point has the offset as its time.
fn set(source: &Arc<Source>, partition: i32, from: i64, until: i64, offsets: &[i64]) -> MessageSet {
    let mut builder = MessageSetBuilder::new(Arc::clone(source), partition, from);
    for offset in offsets {
        let payload = format!(
            r#"{{"time_series_id":"p{partition}","timestamp_unit":"us","timestamps":[{offset}],"columns":{{"c":[1]}}}}"#
        );
        builder.push(&RawMessage {
            offset: *offset,
            time_ms: Some(*offset),
            key: Some(b"k"),
            payload: Some(payload.as_bytes()),
            headers: None,
        });
    }
    builder.extend_to(until);
    builder.build(None)
}

fn times(batch: &Batch) -> Vec<i64> {
    let mut times: Vec<i64> = (0..batch.points().len()).map(|index| batch.points().time_of(index)).collect();
    times.sort_unstable();
    times
}

fn spans(batch: &Batch) -> Vec<(i32, i64, i64)> {
    batch.intervals().iter().map(|interval| (interval.partition.number, interval.from, interval.until)).collect()
}

#[test]
fn intervals_that_touch_are_one() {
    let source = source("t");
    let mut batch = Batch::new(decoder());
    for (partition, from, until, offsets) in
        [(1, 20, 30, vec![25]), (0, 0, 10, vec![3]), (1, 10, 20, vec![]), (0, 12, 13, vec![12])]
    {
        batch.push(set(&source, partition, from, until, &offsets));
    }
    assert_eq!(spans(&batch), [(0, 0, 10), (0, 12, 13), (1, 10, 30)]);
    assert_eq!(times(&batch), [3, 12, 25]);
    assert_eq!(batch.oldest_ms(), Some(3));
}

#[test]
fn a_missing_part_is_kept() {
    let source = source("t");
    let mut batch = Batch::new(decoder());
    batch.push(set(&source, 0, 0, 10, &[1, 4, 8]));
    let interval = |from, until| Interval { partition: Partition::new(Arc::clone(&source), 0), from, until };
    let kept = batch.keep(&[interval(2, 5), interval(9, 10)]);
    assert_eq!(times(&kept), [4]);
    assert_eq!(spans(&kept), [(0, 2, 5), (0, 9, 10)]);
    let mut twice = Batch::new(decoder());
    for (from, until, offsets) in [(5, 12, vec![5, 8, 11]), (0, 10, vec![1, 4, 8]), (6, 9, vec![8])] {
        twice.push(set(&source, 0, from, until, &offsets));
    }
    let kept = twice.keep(&[interval(4, 20)]);
    assert_eq!(times(&kept), [4, 8, 11], "an offset that is there more than once is kept once");
    assert_eq!(spans(&kept), [(0, 4, 12)]);
    let other = Interval { partition: Partition::new(Arc::clone(&source), 1), ..interval(0, 10) };
    assert!(batch.keep(&[other]).is_empty());
}

#[test]
fn a_single_message_becomes_a_dead_letter() {
    let mut batch = Batch::new(decoder());
    batch.push(set(&source("t"), 0, 5, 10, &[7]));
    assert_eq!(batch.split_into(2).len(), 1);
    let rejected = Rejected { reason: Reason::RejectedByDatabase, detail: "SQLSTATE 23514".into() };
    let dead = batch.into_dead_letter(rejected);
    assert!(dead.points().is_empty());
    let [letter] = dead.dead_letters() else { panic!("one dead letter") };
    assert_eq!((letter.at.offset, letter.rejected.reason), (7, Reason::RejectedByDatabase));
    assert_eq!(spans(&dead), [(0, 5, 10)]);
}

#[test]
fn what_cannot_be_read_is_a_dead_letter_and_the_rest_goes_on() {
    let source = source("t");
    let mut builder = MessageSetBuilder::new(Arc::clone(&source), 0, 0);
    let long = vec![b'x'; DEAD_LETTER_PAYLOAD_BYTES + 1];
    let good: &[u8] = br#"{"time_series_id":"s","timestamps":[0],"columns":{"c":[1]}}"#;
    for (offset, payload) in (0..).zip([Some(b"{".as_slice()), None, Some(good), Some(&long)]) {
        builder.push(&RawMessage { offset, time_ms: None, key: None, payload, ..RawMessage::default() });
    }
    let mut batch = Batch::new(decoder());
    let counts = batch.push(builder.build(None));
    assert_eq!(
        counts,
        Counts {
            point_batches: 1,
            series_deletes: 0,
            series_creates: 0,
            tombstones: 1,
            skipped: 0,
            rejected: 2,
            rejected_last: 1,
            unknown_fields: 0
        }
    );
    assert_eq!((batch.points().len(), batch.message_count()), (1, 4));
    let letters: Vec<(i64, usize, usize)> = batch
        .dead_letters()
        .iter()
        .map(|letter| (letter.at.offset, letter.payload.as_ref().map_or(0, Vec::len), letter.payload_bytes))
        .collect();
    assert_eq!(letters, [(0, 1, 1), (3, DEAD_LETTER_PAYLOAD_BYTES, DEAD_LETTER_PAYLOAD_BYTES + 1)]);
}

#[test]
fn key_and_headers_are_checked_except_for_a_tombstone() {
    let newer = headers::encode([(crate::input::VERSION_HEADER.as_bytes(), Some(&b"2"[..]))]);
    let long = vec![b'k'; DEAD_LETTER_PAYLOAD_BYTES + 1];
    let payload: &[u8] = br#"{"time_series_id":"s","timestamps":[0],"columns":{"c":[1]},"a":0,"b":0}"#;
    let mut builder = MessageSetBuilder::new(source("t"), 0, 0);
    for (offset, payload, headers) in
        [(0, Some(payload), None), (1, Some(payload), Some(&newer)), (2, None, Some(&newer))]
    {
        let headers = headers.and_then(Option::as_deref);
        builder.push(&RawMessage { offset, time_ms: None, key: Some(&long), payload, headers });
    }
    let mut batch = Batch::new(decoder());
    let counts = batch.push(builder.build(None));
    assert_eq!(
        counts,
        Counts {
            point_batches: 1,
            series_deletes: 0,
            series_creates: 0,
            tombstones: 1,
            skipped: 0,
            rejected: 1,
            rejected_last: 1,
            unknown_fields: 2
        }
    );
    let [letter] = batch.dead_letters() else { panic!("one dead letter") };
    assert_eq!(
        (letter.at.offset, letter.rejected.reason, letter.headers.as_ref()),
        (1, Reason::Schema, newer.as_ref())
    );
    let key = letter.key.as_ref().map(Vec::len);
    assert_eq!((key, letter.key_bytes), (Some(DEAD_LETTER_PAYLOAD_BYTES), Some(DEAD_LETTER_PAYLOAD_BYTES + 1)));
    assert_eq!(letter.headers_bytes, newer.as_ref().map(Vec::len));
}

#[test]
fn memory_is_charged_until_the_last_part_is_gone() {
    let budget = Budget::new(1 << 20);
    let mut builder = MessageSetBuilder::new(source("t"), 0, 0);
    for offset in 0..10 {
        builder.push(&RawMessage {
            offset,
            time_ms: None,
            key: None,
            payload: Some(&[b' '; 1000]),
            ..RawMessage::default()
        });
    }
    let set = builder.build(Some(&budget));
    assert!(budget.used() > 10_000);
    let part = set.clip(3, 4).unwrap();
    let used = budget.used();
    drop(set);
    assert_eq!(budget.used(), used);
    drop(part);
    assert_eq!(budget.used(), 0);
}

proptest! {
    /// Repeated halving loses and duplicates nothing, and the positions between messages stay covered.
    #[test]
    fn halves_cover_what_the_whole_covers(
        offsets in prop::collection::btree_set(0_i64..100, 1..40),
        cuts in prop::collection::btree_set(1_i64..100, 0..5),
    ) {
        let source = source("t");
            let mut whole = Batch::new(decoder());
        let mut from = 0;
        for until in cuts.into_iter().chain([100]) {
            let inside: Vec<i64> = offsets.range(from..until).copied().collect();
            whole.push(set(&source, 0, from, until, &inside));
            from = until;
        }
        let mut left = vec![whole];
        let (mut seen, mut covered) = (Vec::new(), BTreeSet::new());
        while let Some(batch) = left.pop() {
            match batch.split_into(2) {
                halves if halves.len() == 2 => {
                    prop_assert!(halves.iter().all(|half| half.message_count() > 0));
                    left.extend(halves);
                }
                _ => {
                    seen.extend(times(&batch));
                    for (_, from, until) in spans(&batch) {
                        for position in from..until {
                            prop_assert!(covered.insert(position), "{} is covered twice", position);
                        }
                    }
                }
            }
        }
        seen.sort_unstable();
        prop_assert_eq!(seen, offsets.into_iter().collect::<Vec<_>>());
        prop_assert_eq!(covered, (0..100).collect::<BTreeSet<i64>>());
    }
}

/// A batch of messages of different numbers of points in several sets, with positions without a message.
fn uneven(sets: &[Vec<usize>]) -> Batch {
    let source = source("t");
    let mut batch = Batch::new(decoder());
    let mut offset = 0;
    for messages in sets {
        let mut builder = MessageSetBuilder::new(Arc::clone(&source), 0, offset);
        for points in messages {
            let times: Vec<i64> = (0..*points as i64).map(|n| offset * 100 + n).collect();
            let payload = serde_json::json!({
                "time_series_id": "s", "timestamp_unit": "us", "timestamps": times, "columns": {"c": vec![1; times.len()]},
            });
            let payload = payload.to_string();
            builder.push(&RawMessage {
                offset,
                time_ms: None,
                key: None,
                payload: Some(payload.as_bytes()),
                ..RawMessage::default()
            });
            offset += 2;
        }
        builder.extend_to(offset);
        batch.push(builder.build(None));
    }
    batch
}

proptest! {
    #[test]
    fn pieces_cover_together_what_the_batch_covers(
        sets in prop::collection::vec(prop::collection::vec(0_usize..4, 0..6), 0..6), count in 1_usize..9
    ) {
            let batch = uneven(&sets);
        let pieces = batch.split_into(count);
        prop_assert!(pieces.len() <= count.max(1));
        prop_assert_eq!(pieces.iter().flat_map(times).collect::<Vec<_>>(), times(&batch));
        let sizes: Vec<usize> = pieces.iter().map(Batch::message_count).collect();
        prop_assert_eq!(sizes.iter().sum::<usize>(), batch.message_count());
        let mut together = Batch::new(decoder());
        for set in pieces.iter().flat_map(|piece| piece.sets()) {
            together.push(set.clone());
        }
        prop_assert_eq!(spans(&together), spans(&batch));
    }

    #[test]
    fn a_message_is_taken_out_by_its_number_or_by_one_of_its_points(
        sets in prop::collection::vec(prop::collection::vec(0_usize..4, 1..6), 1..6), number in 0_usize..30
    ) {
            let batch = uneven(&sets);
        let points: Vec<usize> = sets.concat();
        let number = number % points.len();
        let mut index = 0;
        for (message, count) in points.iter().enumerate() {
            for _ in 0..*count {
                prop_assert_eq!(batch.message_of_point(index), Some(message));
                index += 1;
            }
        }
        prop_assert_eq!(batch.message_of_point(index), None);
        let rejected = Rejected { reason: Reason::RejectedByDatabase, detail: String::new() };
        let offset = batch.dead_letter_of(number, rejected.clone()).map(|letter| letter.at.offset);
        prop_assert_eq!(offset, Some(2 * number as i64));
        prop_assert!(batch.dead_letter_of(points.len(), rejected).is_none());
        let Some((rest, alone)) = batch.without_message(number) else {
            prop_assert_eq!(points.len(), 1);
            return Ok(());
        };
        prop_assert_eq!((rest.message_count(), alone.message_count()), (points.len() - 1, 1));
        let of_message: Vec<i64> = (0..points[number] as i64).map(|n| 2 * number as i64 * 100 + n).collect();
        prop_assert_eq!(times(&alone), of_message.clone());
        let others: Vec<i64> = times(&batch).into_iter().filter(|time| !of_message.contains(time)).collect();
        prop_assert_eq!(times(&rest), others);
    }
}

#[test]
fn what_is_set_aside_and_what_stays_cover_the_batch() {
    let source = source("t");
    let mut batch = Batch::new(decoder());
    batch.push(set(&source, 0, 0, 10, &[1, 3, 5, 7]));
    batch.push(set(&source, 0, 10, 12, &[]));
    batch.push(set(&source, 1, 0, 5, &[0, 4]));
    /// Partition, first offset and the offset after the last.
    type Parts = Vec<(i32, i64, i64)>;
    let table: [([bool; 6], Parts, Parts); 4] = [
        ([false; 6], vec![(0, 0, 12), (1, 0, 5)], vec![]),
        ([true; 6], vec![(0, 10, 12)], vec![(0, 0, 10), (1, 0, 5)]),
        (
            [true, false, true, true, false, true],
            vec![(0, 3, 5), (0, 10, 12), (1, 0, 4)],
            vec![(0, 0, 3), (0, 5, 10), (1, 4, 5)],
        ),
        ([false, false, false, true, false, false], vec![(0, 0, 7), (0, 10, 12), (1, 0, 5)], vec![(0, 7, 10)]),
    ];
    for (aside, stays, waits) in table {
        let (others, sets) = batch.set_aside(&aside);
        assert_eq!(spans(&others), stays);
        let waiting: Vec<(i32, i64, i64)> =
            sets.iter().map(MessageSet::interval).map(|one| (one.partition.number, one.from, one.until)).collect();
        assert_eq!(waiting, waits);
        assert_eq!(others.message_count(), aside.iter().filter(|aside| !**aside).count());
        let budget = Budget::new(1 << 20);
        for set in &sets {
            let copy = set.detached(&budget);
            assert_eq!(copy.interval(), set.interval());
            assert_eq!(copy.messages().collect::<Vec<_>>(), set.messages().collect::<Vec<_>>());
        }
    }
}

#[test]
fn after_too_many_holes_the_rest_of_a_partition_is_set_aside() {
    let source = source("t");
    let mut batch = Batch::new(decoder());
    let count = 4 * MAX_HOLES as i64;
    batch.push(set(&source, 0, 0, count, &(0..count).collect::<Vec<_>>()));
    batch.push(set(&source, 1, 0, 1, &[0]));
    let aside: Vec<bool> = (0..=count).map(|number| number % 2 == 1 && number < count).collect();
    let (others, sets) = batch.set_aside(&aside);
    assert_eq!(sets.len(), MAX_HOLES);
    assert_eq!(sets.last().unwrap().interval().until, count);
    assert_eq!(others.intervals().len(), MAX_HOLES + 1);
    assert_eq!(others.message_count() + sets.iter().map(MessageSet::len).sum::<usize>(), batch.message_count());
}

#[test]
fn messages_are_found_by_their_place() {
    let source = source("t");
    let mut batch = Batch::new(decoder());
    batch.push(set(&source, 0, 0, 10, &[1, 3]));
    batch.push(set(&source, 1, 0, 10, &[1, 3]));
    let at = |partition, offset| MessageAt {
        partition: Partition::new(Arc::clone(&source), partition),
        offset,
        time_ms: None,
    };
    let found = [at(0, 1), at(0, 3), at(1, 3), at(1, 2), at(2, 1)].map(|at| batch.number_of(&at));
    assert_eq!(found, [Some(0), Some(1), Some(3), None, None]);
}
