//! The consumer's thread. It owns the consumer, polls it always, even while partitions are paused, and never waits for anything
//! else: it sends messages and [`Event`]s, and receives [`Command`]s.
//!
//! - `partitions`: assignment, revocation and start offsets of its partitions.
//! - `sets`: collects messages into sets, and sends these to the pipeline.
//! - `errors`: handles errors of the consumer.
//! - `commits`: the offsets that the consumer commits to Kafka.
//! - `lifecycle`: how a consumer is built, recreated and closed.

mod commits;
mod errors;
mod lifecycle;
mod partitions;
mod sets;

use std::collections::HashMap;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc::UnboundedSender;
use tracing::debug;

use super::assignment::Assignment;
use super::context::{Context, Notice, log_failure, positions};
use super::events::{Command, Event, Messages};
use super::member::Member;
use super::partition::TopicPartition;
use crate::config::Kafka;
use crate::raw::Budget;
use crate::telemetry::health::{Component, Health};
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics::{self, Step};
use sets::{SetSender, add_message};

/// Timeout of a poll; also the maximum delay of a command.
const POLL: Duration = Duration::from_millis(10);
/// Time for which a set waits to become full while messages keep arriving.
const SET_LINGER: Duration = Duration::from_millis(20);
/// Interval between checks for sets that have waited that long: there may be hundreds of partitions, and many more messages.
const LINGER_CHECK_INTERVAL: Duration = Duration::from_millis(5);
/// Interval between reads of the consumer's position, for offsets without a message.
const SKIP_INTERVAL: Duration = Duration::from_millis(500);
/// Interval between commits of offsets to Kafka.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// Interval between measurements of the thread's CPU time.
const MEASURE_INTERVAL: Duration = Duration::from_millis(100);

/// A handle for sending commands to the thread.
#[derive(Debug, Clone)]
pub struct ConsumerHandle {
    commands: mpsc::Sender<Command>,
}

impl ConsumerHandle {
    /// Sends a command; it is ignored after the thread's end.
    pub fn send(&self, command: Command) {
        if self.commands.send(command).is_err() {
            debug!("the consumer's thread has ended already");
        }
    }
}

/// Starts the thread, which reads `topics` from [`Command::Join`] on.
///
/// # Errors
/// If librdkafka refuses a property, or no thread can be started.
pub fn spawn(
    kafka: &Kafka,
    member: Member,
    topics: Vec<String>,
    budget: Budget,
    health: Arc<Health>,
    events: UnboundedSender<Event>,
    messages: UnboundedSender<Messages>,
) -> Result<ConsumerHandle, StartError> {
    let (sender, commands) = mpsc::channel();
    let consumer = ConsumerThread::build(kafka, &member)?;
    let thread = ConsumerThread {
        kafka: kafka.clone(),
        member,
        joined: false,
        topics,
        subscribed: Vec::new(),
        consumer,
        assignment: Assignment::default(),
        last_epoch: 0,
        health,
        events,
        sets: SetSender::new(budget, messages),
        commands,
        paused: false,
        commits: HashMap::new(),
        last_commit: Instant::now(),
        skipped_at: Instant::now(),
        linger_checked: Instant::now(),
        measured: Instant::now(),
        processor_time: Duration::ZERO,
        left_at: HashMap::new(),
        log: LogLimit::default(),
    };
    thread::Builder::new().name("kafka".into()).spawn(move || thread.run())?;
    Ok(ConsumerHandle { commands: sender })
}

/// The reason why the consumer cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// librdkafka's reason.
    #[error("librdkafka refuses the consumer: {0}")]
    Kafka(#[from] KafkaError),
    /// The operating system's reason.
    #[error("the consumer's thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

struct ConsumerThread {
    kafka: Kafka,
    member: Member,
    joined: bool,
    /// The topics to read.
    topics: Vec<String>,
    /// The topics that the consumer is subscribed to.
    subscribed: Vec<String>,
    consumer: BaseConsumer<Context>,
    assignment: Assignment,
    last_epoch: u64,
    health: Arc<Health>,
    events: UnboundedSender<Event>,
    sets: SetSender,
    commands: mpsc::Receiver<Command>,
    paused: bool,
    commits: HashMap<TopicPartition, (u64, i64)>,
    last_commit: Instant,
    skipped_at: Instant,
    linger_checked: Instant,
    measured: Instant,
    /// The thread's CPU time when it was last measured.
    processor_time: Duration,
    /// The consumer's positions when it last left partitions.
    left_at: HashMap<TopicPartition, i64>,
    log: LogLimit,
}

impl ConsumerThread {
    fn run(mut self) {
        loop {
            self.health.beat(Component::Consumer);
            loop {
                match self.commands.try_recv() {
                    Ok(Command::Join) => self.join(),
                    Ok(Command::Subscribe(topics)) => self.read_topics(topics),
                    Ok(Command::Rename(member)) => self.rename(member),
                    Ok(Command::Start(starts)) => self.start(starts),
                    Ok(Command::Restart(assigned)) => self.restart(&assigned),
                    Ok(Command::Hold(assigned)) => self.hold(&assigned),
                    Ok(Command::Commit(offsets)) => self.queue_commits(offsets),
                    Ok(Command::Stop) | Err(mpsc::TryRecvError::Disconnected) => return self.close(),
                    Err(mpsc::TryRecvError::Empty) => break,
                }
            }
            let idle = self.poll();
            // Read once, because it is needed for each message.
            let now = Instant::now();
            self.skip_to_positions(now);
            self.hand_on_due(idle, now);
            self.pause_or_resume();
            self.measure(now);
            if now.saturating_duration_since(self.last_commit) >= COMMIT_INTERVAL {
                self.commit(CommitMode::Async);
                self.consumer.context().renew_credentials(&self.consumer);
            }
        }
    }

    /// Records this thread's CPU time since the last measurement; the thread mostly waits.
    fn measure(&mut self, now: Instant) {
        if now.saturating_duration_since(self.measured) < MEASURE_INTERVAL {
            return;
        }
        self.measured = now;
        let time = Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default();
        metrics::step_took(Step::Fetch, time.saturating_sub(self.processor_time));
        self.processor_time = time;
    }

    /// Polls once. Returns `true` if nothing was received.
    fn poll(&mut self) -> bool {
        let polled = self.consumer.poll(POLL);
        let idle = polled.is_none();
        let mut failed = false;
        match polled {
            None => {}
            Some(Ok(message)) => {
                if let Some((reader, epoch)) = add_message(&mut self.assignment, &message) {
                    self.sets.hand_on(reader, epoch);
                }
            }
            Some(Err(error)) => failed = self.on_error(&error),
        }
        for notice in self.consumer.context().take_notices() {
            match notice {
                Notice::Assigned(partitions) => self.on_assigned(&partitions),
                Notice::Revoked { partitions, left_at, lost } => {
                    self.left_at.extend(left_at);
                    self.on_revoked(partitions, lost);
                }
                Notice::SessionEnded => self.send_event(Event::Revoked { partitions: Vec::new(), lost: true }),
                Notice::Committed => {}
            }
        }
        if failed {
            self.rebuild();
        }
        idle
    }

    /// Periodically extends each partition to the consumer's own position.
    fn skip_to_positions(&mut self, now: Instant) {
        if now.saturating_duration_since(self.skipped_at) < SKIP_INTERVAL {
            return;
        }
        self.skipped_at = now;
        for (TopicPartition { topic, number }, position) in positions(&self.consumer) {
            let owned = self.assignment.get(&topic, number);
            if let Some(reader) = owned.and_then(|owned| owned.reader.as_mut()) {
                reader.skip_to(position);
            }
        }
    }

    /// Hands on the sets that have waited long enough, or all sets if no message arrives.
    fn hand_on_due(&mut self, idle: bool, now: Instant) {
        if !idle && now.saturating_duration_since(self.linger_checked) < LINGER_CHECK_INTERVAL {
            return;
        }
        self.linger_checked = now;
        for (epoch, reader) in self.assignment.readers() {
            let due =
                reader.waiting_since().is_some_and(|since| idle || now.saturating_duration_since(since) >= SET_LINGER);
            if due {
                self.sets.hand_on(reader, epoch);
            }
        }
    }

    fn pause_or_resume(&mut self) {
        let change = if self.paused { self.sets.budget().has_room() } else { self.sets.budget().is_full() };
        if !change {
            return;
        }
        let mut reading = TopicPartitionList::new();
        for (_, reader) in self.assignment.readers() {
            let TopicPartition { topic, number } = reader.partition();
            reading.add_partition(&topic, number);
        }
        self.paused = !self.paused;
        debug!(paused = self.paused, buffered = self.sets.budget().used(), "memory budget");
        if self.paused {
            log_failure("pause", self.consumer.pause(&reading));
        } else {
            log_failure("resume", self.consumer.resume(&reading));
        }
    }

    /// Sends an event. The pipeline ends only with the process, when the event no longer matters.
    fn send_event(&self, event: Event) {
        if self.events.send(event).is_err() {
            debug!("the pipeline has ended already");
        }
    }
}
