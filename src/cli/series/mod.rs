//! `series delete`: series of the tables, which other programs share.

mod delete;

use std::sync::Arc;

use clap::Subcommand;

use super::{Failure, saying_waits};
use crate::config::Config;
use crate::database::Database;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Delete series with their points, or their points before a time, so that they stay deleted.
    Delete(delete::Arguments),
}

pub(super) async fn run(config: Arc<Config>, command: Command) -> Result<(), Failure> {
    config.require_database()?;
    let database = Database::new(&config)?;
    let work = async {
        match command {
            Command::Delete(arguments) => delete::run(&database, &arguments).await,
        }
    };
    saying_waits(&database, work).await
}
