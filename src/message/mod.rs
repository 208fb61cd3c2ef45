//! What a message becomes, points in columns or a reason, and what all formats read it with. Pure, no I/O.
//!
//! - `faults`: faults that several formats find.
//! - `json`: the JSON of a message, read where it stands, with the place of each fault.
//! - [`Points`]: what the decoder fills: points in columns.
//! - `lenient`: what can be reported of a message that cannot be read.
//! - `timestamp`: all forms of a timestamp, as microseconds since the Unix epoch.

pub(crate) mod faults;
pub(crate) mod json;
mod lenient;
mod points;
pub(crate) mod timestamp;

pub use lenient::series_of;
pub use points::{KeyIndex, Mark, Order, Points, SeriesIndex};

/// What a message was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Points, which are now in the batch's columns.
    PointBatch {
        /// Their number.
        points: usize,
    },
    /// A series' definition.
    SeriesCreate(SeriesCreate),
    /// A null payload: Kafka's way to say that a key is gone. There is nothing to store.
    Tombstone,
    /// It has values, and all of them are skipped, as its input is configured.
    Skipped,
    /// It has no values by its nature: a row that was deleted, or an array without records.
    Empty,
}

/// The definition of a series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesCreate {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: Option<String>,
    /// What it is about.
    pub description: Option<String>,
    /// The name that its timestamps had where they came from.
    pub time_column: Option<String>,
    /// Its columns, in the message's order.
    pub value_columns: Vec<String>,
    /// Its labels, an object of JSON with sorted keys and without white space; `None` leaves those that it has, and an empty
    /// one removes those of its definition.
    pub labels: Option<String>,
}

/// What a message may be at most; beyond it, it is rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The length of a message, of its key and of its headers, in bytes each.
    pub max_bytes: usize,
    /// The points of a message, and the columns that it names.
    pub max_points: usize,
    /// The length of a series' id and of a column's name, in bytes: the tables' indexes take no key above a third of a page.
    pub max_name_bytes: usize,
    /// The first accepted time, in microseconds since the Unix epoch.
    pub min_us: i64,
    /// The first time that is no longer accepted, in microseconds since the Unix epoch.
    pub max_us: i64,
    /// Whether a field that means nothing is a fault, instead of being skipped.
    pub deny_unknown_fields: bool,
}

/// Why a message is rejected: a closed list, because it is a metric's label and a column to filter by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It has no byte; a null payload is a tombstone.
    Empty,
    /// It is not JSON, or not of the syntax of its format.
    Syntax,
    /// It is JSON, but not of the contract's shape.
    Schema,
    /// Its `type` is none that we know.
    UnknownType,
    /// A timestamp lies outside the accepted window, most often because of a wrong unit.
    TimeWindow,
    /// A name, a number, the columns, the nesting or the number of headers are beyond their limit.
    Limits,
    /// It has too many bytes or points.
    TooLarge,
    /// It is no UTF-8, or a text holds a character that PostgreSQL cannot store.
    Encoding,
    /// Its series was not created, and the configuration asks for that.
    UnknownSeries,
    /// The database refuses a row of it.
    RejectedByDatabase,
}

impl Reason {
    /// Returns `true` if the message could be read, and the database says that it cannot be stored.
    pub fn is_of_database(self) -> bool {
        matches!(self, Self::UnknownSeries | Self::RejectedByDatabase)
    }

    /// All reasons.
    pub const ALL: [Self; 10] = [
        Self::Empty,
        Self::Syntax,
        Self::Schema,
        Self::UnknownType,
        Self::TimeWindow,
        Self::Limits,
        Self::TooLarge,
        Self::Encoding,
        Self::UnknownSeries,
        Self::RejectedByDatabase,
    ];

    /// The word for it in `ingest_dead_letter` and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Syntax => "syntax",
            Self::Schema => "schema",
            Self::UnknownType => "unknown_type",
            Self::TimeWindow => "time_window",
            Self::Limits => "limits",
            Self::TooLarge => "too_large",
            Self::Encoding => "encoding",
            Self::UnknownSeries => "unknown_series",
            Self::RejectedByDatabase => "rejected_by_database",
        }
    }
}

/// Why a message cannot be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The kind of fault.
    pub reason: Reason,
    /// Where it is, and what was expected there; for the producer.
    pub detail: String,
}

impl Rejected {
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}
