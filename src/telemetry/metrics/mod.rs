//! Every metric of the program: its name, and the function that records it. All names are in [`METRICS`].
//!
//! Labels have values from bounded sets only: configured inputs, topics, their partitions, and names of this program. Before
//! [`install`] the functions do nothing, except that the lag is stored.

mod keeping;
mod table;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ::metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing::warn;

use super::lag;
pub use keeping::{backup_ages, expired_dropped, set_oldest_point, set_retention};
use table::*;
pub use table::{Kind, METRICS, Metric};

/// A step between Kafka and the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Taking messages from librdkafka: the CPU time of the consumer's thread, observed ten times a second.
    Fetch,
    /// Decoding a set of messages.
    Decode,
    /// Sorting a batch's points.
    Sort,
    /// Encoding a batch's points.
    Encode,
    /// Waiting for a connection of the pool.
    Pool,
    /// Sources, series and chunks that must exist, and their locks.
    Prepare,
    /// Sending a batch's points, and the server's processing of them.
    Copy,
    /// The claim.
    Claim,
    /// The server's COMMIT.
    Commit,
}

impl Step {
    /// All steps, in order.
    pub const ALL: [Self; 9] = [
        Self::Fetch,
        Self::Decode,
        Self::Sort,
        Self::Encode,
        Self::Pool,
        Self::Prepare,
        Self::Copy,
        Self::Claim,
        Self::Commit,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Decode => "decode",
            Self::Sort => "sort",
            Self::Encode => "encode",
            Self::Pool => "pool",
            Self::Prepare => "prepare",
            Self::Copy => "copy",
            Self::Claim => "claim",
            Self::Commit => "commit",
        }
    }
}

/// Maximum number of topics with their own counters.
const MAX_TOPICS: usize = 1000;
/// The topic label of all further topics; it cannot be the name of a topic.
const OTHER_TOPICS: &str = "(others)";

static INSTALLED: OnceLock<Rendered> = OnceLock::new();

/// Renders the metrics as text.
#[derive(Debug, Clone)]
pub struct Rendered {
    handle: PrometheusHandle,
}

impl Rendered {
    /// All metrics in Prometheus' text format, version 0.0.4.
    pub fn render(&self) -> String {
        counter!(LOG_LINES_DROPPED).absolute(super::logging::dropped_lines());
        let mut text = self.handle.render();
        let help = |name: &str| METRICS.iter().find(|metric| metric.name == name).map_or("", |metric| metric.help);
        lag::render(&mut text, KAFKA_LAG_MESSAGES, KAFKA_LAG_SECONDS, help);
        text
    }
}

/// Starts recording, once in a process; a later call returns the same metrics. From now on metrics without labels exist, at
/// zero.
pub fn install() -> Rendered {
    INSTALLED.get_or_init(start).clone()
}

fn start() -> Rendered {
    let builder = BUCKETS.iter().fold(PrometheusBuilder::new(), |builder, (name, bounds)| {
        builder
            .set_buckets_for_metric(Matcher::Full((*name).to_owned()), bounds)
            .expect("only an empty list of bounds is refused")
    });
    let recorder = builder.build_recorder();
    let rendered = Rendered { handle: recorder.handle() };
    if ::metrics::set_global_recorder(recorder).is_err() {
        warn!("something else measures in this process; /metrics stays empty");
    }
    for metric in METRICS {
        let present = metric.labels.is_empty();
        match metric.kind {
            Kind::Counter => {
                describe_counter!(metric.name, metric.help);
                if present {
                    counter!(metric.name).absolute(0);
                }
            }
            Kind::Gauge => {
                describe_gauge!(metric.name, metric.help);
                if present {
                    gauge!(metric.name).set(0.0);
                }
            }
            Kind::Histogram => {
                describe_histogram!(metric.name, metric.help);
                if present {
                    drop(histogram!(metric.name));
                }
            }
        }
    }
    backup_ages(None, None);
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    rendered
}

/// Lets the counters of a closed set of labels begin at zero, so that Prometheus sees their first increase: all classes of
/// database errors, and all reasons of dead letters of each input. The topics that are named keep their labels, however many
/// others there will be.
pub fn preset<'a>(
    classes: impl IntoIterator<Item = &'static str>,
    inputs: impl IntoIterator<Item = &'a str>,
    topics: impl IntoIterator<Item = &'a str>,
    reasons: impl IntoIterator<Item = &'static str> + Clone,
) {
    topics.into_iter().for_each(|topic| drop(topic_label(topic)));
    for class in classes {
        counter!(DATABASE_ERRORS, "class" => class).increment(0);
    }
    for input in inputs {
        for reason in reasons.clone() {
            dead_letters(input, reason, 0);
        }
    }
    expired_dropped(0, 0);
}

/// Counts `n` messages of a kind that were read from a topic of an input.
pub fn messages_received(input: &str, topic: &str, kind: &'static str, n: u64) {
    let topic = topic_label(topic);
    counter!(MESSAGES, "input" => input.to_owned(), "topic" => topic, "type" => kind).increment(n);
}

/// The topic as a label of counters, which the recorder keeps for ever: those that a regular expression matches may come and go.
pub fn topic_label(topic: &str) -> String {
    static TOPICS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    bounded(&mut TOPICS.lock().unwrap_or_else(PoisonError::into_inner), topic).to_owned()
}

/// The name, if it is one of the first [`MAX_TOPICS`].
fn bounded<'a>(topics: &mut BTreeSet<String>, topic: &'a str) -> &'a str {
    if topics.contains(topic) {
        return topic;
    }
    if topics.len() >= MAX_TOPICS {
        return OTHER_TOPICS;
    }
    topics.insert(topic.to_owned());
    topic
}

/// Reports whether all messages of a topic of this input are rejected, or the last ones of a partition of it; the topic as
/// [`topic_label`] has it.
pub fn input_rejecting(input: &str, topic: &str, is_rejecting: bool) {
    let labels = [("input", input.to_owned()), ("topic", topic.to_owned())];
    gauge!(INPUT_REJECTING, &labels).set(f64::from(u8::from(is_rejecting)));
}

/// Counts `n` committed points.
pub fn points_written(n: u64) {
    counter!(POINTS_WRITTEN).increment(n);
}

/// Counts `n` points that were in the database already.
pub fn points_skipped(n: u64) {
    counter!(POINTS_SKIPPED).increment(n);
}

/// Counts `n` points that were not stored, because their series was deleted after their messages were sent.
pub fn points_deleted(n: u64) {
    counter!(POINTS_DELETED).increment(n);
}

/// Counts `n` committed points without effect, because of others of the same series, column and time.
pub fn points_duplicate(n: u64) {
    counter!(POINTS_DUPLICATE).increment(n);
}

/// Counts `n` unknown fields of messages.
pub fn unknown_fields(n: u64) {
    counter!(UNKNOWN_FIELDS).increment(n);
}

/// Counts `n` definitions of series that differ from those of other messages.
pub fn series_conflicts(n: u64) {
    counter!(SERIES_CONFLICTS).increment(n);
}

/// Counts `n` messages of an input that became dead letters.
pub fn dead_letters(input: &str, reason: &'static str, n: u64) {
    counter!(DEAD_LETTERS, "input" => input.to_owned(), "reason" => reason).increment(n);
}

/// Counts `n` dead letters that were counted and not stored.
pub fn dead_letters_only_counted(n: u64) {
    counter!(DEAD_LETTERS_ONLY_COUNTED).increment(n);
}

/// Counts `n` dead letters that were neither stored nor counted.
pub fn dead_letters_not_counted(n: u64) {
    counter!(DEAD_LETTERS_NOT_COUNTED).increment(n);
}

/// Counts `n` copies of dead letters that were published, that failed and are retried, or that were refused.
pub fn dead_letters_published(outcome: &'static str, n: u64) {
    counter!(DEAD_LETTERS_PUBLISHED, "outcome" => outcome).increment(n);
}

/// Records that a batch was committed, `seconds` after its oldest message was produced.
pub fn produce_to_commit(seconds: f64) {
    record(PRODUCE_TO_COMMIT_SECONDS, seconds);
}

/// Records that a batch was handed to a writer; `bytes` is the size of its messages.
pub fn batch_sealed(points: usize, bytes: usize) {
    record(BATCH_POINTS, points as f64);
    record(BATCH_BYTES, bytes as f64);
}

/// Records the bytes in memory.
pub fn buffered_bytes(bytes: u64) {
    gauge!(BUFFERED_BYTES).set(bytes as f64);
}

/// Counts a range of messages that Kafka deleted before it was read.
pub fn gap() {
    counter!(GAPS).increment(1);
}

/// Records whether the worker is ready.
pub fn ready(ready: bool) {
    gauge!(READY).set(if ready { 1.0 } else { 0.0 });
}

/// Records whether the brokers answer.
pub fn kafka_up(up: bool) {
    gauge!(KAFKA_UP).set(if up { 1.0 } else { 0.0 });
}

/// Counts a rebalance.
pub fn rebalance() {
    counter!(REBALANCES).increment(1);
}

/// Records whether the foreign key's trigger fires for each point.
pub fn foreign_key_trigger(fires: bool) {
    gauge!(FOREIGN_KEY_TRIGGER).set(if fires { 1.0 } else { 0.0 });
}

/// Records whether the database accepts writes.
pub fn database_up(up: bool) {
    gauge!(DATABASE_UP).set(if up { 1.0 } else { 0.0 });
}

/// Records whether the server can compress a COPY directly.
pub fn direct_compress(can: bool) {
    gauge!(DIRECT_COMPRESS).set(if can { 1.0 } else { 0.0 });
}

/// Counts a failed step of the work with the database.
pub fn database_error(class: &'static str) {
    counter!(DATABASE_ERRORS, "class" => class).increment(1);
}

/// Records the state of the connection pool.
pub fn pool(size: usize, available: usize, waiting: usize, max: usize) {
    gauge!(POOL_SIZE).set(size as f64);
    gauge!(POOL_AVAILABLE).set(available as f64);
    gauge!(POOL_WAITING).set(waiting as f64);
    gauge!(POOL_MAX).set(max as f64);
}

/// Records the time that a caller waited until the pool returned a connection, or failed.
pub fn pool_waited(time: Duration) {
    record(POOL_WAIT_SECONDS, time.as_secs_f64());
}

/// Records whether this mode is active.
pub fn mode(mode: &'static str, is_on: bool) {
    gauge!(MODE, "mode" => mode).set(if is_on { 1.0 } else { 0.0 });
}

/// Records whether the journal accepts messages.
pub fn journal_up(up: bool) {
    gauge!(JOURNAL_UP).set(if up { 1.0 } else { 0.0 });
}

/// Records the contents of the journal.
pub fn journal(bytes: u64, limit_bytes: u64, records: u64, oldest_seconds: f64, quarantined: u64) {
    gauge!(JOURNAL_BYTES).set(bytes as f64);
    gauge!(JOURNAL_LIMIT_BYTES).set(limit_bytes as f64);
    gauge!(JOURNAL_RECORDS).set(records as f64);
    gauge!(JOURNAL_OLDEST_SECONDS).set(oldest_seconds);
    counter!(JOURNAL_QUARANTINED).absolute(quarantined);
}

/// Records the number of journaled records that were lost since the start.
pub fn journal_lost(records: u64) {
    counter!(JOURNAL_LOST).absolute(records);
}

/// Records the duration of an fdatasync of the journal.
pub fn journal_synced(time: Duration) {
    record(JOURNAL_FSYNC_SECONDS, time.as_secs_f64());
}

/// Records the duration of a write transaction.
pub fn transaction_took(time: Duration) {
    record(TRANSACTION_SECONDS, time.as_secs_f64());
}

/// Records the duration of a COPY.
pub fn copy_took(time: Duration) {
    record(COPY_SECONDS, time.as_secs_f64());
}

/// Records the number of batches that may be written at the same time.
pub fn writers(count: usize) {
    gauge!(WRITERS).set(count as f64);
}

/// Records the duration of a step.
pub fn step_took(step: Step, time: Duration) {
    observe(histogram!(STEP_SECONDS, "step" => step.as_str()), time.as_secs_f64());
}

/// The total time of each step in seconds, from metrics as [`Rendered::render`] returns them.
pub fn step_seconds(rendered: &str) -> Vec<(Step, f64)> {
    let seconds_of = |step: Step| {
        let line = format!("{STEP_SECONDS}_sum{{step=\"{}\"}} ", step.as_str());
        rendered.lines().find_map(|text| text.strip_prefix(&line)?.parse().ok()).unwrap_or(0.0)
    };
    Step::ALL.map(|step| (step, seconds_of(step))).to_vec()
}

/// Number of observations after which they are merged without a render.
const MAX_WAITING: u64 = 1024;

fn record(name: &'static str, value: f64) {
    observe(histogram!(name), value);
}

/// Records an observation. The recorder keeps each until it is rendered, so without requests for `/metrics` they must be merged
/// into their buckets here.
fn observe(histogram: ::metrics::Histogram, value: f64) {
    static OBSERVATIONS: AtomicU64 = AtomicU64::new(0);
    histogram.record(value);
    if OBSERVATIONS.fetch_add(1, Ordering::Relaxed) % MAX_WAITING == MAX_WAITING - 1
        && let Some(rendered) = INSTALLED.get()
    {
        rendered.handle.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Records every metric.
    fn feed() -> String {
        let rendered = install();
        preset(["outage", "data"], ["feed"], ["feed"], ["bad-json"]);
        messages_received("feed", "feed", "point-batch", 2);
        points_written(1);
        points_skipped(1);
        points_deleted(1);
        points_duplicate(1);
        expired_dropped(1, 1);
        set_retention(1, 0.0);
        set_oldest_point(Some(1));
        input_rejecting("feed", "feed", true);
        unknown_fields(1);
        series_conflicts(1);
        dead_letters("feed", "bad-json", 1);
        dead_letters_only_counted(1);
        dead_letters_not_counted(1);
        dead_letters_published("delivered", 1);
        produce_to_commit(0.3);
        batch_sealed(50, 4000);
        buffered_bytes(1);
        lag::set(&"i".into(), "feed", 0, 5, 1.5);
        ready(true);
        kafka_up(true);
        gap();
        writers(2);
        rebalance();
        database_up(true);
        foreign_key_trigger(true);
        direct_compress(true);
        backup_ages(Some(2.0), None);
        database_error("data");
        pool(1, 2, 3, 4);
        mode("streaming", true);
        journal(1, 2, 3, 4.0, 0);
        journal_up(true);
        journal_lost(0);
        journal_synced(Duration::from_millis(1));
        pool_waited(Duration::from_millis(1));
        transaction_took(Duration::from_millis(1));
        copy_took(Duration::from_millis(1));
        Step::ALL.into_iter().for_each(|step| step_took(step, Duration::from_millis(1)));
        rendered.render()
    }

    /// The value of a line that begins with `series`.
    fn value<'a>(text: &'a str, series: &str) -> Option<&'a str> {
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
    }

    #[test]
    fn what_is_fed_is_what_the_table_says() {
        let text = feed();
        let mut fed = BTreeSet::new();
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').unwrap();
            assert!(fed.insert((name.to_owned(), kind.to_owned())), "{name} is a duplicate");
        }
        let described: BTreeSet<_> =
            METRICS.iter().map(|metric| (metric.name.to_owned(), metric.kind.as_str().to_owned())).collect();
        assert_eq!(described.len(), METRICS.len());
        assert_eq!(fed, described);

        for metric in METRICS {
            assert!(text.contains(&format!("# HELP {} {}\n", metric.name, metric.help)), "{}", metric.name);
            let suffix = if metric.kind == Kind::Histogram { "_count" } else { "" };
            let begin = format!("{}{suffix}{{", metric.name);
            let labels: BTreeSet<&str> = text
                .lines()
                .filter_map(|line| line.strip_prefix(&begin)?.split_once('}'))
                .flat_map(|(labels, _)| labels.split(',').map(|label| label.split_once('=').unwrap().0))
                .collect();
            assert_eq!(labels, metric.labels.iter().copied().collect(), "{}", metric.name);
        }
    }

    #[test]
    fn names_are_well_formed() {
        for metric in METRICS {
            assert!(metric.name.starts_with("series_ingest_"), "{}", metric.name);
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
            assert!(!metric.help.contains(['\n', '\\']) && !metric.help.ends_with('.'), "{}", metric.help);
        }
    }

    #[test]
    fn no_name_is_missing_from_the_table() {
        let source = include_str!("table.rs");
        let prefix = concat!("series_ing", "est_");
        let names: BTreeSet<&str> = source
            .match_indices(&format!("&str = \"{prefix}"))
            .filter_map(|(at, _)| source[at..].split('"').nth(1))
            .collect();
        assert_eq!(names, METRICS.iter().map(|metric| metric.name).collect());
    }

    #[test]
    fn every_histogram_has_rising_buckets() {
        let buckets: HashMap<_, _> = BUCKETS.iter().copied().collect();
        assert_eq!(buckets.len(), BUCKETS.len());
        let histograms = METRICS.iter().filter(|metric| metric.kind == Kind::Histogram);
        assert_eq!(histograms.clone().count(), buckets.len());
        for metric in histograms {
            let bounds = buckets[metric.name];
            assert!(!bounds.is_empty() && bounds.is_sorted_by(|a, b| a < b), "{}", metric.name);
        }
        let text = feed();
        assert!(text.contains("series_ingest_batch_points_bucket{le=\"100\"}"), "{text}");
        assert!(text.contains("series_ingest_batch_points_bucket{le=\"+Inf\"}"), "{text}");
        assert!(!text.contains("quantile="), "{text}");
    }

    #[test]
    fn what_has_no_labels_is_there_from_the_start() {
        let text = install().render();
        for metric in METRICS.iter().filter(|metric| metric.labels.is_empty()) {
            let series = match metric.kind {
                Kind::Histogram => format!("{}_count", metric.name),
                Kind::Counter | Kind::Gauge => metric.name.to_owned(),
            };
            assert!(value(&text, &series).is_some(), "{series}");
        }
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(value(&text, &format!("series_ingest_build_info{{version=\"{version}\"}}")), Some("1"));
    }

    #[test]
    fn a_second_install_keeps_what_was_counted() {
        install();
        messages_received("i", "twice", "point-batch", 3);
        let again = install();
        messages_received("i", "twice", "point-batch", 4);
        let series = "series_ingest_messages_total{input=\"i\",topic=\"twice\",type=\"point-batch\"}";
        assert_eq!(value(&again.render(), series), Some("7"));
    }

    #[test]
    fn topics_that_come_and_go_are_bounded() {
        let mut topics = BTreeSet::new();
        for number in 0..MAX_TOPICS {
            let topic = number.to_string();
            assert_eq!(bounded(&mut topics, &topic), topic);
        }
        assert_eq!(bounded(&mut topics, "one more"), OTHER_TOPICS);
        assert_eq!(bounded(&mut topics, "7"), "7");
        assert_eq!(topics.len(), MAX_TOPICS);
    }

    #[test]
    fn closed_labels_begin_at_zero() {
        let rendered = install();
        preset(["preset-class"], ["i", "j"], [], ["preset-reason"]);
        let text = rendered.render();
        assert_eq!(value(&text, "series_ingest_database_errors_total{class=\"preset-class\"}"), Some("0"));
        for input in ["i", "j"] {
            let series = format!("series_ingest_dead_letters_total{{input=\"{input}\",reason=\"preset-reason\"}}");
            assert_eq!(value(&text, &series), Some("0"));
        }
    }

    #[test]
    fn a_partition_that_went_leaves_nothing() {
        let rendered = install();
        lag::set(&"i".into(), "went", 0, 3, 1.5);
        lag::set(&"i".into(), "went", 1, 0, 0.0);
        let text = rendered.render();
        assert_eq!(
            value(&text, "series_ingest_kafka_lag_messages{input=\"i\",topic=\"went\",partition=\"0\"}"),
            Some("3")
        );
        assert_eq!(
            value(&text, "series_ingest_kafka_lag_seconds{input=\"i\",topic=\"went\",partition=\"1\"}"),
            Some("0")
        );
        lag::forget("went", 0);
        let text = rendered.render();
        assert!(!text.contains("topic=\"went\",partition=\"0\""), "{text}");
        assert!(text.contains("topic=\"went\",partition=\"1\""), "{text}");
        lag::forget("went", 1);
        assert!(!rendered.render().contains("topic=\"went\""));
    }

    #[test]
    fn a_partition_that_was_lost_with_the_membership_keeps_its_lag_until_the_worker_is_a_member_again() {
        let rendered = install();
        lag::set(&"i".into(), "lost", 0, 0, 0.0);
        lag::set(&"i".into(), "lost", 1, 4, 2.0);
        lag::keep("lost", 0);
        lag::keep("lost", 1);
        let text = rendered.render();
        assert_eq!(
            value(&text, "series_ingest_kafka_lag_messages{input=\"i\",topic=\"lost\",partition=\"1\"}"),
            Some("4")
        );
        assert!(text.contains("kafka_lag_seconds{input=\"i\",topic=\"lost\",partition=\"0\"}"), "{text}");
        lag::set(&"i".into(), "lost", 1, 0, 0.0);
        lag::forget_lost();
        let text = rendered.render();
        assert!(!text.contains("topic=\"lost\",partition=\"0\""), "{text}");
        assert!(text.contains("topic=\"lost\",partition=\"1\""), "it was assigned again: {text}");
        lag::forget("lost", 1);
    }

    #[test]
    fn every_observation_counts_once() {
        let rendered = install();
        let count =
            || -> u64 { value(&rendered.render(), "series_ingest_copy_seconds_count").unwrap().parse().unwrap() };
        let before = count();
        for _ in 0..3 * MAX_WAITING {
            copy_took(Duration::from_millis(1));
        }
        // Another test adds its own observations.
        let counted = count() - before;
        assert!((3 * MAX_WAITING..3 * MAX_WAITING + 10).contains(&counted), "{counted}");
    }
}
