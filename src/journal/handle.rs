//! The journal on its own thread, for many asynchronous callers. They encode what they append, on tokio's threads for
//! blocking work: while one group is written, the next ones are compressed.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::encoders::Encoders;
use super::error::{AppendError, Damage, ReadError};
use super::files::Files;
use super::index::{Record, SegmentInfo};
use super::journal::{Journal, Usage};
use super::payload::{Compression, Encoded};
use crate::raw::{Interval, MessageSet};

/// Maximum number of bytes of raw messages that are encoded and not yet written: it bounds the memory for their encoded
/// copies, and the size of a group. A larger append is written alone.
const GROUP_BYTES: usize = 32 << 20;

type Reply<T> = oneshot::Sender<T>;

/// An append that waits to be written.
struct Waiting {
    encoded: Vec<Encoded>,
    reply: Reply<Result<(), AppendError>>,
    /// Its share of [`GROUP_BYTES`], released when it is written.
    _room: OwnedSemaphorePermit,
}

enum Command {
    Append(Waiting),
    Records(Reply<Vec<Record>>),
    Read(Record, Reply<Result<MessageSet, ReadError>>),
    RemoveSegments(Vec<u64>, Reply<()>),
    Segments(Reply<Vec<SegmentInfo>>),
    Damage(Reply<Vec<Damage>>),
    Probe(Reply<Result<(), AppendError>>),
    Close(Reply<()>),
}

/// A journal that a thread named `journal` owns. All appends that wait while one is written are written together next. The
/// thread ends when the last clone is dropped, or by [`JournalHandle::close`].
#[derive(Debug, Clone)]
pub struct JournalHandle {
    commands: mpsc::UnboundedSender<Command>,
    usage: Arc<Mutex<Usage>>,
    lost: Arc<Mutex<Vec<Interval>>>,
    encoders: Arc<Encoders>,
    room: Arc<Semaphore>,
    is_absent: bool,
}

impl JournalHandle {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the operating system cannot start a thread.
    pub fn start<F: Files>(journal: Journal<F>) -> io::Result<Self> {
        let (commands, queue) = mpsc::unbounded_channel();
        let usage = Arc::new(Mutex::new(journal.usage()));
        let (encoders, room) = (Arc::new(Encoders::new()), Arc::new(Semaphore::new(GROUP_BYTES)));
        let lost = Arc::<Mutex<Vec<Interval>>>::default();
        let (shown, told) = (Arc::clone(&usage), Arc::clone(&lost));
        let owner =
            Owner { journal, queue, usage: shown, lost: told, encoders: Arc::clone(&encoders), removal_fails: false };
        thread::Builder::new().name("journal".to_owned()).spawn(move || owner.run())?;
        Ok(Self { commands, usage, lost, encoders, room, is_absent: false })
    }

    /// A handle without a journal: it has no records and accepts none.
    pub fn absent() -> Self {
        Self {
            commands: mpsc::unbounded_channel().0,
            usage: Arc::default(),
            lost: Arc::default(),
            encoders: Arc::new(Encoders::new()),
            room: Arc::new(Semaphore::new(GROUP_BYTES)),
            is_absent: true,
        }
    }

    /// Returns `true` if there is no journal.
    pub fn is_absent(&self) -> bool {
        self.is_absent
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).ok()?;
        answer.await.ok()
    }

    /// Appends the sets, as [`Journal::append`]. `Ok` means that all are durable. A caller that stops waiting does not cancel
    /// the append; two concurrent appends have no order.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub async fn append(&self, sets: Vec<MessageSet>) -> Result<(), AppendError> {
        let bytes = sets.iter().map(MessageSet::bytes).sum::<usize>().min(GROUP_BYTES) as u32;
        let unavailable = |error| AppendError::Unavailable(io::Error::other(error));
        let room =
            Arc::clone(&self.room).acquire_many_owned(bytes).await.map_err(|error| unavailable(error.to_string()))?;
        let effort = self.effort(sets.iter().map(MessageSet::bytes).sum());
        let encoded = self.encoders.encode(sets, effort).await.map_err(AppendError::Unavailable)?;
        self.ask(|reply| Command::Append(Waiting { encoded, reply, _room: room }))
            .await
            .unwrap_or_else(|| Err(unavailable("the journal is closed".to_owned())))
    }

    /// The compression for `bytes` bytes that are appended now.
    fn effort(&self, bytes: usize) -> Compression {
        let of_pace = self.encoders.pace(bytes);
        let usage = self.usage();
        // The remaining space should last.
        if usage.bytes > usage.limit_bytes / 2 { Compression::Compact } else { of_pace }
    }

    /// Returns `true` if the thread has ended: it was closed, or an internal error has ended it.
    pub fn has_ended(&self) -> bool {
        !self.is_absent && self.commands.is_closed()
    }

    /// The records, the oldest first; `None` if the thread has ended.
    pub async fn records(&self) -> Option<Vec<Record>> {
        if self.is_absent { Some(Vec::new()) } else { self.ask(Command::Records).await }
    }

    /// The messages of a record.
    ///
    /// # Errors
    /// As [`Journal::read`].
    pub async fn read(&self, record: Record) -> Result<MessageSet, ReadError> {
        let gone = ReadError::Gone { segment: record.segment, position: record.position };
        self.ask(|reply| Command::Read(record, reply)).await.unwrap_or(Err(gone))
    }

    /// Removes segments, as [`Journal::remove_segment`], before all later commands; the future is ready when it is done. A
    /// failure is logged; try again later.
    pub fn remove_segments(&self, numbers: Vec<u64>) -> impl Future<Output = ()> + Send + 'static {
        let (reply, answer) = oneshot::channel();
        let is_asked = self.commands.send(Command::RemoveSegments(numbers, reply)).is_ok();
        async move {
            if is_asked {
                // If the thread has ended, there is nothing to wait for.
                drop(answer.await);
            }
        }
    }

    /// The segments, the oldest first; `None` if the thread has ended.
    pub async fn segments(&self) -> Option<Vec<SegmentInfo>> {
        if self.is_absent { Some(Vec::new()) } else { self.ask(Command::Segments).await }
    }

    /// The known damage; `None` if the thread has ended.
    pub async fn damage(&self) -> Option<Vec<Damage>> {
        self.ask(Command::Damage).await
    }

    /// Checks that the journal has its records and can append, as [`Journal::probe`].
    ///
    /// # Errors
    /// As [`Journal::probe`].
    pub async fn probe(&self) -> Result<(), AppendError> {
        let ended = || AppendError::Unavailable(io::Error::other("the journal is closed"));
        self.ask(Command::Probe).await.unwrap_or_else(|| Err(ended()))
    }

    /// The acknowledged intervals that are lost, as [`Journal::take_lost`]; does not wait.
    pub fn take_lost(&self) -> Vec<Interval> {
        std::mem::take(&mut *self.lost.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The journal's usage after the last command; does not wait.
    pub fn usage(&self) -> Usage {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the thread after all earlier commands, and releases the lock.
    pub async fn close(&self) {
        self.ask(Command::Close).await;
    }
}

struct Owner<F: Files> {
    journal: Journal<F>,
    queue: mpsc::UnboundedReceiver<Command>,
    usage: Arc<Mutex<Usage>>,
    lost: Arc<Mutex<Vec<Interval>>>,
    encoders: Arc<Encoders>,
    /// `true` if the last removal of a segment failed.
    removal_fails: bool,
}

impl<F: Files> Owner<F> {
    fn run(mut self) {
        let mut next = self.queue.blocking_recv();
        while let Some(command) = next {
            next = match command {
                Command::Append(first) => self.append_group(first),
                Command::Close(reply) => {
                    self.queue.close();
                    // The lock is released before the caller continues.
                    drop(self);
                    let _ = reply.send(());
                    return;
                }
                other => {
                    self.answer(other);
                    None
                }
            };
            if next.is_none() {
                next = self.queue.blocking_recv();
            }
        }
    }

    /// Publishes the usage, before the caller of a command that has changed it continues.
    fn publish(&mut self) {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).append(&mut self.journal.take_lost());
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner) = self.journal.usage();
    }

    /// Writes the append together with those that wait after it; returns the command after them, if one waits.
    fn append_group(&mut self, first: Waiting) -> Option<Command> {
        let mut group = vec![first];
        let mut after = None;
        while let Ok(command) = self.queue.try_recv() {
            match command {
                Command::Append(next) => group.push(next),
                other => {
                    after = Some(other);
                    break;
                }
            }
        }
        let (mut all, mut parts) = (Vec::new(), Vec::new());
        for Waiting { mut encoded, reply, _room } in group {
            let start = all.len();
            all.append(&mut encoded);
            parts.push((start..all.len(), reply, _room));
        }
        let result = self.journal.append_encoded(&mut all);
        // If there is no room for all of them, there may be room for some.
        let is_each_alone = parts.len() > 1 && matches!(result, Err(AppendError::Full { .. }));
        let results: Vec<_> = parts
            .iter()
            .map(|(part, ..)| match is_each_alone {
                true => self.journal.append_encoded(&mut all[part.clone()]),
                false => result.as_ref().copied().map_err(AppendError::again),
            })
            .collect();
        self.publish();
        self.encoders.reuse(all);
        for ((_, reply, _room), result) in parts.into_iter().zip(results) {
            // The caller may have stopped waiting for the answer.
            let _ = reply.send(result);
        }
        after
    }

    fn answer(&mut self, command: Command) {
        match command {
            Command::Records(reply) => {
                let _ = reply.send(self.journal.records().cloned().collect());
            }
            Command::Read(record, reply) => {
                let result = self.journal.read(&record);
                self.publish();
                let _ = reply.send(result);
            }
            Command::RemoveSegments(numbers, reply) => {
                for number in numbers {
                    let failure = self.journal.remove_segment(number).err();
                    // The removal is retried every few seconds.
                    let is_new = failure.is_some() && !self.removal_fails;
                    self.removal_fails = failure.is_some();
                    if let Some(error) = failure.filter(|_| is_new) {
                        tracing::warn!(segment = number, %error, "a segment is not removed; it is tried again");
                    }
                }
                self.publish();
                let _ = reply.send(());
            }
            Command::Segments(reply) => {
                let _ = reply.send(self.journal.segments());
            }
            Command::Damage(reply) => {
                let _ = reply.send(self.journal.damage().to_vec());
            }
            Command::Probe(reply) => {
                let result = self.journal.probe();
                self.publish();
                let _ = reply.send(result);
            }
            // `run` handles these itself.
            Command::Append(_) | Command::Close(_) => {}
        }
    }
}
