//! What an operator writes in `[[input]]`, and what is wrong with it.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::influx::InfluxPlan;
use super::json::JsonPlan;
use super::template::Template;
use super::{Input, POINTS_INPUT, Plan, SERIES_INPUT, TopicPattern};
use crate::raw::Kind;

/// The format of an input's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Messages that were written for this program.
    Native,
    /// JSON of any shape, mapped by the other keys.
    Json,
    /// Line protocol of InfluxDB.
    Influx,
    /// What Telegraf's `data_format = "json"` writes.
    TelegrafJson,
    /// Changes of rows as Debezium's JSON converter writes them.
    DebeziumJson,
    /// Events of the CloudEvents specification 1.0, with JSON in them.
    Cloudevents,
    /// Samples as prometheus-kafka-adapter writes them.
    PrometheusJson,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 7] = [
        Self::Native,
        Self::Json,
        Self::Influx,
        Self::TelegrafJson,
        Self::DebeziumJson,
        Self::Cloudevents,
        Self::PrometheusJson,
    ];

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Json => "json",
            Self::Influx => "influx",
            Self::TelegrafJson => "telegraf-json",
            Self::DebeziumJson => "debezium-json",
            Self::Cloudevents => "cloudevents",
            Self::PrometheusJson => "prometheus-json",
        }
    }
}

/// One `[[input]]`, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputOptions {
    /// The input's name; not empty, and of no other input.
    pub name: String,
    /// Names of topics, and regular expressions that begin with `^`; at least one.
    pub topics: Vec<String>,
    /// The format.
    pub format: Format,
    /// A JSON Pointer to the array of records; none: the message is one record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub each: Option<String>,
    /// The template of the series' ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<String>,
    /// Where the time stands, and its form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// Which fields become columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Columns>,
    /// In the long form, a JSON Pointer to the column's name, or a template of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// In the long form, a JSON Pointer to the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// JSON Pointers to what is kept as labels of the series.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// What strings among the values are. Default `skip`; `number` for `prometheus-json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strings: Option<Strings>,
    /// What booleans among the values are. Default `skip`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booleans: Option<Booleans>,
    /// What objects and arrays among the values are. Default `flatten`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nested: Option<Nested>,
    /// Of `influx` and `telegraf-json`, the unit of timestamps: `s`, `ms`, `us` or `ns`. Default `ns`, and `s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

/// Where a record's time stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Time {
    /// The message's own time in Kafka.
    Kafka,
    /// In the payload.
    At {
        /// A JSON Pointer to it.
        at: String,
        /// What a number counts: `s`, `ms`, `us` or `ns`.
        unit: Option<String>,
        /// `rfc3339`, `postgresql`, or a pattern of strftime.
        format: Option<String>,
    },
}

/// Which fields of a record are columns.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Columns {
    /// JSON Pointers to fields that are none; all others are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// JSON Pointers to those that are; no other is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// Names of columns, by the pointers to their fields.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rename: BTreeMap<String, String>,
}

/// What strings among the values are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strings {
    /// Numbers; a message with another string is rejected.
    Number,
    /// Nothing.
    #[default]
    Skip,
    /// A fault of their message.
    Reject,
}

/// What booleans among the values are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Booleans {
    /// False is 0, true is 1.
    #[serde(rename = "0-1")]
    ZeroOne,
    /// Nothing.
    #[default]
    Skip,
    /// A fault of their message.
    Reject,
}

/// What objects and arrays among the values are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nested {
    /// Their values are columns, named with dots.
    #[default]
    Flatten,
    /// Nothing.
    Skip,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TimeTable {
    at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    format: Option<String>,
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        match toml::Value::deserialize(deserializer)? {
            toml::Value::String(word) if word == "kafka" => Ok(Self::Kafka),
            toml::Value::Table(table) => {
                let TimeTable { at, unit, format } = table
                    .try_into()
                    .map_err(|error: toml::de::Error| D::Error::custom(format!("time: {}", error.message())))?;
                Ok(Self::At { at, unit, format })
            }
            other => Err(D::Error::custom(format!(
                "time is {other}; set \"kafka\", or where it stands, such as {{ at = \"/ts\", unit = \"ms\" }}"
            ))),
        }
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.clone() {
            Self::Kafka => serializer.serialize_str("kafka"),
            Self::At { at, unit, format } => TimeTable { at, unit, format }.serialize(serializer),
        }
    }
}

/// One thing that is wrong with an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key.
    pub key: String,
    /// What is wrong with it, and what to do.
    pub text: String,
}

/// Collects what is wrong with one input.
#[derive(Debug)]
pub(super) struct Problems {
    label: String,
    found: Vec<Problem>,
}

impl Problems {
    pub(super) fn push(&mut self, key: &str, text: impl Into<String>) {
        let key = if key.is_empty() { self.label.clone() } else { format!("{}.{key}", self.label) };
        self.found.push(Problem { key, text: text.into() });
    }

    /// The value, if there is nothing wrong with it.
    pub(super) fn take<T>(&mut self, key: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|text| self.push(key, text)).ok()
    }
}

/// Compiles the input of this number.
pub(super) fn compile(number: usize, options: &InputOptions) -> Result<Input, Vec<Problem>> {
    let label = if options.name.is_empty() { format!("input[{number}]") } else { format!("input {:?}", options.name) };
    let mut problems = Problems { label, found: Vec::new() };
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
    match plan.filter(|_| problems.found.is_empty()) {
        Some(plan) => Ok(Input { name: options.name.clone(), topics, format: options.format, plan }),
        None => Err(problems.found),
    }
}

/// Reports keys that the input's format does not read: an operator believes that they mean something.
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

/// Reports names that several inputs have.
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
