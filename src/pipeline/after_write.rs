//! The handling of a batch's outcome.

use std::time::Instant;

use tokio::task::JoinError;
use tracing::{error, warn};

use super::writer::Outcome;
use super::{Pipeline, is_plausible, unix_ms};
use crate::kafka::events::{Assigned, Command};
use crate::kafka::partition::TopicPartition;
use crate::telemetry::{escaped, metrics};

impl Pipeline {
    /// Handles the end of a writer.
    pub(super) fn on_written(&mut self, ended: Result<Outcome, JoinError>) {
        match ended {
            Ok(outcome) => self.on_outcome(outcome),
            // Its messages went to the journal.
            Err(failure) if failure.is_cancelled() => {}
            Err(failure) => self.on_writer_lost(&failure),
        }
    }

    /// The task's messages are lost to this process, not to Kafka or the journal: all are read again from the database's
    /// progress. Which task it was is not known, so the others are aborted, too.
    fn on_writer_lost(&mut self, failure: &JoinError) {
        error!(%failure, "a writer ended by an internal error; its messages are read again");
        self.writers.abort();
        self.journaling.on_abandoned();
        self.surveyor.request();
        self.partitions.forget_in_flight();
        self.consumer.send(Command::Restart(self.partitions.assigned()));
    }

    fn on_outcome(&mut self, mut outcome: Outcome) {
        // Journal records of a partition without progress stay recorded: its progress must begin no later.
        let done = if outcome.lost && outcome.replayed { &outcome.damaged } else { &outcome.intervals };
        self.partitions.mark_done(done);
        self.writers.on_written(&outcome);
        self.guard.judge(&outcome, |partition| self.partitions.current(partition).is_some());
        if outcome.replayed {
            self.journaling.withhold(|source| self.guard.stops_replay(source));
        }
        self.keep_locked(&mut outcome);
        self.count_written(&outcome);
        if outcome.lost {
            self.surveyor.request();
            self.restart(&outcome.intervals, "the database has no progress of them");
        }
        if !outcome.of_deleted_topics.is_empty() {
            let why = "their topic was deleted and recreated; what was read of it is dropped";
            self.restart(&outcome.of_deleted_topics, why);
        }
        self.advance(&outcome);
    }

    /// Keeps what was not written because of another session's lock, and reports replayed records to the journaling.
    fn keep_locked(&mut self, outcome: &mut Outcome) {
        let waits = !outcome.locked_messages.is_empty();
        for set in &outcome.locked_messages {
            self.partitions.mark_waiting(set, outcome.replayed);
        }
        let locked = std::mem::take(&mut outcome.locked_messages);
        if !outcome.replayed {
            if waits {
                self.journaling.set_aside(locked, self.open_batch.budget());
            }
            return;
        }
        self.journaling.on_replayed(outcome.unread.take(), waits);
        // Records are replayed oldest first: a partition may have to wait until its turn.
        if !outcome.applied.is_empty() {
            self.times.movable_since = Instant::now();
        }
        if !outcome.damaged.is_empty() {
            let damaged = outcome.damaged.iter();
            let reading = damaged.filter_map(|interval| self.partitions.reading(interval)).collect();
            self.consumer.send(Command::Restart(reading));
            self.surveyor.request();
        }
    }

    fn count_written(&self, outcome: &Outcome) {
        metrics::points_written(outcome.points as u64);
        metrics::points_skipped(outcome.skipped as u64);
        metrics::points_deleted(outcome.deleted as u64);
        metrics::points_duplicate(outcome.duplicates as u64);
        metrics::dead_letters_only_counted(outcome.only_counted);
        metrics::dead_letters_not_counted(outcome.not_counted);
        if let Some(copies) = self.copies.as_ref().filter(|_| !outcome.dead_letters.is_empty()) {
            copies.wake();
        }
        for ((input, reason), (count, at, rejected)) in &outcome.dead_letters {
            metrics::dead_letters(input, reason, *count);
            let Some(unlogged) = self.log.happened(&format!("{reason} {input}"), *count) else { continue };
            warn!(
                input, topic = at.partition.source.topic, partition = at.partition.number, offset = at.offset,
                reason = rejected.reason.as_str(), detail = %escaped(&rejected.detail),
                unlogged,
                "a message became a dead letter"
            );
        }
        let now_ms = unix_ms();
        if let Some(oldest) = outcome.oldest_ms.filter(|oldest| is_plausible(*oldest, now_ms)) {
            metrics::produce_to_commit((now_ms - oldest) as f64 / 1000.0);
        }
    }

    /// Records the database's present progress, and has it committed to Kafka.
    fn advance(&mut self, outcome: &Outcome) {
        let mut commits = Vec::new();
        let mut fallen_back = Vec::new();
        for applied in &outcome.applied {
            let known = outcome.known.get(&TopicPartition::from(&applied.partition));
            if known.is_some_and(|known| applied.next_offset < *known) {
                fallen_back.push(applied);
            }
            if let Some(assigned) = self.partitions.mark_applied(applied) {
                commits.push((assigned, applied.next_offset));
            }
        }
        if !fallen_back.is_empty() {
            let current = |partition| self.partitions.current(&TopicPartition::from(partition));
            let assigned: Vec<Assigned> = fallen_back.iter().filter_map(|one| current(&one.partition)).collect();
            let partitions: Vec<String> =
                fallen_back.iter().map(|one| format!("{} to {}", one.partition, one.next_offset)).collect();
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
}
