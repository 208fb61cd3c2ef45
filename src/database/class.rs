//! What a SQLSTATE means for the batch that met it. The decision is made once, here.

use tokio_postgres::error::SqlState;

/// SQLSTATEs of our own functions in `migrations/`.
pub(super) const OVERLAP: &str = "IC001";
pub(super) const TOO_MANY_ISLANDS: &str = "IC002";
pub(super) const NO_PROGRESS_ROW: &str = "IC003";
pub(super) const UNKNOWN_SOURCE: &str = "IC004";

/// SQLSTATEs of the checks that each session and each transaction begins with: points could not be stored as they should be,
/// until an administrator changes a setting.
pub(super) const UNFIT: &str = "IC010";
/// A restore is in progress.
pub(super) const RESTORING: &str = "IC011";
/// PostgreSQL 17's `transaction_timeout`.
pub(super) const TRANSACTION_TIMEOUT: &str = "25P04";

/// What a failure means for the batch that met it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The database is away or refuses work: hold the batch and try again until it is back.
    Outage,
    /// Another transaction was in the way: try again soon.
    Retry,
    /// Some offsets are applied already, or it is not known: ask the database, and write what is missing.
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

/// What PgBouncer says when it refuses a client, all with the code of a violated protocol; it says with the same code that it
/// is full, or that the server is away.
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

/// The class of a SQLSTATE at a step in which the server sees what messages say. There a trigger, or an operator's function
/// that a constraint calls, may raise any code: of those that have no class of their own elsewhere, all speak of a row but
/// these.
pub(super) fn class_of_row_code(code: &str) -> Class {
    let class = class_of_code(code);
    let of_row = !matches!(
        code.get(..2).unwrap_or_default(),
        // What the statement or a function asks for is missing or not allowed: a feature, a table, a column, a right.
        "" | "0A" | "0L" | "0P" | "3D" | "3F" | "42"
            // COPY sends other columns than the table has: the only ones of this class that come here.
            | "22"
            // The state of a session, a transaction, a cursor or an object.
            | "0B" | "24" | "25" | "26" | "2B" | "2D" | "34" | "3B" | "40" | "55" | "72"
            // The configuration, a foreign server, faults of the server's own.
            | "F0" | "HV" | "XX"
            // Our functions', and TimescaleDB's of hypertables and chunks.
            | "IC" | "IO" | "TS"
    );
    if class == Class::Internal && of_row { Class::Data } else { class }
}

/// The class of a SQLSTATE. An error without one is the connection's, and so an outage.
pub(super) fn class_of_code(code: &str) -> Class {
    match code {
        OVERLAP => Class::Overlap,
        NO_PROGRESS_ROW | UNKNOWN_SOURCE => Class::Progress,
        TOO_MANY_ISLANDS => Class::Retry,
        "40001" | "40P01" | "55P03" => Class::Retry,
        // A canceled statement has met its timeout or an administrator; a read-only server is a standby, or is set to be.
        // A transaction that met its timeout has lost its session, too.
        "57014" | "25006" | "25P03" | TRANSACTION_TIMEOUT => Class::Outage,
        _ => match &code[..2.min(code.len())] {
            "08" | "53" | "57" | "58" | "28" => Class::Outage,
            // The table's columns are other ones than COPY sends: that is no message's fault.
            "22" if matches!(code, "22P03" | "22P04") => Class::Internal,
            // 54 is a limit of the server's own that a row exceeds, such as the size of an index entry.
            "22" | "23" | "54" => Class::Data,
            _ => Class::Internal,
        },
    }
}
