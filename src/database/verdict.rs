//! What follows a failed attempt to write messages: one decision for the worker, `journal replay` and `dead-letter redrive`.

use super::error::{Class, Error};
use super::write::ClaimOrder;
use crate::batch::Batch;

/// Maximum number of times that a series that another program has deleted is created again before its absence counts as a
/// refusal.
const MISSING_SERIES: u32 = 3;
/// Number of times that the server cancels an attempt until it counts as too large: once may be an operator's
/// `pg_cancel_backend`.
const CANCELED: u32 = 2;

/// What is done next with the messages of a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They are written again at once, after asking what the database already has.
    ClaimFirst,
    /// The same after a pause: another transaction was in the way, or the server has canceled one attempt.
    Retry,
    /// The same once the cause is gone: a worker retries until then, a command ends.
    Wait,
    /// They are written in this many parts, at least two.
    Split(usize),
    /// The only message is refused: it becomes a dead letter.
    Reject,
    /// The only message needs more than the server has: it is written after all others.
    SetAside,
    /// Progress has no room for more islands of one of their partitions.
    TooManyIslands,
    /// The database has no progress of one of their partitions.
    NoProgress,
}

/// The facts of a failure that the decision needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Failed {
    /// Its class.
    class: Class,
    /// `true` if a series of the points has no row.
    is_missing_series: bool,
    /// `true` if the server has no room for the transaction's locks or memory.
    is_out_of_room: bool,
    /// `true` if the server has ended the statement or the transaction by a timeout or a request.
    is_canceled: bool,
    /// `true` if progress has too many islands.
    is_out_of_islands: bool,
    /// The number of parts that the failure requires.
    parts: Option<usize>,
}

impl Failed {
    /// The facts of a failure to write this many messages.
    fn new(error: &Error, messages: usize) -> Self {
        Self {
            class: error.class(),
            is_missing_series: error.is_missing_series(),
            is_out_of_room: error.is_out_of_room(),
            is_canceled: error.is_canceled(),
            is_out_of_islands: error.is_out_of_islands(),
            parts: error.parts(messages),
        }
    }
}

/// The attempts so far to write the same messages, with the one that has just failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempts {
    /// The number of messages.
    pub messages: usize,
    /// `true` if some of them have points or definitions, which the database can refuse.
    pub can_be_refused: bool,
    /// `true` if the failed attempt copied before it asked what the database has.
    pub copied_first: bool,
    /// Number of attempts that failed because a series had no row.
    pub missing_series: u32,
    /// Number of attempts that the server has canceled.
    pub canceled: u32,
}

impl Attempts {
    /// No attempt yet to write a batch in this order.
    pub fn new(batch: &Batch, order: ClaimOrder) -> Self {
        Self {
            messages: batch.message_count(),
            can_be_refused: !batch.has_nothing_to_refuse(),
            copied_first: order.copies_first(),
            missing_series: 0,
            canceled: 0,
        }
    }

    /// Returns the action after an attempt that has failed; the next attempt asks first what the database has.
    pub fn after(&mut self, failure: &Error) -> Verdict {
        self.canceled += u32::from(failure.is_canceled());
        self.missing_series = self.missing_series.saturating_add(u32::from(failure.is_missing_series()));
        let verdict = verdict(Failed::new(failure, self.messages), *self);
        self.copied_first = false;
        verdict
    }
}

/// Returns what to do after a failed attempt.
fn verdict(failed: Failed, attempts: Attempts) -> Verdict {
    let split_or = |alone| if attempts.messages > 1 { Verdict::Split(2) } else { alone };
    let is_too_large = failed.is_out_of_room || failed.is_canceled && attempts.canceled >= CANCELED;
    if let Some(parts) = failed.parts {
        return Verdict::Split(parts);
    }
    match failed.class {
        _ if failed.is_out_of_islands => Verdict::TooManyIslands,
        Class::Overlap if attempts.copied_first => Verdict::ClaimFirst,
        Class::Data if failed.is_missing_series && attempts.missing_series <= MISSING_SERIES => Verdict::ClaimFirst,
        Class::Data if attempts.can_be_refused => split_or(Verdict::Reject),
        Class::Progress => Verdict::NoProgress,
        Class::Outage if is_too_large => split_or(Verdict::SetAside),
        Class::Outage if failed.is_canceled => Verdict::Retry,
        Class::Retry => Verdict::Retry,
        Class::Outage | Class::Overlap | Class::Data | Class::Internal => Verdict::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: Failed = Failed {
        class: Class::Outage,
        is_missing_series: false,
        is_out_of_room: false,
        is_canceled: false,
        is_out_of_islands: false,
        parts: None,
    };
    const MANY: Attempts =
        Attempts { messages: 10, can_be_refused: true, copied_first: true, missing_series: 0, canceled: 0 };
    const ONE: Attempts = Attempts { messages: 1, ..MANY };

    #[test]
    fn a_failure_has_one_consequence() {
        let of = |class| Failed { class, ..FAILED };
        let missing = Failed { is_missing_series: true, ..of(Class::Data) };
        let canceled = Failed { is_canceled: true, ..FAILED };
        let no_room = Failed { is_out_of_room: true, ..FAILED };
        let claimed = Attempts { copied_first: false, ..MANY };
        let only_letters = Attempts { can_be_refused: false, ..MANY };
        for (what, failed, attempts, expected) in [
            ("an outage", FAILED, MANY, Verdict::Wait),
            ("another transaction in the way", of(Class::Retry), MANY, Verdict::Retry),
            ("an internal error", of(Class::Internal), MANY, Verdict::Wait),
            ("overlapping offsets", of(Class::Overlap), MANY, Verdict::ClaimFirst),
            ("overlapping offsets after asking", of(Class::Overlap), claimed, Verdict::Wait),
            ("a deleted series", missing, Attempts { missing_series: 3, ..MANY }, Verdict::ClaimFirst),
            ("a series deleted again and again", missing, Attempts { missing_series: 4, ..MANY }, Verdict::Split(2)),
            ("a refused row", of(Class::Data), MANY, Verdict::Split(2)),
            ("a refused row of the only message", of(Class::Data), ONE, Verdict::Reject),
            ("a refusal without rows", of(Class::Data), only_letters, Verdict::Wait),
            (
                "more refusals than a transaction takes",
                Failed { parts: Some(7), ..of(Class::Data) },
                MANY,
                Verdict::Split(7),
            ),
            ("canceled once (57014, 25P04)", canceled, Attempts { canceled: 1, ..MANY }, Verdict::Retry),
            ("canceled again", canceled, Attempts { canceled: 2, ..MANY }, Verdict::Split(2)),
            ("one message canceled again", canceled, Attempts { canceled: 2, ..ONE }, Verdict::SetAside),
            ("no room for locks (53200)", no_room, MANY, Verdict::Split(2)),
            ("no room for those of one message", no_room, ONE, Verdict::SetAside),
            ("too many islands", Failed { is_out_of_islands: true, ..of(Class::Retry) }, MANY, Verdict::TooManyIslands),
            ("no progress", of(Class::Progress), MANY, Verdict::NoProgress),
        ] {
            assert_eq!(verdict(failed, attempts), expected, "{what}");
        }
    }
}
