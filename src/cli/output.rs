//! What commands print: results on standard output, complaints on standard error.
//!
//! A write that fails is kept, and makes the command unsuccessful at its end, so that no command can lose its output
//! without an error. Only a reader that has closed its pipe is none.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, OnceLock};

use jiff::Timestamp;
use tracing::Level;

use super::Failure;
use crate::config::LogFormat;
use crate::telemetry::logging;

/// Standard output, of which the standard library's own handle takes a descriptor that cannot be written for a success.
static OUTPUT: LazyLock<io::Result<File>> =
    LazyLock::new(|| Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?)));
/// The first failure of standard output.
static FAILED: OnceLock<io::Error> = OnceLock::new();
/// The form of complaints, once it is known.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

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

/// Returns `true` until a write has failed. A command that prints without end stops then.
pub(super) fn is_open() -> bool {
    FAILED.get().is_none()
}

/// Records that standard output cannot be written.
pub(super) fn fail(error: io::Error) {
    // A later failure follows from the first one.
    drop(FAILED.set(error));
}

/// Makes what was printed durable if standard output is a file, so that what it was printed from may be deleted.
pub(super) fn sync() {
    if let (true, Ok(output)) = (is_open(), &*OUTPUT) {
        match output.sync_all() {
            // Pipes and terminals have nothing to make durable.
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

/// What became of all that was printed.
///
/// # Errors
/// If a write has failed, and not because the reader has closed its pipe.
pub(super) fn finish() -> Result<(), Failure> {
    match FAILED.get() {
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output(copy_of(error))),
        _ => Ok(()),
    }
}

/// Writes a file so that it has all of the text or stays as it was, also after a crash. What is no file, such as a pipe, is
/// written to as it is.
///
/// # Errors
/// If any of it fails; the file is then as before.
pub(super) fn write_file(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error| Failure::File { path: path.to_owned(), error };
    // A link stays one: what it names is replaced.
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if std::fs::metadata(&target).is_ok_and(|found| !found.is_file()) {
        return File::options()
            .write(true)
            .open(&target)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(failed);
    }
    let mut name = target.clone().into_os_string();
    name.push(format!(".{}.part", std::process::id()));
    let part = PathBuf::from(name);
    let replace = || {
        let mut file = File::create(&part)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&part, &target)?;
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    };
    replace().map_err(|error| {
        // What is left of it is of no use, if there is anything.
        drop(std::fs::remove_file(&part));
        failed(error)
    })
}

/// Has complaints printed in the form of log lines.
pub(super) fn set_format(format: LogFormat) {
    // A process has one configuration.
    let _ = FORMAT.set(format);
}

/// Prints a complaint to standard error, as a line of text or a JSON object, as `log.format` says.
pub(super) fn complain(level: Level, text: &str) {
    // If even this cannot be printed, the exit code still says so.
    drop(writeln!(io::stderr(), "{}", complaint(level, text)));
}

/// Prints the last complaint of the process, which does not wait for a reader that takes nothing.
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
