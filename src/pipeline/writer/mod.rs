//! One batch until it is committed: through outages, overlaps and refused rows. A writer never gives up.
//!
//! - `attempt`: the attempts to write one piece of a batch.
//! - `recreated`: drops what was read of a topic that was deleted and recreated.
//! - `writer_count`: the number of writers.

mod attempt;
mod recreated;
pub(super) mod writer_count;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::ExponentialBuilder;
use tracing::{debug, error};

use super::NextOffsets;
use super::topic_settings::PointsInSeries;
use crate::batch::{Batch, Tally};
use crate::config::{self, Config};
use crate::database::{Acceptance, Applied, ClaimOrder, Database, Oversized};
use crate::input::Decoder;
use crate::journal::{JournalHandle, ReadError, Record};
use crate::kafka::lookup::Lookup;
use crate::message::Rejected;
use crate::raw::{Budget, Interval, MessageAt, MessageSet, Partition, Source};
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics::{self, Step};
use attempt::Attempt;

/// The result of writing a batch.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The intervals that the batch covers.
    pub(super) intervals: Vec<Interval>,
    /// Points written now.
    pub(super) points: usize,
    /// Points that were applied already.
    pub(super) skipped: usize,
    /// Points omitted because their series was deleted after their messages were sent.
    pub(super) deleted: usize,
    /// Points without effect, because of others of the same series, column and time.
    pub(super) duplicates: usize,
    /// What became of the messages of each partition that has stored or rejected ones.
    pub(super) tallies: BTreeMap<Partition, Tally>,
    /// What the database knows then of sources whose messages were rejected, if they came from the journal.
    pub(super) acceptance: Vec<(Arc<Source>, Acceptance)>,
    /// By input and reason, how many messages became dead letters now, and the first of them: a storm of them is not held.
    pub(super) dead_letters: BTreeMap<(String, &'static str), (u64, MessageAt, Rejected)>,
    /// Number of these that are counted and not stored.
    pub(super) only_counted: u64,
    /// Number of these that are not even counted.
    pub(super) not_counted: u64,
    /// The next offset of each partition.
    pub(super) applied: Vec<Applied>,
    /// The next offset of each partition that was known before.
    pub(super) known: NextOffsets,
    /// Kafka's time of the oldest message.
    pub(super) oldest_ms: Option<i64>,
    /// `true` if the batch was dropped because the database has no progress row of a partition.
    pub(super) lost: bool,
    /// Intervals of journal records that could not be read.
    pub(super) damaged: Vec<Interval>,
    /// The reason why records of the journal could not be read now.
    pub(super) unread: Option<String>,
    /// `true` if the batch came from the journal.
    pub(super) replayed: bool,
    /// The batch's number, if the pipeline holds its messages.
    pub(super) number: u64,
    /// Messages that were not written because another session has locked what they need.
    pub(super) locked_messages: Vec<MessageSet>,
    /// Intervals that were not written, because their topic was recreated meanwhile.
    pub(super) of_deleted_topics: Vec<Interval>,
}

/// Writes batches.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    database: Database,
    lookup: Arc<Lookup>,
    points_in_series: PointsInSeries,
    decoder: Decoder,
    batch: config::Batch,
    backoff: ExponentialBuilder,
    longest_pause: Duration,
    log: LogLimit,
    /// Time after which locks of whole tables count as an outage.
    blocked_after: Duration,
}

impl Writer {
    pub(super) fn new(
        config: &Config,
        database: Database,
        lookup: Arc<Lookup>,
        points_in_series: PointsInSeries,
    ) -> Self {
        let backoff = config.database.backoff();
        Self {
            database,
            lookup,
            points_in_series,
            decoder: config.decoder(),
            batch: config.batch.clone(),
            backoff,
            longest_pause: Duration::from_millis(config.database.retry_max_ms),
            log: LogLimit::default(),
            blocked_after: database_blocked_after(config),
        }
    }

    /// Writes the batch, and returns when it is entirely committed.
    pub(super) async fn write(self, number: u64, batch: Batch, known: NextOffsets) -> Outcome {
        let intervals = batch.intervals();
        let mut outcome = Outcome { number, intervals, oldest_ms: batch.oldest_ms(), known, ..Outcome::default() };
        let batch = self.without_deleted_topics(batch, &mut outcome).await;
        self.write_pieces(batch, ClaimOrder::CopyFirst, outcome).await
    }

    /// Writes the messages of these records of the journal. Their topics were checked before they were journaled, and may have
    /// been deleted since.
    pub(super) async fn replay(
        self,
        journal: JournalHandle,
        records: Vec<Record>,
        known: NextOffsets,
        budget: Budget,
    ) -> Outcome {
        let empty = || Batch::charged(self.decoder.clone(), &budget);
        let mut batch = empty();
        let mut messages = budget.charge(0);
        let mut outcome = Outcome { replayed: true, known, ..Outcome::default() };
        for record in records {
            let interval = record.interval();
            outcome.intervals.push(interval.clone());
            match journal.read(record).await {
                Ok(set) => {
                    let begun = Instant::now();
                    let source = Arc::clone(set.source());
                    let counts = batch.push(set);
                    self.points_in_series.record(&source, counts);
                    metrics::step_took(Step::Decode, begun.elapsed());
                    metrics::unknown_fields(counts.unknown_fields as u64);
                    messages.resize(batch.message_bytes());
                }
                Err(failure @ ReadError::Damaged(_)) => {
                    if let Some(unlogged) = self.log.happened("record-damaged", 1) {
                        error!(unlogged, %failure, %interval, "a record of the journal is damaged; its messages are read from Kafka again");
                    }
                    outcome.damaged.push(interval);
                }
                // The record is still there, or the database has it: the next survey finds out.
                Err(failure) => {
                    debug!(%failure, %interval, "a record of the journal cannot be read now");
                    if let ReadError::Io { .. } = failure {
                        outcome.unread.get_or_insert_with(|| failure.to_string());
                    }
                    outcome.intervals.pop();
                }
            }
            if batch.is_full(self.batch.max_points, self.batch.max_bytes) {
                let full = std::mem::replace(&mut batch, empty());
                outcome = self.write_journaled(full, outcome).await;
                messages.resize(0);
                if outcome.lost {
                    return outcome;
                }
            }
        }
        let mut outcome = self.write_journaled(batch, outcome).await;
        outcome.acceptance = self.acceptance(&outcome).await;
        outcome
    }

    /// Asks what the database knows of sources with rejected messages and no stored one.
    async fn acceptance(&self, outcome: &Outcome) -> Vec<(Arc<Source>, Acceptance)> {
        let rejecting = outcome.tallies.iter().filter(|(_, tally)| tally.accepted == 0);
        let sources: BTreeSet<&Arc<Source>> = rejecting.map(|(partition, _)| &partition.source).collect();
        let mut known = Vec::new();
        for source in sources {
            match self.database.acceptance(source).await {
                Ok(acceptance) => known.push((Arc::clone(source), acceptance)),
                Err(failure) => debug!(%failure, "it is not known whether a source was accepted"),
            }
        }
        known
    }

    /// Writes a batch of the journal. The locks of the partitions are held during the commit only, so that new messages of them
    /// are written meanwhile.
    async fn write_journaled(&self, batch: Batch, mut outcome: Outcome) -> Outcome {
        if batch.is_empty() {
            return outcome;
        }
        outcome.oldest_ms = outcome.oldest_ms.into_iter().chain(batch.oldest_ms()).min();
        self.write_pieces(batch, ClaimOrder::CopyFirstFillingGaps, outcome).await
    }

    /// Writes a batch, in as many parts as the database requires.
    async fn write_pieces(&self, batch: Batch, order: ClaimOrder, mut outcome: Outcome) -> Outcome {
        let mut pieces = vec![(batch, order)];
        // Single messages that are written last.
        let mut slow_messages = VecDeque::new();
        loop {
            let next = pieces.pop().map(|(piece, order)| (piece, order, false));
            let Some((piece, order, is_slow)) =
                next.or_else(|| slow_messages.pop_front().map(|(piece, order)| (piece, order, true)))
            else {
                return outcome;
            };
            let piece = self.without_locked(piece, &mut outcome).await;
            if piece.is_empty() {
                continue;
            }
            let ended = self.write_piece(&piece, order, is_slow, &mut outcome).await;
            let order = order.claim_first();
            match ended {
                Attempt::Written => {}
                Attempt::NoProgress => {
                    outcome.lost = true;
                    return outcome;
                }
                // The last part is pushed first, so that the parts are written in the order of their offsets.
                Attempt::Split(parts) => {
                    pieces.extend(piece.split_into(parts).into_iter().rev().map(|part| (part, order)));
                }
                Attempt::Rejected(why) => pieces.push((piece.into_dead_letter(why), order)),
                Attempt::Slow => slow_messages.push_back((piece, order)),
                Attempt::Locked(needs) => {
                    pieces.push((Self::set_aside(&piece, &needs, &mut outcome), order));
                }
                Attempt::TooManyIslands => match piece.by_partition() {
                    // All parts wait, including those without messages.
                    Some(parts) => pieces.extend(parts.into_iter().map(|part| (part, order))),
                    None => outcome.locked_messages.extend(piece.sets().iter().cloned()),
                },
                Attempt::Oversized(all) => {
                    pieces.extend(without_oversized(piece, all).into_iter().map(|part| (part, order)));
                }
            }
        }
    }

    /// Returns the batch without the messages that need something that another session had locked at the last check, and still
    /// has.
    async fn without_locked(&self, batch: Batch, outcome: &mut Outcome) -> Batch {
        if !self.database.knows_locked() {
            return batch;
        }
        let needs = self.database.locked(&batch).await.messages_of(&batch, &[]);
        if needs.contains(&true) { Self::set_aside(&batch, &needs, outcome) } else { batch }
    }

    /// Returns the batch without these messages.
    fn set_aside(batch: &Batch, needs: &[bool], outcome: &mut Outcome) -> Batch {
        let (others, locked) = batch.set_aside(needs);
        debug!(messages = locked.iter().map(MessageSet::len).sum::<usize>(), "messages wait for what is locked");
        outcome.locked_messages.extend(locked);
        others
    }
}

/// Returns messages that are too large as dead letters, each in its own batch, and all others in the last batch.
fn without_oversized(piece: Batch, all: Vec<Oversized>) -> Vec<Batch> {
    let (mut parts, mut rest) = (Vec::new(), Some(piece));
    for Oversized { number, rejected } in all {
        let Some(piece) = rest.take() else { break };
        let alone = match piece.without_message(number) {
            Some((others, alone)) => {
                rest = Some(others);
                alone
            }
            None => piece,
        };
        parts.push(alone.into_dead_letter(rejected));
    }
    parts.extend(rest);
    parts
}

/// Twice the lock timeout of rows, so that a second attempt has met the lock, too.
fn database_blocked_after(config: &Config) -> Duration {
    let grace = config.database.outage_grace_ms.min(config.database.lock_timeout_ms);
    Duration::from_millis(2 * grace)
}
