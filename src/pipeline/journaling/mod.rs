//! The modes, appends to the journal and replay from it.
//!
//! - *Streaming*: messages are written to the database directly.
//! - *Journaling*: the database is not available; messages go to the journal instead. Messages in flight to the database are
//!   journaled as well, because they may have to outlive this process.
//! - *Replaying*: the database is available again; journaled messages are written, oldest first, while new messages are written
//!   directly.
//!
//! A database that answers queries may still accept no rows, for instance if its disk is full. So a first record is written on
//! trial while all other messages still go to the journal, and the mode ends when that succeeds.
//!
//! Without a journal the mode is always *Streaming*, and nothing is ever appended.
//!
//! The surveys of `survey` determine repeatedly, from the database's progress, what is drained. There is no other record of it.
//!
//! - `mode`: the modes, and the transitions between them.
//! - `append`: appends to the journal, and the messages that wait for the next one.
//! - `probe`: the check that the journal works, while nothing is appended.
//! - `replay`: the records that are written next, and the share of the writers for them.
//! - `unread`: records that cannot be read now.
//! - `set_aside`: messages that wait for a lock; `locked`: the same without a journal, in memory.
//! - `removal`: covered segments, until they are deleted.

mod append;
mod locked;
mod mode;
mod probe;
mod removal;
mod replay;
mod set_aside;
mod unread;

use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::config;
use crate::database::{Database, State};
use crate::input::{DECODED_NOW, Inputs};
use crate::journal::{JournalHandle, Record};
use crate::pipeline::is_plausible;
use crate::pipeline::survey::Survey;
use crate::pipeline::writer::Writer;
use crate::raw::{Budget, Interval, MessageSet, Source};
use crate::telemetry::health::JournalStatus;
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics;

use append::{Appended, Appends};
use locked::LockedMessages;
pub(super) use mode::Mode;
use mode::{Facts, Trial};
use probe::Probe;
use removal::CoveredSegments;
use replay::{NextWriter, Replay};
use set_aside::SetAside;

/// The state of records of inputs that the database does not have, in the log.
const OF_INPUTS: &str = "journal-of-inputs";
/// The state of the journal's records in the log.
const WITHOUT_PROGRESS: &str = "journal-without-progress";

/// The pipeline's use of the journal.
pub(super) struct Journaling {
    journal: JournalHandle,
    database: Database,
    outage_grace: Duration,
    mode: Mode,
    mode_since: Instant,
    appends: Appends,
    probe: Probe,
    set_aside: SetAside,
    locked: LockedMessages,
    replay: Replay,
    covered_segments: CoveredSegments,
    inputs: Inputs,
    log: LogLimit,
}

impl Journaling {
    pub(super) fn new(journal: JournalHandle, config: &config::Config, database: Database, writer: Writer) -> Self {
        Self {
            appends: Appends::new(journal.clone(), writer),
            journal,
            database,
            outage_grace: Duration::from_millis(config.database.outage_grace_ms),
            mode: Mode::Streaming,
            mode_since: Instant::now(),
            probe: Probe::new(),
            set_aside: SetAside::new(),
            locked: LockedMessages::new(),
            replay: Replay::new(),
            covered_segments: CoveredSegments::new(Duration::from_secs(config.journal.grace_s)),
            inputs: config.inputs(),
            log: LogLimit::default(),
        }
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    pub(super) fn journal(&self) -> &JournalHandle {
        &self.journal
    }

    /// Returns the reason why the journal accepts nothing, or does not return its records.
    pub(super) fn problem(&self) -> Option<String> {
        self.appends.problem().or_else(|| self.probe.problem()).or_else(|| self.replay.problem())
    }

    /// Returns when an append or a probe last succeeded.
    pub(super) fn took_at(&self) -> Option<Instant> {
        self.appends.succeeded_at().max(self.probe.succeeded_at())
    }

    /// Returns `true` if data waits for the journal while it has a problem.
    pub(super) fn is_needed(&self) -> bool {
        self.mode == Mode::Journaling || self.replay.problem().is_some()
    }

    /// Returns what was journaled and is no longer in the journal.
    pub(super) fn take_lost(&mut self) -> Vec<Interval> {
        let lost = self.journal.take_lost();
        if !lost.is_empty() {
            self.replay.on_lost();
        }
        lost
    }

    /// Returns `true` if [`Journaling::save`] has room for more messages.
    pub(super) fn may_take(&self) -> bool {
        self.appends.may_take()
    }

    /// Sets the mode by the state of the database and of the journal. Returns `true` if an outage begins now, so that messages
    /// in flight must be saved.
    pub(super) fn update(&mut self) -> bool {
        let state = self.database.state();
        let facts = self.facts(&state);
        let was = self.mode;
        match was.trial(facts) {
            Trial::Unchanged => {}
            Trial::TrustAnswers => self.database.trust_answers(),
            Trial::SurveyAgain => self.replay.forget_survey(),
        }
        self.mode = was.next(facts);
        if self.mode != was {
            self.mode_since = Instant::now();
            let usage = self.journal.usage();
            info!(from = was.as_str(), to = self.mode.as_str(), records = usage.records, bytes = usage.bytes, "mode");
        }
        let begins = was != Mode::Journaling && self.mode == Mode::Journaling;
        let is_back = was == Mode::Journaling && self.mode == Mode::Replaying;
        if begins || is_back || (self.mode == Mode::Journaling && !state.answers) {
            self.replay.forget_survey();
        }
        if !self.journal.is_absent() {
            self.probe.tick(&self.journal);
        }
        self.start_append();
        begins
    }

    fn facts(&self, state: &State) -> Facts {
        Facts {
            has_journal: !self.journal.is_absent(),
            is_outage: !state.up && state.failure.is_some() && state.since.elapsed() >= self.outage_grace,
            is_up: state.up,
            answers: state.answers,
            is_drained: self.is_drained(),
            is_trial_over: self.replay.is_surveyed() && self.replay.is_idle(),
            has_problem: self.problem().is_some(),
        }
    }

    fn is_drained(&self) -> bool {
        (self.replay.is_covered(self.appends.ended()) || self.journal.usage().records == 0)
            && self.replay.is_idle()
            && self.appends.is_idle()
            && self.set_aside.is_empty()
    }

    /// Returns `true` if a survey is needed before the next regular one.
    pub(super) fn wants_survey(&self) -> bool {
        match self.mode {
            Mode::Streaming => false,
            Mode::Journaling => !self.replay.is_surveyed(),
            Mode::Replaying => {
                self.replay.is_idle() && !self.replay.has_surveyed(self.appends.ended()) && self.set_aside.may_retry()
            }
        }
    }

    /// Returns the number of appends that have ended.
    pub(super) fn appends(&self) -> u64 {
        self.appends.ended()
    }

    /// Saves sets to the journal.
    pub(super) fn save(&mut self, sets: impl IntoIterator<Item = MessageSet>) {
        for set in sets {
            self.appends.push(set);
        }
        self.start_append();
    }

    /// Keeps sets that wait for a lock. They are tried again like the journal's records; without a journal they wait in memory,
    /// charged to `budget`.
    pub(super) fn set_aside(&mut self, sets: Vec<MessageSet>, budget: &Budget) {
        if self.journal.is_absent() {
            self.locked.add(sets.iter().map(|set| set.detached(budget)));
            return;
        }
        for set in sets {
            self.set_aside.push(set);
        }
        if self.appends.has_failed() {
            // Sets that the journal refuses return from the attempt at the database: they are not tried again at once.
            self.set_aside.retry_later();
        }
        self.start_append();
    }

    /// Returns `true` if the set must wait as well, because so much of its partition waits for a lock that its progress cannot
    /// hold many more holes.
    pub(super) fn is_crowded(&self, set: &MessageSet) -> bool {
        self.set_aside.is_crowded(set.partition())
    }

    /// Returns a set that was not journaled before the database was available again: it is written directly.
    pub(super) fn take_waiting_for_append(&mut self) -> Option<MessageSet> {
        if self.mode == Mode::Journaling {
            return None;
        }
        self.appends.pop().or_else(|| self.take_refused())
    }

    /// Without a journal: returns a set that waits for a lock, if it is to be tried again.
    pub(super) fn take_locked(&mut self) -> Option<MessageSet> {
        self.locked.take()
    }

    /// Returns a set that waits for a lock if the journal refuses it: the database is tried again, at intervals.
    fn take_refused(&mut self) -> Option<MessageSet> {
        if !self.appends.has_failed() || self.appends.is_running() || !self.set_aside.may_retry() {
            return None;
        }
        let set = self.set_aside.pop();
        if self.set_aside.is_empty() {
            self.set_aside.retry_later();
        }
        set
    }

    fn start_append(&mut self) {
        // The end of an outage depends on the next record to be tried.
        let is_awaited = self.replay.is_surveyed() && !self.replay.has_records() && self.database.state().answers;
        self.appends.start(self.mode, is_awaited, &mut self.set_aside);
    }

    /// Returns the end of the next append; never ready while none is under way.
    pub(super) async fn next_append(&mut self) -> Appended {
        let done = self.appends.next().await;
        let appended = self.appends.on_appended(done, self.mode, &mut self.set_aside);
        self.start_append();
        appended
    }

    /// Records which of the journal's records the database has, and deletes the segments that it covers.
    pub(super) fn on_survey(&mut self, survey: &Survey) {
        if survey.without_progress == 0 {
            if let Some(ended) = self.log.ends(WITHOUT_PROGRESS) {
                info!(seconds = ended.seconds, "no record of the journal waits for the progress of its partition");
            }
        } else if let Some(repeated) = self.log.lasts(WITHOUT_PROGRESS, "") {
            warn!(
                records = survey.without_progress,
                seconds = repeated.seconds,
                "records of the journal wait: the database has no progress of their partitions, and this worker does not \
                 read them"
            );
        }
        let is_of_input = |record: &Record| self.inputs.is_configured(&record.partition.source);
        if !survey.missing.iter().any(is_of_input) {
            self.log.ends(OF_INPUTS);
        } else if self.log.lasts(OF_INPUTS, "").is_some() {
            info!("the journal's {DECODED_NOW}");
        }
        let has_all_appends = survey.appends == self.appends.ended();
        if has_all_appends && self.set_aside.is_empty() {
            self.set_aside.set_holes(&survey.missing);
        }
        self.replay.on_survey(survey);
        self.covered_segments.on_survey(survey, has_all_appends && self.appends.is_idle(), &self.journal);
    }

    /// Returns who may have the next of `writers` writers if `busy` of them are in use.
    fn next_writer(&self, busy: usize, writers: usize, memory_is_full: bool) -> NextWriter {
        let may_read = match self.mode {
            // What fills the memory waits for the end of the outage, and thus for this one record.
            Mode::Journaling => {
                !self.replay.is_replaying() && self.replay.is_surveyed() && self.database.state().answers
            }
            // What fills the memory may wait for room in the journal, which only replay can free.
            Mode::Streaming | Mode::Replaying => {
                !memory_is_full || (!self.replay.is_replaying() && !self.set_aside.is_empty())
            }
        };
        self.replay.next_writer(self.mode, may_read, busy, writers)
    }

    /// Returns `true` if a batch from Kafka may have one more of the `writers` writers if `busy` of them are in use.
    pub(super) fn may_write_live(&self, busy: usize, writers: usize, memory_is_full: bool) -> bool {
        self.next_writer(busy, writers, memory_is_full).may_be_live()
    }

    /// Returns the records for the next batch, if one may have a writer: no batch from Kafka needs it.
    /// Those of a source for which `is_on_trial` says so come alone.
    pub(super) fn next_records(
        &mut self,
        busy: usize,
        writers: usize,
        memory_is_full: bool,
        is_on_trial: impl Fn(&Source) -> bool,
    ) -> Option<Vec<Record>> {
        let may = self.next_writer(busy, writers, memory_is_full).may_be_journals();
        may.then(|| self.replay.next_records(self.mode, is_on_trial))
    }

    /// Has the records of these sources stay in the journal.
    pub(super) fn withhold(&mut self, is_withheld: impl Fn(&Source) -> bool) {
        self.replay.withhold(is_withheld);
    }

    /// Records that a batch from Kafka was handed to a writer.
    pub(super) fn on_live_batch(&mut self) {
        self.replay.on_live_batch();
    }

    /// Records the end of a batch of the journal, the reason why records of it could not be read (`unread`), and whether some
    /// of it waits for a lock.
    pub(super) fn on_replayed(&mut self, unread: Option<String>, waits: bool) {
        if waits {
            self.set_aside.retry_later();
        }
        self.replay.on_replayed(self.mode, unread, waits);
    }

    /// Records that the batches of the journal that were being written were aborted.
    pub(super) fn on_abandoned(&mut self) {
        self.replay.on_abandoned();
    }

    /// The journal's state for `/status`.
    pub(super) fn status(&self) -> Option<JournalStatus> {
        let usage = self.journal.usage();
        (!self.journal.is_absent()).then(|| JournalStatus {
            mode: self.mode.as_str(),
            mode_seconds: self.mode_since.elapsed().as_secs(),
            bytes: usage.bytes,
            limit_bytes: usage.limit_bytes,
            records: usage.records,
            quarantined_segments: usage.quarantined,
            lost_records: usage.lost,
        })
    }

    pub(super) fn measure(&self, now_ms: i64) {
        if self.journal.is_absent() {
            metrics::mode(self.mode.as_str(), true);
            return;
        }
        for mode in Mode::ALL {
            metrics::mode(mode.as_str(), mode == self.mode);
        }
        let usage = self.journal.usage();
        let oldest = usage.oldest_ms.filter(|oldest| is_plausible(*oldest, now_ms));
        let oldest = oldest.map_or(0.0, |oldest| (now_ms - oldest) as f64 / 1000.0);
        metrics::journal_up(self.problem().is_none());
        metrics::journal(usage.bytes, usage.limit_bytes, usage.records, oldest, usage.quarantined);
        metrics::journal_lost(usage.lost);
    }
}
