//! What of a topic's messages the proposed input does not store, in sentences.

use std::collections::BTreeSet;

use super::Sample;
use super::leaves::{Leaf, Leaves};
use super::records::metrics;
use super::shape::values;
use crate::input::influx::skipped_fields;
use crate::input::options::{Booleans, Format, InputOptions, Strings};

/// Maximum number of places that a sentence names.
const MOST_LISTED: usize = 10;
const TEXTS: &str = "strings that are not numbers";
const BOOLEANS: &str = "booleans";
const STORES_BOOLEANS: &str = " (booleans = \"0-1\" stores them)";

/// Of records, whose places are `inside`, and of what stands around them; `is_used`: whether the input names a place.
pub(super) fn of_records(
    options: &InputOptions,
    inside: &Leaves,
    around: &Leaves,
    is_used: impl Fn(&str) -> bool,
) -> Vec<String> {
    let unused = |leaves: &'_ Leaves, is_meant: &dyn Fn(&Leaf) -> bool| -> BTreeSet<String> {
        let all = leaves.all.iter().filter(|(place, leaf)| !is_used(place) && is_meant(leaf));
        all.map(|(place, _)| place.clone()).collect()
    };
    let is_text = |leaf: &Leaf| leaf.strings > 0 && !leaf.is_numeric_string();
    let mut omitted = Vec::new();
    if options.column.is_some() {
        let numbers = unused(inside, &|leaf| leaf.numbers > 0 || leaf.is_numeric_string());
        omitted.extend(sentence("numbers next to the value", &numbers, ""));
    } else if options.strings != Some(Strings::Number) {
        let numbers = unused(inside, &Leaf::is_numeric_string);
        omitted.extend(sentence("numbers in strings", &numbers, " (strings = \"number\" stores them)"));
    }
    if options.column.is_some() || options.booleans != Some(Booleans::ZeroOne) {
        let advice = if options.column.is_some() { "" } else { STORES_BOOLEANS };
        omitted.extend(sentence(BOOLEANS, &unused(inside, &|leaf| leaf.booleans > 0), advice));
    }
    omitted.extend(sentence(TEXTS, &unused(inside, &is_text), ""));
    // What stands around a change or an event is of the format.
    if options.format == Format::Json {
        let all = unused(around, &|leaf| leaf.seen > leaf.nulls);
        omitted.extend(sentence("what stands around the records", &all, ""));
    }
    omitted
}

/// Of line protocol: its input has the defaults.
pub(super) fn of_lines(samples: &[&Sample]) -> Vec<String> {
    let (mut strings, mut booleans) = (BTreeSet::new(), BTreeSet::new());
    for sample in samples {
        let Some(text) = sample.payload.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok()) else { continue };
        let (of_strings, of_booleans) = skipped_fields(text);
        strings.extend(of_strings);
        booleans.extend(of_booleans);
    }
    of_fields(&strings, &booleans)
}

/// Of Telegraf's metrics: their input has the defaults.
pub(super) fn of_metrics(samples: &[&Sample]) -> Vec<String> {
    let (mut strings, mut booleans) = (BTreeSet::new(), BTreeSet::new());
    let all = samples.iter().flat_map(|sample| values(sample.payload.as_deref().unwrap_or_default()));
    for metric in all.flat_map(metrics) {
        for (name, value) in metric.get("fields").and_then(serde_json::Value::as_object).into_iter().flatten() {
            if value.is_string() {
                strings.insert(name.clone());
            } else if value.is_boolean() {
                booleans.insert(name.clone());
            }
        }
    }
    of_fields(&strings, &booleans)
}

fn of_fields(strings: &BTreeSet<String>, booleans: &BTreeSet<String>) -> Vec<String> {
    let booleans = sentence(BOOLEANS, booleans, STORES_BOOLEANS);
    booleans.into_iter().chain(sentence("strings", strings, "")).collect()
}

/// Names what is omitted; `None` if there is nothing.
fn sentence(what: &str, places: &BTreeSet<String>, advice: &str) -> Option<String> {
    let shown: Vec<&str> = places.iter().take(MOST_LISTED).map(String::as_str).collect();
    let more = match places.len() - shown.len() {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    (!places.is_empty()).then(|| format!("{what}: {}{more}{advice}", shown.join(", ")))
}
