//! What a point costs this program: decode, sort, encode. `cargo bench`, or `make bench` for the way through the servers too.
#![allow(missing_docs, reason = "criterion's macros make items without documentation")]

use std::hint::black_box;
use std::time::Duration;

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use series_ingest::database::write::copy::CopyEncoder;
use series_ingest::input::native::NativeDecoder;
use series_ingest::message::Limits;
use series_ingest::message::Points;
use series_ingest::raw::Kind;

const SERIES: usize = 1000;
const CHUNK_BYTES: usize = 256 * 1024;

fn decoder() -> NativeDecoder {
    NativeDecoder::new(Limits {
        max_bytes: 1 << 20,
        max_points: 100_000,
        max_name_bytes: 1024,
        min_us: -2_208_988_800_000_000,
        max_us: 7_258_118_400_000_000,
        deny_unknown_fields: false,
    })
}

/// Values as measurements have them: a few digits.
fn value(time: usize, column: usize) -> f64 {
    (time * (column + 1) % 10_000) as f64 / 100.0
}

/// Messages of `times` timestamps and 5 columns each.
fn columnar(messages: usize, times: usize, as_text: bool) -> Vec<String> {
    (0..messages)
        .map(|message| {
            let first = 1_735_689_600 + message / SERIES * times;
            let timestamps: Vec<serde_json::Value> = (first..first + times)
                .map(|time| {
                    if as_text {
                        jiff::Timestamp::from_second(time as i64).unwrap().to_string().into()
                    } else {
                        time.into()
                    }
                })
                .collect();
            let columns: serde_json::Map<String, serde_json::Value> = (0..5)
                .map(|column| {
                    let values: Vec<f64> = (first..first + times).map(|time| value(time, column)).collect();
                    (format!("column_{column}"), values.into())
                })
                .collect();
            let id = format!("sensor-{:06}", message % SERIES);
            serde_json::json!({"type": "point-batch", "time_series_id": id, "timestamps": timestamps, "columns": columns})
                .to_string()
        })
        .collect()
}

fn rows(messages: usize, points: usize) -> Vec<String> {
    (0..messages)
        .map(|message| {
            let points: Vec<serde_json::Value> = (0..points)
                .map(|n| {
                    let time = 1_735_689_600 + message / SERIES * points + n;
                    serde_json::json!({"timestamp": time, "column_name": format!("column_{}", n % 5), "value": value(time, n)})
                })
                .collect();
            serde_json::json!({"type": "point-batch", "time_series_id": format!("sensor-{:06}", message % SERIES), "points": points})
                .to_string()
        })
        .collect()
}

fn decode_all(messages: &[String]) -> Points {
    let (mut decoder, mut points) = (decoder(), Points::default());
    for message in messages {
        decoder.decode(Kind::Points, Some(message.as_bytes()), &mut points).unwrap();
    }
    points
}

fn encode_all(points: &Points, chunk: &mut BytesMut) -> usize {
    let order = points.order();
    let mut encoder = CopyEncoder::new(points, &order);
    let (mut bytes, mut more) = (0, true);
    while more {
        more = encoder.encode_into(chunk, CHUNK_BYTES);
        bytes += chunk.len();
        chunk.clear();
    }
    bytes
}

fn decode(c: &mut Criterion) {
    let shapes = [
        ("columnar, 100 points a message", columnar(1000, 20, false)),
        ("columnar, 100 points, RFC 3339 text", columnar(1000, 20, true)),
        ("columnar, 5 points a message", columnar(20_000, 1, false)),
        ("rows, 100 points a message", rows(1000, 100)),
        ("rows, 1 point a message", rows(100_000, 1)),
    ];
    let mut group = c.benchmark_group("decode");
    for (name, messages) in &shapes {
        let elements = decode_all(messages).len() as u64;
        let bytes = messages.iter().map(String::len).sum::<usize>() as u64;
        group.throughput(Throughput::ElementsAndBytes { elements, bytes });
        group.bench_function(*name, |b| b.iter(|| black_box(decode_all(messages))));
    }
    group.finish();
}

fn encode(c: &mut Criterion) {
    let points = decode_all(&columnar(1000, 20, false));
    let mut chunk = BytesMut::with_capacity(2 * CHUNK_BYTES);
    let bytes = encode_all(&points, &mut chunk) as u64;
    let mut group = c.benchmark_group("sort and encode");
    group.throughput(Throughput::ElementsAndBytes { elements: points.len() as u64, bytes });
    group.bench_function("100,000 points of 1,000 series x 5 columns", |b| {
        b.iter(|| black_box(encode_all(&points, &mut chunk)));
    });
    group.finish();
}

/// All that a point costs this program: from the bytes of its message to those of COPY.
fn decode_and_encode(c: &mut Criterion) {
    let messages = columnar(1000, 20, false);
    let mut chunk = BytesMut::with_capacity(2 * CHUNK_BYTES);
    let mut group = c.benchmark_group("decode, sort and encode");
    group.throughput(Throughput::Elements(decode_all(&messages).len() as u64));
    group.bench_function("columnar, 100 points a message", |b| {
        b.iter(|| black_box(encode_all(&decode_all(&messages), &mut chunk)));
    });
    group.finish();
}

fn briefly() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2)).sample_size(30)
}

criterion_group! { name = benches; config = briefly(); targets = decode, encode, decode_and_encode }
criterion_main!(benches);
