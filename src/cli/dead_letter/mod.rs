//! `dead-letter list|show|redrive|purge|export`: messages that could not be stored, until they are written or deleted.

mod filter;
mod list;
mod purge;
mod redrive;
mod show;

use std::sync::Arc;

use clap::Subcommand;

use super::{Failure, saying_waits};
use crate::config::Config;
use crate::database::Database;
use filter::Filter;
use purge::Purge;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print a line for each dead letter, and the numbers of those that were only counted.
    List {
        #[command(flatten)]
        filter: Filter,
        /// Only those that are parked: their attempts are used up.
        #[arg(long)]
        parked: bool,
        /// As JSON lines, without the payloads.
        #[arg(long)]
        json: bool,
        /// Maximum number of dead letters; 0 for all.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Print one dead letter with its payload.
    Show {
        /// Its id, as `list` prints it.
        id: i64,
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Print the numbers of dead letters by partition and reason: stored, only counted, and since written by `redrive`.
    Counts {
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Decode dead letters again and write them, exactly once; safe to stop, to repeat, and to run concurrently.
    Redrive(redrive::Redrive),
    /// Delete dead letters.
    Purge {
        #[command(flatten)]
        filter: Filter,
        /// Also reset the numbers of those that were only counted; of the filter, only the reason, the topic and the partition
        /// apply to them.
        #[arg(long)]
        counts: bool,
        /// Only print how many would be deleted.
        #[arg(long)]
        dry_run: bool,
        /// Do not ask for confirmation.
        #[arg(long)]
        yes: bool,
    },
    /// Print dead letters as JSON lines, with their payloads.
    Export {
        #[command(flatten)]
        filter: Filter,
    },
}

pub(super) async fn run(config: Arc<Config>, command: Command) -> Result<(), Failure> {
    config.require_database()?;
    let database = Database::new(&config)?;
    saying_waits(&database, run_with(&config, &database, command)).await
}

async fn run_with(config: &Arc<Config>, database: &Database, command: Command) -> Result<(), Failure> {
    match command {
        Command::List { filter, parked, json, limit } => {
            list::list(config, database, &filter, parked, json, limit).await
        }
        Command::Show { id, json } => show::show(config, database, id, json).await,
        Command::Counts { json } => list::counts(database, json).await,
        Command::Redrive(arguments) => redrive::run(config, database, &arguments).await,
        Command::Purge { filter, counts, dry_run, yes } => {
            purge::run(config, database, &filter, Purge { counts, dry_run, yes }).await
        }
        Command::Export { filter } => show::export(config, database, &filter).await,
    }
}

/// Returns the number of attempts after which a letter is parked, in the database's type.
fn max_attempts(config: &Config) -> i32 {
    i32::try_from(config.dead_letter.max_attempts).unwrap_or(i32::MAX)
}
