//! What can go wrong with series and points.

use crate::database;
use crate::files;
use crate::telemetry::{self, list};

/// Series or points were not read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server does not answer, or refuses.
    #[error(transparent)]
    Database(#[from] database::Error),
    /// No host can be read.
    #[error("{key}: no host can be read: {text}")]
    Hosts {
        /// The key of the hosts.
        key: &'static str,
        /// Each address, with how it ended.
        text: String,
    },
    /// A message that must be seen has not arrived.
    #[error("{lacking}, in the database at {place}, after {seconds} s: try again later, or raise --fresh-within")]
    NotFresh {
        /// The server.
        place: String,
        /// How far it is.
        lacking: String,
        /// The time waited.
        seconds: f64,
    },
    /// A standby has interrupted each attempt to read.
    #[error(
        "{place}: {text}, for the {times}th time without an answer in between: set hot_standby_feedback = on or raise \
         max_standby_streaming_delay there, or read the primary"
    )]
    Recovery {
        /// The server.
        place: String,
        /// The number of interruptions.
        times: usize,
        /// The last one.
        text: String,
    },
    /// The tables are missing.
    #[error(
        "the schema {0:?} has no table time_series_data_points: run `series-ingest migrate`, or name the schema of the tables in \
         database.schema"
    )]
    NotMigrated(String),
    /// There is no such series.
    #[error("there is no series {}", list(.0.iter().map(String::as_str)))]
    UnknownSeries(Vec<String>),
    /// A pattern cannot be read.
    #[error("the pattern {pattern:?} {why}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// None of the series has the column.
    #[error("{} has no column {column:?}: it has {}", .series, list(.known.iter().map(String::as_str)))]
    UnknownColumn {
        /// The series.
        series: String,
        /// What was asked for.
        column: String,
        /// The columns that it has.
        known: Vec<String>,
    },
    /// A column of values would have the name of the column of times.
    #[error(
        "the series {series:?} has a value column {column:?}, which is the name of its time column, too: name the time column \
         with --time-column NAME, choose columns with --column, or use --long"
    )]
    TimeColumn {
        /// The series.
        series: String,
        /// The name.
        column: String,
    },
    /// A point exists more than once.
    #[error(
        "the series {series:?} has {count} points of the column {column:?} at {}: choose one of them with --duplicates last or \
         first, or all of them with --long --duplicates all", telemetry::time_us(*.time_us)
    )]
    Duplicate {
        /// The series.
        series: String,
        /// The column.
        column: String,
        /// The time, in microseconds since the Unix epoch.
        time_us: i64,
        /// Their number.
        count: usize,
    },
    /// A time is not one that files can hold.
    #[error(
        "the series {series:?} has a point at a time that is infinite or beyond what 64 bits count in microseconds: leave it out \
         with --from and --until"
    )]
    Time {
        /// The series.
        series: String,
    },
    /// A view was not created or dropped.
    #[error("{0}")]
    View(String),
    /// A file was not written.
    #[error(transparent)]
    File(#[from] files::Error),
}
