//! What is looked at every few seconds, beside the loop: the ends of the logs, the topics' identities, the database's health.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tracing::debug;

use super::partitions::{Lag, Partitions};
use crate::config::Config;
use crate::database::{Class, Database, Reference};
use crate::kafka::lookup::{LogRange, Lookup, TopicPartition};
use crate::telemetry::health::{Health, PartitionStatus, Status};

/// How often Kafka and the database are asked.
const INTERVAL: Duration = Duration::from_secs(2);

/// How often a database that is away is asked.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// What Kafka says.
#[derive(Debug, Default)]
pub(super) struct Observation {
    pub(super) log_ranges: HashMap<TopicPartition, LogRange>,
    pub(super) topic_ids: HashMap<String, String>,
    pub(super) committed: HashMap<TopicPartition, i64>,
    /// Why the brokers do not let this worker do its work.
    refusal: Option<String>,
}

/// Looks at Kafka and the database.
#[derive(Debug)]
pub(super) struct Watch {
    config: Arc<Config>,
    lookup: Arc<Lookup>,
    database: Database,
    health: Arc<Health>,
    asked: Option<Instant>,
    probed: Option<Instant>,
    questions: JoinSet<Option<Observation>>,
    probes: JoinSet<()>,
}

impl Watch {
    pub(super) fn new(config: Arc<Config>, lookup: Arc<Lookup>, database: Database, health: Arc<Health>) -> Self {
        Self {
            config,
            lookup,
            database,
            health,
            asked: None,
            probed: None,
            questions: JoinSet::new(),
            probes: JoinSet::new(),
        }
    }

    /// The next answer; never ready while nothing was asked.
    pub(super) async fn next(&mut self) -> Option<Observation> {
        loop {
            match self.questions.join_next().await {
                Some(Ok(Some(mut observation))) => {
                    self.health.set_condition("kafka", observation.refusal.take());
                    return Some(observation);
                }
                Some(Ok(None)) => {}
                Some(Err(failure)) => debug!(%failure, "a question to Kafka ended early"),
                None => std::future::pending().await,
            }
        }
    }

    /// Asks, if it is time.
    pub(super) fn tick(&mut self, partitions: &Partitions, journaling: bool) {
        self.report_database(journaling);
        self.probe();
        if self.asked.is_some_and(|asked| asked.elapsed() < INTERVAL) || !self.questions.is_empty() {
            return;
        }
        self.asked = Some(Instant::now());
        let owned = partitions.owned();
        let lookup = Arc::clone(&self.lookup);
        let topics = [self.config.kafka.series_topic.clone(), self.config.kafka.points_topic.clone()];
        self.questions.spawn_blocking(move || ask(&lookup, &topics, &owned));
    }

    /// Asks a silent database for a sign of life, one question at a time.
    fn probe(&mut self) {
        while self.probes.try_join_next().is_some() {}
        let state = self.database.state();
        if self.probes.is_empty()
            && self.probed.is_none_or(|last| last.elapsed() >= if state.up { INTERVAL } else { PROBE_INTERVAL })
        {
            self.probed = Some(Instant::now());
            self.database.tidy();
            if !state.up || state.last_success.is_none_or(|last| last.elapsed() >= INTERVAL) {
                let database = self.database.clone();
                self.probes.spawn(async move {
                    // The answer is noted where it is given.
                    if let Err(failure) = database.probe().await {
                        debug!(%failure, "the database gives no sign of life");
                    }
                });
            }
        }
    }

    /// While messages go to the journal, a database that is away keeps nothing from moving. One that refuses this worker does
    /// not come back by itself.
    fn report_database(&self, journaling: bool) {
        let state = self.database.state();
        // Before the first answer nothing is known, and nothing is wrong.
        let passes = |class| journaling && class == Class::Outage && !state.refused;
        let down = state.failure.as_ref().filter(|(_, class)| !(state.up || passes(*class)));
        self.health.set_condition(
            "database",
            down.map(|(words, class)| {
                format!("down for {} s ({}): {words}", state.since.elapsed().as_secs(), class.as_str())
            }),
        );
        let table = self.database.table();
        self.health.update(|status| {
            status.database.up = state.up;
            status.database.reference = state.reference.map(Reference::as_str);
            if let Some(table) = table {
                status.database.direct_compress = Some(table.direct_compress_text());
                status.database.profile = Some(table.profile);
            }
            if let Some((words, _)) = &state.failure {
                status.database.last_error = Some(words.clone());
            }
        });
    }
}

fn ask(lookup: &Lookup, topics: &[String], owned: &[TopicPartition]) -> Option<Observation> {
    let mut observation = Observation::default();
    for topic in topics {
        // A topic that does not exist must not hide the other.
        match lookup.topics(&[topic]) {
            Ok(described) => {
                for topic in described {
                    if topic.may_read == Some(false) {
                        let text = format!("topic {}: this client's user may not READ it: allow it", topic.name);
                        observation.refusal.get_or_insert(text);
                    }
                    if let Some(id) = topic.id {
                        observation.topic_ids.insert(topic.name, id);
                    }
                }
            }
            Err(failure) => {
                if let Some(refusal) = lookup.refusal(&failure) {
                    observation.refusal.get_or_insert(format!("topic {topic}: {refusal}"));
                }
                debug!(%failure, topic, "the topic cannot be described");
                // Each further question would take its whole time.
                if lookup.is_shut_out() {
                    return Some(observation);
                }
            }
        }
    }
    match lookup.log_ranges(owned) {
        Ok(ranges) => observation.log_ranges = ranges,
        Err(failure) => debug!(%failure, "the ends of the logs are not known"),
    }
    // Whoever may not use the group owns nothing, and has to be told.
    let any = topics.last().map(|topic| (topic.clone(), 0));
    match lookup.committed(if owned.is_empty() { any.as_slice() } else { owned }) {
        Ok(offsets) => observation.committed = offsets,
        Err(failure) => {
            if let Some(refusal) = lookup.refusal(&failure) {
                observation.refusal.get_or_insert(refusal);
            }
            debug!(%failure, "the group's offsets are not known");
        }
    }
    Some(observation)
}

/// Writes what is known of the partitions into the status page.
pub(super) fn fill_status(status: &mut Status, lags: &[Lag], (buffered, limit, in_flight): (usize, usize, usize)) {
    status.buffered_bytes = buffered as u64;
    status.memory_limit_bytes = limit as u64;
    status.in_flight_batches = in_flight as u64;
    status.partitions = lags
        .iter()
        .map(|lag| PartitionStatus {
            topic: lag.partition.0.clone(),
            partition: lag.partition.1,
            next_offset: lag.next_offset,
            position: lag.position,
            log_end_offset: lag.log_end,
            lag_messages: lag.messages,
            lag_seconds: lag.seconds,
        })
        .collect();
}
