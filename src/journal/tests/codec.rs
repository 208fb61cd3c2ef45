//! Payloads: what goes in comes out, and any bytes are survived.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::{Plain, source};
use crate::journal::format::{COMPRESSED, RecordHeader, RecordKind, SegmentHeader, decode_journal};
use crate::journal::payload::{Encoded, Encoder, decode, decode_source, encode_source, runs};
use crate::raw::{MessageSet, MessageSetBuilder, RawMessage};

fn header(encoded: &Encoded) -> RecordHeader {
    RecordHeader {
        payload_bytes: encoded.payload().len() as u32,
        kind: RecordKind::Messages,
        flags: encoded.flags,
        sequence: 7,
        from: encoded.from,
        until: encoded.until,
        source: 1,
        partition: encoded.partition,
        messages: encoded.messages,
        uncompressed_bytes: encoded.uncompressed_bytes,
        oldest_ms: encoded.oldest_ms,
        payload_crc: 3,
    }
}

fn any_set() -> impl Strategy<Value = MessageSet> {
    let part = || option::of(vec(any::<u8>(), 0..40));
    let message = (0..3i64, option::of(0..i64::MAX), part(), option::of(vec(0..3u8, 0..400)), part());
    (0..2usize, 0..i32::MAX, 0..i64::MAX / 2, vec(message, 0..20), 0..5i64).prop_map(
        |(number, partition, from, messages, behind)| {
            let mut builder = MessageSetBuilder::new(source(number), partition, from);
            for (skip, time_ms, key, payload, headers) in &messages {
                let offset = builder.until() + skip;
                builder.push(&RawMessage {
                    offset,
                    time_ms: *time_ms,
                    key: key.as_deref(),
                    payload: payload.as_deref(),
                    headers: headers.as_deref(),
                });
            }
            builder.extend_to(builder.until() + behind);
            builder.build(None)
        },
    )
}

proptest! {
    #[test]
    fn a_set_comes_back_as_it_was(set in any_set()) {
        let encoded = Encoder::new().unwrap().encode(std::slice::from_ref(&set), Vec::new()).unwrap();
        prop_assert!(encoded.payload().len() <= encoded.uncompressed_bytes as usize);
        let decoded = decode(&header(&encoded), encoded.payload());
        prop_assert_eq!(decoded.as_ref().map(Plain::of), Some(Plain::of(&set)));
        prop_assert_eq!(encoded.oldest_ms, set.messages().filter_map(|m| m.time_ms).min().unwrap_or(-1));
        let header = header(&encoded);
        prop_assert_eq!(RecordHeader::decode(&header.encode(5), || 5), Some(header));
        prop_assert_eq!(RecordHeader::decode(&header.encode(5), || 6), None);
    }

    #[test]
    fn a_part_of_a_set_comes_back_as_that_part(set in any_set(), from in 0..30i64, length in 1..30i64) {
        let start = set.interval().from;
        if let Some(part) = set.clip(start + from, start + from + length) {
            let encoded = Encoder::new().unwrap().encode(std::slice::from_ref(&part), Vec::new()).unwrap();
            prop_assert_eq!(decode(&header(&encoded), encoded.payload()).as_ref().map(Plain::of), Some(Plain::of(&part)));
        }
    }

    #[test]
    fn the_parts_of_a_set_come_back_as_the_whole(set in any_set(), cuts in vec(0..30i64, 0..4)) {
        let interval = set.interval();
        let mut ends: Vec<i64> = cuts.iter().map(|cut| interval.from + cut).chain([interval.until]).collect();
        ends.sort_unstable();
        let mut parts = Vec::new();
        for end in ends {
            let from = parts.last().map_or(interval.from, |part: &MessageSet| part.interval().until);
            parts.extend(set.clip(from, end));
        }
        let runs = runs(parts);
        prop_assert_eq!(runs.len(), usize::from(interval.from < interval.until));
        for run in runs {
            let encoded = Encoder::new().unwrap().encode(&run, Vec::new()).unwrap();
            prop_assert_eq!(decode(&header(&encoded), encoded.payload()).as_ref().map(Plain::of), Some(Plain::of(&set)));
        }
    }

    #[test]
    fn changed_payloads_and_headers_are_survived(
        set in any_set(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        uncompressed_bytes in any::<u32>(),
        messages in any::<u32>(),
        flags in 0..3u16,
        which in 0..4u8,
    ) {
        let encoded = Encoder::new().unwrap().encode(std::slice::from_ref(&set), Vec::new()).unwrap();
        let mut payload = encoded.payload().to_vec();
        for (at, byte) in changes {
            let at = at.index(payload.len());
            payload[at] = byte;
        }
        let mut header = header(&encoded);
        match which {
            0 => header.uncompressed_bytes = uncompressed_bytes,
            1 => header.messages = messages,
            2 => header.flags = flags,
            _ => {}
        }
        let _ = decode(&header, &payload);
    }

    #[test]
    fn any_bytes_are_survived(
        payload in vec(any::<u8>(), 0..300),
        head in prop::array::uniform32(any::<u8>()),
        tail in prop::array::uniform32(any::<u8>()),
        is_compressed in any::<bool>(),
        (from, until, messages, uncompressed_bytes) in (any::<i64>(), any::<i64>(), any::<u32>(), any::<u32>()),
    ) {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&head);
        bytes[32..].copy_from_slice(&tail);
        prop_assert_eq!(RecordHeader::decode(&bytes, || 1), None);
        prop_assert_eq!(SegmentHeader::decode(&bytes), None);
        prop_assert!(decode_journal(&bytes).is_err());
        let header = RecordHeader {
            payload_bytes: payload.len() as u32,
            kind: RecordKind::Messages,
            flags: if is_compressed { COMPRESSED } else { 0 },
            sequence: 1, from, until, source: 1, partition: 0, messages, uncompressed_bytes, oldest_ms: -1, payload_crc: 0,
        };
        prop_assert!(decode(&header, &payload).is_none());
        let _ = decode_source(&payload);
    }
}

#[test]
fn neighbours_in_a_partition_become_one_record_up_to_its_limit() {
    let set = |topic, partition, from: i64, until, payload: &[u8]| {
        let mut builder = MessageSetBuilder::new(source(topic), partition, from);
        if from < until {
            builder.push(&RawMessage {
                offset: from,
                time_ms: None,
                key: None,
                payload: Some(payload),
                ..RawMessage::default()
            });
        }
        builder.extend_to(until);
        builder.build(None)
    };
    let sets = [
        set(0, 0, 0, 2, b"a"),
        set(0, 1, 2, 3, b"b"),
        set(0, 0, 2, 2, b""),
        set(0, 0, 2, 3, b"c"),
        set(1, 0, 3, 4, b"d"),
        set(0, 0, 4, 5, b"e"),
        set(0, 0, 3, 4, b"f"),
        set(0, 1, 3, 9, b"g"),
    ];
    let ends = |run: &Vec<MessageSet>| (run[0].interval().from, run[run.len() - 1].interval().until, run.len());
    let found: Vec<_> = runs(sets).iter().map(ends).collect();
    assert_eq!(found, [(0, 3, 2), (2, 9, 2), (3, 4, 1), (4, 5, 1), (3, 4, 1)]);

    let large = vec![0; 400 << 10];
    let found: Vec<_> = runs((0..5).map(|from| set(0, 0, from, from + 1, &large))).iter().map(ends).collect();
    assert_eq!(found, [(0, 2, 2), (2, 4, 2), (4, 5, 1)]);
}

#[test]
fn a_source_comes_back_as_it_was() {
    for number in 0..2 {
        let source = source(number);
        assert_eq!(decode_source(&encode_source(&source).unwrap()).map(Arc::new), Some(source));
    }
}

/// A payload that says it is larger than what comes out of it, and one that is a bomb.
#[test]
fn lengths_are_not_believed() {
    let zeros = vec![0u8; 64 << 20];
    let bomb = zstd::bulk::compress(&zeros, 1).unwrap();
    for uncompressed_bytes in [100, u32::MAX] {
        let header = RecordHeader {
            payload_bytes: bomb.len() as u32,
            kind: RecordKind::Messages,
            flags: COMPRESSED,
            sequence: 1,
            from: 0,
            until: i64::MAX,
            source: 1,
            partition: 0,
            messages: u32::MAX,
            uncompressed_bytes,
            oldest_ms: -1,
            payload_crc: 0,
        };
        assert!(decode(&header, &bomb).is_none());
    }
}
