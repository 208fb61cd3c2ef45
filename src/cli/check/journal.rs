//! The journal's directory, also while a worker uses it.

use std::path::Path;

use super::Report;
use crate::cli::run::journal_options;
use crate::config;
use crate::journal::{Inspection, RealFiles, examine};

pub(super) fn check(journal: &config::Journal, report: &mut Report) {
    if !journal.enabled {
        return report.say("journal", "none; reading pauses while the database is away");
    }
    let directory = Path::new(&journal.directory);
    let found = examine(&RealFiles, &journal_options(journal));
    for warning in &found.warnings {
        report.say("journal", format_args!("warning: {warning}"));
    }
    if let Some(problem) = found.problem {
        return report.problem("journal.directory", problem);
    }
    let directory = directory.display();
    if !found.exists {
        return report.say("journal", format_args!("{directory} will be made"));
    }
    if found.is_used {
        let advice = "if that is not this worker, this one needs its own directory";
        report.say("journal", format_args!("{directory} is used by a process; {advice}"));
    }
    match Inspection::open(RealFiles, Path::new(&journal.directory)) {
        Ok(found) => report.say(
            "journal",
            format_args!(
                "{directory} with {} records, {} damaged places",
                found.records().count(),
                found.damage().len()
            ),
        ),
        Err(error) => report.problem("journal.directory", error),
    }
}
