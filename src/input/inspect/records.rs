//! The records of messages, by a format and an array in it.

use std::collections::HashMap;

use serde_json::Value;

use super::Sample;
use super::leaves::Leaves;
use super::names::{is_array_of_records, sender_rank, time_rank};
use super::shape::values;
use crate::input::options::Format;
use crate::input::template::header;

/// A record, and the message around it, if that is another value.
pub(super) struct Record {
    pub(super) value: Value,
    pub(super) around: Value,
    pub(super) key: Option<String>,
    /// The number of its message.
    pub(super) message: usize,
}

/// The messages as values: the payload of a change; the data of an event in headers, with the attributes around it.
pub(super) fn messages(format: Format, samples: &[&Sample]) -> Vec<(Value, Option<String>)> {
    let mut messages = Vec::new();
    for sample in samples {
        let key = sample.key.as_ref().and_then(|key| String::from_utf8(key.clone()).ok());
        for value in values(sample.payload.as_deref().unwrap_or_default()) {
            let value = match format {
                Format::DebeziumJson => value.get("payload").cloned().unwrap_or(value),
                Format::Cloudevents if header(sample.headers.as_deref(), "ce_specversion").is_some() => {
                    let mut event = serde_json::Map::from_iter([("data".to_owned(), value)]);
                    for name in ["id", "source", "type", "subject", "time"] {
                        let text = header(sample.headers.as_deref(), &format!("ce_{name}"));
                        if let Some(text) = text.and_then(|text| std::str::from_utf8(text).ok()) {
                            event.insert(name.to_owned(), text.into());
                        }
                    }
                    Value::Object(event)
                }
                _ => value,
            };
            messages.push((value, key.clone()));
        }
    }
    messages
}

/// The metrics of a message of Telegraf's.
pub(super) fn metrics(value: Value) -> Vec<Value> {
    match value.get("metrics").and_then(Value::as_array) {
        Some(metrics) => metrics.clone(),
        None => vec![value],
    }
}

/// Where the record stands in a message of the format.
fn place_of_record(format: Format) -> &'static str {
    match format {
        Format::DebeziumJson => "/after",
        Format::Cloudevents => "/data",
        _ => "",
    }
}

/// The array of records, if messages have one.
pub(super) fn each(format: Format, messages: &[(Value, Option<String>)]) -> Option<String> {
    let records: Vec<&Value> =
        messages.iter().filter_map(|(value, _)| value.pointer(place_of_record(format))).collect();
    if records.iter().filter(|value| value.is_array()).count() * 2 > records.len() {
        return Some(String::new());
    }
    let mut found: HashMap<String, usize> = HashMap::new();
    for record in &records {
        arrays_of_objects(record, "", &mut found);
    }
    let mut found: Vec<(String, usize)> = found.into_iter().filter(|(_, count)| count * 2 > records.len()).collect();
    found.sort_by_key(|(place, _)| (!is_array_of_records(place), place.len(), place.clone()));
    let (place, _) = found.into_iter().next()?;
    let outside = Leaves::of(records.iter().copied());
    let is_outside = |name: &str| !name.starts_with(&format!("{place}/"));
    let measured_outside = outside.all.iter().any(|(name, leaf)| {
        is_outside(name) && leaf.is_number() && time_rank(name).is_none() && sender_rank(name).is_none()
    });
    (is_array_of_records(&place) || !measured_outside).then_some(place)
}

fn arrays_of_objects(value: &Value, place: &str, found: &mut HashMap<String, usize>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let place = format!("{place}/{}", crate::input::pointer::escape(key));
        match value {
            Value::Array(elements) => {
                let has_number = |one: &Value| one.as_object().is_some_and(|one| one.values().any(Value::is_number));
                if elements.first().is_some_and(has_number) {
                    *found.entry(place).or_default() += 1;
                }
            }
            inner => arrays_of_objects(inner, &place, found),
        }
    }
}

pub(super) fn records(format: Format, each: Option<&str>, messages: Vec<(Value, Option<String>)>) -> Vec<Record> {
    let mut records = Vec::new();
    for (message, (mut around, key)) in messages.into_iter().enumerate() {
        let place = format!("{}{}", place_of_record(format), each.unwrap_or_default());
        let Some(inside) = around.pointer_mut(&place).map(Value::take) else { continue };
        match inside {
            Value::Array(elements) if each.is_some() => {
                let all = elements.into_iter().filter(Value::is_object);
                records.extend(all.map(|value| Record { value, around: around.clone(), key: key.clone(), message }));
            }
            value @ Value::Object(_) => {
                let around = if place.is_empty() { Value::Null } else { around };
                records.push(Record { value, around, key, message });
            }
            _ => {}
        }
    }
    records
}
