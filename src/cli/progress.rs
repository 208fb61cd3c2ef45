//! `progress show|reset`: how far each partition is applied.

use clap::{Args, Subcommand};

use super::{Failure, print_line};
use crate::config::Config;
use crate::database::Database;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print the progress of this pipeline: every offset below next_offset is applied.
    Show {
        /// Only this topic.
        #[arg(long)]
        topic: Option<String>,
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Set the next offset of a source's partitions. Stop the pipeline's workers first. What lies below is never read
    /// again, what lies above is written again where it was written before.
    Reset(Reset),
}

#[derive(Debug, Args)]
pub(super) struct Reset {
    /// The source's id, as `progress show` prints it.
    #[arg(long)]
    source: i32,
    /// Only this partition.
    #[arg(long)]
    partition: Option<i32>,
    /// The next offset to be read.
    #[arg(long)]
    next_offset: i64,
    /// Do it; without this the command only says what it would do.
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run(config: &Config, command: Command) -> Result<(), Failure> {
    config.require_database()?;
    let database = Database::new(config)?;
    match command {
        Command::Show { topic, json } => show(&database, topic.as_deref(), json).await,
        Command::Reset(reset) => self::reset(&database, &reset).await,
    }
}

async fn show(database: &Database, topic: Option<&str>, json: bool) -> Result<(), Failure> {
    let rows = database.progress(topic).await?;
    if json {
        print_line(serde_json::json!({"partitions": rows}));
        return Ok(());
    }
    if rows.is_empty() {
        print_line("no partition was read yet");
        return Ok(());
    }
    let width = rows.iter().map(|row| row.topic.len()).max().unwrap_or(0).max("topic".len());
    print_line(format_args!(
        "{:>6}  {:width$}  {:>9}  {:>16}  {:<24}  {:<22}  updated_at",
        "source", "topic", "partition", "next_offset", "ahead", "topic_id"
    ));
    for row in rows {
        print_line(format_args!(
            "{:>6}  {:width$}  {:>9}  {:>16}  {:<24}  {:<22}  {}",
            row.source_id, row.topic, row.partition, row.next_offset, row.ahead, row.topic_id, row.updated_at
        ));
    }
    Ok(())
}

async fn reset(database: &Database, reset: &Reset) -> Result<(), Failure> {
    if reset.next_offset < 0 {
        return Err(Failure::Usage("--next-offset must be 0 or more".to_owned()));
    }
    let rows = database.progress(None).await?;
    let chosen: Vec<_> = rows
        .iter()
        .filter(|row| row.source_id == reset.source && reset.partition.is_none_or(|only| only == row.partition))
        .collect();
    if chosen.is_empty() {
        return Err(Failure::Usage(format!(
            "this pipeline has no such partition of source {}: see `series-ingest progress show`",
            reset.source
        )));
    }
    for row in &chosen {
        print_line(format_args!(
            "{} partition {}: next_offset {} -> {}",
            row.topic, row.partition, row.next_offset, reset.next_offset
        ));
    }
    if !reset.yes {
        print_line("nothing was changed: add --yes to do it");
        return Ok(());
    }
    let changed = database.reset_progress(chosen[0].source_key, reset.partition, reset.next_offset).await?;
    print_line(format_args!("{changed} partitions were set"));
    Ok(())
}
