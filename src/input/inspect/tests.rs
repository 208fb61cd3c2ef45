//! The proposals for messages of public shapes, and for topics without a known one.

#[path = "../../../tests/shapes/mod.rs"]
mod shapes;

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Inspection, Sample, inspect};
use crate::input::{Decoder, InputOptions, Inputs};
use crate::message::{Limits, Points};
use crate::raw::headers;
use shapes::{START_S, Shaped};

fn limits() -> Limits {
    Limits {
        max_bytes: 1 << 20,
        max_points: 100_000,
        max_name_bytes: 1024,
        min_us: -2_208_988_800_000_000,
        max_us: 7_258_118_400_000_000,
        deny_unknown_fields: false,
    }
}

fn sample((offset, message): (i64, &Shaped)) -> Sample {
    let headers = message.headers.iter().map(|(name, value)| (name.as_bytes(), Some(value.as_bytes())));
    Sample {
        partition: 0,
        offset,
        time_ms: Some(START_S * 1000),
        key: message.key.clone().map(String::into_bytes),
        payload: Some(message.payload.clone().into_bytes()),
        headers: headers::encode(headers),
    }
}

fn inspected(payloads: &[&str]) -> Inspection {
    let of = |payload: &&str| Shaped { payload: (*payload).to_owned(), ..Shaped::default() };
    let messages: Vec<Shaped> = payloads.iter().map(of).collect();
    inspect("t", &limits(), &(0..).zip(&messages).map(sample).collect::<Vec<_>>())
}

#[test]
fn the_block_for_each_public_shape_stores_nearly_all_of_it() {
    for shape in shapes::all(1000) {
        let samples: Vec<Sample> = (0..).zip(&shape.messages).map(sample).collect();
        let inspection = inspect(shape.name, &limits(), &samples);
        let proposal = inspection.proposal.unwrap_or_else(|| panic!("{}: {:?}", shape.name, inspection.shapes));
        assert_eq!(proposal.options.format.as_str(), shape.format, "{}", shape.name);
        assert!(proposal.stored + proposal.skipped >= 990, "{}: {:?}", shape.name, proposal.rejected);
        assert!(proposal.stored >= 980 && proposal.points >= proposal.stored * shape.points, "{}", shape.name);
        // The printed input is the one that was tried.
        let table: toml::Table = proposal.text.parse().unwrap();
        let pasted: InputOptions = table["input"].as_array().unwrap()[0].clone().try_into().unwrap();
        assert_eq!(pasted, proposal.options, "{}", shape.name);
        assert!(Inputs::compile("", "", &[pasted]).is_ok(), "{}", proposal.text);
    }
}

/// The keys of all values in a message, apart from null.
fn keys(value: &Value, key: &str, keys: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => members.iter().for_each(|(key, value)| self::keys(value, key, keys)),
        Value::Array(elements) => elements.iter().for_each(|value| self::keys(value, key, keys)),
        Value::Null => {}
        _ => drop(keys.insert(key.to_owned())),
    }
}

/// What an envelope has that is of its format, and no data.
const OF_FORMATS: [(&str, &str); 4] = [
    ("debezium-json", "schema before source op ts_ms type optional name field version connector db table lsn"),
    ("cloudevents", "specversion type source id time datacontenttype"),
    ("telegraf-json", "name timestamp"),
    ("prometheus-json", "name __name__ timestamp"),
];

#[test]
fn what_the_block_omits_of_each_shape_is_said() {
    for shape in shapes::all(50) {
        let samples: Vec<Sample> = (0..).zip(&shape.messages).map(sample).collect();
        let proposal = inspect(shape.name, &limits(), &samples).proposal.unwrap();
        let Ok(message) = serde_json::from_str::<Value>(&shape.messages[0].payload) else { continue };
        let mut decoder =
            Decoder::new(limits(), Inputs::compile("", "", std::slice::from_ref(&proposal.options)).unwrap());
        let mut points = Points::default();
        let source = crate::raw::Source {
            kind: crate::raw::Kind::Other,
            cluster_id: String::new(),
            topic: shape.name.to_owned(),
            topic_id: String::new(),
        };
        let raw = crate::raw::RawMessage {
            offset: 0,
            time_ms: samples[0].time_ms,
            key: samples[0].key.as_deref(),
            payload: samples[0].payload.as_deref(),
            headers: samples[0].headers.as_deref(),
        };
        decoder.decode(&std::sync::Arc::new(source), &raw, &mut points).unwrap();
        let of_format = OF_FORMATS.iter().find(|(format, _)| *format == shape.format).map_or("", |(_, keys)| keys);
        let labels: String = points.series_labels().map(|(_, labels)| labels).collect();
        let options = format!("{} {labels} {}", proposal.text, proposal.omitted.join(" "));
        let columns: Vec<&str> = (0..points.len()).map(|index| points.get(index).1).collect();
        let mut all = BTreeSet::new();
        keys(&message, "", &mut all);
        for key in all {
            let is_column = columns.iter().any(|column| column.split('.').any(|part| part == key));
            let is_named = options.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == key);
            let is_known = is_column || is_named || of_format.split(' ').any(|word| word == key);
            assert!(is_known, "{}: {key} of {message}\n{}\n{:?}", shape.name, proposal.text, proposal.omitted);
        }
    }
    for (payload, omitted) in [
        (
            "m,host=a v=1,n=\"x\",b=t 1714521600000000000",
            vec!["booleans: b (booleans = \"0-1\" stores them)", "strings: n"],
        ),
        (r#"{"name":"m","tags":{},"timestamp":1714521600,"fields":{"v":1,"note":"x"}}"#, vec!["strings: note"]),
        (
            r#"{"device":"a","battery":3.6,"readings":[{"ts":1714521600,"t":1.5,"ok":true}]}"#,
            vec!["booleans: /ok (booleans = \"0-1\" stores them)", "what stands around the records: /battery"],
        ),
        (
            r#"{"device":"a","metric":"t","value":1.5,"ts":1714521600,"quality":1,"valid":true}"#,
            vec!["numbers next to the value: /quality", "booleans: /valid"],
        ),
    ] {
        assert_eq!(inspected(&[payload]).proposal.unwrap().omitted, omitted, "{payload}");
    }
}

#[test]
fn each_shape_has_the_series_and_the_time_that_a_person_would_choose() {
    let expected = [
        ("debezium", "{/sensor_name}", "at = \"/measured_at\", unit = \"us\""),
        ("cloudevents", "{/source}", ""),
        ("cloudevents-binary", "{/source}", ""),
        ("zigbee2mqtt", "{key}", "at = \"/last_seen\""),
        ("aws-iot", "{/deviceId}", "at = \"/timestamp\", unit = \"ms\""),
        ("one-value", "{/sensor}", "at = \"/ts\", unit = \"s\""),
        ("tasmota", "{key}", "at = \"/Time\""),
        ("the-things-stack", "{/end_device_ids/device_id}", "at = \"/received_at\""),
    ];
    for (name, series, time) in expected {
        let shape = shapes::all(200).into_iter().find(|shape| shape.name == name).unwrap();
        let samples: Vec<Sample> = (0..).zip(&shape.messages).map(sample).collect();
        let text = inspect(name, &limits(), &samples).proposal.unwrap().text;
        assert!(text.contains(&format!("series = \"{series}\"")) && text.contains(time), "{name}:\n{text}");
    }
}

#[test]
fn arrays_and_numbers_in_strings_are_seen() {
    let text = |payloads: &[&str]| inspected(payloads).proposal.unwrap().text;
    let readings = r#"{"device":"a","readings":[{"ts":1714521600,"t":1.5},{"ts":1714521601,"t":2}]}"#;
    let block = text(&[readings]);
    assert!(
        block.contains("each = \"/readings\"") && block.contains("{/device}") && block.contains("unit = \"s\""),
        "{block}"
    );
    let block = text(&[r#"[{"host":"a","time":"2024-05-01T00:00:00Z","x":1}]"#]);
    assert!(block.contains("each = \"\"") && block.contains("{/host}"), "{block}");
    let strings = inspected(&[r#"{"device":"a","ts":"1714521600","t":"1.5","state":"ok"}"#]).proposal.unwrap();
    assert!(strings.text.contains("strings = \"number\"") && strings.stored == 1, "{}", strings.text);
    let nothing = text(&[r#"{"a":1.5}"#]);
    assert!(nothing.contains("series = \"{topic}\"") && nothing.contains("time = \"kafka\""), "{nothing}");
}

#[test]
fn what_no_input_reads_is_named() {
    for (payload, what) in [
        ("\0\0\0\0\u{7}abc", "schema 7"),
        ("{\"a\":", "begins like JSON"),
        ("hello there", "neither JSON nor line protocol"),
        ("", "empty"),
    ] {
        let inspection = inspected(&[payload]);
        assert!(inspection.shapes[0].0.contains(what) && inspection.proposal.is_none(), "{:?}", inspection.shapes);
    }
    assert!(inspected(&[]).proposal.is_none());
    let native = r#"{"time_series_id":"s","points":[{"timestamp":1,"column_name":"c","value":1}]}"#;
    let mixed = inspected(&[native, native, r#"{"a":1}"#]);
    assert_eq!(mixed.shapes[0], ("native: point-batch".to_owned(), 2));
    let proposal = mixed.proposal.unwrap();
    assert_eq!((proposal.stored, proposal.rejected.len()), (2, 1));
    assert_eq!(proposal.text, "[[input]]\nname = \"t\"\ntopics = [\"t\"]\nformat = \"native\"\n");
}

/// Creates the payload of the message with a number.
type Payload = Box<dyn Fn(usize) -> String>;

/// The template of the series' ids in the proposal for messages from `payload`.
fn series_of(payload: impl Fn(usize) -> String) -> String {
    let payloads: Vec<String> = (0..60).map(payload).collect();
    let text = inspected(&payloads.iter().map(String::as_str).collect::<Vec<_>>()).proposal.unwrap().text;
    let line = text.lines().find(|line| line.starts_with("series")).unwrap_or_default();
    line.to_owned()
}

#[test]
fn measurements_and_ids_of_messages_name_no_series() {
    let ts = |number: usize| START_S + number as i64;
    let cases: [(&str, Payload); 6] = [
        (
            "{/vehicle}",
            Box::new(move |n| format!(r#"{{"vehicle":"d{}","ts":{},"odometer":{n},"speed":5}}"#, n % 3, ts(n))),
        ),
        (
            "{/device_id}",
            Box::new(move |n| format!(r#"{{"device_id":"d{}","ts":{},"device_temp":{}}}"#, n % 3, ts(n), n % 4)),
        ),
        ("{topic}", Box::new(move |n| format!(r#"{{"ts":{},"barometer":{}}}"#, ts(n), 1000 + n % 3))),
        ("{topic}", Box::new(move |n| format!(r#"{{"id":"u-{n}","reading_id":"r-{n}","ts":{},"x":1}}"#, ts(n)))),
        ("{/gw}", Box::new(move |n| format!(r#"{{"gw":"g{}","ts":{},"x":1}}"#, n % 3, ts(n)))),
        ("{/wer}", Box::new(move |n| format!(r#"{{"wer":"w{}","ts":{},"x":1}}"#, n % 3, ts(n)))),
    ];
    for (expected, payload) in cases {
        assert_eq!(series_of(&payload), format!("series = \"{expected}\""), "{}", payload(0));
    }
}

#[test]
fn times_of_other_things_are_no_times_and_what_collides_is_a_warning() {
    let proposal = |payload: &dyn Fn(usize) -> String| {
        let payloads: Vec<String> = (0..60).map(payload).collect();
        inspected(&payloads.iter().map(String::as_str).collect::<Vec<_>>()).proposal.unwrap()
    };
    let other = proposal(&|n| {
        format!(r#"{{"device":"a","install_date":"2020-01-01","valid_until_time":{},"x":{n}}}"#, START_S + n as i64)
    });
    assert!(other.text.contains("time = \"kafka\""), "{}", other.text);
    let imei = proposal(&|n| format!(r#"{{"imei":"8615360301{:05}","x":{n}}}"#, n % 7));
    assert!(imei.text.contains("time = \"kafka\"") && imei.text.contains("{/imei}"), "{}", imei.text);
    let metrics = proposal(&|n| {
        let metric = ["temp", "hum", "p"][n % 3];
        format!(r#"{{"device":"a","metric":"{metric}","value":{n},"quality":1,"ts":{}}}"#, START_S + n as i64 / 3)
    });
    assert!(metrics.text.contains("column = \"/metric\"") && metrics.warnings.is_empty(), "{:?}", metrics.warnings);
    assert_eq!(metrics.omitted, ["numbers next to the value: /quality"]);
    let one_time = proposal(&|n| format!(r#"{{"x":{n},"ts":{}}}"#, START_S + n as i64 / 20));
    assert_eq!(one_time.warnings.len(), 2, "{:?}", one_time.warnings);
    let escapes = proposal(&|n| format!("{{\"device\\u009b31m\\u202e\":\"d{}\",\"x\":{n}}}", n % 2));
    assert!(!escapes.text.contains(['\u{9b}', '\u{202e}']), "{}", escapes.text);
    assert!(escapes.text.parse::<toml::Table>().is_ok(), "{}", escapes.text);
}
