//! `backup verify`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use tracing::Level;

use super::Programs;
use crate::cli::Failure;
use crate::cli::interrupt::Interrupts;
use crate::cli::output::{complain, print_line};
use crate::config::{Config, Secret};
use crate::database::scratch::ScratchDatabase;
use crate::repository::backup::{self, Backup, Options, Restored, Way};

/// How the name of a database begins that is made for a verification.
const PREFIX: &str = "ingest_verify";

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    series-ingest backup verify /var/backups/series                            the newest backup of this folder\n  \
    series-ingest backup verify /var/backups/series/backup-20260131T020000Z    this one\n  \
    series-ingest backup verify B --scratch-url postgresql://postgres@spare/postgres   on another server\n\n\
    The backup is restored into a database that is made for it and dropped afterwards; then the points of each chunk, the rows of \
    each table and the progress of each partition are compared with the manifest. The exit code is 65 if they differ, or if a file \
    is not as it was written. The role must be allowed to create databases, and with TimescaleDB must be a superuser.")]
pub(in crate::cli) struct Arguments {
    /// A backup, or a folder of backups, whose newest is meant.
    #[arg(value_name = "BACKUP|DIR")]
    backup: PathBuf,
    /// The server for the restored database; by default that of database.url. A password is better in PGPASSFILE or the
    /// environment than here.
    #[arg(long, value_name = "URL", env = "SERIES_INGEST_SCRATCH_URL", hide_env_values = true)]
    scratch_url: Option<String>,
    #[command(flatten)]
    programs: Programs,
    /// Print what was found as one JSON document.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, arguments: &Arguments, interrupts: &mut Interrupts) -> Result<(), Failure> {
    if arguments.scratch_url.is_none() {
        config.require_database()?;
    }
    let backup = super::open(&arguments.backup)?;
    let mut other = config.clone();
    if let Some(url) = &arguments.scratch_url {
        other.database.url = Secret::new(url.clone());
        (other.database.url_file, other.database.password_file) = (String::new(), String::new());
    }
    // Backups of other schemas can be verified as well.
    other.database.schema.clone_from(&backup.manifest.origin.schema);
    // Two processes may have the same number in their containers.
    let prefix = format!("{PREFIX}_{}", backup::unique_suffix());
    let scratch = interrupts.or_work(async { Ok(ScratchDatabase::create(&other.database, &prefix).await?) }).await?;
    other.database.url = Secret::new(scratch.url().to_owned());
    let result = interrupts.or_work(restore(&other, arguments, &backup)).await;
    let name = scratch.name().to_owned();
    // A second signal ends this as well.
    if let Err(error) = interrupts.or_work(async { Ok(scratch.remove().await?) }).await {
        complain(Level::WARN, &format!("the database {name} is still there, drop it: {error}"));
    }
    let restored = result?;
    if restored.differences.is_empty() {
        let is_known = record(config, arguments, &backup, &restored).await?;
        print(arguments, &backup, &restored, is_known);
        return Ok(());
    }
    print(arguments, &backup, &restored, false);
    let count = restored.differences.len();
    let place = backup.path.display();
    let first: Vec<&str> = restored.differences.iter().map(String::as_str).take(20).collect();
    let more = if count > first.len() { format!("\n  and {} more", count - first.len()) } else { String::new() };
    Err(Failure::Damaged(format!(
        "the backup {place} is not what its manifest says, {count} differences: do not rely on it\n  {}{more}",
        first.join("\n  ")
    )))
}

async fn restore(config: &Config, arguments: &Arguments, backup: &Backup) -> Result<Restored, Failure> {
    let bar = super::bar();
    let options = Options { pg_bin: arguments.programs.pg_bin.clone(), no_privileges: true, rows: false };
    let restored = backup::restore(config, backup, &options, super::report(&bar)).await;
    bar.finish_and_clear();
    Ok(restored?)
}

/// Records the verification; if the database does not answer, in the folder only.
async fn record(config: &Config, arguments: &Arguments, backup: &Backup, restored: &Restored) -> Result<bool, Failure> {
    let verification = restored.verification(backup);
    let recorded = backup::record_verification(&config.database, backup, &verification).await;
    match recorded {
        Ok(is_known) => Ok(is_known),
        Err(error @ (backup::Error::Database(_) | backup::Error::Schema(_))) => {
            if arguments.scratch_url.is_none() || !config.database.url.is_empty() {
                let text =
                    format!("the database does not remember the verification, so that no metric shows it: {error}");
                complain(Level::WARN, &text);
            }
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

fn print(arguments: &Arguments, backup: &Backup, restored: &Restored, is_known: bool) {
    let contents = &backup.manifest.contents;
    if arguments.json {
        print_line(json!({
            "path": backup.path.display().to_string(), "id": backup.manifest.id, "points": contents.points,
            "ok": restored.differences.is_empty(), "differences": restored.differences, "recorded": is_known,
            "row_by_row": matches!(restored.way, Way::Rows(_)), "postgresql": restored.postgresql,
        }));
        return;
    }
    if restored.differences.is_empty() {
        print_line(format_args!(
            "{}: restored on PostgreSQL {}, {} points and the progress of {} partitions are those of the manifest",
            backup.path.display(),
            restored.postgresql,
            contents.points,
            contents.sources.iter().map(|source| source.partitions.len()).sum::<usize>(),
        ));
    }
    if let Way::Rows(why) = &restored.way {
        print_line(format_args!("restored row by row: {why}"));
    }
}
