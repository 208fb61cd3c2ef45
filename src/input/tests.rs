//! The same metrics, written in each format by the test's own writer, decode to the same series, labels and points.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Decoder, InputOptions, Inputs};
use crate::message::{Limits, Points};
use crate::raw::{Kind, RawMessage, Source};

#[derive(Debug, Clone)]
struct Metric {
    name: String,
    tags: BTreeMap<String, String>,
    fields: BTreeMap<String, f64>,
    time_us: i64,
    /// `true` if integers are written as such.
    has_integers: bool,
}

/// Series, column, time, the value's bits.
type Row = (String, String, i64, u64);

/// The result of decoding a message.
#[derive(Debug, Default, PartialEq)]
struct Stored {
    rows: Vec<Row>,
    labels: BTreeMap<String, Value>,
}

impl Metric {
    /// The id, as described in docs/inputs.md.
    fn id(&self) -> String {
        let escape = |text: &str, special: &str| -> String {
            let ends = |at: usize| text[at..].trim_start_matches('\\').chars().next();
            let is_escaped = |(at, c): (usize, char)| {
                special.contains(c) || c == '\\' && ends(at).is_none_or(|next| special.contains(next))
            };
            text.char_indices().flat_map(|at| is_escaped(at).then_some('\\').into_iter().chain([at.1])).collect()
        };
        let tags = self.tags.iter().map(|(name, value)| format!(",{}={}", escape(name, ",= "), escape(value, ",= ")));
        format!("{}{}", escape(&self.name, ", "), tags.collect::<String>())
    }
}

fn expected(metrics: &[Metric]) -> Stored {
    let mut stored = Stored::default();
    for metric in metrics {
        let row = |(name, value): (&String, &f64)| (metric.id(), name.clone(), metric.time_us, value.to_bits());
        stored.rows.extend(metric.fields.iter().map(row));
        if !metric.tags.is_empty() {
            stored.labels.insert(metric.id(), json!(metric.tags));
        }
    }
    stored
}

/// Decodes messages with an input of these keys.
fn decoded(keys: &str, payloads: &[String]) -> Result<Stored, TestCaseError> {
    let table: toml::Table = format!("name = \"i\"\ntopics = [\"t\"]\n{keys}").parse().unwrap();
    let options: InputOptions = table.try_into().unwrap();
    let limits = Limits {
        max_bytes: 100_000,
        max_points: 1000,
        max_name_bytes: 1000,
        min_us: 0,
        max_us: 7_258_118_400_000_000,
        deny_unknown_fields: false,
    };
    let mut decoder = Decoder::new(limits, Inputs::compile("", "", &[options]).unwrap());
    let source = Arc::new(Source {
        kind: Kind::Other,
        cluster_id: String::new(),
        topic: "t".to_owned(),
        topic_id: String::new(),
    });
    let mut points = Points::default();
    for payload in payloads {
        let message = RawMessage { payload: Some(payload.as_bytes()), ..RawMessage::default() };
        let result = decoder.decode(&source, &message, &mut points);
        result.map_err(|rejected| TestCaseError::fail(format!("{payload}: {rejected:?}")))?;
    }
    let row = |index| {
        let (series, column, time, value) = points.get(index);
        (series.to_owned(), column.to_owned(), time, value.to_bits())
    };
    let label = |(series, labels): (&str, &str)| (series.to_owned(), serde_json::from_str(labels).unwrap());
    Ok(Stored { rows: (0..points.len()).map(row).collect(), labels: points.series_labels().map(label).collect() })
}

fn number(value: f64, has_integers: bool) -> String {
    // A double's integers are exact up to here, and minus zero is not an integer.
    let is_integer = value.fract() == 0.0 && value.abs() < 1e15 && value.to_bits() != (-0.0_f64).to_bits();
    match (has_integers && is_integer, value > 0.0) {
        (true, true) => format!("{value}u"),
        (true, false) => format!("{value}i"),
        (false, _) => format!("{value:?}"),
    }
}

/// A unit, and its length in microseconds.
const UNITS: [(&str, i64); 4] = [("s", 1_000_000), ("ms", 1000), ("us", 1), ("ns", 0)];

fn timestamp(us: i64, (_, micros): (&str, i64)) -> i64 {
    if micros == 0 { us * 1000 } else { us / micros }
}

fn line_protocol(metrics: &[Metric], unit: (&str, i64), end: &str) -> String {
    let key = |text: &str| text.replace(',', "\\,").replace('=', "\\=").replace(' ', "\\ ");
    let line = |metric: &Metric| {
        let name = metric.name.replace(',', "\\,").replace(' ', "\\ ");
        let tags: String = metric.tags.iter().rev().map(|(name, tag)| format!(",{}={}", key(name), key(tag))).collect();
        let field = |(name, value): (&String, &f64)| format!("{}={}", key(name), number(*value, metric.has_integers));
        let fields: Vec<String> = metric.fields.iter().map(field).collect();
        format!("{name}{tags} {} {}{end}", fields.join(","), timestamp(metric.time_us, unit))
    };
    metrics.iter().map(line).collect::<Vec<_>>().join("# a comment\n\n")
}

fn telegraf(metrics: &[Metric], unit: (&str, i64)) -> String {
    let metric = |one: &Metric| json!({"timestamp": timestamp(one.time_us, unit), "tags": one.tags, "fields": one.fields, "name": one.name});
    match metrics {
        [one] => metric(one).to_string(),
        several => json!({"metrics": several.iter().map(metric).collect::<Vec<_>>()}).to_string(),
    }
}

/// A sample has one value, whose column is `value`.
fn prometheus(metric: &Metric, value: f64) -> String {
    let mut labels = json!(metric.tags);
    labels["__name__"] = json!(metric.name);
    let time = jiff::Timestamp::from_microsecond(metric.time_us).unwrap().to_string();
    json!({"value": number(value, false), "timestamp": time, "name": metric.name, "labels": labels}).to_string()
}

fn flat(metric: &Metric) -> Value {
    let mut record = json!({"series": metric.id(), "ts": metric.time_us});
    metric.tags.iter().for_each(|(name, tag)| record[name] = json!(tag));
    metric.fields.iter().for_each(|(name, value)| record[name] = json!(value));
    record
}

/// A change of a row, with or without its schema.
fn debezium(metric: &Metric, has_schema: bool) -> String {
    let change = json!({"before": null, "after": flat(metric), "source": {"table": "t"}, "op": "c", "ts_ms": 1});
    if has_schema { json!({"schema": {"type": "struct"}, "payload": change}).to_string() } else { change.to_string() }
}

/// An event whose source is the series.
fn cloudevent(metric: &Metric) -> String {
    let time = jiff::Timestamp::from_microsecond(metric.time_us).unwrap().to_string();
    let mut data = json!(metric.fields);
    metric.tags.iter().for_each(|(name, tag)| data[name] = json!(tag));
    json!({"specversion": "1.0", "id": "1", "type": "t", "source": metric.id(), "time": time, "data": data}).to_string()
}

/// A name that line protocol can express: it does not end with a backslash, and contains no line end.
fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c,= \\\\\"#/~.\té]{0,5}[a-c,= \"#/~.é]", "[^\u{0}\n\\\\]{1,8}"]
}

/// At the start of a line, white space is skipped, and a comment begins with a number sign.
fn measurement() -> impl Strategy<Value = String> {
    name().prop_filter("it cannot start a line", |name| !name.starts_with(['#', '\t', '\r', '\u{feff}']))
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>().prop_filter("not finite", |value| value.is_finite()),
        (-1_000_000_i32..1_000_000).prop_map(f64::from),
        (-100_000_i32..100_000).prop_map(|value| f64::from(value) / 100.0),
    ]
}

fn metric() -> impl Strategy<Value = Metric> {
    let tags = prop::collection::btree_map(name(), name(), 0..4);
    let fields = prop::collection::btree_map(name(), value(), 1..5);
    // In whole seconds, so that each unit can express it; and with microseconds.
    let time = (0_i64..7_258_118_400, prop_oneof![Just(0_i64), 0_i64..1_000_000]);
    (measurement(), tags, fields, time, any::<bool>()).prop_map(|(name, tags, fields, (s, us), has_integers)| Metric {
        name,
        tags,
        fields,
        time_us: s * 1_000_000 + us,
        has_integers,
    })
}

proptest! {
    #[test]
    fn metrics_decode_to_the_same_from_each_format(mut metrics in prop::collection::vec(metric(), 1..5), unit in 0_usize..4, crlf in any::<bool>()) {
        let unit = UNITS[unit];
        // Times are rounded to those that the unit can express.
        metrics.iter_mut().for_each(|metric| metric.time_us -= metric.time_us % unit.1.max(1));
        let mut taken: BTreeSet<String> = metrics.iter().flat_map(|metric| metric.tags.keys().cloned()).collect();
        taken.extend(["series".to_owned(), "ts".to_owned()]);
        for metric in &mut metrics {
            // In a flat record a field must not have the key of a tag.
            let free = |mut name: String| { while taken.contains(&name) { name.push('x') } name };
            metric.fields = std::mem::take(&mut metric.fields).into_iter().map(|(name, value)| (free(name), value)).collect();
            metric.tags.remove("__name__");
        }
        let stored = expected(&metrics);
        let lines = line_protocol(&metrics, unit, if crlf { "\r\n" } else { "\n" });
        prop_assert_eq!(&decoded(&format!("format = \"influx\"\nunit = {:?}", unit.0), std::slice::from_ref(&lines))?, &stored, "{}", lines);

        let text = telegraf(&metrics, unit);
        prop_assert_eq!(&decoded(&format!("format = \"telegraf-json\"\nunit = {:?}", unit.0), std::slice::from_ref(&text))?, &stored, "{}", text);

        let labels: BTreeSet<&String> = metrics.iter().flat_map(|metric| metric.tags.keys()).collect();
        let labels: Vec<String> = labels.into_iter().map(|name| format!("/{}", name.replace('~', "~0").replace('/', "~1"))).collect();
        let keys = toml::toml! { format = "json" series = "{/series}" time = { at = "/ts", unit = "us" } };
        let labels = format!("labels = {}\n", toml::Value::from(labels));
        let keys = format!("{labels}{keys}");
        let records: Vec<String> = metrics.iter().map(|metric| flat(metric).to_string()).collect();
        prop_assert_eq!(&decoded(&keys, &[records.join("\n")])?, &stored, "{}", records.join("\n"));
        prop_assert_eq!(&decoded(&keys, &records)?, &stored);

        let changes: Vec<String> = metrics.iter().zip(0..).map(|(metric, number)| debezium(metric, number % 2 == 0)).collect();
        let keys = keys.replace("\"json\"", "\"debezium-json\"");
        prop_assert_eq!(&decoded(&keys, &changes)?, &stored, "{:?}", changes);
        let events: Vec<String> = metrics.iter().map(cloudevent).collect();
        prop_assert_eq!(&decoded(&format!("{labels}format = \"cloudevents\""), &events)?, &stored, "{:?}", events);

        let mut samples = Vec::new();
        let mut single = metrics.clone();
        for metric in &mut single {
            let value = *metric.fields.values().next().unwrap();
            metric.fields = [("value".to_owned(), value)].into();
            samples.push(prometheus(metric, value));
        }
        prop_assert_eq!(&decoded("format = \"prometheus-json\"", &samples)?, &expected(&single), "{:?}", samples);
    }
}
