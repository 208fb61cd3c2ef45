//! Determines the format of a message.

use std::sync::Arc;

use serde_json::Value;

use super::Sample;
use crate::input::native::NativeDecoder;
use crate::input::options::{Format, InputOptions};
use crate::input::template::header;
use crate::input::{Decoder, Inputs};
use crate::message::{Limits, Message, Points};
use crate::raw::{Kind, RawMessage, Source};

/// Maximum number of keys that are listed of an object.
const NAMED_KEYS: usize = 8;

/// The shape of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    Tombstone,
    /// It has a format, with further details.
    Of(Format, String),
    /// It has no known format, with its apparent kind.
    Unknown(String),
}

impl Shape {
    pub(super) fn format(&self) -> Option<Format> {
        if let Self::Of(format, _) = self { Some(*format) } else { None }
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::Tombstone => "a tombstone: a null payload".to_owned(),
            Self::Of(format, detail) if detail.is_empty() => format.as_str().to_owned(),
            Self::Of(format, detail) => format!("{}: {detail}", format.as_str()),
            Self::Unknown(what) => format!("not readable: {what}"),
        }
    }
}

/// Returns the shape of a message.
pub(super) fn of(limits: &Limits, sample: &Sample) -> Shape {
    let Some(payload) = &sample.payload else { return Shape::Tombstone };
    if let Some(detail) = native(limits, payload) {
        return Shape::Of(Format::Native, detail.to_owned());
    }
    if header(sample.headers.as_deref(), "ce_specversion").is_some() {
        return Shape::Of(Format::Cloudevents, "attributes in headers".to_owned());
    }
    let values = values(payload);
    if let Some(first) = values.first() {
        return of_json(first, values.len());
    }
    if is_line_protocol(limits, payload) {
        return Shape::Of(Format::Influx, String::new());
    }
    Shape::Unknown(unknown(payload))
}

/// The JSON values of a payload, one after the other; empty if it is not JSON.
pub(super) fn values(payload: &[u8]) -> Vec<Value> {
    let read = serde_json::Deserializer::from_slice(payload).into_iter::<Value>();
    match read.collect::<Result<Vec<Value>, _>>() {
        Ok(values) if values.iter().all(|value| value.is_object() || value.is_array()) => values,
        // Python's NaN and Infinity are not JSON to serde.
        _ => without_words(payload).map_or_else(Vec::new, |value| vec![value]),
    }
}

/// Parses a payload with the bare words that Python writes for numbers that are not finite.
fn without_words(payload: &[u8]) -> Option<Value> {
    let value = jiter::JsonValue::parse(payload, true).ok()?;
    let value = to_serde(&value);
    (value.is_object() || value.is_array()).then_some(value)
}

fn to_serde(value: &jiter::JsonValue<'_>) -> Value {
    match value {
        jiter::JsonValue::Null => Value::Null,
        jiter::JsonValue::Bool(value) => (*value).into(),
        jiter::JsonValue::Int(value) => (*value).into(),
        jiter::JsonValue::BigInt(value) => value.to_string().parse::<f64>().map_or(Value::Null, Value::from),
        // A value that is not finite is a number nevertheless; which one does not matter here.
        jiter::JsonValue::Float(value) => if value.is_finite() { *value } else { 0.5 }.into(),
        jiter::JsonValue::Str(text) => text.as_ref().into(),
        jiter::JsonValue::Array(all) => Value::Array(all.iter().map(to_serde).collect()),
        jiter::JsonValue::Object(members) => {
            Value::Object(members.iter().map(|(key, value)| (key.to_string(), to_serde(value))).collect())
        }
    }
}

fn native(limits: &Limits, payload: &[u8]) -> Option<&'static str> {
    match NativeDecoder::new(limits.clone()).decode(Kind::Points, Some(payload), &mut Points::default()) {
        Ok(Message::PointBatch { .. }) => Some("point-batch"),
        Ok(Message::SeriesCreate(_)) => Some("series-create"),
        Ok(Message::SeriesDelete { .. }) => Some("series-delete"),
        _ => None,
    }
}

fn of_json(value: &Value, count: usize) -> Shape {
    let lines = if count > 1 { format!(", {count} values one after the other") } else { String::new() };
    let Some(object) = value.as_object() else {
        let inside = value.as_array().and_then(|all| all.first()).map_or_else(|| "nothing".to_owned(), keys);
        return Shape::Of(Format::Json, format!("an array of {inside}{lines}"));
    };
    let has = |keys: &[&str]| keys.iter().all(|key| object.contains_key(*key));
    let is_metric = |value: &Value| {
        ["fields", "tags"].iter().all(|key| value.get(key).is_some_and(Value::is_object))
            && value.get("name").is_some_and(Value::is_string)
            && value.get("timestamp").is_some()
    };
    let change = object.get("payload").unwrap_or(value);
    let is_change = change.get("op").is_some_and(Value::is_string) && change.get("after").is_some();
    if has(&["specversion", "source", "type"]) {
        return Shape::Of(Format::Cloudevents, format!("attributes around the data{lines}"));
    }
    if is_change {
        let schema = if object.contains_key("payload") { "with schema" } else { "without schema" };
        return Shape::Of(Format::DebeziumJson, schema.to_owned());
    }
    let metrics = object.get("metrics").and_then(Value::as_array);
    if metrics.is_some_and(|all| !all.is_empty() && all.iter().all(is_metric)) {
        return Shape::Of(Format::TelegrafJson, "an array of metrics".to_owned());
    }
    if is_metric(value) {
        return Shape::Of(Format::TelegrafJson, "a metric".to_owned());
    }
    if has(&["timestamp", "value", "name", "labels"]) && object["labels"].is_object() {
        return Shape::Of(Format::PrometheusJson, String::new());
    }
    Shape::Of(Format::Json, format!("{}{lines}", keys(value)))
}

fn keys(value: &Value) -> String {
    let Some(object) = value.as_object() else { return "values that are not objects".to_owned() };
    let mut named: Vec<&str> = object.keys().take(NAMED_KEYS).map(String::as_str).collect();
    if object.len() > NAMED_KEYS {
        named.push("…");
    }
    format!("{{{}}}", named.join(", "))
}

fn is_line_protocol(limits: &Limits, payload: &[u8]) -> bool {
    let options = InputOptions::of("inspect", "inspect", Format::Influx);
    let window = Limits { min_us: i64::MIN, max_us: i64::MAX, ..limits.clone() };
    let Ok(inputs) = Inputs::compile("", "", &[options]) else { return false };
    let source =
        Source { kind: Kind::Other, cluster_id: String::new(), topic: "inspect".to_owned(), topic_id: String::new() };
    let message = RawMessage { time_ms: Some(0), payload: Some(payload), ..RawMessage::default() };
    Decoder::new(window, inputs).decode(&Arc::new(source), &message, &mut Points::default()).is_ok()
}

/// Describes a payload that no format reads.
fn unknown(payload: &[u8]) -> String {
    match payload {
        [] => "empty".to_owned(),
        [0, a, b, c, d, _, ..] => {
            let id = u32::from_be_bytes([*a, *b, *c, *d]);
            format!(
                "bytes that begin like a message of a schema registry, with schema {id} (Avro, Protobuf or JSON Schema)"
            )
        }
        [0x1f, 0x8b, ..] => "bytes compressed by gzip".to_owned(),
        [b'{' | b'[', ..] => "text that begins like JSON and is not".to_owned(),
        _ if std::str::from_utf8(payload).is_ok() => "text, neither JSON nor line protocol".to_owned(),
        _ => "bytes that are not text".to_owned(),
    }
}
