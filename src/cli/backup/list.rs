//! `backup list`.

use std::path::PathBuf;

use clap::Args;
use indicatif::HumanBytes;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cli::Failure;
use crate::cli::output::print_line;
use crate::repository::backup::Backup;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    series-ingest backup list /var/backups/series          a line for each backup, the oldest first\n  \
    series-ingest backup list /var/backups/series --json   for programs\n\n\
    No server is asked. The exit code is 65 if a manifest is damaged.")]
pub(in crate::cli) struct Arguments {
    /// The folder of the backups.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// The age of a backup, in seconds.
fn age_s(backup: &Backup) -> Option<i64> {
    let created: Timestamp = backup.manifest.created_at.parse().ok()?;
    Some(Timestamp::now().as_second() - created.as_second())
}

fn age_text(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (backups, damaged) = Backup::list(&arguments.folder)?;
    if arguments.json {
        let list: Vec<Value> = backups.iter().map(document).collect();
        let damaged: Vec<String> = damaged.iter().map(ToString::to_string).collect();
        print_line(json!({"backups": list, "damaged": damaged}));
    } else if !backups.is_empty() {
        let name = |backup: &Backup| backup.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let width = backups.iter().map(|backup| name(backup).len()).max().unwrap_or(0).max(6);
        print_line(format_args!(
            "{:width$}  {:20}  {:>8}  {:>12}  {:>14}  verified",
            "backup", "created", "age", "size", "points"
        ));
        for backup in &backups {
            print_line(format_args!(
                "{:width$}  {:20}  {:>8}  {:>12}  {:>14}  {}",
                name(backup),
                backup.manifest.created_at,
                age_s(backup).map_or_else(String::new, age_text),
                HumanBytes(backup.manifest.dump.bytes).to_string(),
                backup.manifest.contents.points,
                backup.verified.as_ref().map_or("never", |verified| verified.at.as_str()),
            ));
        }
    } else if damaged.is_empty() {
        print_line(format_args!("{} has no backup", arguments.folder.display()));
    }
    match damaged.into_iter().next() {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

fn document(backup: &Backup) -> Value {
    let manifest = &backup.manifest;
    json!({
        "path": backup.path.display().to_string(),
        "id": manifest.id,
        "created_at": manifest.created_at,
        "age_seconds": age_s(backup),
        "bytes": manifest.dump.bytes,
        "points": manifest.contents.points,
        "series": manifest.contents.rows("time_series_metadata"),
        "verified_at": backup.verified.as_ref().map(|verified| verified.at.as_str()),
        "database": manifest.origin.database,
        "postgresql": manifest.origin.postgresql,
        "timescaledb": manifest.origin.timescaledb,
    })
}

#[cfg(test)]
mod tests {
    use super::age_text;

    #[test]
    fn ages_are_in_the_unit_that_says_most() {
        for (seconds, text) in [(5, "5 s"), (119, "119 s"), (600, "10 min"), (86_400, "24 h"), (864_000, "10 d")] {
            assert_eq!(age_text(seconds), text);
        }
    }
}
