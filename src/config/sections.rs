//! The keys, as `config/default.toml` has them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use backon::ExponentialBuilder;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::render;
use super::secret::Secret;
use super::ssl_mode::SslMode;
use crate::message::Limits;

/// Where messages come from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    /// The brokers to ask first, `host:port` with commas between them. Default `localhost:9092`; not empty.
    pub brokers: String,
    /// The consumer group. Default `series-ingest`, and `series-ingest-PIPELINE` for another pipeline than `default`; not
    /// empty.
    pub group_id: String,
    /// The topic of `series-create` messages. Default `time-series.series`.
    pub series_topic: String,
    /// The topic of `point-batch` messages, another than `series_topic`. Default `time-series.points`.
    pub points_topic: String,
    /// Where copies of dead letters are published, another than the two above. Default empty: nowhere.
    pub dead_letter_topic: String,
    /// Where a partition starts that was never read before. Default `earliest`.
    pub start: StartAt,
    /// Where a partition starts of which the pipeline has progress in another cluster, and none in this one. Default `stop`.
    pub new_cluster: NewCluster,
    /// How long the group waits for a silent member, in milliseconds. Default 10000; 1000 to 300000.
    pub session_timeout_ms: u64,
    /// A file with the token of SASL OAUTHBEARER, read again before the token expires. Default empty: none.
    pub oauth_token_file: String,
    #[serde(serialize_with = "render::properties")]
    pub(super) properties: BTreeMap<String, Secret>,
    pub(super) properties_files: BTreeMap<String, String>,
    #[serde(skip)]
    pub(super) properties_read: BTreeMap<String, Secret>,
}

impl Kafka {
    /// The operator's own properties of librdkafka, by name, with those read from files. Values may be secrets.
    pub fn properties(&self) -> impl Iterator<Item = (&str, &str)> {
        self.properties.iter().chain(&self.properties_read).map(|(name, value)| (name.as_str(), value.expose()))
    }
}

/// Where a partition starts that was never read before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartAt {
    /// At the oldest message that Kafka still has.
    Earliest,
    /// After the newest message.
    Latest,
}

/// Where a partition starts of which the pipeline has progress in another cluster, and none in this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NewCluster {
    /// Nowhere: it waits for `progress adopt`, and the worker is not ready.
    Stop,
    /// At the offset that the group has in this cluster, as a mirror has synced it; a partition without one waits.
    GroupOffsets,
    /// As a partition that was never read: what both clusters have is written again.
    Start,
}

/// Where points go.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// The URL, `postgres://` or `postgresql://`, with the password; of `url_file` and `password_file` too, once
    /// loaded.
    /// Default empty: not set.
    #[serde(serialize_with = "render::url")]
    pub url: Secret,
    /// A file that holds the URL. Default empty: none.
    pub url_file: String,
    /// A file that holds the password of a URL without one. Default empty: none.
    pub password_file: String,
    /// How the connection is protected; the URL's `sslmode` says the same. Default `auto`.
    pub sslmode: SslMode,
    /// A PEM file with the CAs that the server's certificate may be of, or `system`; the URL's `sslrootcert` says the
    /// same. Default empty: this system's.
    pub sslrootcert: String,
    /// A PEM file with the client's certificate; the URL's `sslcert` says the same. Default empty: none.
    pub sslcert: String,
    /// A PEM file with its key; the URL's `sslkey` says the same. Default empty: none.
    pub sslkey: String,
    /// The schema of the tables and functions; `migrate` creates it. Default `public`; 1 to 63 bytes, none of the server's own.
    pub schema: String,
    /// Connections that are kept. Default 5; 1 to 1000.
    pub pool_size: usize,
    /// Connections that may come on top. Default 10; 0 to 1000.
    pub max_overflow: usize,
    /// The age at which a connection is replaced, in seconds. Default 3600; at least 1.
    pub pool_recycle_s: u64,
    /// How long to wait for a free connection, in milliseconds. Default 10000; 1 to 86400000.
    pub pool_wait_timeout_ms: u64,
    /// How long a connection beyond `pool_size` may be idle, in milliseconds. Default 60000; 1 to 86400000.
    pub overflow_idle_ms: u64,
    /// How long making or trying a connection may take, in milliseconds. Default 5000; 1 to 86400000.
    pub connect_timeout_ms: u64,
    /// PostgreSQL's `statement_timeout`, in milliseconds. Default 60000; 1 to 86400000.
    pub statement_timeout_ms: u64,
    /// PostgreSQL's `lock_timeout`, in milliseconds. Default 10000; 1 to 86400000.
    pub lock_timeout_ms: u64,
    /// PostgreSQL's `idle_in_transaction_session_timeout`, in milliseconds. Default 60000; 1 to 86400000.
    pub idle_in_transaction_timeout_ms: u64,
    /// How long a connection may be silent before it is probed, in milliseconds. Default 10000; 1000 to 86400000.
    pub keepalive_idle_ms: u64,
    /// How long sent data may stay unacknowledged, in milliseconds. Default 20000; 1 to 86400000.
    pub tcp_user_timeout_ms: u64,
    /// For how long the database may fail before an outage is declared and messages go to the journal, in milliseconds.
    /// Default 2000; 0 to 86400000.
    pub outage_grace_ms: u64,
    /// The first pause before a failed write is tried again, in milliseconds. Default 100; 1 to `retry_max_ms`.
    pub retry_min_ms: u64,
    /// The longest such pause, in milliseconds. Default 1000; up to 86400000.
    pub retry_max_ms: u64,
    /// Batches written at the same time: 1 to `pool_size + max_overflow`, or 0 for [`Writers::Auto`]. Default 0.
    pub writers: Writers,
    /// Whether `run` makes or updates the tables itself. Default false.
    pub migrate_on_start: bool,
    /// The time span of a chunk of the hypertable, in seconds. Default 86400; 60 to 315360000.
    pub chunk_interval_s: u64,
    /// The age at which a chunk is compressed, in seconds. Default 86400; 1 to 3153600000.
    pub compress_after_s: u64,
}

/// How many batches are written at the same time; 0 in the configuration is [`Writers::Auto`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(from = "usize", into = "usize")]
pub enum Writers {
    /// As many as raise the throughput, of the connections that are kept.
    Auto,
    /// Just as many.
    Fixed(usize),
}

impl From<usize> for Writers {
    fn from(number: usize) -> Self {
        if number == 0 { Self::Auto } else { Self::Fixed(number) }
    }
}

impl From<Writers> for usize {
    fn from(writers: Writers) -> Self {
        match writers {
            Writers::Auto => 0,
            Writers::Fixed(number) => number,
        }
    }
}

impl Database {
    /// The least and the largest number of batches that may be written at the same time. They are the same if the number is
    /// fixed; else one of the connections that are kept is left for questions.
    pub fn writer_range(&self) -> RangeInclusive<usize> {
        match self.writers {
            Writers::Auto => 1..=self.pool_size.saturating_sub(1).max(1),
            Writers::Fixed(number) => number..=number,
        }
    }

    /// The pauses between attempts, without an end.
    pub fn backoff(&self) -> ExponentialBuilder {
        ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(self.retry_min_ms))
            .with_max_delay(Duration::from_millis(self.retry_max_ms))
            .with_factor(2.0)
            .with_jitter()
            .without_max_times()
    }
}

impl Database {
    /// The URL to connect with, with the password.
    pub fn connection(&self) -> &Secret {
        &self.url
    }
}

/// When a batch is written: at the first of these.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Points. Default 200000; 1 to 10000000.
    pub max_points: usize,
    /// Bytes of messages. Default 16 MiB; 1024 to a quarter of `memory.limit_bytes`.
    pub max_bytes: usize,
    /// How long the first message waits, in milliseconds. Default 200; 0 to 3600000.
    pub linger_ms: u64,
}

/// What the worker may hold.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Bytes of memory. Default 256 MiB; at least 96 MiB.
    pub limit_bytes: usize,
}

/// What a message may be.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessageRules {
    /// The length of a message, of its key and of its headers, in bytes each. Default 1 MiB; 1 to a quarter of
    /// `memory.limit_bytes`.
    pub max_bytes: usize,
    /// Points in a message. Default 100000; at least 1.
    pub max_points: usize,
    /// The length of a series' id and of a column's name, in bytes. Default 1024; 1 to 1300.
    pub max_name_bytes: usize,
    /// The first accepted time. Default 1900-01-01T00:00:00Z; not before the year 1.
    pub min_timestamp: Timestamp,
    /// The first time that is no longer accepted. Default 2200-01-01T00:00:00Z; after `min_timestamp`.
    pub max_timestamp: Timestamp,
    /// Whether a message with a field that means nothing is invalid. Default `false`: such fields are skipped and counted.
    pub deny_unknown_fields: bool,
    /// The rejected messages after which a topic is paused of which nothing was accepted yet. Default 1000; 0 to 1000000000, 0
    /// for never.
    pub rejections_before_pause: u64,
}

impl MessageRules {
    /// The limits as the decoder takes them: times in microseconds since the Unix epoch.
    pub fn limits(&self) -> Limits {
        Limits {
            max_bytes: self.max_bytes,
            max_points: self.max_points,
            max_name_bytes: self.max_name_bytes,
            min_us: self.min_timestamp.as_microsecond(),
            max_us: self.max_timestamp.as_microsecond(),
            deny_unknown_fields: self.deny_unknown_fields,
        }
    }
}

/// What points mean.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Points {
    /// What happens to points of a series that no `series-create` has named. Default `create`.
    pub unknown_series: UnknownSeries,
    /// What happens to points that are there already, of other messages. Default `append`.
    pub on_duplicate: OnDuplicate,
}

/// What happens to points of a series, column and time that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDuplicate {
    /// They become rows of their own.
    Append,
    /// What is there stays.
    Ignore,
    /// The value of the later message counts, in whatever order they are written.
    Replace,
}

impl OnDuplicate {
    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Ignore => "ignore",
            Self::Replace => "replace",
        }
    }
}

/// What happens to points of a series that no `series-create` has named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnknownSeries {
    /// A placeholder row is made, which a later `series-create` completes.
    Create,
    /// Their message becomes a dead letter.
    DeadLetter,
}

/// What becomes of messages that cannot be stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadLetters {
    /// The dead letters that are stored; beyond it, they are counted, and the newest of each partition and reason is stored.
    /// Default 100000; 0 to 1000000000.
    pub max_rows: u64,
    /// The attempts to send a dead letter again after which it is parked. Default 5; 1 to 1000000.
    pub max_attempts: u32,
}

/// Where messages are kept while the database is away.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    /// Whether there is one; without it, reading pauses while the database is away. Default true.
    pub enabled: bool,
    /// Its directory, of this worker alone. Default `journal`; not empty.
    pub directory: String,
    /// What it may take on disk, in bytes. Default 10 GiB; at least twice `segment_bytes`.
    pub max_bytes: u64,
    /// What it leaves free on its disk, in bytes. Default 1 GiB.
    pub min_free_bytes: u64,
    /// The length of a segment, in bytes. Default 64 MiB; 1 MiB to 1 GiB.
    pub segment_bytes: u64,
    /// How long a segment stays after the database has all of it, in seconds. Default 600; up to 31536000.
    pub grace_s: u64,
}

/// Metrics and health over HTTP.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// `host:port`; empty for no server. Default `127.0.0.1:9464`.
    pub listen: String,
    /// How long the worker's loop may stand still before `/livez` fails, in milliseconds. Default 60000; 1 to 86400000.
    pub watchdog_ms: u64,
    /// How long waiting data may stand still before `/readyz` fails, in milliseconds. Default 60000; 1 to 86400000.
    pub stall_ms: u64,
}

/// What is logged, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// The form of a line. Default `human`.
    pub format: LogFormat,
    /// What is logged, in the syntax of tracing's `EnvFilter`. Default `info`; not empty.
    pub filter: String,
}

/// The form of a line of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For a terminal.
    Human,
    /// A JSON object a line, for a collector.
    Json,
}

/// How the worker stops.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {
    /// How long what was read may still be written, in milliseconds. Default 5000; 0 up, less than
    /// `kafka.session_timeout_ms`.
    pub drain_timeout_ms: u64,
}
