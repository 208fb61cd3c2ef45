//! The keys of `[[input]]`.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

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
    /// The output of Telegraf's `data_format = "json"`.
    TelegrafJson,
    /// Changes of rows in the form of Debezium's JSON converter.
    DebeziumJson,
    /// Events of the CloudEvents specification 1.0, with JSON in them.
    Cloudevents,
    /// Samples in the form of prometheus-kafka-adapter.
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

    /// The value in the configuration.
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

/// One `[[input]]`, as configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputOptions {
    /// The input's name; not empty, and unique.
    pub name: String,
    /// Names of topics, and regular expressions that begin with `^`; at least one.
    pub topics: Vec<String>,
    /// The format.
    pub format: Format,
    /// A JSON Pointer to the array of records; if it is not set, the message is one record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub each: Option<String>,
    /// The template of the series' ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<String>,
    /// The place of the time, and its form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// The fields that become columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Columns>,
    /// In the long form, a JSON Pointer to the column's name, or a template of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// In the long form, a JSON Pointer to the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// JSON Pointers to the values that are kept as labels of the series.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// The handling of strings among the values. Default `skip`; `number` for `prometheus-json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strings: Option<Strings>,
    /// The handling of booleans among the values. Default `skip`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booleans: Option<Booleans>,
    /// The handling of objects and arrays among the values. Default `flatten`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nested: Option<Nested>,
    /// For `influx` and `telegraf-json`, the unit of timestamps: `s`, `ms`, `us` or `ns`. Default `ns`, and `s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

impl InputOptions {
    /// An input of one topic, with the defaults of its format.
    pub fn of(name: &str, topic: &str, format: Format) -> Self {
        Self {
            name: name.to_owned(),
            topics: vec![topic.to_owned()],
            format,
            each: None,
            series: None,
            time: None,
            columns: None,
            column: None,
            value: None,
            labels: Vec::new(),
            strings: None,
            booleans: None,
            nested: None,
            unit: None,
        }
    }
}

/// The place of a record's time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Time {
    /// The message's own time in Kafka.
    Kafka,
    /// In the payload.
    At {
        /// A JSON Pointer to it.
        at: String,
        /// The unit of a number: `s`, `ms`, `us` or `ns`.
        unit: Option<String>,
        /// `rfc3339`, `postgresql`, or a pattern of strftime.
        format: Option<String>,
    },
}

/// The fields of a record that are columns.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Columns {
    /// JSON Pointers to fields that are not columns; all others are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// JSON Pointers to fields that are columns; no others are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// Names of columns, by the pointers to their fields.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rename: BTreeMap<String, String>,
}

/// The handling of strings among the values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strings {
    /// They are parsed as numbers; a message with any other string is rejected.
    Number,
    /// They are skipped.
    #[default]
    Skip,
    /// Their message is rejected.
    Reject,
}

/// The handling of booleans among the values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Booleans {
    /// False is 0, true is 1.
    #[serde(rename = "0-1")]
    ZeroOne,
    /// They are skipped.
    #[default]
    Skip,
    /// Their message is rejected.
    Reject,
}

/// The handling of objects and arrays among the values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nested {
    /// Their values become columns, with names separated by dots.
    #[default]
    Flatten,
    /// They are skipped.
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
