//! The attempts to write one piece of a batch, until it is written or needs to be handled differently.

use std::time::{Duration, Instant};

use backon::BackoffBuilder as _;
use tracing::{debug, error, info, warn};

use super::{Outcome, Writer};
use crate::batch::Batch;
use crate::database::verdict::{Attempts, Verdict};
use crate::database::{self, ClaimOrder, Class, Oversized, Written};
use crate::message::Rejected;
use crate::raw::MessageSet;

/// The state of a database that does not accept batches, in the log.
const NOT_WRITTEN: &str = "write";

/// The result of the attempts to write one piece.
pub(super) enum Attempt {
    Written,
    Rejected(Rejected),
    /// It must be written in this many parts.
    Split(usize),
    /// A single slow message, to be written after the others.
    Slow,
    /// The messages marked here must wait: another session has locked what they need.
    Locked(Vec<bool>),
    /// Progress has no room for further islands of one of its partitions.
    TooManyIslands,
    /// These messages can never be written.
    Oversized(Vec<Oversized>),
    NoProgress,
}

impl Writer {
    /// Tries to write a piece until it is written, or must be handled differently.
    pub(super) async fn write_piece(
        &self,
        piece: &Batch,
        mut order: ClaimOrder,
        is_slow: bool,
        outcome: &mut Outcome,
    ) -> Attempt {
        let mut delays = self.backoff.build();
        let begun = Instant::now();
        let mut attempts = Attempts::new(piece, order);
        loop {
            let failure = match self.database.write(piece, order).await {
                Ok(written) => {
                    self.on_written(written, outcome);
                    return Attempt::Written;
                }
                Err(failure) => failure,
            };
            if let Some(ended) = self.ask_about(&failure, piece, begun).await {
                return ended;
            }
            let verdict = attempts.after(&failure);
            order = order.claim_first();
            self.log_verdict(&failure, verdict, attempts.messages);
            match verdict {
                Verdict::ClaimFirst => continue,
                Verdict::Split(parts) => return Attempt::Split(parts),
                Verdict::Reject => return Attempt::Rejected(failure.rejected()),
                Verdict::TooManyIslands => return Attempt::TooManyIslands,
                Verdict::NoProgress => return Attempt::NoProgress,
                Verdict::SetAside => {
                    // A server that is slow or full for another reason fails in the same way: the message is not a dead letter.
                    if is_slow {
                        self.log_slow(&failure, piece);
                        tokio::time::sleep(self.longest_pause).await;
                    }
                    return Attempt::Slow;
                }
                Verdict::Retry | Verdict::Wait => {}
            }
            tokio::time::sleep(delays.next().unwrap_or(Duration::from_secs(1))).await;
        }
    }

    fn on_written(&self, written: Written, outcome: &mut Outcome) {
        outcome.points += written.points;
        outcome.skipped += written.skipped;
        outcome.deleted += written.deleted;
        outcome.duplicates += written.duplicates;
        for (partition, tally) in written.tallies {
            outcome.tallies.entry(partition).or_default().add(tally);
        }
        for (at, rejected) in written.dead_letters {
            let input = self.decoder.inputs().label(&at.partition.source).to_owned();
            let first = outcome.dead_letters.entry((input, rejected.reason.as_str()));
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

    /// Asks the database about a failure that concerns only some of the messages: those in more chunks than can be locked, and
    /// those that need what other sessions have locked.
    async fn ask_about(&self, failure: &database::Error, piece: &Batch, begun: Instant) -> Option<Attempt> {
        if failure.is_out_of_room() {
            let oversized = self.database.oversized(failure, piece).await;
            if !oversized.is_empty() {
                if let Some(unlogged) = self.log.happened("oversized", 1) {
                    warn!(
                        %failure, messages = piece.message_count(), oversized = oversized.len(), unlogged,
                        "messages have points in more chunks than can be locked"
                    );
                }
                return Some(Attempt::Oversized(oversized));
            }
        }
        if failure.is_lock_timeout() {
            let needs = self.database.locked(piece).await.messages_of(piece, failure.locked_letters());
            if needs.contains(&true) {
                return Some(Attempt::Locked(needs));
            }
            // A lock that has just ended is not a reason to report an outage.
            if begun.elapsed() >= self.blocked_after {
                self.database.record_blocked(failure, begun);
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
            Verdict::Retry | Verdict::Wait => self.log_not_written(failure, failure.class()),
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
}
