//! The commands, one file each.

mod advise;
mod archive;
mod backup;
mod bench;
mod check;
mod dead_letter;
mod demo;
mod interrupt;
mod journal;
mod limits;
mod message;
mod migrate;
mod output;
mod points;
mod progress;
mod reading;
mod retention;
mod run;
mod schema;
mod selection;
mod series;
mod shell_word;
mod signals;
mod synthetic;
mod times;
mod topic;
mod view;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use tracing::Level;

use crate::config::{self, Config, Problems};
use crate::database::schema::SchemaError;
use crate::database::{self, Class, Database};
use crate::telemetry::{self, logging};
use crate::{kafka, pipeline};
use interrupt::{on_its_task, to_its_end};
use output::{print, print_line};

/// Writes time series points from Kafka into TimescaleDB, exactly once.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Examples:\n  \
        series-ingest config                          what is configured, and from where\n  \
        series-ingest check                           is all of it right, do the servers answer\n  \
        series-ingest migrate                         make or update the tables\n  \
        series-ingest --config ingest.toml run        the worker\n  \
        DATABASE_URL=postgresql://... series-ingest demo   see it work\n\n\
        Exit codes: 0 fine, 64 wrong usage or configuration, 65 a damaged journal, or messages that \
        are rejected, 69 a server not reachable, 70 an internal error, \
        74 standard output or a file could not be written."
)]
pub struct Cli {
    /// A TOML file; missing keys have their defaults. The environment takes precedence over it.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the worker until SIGTERM or SIGINT.
    Run,
    /// Create or update the tables.
    Migrate(migrate::Arguments),
    /// Change the indexes and constraints of the table of points.
    #[command(subcommand)]
    Schema(schema::Command),
    /// Check the configuration and both servers; name every problem, with its key and a fix.
    Check(check::Arguments),
    /// Print the effective configuration, with secrets masked.
    Config {
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Demonstrate the worker: publish real data, cut the database off meanwhile, ingest it, compare.
    Demo(demo::Arguments),
    /// Make backups, verify them, list them, and restore one.
    #[command(subcommand)]
    Backup(backup::Command),
    /// Measure: drain a topic, alongside a COPY of the same rows by the server itself.
    Bench(bench::Arguments),
    /// Examine messages that could not be stored, redrive them, or delete them.
    #[command(subcommand)]
    DeadLetter(dead_letter::Command),
    /// Examine the journal, or write it into the database.
    #[command(subcommand)]
    Journal(journal::Command),
    /// Show or reset how far each partition is applied.
    #[command(subcommand)]
    Progress(progress::Command),
    /// Move points out of the database into files, and back.
    #[command(subcommand)]
    Points(points::Command),
    /// Move old points into files: written, read back, compared, and only then dropped. Safe to stop and to repeat.
    Archive(archive::Arguments),
    /// List, show, change and delete series.
    #[command(subcommand)]
    Series(series::Command),
    /// Say what could be better in the database: each with figures, the statement that shows it, and the change.
    Advise(advise::Arguments),
    /// Create, drop and list SQL views of one series, with its columns.
    #[command(subcommand)]
    View(view::Command),
    /// Show the age from which points are deleted, and delete what has expired.
    #[command(subcommand)]
    Retention(retention::Command),
    /// Examine a topic, and propose the input that would read it.
    #[command(subcommand)]
    Topic(topic::Command),
    /// Decode messages as an input does, without a server.
    #[command(subcommand)]
    Message(message::Command),
}

/// The reason why a command failed; its exit code says who has to act.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration has problems.
    #[error("{0}")]
    Configuration(#[from] Problems),
    /// The command cannot be done as it was asked for.
    #[error("{0}")]
    Usage(String),
    /// A server does not answer, or refuses.
    #[error("{0}")]
    Unreachable(String),
    /// The checked data is damaged.
    #[error("{0}")]
    Damaged(String),
    /// Dead letters are still dead letters.
    #[error("{0}")]
    Rejected(String),
    /// An internal error, or one of the schema.
    #[error("{0}")]
    Internal(String),
    /// The command's output could not be written.
    #[error("standard output cannot be written, what was printed is incomplete: {0}")]
    Output(std::io::Error),
    /// A file could not be written.
    #[error("{} cannot be written: {error}", telemetry::shown(.path))]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        error: std::io::Error,
    },
    /// A signal has ended the command.
    #[error("interrupted by {name}")]
    Interrupted {
        /// The signal's name.
        name: &'static str,
        /// Its number.
        number: u8,
    },
}

impl Failure {
    /// The exit code of wrong usage, as in sysexits.h.
    pub const USAGE: u8 = 64;

    /// The exit code, as in sysexits.h.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Configuration(_) | Self::Usage(_) => Self::USAGE,
            Self::Damaged(_) | Self::Rejected(_) => 65,
            Self::Unreachable(_) => 69,
            Self::Internal(_) => 70,
            Self::Output(_) | Self::File { .. } => 74,
            // As in shells.
            Self::Interrupted { number, .. } => 128 + number,
        }
    }
}

impl From<database::Error> for Failure {
    fn from(error: database::Error) -> Self {
        if let database::Error::Tls(text) = error {
            return Self::Usage(text);
        }
        if let database::Error::SharedSession(_) = error {
            return Self::Usage(error.to_string());
        }
        match error.class() {
            Class::Outage => Self::Unreachable(format!("the database: {error}")),
            // The holder of the lock may release it.
            Class::Retry if error.is_lock_timeout() => Self::Unreachable(format!("the database: {error}")),
            Class::Internal if error.is_missing_database() || error.is_unfit() || error.is_forbidden() => {
                Self::Usage(format!("database.url: {error}"))
            }
            Class::Internal if error.is_restoring() => Self::Unreachable(format!("the database: {error}")),
            _ => Self::Internal(format!("the database: {error}")),
        }
    }
}

impl From<SchemaError> for Failure {
    fn from(error: SchemaError) -> Self {
        match error {
            SchemaError::Database(error) => error.into(),
            SchemaError::NotMigrated { .. }
            | SchemaError::NoSchema { .. }
            | SchemaError::Renamed { .. }
            | SchemaError::TooNew { .. }
            | SchemaError::UnfinishedRestore
            | SchemaError::Different { .. }
            | SchemaError::NotUnique { .. }
            | SchemaError::Unique { .. }
            | SchemaError::Duplicates { .. }
            | SchemaError::OtherType(_)
            | SchemaError::NotAdopted { .. }
            | SchemaError::Table(_)
            | SchemaError::Unusable(_)
            | SchemaError::Role(_) => Self::Usage(error.to_string()),
            SchemaError::Profile(text) => Self::Unreachable(format!("the database: {text}")),
            SchemaError::Migration(_) => Self::Internal(error.to_string()),
        }
    }
}

fn refused_property(property: &str, error: &dyn std::error::Error) -> Failure {
    let meant = config::similar_property(property).map_or_else(String::new, |name| format!("; did you mean {name}?"));
    Failure::Usage(format!("kafka.properties.{property}: {error}{meant}"))
}

impl From<pipeline::RunError> for Failure {
    fn from(error: pipeline::RunError) -> Self {
        match (error.refused_property(), &error) {
            (Some(property), _) => refused_property(property, &error),
            (None, pipeline::RunError::Contested(_)) => Self::Usage(error.to_string()),
            (None, _) => Self::Internal(error.to_string()),
        }
    }
}

impl From<kafka::Error> for Failure {
    fn from(error: kafka::Error) -> Self {
        match kafka::refused_property(&error) {
            Some(property) => refused_property(property, &error),
            None => Self::Unreachable(format!("Kafka: {error}")),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Internal(error.to_string())
    }
}

/// Runs the command in this process's arguments, and returns the exit code.
///
/// If `no_output` is `true`, the process was started without a standard output.
pub fn main(no_output: bool) -> u8 {
    if no_output {
        output::fail(std::io::Error::from_raw_os_error(rustix::io::Errno::BADF.raw_os_error()));
    }
    let result = match Cli::try_parse() {
        Ok(cli) => cli.run(),
        Err(error) if error.use_stderr() => {
            let text = error.render();
            let terminal = std::io::stderr().is_terminal();
            let text = if terminal { text.ansi().to_string() } else { text.to_string() };
            logging::print_error(text.trim_end());
            return Failure::USAGE;
        }
        // The help or the version.
        Err(text) => {
            let text = text.render();
            let terminal = std::io::stdout().is_terminal();
            print(&if terminal { text.ansi().to_string() } else { text.to_string() });
            Ok(())
        }
    };
    match result.and_then(|()| output::finish()) {
        Ok(()) => 0,
        Err(failure) => {
            output::complain_last(&failure.to_string());
            failure.exit_code()
        }
    }
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// If the command fails, with the message to print and the exit code.
    fn run(self) -> Result<(), Failure> {
        let config = Config::load(self.config.as_deref(), std::env::vars_os())
            .inspect_err(|problems| output::set_format(problems.log_format()))?;
        output::set_format(config.log.format);
        if let Command::Config { json } = self.command {
            if json {
                print_line(config.json());
            } else {
                for note in config.notes() {
                    print_line(format_args!("# note: {note}"));
                }
                print(&config.render());
            }
            return Ok(());
        }
        let config = Arc::new(config);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let result = runtime.block_on(async {
            match self.command {
                // These have work to do before they end.
                Command::Run => run::run(config, self.config).await,
                Command::Demo(arguments) => demo::run(config, arguments).await,
                Command::Backup(command) => backup::run(config, command).await,
                Command::Bench(arguments) => bench::run(config, self.config, arguments).await,
                Command::Archive(arguments) => to_its_end(async move { archive::run(&config, arguments).await }).await,
                Command::Points(command) if command.cleans_up() => to_its_end(points::run(config, command)).await,
                command => {
                    let (result, _) = on_its_task(command.run_to_its_end(config)).await?;
                    if let Err(Failure::Interrupted { .. }) = result {
                        output::complain(Level::WARN, "what was committed stays; run the command again for the rest");
                    }
                    result
                }
            }
        });
        // A request to Kafka may still wait for its answer on a thread; it is no longer needed.
        runtime.shutdown_background();
        result
    }
}

impl Command {
    /// Runs a command that may be dropped at any point: what it commits is complete, and running it again does the rest.
    async fn run_to_its_end(self, config: Arc<Config>) -> Result<(), Failure> {
        match self {
            Self::Migrate(arguments) => migrate::run(&config, arguments).await,
            Self::Schema(command) => schema::run(&config, command).await,
            Self::Check(arguments) => check::run(&config, arguments).await,
            Self::DeadLetter(command) => dead_letter::run(config, command).await,
            Self::Journal(command) => journal::run(config, command).await,
            Self::Points(command) => points::run(config, command).await,
            Self::Progress(command) => progress::run(&config, command).await,
            Self::Series(command) => series::run(config, command).await,
            Self::View(command) => view::run(config, command).await,
            Self::Retention(command) => retention::run(config, command).await,
            Self::Advise(arguments) => advise::run(&config, &arguments).await,
            Self::Topic(command) => topic::run(&config, command).await,
            Self::Message(command) => message::run(&config, command),
            Self::Config { .. } | Self::Run | Self::Demo(_) | Self::Bench(_) | Self::Archive(_) | Self::Backup(_) => {
                Ok(())
            }
        }
    }
}

/// The brokers for the demo or the benchmark: those of `--brokers`, or else of the environment, in which an empty variable
/// counts as not set.
fn brokers_of(arguments: Option<&str>, config: &Config) -> Result<Option<String>, Failure> {
    let Some(given) = arguments else { return Ok(config.brokers_of_environment().map(str::to_owned)) };
    config::check_brokers(given).map_err(|text| Failure::Usage(format!("--brokers {text}")))?;
    Ok(Some(given.trim().to_owned()))
}

/// Does work in the database, and reports on standard error the locks that it waits for.
async fn saying_waits<T>(database: &Database, work: impl Future<Output = T>) -> T {
    database.saying_waits(say_wait, work).await
}

fn say_wait(wait: &str) {
    output::complain(Level::WARN, wait);
}

/// The two parts of a NAME=VALUE of the command line.
fn name_and_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A progress bar over `length` things, shown if standard error is a terminal.
fn progress_bar(length: usize, things: &str) -> ProgressBar {
    let template = format!("{{elapsed_precise}} {{wide_bar}} {{human_pos}}/{{human_len}} {things} {{per_sec}} {{msg}}");
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length as u64).with_style(style)
}
