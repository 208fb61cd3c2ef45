//! The arguments of the benchmark, and the messages and rows that follow from them.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::cli::synthetic::{SYNTHETIC_FIRST_S, synthetic_message};

#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct Arguments {
    /// The broker to preload, `host:port`. Also KAFKA_BROKERS.
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) brokers: Option<String>,
    /// Number of points.
    #[arg(long, default_value_t = 1_000_000)]
    pub(super) points: usize,
    /// Number of series that the points are spread over, one after the other.
    #[arg(long, default_value_t = 1000)]
    pub(super) series: usize,
    /// Number of columns of a message.
    #[arg(long, default_value_t = 5)]
    pub(super) columns: usize,
    /// Number of timestamps of a message.
    #[arg(long, default_value_t = 20)]
    pub(super) timestamps: usize,
    /// A file for the figures as JSON, besides the table; it is complete after each part.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Only this part; may be repeated, or a list separated by commas. All by default.
    #[arg(long, value_enum, value_name = "PART", value_delimiter = ',')]
    pub(super) only: Vec<Part>,
}

/// A part of the benchmark, in the order of measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Part {
    /// Drain a topic, and compare with COPY of the same rows by the server itself.
    Drain,
    /// Replay the same messages from a journal.
    Replay,
    /// Drain into a table of the profile throughput, and compare with COPY.
    Throughput,
    /// Drain messages of one point.
    OnePoint,
    /// Drain the points of a hundred times as many series.
    ManySeries,
    /// Delays from send to commit at 20,000 points/s, and at half of the drain's rate if that was measured.
    Live,
    /// Drain with points.on_duplicate = "ignore" and "replace".
    OnceEach,
    /// Drain into a table with a CHECK that rejects nothing, and with one that rejects 0.01 % of the rows.
    Refused,
}

impl Part {
    /// Its name in the arguments.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

impl Arguments {
    /// The same number of points and columns, with one point per message: each column has its own series.
    pub(super) fn with_one_point(&self) -> Self {
        Self { series: self.series * self.columns, columns: 1, timestamps: 1, ..self.clone() }
    }

    /// The same number of points in a hundred times as many series, in messages with fewer timestamps.
    pub(super) fn with_many_series(&self) -> Self {
        let series = (100 * self.series).min(self.points.div_ceil(self.columns));
        Self { series, timestamps: (self.points / (series * self.columns)).max(1), ..self.clone() }
    }

    /// Number of points in a message.
    pub(super) fn points_a_message(&self) -> usize {
        self.columns * self.timestamps
    }

    /// Number of complete rounds over all series.
    pub(super) fn rounds(&self) -> usize {
        self.points.div_ceil(self.points_a_message() * self.series)
    }

    /// Total number of points.
    pub(super) fn total(&self) -> usize {
        self.rounds() * self.series * self.points_a_message()
    }

    /// The `round`-th message of a series.
    pub(super) fn message(&self, series: usize, round: usize) -> String {
        synthetic_message(&series_id(series), round, self.timestamps, self.columns)
    }

    /// SQL for the rows of these series' messages: in the order of the messages, and within each as the worker reads them, or
    /// sorted.
    pub(super) fn rows_sql(&self, from: usize, until: usize, sorted: bool) -> String {
        let order = if sorted { "series, col, round, time" } else { "round, series, col, time" };
        format!(
            "select 'bench-' || lpad(series::text, 6, '0'), to_timestamp({first} + round * {times} + time), \
                    'c' || col, (({first} + round * {times} + time) * (col + 1) % 1000) / 10.0::float8 \
             from generate_series(0::bigint, {rounds} - 1) as round, generate_series({from}, {until} - 1) as series, \
                  generate_series(0, {columns} - 1) as col, generate_series(0, {times} - 1) as time \
             order by {order}",
            first = SYNTHETIC_FIRST_S,
            times = self.timestamps,
            rounds = self.rounds(),
            columns = self.columns,
        )
    }

    /// SQL that adds all series.
    pub(super) fn series_sql(&self) -> String {
        format!(
            "insert into time_series_metadata (id, name) select 'bench-' || lpad(n::text, 6, '0'), n::text \
             from generate_series(0, {} - 1) as n",
            self.series
        )
    }

    /// SQL that creates the chunks of all rows, empty: it inserts a row for each day, and deletes it.
    pub(super) fn chunks_sql(&self) -> String {
        let last = SYNTHETIC_FIRST_S + self.rounds() * self.timestamps - 1;
        format!(
            "insert into time_series_data_points (time_series_id, \"timestamp\", column_name) \
             select '{id}', to_timestamp(least(second, {last})), 'c0' \
             from generate_series({first}, {last} + 86399, 86400) as second; \
             delete from time_series_data_points",
            id = series_id(0),
            first = SYNTHETIC_FIRST_S,
        )
    }
}

/// The id of a series, by its number.
pub(super) fn series_id(series: usize) -> String {
    format!("bench-{series:06}")
}
