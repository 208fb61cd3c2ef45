//! `points export`: points into files; `points import`: points of files.

mod export;
mod failure;
mod format;
mod found;
mod import;
mod parts;
mod source;
mod targets;

use std::sync::Arc;

use clap::Subcommand;

use super::Failure;
use crate::config::Config;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write the points of series into files.
    Export(export::Arguments),
    /// Write the points of files into the database, each row once; safe to stop and to repeat.
    Import(import::Arguments),
}

impl Command {
    /// Returns `true` if an interrupted command has to remove what it has begun.
    pub(super) fn cleans_up(&self) -> bool {
        matches!(self, Self::Export(_))
    }
}

pub(super) async fn run(config: Arc<Config>, command: Command) -> Result<(), Failure> {
    match command {
        Command::Export(arguments) => export::run(&config, arguments).await,
        Command::Import(arguments) => import::run(&config, arguments).await,
    }
}
