//! The comparison of the database with what was read and journaled, every few seconds and whenever the database answers again.
//! It finds which records are drained, and what is nowhere: a database that was restored, or a standby that was promoted, has
//! lost its last transactions, and a damaged record is lost to the journal.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tracing::{error, info, warn};

use super::partitions::{InFlightPartitions, Partitions, first_beyond};
use crate::database::{Coverage, Database, Error};
use crate::journal::{JournalHandle, Record, SegmentInfo};
use crate::kafka::events::{Assigned, ReadPosition};
use crate::kafka::lookup::Lookup;
use crate::raw::{Interval, Partition, Source};
use crate::telemetry::log_limit::LogLimit;

/// Interval between surveys while the journal holds records.
const SURVEY_INTERVAL: Duration = Duration::from_secs(5);
/// Interval between surveys otherwise.
const CALM_SURVEY_INTERVAL: Duration = Duration::from_secs(15);

/// The result of a survey.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Records that the database does not have, oldest first.
    pub(super) missing: Vec<Record>,
    /// Those of them that stay in the journal, because nothing of their sources is accepted.
    pub(super) withheld: Vec<Record>,
    /// Intervals of records that it has.
    pub(super) covered: Vec<Interval>,
    /// Segments that are entirely covered, and whether they are sealed, so that nothing more is written to them.
    pub(super) covered_segments: Vec<(u64, bool)>,
    /// Number of records that wait for the progress of a partition that this worker does not read, and that has no
    /// progress in the database.
    pub(super) without_progress: usize,
    /// The partitions of these whose topics did not exist.
    gone: BTreeSet<Partition>,
    /// All that the journal has; what is known to be in it and is not there was damaged.
    pub(super) journaled: InFlightPartitions,
    /// Number of appends that had ended when it began.
    pub(super) appends: u64,
    /// The assignments of partitions with messages that were read and are neither in the database, nor in the journal, nor
    /// in flight.
    pub(super) holes: Vec<Assigned>,
}

/// Runs surveys, one at a time.
pub(super) struct Surveyor {
    journal: JournalHandle,
    database: Database,
    lookup: Arc<Lookup>,
    /// The partitions whose topics did not exist at the last survey.
    gone: BTreeSet<Partition>,
    /// `true` if the database answered when it was last checked.
    answered: bool,
    at: Instant,
    running: JoinSet<Option<Result<Survey, Error>>>,
    log: LogLimit,
}

/// The state of failing surveys, in the log.
const FAILED: &str = "survey";

/// The state of reading when a survey began. Offsets that are committed meanwhile were in flight then, so they are not holes.
struct Reading {
    positions: Vec<ReadPosition>,
    in_flight: InFlightPartitions,
    appends: u64,
    /// The partitions whose topics did not exist at the survey before.
    gone: BTreeSet<Partition>,
}

impl Surveyor {
    pub(super) fn new(journal: JournalHandle, database: Database, lookup: Arc<Lookup>) -> Self {
        Self {
            journal,
            database,
            lookup,
            gone: BTreeSet::new(),
            answered: false,
            at: Instant::now(),
            running: JoinSet::new(),
            log: LogLimit::default(),
        }
    }

    /// Begins a survey, if it is time; `appends` have ended by now.
    pub(super) fn tick(&mut self, partitions: &Partitions, appends: u64) {
        let answers = self.database.state().answers;
        if answers && !self.answered {
            self.at = Instant::now();
        }
        self.answered = answers;
        if !answers || !self.running.is_empty() || Instant::now() < self.at {
            return;
        }
        let has_records = self.journal.usage().records > 0;
        self.at = Instant::now() + if has_records { SURVEY_INTERVAL } else { CALM_SURVEY_INTERVAL };
        let gone = self.gone.clone();
        let reading = Reading { positions: partitions.positions(), in_flight: partitions.in_flight(), appends, gone };
        let servers = (self.database.clone(), Arc::clone(&self.lookup));
        self.running.spawn(survey(self.journal.clone(), servers, reading));
    }

    /// Requests that the next survey begins at once.
    pub(super) fn request(&mut self) {
        self.at = Instant::now();
    }

    /// Returns the next survey; never ready while none is under way.
    pub(super) async fn next(&mut self) -> Survey {
        loop {
            match self.running.join_next().await {
                Some(Ok(Some(Ok(survey)))) => {
                    self.gone.clone_from(&survey.gone);
                    if let Some(ended) = self.log.ends(FAILED) {
                        info!(seconds = ended.seconds, "what was read is compared with the database again");
                    }
                    return survey;
                }
                // Without the journal's thread the survey has no result; the loop notices that, too.
                Some(Ok(None)) => {}
                Some(Ok(Some(Err(failure)))) => {
                    if let Some(repeated) = self.log.lasts(FAILED, &failure.to_string()) {
                        let (seconds, unlogged) = (repeated.seconds, repeated.unlogged);
                        warn!(
                            %failure, seconds, unlogged,
                            "what was read cannot be compared with the database; trying again"
                        );
                    }
                    self.request();
                }
                Some(Err(failure)) => error!(%failure, "the comparison with the database ended by an internal error"),
                None => std::future::pending().await,
            }
        }
    }
}

/// `None` if the journal's thread has ended.
async fn survey(
    journal: JournalHandle,
    servers: (Database, Arc<Lookup>),
    reading: Reading,
) -> Option<Result<Survey, Error>> {
    // In this order: a segment that is made in between must not look as if it had no records.
    let (segments, records) = (journal.segments().await?, journal.records().await?);
    Some(compare(records, segments, servers, reading).await)
}

async fn compare(
    records: Vec<Record>,
    segments: Vec<SegmentInfo>,
    (database, lookup): (Database, Arc<Lookup>),
    reading: Reading,
) -> Result<Survey, Error> {
    let mut partitions: HashMap<Arc<Source>, HashSet<i32>> = HashMap::new();
    for record in &records {
        partitions.entry(Arc::clone(&record.partition.source)).or_default().insert(record.partition.number);
    }
    for read in &reading.positions {
        partitions.entry(Arc::clone(&read.source)).or_default().insert(read.assigned.partition.number);
    }
    let mut coverage: HashMap<Partition, Coverage> = HashMap::new();
    for (source, partitions) in partitions {
        let numbers: Vec<i32> = partitions.into_iter().collect();
        for (partition, known) in database.coverage(&source, &numbers).await? {
            coverage.insert(Partition::new(Arc::clone(&source), partition), known);
        }
    }
    let read: HashSet<Partition> = reading
        .positions
        .iter()
        .map(|read| Partition::new(Arc::clone(&read.source), read.assigned.partition.number))
        .collect();
    let (appends, gone_before) = (reading.appends, reading.gone.clone());
    let mut survey = Survey { appends, holes: reading.holes(&records, &coverage), ..Survey::default() };
    for record in &records {
        let key = record.partition.clone();
        survey.journaled.entry(key).or_default().push((record.from, record.until));
    }
    let mut open_segments = HashSet::new();
    let mut without_progress = BTreeSet::new();
    for record in records {
        let key = record.partition.clone();
        let coverage = coverage.get(&key);
        if coverage.is_none() && !read.contains(&key) {
            // The worker that reads the partition creates its progress.
            open_segments.insert(record.segment);
            survey.without_progress += 1;
            without_progress.insert(key);
        } else if coverage.is_some_and(|coverage| coverage.covers(record.from, record.until)) {
            survey.covered.push(record.interval());
        } else {
            open_segments.insert(record.segment);
            survey.missing.push(record);
        }
    }
    survey.covered_segments = segments
        .iter()
        .filter(|segment| !open_segments.contains(&segment.number))
        .map(|segment| (segment.number, segment.sealed))
        .collect();
    survey.gone = gone(without_progress, lookup).await;
    begin_progress(survey.gone.intersection(&gone_before), &database).await?;
    Ok(survey)
}

/// Returns the partitions whose topics do not exist.
async fn gone(mut partitions: BTreeSet<Partition>, lookup: Arc<Lookup>) -> BTreeSet<Partition> {
    // Without ids, a topic cannot be distinguished from another one of its name.
    partitions.retain(|partition| !partition.source.topic_id.is_empty());
    if partitions.is_empty() {
        return partitions;
    }
    let topics: BTreeSet<String> = partitions.iter().map(|partition| partition.source.topic.clone()).collect();
    let question = move || {
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        lookup.cluster_id().zip(lookup.topic_ids(&names).ok())
    };
    let Ok(Some((cluster, ids))) = tokio::task::spawn_blocking(question).await else { return BTreeSet::new() };
    partitions.retain(|Partition { source, .. }| {
        source.cluster_id == cluster && ids.get(&source.topic) != Some(&source.topic_id)
    });
    partitions
}

/// Begins the progress of partitions that no worker will ever read. It begins at 0, whatever this journal has first: another
/// worker's journal may have offsets before that.
async fn begin_progress<'a>(partitions: impl Iterator<Item = &'a Partition>, database: &Database) -> Result<(), Error> {
    for Partition { source, number } in partitions {
        let topic = &source.topic;
        info!(topic, partition = number, "the topic of records of the journal no longer exists: they are written");
        database.start(source, &[(*number, 0)]).await?;
    }
    Ok(())
}

impl Reading {
    fn holes(mut self, records: &[Record], coverage: &HashMap<Partition, Coverage>) -> Vec<Assigned> {
        for record in records {
            let key = record.partition.clone();
            self.in_flight.entry(key).or_default().push((record.from, record.until));
        }
        let Self { positions, mut in_flight, .. } = self;
        let is_whole = |read: &ReadPosition| {
            let key = Partition::new(Arc::clone(&read.source), read.assigned.partition.number);
            // A partition that has no progress at all has lost everything.
            let Some(coverage) = coverage.get(&key) else { return false };
            let mut known = in_flight.remove(&key).unwrap_or_default();
            known.extend(&coverage.ahead);
            known.sort_unstable();
            first_beyond(coverage.next_offset, Some(&known)) >= read.offset
        };
        let mut is_whole = is_whole;
        positions.into_iter().filter(|read| !is_whole(read)).map(|read| read.assigned).collect()
    }
}
