//! Appends to the journal, one at a time, and the messages that wait for the next one.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::task::{JoinError, JoinSet};
use tracing::{error, info, warn};

use super::mode::Mode;
use super::set_aside::SetAside;
use crate::journal::{AppendError, JournalHandle};
use crate::pipeline::writer::Writer;
use crate::raw::{Interval, MessageSet};
use crate::telemetry::log_limit::LogLimit;

/// Maximum size of one append, in bytes of messages.
const MAX_APPEND_BYTES: usize = 8 * 1024 * 1024;
/// Maximum size of the messages that wait for an append, in bytes; above it no more are accepted.
const MAX_WAITING_BYTES: usize = 16 * 1024 * 1024;
/// Interval between two appends if few messages arrive and the journal has few records. Each append writes a record for each
/// partition, and each record takes memory.
const APPEND_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum of this interval, for any number of records.
const MAX_APPEND_INTERVAL: Duration = Duration::from_secs(10);
/// Number of records for which the interval grows by [`APPEND_INTERVAL`].
const RECORDS_PER_INTERVAL: u64 = 10_000;
/// Delay after a failed append.
const APPEND_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Time after which an append or a probe that has not ended counts as failed.
const HANGING_AFTER: Duration = Duration::from_secs(10);

/// The state of the journal in the log.
const NOT_APPENDED: &str = "journal-append";

/// The result of an append.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Appended {
    /// Intervals that are durable now.
    pub(in crate::pipeline) saved: Vec<Interval>,
    /// Intervals that were dropped: their topic was deleted and recreated.
    pub(in crate::pipeline) dropped: Vec<Interval>,
    /// The sets that were refused, and the reason.
    refused: Option<(Vec<MessageSet>, AppendError)>,
}

/// The append that is under way, and the messages that wait for the next one.
pub(super) struct Appends {
    journal: JournalHandle,
    writer: Writer,
    waiting_for_append: VecDeque<MessageSet>,
    /// Size of the messages that wait or are being appended, in bytes.
    waiting_bytes: usize,
    /// The time from which the next append may begin, unless a full one is waiting.
    next_at: Instant,
    /// Maximum number of sets in the next append; it is halved while the journal has too little room.
    max_sets: usize,
    running: JoinSet<Appended>,
    /// The intervals in the append that is under way.
    in_append: Vec<Interval>,
    /// When the journal received it; Kafka is asked about its topics before.
    running_since: Arc<OnceLock<Instant>>,
    /// The reason why the last append failed.
    problem: Option<String>,
    succeeded_at: Option<Instant>,
    /// The number of appends that have ended.
    ended: u64,
    log: LogLimit,
}

impl Appends {
    pub(super) fn new(journal: JournalHandle, writer: Writer) -> Self {
        Self {
            journal,
            writer,
            waiting_for_append: VecDeque::new(),
            waiting_bytes: 0,
            next_at: Instant::now(),
            max_sets: usize::MAX,
            running: JoinSet::new(),
            in_append: Vec::new(),
            running_since: Arc::default(),
            problem: None,
            succeeded_at: None,
            ended: 0,
            log: LogLimit::default(),
        }
    }

    /// Returns the reason why the journal accepts nothing.
    pub(super) fn problem(&self) -> Option<String> {
        let since = self.running_since.get().copied().filter(|_| self.is_running());
        self.problem.clone().or_else(|| hanging("an append to the journal", since))
    }

    /// Returns `true` if the last append failed.
    pub(super) fn has_failed(&self) -> bool {
        self.problem.is_some()
    }

    pub(super) fn succeeded_at(&self) -> Option<Instant> {
        self.succeeded_at
    }

    /// Returns the number of appends that have ended.
    pub(super) fn ended(&self) -> u64 {
        self.ended
    }

    pub(super) fn is_running(&self) -> bool {
        !self.running.is_empty()
    }

    /// Returns `true` if nothing waits for an append and none is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting_for_append.is_empty() && !self.is_running()
    }

    /// Returns `true` if there is room for more sets.
    pub(super) fn may_take(&self) -> bool {
        self.waiting_bytes < MAX_WAITING_BYTES
    }

    pub(super) fn push(&mut self, set: MessageSet) {
        self.waiting_bytes += set.bytes();
        self.waiting_for_append.push_back(set);
    }

    /// Returns a set that waits for an append, to be written to the database instead.
    pub(super) fn pop(&mut self) -> Option<MessageSet> {
        let set = self.waiting_for_append.pop_front()?;
        self.waiting_bytes = self.waiting_bytes.saturating_sub(set.bytes());
        self.problem = None;
        Some(set)
    }

    /// Starts an append, if there is something to append and none is under way; messages that arrive meanwhile are part of the
    /// next one. If `is_awaited`, the end of an outage depends on this append, so that it begins at once.
    pub(super) fn start(&mut self, mode: Mode, is_awaited: bool, set_aside: &mut SetAside) {
        let takes_waiting = mode == Mode::Journaling && !self.waiting_for_append.is_empty();
        let may = !self.is_running() && (takes_waiting || !set_aside.is_empty());
        let is_due = Instant::now() >= self.next_at
            || (self.problem.is_none() && (self.waiting_bytes >= MAX_APPEND_BYTES || is_awaited));
        if !may || !is_due {
            return;
        }
        self.next_at = Instant::now() + append_interval(self.journal.usage().records);
        let mut sets = Vec::new();
        let mut bytes = 0;
        let mut waiting = takes_waiting.then_some(&mut self.waiting_for_append);
        while let Some(set) = set_aside.pop().or_else(|| waiting.as_mut().and_then(|waiting| waiting.pop_front())) {
            bytes += set.bytes();
            sets.push(set);
            if bytes >= MAX_APPEND_BYTES || sets.len() >= self.max_sets {
                break;
            }
        }
        self.in_append = sets.iter().map(MessageSet::interval).collect();
        self.running_since = Arc::default();
        let since = Arc::clone(&self.running_since);
        self.running.spawn(append(self.journal.clone(), self.writer.clone(), sets, since));
    }

    /// Returns the end of the append that is under way; never ready while there is none.
    pub(super) async fn next(&mut self) -> Result<Appended, JoinError> {
        match self.running.join_next().await {
            Some(done) => done,
            None => pending().await,
        }
    }

    /// Records the result of an append. Refused sets wait for the next one.
    pub(super) fn on_appended(
        &mut self,
        done: Result<Appended, JoinError>,
        mode: Mode,
        set_aside: &mut SetAside,
    ) -> Appended {
        self.waiting_bytes = self.waiting_for_append.iter().map(MessageSet::bytes).sum();
        let in_append = std::mem::take(&mut self.in_append);
        let mut appended = match done {
            Ok(appended) => appended,
            Err(failure) => {
                // Its intervals are no longer in flight: a survey finds them missing, and has them read again.
                error!(%failure, "an append ended by an internal error");
                return Appended { dropped: in_append, ..Appended::default() };
            }
        };
        self.ended += 1;
        match appended.refused.take() {
            None => self.record_success(),
            Some((sets, failure)) => {
                self.record_failure(&failure, sets.len());
                for set in sets.into_iter().rev() {
                    if mode == Mode::Journaling {
                        self.waiting_bytes += set.bytes();
                        self.waiting_for_append.push_front(set);
                    } else {
                        set_aside.push_refused(set);
                    }
                }
            }
        }
        appended
    }

    fn record_success(&mut self) {
        self.problem = None;
        self.succeeded_at = Some(Instant::now());
        if let Some(ended) = self.log.ends(NOT_APPENDED) {
            info!(seconds = ended.seconds, "messages are journaled again");
        }
        self.max_sets = usize::MAX;
    }

    /// Records that an append of `sets` sets was refused.
    fn record_failure(&mut self, failure: &AppendError, sets: usize) {
        if sets > 1 && matches!(failure, AppendError::Full { .. }) {
            // There may be room for fewer.
            self.max_sets = sets / 2;
            self.next_at = Instant::now();
            return;
        }
        if let Some(repeated) = self.log.lasts(NOT_APPENDED, &failure.to_string()) {
            let (seconds, unlogged) = (repeated.seconds, repeated.unlogged);
            warn!(
                %failure, seconds, unlogged,
                "messages are not journaled; they are kept in memory, and reading pauses"
            );
        }
        self.problem = Some(failure.to_string());
        self.next_at = Instant::now() + APPEND_RETRY_INTERVAL;
    }
}

async fn append(
    journal: JournalHandle,
    writer: Writer,
    sets: Vec<MessageSet>,
    since: Arc<OnceLock<Instant>>,
) -> Appended {
    // Messages of a topic that was recreated must not be stored under the old topic's id.
    let (sets, dropped) = writer.without_deleted(sets).await;
    let intervals = sets.iter().map(MessageSet::interval).collect();
    since.get_or_init(Instant::now);
    match journal.append(sets.clone()).await {
        Ok(()) => Appended { saved: intervals, dropped, refused: None },
        Err(failure) => Appended { saved: Vec::new(), dropped, refused: Some((sets, failure)) },
    }
}

/// Returns the problem of an operation on the journal's disk that began at `since` and takes too long.
pub(super) fn hanging(what: &str, since: Option<Instant>) -> Option<String> {
    let seconds = since.map(|since| since.elapsed()).filter(|time| *time >= HANGING_AFTER)?.as_secs();
    Some(format!("{what} has taken {seconds} s: its disk does not answer"))
}

/// Returns the time between two appends, for this number of records in the journal.
fn append_interval(records: u64) -> Duration {
    let times = u32::try_from(1 + records / RECORDS_PER_INTERVAL).unwrap_or(u32::MAX);
    APPEND_INTERVAL.saturating_mul(times).min(MAX_APPEND_INTERVAL)
}
