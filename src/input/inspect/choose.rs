//! Which values of a topic's messages are the time, the series and the columns.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::Value;

use super::Sample;
use super::leaves::{Leaf, Leaves, text_at};
use super::names::{is_array_of_records, is_place, is_value, may_be_of_message, quantity_rank, sender_rank, time_rank};
use super::shape::values;
use crate::input::options::{Booleans, Columns, Format, InputOptions, Strings, Time};
use crate::input::template::header;
use crate::input::time::TimeForm;
use crate::message::Limits;

/// Patterns of times that are tried, after RFC 3339.
const PATTERNS: [&str; 10] = [
    "%d/%m/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M:%S",
    "%d.%m.%Y %H:%M:%S",
    "%d-%m-%Y %H:%M:%S",
    "%Y/%m/%d %H:%M:%S",
    "%Y%m%dT%H%M%S",
    "%Y%m%d%H%M%S",
    "%Y%m%d %H:%M:%S",
    "%a %b %d %H:%M:%S %Y",
    "%d/%b/%Y:%H:%M:%S %z",
];
/// Times before 1990 and from 2100 on are hardly of measurements: what looks so is not a time, or one of another unit.
const PLAUSIBLE_S: std::ops::Range<f64> = 631_152_000.0..4_102_444_800.0;
/// Labels have few different values.
const MAX_LABEL_VALUES: usize = 100;

/// A record, and the message around it, where that is another value.
struct Record {
    value: Value,
    around: Value,
    key: Option<String>,
}

/// The input that fits messages of one format, and sentences on what it leaves out.
pub(super) fn options(
    topic: &str,
    format: Format,
    limits: &Limits,
    samples: &[&Sample],
) -> (InputOptions, Vec<String>) {
    let mut options = InputOptions::of(&name_of(topic), topic, format);
    match format {
        Format::Native | Format::PrometheusJson => {}
        Format::Influx => options.unit = Some(unit_of_lines(samples)).filter(|unit| unit != "ns"),
        Format::TelegrafJson => options.unit = Some(unit_of_metrics(samples)).filter(|unit| unit != "s"),
        Format::Json | Format::DebeziumJson | Format::Cloudevents => return mapped(options, limits, samples),
    }
    (options, Vec::new())
}

/// A name for an input, made of a topic's.
fn name_of(topic: &str) -> String {
    let name: String =
        topic.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let name = name.trim_matches('-');
    if name.is_empty() || ["series", "points"].contains(&name) { format!("topic-{name}") } else { name.to_owned() }
}

/// The unit in which most of the numbers are plausible times.
fn unit_of(numbers: &[f64]) -> Option<&'static str> {
    let fits = |scale: f64| numbers.iter().filter(|number| PLAUSIBLE_S.contains(&(*number / scale))).count();
    let units = [("s", 1.0), ("ms", 1e3), ("us", 1e6), ("ns", 1e9)];
    let (unit, count) = units.into_iter().map(|(unit, scale)| (unit, fits(scale))).max_by_key(|(_, count)| *count)?;
    (count * 100 >= numbers.len() * 99 && count > 0).then_some(unit)
}

fn unit_of_lines(samples: &[&Sample]) -> String {
    let texts = samples.iter().filter_map(|sample| std::str::from_utf8(sample.payload.as_deref()?).ok());
    let last = |line: &str| line.rsplit(' ').next()?.trim().parse::<f64>().ok();
    let numbers: Vec<f64> = texts.flat_map(str::lines).filter(|line| !line.starts_with('#')).filter_map(last).collect();
    unit_of(&numbers).unwrap_or("ns").to_owned()
}

fn unit_of_metrics(samples: &[&Sample]) -> String {
    let all = samples.iter().flat_map(|sample| values(sample.payload.as_deref().unwrap_or_default()));
    let numbers: Vec<f64> = all
        .flat_map(|value| match value.get("metrics").and_then(Value::as_array) {
            Some(metrics) => metrics.clone(),
            None => vec![value],
        })
        .filter_map(|metric| metric.get("timestamp")?.as_f64())
        .collect();
    unit_of(&numbers).unwrap_or("s").to_owned()
}

fn mapped(mut options: InputOptions, limits: &Limits, samples: &[&Sample]) -> (InputOptions, Vec<String>) {
    let messages = messages(options.format, samples);
    options.each = each(options.format, &messages);
    let records = records(options.format, options.each.as_deref(), messages);
    let inside = Leaves::of(records.iter().map(|record| &record.value));
    let around = Leaves::of(records.iter().map(|record| &record.around));
    options.time = match time(&inside, &around, &records, limits) {
        // An event has a time of its own, or its message has.
        None if options.format == Format::Cloudevents => None,
        None => Some(Time::Kafka),
        time => time,
    };
    let time_at = match &options.time {
        Some(Time::At { at, .. }) => at.clone(),
        _ => String::new(),
    };
    long_form(&mut options, &inside, &time_at);
    let named = series(&mut options, &inside, &around, &records, &time_at);
    labels(&mut options, &inside, &records, &named, &time_at);
    let left_out = policies(&mut options, &inside, &named, &time_at);
    (options, left_out)
}

/// The messages as values: of a change its payload, of an event in headers the data with the attributes around it.
fn messages(format: Format, samples: &[&Sample]) -> Vec<(Value, Option<String>)> {
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

/// Where the record stands in a message of the format.
fn place_of_record(format: Format) -> &'static str {
    match format {
        Format::DebeziumJson => "/after",
        Format::Cloudevents => "/data",
        _ => "",
    }
}

/// The array of records, if messages have one.
fn each(format: Format, messages: &[(Value, Option<String>)]) -> Option<String> {
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

fn records(format: Format, each: Option<&str>, messages: Vec<(Value, Option<String>)>) -> Vec<Record> {
    let mut records = Vec::new();
    for (mut around, key) in messages {
        let place = format!("{}{}", place_of_record(format), each.unwrap_or_default());
        let Some(inside) = around.pointer_mut(&place).map(Value::take) else { continue };
        match inside {
            Value::Array(elements) if each.is_some() => {
                let all = elements.into_iter().filter(Value::is_object);
                records.extend(all.map(|value| Record { value, around: around.clone(), key: key.clone() }));
            }
            value @ Value::Object(_) => {
                let around = if place.is_empty() { Value::Null } else { around };
                records.push(Record { value, around, key });
            }
            _ => {}
        }
    }
    records
}

/// The time: the place with the surest name whose values are times.
fn time(inside: &Leaves, around: &Leaves, records: &[Record], limits: &Limits) -> Option<Time> {
    let places = |leaves: &Leaves, far: usize| {
        let always = leaves.all.iter().filter(|(_, leaf)| leaves.is_always_there(leaf));
        always
            .map(|(place, leaf)| {
                // What stands in an array is of a part of the record.
                let in_array =
                    place.split('/').any(|key| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_digit()));
                let rank = time_rank(place).map(|rank| rank + far + if in_array { 50 } else { 0 });
                (rank, place.matches('/').count(), leaf.place, place.clone(), leaf.is_number())
            })
            // A string may be a time whatever it is called; a number may be anything.
            .filter(|(rank, .., is_number)| rank.is_some() || !is_number)
            .collect::<Vec<_>>()
    };
    let mut candidates = places(inside, 0);
    candidates.extend(places(around, 25));
    candidates.sort_by_key(|(rank, depth, order, ..)| (rank.unwrap_or(99), *depth, *order));
    candidates.into_iter().find_map(|(.., place, is_number)| {
        let all = records.iter().filter_map(|one| text_at(&one.value, &place).or_else(|| text_at(&one.around, &place)));
        let texts: Vec<String> = all.take(500).collect();
        form(&texts, is_number, limits).map(|(unit, format)| Time::At {
            at: place,
            unit: unit.map(str::to_owned),
            format: format.map(str::to_owned),
        })
    })
}

/// The form that nearly all of the texts have as times: a unit, or a format.
fn form(texts: &[String], is_number: bool, limits: &Limits) -> Option<(Option<&'static str>, Option<&'static str>)> {
    let numbers: Vec<f64> = texts.iter().filter_map(|text| text.parse().ok()).collect();
    if numbers.len() == texts.len() {
        if let Some(unit) = unit_of(&numbers) {
            return Some((Some(unit), None));
        }
        if is_number {
            return None;
        }
    }
    let reads = |form: &TimeForm| {
        let read = texts.iter().filter(|text| form.of_text(text, 0, limits).is_ok()).count();
        read * 100 >= texts.len() * 99
    };
    if reads(&TimeForm::Text) {
        return Some((None, Some("rfc3339")));
    }
    let pattern = PATTERNS.into_iter().find(|pattern| reads(&TimeForm::Pattern((*pattern).to_owned())))?;
    Some((None, Some(pattern)))
}

/// The long form, where a record has one number, and a text that says of what.
fn long_form(options: &mut InputOptions, inside: &Leaves, time_at: &str) {
    let is_measured = |place: &str, leaf: &Leaf| place != time_at && (leaf.is_number() || leaf.is_numeric_string());
    let measured: Vec<(&String, &Leaf)> =
        inside.all.iter().filter(|(place, leaf)| is_measured(place, leaf) && inside.is_always_there(leaf)).collect();
    let Some((value, leaf)) = measured.iter().find(|(place, _)| is_value(place)) else { return };
    let others = measured.iter().filter(|(place, _)| place != value && sender_rank(place).is_none());
    if others.count() > 0 {
        return;
    }
    let quantities = inside.all.iter().filter(|(_, leaf)| leaf.is_string() && inside.is_always_there(leaf));
    let quantity = quantities
        .filter(|(place, leaf)| *place != time_at && leaf.distinct.len() <= MAX_LABEL_VALUES)
        .filter_map(|(place, leaf)| Some((quantity_rank(place)?, leaf.place, place)))
        .min();
    if let Some((.., place)) = quantity {
        (options.column, options.value) = (Some(place.clone()), Some((*value).clone()));
        options.strings = leaf.is_numeric_string().then_some(Strings::Number);
    }
}

/// Sets the template of the series' ids. Returns the places that it names.
fn series(
    options: &mut InputOptions,
    inside: &Leaves,
    around: &Leaves,
    records: &[Record],
    time_at: &str,
) -> Vec<String> {
    let is_used = |place: &str| {
        place == time_at || options.column.as_deref() == Some(place) || options.value.as_deref() == Some(place)
    };
    let mut candidates = Vec::new();
    for (leaves, far) in [(inside, 0), (around, 1)] {
        for (place, leaf) in leaves
            .all
            .iter()
            .filter(|(place, leaf)| !is_used(place) && leaf.may_be_name() && leaves.is_always_there(leaf))
        {
            let is_each_message = leaf.distinct.len() * 10 >= leaves.records * 9 && leaves.records > 20;
            if is_each_message && may_be_of_message(place) {
                continue;
            }
            let rank = match sender_rank(place) {
                Some(rank) => rank,
                None if is_place(place) && leaf.is_string() => 100,
                None => continue,
            };
            candidates.push((far, rank, place.matches('/').count(), leaf.place, place.clone()));
        }
    }
    if options.format == Format::Cloudevents && candidates.iter().all(|(far, ..)| *far == 1) {
        // What an event is about names it better than words that happen to be attributes.
        candidates = ["/source", "/subject"]
            .iter()
            .zip(0..)
            .filter(|(place, _)| around.all.contains_key(**place))
            .map(|(place, rank)| (1, rank, 1, rank, (*place).to_owned()))
            .collect();
    }
    candidates.sort();
    let places: Vec<String> = candidates.into_iter().map(|(.., place)| place).collect();
    let mut named: Vec<String> = Vec::new();
    let mut known = 0;
    for place in places {
        let with: Vec<&String> = named.iter().chain([&place]).collect();
        let ids: HashSet<Vec<Option<String>>> = records
            .iter()
            .map(|one| with.iter().map(|at| text_at(&one.value, at).or_else(|| text_at(&one.around, at))).collect())
            .collect();
        // One that divides a series into as many as there are records is no name of it.
        let refines = named.is_empty() || ids.len() > known && ids.len() * 2 <= records.len();
        if refines {
            known = ids.len();
            named.push(place);
        }
        if named.len() == 3 {
            break;
        }
    }
    let keyed = records.iter().filter(|one| one.key.as_deref().is_some_and(|key| !key.is_empty())).count();
    options.series = Some(if !named.is_empty() {
        named.sort_by_key(|place| !is_place(place));
        named.iter().map(|place| format!("{{{place}}}")).collect::<Vec<_>>().join("/")
    } else if keyed * 100 >= records.len() * 99 && keyed > 0 && options.format != Format::DebeziumJson {
        "{key}".to_owned()
    } else {
        "{topic}".to_owned()
    });
    named
}

/// Keeps as labels what the series is named by, and other texts that are the same for all of a series.
fn labels(options: &mut InputOptions, inside: &Leaves, records: &[Record], named: &[String], time_at: &str) {
    let of = |one: &Record, at: &str| text_at(&one.value, at).or_else(|| text_at(&one.around, at));
    let mut values: HashMap<(&str, Vec<Option<String>>), BTreeSet<String>> = HashMap::new();
    let texts: Vec<&String> = inside
        .all
        .iter()
        .filter(|(place, leaf)| {
            leaf.is_string()
                && !leaf.is_numeric_string()
                && *place != time_at
                && leaf.distinct.len() <= MAX_LABEL_VALUES
                && options.column.as_ref() != Some(*place)
                && inside.is_always_there(leaf)
        })
        .map(|(place, _)| place)
        .collect();
    for record in records {
        let id: Vec<Option<String>> = named.iter().map(|at| of(record, at)).chain([record.key.clone()]).collect();
        for place in &texts {
            values.entry((place, id.clone())).or_default().extend(of(record, place));
        }
    }
    let varies: HashSet<&str> = values.iter().filter(|(_, all)| all.len() > 1).map(|((place, _), _)| *place).collect();
    options.labels = named.to_vec();
    options.labels.extend(
        texts
            .iter()
            .filter(|place| !varies.contains(place.as_str()) && !named.contains(place))
            .map(|place| (*place).clone()),
    );
}

/// Sets what strings and booleans are, and which places are no columns. Returns what is left out.
fn policies(options: &mut InputOptions, inside: &Leaves, named: &[String], time_at: &str) -> Vec<String> {
    if options.column.is_some() {
        return Vec::new();
    }
    let is_used = |place: &String| place == time_at || named.contains(place) || options.labels.contains(place);
    let values: Vec<(&String, &Leaf)> = inside.all.iter().filter(|(place, _)| !is_used(place)).collect();
    let has_numbers = values.iter().any(|(_, leaf)| leaf.is_number());
    let booleans: Vec<&String> = values.iter().filter(|(_, leaf)| leaf.booleans > 0).map(|(place, _)| *place).collect();
    let numeric: Vec<&String> =
        values.iter().filter(|(_, leaf)| leaf.is_numeric_string()).map(|(place, _)| *place).collect();
    let texts: Vec<&String> = values
        .iter()
        .filter(|(_, leaf)| leaf.strings > 0 && !leaf.is_numeric_string())
        .map(|(place, _)| *place)
        .collect();
    if !numeric.is_empty() {
        options.strings = Some(Strings::Number);
        // Of these, a string that is no number would reject its message.
        options.columns =
            Some(Columns { except: texts.iter().map(|place| (*place).clone()).collect(), ..Columns::default() });
    }
    let mut left_out = Vec::new();
    if !booleans.is_empty() {
        if has_numbers {
            left_out.push(format!("booleans: {} (booleans = \"0-1\" stores them)", listed(&booleans)));
        } else {
            options.booleans = Some(Booleans::ZeroOne);
        }
    }
    if !texts.is_empty() {
        left_out.push(format!("strings that are not numbers: {}", listed(&texts)));
    }
    left_out
}

fn listed(places: &[&String]) -> String {
    let shown: Vec<&str> = places.iter().take(10).map(|place| place.as_str()).collect();
    let more =
        if places.len() > shown.len() { format!(" and {} more", places.len() - shown.len()) } else { String::new() };
    format!("{}{more}", shown.join(", "))
}
