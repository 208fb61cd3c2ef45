//! Compiles an input from its configuration, and reports its problems.

use std::collections::HashSet;

use super::influx::InfluxPlan;
use super::json::JsonPlan;
use super::options::{Format, InputOptions};
use super::problems::{Problem, Problems};
use super::template::Template;
use super::topics::TopicPattern;
use super::{Input, POINTS_INPUT, Plan, SERIES_INPUT};
use crate::raw::Kind;

/// Compiles the input with this number.
pub(super) fn compile(number: usize, options: &InputOptions) -> Result<Input, Vec<Problem>> {
    let label = if options.name.is_empty() { format!("input[{number}]") } else { format!("input {:?}", options.name) };
    let mut problems = Problems::new(label);
    if options.name.trim().is_empty() {
        problems.push("name", "is empty; set a name: metrics and dead letters are labelled with it");
    }
    if [SERIES_INPUT, POINTS_INPUT].contains(&options.name.as_str()) {
        problems.push("name", "is the name of kafka.series_topic's or kafka.points_topic's input; set another one");
    }
    if options.topics.is_empty() {
        problems.push("topics", "is empty; name at least one topic");
    }
    let topics: Vec<TopicPattern> =
        options.topics.iter().filter_map(|text| problems.take("topics", TopicPattern::parse(text))).collect();
    has_no_effect(options, &mut problems);
    let plan = match options.format {
        Format::Native => Some(Plan::Native(Kind::Points)),
        Format::Influx => InfluxPlan::compile(options, &mut problems).map(Plan::Influx),
        _ => JsonPlan::compile(options, &mut problems).map(|plan| Plan::Json(Box::new(plan))),
    };
    let templates = [("series", &options.series), ("column", &options.column)];
    for (key, text) in templates.into_iter().filter_map(|(key, text)| Some((key, text.as_ref()?))) {
        let most = Template::parse(text).map_or(0, |template| template.most_groups());
        if let Some(few) = topics.iter().find(|pattern| pattern.group_count() < most) {
            let text = format!(
                "names group {most}, and a topic has {} groups; use a regular expression with more",
                few.group_count()
            );
            problems.push(key, text);
        }
    }
    let found = problems.into_found();
    match plan {
        Some(plan) if found.is_empty() => {
            Ok(Input { name: options.name.clone(), topics, format: options.format, plan })
        }
        _ => Err(found),
    }
}

/// Reports keys that the input's format does not read, although an operator expects an effect.
fn has_no_effect(options: &InputOptions, problems: &mut Problems) {
    use Format::{Cloudevents, DebeziumJson, Influx, Json, PrometheusJson, TelegrafJson};
    let mapped = [Json, DebeziumJson, Cloudevents];
    let metrics = [Influx, TelegrafJson, PrometheusJson];
    let all = [Json, DebeziumJson, Cloudevents, Influx, TelegrafJson, PrometheusJson];
    let keys: [(&str, bool, &[Format]); 11] = [
        ("each", options.each.is_some(), &mapped),
        ("series", options.series.is_some(), &mapped),
        ("time", options.time.is_some(), &mapped),
        ("columns", options.columns.is_some(), &mapped),
        ("column", options.column.is_some(), &mapped),
        ("value", options.value.is_some(), &mapped),
        ("labels", !options.labels.is_empty(), &mapped),
        ("strings", options.strings.is_some(), &all),
        ("booleans", options.booleans.is_some(), &all),
        ("nested", options.nested.is_some(), &[Json, DebeziumJson, Cloudevents, TelegrafJson]),
        ("unit", options.unit.is_some(), &metrics[..2]),
    ];
    for (key, is_set, formats) in keys {
        if is_set && !formats.contains(&options.format) {
            let text = format!("has no effect with the format {:?}; remove it", options.format.as_str());
            problems.push(key, text);
        }
    }
}

/// Reports names that are used by several inputs.
pub(super) fn same_names(options: &[InputOptions]) -> Vec<Problem> {
    let mut seen = HashSet::new();
    let twice = options.iter().filter(|one| !one.name.is_empty() && !seen.insert(one.name.as_str()));
    twice
        .map(|one| Problem {
            key: format!("input {:?}.name", one.name),
            text: "is the name of another input, too; set another one".to_owned(),
        })
        .collect()
}
