//! Errors of the database, and how they are reported; `class` has what they mean for a batch.

use std::borrow::Cow;

use deadpool_postgres::{PoolError, TimeoutType};
use tokio_postgres::error::{DbError, Severity, SqlState};

pub use super::class::Class;
use super::class::{
    RESTORING, SERIES_DELETED, TOO_MANY_ISLANDS, TRANSACTION_TIMEOUT, UNFIT, class_of_code, class_of_row_code,
    is_out_of_connections, is_refusal,
};
use super::connection::step::Step;
use super::schema::columns::OtherType;

use super::connection::tls_error as tls;
use crate::batch::DeadLetter;
use crate::message::{Reason, Rejected};
use crate::raw::MessageAt;
use crate::telemetry::one_line;

/// A failed step of the work with the database.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server's answer, or the connection's end.
    #[error("{step}: {}", describe(.source))]
    Server {
        /// What was being done.
        step: Step,
        /// tokio-postgres's error.
        source: tokio_postgres::Error,
    },
    /// No connection was available.
    #[error("get a connection: {}", describe_pool(.0))]
    Pool(#[from] PoolError),
    /// No server accepted a connection.
    #[error("connect to {tried}")]
    Connect {
        /// tokio-postgres's error.
        source: tokio_postgres::Error,
        /// Each address that was tried, with how it ended.
        tried: String,
    },
    /// TLS cannot be set up as the configuration says.
    #[error("{0}")]
    Tls(String),
    /// No answer came in time.
    #[error("{step}: no answer within {seconds} s")]
    TimedOut {
        /// What was being done.
        step: Step,
        /// The time waited.
        seconds: u64,
    },
    /// The server refuses more messages of a batch than one transaction makes dead letters of.
    #[error("the database refuses {refused} of {of} messages")]
    TooManyRefused {
        /// Number of messages refused until the transaction was given up.
        refused: usize,
        /// Number of messages tried.
        of: usize,
    },
    /// The tables of dead letters are locked, which only these messages need.
    #[error("{failure}")]
    LettersLocked {
        /// The messages that were to be stored there.
        at: Vec<MessageAt>,
        /// The server's answer.
        failure: Box<Self>,
    },
    /// The remembered state of series is out of date.
    #[error("another program has deleted or changed series meanwhile")]
    SeriesChanged,
    /// There is a pooler that shares sessions.
    #[error(
        "{0} leads to a pooler that gives each transaction another session (pool_mode = transaction or statement), \
         and series-ingest needs one that stays: set pool_mode = session there for this database, or connect to PostgreSQL \
         itself; docs/poolers.md says more"
    )]
    SharedSession(&'static str),
    /// The hosts that accept connections cannot be read: each with the reason.
    #[error("connect to {0}")]
    NotReadable(String),
    /// A column of the points was changed.
    #[error(transparent)]
    OtherType(#[from] OtherType),
    /// The program and the database disagree; an internal error.
    #[error("{0}")]
    Unexpected(String),
}

/// Maximum length of a server's message that is kept, in bytes.
const MAX_MESSAGE_BYTES: usize = 1024;

impl Error {
    /// What the failure means for the batch in question.
    pub fn class(&self) -> Class {
        match self {
            Self::TimedOut { .. } | Self::NotReadable(_) => Class::Outage,
            Self::Unexpected(_) | Self::Tls(_) | Self::OtherType(_) | Self::SharedSession(_) => Class::Internal,
            Self::TooManyRefused { .. } => Class::Data,
            Self::SeriesChanged | Self::LettersLocked { .. } => Class::Retry,
            Self::Server { step, source } if is_of_another_column(*step, source) => Class::Internal,
            Self::Server { step, source } if step.has_rows() => {
                source.code().map_or(Class::Outage, |code| class_of_row_code(code.code()))
            }
            Self::Server { source, .. } => class_of(source),
            // A database that takes no connections is closed for maintenance.
            Self::Connect { source, .. } | Self::Pool(PoolError::Backend(source))
                if source.code() == Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE) =>
            {
                Class::Outage
            }
            Self::Connect { source, .. } | Self::Pool(PoolError::Backend(source)) => class_of(source),
            Self::Pool(PoolError::PostCreateHook(deadpool_postgres::HookError::Backend(error))) => class_of(error),
            Self::Pool(_) => Class::Outage,
        }
    }

    /// The server's own error, if it has answered.
    pub fn from_server(&self) -> Option<&DbError> {
        match self {
            Self::Server { source, .. } => source.as_db_error(),
            Self::LettersLocked { failure, .. } => failure.from_server(),
            _ => None,
        }
    }

    /// Returns `true` if the server refuses a row of a COPY, for another reason than a missing row of its series.
    pub(super) fn is_refused_row(&self) -> bool {
        let in_copy = matches!(self, Self::Server { step, .. } if *step == Step::Copy);
        in_copy && self.class() == Class::Data && !self.is_missing_series()
    }

    /// Returns `true` if the server refuses a dead letter or its count, or does not store it in time. What is missing, not
    /// allowed or unavailable counts as well, because a trigger of an operator may need it, and nothing may stop the place of
    /// last resort.
    pub(super) fn is_refused_letter(&self) -> bool {
        let Self::Server { step, source } = self else { return false };
        let Some(answer) =
            source.as_db_error().filter(|_| [Step::StoreDeadLetters, Step::CountDeadLetters].contains(step))
        else {
            return false;
        };
        self.refuses_letter() || self.is_canceled() || is_of_foreign_server(answer)
    }

    /// Returns `true` if the COMMIT failed in a way that a deferred trigger on dead letters may have caused.
    pub(super) fn may_be_refused_letter(&self) -> bool {
        matches!(self, Self::Server { step, .. } if *step == Step::Commit) && self.refuses_letter()
    }

    fn refuses_letter(&self) -> bool {
        // Codes of our own functions and of the transaction's state do not come from a trigger.
        let is_own = |answer: &DbError| matches!(answer.code().code().get(..2), Some("IC" | "25"));
        match self.class() {
            Class::Data => true,
            Class::Internal => self.from_server().is_some_and(|answer| !is_own(answer)),
            Class::Outage | Class::Retry | Class::Overlap | Class::Progress => false,
        }
    }

    /// The same failure; if it is a lock timeout, with the letters that were being stored.
    pub(super) fn of_letters(self, letters: &[&DeadLetter]) -> Self {
        if !self.is_lock_timeout() {
            return self;
        }
        Self::LettersLocked { at: letters.iter().map(|letter| letter.at.clone()).collect(), failure: Box::new(self) }
    }

    /// The messages that became dead letters and could not be stored because of a lock.
    pub fn locked_letters(&self) -> &[MessageAt] {
        match self {
            Self::LettersLocked { at, .. } => at,
            _ => &[],
        }
    }

    /// The row of a COPY at which the server has ended it, counted from 1. In the binary format the server calls the row a
    /// line (PostgreSQL's source, `CopyFromErrorCallback`).
    pub fn row(&self) -> Option<usize> {
        let (_, from_line) = self.from_server()?.where_()?.rsplit_once(", line ")?;
        let digits = from_line.bytes().take_while(u8::is_ascii_digit).count();
        from_line[..digits].parse().ok()
    }

    /// Why a message that the server refuses is a dead letter: code, constraint and column, without the row.
    pub fn rejected(&self) -> Rejected {
        Rejected { reason: Reason::RejectedByDatabase, detail: self.refusal() }
    }

    fn refusal(&self) -> String {
        let Some(answer) = self.from_server() else { return self.to_string() };
        let mut text = format!("SQLSTATE {}: {}", answer.code().code(), message(answer));
        let places = [("table", answer.table()), ("column", answer.column()), ("constraint", answer.constraint())];
        for (name, value) in places {
            if let Some(value) = value {
                text.push_str(&format!("; {name} {value}"));
            }
        }
        text
    }

    /// Returns `true` if the server refuses this client, or this client the server, because of credentials or TLS. No other
    /// outage ends only when an operator fixes something.
    pub fn is_refusal(&self) -> bool {
        let (Self::Server { source, .. } | Self::Connect { source, .. } | Self::Pool(PoolError::Backend(source))) =
            self
        else {
            return false;
        };
        source.as_db_error().is_some_and(|answer| is_refusal(answer.code().code(), answer.message()))
            || tls::explain(source).is_some()
    }

    /// Returns `true` if the server, or a pooler, has reached its limit of connections, in all or for this role or database.
    pub fn is_out_of_connections(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Pool(PoolError::Backend(_)))
            && self.answer().is_some_and(|answer| is_out_of_connections(answer.code().code(), answer.message()))
    }

    /// Returns `true` if waiting for another session's lock has timed out.
    pub fn is_lock_timeout(&self) -> bool {
        self.answer().is_some_and(|answer| *answer.code() == SqlState::LOCK_NOT_AVAILABLE)
    }

    /// Returns `true` if a partition has more islands above its next offset than its progress can hold.
    pub fn is_out_of_islands(&self) -> bool {
        self.answer().is_some_and(|answer| answer.code().code() == TOO_MANY_ISLANDS)
    }

    /// Returns `true` if the server has canceled the statement or its transaction: it took longer than its timeout, or an
    /// administrator did it.
    pub fn is_canceled(&self) -> bool {
        let codes = [SqlState::QUERY_CANCELED.code(), TRANSACTION_TIMEOUT];
        self.answer().is_some_and(|answer| codes.contains(&answer.code().code()))
    }

    /// Returns `true` if the server keeps this connection open, so that its transaction can be ended.
    pub(super) fn leaves_the_connection(&self) -> bool {
        matches!(self, Self::TooManyRefused { .. } | Self::SeriesChanged)
            || self.from_server().is_some() && (self.class() != Class::Outage || self.is_out_of_room())
    }

    /// Returns `true` if the server has no room for what one transaction needs: mostly for its locks, because each chunk
    /// takes some.
    pub fn is_out_of_room(&self) -> bool {
        matches!(self, Self::Server { step, .. } if [Step::Copy, Step::Commit].contains(step))
            && self.answer().is_some_and(|answer| *answer.code() == SqlState::OUT_OF_MEMORY)
    }

    /// The number of parts in which to write a batch of `messages` messages, if more of them are refused than one transaction
    /// accepts; each part then has about half as many as it accepts.
    pub fn parts(&self, messages: usize) -> Option<usize> {
        match self {
            Self::TooManyRefused { of, .. } => Some(messages.div_ceil((of / 2).max(1)).max(2)),
            _ => None,
        }
    }

    /// Returns `true` if the server has no database of the URL's name.
    pub fn is_missing_database(&self) -> bool {
        self.answer().is_some_and(|answer| *answer.code() == SqlState::UNDEFINED_DATABASE)
    }

    /// Returns `true` if the database, or a setting of it or of the role, makes it impossible to write.
    pub fn is_unfit(&self) -> bool {
        self.answer().is_some_and(|answer| answer.code().code() == UNFIT)
    }

    /// Returns `true` if the role lacks a privilege.
    pub fn is_forbidden(&self) -> bool {
        self.answer().is_some_and(|answer| *answer.code() == SqlState::INSUFFICIENT_PRIVILEGE)
    }

    /// Returns `true` if the database is being restored.
    pub fn is_restoring(&self) -> bool {
        self.answer().is_some_and(|answer| answer.code().code() == RESTORING)
    }

    /// Returns `true` if the server, the database or the role is read-only.
    pub(super) fn is_read_only(&self) -> bool {
        self.answer().is_some_and(|answer| *answer.code() == SqlState::READ_ONLY_SQL_TRANSACTION)
    }

    /// The server's own error, also if it refuses a new connection.
    fn answer(&self) -> Option<&DbError> {
        match self {
            Self::Pool(
                PoolError::Backend(source) | PoolError::PostCreateHook(deadpool_postgres::HookError::Backend(source)),
            )
            | Self::Connect { source, .. }
            | Self::Server { source, .. } => source.as_db_error(),
            Self::LettersLocked { failure, .. } => failure.answer(),
            _ => None,
        }
    }

    /// Returns `true` if a series of the batch was deleted after some of its messages were sent.
    pub(super) fn is_series_deleted(&self) -> bool {
        self.from_server().is_some_and(|answer| answer.code().code() == SERIES_DELETED)
    }

    /// Returns `true` if the row of a series that a point names is missing: the series was deleted after it was seen.
    pub fn is_missing_series(&self) -> bool {
        self.from_server().is_some_and(|answer| {
            *answer.code() == SqlState::FOREIGN_KEY_VIOLATION
                && answer.constraint().is_some_and(|name| name.contains("time_series_id"))
        })
    }
}

/// Returns `true` if a column is NULL that no message can fill: an added one that is NOT NULL without a default, or one whose
/// default was dropped. Every row is then refused, whatever its content.
fn is_of_another_column(step: Step, error: &tokio_postgres::Error) -> bool {
    let from_messages: &[&str] = match step {
        // A letter is then stored with less, and at last only counted or not even that.
        Step::StoreDeadLetters | Step::CountDeadLetters => return false,
        Step::DefineSeries => &["name", "description"],
        Step::EnsureSeries => &[],
        _ => &["value"],
    };
    error.as_db_error().is_some_and(|answer| {
        *answer.code() == SqlState::NOT_NULL_VIOLATION
            && answer.column().is_some_and(|column| !from_messages.contains(&column))
    })
}

/// Returns `true` if a server that a trigger calls did not answer it: the connection to our own server survives that, but not
/// its own failure.
fn is_of_foreign_server(answer: &DbError) -> bool {
    answer.code().code().starts_with("08") && answer.parsed_severity() == Some(Severity::Error)
}

fn class_of(error: &tokio_postgres::Error) -> Class {
    error.code().map_or(Class::Outage, |code| class_of_code(code.code()))
}

/// The server's code and message, or the connection's error with its cause. DETAIL and CONTEXT are omitted: they quote rows.
pub(super) fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(answer) = error.as_db_error() {
        return format!("{} (SQLSTATE {}){}", message(answer), answer.code().code(), tls::hint(answer));
    }
    if let Some(text) = tls::explain(error) {
        return text;
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

/// The server's message, truncated: a trigger's message may have any length.
fn message(answer: &DbError) -> Cow<'_, str> {
    // It may be a trigger's, and is part of a line of the log, of a list or of a status.
    let text = one_line(answer.message());
    if text.len() <= MAX_MESSAGE_BYTES {
        return text;
    }
    let end = (0..=MAX_MESSAGE_BYTES).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &text[..end]).into()
}

fn describe_pool(error: &PoolError) -> String {
    match error {
        PoolError::Backend(error) => describe(error),
        PoolError::PostCreateHook(deadpool_postgres::HookError::Backend(error)) => describe(error),
        PoolError::Timeout(TimeoutType::Wait) => {
            "no connection was free within database.pool_wait_timeout_ms".to_owned()
        }
        PoolError::Timeout(TimeoutType::Create) => {
            "the server did not accept a connection within database.connect_timeout_ms".to_owned()
        }
        PoolError::Timeout(TimeoutType::Recycle) => {
            "a connection did not answer within database.connect_timeout_ms".to_owned()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sqlstate_has_its_class() {
        let table = [
            ("08006", Class::Outage),
            ("53100", Class::Outage),
            ("53300", Class::Outage),
            ("57P01", Class::Outage),
            ("57P03", Class::Outage),
            ("57014", Class::Outage),
            ("25006", Class::Outage),
            ("25P03", Class::Outage),
            ("25P04", Class::Outage),
            ("28000", Class::Outage),
            ("28P01", Class::Outage),
            ("58030", Class::Outage),
            ("40001", Class::Retry),
            ("40P01", Class::Retry),
            ("55P03", Class::Retry),
            ("IC001", Class::Overlap),
            ("IC002", Class::Retry),
            ("IC003", Class::Progress),
            ("IC004", Class::Progress),
            ("IC010", Class::Internal),
            ("IC011", Class::Internal),
            ("22021", Class::Data),
            ("22P03", Class::Internal),
            ("22P04", Class::Internal),
            ("23514", Class::Data),
            ("54000", Class::Data),
            ("42P01", Class::Internal),
            ("42501", Class::Internal),
            ("3D000", Class::Internal),
            ("XX000", Class::Internal),
            ("", Class::Internal),
        ];
        for (code, class) in table {
            assert_eq!(class_of_code(code), class, "{code}");
        }
    }

    #[test]
    fn where_rows_are_seen_codes_of_users_speak_of_them() {
        for code in ["MY001", "45000", "38000", "39P01", "2F002", "44000", "P0001", "P0002", "20000", "21000", "23514"]
        {
            assert_eq!(class_of_row_code(code), Class::Data, "{code}");
        }
        for code in [
            "0A000", "22P03", "22P04", "25P02", "3D000", "42703", "55000", "F0000", "HV00N", "IC010", "XX000", "TS101",
            "",
        ] {
            assert_eq!(class_of_row_code(code), Class::Internal, "{code}");
        }
        for code in
            ["08006", "25006", "28000", "40001", "53100", "55P03", "57014", "58030", "IC001", "IC002", "IC003", "IC004"]
        {
            assert_eq!(class_of_row_code(code), class_of_code(code), "{code}");
        }
    }

    #[test]
    fn a_pooler_refuses_with_the_code_of_a_violated_protocol() {
        // The messages in PgBouncer's source.
        let table = [
            ("28P01", "password authentication failed for user \"u\"", true),
            ("28000", "anything", true),
            ("08P01", "no such user: u", true),
            ("08P01", "password authentication failed", true),
            ("08P01", "SASL authentication failed", true),
            ("08P01", "server login failed: FATAL password authentication failed for user \"u\"", true),
            ("08P01", "no such database: d", true),
            ("08P01", "unsupported startup parameter: options", true),
            ("08P01", "SSL required", true),
            ("08P01", "no more connections allowed (max_client_conn)", false),
            ("08P01", "query_wait_timeout", false),
            ("08P01", "server conn crashed?", false),
            ("08P01", "server login failed: FATAL the database system is starting up", false),
            ("08006", "no such user: u", false),
        ];
        for (code, message, expected) in table {
            assert_eq!(is_refusal(code, message), expected, "{code} {message}");
        }
    }

    #[test]
    fn a_server_or_a_pooler_that_is_full_says_so() {
        for (code, message, expected) in [
            ("53300", "too many connections for role \"u\"", true),
            ("53300", "sorry, too many clients already", true),
            ("08P01", "no more connections allowed (max_client_conn)", true),
            ("08P01", "no such user: u", false),
            ("53200", "out of memory", false),
        ] {
            assert_eq!(is_out_of_connections(code, message), expected, "{code} {message}");
        }
    }

    #[test]
    fn a_timeout_is_an_outage() {
        assert_eq!(Error::TimedOut { step: Step::Other("commit"), seconds: 1 }.class(), Class::Outage);
    }
}
