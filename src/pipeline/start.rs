//! Where a partition starts: at the database's progress, and at the log's start where it was never read or where Kafka no
//! longer has what comes next. What Kafka no longer has is recorded as a gap first.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::task::JoinError;
use tracing::{error, info, warn};

use super::partitions::{InFlightPartitions, first_beyond};
use crate::config::{Kafka, NewCluster, StartAt};
use crate::database::{self, Class, Database, Elsewhere, NO_ISLANDS};
use crate::journal::JournalHandle;
use crate::kafka::events::{Assigned, Start};
use crate::kafka::lookup::Lookup;
use crate::kafka::partition::{LogRange, TopicPartition};
use crate::raw::Kind;
use crate::raw::{Partition, Source, holes};
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics;

/// The reason of a gap whose messages were deleted before they were read.
const RETENTION: &str = "retention";
/// The state of partitions that cannot start, in the log.
const NOT_STARTED: &str = "start";

/// Asks for starts; each question is one attempt.
#[derive(Debug, Clone)]
pub(super) struct Starter {
    pub(super) kafka: Kafka,
    pub(super) lookup: Arc<Lookup>,
    pub(super) database: Database,
    pub(super) journal: Option<JournalHandle>,
    /// Whether messages go to the journal, so that partitions start without the database.
    pub(super) journaling: bool,
    pub(super) log: LogLimit,
}

/// What an attempt has found.
#[derive(Debug, Default)]
pub(super) struct Resolution {
    /// Partitions that can be read now.
    pub(super) starts: Vec<Start>,
    /// Offsets to commit to Kafka, so that whoever comes next starts no later.
    pub(super) commits: Vec<(Assigned, i64)>,
    /// Partitions that must be resolved anew.
    pub(super) restarts: Vec<Assigned>,
    /// What their logs have.
    pub(super) log_ranges: HashMap<TopicPartition, LogRange>,
    /// Whether it is the answer to lost offsets.
    pub(super) found_lost: bool,
    /// Why some partitions cannot be read yet.
    pub(super) problem: Option<String>,
}

#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("Kafka does not say where the topics are: {0}")]
    Kafka(#[from] crate::kafka::Error),
    #[error("the progress cannot be read: {0}")]
    Database(#[from] database::Error),
    #[error("a question ended by a fault of ours: {0}")]
    Task(#[from] JoinError),
    #[error("{0}")]
    Wait(String),
}

/// What Kafka says of the topics.
struct Topics {
    cluster_id: String,
    ids: HashMap<String, String>,
    ranges: HashMap<TopicPartition, LogRange>,
    /// The group's offsets: never above what the database has.
    committed: HashMap<TopicPartition, i64>,
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
        for (topic, assigned) in by_topic {
            let source = Arc::new(self.source(topic, &topics));
            match self.starts_of(&source, &assigned, &topics, &in_flight, &mut resolution).await {
                Ok(None) => {}
                Ok(Some(problem)) | Err(problem) => resolution = self.with_problem(resolution, &problem),
            }
        }
        resolution.log_ranges = topics.ranges;
        if resolution.problem.is_none() {
            self.log_started();
        }
        resolution
    }

    /// Adds all that the journal has, also what was known to be in the database: it may have been restored since, and a gap
    /// must name nothing that the next survey finds here.
    async fn add_journaled(&self, in_flight: &mut InFlightPartitions) {
        let Some(journal) = &self.journal else { return };
        for record in journal.records().await.into_iter().flatten() {
            in_flight.entry(record.partition.clone()).or_default().push((record.from, record.until));
        }
        for spans in in_flight.values_mut() {
            spans.sort_unstable();
        }
    }

    /// Finds out which of the partitions that are read have lost their position, and where they go on.
    pub(super) async fn find_lost(self, reading: Vec<(Assigned, Arc<Source>, i64)>) -> Resolution {
        let mut resolution = Resolution { found_lost: true, ..Resolution::default() };
        let partitions: Vec<TopicPartition> = reading.iter().map(|(one, ..)| one.partition.clone()).collect();
        let topics = match self.ask_kafka(partitions).await {
            Ok(topics) => topics,
            Err(failure) => {
                // The event does not come again: all partitions are resolved anew when Kafka answers.
                resolution.restarts = reading.into_iter().map(|(one, ..)| one).collect();
                return self.with_problem(resolution, &failure);
            }
        };
        let mut journaled = InFlightPartitions::new();
        self.add_journaled(&mut journaled).await;
        for (assigned, source, position) in reading {
            let made_anew = topics.ids.get(&source.topic).is_some_and(|id| *id != source.topic_id);
            match topics.ranges.get(&assigned.partition) {
                // Another partition's event, or one that is well again; were it not, the loop would find it stuck.
                Some(range) if !made_anew && (range.start..=range.end).contains(&position) => {}
                // The position is the consumer's own: what it has handed on lies below, and is claimed by its own batch.
                Some(range) if !made_anew && position < range.start => {
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

    /// Logs that partitions start again.
    fn log_started(&self) {
        if let Some(ended) = self.log.ends(NOT_STARTED) {
            info!(seconds = ended.seconds, "all partitions have started");
        }
    }

    async fn ask_kafka(&self, partitions: Vec<TopicPartition>) -> Result<Topics, StartError> {
        let lookup = Arc::clone(&self.lookup);
        let topics = tokio::task::spawn_blocking(move || -> Result<Option<Topics>, crate::kafka::Error> {
            let mut names: Vec<&str> = partitions.iter().map(|one| one.topic.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            let described = lookup.topics(&names)?;
            let ids = described.into_iter().map(|topic| (topic.name, topic.id.unwrap_or_default())).collect();
            let ranges = lookup.log_ranges(&partitions)?;
            let committed = lookup.committed(&partitions)?;
            Ok(lookup.cluster_id().map(|cluster_id| Topics { cluster_id, ids, ranges, committed }))
        });
        // Another id is another source, of which all would be read again: none is better than an empty one.
        topics.await??.ok_or_else(|| StartError::Wait("the brokers do not give the cluster's id".to_owned()))
    }

    fn source(&self, topic: &str, topics: &Topics) -> Source {
        let topic_id = topics.ids.get(topic).cloned().unwrap_or_default();
        if topic_id.is_empty() && self.log.happened("no-topic-id", 1).is_some() {
            warn!(
                topic,
                "the broker gives topics no id: a topic deleted and recreated cannot be told from the old one"
            );
        }
        Source {
            kind: if topic == self.kafka.series_topic { Kind::Series } else { Kind::Points },
            cluster_id: topics.cluster_id.clone(),
            topic: topic.to_owned(),
            topic_id,
        }
    }

    async fn starts_of(
        &self,
        source: &Arc<Source>,
        assigned: &[&Assigned],
        topics: &Topics,
        in_flight: &InFlightPartitions,
        resolution: &mut Resolution,
    ) -> Result<Option<StartError>, StartError> {
        let mut problem = None;
        let mut with_range: Vec<(&Assigned, LogRange)> = Vec::new();
        for one in assigned {
            match topics.ranges.get(&one.partition) {
                Some(range) => with_range.push((one, *range)),
                None => problem = Some(wait(one, "its leader does not say which offsets its log has")),
            }
        }
        let moved = self.moved(source, &with_range).await?;
        let group_offset = |one: &Assigned| topics.committed.get(&one.partition).copied();
        with_range.retain(|(one, _)| {
            let Some(elsewhere) = moved.get(&one.partition.number) else { return true };
            if let Some(why) = refused_move(self.kafka.new_cluster, elsewhere, group_offset(one)) {
                problem = Some(wait(one, &why));
                return false;
            }
            log_move(self.kafka.new_cluster, elsewhere, group_offset(one));
            true
        });
        let spans = |number: i32| in_flight.get(&Partition::new(Arc::clone(source), number));
        let committed = |one: &Assigned| topics.committed.get(&one.partition).copied();
        // Where a partition starts of which the database knows nothing. What was journaled of it before it had progress is to
        // be written, too: this worker knows its own journal's, and of another's the group's offset tells the begin.
        let firsts: Vec<(i32, i64)> = with_range
            .iter()
            .map(|(one, range)| {
                let is_synced =
                    self.kafka.new_cluster == NewCluster::GroupOffsets && moved.contains_key(&one.partition.number);
                let first = match (self.kafka.start, committed(one)) {
                    (_, Some(offset)) if is_synced => offset,
                    (StartAt::Earliest, _) => range.start,
                    (StartAt::Latest, _) => range.end,
                };
                let journaled = spans(one.partition.number).and_then(|spans| spans.first()).map(|(from, _)| *from);
                let first = [journaled, committed(one)].into_iter().flatten().fold(first, i64::min);
                (one.partition.number, first)
            })
            .collect();
        let next_offsets = match self.database.start(source, &firsts).await {
            Err(failure) if self.journaling && failure.class() != Class::Data => {
                if let Some(unlogged) = self.log.happened("start-without-database", 1) {
                    warn!(
                        %failure, topic = source.topic, unlogged,
                        "the database is away: the partitions start where Kafka has the group"
                    );
                }
                let without = with_range.iter().zip(&firsts).filter(|((one, _), _)| committed(one).is_none());
                resolution.commits.extend(without.map(|((one, _), (_, first))| ((*one).clone(), *first)));
                with_range
                    .iter()
                    .zip(&firsts)
                    .map(|((one, _), (number, first))| (*number, committed(one).unwrap_or(*first)))
                    .collect()
            }
            next_offsets => next_offsets?,
        };
        for (one, range) in with_range {
            let number = one.partition.number;
            let Some(&next) = next_offsets.get(&number) else {
                problem = Some(wait(one, "the database has no progress of it"));
                continue;
            };
            // What was read or journaled before, and is still on its way, need not be read again.
            let mut offset = first_beyond(next, spans(number));
            if offset < range.start && !self.journaling {
                let lost = holes(next, range.start, spans(number).map_or(&[], Vec::as_slice));
                if let Err(failure) = self.record_gaps(source, number, lost).await {
                    problem = Some(failure);
                    continue;
                }
                offset = first_beyond(range.start, spans(number));
            }
            // A gap is for the database to record, when it is back: its progress then lies before what is read now.
            offset = if self.journaling { offset.max(range.start) } else { offset };
            if offset > range.end {
                let state = format!("log-end {} {number}", source.topic);
                if self.log.lasts(&state, "").is_some() {
                    error!(
                        topic = source.topic,
                        partition = number,
                        next_offset = offset,
                        log_end = range.end,
                        "the database's progress lies behind the log's end: Kafka has lost messages that were read. The \
                     partition waits; `series-ingest progress reset` moves its progress"
                    );
                }
                problem = Some(wait(one, "its progress lies behind the end of its log"));
                continue;
            }
            info!(topic = source.topic, partition = number, offset, log_end = range.end, "partition starts");
            resolution.starts.push(Start {
                assigned: one.clone(),
                source: Arc::clone(source),
                offset,
                next_offset: next,
            });
        }
        Ok(problem)
    }

    /// The progress elsewhere of partitions that the pipeline has read in another cluster only.
    async fn moved(
        &self,
        source: &Arc<Source>,
        assigned: &[(&Assigned, LogRange)],
    ) -> Result<HashMap<i32, Elsewhere>, StartError> {
        let numbers: Vec<i32> = assigned.iter().map(|(one, _)| one.partition.number).collect();
        match self.database.progress_elsewhere(source, &numbers).await {
            // Their progress is asked for when the database is back, before anything that is journaled now is written.
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

/// Why a partition that the pipeline has read in another cluster does not start in this one, where the group has this offset
/// of it; `None` if it starts.
pub(crate) fn refused_move(rule: NewCluster, elsewhere: &Elsewhere, group_offset: Option<i64>) -> Option<String> {
    let Elsewhere { cluster_id, source_id, next_offset, ahead, .. } = elsewhere;
    let found = format!(
        "the pipeline has progress of it in another cluster ({cluster_id}, source {source_id}, next offset {next_offset}), \
         and none in this one"
    );
    match (rule, group_offset) {
        (NewCluster::GroupOffsets, Some(_)) if ahead != NO_ISLANDS => Some(format!(
            "{found}; {}. Run a worker on the other cluster until they are part of next_offset, or run `series-ingest progress \
             adopt --source {source_id} --group-offsets --accept-duplicates`",
            islands_elsewhere(ahead)
        )),
        (NewCluster::Start, _) | (NewCluster::GroupOffsets, Some(_)) => None,
        (NewCluster::GroupOffsets, None) => Some(format!(
            "{found}; the group has no offset of it here: sync the group's offsets, or run `series-ingest progress adopt \
             --source {source_id} --offsets …`"
        )),
        (NewCluster::Stop, _) => Some(format!(
            "{found}. If this cluster mirrors the other one, run `series-ingest progress adopt --source {source_id} \
             --group-offsets` or `--offsets …`; if it has other messages, set kafka.new_cluster = \"start\""
        )),
    }
}

/// What the islands of another cluster's progress mean for a partition that goes on here.
pub(crate) fn islands_elsewhere(ahead: &str) -> String {
    format!("offsets {ahead} above its next offset are applied there, and would be written again here")
}

/// Logs a start in another cluster than before.
fn log_move(rule: NewCluster, elsewhere: &Elsewhere, group_offset: Option<i64>) {
    let Elsewhere { partition, cluster_id, source_id, next_offset, .. } = elsewhere;
    match group_offset.filter(|_| rule == NewCluster::GroupOffsets) {
        Some(offset) => info!(
            cluster = cluster_id,
            source = source_id,
            partition,
            offset,
            "kafka.new_cluster = \"group-offsets\": goes on from another cluster at the group's offset"
        ),
        None => warn!(
            cluster = cluster_id,
            source = source_id,
            partition,
            next_offset,
            "kafka.new_cluster = \"start\": what was written from the other cluster is written again"
        ),
    }
}

fn wait(assigned: &Assigned, why: &str) -> StartError {
    let TopicPartition { topic, number } = &assigned.partition;
    StartError::Wait(format!("partition {number} of {topic} waits: {why}"))
}
