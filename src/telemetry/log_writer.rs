//! The output of log lines to stderr: a bounded queue, and a thread that writes.
//!
//! Logging never waits: a line that does not fit into the queue is dropped and counted, as is one that cannot be written.
//! Stderr may be a pipe without a reader, a full disk, or a stopped terminal; data continues to move.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError, TrySendError};
use std::thread;
use std::time::{Duration, Instant};

/// Maximum number of lines that wait to be written, and of their bytes.
const MAX_LINES: usize = 2048;
const MAX_BYTES: usize = 2 << 20;
/// Interval between reports of dropped lines while the queue is never empty.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// Delay before a write is retried, if stderr is in non-blocking mode and accepts nothing.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

thread_local! {
    /// Lines that are logged on the writing thread itself, which must not wait for its own queue.
    static OWN: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Writes lines on its own thread. `&LogWriter` is a [`Write`] that never blocks and never fails; each call of `write` is a
/// line.
#[derive(Debug)]
pub(super) struct LogWriter {
    queue: SyncSender<Entry>,
    counts: Arc<Counts>,
}

#[derive(Debug)]
enum Entry {
    Line(Vec<u8>),
    /// Answered when all lines before it are written.
    Flush(SyncSender<()>),
}

#[derive(Debug, Default)]
struct Counts {
    dropped: AtomicU64,
    queued_bytes: AtomicUsize,
}

impl LogWriter {
    /// Starts the thread. `report` is called on it with the number of dropped lines, once lines are written again; its own
    /// lines are written directly.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub(super) fn start(
        output: impl Write + Send + 'static,
        report: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, entries) = mpsc::sync_channel(MAX_LINES);
        let counts = Arc::new(Counts::default());
        let thread = Thread {
            output,
            report,
            counts: Arc::clone(&counts),
            is_torn: false,
            fails: false,
            reported: 0,
            reported_at: Instant::now(),
        };
        thread::Builder::new().name("log".to_owned()).spawn(move || thread.run(&entries))?;
        Ok(Self { queue, counts })
    }

    /// Number of lines that were dropped since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all lines logged before are written, up to `timeout`.
    pub(super) fn flush(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let (done, written) = mpsc::sync_channel(1);
        let mut entry = Entry::Flush(done);
        while let Err(TrySendError::Full(returned)) = self.queue.try_send(entry) {
            if Instant::now() >= deadline {
                return;
            }
            entry = returned;
            thread::sleep(RETRY_INTERVAL);
        }
        // Lines not written by then are lost: the process must end.
        let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }

    fn push(&self, line: &[u8]) {
        let queued = self.counts.queued_bytes.fetch_add(line.len(), Ordering::Relaxed);
        if queued + line.len() > MAX_BYTES || self.queue.try_send(Entry::Line(line.to_vec())).is_err() {
            self.counts.queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Write for &LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let is_own = OWN.with_borrow_mut(|own| own.as_mut().map(|own| own.extend_from_slice(line)).is_some());
        if !is_own {
            self.push(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Thread<W, R> {
    output: W,
    report: R,
    counts: Arc<Counts>,
    /// `true` if the last write ended in the middle of a line.
    is_torn: bool,
    /// `true` if the last line could not be written.
    fails: bool,
    /// Number of dropped lines that were reported.
    reported: u64,
    reported_at: Instant,
}

impl<W: Write, R: Fn(u64)> Thread<W, R> {
    fn run(mut self, entries: &Receiver<Entry>) {
        loop {
            let entry = match entries.try_recv() {
                Ok(entry) => entry,
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => {
                    self.report_dropped();
                    match entries.recv() {
                        Ok(entry) => entry,
                        Err(_) => return,
                    }
                }
            };
            match entry {
                Entry::Line(line) => {
                    self.counts.queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
                    if !self.write(&line) {
                        self.counts.dropped.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Entry::Flush(done) => {
                    self.report_dropped();
                    let _ = done.try_send(());
                }
            }
            if self.reported_at.elapsed() >= REPORT_INTERVAL {
                self.report_dropped();
            }
        }
    }

    /// Reports what was dropped since the last report, if lines are written again.
    fn report_dropped(&mut self) {
        self.reported_at = Instant::now();
        let dropped = self.counts.dropped.load(Ordering::Relaxed);
        if self.fails || dropped == self.reported {
            return;
        }
        OWN.set(Some(Vec::new()));
        (self.report)(dropped - self.reported);
        let line = OWN.take().unwrap_or_default();
        if self.write(&line) {
            self.reported = dropped;
        }
    }

    /// Returns `true` if the whole line was written. Waits for as long as that takes.
    #[expect(clippy::disallowed_methods, reason = "what a failed write has written of a line must be known")]
    fn write(&mut self, line: &[u8]) -> bool {
        let whole = if self.is_torn { &[b"\n", line].concat() } else { line };
        let mut rest = whole;
        while !rest.is_empty() {
            match self.output.write(rest) {
                Ok(0) => break,
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY_INTERVAL),
                Err(_) => break,
            }
        }
        if rest.len() < whole.len() {
            self.is_torn = !rest.is_empty();
        }
        self.fails = !rest.is_empty();
        !self.fails
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(20);

    /// The behaviour of an output at the next writes.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Behaviour {
        Takes,
        Blocks,
        IsFull,
        /// Accepts three bytes of each line, and is full then.
        TakesThree,
        WouldBlock,
    }

    /// An output's behaviour, and what was written to it.
    type OutputState = Mutex<(Behaviour, Vec<u8>)>;

    #[derive(Debug, Clone)]
    struct Output(Arc<(OutputState, Condvar)>);

    impl Output {
        fn new(behaviour: Behaviour) -> Self {
            Self(Arc::new((Mutex::new((behaviour, Vec::new())), Condvar::new())))
        }

        fn now(&self, behaviour: Behaviour) {
            self.0.0.lock().unwrap().0 = behaviour;
            self.0.1.notify_all();
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.0.lock().unwrap().1.clone()).unwrap()
        }
    }

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let state = self.0.0.lock().unwrap();
            let mut state = self.0.1.wait_while(state, |state| state.0 == Behaviour::Blocks).unwrap();
            let count = match state.0 {
                Behaviour::IsFull => return Err(ErrorKind::StorageFull.into()),
                Behaviour::WouldBlock => return Err(ErrorKind::WouldBlock.into()),
                Behaviour::TakesThree => {
                    state.0 = Behaviour::IsFull;
                    3
                }
                Behaviour::Takes | Behaviour::Blocks => bytes.len(),
            };
            state.1.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A writer that logs its own reports, as in the program.
    fn writer(output: &Output) -> Arc<LogWriter> {
        static WRITERS: Mutex<Vec<Arc<LogWriter>>> = Mutex::new(Vec::new());
        let number = Arc::new(AtomicUsize::new(usize::MAX));
        let own = Arc::clone(&number);
        let report = move |count| {
            let writer = Arc::clone(&WRITERS.lock().unwrap()[own.load(Ordering::SeqCst)]);
            (&*writer).write_all(format!("{count} dropped\n").as_bytes()).unwrap();
        };
        let mut writers = WRITERS.lock().unwrap();
        number.store(writers.len(), Ordering::SeqCst);
        writers.push(Arc::new(LogWriter::start(output.clone(), report).unwrap()));
        Arc::clone(writers.last().unwrap())
    }

    fn log(writer: &LogWriter, line: &str) {
        let mut writer = writer;
        writer.write_all(line.as_bytes()).unwrap();
    }

    #[test]
    fn lines_are_written_in_order() {
        let output = Output::new(Behaviour::Takes);
        let writer = writer(&output);
        for number in 0..100 {
            log(&writer, &format!("{number}\n"));
        }
        writer.flush(TIMEOUT);
        let expected: String = (0..100).map(|number| format!("{number}\n")).collect();
        assert_eq!(output.text(), expected);
        assert_eq!(writer.dropped(), 0);
    }

    #[test]
    fn a_blocked_output_blocks_nobody_and_what_is_dropped_is_counted_and_reported_once() {
        let output = Output::new(Behaviour::Blocks);
        let writer = writer(&output);
        let begun = Instant::now();
        let lines = MAX_LINES + 1000;
        for number in 0..lines {
            log(&writer, &format!("{number}\n"));
        }
        // The thread has taken at most one.
        let dropped = writer.dropped();
        assert!((999..=1000).contains(&dropped), "{dropped}");
        writer.flush(Duration::from_millis(100));
        assert!(begun.elapsed() < TIMEOUT, "{:?}", begun.elapsed());
        output.now(Behaviour::Takes);
        writer.flush(TIMEOUT);
        log(&writer, "later\n");
        writer.flush(TIMEOUT);
        let text = output.text();
        assert_eq!(text.matches("dropped").count(), 1, "{text}");
        assert!(text.ends_with(&format!("\n{dropped} dropped\nlater\n")), "{text}");
        assert_eq!(text.lines().count() as u64, lines as u64 - dropped + 2);
        assert_eq!(writer.dropped(), dropped);
    }

    #[test]
    fn the_bytes_that_wait_are_bounded() {
        let output = Output::new(Behaviour::Blocks);
        let writer = writer(&output);
        let line = "x".repeat(MAX_BYTES / 8);
        for _ in 0..20 {
            log(&writer, &line);
        }
        assert!((11..=12).contains(&writer.dropped()), "{}", writer.dropped());
        output.now(Behaviour::Takes);
    }

    #[test]
    fn a_full_disk_is_counted_and_after_a_torn_line_a_new_one_begins() {
        let output = Output::new(Behaviour::TakesThree);
        let writer = writer(&output);
        log(&writer, "first\n");
        log(&writer, "second\n");
        writer.flush(TIMEOUT);
        assert_eq!((output.text().as_str(), writer.dropped()), ("fir", 2));
        output.now(Behaviour::Takes);
        log(&writer, "third\n");
        writer.flush(TIMEOUT);
        assert_eq!(output.text(), "fir\nthird\n2 dropped\n");
        assert_eq!(writer.dropped(), 2);
    }

    #[test]
    fn an_output_in_non_blocking_mode_is_waited_for() {
        let output = Output::new(Behaviour::WouldBlock);
        let writer = writer(&output);
        log(&writer, "a line\n");
        writer.flush(Duration::from_millis(60));
        assert_eq!(output.text(), "");
        output.now(Behaviour::Takes);
        writer.flush(TIMEOUT);
        assert_eq!((output.text().as_str(), writer.dropped()), ("a line\n", 0));
    }
}
