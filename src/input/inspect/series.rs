//! Chooses the values that name series, and those that are kept as labels.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::leaves::{Leaf, Leaves, MAX_DISTINCT, text_at};
use super::names::{is_of_numbers_that_name, is_place, may_be_of_message, quantity_rank, sender_rank};
use super::records::Record;
use crate::input::options::{Format, InputOptions};

/// Maximum number of distinct values of a label.
pub(super) const MAX_LABEL_VALUES: usize = 100;

/// Sets the template of the series' ids. Returns the places that it names.
pub(super) fn series(
    options: &mut InputOptions,
    inside: &Leaves,
    around: &Leaves,
    records: &[Record],
    time_at: &str,
) -> Vec<String> {
    let is_used = |place: &str| {
        place == time_at || options.column.as_deref() == Some(place) || options.value.as_deref() == Some(place)
    };
    let messages = records.iter().map(|one| one.message).collect::<HashSet<usize>>().len();
    let candidates = candidates(options.format, (inside, around, messages), is_used);
    let mut named = refining(candidates, records);
    let keyed = records.iter().filter(|one| one.key.as_deref().is_some_and(|key| !key.is_empty())).count();
    options.series = Some(if !named.is_empty() {
        named.sort_by_key(|place| !is_place(place));
        named.iter().map(|place| format!("{{{place}}}")).collect::<Vec<_>>().join("/")
    } else if keyed * 100 >= records.len() * 99 && keyed > 0 && options.format != Format::DebeziumJson {
        "{key}".to_owned()
    } else if let Some((_, place)) = telling(inside, time_at) {
        named.push(place.clone());
        format!("{{{place}}}")
    } else {
        "{topic}".to_owned()
    });
    named
}

/// Finds a text with few distinct values, which may distinguish series if no key has the name of a sender.
fn telling(inside: &Leaves, time_at: &str) -> Option<(usize, String)> {
    let of_few = |leaf: &Leaf| leaf.distinct.len() > 1 && leaf.distinct.len() * 5 <= inside.records;
    let texts = inside.all.iter().filter(|(place, leaf)| {
        *place != time_at
            && leaf.is_string()
            && !leaf.is_numeric_string()
            && inside.is_always_there(leaf)
            && of_few(leaf)
    });
    texts
        .filter(|(place, _)| quantity_rank(place).is_none())
        .map(|(place, leaf)| (leaf.distinct.len(), place.clone()))
        .max()
}

/// The places that may name a series, the surest first. `is_used` returns `true` for a place that has another use.
fn candidates(
    format: Format,
    (inside, around, messages): (&Leaves, &Leaves, usize),
    is_used: impl Fn(&str) -> bool,
) -> Vec<String> {
    let mut candidates = Vec::new();
    for (leaves, far, count) in [(inside, 0, inside.records), (around, 1, messages)] {
        for (place, leaf) in leaves
            .all
            .iter()
            .filter(|(place, leaf)| !is_used(place) && leaf.may_be_name() && leaves.is_always_there(leaf))
        {
            let is_each = leaf.distinct.len() * 10 >= count.min(MAX_DISTINCT) * 9 && count > 1;
            let may_name = leaf.is_string() || is_of_numbers_that_name(place);
            if is_each && may_be_of_message(place) || !may_name {
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
    if format == Format::Cloudevents && candidates.iter().all(|(far, ..)| *far == 1) {
        // The source and subject of an event name it better than attributes that happen to have such words.
        candidates = ["/source", "/subject"]
            .iter()
            .zip(0..)
            .filter(|(place, _)| around.all.contains_key(**place))
            .map(|(place, rank)| (1, rank, 1, rank, (*place).to_owned()))
            .collect();
    }
    candidates.sort();
    candidates.into_iter().map(|(.., place)| place).collect()
}

/// The first place, and those after it that distinguish more series.
fn refining(places: Vec<String>, records: &[Record]) -> Vec<String> {
    let mut named: Vec<String> = Vec::new();
    let mut known = 0;
    for place in places {
        let with: Vec<&String> = named.iter().chain([&place]).collect();
        let ids: HashSet<Vec<Option<String>>> = records
            .iter()
            .map(|one| with.iter().map(|at| text_at(&one.value, at).or_else(|| text_at(&one.around, at))).collect())
            .collect();
        // A place with as many values in a series as there are records does not name it.
        let refines = named.is_empty() || ids.len() > known && ids.len() * 2 <= records.len();
        if refines {
            known = ids.len();
            named.push(place);
        }
        if named.len() == 3 {
            break;
        }
    }
    named
}

/// Keeps the values that name the series as labels, and other texts that are constant within each series.
pub(super) fn labels(options: &mut InputOptions, inside: &Leaves, records: &[Record], named: &[String], time_at: &str) {
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
