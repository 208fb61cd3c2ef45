//! The journal on a thread of its own, for many asynchronous callers.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::sync::{mpsc, oneshot};

use super::error::{AppendError, Damage, ReadError};
use super::files::Files;
use super::index::{Record, SegmentInfo};
use super::journal::{Journal, Usage};
use crate::batch::MessageSet;

/// How many bytes of raw messages are written at once: it bounds the memory for their encoded copies.
const GROUP_BYTES: usize = 32 << 20;

type Reply<T> = oneshot::Sender<T>;

enum Command {
    Append(Vec<MessageSet>, Reply<Result<(), AppendError>>),
    Records(Reply<Vec<Record>>),
    Read(Record, Reply<Result<MessageSet, ReadError>>),
    RemoveSegments(Vec<u64>, Reply<()>),
    Segments(Reply<Vec<SegmentInfo>>),
    Damage(Reply<Vec<Damage>>),
    Close(Reply<()>),
}

/// A journal that a thread named `journal` owns. All appends that wait while one is written are written together next. The
/// thread ends when the last clone is dropped, or by [`JournalHandle::close`].
#[derive(Debug, Clone)]
pub struct JournalHandle {
    commands: mpsc::UnboundedSender<Command>,
    usage: Arc<Mutex<Usage>>,
}

impl JournalHandle {
    /// Starts the thread.
    ///
    /// # Errors
    /// Where the operating system has no thread.
    pub fn start<F: Files>(journal: Journal<F>) -> io::Result<Self> {
        let (commands, queue) = mpsc::unbounded_channel();
        let usage = Arc::new(Mutex::new(journal.usage()));
        let owner = Owner { journal, queue, usage: Arc::clone(&usage) };
        thread::Builder::new().name("journal".to_owned()).spawn(move || owner.run())?;
        Ok(Self { commands, usage })
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).ok()?;
        answer.await.ok()
    }

    /// Appends the sets. `Ok` means that all are durable. A caller that stops waiting does not take them back.
    ///
    /// # Errors
    /// As [`Journal::append`], for all that were written together.
    pub async fn append(&self, sets: Vec<MessageSet>) -> Result<(), AppendError> {
        let closed = || Err(AppendError::Unavailable(io::Error::other("the journal is closed")));
        self.ask(|reply| Command::Append(sets, reply)).await.unwrap_or_else(closed)
    }

    /// The records, the oldest first; none once it is closed.
    pub async fn records(&self) -> Vec<Record> {
        self.ask(Command::Records).await.unwrap_or_default()
    }

    /// The messages of a record.
    ///
    /// # Errors
    /// As [`Journal::read`].
    pub async fn read(&self, record: Record) -> Result<MessageSet, ReadError> {
        let gone = ReadError::Gone { segment: record.segment, position: record.position };
        self.ask(|reply| Command::Read(record, reply)).await.unwrap_or(Err(gone))
    }

    /// Takes segments away, as [`Journal::remove_segment`]. A failure is logged; ask again later.
    pub async fn remove_segments(&self, numbers: Vec<u64>) {
        self.ask(|reply| Command::RemoveSegments(numbers, reply)).await;
    }

    /// The segments, the oldest first; none once it is closed.
    pub async fn segments(&self) -> Vec<SegmentInfo> {
        self.ask(Command::Segments).await.unwrap_or_default()
    }

    /// What is known to be damaged; nothing once it is closed.
    pub async fn damage(&self) -> Vec<Damage> {
        self.ask(Command::Damage).await.unwrap_or_default()
    }

    /// What it held after the last command, in numbers; does not wait.
    pub fn usage(&self) -> Usage {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the thread after all that was asked before, and releases the lock.
    pub async fn close(&self) {
        self.ask(Command::Close).await;
    }
}

struct Owner<F: Files> {
    journal: Journal<F>,
    queue: mpsc::UnboundedReceiver<Command>,
    usage: Arc<Mutex<Usage>>,
}

impl<F: Files> Owner<F> {
    fn run(mut self) {
        let mut next = self.queue.blocking_recv();
        while let Some(command) = next {
            next = match command {
                Command::Append(sets, reply) => self.append_group(sets, reply),
                Command::Close(reply) => {
                    self.queue.close();
                    // The lock is released before the caller goes on.
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

    /// Shows what it holds now, before the caller of a command that has changed it goes on.
    fn publish(&self) {
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner) = self.journal.usage();
    }

    /// Writes the sets together with those of the appends that wait behind; gives the command after them, if one waits.
    fn append_group(&mut self, mut sets: Vec<MessageSet>, reply: Reply<Result<(), AppendError>>) -> Option<Command> {
        let mut replies = vec![reply];
        let mut bytes: usize = sets.iter().map(MessageSet::bytes).sum();
        let mut after = None;
        while bytes < GROUP_BYTES {
            match self.queue.try_recv() {
                Ok(Command::Append(more, reply)) => {
                    bytes += more.iter().map(MessageSet::bytes).sum::<usize>();
                    sets.extend(more);
                    replies.push(reply);
                }
                Ok(other) => {
                    after = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        let result = self.journal.append(&sets);
        self.publish();
        // A caller that has gone does not want the answer.
        for reply in replies {
            let _ = reply.send(result.as_ref().copied().map_err(AppendError::again));
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
                    if let Err(error) = self.journal.remove_segment(number) {
                        tracing::warn!(segment = number, %error, "a segment was not removed");
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
            // `run` keeps these to itself.
            Command::Append(..) | Command::Close(_) => {}
        }
    }
}
