//! `series create|update|delete`: series of the tables, which other programs share.

mod define;
mod delete;

use std::sync::Arc;

use clap::Subcommand;

use super::{Failure, saying_waits};
use crate::config::Config;
use crate::database::Database;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a series.
    Create(define::Arguments),
    /// Change the definition of a series; what is not named stays.
    Update(define::Arguments),
    /// Delete series with their points, or their points before a time, so that they stay deleted.
    Delete(delete::Arguments),
}

pub(super) async fn run(config: Arc<Config>, command: Command) -> Result<(), Failure> {
    config.require_database()?;
    let database = Database::new(&config)?;
    let work = async {
        match command {
            Command::Create(arguments) => define::run(&config, &database, arguments, true).await,
            Command::Update(arguments) => define::run(&config, &database, arguments, false).await,
            Command::Delete(arguments) => delete::run(&database, &arguments).await,
        }
    };
    saying_waits(&database, work).await
}
