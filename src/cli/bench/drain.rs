//! A drain: the worker, as its own process, reads a topic until the table has all points.

use std::path::Path;
use std::time::{Duration, Instant};

use super::arguments::Arguments;
use super::process::{Worker, postgres_cpu};
use super::report::{Report, rounded};
use crate::cli::{Failure, print_line, progress_bar};
use crate::config::Config;
use crate::database::scratch::ScratchDatabase;
use crate::telemetry::metrics::{self, Step};

/// Maximum time for which the worker may apply no new message.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// The resources that the worker used for the drain.
pub(super) struct Drain {
    points: usize,
    pub(super) points_a_second: f64,
    cpu: Duration,
    /// CPU time of the database; `None` if it runs elsewhere.
    database_cpu: Option<Duration>,
    peak_rss_bytes: u64,
    /// The seconds of each step, summed over all of the worker's threads.
    steps: Vec<(Step, f64)>,
    /// Number of points in compressed rows.
    pub(super) compressed: usize,
}

impl Drain {
    /// Adds the resources, with a prefix for the keys.
    pub(super) fn report_cost(&self, report: &mut Report, key: &str) {
        for (whose, cpu) in [("worker", Some(self.cpu)), ("database", self.database_cpu)] {
            let Some(cpu) = cpu else { continue };
            let seconds = cpu.as_secs_f64() * 1e6 / self.points as f64;
            report.add(
                &format!("  CPU of the {whose}"),
                &format!("{key}{whose}_cpu_s_per_million"),
                format!("{seconds:>8.2} s per million points"),
                rounded(seconds),
            );
        }
        let mib = self.peak_rss_bytes as f64 / f64::from(1 << 20);
        report.add("  peak resident memory", &format!("{key}peak_rss_mib"), format!("{mib:>8.0} MiB"), mib.round());
        let all: f64 = self.steps.iter().map(|(_, seconds)| seconds).sum();
        let shares: Vec<(Step, f64)> =
            self.steps.iter().map(|(step, seconds)| (*step, seconds / all.max(f64::MIN_POSITIVE))).collect();
        let words: Vec<String> =
            shares.iter().map(|(step, share)| format!("{} {:.1} %", step.as_str(), 100.0 * share)).collect();
        let values: serde_json::Map<String, serde_json::Value> =
            shares.iter().map(|(step, share)| (step.as_str().to_owned(), rounded(*share).into())).collect();
        report.add("  share of each step", &format!("{key}step_shares"), format!("  {}", words.join(", ")), values);
    }
}

/// Runs the worker as its own process, until the table has all points.
pub(super) async fn drain(
    bench: &Config,
    file: Option<&Path>,
    arguments: &Arguments,
    scratch: &ScratchDatabase,
) -> Result<Drain, Failure> {
    print_line("drain by the worker");
    let mut worker = Worker::start(bench, file, scratch)?;
    let bar = progress_bar(arguments.total(), "points");
    let (start, database_cpu) = (Instant::now(), postgres_cpu());
    let messages = arguments.total() / arguments.points_a_message();
    let show = |applied: usize| bar.set_position((applied * arguments.points_a_message()) as u64);
    until_applied(scratch, &mut worker, messages, Duration::from_millis(50), show).await?;
    let took = start.elapsed();
    bar.finish_and_clear();
    let database_cpu = database_cpu.zip(postgres_cpu()).map(|(before, after)| after.saturating_sub(before));
    let (cpu, peak_rss_bytes) = worker.usage()?;
    let steps = metrics::step_seconds(&worker.metrics().await?);
    worker.stop()?;
    let (points, compressed) = (arguments.total(), scratch.count_compressed_points().await?);
    let points_a_second = points as f64 / took.as_secs_f64();
    Ok(Drain { points, points_a_second, cpu, database_cpu, peak_rss_bytes, steps, compressed })
}

/// Reads the number of applied messages every `every`, until it is `expected`; each count is passed to `report`. Reading the
/// progress costs nothing, unlike counting rows.
pub(super) async fn until_applied(
    scratch: &ScratchDatabase,
    worker: &mut Worker,
    expected: usize,
    every: Duration,
    mut report: impl FnMut(usize),
) -> Result<(), Failure> {
    let mut last = (0, Instant::now());
    loop {
        let applied = scratch.applied_messages().await?;
        report(applied);
        if applied >= expected {
            return Ok(());
        }
        if applied != last.0 {
            last = (applied, Instant::now());
        }
        if last.1.elapsed() >= STALL_TIMEOUT || worker.has_ended()? {
            return Err(Failure::Internal(format!("the worker stopped at {applied} of {expected} messages")));
        }
        tokio::time::sleep(every).await;
    }
}

/// Fails unless the table has each point exactly once.
pub(super) async fn check_points(scratch: &ScratchDatabase, arguments: &Arguments) -> Result<(), Failure> {
    let summary = scratch.summary().await?;
    if summary.points != arguments.total() || summary.distinct_points != arguments.total() {
        return Err(Failure::Internal(format!(
            "the table has {} points, {} of them different, of {} published",
            summary.points,
            summary.distinct_points,
            arguments.total()
        )));
    }
    Ok(())
}
