//! `retention show|apply`: deleting points that are older than an age.

use std::sync::Arc;

use clap::Subcommand;
use serde_json::{Value, json};

use super::output::print_line;
use super::{Failure, progress_bar, saying_waits};
use crate::config::Config;
use crate::database::Database;
use crate::database::retention::{ExpiredChunk, Retention};
use crate::telemetry::time_us;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show the age from which points are deleted, who deletes them, and what has expired.
    #[command(after_help = "Examples:\n  \
        series-ingest retention show\n  \
        series-ingest retention show --json | jq .overdue_seconds")]
    Show {
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Delete now what has expired. A worker or TimescaleDB does it by itself; this is for a database that has neither.
    #[command(after_help = "Examples:\n  \
        series-ingest retention apply --dry-run      what would be deleted\n  \
        series-ingest retention apply\n\n\
        The age is retention.drop_after_s, which `series-ingest migrate` stores in the database.")]
    Apply {
        /// Only list what would be deleted.
        #[arg(long)]
        dry_run: bool,
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(config: Arc<Config>, command: Command) -> Result<(), Failure> {
    config.require_database()?;
    let database = Database::new(&config)?;
    saying_waits(&database, async {
        match command {
            Command::Show { json } => show(&config, &database, json).await,
            Command::Apply { dry_run: true, json } => list(&database, json).await,
            Command::Apply { dry_run: false, json } => apply(&database, json).await,
        }
    })
    .await
}

/// What deletes expired points.
fn whom(retention: &Retention) -> &'static str {
    match (retention.by_policy, retention.is_hypertable) {
        (true, _) => "a policy of TimescaleDB deletes chunks",
        (false, true) => "one worker at a time deletes chunks",
        (false, false) => "one worker at a time deletes rows",
    }
}

async fn show(config: &Config, database: &Database, as_json: bool) -> Result<(), Failure> {
    let retention = database.retention().await?;
    let oldest = database.oldest_point_us().await?.map(time_us);
    let configured = config.retention.drop_after_s;
    let stored = retention.as_ref().map_or(0, |retention| retention.drop_after_s.unsigned_abs());
    if as_json {
        let by = retention.as_ref().map(|retention| if retention.by_policy { "policy" } else { "worker" });
        let unit = retention.as_ref().map(|retention| if retention.is_hypertable { "chunk" } else { "point" });
        print_line(json!({
            "drop_after_seconds": stored, "configured_seconds": configured, "by": by, "unit": unit, "oldest_point": oldest,
            "overdue_seconds": retention.and_then(|retention| retention.overdue_s),
        }));
        return Ok(());
    }
    match &retention {
        None => print_line("points are kept, whatever their age"),
        Some(retention) => {
            print_line(format_args!("points older than {} are deleted: {}", age(stored), whom(retention)));
            match retention.overdue_s {
                Some(overdue) => print_line(format_args!("expired, and not deleted yet: since {overdue:.0} s")),
                None => print_line("nothing has expired"),
            }
        }
    }
    print_line(format_args!("oldest point: {}", oldest.as_deref().unwrap_or("none")));
    if configured != stored {
        print_line(format_args!(
            "retention.drop_after_s is {configured} here: `series-ingest migrate` would store that in the database"
        ));
    }
    Ok(())
}

/// A length of time in the largest unit that divides it.
fn age(seconds: u64) -> String {
    match seconds {
        _ if seconds.is_multiple_of(86_400) => format!("{} d", seconds / 86_400),
        _ if seconds.is_multiple_of(3600) => format!("{} h", seconds / 3600),
        _ => format!("{seconds} s"),
    }
}

fn refuse_none(retention: Option<Retention>) -> Result<Retention, Failure> {
    retention.ok_or_else(|| {
        Failure::Usage(
            "points are kept, whatever their age: set retention.drop_after_s, and run `series-ingest migrate`"
                .to_owned(),
        )
    })
}

fn document(chunk: &ExpiredChunk) -> Value {
    json!({"chunk": chunk.name, "from": time_us(chunk.from_us), "until": time_us(chunk.until_us)})
}

async fn list(database: &Database, as_json: bool) -> Result<(), Failure> {
    let retention = refuse_none(database.retention().await?)?;
    let chunks = database.expired_chunks().await?;
    let points = if retention.is_hypertable { 0 } else { database.expired_points().await? };
    if as_json {
        print_line(json!({"chunks": chunks.iter().map(document).collect::<Vec<_>>(), "points": points}));
        return Ok(());
    }
    for chunk in &chunks {
        print_line(format_args!("{}  {} to {}", chunk.name, time_us(chunk.from_us), time_us(chunk.until_us)));
    }
    if retention.is_hypertable {
        print_line(format_args!("{} chunks would be deleted", chunks.len()));
    } else {
        print_line(format_args!("{points} points would be deleted"));
    }
    Ok(())
}

async fn apply(database: &Database, as_json: bool) -> Result<(), Failure> {
    let retention = refuse_none(database.retention().await?)?;
    let unit = if retention.is_hypertable { "chunks" } else { "points" };
    let bar = progress_bar(0, unit);
    if !bar.is_hidden() {
        let expired = if retention.is_hypertable {
            database.expired_chunks().await?.len() as u64
        } else {
            database.expired_points().await?
        };
        bar.set_length(expired);
    }
    let (mut chunks, mut points) = (0, 0);
    loop {
        let dropped = database.drop_expired().await?;
        chunks += dropped.chunks;
        points += dropped.points;
        bar.inc(dropped.chunks + dropped.points);
        if dropped.is_busy {
            // It deletes the same.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        } else if !dropped.has_more {
            break;
        }
    }
    bar.finish_and_clear();
    if as_json {
        print_line(json!({"chunks": chunks, "points": points}));
    } else if retention.is_hypertable {
        print_line(format_args!("{chunks} chunks were deleted"));
    } else {
        print_line(format_args!("{points} points were deleted"));
    }
    Ok(())
}
