//! `backup`: one file for each subcommand.

mod create;
mod failure;
mod kafka;
mod list;
mod restore;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Subcommand;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::interrupt::Interrupts;
use super::{Failure, signals};
use crate::config::Config;
use crate::repository::backup::{Backup, Report, Stage};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a backup of the tables, with a manifest of what it has.
    Create(create::Arguments),
    /// Restore a backup into a database made for it, and compare that with the manifest.
    Verify(verify::Arguments),
    /// List the backups of a folder.
    List(list::Arguments),
    /// Restore a backup into an empty database.
    Restore(restore::Arguments),
}

pub(super) async fn run(config: Arc<Config>, command: Command) -> Result<(), Failure> {
    signals::survive_file_limit()?;
    // Before there is anything to clean up.
    let mut interrupts = Interrupts::listen()?;
    match command {
        Command::List(arguments) => list::run(&arguments),
        Command::Create(arguments) => interrupts.or_work(create::run(&config, &arguments)).await,
        Command::Verify(arguments) => verify::run(&config, &arguments, &mut interrupts).await,
        Command::Restore(arguments) => interrupts.or_work(restore::run(&config, &arguments)).await,
    }
}

/// A line that shows how far the work is, if standard error is a terminal.
fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{elapsed_precise} {spinner} {msg}");
    ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
}

/// What shows the progress in that line.
fn report(bar: &ProgressBar) -> Report {
    let bar = bar.clone();
    let latest = std::sync::Mutex::new((0, 0));
    Arc::new(move |stage, amount| {
        let mut latest = latest.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match stage {
            Stage::Dump => latest.0 = amount,
            Stage::Count => latest.1 = amount,
            Stage::Hash | Stage::Restore | Stage::Compare => {}
        }
        bar.set_message(match stage {
            Stage::Dump | Stage::Count => format!("dumped {}, counted {} points", HumanBytes(latest.0), latest.1),
            Stage::Hash => format!("hash of {}", HumanBytes(amount)),
            Stage::Restore => format!("restored {amount} points"),
            Stage::Compare => format!("compared {amount} points"),
        });
        bar.tick();
    })
}

/// The backup in this folder, or the newest one of a folder of backups.
fn open(path: &Path) -> Result<Backup, Failure> {
    if path.is_dir()
        && let (mut backups, _) = Backup::list(path)?
        && let Some(newest) = backups.pop()
    {
        return Ok(newest);
    }
    Ok(Backup::open(path)?)
}

/// The option that names PostgreSQL's programs.
#[derive(Debug, clap::Args)]
struct Programs {
    /// The folder of PostgreSQL's programs; by default one of the server's version is looked for in PATH and the usual folders.
    #[arg(long, value_name = "DIR")]
    pg_bin: Option<PathBuf>,
}
