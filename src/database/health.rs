//! The database's health, from the successes and failures of its work: whether it answers and accepts writes.

use std::sync::PoisonError;
use std::time::Instant;

use jiff::Timestamp;
use tracing::info;

use super::{Class, Database, Error, ReferentialCheck};
use crate::telemetry::metrics;

/// The database's health.
#[derive(Debug, Clone)]
pub struct State {
    /// `true` if it does its work. After a failed write only a successful write sets it again: a server whose disk is full
    /// still answers queries.
    pub up: bool,
    /// When `up` last changed.
    pub since: Instant,
    /// `true` if it answers queries, so that a write is worth trying.
    pub answers: bool,
    write_failed: bool,
    /// When the last success was.
    pub last_success: Option<Instant>,
    /// How the points' reference to their series is enforced; `None` before the first points are written.
    pub reference: Option<ReferentialCheck>,
    /// The last failure's message and class, while it lasts.
    pub failure: Option<(String, Class)>,
    /// When that failure happened.
    pub failed_at: Option<Timestamp>,
    /// `true` if that is an outage that ends only when an operator fixes something: [`Error::is_refusal`].
    pub refused: bool,
}

impl State {
    pub(super) fn new(up: bool) -> Self {
        Self {
            up,
            since: Instant::now(),
            answers: up,
            write_failed: false,
            last_success: None,
            reference: None,
            failure: None,
            failed_at: None,
            refused: false,
        }
    }
}

/// The kind of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Read,
    Write,
}

impl Database {
    /// The database's health.
    pub fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes answers to queries as a sign that writes succeed, too, if there is nothing to write that would show it.
    pub fn trust_answers(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).write_failed = false;
    }

    pub(in crate::database) fn recorded<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        match &result {
            Ok(_) => self.record_success(Operation::Read),
            Err(failure) => self.record_failure(failure, Operation::Read),
        }
        result
    }

    pub(in crate::database) fn record_reference(&self, reference: ReferentialCheck) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.reference != Some(reference) {
            info!(reference = reference.as_str(), "{}", reference.describe());
            metrics::foreign_key_trigger(reference == ReferentialCheck::Trigger);
            state.reference = Some(reference);
        }
    }

    pub(in crate::database) fn record_success(&self, asked: Operation) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.answers = true;
        if !state.up && (asked == Operation::Write || !state.write_failed) {
            *state = State { reference: state.reference, ..State::new(true) };
            metrics::database_up(true);
        }
        state.last_success = Some(Instant::now());
    }

    /// A refused row or an overlap is an answer: the database is up. It is also up if it cancels a statement, or has no room
    /// for one: a single message may be the cause, and all others can be written.
    pub(in crate::database) fn record_failure(&self, failure: &Error, asked: Operation) {
        let class = failure.class();
        metrics::database_error(class.as_str());
        if class == Class::Progress {
            // The cached state may be of another database.
            self.forget();
        }
        let is_answer = !(matches!(class, Class::Outage | Class::Internal) || failure.is_lock_timeout());
        if is_answer || failure.is_canceled() || failure.is_out_of_room() {
            return;
        }
        self.record_outage(failure, asked, Instant::now());
    }

    /// Records that nothing has been written since `since`, because of another session's lock.
    pub fn record_blocked(&self, failure: &Error, since: Instant) {
        self.record_outage(failure, Operation::Write, since);
    }

    fn record_outage(&self, failure: &Error, asked: Operation, since: Instant) {
        let class = failure.class();
        if class == Class::Internal || failure.is_read_only() {
            // The cause may be a setting that a session keeps from when it was opened.
            self.connections.renew();
        }
        if class == Class::Outage {
            // The database that comes back may be another one: a standby, or a restored backup.
            self.forget();
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.up || state.failure.is_none() {
            state.up = false;
            state.since = since;
        }
        state.answers = false;
        state.write_failed |= asked == Operation::Write;
        state.failure = Some((failure.to_string(), class));
        state.failed_at = Some(Timestamp::now());
        state.refused = failure.is_refusal();
        metrics::database_up(false);
    }
}
