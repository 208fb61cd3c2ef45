//! The one loop between Kafka and the database.
//!
//! It takes the consumer's events, decodes messages into the batch being filled, and hands a batch to a writer when it is
//! full, or when its first message has waited long enough. While all writers are busy and the batch is full it takes no
//! more messages: they stay charged to the memory budget, and the consumer pauses when that is used up.
//!
//! - [`partitions`](self): each partition's state: what is read, what is applied, what is in flight.
//! - `setup`: assembles and runs the pipeline.
//! - `membership`: when this worker joins the consumer group, and the group's other members.
//! - `guard`: keeps an input of the wrong shape from turning a topic into dead letters.
//! - `journaling`: the modes, appends to the journal and replay from it.
//! - `survey`: compares the journal with the database, and finds what is in neither.
//! - `starts`, `start`, `start_topics`: when and where a partition starts, asked of the database and of Kafka.
//! - `open_batch`, `dispatch`: the batch being filled, and when it goes to a writer.
//! - `writers`, `writer`: the batches being written; one batch until it is committed, through outages, overlaps and refused
//!   rows.
//! - `after_write`: the handling of a batch's outcome.
//! - `tick`: what is done ten times a second, and what `/status` and the metrics show.
//! - `dead_letter_copies`: copies of dead letters for a topic.
//! - `deletions`: deletions of series that are pending.
//! - `backups`: the ages of backups as metrics.
//! - `subscription`: which topics are read.
//! - `topic_settings`: checks that topics are not compacted.
//! - `watch`: lag, topic identities and health, checked every few seconds.

mod after_write;
mod backups;
mod dead_letter_copies;
mod deletions;
mod dispatch;
mod guard;
mod journaling;
mod membership;
mod new_cluster;
mod open_batch;
mod partitions;
mod retention;
mod setup;
mod start;
mod start_topics;
mod starts;
mod subscription;
mod survey;
mod tick;
mod topic_settings;
mod watch;
mod writer;
mod writers;

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::kafka::consumer::ConsumerHandle;
use crate::kafka::events::{Assigned, Command, Event, Messages};
use crate::kafka::partition::TopicPartition;
use crate::raw::{Interval, MessageSet};
use crate::telemetry::health::{Component, Health};
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics;
use crate::telemetry::{self, lag};

use dead_letter_copies::CopyPublisher;
use guard::Guard;
use journaling::{Journaling, Mode};
pub(crate) use new_cluster::{islands_elsewhere, refused_move};
use open_batch::OpenBatch;
use partitions::Partitions;
pub use setup::{RunError, run, set_expectations};
use start::Resolution;
use starts::Starts;
use subscription::Subscription;
use survey::{Survey, Surveyor};
use watch::{Monitor, Observation};
pub use watch::{ask_brokers, show_server};
use writers::Writers;

/// Interval at which the loop checks the clock when nothing happens.
const TICK: Duration = Duration::from_millis(100);
/// Timeout for the consumer to leave the group.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

struct Pipeline {
    health: Arc<Health>,
    consumer: ConsumerHandle,
    guard: Guard,
    open_batch: OpenBatch,
    partitions: Partitions,
    starts: Starts,
    writers: Writers,
    journaling: Journaling,
    surveyor: Surveyor,
    /// Publishes copies of dead letters, if configured.
    copies: Option<CopyPublisher>,
    watch: Monitor,
    subscription: Subscription,
    times: Times,
    log: LogLimit,
}

/// The times since which only a fault can delay data, and the timeouts for it.
struct Times {
    /// Time since which data could move. An outage is not a stall, nor is the replay after it.
    movable_since: Instant,
    /// Time since which only the consumer could delay messages.
    calm_since: Instant,
    /// Maximum time without progress while data waits.
    stall: Duration,
    /// Timeout for writing what was read, after shutdown was requested.
    drain_timeout: Duration,
}

impl Pipeline {
    async fn run(
        mut self,
        mut events: UnboundedReceiver<Event>,
        mut messages: UnboundedReceiver<Messages>,
        mut background: JoinSet<()>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), RunError> {
        let mut shutdown = pin!(shutdown);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let end = loop {
            self.health.beat(Component::Pipeline);
            self.dispatch(false);
            self.add_waiting_sets();
            let may_take = if self.is_journaling() { self.journaling.may_take() } else { !self.open_batch.is_full() };
            tokio::select! {
                biased;
                () = &mut shutdown => break Ok(()),
                Some(ended) = self.writers.next() => self.on_written(ended),
                resolution = self.starts.next() => self.on_starts(resolution),
                Some(observation) = self.watch.next() => self.on_observation(observation),
                change = self.subscription.next() => {
                    if let Err(contested) = self.on_topics(change) {
                        break Err(RunError::Contested(contested));
                    }
                }
                survey = self.surveyor.next() => self.on_survey(survey),
                appended = self.journaling.next_append() => {
                    self.partitions.mark_saved(&appended.saved);
                    self.partitions.mark_done(&appended.dropped);
                }
                Some(event) = events.recv() => self.on_event(event),
                Some(read) = messages.recv(), if may_take => self.on_messages(read),
                _ = tick.tick() => {
                    if self.journaling.journal().has_ended() {
                        break Err(RunError::JournalEnded);
                    }
                    self.tick(messages.len());
                }
            }
        };
        info!("stopping: writing what was read");
        background.abort_all();
        self.drain(events).await;
        end
    }

    fn on_messages(&mut self, Messages { set, epoch }: Messages) {
        self.starts.on_set_taken();
        let Some((set, on_trial)) = self.admit(set, epoch) else { return };
        if !self.partitions.mark_read(&set, epoch, unix_ms(), on_trial) {
            return;
        }
        #[cfg(feature = "planted-bugs")]
        if crate::planted_bugs::is_on("commit-before-database") {
            let interval = set.interval();
            let partition = TopicPartition::from(&interval.partition);
            self.consumer.send(Command::Commit(vec![(Assigned { partition, epoch }, interval.until)]));
        }
        if self.is_journaling() {
            self.count_journaled(&set);
            self.journaling.save([set]);
            return;
        }
        if self.journaling.is_crowded(&set) {
            self.count_journaled(&set);
            self.journaling.set_aside(vec![set], self.open_batch.budget());
            return;
        }
        self.open_batch.add_read(set);
    }

    fn count_journaled(&self, set: &MessageSet) {
        let source = set.source();
        metrics::messages_received(
            self.subscription.inputs().label(source),
            &source.topic,
            "journaled",
            set.len() as u64,
        );
    }

    /// Takes messages that waited in memory: to be journaled, for the end of an outage, or for a lock.
    fn add_waiting_sets(&mut self) {
        while !self.open_batch.is_full() {
            let Some(set) = self.journaling.take_waiting_for_append() else { break };
            self.open_batch.add_waiting(set);
        }
        while !self.open_batch.is_full() {
            let Some(set) = self.journaling.take_locked() else { break };
            self.open_batch.add(set);
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Assigned { assigned, sets_before } => {
                for one in &assigned {
                    let input =
                        self.subscription.inputs().of_topic(&one.partition.topic).map_or("", |input| &input.name);
                    self.partitions.assign(one, input);
                }
                self.starts.on_assigned(assigned, sets_before);
                lag::forget_lost();
                self.update_partition_facts();
                self.health.update_facts(|facts| facts.group.join());
            }
            Event::Revoked { partitions, lost } => {
                self.starts.on_revoked(&partitions);
                for partition in &partitions {
                    self.guard.on_revoked(partition);
                    self.partitions.revoke(partition);
                    if lost {
                        lag::keep(&partition.topic, partition.number);
                    } else {
                        lag::forget(&partition.topic, partition.number);
                    }
                }
                if lost {
                    self.health.update_facts(|facts| facts.group.leave());
                }
                self.update_partition_facts();
            }
            Event::OffsetsLost(reading) => self.starts.on_offsets_lost(reading),
            Event::Stopped => error!("the consumer's thread has ended by itself"),
        }
    }

    fn is_journaling(&self) -> bool {
        self.journaling.mode() == Mode::Journaling
    }

    fn on_survey(&mut self, mut survey: Survey) {
        self.guard.withhold(&mut survey);
        self.journaling.on_survey(&survey);
        // What was appended since the survey began is not in it.
        if self.journaling.appends() == survey.appends {
            self.partitions.keep_journaled(&survey.journaled);
        }
        for record in survey.missing.iter().chain(&survey.withheld) {
            self.partitions.mark_journaled(record);
        }
        self.partitions.mark_done(&survey.covered);
        // While messages go to the journal, a start could record no gap, and would read the same messages again and again.
        if !survey.holes.is_empty() && !self.is_journaling() {
            let holes = survey.holes;
            if let Some(unlogged) = self.log.happened("holes", 1) {
                warn!(
                    unlogged,
                    partitions = named(&holes),
                    "messages are neither in the database nor in the journal; they are read from Kafka again"
                );
            }
            self.consumer.send(Command::Restart(holes));
        }
    }

    fn on_starts(&mut self, resolution: Resolution) {
        self.partitions.set_log_ranges(&resolution.log_ranges);
        let starts = self.admit_starts(resolution.starts, resolution.acceptance);
        for start in &starts {
            self.partitions.start(start);
        }
        if !starts.is_empty() {
            self.consumer.send(Command::Start(starts));
        }
        if !resolution.commits.is_empty() {
            self.consumer.send(Command::Commit(resolution.commits));
        }
        if !resolution.restarts.is_empty() {
            self.consumer.send(Command::Restart(resolution.restarts));
        }
        self.health.update_facts(|facts| facts.partitions.problem = resolution.problem);
    }

    fn restart(&self, intervals: &[Interval], why: &str) {
        let assigned: Vec<Assigned> =
            intervals.iter().filter_map(|interval| self.partitions.reading(interval)).collect();
        let shown: Vec<String> = intervals.iter().map(ToString::to_string).collect();
        if let Some(unlogged) = self.log.happened("restart", 1) {
            warn!(unlogged, intervals = shown.join(", "), why, "partitions are started again");
        }
        self.consumer.send(Command::Restart(assigned));
    }

    fn on_observation(&mut self, observation: Observation) {
        self.partitions.set_log_ranges(&observation.log_ranges);
        self.partitions.set_committed_offsets(&observation.committed);
        let changed = self.partitions.of_changed_topics(&observation.topic_ids);
        if !changed.is_empty() {
            warn!(partitions = named(&changed), "a topic was deleted and recreated: it is read from its start");
            self.consumer.send(Command::Restart(changed));
        }
    }

    /// Writes what was read, until the drain timeout, and leaves the group.
    async fn drain(mut self, mut events: UnboundedReceiver<Event>) {
        let deadline = tokio::time::Instant::now() + self.times.drain_timeout;
        loop {
            self.health.beat(Component::Pipeline);
            self.dispatch(true);
            match tokio::time::timeout_at(deadline, self.writers.next()).await {
                Ok(Some(ended)) => self.on_written(ended),
                Ok(None) => break,
                Err(_) => {
                    let batches = self.writers.busy();
                    warn!(batches, "the drain's time is over; Kafka still has what was not written");
                    self.writers.abort();
                    break;
                }
            }
        }
        self.consumer.send(Command::Stop);
        let stopped = async { while !matches!(events.recv().await, Some(Event::Stopped) | None) {} };
        if tokio::time::timeout(STOP_TIMEOUT, stopped).await.is_err() {
            warn!("the consumer did not end in time");
        }
        info!("stopped");
    }
}

/// Formats partitions for a log line.
fn named(assigned: &[Assigned]) -> String {
    telemetry::partitions(assigned.iter().map(|one| (one.partition.topic.as_str(), one.partition.number)))
}

/// The next offset of each partition when a batch was handed to its writer.
type NextOffsets = HashMap<TopicPartition, i64>;

/// The release of Kafka 0.10.0, the first with times in records: 2016-05-22T00:00:00Z, in milliseconds since the Unix epoch.
const FIRST_RECORD_TIME_MS: i64 = 1_463_875_200_000;

/// Returns `true` if a record that exists at `now_ms` can have this time. Producers set it, and some use another unit: seconds
/// lie in 1970, microseconds and nanoseconds in the future.
fn is_plausible(time_ms: i64, now_ms: i64) -> bool {
    (FIRST_RECORD_TIME_MS..=now_ms).contains(&time_ms)
}

fn unix_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as i64)
}
