//! Chooses the values of a topic's messages that are the time, the series and the columns.

use super::Sample;
use super::leaves::{Leaf, Leaves, text_at};
use super::names::{SURE_QUANTITIES, is_value, quantity_rank, sender_rank, time_rank};
use super::omitted;
use super::records::{Record, each, messages, metrics, records};
use super::series::{MAX_LABEL_VALUES, labels, series};
use super::shape::values;
use crate::input::options::{Booleans, Columns, Format, InputOptions, Strings, Time};
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
/// Times before 1990 and from 2100 on are hardly those of measurements: such numbers are not times, or have another unit.
const PLAUSIBLE_S: std::ops::Range<f64> = 631_152_000.0..4_102_444_800.0;

/// The input for messages of one format, and sentences about what it omits.
pub(super) fn options(
    topic: &str,
    format: Format,
    limits: &Limits,
    samples: &[&Sample],
) -> (InputOptions, Vec<String>) {
    let mut options = InputOptions::of(&name_of(topic), topic, format);
    match format {
        Format::Native | Format::PrometheusJson => {}
        Format::Influx => {
            options.unit = Some(unit_of_lines(samples)).filter(|unit| unit != "ns");
            return (options, omitted::of_lines(samples));
        }
        Format::TelegrafJson => {
            options.unit = Some(unit_of_metrics(samples)).filter(|unit| unit != "s");
            return (options, omitted::of_metrics(samples));
        }
        Format::Json | Format::DebeziumJson | Format::Cloudevents => return mapped(options, limits, samples),
    }
    (options, Vec::new())
}

/// Derives a name for an input from a topic's name.
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
    let numbers: Vec<f64> = all.flat_map(metrics).filter_map(|metric| metric.get("timestamp")?.as_f64()).collect();
    unit_of(&numbers).unwrap_or("s").to_owned()
}

fn mapped(mut options: InputOptions, limits: &Limits, samples: &[&Sample]) -> (InputOptions, Vec<String>) {
    let messages = messages(options.format, samples);
    options.each = each(options.format, &messages);
    let records = records(options.format, options.each.as_deref(), messages);
    let inside = Leaves::of(records.iter().map(|record| &record.value));
    let around = Leaves::of(records.iter().map(|record| &record.around));
    options.time = match time(&inside, &around, &records, limits) {
        // The time is that of the event, or of its message.
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
    policies(&mut options, &inside, &named, &time_at);
    let is_used = |place: &str| {
        let long = [&options.column, &options.value].into_iter().flatten();
        let used = long.chain(&named).chain(&options.labels).chain([&time_at]);
        used.into_iter().any(|other| other == place)
    };
    let omitted = omitted::of_records(&options, &inside, &around, is_used);
    (options, omitted)
}

/// Finds the time: the place with the surest name whose values are times.
fn time(inside: &Leaves, around: &Leaves, records: &[Record], limits: &Limits) -> Option<Time> {
    let places = |leaves: &Leaves, far: usize| {
        let always = leaves.all.iter().filter(|(_, leaf)| leaves.is_always_there(leaf));
        always
            .map(|(place, leaf)| {
                // An element of an array belongs to a part of the record.
                let in_array =
                    place.split('/').any(|key| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_digit()));
                // A date alone is at best the time of daily values.
                let is_date = leaf.is_string() && leaf.distinct.iter().all(|text| text.len() <= "2024-05-01".len());
                let rank = time_rank(place);
                let rank = rank.map(|rank| rank + far + if in_array { 50 } else { 0 } + if is_date { 60 } else { 0 });
                (
                    rank,
                    place.matches('/').count(),
                    leaf.place,
                    place.clone(),
                    leaf.is_number() || leaf.is_numeric_string(),
                )
            })
            // A text may be a time whatever its name; a number may be anything.
            .filter(|(rank, .., is_number)| rank.is_some() || !is_number)
            .collect::<Vec<_>>()
    };
    let mut candidates = places(inside, 0);
    candidates.extend(places(around, 25));
    candidates.sort_by_key(|(rank, depth, order, ..)| (rank.unwrap_or(99), *depth, *order));
    candidates.into_iter().find_map(|(.., place, is_number)| {
        let all = records.iter().filter_map(|one| text_at(&one.value, &place).or_else(|| text_at(&one.around, &place)));
        let texts: Vec<String> = all.take(500).collect();
        // Measurements do not all have the same time, unless there are few.
        if texts.len() >= 10 && texts.iter().all(|text| *text == texts[0]) {
            return None;
        }
        form(&texts, is_number, limits).map(|(unit, format)| Time::At {
            at: place,
            unit: unit.map(str::to_owned),
            format: format.map(str::to_owned),
        })
    })
}

/// The form in which nearly all of the texts are times: a unit, or a format.
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
    let others: Vec<&String> = measured
        .iter()
        .filter(|(place, _)| place != value && sender_rank(place).is_none())
        .map(|(place, _)| *place)
        .collect();
    let quantities = inside.all.iter().filter(|(_, leaf)| leaf.is_string() && inside.is_always_there(leaf));
    let quantity = quantities
        .filter(|(place, leaf)| *place != time_at && leaf.distinct.len() <= MAX_LABEL_VALUES)
        .filter_map(|(place, leaf)| Some((quantity_rank(place)?, leaf.place, place)))
        .min();
    // If the name is unambiguous, the numbers next to the value describe it, such as its quality.
    let is_sure = |rank: usize| others.is_empty() || rank < SURE_QUANTITIES && others.len() <= 2;
    if let Some((.., place)) = quantity.filter(|(rank, ..)| is_sure(*rank)) {
        (options.column, options.value) = (Some(place.clone()), Some((*value).clone()));
        options.strings = leaf.is_numeric_string().then_some(Strings::Number);
    }
}

/// Sets what strings and booleans are, and which places are no columns.
fn policies(options: &mut InputOptions, inside: &Leaves, named: &[String], time_at: &str) {
    if options.column.is_some() {
        return;
    }
    let is_used = |place: &String| place == time_at || named.contains(place) || options.labels.contains(place);
    let values: Vec<(&String, &Leaf)> = inside.all.iter().filter(|(place, _)| !is_used(place)).collect();
    let has_numbers = values.iter().any(|(_, leaf)| leaf.is_number());
    let has_booleans = values.iter().any(|(_, leaf)| leaf.booleans > 0);
    let numeric: Vec<&String> =
        values.iter().filter(|(_, leaf)| leaf.is_numeric_string()).map(|(place, _)| *place).collect();
    let texts: Vec<&String> = values
        .iter()
        .filter(|(_, leaf)| leaf.strings > 0 && !leaf.is_numeric_string())
        .map(|(place, _)| *place)
        .collect();
    if !numeric.is_empty() {
        options.strings = Some(Strings::Number);
        // A string that is not a number would otherwise reject its message.
        options.columns =
            Some(Columns { except: texts.iter().map(|place| (*place).clone()).collect(), ..Columns::default() });
    }
    if has_booleans && !has_numbers {
        options.booleans = Some(Booleans::ZeroOne);
    }
}
