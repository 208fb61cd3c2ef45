//! The consumer's thread. It owns the consumer, polls it always, also while partitions are paused, and never waits for
//! anything else: what it reads and what happens to it goes out as [`Event`]s, what it is to do comes in as [`Command`]s.

use std::collections::HashMap;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc::UnboundedSender;
use tracing::{debug, error, info, warn};

use super::assignment::{Assignment, Reader};
use super::context::{Context, Notice, log_failure, positions};
use super::headers;
use super::login::{self, Login};
use super::member::Member;
use super::partition::TopicPartition;
use super::settings;
use crate::config::Kafka;
use crate::raw::{Budget, MessageSet, RawMessage, Source};
use crate::telemetry;
use crate::telemetry::health::{Component, Health};
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics::{self, Step};

/// How long a poll waits for a message; also how late a command may be.
const POLL: Duration = Duration::from_millis(10);
/// How long a set waits to become full while messages keep coming.
const SET_LINGER: Duration = Duration::from_millis(20);
/// How often the consumer is asked for its position, for what holds no message.
const PASS_OVER_INTERVAL: Duration = Duration::from_millis(500);
/// How often offsets are committed to Kafka.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// How often the thread's processor time is measured.
const MEASURE_INTERVAL: Duration = Duration::from_millis(100);
/// How long the last commit and the farewell to the group may take each.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait before a consumer that failed for good is made anew.
const REBUILD_DELAY: Duration = Duration::from_secs(5);

/// An assignment of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Assigned {
    /// The topic and the partition's number.
    pub partition: TopicPartition,
    /// Which assignment of it this is; never used twice.
    pub epoch: u64,
}

/// The next messages of a partition, of the assignment with this epoch.
pub type Messages = (MessageSet, u64);

/// What happens to the thread's partitions. Messages come by a channel of their own: while these wait for the database, the
/// pipeline still hears of rebalances. Their epochs tell what belongs together.
#[derive(Debug)]
pub enum Event {
    /// These partitions are ours, and wait for a [`Command::Start`].
    Assigned {
        /// The new assignments.
        assigned: Vec<Assigned>,
        /// How many message sets were sent before: among them may be some of the same partitions.
        sets_before: u64,
    },
    /// These partitions are no longer ours.
    Revoked {
        /// The partitions; none if a member without partitions has lost its membership.
        partitions: Vec<TopicPartition>,
        /// Whether this worker is no longer a member of its group: nobody knows yet whether others have the partitions.
        lost: bool,
    },
    /// Some partition's position is no longer, or not yet, in Kafka's log; it is not read from until it is moved. With the
    /// position behind what was handed on of each partition that is read.
    OffsetsLost(Vec<(Assigned, Arc<Source>, i64)>),
    /// The group's farewell is done, or was given up.
    Stopped,
}

/// Where to read a partition from.
#[derive(Debug, Clone)]
pub struct Start {
    /// The assignment it is for; an older one is ignored.
    pub assigned: Assigned,
    /// The topic's identity, for the messages read.
    pub source: Arc<Source>,
    /// The first position to read.
    pub offset: i64,
    /// Every offset below it is applied; what lies between the two is on its way.
    pub next_offset: i64,
}

/// What the thread is told.
#[derive(Debug)]
pub enum Command {
    /// Join the consumer group: until then no partition is assigned.
    Join,
    /// Be this member of the group: the database turned out to be another one.
    Rename(Member),
    /// Read these partitions from these offsets; a partition that is read already is moved.
    Start(Vec<Start>),
    /// Stop reading these assignments; each comes back as a new [`Event::Assigned`].
    Restart(Vec<Assigned>),
    /// The database has everything of these assignments below these offsets.
    Commit(Vec<(Assigned, i64)>),
    /// Commit, leave the group, end.
    Stop,
}

/// The thread's other end.
#[derive(Debug, Clone)]
pub struct ConsumerHandle {
    commands: mpsc::Sender<Command>,
}

impl ConsumerHandle {
    /// Hands a command over; after the thread's end it goes nowhere.
    pub fn send(&self, command: Command) {
        if self.commands.send(command).is_err() {
            debug!("the consumer's thread has ended already");
        }
    }
}

/// Starts the thread.
///
/// # Errors
/// Where librdkafka refuses a property, or no thread can be started.
pub fn spawn(
    kafka: &Kafka,
    member: Member,
    budget: Budget,
    health: Arc<Health>,
    events: UnboundedSender<Event>,
    messages: UnboundedSender<Messages>,
) -> Result<ConsumerHandle, StartError> {
    let (sender, commands) = mpsc::channel();
    let consumer = build(kafka, &member)?;
    let thread = ConsumerThread {
        kafka: kafka.clone(),
        member,
        joined: false,
        consumer,
        assignment: Assignment::default(),
        last_epoch: 0,
        budget,
        health,
        events,
        messages,
        sets_sent: 0,
        commands,
        paused: false,
        commits: HashMap::new(),
        last_commit: Instant::now(),
        passed_over: Instant::now(),
        measured: Instant::now(),
        processor_time: Duration::ZERO,
        left_at: HashMap::new(),
        log: LogLimit::default(),
    };
    thread::Builder::new().name("kafka".into()).spawn(move || thread.run())?;
    Ok(ConsumerHandle { commands: sender })
}

/// Why the consumer cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// librdkafka's reason.
    #[error("librdkafka refuses the consumer: {0}")]
    Kafka(#[from] KafkaError),
    /// The operating system's reason.
    #[error("the consumer's thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

fn build(kafka: &Kafka, member: &Member) -> Result<BaseConsumer<Context>, KafkaError> {
    let mut properties = settings::consumer(kafka);
    if let Some(client_id) = member.client_id(kafka) {
        properties.set("client.id", client_id);
    }
    properties.create_with_context(Context::new(Login::new(kafka))).map_err(settings::without_value)
}

struct ConsumerThread {
    kafka: Kafka,
    member: Member,
    joined: bool,
    consumer: BaseConsumer<Context>,
    assignment: Assignment,
    last_epoch: u64,
    budget: Budget,
    health: Arc<Health>,
    events: UnboundedSender<Event>,
    messages: UnboundedSender<Messages>,
    sets_sent: u64,
    commands: mpsc::Receiver<Command>,
    paused: bool,
    commits: HashMap<TopicPartition, (u64, i64)>,
    last_commit: Instant,
    passed_over: Instant,
    measured: Instant,
    /// The thread's processor time when it was last measured.
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
                    Ok(Command::Rename(member)) => self.rename(member),
                    Ok(Command::Start(starts)) => self.start(starts),
                    Ok(Command::Restart(assigned)) => self.restart(&assigned),
                    Ok(Command::Commit(offsets)) => self.note_commits(offsets),
                    Ok(Command::Stop) | Err(mpsc::TryRecvError::Disconnected) => return self.close(),
                    Err(mpsc::TryRecvError::Empty) => break,
                }
            }
            let idle = self.poll();
            // Once for all: this is done for each message.
            let now = Instant::now();
            self.pass_over(now);
            self.hand_on(idle, now);
            self.pause_or_resume();
            self.measure(now);
            if now.saturating_duration_since(self.last_commit) >= COMMIT_INTERVAL {
                self.commit(CommitMode::Async);
                self.consumer.context().renew_credentials(&self.consumer);
            }
        }
    }

    /// Notes the processor time of this thread since it was last measured; most of the thread's time is waiting.
    fn measure(&mut self, now: Instant) {
        if now.saturating_duration_since(self.measured) < MEASURE_INTERVAL {
            return;
        }
        self.measured = now;
        let time = Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default();
        metrics::step_took(Step::Fetch, time.saturating_sub(self.processor_time));
        self.processor_time = time;
    }

    /// Polls once; whether nothing came.
    fn poll(&mut self) -> bool {
        let polled = self.consumer.poll(POLL);
        let idle = polled.is_none();
        let mut failed = false;
        match polled {
            None => {}
            Some(Ok(message)) => {
                if let Some((reader, epoch)) = take(&mut self.assignment, &message) {
                    hand_on(reader, epoch, &self.budget, &self.messages, &mut self.sets_sent);
                }
            }
            Some(Err(error)) => failed = self.complain(&error),
        }
        for notice in self.consumer.context().take() {
            match notice {
                Notice::Assigned(partitions) => self.assigned(&partitions),
                Notice::Revoked { partitions, left_at, lost } => {
                    self.left_at.extend(left_at);
                    self.revoked(partitions, lost);
                }
                Notice::SessionEnded => self.tell(Event::Revoked { partitions: Vec::new(), lost: true }),
                Notice::Committed => {}
            }
        }
        if failed {
            self.rebuild();
        }
        idle
    }

    /// Lets each partition reach up to the consumer's own position, now and then.
    fn pass_over(&mut self, now: Instant) {
        if now.saturating_duration_since(self.passed_over) < PASS_OVER_INTERVAL {
            return;
        }
        self.passed_over = now;
        for (TopicPartition { topic, number }, position) in positions(&self.consumer) {
            let owned = self.assignment.get(&topic, number);
            if let Some(reader) = owned.and_then(|owned| owned.reader.as_mut()) {
                reader.pass_over(position);
            }
        }
    }

    /// Handles an error of the consumer; whether it is the end of this consumer.
    fn complain(&mut self, error: &KafkaError) -> bool {
        match error {
            KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset) => {
                let reading = self
                    .assignment
                    .readers()
                    .map(|(epoch, reader)| {
                        let assigned = Assigned { partition: reader.partition(), epoch };
                        (assigned, Arc::clone(reader.source()), reader.position())
                    })
                    .collect();
                self.tell(Event::OffsetsLost(reading));
            }
            KafkaError::MessageConsumptionFatal(code) => {
                if let Some(unlogged) = self.log.happened("failed", 1) {
                    error!(%code, unlogged, "the consumer has failed for good; it is recreated");
                }
                self.note_refusal(*code);
                return true;
            }
            // The reason is logged once, when it begins: librdkafka repeats it at each attempt to join.
            KafkaError::MessageConsumption(code) if self.note_refusal(*code) => {}
            KafkaError::MessageConsumption(RDKafkaErrorCode::PollExceeded) => {
                warn!("this worker did not poll Kafka for max.poll.interval.ms and has left its group; it joins again");
                self.tell(Event::Revoked { partitions: Vec::new(), lost: true });
            }
            // librdkafka does not say of which partition. It stays where it is, and the others go on.
            KafkaError::MessageConsumption(
                code @ (RDKafkaErrorCode::BadMessage
                | RDKafkaErrorCode::BadCompression
                | RDKafkaErrorCode::NotImplemented),
            ) => {
                if let Some(unlogged) = self.log.happened("damaged", 1) {
                    error!(
                        %code,
                        unlogged,
                        "a message in Kafka's log is damaged, or unpacks to more than receive.message.max.bytes; its partition cannot \
                         be read past it"
                    )
                }
            }
            // Brokers come and go; librdkafka reconnects by itself, and lag tells whether it matters. The reason was logged by
            // the context, which is told more of it.
            other => debug!(error = %other, "reading from Kafka is disturbed"),
        }
        false
    }

    /// Notes why the group does not let this worker join; whether the error says that.
    fn note_refusal(&self, code: RDKafkaErrorCode) -> bool {
        let Some(reason) = login::group_refusal(code, &self.kafka) else { return false };
        // This one is not only about joining: librdkafka reports it of the question for the coordinator as well, and the member
        // keeps its partitions. If it loses them, a revocation says so.
        if code != RDKafkaErrorCode::GroupAuthorizationFailed || self.assignment.owned().is_empty() {
            self.health.note(|facts| facts.group.refuse(reason));
        }
        true
    }

    fn assigned(&mut self, partitions: &[TopicPartition]) {
        info!(partitions = named(partitions), "partitions assigned");
        metrics::rebalance();
        let assigned = partitions.iter().map(|partition| self.own(partition)).collect();
        self.tell(Event::Assigned { assigned, sets_before: self.sets_sent });
    }

    fn join(&mut self) {
        self.joined = true;
        log_failure("join", self.consumer.subscribe(&[&self.kafka.series_topic, &self.kafka.points_topic]));
    }

    fn own(&mut self, partition: &TopicPartition) -> Assigned {
        self.last_epoch += 1;
        self.assignment.insert(partition, self.last_epoch);
        Assigned { partition: partition.clone(), epoch: self.last_epoch }
    }

    /// What was read and not handed on yet is dropped: the next owner reads it.
    fn revoked(&mut self, partitions: Vec<TopicPartition>, lost: bool) {
        info!(partitions = named(&partitions), lost, "partitions revoked");
        for partition in &partitions {
            self.assignment.remove(partition);
            self.commits.remove(partition);
        }
        self.tell(Event::Revoked { partitions, lost });
    }

    fn start(&mut self, starts: Vec<Start>) {
        let mut fresh = TopicPartitionList::new();
        let mut moved = TopicPartitionList::new();
        self.left_at.extend(positions(&self.consumer));
        for Start { assigned: Assigned { partition, epoch }, source, offset, .. } in starts {
            let TopicPartition { topic, number } = &partition;
            let Some(owned) = self.assignment.get(topic, *number).filter(|owned| owned.epoch == epoch) else {
                continue;
            };
            let reader = Reader::new(source, *number, offset, self.left_at.get(&partition).copied());
            if let Some(mut before) = owned.reader.replace(reader) {
                moved.add_partition(topic, *number);
                hand_on(&mut before, epoch, &self.budget, &self.messages, &mut self.sets_sent);
            }
            log_failure("set an offset", fresh.add_partition_offset(topic, *number, Offset::Offset(offset)));
        }
        if moved.count() > 0 {
            log_failure("move partitions", self.consumer.incremental_unassign(&moved));
        }
        if fresh.count() == 0 {
            return;
        }
        log_failure("start partitions", self.consumer.incremental_assign(&fresh));
        if self.paused {
            log_failure("pause new partitions", self.consumer.pause(&fresh));
        }
    }

    fn restart(&mut self, assignments: &[Assigned]) {
        let mut reading = TopicPartitionList::new();
        let mut again = Vec::new();
        self.left_at.extend(positions(&self.consumer));
        for Assigned { partition, epoch } in assignments {
            let TopicPartition { topic, number } = partition;
            let Some(owned) = self.assignment.get(topic, *number).filter(|owned| owned.epoch == *epoch) else {
                continue;
            };
            if let Some(mut before) = owned.reader.take() {
                reading.add_partition(topic, *number);
                hand_on(&mut before, *epoch, &self.budget, &self.messages, &mut self.sets_sent);
            }
            again.push(self.own(partition));
        }
        if reading.count() > 0 {
            log_failure("stop partitions", self.consumer.incremental_unassign(&reading));
        }
        if !again.is_empty() {
            self.tell(Event::Assigned { assigned: again, sets_before: self.sets_sent });
        }
    }

    /// Hands on the sets that have waited long enough: all of them where nothing more comes.
    fn hand_on(&mut self, idle: bool, now: Instant) {
        for (epoch, reader) in self.assignment.readers() {
            let due =
                reader.waiting_since().is_some_and(|since| idle || now.saturating_duration_since(since) >= SET_LINGER);
            if due {
                hand_on(reader, epoch, &self.budget, &self.messages, &mut self.sets_sent);
            }
        }
    }

    fn pause_or_resume(&mut self) {
        let change = if self.paused { self.budget.has_room() } else { self.budget.is_full() };
        if !change {
            return;
        }
        let mut reading = TopicPartitionList::new();
        for (_, reader) in self.assignment.readers() {
            let TopicPartition { topic, number } = reader.partition();
            reading.add_partition(&topic, number);
        }
        self.paused = !self.paused;
        debug!(paused = self.paused, buffered = self.budget.used(), "memory budget");
        if self.paused {
            log_failure("pause", self.consumer.pause(&reading));
        } else {
            log_failure("resume", self.consumer.resume(&reading));
        }
    }

    fn note_commits(&mut self, offsets: Vec<(Assigned, i64)>) {
        for (Assigned { partition, epoch }, offset) in offsets {
            self.commits.insert(partition, (epoch, offset));
        }
    }

    /// Commits the noted offsets of partitions that are still ours.
    fn commit(&mut self, mode: CommitMode) {
        self.last_commit = Instant::now();
        let mut list = TopicPartitionList::new();
        for (TopicPartition { topic, number }, (epoch, offset)) in self.commits.drain() {
            if self.assignment.get(&topic, number).is_some_and(|owned| owned.epoch == epoch) {
                log_failure("note a commit", list.add_partition_offset(&topic, number, Offset::Offset(offset)));
            }
        }
        if list.count() > 0
            && let Err(error) = self.consumer.commit(&list, mode)
        {
            debug!(%error, "offsets were not committed to Kafka");
        }
    }

    /// A consumer that failed for good is replaced; all its partitions are lost.
    fn rebuild(&mut self) {
        self.lose_all();
        loop {
            thread::sleep(REBUILD_DELAY);
            self.health.beat(Component::Consumer);
            match build(&self.kafka, &self.member) {
                Ok(consumer) => return self.replace(consumer),
                Err(error) => {
                    if let Some(unlogged) = self.log.happened("not-recreated", 1) {
                        error!(%error, unlogged, "the consumer cannot be recreated; trying again");
                    }
                }
            }
        }
    }

    /// A client id cannot be changed: another consumer takes the place of this one.
    fn rename(&mut self, member: Member) {
        match build(&self.kafka, &member) {
            Ok(consumer) => {
                info!(%member, "joining the consumer group again, by another client id");
                self.member = member;
                self.commit(CommitMode::Async);
                self.lose_all();
                self.replace(consumer);
            }
            Err(error) => warn!(%error, "the consumer cannot be recreated; it keeps its client id"),
        }
    }

    fn lose_all(&mut self) {
        let owned = self.assignment.owned();
        self.revoked(owned, true);
        self.paused = false;
        self.left_at.clear();
    }

    fn replace(&mut self, consumer: BaseConsumer<Context>) {
        let before = std::mem::replace(&mut self.consumer, consumer);
        if self.joined {
            self.join();
        }
        // Destroying a consumer waits for its brokers without a limit: not on the thread that must poll.
        if let Err(error) = thread::Builder::new().name("kafka-end".into()).spawn(move || drop(before)) {
            error!(%error, "the consumer before cannot be ended on a thread of its own");
        }
    }

    /// Commits, leaves the group and ends. Leaving matters to the others, who get our partitions at once; it is given up
    /// when it takes too long.
    fn close(mut self) {
        let committing = !self.commits.is_empty();
        self.commit(CommitMode::Async);
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        while committing && Instant::now() < deadline {
            drop(self.consumer.poll(POLL));
            if self.consumer.context().take().iter().any(|notice| matches!(notice, Notice::Committed)) {
                break;
            }
        }
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        match self.consumer.close_queue() {
            Ok(()) => {
                while !self.consumer.closed() && Instant::now() < deadline {
                    drop(self.consumer.poll(POLL));
                }
            }
            Err(error) => warn!(%error, "leaving the consumer group failed"),
        }
        if !self.consumer.closed() {
            warn!("leaving the consumer group took too long and was given up");
        }
        self.tell(Event::Stopped);
        // Destroying a consumer waits for its brokers without a limit, and the process ends anyway.
        std::mem::forget(self.consumer);
    }

    fn tell(&self, event: Event) {
        send(&self.events, event);
    }
}

/// The pipeline goes away only at the end of the process, when nobody needs what is sent.
fn send<T>(channel: &UnboundedSender<T>, what: T) {
    if channel.send(what).is_err() {
        debug!("the pipeline has ended already");
    }
}

/// Adds a message to its partition's set; the reader where the set is now full.
fn take<'a>(assignment: &'a mut Assignment, message: &BorrowedMessage<'_>) -> Option<(&'a mut Reader, u64)> {
    let owned = assignment.get(message.topic(), message.partition())?;
    let epoch = owned.epoch;
    let reader = owned.reader.as_mut()?;
    let headers = headers::of(message);
    let raw = RawMessage {
        offset: message.offset(),
        time_ms: message.timestamp().to_millis(),
        key: message.key(),
        payload: message.payload(),
        headers: headers.as_deref(),
    };
    match reader.push(&raw) {
        None => {
            debug!(topic = message.topic(), partition = message.partition(), offset = raw.offset, "read twice");
            None
        }
        Some(false) => None,
        Some(true) => Some((reader, epoch)),
    }
}

/// Sends what a reader holds, if it holds anything.
fn hand_on(
    reader: &mut Reader,
    epoch: u64,
    budget: &Budget,
    messages: &UnboundedSender<Messages>,
    sets_sent: &mut u64,
) {
    if let Some(set) = reader.take(budget) {
        *sets_sent += 1;
        send(messages, (set, epoch));
    }
}

/// Partitions as they stand in a log line.
fn named(partitions: &[TopicPartition]) -> String {
    telemetry::partitions(partitions.iter().map(|partition| (partition.topic.as_str(), partition.number)))
}
