//! All metrics: names, kinds, labels, help and buckets.

pub(super) const KAFKA_LAG_MESSAGES: &str = "series_ingest_kafka_lag_messages";
pub(super) const KAFKA_LAG_SECONDS: &str = "series_ingest_kafka_lag_seconds";
pub(super) const READY: &str = "series_ingest_ready";
pub(super) const KAFKA_UP: &str = "series_ingest_kafka_up";
pub(super) const REBALANCES: &str = "series_ingest_rebalances_total";
pub(super) const GAPS: &str = "series_ingest_gaps_total";
pub(super) const MESSAGES: &str = "series_ingest_messages_total";
pub(super) const INPUT_REJECTING: &str = "series_ingest_input_rejecting";
pub(super) const UNKNOWN_FIELDS: &str = "series_ingest_unknown_fields_total";
pub(super) const SERIES_CONFLICTS: &str = "series_ingest_series_conflicts_total";
pub(super) const DEAD_LETTERS: &str = "series_ingest_dead_letters_total";
pub(super) const DEAD_LETTERS_ONLY_COUNTED: &str = "series_ingest_dead_letters_only_counted_total";
pub(super) const DEAD_LETTERS_NOT_COUNTED: &str = "series_ingest_dead_letters_not_counted_total";
pub(super) const DEAD_LETTERS_PUBLISHED: &str = "series_ingest_dead_letters_published_total";
pub(super) const BUFFERED_BYTES: &str = "series_ingest_buffered_bytes";
pub(super) const BATCH_POINTS: &str = "series_ingest_batch_points";
pub(super) const BATCH_BYTES: &str = "series_ingest_batch_bytes";
pub(super) const POINTS_WRITTEN: &str = "series_ingest_points_written_total";
pub(super) const POINTS_SKIPPED: &str = "series_ingest_points_skipped_total";
pub(super) const POINTS_DELETED: &str = "series_ingest_points_deleted_total";
pub(super) const RETENTION_DROPPED: &str = "series_ingest_retention_dropped_total";
pub(super) const RETENTION_SECONDS: &str = "series_ingest_retention_seconds";
pub(super) const RETENTION_OVERDUE_SECONDS: &str = "series_ingest_retention_overdue_seconds";
pub(super) const OLDEST_POINT_SECONDS: &str = "series_ingest_oldest_point_seconds";
pub(super) const POINTS_DUPLICATE: &str = "series_ingest_points_duplicate_total";
pub(super) const WRITERS: &str = "series_ingest_writers";
pub(super) const STEP_SECONDS: &str = "series_ingest_step_seconds";
pub(super) const COPY_SECONDS: &str = "series_ingest_copy_seconds";
pub(super) const TRANSACTION_SECONDS: &str = "series_ingest_transaction_seconds";
pub(super) const PRODUCE_TO_COMMIT_SECONDS: &str = "series_ingest_produce_to_commit_seconds";
pub(super) const DATABASE_UP: &str = "series_ingest_database_up";
pub(super) const FOREIGN_KEY_TRIGGER: &str = "series_ingest_foreign_key_trigger";
pub(super) const DIRECT_COMPRESS: &str = "series_ingest_direct_compress";
pub(super) const DATABASE_ERRORS: &str = "series_ingest_database_errors_total";
pub(super) const POOL_SIZE: &str = "series_ingest_pool_size";
pub(super) const POOL_AVAILABLE: &str = "series_ingest_pool_available";
pub(super) const POOL_WAITING: &str = "series_ingest_pool_waiting";
pub(super) const POOL_MAX: &str = "series_ingest_pool_max";
pub(super) const POOL_WAIT_SECONDS: &str = "series_ingest_pool_wait_seconds";
pub(super) const MODE: &str = "series_ingest_mode";
pub(super) const JOURNAL_UP: &str = "series_ingest_journal_up";
pub(super) const JOURNAL_BYTES: &str = "series_ingest_journal_bytes";
pub(super) const JOURNAL_LIMIT_BYTES: &str = "series_ingest_journal_limit_bytes";
pub(super) const JOURNAL_RECORDS: &str = "series_ingest_journal_records";
pub(super) const JOURNAL_OLDEST_SECONDS: &str = "series_ingest_journal_oldest_seconds";
pub(super) const JOURNAL_FSYNC_SECONDS: &str = "series_ingest_journal_fsync_seconds";
pub(super) const JOURNAL_QUARANTINED: &str = "series_ingest_journal_quarantined_total";
pub(super) const JOURNAL_LOST: &str = "series_ingest_journal_lost_records_total";
pub(super) const LOG_LINES_DROPPED: &str = "series_ingest_log_lines_dropped_total";
pub(super) const BACKUP_AGE_SECONDS: &str = "series_ingest_backup_age_seconds";
pub(super) const BACKUP_VERIFIED_AGE_SECONDS: &str = "series_ingest_backup_verified_age_seconds";
pub(super) const BUILD_INFO: &str = "series_ingest_build_info";

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from zero at the program's start.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// Counts of observations by size, with their sum and number.
    Histogram,
}

impl Kind {
    /// The kind's name in the exposition format.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric's description, for people and for Prometheus.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// The full name.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// The labels' names.
    pub labels: &'static [&'static str],
    /// Its meaning; the unit is the end of the name.
    pub help: &'static str,
}

/// All metrics, from Kafka to the database.
pub const METRICS: &[Metric] = &[
    Metric { name: READY, kind: Kind::Gauge, labels: &[], help: "1 while /readyz answers 200, else 0" },
    Metric {
        name: KAFKA_UP,
        kind: Kind::Gauge,
        labels: &[],
        help: "1 while the brokers answer this worker's questions, else 0; 0 before the first answer",
    },
    Metric {
        name: KAFKA_LAG_MESSAGES,
        kind: Kind::Gauge,
        labels: &["input", "topic", "partition"],
        help: "Messages in Kafka that are not in the database yet",
    },
    Metric {
        name: KAFKA_LAG_SECONDS,
        kind: Kind::Gauge,
        labels: &["input", "topic", "partition"],
        help: "Age of the oldest message that is not in the database yet",
    },
    Metric { name: REBALANCES, kind: Kind::Counter, labels: &[], help: "Assignments of partitions to this worker" },
    Metric {
        name: GAPS,
        kind: Kind::Counter,
        labels: &[],
        help: "Ranges of messages that Kafka deleted before they were read; each is a row of ingest_gap",
    },
    Metric {
        name: MESSAGES,
        kind: Kind::Counter,
        labels: &["input", "topic", "type"],
        help: "Messages read from Kafka; one that is read again counts again",
    },
    Metric {
        name: INPUT_REJECTING,
        kind: Kind::Gauge,
        labels: &["input", "topic"],
        help: "1 while all messages of a topic, or the last ones of a partition of it, are rejected, else 0",
    },
    Metric { name: UNKNOWN_FIELDS, kind: Kind::Counter, labels: &[], help: "Fields of messages that mean nothing" },
    Metric {
        name: SERIES_CONFLICTS,
        kind: Kind::Counter,
        labels: &[],
        help: "Definitions of series that differ from what another message says of the same series",
    },
    Metric {
        name: DEAD_LETTERS,
        kind: Kind::Counter,
        labels: &["input", "reason"],
        help: "Messages that cannot be stored; each is a row of ingest_dead_letter, or is counted there",
    },
    Metric {
        name: DEAD_LETTERS_ONLY_COUNTED,
        kind: Kind::Counter,
        labels: &[],
        help: "Dead letters beyond dead_letter.max_rows, which are counted and not stored",
    },
    Metric {
        name: DEAD_LETTERS_NOT_COUNTED,
        kind: Kind::Counter,
        labels: &[],
        help: "Dead letters that the database neither stores nor counts, because a trigger or a constraint refuses both",
    },
    Metric {
        name: DEAD_LETTERS_PUBLISHED,
        kind: Kind::Counter,
        labels: &["outcome"],
        help: "Copies of dead letters for kafka.dead_letter_topic, by what became of the attempt",
    },
    Metric { name: BUFFERED_BYTES, kind: Kind::Gauge, labels: &[], help: "Messages and points in memory" },
    Metric { name: BATCH_POINTS, kind: Kind::Histogram, labels: &[], help: "Points in a batch" },
    Metric { name: BATCH_BYTES, kind: Kind::Histogram, labels: &[], help: "Bytes of the messages of a batch" },
    Metric { name: POINTS_WRITTEN, kind: Kind::Counter, labels: &[], help: "Points committed to the database" },
    Metric {
        name: POINTS_SKIPPED,
        kind: Kind::Counter,
        labels: &[],
        help: "Points read again that the database had already",
    },
    Metric {
        name: POINTS_DELETED,
        kind: Kind::Counter,
        labels: &[],
        help: "Points not stored, because their series was deleted after their messages were sent",
    },
    Metric {
        name: RETENTION_DROPPED,
        kind: Kind::Counter,
        labels: &["unit"],
        help: "What this worker has deleted because of its age: chunks of a hypertable, points of a plain table",
    },
    Metric {
        name: RETENTION_SECONDS,
        kind: Kind::Gauge,
        labels: &[],
        help: "The age from which points are deleted, as the database has it; 0: never",
    },
    Metric {
        name: RETENTION_OVERDUE_SECONDS,
        kind: Kind::Gauge,
        labels: &[],
        help: "For how long the oldest of what has expired should have been deleted; 0: nothing has expired",
    },
    Metric {
        name: OLDEST_POINT_SECONDS,
        kind: Kind::Gauge,
        labels: &[],
        help: "Age of the oldest point in the database; 0: there is none",
    },
    Metric {
        name: POINTS_DUPLICATE,
        kind: Kind::Counter,
        labels: &[],
        help: "Points that change nothing, by points.on_duplicate",
    },
    Metric { name: WRITERS, kind: Kind::Gauge, labels: &[], help: "Batches that may be written at the same time" },
    Metric {
        name: STEP_SECONDS,
        kind: Kind::Histogram,
        labels: &["step"],
        help: "Time of one step of the way from Kafka to the database",
    },
    Metric { name: COPY_SECONDS, kind: Kind::Histogram, labels: &[], help: "Time of one COPY" },
    Metric {
        name: TRANSACTION_SECONDS,
        kind: Kind::Histogram,
        labels: &[],
        help: "Time of writing a batch once: connection, series, COPY, claim and COMMIT",
    },
    Metric {
        name: PRODUCE_TO_COMMIT_SECONDS,
        kind: Kind::Histogram,
        labels: &[],
        help: "Age of a batch's oldest message when the batch is committed",
    },
    Metric { name: DATABASE_UP, kind: Kind::Gauge, labels: &[], help: "1 while the database takes writes, else 0" },
    Metric {
        name: FOREIGN_KEY_TRIGGER,
        kind: Kind::Gauge,
        labels: &[],
        help: "1 while the foreign key's trigger fires for each point, 0 where series are locked instead",
    },
    Metric {
        name: DIRECT_COMPRESS,
        kind: Kind::Gauge,
        labels: &[],
        help: "1 while the server can compress a COPY directly, else 0",
    },
    Metric {
        name: DATABASE_ERRORS,
        kind: Kind::Counter,
        labels: &["class"],
        help: "Failed steps of the work with the database, by what they mean",
    },
    Metric { name: POOL_SIZE, kind: Kind::Gauge, labels: &[], help: "Open connections to the database" },
    Metric { name: POOL_AVAILABLE, kind: Kind::Gauge, labels: &[], help: "Idle connections" },
    Metric { name: POOL_WAITING, kind: Kind::Gauge, labels: &[], help: "Tasks that wait for a connection" },
    Metric { name: POOL_MAX, kind: Kind::Gauge, labels: &[], help: "Connections that may be open at once" },
    Metric {
        name: POOL_WAIT_SECONDS,
        kind: Kind::Histogram,
        labels: &[],
        help: "Time until a connection was had or refused, with making it where there was none",
    },
    Metric {
        name: MODE,
        kind: Kind::Gauge,
        labels: &["mode"],
        help: "1 for where messages go now: streaming, journaling or replaying; else 0",
    },
    Metric {
        name: JOURNAL_UP,
        kind: Kind::Gauge,
        labels: &[],
        help: "1 while the journal takes messages, 0 while it is full or its disk fails",
    },
    Metric { name: JOURNAL_BYTES, kind: Kind::Gauge, labels: &[], help: "What the journal takes on disk" },
    Metric { name: JOURNAL_LIMIT_BYTES, kind: Kind::Gauge, labels: &[], help: "What the journal may take on disk" },
    Metric {
        name: JOURNAL_RECORDS,
        kind: Kind::Gauge,
        labels: &[],
        help: "Records in the journal; those that the database has go with their segment",
    },
    Metric {
        name: JOURNAL_OLDEST_SECONDS,
        kind: Kind::Gauge,
        labels: &[],
        help: "Age of the oldest message in the journal; 0 where it is empty",
    },
    Metric {
        name: JOURNAL_FSYNC_SECONDS,
        kind: Kind::Histogram,
        labels: &[],
        help: "Time of one fdatasync of the journal",
    },
    Metric {
        name: JOURNAL_QUARANTINED,
        kind: Kind::Counter,
        labels: &[],
        help: "Segments of the journal that were set aside because of damage",
    },
    Metric {
        name: JOURNAL_LOST,
        kind: Kind::Counter,
        labels: &[],
        help: "Records that were journaled and are not there any more; what the database lacks of them is read from Kafka again",
    },
    Metric {
        name: LOG_LINES_DROPPED,
        kind: Kind::Counter,
        labels: &[],
        help: "Log lines that were dropped because standard error did not take them",
    },
    Metric {
        name: BACKUP_AGE_SECONDS,
        kind: Kind::Gauge,
        labels: &[],
        help: "Age of the newest backup that the database remembers; NaN if it remembers none",
    },
    Metric {
        name: BACKUP_VERIFIED_AGE_SECONDS,
        kind: Kind::Gauge,
        labels: &[],
        help: "Age of the newest backup that was restored and compared; NaN if there is none",
    },
    Metric { name: BUILD_INFO, kind: Kind::Gauge, labels: &["version"], help: "1, with the program's version" },
];

const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * KIB;

/// The upper bounds of each histogram's buckets.
pub(super) const BUCKETS: &[(&str, &[f64])] = &[
    (BATCH_POINTS, &[1.0, 10.0, 100.0, 1e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6]),
    (
        BATCH_BYTES,
        &[KIB, 4.0 * KIB, 16.0 * KIB, 64.0 * KIB, 256.0 * KIB, MIB, 4.0 * MIB, 16.0 * MIB, 64.0 * MIB, 256.0 * MIB],
    ),
    (STEP_SECONDS, &[0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0]),
    (COPY_SECONDS, SECONDS),
    (TRANSACTION_SECONDS, SECONDS),
    // From a stream without lag to a backlog of days.
    (
        PRODUCE_TO_COMMIT_SECONDS,
        &[
            0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0,
            604_800.0,
        ],
    ),
    (JOURNAL_FSYNC_SECONDS, &[0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0]),
    (POOL_WAIT_SECONDS, &[0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0]),
];
