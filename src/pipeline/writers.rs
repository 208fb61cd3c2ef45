//! The batches being written.

use std::collections::HashMap;
use std::time::Instant;

use tokio::task::{JoinError, JoinSet};

use super::NextOffsets;
use super::writer::writer_count::WriterCount;
use super::writer::{Outcome, Writer};
use crate::batch::Batch;
use crate::config;
use crate::journal::{JournalHandle, Record};
use crate::raw::{Budget, MessageSet};

/// Writer tasks, as many at a time as increase the throughput.
pub(super) struct Writers {
    writer: Writer,
    tasks: JoinSet<Outcome>,
    count: WriterCount,
    /// The messages of the batches from Kafka, by batch number, to be journaled if an outage begins.
    in_flight_messages: HashMap<u64, Vec<MessageSet>>,
    /// `true` if there is a journal.
    keeps_messages: bool,
    last_batch_number: u64,
}

impl Writers {
    pub(super) fn new(writer: Writer, database: &config::Database, keeps_messages: bool) -> Self {
        Self {
            writer,
            tasks: JoinSet::new(),
            count: WriterCount::new(database, Instant::now()),
            in_flight_messages: HashMap::new(),
            keeps_messages,
            last_batch_number: 0,
        }
    }

    /// Maximum number of batches that may be written at the same time now.
    pub(super) fn limit(&self) -> usize {
        self.count.get()
    }

    /// Number of batches being written.
    pub(super) fn busy(&self) -> usize {
        self.tasks.len()
    }

    /// Writes a batch from Kafka; `known` has the next offsets of its partitions.
    pub(super) fn write(&mut self, batch: Batch, known: NextOffsets) {
        self.last_batch_number += 1;
        if self.keeps_messages {
            self.in_flight_messages.insert(self.last_batch_number, batch.sets().to_vec());
        }
        self.tasks.spawn(self.writer.clone().write(self.last_batch_number, batch, known));
    }

    /// Writes records of the journal.
    pub(super) fn replay(&mut self, journal: JournalHandle, records: Vec<Record>, known: NextOffsets, budget: Budget) {
        self.tasks.spawn(self.writer.clone().replay(journal, records, known, budget));
    }

    /// Returns the outcome of the next batch to end; `None` if none is being written.
    pub(super) async fn next(&mut self) -> Option<Result<Outcome, JoinError>> {
        self.tasks.join_next().await
    }

    /// Counts what was written, and releases its messages.
    pub(super) fn on_written(&mut self, outcome: &Outcome) {
        self.in_flight_messages.remove(&outcome.number);
        self.count.written(outcome.points + outcome.skipped + outcome.deleted, Instant::now());
    }

    /// Discards the present measurement, because the throughput says nothing about the number of writers.
    pub(super) fn interrupt(&mut self) {
        self.count.interrupt(Instant::now());
    }

    /// Ends all tasks, and returns their messages. A transaction that is cut off has an unknown outcome, which the claim
    /// resolves.
    pub(super) fn abort(&mut self) -> Vec<MessageSet> {
        self.tasks.abort_all();
        std::mem::take(&mut self.in_flight_messages).into_values().flatten().collect()
    }
}
