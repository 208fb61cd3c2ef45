//! The modes, and what goes to the journal and comes back from it.
//!
//! - *Streaming*: messages go straight to the database.
//! - *Journaling*: the database is away; messages go to the journal instead. What was on its way to the database is
//!   journaled as well: it may have to outlive this process.
//! - *Replaying*: the database is back; what is journaled is written, oldest first, while new messages go straight again.
//!
//! A database that answers questions may still take no rows, with a full disk for instance. So a first record is written on
//! trial while the rest still goes to the journal, and the mode ends when that succeeds.
//!
//! What is drained is asked of the database's progress, again and again, by the surveys of `survey`. There is no other
//! record of it.

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::task::{JoinError, JoinSet};
use tracing::{error, info, warn};

use crate::config;
use crate::database::Database;
use crate::journal::{AppendError, JournalHandle, Record};
use crate::pipeline::is_plausible;
use crate::pipeline::partitions::InFlightPartitions;
use crate::pipeline::survey::Survey;
use crate::pipeline::writer::Writer;
use crate::raw::{Interval, MessageSet, Partition};
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics;

/// What one append takes at most, in bytes of messages.
const APPEND_BYTES: usize = 8 * 1024 * 1024;
/// How much may wait for an append before no more is taken, in bytes of messages.
const UNSAVED_BYTES: usize = 16 * 1024 * 1024;
/// How often it appends where little comes, and the journal has few records. Each append makes a record of each partition, and
/// each record takes memory.
const APPEND_EVERY: Duration = Duration::from_millis(100);
/// How often at least, however many records there are.
const APPEND_EVERY_MAX: Duration = Duration::from_secs(10);
/// With each so many records more, it appends less often, by [`APPEND_EVERY`].
const PACE_RECORDS: u64 = 10_000;
/// How long to wait after a failed append.
const APPEND_RETRY: Duration = Duration::from_secs(1);
/// How long an append may take before the journal counts as failed.
const APPEND_PATIENCE: Duration = Duration::from_secs(10);
/// How often the journal is looked at where nothing is appended.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// How long to wait before records that cannot be read are tried again, at first and at most.
const READ_RETRY: Duration = Duration::from_secs(1);
const READ_RETRY_MAX: Duration = Duration::from_secs(60);
/// What one batch takes of the journal at most, in bytes on disk, where messages are compressed.
const REPLAY_BYTES: u64 = 512 * 1024;

/// From how many holes on a partition is left alone until they are filled; its progress holds 1024 islands above them.
const CROWD: usize = 384;

/// How often records are tried at most that wait for what somebody has locked.
const TRY_LOCKED: Duration = Duration::from_secs(2);

/// Where messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pipeline) enum Mode {
    Streaming,
    Journaling,
    Replaying,
}

impl Mode {
    pub(in crate::pipeline) const ALL: [Self; 3] = [Self::Streaming, Self::Journaling, Self::Replaying];

    pub(in crate::pipeline) fn as_str(self) -> &'static str {
        match self {
            Self::Streaming => "streaming",
            Self::Journaling => "journaling",
            Self::Replaying => "replaying",
        }
    }
}

/// What an append has done.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Appended {
    /// Intervals that are durable now.
    pub(in crate::pipeline) saved: Vec<Interval>,
    /// Intervals that were dropped: their topic was deleted and made anew.
    pub(in crate::pipeline) dropped: Vec<Interval>,
    /// What was refused, and why.
    refused: Option<(Vec<MessageSet>, AppendError)>,
}

/// The journal's side of the pipeline.
pub(in crate::pipeline) struct Spill {
    journal: JournalHandle,
    database: Database,
    writer: Writer,
    outage_grace: Duration,
    segment_grace: Duration,
    mode: Mode,
    mode_since: Instant,
    unsaved: VecDeque<MessageSet>,
    unsaved_bytes: usize,
    /// What waits for what somebody has locked, and is to be journaled in any mode.
    aside: VecDeque<MessageSet>,
    /// How many holes such messages leave in a partition.
    holes: HashMap<Partition, usize>,
    /// Until when nothing is asked for before its time, because it waits for what is locked.
    locked_until: Instant,
    /// When the next append may begin, if no whole one is there before.
    append_at: Instant,
    /// How many sets the next append takes at most: fewer and fewer where there is little room.
    append_sets: usize,
    appending: JoinSet<Appended>,
    /// What the append that is under way holds, and since when.
    in_append: Vec<Interval>,
    /// Since when the journal has it; before, Kafka is asked about its topics.
    append_since: Arc<OnceLock<Instant>>,
    problem: Option<String>,
    /// The look at the journal that is under way, and since when; when the next one is due; what the last one found.
    probing: JoinSet<Result<(), AppendError>>,
    probing_since: Instant,
    probe_at: Instant,
    probe_problem: Option<String>,
    /// When an append or a probe last succeeded.
    took_at: Option<Instant>,
    replay: VecDeque<Record>,
    replaying: usize,
    /// Whether the next record on trial is the newest: the last one waits for somebody's lock.
    tries_newest: bool,
    /// Whether the last batch was one from Kafka.
    is_journals_turn: bool,
    /// Whether the journal was compared with the database since it came back, and since a batch of the journal was written.
    surveyed: bool,
    /// How many appends have ended, and how many of them the last survey has seen.
    appends: u64,
    surveyed_appends: u64,
    /// How many records the last survey found that the database does not have.
    undrained: usize,
    unread: Unread,
    covered_since: HashMap<u64, Instant>,
    removing: JoinSet<()>,
    log: LogLimit,
}

/// The states of the journal in the log.
const NOT_APPENDED: &str = "journal-append";
const WITHOUT_PROGRESS: &str = "journal-without-progress";

impl Spill {
    pub(in crate::pipeline) fn new(
        journal: JournalHandle,
        config: &config::Config,
        database: Database,
        writer: Writer,
    ) -> Self {
        Self {
            journal,
            database,
            writer,
            outage_grace: Duration::from_millis(config.database.outage_grace_ms),
            segment_grace: Duration::from_secs(config.journal.grace_s),
            mode: Mode::Streaming,
            mode_since: Instant::now(),
            unsaved: VecDeque::new(),
            unsaved_bytes: 0,
            aside: VecDeque::new(),
            holes: HashMap::new(),
            locked_until: Instant::now(),
            append_at: Instant::now(),
            append_sets: usize::MAX,
            appending: JoinSet::new(),
            in_append: Vec::new(),
            append_since: Arc::default(),
            problem: None,
            probing: JoinSet::new(),
            probing_since: Instant::now(),
            probe_at: Instant::now(),
            probe_problem: None,
            took_at: None,
            replay: VecDeque::new(),
            replaying: 0,
            tries_newest: false,
            is_journals_turn: false,
            surveyed: false,
            appends: 0,
            surveyed_appends: 0,
            undrained: 0,
            unread: Unread::new(),
            covered_since: HashMap::new(),
            removing: JoinSet::new(),
            log: LogLimit::default(),
        }
    }

    pub(in crate::pipeline) fn mode(&self) -> Mode {
        self.mode
    }

    pub(in crate::pipeline) fn mode_since(&self) -> Instant {
        self.mode_since
    }

    pub(in crate::pipeline) fn journal(&self) -> &JournalHandle {
        &self.journal
    }

    /// Why the journal takes nothing, or does not give back what it has.
    pub(in crate::pipeline) fn problem(&self) -> Option<String> {
        let hanging = |what: &str, since: Option<Instant>| {
            let seconds = since.map(|since| since.elapsed()).filter(|time| *time >= APPEND_PATIENCE)?.as_secs();
            Some(format!("{what} has taken {seconds} s: its disk does not answer"))
        };
        let append = self.append_since.get().copied().filter(|_| !self.appending.is_empty());
        let probe = (!self.probing.is_empty()).then_some(self.probing_since);
        self.problem
            .clone()
            .or_else(|| hanging("an append to the journal", append))
            .or_else(|| hanging("a look at the journal", probe))
            .or_else(|| self.probe_problem.clone())
            .or_else(|| self.unread.problem(self.undrained))
    }

    /// When the journal last took something, or was last seen to be able to.
    pub(in crate::pipeline) fn took_at(&self) -> Option<Instant> {
        self.took_at
    }

    /// Whether data waits for the journal if it has a problem.
    pub(in crate::pipeline) fn is_needed(&self) -> bool {
        self.mode == Mode::Journaling || self.unread.problem(self.undrained).is_some()
    }

    /// Has the journal looked at, if it is time, and notes what was found.
    fn probe(&mut self) {
        while let Some(done) = self.probing.try_join_next() {
            self.probe_problem = match done {
                Ok(Ok(())) => {
                    self.took_at = Some(Instant::now());
                    None
                }
                Ok(Err(failure)) => Some(failure.to_string()),
                Err(failure) => Some(format!("a look at the journal ended by a fault of ours: {failure}")),
            };
        }
        if self.probing.is_empty() && Instant::now() >= self.probe_at {
            (self.probing_since, self.probe_at) = (Instant::now(), Instant::now() + PROBE_EVERY);
            let journal = self.journal.clone();
            self.probing.spawn(async move { journal.probe().await });
        }
    }

    /// What was journaled and is not in the journal any more.
    pub(in crate::pipeline) fn take_lost(&mut self) -> Vec<Interval> {
        let lost = self.journal.take_lost();
        if !lost.is_empty() {
            // What waits to be written of them is not there, and a survey has to find out what is left.
            self.replay.clear();
            self.surveyed = false;
        }
        lost
    }

    /// Whether messages are to be given to [`Spill::save`] now, or not even that.
    pub(in crate::pipeline) fn may_take(&self) -> bool {
        self.unsaved_bytes < UNSAVED_BYTES
    }

    /// Looks at the database's well-being; whether an outage begins now, so that what is on its way has to be saved.
    pub(in crate::pipeline) fn update(&mut self) -> bool {
        let state = self.database.state();
        let is_outage = !state.up && state.failure.is_some() && state.since.elapsed() >= self.outage_grace;
        let was = self.mode;
        match self.mode {
            Mode::Streaming | Mode::Replaying if is_outage => self.mode = Mode::Journaling,
            Mode::Journaling if state.up => self.mode = Mode::Replaying,
            Mode::Journaling if state.answers && self.surveyed && self.replay.is_empty() && self.replaying == 0 => {
                if self.is_drained() || self.problem().is_some() {
                    // There is nothing to write on trial; or the journal takes nothing, and what waits for it in memory is
                    // the trial.
                    self.database.trust_answers();
                } else {
                    self.surveyed = false;
                }
            }
            Mode::Replaying if self.is_drained() => self.mode = Mode::Streaming,
            // A journal that was left behind by an earlier process.
            Mode::Streaming if !self.is_drained() => self.mode = Mode::Replaying,
            _ => {}
        }
        if self.mode != was {
            self.mode_since = Instant::now();
            let usage = self.journal.usage();
            info!(from = was.as_str(), to = self.mode.as_str(), records = usage.records, bytes = usage.bytes, "mode");
        }
        let begins = was != Mode::Journaling && self.mode == Mode::Journaling;
        let is_back = was == Mode::Journaling && self.mode == Mode::Replaying;
        if begins || is_back || (self.mode == Mode::Journaling && !state.answers) {
            self.surveyed = false;
        }
        self.probe();
        self.pump();
        begins
    }

    /// Whether a survey is wanted before its time.
    pub(in crate::pipeline) fn wants_survey(&self) -> bool {
        let is_idle = self.replay.is_empty() && self.replaying == 0;
        match self.mode {
            Mode::Streaming => false,
            Mode::Journaling => !self.surveyed,
            Mode::Replaying => {
                is_idle
                    && (!self.surveyed || self.surveyed_appends != self.appends)
                    && Instant::now() >= self.locked_until
            }
        }
    }

    /// How many appends have ended.
    pub(in crate::pipeline) fn appends(&self) -> u64 {
        self.appends
    }

    fn is_drained(&self) -> bool {
        let is_covered = self.surveyed && self.surveyed_appends == self.appends && self.undrained == 0;
        (is_covered || self.journal.usage().records == 0)
            && self.replay.is_empty()
            && self.replaying == 0
            && self.unsaved.is_empty()
            && self.aside.is_empty()
            && self.appending.is_empty()
    }

    /// Takes sets for the journal.
    pub(in crate::pipeline) fn save(&mut self, sets: impl IntoIterator<Item = MessageSet>) {
        for set in sets {
            self.unsaved_bytes += set.bytes();
            self.unsaved.push_back(set);
        }
        self.pump();
    }

    /// Takes sets that wait for what somebody has locked. They are tried again as the journal's records are.
    pub(in crate::pipeline) fn set_aside(&mut self, sets: impl IntoIterator<Item = MessageSet>) {
        for set in sets {
            *self.holes.entry(set.partition().clone()).or_default() += 1;
            self.aside.push_back(set);
        }
        if self.problem.is_some() {
            // What the journal refuses comes back from the database's side: not at once again.
            self.locked_until = Instant::now() + TRY_LOCKED;
        }
        self.pump();
    }

    /// Whether so many messages of the set's partition wait for what is locked that its progress cannot hold many more holes: the
    /// set is then to wait as well.
    pub(in crate::pipeline) fn is_crowded(&self, set: &MessageSet) -> bool {
        let holes = (!self.holes.is_empty()).then(|| self.holes.get(set.partition()));
        holes.flatten().is_some_and(|holes| *holes >= CROWD)
    }

    /// What was not journaled before the database came back; it goes there straight.
    pub(in crate::pipeline) fn take_unsaved(&mut self) -> Option<MessageSet> {
        if self.mode == Mode::Journaling {
            return None;
        }
        if self.unsaved.is_empty() {
            return self.take_refused_aside();
        }
        let set = self.unsaved.pop_front()?;
        self.unsaved_bytes = self.unsaved_bytes.saturating_sub(set.bytes());
        self.problem = None;
        Some(set)
    }

    /// What waits for what is locked, if the journal does not take it: the database is tried again, once in a while.
    fn take_refused_aside(&mut self) -> Option<MessageSet> {
        let may = self.problem.is_some() && self.appending.is_empty() && Instant::now() >= self.locked_until;
        let set = may.then(|| self.aside.pop_front()).flatten();
        if may && self.aside.is_empty() {
            self.locked_until = Instant::now() + TRY_LOCKED;
        }
        set
    }

    /// Starts an append, if there is something to append and none is under way: what comes meanwhile goes with the next.
    fn pump(&mut self) {
        let has_unsaved = self.mode == Mode::Journaling && !self.unsaved.is_empty();
        let may = self.appending.is_empty() && (has_unsaved || !self.aside.is_empty());
        // What the end of an outage waits for is not to wait itself.
        let is_awaited = self.surveyed && self.replay.is_empty() && self.database.state().answers;
        let is_due = Instant::now() >= self.append_at
            || (self.problem.is_none() && (self.unsaved_bytes >= APPEND_BYTES || is_awaited));
        if !may || !is_due {
            return;
        }
        self.append_at = Instant::now() + append_every(self.journal.usage().records);
        let mut sets = Vec::new();
        let mut bytes = 0;
        let mut unsaved = has_unsaved.then_some(&mut self.unsaved);
        while let Some(set) =
            self.aside.pop_front().or_else(|| unsaved.as_mut().and_then(|unsaved| unsaved.pop_front()))
        {
            bytes += set.bytes();
            sets.push(set);
            if bytes >= APPEND_BYTES || sets.len() >= self.append_sets {
                break;
            }
        }
        self.in_append = sets.iter().map(MessageSet::interval).collect();
        self.append_since = Arc::default();
        let since = Arc::clone(&self.append_since);
        let (journal, writer) = (self.journal.clone(), self.writer.clone());
        self.appending.spawn(async move {
            // What was read of a topic that is now another one must not be kept under the old one's name.
            let (sets, dropped) = writer.without_deleted(sets).await;
            let intervals = sets.iter().map(MessageSet::interval).collect();
            since.get_or_init(Instant::now);
            match journal.append(sets.clone()).await {
                Ok(()) => Appended { saved: intervals, dropped, refused: None },
                Err(failure) => Appended { saved: Vec::new(), dropped, refused: Some((sets, failure)) },
            }
        });
    }

    /// The end of the next append; never ready while none is under way.
    pub(in crate::pipeline) async fn appended(&mut self) -> Appended {
        let Some(done) = self.appending.join_next().await else { return pending().await };
        let appended = self.note_appended(done);
        self.pump();
        appended
    }

    fn note_appended(&mut self, done: Result<Appended, JoinError>) -> Appended {
        self.unsaved_bytes = self.unsaved.iter().map(MessageSet::bytes).sum();
        let in_append = std::mem::take(&mut self.in_append);
        let mut appended = match done {
            Ok(appended) => appended,
            Err(failure) => {
                // What it held is not on its way any more: a survey finds it missing, and has it read again.
                error!(%failure, "an append ended by a fault of ours");
                return Appended { dropped: in_append, ..Appended::default() };
            }
        };
        self.appends += 1;
        let Some((sets, failure)) = appended.refused.take() else {
            self.problem = None;
            self.took_at = Some(Instant::now());
            if let Some(ended) = self.log.ends(NOT_APPENDED) {
                info!(seconds = ended.seconds, "messages are journaled again");
            }
            self.append_sets = usize::MAX;
            return appended;
        };
        if sets.len() > 1 && matches!(failure, AppendError::Full { .. }) {
            // There may be room for less.
            self.append_sets = sets.len() / 2;
            self.append_at = Instant::now();
        } else {
            if let Some(repeated) = self.log.lasts(NOT_APPENDED, &failure.to_string()) {
                let (seconds, unlogged) = (repeated.seconds, repeated.unlogged);
                warn!(
                    %failure, seconds, unlogged,
                    "messages are not journaled; they are kept in memory, and reading pauses"
                );
            }
            self.problem = Some(failure.to_string());
            self.append_at = Instant::now() + APPEND_RETRY;
        }
        for set in sets.into_iter().rev() {
            if self.mode == Mode::Journaling {
                self.unsaved_bytes += set.bytes();
                self.unsaved.push_front(set);
            } else {
                self.aside.push_front(set);
            }
        }
        appended
    }

    /// Notes what of the journal the database has, and lets go of segments that it covers.
    pub(in crate::pipeline) fn note_survey(&mut self, survey: &Survey) {
        self.surveyed = true;
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
        if survey.appends == self.appends && self.aside.is_empty() {
            self.holes = holes(&survey.missing);
        }
        if self.replaying == 0 {
            self.surveyed_appends = survey.appends;
            self.undrained = survey.missing.len();
            self.replay = match self.unread.may_read() {
                true => survey.missing.iter().cloned().collect(),
                false => VecDeque::new(),
            };
        }
        let covered = &survey.covered_segments;
        self.covered_since.retain(|segment, _| covered.iter().any(|(number, _)| number == segment));
        for (segment, _) in covered {
            self.covered_since.entry(*segment).or_insert_with(Instant::now);
        }
        // The segment being written goes as well, where nothing was added to the journal since it was looked at.
        let unchanged = survey.appends == self.appends && self.appending.is_empty() && self.unsaved.is_empty();
        // After a failover the database may have lost its last commits: for a while the journal still has them.
        let due: Vec<u64> = covered
            .iter()
            .filter(|(segment, sealed)| {
                (*sealed || unchanged) && self.covered_since[segment].elapsed() >= self.segment_grace
            })
            .map(|(segment, _)| *segment)
            .collect();
        #[cfg(feature = "planted-bugs")]
        let due = if crate::planted_bugs::is_on("journal-segment-deleted-early") {
            survey.missing.iter().map(|record| record.segment).collect()
        } else {
            due
        };
        while self.removing.try_join_next().is_some() {}
        // One at a time, and beside the loop: each takes a sync of the directory. The journal's thread takes it before any
        // append that is asked for later.
        if !due.is_empty() && self.removing.is_empty() {
            self.removing.spawn(self.journal.remove_segments(due));
        }
    }

    /// Whether the journal has something for the next free writer.
    fn has_next(&self, memory_is_full: bool) -> bool {
        let may = match self.mode {
            // What fills the memory waits for the end of the outage, and so for this one record.
            Mode::Journaling => self.replaying == 0 && self.surveyed && self.database.state().answers,
            // What fills the memory may be what waits for room in the journal, which comes from what is written of it.
            Mode::Streaming | Mode::Replaying => !memory_is_full || (self.replaying == 0 && !self.aside.is_empty()),
        };
        may && !self.replay.is_empty()
    }

    /// Whether what comes from Kafka may have one more of the writers, of which so many are busy: one is kept for the journal
    /// where it has something. A single writer they have in turn.
    pub(in crate::pipeline) fn may_write_live(&self, busy: usize, writers: usize, memory_is_full: bool) -> bool {
        if self.mode == Mode::Journaling || !self.has_next(memory_is_full) {
            true
        } else if writers == 1 {
            !self.is_journals_turn
        } else {
            busy.saturating_sub(self.replaying) < writers - 1
        }
    }

    /// Notes that a batch from Kafka was handed to a writer.
    pub(in crate::pipeline) fn live_has_gone(&mut self) {
        self.is_journals_turn = true;
    }

    /// The records for the next batch, if it is time for them: `free` writers have nothing else to do.
    pub(in crate::pipeline) fn next_records(
        &mut self,
        free: usize,
        writers: usize,
        memory_is_full: bool,
    ) -> Option<Vec<Record>> {
        // One writer is kept for what comes from Kafka; the journal has the others, whatever comes from there.
        let has_writer = free > 0 && (self.replaying + 1 < writers || (writers == 1 && free == 1));
        if !self.has_next(memory_is_full) || (self.mode != Mode::Journaling && !has_writer) {
            return None;
        }
        self.is_journals_turn = false;
        let mut records = Vec::new();
        if self.mode == Mode::Journaling {
            // What one waits for is mostly what its neighbours in time wait for as well.
            records.extend(if self.tries_newest { self.replay.pop_back() } else { self.replay.pop_front() });
            self.replaying += 1;
            return Some(records);
        }
        let mut bytes = 0;
        while let Some(record) = self.replay.front() {
            if bytes > 0 && bytes + record.bytes() > REPLAY_BYTES {
                break;
            }
            bytes += record.bytes();
            records.extend(self.replay.pop_front());
        }
        self.replaying += 1;
        Some(records)
    }

    /// Notes that a batch of the journal's is done, why records of it could not be read now, and whether some of it waits
    /// for what somebody has locked.
    pub(in crate::pipeline) fn replayed(&mut self, unread: Option<String>, waits: bool) {
        self.replaying = self.replaying.saturating_sub(1);
        if self.mode != Mode::Journaling {
            self.surveyed = false;
        }
        self.unread.note(unread);
        self.tries_newest = waits && !self.tries_newest;
        if waits {
            self.locked_until = Instant::now() + TRY_LOCKED;
        }
        if self.replay.is_empty() && self.replaying == 0 {
            self.unread.end_of_round();
        }
    }

    /// Notes that the batches of the journal's that were being written were given up.
    pub(in crate::pipeline) fn abandoned(&mut self) {
        self.replaying = 0;
        self.replay.clear();
    }

    pub(in crate::pipeline) fn measure(&self, now_ms: i64) {
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

/// Records that cannot be read now. They are not drained: they are tried again, in rounds over all that the database lacks.
#[derive(Debug)]
struct Unread {
    why: Option<String>,
    /// Whether some were found in this round.
    is_in_round: bool,
    next_round: Instant,
    pause: Duration,
}

impl Unread {
    fn new() -> Self {
        Self { why: None, is_in_round: false, next_round: Instant::now(), pause: READ_RETRY }
    }

    fn problem(&self, undrained: usize) -> Option<String> {
        let why = self.why.as_ref().filter(|_| undrained > 0)?;
        Some(format!("{undrained} records of the journal are not in the database and cannot all be read: {why}"))
    }

    fn note(&mut self, unread: Option<String>) {
        if let Some(why) = unread {
            (self.why, self.is_in_round) = (Some(why), true);
        }
    }

    fn end_of_round(&mut self) {
        if std::mem::take(&mut self.is_in_round) {
            self.next_round = Instant::now() + self.pause;
            self.pause = (self.pause * 2).min(READ_RETRY_MAX);
        } else {
            *self = Self::new();
        }
    }

    fn may_read(&self) -> bool {
        Instant::now() >= self.next_round
    }
}

/// How many holes in each partition these records would fill; those that touch fill one.
fn holes(records: &[Record]) -> HashMap<Partition, usize> {
    let mut intervals = InFlightPartitions::new();
    for record in records {
        let key = record.partition.clone();
        intervals.entry(key).or_default().push((record.from, record.until));
    }
    let count = |mut all: Vec<(i64, i64)>| {
        all.sort_unstable();
        let mut reached = i64::MIN;
        let begins = |(from, until): &(i64, i64)| {
            let begins = *from > reached;
            reached = reached.max(*until);
            begins
        };
        all.into_iter().filter(begins).count()
    };
    intervals.into_iter().map(|(key, all)| (key, count(all))).collect()
}

/// How long to wait between two appends, with so many records in the journal.
fn append_every(records: u64) -> Duration {
    let times = u32::try_from(1 + records / PACE_RECORDS).unwrap_or(u32::MAX);
    APPEND_EVERY.saturating_mul(times).min(APPEND_EVERY_MAX)
}
