//! What a message is decoded to, points in columns or a reason, and what all formats use for that. Pure, no I/O.
//!
//! - `faults`: faults that several formats find.
//! - `json`: the JSON of a message, read in place, with the position of each fault.
//! - `length`: lengths of time.
//! - [`Points`]: points in columns, which the decoder fills.
//! - `lenient`: what can be reported of a message that cannot be read.
//! - `timestamp`: all forms of a timestamp, as microseconds since the Unix epoch.

pub(crate) mod faults;
pub(crate) mod json;
pub(crate) mod length;
mod lenient;
mod points;
pub(crate) mod timestamp;

pub use lenient::series_of;
pub use points::{KeyIndex, Mark, Order, Points, SeriesIndex};

/// The result of decoding a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Points, which are now in the batch's columns.
    PointBatch {
        /// Their number.
        points: usize,
    },
    /// A series' definition.
    SeriesCreate(SeriesCreate),
    /// The deletion of a series with its points.
    SeriesDelete {
        /// The id of the series.
        id: String,
    },
    /// A null payload: in Kafka, the deletion of a key. There is nothing to store.
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
    /// Its description.
    pub description: Option<String>,
    /// The name of its timestamps in their original source.
    pub time_column: Option<String>,
    /// Its columns, in the message's order.
    pub value_columns: Vec<String>,
    /// Its labels, an object of JSON with sorted keys and without white space; `None` keeps the existing labels, and an empty
    /// object removes those of its definition.
    pub labels: Option<String>,
}

/// Limits of a message; one that exceeds them is rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Maximum length of a message, of its key and of its headers, in bytes each.
    pub max_bytes: usize,
    /// Maximum number of a message's points, and of the columns that it names.
    pub max_points: usize,
    /// Maximum length of a series' id and of a column's name, in bytes: the tables' indexes accept no key above a third of a
    /// page.
    pub max_name_bytes: usize,
    /// The first accepted time, in microseconds since the Unix epoch.
    pub min_us: i64,
    /// The first time that is no longer accepted, in microseconds since the Unix epoch.
    pub max_us: i64,
    /// If it is `true`, an unknown field is a fault; otherwise it is skipped.
    pub deny_unknown_fields: bool,
}

/// Why a message is rejected: a closed list, because it is a metric's label and a column to filter by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It is empty; a null payload is a tombstone.
    Empty,
    /// It is not JSON, or not of the syntax of its format.
    Syntax,
    /// It is JSON, but not of the contract's shape.
    Schema,
    /// Its `type` is unknown.
    UnknownType,
    /// A timestamp lies outside the accepted window, most often because of a wrong unit.
    TimeWindow,
    /// A name, a number, the columns, the nesting or the number of headers are beyond their limit.
    Limits,
    /// It has too many bytes or points.
    TooLarge,
    /// It is not UTF-8, or a text has a character that PostgreSQL cannot store.
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

    /// Its name in `ingest_dead_letter` and in metrics.
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
