//! Checks every few seconds, alongside the loop: the ends of the logs, the topics' identities, the database's health.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tracing::{debug, info};

use super::backups::BackupAgesPoll;
use super::partitions::{Lag, Partitions};
use crate::config::Config;
use crate::database::schema::Server;
use crate::database::{Class, Database, ReferentialCheck};
use crate::input::Inputs;
use crate::kafka;
use crate::kafka::lookup::{Lookup, is_missing_topic};
use crate::kafka::partition::{LogRange, TopicPartition};
use crate::telemetry::health::{Health, PartitionStatus, Status};

/// Interval between requests to Kafka and the database.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Interval between probes of an unavailable database.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// Interval between requests for the server's identity while the database stays up: connections may go to another server
/// without a visible outage.
const SERVER_INTERVAL: Duration = Duration::from_secs(30);

/// Interval between checks of this worker's rights: while no messages arrive, no write shows that one is missing.
const RIGHTS_INTERVAL: Duration = Duration::from_secs(5);
/// The condition while topics that inputs name do not exist.
const MISSING: &str = "missing_topics";
/// The condition while the worker's role lacks a right, or a function of the schema is missing.
const RIGHTS: &str = "rights";

/// Kafka's answer.
#[derive(Debug, Default)]
pub(super) struct Observation {
    pub(super) log_ranges: HashMap<TopicPartition, LogRange>,
    pub(super) topic_ids: HashMap<String, String>,
    pub(super) committed: HashMap<TopicPartition, i64>,
    /// The reason why the brokers do not let this worker do its work.
    refusal: Option<String>,
    /// The reason why they do not answer.
    silence: Option<String>,
    /// The topics to read that do not exist.
    missing_topics: Vec<String>,
}

/// Observes Kafka and the database.
#[derive(Debug)]
pub(super) struct Monitor {
    inputs: Inputs,
    lookup: Arc<Lookup>,
    database: Database,
    health: Arc<Health>,
    asked: Option<Instant>,
    probed: Option<Instant>,
    questions: JoinSet<Option<Observation>>,
    probes: JoinSet<()>,
    /// When the database came up, and when the server's identity was last requested.
    server_asked: Option<(Instant, Instant)>,
    servers: JoinSet<()>,
    rights_asked: Option<Instant>,
    rights: JoinSet<()>,
    backups: BackupAgesPoll,
}

impl Monitor {
    pub(super) fn new(inputs: Inputs, lookup: Arc<Lookup>, database: Database, health: Arc<Health>) -> Self {
        Self {
            inputs,
            lookup,
            database,
            health,
            asked: None,
            probed: None,
            questions: JoinSet::new(),
            probes: JoinSet::new(),
            server_asked: None,
            servers: JoinSet::new(),
            rights_asked: None,
            rights: JoinSet::new(),
            backups: BackupAgesPoll::default(),
        }
    }

    /// Returns the next answer; never ready while nothing was requested.
    pub(super) async fn next(&mut self) -> Option<Observation> {
        loop {
            match self.questions.join_next().await {
                Some(Ok(Some(mut observation))) => {
                    let (silence, missing_topics) =
                        (observation.silence.take(), observation.missing_topics.split_off(0));
                    // While no broker answers, the topics are not known.
                    if silence.is_none() {
                        self.report_missing(&missing_topics);
                    }
                    self.health.update_facts(|facts| facts.brokers.problem = silence);
                    self.health.set_condition("kafka", observation.refusal.take());
                    return Some(observation);
                }
                Some(Ok(None)) => {}
                Some(Err(failure)) => debug!(%failure, "a question to Kafka ended early"),
                None => std::future::pending().await,
            }
        }
    }

    /// Reports missing topics. Native topics must exist. Those that other inputs name may be created later, and those that
    /// match a regular expression may be deleted.
    fn report_missing(&self, topics: &[String]) {
        let (mut required, mut expected) = (Vec::new(), Vec::new());
        for topic in topics {
            match self.inputs.of_topic(topic) {
                Some(input) if input.is_built_in() => required.push(topic.clone()),
                Some(input) if input.names(topic) => expected.push(format!("{topic} (input {:?})", input.name)),
                _ => {}
            }
        }
        self.health.update_facts(|facts| facts.partitions.missing_topics = required);
        let reason = || format!("topics that inputs name and that do not exist: {}", expected.join(", "));
        self.health.set_warning(MISSING, (!expected.is_empty()).then(reason));
    }

    /// Returns `true` if the database executes requests.
    pub(super) fn database_is_up(&self) -> bool {
        self.database.state().up
    }

    /// Begins the requests that are due.
    ///
    /// `topics`: those being read. `journal`: while messages go to the journal instead of the database, the time of its last
    /// append.
    pub(super) fn tick(&mut self, partitions: &Partitions, topics: &Arc<[String]>, journal: Option<Option<Instant>>) {
        self.report_database(journal);
        self.probe();
        self.ask_server();
        self.ask_rights();
        self.backups.tick(&self.database);
        let answered = self.lookup.answered();
        self.health.update_facts(|facts| facts.brokers.answered = answered.max(facts.brokers.answered));
        if self.asked.is_some_and(|asked| asked.elapsed() < WATCH_INTERVAL) || !self.questions.is_empty() {
            return;
        }
        self.asked = Some(Instant::now());
        let owned = partitions.owned();
        let lookup = Arc::clone(&self.lookup);
        let topics = Arc::clone(topics);
        self.questions.spawn_blocking(move || ask(&lookup, &topics, &owned));
    }

    /// Probes an unavailable database, one probe at a time.
    fn probe(&mut self) {
        while self.probes.try_join_next().is_some() {}
        let state = self.database.state();
        if self.probes.is_empty()
            && self.probed.is_none_or(|last| last.elapsed() >= if state.up { WATCH_INTERVAL } else { PROBE_INTERVAL })
        {
            self.probed = Some(Instant::now());
            self.database.close_idle_connections();
            if !state.up || state.last_success.is_none_or(|last| last.elapsed() >= WATCH_INTERVAL) {
                let database = self.database.clone();
                self.probes.spawn(async move {
                    // The answer is recorded where it is received.
                    if let Err(failure) = database.probe().await {
                        debug!(%failure, "the database gives no sign of life");
                    }
                });
            }
        }
    }

    /// Requests the server's identity, once the database is up again, and periodically.
    fn ask_server(&mut self) {
        while self.servers.try_join_next().is_some() {}
        let state = self.database.state();
        let is_known = self
            .server_asked
            .is_some_and(|(up_since, asked)| up_since == state.since && asked.elapsed() < SERVER_INTERVAL);
        if !state.up || is_known || !self.servers.is_empty() {
            return;
        }
        self.server_asked = Some((state.since, Instant::now()));
        let (database, health) = (self.database.clone(), Arc::clone(&self.health));
        self.servers.spawn(async move {
            match database.server().await {
                Ok(server) => show_server(&health, &server),
                Err(failure) => debug!(%failure, "the server does not say which version it is"),
            }
        });
    }

    /// Checks this worker's rights, periodically.
    fn ask_rights(&mut self) {
        while self.rights.try_join_next().is_some() {}
        let is_due = self.rights_asked.is_none_or(|asked| asked.elapsed() >= RIGHTS_INTERVAL);
        if !self.database.state().up || !is_due || !self.rights.is_empty() {
            return;
        }
        self.rights_asked = Some(Instant::now());
        let (database, health) = (self.database.clone(), Arc::clone(&self.health));
        self.rights.spawn(async move {
            match database.missing_rights().await {
                Ok(missing) => health.set_condition(RIGHTS, (!missing.is_empty()).then(|| missing.join("; "))),
                Err(failure) => debug!(%failure, "what this worker may do is not known"),
            }
        });
    }

    /// Reports the database's state. While messages go to the journal, an unavailable database does not delay data. One that
    /// refuses this worker does not recover by itself.
    fn report_database(&self, journal: Option<Option<Instant>>) {
        let state = self.database.state();
        // A lock of a table is waited for like an outage.
        let passes = |class| matches!(class, Class::Outage | Class::Retry);
        let journal =
            journal.filter(|_| !state.refused && state.failure.as_ref().is_none_or(|(_, class)| passes(*class)));
        let locks: Vec<String> = self.database.lock_holders().iter().map(ToString::to_string).collect();
        let down = state.failure.as_ref().filter(|_| !state.up);
        let failure = down.map(|(words, class)| {
            let holders = if locks.is_empty() { String::new() } else { format!("; {}", locks.join("; ")) };
            (state.since, format!("({}): {words}{holders}", class.as_str()))
        });
        self.health.update_facts(|facts| {
            facts.database.answered = state.last_success;
            facts.database.failure = failure;
            facts.database.journal = journal;
        });
        self.health.set_warning("dead-letters", self.database.refused_letters());
        let table = self.database.table();
        self.health.update(|status| {
            status.database.up = state.up;
            status.database.locks = locks;
            status.database.reference = state.reference.map(ReferentialCheck::as_str);
            if let Some(table) = table {
                status.database.direct_compress = Some(table.direct_compress_text());
                status.database.profile = Some(table.profile);
            }
            status.database.last_error = state.failure.as_ref().map(|(words, _)| words.clone());
            status.database.last_error_at = state.failed_at.map(|at| format!("{at:.3}"));
        });
    }
}

fn ask(lookup: &Lookup, topics: &[String], owned: &[TopicPartition]) -> Option<Observation> {
    let mut observation = Observation::default();
    if let Err(failure) = describe(lookup, topics, &mut observation) {
        debug!(%failure, "the topics cannot be described");
        if let Some(refusal) = lookup.refusal(&failure) {
            observation.refusal.get_or_insert(refusal);
        } else {
            observation.silence = lookup.silence(&failure);
        }
    }
    // Each further request would take its whole timeout.
    if observation.silence.is_some() || lookup.is_shut_out() {
        return Some(observation);
    }
    let is_there = |partition: &&TopicPartition| !observation.missing_topics.contains(&partition.topic);
    let owned: Vec<TopicPartition> = owned.iter().filter(is_there).cloned().collect();
    match lookup.log_ranges(&owned) {
        Ok(ranges) => observation.log_ranges = ranges,
        Err(failure) => debug!(%failure, "the ends of the logs are not known"),
    }
    // A client without rights on the group owns nothing, and the refusal must be reported.
    let any = topics.last().map(|topic| TopicPartition::new(topic.clone(), 0));
    match lookup.committed(if owned.is_empty() { any.as_slice() } else { &owned }) {
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

/// Requests all topics at once.
fn describe(lookup: &Lookup, topics: &[String], observation: &mut Observation) -> Result<(), kafka::Error> {
    if topics.is_empty() {
        // This still shows that the brokers answer.
        return lookup.topic_names().map(drop);
    }
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    for (topic, described) in lookup.topics(&names)? {
        match described {
            Ok(described) => {
                if described.may_read == Some(false) {
                    let text = format!("topic {topic}: this client's user may not READ it: allow it");
                    observation.refusal.get_or_insert(text);
                }
                if let Some(id) = described.id {
                    observation.topic_ids.insert(topic, id);
                }
            }
            // A topic that does not exist must not hide the others.
            Err(failure) if is_missing_topic(&failure) => observation.missing_topics.push(topic),
            Err(failure) => {
                debug!(%failure, topic, "the topic cannot be described");
                if let Some(refusal) = lookup.refusal(&failure) {
                    observation.refusal.get_or_insert(format!("topic {topic}: {refusal}"));
                }
            }
        }
    }
    Ok(())
}

/// Shows the database server on the status page, and logs it if it has changed.
pub fn show_server(health: &Health, server: &Server) {
    let (version, edition) = (Some(server.version.clone()), Some(server.edition.as_str().to_owned()));
    let mut is_news = false;
    health.update(|status| {
        let database = &mut status.database;
        let known = (&database.server_version, &database.timescaledb, &database.edition);
        is_news = known != (&version, &server.timescaledb, &edition);
        database.server_version = version;
        database.timescaledb.clone_from(&server.timescaledb);
        database.edition = edition;
    });
    if is_news {
        info!(
            postgresql = server.version,
            timescaledb = server.timescaledb,
            edition = server.edition.as_str(),
            "database"
        );
    }
}

/// Sends a request to the brokers every few seconds, and reports the answers to health; ends only when dropped. It is used
/// while the worker waits for its schema, and nothing else asks the brokers.
pub async fn ask_brokers(config: &Config, health: &Health) {
    // The pipeline reports a property that librdkafka refuses.
    let Ok(lookup) = Lookup::new(&config.kafka) else { return std::future::pending().await };
    let lookup = Arc::new(lookup);
    let topics: Vec<String> = config.inputs().topic_names().take(1).map(str::to_owned).collect();
    loop {
        let (asked, topics) = (Arc::clone(&lookup), topics.clone());
        let question = move || {
            let described = describe(&asked, &topics, &mut Observation::default());
            described.err().and_then(|failure| asked.silence(&failure))
        };
        if let Ok(silence) = tokio::task::spawn_blocking(question).await {
            let answered = lookup.answered();
            health.update_facts(|facts| {
                facts.brokers.answered = answered;
                facts.brokers.problem = silence;
            });
        }
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

/// Fills the partitions' state into the status page.
pub(super) fn fill_status(status: &mut Status, lags: &[Lag], (buffered, limit, in_flight): (usize, usize, usize)) {
    status.buffered_bytes = buffered as u64;
    status.memory_limit_bytes = limit as u64;
    status.in_flight_batches = in_flight as u64;
    status.partitions = lags
        .iter()
        .map(|lag| PartitionStatus {
            input: lag.input.to_string(),
            topic: lag.partition.topic.clone(),
            partition: lag.partition.number,
            next_offset: lag.next_offset,
            position: lag.position,
            log_end_offset: lag.log_end,
            lag_messages: lag.messages,
            lag_seconds: lag.seconds,
        })
        .collect();
}
