//! The rows of a file into the database: read on a thread of their own, decoded and written by several tasks.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::ImportError;
use super::assemble::{Assembler, Bounds, Chunk};
use crate::batch::Batch;
use crate::config::Config;
use crate::database::{self, ClaimOrder, Coverage, Database, FileSource, Settled};
use crate::files::read::table::Table;
use crate::files::read::{DEFINITIONS, FIRST_ROW, ReadError, partition_of};
use crate::input::Decoder;
use crate::raw::{Budget, MessageSet, MessageSetBuilder, RawMessage, Source};

/// How often it is looked whether there is memory again.
const MEMORY_INTERVAL: Duration = Duration::from_millis(2);

/// How much of the memory messages and points may take; the rest is what a file's format and connections need.
const BUDGET_SHARE: usize = 2;

/// How an import works.
#[derive(Debug, Clone)]
pub struct Settings {
    writers: usize,
    max_points: usize,
    max_bytes: usize,
    decoder: Decoder,
    budget: Budget,
    /// For how long an outage of the database is waited for.
    patience: Duration,
}

impl Settings {
    /// As it is configured. `patience`: for how long an outage of the database is waited for.
    pub fn new(config: &Config, patience: Duration) -> Self {
        Self {
            writers: *config.database.writer_range().end(),
            max_points: config.batch.max_points,
            max_bytes: config.batch.max_bytes,
            decoder: config.decoder(),
            budget: Budget::new(config.memory.limit_bytes / BUDGET_SHARE),
            patience,
        }
    }
}

/// What an import has done, also one that has failed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Imported {
    /// The rows that were read.
    pub rows: i64,
    /// The number of those that the database had when it began.
    pub already_there: i64,
    /// The points that were written.
    pub points: usize,
    /// The messages that became dead letters.
    pub refused: usize,
    /// The points that were omitted, because their series was deleted after the file was imported first.
    pub deleted: usize,
}

impl Imported {
    fn add(&mut self, settled: Settled) {
        self.points += settled.points;
        self.refused += settled.dead_letters;
        self.deleted += settled.deleted;
    }
}

/// Writes what the database lacks of a file. `on_progress` is called each time when some of it was read.
pub async fn import(
    table: &Table,
    file: &FileSource,
    database: &Database,
    settings: &Settings,
    on_progress: &(dyn Fn() + Sync),
) -> (Imported, Result<(), ImportError>) {
    let mut imported = Imported::default();
    let result = import_into(table, file, (database, settings), on_progress, &mut imported).await;
    (imported, result)
}

async fn import_into(
    table: &Table,
    file: &FileSource,
    (database, settings): (&Database, &Settings),
    on_progress: &(dyn Fn() + Sync),
    imported: &mut Imported,
) -> Result<(), ImportError> {
    let partitions: Vec<i32> = (0..table.groups()).map(partition_of).collect();
    let messages = table.definitions();
    let mut firsts: Vec<(i32, i64)> = partitions.iter().map(|partition| (*partition, FIRST_ROW)).collect();
    if !messages.is_empty() {
        firsts.push((DEFINITIONS, 0));
    }
    database.start(&file.source, &firsts).await?;
    let all: Vec<i32> = firsts.iter().map(|(partition, _)| *partition).collect();
    let known = database.coverage(&file.source, &all).await?;
    let missing = |partition: i32, until: i64| -> Result<Vec<(i64, i64)>, database::Error> {
        let coverage: Option<&Coverage> = known.get(&partition);
        let coverage = coverage.ok_or_else(|| database::Error::Unexpected("a file has no progress".to_owned()))?;
        Ok(coverage.missing(0, until))
    };
    if !messages.is_empty() {
        let until = i64::try_from(messages.len()).unwrap_or(i64::MAX);
        let sets = definitions(&messages, file, &missing(DEFINITIONS, until)?);
        let mut writers = JoinSet::new();
        writers.spawn(settled(Chunk { sets }, database.clone(), settings.clone(), ClaimOrder::ClaimFirst));
        add_one_of(&mut writers, imported).await?;
    }
    let missing: Vec<Vec<(i64, i64)>> =
        partitions.iter().map(|partition| missing(*partition, i64::MAX)).collect::<Result<_, _>>()?;
    let (sender, mut chunks) = mpsc::channel(1);
    let reader = {
        let (table, source, settings, time_ms) =
            (table.clone(), Arc::clone(&file.source), settings.clone(), file.first_ms);
        tokio::task::spawn_blocking(move || read(&table, &source, missing, &settings, time_ms, &sender))
    };
    let written = write_all(&mut chunks, database, settings, on_progress, imported).await;
    // After a failure of the database the reader has nobody to give its rows to.
    drop(chunks);
    let (rows, already_there, read) = match reader.await {
        Ok(ended) => ended,
        Err(error) => return Err(ImportError::Internal(error.to_string())),
    };
    (imported.rows, imported.already_there) = (rows, already_there);
    written?;
    Ok(read?)
}

/// The messages of definitions that the database lacks.
fn definitions(messages: &[Vec<u8>], file: &FileSource, missing: &[(i64, i64)]) -> Vec<MessageSet> {
    let set = |(from, until): &(i64, i64)| {
        let mut builder = MessageSetBuilder::new(Arc::clone(&file.source), DEFINITIONS, *from);
        for (offset, payload) in (0..).zip(messages).filter(|(offset, _)| (*from..*until).contains(offset)) {
            let time_ms = Some(file.first_ms);
            builder.push(&RawMessage { offset, time_ms, payload: Some(payload), ..RawMessage::default() });
        }
        builder.extend_to(*until);
        builder.build(None)
    };
    missing.iter().map(set).collect()
}

/// Reads the rows that are missing; returns the number of all rows, and of those that the database has.
fn read(
    table: &Table,
    source: &Arc<Source>,
    missing: Vec<Vec<(i64, i64)>>,
    settings: &Settings,
    time_ms: i64,
    sender: &mpsc::Sender<Chunk>,
) -> (i64, i64, Result<(), ReadError>) {
    let bounds = Bounds {
        max_points: settings.max_points,
        max_bytes: settings.max_bytes,
        time_ms: Some(time_ms),
        last_row: None,
        budget: Some(settings.budget.clone()),
    };
    let hand_on = |chunk: Chunk| {
        table.content().check_unchanged()?;
        while settings.budget.is_full() && !sender.is_closed() {
            std::thread::sleep(MEMORY_INTERVAL);
        }
        sender.blocking_send(chunk).map_err(|_| ReadError::Stopped)
    };
    let mut assembler = Assembler::new(source, missing, bounds, hand_on);
    let read = table.read(&mut assembler);
    let (rows, already_there) = assembler.rows();
    // What stands before the damage is as good as before.
    if let (Err(ReadError::Damaged { .. }), Some(rest)) = (&read, assembler.into_rest()) {
        // Without a receiver another failure is reported.
        drop(sender.blocking_send(rest));
    }
    (rows, already_there, read)
}

/// Decodes and writes chunks until there are no more. After a failure those that are being written are still finished.
async fn write_all(
    chunks: &mut mpsc::Receiver<Chunk>,
    database: &Database,
    settings: &Settings,
    on_progress: &(dyn Fn() + Sync),
    imported: &mut Imported,
) -> Result<(), ImportError> {
    let mut writers: JoinSet<Result<Settled, ImportError>> = JoinSet::new();
    let mut failure = None;
    while failure.is_none() {
        let Some(chunk) = chunks.recv().await else { break };
        if writers.len() >= settings.writers {
            failure = add_one_of(&mut writers, imported).await.err();
        }
        writers.spawn(settled(chunk, database.clone(), settings.clone(), ClaimOrder::CopyFirst));
        on_progress();
    }
    while !writers.is_empty() {
        if let Err(another) = add_one_of(&mut writers, imported).await {
            failure.get_or_insert(another);
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Waits for the next writer to end, and adds its result.
async fn add_one_of(
    writers: &mut JoinSet<Result<Settled, ImportError>>,
    imported: &mut Imported,
) -> Result<(), ImportError> {
    let Some(ended) = writers.join_next().await else { return Ok(()) };
    imported.add(ended.map_err(|error| ImportError::Internal(error.to_string()))??);
    Ok(())
}

/// Decodes a chunk, on a thread that may be busy, and writes it.
async fn settled(
    chunk: Chunk,
    database: Database,
    settings: Settings,
    order: ClaimOrder,
) -> Result<Settled, ImportError> {
    let mut batch = Batch::charged(settings.decoder.clone(), &settings.budget);
    let decode = move || {
        for set in chunk.sets {
            batch.push(set);
        }
        batch
    };
    let batch = tokio::task::spawn_blocking(decode).await.map_err(|error| ImportError::Internal(error.to_string()))?;
    Ok(database.settle(batch, order, settings.patience).await?)
}
