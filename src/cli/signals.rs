//! The effects of signals; the table is in docs/operations.md.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::telemetry::logging;

/// A signal by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Signal {
    name: &'static str,
    number: i32,
}

// The numbers of Linux; tokio has no name for the last one.
const HUP: Signal = Signal { name: "SIGHUP", number: 1 };
const INT: Signal = Signal { name: "SIGINT", number: 2 };
const QUIT: Signal = Signal { name: "SIGQUIT", number: 3 };
const USR1: Signal = Signal { name: "SIGUSR1", number: 10 };
const USR2: Signal = Signal { name: "SIGUSR2", number: 12 };
const ALRM: Signal = Signal { name: "SIGALRM", number: 14 };
const TERM: Signal = Signal { name: "SIGTERM", number: 15 };
const XFSZ: Signal = Signal { name: "SIGXFSZ", number: 25 };

impl Signal {
    /// The exit code of a process that the signal has ended, as in shells.
    fn exit_code(self) -> i32 {
        128 + self.number
    }
}

/// Handles signals; SIGHUP calls `reload`. The returned channel has the first signal that requests the end.
///
/// # Errors
/// If the system refuses a handler.
pub(super) fn listen(reload: impl Fn() + Send + 'static) -> io::Result<watch::Receiver<Option<Signal>>> {
    let (sender, mut received) = mpsc::unbounded_channel();
    // Beyond a limit on file sizes the system would end the process at a write of the journal; ignored, it is an error of the
    // write.
    for one in [TERM, INT, QUIT, HUP, USR1, USR2, ALRM, XFSZ] {
        let mut stream = signal(SignalKind::from_raw(one.number))?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if sender.send(one).is_err() {
                    return;
                }
            }
        });
    }
    let (stop, stopping) = watch::channel(None);
    tokio::spawn(async move {
        while let Some(signal) = received.recv().await {
            let name = signal.name;
            match signal {
                HUP => reload(),
                TERM | INT | QUIT if stop.borrow().is_none() => {
                    info!("{name}: stopping; another signal ends the worker at once");
                    stop.send_replace(Some(signal));
                }
                TERM | INT | QUIT => {
                    warn!("{name} again: ending at once; what was not written is read again by the next start");
                    logging::flush();
                    std::process::exit(signal.exit_code());
                }
                _ => info!("{name}: ignored"),
            }
        }
    });
    Ok(stopping)
}

/// Makes a write beyond a limit on file sizes an error of the write: the system would end the process otherwise.
///
/// # Errors
/// If the system refuses the handler.
pub(super) fn survive_file_limit() -> io::Result<()> {
    // The handler stays when its stream is dropped.
    signal(SignalKind::from_raw(XFSZ.number)).map(drop)
}

/// Returns the signal that requested the end.
pub(super) async fn stopped(mut stopping: watch::Receiver<Option<Signal>>) -> Signal {
    let signal = stopping.wait_for(Option::is_some).await.ok().and_then(|signal| *signal);
    match signal {
        Some(signal) => signal,
        // The sender is dropped only when the process ends.
        None => std::future::pending().await,
    }
}
