//! Encoding of what is appended, on tokio's threads for blocking work, and the choice of its compression.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::payload::{Compression, Encoded, Encoder, runs};
use crate::raw::MessageSet;

/// As many encoders as the machine has cores.
#[derive(Debug)]
pub(super) struct Encoders {
    cores: usize,
    turns: Arc<Semaphore>,
    /// The idle ones, with their buffers.
    idle: Mutex<Vec<Encoder>>,
    /// Buffers of records that are written.
    spare: Mutex<Vec<Vec<u8>>>,
    pace: Mutex<Pace>,
}

/// Maximum number of buffers that are kept for the next records, none larger than [`SPARE_BYTES`].
const SPARES: usize = 16;
const SPARE_BYTES: usize = 2 << 20;

/// The number of bytes appended, in windows of [`WINDOW`]. At a low rate, space on the disk matters more than time; at a high
/// rate, compression must not be slower than the disk.
#[derive(Debug)]
pub(super) struct Pace {
    since: Instant,
    bytes: usize,
    /// The compression for the window before.
    before: Compression,
}

pub(super) const WINDOW: Duration = Duration::from_millis(250);
/// Maximum bytes of raw messages in a window for the best compression: 64 MiB/s, for which zstd's level 1 takes an eighth of a
/// core.
pub(super) const FAST_WINDOW_BYTES: usize = 16 << 20;
/// Maximum bytes of raw messages in a window for any compression: 192 MiB/s; two cores do not compress more alongside all
/// else.
pub(super) const FLOOD_WINDOW_BYTES: usize = 48 << 20;

/// The compression for this number of bytes in a window.
fn effort(window_bytes: f64) -> Compression {
    match window_bytes {
        bytes if bytes > FLOOD_WINDOW_BYTES as f64 => Compression::Off,
        bytes if bytes > FAST_WINDOW_BYTES as f64 => Compression::Fast,
        _ => Compression::Compact,
    }
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, bytes: 0, before: Compression::Compact }
    }

    /// Counts what is appended now, and returns how to compress it.
    pub(super) fn add(&mut self, bytes: usize, now: Instant) -> Compression {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= WINDOW {
            let before = effort(self.bytes as f64 * WINDOW.as_secs_f64() / elapsed.as_secs_f64());
            *self = Self { since: now, bytes: 0, before };
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.before.max(effort(self.bytes as f64))
    }
}

impl Encoders {
    pub(super) fn new() -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let pace = Mutex::new(Pace::new(Instant::now()));
        let turns = Arc::new(Semaphore::new(cores));
        Self { cores, turns, idle: Mutex::default(), spare: Mutex::default(), pace }
    }

    /// Counts bytes that are appended now, and returns how to compress them.
    pub(super) fn pace(&self, bytes: usize) -> Compression {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).add(bytes, Instant::now())
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the buffers of what is written for what comes next.
    pub(super) fn reuse(&self, written: Vec<Encoded>) {
        let records = written.into_iter().map(|encoded| encoded.record);
        let mut spare = self.spare();
        let room = SPARES.saturating_sub(spare.len());
        spare.extend(records.filter(|record| record.capacity() <= SPARE_BYTES).take(room));
    }

    /// Encodes the sets, each run of neighbours by itself.
    pub(super) async fn encode(
        self: &Arc<Self>,
        sets: Vec<MessageSet>,
        effort: Compression,
    ) -> io::Result<Vec<Encoded>> {
        let mut runs = runs(sets);
        // A task for each core, so that many small runs do not cost many context switches.
        let each = runs.len().div_ceil(self.cores);
        let mut tasks = Vec::new();
        while !runs.is_empty() {
            let part: Vec<_> = runs.drain(..each.min(runs.len())).collect();
            let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(io::Error::other)?;
            let encoders = Arc::clone(self);
            tasks.push(spawn_blocking(move || {
                let _turn = turn;
                let idle = || encoders.idle.lock().unwrap_or_else(PoisonError::into_inner);
                let known = idle().pop();
                let mut encoder = known.map_or_else(Encoder::new, Ok)?;
                encoder.set_effort(effort)?;
                let mut encode = |run: &Vec<_>| {
                    let spare = encoders.spare().pop().unwrap_or_default();
                    encoder.encode(run, spare)
                };
                let encoded: io::Result<Vec<Encoded>> = part.iter().map(&mut encode).collect();
                idle().push(encoder);
                encoded
            }));
        }
        let mut encoded = Vec::new();
        for task in tasks {
            encoded.append(&mut task.await.map_err(io::Error::other)??);
        }
        Ok(encoded)
    }
}
