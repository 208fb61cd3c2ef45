//! Messages cost no allocation each, once their series and columns are known: what is allocated grows with the logarithm of a
//! batch, or with its bytes. One test alone in its program, because the counter counts the whole process.
#![allow(missing_docs)]
#![expect(unsafe_code, reason = "a global allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BytesMut;
use series_ingest::batch::Batch;
use series_ingest::database::write::copy::CopyEncoder;
use series_ingest::input::{Decoder, Inputs};
use series_ingest::message::Limits;
use series_ingest::raw::Kind;
use series_ingest::raw::{Budget, MessageSetBuilder, RawMessage, Source};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all of it is the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MESSAGES: usize = 20_000;
const SERIES: usize = 100;

/// The allocations from messages as Kafka has them to the bytes of COPY.
fn allocations(decoder: &Decoder, payloads: &[String], budget: &Budget) -> usize {
    let source = Arc::new(Source {
        kind: Kind::Points,
        cluster_id: "c".to_owned(),
        topic: "t".to_owned(),
        topic_id: "i".to_owned(),
    });
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let mut builder = MessageSetBuilder::new(source, 0, 0);
    for (offset, payload) in (0..).zip(payloads) {
        let (key, payload) = (Some(&b"key"[..]), Some(payload.as_bytes()));
        builder.push(&RawMessage { offset, time_ms: Some(offset), key, payload, ..RawMessage::default() });
    }
    let mut batch = Batch::charged(decoder.clone(), budget);
    batch.push(builder.build(None));
    assert!(batch.dead_letters().is_empty());
    let order = batch.points().order();
    let mut encoder = CopyEncoder::new(batch.points(), &order);
    let mut chunk = BytesMut::with_capacity(1 << 20);
    while encoder.encode_into(&mut chunk, 1 << 19) {
        chunk.clear();
    }
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

#[test]
fn a_message_of_a_known_series_costs_no_allocation() {
    let shapes = [
        (1, r#"{"type":"point-batch","time_series_id":"SERIES","timestamps":[1735689600],"columns":{"a":[1.5]}}"#),
        (
            4,
            r#"{"type":"point-batch","time_series_id":"SERIES","timestamps":[1735689600,1735689601],"columns":{"a":[1.5,2],"b":[null,-3e-7]}}"#,
        ),
        (
            1,
            r#"{"type":"point-batch","time_series_id":"SERIES","points":[{"timestamp":"2025-01-01T00:00:00Z","column_name":"a","value":1}]}"#,
        ),
    ];
    let budget = Budget::new(1 << 30);
    for (points, shape) in shapes {
        let payloads: Vec<String> =
            (0..MESSAGES).map(|number| shape.replace("SERIES", &format!("series-{:04}", number % SERIES))).collect();
        let limits = Limits {
            max_bytes: 1 << 20,
            max_points: 100_000,
            max_name_bytes: 1024,
            min_us: 0,
            max_us: i64::MAX / 2,
            deny_unknown_fields: false,
        };
        let decoder = Decoder::new(limits, Inputs::default());
        allocations(&decoder, &payloads, &budget);
        let count = allocations(&decoder, &payloads, &budget);
        println!("{count} allocations for {MESSAGES} messages with {points} points");
        // A few for each series and column, and the growth of what holds all of them.
        assert!(count < MESSAGES / 20, "{count} allocations for {MESSAGES} messages: {shape}");
    }
}
