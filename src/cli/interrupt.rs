//! Signals that end a command: they are reported in a line, and the demo and the benchmark clean up.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;

use super::Failure;

/// For how long an interrupted command may remove what it has begun.
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(5);

/// `true` once such a signal was received: signals are process-wide.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Returns `true` once a signal has ended [`Interrupts::or_work`]; work on threads, which cannot be dropped, checks this.
pub(super) fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// The signals that end a command, handled from the creation of this.
#[derive(Debug)]
pub(super) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
}

impl Interrupts {
    /// Begins to handle the signals. It must be called before there is anything to clean up.
    ///
    /// # Errors
    /// If the system refuses.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// Runs the work until it ends, or until a signal is received; then it is dropped.
    ///
    /// # Errors
    /// The work's, or [`Failure::Interrupted`].
    pub(super) async fn or_work<T>(&mut self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let (name, kind) = tokio::select! {
            result = work => return result,
            _ = self.interrupt.recv() => ("SIGINT", SignalKind::interrupt()),
            _ = self.terminate.recv() => ("SIGTERM", SignalKind::terminate()),
            _ = self.hangup.recv() => ("SIGHUP", SignalKind::hangup()),
            _ = self.quit.recv() => ("SIGQUIT", SignalKind::quit()),
        };
        INTERRUPTED.store(true, Ordering::Relaxed);
        Err(Failure::Interrupted { name, number: u8::try_from(kind.as_raw_value()).unwrap_or(0) })
    }
}

/// Runs work on its own task, so that a signal is handled even while the work blocks its thread. Returns its result, and the
/// task, which goes on if a signal has come.
///
/// # Errors
/// If the system refuses the handling of signals.
pub(super) async fn on_its_task(
    work: impl Future<Output = Result<(), Failure>> + Send + 'static,
) -> io::Result<(Result<(), Failure>, JoinHandle<Result<(), Failure>>)> {
    let mut interrupts = Interrupts::listen()?;
    let mut task = tokio::spawn(work);
    let ended = async { (&mut task).await.map_err(|error| Failure::Internal(error.to_string()))? };
    let result = interrupts.or_work(ended).await;
    Ok((result, task))
}

/// Runs work that removes what it has begun when it is dropped; a signal ends it, and waits for that.
pub(super) async fn to_its_end(
    work: impl Future<Output = Result<(), Failure>> + Send + 'static,
) -> Result<(), Failure> {
    let (result, task) = on_its_task(work).await?;
    if let Err(Failure::Interrupted { .. }) = result {
        task.abort();
        // It may be at a write that does not return.
        drop(tokio::time::timeout(CLEAN_UP_LIMIT, task).await);
    }
    result
}
