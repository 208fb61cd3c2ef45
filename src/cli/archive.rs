//! `archive`: old points into files, and then out of the database.

use std::path::PathBuf;

use clap::Args;
use indicatif::{HumanBytes, ProgressBar};
use serde_json::{Value, json};
use tracing::Level;

use super::output::{complain, print_line};
use super::times::parse_length;
use super::{Failure, progress_bar, signals};
use crate::config::Config;
use crate::repository::archive::{Archive, ArchiveError, Archived, Folder, Options};
use crate::telemetry::time_us;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    series-ingest archive --older-than 90d --out /archive --dry-run    what would be archived\n  \
    series-ingest archive --older-than 90d --out /archive              each old chunk into a file, and then dropped\n  \
    series-ingest archive --older-than 90d --out /archive --keep       files, and nothing is dropped\n  \
    series-ingest archive --verify --out /archive                      read all files again; needs no server\n  \
    series-ingest points import /archive/day=2025-01-*/*.parquet       bring points back, once\n\n\
    A chunk, or a day of a plain table, is archived if all of its times are older. Its points are dropped when the file was read \
    back from the disk, and the table has just these points. A command that was stopped goes on when it is run again.\n\
    Exit code: 65 if a file is damaged; its points are then still in the table.")]
pub(in crate::cli) struct Arguments {
    /// The age of points that are archived, such as 90d or 12h.
    #[arg(long, value_name = "AGE", value_parser = parse_length, required_unless_present = "verify")]
    older_than: Option<i64>,
    /// The folder of the archive; it is made if it is missing.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Only say what would be archived.
    #[arg(long, conflicts_with = "keep")]
    dry_run: bool,
    /// Write and verify the files, and drop nothing: the same command without this goes on from there.
    #[arg(long)]
    keep: bool,
    /// Only read all files of the folder, and compare them with their manifests.
    #[arg(long, conflicts_with_all = ["older_than", "dry_run", "keep"])]
    verify: bool,
    /// As one JSON document.
    #[arg(long)]
    json: bool,
}

impl From<ArchiveError> for Failure {
    fn from(error: ArchiveError) -> Self {
        match error {
            ArchiveError::Repository(error) => error.into(),
            ArchiveError::Read(error) => error.into(),
            ArchiveError::Damaged(text) => Self::Damaged(text),
            ArchiveError::Usage(text) => Self::Usage(text),
            ArchiveError::Busy(text) => Self::Unreachable(text),
            ArchiveError::Internal(text) => Self::Internal(text),
        }
    }
}

pub(super) async fn run(config: &Config, arguments: Arguments) -> Result<(), Failure> {
    let Some(older_than_us) = arguments.older_than else { return verify(&arguments) };
    config.require_database()?;
    signals::survive_file_limit()?;
    let options = Options { older_than_us, dry_run: arguments.dry_run, keep: arguments.keep };
    let archive = Archive::open(&config.database, &arguments.out, options).await?;
    let bar = progress_bar(0, "points");
    let (mut documents, mut failure) = (Vec::new(), None);
    for unit in archive.units() {
        let (total, progress) = (|points| bar.inc_length(points), |points| bar.inc(points));
        match archive.archive(unit, &total, &progress).await {
            Ok(archived) => report(&arguments, &archived, &bar, &mut documents),
            // This is of one unit; what fails otherwise would fail with the others as well.
            Err(error @ (ArchiveError::Damaged(_) | ArchiveError::Busy(_) | ArchiveError::Usage(_))) => {
                if failure.is_some() {
                    bar.suspend(|| complain(Level::ERROR, &error.to_string()));
                }
                failure.get_or_insert(error);
            }
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    bar.finish_and_clear();
    if arguments.json {
        print_line(json!({"dry_run": arguments.dry_run, "keep": arguments.keep, "units": documents}));
    } else if archive.units().is_empty() {
        print_line("no chunk or day is as old as that: there is nothing to archive");
    }
    failure.map_or(Ok(()), |error| Err(error.into()))
}

/// Reads all files again.
fn verify(arguments: &Arguments) -> Result<(), Failure> {
    let (mut documents, mut damaged) = (Vec::new(), 0);
    Folder::at(&arguments.out).verify(|path, verified| {
        let path = path.display().to_string();
        match &verified {
            Ok(points) if !arguments.json => print_line(format_args!("{path}: {points} points, as they were written")),
            Ok(_) => {}
            Err(why) => {
                damaged += 1;
                complain(Level::ERROR, why);
            }
        }
        documents.push(json!({"file": path, "points": verified.as_ref().ok(), "damage": verified.as_ref().err()}));
    })?;
    let all = documents.len();
    if arguments.json {
        print_line(json!({"files": documents}));
    }
    match (all, damaged) {
        (0, _) => Err(Failure::Usage(format!("{}: there is no file of an archive", arguments.out.display()))),
        (_, 0) => Ok(()),
        (_, damaged) => Err(Failure::Damaged(format!("{damaged} of {all} files are damaged"))),
    }
}

fn report(arguments: &Arguments, archived: &Archived, bar: &ProgressBar, documents: &mut Vec<Value>) {
    let (from, until) = (time_us(archived.unit.from_us), time_us(archived.unit.until_us));
    bar.suspend(|| {
        for path in &archived.set_aside {
            let text = format!(
                "{}: an older file has points that the table does not have now: it was renamed to this, and is no longer part of \
                 the archive",
                path.display()
            );
            complain(Level::WARN, &text);
        }
        if archived.is_chunk_left {
            let text = format!("the chunk of {from} to {until} is empty, and stays until the next archive: it was in use");
            complain(Level::INFO, &text);
        }
        if !arguments.json {
            print_line(format_args!("{from} to {until}: {}", words(arguments, archived)));
        }
    });
    let paths = |paths: &[PathBuf]| paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
    documents.push(json!({
        "from": from,
        "until": until,
        "points": archived.rows,
        "series": archived.series,
        "file": archived.file.as_ref().map(|path| path.display().to_string()),
        "bytes": archived.stored.as_ref().map(|(bytes, _)| bytes),
        "sha256": archived.stored.as_ref().map(|(_, hash)| hash),
        "exported": archived.is_new,
        "dropped": archived.is_dropped,
        "removed": paths(&archived.removed),
        "set_aside": paths(&archived.set_aside),
    }));
}

fn words(arguments: &Arguments, archived: &Archived) -> String {
    let points = archived.rows;
    let file = archived.file.as_ref().map(|path| path.display().to_string());
    if points == 0 {
        return "no points".to_owned();
    }
    if arguments.dry_run {
        return match file {
            None => format!("{points} points would be exported, verified and dropped"),
            Some(file) => format!("{points} points are in {file}: it would be verified, and they would be dropped"),
        };
    }
    let (file, series) = (file.unwrap_or_default(), archived.series.unwrap_or_default());
    let bytes = archived.stored.as_ref().map_or(0, |(bytes, _)| *bytes);
    let how = if archived.is_new { "" } else { ", which was there and is verified again" };
    let end = if archived.is_dropped { "dropped" } else { "kept in the table as well" };
    format!("{points} points of {series} series in {file} ({}){how}; {end}", HumanBytes(bytes))
}
