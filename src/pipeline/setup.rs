//! Assembly and execution of the pipeline.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::dead_letter_copies::CopyPublisher;
use super::deletions;
use super::guard::Guard;
use super::journaling::Journaling;
use super::membership::Membership;
use super::open_batch::OpenBatch;
use super::partitions::Partitions;
use super::retention;
use super::start::Starter;
use super::starts::Starts;
use super::subscription::Subscription;
use super::survey::Surveyor;
use super::topic_settings::{self, PointsInSeries};
use super::watch::Monitor;
use super::writer::Writer;
use super::writers::Writers;
use super::{Pipeline, Times};
use crate::config::Config;
use crate::database::Database;
use crate::input::Contested;
use crate::journal::JournalHandle;
use crate::kafka::consumer;
use crate::kafka::lookup::Lookup;
use crate::kafka::member::Member;
use crate::kafka::settings;
use crate::kafka::topic_settings::TopicSettings;
use crate::raw::Budget;
use crate::telemetry::health::Health;
use crate::telemetry::log_limit::LogLimit;

/// Time for which a healthy database may be silent beyond its longest statement: the worker's own timeout, and the interval
/// between probes.
const DATABASE_MARGIN: Duration = Duration::from_secs(15);

/// The reason why the pipeline did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The consumer cannot start.
    #[error(transparent)]
    Consumer(#[from] consumer::StartError),
    /// The client for metadata requests cannot start.
    #[error("librdkafka refuses the client: {0}")]
    Lookup(#[from] crate::kafka::Error),
    /// Topics match several inputs.
    #[error("{}", .0.iter().map(|one| format!("{}: {one}", one.key())).collect::<Vec<_>>().join("; "))]
    Contested(Vec<Contested>),
    /// The journal's thread has ended; only a new process can open the journal again.
    #[error("the journal's thread has ended by an internal error; start the worker again")]
    JournalEnded,
}

impl RunError {
    /// The property that librdkafka refuses, if that is the reason.
    pub fn refused_property(&self) -> Option<&str> {
        match self {
            Self::Consumer(consumer::StartError::Kafka(error)) | Self::Lookup(error) => {
                crate::kafka::refused_property(error)
            }
            Self::Consumer(consumer::StartError::Thread(_)) | Self::Contested(_) | Self::JournalEnded => None,
        }
    }
}

/// Runs until `shutdown` is ready, and then until what was read is written or the drain timeout has passed.
///
/// # Errors
/// If it cannot start, or has lost its journal. Faults of Kafka and of the database are waited out.
pub async fn run(
    config: Arc<Config>,
    database: Database,
    journal: JournalHandle,
    health: Arc<Health>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let budget = Budget::new(buffer_bytes(&config));
    let (event_sender, events) = mpsc::unbounded_channel();
    let (message_sender, messages) = mpsc::unbounded_channel();
    let lookup = Arc::new(Lookup::new(&config.kafka)?);
    set_expectations(&config, &health);
    health.update_facts(|facts| facts.group.ask());
    let member = Member::new(&config.pipeline, database.identity());
    let (kafka, beats) = (&config.kafka, Arc::clone(&health));
    let inputs = config.inputs();
    let subscription = Subscription::new(inputs.clone(), &kafka.dead_letter_topic, Arc::clone(&lookup));
    let topics = subscription.topics().to_vec();
    let consumer = consumer::spawn(kafka, member.clone(), topics, budget.clone(), beats, event_sender, message_sender)?;
    let watch = Monitor::new(inputs.clone(), Arc::clone(&lookup), database.clone(), Arc::clone(&health));
    let starter = Starter {
        inputs: inputs.clone(),
        kafka: config.kafka.clone(),
        lookup: Arc::clone(&lookup),
        database: database.clone(),
        journal: journal.clone(),
        journaling: false,
        log: LogLimit::default(),
    };
    let mut background = JoinSet::new();
    let points_in_series = PointsInSeries::default();
    let checked = (inputs.clone(), subscription.follow(), TopicSettings::new(&config.kafka)?);
    let (seen, reported) = (points_in_series.clone(), Arc::clone(&health));
    background.spawn(topic_settings::watch(Arc::clone(&config), checked, seen, reported));
    background.spawn(deletions::complete_all(database.clone()));
    background.spawn(retention::keep(database.clone()));
    let membership = Membership::new(&config, &lookup, &database, (&consumer, member), &health);
    background.spawn(membership.keep());
    let writer = Writer::new(&config, database.clone(), Arc::clone(&lookup), points_in_series.clone());
    let copies = start_copies(&config, &database, &health)?;
    let pipeline = Pipeline {
        guard: Guard::new(&config),
        open_batch: OpenBatch::new(&config, budget, points_in_series),
        partitions: journaled(&journal).await,
        starts: Starts::new(starter),
        writers: Writers::new(writer.clone(), &config.database, !journal.is_absent()),
        surveyor: Surveyor::new(journal.clone(), database.clone(), Arc::clone(&lookup)),
        journaling: Journaling::new(journal, &config, database, writer),
        copies,
        watch,
        subscription,
        times: Times::new(&config),
        log: LogLimit::default(),
        health,
        consumer,
    };
    pipeline.run(events, messages, background, shutdown).await
}

impl Times {
    fn new(config: &Config) -> Self {
        Self {
            movable_since: Instant::now(),
            calm_since: Instant::now(),
            stall: Duration::from_millis(config.http.stall_ms),
            drain_timeout: Duration::from_millis(config.shutdown.drain_timeout_ms),
        }
    }
}

/// The partitions that have messages in the journal.
async fn journaled(journal: &JournalHandle) -> Partitions {
    let mut partitions = Partitions::default();
    for record in journal.records().await.into_iter().flatten() {
        partitions.mark_journaled(&record);
    }
    partitions
}

/// Starts publishing copies of dead letters, if configured.
fn start_copies(
    config: &Arc<Config>,
    database: &Database,
    health: &Arc<Health>,
) -> Result<Option<CopyPublisher>, RunError> {
    if config.kafka.dead_letter_topic.is_empty() {
        return Ok(None);
    }
    Ok(Some(CopyPublisher::start(config, database.clone(), Arc::clone(health))?))
}

/// Sets the facts of health that follow from the configuration.
pub fn set_expectations(config: &Config, health: &Health) {
    let timeout = Duration::from_millis(config.database.statement_timeout_ms) + DATABASE_MARGIN;
    health.update_facts(|facts| {
        facts.brokers.addresses.clone_from(&config.kafka.brokers);
        facts.group.name.clone_from(&config.kafka.group_id);
        facts.group.session_timeout = Duration::from_millis(config.kafka.session_timeout_ms);
        facts.database.timeout = timeout;
    });
}

/// The part of the memory limit for messages and points. The rest is for librdkafka's fetch queue, for encoding, and for the
/// program itself.
fn buffer_bytes(config: &Config) -> usize {
    (config.memory.limit_bytes.saturating_sub(2 * settings::FETCHED_AHEAD_BYTES) / 3).max(settings::FETCHED_AHEAD_BYTES)
}
