//! The records of the journal that are written to the database next, and the share of the writers for them.

use std::collections::VecDeque;

use super::mode::Mode;
use super::unread::Unread;
use crate::journal::Record;
use crate::pipeline::survey::Survey;
use crate::raw::Source;

/// Maximum size of one batch of the journal, in bytes on disk, if messages are compressed.
const MAX_REPLAY_BYTES: u64 = 512 * 1024;

/// The facts that determine who gets the next free writer.
#[derive(Debug, Clone, Copy)]
pub(super) struct WriterFacts {
    pub(super) mode: Mode,
    /// The journal has records that may be written now.
    pub(super) has_records: bool,
    /// The number of writers.
    pub(super) writers: usize,
    /// Number of writers in use.
    pub(super) busy: usize,
    /// Number of those that write a batch of the journal.
    pub(super) replaying: usize,
    /// The last batch was one from Kafka.
    pub(super) is_journals_turn: bool,
}

/// The user of the next free writer. Batches from Kafka are *live*.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextWriter {
    /// A live batch only.
    Live,
    /// A live batch if one is due, otherwise the journal.
    LiveThenJournal,
    /// The journal only.
    Journal,
    Nobody,
}

impl NextWriter {
    /// Decides who may have the next free writer. One is reserved for batches from Kafka, and one for the journal if it has
    /// records. A single writer alternates between them. The one record that is tried during an outage occupies no writer,
    /// because nothing live is written.
    pub(super) fn choose(facts: WriterFacts) -> Self {
        let WriterFacts { mode, has_records, writers, busy, replaying, is_journals_turn } = facts;
        if !has_records {
            return Self::Live;
        }
        let (live, journal) = match (mode, writers) {
            (Mode::Journaling, _) => (true, true),
            (_, 1) => (!is_journals_turn, busy == 0),
            _ => (busy.saturating_sub(replaying) + 1 < writers, busy < writers && replaying + 1 < writers),
        };
        match (live, journal) {
            (true, false) => Self::Live,
            (true, true) => Self::LiveThenJournal,
            (false, true) => Self::Journal,
            (false, false) => Self::Nobody,
        }
    }

    pub(super) fn may_be_live(self) -> bool {
        matches!(self, Self::Live | Self::LiveThenJournal)
    }

    pub(super) fn may_be_journals(self) -> bool {
        matches!(self, Self::Journal | Self::LiveThenJournal)
    }
}

/// The records that the database does not have, and their replay.
pub(super) struct Replay {
    /// Those to be written, oldest first.
    records: VecDeque<Record>,
    /// The number of batches that are being written.
    replaying: usize,
    /// `true` if the next record on trial is the newest, because the last one waits for a lock.
    tries_newest: bool,
    /// `true` if the last batch was one from Kafka.
    is_journals_turn: bool,
    /// `true` if the journal was compared with the database since the database came back, and since a batch of the journal was
    /// written.
    is_surveyed: bool,
    /// Number of appends that the last survey has seen.
    surveyed_appends: u64,
    /// Number of records that the database did not have at the last survey.
    undrained: usize,
    unread: Unread,
}

impl Replay {
    pub(super) fn new() -> Self {
        Self {
            records: VecDeque::new(),
            replaying: 0,
            tries_newest: false,
            is_journals_turn: false,
            is_surveyed: false,
            surveyed_appends: 0,
            undrained: 0,
            unread: Unread::new(),
        }
    }

    /// Returns the reason why the journal does not return its records.
    pub(super) fn problem(&self) -> Option<String> {
        self.unread.problem(self.undrained)
    }

    pub(super) fn is_surveyed(&self) -> bool {
        self.is_surveyed
    }

    /// Requires another survey before anything is derived from the last one.
    pub(super) fn forget_survey(&mut self) {
        self.is_surveyed = false;
    }

    /// Returns `true` if a survey has seen all of the `appends` appends that have ended.
    pub(super) fn has_surveyed(&self, appends: u64) -> bool {
        self.is_surveyed && self.surveyed_appends == appends
    }

    /// Returns `true` if the database has all records of the `appends` appends that have ended.
    pub(super) fn is_covered(&self, appends: u64) -> bool {
        self.has_surveyed(appends) && self.undrained == 0
    }

    /// Returns `true` if records are to be written.
    pub(super) fn has_records(&self) -> bool {
        !self.records.is_empty()
    }

    /// Returns `true` if a batch is being written.
    pub(super) fn is_replaying(&self) -> bool {
        self.replaying > 0
    }

    /// Returns `true` if no record is to be written or being written.
    pub(super) fn is_idle(&self) -> bool {
        !self.has_records() && !self.is_replaying()
    }

    /// Returns who may have the next of `writers` writers if `busy` of them are in use. If `may_read` is `true`, records of the
    /// journal may be written now.
    pub(super) fn next_writer(&self, mode: Mode, may_read: bool, busy: usize, writers: usize) -> NextWriter {
        NextWriter::choose(WriterFacts {
            mode,
            has_records: may_read && self.has_records(),
            writers,
            busy,
            replaying: self.replaying,
            is_journals_turn: self.is_journals_turn,
        })
    }

    /// Returns the records for the next batch; during an outage this is one, on trial.
    /// A record of a source for which `is_on_trial` says so comes alone, so that few of its messages can be rejected.
    pub(super) fn next_records(&mut self, mode: Mode, is_on_trial: impl Fn(&Source) -> bool) -> Vec<Record> {
        self.is_journals_turn = false;
        self.replaying += 1;
        let mut records = Vec::new();
        if mode == Mode::Journaling {
            // A record mostly waits for the same lock as its neighbours in time.
            records.extend(if self.tries_newest { self.records.pop_back() } else { self.records.pop_front() });
            return records;
        }
        let mut bytes = 0;
        while let Some(record) = self.records.front() {
            if bytes > 0 && bytes + record.bytes() > MAX_REPLAY_BYTES {
                break;
            }
            let is_alone = is_on_trial(&record.partition.source);
            if bytes > 0 && is_alone {
                break;
            }
            bytes += record.bytes();
            records.extend(self.records.pop_front());
            if is_alone {
                break;
            }
        }
        records
    }

    /// Removes the records of these sources from what is to be written; the next survey finds them again.
    pub(super) fn withhold(&mut self, is_withheld: impl Fn(&Source) -> bool) {
        self.records.retain(|record| !is_withheld(&record.partition.source));
    }

    /// Records that a batch from Kafka was handed to a writer.
    pub(super) fn on_live_batch(&mut self) {
        self.is_journals_turn = true;
    }

    /// Records the end of a batch of the journal, the reason why records of it could not be read (`unread`), and whether some
    /// of it waits for a lock.
    pub(super) fn on_replayed(&mut self, mode: Mode, unread: Option<String>, waits: bool) {
        self.replaying = self.replaying.saturating_sub(1);
        if mode != Mode::Journaling {
            self.is_surveyed = false;
        }
        if let Some(why) = unread {
            self.unread.record_failure(why);
        }
        self.tries_newest = waits && !self.tries_newest;
        if self.is_idle() {
            self.unread.end_round();
        }
    }

    /// Records that the batches of the journal that were being written were aborted.
    pub(super) fn on_abandoned(&mut self) {
        self.replaying = 0;
        self.records.clear();
    }

    /// Records that the journal has lost records: a survey finds which of those to be written are left.
    pub(super) fn on_lost(&mut self) {
        self.records.clear();
        self.is_surveyed = false;
    }

    /// Takes over the records that the database does not have from a survey, unless some are being written.
    pub(super) fn on_survey(&mut self, survey: &Survey) {
        self.is_surveyed = true;
        if self.is_replaying() {
            return;
        }
        self.surveyed_appends = survey.appends;
        self.undrained = survey.missing.len() + survey.withheld.len();
        self.records = match self.unread.may_read() {
            true => survey.missing.iter().cloned().collect(),
            false => VecDeque::new(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::NextWriter::{Journal, Live, LiveThenJournal, Nobody};
    use super::*;

    #[test]
    fn one_writer_is_kept_for_kafka_and_one_for_the_journal() {
        let (outage, after) = (Mode::Journaling, Mode::Replaying);
        #[rustfmt::skip]
        let table = [
            // mode   records  writers  busy  of them the journal's  journal's turn  next
            // Nothing in the journal: all writers are for batches from Kafka.
            (after,   false,   1,       0,    0,                     true,           Live),
            (after,   false,   4,       3,    0,                     true,           Live),
            (outage,  false,   4,       0,    0,                     false,          Live),
            // One record on trial, even if all writers are busy.
            (outage,  true,    1,       0,    0,                     false,          LiveThenJournal),
            (outage,  true,    4,       4,    0,                     true,           LiveThenJournal),
            // A single writer: in turn, without waiting for messages from Kafka.
            (after,   true,    1,       0,    0,                     false,          LiveThenJournal),
            (after,   true,    1,       0,    0,                     true,           Journal),
            (after,   true,    1,       1,    0,                     true,           Nobody),
            (after,   true,    1,       1,    1,                     true,           Nobody),
            // Several: one is reserved for each.
            (after,   true,    2,       0,    0,                     false,          LiveThenJournal),
            (after,   true,    2,       0,    0,                     true,           LiveThenJournal),
            (after,   true,    2,       1,    0,                     true,           Journal),
            (after,   true,    2,       1,    1,                     false,          Live),
            (after,   true,    2,       2,    1,                     true,           Nobody),
            (after,   true,    4,       2,    1,                     true,           LiveThenJournal),
            (after,   true,    4,       3,    3,                     false,          Live),
            (after,   true,    4,       3,    0,                     true,           Journal),
            // More writers in use than there are, because their number was reduced.
            (after,   true,    2,       4,    1,                     true,           Nobody),
        ];
        for (mode, has_records, writers, busy, replaying, is_journals_turn, next) in table {
            let facts = WriterFacts { mode, has_records, writers, busy, replaying, is_journals_turn };
            assert_eq!(NextWriter::choose(facts), next, "{facts:?}");
        }
        for (next, live, journal) in
            [(Live, true, false), (LiveThenJournal, true, true), (Journal, false, true), (Nobody, false, false)]
        {
            assert_eq!((next.may_be_live(), next.may_be_journals()), (live, journal), "{next:?}");
        }
    }
}
