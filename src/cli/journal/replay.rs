//! `journal replay`: writes the journal's messages that the database lacks.

use std::collections::HashMap;
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::Level;

use super::{Filter, damaged_records_skipped, known_damage, refuse_undecodable};
use crate::batch::Batch;
use crate::cli::output::{complain, print_line};
use crate::cli::{Failure, progress_bar, saying_waits};
use crate::config::Config;
use crate::database::{ClaimOrder, Coverage, Database};
use crate::input::DECODED_NOW;
use crate::journal::{Inspection, ReadError, Record};
use crate::raw::{Interval, MessageSet, Partition};

/// The result of a replay, or of a dry run.
#[derive(Debug, Default)]
struct Done {
    messages: usize,
    points: usize,
    dead_letters: usize,
    damaged: usize,
}

impl Done {
    /// Waits for the next writer to end, and adds its result.
    async fn add_one_of(&mut self, writers: &mut JoinSet<Result<Self, Failure>>) -> Result<(), Failure> {
        let Some(ended) = writers.join_next().await else { return Ok(()) };
        let done = ended.map_err(|failure| Failure::Internal(failure.to_string()))??;
        self.messages += done.messages;
        self.points += done.points;
        self.dead_letters += done.dead_letters;
        Ok(())
    }
}

pub(super) async fn replay(
    config: &Config,
    journal: &mut Inspection,
    filter: &Filter,
    dry_run: bool,
) -> Result<(), Failure> {
    let database = Database::new(config)?;
    saying_waits(&database, replay_into(&database, config, journal, filter, dry_run)).await
}

async fn replay_into(
    database: &Database,
    config: &Config,
    journal: &mut Inspection,
    filter: &Filter,
    dry_run: bool,
) -> Result<(), Failure> {
    let records: Vec<Record> = journal.records().filter(|record| filter.takes(record)).cloned().collect();
    let coverage = coverage_of(database, &records).await?;
    let is_missing = |record: &&Record| !coverage[&record.partition].covers(record.from, record.until);
    let missing: Vec<&Record> = records.iter().filter(is_missing).collect();
    let inputs = config.inputs();
    refuse_undecodable(&inputs, missing.iter().copied())?;
    if missing.iter().any(|record| inputs.is_configured(&record.partition.source)) {
        complain(Level::INFO, DECODED_NOW);
    }
    let bar = progress_bar(records.len(), "records");
    let decoder = config.decoder();
    let mut done = Done { damaged: known_damage(journal), ..Done::default() };
    let (mut batch, mut writers) = (Batch::new(decoder.clone()), JoinSet::new());
    let most_writers = *config.database.writer_range().end();
    for record in &records {
        bar.inc(1);
        match journal.read(record) {
            Ok(set) => {
                let known = &coverage[&record.partition];
                for part in filter.clip(&set).into_iter().flat_map(|set| missing_parts(&set, known)) {
                    batch.push(part);
                }
            }
            Err(ReadError::Gone { .. }) => {}
            Err(failure) => {
                complain(Level::WARN, &failure.to_string());
                done.damaged += 1;
            }
        }
        // As large as a worker's batches, so that points are sorted over as many messages.
        if batch.is_full(config.batch.max_points, config.batch.max_bytes) {
            if writers.len() >= most_writers {
                done.add_one_of(&mut writers).await?;
            }
            let full = std::mem::replace(&mut batch, Batch::new(decoder.clone()));
            writers.spawn(finish(database.clone(), full, dry_run));
        }
    }
    writers.spawn(finish(database.clone(), batch, dry_run));
    while !writers.is_empty() {
        done.add_one_of(&mut writers).await?;
    }
    bar.finish_and_clear();
    let verb = if dry_run { "would be written" } else { "written" };
    print_line(format_args!(
        "{} messages with {} points {verb}, {} dead letters; the database had the rest",
        done.messages, done.points, done.dead_letters
    ));
    if done.damaged > 0 {
        return Err(damaged_records_skipped(done.damaged));
    }
    Ok(())
}

/// Returns the database's coverage of each partition of the records.
async fn coverage_of(database: &Database, records: &[Record]) -> Result<HashMap<Partition, Coverage>, Failure> {
    let mut firsts: HashMap<Partition, i64> = HashMap::new();
    for record in records {
        let first = firsts.entry(record.partition.clone()).or_insert(record.from);
        *first = record.from.min(*first);
    }
    let mut coverage: HashMap<Partition, Coverage> = HashMap::new();
    for (partition, first) in firsts {
        let Partition { source, number } = &partition;
        let known = database.coverage(source, &[*number]).await?.remove(number);
        // Beginning its progress here would skip what Kafka has before the journal's first message.
        let known = known.ok_or_else(|| {
            Failure::Usage(format!(
                "partition {number} of {} was never read by this pipeline: run a worker first, or select others (first offset {first})",
                source.topic
            ))
        })?;
        coverage.insert(partition, known);
    }
    Ok(coverage)
}

/// Returns the parts of the set that the database does not have.
fn missing_parts(set: &MessageSet, coverage: &Coverage) -> Vec<MessageSet> {
    let Interval { from, until, .. } = set.interval();
    coverage.missing(from, until).into_iter().filter_map(|(from, until)| set.clip(from, until)).collect()
}

/// Writes a batch. The locks on its partitions are held during the commit only, so that several batches are written at the same
/// time; after any failure the next attempt first asks the database what it has.
async fn finish(database: Database, batch: Batch, dry_run: bool) -> Result<Done, Failure> {
    let mut done = Done::default();
    if batch.is_empty() {
        return Ok(done);
    }
    if dry_run {
        done.messages = batch.message_count();
        done.points = batch.points().len();
        done.dead_letters = batch.dead_letters().len();
        return Ok(done);
    }
    let settled = database.settle(batch, ClaimOrder::CopyFirstFillingGaps, Duration::ZERO).await?;
    done.messages = settled.messages;
    done.points = settled.points;
    done.dead_letters = settled.dead_letters;
    Ok(done)
}
