//! The server's maximum rates: COPY of the same rows from the server's own files, into the same table.

use std::time::{Duration, Instant};

use super::arguments::Arguments;
use crate::cli::{Failure, print_line};
use crate::database::scratch::ScratchDatabase;

/// One way to copy all rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    /// Its name in the report.
    pub(super) name: &'static str,
    /// Its key in the JSON.
    pub(super) key: &'static str,
    sorted: bool,
    connections: usize,
    /// Settings of the session, run before.
    settings: &'static str,
}

/// The ways for the profile `standard`. The chunks are created before, because a transaction that creates one blocks all other
/// writers.
pub(super) const STANDARD: [Limit; 5] = [
    limit("arrival order, 1 connection", "arrival_1", false, 1, ""),
    limit("arrival order, 2 connections", "arrival_2", false, 2, ""),
    limit("sorted, 1 connection", "sorted_1", true, 1, ""),
    limit("sorted, 2 connections", "sorted_2", true, 2, ""),
    WITHOUT_TRIGGER,
];

/// The fastest way for the profile `standard`.
pub(super) const WITHOUT_TRIGGER: Limit = limit(
    "the same without the foreign key's trigger",
    "sorted_2_no_trigger",
    true,
    2,
    "set session_replication_role = replica",
);

/// The ways for the profile `throughput`.
pub(super) const THROUGHPUT: [Limit; 2] =
    [limit("sorted, 1 connection", "sorted_1", true, 1, ""), limit("sorted, 2 connections", "sorted_2", true, 2, "")];

/// The ways for a server that compresses copied rows.
pub(super) const DIRECT_COMPRESS: [Limit; 2] = [
    limit("compressed, sorted, 1 connection", "compressed_1", true, 1, COMPRESSED),
    limit("compressed, sorted, 2 connections", "compressed_2", true, 2, COMPRESSED),
];

const COMPRESSED: &str = "set timescaledb.enable_direct_compress_copy = on";

const fn limit(
    name: &'static str,
    key: &'static str,
    sorted: bool,
    connections: usize,
    settings: &'static str,
) -> Limit {
    Limit { name, key, sorted, connections, settings }
}

/// The server's files with the rows: two halves of the series, in the order of the messages and sorted.
#[derive(Debug, Clone)]
pub(super) struct Files {
    arrival: Vec<String>,
    sorted: Vec<String>,
}

impl Files {
    pub(super) async fn make(scratch: &ScratchDatabase, arguments: &Arguments) -> Result<Self, Failure> {
        let middle = arguments.series / 2;
        let mut files = Self { arrival: Vec::new(), sorted: Vec::new() };
        for (number, (from, until)) in [(0, middle), (middle, arguments.series)].into_iter().enumerate() {
            for (sorted, list) in [(false, &mut files.arrival), (true, &mut files.sorted)] {
                let name = format!("{}{number}", if sorted { "sorted" } else { "arrival" });
                list.push(scratch.make_copy_file(&name, &arguments.rows_sql(from, until, sorted)).await?);
            }
        }
        Ok(files)
    }

    pub(super) async fn remove(self, scratch: &ScratchDatabase) -> Result<(), Failure> {
        for file in self.arrival.iter().chain(&self.sorted) {
            scratch.remove_copy_file(file).await?;
        }
        Ok(())
    }
}

/// Copies all rows in each way, into tables that are empty before and after. Returns points per second, in the order of the
/// ways.
pub(super) async fn measure(
    scratch: &ScratchDatabase,
    arguments: &Arguments,
    files: &Files,
    limits: &[Limit],
) -> Result<Vec<f64>, Failure> {
    let mut rates = Vec::new();
    for limit in limits {
        let took = copy(scratch, arguments, files, *limit).await?;
        rates.push(arguments.total() as f64 / took.as_secs_f64());
    }
    Ok(rates)
}

async fn copy(
    scratch: &ScratchDatabase,
    arguments: &Arguments,
    files: &Files,
    limit: Limit,
) -> Result<Duration, Failure> {
    scratch.empty_tables().await?;
    scratch.execute("insert the series", &arguments.series_sql()).await?;
    scratch.execute("make the chunks", &arguments.chunks_sql()).await?;
    print_line(format_args!("COPY by the server: {}", limit.name));
    let files = if limit.sorted { &files.sorted } else { &files.arrival };
    let start = Instant::now();
    // One connection copies both files, or one connection each.
    let connections = files.chunks(files.len() / limit.connections);
    let copies = connections.map(|files| scratch.copy_from_files(files, limit.settings));
    futures_util::future::try_join_all(copies).await?;
    let took = start.elapsed();
    let copied = scratch.count_points().await?;
    scratch.empty_tables().await?;
    if copied != arguments.total() {
        return Err(Failure::Internal(format!("the server copied {copied} rows of {}", arguments.total())));
    }
    Ok(took)
}
