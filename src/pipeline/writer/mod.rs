//! One batch until it is committed: through outages, overlaps and refused rows. A writer gives up nothing.

pub(super) mod writer_count;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use tracing::{debug, error, info, warn};

use super::NextOffsets;
use super::topic_settings::PointsInSeries;
use crate::batch::Batch;
use crate::config::{self, Config};
use crate::database::verdict::{Attempts, Failed, Verdict, verdict};
use crate::database::{self, Applied, Class, Database, Oversized, Path, Written};
use crate::journal::{JournalHandle, ReadError, Record};
use crate::kafka::lookup::Lookup;
use crate::message::{Decoder, Limits, Rejected};
use crate::raw::{Budget, Interval, MessageAt, MessageSet, Source};
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics::{self, Step};

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// What the batch covers.
    pub(super) intervals: Vec<Interval>,
    /// Points written now.
    pub(super) points: usize,
    /// Points that were applied already.
    pub(super) skipped: usize,
    /// Points that change nothing, because of others of the same series, column and time.
    pub(super) duplicates: usize,
    /// By reason, how many messages became dead letters now, and the first of them: a storm of them is not held.
    pub(super) dead_letters: BTreeMap<&'static str, (u64, MessageAt, Rejected)>,
    /// How many of these are counted, and not stored.
    pub(super) only_counted: u64,
    /// How many are not even counted.
    pub(super) not_counted: u64,
    /// The next offset of each partition.
    pub(super) applied: Vec<Applied>,
    /// The next offset of each partition as it was known before.
    pub(super) known: NextOffsets,
    /// The oldest message's Kafka time.
    pub(super) oldest_ms: Option<i64>,
    /// Whether the batch was dropped because the database has no progress row of a partition.
    pub(super) lost: bool,
    /// Intervals of journal records that could not be read.
    pub(super) damaged: Vec<Interval>,
    /// Why records of the journal could not be read now.
    pub(super) unread: Option<String>,
    /// Whether the batch came from the journal.
    pub(super) replayed: bool,
    /// The batch's number, where the pipeline holds its messages.
    pub(super) number: u64,
    /// What was not written because somebody has locked what it needs.
    pub(super) aside: Vec<MessageSet>,
    /// Intervals that were not written, because their topic was made anew meanwhile.
    pub(super) of_deleted_topics: Vec<Interval>,
}

/// Writes batches.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    database: Database,
    lookup: Arc<Lookup>,
    points_in_series: PointsInSeries,
    limits: Limits,
    batch: config::Batch,
    backoff: ExponentialBuilder,
    longest_pause: Duration,
    log: LogLimit,
    /// How long locks of whole tables may last before nothing can be written.
    blocked_after: Duration,
}

/// The state of a database that does not write batches, in the log.
const NOT_WRITTEN: &str = "write";

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
            limits: config.message.limits(),
            batch: config.batch.clone(),
            backoff,
            longest_pause: Duration::from_millis(config.database.retry_max_ms),
            log: LogLimit::default(),
            blocked_after: database_blocked_after(config),
        }
    }

    /// Writes the batch, and answers when all of it is committed.
    pub(super) async fn write(self, number: u64, batch: Batch, known: NextOffsets) -> Outcome {
        let intervals = batch.intervals();
        let mut outcome = Outcome { number, intervals, oldest_ms: batch.oldest_ms(), known, ..Outcome::default() };
        let mut decoder = Decoder::new(self.limits.clone());
        let batch = self.without_deleted_topics(batch, &mut decoder, &mut outcome).await;
        self.write_pieces(batch, Path::Fast, &mut decoder, outcome).await
    }

    /// Writes what the journal has of these records. Their topics were looked at before they were journaled, and may be gone
    /// since.
    pub(super) async fn replay(
        self,
        journal: JournalHandle,
        records: Vec<Record>,
        known: NextOffsets,
        budget: Budget,
    ) -> Outcome {
        let mut decoder = Decoder::new(self.limits.clone());
        let mut batch = Batch::new(&budget);
        let mut messages = budget.charge(0);
        let mut outcome = Outcome { replayed: true, known, ..Outcome::default() };
        for record in records {
            let interval = record.interval();
            outcome.intervals.push(interval.clone());
            match journal.read(record).await {
                Ok(set) => {
                    let begun = Instant::now();
                    let source = Arc::clone(set.source());
                    let counts = batch.push(set, &mut decoder);
                    self.points_in_series.note(&source, counts);
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
                // It is still there, or the database has it: the next survey finds out.
                Err(failure) => {
                    debug!(%failure, %interval, "a record of the journal cannot be read now");
                    if let ReadError::Io { .. } = failure {
                        outcome.unread.get_or_insert_with(|| failure.to_string());
                    }
                    outcome.intervals.pop();
                }
            }
            if batch.points().len() >= self.batch.max_points || batch.message_bytes() >= self.batch.max_bytes {
                let full = std::mem::replace(&mut batch, Batch::new(&budget));
                outcome = self.write_journaled(full, &mut decoder, outcome).await;
                messages.resize(0);
                if outcome.lost {
                    return outcome;
                }
            }
        }
        self.write_journaled(batch, &mut decoder, outcome).await
    }

    /// The locks of the partitions are held for the commit only: new messages of them are written meanwhile.
    async fn write_journaled(&self, batch: Batch, decoder: &mut Decoder, mut outcome: Outcome) -> Outcome {
        if batch.is_empty() {
            return outcome;
        }
        outcome.oldest_ms = outcome.oldest_ms.into_iter().chain(batch.oldest_ms()).min();
        self.write_pieces(batch, Path::JournalFast, decoder, outcome).await
    }

    /// Writes a batch, in as many parts as the database asks for.
    async fn write_pieces(&self, batch: Batch, path: Path, decoder: &mut Decoder, mut outcome: Outcome) -> Outcome {
        let mut pieces = vec![(batch, path)];
        // Single messages that are written when no other waits for them.
        let mut slow_messages = VecDeque::new();
        loop {
            let next = pieces.pop().map(|(piece, path)| (piece, path, false));
            let Some((piece, path, is_slow)) =
                next.or_else(|| slow_messages.pop_front().map(|(piece, path)| (piece, path, true)))
            else {
                return outcome;
            };
            let piece = self.without_locked(piece, decoder, &mut outcome).await;
            if piece.is_empty() {
                continue;
            }
            let ended = self.write_piece(&piece, path, is_slow, decoder, &mut outcome).await;
            let path = path.after_doubt();
            match ended {
                Piece::Written => {}
                Piece::NoProgress => {
                    outcome.lost = true;
                    return outcome;
                }
                // The last part goes below, so that the parts are written in the order of their offsets.
                Piece::Split(parts) => {
                    pieces.extend(piece.split_into(parts, decoder).into_iter().rev().map(|part| (part, path)));
                }
                Piece::Rejected(why) => pieces.push((piece.into_dead_letter(why), path)),
                Piece::Slow => slow_messages.push_back((piece, path)),
                Piece::Locked(needs) => {
                    pieces.push((Self::set_aside(&piece, &needs, decoder, &mut outcome), path));
                }
                Piece::TooManyIslands => match piece.by_partition(decoder) {
                    // All of it waits, also what holds no message.
                    Some(parts) => pieces.extend(parts.into_iter().map(|part| (part, path))),
                    None => outcome.aside.extend(piece.sets().iter().cloned()),
                },
                Piece::Oversized(all) => {
                    pieces.extend(without_oversized(piece, all, decoder).into_iter().map(|part| (part, path)));
                }
            }
        }
    }

    /// The batch without what needs something that somebody had locked when it was last asked for, and still has.
    async fn without_locked(&self, batch: Batch, decoder: &mut Decoder, outcome: &mut Outcome) -> Batch {
        if !self.database.knows_locked() {
            return batch;
        }
        let needs = self.database.locked(&batch).await.messages_of(&batch, &[]);
        if needs.contains(&true) { Self::set_aside(&batch, &needs, decoder, outcome) } else { batch }
    }

    /// The batch without these messages.
    fn set_aside(batch: &Batch, needs: &[bool], decoder: &mut Decoder, outcome: &mut Outcome) -> Batch {
        let (others, aside) = batch.set_aside(needs, decoder);
        debug!(messages = aside.iter().map(MessageSet::len).sum::<usize>(), "messages wait for what is locked");
        outcome.aside.extend(aside);
        others
    }

    /// The batch without what was read of a topic that is now another one.
    ///
    /// A consumer does not notice when a topic is deleted and made anew: it goes on at its offset, in the new topic. Ids do
    /// not come back, so a topic that still has its id *after* messages were read had it when they were read.
    async fn without_deleted_topics(&self, batch: Batch, decoder: &mut Decoder, outcome: &mut Outcome) -> Batch {
        let mut sources: Vec<Arc<Source>> = outcome.intervals.iter().map(|i| Arc::clone(&i.partition.source)).collect();
        sources.dedup();
        let mut deleted = Vec::new();
        for source in sources {
            if self.is_deleted(&source).await {
                deleted.push(source);
            }
        }
        if deleted.is_empty() {
            return batch;
        }
        let (dropped, kept): (Vec<Interval>, Vec<Interval>) =
            outcome.intervals.iter().cloned().partition(|interval| deleted.contains(&interval.partition.source));
        outcome.of_deleted_topics = dropped;
        batch.keep(&kept, decoder)
    }

    /// The sets without those of a topic that is now another one, and these sets' intervals.
    pub(super) async fn without_deleted(&self, mut sets: Vec<MessageSet>) -> (Vec<MessageSet>, Vec<Interval>) {
        let mut dropped = Vec::new();
        let mut sources: Vec<Arc<Source>> = sets.iter().map(|set| Arc::clone(set.source())).collect();
        sources.sort();
        sources.dedup();
        for source in sources {
            if self.is_deleted(&source).await {
                warn!(source.topic, "its topic was deleted and made anew; what was read of it is dropped");
                let of_it = sets.extract_if(.., |set| *set.source() == source);
                dropped.extend(of_it.map(|set| set.interval()));
            }
        }
        (sets, dropped)
    }

    /// Whether a topic of this name has another id now. Where there is no topic of the name at all, what was read is of the
    /// one that was there.
    async fn is_deleted(&self, source: &Source) -> bool {
        if source.topic_id.is_empty() {
            return false;
        }
        let mut delays = self.backoff.build();
        let state = format!("topic-id {}", source.topic);
        loop {
            let (lookup, topic) = (Arc::clone(&self.lookup), source.topic.clone());
            match tokio::task::spawn_blocking(move || lookup.topic_id(&topic)).await {
                Ok(Ok(id)) => {
                    if let Some(ended) = self.log.ends(&state) {
                        info!(source.topic, seconds = ended.seconds, "the topic's id can be asked for again");
                    }
                    return id.is_some_and(|id| id != source.topic_id);
                }
                Ok(Err(failure)) => {
                    if let Some(repeated) = self.log.lasts(&state, &failure.to_string()) {
                        let (seconds, unlogged) = (repeated.seconds, repeated.unlogged);
                        warn!(
                            %failure, source.topic, seconds, unlogged,
                            "the topic's id cannot be asked for; trying again"
                        );
                    }
                }
                Err(failure) => error!(%failure, source.topic, "asking for the topic's id ended by a fault of ours"),
            }
            tokio::time::sleep(delays.next().unwrap_or(Duration::from_secs(1))).await;
        }
    }

    fn log_not_written(&self, failure: &database::Error, class: Class) {
        let text = failure.to_string();
        let Some(repeated) = self.log.lasts(NOT_WRITTEN, &text) else { return };
        let (seconds, unlogged, class_name) = (repeated.seconds, repeated.unlogged, class.as_str());
        if matches!(class, Class::Outage | Class::Retry) {
            warn!(failure = text, class = class_name, seconds, unlogged, "a batch was not written; trying again");
        } else {
            error!(
                failure = text,
                class = class_name,
                seconds,
                unlogged,
                "a batch cannot be written until this is fixed"
            );
        }
    }

    /// Tries to write a piece until it is written, or something else has to become of it.
    async fn write_piece(
        &self,
        piece: &Batch,
        mut path: Path,
        is_slow: bool,
        decoder: &mut Decoder,
        outcome: &mut Outcome,
    ) -> Piece {
        let mut delays = self.backoff.build();
        let begun = Instant::now();
        let mut attempts = Attempts {
            messages: piece.message_count(),
            can_be_refused: !piece.has_nothing_to_refuse(),
            copied_first: path.is_fast(),
            missing_series: 0,
            canceled: 0,
        };
        loop {
            let failure = match self.database.write(piece, path, decoder).await {
                Ok(written) => {
                    self.on_written(written, outcome);
                    return Piece::Written;
                }
                Err(failure) => failure,
            };
            if let Some(ended) = self.ask_about(&failure, piece, begun).await {
                return ended;
            }
            attempts.canceled += u32::from(failure.is_canceled());
            attempts.missing_series += u32::from(failure.is_missing_series());
            let verdict = verdict(Failed::new(&failure, attempts.messages), attempts);
            (path, attempts.copied_first) = (path.after_doubt(), false);
            self.log_verdict(&failure, verdict, attempts.messages);
            match verdict {
                Verdict::ClaimFirst => continue,
                Verdict::Split(parts) => return Piece::Split(parts),
                Verdict::Reject => return Piece::Rejected(failure.rejected()),
                Verdict::TooManyIslands => return Piece::TooManyIslands,
                Verdict::NoProgress => return Piece::NoProgress,
                Verdict::SetAside => {
                    // A server that is slow or full for any other reason does the same: it is no dead letter.
                    if is_slow {
                        self.log_slow(&failure, piece);
                        tokio::time::sleep(self.longest_pause).await;
                    }
                    return Piece::Slow;
                }
                Verdict::Retry => {}
            }
            tokio::time::sleep(delays.next().unwrap_or(Duration::from_secs(1))).await;
        }
    }

    fn on_written(&self, written: Written, outcome: &mut Outcome) {
        outcome.points += written.points;
        outcome.skipped += written.skipped;
        outcome.duplicates += written.duplicates;
        for (at, rejected) in written.dead_letters {
            let first = outcome.dead_letters.entry(rejected.reason.as_str());
            first.or_insert((0, at, rejected)).0 += 1;
        }
        outcome.only_counted += written.only_counted;
        outcome.not_counted += written.not_counted;
        for applied in written.applied {
            outcome.applied.retain(|old| old.partition != applied.partition);
            outcome.applied.push(applied);
        }
        if let Some(ended) = self.log.ends(NOT_WRITTEN) {
            info!(seconds = ended.seconds, "batches are written again");
        }
    }

    /// What the database says of a failure that is about some of the messages only: those in more chunks than can be locked,
    /// and those that need what others have locked.
    async fn ask_about(&self, failure: &database::Error, piece: &Batch, begun: Instant) -> Option<Piece> {
        if failure.is_out_of_room() {
            let oversized = self.database.oversized(failure, piece).await;
            if !oversized.is_empty() {
                if let Some(unlogged) = self.log.happened("oversized", 1) {
                    warn!(
                        %failure, messages = piece.message_count(), oversized = oversized.len(), unlogged,
                        "messages have points in more chunks than can be locked"
                    );
                }
                return Some(Piece::Oversized(oversized));
            }
        }
        if failure.is_lock_timeout() {
            let needs = self.database.locked(piece).await.messages_of(piece, failure.locked_letters());
            if needs.contains(&true) {
                return Some(Piece::Locked(needs));
            }
            // One that has just ended is no reason to give the database up.
            if begun.elapsed() >= self.blocked_after {
                self.database.note_blocked(failure, begun);
            }
        }
        None
    }

    fn log_verdict(&self, failure: &database::Error, verdict: Verdict, messages: usize) {
        match verdict {
            Verdict::ClaimFirst => debug!(%failure, "asking the database what is missing"),
            Verdict::Split(_) | Verdict::Reject
                if failure.class() == Class::Data && failure.parts(messages).is_none() =>
            {
                debug!(%failure, messages, "the database refuses a row; looking for its message");
            }
            Verdict::Split(_) if failure.parts(messages).is_none() => {
                if let Some(unlogged) = self.log.happened("too-large", 1) {
                    warn!(%failure, messages, unlogged, "a batch is too large for the server; trying its halves");
                }
            }
            Verdict::Split(parts) => {
                if let Some(unlogged) = self.log.happened("parts", 1) {
                    warn!(%failure, messages, parts, unlogged, "a batch is written in parts");
                }
            }
            Verdict::Retry => self.log_not_written(failure, failure.class()),
            Verdict::Reject | Verdict::SetAside | Verdict::TooManyIslands | Verdict::NoProgress => {}
        }
    }

    fn log_slow(&self, failure: &database::Error, piece: &Batch) {
        let of_set = |set: &MessageSet| {
            let first = set.messages().next()?.offset;
            Some(format!("{} {} {first}", set.source().topic, set.partition().number))
        };
        let message = piece.sets().iter().find_map(of_set);
        if let Some(unlogged) = self.log.happened("slow-message", 1) {
            error!(
                %failure, message, unlogged,
                "the server does not write one message within its limits; its partition's progress waits until what slows it \
                 down is fixed, database.statement_timeout_ms is longer, or the server's max_locks_per_transaction larger"
            );
        }
    }
}

/// The messages that are too large as dead letters, each in a batch of its own, and all others in the last one.
fn without_oversized(piece: Batch, all: Vec<Oversized>, decoder: &mut Decoder) -> Vec<Batch> {
    let (mut parts, mut rest) = (Vec::new(), Some(piece));
    for Oversized { number, rejected } in all {
        let Some(piece) = rest.take() else { break };
        let alone = match piece.without_message(number, decoder) {
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

/// Twice the time that rows are waited for, so that a second attempt has met the lock, too.
fn database_blocked_after(config: &Config) -> Duration {
    let grace = config.database.outage_grace_ms.min(config.database.lock_timeout_ms);
    Duration::from_millis(2 * grace)
}

/// What became of one attempt's batch.
enum Piece {
    Written,
    Rejected(Rejected),
    /// It is to be written in this many parts.
    Split(usize),
    /// A single message that takes long is to be written after the others.
    Slow,
    /// Each message of which it is said so is to wait: what it needs is locked.
    Locked(Vec<bool>),
    /// Progress has no room for more islands of a partition of it.
    TooManyIslands,
    /// These messages can never be written.
    Oversized(Vec<Oversized>),
    NoProgress,
}
