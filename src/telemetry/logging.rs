//! Log lines on stderr.

use std::io::{self, IsTerminal as _};

use tracing::Dispatch;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use super::one_line::OneLine;
use crate::config::LogFormat;

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The filter is not in the form `level,target=level,…`.
    #[error("log.filter cannot be read: {0}")]
    Filter(#[from] ParseError),
    /// This process logs already.
    #[error("logging was started before: {0}")]
    Started(#[from] TryInitError),
}

/// Sends log lines that pass `filter` (`level,target=level,…`) to stderr, from here to the end of the process. Colours
/// only where stderr is a terminal.
///
/// # Errors
/// Where the filter cannot be read, and in a process that logs already.
pub fn init(format: LogFormat, filter: &str) -> Result<(), InitError> {
    let filter = EnvFilter::builder().parse(filter)?;
    dispatch(format, filter, io::stderr, io::stderr().is_terminal()).try_init()?;
    Ok(())
}

fn dispatch<W>(format: LogFormat, filter: EnvFilter, writer: W, terminal: bool) -> Dispatch
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    // A line that cannot be written is dropped: to report it on the same stderr, with eprintln, would panic.
    let lines = tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false);
    // On a terminal the library decides about colours: it knows NO_COLOR.
    let lines = if terminal { lines } else { lines.with_ansi(false) };
    match format {
        LogFormat::Human => lines.with_writer(OneLine::new(writer, terminal)).into(),
        LogFormat::Json => lines.with_writer(writer).json().flatten_event(true).into(),
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
        let dispatch = dispatch(format, EnvFilter::new("info"), move || writer.clone(), false);
        tracing::dispatcher::with_default(&dispatch, || {
            info!(partition = 3, detail = "a\nb", "a line");
            debug!("below the filter");
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
            let dispatch = dispatch(LogFormat::Human, EnvFilter::new("info"), move || writer.clone(), terminal);
            tracing::dispatcher::with_default(&dispatch, || info!(reason = %forged, "NOTICE: {forged}"));
            let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
            assert_eq!(text.matches(['\n', '\r', '\u{2028}']).count(), 1, "{text:?}");
            assert!(text.ends_with('\n') && !text.contains("\u{1b}[2K"), "{text:?}");
        }
    }

    #[test]
    fn a_closed_stderr_is_no_panic() {
        let dispatch = dispatch(LogFormat::Json, EnvFilter::new("info"), || Broken, false);
        tracing::dispatcher::with_default(&dispatch, || info!("goes nowhere"));
    }

    #[test]
    fn a_bad_filter_and_a_second_start_are_errors() {
        let failure = init(LogFormat::Human, "series_ingest=loud").unwrap_err();
        assert!(matches!(failure, InitError::Filter(_)), "{failure}");
        // Another test of this process may have been first.
        drop(init(LogFormat::Human, "error"));
        let failure = init(LogFormat::Json, "info").unwrap_err();
        assert!(matches!(failure, InitError::Started(_)), "{failure}");
    }
}
