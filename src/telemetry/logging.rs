//! Log lines on stderr.
//!
//! Logging never waits for stderr: `log_writer` has a bounded queue, and drops and counts the lines that do not fit.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing::{Dispatch, error};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::reload;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use super::escaped;
use super::log_writer::LogWriter;
use super::one_line::OneLine;
use crate::config::LogFormat;

/// Maximum time for which the end of the process waits for stderr.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

static WRITER: OnceLock<LogWriter> = OnceLock::new();
static FILTER: OnceLock<Reload> = OnceLock::new();

/// Replaces the filter.
type Reload = Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

/// The reason why logging cannot start, or the filter cannot be replaced.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not in the form `level,target=level,…`.
    #[error("log.filter cannot be read: {0}")]
    Filter(#[from] ParseError),
    /// This process logs already.
    #[error("logging was started before: {0}")]
    Started(#[from] TryInitError),
    /// No thread can be started for it.
    #[error("no thread can be started: {0}. Raise the limit of processes and threads (ulimit -u, pids.max)")]
    Thread(#[from] io::Error),
    /// The filter cannot be replaced.
    #[error("the filter cannot be replaced: {0}")]
    Reload(#[from] reload::Error),
}

/// Sends log lines that pass `filter` (`level,target=level,…`) to stderr, from now to the end of the process. They are coloured
/// only if stderr is a terminal. The message of a panic is a log line as well.
///
/// # Errors
/// If the filter cannot be read, if no thread can be started, or if the process logs already.
pub fn init(format: LogFormat, filter: &str) -> Result<(), LogError> {
    let filter = EnvFilter::builder().parse(filter)?;
    let writer = writer()?;
    let (dispatch, reload) = dispatch(format, filter, move || writer, io::stderr().is_terminal());
    dispatch.try_init()?;
    drop(FILTER.set(reload));
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        error!(
            thread = thread.name().unwrap_or("unnamed"),
            location = panic.location().map(ToString::to_string),
            reason = %escaped(panic_message(panic)),
            "a thread panicked, which is a fault of this program"
        );
    }));
    Ok(())
}

fn panic_message<'a>(panic: &'a PanicHookInfo<'_>) -> &'a str {
    let payload = panic.payload();
    payload
        .downcast_ref::<&str>()
        .copied()
        .or(payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown")
}

/// Replaces the filter of a process that logs.
///
/// # Errors
/// If it cannot be read; the old one is then kept.
pub fn set_filter(filter: &str) -> Result<(), LogError> {
    let filter = EnvFilter::builder().parse(filter)?;
    if let Some(reload) = FILTER.get() {
        reload(filter)?;
        // Libraries that log with the crate `log` check this level first.
        if let Ok(level) = LevelFilter::current().to_string().parse() {
            log::set_max_level(level);
        }
    }
    Ok(())
}

/// Number of log lines that were dropped because stderr did not accept them.
pub fn dropped_lines() -> u64 {
    WRITER.get().map_or(0, LogWriter::dropped)
}

/// Prints a line to stderr, for people, without waiting for it.
pub fn print_error(text: impl Display) {
    // If even a thread is not available, the exit code still reports the failure.
    if let Ok(mut writer) = writer() {
        drop(writer.write_all(format!("{text}\n").as_bytes()));
    }
}

/// Waits until all log lines are written, for at most a second.
pub fn flush() {
    if let Some(writer) = WRITER.get() {
        writer.flush(FLUSH_TIMEOUT);
    }
}

/// Calls [`flush`] when dropped, also by a panic.
#[derive(Debug)]
pub struct FlushOnDrop;

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        flush();
    }
}

fn writer() -> io::Result<&'static LogWriter> {
    if let Some(writer) = WRITER.get() {
        return Ok(writer);
    }
    let started = LogWriter::start(io::stderr(), |dropped| {
        error!(dropped, "log lines were dropped, because stderr did not take them");
    })?;
    // If another thread was faster, the thread started here is unused and ends.
    Ok(WRITER.get_or_init(|| started))
}

fn dispatch<W>(format: LogFormat, filter: EnvFilter, writer: W, terminal: bool) -> (Dispatch, Reload)
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    // A line that cannot be written is dropped: reporting it on the same stderr would not help.
    let lines = tracing_subscriber::fmt().log_internal_errors(false);
    // On a terminal the library decides on colours: it respects NO_COLOR.
    let lines = if terminal { lines } else { lines.with_ansi(false) };
    match format {
        LogFormat::Human => {
            let lines = lines.with_writer(OneLine::new(writer, terminal));
            let lines = lines.with_env_filter(filter).with_filter_reloading();
            let handle = lines.reload_handle();
            (lines.into(), Box::new(move |filter| handle.reload(filter)))
        }
        LogFormat::Json => {
            let lines =
                lines.with_writer(writer).json().flatten_event(true).with_env_filter(filter).with_filter_reloading();
            let handle = lines.reload_handle();
            (lines.into(), Box::new(move |filter| handle.reload(filter)))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{debug, info};

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Broken;

    impl io::Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let (dispatch, reload) = dispatch(format, EnvFilter::new("info"), move || writer.clone(), false);
        tracing::dispatcher::with_default(&dispatch, || {
            info!(partition = 3, detail = "a\nb", "a line");
            debug!("below the filter");
            reload(EnvFilter::new("error")).unwrap();
            info!("below the new filter");
        });
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = logged(LogFormat::Json);
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], "a line");
        assert_eq!(line["partition"], 3);
        assert_eq!(line["detail"], "a\nb");
        assert_eq!(line["level"], "INFO");
        assert!(line["timestamp"].is_string());
    }

    #[test]
    fn human_text_has_no_colours_without_a_terminal() {
        let text = logged(LogFormat::Human);
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("a line") && text.contains("partition=3"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn what_others_say_begins_no_line() {
        let forged = "a notice\n2026-01-01T00:00:00Z ERROR forged\r\u{1b}[2K\u{2028}end";
        for terminal in [false, true] {
            let buffer = Buffer::default();
            let writer = buffer.clone();
            let (dispatch, _) = dispatch(LogFormat::Human, EnvFilter::new("info"), move || writer.clone(), terminal);
            tracing::dispatcher::with_default(&dispatch, || info!(reason = %forged, "NOTICE: {forged}"));
            let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
            assert_eq!(text.matches(['\n', '\r', '\u{2028}']).count(), 1, "{text:?}");
            assert!(text.ends_with('\n') && !text.contains("\u{1b}[2K"), "{text:?}");
        }
    }

    #[test]
    fn a_closed_stderr_does_not_panic() {
        let (dispatch, _) = dispatch(LogFormat::Json, EnvFilter::new("info"), || Broken, false);
        tracing::dispatcher::with_default(&dispatch, || info!("goes nowhere"));
    }

    #[test]
    fn an_invalid_filter_and_a_second_start_are_errors() {
        let failure = init(LogFormat::Human, "series_ingest=loud").unwrap_err();
        assert!(matches!(failure, LogError::Filter(_)), "{failure}");
        // Another test of this process may have initialized it first.
        drop(init(LogFormat::Human, "error"));
        let failure = init(LogFormat::Json, "info").unwrap_err();
        assert!(matches!(failure, LogError::Started(_)), "{failure}");
    }
}
