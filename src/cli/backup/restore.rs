//! `backup restore`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{Programs, kafka};
use crate::cli::Failure;
use crate::cli::output::print_line;
use crate::config::Config;
use crate::repository::backup::{self, Backup, Options, Restored, Way};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    createdb series && DATABASE_URL=postgresql://postgres@host/series series-ingest backup restore B/backup-20260131T020000Z\n  \
    series-ingest backup restore B/backup-20260131T020000Z --no-privileges   without grants to roles\n  \
    series-ingest backup restore B/backup-20260131T020000Z --no-kafka --json\n\n\
    The database of database.url must be there, and have none of the tables. It is compared with the manifest afterwards. On a \
    server of another kind, such as one without TimescaleDB, the rows are copied into tables that this program makes. Then it is \
    printed from where each partition is read again, and whether Kafka still has that.")]
pub(in crate::cli) struct Arguments {
    /// A backup.
    #[arg(value_name = "BACKUP")]
    backup: PathBuf,
    /// Grant no privileges: the roles of the backed up server are not needed.
    #[arg(long)]
    no_privileges: bool,
    /// Copy the rows into tables that this program makes, also where the dump could be restored as it is.
    #[arg(long)]
    rows: bool,
    /// Do not ask Kafka what it still has.
    #[arg(long)]
    no_kafka: bool,
    #[command(flatten)]
    programs: Programs,
    /// Print what was done as one JSON document.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, arguments: &Arguments) -> Result<(), Failure> {
    config.require_database()?;
    let backup = Backup::open(&arguments.backup)?;
    let bar = super::bar();
    let options = Options {
        pg_bin: arguments.programs.pg_bin.clone(),
        no_privileges: arguments.no_privileges,
        rows: arguments.rows,
    };
    let restored = backup::restore(config, &backup, &options, super::report(&bar)).await;
    bar.finish_and_clear();
    let restored = restored?;
    let partitions = kafka::ask(config, &backup.manifest.contents.sources, arguments.no_kafka).await?;
    print(arguments, &backup, &restored, &partitions);
    if restored.differences.is_empty() {
        return Ok(());
    }
    Err(Failure::Damaged(format!(
        "what was restored is not what the manifest says: do not start a worker on it\n  {}",
        restored.differences.join("\n  ")
    )))
}

fn print(arguments: &Arguments, backup: &Backup, restored: &Restored, partitions: &[kafka::Continues]) {
    let (contents, is_equal) = (&backup.manifest.contents, restored.differences.is_empty());
    if arguments.json {
        print_line(json!({
            "points": contents.points, "ok": is_equal, "differences": restored.differences, "notes": restored.notes,
            "row_by_row": matches!(restored.way, Way::Rows(_)), "partitions": partitions,
        }));
        return;
    }
    if is_equal {
        print_line(format_args!(
            "restored {} points as of {}: the points of each chunk, the rows of each table and the progress are those of the \
             manifest",
            contents.points, backup.manifest.created_at
        ));
    }
    if let Way::Rows(why) = &restored.way {
        print_line(format_args!("restored row by row: {why}"));
    }
    for note in &restored.notes {
        print_line(format_args!("note: {note}"));
    }
    for partition in partitions {
        print_line(partition);
    }
}
