//! The output of commands: results on standard output, errors on standard error.
//!
//! A failed write is recorded, and makes the command fail at its end, so that no command can lose its output without an error.
//! A reader that closes its pipe is not an error.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::{LazyLock, OnceLock};

use jiff::Timestamp;
use tracing::Level;

use super::Failure;
use crate::config::LogFormat;
use crate::files;
use crate::files::whole::WholeFile;
use crate::telemetry::logging;

/// Standard output. The standard library's own handle treats a descriptor that cannot be written as a success.
static OUTPUT: LazyLock<io::Result<File>> =
    LazyLock::new(|| Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?)));
/// The first error of standard output.
static FAILED: OnceLock<io::Error> = OnceLock::new();
/// The format of error messages, once it is known.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Standard output as a file, for bytes that are no text.
///
/// # Errors
/// If the process has none.
pub(super) fn file() -> Result<File, Failure> {
    let file = match &*OUTPUT {
        Ok(output) => output.try_clone(),
        Err(error) => Err(copy_of(error)),
    };
    file.map_err(Failure::Output)
}

/// Prints to standard output.
pub(super) fn print(text: &str) {
    if !is_open() {
        return;
    }
    let written = match &*OUTPUT {
        Ok(output) => (&mut &*output).write_all(text.as_bytes()),
        Err(error) => Err(copy_of(error)),
    };
    if let Err(error) = written {
        fail(error);
    }
}

/// Prints a line to standard output.
pub(super) fn print_line(text: impl std::fmt::Display) {
    print(&format!("{text}\n"));
}

/// Prints a line to standard error, as it is: what a program reads while standard output has something else.
pub(super) fn print_line_to_standard_error(text: impl std::fmt::Display) {
    // If even this cannot be printed, the exit code still reports a failure.
    drop(writeln!(io::stderr(), "{text}"));
}

/// A line from standard input, without its end and in lower case; `None` at its end.
pub(super) fn read_answer() -> Option<String> {
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line).ok()?;
    (read > 0).then(|| line.trim().to_ascii_lowercase())
}

/// Returns `true` until a write has failed. A command with unlimited output then stops.
pub(super) fn is_open() -> bool {
    FAILED.get().is_none()
}

/// Records that standard output cannot be written.
pub(super) fn fail(error: io::Error) {
    // Later errors follow from the first one.
    drop(FAILED.set(error));
}

/// Makes the output durable if standard output is a file, so that its source may be deleted.
pub(super) fn sync() {
    if let (true, Ok(output)) = (is_open(), &*OUTPUT) {
        match output.sync_all() {
            // Pipes and terminals cannot be made durable.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported | io::ErrorKind::ReadOnlyFilesystem
                ) => {}
            Err(error) => fail(error),
            Ok(()) => {}
        }
    }
}

/// Returns the result of all output.
///
/// # Errors
/// If a write has failed, and not because the reader has closed its pipe.
pub(super) fn finish() -> Result<(), Failure> {
    match FAILED.get() {
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output(copy_of(error))),
        _ => Ok(()),
    }
}

/// Writes a file so that it has the whole text or stays unchanged, even after a crash. Other files, such as pipes, are written
/// directly.
///
/// # Errors
/// If any step fails; the file is then unchanged.
pub(super) fn write_file(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error| Failure::File { path: path.to_owned(), error };
    // A link is kept: its target is replaced.
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if std::fs::metadata(&target).is_ok_and(|found| !found.is_file()) {
        return File::options()
            .write(true)
            .open(&target)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(failed);
    }
    let replace = || {
        let mut file = WholeFile::create(&target, true)?;
        file.write_all(text.as_bytes()).map_err(|error| files::Error::Write { path: target.clone(), error })?;
        file.finish()
    };
    Ok(replace()?)
}

/// Sets the format of error messages to that of log lines.
pub(super) fn set_format(format: LogFormat) {
    // A process has one configuration.
    let _ = FORMAT.set(format);
}

/// Prints an error message to standard error, as a line of text or a JSON object, according to `log.format`.
pub(super) fn complain(level: Level, text: &str) {
    // If even this cannot be printed, the exit code still reports the failure.
    drop(writeln!(io::stderr(), "{}", complaint(level, text)));
}

/// Prints the last error message of the process, without waiting for a reader that accepts nothing.
pub(super) fn complain_last(text: &str) {
    logging::print_error(complaint(Level::ERROR, text));
}

fn complaint(level: Level, text: &str) -> String {
    match FORMAT.get() {
        Some(LogFormat::Json) => serde_json::json!({
            "timestamp": Timestamp::now().to_string(), "level": level.as_str(), "message": text, "target": "series_ingest::cli",
        })
        .to_string(),
        _ => format!("series-ingest: {text}"),
    }
}

fn copy_of(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}
