//! What is asked for.

use crate::files::Form;

/// What is read of a series, and how its rows are.
#[derive(Debug, Clone)]
pub struct Options {
    /// The first time, in microseconds since the Unix epoch; none is before all.
    pub from_us: Option<i64>,
    /// The first time that is no longer read; none is after all.
    pub until_us: Option<i64>,
    /// The columns in their order; if there are none, all.
    pub columns: Vec<String>,
    /// The name of the column of times, instead of the series' own.
    pub time_column: Option<String>,
    /// What a row is.
    pub form: Form,
    /// Which of several points of the same column at the same time.
    pub duplicates: Duplicates,
    /// Aggregates of spans of time instead of points.
    pub bucket: Option<Bucket>,
    /// No batch has rows of two of these.
    pub part: Option<Part>,
    /// The points that are read at a time; what is needed of memory is some tens of bytes for each.
    pub window_points: usize,
}

impl Options {
    /// The usual [`Options::window_points`].
    pub const WINDOW_POINTS: usize = 1_500_000;
}

/// Which of several points of the same column at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duplicates {
    /// The one with the highest id, which was written last.
    Last,
    /// The one with the lowest id.
    First,
    /// All, by their ids; only in the long form.
    All,
    /// None: they are an error.
    Fail,
}

/// Aggregates of spans of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// The length of a span, in microseconds; spans begin at multiples of it since the Unix epoch.
    pub length_us: i64,
    /// What is computed of each.
    pub aggregates: Vec<Aggregate>,
}

/// What is computed of the values of a span; NULL does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregate {
    /// Their mean.
    Mean,
    /// The smallest.
    Min,
    /// The largest.
    Max,
    /// Their sum.
    Sum,
    /// Their number.
    Count,
}

impl Aggregate {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Min => "min",
            Self::Max => "max",
            Self::Sum => "sum",
            Self::Count => "count",
        }
    }

    /// The column of an aggregate of a column.
    pub(super) fn column(self, column: &str) -> String {
        format!("{column}_{}", self.as_str())
    }
}

/// A span of the calendar, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A day.
    Day,
    /// A month.
    Month,
}
