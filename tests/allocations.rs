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
use series_ingest::input::{Decoder, InputOptions, Inputs};
use series_ingest::message::Limits;
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

/// The allocations from messages as Kafka has them to the bytes of COPY, and the number of points.
fn allocations(decoder: &Decoder, payloads: &[String], budget: &Budget) -> (usize, usize) {
    let source = Arc::new(Source {
        kind: decoder.inputs().kind_of("t"),
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
    (ALLOCATIONS.load(Ordering::Relaxed) - before, batch.points().len())
}

/// Messages with the input that reads them, none for native ones, and the points of each.
const SHAPES: [(&str, usize, &str); 13] = [
    ("", 1, r#"{"type":"point-batch","time_series_id":"SERIES","timestamps":[1735689600],"columns":{"a":[1.5]}}"#),
    (
        "",
        4,
        r#"{"type":"point-batch","time_series_id":"SERIES","timestamps":[1735689600,1735689601],"columns":{"a":[1.5,2],"b":[null,-3e-7]}}"#,
    ),
    (
        "",
        1,
        r#"{"type":"point-batch","time_series_id":"SERIES","points":[{"timestamp":"2025-01-01T00:00:00Z","column_name":"a","value":1}]}"#,
    ),
    (
        "format = 'json'\nseries = '{/s}'\ntime = { at = '/t', unit = 'ms' }\nlabels = ['/s', '/n']\nbooleans = '0-1'\nstrings = 'number'",
        5,
        r#"{"s":"SERIES","n":7,"t":1735689600000,"a":1.5,"b":true,"c":"2","d":{"e":[3,4]},"f":null}"#,
    ),
    (
        "format = 'json'\neach = '/r'\nseries = 'x-{/s}.{key}'\ntime = { at = '/t' }\ncolumns = { rename = { '/a' = 'b' } }",
        2,
        r#"{"s":"SERIES","r":[{"t":"2025-01-01T00:00:00Z","a":1},{"t":"2025-01-01 00:00:01+00","a":2}]}"#,
    ),
    (
        "format = 'json'\neach = ''\nseries = '{/s}'\ntime = 'kafka'\ncolumn = '/n'\nvalue = '/v'",
        2,
        r#"[{"s":"SERIES","n":"a","v":1},{"s":"SERIES","n":"b","v":null}]"#,
    ),
    (
        "format = 'influx'",
        3,
        "# c\ncpu,region=eu\\ west,host=SERIES a\\ b=1.5,b=2i,n=\"x\\\"y\" 1735689600000000000\nmem,host=SERIES free=3u",
    ),
    (
        "format = 'telegraf-json'",
        1,
        r#"{"fields":{"a":1.5,"b":"x"},"name":"cpu","tags":{"host":"SERIES","a b":"c d"},"timestamp":1735689600}"#,
    ),
    (
        "format = 'telegraf-json'",
        3,
        r#"{"metrics":[{"fields":{"a":1.5,"b":2},"name":"cpu","tags":{"host":"SERIES"},"timestamp":1735689600},{"fields":{"a":1},"name":"mem","tags":{},"timestamp":1735689600}]}"#,
    ),
    (
        "format = 'debezium-json'\nseries = '{/source/table}.{/s}'\ntime = { at = '/t', unit = 'us' }",
        1,
        r#"{"schema":{"type":"struct"},"payload":{"before":null,"after":{"s":"SERIES","t":1735689600000000,"a":1.5},"source":{"table":"x"},"op":"c"}}"#,
    ),
    (
        "format = 'cloudevents'\nlabels = ['/subject']",
        2,
        r#"{"specversion":"1.0","source":"/SERIES","subject":"u","time":"2025-01-01T00:00:00Z","data":{"a":1.5,"b":2}}"#,
    ),
    (
        "format = 'prometheus-json'",
        1,
        r#"{"timestamp":"2025-01-01T00:00:00Z","value":"1.5","name":"up","labels":{"__name__":"up","instance":"SERIES"}}"#,
    ),
    (
        "format = 'json'\nseries = '{/s}'\ntime = { at = '/t', format = '%d.%m.%Y %H:%M:%S' }",
        1,
        r#"{"s":"SERIES","t":"01.01.2025 00:00:00","a":1.5}"#,
    ),
];

fn inputs(keys: &str) -> Inputs {
    if keys.is_empty() {
        return Inputs::compile("", "t", &[]).unwrap();
    }
    let table: toml::Table = format!("name = 'i'\ntopics = ['t']\n{keys}").parse().unwrap();
    Inputs::compile("", "", &[table.try_into::<InputOptions>().unwrap()]).unwrap()
}

#[test]
fn a_message_of_a_known_series_costs_no_allocation() {
    let budget = Budget::new(1 << 30);
    for (keys, points, shape) in SHAPES {
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
        let decoder = Decoder::new(limits, inputs(keys));
        let (_, stored) = allocations(&decoder, &payloads, &budget);
        assert_eq!(stored, points * MESSAGES, "{shape}");
        let (count, _) = allocations(&decoder, &payloads, &budget);
        let format = keys.lines().next().filter(|line| !line.is_empty()).unwrap_or("native");
        println!("{count} allocations for {MESSAGES} messages with {points} points, {format}");
        // A few for each series and column, and the growth of what holds all of them.
        assert!(count < MESSAGES / 20, "{count} allocations for {MESSAGES} messages: {shape}");
    }
}
