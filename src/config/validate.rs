//! Ranges, and the rules between keys.

use std::fmt::Display;
use std::ops::RangeInclusive;

use super::address::is_address;
use super::message_rules::Earliest;
use super::problems::Problems;
use super::{Batch, Config, Database, Http, Journal, Kafka, MessageRules, Writers, brokers, properties, url};
use crate::input::{Inputs, is_topic_name};
use crate::message::timestamp::YEAR_ONE_US;

const MIB: usize = 1024 * 1024;
/// A day, in milliseconds.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// A year, in seconds.
const YEAR_S: u64 = 365 * 24 * 60 * 60;

/// Adds all problems of the configuration to `problems`.
pub(super) fn validate(config: &Config, problems: &mut Problems) {
    not_empty("pipeline", &config.pipeline, problems);
    kafka(&config.kafka, problems);
    inputs(config, problems);
    database(&config.database, problems);
    batch(&config.batch, config.memory.limit_bytes, problems);
    at_least("memory.limit_bytes", config.memory.limit_bytes, 96 * MIB, problems);
    message(&config.message, config.memory.limit_bytes, problems);
    if config.retention.drop_after_s != 0 {
        within("retention.drop_after_s", config.retention.drop_after_s, 60..=100 * YEAR_S, problems);
    }
    within("dead_letter.max_rows", config.dead_letter.max_rows, 0..=1_000_000_000, problems);
    within("dead_letter.max_attempts", config.dead_letter.max_attempts, 1..=1_000_000, problems);
    journal(&config.journal, problems);
    http(&config.http, problems);
    not_empty("log.filter", &config.log.filter, problems);
    let (drain, session) = (config.shutdown.drain_timeout_ms, config.kafka.session_timeout_ms);
    if drain >= session {
        let text = format!("is {drain}; set less than kafka.session_timeout_ms, which is {session}");
        problems.push("shutdown.drain_timeout_ms", text);
    }
}

fn kafka(kafka: &Kafka, problems: &mut Problems) {
    if let Err(text) = brokers::check(&kafka.brokers) {
        problems.push("kafka.brokers", text);
    }
    not_empty("kafka.group_id", &kafka.group_id, problems);
    let topics = [("kafka.series_topic", &kafka.series_topic), ("kafka.points_topic", &kafka.points_topic)];
    let copies = ("kafka.dead_letter_topic", &kafka.dead_letter_topic);
    for (key, topic) in topics.into_iter().chain([copies]).filter(|(_, topic)| !topic.is_empty()) {
        if !is_topic_name(topic) {
            let text =
                format!("is {topic:?}, not the name of a topic; use 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-'");
            problems.push(key, text);
        }
    }
    if kafka.series_topic == kafka.points_topic && !kafka.points_topic.is_empty() {
        problems.push("kafka.points_topic", "is the same as kafka.series_topic; set another one");
    }
    if let Some((key, _)) = topics.iter().find(|(_, topic)| !topic.is_empty() && **topic == kafka.dead_letter_topic) {
        let text = format!("is the same as {key}: each dead letter would come back for ever; set another one");
        problems.push("kafka.dead_letter_topic", text);
    }
    // librdkafka accepts no session longer than its max.poll.interval.ms, which is 300000.
    within("kafka.session_timeout_ms", kafka.session_timeout_ms, 1000..=300_000, problems);
    let set = kafka.properties.keys().map(|name| ("kafka.properties", name));
    let read = kafka.properties_files.keys().map(|name| ("kafka.properties_files", name));
    for (section, name) in set.chain(read) {
        if let Some(reason) = properties::refusal(name) {
            problems.push(format!("{section}.{name}"), format!("cannot be set: {reason}; remove it"));
        }
    }
    let mechanism = kafka.properties().find(|(name, _)| matches!(*name, "sasl.mechanism" | "sasl.mechanisms"));
    let by_token = mechanism.is_some_and(|(_, mechanism)| mechanism == "OAUTHBEARER");
    match (by_token, kafka.oauth_token_file.is_empty()) {
        (true, true) => {
            problems
                .push("kafka.oauth_token_file", "is not set, and sasl.mechanism is OAUTHBEARER; name the token's file");
        }
        (false, false) => {
            let text = "has no effect; set sasl.mechanism to OAUTHBEARER in kafka.properties, or remove it";
            problems.push("kafka.oauth_token_file", text);
        }
        _ => {}
    }
}

fn inputs(config: &Config, problems: &mut Problems) {
    let Kafka { series_topic, points_topic, dead_letter_topic, .. } = &config.kafka;
    match Inputs::compile(series_topic, points_topic, &config.input) {
        Err(found) => found.into_iter().for_each(|problem| problems.push(problem.key, problem.text)),
        Ok(inputs) if inputs.iter().len() == 0 => {
            let text = "is empty, and so are kafka.series_topic and kafka.points_topic: there is nothing to read; add an [[input]]";
            problems.push("input", text);
        }
        Ok(inputs) => {
            // A regular expression that matches it is not meant for it, and the two native topics are compared above.
            if let Some(input) = inputs.iter().find(|input| !input.is_built_in() && input.names(dead_letter_topic)) {
                let text = format!(
                    "is a topic of the input {:?}: each dead letter would come back for ever; set another one",
                    input.name
                );
                problems.push("kafka.dead_letter_topic", text);
            }
        }
    }
}

/// Checks a URL with its TLS; returns `false` if its TLS cannot be.
fn connection(database: &Database, checks_tls: bool, problems: &mut Problems) -> bool {
    let tls = database.tls();
    let is_sound = tls.is_ok();
    if let Err((key, text)) = tls
        && checks_tls
    {
        problems.push(key, text);
    }
    let key = if database.url_file.is_empty() { database.url_key() } else { database.url_file_key() };
    if !database.url.is_empty() && !url::is_postgres(database.url.expose()) {
        problems.push(key, "is not a URL of PostgreSQL; set postgresql://user:password@host:port/database");
    } else if let Some(text) = url::fault(database.url.expose()) {
        problems.push(key, text);
    }
    is_sound
}

fn database(database: &Database, problems: &mut Problems) {
    let is_sound = connection(database, true, problems);
    if let Some(reading) = database.for_reading() {
        // What is wrong with both is reported once.
        connection(&reading, is_sound, problems);
    } else if database.read_fallback || database.read_max_lag_s > 0 {
        let key = if database.read_fallback { "database.read_fallback" } else { "database.read_max_lag_s" };
        problems.push(key, "has no effect without database.read_url; set that, or remove it");
    }
    within("database.read_max_lag_s", database.read_max_lag_s, 0..=YEAR_S, problems);
    if let Some(reason) = refused_schema(&database.schema) {
        problems.push("database.schema", format!("is {:?}, {reason}; name another schema", database.schema));
    }
    within("database.pool_size", database.pool_size, 1..=1000, problems);
    within("database.max_overflow", database.max_overflow, 0..=1000, problems);
    at_least("database.pool_recycle_s", database.pool_recycle_s, 1, problems);
    for (key, value) in [
        ("database.pool_wait_timeout_ms", database.pool_wait_timeout_ms),
        ("database.overflow_idle_ms", database.overflow_idle_ms),
        ("database.connect_timeout_ms", database.connect_timeout_ms),
        ("database.statement_timeout_ms", database.statement_timeout_ms),
        ("database.lock_timeout_ms", database.lock_timeout_ms),
        ("database.idle_in_transaction_timeout_ms", database.idle_in_transaction_timeout_ms),
        ("database.tcp_user_timeout_ms", database.tcp_user_timeout_ms),
        ("database.retry_min_ms", database.retry_min_ms),
        ("database.retry_max_ms", database.retry_max_ms),
        ("database.outage_grace_ms", database.outage_grace_ms.max(1)),
    ] {
        within(key, value, 1..=DAY_MS, problems);
    }
    // The operating system counts it in whole seconds.
    within("database.keepalive_idle_ms", database.keepalive_idle_ms, 1000..=DAY_MS, problems);
    if database.retry_min_ms > database.retry_max_ms {
        let text = format!(
            "is {}; set at least database.retry_min_ms, which is {}",
            database.retry_max_ms, database.retry_min_ms
        );
        problems.push("database.retry_max_ms", text);
    }
    let connections = database.pool_size.saturating_add(database.max_overflow);
    if let Writers::Fixed(writers) = database.writers
        && writers > connections
    {
        let text = format!("is {writers}; set 1 to {connections}, pool_size + max_overflow, or 0 for as many as help");
        problems.push("database.writers", text);
    }
    within("database.chunk_interval_s", database.chunk_interval_s, 60..=10 * YEAR_S, problems);
    within("database.compress_after_s", database.compress_after_s, 1..=100 * YEAR_S, problems);
}

/// Returns the reason why this cannot be the schema of the tables. PostgreSQL truncates longer names, and reads `$user` in a
/// search_path as the role's name, even if it is quoted.
fn refused_schema(name: &str) -> Option<&'static str> {
    let of_timescaledb = |name: &str| name.starts_with("_timescaledb_") || name.starts_with("timescaledb_");
    match name {
        "" => Some("which is empty"),
        "$user" => Some("which means another schema for each role"),
        "information_schema" => Some("which is PostgreSQL's own"),
        _ if name.starts_with("pg_") => Some("which is PostgreSQL's own"),
        _ if of_timescaledb(name) => Some("which is TimescaleDB's own"),
        _ if name.len() > 63 => Some("which is longer than 63 bytes"),
        _ if name.contains('\0') => Some("which has a NUL character"),
        _ => None,
    }
}

fn journal(journal: &Journal, problems: &mut Problems) {
    if journal.directory.is_empty() {
        problems
            .push("journal.directory", "is empty; set a directory of this worker's own, or journal.enabled = false");
    }
    within("journal.segment_bytes", journal.segment_bytes, 1 << 20..=1 << 30, problems);
    if journal.max_bytes < 2 * journal.segment_bytes {
        problems.push(
            "journal.max_bytes",
            format!(
                "is {}; set at least twice journal.segment_bytes, {}",
                journal.max_bytes,
                2 * journal.segment_bytes
            ),
        );
    }
    within("journal.grace_s", journal.grace_s, 0..=31_536_000, problems);
}

fn batch(batch: &Batch, memory: usize, problems: &mut Problems) {
    within("batch.max_points", batch.max_points, 1..=10_000_000, problems);
    at_least("batch.max_bytes", batch.max_bytes, 1024, problems);
    quarter_of_memory("batch.max_bytes", batch.max_bytes, memory, problems);
    within("batch.linger_ms", batch.linger_ms, 0..=3_600_000, problems);
}

fn message(message: &MessageRules, memory: usize, problems: &mut Problems) {
    at_least("message.max_bytes", message.max_bytes, 1, problems);
    quarter_of_memory("message.max_bytes", message.max_bytes, memory, problems);
    at_least("message.max_points", message.max_points, 1, problems);
    // An index key may have 2704 bytes, and one index contains a series and a column.
    within("message.max_name_bytes", message.max_name_bytes, 1..=1300, problems);
    within("message.rejections_before_pause", message.rejections_before_pause, 0..=1_000_000_000, problems);
    let max = message.max_timestamp;
    let min = match &message.min_timestamp {
        Earliest::At(time) => Some(*time),
        Earliest::Age { .. } => None,
    };
    for (key, time) in min.map(|min| ("message.min_timestamp", min)).into_iter().chain([("message.max_timestamp", max)])
    {
        if time.as_microsecond() < YEAR_ONE_US {
            problems.push(key, format!("is {time}; set a time from 0001-01-01T00:00:00Z up"));
        }
    }
    // Compared as they are stored: two times within a microsecond form an empty window.
    if let Some(min) = min
        && min.as_microsecond() >= max.as_microsecond()
    {
        let text = format!("is {max}; set a time after message.min_timestamp, {min}");
        problems.push("message.max_timestamp", text);
    }
}

fn http(http: &Http, problems: &mut Problems) {
    if !http.listen.is_empty() && !is_address(&http.listen) {
        let text = format!(
            "is {:?}; set host:port, such as 127.0.0.1:9464 or [::1]:9464, or nothing for no server",
            http.listen
        );
        problems.push("http.listen", text);
    }
    within("http.watchdog_ms", http.watchdog_ms, 1..=DAY_MS, problems);
    within("http.stall_ms", http.stall_ms, 1..=DAY_MS, problems);
}

fn not_empty(key: &str, value: &str, problems: &mut Problems) {
    if value.trim().is_empty() {
        problems.push(key, "is empty; set a value, or omit the key for its default");
    }
}

fn within<T: PartialOrd + Display>(key: &str, value: T, range: RangeInclusive<T>, problems: &mut Problems) {
    if !range.contains(&value) {
        problems.push(key, format!("is {value}; set {} to {}", range.start(), range.end()));
    }
}

fn at_least<T: PartialOrd + Display>(key: &str, value: T, min: T, problems: &mut Problems) {
    if value < min {
        problems.push(key, format!("is {value}; set at least {min}"));
    }
}

fn quarter_of_memory(key: &str, value: usize, memory: usize, problems: &mut Problems) {
    if value > memory / 4 {
        problems.push(key, format!("is {value}; set at most {}, a quarter of memory.limit_bytes", memory / 4));
    }
}
