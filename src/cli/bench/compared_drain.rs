//! A drain, compared with the server's maximum rates before and after it.

use std::path::Path;

use super::arguments::Arguments;
use super::drain::{Drain, check_points, drain};
use super::limits::{self, Files, Limit};
use super::report::{Report, rounded};
use crate::cli::Failure;
use crate::config::Config;
use crate::database::scratch::ScratchDatabase;

/// A drain, and the server's maximum rates before and after it, in points per second.
pub(super) struct ComparedDrain {
    limits: Vec<Limit>,
    before: Vec<f64>,
    pub(super) drain: Drain,
    after: Vec<f64>,
}

impl ComparedDrain {
    /// Adds all figures, with prefixes for names and keys.
    pub(super) fn report(&self, report: &mut Report, name: &str, key: &str, others: &[(&str, &str, f64)]) {
        let mut faster_ones = Vec::new();
        for ((limit, before), after) in self.limits.iter().zip(&self.before).zip(&self.after) {
            let text = format!("{before:>8.0} points/s before the drain, {after:.0} after");
            let faster = before.max(*after);
            let (name, key) = (format!("{name}COPY, {}", limit.name), format!("{key}copy_{}_points_per_s", limit.key));
            report.add(&name, &key, text, faster.round());
            faster_ones.push((limit, faster));
        }
        let drain = &self.drain;
        report.rate(&format!("{name}drain by the worker"), &format!("{key}drain"), drain.points_a_second, others);
        for (limit, faster) in faster_ones {
            let ratio = drain.points_a_second / faster;
            let key = format!("{key}drain_to_copy_{}", limit.key);
            report.add(&format!("  to COPY, {}", limit.name), &key, format!("{ratio:>8.2}"), rounded(ratio));
        }
        drain.report_cost(report, key);
    }
}

/// Drains the topic once, and measures these ways to copy before and after it.
pub(super) async fn compared_drain(
    bench: &Config,
    file: Option<&Path>,
    arguments: &Arguments,
    scratch: &ScratchDatabase,
    files: &Files,
    limits: &[Limit],
) -> Result<ComparedDrain, Failure> {
    let before = limits::measure(scratch, arguments, files, limits).await?;
    let drain = drain(bench, file, arguments, scratch).await?;
    check_points(scratch, arguments).await?;
    let after = limits::measure(scratch, arguments, files, limits).await?;
    Ok(ComparedDrain { limits: limits.to_vec(), before, drain, after })
}
