//! `points import`: files into the database, each row once.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use tracing::Level;

use super::format::FormatArgument;
use super::found::{document, print_found};
use super::source::identified;
use crate::cli::output::{complain, print_line};
use crate::cli::shell_word::shell_word;
use crate::cli::{Failure, progress_bar, saying_waits};
use crate::config::Config;
use crate::database::{Database, FileSource};
use crate::files::read::table::Table;
use crate::files::read::{ReadError, ReadOptions};
use crate::files::{Form, Format};
use crate::repository::import::{self, ImportError, Imported, Settings, check};
use crate::telemetry::{escaped, one_line, shown};

/// For how long an outage of the database is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// The rows of a file that are checked before any is written.
const SAMPLE_ROWS: i64 = 1000;
/// The files that stay open.
const MAX_OPEN: usize = 100;
/// A row of more columns or bytes is several messages, so that a dead letter has all of it.
const MAX_COLUMNS: usize = 1000;
const MAX_MESSAGE_BYTES: usize = 48 * 1024;
/// What a message has besides the values.
const MESSAGE_HEAD_BYTES: usize = 4 * 1024;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    series-ingest points import weather.csv --series seattle-weather --dry-run\n  \
    series-ingest points import weather.csv --series seattle-weather --columns temp_max temp_min\n  \
    series-ingest points import *.parquet                           files of `points export` say all themselves\n  \
    series-ingest points import log.csv.gz --series-column host --time-column t --time-unit ms\n  \
    series-ingest points import old.csv --series s --time-column day --time-format '%d.%m.%Y'\n\n\
    A file is known by its content: imported again it writes nothing, and an import that was stopped goes on.\n\
    Rows that cannot be stored are dead letters: their offset is the number of the row.\n\
    Exit code: 65 if rows were refused, or a file is damaged.")]
pub(in crate::cli) struct Arguments {
    /// Parquet, Arrow IPC, CSV or JSON lines; the last two also compressed by gzip or zstd.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The series of all rows.
    #[arg(long, value_name = "ID", conflicts_with = "series_column")]
    series: Option<String>,
    /// The column with the series of each row.
    #[arg(long, value_name = "C")]
    series_column: Option<String>,
    /// The column with the times.
    #[arg(long, value_name = "C")]
    time_column: Option<String>,
    /// The unit of times that are numbers: s, ms, us or ns, since the Unix epoch.
    #[arg(long, value_name = "UNIT")]
    time_unit: Option<String>,
    /// The form of times that are texts, as of strftime; UTC unless it has %z.
    #[arg(long, value_name = "FORMAT")]
    time_format: Option<String>,
    /// The columns with values; all but those of the time and the series by default.
    #[arg(long, value_name = "C", num_args = 1..)]
    columns: Vec<String>,
    /// A row is a time with the values of several columns.
    #[arg(long, conflicts_with = "long")]
    wide: bool,
    /// A row is a point, with the name of its column and its value.
    #[arg(long)]
    long: bool,
    /// What a value that is missing becomes: a point without a value, or no point.
    /// [default: as the file says of each column, and else store]
    #[arg(long, value_enum, value_name = "WHAT")]
    nulls: Option<Nulls>,
    /// What stands between the fields of CSV: one character, or \t.
    #[arg(long, value_name = "CHARACTER", value_parser = delimiter)]
    delimiter: Option<u8>,
    /// The format; by default the one of the file's first bytes.
    #[arg(long, value_enum)]
    format: Option<FormatArgument>,
    /// Import a file also if its content was imported before with other options, and what both read is then stored twice; or if
    /// its series was deleted since.
    #[arg(long)]
    again: bool,
    /// Read all rows, say what was found, and write nothing. Needs no server.
    #[arg(long)]
    dry_run: bool,
    /// As one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Nulls {
    /// A point whose value is NULL.
    Store,
    /// No point.
    Skip,
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"\\t" | b"tab" => Ok(b'\t'),
        [byte] if byte.is_ascii() && !b"\"\n\r".contains(byte) => Ok(*byte),
        _ => Err("is to be one ASCII character, such as ';', or \\t".to_owned()),
    }
}

impl Arguments {
    fn options(&self, config: &Config) -> Result<ReadOptions, Failure> {
        let form = if self.wide { Some(Form::Wide) } else { self.long.then_some(Form::Long) };
        let format = self.format.map(Format::from);
        let mut options = ReadOptions {
            series: self.series.clone(),
            series_column: self.series_column.clone(),
            time_column: self.time_column.clone(),
            columns: self.columns.clone(),
            form,
            delimiter: self.delimiter,
            format,
            skip_nulls: self.nulls.map(|nulls| nulls == Nulls::Skip),
            max_columns: MAX_COLUMNS.min(config.message.max_points),
            max_bytes: MAX_MESSAGE_BYTES.min(config.message.max_bytes).saturating_sub(MESSAGE_HEAD_BYTES),
            ..ReadOptions::default()
        };
        options.set_time(self.time_unit.as_deref(), self.time_format.as_deref()).map_err(Failure::Usage)?;
        Ok(options)
    }
}

/// Returns `true` if another name or other rights would help.
fn is_of_name(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidFilename, InvalidInput, IsADirectory, NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | PermissionDenied | IsADirectory | NotADirectory | InvalidInput | InvalidFilename)
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        let text = one_line(&error.to_string()).into_owned();
        match error {
            ReadError::Io { error: ref io, .. } if !is_of_name(io) => Self::Damaged(text),
            ReadError::Io { .. } | ReadError::Unclear { .. } => Self::Usage(text),
            ReadError::Damaged { .. } | ReadError::Changed(_) => Self::Damaged(text),
            ReadError::Stopped => Self::Internal(text),
        }
    }
}

impl From<ImportError> for Failure {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Database(error) => error.into(),
            ImportError::Read(error) => error.into(),
            ImportError::Internal(text) => Self::Internal(text),
        }
    }
}

pub(super) async fn run(config: &Config, arguments: Arguments) -> Result<(), Failure> {
    if !arguments.dry_run {
        config.require_database()?;
    }
    let options = arguments.options(config)?;
    // Before anything is written of any of them.
    let mut files = Vec::new();
    for path in &arguments.files {
        let table = Table::open(path, &options)?;
        for note in table.notes() {
            complain(Level::INFO, &format!("{}: {note}", shown(path)));
        }
        refuse_all_rejected(&table, config)?;
        let table = (files.len() < MAX_OPEN).then_some(table);
        files.push(Understood { path: path.clone(), table });
    }
    if arguments.dry_run {
        return dry_run(config, files, &options, arguments.json);
    }
    let database = Database::new(config)?;
    saying_waits(&database, import_all(&database, config, files, (&options, &arguments))).await
}

/// Refuses a file if none of its first rows can be stored: it is read wrongly, and all of them would be dead letters.
fn refuse_all_rejected(table: &Table, config: &Config) -> Result<(), Failure> {
    let (sample, _) = check(table, &config.decoder(), Some(SAMPLE_ROWS));
    let Some((row, why)) = sample.named.first().filter(|_| sample.is_all_rejected()) else { return Ok(()) };
    Err(Failure::Usage(format!(
        "{}: none of the first {} rows can be stored, and nothing was written; row {row}: {}: {}",
        shown(table.content().path()),
        sample.rows,
        why.reason.as_str(),
        escaped(&why.detail)
    )))
}

/// A file that is understood. Of many files only some stay open: a process may have no more than a thousand.
struct Understood {
    path: PathBuf,
    table: Option<Table>,
}

/// What was done with all files.
#[derive(Default)]
struct Done {
    documents: Vec<Value>,
    failure: Option<Failure>,
    refused: usize,
    /// The first file with rows that were refused.
    refused_of: Option<String>,
}

async fn import_all(
    database: &Database,
    config: &Config,
    files: Vec<Understood>,
    (options, arguments): (&ReadOptions, &Arguments),
) -> Result<(), Failure> {
    let settings = Settings::new(config, PATIENCE);
    let mut done = Done::default();
    for file in files {
        let table = file.table.map_or_else(|| Table::open(&file.path, options).map_err(Failure::from), Ok);
        let result = match table {
            // On the heap: it would be much for a thread's stack.
            Ok(table) => Box::pin(import_one(database, &settings, &table, arguments, &mut done)).await,
            Err(error) => Err(error),
        };
        let Err(error) = result else { continue };
        // Another file may be whole, but what fails otherwise would fail with that as well.
        let is_of_file = matches!(error, Failure::Damaged(_));
        if done.failure.is_some() {
            complain(Level::ERROR, &error.to_string());
        }
        done.failure.get_or_insert(error);
        if !is_of_file {
            break;
        }
    }
    if arguments.json {
        print_line(json!({"files": done.documents}));
    }
    match (done.failure, done.refused_of) {
        (Some(failure), _) => Err(failure),
        (None, None) => Ok(()),
        (None, Some(topic)) => Err(Failure::Rejected(format!(
            "{} rows were refused, and are dead letters whose offsets are the numbers of the rows: `series-ingest dead-letter \
             list --topic {}` says why, and `dead-letter redrive` writes those that are repaired",
            done.refused,
            shell_word(&topic)
        ))),
    }
}

async fn import_one(
    database: &Database,
    settings: &Settings,
    table: &Table,
    arguments: &Arguments,
    done: &mut Done,
) -> Result<(), Failure> {
    let file = identified(database, table, arguments.again).await?;
    table.content().forget_bytes_read();
    let bar = progress_bar(kib(table.content().length()), "KiB");
    let on_progress = || show(&bar, table);
    let (imported, result) = import::import(table, &file, database, settings, &on_progress).await;
    bar.finish_and_clear();
    report(table, &file, &imported, arguments.json, &mut done.documents);
    if imported.refused > 0 {
        done.refused += imported.refused;
        done.refused_of.get_or_insert_with(|| file.source.topic.clone());
    }
    Ok(result?)
}

fn kib(bytes: u64) -> usize {
    usize::try_from(bytes / 1024).unwrap_or(usize::MAX)
}

fn show(bar: &ProgressBar, table: &Table) {
    bar.set_position(table.content().bytes_read().min(table.content().length()) / 1024);
}

fn report(table: &Table, file: &FileSource, imported: &Imported, json: bool, documents: &mut Vec<Value>) {
    let Imported { rows, already_there, points, refused, deleted } = *imported;
    let path = shown(table.content().path());
    if json {
        documents.push(json!({
            "file": table.content().path().display().to_string(),
            "topic": file.source.topic,
            "topic_id": file.source.topic_id,
            "format": table.format().as_str(),
            "form": table.form().as_str(),
            "rows": rows,
            "already_there": already_there,
            "points": points,
            "refused": refused,
            "deleted": deleted,
        }));
    } else {
        print_line(format_args!(
            "{path}: {rows} rows read, {already_there} of them were there already; {points} points written, {refused} rows refused"
        ));
        if deleted > 0 {
            print_line(format_args!(
                "{path}: {deleted} points omitted, because their series was deleted after this file was imported first"
            ));
        }
    }
}

fn dry_run(config: &Config, files: Vec<Understood>, options: &ReadOptions, json: bool) -> Result<(), Failure> {
    let (mut documents, mut rejected, mut failure) = (Vec::new(), 0, None);
    for file in files {
        let table = match file.table {
            Some(table) => table,
            None => Table::open(&file.path, options)?,
        };
        let (checked, result) = check(&table, &config.decoder(), None);
        rejected += checked.rejected;
        if json {
            documents.push(document(&table, &checked));
        } else {
            print_found(&table, &checked);
        }
        if let Err(error) = result {
            failure.get_or_insert(Failure::from(error));
        }
    }
    if json {
        print_line(json!({"dry_run": true, "files": documents}));
    }
    match (failure, rejected) {
        (Some(failure), _) => Err(failure),
        (None, 0) => Ok(()),
        (None, count) => Err(Failure::Rejected(format!("{count} rows would be refused, and become dead letters"))),
    }
}
