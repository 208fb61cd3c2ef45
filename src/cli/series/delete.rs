//! `series delete`.

use std::io::IsTerminal as _;

use clap::Args;
use serde::Serialize;

use crate::cli::output::{print, print_line, read_answer};
use crate::cli::times::parse_time;
use crate::cli::{Failure, progress_bar};
use crate::database::Database;
use crate::database::deletion::{Deleted, Deletion};
use crate::telemetry::list;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    series-ingest series delete seattle-weather               ask, then delete the series with all its points\n  \
    series-ingest series delete a b --yes --json              two series, without asking\n  \
    series-ingest series delete s --before 2020-01-01 --yes   only the points before this time; the series stays\n  \
    series-ingest series delete s --before=-90d --dry-run     how many points would that be\n\n\
    Messages that were sent before the command ends no longer count: neither Kafka that is read again, nor a journal, nor a \
    dead letter brings the points back. Messages that are sent later create the series again.")]
pub(in crate::cli) struct Arguments {
    /// The ids of the series.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// Delete only the points before this time: RFC 3339, a date, or a length of time before now, such as =-90d.
    #[arg(long, value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true)]
    before: Option<i64>,
    /// Only say how many points would be deleted.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation.
    #[arg(long)]
    yes: bool,
    /// As JSON lines, one for each series.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    /// `false` if there is no such series; messages that were sent until now no longer count in that case, too.
    exists: bool,
    #[serde(flatten)]
    deleted: Deleted,
}

pub(super) async fn run(database: &Database, arguments: &Arguments) -> Result<(), Failure> {
    let mut ids: Vec<&str> = arguments.ids.iter().map(String::as_str).collect();
    ids.sort_unstable();
    ids.dedup();
    let deletions: Vec<Deletion> =
        ids.iter().map(|id| Deletion { series: (*id).to_owned(), before_us: arguments.before }).collect();
    let bar = progress_bar(0, "points");
    let mut points = Vec::new();
    // Counting many takes long, and is for people.
    if arguments.dry_run || !arguments.yes || !bar.is_hidden() {
        for deletion in &deletions {
            match database.points_to_delete(deletion).await {
                Ok(count) => points.push(count.unsigned_abs()),
                // It is for the bar only.
                Err(_) if arguments.yes && !arguments.dry_run => points.push(0),
                Err(error) => return Err(error.into()),
            }
        }
    }
    let total: u64 = points.iter().sum();
    let existing = database.existing_series(&ids).await?;
    if arguments.dry_run {
        for (deletion, points) in deletions.iter().zip(&points) {
            let deleted = Deleted { points: *points, ..Deleted::default() };
            print_deleted(arguments, &existing, deletion, deleted, "would be deleted");
        }
        return Ok(());
    }
    if !arguments.yes && !is_confirmed(arguments, &ids, total)? {
        print_line("nothing was deleted");
        return Ok(());
    }
    database.begin_deletions(&ids, arguments.before).await?;
    bar.set_length(total);
    for deletion in &deletions {
        let deleted = database.complete_deletion(deletion, true, |points| bar.inc(points)).await?;
        bar.suspend(|| print_deleted(arguments, &existing, deletion, deleted, "deleted"));
    }
    bar.finish_and_clear();
    if !arguments.json {
        print_line(
            "Copies may remain in backups and standbys of earlier times, in files that were exported, and until they expire in \
             Kafka's topics and in journals: the last two bring nothing back.",
        );
    }
    Ok(())
}

fn is_confirmed(arguments: &Arguments, ids: &[&str], points: u64) -> Result<bool, Failure> {
    let what = match arguments.before {
        None => format!("{} series with {points} points", ids.len()),
        Some(_) => format!("{points} points of {} series", ids.len()),
    };
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage(format!("{what}: add --yes to delete them")));
    }
    print(&format!("Delete {what} ({})? [y/N] ", list(ids.iter().copied())));
    Ok(matches!(read_answer().as_deref(), Some("y" | "yes")))
}

fn print_deleted(arguments: &Arguments, existing: &[String], deletion: &Deletion, deleted: Deleted, done: &str) {
    let id = deletion.series.as_str();
    let exists = existing.iter().any(|known| known == id);
    if arguments.json {
        let line = Line { id, exists, deleted };
        print_line(serde_json::to_string(&line).expect("a line of plain values is JSON"));
        return;
    }
    let Deleted { points, dead_letters, series } = deleted;
    let row = match (arguments.before, exists, series) {
        (Some(_), true, _) => "",
        (_, false, _) => "; there is no such series",
        (None, true, true) => ", with the series",
        (None, true, false) if arguments.dry_run => ", with the series",
        (None, true, false) => "; a newer definition keeps the series",
    };
    let letters = if dead_letters > 0 { format!(", {dead_letters} dead letters") } else { String::new() };
    print_line(format_args!("{id:?}: {points} points{letters} {done}{row}"));
}
