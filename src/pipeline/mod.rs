//! The one loop between Kafka and the database.
//!
//! It takes the consumer's events, decodes messages into the batch being filled, and hands a batch to a writer when it is
//! full, or when its first message has waited long enough. While all writers are busy and the batch is full it takes no
//! more messages: they stay charged to the memory budget, and the consumer pauses when that is used up.
//!
//! - [`partitions`](self): what is known of each partition: how far read, how far applied, what is on its way.
//! - `membership`: when this worker joins the consumer group.
//! - `spill`: the modes, and what goes to the journal and comes back from it.
//! - `survey`: what of it the database has, and what is nowhere.
//! - `start`: where a partition starts, asked of the database and of Kafka.
//! - `letters`: copies of dead letters for a topic.
//! - `writer`: one batch until it is committed, through outages, overlaps and refused rows.
//! - `writer_count`: how many batches are written at the same time.
//! - `topic_settings`: whether a topic is compacted.
//! - `watch`: lag, topic identities and health, looked at every few seconds.

mod dead_letter_copies;
mod journaling;
mod membership;
mod new_cluster;
mod partitions;
mod start;
mod starts;
mod survey;
mod topic_settings;
mod watch;
mod writer;

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::task::{JoinError, JoinSet};
use tracing::{error, info, warn};

use crate::batch::{Batch, Counts};
use crate::config::Config;
use crate::database::Database;
use crate::journal::{JournalHandle, Record};
use crate::kafka::consumer::{self, ConsumerHandle};
use crate::kafka::events::{Assigned, Command, Event, Messages};
use crate::kafka::lookup::Lookup;
use crate::kafka::partition::TopicPartition;
use crate::kafka::settings;
use crate::kafka::topic_settings::TopicSettings;
use crate::message::Decoder;
use crate::raw::{Budget, Interval, MessageSet};
use crate::telemetry::health::{Component, Health, JournalStatus};
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics::{self, Step};
use crate::telemetry::{self, escaped, lag};

use dead_letter_copies::Publishing;
use journaling::{Mode, Spill};
pub(crate) use new_cluster::{islands_elsewhere, refused_move};
use partitions::Partitions;
use start::{Resolution, Starter};
use starts::Starts;
use survey::{Survey, Surveyor};
use watch::{Observation, Watch};
pub use watch::{ask_brokers, show_server};
use writer::writer_count::WriterCount;
use writer::{Outcome, Writer};

/// How often the loop looks at its clock when nothing happens.
const TICK: Duration = Duration::from_millis(100);
/// How long nothing may come of a partition that has more. What could hold it, a broker that is away among it, is not known
/// here, and starting again does no harm.
const STUCK: Duration = Duration::from_secs(30);
/// How often messages are tried again that wait for what somebody has locked, without a journal.
const TRY_LOCKED: Duration = Duration::from_secs(1);
/// How much longer than its longest statement a healthy database may be silent: the worker's own patience, and a question's
/// interval.
const DATABASE_MARGIN: Duration = Duration::from_secs(15);
/// How long the consumer may take to say farewell.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the pipeline did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The consumer cannot start.
    #[error(transparent)]
    Consumer(#[from] consumer::StartError),
    /// The client for questions cannot start.
    #[error("librdkafka refuses the client: {0}")]
    Lookup(#[from] crate::kafka::Error),
    /// Nobody has the journal any more; a new process opens it again.
    #[error("the journal's thread has ended by a fault of ours; start the worker again")]
    JournalEnded,
}

impl RunError {
    /// The name of the property that librdkafka refuses, where that is the reason.
    pub fn refused_property(&self) -> Option<&str> {
        match self {
            Self::Consumer(consumer::StartError::Kafka(error)) | Self::Lookup(error) => {
                crate::kafka::refused_property(error)
            }
            Self::Consumer(consumer::StartError::Thread(_)) | Self::JournalEnded => None,
        }
    }
}

/// Runs until `shutdown` is ready, and then until what was read is written or the drain's time is over.
///
/// # Errors
/// Where it cannot start, or has lost its journal. Faults of Kafka and of the database are waited out.
pub async fn run(
    config: Arc<Config>,
    database: Database,
    journal: Option<JournalHandle>,
    health: Arc<Health>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let budget = Budget::new(buffer_bytes(&config));
    let (event_sender, events) = mpsc::unbounded_channel();
    let (message_sender, messages) = mpsc::unbounded_channel();
    let lookup = Arc::new(Lookup::new(&config.kafka)?);
    expect(&config, &health);
    health.note(|facts| facts.group.ask());
    let consumer = consumer::spawn(&config.kafka, budget.clone(), Arc::clone(&health), event_sender, message_sender)?;
    let watch = Watch::new(Arc::clone(&config), Arc::clone(&lookup), database.clone(), Arc::clone(&health));
    let decoder = Decoder::new(config.message.limits());
    let starter = Starter {
        kafka: config.kafka.clone(),
        lookup: Arc::clone(&lookup),
        database: database.clone(),
        journal: journal.clone(),
        journaling: false,
        log: LogLimit::default(),
    };
    let mut background = JoinSet::new();
    let settings = TopicSettings::new(&config.kafka)?;
    background.spawn(topic_settings::watch(Arc::clone(&config), settings, Arc::clone(&health)));
    background.spawn(membership::join(
        config.kafka.clone(),
        Arc::clone(&lookup),
        consumer.clone(),
        Arc::clone(&health),
    ));
    let writer = Writer::new(&config, database.clone(), lookup);
    let mut partitions = Partitions::default();
    if let Some(journal) = &journal {
        for record in journal.records().await.into_iter().flatten() {
            partitions.note_journaled(&record);
        }
    }
    let publishing = if config.kafka.dead_letter_topic.is_empty() {
        None
    } else {
        Some(Publishing::start(&config, database.clone(), Arc::clone(&health))?)
    };
    let pipeline = Pipeline {
        publishing,
        surveyor: Surveyor::new(journal.clone(), database.clone()),
        spill: journal.map(|journal| Spill::new(journal, &config, database, writer.clone())),
        held: HashMap::new(),
        batches: 0,
        starts: Starts::new(starter),
        writer,
        filling: Batch::new(&budget),
        filling_since: None,
        partitions,
        log: LogLimit::default(),
        writers: JoinSet::new(),
        writer_count: WriterCount::new(&config.database, Instant::now()),
        draining: false,
        movable_since: Instant::now(),
        calm_since: Instant::now(),
        waiting: VecDeque::new(),
        waiting_until: Instant::now(),
        waiting_turn: 0,
        config,
        budget,
        health,
        background,
        consumer,
        decoder,
        watch,
    };
    pipeline.run(events, messages, shutdown).await
}

/// Tells health what the worker waits for.
pub fn expect(config: &Config, health: &Health) {
    let patience = Duration::from_millis(config.database.statement_timeout_ms) + DATABASE_MARGIN;
    health.note(|facts| {
        facts.brokers.addresses.clone_from(&config.kafka.brokers);
        facts.group.name.clone_from(&config.kafka.group_id);
        facts.group.session_timeout = Duration::from_millis(config.kafka.session_timeout_ms);
        facts.database.patience = patience;
    });
}

/// The part of the memory limit for messages and points. The rest is for what librdkafka fetches ahead, for encoding, and
/// for the program itself.
fn buffer_bytes(config: &Config) -> usize {
    (config.memory.limit_bytes.saturating_sub(2 * settings::FETCHED_AHEAD_BYTES) / 3).max(settings::FETCHED_AHEAD_BYTES)
}

struct Pipeline {
    config: Arc<Config>,
    budget: Budget,
    health: Arc<Health>,
    consumer: ConsumerHandle,
    /// What runs alongside the loop and ends with it: joining the group, the topics' settings.
    background: JoinSet<()>,
    decoder: Decoder,
    filling: Batch,
    filling_since: Option<Instant>,
    partitions: Partitions,
    starts: Starts,
    log: LogLimit,
    writer: Writer,
    writers: JoinSet<Outcome>,
    writer_count: WriterCount,
    /// The journal's side, where there is one.
    spill: Option<Spill>,
    surveyor: Surveyor,
    /// The publishing of dead letters, where they are published.
    publishing: Option<Publishing>,
    /// The messages of batches that are being written, by the batches' numbers, for the journal.
    held: HashMap<u64, Vec<MessageSet>>,
    batches: u64,
    watch: Watch,
    draining: bool,
    /// Since when data could have moved: an outage is no stall, nor is what is written of the journal after it.
    movable_since: Instant,
    /// Since when nothing but the consumer could hold messages up.
    calm_since: Instant,
    /// Without a journal: what waits for what somebody has locked, and until when.
    waiting: VecDeque<MessageSet>,
    waiting_until: Instant,
    /// How many of them are still to be tried in this turn: those that come back wait for the next.
    waiting_turn: usize,
}

impl Pipeline {
    async fn run(
        mut self,
        mut events: UnboundedReceiver<Event>,
        mut messages: UnboundedReceiver<Messages>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), RunError> {
        let mut shutdown = pin!(shutdown);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let end = loop {
            self.health.beat(Component::Pipeline);
            self.dispatch();
            self.take_unsaved();
            self.take_waiting();
            let may_take = match &self.spill {
                Some(spill) if spill.mode() == Mode::Journaling => spill.may_take(),
                _ => !self.is_full(),
            };
            tokio::select! {
                biased;
                () = &mut shutdown => break Ok(()),
                Some(done) = self.writers.join_next() => self.written(done),
                resolution = self.starts.next() => self.on_starts(resolution),
                Some(observation) = self.watch.next() => self.observed(observation),
                survey = self.surveyor.next() => self.surveyed(survey),
                appended = next_append(&mut self.spill) => {
                    self.partitions.note_saved(&appended.saved);
                    self.partitions.note_done(&appended.dropped);
                }
                Some(event) = events.recv() => self.heard(event),
                Some((set, epoch)) = messages.recv(), if may_take => self.take(set, epoch),
                _ = tick.tick() => {
                    if self.spill.as_ref().is_some_and(|spill| spill.journal().has_ended()) {
                        break Err(RunError::JournalEnded);
                    }
                    self.tick(messages.len());
                }
            }
        };
        self.drain(events).await;
        end
    }

    fn take(&mut self, set: MessageSet, epoch: u64) {
        self.starts.on_set_taken();
        if !self.partitions.note_read(&set, epoch, unix_ms()) {
            return;
        }
        #[cfg(feature = "planted-bugs")]
        if crate::planted_bugs::is_on("commit-before-database") {
            let interval = set.interval();
            let partition = TopicPartition::from(&interval.partition);
            self.consumer.send(Command::Commit(vec![(Assigned { partition, epoch }, interval.until)]));
        }
        if let Some(spill) = self.spill.as_mut().filter(|spill| spill.mode() == Mode::Journaling) {
            metrics::messages_received(&set.source().topic, "journaled", set.len() as u64);
            spill.save([set]);
            return;
        }
        if let Some(spill) = self.spill.as_mut().filter(|spill| spill.is_crowded(&set)) {
            metrics::messages_received(&set.source().topic, "journaled", set.len() as u64);
            spill.set_aside([set]);
            return;
        }
        self.fill(set);
    }

    /// Takes what waits for what somebody has locked, to try it again.
    fn take_waiting(&mut self) {
        if self.waiting_turn == 0 {
            if self.waiting.is_empty() || Instant::now() < self.waiting_until {
                return;
            }
            self.waiting_turn = self.waiting.len();
            self.waiting_until = Instant::now() + TRY_LOCKED;
        }
        while self.waiting_turn > 0 && !self.is_full() {
            self.waiting_turn -= 1;
            let Some(set) = self.waiting.pop_front() else { break };
            self.decode(set);
        }
    }

    /// Takes what waits to be journaled, once the database is back.
    fn take_unsaved(&mut self) {
        while !self.is_full() {
            let Some(set) = self.spill.as_mut().and_then(Spill::take_unsaved) else { return };
            // Its messages were counted when they were read, by their type or as journaled.
            let counts = self.decode(set);
            metrics::unknown_fields(counts.unknown_fields as u64);
        }
    }

    fn fill(&mut self, set: MessageSet) {
        let source = Arc::clone(set.source());
        let counts = self.decode(set);
        metrics::unknown_fields(counts.unknown_fields as u64);
        for (kind, count) in counts.by_type().into_iter().filter(|(_, count)| *count > 0) {
            metrics::messages_received(&source.topic, kind, count as u64);
        }
    }

    fn decode(&mut self, set: MessageSet) -> Counts {
        let begun = Instant::now();
        let counts = self.filling.push(set, &mut self.decoder);
        metrics::step_took(Step::Decode, begun.elapsed());
        self.filling_since.get_or_insert_with(Instant::now);
        counts
    }

    fn heard(&mut self, event: Event) {
        match event {
            Event::Assigned { assigned, sets_before } => {
                for one in &assigned {
                    self.partitions.assign(one);
                }
                self.starts.on_assigned(assigned, sets_before);
                lag::forget_lost();
                self.note_partitions();
                self.health.note(|facts| facts.group.join());
            }
            Event::Revoked { partitions, lost } => {
                self.starts.on_revoked(&partitions);
                for partition in &partitions {
                    self.partitions.revoke(partition);
                    if lost {
                        lag::keep(&partition.topic, partition.number);
                    } else {
                        lag::forget(&partition.topic, partition.number);
                    }
                }
                if lost {
                    self.health.note(|facts| facts.group.leave());
                }
                self.note_partitions();
            }
            Event::OffsetsLost(reading) => self.starts.on_offsets_lost(reading),
            Event::Stopped => error!("the consumer's thread has ended by itself"),
        }
    }

    fn is_journaling(&self) -> bool {
        self.spill.as_ref().is_some_and(|spill| spill.mode() == Mode::Journaling)
    }

    fn is_full(&self) -> bool {
        self.filling.points().len() >= self.config.batch.max_points
            || self.filling.message_bytes() >= self.config.batch.max_bytes
    }

    /// Hands the batch to a writer, if it is due and one is free.
    fn dispatch(&mut self) {
        let linger = Duration::from_millis(self.config.batch.linger_ms);
        let due = self.filling_since.is_some_and(|since| self.draining || since.elapsed() >= linger);
        // What is paused brings nothing more that would be worth waiting for.
        let due = due || (self.filling_since.is_some() && self.budget.is_full());
        let writers = self.writer_count.get();
        let free = writers.saturating_sub(self.writers.len());
        let is_full = self.budget.is_full();
        let spill = self.spill.as_ref().filter(|_| !self.draining);
        let has_turn = spill.is_none_or(|spill| spill.may_write_live(self.writers.len(), writers, is_full));
        if !(due || self.is_full()) || free == 0 || !has_turn {
            if let Some(spill) = self.spill.as_mut().filter(|_| !self.draining)
                && let Some(records) = spill.next_records(free, writers, is_full)
            {
                let intervals: Vec<Interval> = records.iter().map(Record::interval).collect();
                let known = self.partitions.next_offsets(&intervals);
                self.writers.spawn(self.writer.clone().replay(
                    spill.journal().clone(),
                    records,
                    known,
                    self.budget.clone(),
                ));
            }
            return;
        }
        // With a backlog batches are full before they are due.
        if !self.is_full() && !is_full {
            self.writer_count.interrupt(Instant::now());
        }
        let batch = std::mem::replace(&mut self.filling, Batch::new(&self.budget));
        self.filling_since = None;
        metrics::batch_sealed(batch.points().len(), batch.message_bytes());
        let known = self.partitions.next_offsets(&batch.intervals());
        self.batches += 1;
        if let Some(spill) = &mut self.spill {
            self.held.insert(self.batches, batch.sets().to_vec());
            spill.live_has_gone();
        }
        self.writers.spawn(self.writer.clone().write(self.batches, batch, known));
    }

    /// Looks at the clock, while so many message sets wait to be taken.
    fn tick(&mut self, waiting: usize) {
        // What waits here, or a pause, is no reason: both end by themselves.
        if waiting > 0 || !self.budget.has_room() {
            self.calm_since = Instant::now();
        } else if self.calm_since.elapsed() >= STUCK {
            let stuck = self.partitions.stuck(STUCK);
            if !stuck.is_empty() {
                if let Some(unlogged) = self.log.happened("stuck", 1) {
                    warn!(
                        unlogged,
                        partitions = named(&stuck),
                        "there is more in Kafka, and nothing comes of it; starting these partitions again"
                    );
                }
                self.consumer.send(Command::Restart(stuck));
            }
        }
        if self.starts.is_empty() {
            self.health.note(|facts| facts.partitions.problem = None);
        }
        if let Some(spill) = &mut self.spill {
            if spill.update() {
                // It may have to outlive this process, and Kafka may not have it any more by then.
                let held = std::mem::take(&mut self.held).into_values().flatten();
                let filling = std::mem::replace(&mut self.filling, Batch::new(&self.budget));
                self.filling_since = None;
                spill.save(held.chain(filling.sets().iter().cloned()).collect::<Vec<_>>());
                // Held by nobody else, they leave room in memory for what comes. A transaction that is cut off here is one
                // whose end is not known, and the claim answers that.
                self.writers.abort_all();
                self.writer_count.interrupt(Instant::now());
                spill.abandoned();
            }
            if spill.is_needed() {
                self.health.set_condition("journal", spill.problem());
            } else {
                self.health.set_warning("journal", spill.problem());
            }
            let lost = spill.take_lost();
            if !lost.is_empty() {
                self.partitions.note_done(&lost);
                let mut reading: Vec<Assigned> =
                    lost.iter().filter_map(|interval| self.partitions.reading(interval)).collect();
                reading.sort_by(|a, b| a.partition.cmp(&b.partition));
                reading.dedup();
                warn!(
                    records = lost.len(),
                    partitions = reading.len(),
                    "records of the journal are lost; what the database lacks of them is read from Kafka again"
                );
                self.consumer.send(Command::Restart(reading));
                self.surveyor.soon();
            }
        }
        if self.spill.as_ref().is_some_and(Spill::wants_survey) {
            self.surveyor.soon();
        }
        let is_journaling = self.is_journaling();
        self.starts.tick(is_journaling, || self.partitions.in_flight());
        self.surveyor.tick(&self.partitions, self.spill.as_ref().map_or(0, Spill::appends));
        let journaling = self.spill.as_ref().filter(|spill| spill.mode() == Mode::Journaling);
        self.watch.tick(&self.partitions, journaling.map(Spill::took_at));
        self.measure();
    }

    fn surveyed(&mut self, survey: Survey) {
        if let Some(spill) = &mut self.spill {
            spill.note_survey(&survey);
        }
        // What was appended since it began is not in it.
        if self.spill.as_ref().is_some_and(|spill| spill.appends() == survey.appends) {
            self.partitions.keep_journaled(&survey.journaled);
        }
        for record in &survey.missing {
            self.partitions.note_journaled(record);
        }
        self.partitions.note_done(&survey.covered);
        // While messages go to the journal a start could record no gap, and would read the same again and again.
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

    /// Tells what readiness needs to know of the partitions.
    fn note_partitions(&self) {
        let (assigned, reading) = self.partitions.counts();
        let oldest = self.partitions.oldest_log();
        self.health.note(|facts| {
            facts.partitions.assigned = assigned;
            facts.partitions.reading = reading;
            // Before the group has been joined, having no partitions is no sign.
            if assigned == reading && (assigned > 0 || facts.group.joined.is_some()) {
                facts.partitions.complete = Some(Instant::now());
            }
            facts.logs.oldest = oldest;
        });
    }

    fn measure(&mut self) {
        metrics::buffered_bytes(self.budget.used() as u64);
        self.note_partitions();
        self.health.review();
        let now_ms = unix_ms();
        let stall = Duration::from_millis(self.config.http.stall_ms);
        // Only time counts in which data could have moved to the database.
        let can_move = self.watch.database_is_up() && self.health.brokers_answer();
        if !can_move || self.is_journaling() {
            self.movable_since = Instant::now();
        }
        let stalled = self.partitions.stalled_for(self.movable_since).filter(|stalled| *stalled >= stall);
        match &self.spill {
            Some(spill) => spill.measure(now_ms),
            None => metrics::mode(Mode::Streaming.as_str(), true),
        }
        self.health.set_condition(
            "stalled",
            stalled.map(|for_| format!("there is data to write, and none was committed for {} s", for_.as_secs())),
        );
        let lags = self.partitions.lags(now_ms, self.health.brokers_answer());
        for lag in &lags {
            if let Some(messages) = lag.messages {
                telemetry::lag::set(&lag.partition.topic, lag.partition.number, messages, lag.seconds);
            }
        }
        let (buffered, limit, in_flight) = (self.budget.used(), self.config.memory.limit_bytes, self.writers.len());
        let writers = self.writer_count.get();
        metrics::writers(writers);
        self.health.update(|status| {
            watch::fill_status(status, &lags, (buffered, limit, in_flight));
            status.writers = writers as u64;
        });
        if let Some(spill) = &self.spill {
            let usage = spill.journal().usage();
            let mode = spill.mode().as_str();
            self.health.update(|status| {
                status.journal = Some(JournalStatus {
                    mode,
                    mode_seconds: spill.mode_since().elapsed().as_secs(),
                    bytes: usage.bytes,
                    limit_bytes: usage.limit_bytes,
                    records: usage.records,
                    quarantined_segments: usage.quarantined,
                    lost_records: usage.lost,
                });
            });
        }
    }

    fn on_starts(&mut self, resolution: Resolution) {
        self.partitions.note_log(&resolution.log_ranges);
        for start in &resolution.starts {
            self.partitions.start(start);
        }
        if !resolution.starts.is_empty() {
            self.consumer.send(Command::Start(resolution.starts));
        }
        if !resolution.commits.is_empty() {
            self.consumer.send(Command::Commit(resolution.commits));
        }
        if !resolution.restarts.is_empty() {
            self.consumer.send(Command::Restart(resolution.restarts));
        }
        self.health.note(|facts| facts.partitions.problem = resolution.problem);
    }

    fn written(&mut self, done: Result<Outcome, JoinError>) {
        let mut outcome = match done {
            Ok(outcome) => outcome,
            // Its messages went to the journal.
            Err(failure) if failure.is_cancelled() => return,
            Err(failure) => {
                // What the task held is lost to this process, not to Kafka or the journal: all is read again from where the
                // database is. Which task it was is not known, so the others end, too.
                error!(%failure, "a writer ended by a fault of ours; its messages are read again");
                self.writers.abort_all();
                self.held.clear();
                if let Some(spill) = &mut self.spill {
                    spill.abandoned();
                }
                self.surveyor.soon();
                self.partitions.forget_in_flight();
                self.consumer.send(Command::Restart(self.partitions.assigned()));
                return;
            }
        };
        // What a partition without progress has in the journal stays known: its progress must begin no later.
        let done = if outcome.lost && outcome.replayed { &outcome.damaged } else { &outcome.intervals };
        self.partitions.note_done(done);
        self.held.remove(&outcome.number);
        let waits = !outcome.aside.is_empty();
        for set in &outcome.aside {
            self.partitions.note_waiting(set, outcome.replayed);
        }
        if !outcome.replayed && waits {
            match &mut self.spill {
                Some(spill) => spill.set_aside(outcome.aside),
                None => self.waiting.extend(outcome.aside.iter().map(|set| set.detached(&self.budget))),
            }
        }
        if let Some(spill) = self.spill.as_mut().filter(|_| outcome.replayed) {
            spill.replayed(outcome.unread.take(), waits);
            // The journal is written oldest first: a partition may have to wait until it is its turn.
            if !outcome.applied.is_empty() {
                self.movable_since = Instant::now();
            }
            if !outcome.damaged.is_empty() {
                self.consumer.send(Command::Restart(
                    outcome.damaged.iter().filter_map(|interval| self.partitions.reading(interval)).collect(),
                ));
                self.surveyor.soon();
            }
        }
        self.writer_count.written(outcome.points + outcome.skipped, Instant::now());
        metrics::points_written(outcome.points as u64);
        metrics::points_skipped(outcome.skipped as u64);
        metrics::points_duplicate(outcome.duplicates as u64);
        metrics::dead_letters_only_counted(outcome.only_counted);
        metrics::dead_letters_not_counted(outcome.not_counted);
        if let Some(publishing) = self.publishing.as_ref().filter(|_| !outcome.dead_letters.is_empty()) {
            publishing.wake();
        }
        for (reason, (count, at, rejected)) in &outcome.dead_letters {
            metrics::dead_letters(reason, *count);
            let Some(unlogged) = self.log.happened(reason, *count) else { continue };
            warn!(
                topic = at.partition.source.topic, partition = at.partition.number, offset = at.offset,
                reason = rejected.reason.as_str(), detail = %escaped(&rejected.detail),
                unlogged,
                "a message became a dead letter"
            );
        }
        let now_ms = unix_ms();
        if let Some(oldest) = outcome.oldest_ms.filter(|oldest| is_plausible(*oldest, now_ms)) {
            metrics::produce_to_commit((now_ms - oldest) as f64 / 1000.0);
        }
        if outcome.lost {
            self.surveyor.soon();
            self.restart(&outcome.intervals, "the database has no progress of them");
        }
        if !outcome.of_deleted_topics.is_empty() {
            self.restart(
                &outcome.of_deleted_topics,
                "their topic was deleted and made anew; what was read of it is dropped",
            );
        }
        let mut commits = Vec::new();
        let mut fallen_back = Vec::new();
        for applied in &outcome.applied {
            let known = outcome.known.get(&TopicPartition::from(&applied.partition));
            if known.is_some_and(|known| applied.next_offset < *known) {
                fallen_back.push(applied.clone());
            }
            if let Some(assigned) = self.partitions.note_applied(applied) {
                commits.push((assigned, applied.next_offset));
            }
        }
        if !fallen_back.is_empty() {
            let assigned = fallen_back
                .iter()
                .filter_map(|applied| self.partitions.current(&TopicPartition::from(&applied.partition)))
                .collect();
            let partitions: Vec<String> =
                fallen_back.iter().map(|applied| format!("{} to {}", applied.partition, applied.next_offset)).collect();
            if let Some(unlogged) = self.log.happened("fallen-back", 1) {
                warn!(
                    unlogged,
                    partitions = partitions.join(", "),
                    "the database's progress fell back: it was restored; reading again from there"
                );
            }
            // A restored database lacks more than points: series and columns that this worker has listed.
            self.starts.database().forget();
            self.consumer.send(Command::Restart(assigned));
        }
        self.consumer.send(Command::Commit(commits));
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

    fn observed(&mut self, observation: Observation) {
        self.partitions.note_log(&observation.log_ranges);
        self.partitions.note_committed(&observation.committed);
        let changed = self.partitions.of_changed_topics(&observation.topic_ids);
        if !changed.is_empty() {
            warn!(partitions = named(&changed), "a topic was deleted and made anew: it is read from its start");
            self.consumer.send(Command::Restart(changed));
        }
    }

    /// Writes what was read, until the drain's time is over, and leaves the group.
    async fn drain(mut self, mut events: UnboundedReceiver<Event>) {
        info!("stopping: writing what was read");
        self.background.abort_all();
        self.draining = true;
        let deadline = tokio::time::Instant::now() + Duration::from_millis(self.config.shutdown.drain_timeout_ms);
        loop {
            self.health.beat(Component::Pipeline);
            self.dispatch();
            if self.writers.is_empty() {
                break;
            }
            match tokio::time::timeout_at(deadline, self.writers.join_next()).await {
                Ok(Some(done)) => self.written(done),
                Ok(None) => break,
                Err(_) => {
                    warn!(
                        batches = self.writers.len(),
                        "the drain's time is over; Kafka still has what was not written"
                    );
                    self.writers.abort_all();
                    break;
                }
            }
        }
        self.consumer.send(Command::Stop);
        let farewell = async { while !matches!(events.recv().await, Some(Event::Stopped) | None) {} };
        if tokio::time::timeout(STOP_TIMEOUT, farewell).await.is_err() {
            warn!("the consumer did not end in time");
        }
        info!("stopped");
    }
}

/// The end of the next append to the journal; never ready where there is none.
async fn next_append(spill: &mut Option<Spill>) -> journaling::Appended {
    match spill {
        Some(spill) => spill.appended().await,
        None => std::future::pending().await,
    }
}

/// Partitions as they stand in a log line.
fn named(assigned: &[Assigned]) -> String {
    telemetry::partitions(assigned.iter().map(|one| (one.partition.topic.as_str(), one.partition.number)))
}

/// The next offset of partitions as it was known when a batch was handed to its writer.
type NextOffsets = HashMap<TopicPartition, i64>;

/// The release of Kafka 0.10.0, the first whose records have a time: 2016-05-22T00:00:00Z, in milliseconds since the Unix epoch.
const FIRST_RECORD_TIME_MS: i64 = 1_463_875_200_000;

/// Whether a record that is there at `now_ms` can have this time. Producers set it, and some do in another unit: seconds are
/// in 1970, microseconds and nanoseconds in the future.
fn is_plausible(time_ms: i64, now_ms: i64) -> bool {
    (FIRST_RECORD_TIME_MS..=now_ms).contains(&time_ms)
}

fn unix_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as i64)
}
