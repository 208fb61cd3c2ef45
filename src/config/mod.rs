//! The configuration: typed, checked as a whole, secrets masked.
//!
//! `config/default.toml` has every key with its default; the file of `--config` is applied over it, and the environment over
//! that.
//! [`Config::load`] reports everything that is wrong at once and repairs nothing.
//!
//! - `sections`: the keys, a struct for each section.
//! - `layers`, `sources`: the sources of the values, applied key by key.
//! - `environment`: the variables that set keys, and those that are ignored or unknown.
//! - `files`: secrets that are read from files.
//! - `validate`: ranges, and the rules between keys.
//! - `properties`: the properties of librdkafka that are refused, and those that may be shown.
//! - `render`: the effective configuration as text.
//! - `tls`: the protection of the connection to PostgreSQL, from the keys and from the URL.
//! - `reading`: the settings of connections that only read.
//! - `message_rules`: the limits of messages; the first accepted time may be an age.
//! - `brokers`: the form of a list of brokers.
//! - `similar`: the known name that a mistyped one resembles.
//! - `secret`, `url`, `problems`: the parts of a configuration.

mod address;
mod brokers;
mod environment;
mod files;
mod layers;
mod message_rules;
mod problems;
mod properties;
mod reading;
mod render;
mod secret;
mod sections;
mod similar;
mod sources;
mod ssl_mode;
#[cfg(test)]
mod tests;
mod tls;
mod url;
mod validate;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::input::{Decoder, InputOptions, Inputs};
pub(crate) use brokers::check as check_brokers;
pub(crate) use files::read_secret;
use layers::Layers;

pub use message_rules::{Earliest, MessageRules};
pub use problems::Problems;
pub(crate) use properties::similar_property;
pub use secret::Secret;
pub use sections::{
    Batch, Database, DeadLetters, Http, Journal, Kafka, Log, LogFormat, Memory, NewCluster, NullPayload, OnDuplicate,
    Points, Retention, Series, Shutdown, StartAt, UnknownSeries, Writers,
};
use sources::Sources;
pub use ssl_mode::SslMode;
pub use tls::{Authorities, Tls};
pub use url::{mask_url, with_database, with_server};

/// The pipeline that uses the default group unchanged.
const DEFAULT_PIPELINE: &str = "default";

/// The whole configuration. Its serialized form contains no secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The name under which progress is stored. Default `default`; not empty.
    pub pipeline: String,
    /// The `[[input]]` sections, besides the two native topics of `[kafka]`. Default none.
    pub input: Vec<InputOptions>,
    /// Section `[kafka]`.
    pub kafka: Kafka,
    /// Section `[database]`.
    pub database: Database,
    /// Section `[batch]`.
    pub batch: Batch,
    /// Section `[memory]`.
    pub memory: Memory,
    /// Section `[message]`.
    pub message: MessageRules,
    /// Section `[series]`.
    pub series: Series,
    /// Section `[retention]`.
    pub retention: Retention,
    /// Section `[points]`.
    pub points: Points,
    /// Section `[dead_letter]`.
    pub dead_letter: DeadLetters,
    /// Section `[journal]`.
    pub journal: Journal,
    /// Section `[http]`.
    pub http: Http,
    /// Section `[log]`.
    pub log: Log,
    /// Section `[shutdown]`.
    pub shutdown: Shutdown,
    #[serde(skip)]
    file: Option<PathBuf>,
    #[serde(skip)]
    sources: Sources,
    #[serde(skip)]
    notes: Vec<String>,
}

impl Config {
    /// Loads the defaults, then `file` over them, then `environment`.
    ///
    /// The environment is `SERIES_INGEST__SECTION__KEY`; weaker than that, but stronger than the file, are `DATABASE_URL` or
    /// else `POSTGRES_USER`, `_PASSWORD`, `_DB`, `_HOST` and `_PORT`, `DATABASE_POOL_SIZE`, `DATABASE_MAX_OVERFLOW`,
    /// `DATABASE_POOL_RECYCLE` and `KAFKA_BROKERS`, which count as not set if they are empty. In the name of a
    /// `SERIES_INGEST__KAFKA__PROPERTIES__…` variable `_` stands for `.`. Any other variable whose name begins with
    /// `SERIES_INGEST` is an error, except those of tests, of `scripts/stack`, and those that Kubernetes sets for a service of
    /// this name. Line ends at the end of a variable are removed.
    ///
    /// An empty `database.url` is accepted here: see [`Config::require_database`].
    ///
    /// # Errors
    /// All problems at once: files that cannot be read, unknown keys and variables, wrong types, values out of range, refused
    /// properties, and keys that contradict each other.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Problems> {
        let mut layers = Layers::new()?;
        if let Some(file) = file {
            layers.add_file(file);
        }
        let mut config = Self::finish(layers, environment)?;
        config.file = file.map(Path::to_path_buf);
        Ok(config)
    }

    /// Like [`Config::load`], with the text of a file.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn from_text(
        text: &str,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Problems> {
        let mut layers = Layers::new()?;
        layers.add_text(text, &sources::Source::File("text".into()));
        Self::finish(layers, environment)
    }

    fn finish(
        mut layers: Layers,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Problems> {
        let (parts, notes) = layers.add_environment(environment);
        let (mut config, sources, mut problems) = layers.finish()?;
        config.notes = notes;
        if sources.get("kafka.group_id") == &sources::Source::Default {
            config.kafka.group_id = group_of(&config.pipeline, config.kafka.group_id);
        }
        let mut found = Problems::default();
        files::read(&mut config, &mut found);
        validate::validate(&config, &mut found);
        problems.extend(found.labelled(&sources));
        config.notes.extend(environment::ignored_parts(&config.database, &sources, &parts));
        config.sources = sources;
        problems.set_log_format(config.log.format);
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    /// The file that it was read from; `None` if there is none.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The inputs: the native topics, and each `[[input]]`. They are compiled again with each call, and cannot be wrong in a
    /// configuration that was loaded.
    pub fn inputs(&self) -> Inputs {
        let Kafka { series_topic, points_topic, .. } = &self.kafka;
        Inputs::compile(series_topic, points_topic, &self.input).unwrap_or_default()
    }

    /// Returns a decoder for these inputs.
    pub fn decoder(&self) -> Decoder {
        let deletes = self.series.tombstones == NullPayload::Delete;
        Decoder::new(self.message.limits(), self.inputs())
            .deleting_by_tombstone(deletes)
            .with_max_age(self.message.max_age_us())
    }

    /// What an operator may not expect, a sentence each: variables of the environment that are ignored although one may rely on
    /// them, and keys that work against each other.
    pub fn notes(&self) -> Vec<String> {
        self.notes.iter().cloned().chain(self.late_points()).collect()
    }

    /// A sentence if late points would create chunks again that retention has deleted.
    fn late_points(&self) -> Option<String> {
        let drop_after_s = self.retention.drop_after_s;
        let is_late = |us: i64| us.unsigned_abs() > drop_after_s.saturating_mul(1_000_000);
        (drop_after_s > 0 && self.message.max_age_us().is_none_or(is_late)).then(|| {
            format!(
                "retention.drop_after_s is {drop_after_s}, and message.min_timestamp is {}: points that are older are written \
                 and deleted again; set message.min_timestamp = \"-{drop_after_s}s\" to reject them",
                self.message.min_timestamp
            )
        })
    }

    /// The brokers that the environment names; `None` if it names none.
    pub fn brokers_of_environment(&self) -> Option<&str> {
        matches!(self.sources.get("kafka.brokers"), sources::Source::Name(_) | sources::Source::Variable(_))
            .then_some(self.kafka.brokers.as_str())
    }

    /// Checks the configuration for commands that need the database.
    ///
    /// # Errors
    /// If `database.url` is empty.
    pub fn require_database(&self) -> Result<(), Problems> {
        if !self.database.url.is_empty() {
            return Ok(());
        }
        let mut problems = Problems::default();
        let empty =
            if self.sources.get("database.url") == &sources::Source::Default { "is not set" } else { "is empty" };
        problems.push(
            self.sources.label("database.url"),
            format!(
                "{empty}; set DATABASE_URL, or POSTGRES_HOST, POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB, or database.url_file"
            ),
        );
        for note in &self.notes {
            problems.push("environment", note);
        }
        problems.set_log_format(self.log.format);
        Err(problems)
    }

    /// Checks the configuration for commands that only read.
    ///
    /// # Errors
    /// If `database.url` and `database.read_url` are empty.
    pub fn require_readable(&self) -> Result<(), Problems> {
        if self.database.read_url.is_empty() { self.require_database() } else { Ok(()) }
    }

    /// The effective configuration as JSON: the values, the source of each, and [`Config::notes`]; secrets are masked.
    pub fn json(&self) -> serde_json::Value {
        render::json(self, &self.sources)
    }

    /// The effective configuration as TOML, each value with its source, in alphabetical order; secrets are masked.
    pub fn render(&self) -> String {
        render::render(self, &self.sources)
    }
}

/// The group of a pipeline that sets none: workers of two pipelines in one group would share the partitions, and each pipeline
/// would get only some of them.
fn group_of(pipeline: &str, default: String) -> String {
    if pipeline == DEFAULT_PIPELINE { default } else { format!("{default}-{pipeline}") }
}
