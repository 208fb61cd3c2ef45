//! The journal's directory, alongside a worker that may have it.

use std::path::Path;

use super::Report;
use crate::config;
use crate::journal::{Inspection, RealFiles};

pub(super) fn check(journal: &config::Journal, report: &mut Report) {
    if !journal.enabled {
        return report.say("journal", "none; reading pauses while the database is away");
    }
    let directory = Path::new(&journal.directory);
    // What cannot be looked at is told by the attempt to open it.
    if matches!(directory.try_exists(), Ok(false)) {
        return report.say("journal", format_args!("{} will be made", directory.display()));
    }
    match Inspection::open(RealFiles, directory) {
        Ok(found) => report.say(
            "journal",
            format_args!(
                "{} with {} records, {} damaged places",
                directory.display(),
                found.records().count(),
                found.damage().len()
            ),
        ),
        Err(error) => report.problem("journal.directory", error),
    }
}
