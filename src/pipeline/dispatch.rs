//! The choice of the next batch to write: the open one, records of the journal, or none.

use super::Pipeline;
use crate::journal::Record;
use crate::raw::Interval;
use crate::telemetry::metrics;

/// The facts that the choice depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facts {
    /// The open batch has messages.
    has_messages: bool,
    /// It has reached the size of one transaction.
    is_full: bool,
    /// Its first message has waited for `batch.linger_ms`, or the worker stops.
    has_lingered: bool,
    /// The memory budget is used up: a paused consumer brings no further messages that would be worth waiting for.
    memory_is_full: bool,
    /// A writer is free.
    has_free_writer: bool,
    /// It is not the journal's turn.
    is_live_turn: bool,
}

impl Facts {
    /// Returns `true` if the open batch is written now.
    fn writes_live(self) -> bool {
        let is_due = self.has_messages && (self.has_lingered || self.memory_is_full);
        (is_due || self.is_full) && self.has_free_writer && self.is_live_turn
    }

    /// Returns `true` if writing it does not show how fast more writers would be: with a backlog, batches are full before they
    /// have lingered.
    fn is_without_backlog(self) -> bool {
        !self.is_full && !self.memory_is_full
    }
}

impl Pipeline {
    /// Hands the open batch or records of the journal to a writer, if they are due and one is free.
    pub(super) fn dispatch(&mut self, is_stopping: bool) {
        let (busy, limit) = (self.writers.busy(), self.writers.limit());
        let memory_is_full = self.open_batch.budget().is_full();
        let facts = Facts {
            has_messages: !self.open_batch.is_empty(),
            is_full: self.open_batch.is_full(),
            has_lingered: is_stopping || self.open_batch.has_lingered(),
            memory_is_full,
            has_free_writer: busy < limit,
            is_live_turn: is_stopping || self.journaling.may_write_live(busy, limit, memory_is_full),
        };
        if facts.writes_live() {
            if facts.is_without_backlog() {
                self.writers.interrupt();
            }
            self.write_open_batch();
        } else if !is_stopping
            && let Some(records) =
                self.journaling.next_records(busy, limit, memory_is_full, |source| self.guard.is_on_trial(source))
        {
            // When the worker stops, what the journal has stays there.
            let intervals: Vec<Interval> = records.iter().map(Record::interval).collect();
            let known = self.partitions.next_offsets(&intervals);
            let (journal, budget) = (self.journaling.journal().clone(), self.open_batch.budget().clone());
            self.writers.replay(journal, records, known, budget);
        }
    }

    fn write_open_batch(&mut self) {
        let batch = self.open_batch.take();
        metrics::batch_sealed(batch.points().len(), batch.message_bytes());
        let known = self.partitions.next_offsets(&batch.intervals());
        self.journaling.on_live_batch();
        self.writers.write(batch, known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_open_batch_is_written_when_it_is_full_or_has_waited() {
        let waits = Facts {
            has_messages: true,
            is_full: false,
            has_lingered: false,
            memory_is_full: false,
            has_free_writer: true,
            is_live_turn: true,
        };
        let full = Facts { is_full: true, ..waits };
        for (what, facts, is_written) in [
            ("it may still be filled", waits, false),
            ("it has waited long enough", Facts { has_lingered: true, ..waits }, true),
            ("it is full", full, true),
            ("nothing more comes before memory is free", Facts { memory_is_full: true, ..waits }, true),
            ("it is empty", Facts { has_messages: false, has_lingered: true, memory_is_full: true, ..waits }, false),
            ("all writers are busy", Facts { has_free_writer: false, ..full }, false),
            ("it is the journal's turn", Facts { is_live_turn: false, ..full }, false),
        ] {
            assert_eq!(facts.writes_live(), is_written, "{what}");
        }
        assert!(waits.is_without_backlog() && !full.is_without_backlog());
    }
}
