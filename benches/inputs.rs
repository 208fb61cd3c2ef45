//! What decoding costs, by format: points, messages and bytes a second of a core. `cargo bench --bench inputs`.
//!
//! Criterion compares with the last time, by the clock. The line after each format is of the thread's CPU time, the median of
//! the samples: other programs on the machine hardly change it.
#![allow(missing_docs, reason = "criterion's macros make items without documentation")]

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rustix::time::{ClockId, clock_gettime};
use series_ingest::input::{Decoder, InputOptions, Inputs};
use series_ingest::message::{Limits, Points};
use series_ingest::raw::{Kind, RawMessage, Source};

const SERIES: usize = 1000;
const START_S: usize = 1_735_689_600;

/// A format's messages, and the input that reads them; none for native ones.
struct Shape {
    name: &'static str,
    input: &'static str,
    messages: Vec<String>,
}

/// Values as measurements have them: a few digits.
fn value(time: usize, column: usize) -> f64 {
    (time * (column + 1) % 10_000) as f64 / 100.0
}

fn each(count: usize, message: impl Fn(usize, usize) -> String) -> Vec<String> {
    (0..count).map(|number| message(number, START_S + number / SERIES)).collect()
}

fn native(number: usize, time: usize) -> String {
    format!(
        r#"{{"type": "point-batch", "time_series_id": "sensor-{:06}", "points": [{{"timestamp": {time}, "column_name": "column_{}", "value": {}}}]}}"#,
        number % SERIES,
        number % 5,
        value(time, number)
    )
}

/// Two values alongside the series and the time.
fn flat(number: usize, time: usize) -> String {
    format!(
        r#"{{"sensor": "sensor-{:06}", "ts": {time}, "temperature": {}, "humidity": {}}}"#,
        number % SERIES,
        value(time, 0),
        value(time, 1)
    )
}

/// Four values alongside the series and the time.
fn flat_with_four_values(number: usize, time: usize) -> String {
    let [a, b, c, d] = [0, 1, 2, 3].map(|column| value(time, column));
    let sensor = number % SERIES;
    format!(
        r#"{{"sensor": "sensor-{sensor:06}", "ts": {time}, "temperature": {a}, "humidity": {b}, "pressure": {c}, "voltage": {d}}}"#
    )
}

/// Tags and fields.
type Metric = ([(&'static str, String); 3], Vec<(String, f64)>);

/// The tags and the fields of metric number `metric` of a message.
fn metric(number: usize, metric: usize, time: usize) -> Metric {
    let host = format!("host-{:02}", number % (SERIES / 100));
    let tags = [("cpu", format!("cpu{metric}")), ("host", host), ("region", "eu-west-1".to_owned())];
    (tags, (0..10).map(|field| (format!("usage_{field}"), value(time + metric, field))).collect())
}

fn telegraf(number: usize, time: usize) -> String {
    let metrics: Vec<serde_json::Value> = (0..100)
        .map(|at| {
            let (tags, fields) = metric(number, at, time);
            let tags: serde_json::Map<_, _> =
                tags.into_iter().map(|(name, tag)| (name.to_owned(), tag.into())).collect();
            let fields: serde_json::Map<_, _> = fields.into_iter().map(|(name, value)| (name, value.into())).collect();
            serde_json::json!({"fields": fields, "name": "cpu", "tags": tags, "timestamp": time})
        })
        .collect();
    serde_json::json!({ "metrics": metrics }).to_string()
}

fn lines(number: usize, time: usize) -> String {
    let line = |at| {
        let (tags, fields) = metric(number, at, time);
        let tags: String = tags.iter().map(|(name, tag)| format!(",{name}={tag}")).collect();
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("cpu{tags} {} {time}000000000\n", fields.join(","))
    };
    (0..100).map(line).collect()
}

fn change(number: usize, time: usize) -> String {
    format!(
        r#"{{"before":null,"after":{{"id":{number},"sensor":"sensor-{:06}","measured_at":{time}000000,"temperature":{},"humidity":{}}},"source":{{"version":"3.0.0.Final","connector":"postgresql","name":"plant","ts_ms":{time}000,"snapshot":"false","db":"plant","schema":"public","table":"readings","txId":{number},"lsn":{number},"xmin":null}},"transaction":null,"op":"c","ts_ms":{time}005}}"#,
        number % SERIES,
        value(time, 0),
        value(time, 1)
    )
}

fn event(number: usize, time: usize) -> String {
    format!(
        r#"{{"specversion":"1.0","id":"{number}","source":"/sensors/{:06}","type":"reading","time":"{}","datacontenttype":"application/json","data":{{"temperature":{},"humidity":{}}}}}"#,
        number % SERIES,
        jiff::Timestamp::from_second(time as i64).unwrap(),
        value(time, 0),
        value(time, 1)
    )
}

fn sample(number: usize, time: usize) -> String {
    format!(
        r#"{{"labels":{{"__name__":"node_load1","instance":"host-{:04}:9100","job":"node"}},"name":"node_load1","timestamp":"{}","value":"{}"}}"#,
        number % SERIES,
        jiff::Timestamp::from_second(time as i64).unwrap(),
        value(time, 0)
    )
}

fn shapes() -> Vec<Shape> {
    const FLAT: &str = "format = 'json'\nseries = '{/sensor}'\ntime = { at = '/ts', unit = 's' }";
    const CHANGE: &str = "format = 'debezium-json'\nseries = '{/source/table}.{/sensor}'\ntime = { at = '/measured_at', unit = 'us' }\ncolumns = { except = ['/id'] }";
    let of = |name, input, messages| Shape { name, input, messages };
    vec![
        of("native, 1 point a message", "", each(20_000, native)),
        of("json, 4 fields", FLAT, each(20_000, flat)),
        of("json, 4 values", FLAT, each(20_000, flat_with_four_values)),
        of("telegraf-json, 100 metrics of 10 fields", "format = 'telegraf-json'", each(50, telegraf)),
        of("influx, 100 lines of 10 fields", "format = 'influx'", each(50, lines)),
        of("debezium-json", CHANGE, each(20_000, change)),
        of("cloudevents", "format = 'cloudevents'", each(20_000, event)),
        of("prometheus-json", "format = 'prometheus-json'", each(20_000, sample)),
    ]
}

fn decoder(input: &str) -> Decoder {
    let limits = Limits {
        max_bytes: 1 << 20,
        max_points: 100_000,
        max_name_bytes: 1024,
        min_us: -2_208_988_800_000_000,
        max_us: 7_258_118_400_000_000,
        deny_unknown_fields: false,
    };
    let inputs = if input.is_empty() {
        Inputs::compile("", "t", &[])
    } else {
        let options = format!("name = 'i'\ntopics = ['t']\n{input}").parse::<toml::Table>().unwrap();
        Inputs::compile("", "", &[options.try_into::<InputOptions>().unwrap()])
    };
    Decoder::new(limits, inputs.unwrap())
}

fn source(decoder: &Decoder) -> Arc<Source> {
    let kind: Kind = decoder.inputs().kind_of("t");
    Arc::new(Source { kind, cluster_id: String::new(), topic: "t".to_owned(), topic_id: String::new() })
}

fn decode_all(decoder: &mut Decoder, source: &Arc<Source>, messages: &[String]) -> Points {
    let mut points = Points::default();
    for message in messages {
        let raw = RawMessage { payload: Some(message.as_bytes()), ..RawMessage::default() };
        decoder.decode(source, &raw, &mut points).unwrap();
    }
    points
}

/// The time that this thread has computed.
fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn decode(c: &mut Criterion) {
    for shape in shapes() {
        let mut decoder = decoder(shape.input);
        let source = source(&decoder);
        let points = decode_all(&mut decoder, &source, &shape.messages).len();
        let bytes: usize = shape.messages.iter().map(String::len).sum();
        let samples = RefCell::new(Vec::new());
        let mut group = c.benchmark_group("decode");
        group.throughput(Throughput::ElementsAndBytes { elements: points as u64, bytes: bytes as u64 });
        group.bench_function(shape.name, |b| {
            b.iter_custom(|iterations| {
                let (start, cpu) = (Instant::now(), cpu_time());
                for _ in 0..iterations {
                    black_box(decode_all(&mut decoder, &source, &shape.messages));
                }
                samples.borrow_mut().push((cpu_time() - cpu).as_secs_f64() / iterations as f64);
                start.elapsed()
            });
        });
        group.finish();
        let mut samples = samples.into_inner();
        samples.sort_by(f64::total_cmp);
        if let Some(seconds) = samples.get(samples.len() / 2) {
            println!(
                "{}: {:.2} M points/s, {:.1} k messages/s, {:.0} MB/s of a core\n",
                shape.name,
                points as f64 / seconds / 1e6,
                shape.messages.len() as f64 / seconds / 1e3,
                bytes as f64 / seconds / 1e6
            );
        }
    }
}

fn briefly() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2)).sample_size(30)
}

criterion_group! { name = benches; config = briefly(); targets = decode }
criterion_main!(benches);
