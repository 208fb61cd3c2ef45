//! `backup create`.

use std::path::PathBuf;

use clap::Args;
use indicatif::HumanBytes;
use serde_json::json;
use tracing::Level;

use super::Programs;
use crate::cli::Failure;
use crate::cli::output::{complain, print_line};
use crate::config::Config;
use crate::repository::backup;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    series-ingest backup create /var/backups/series            a folder for the backup in this folder\n  \
    series-ingest backup create /var/backups/series --keep 7   and delete all but the newest 7\n  \
    series-ingest backup create B --pg-bin /usr/lib/postgresql/17/bin\n\n\
    The dump and its manifest are as of one moment, also while workers write. The folder has its name when it is whole. The \
    role must be able to read all tables: it is that of `migrate`.")]
pub(in crate::cli) struct Arguments {
    /// The folder of the backups; it is created if it is missing.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Delete older backups of this database in the folder, except this one and the newest ones before it, as many in all.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
    #[command(flatten)]
    programs: Programs,
    /// Print what was made as one JSON document.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, arguments: &Arguments) -> Result<(), Failure> {
    config.require_database()?;
    let bar = super::bar();
    let (database, pg_bin) = (&config.database, arguments.programs.pg_bin.as_deref());
    let made = backup::create(database, &arguments.folder, pg_bin, super::report(&bar)).await;
    bar.finish_and_clear();
    let made = made?;
    let recorded = backup::record(database, &made).await;
    if let Err(error) = &recorded {
        let text =
            format!("the backup is whole, and the database does not remember it, so that no metric shows it: {error}");
        complain(Level::WARN, &text);
    }
    let removed = match arguments.keep {
        Some(keep) => backup::remove_older(database, &made, keep as usize).await?,
        None => Vec::new(),
    };
    let manifest = &made.manifest;
    if arguments.json {
        let removed: Vec<String> = removed.iter().map(|one| one.path.display().to_string()).collect();
        print_line(json!({
            "path": made.path.display().to_string(), "id": manifest.id, "created_at": manifest.created_at,
            "bytes": manifest.dump.bytes, "points": manifest.contents.points,
            "series": manifest.contents.rows("time_series_metadata"), "recorded": recorded.is_ok(), "removed": removed,
        }));
        return Ok(());
    }
    let origin = &manifest.origin;
    let timescaledb = origin.timescaledb.as_ref().map_or(String::new(), |version| format!(", TimescaleDB {version}"));
    print_line(format_args!(
        "{}: {} points of {} series in {} {}, {}; PostgreSQL {}{timescaledb}, pg_dump {}",
        made.path.display(),
        manifest.contents.points,
        manifest.contents.rows("time_series_metadata"),
        manifest.contents.windows.len(),
        if origin.timescaledb.is_some() { "chunks" } else { "days" },
        HumanBytes(manifest.dump.bytes),
        origin.postgresql,
        manifest.pg_dump,
    ));
    if origin.is_whole_database {
        print_line("other schemas have hypertables as well: the backup has the whole database");
    }
    for old in removed {
        print_line(format_args!("deleted {}", old.path.display()));
    }
    Ok(())
}
