//! What the journal adds to a disk. Where the disk is: `CARGO_TARGET_DIR`.
//!
//! Appends go through the journal's thread, as in the worker. Alongside them, in alternate rounds, a plain writer writes the same
//! number of bytes by the same number of writes and fdatasyncs, into files that are allocated ahead like segments. Bytes are
//! the raw messages' keys and payloads at both: the journal compresses them and writes fewer, the plain writer writes all.
#![allow(missing_docs, reason = "criterion's macros make items without documentation")]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group};
use series_ingest::journal::{Inspection, Journal, JournalHandle, Options, RealFiles};
use series_ingest::raw::Kind;
use series_ingest::raw::{MessageSet, MessageSetBuilder, RawMessage, Source};

const SET_BYTES: usize = 128 * 1024;
const SEGMENT_BYTES: u64 = 64 << 20;
const PARTITIONS: usize = 8;
/// Of each measurement, alternately of the journal and of the plain writer.
const ROUNDS: usize = 5;
const WARM_UP: Duration = Duration::from_millis(400);

/// Sets of all partitions in turn, each partition's one after the other.
fn sets(count: usize) -> Vec<MessageSet> {
    let mut next = [0; PARTITIONS];
    let one = |number| {
        let partition = number % PARTITIONS;
        let set = set(partition as i32, next[partition]);
        next[partition] = set.interval().until;
        set
    };
    (0..count).map(one).collect()
}

fn source() -> Arc<Source> {
    Arc::new(Source {
        kind: Kind::Points,
        cluster_id: "bench".to_owned(),
        topic: "time-series.points".to_owned(),
        topic_id: "AAAAAAAAAAAAAAAAAAAAAA".to_owned(),
    })
}

/// Messages as sensors send them: JSON with digits that differ.
fn set(partition: i32, from: i64) -> MessageSet {
    let mut builder = MessageSetBuilder::new(source(), partition, from);
    let (mut bytes, mut state) = (0, (from.unsigned_abs() << 3) + u64::from(partition.unsigned_abs()) + 1);
    while bytes < SET_BYTES {
        let values: Vec<String> = (0..20)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                format!("{:.3}", (state >> 40) as f64 / 1e4)
            })
            .collect();
        let payload = format!(
            r#"{{"type":"point-batch","time_series_id":"sensor-{:06}","timestamps":[{}],"columns":{{"value":[{}]}}}}"#,
            state % 1000,
            1_735_689_600 + builder.until(),
            values.join(",")
        );
        let offset = builder.until();
        let message = RawMessage {
            offset,
            time_ms: Some(1_735_689_600_000 + offset),
            key: Some(b"sensor"),
            payload: Some(payload.as_bytes()),
            headers: None,
        };
        builder.push(&message);
        bytes += payload.len() + 6;
    }
    builder.build(None)
}

fn options(directory: &Path) -> Options {
    let directory = directory.join("journal");
    Options { directory, segment_bytes: SEGMENT_BYTES, max_bytes: u64::MAX, min_free_bytes: 0 }
}

/// Files that are written from front to back, allocated ahead like segments; two are kept, as of the journal.
struct Plain {
    directory: PathBuf,
    number: u64,
    file: File,
    position: u64,
}

impl Plain {
    fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), number: 0, file: Self::begin(directory, 0), position: 0 }
    }

    fn path(directory: &Path, number: u64) -> PathBuf {
        directory.join(format!("plain-{number}"))
    }

    fn begin(directory: &Path, number: u64) -> File {
        let file = OpenOptions::new().create_new(true).write(true).open(Self::path(directory, number)).unwrap();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, SEGMENT_BYTES).unwrap();
        file.sync_data().unwrap();
        file
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.position + bytes.len() as u64 > SEGMENT_BYTES {
            self.number += 1;
            self.file = Self::begin(&self.directory, self.number);
            self.position = 0;
            if let Some(oldest) = self.number.checked_sub(2) {
                std::fs::remove_file(Self::path(&self.directory, oldest)).unwrap();
            }
        }
        self.file.write_all_at(bytes, self.position).unwrap();
        self.file.sync_data().unwrap();
        self.position += bytes.len() as u64;
    }
}

fn raw_bytes(sets: &[MessageSet]) -> usize {
    let part = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
    sets.iter().flat_map(MessageSet::messages).map(|message| part(message.key) + part(message.payload)).sum()
}

/// Appends `appends` times `each` sets, `at_once` at a time.
async fn append_all(journal: &JournalHandle, sets: &Arc<Vec<MessageSet>>, appends: usize, at_once: usize, each: usize) {
    let next = Arc::new(AtomicUsize::new(0));
    let callers = (0..at_once).map(|_| {
        let (journal, sets, next) = (journal.clone(), Arc::clone(sets), Arc::clone(&next));
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= appends {
                    return;
                }
                let from = number * each % sets.len();
                journal.append(sets[from..from + each].to_vec()).await.unwrap();
                // As the worker does once the database has them; the plain writer keeps two files, too.
                if journal.usage().bytes > 2 * SEGMENT_BYTES {
                    let oldest = journal.segments().await.unwrap()[0].number;
                    journal.remove_segments(vec![oldest]).await;
                }
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
}

/// Prints the journal's speed alongside the plain writer's: `each` sets an append, `at_once` appends at a time.
fn compare_append(runtime: &tokio::runtime::Runtime, each: usize, at_once: usize, appends: usize) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let sets = Arc::new(sets(128));
    let round_bytes = raw_bytes(&sets) * each / sets.len() * appends;
    let plain_bytes = vec![b'x'; round_bytes];
    let mut journal = Journal::open(RealFiles, options(folder.path())).unwrap();
    let syncs = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&syncs);
    journal.observe_syncs(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let journal = JournalHandle::start(journal).unwrap();
    let mut plain = Plain::new(folder.path());
    let (mut of_journal, mut of_plain, mut all_syncs) = (Duration::ZERO, Duration::ZERO, 0);
    for round in 0..=ROUNDS {
        // What is appended at once after a pause is compressed more than what comes without one.
        let warm = Instant::now();
        while warm.elapsed() < WARM_UP {
            runtime.block_on(append_all(&journal, &sets, appends / 8, at_once, each));
        }
        syncs.store(0, Ordering::Relaxed);
        let start = Instant::now();
        runtime.block_on(append_all(&journal, &sets, appends, at_once, each));
        let journal_took = start.elapsed();
        let round_syncs = syncs.load(Ordering::Relaxed);
        let start = Instant::now();
        plain_bytes.chunks(round_bytes.div_ceil(round_syncs)).for_each(|piece| plain.append(piece));
        let plain_took = start.elapsed();
        // The first round warms up.
        if round > 0 {
            of_journal += journal_took;
            of_plain += plain_took;
            all_syncs += round_syncs;
        }
    }
    let records = runtime.block_on(journal.records()).unwrap();
    let on_disk = records.iter().map(|r| r.bytes()).sum::<u64>() as f64
        / records.iter().map(|r| u64::from(r.messages)).sum::<u64>() as f64;
    let a_message = raw_bytes(&sets) as f64 / sets.iter().map(MessageSet::len).sum::<usize>() as f64;
    runtime.block_on(journal.close());
    let total = (round_bytes * ROUNDS) as f64;
    let rate = |took: Duration| total / took.as_secs_f64() / 1e6;
    println!(
        "journal append: {:.0} MB/s, plain {:.0} MB/s, ratio {:.2} ({each} x 128 KiB an append, {at_once} at a time, \
         {:.0} KB a fdatasync; {:.0} % of the bytes on disk)",
        rate(of_journal),
        rate(of_plain),
        rate(of_journal) / rate(of_plain),
        total / all_syncs as f64 / 1e3,
        on_disk / a_message * 100.0
    );
}

fn compare() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for (each, at_once, appends) in [(1, 1, 1024), (1, 2, 1024), (16, 1, 128), (16, 2, 128), (64, 1, 32), (64, 2, 32)] {
        compare_append(&runtime, each, at_once, appends);
    }
}

/// The bytes of a large journal: `journal.max_bytes` by default.
const LARGE_BYTES: u64 = 10 << 30;
/// Names a journal to a process of this program that only opens it.
const OPEN: &str = "SERIES_INGEST_BENCH_OPEN";

/// Sets that are not neighbours, so that each becomes a record, as large as a set of [`SET_BYTES`] when it is compressed.
fn noise(count: usize) -> Vec<MessageSet> {
    let mut state = 1u64;
    let mut payload = vec![0; SET_BYTES / 3];
    let one = |number: usize| {
        payload.fill_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        });
        let mut builder = MessageSetBuilder::new(source(), (number % PARTITIONS) as i32, number as i64 * 10);
        let message =
            RawMessage { offset: builder.until(), time_ms: Some(1), payload: Some(&payload), ..RawMessage::default() };
        builder.push(&message);
        builder.build(None)
    };
    (0..count).map(one).collect()
}

/// A field of a file of /proc, in its unit.
fn proc_field(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/{file}")).unwrap();
    let rest = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

/// What a worker does with its journal before anything else: it opens it, and asks for all records.
fn open_large(directory: &Path) {
    let before = proc_field("io", "rchar:");
    let start = Instant::now();
    let journal = Journal::open(RealFiles, options(directory)).unwrap();
    let records: Vec<_> = journal.records().cloned().collect();
    println!(
        "journal start-up: {:.2} GB in {} records of {} bytes in memory, {} MiB resident at the peak, {:.1} MB read, {:.2} s",
        journal.usage().bytes as f64 / 1e9,
        records.len(),
        size_of_val(&records[0]),
        proc_field("status", "VmHWM:") / 1024,
        (proc_field("io", "rchar:") - before) as f64 / 1e6,
        start.elapsed().as_secs_f64()
    );
}

/// Reads all segments from front to back.
fn read_plainly(directory: &Path) -> u64 {
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let file = File::open(entry.unwrap().path()).unwrap();
        let mut position = 0;
        while let read @ 1.. = file.read_at(&mut buffer, position).unwrap() {
            position += read as u64;
        }
        total += position;
    }
    total
}

/// Asks the system to forget the files' pages. The disk's own cache may still have them.
fn forget_pages(directory: &Path) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let file = File::open(entry.unwrap().path()).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
}

/// Opens and verifies a journal of 10 GiB.
fn measure_large() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let disk = rustix::fs::statvfs(folder.path()).unwrap();
    if disk.f_bavail * disk.f_frsize < LARGE_BYTES + (2 << 30) {
        println!(
            "journal start-up and verify: skipped: 12 GiB of free space are needed in {}",
            env!("CARGO_TARGET_TMPDIR")
        );
        return;
    }
    let directory = options(folder.path()).directory;
    let mut journal = Journal::open(RealFiles, options(folder.path())).unwrap();
    let sets = noise(180);
    while journal.usage().bytes < LARGE_BYTES {
        journal.append(&sets).unwrap();
    }
    drop(journal);
    let this = std::env::current_exe().unwrap();
    assert!(std::process::Command::new(this).env(OPEN, folder.path()).status().unwrap().success());

    let inspection = Inspection::open(RealFiles, &directory).unwrap();
    for (cache, is_cold) in [("the files' pages forgotten before", true), ("right after that", false)] {
        let timed = |f: &dyn Fn() -> u64| {
            if is_cold {
                forget_pages(&directory);
            }
            let start = Instant::now();
            f() as f64 / start.elapsed().as_secs_f64() / 1e6
        };
        let plain = timed(&|| read_plainly(&directory));
        let verify = timed(&|| {
            assert_eq!(inspection.verify(|_| {}), []);
            inspection.bytes()
        });
        println!(
            "journal verify: {verify:.0} MB/s, plain sequential read {plain:.0} MB/s, ratio {:.2} (1 MiB a read at both, {cache})",
            verify / plain
        );
    }
}

fn read(c: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut journal = Journal::open(RealFiles, options(folder.path())).unwrap();
    let sets = sets(64);
    for _ in 0..16 {
        journal.append(&sets).unwrap();
    }
    let records: Vec<_> = journal.records().cloned().collect();
    let mut group = c.benchmark_group("journal read");
    group.throughput(Throughput::Bytes(SET_BYTES as u64));
    let mut next = 0;
    group.bench_function("one set of 128 KiB, in order", |b| {
        b.iter(|| {
            next += 1;
            journal.read(&records[next % records.len()]).unwrap()
        });
    });
    let inspection = Inspection::open(RealFiles, &options(folder.path()).directory).unwrap();
    group.throughput(Throughput::Bytes(inspection.bytes()));
    group.bench_function("verify, bytes on disk", |b| b.iter(|| inspection.verify(|_| {})));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4));
    targets = read
}

fn main() {
    if let Some(directory) = std::env::var_os(OPEN) {
        return open_large(Path::new(&directory));
    }
    // Not where cargo only tests that it runs.
    if std::env::args().any(|argument| argument == "--bench") {
        compare();
        measure_large();
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
