//! `series list|show|gaps|create|update|delete`: series of the tables, which other programs share.

mod define;
mod delete;
mod gaps;
mod list;

use std::sync::Arc;

use clap::Subcommand;

use super::{Failure, saying_waits};
use crate::config::Config;
use crate::database::Database;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List series, with the times and the number of their points.
    List(list::ListArguments),
    /// Show all that is known of a series and its columns.
    Show(list::ShowArguments),
    /// Print the spans of time in which columns of a series have no point.
    Gaps(gaps::Arguments),
    #[command(flatten)]
    Change(Change),
}

#[derive(Debug, Subcommand)]
pub(super) enum Change {
    /// Create a series.
    Create(define::Arguments),
    /// Change the definition of a series; what is not named stays.
    Update(define::Arguments),
    /// Delete series with their points, or their points before a time, so that they stay deleted.
    Delete(delete::Arguments),
}

pub(super) async fn run(config: Arc<Config>, command: Command) -> Result<(), Failure> {
    match command {
        Command::List(arguments) => list::list_all(&config, &arguments).await,
        Command::Show(arguments) => list::show(&config, &arguments).await,
        Command::Gaps(arguments) => gaps::run(&config, &arguments).await,
        Command::Change(change) => {
            config.require_database()?;
            let database = Database::new(&config)?;
            saying_waits(&database, change.run(&config, &database)).await
        }
    }
}

impl Change {
    async fn run(self, config: &Config, database: &Database) -> Result<(), Failure> {
        match self {
            Self::Create(arguments) => define::run(config, database, arguments, true).await,
            Self::Update(arguments) => define::run(config, database, arguments, false).await,
            Self::Delete(arguments) => delete::run(database, &arguments).await,
        }
    }
}
