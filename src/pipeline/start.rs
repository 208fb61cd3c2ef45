//! The start of a partition: at the database's progress, or at the log's start if it was never read or if Kafka no longer has
//! what comes next. What Kafka no longer has is recorded as a gap first.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};
use tokio::task::JoinError;
use tracing::{error, info, warn};

use super::new_cluster::{log_move, refused_move};
use super::partitions::{InFlightPartitions, first_beyond};
use super::start_topics::{Found, Topic, Topics, log_starts};
use crate::config::{Kafka, NewCluster, StartAt};
use crate::database::{self, Acceptance, Class, Database, Elsewhere};
use crate::input::Inputs;
use crate::journal::JournalHandle;
use crate::kafka::events::{Assigned, ReadPosition, Start};
use crate::kafka::lookup::Lookup;
use crate::kafka::partition::{LogRange, TopicPartition};

use crate::raw::{Partition, Source, holes};
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics;

/// The reason of a gap whose messages were deleted before they were read.
const RETENTION: &str = "retention";
/// Maximum number of topics that are requested from the database at the same time.
const MOST_AT_ONCE: usize = 4;
/// The state of partitions that cannot start, in the log.
const NOT_STARTED: &str = "start";

/// Finds the starts of partitions; each call is one attempt.
#[derive(Debug, Clone)]
pub(super) struct Starter {
    pub(super) kafka: Kafka,
    pub(super) inputs: Inputs,
    pub(super) lookup: Arc<Lookup>,
    pub(super) database: Database,
    pub(super) journal: JournalHandle,
    /// `true` if messages go to the journal, so that partitions start without the database.
    pub(super) journaling: bool,
    pub(super) log: LogLimit,
}

/// The result of an attempt.
#[derive(Debug, Default)]
pub(super) struct Resolution {
    /// Partitions that can be read now.
    pub(super) starts: Vec<Start>,
    /// Offsets to commit to Kafka, so that the next member of the group starts no later.
    pub(super) commits: Vec<(Assigned, i64)>,
    /// Partitions that must be resolved again.
    pub(super) restarts: Vec<Assigned>,
    /// The ranges of their logs.
    pub(super) log_ranges: HashMap<TopicPartition, LogRange>,
    /// `true` if the attempt was about lost offsets.
    pub(super) found_lost: bool,
    /// The reason why some partitions cannot be read yet.
    pub(super) problem: Option<String>,
    /// The acceptance of the sources, as the database has it.
    pub(super) acceptance: Vec<(Arc<Source>, Acceptance)>,
}

#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("Kafka does not say where the topics are: {0}")]
    Kafka(#[from] crate::kafka::Error),
    #[error("the progress cannot be read: {0}")]
    Database(#[from] database::Error),
    #[error("a question ended by an internal error: {0}")]
    Task(#[from] JoinError),
    #[error("{0}")]
    Wait(String),
}

impl Starter {
    /// Finds the starts of new assignments.
    pub(super) async fn resolve(self, assigned: Vec<Assigned>, mut in_flight: InFlightPartitions) -> Resolution {
        let mut resolution = Resolution::default();
        self.add_journaled(&mut in_flight).await;
        let partitions: Vec<TopicPartition> = assigned.iter().map(|one| one.partition.clone()).collect();
        let topics = match self.ask_kafka(partitions).await {
            Ok(topics) => topics,
            Err(failure) => return self.with_problem(resolution, &failure),
        };
        let mut by_topic: HashMap<&str, Vec<&Assigned>> = HashMap::new();
        for one in &assigned {
            by_topic.entry(&one.partition.topic).or_default().push(one);
        }
        let mut searches = Vec::new();
        for (topic, assigned) in by_topic {
            searches.push(self.starts_of_topic(topic, assigned, &topics, &in_flight));
        }
        let mut problems = Vec::new();
        let mut searches = stream::iter(searches).buffer_unordered(MOST_AT_ONCE);
        while let Some((found, problem)) = searches.next().await {
            resolution.starts.extend(found.starts);
            resolution.commits.extend(found.commits);
            resolution.acceptance.extend(found.acceptance);
            problems.extend(problem);
        }
        drop(searches);
        match problems.split_first() {
            None => self.log_started(),
            Some((problem, [])) => resolution = self.with_problem(resolution, problem),
            Some((problem, others)) => {
                let text = format!("{problem} (and {} other topics)", others.len());
                resolution = self.with_problem(resolution, &StartError::Wait(text));
            }
        }
        resolution.log_ranges = topics.ranges;
        log_starts(&resolution.starts, &resolution.log_ranges);
        resolution
    }

    /// Adds all that is in the journal, including what was known to be in the database: the database may have been restored
    /// since, and a gap must not name anything that the next survey finds here.
    async fn add_journaled(&self, in_flight: &mut InFlightPartitions) {
        for record in self.journal.records().await.into_iter().flatten() {
            in_flight.entry(record.partition.clone()).or_default().push((record.from, record.until));
        }
        for spans in in_flight.values_mut() {
            spans.sort_unstable();
        }
    }

    /// Finds which of the partitions being read have lost their position, and where they continue.
    pub(super) async fn find_lost(self, reading: Vec<ReadPosition>) -> Resolution {
        let mut resolution = Resolution { found_lost: true, ..Resolution::default() };
        let partitions: Vec<TopicPartition> = reading.iter().map(|read| read.assigned.partition.clone()).collect();
        let topics = match self.ask_kafka(partitions).await {
            Ok(topics) => topics,
            Err(failure) => {
                // The event is not repeated: all partitions are resolved again when Kafka answers.
                resolution.restarts = reading.into_iter().map(|read| read.assigned).collect();
                return self.with_problem(resolution, &failure);
            }
        };
        let mut journaled = InFlightPartitions::new();
        self.add_journaled(&mut journaled).await;
        for ReadPosition { assigned, source, offset: position } in reading {
            let was_recreated = source.was_recreated(topics.ids.get(&source.topic).map(String::as_str));
            match topics.ranges.get(&assigned.partition) {
                // The event was about another partition, or one that can be read again; if not, the loop finds it stuck.
                Some(range) if !was_recreated && (range.start..=range.end).contains(&position) => {}
                // The position is the consumer's: what it has handed on is below it, and is claimed by its own batch.
                Some(range) if !was_recreated && position < range.start => {
                    let number = assigned.partition.number;
                    let spans =
                        journaled.get(&Partition::new(Arc::clone(&source), number)).map_or(&[][..], Vec::as_slice);
                    match self.record_gaps(&source, number, holes(position, range.start, spans)).await {
                        Ok(()) => resolution.starts.push(Start {
                            assigned,
                            source,
                            offset: range.start,
                            next_offset: position,
                        }),
                        Err(failure) => {
                            resolution.restarts.push(assigned);
                            resolution = self.with_problem(resolution, &failure);
                        }
                    }
                }
                _ => resolution.restarts.push(assigned),
            }
        }
        resolution
    }

    fn with_problem(&self, mut resolution: Resolution, problem: &StartError) -> Resolution {
        let problem = problem.to_string();
        if let Some(repeated) = self.log.lasts(NOT_STARTED, &problem) {
            let (seconds, unlogged) = (repeated.seconds, repeated.unlogged);
            warn!(problem, seconds, unlogged, "partitions cannot start yet; trying again");
        }
        resolution.problem = Some(problem);
        resolution
    }

    /// Logs that partitions are started again.
    fn log_started(&self) {
        if let Some(ended) = self.log.ends(NOT_STARTED) {
            info!(seconds = ended.seconds, "all partitions have started");
        }
    }

    async fn ask_kafka(&self, partitions: Vec<TopicPartition>) -> Result<Topics, StartError> {
        let lookup = Arc::clone(&self.lookup);
        let topics = tokio::task::spawn_blocking(move || Topics::ask(&lookup, partitions)).await??;
        // Another id is another source, which would be read again from its start: no id is better than an empty one.
        topics.ok_or_else(|| StartError::Wait("the brokers do not give the cluster's id".to_owned()))
    }

    fn source(&self, topic: &str, topics: &Topics) -> Source {
        let topic_id = topics.ids.get(topic).cloned().unwrap_or_default();
        if topic_id.is_empty() && self.log.happened("no-topic-id", 1).is_some() {
            warn!(
                topic,
                "the broker gives topics no id: a topic deleted and recreated cannot be distinguished from the old one"
            );
        }
        Source {
            kind: self.inputs.kind_of(topic),
            cluster_id: topics.cluster_id.clone(),
            topic: topic.to_owned(),
            topic_id,
        }
    }

    /// Finds the starts of a topic's partitions, and the reason why one of them cannot start yet, if any.
    async fn starts_of_topic(
        &self,
        topic: &str,
        assigned: Vec<&Assigned>,
        kafka: &Topics,
        in_flight: &InFlightPartitions,
    ) -> (Found, Option<StartError>) {
        let mut found = Found::default();
        if let Some(failure) = kafka.failures.get(topic) {
            return (found, Some(StartError::Wait(format!("topic {topic} cannot be read: {failure}"))));
        }
        let source = Arc::new(self.source(topic, kafka));
        let topic = Topic { source: &source, kafka, in_flight };
        let result = self.starts_of(&topic, &assigned, &mut found).await;
        (found, result.unwrap_or_else(Some))
    }

    /// Finds the starts of a topic's partitions. Returns the reason why one of them cannot start yet, if any.
    async fn starts_of(
        &self,
        topic: &Topic<'_>,
        assigned: &[&Assigned],
        found: &mut Found,
    ) -> Result<Option<StartError>, StartError> {
        let mut problem = None;
        let mut with_range: Vec<(&Assigned, LogRange)> = Vec::new();
        for one in assigned {
            match topic.kafka.ranges.get(&one.partition) {
                Some(range) => with_range.push((one, *range)),
                None => problem = Some(wait(one, "its leader does not say which offsets its log has")),
            }
        }
        let moved = self.moved(topic.source, &with_range).await?;
        with_range.retain(|(one, _)| {
            let Some(elsewhere) = moved.get(&one.partition.number) else { return true };
            if let Some(why) = refused_move(self.kafka.new_cluster, elsewhere, topic.group_offset(one)) {
                problem = Some(wait(one, &why));
                return false;
            }
            log_move(self.kafka.new_cluster, elsewhere, topic.group_offset(one));
            true
        });
        let firsts = self.first_offsets(topic, &with_range, &moved);
        let next_offsets = self.next_offsets(topic, &with_range, &firsts, found).await?;
        for (one, range) in with_range {
            let next = next_offsets.get(&one.partition.number).copied();
            match self.start_at(topic, one, range, next).await {
                Ok(start) => found.starts.push(start),
                Err(failure) => problem = Some(failure),
            }
        }
        Ok(problem)
    }

    /// Returns the offset at which each partition starts if the database has no progress of it. Messages that were journaled
    /// before it had progress must be written, too: this worker knows the offsets in its own journal, and the group's offset
    /// bounds those of another worker's.
    fn first_offsets(
        &self,
        topic: &Topic<'_>,
        assigned: &[(&Assigned, LogRange)],
        moved: &HashMap<i32, Elsewhere>,
    ) -> Vec<(i32, i64)> {
        let first_offset = |(one, range): &(&Assigned, LogRange)| {
            let number = one.partition.number;
            let committed = topic.group_offset(one);
            let is_synced = self.kafka.new_cluster == NewCluster::GroupOffsets && moved.contains_key(&number);
            let first = match (self.kafka.start, committed) {
                (_, Some(offset)) if is_synced => offset,
                (StartAt::Earliest, _) => range.start,
                (StartAt::Latest, _) => range.end,
            };
            let journaled = topic.in_flight(number).and_then(|spans| spans.first()).map(|(from, _)| *from);
            (number, [journaled, committed].into_iter().flatten().fold(first, i64::min))
        };
        assigned.iter().map(first_offset).collect()
    }

    /// Returns the next offset of each partition: the database's, or the group's if the database is away and messages go to the
    /// journal.
    async fn next_offsets(
        &self,
        topic: &Topic<'_>,
        assigned: &[(&Assigned, LogRange)],
        firsts: &[(i32, i64)],
        found: &mut Found,
    ) -> Result<HashMap<i32, i64>, StartError> {
        let failure = match self.database.start(topic.source, firsts).await {
            Err(failure) if self.journaling && failure.class() != Class::Data => failure,
            started => {
                let started = started?;
                found.acceptance = Some((Arc::clone(topic.source), started.acceptance));
                return Ok(started.next_offsets);
            }
        };
        if let Some(unlogged) = self.log.happened("start-without-database", 1) {
            warn!(
                %failure, topic = topic.source.topic, unlogged,
                "the database is away: the partitions start where Kafka has the group"
            );
        }
        let mut next_offsets = HashMap::new();
        for ((one, _), (number, first)) in assigned.iter().zip(firsts) {
            let committed = topic.group_offset(one);
            if committed.is_none() {
                found.commits.push(((*one).clone(), *first));
            }
            next_offsets.insert(*number, committed.unwrap_or(*first));
        }
        Ok(next_offsets)
    }

    /// Returns the offset from which a partition is read, given its next offset. Records what Kafka no longer has as gaps.
    async fn start_at(
        &self,
        topic: &Topic<'_>,
        assigned: &Assigned,
        range: LogRange,
        next: Option<i64>,
    ) -> Result<Start, StartError> {
        let source = topic.source;
        let number = assigned.partition.number;
        let spans = topic.in_flight(number);
        let next = next.ok_or_else(|| wait(assigned, "the database has no progress of it"))?;
        // What was read or journaled before, and is still in flight, is not read again.
        let mut offset = first_beyond(next, spans);
        if offset < range.start && !self.journaling {
            let lost = holes(next, range.start, spans.map_or(&[], Vec::as_slice));
            self.record_gaps(source, number, lost).await?;
            offset = first_beyond(range.start, spans);
        }
        // The database records the gap when it is available again: its progress is then below the offset read from now.
        offset = if self.journaling { offset.max(range.start) } else { offset };
        if offset > range.end {
            let state = format!("log-end {} {number}", source.topic);
            if self.log.lasts(&state, "").is_some() {
                error!(
                    topic = source.topic,
                    partition = number,
                    next_offset = offset,
                    log_end = range.end,
                    "the database's progress lies beyond the log's end: Kafka has lost messages that were read. The \
                     partition waits; `series-ingest progress reset` moves its progress"
                );
            }
            return Err(wait(assigned, "its progress lies beyond the end of its log"));
        }
        Ok(Start { assigned: assigned.clone(), source: Arc::clone(source), offset, next_offset: next })
    }

    /// Returns the progress of the partitions that the pipeline has read in another cluster only.
    async fn moved(
        &self,
        source: &Arc<Source>,
        assigned: &[(&Assigned, LogRange)],
    ) -> Result<HashMap<i32, Elsewhere>, StartError> {
        let numbers: Vec<i32> = assigned.iter().map(|(one, _)| one.partition.number).collect();
        match self.database.progress_elsewhere(source, &numbers).await {
            // Their progress is read when the database is available again, before anything that is journaled now is written.
            Err(failure) if self.journaling && failure.class() != Class::Data => Ok(HashMap::new()),
            found => Ok(found?.into_iter().map(|elsewhere| (elsewhere.partition, elsewhere)).collect()),
        }
    }

    async fn record_gaps(&self, source: &Arc<Source>, partition: i32, lost: Vec<(i64, i64)>) -> Result<(), StartError> {
        for interval in lost {
            for (from, until) in self.database.record_gap(source, partition, interval, RETENTION).await? {
                metrics::gap();
                error!(
                    topic = source.topic,
                    partition,
                    from,
                    until,
                    "Kafka deleted messages before they were read; they are recorded in ingest_gap"
                );
            }
        }
        Ok(())
    }
}

fn wait(assigned: &Assigned, why: &str) -> StartError {
    let TopicPartition { topic, number } = &assigned.partition;
    StartError::Wait(format!("partition {number} of {topic} waits: {why}"))
}
