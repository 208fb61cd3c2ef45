//! The keys, as `config/default.toml` has them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use backon::ExponentialBuilder;
use serde::{Deserialize, Serialize};

use super::render;
use super::secret::Secret;
use super::ssl_mode::SslMode;

/// The source of messages.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    /// The brokers to contact first, `host:port` separated by commas. Default `localhost:9092`; not empty.
    pub brokers: String,
    /// The consumer group. Default `series-ingest`, and `series-ingest-PIPELINE` for a pipeline other than `default`; not
    /// empty.
    pub group_id: String,
    /// The topic of `series-create` messages. Default `time-series.series`.
    pub series_topic: String,
    /// The topic of `point-batch` messages; it must differ from `series_topic`. Default `time-series.points`.
    pub points_topic: String,
    /// The topic for copies of dead letters; it must differ from the two above. Default empty: none.
    pub dead_letter_topic: String,
    /// The start of a partition that was never read. Default `earliest`.
    pub start: StartAt,
    /// The start of a partition that the pipeline has progress of in another cluster, and none in this one. Default `stop`.
    pub new_cluster: NewCluster,
    /// Timeout after which the group removes a silent member, in milliseconds. Default 10000; 1000 to 300000.
    pub session_timeout_ms: u64,
    /// A file with the token of SASL OAUTHBEARER; it is read again before the token expires. Default empty: none.
    pub oauth_token_file: String,
    #[serde(serialize_with = "render::properties")]
    pub(super) properties: BTreeMap<String, Secret>,
    pub(super) properties_files: BTreeMap<String, String>,
    #[serde(skip)]
    pub(super) properties_read: BTreeMap<String, Secret>,
}

impl Kafka {
    /// The operator's own properties of librdkafka, by name, including those read from files. Values may be secrets.
    pub fn properties(&self) -> impl Iterator<Item = (&str, &str)> {
        self.properties.iter().chain(&self.properties_read).map(|(name, value)| (name.as_str(), value.expose()))
    }
}

/// The start of a partition that was never read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartAt {
    /// The oldest message that Kafka still has.
    Earliest,
    /// After the newest message.
    Latest,
}

/// The start of a partition that the pipeline has progress of in another cluster, and none in this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NewCluster {
    /// None: the partition waits for `progress adopt`, and the worker is not ready.
    Stop,
    /// The group's offset in this cluster, as a mirror has synchronized it; a partition without one waits.
    GroupOffsets,
    /// The start of a partition that was never read: messages that both clusters have are written again.
    Start,
}

/// The destination of points.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// The URL, `postgres://` or `postgresql://`, with the password; once loaded, also from `url_file` and `password_file`.
    /// Default empty: not set.
    #[serde(serialize_with = "render::url")]
    pub url: Secret,
    /// A file that contains the URL. Default empty: none.
    pub url_file: String,
    /// A file that contains the password of a URL without one. Default empty: none.
    pub password_file: String,
    /// The URL that commands which only read use, with one or several hosts. Default empty: `url`.
    #[serde(serialize_with = "render::url")]
    pub read_url: Secret,
    /// A file that contains it. Default empty: none.
    pub read_url_file: String,
    /// If it is `true`, these commands read by `url` when no host of `read_url` can be read. Default false.
    pub read_fallback: bool,
    /// Maximum lag of a standby that is read, in seconds. Default 0: any; up to 31536000.
    pub read_max_lag_s: u64,
    /// The protection of the connection, like the URL's `sslmode`. Default `auto`.
    pub sslmode: SslMode,
    /// A PEM file with the CAs that may have issued the server's certificate, or `system`; like the URL's `sslrootcert`.
    /// Default empty: this system's.
    pub sslrootcert: String,
    /// A PEM file with the client's certificate; like the URL's `sslcert`. Default empty: none.
    pub sslcert: String,
    /// A PEM file with its key; like the URL's `sslkey`. Default empty: none.
    pub sslkey: String,
    /// The schema of the tables and functions; `migrate` creates it. Default `public`; 1 to 63 bytes, not a schema of the
    /// server.
    pub schema: String,
    /// Number of connections that are kept open. Default 5; 1 to 1000.
    pub pool_size: usize,
    /// Maximum number of additional connections. Default 10; 0 to 1000.
    pub max_overflow: usize,
    /// The age at which a connection is replaced, in seconds. Default 3600; at least 1.
    pub pool_recycle_s: u64,
    /// Timeout for a free connection, in milliseconds. Default 10000; 1 to 86400000.
    pub pool_wait_timeout_ms: u64,
    /// Maximum idle time of a connection beyond `pool_size`, in milliseconds. Default 60000; 1 to 86400000.
    pub overflow_idle_ms: u64,
    /// Timeout for opening or testing a connection, in milliseconds. Default 5000; 1 to 86400000.
    pub connect_timeout_ms: u64,
    /// PostgreSQL's `statement_timeout`, in milliseconds. Default 60000; 1 to 86400000.
    pub statement_timeout_ms: u64,
    /// PostgreSQL's `lock_timeout`, in milliseconds. Default 10000; 1 to 86400000.
    pub lock_timeout_ms: u64,
    /// PostgreSQL's `idle_in_transaction_session_timeout`, in milliseconds. Default 60000; 1 to 86400000.
    pub idle_in_transaction_timeout_ms: u64,
    /// Time without traffic after which a connection is probed, in milliseconds. Default 10000; 1000 to 86400000.
    pub keepalive_idle_ms: u64,
    /// Maximum time for which sent data may remain unacknowledged, in milliseconds. Default 20000; 1 to 86400000.
    pub tcp_user_timeout_ms: u64,
    /// Time for which the database may fail before an outage is declared and messages go to the journal, in milliseconds.
    /// Default 2000; 0 to 86400000.
    pub outage_grace_ms: u64,
    /// The first pause before a failed write is retried, in milliseconds. Default 100; 1 to `retry_max_ms`.
    pub retry_min_ms: u64,
    /// Maximum of this pause, in milliseconds. Default 1000; up to 86400000.
    pub retry_max_ms: u64,
    /// Number of batches written at the same time: 1 to `pool_size + max_overflow`, or 0 for [`Writers::Auto`]. Default 0.
    pub writers: Writers,
    /// If it is `true`, `run` creates or updates the tables itself. Default false.
    pub migrate_on_start: bool,
    /// The time span of a chunk of the hypertable, in seconds. Default 86400; 60 to 315360000.
    pub chunk_interval_s: u64,
    /// The age at which a chunk is compressed, in seconds. Default 86400; 1 to 3153600000.
    pub compress_after_s: u64,
    /// `true` for settings whose URL is that of `read_url`.
    #[serde(skip)]
    pub(crate) is_for_reading: bool,
    /// `true` if `password_file` is not for `read_url`.
    #[serde(skip)]
    pub(crate) reads_with_own_password: bool,
}

/// Number of batches written at the same time; 0 in the configuration is [`Writers::Auto`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(from = "usize", into = "usize")]
pub enum Writers {
    /// As many as increase the throughput, limited by the connections that are kept open.
    Auto,
    /// This number.
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
    /// The minimum and maximum number of batches that may be written at the same time. They are equal if the number is fixed;
    /// otherwise one of the connections that are kept open is reserved for queries.
    pub fn writer_range(&self) -> RangeInclusive<usize> {
        match self.writers {
            Writers::Auto => 1..=self.pool_size.saturating_sub(1).max(1),
            Writers::Fixed(number) => number..=number,
        }
    }

    /// The unlimited sequence of pauses between attempts.
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

/// A batch is written when it reaches the first of these limits.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Number of points. Default 200000; 1 to 10000000.
    pub max_points: usize,
    /// Size of its messages, in bytes. Default 16 MiB; 1024 to a quarter of `memory.limit_bytes`.
    pub max_bytes: usize,
    /// Time for which its first message waits, in milliseconds. Default 200; 0 to 3600000.
    pub linger_ms: u64,
}

/// The worker's memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Memory limit, in bytes. Default 256 MiB; at least 96 MiB.
    pub limit_bytes: usize,
}

/// What is deleted because of its age.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// The age from which points are deleted, in seconds. Default 0: never; 60 to 3153600000.
    pub drop_after_s: u64,
}

/// The handling of messages about series.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// A null payload in a topic of series. Default `ignore`.
    pub tombstones: NullPayload,
}

/// The handling of null payloads in a topic of series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NullPayload {
    /// Nothing is done.
    Ignore,
    /// The series that the key names is deleted.
    Delete,
}

/// The handling of points.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Points {
    /// Points of a series that no `series-create` has named. Default `create`.
    pub unknown_series: UnknownSeries,
    /// Points that already exist, from other messages. Default `append`.
    pub on_duplicate: OnDuplicate,
}

/// The handling of points of a series, column and time that already exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDuplicate {
    /// They are stored as additional rows.
    Append,
    /// The existing point stays.
    Ignore,
    /// The value of the later message is kept, in whatever order they are written.
    Replace,
}

impl OnDuplicate {
    /// The value in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Ignore => "ignore",
            Self::Replace => "replace",
        }
    }
}

/// The handling of points of a series that no `series-create` has named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnknownSeries {
    /// A placeholder row is created, which a later `series-create` completes.
    Create,
    /// Their message becomes a dead letter.
    DeadLetter,
}

/// The handling of messages that cannot be stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadLetters {
    /// Maximum number of dead letters that are stored; beyond it all are counted, and the newest of each partition and reason
    /// is stored. Default 100000; 0 to 1000000000.
    pub max_rows: u64,
    /// Number of unsuccessful attempts to redrive a dead letter after which it is parked. Default 5; 1 to 1000000.
    pub max_attempts: u32,
}

/// The journal, which keeps messages while the database is not available.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    /// If it is `false`, there is no journal, and reading pauses while the database is not available. Default true.
    pub enabled: bool,
    /// Its directory, for this worker only. Default `journal`; not empty.
    pub directory: String,
    /// Maximum disk space that it uses, in bytes. Default 10 GiB; at least twice `segment_bytes`.
    pub max_bytes: u64,
    /// Space that it leaves free on its disk, in bytes. Default 1 GiB.
    pub min_free_bytes: u64,
    /// The length of a segment, in bytes. Default 64 MiB; 1 MiB to 1 GiB.
    pub segment_bytes: u64,
    /// Time for which a segment is kept after the database has all of it, in seconds. Default 600; up to 31536000.
    pub grace_s: u64,
}

/// Metrics and health over HTTP.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// `host:port`; empty for no server. Default `127.0.0.1:9464`.
    pub listen: String,
    /// Maximum time without progress of the worker's loop before `/livez` fails, in milliseconds. Default 60000; 1 to 86400000.
    pub watchdog_ms: u64,
    /// Maximum time without progress while data waits before `/readyz` fails, in milliseconds. Default 60000; 1 to 86400000.
    pub stall_ms: u64,
}

/// The log.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// The format of a line. Default `human`.
    pub format: LogFormat,
    /// The filter, in the syntax of tracing's `EnvFilter`. Default `info`; not empty.
    pub filter: String,
}

/// The format of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For a terminal.
    Human,
    /// A JSON object a line, for a collector.
    Json,
}

/// The shutdown of the worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {
    /// Timeout for writing what was read, in milliseconds. Default 5000; 0 up, less than `kafka.session_timeout_ms`.
    pub drain_timeout_ms: u64,
}
