//! What a SQLSTATE means for the batch in question. The decision is made once, here.

use tokio_postgres::error::SqlState;

/// SQLSTATEs of our own functions in `migrations/`.
pub(super) const OVERLAP: &str = "IC001";
pub(super) const TOO_MANY_ISLANDS: &str = "IC002";
pub(super) const NO_PROGRESS_ROW: &str = "IC003";
pub(super) const UNKNOWN_SOURCE: &str = "IC004";
/// A series of the batch has a deletion that is newer than some of its messages.
pub(super) const SERIES_DELETED: &str = "IC012";

/// SQLSTATEs of the checks that each session and each transaction begins with: points could not be stored as they should be,
/// until an administrator changes a setting.
pub(super) const UNFIT: &str = "IC010";
/// A restore is in progress.
pub(super) const RESTORING: &str = "IC011";
/// PostgreSQL 17's `transaction_timeout`.
pub(super) const TRANSACTION_TIMEOUT: &str = "25P04";

/// What a failure means for the batch in question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The database is unavailable or refuses work: hold the batch and try again until it is back.
    Outage,
    /// A conflict with another transaction: try again soon.
    Retry,
    /// Some offsets are applied already, or that is not known: ask the database, and write what is missing.
    Overlap,
    /// The database has no progress row of a partition, or does not know its source: it was restored to a time before it, it
    /// is another database than before, or the progress was reset.
    Progress,
    /// The database refuses a row: find its message.
    Data,
    /// An internal error, or one of the schema or of privileges: no batch can be written until an operator acts.
    Internal,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 6] = [Self::Outage, Self::Retry, Self::Overlap, Self::Progress, Self::Data, Self::Internal];

    /// The class as the label of a metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outage => "outage",
            Self::Retry => "retry",
            Self::Overlap => "overlap",
            Self::Progress => "progress",
            Self::Data => "data",
            Self::Internal => "internal",
        }
    }
}

/// PgBouncer's messages when it refuses a client. All have the code of a protocol violation, which it also uses if it is full,
/// or if the server is unavailable.
pub(super) const REFUSALS_BY_POOLER: [&str; 9] = [
    "no such user",
    "no such database",
    "authentication failed",
    "not permitted to log in",
    "no pg_hba.conf entry",
    "does not exist",
    "bouncer config error",
    "unsupported startup parameter",
    "SSL required",
];

/// Returns `true` if a server, or PgBouncer, has no connection left.
pub(super) fn is_out_of_connections(code: &str, message: &str) -> bool {
    code == SqlState::TOO_MANY_CONNECTIONS.code() || code == "08P01" && message.contains("no more connections allowed")
}

/// Returns `true` if a server refuses this client itself.
pub(super) fn is_refusal(code: &str, message: &str) -> bool {
    code.starts_with("28") || (code == "08P01" && REFUSALS_BY_POOLER.iter().any(|words| message.contains(words)))
}

/// The class of a SQLSTATE at a step in which the server processes the content of messages. There a trigger, or an operator's
/// function that a constraint calls, may raise any code: of those without a class elsewhere, all concern a row except these.
pub(super) fn class_of_row_code(code: &str) -> Class {
    let class = class_of_code(code);
    let of_row = !matches!(
        code.get(..2).unwrap_or_default(),
        // What the statement or a function needs is missing or not allowed: a feature, a table, a column, a privilege.
        "" | "0A" | "0L" | "0P" | "3D" | "3F" | "42"
            // COPY sends other columns than the table has: the only codes of this class that come here.
            | "22"
            // The state of a session, a transaction, a cursor or an object.
            | "0B" | "24" | "25" | "26" | "2B" | "2D" | "34" | "3B" | "40" | "55" | "72"
            // The configuration, a foreign server, internal errors of the server.
            | "F0" | "HV" | "XX"
            // Our functions', and TimescaleDB's of hypertables and chunks.
            | "IC" | "IO" | "TS"
    );
    if class == Class::Internal && of_row { Class::Data } else { class }
}

/// The class of a SQLSTATE. An error without one is an error of the connection, which is an outage.
pub(super) fn class_of_code(code: &str) -> Class {
    match code {
        OVERLAP => Class::Overlap,
        NO_PROGRESS_ROW | UNKNOWN_SOURCE => Class::Progress,
        TOO_MANY_ISLANDS | SERIES_DELETED => Class::Retry,
        "40001" | "40P01" | "55P03" => Class::Retry,
        // A statement is canceled by its timeout or by an administrator; a read-only server is a standby, or is set to be. A
        // transaction that exceeds its timeout loses its session, too.
        "57014" | "25006" | "25P03" | TRANSACTION_TIMEOUT => Class::Outage,
        _ => match &code[..2.min(code.len())] {
            "08" | "53" | "57" | "58" | "28" => Class::Outage,
            // The table's columns are not those that COPY sends: no message causes that.
            "22" if matches!(code, "22P03" | "22P04") => Class::Internal,
            // 54 is a limit of the server that a row exceeds, such as the size of an index entry.
            "22" | "23" | "54" => Class::Data,
            _ => Class::Internal,
        },
    }
}
