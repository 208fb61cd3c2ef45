//! What the journal adds to a disk: append and fdatasync of sets of 128 KiB, beside a plain writer with the same number of
//! fdatasyncs. Where the disk is: `CARGO_TARGET_DIR`.
#![allow(missing_docs, reason = "criterion's macros make items without documentation")]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use series_ingest::batch::{MessageSet, MessageSetBuilder, RawMessage, Source};
use series_ingest::journal::{Inspection, Journal, Options, RealFiles};
use series_ingest::message::Kind;

const SET_BYTES: usize = 128 * 1024;
const SEGMENT_BYTES: u64 = 64 << 20;

/// Messages as sensors send them: JSON with digits that differ.
fn set(from: i64) -> MessageSet {
    let source = Arc::new(Source {
        kind: Kind::Points,
        cluster_id: "bench".to_owned(),
        topic: "time-series.points".to_owned(),
        topic_id: "AAAAAAAAAAAAAAAAAAAAAA".to_owned(),
    });
    let mut builder = MessageSetBuilder::new(source, 0, from);
    let (mut bytes, mut state) = (0, from.unsigned_abs() | 1);
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

/// A file that is written from front to back, allocated ahead like a segment; then from the front again.
struct Plain {
    file: File,
    position: u64,
}

impl Plain {
    fn new(directory: &Path) -> Self {
        let path = directory.join("plain");
        let file = OpenOptions::new().create(true).truncate(true).write(true).open(path).unwrap();
        let mut plain = Self { file, position: 0 };
        plain.begin();
        plain
    }

    fn begin(&mut self) {
        self.file.set_len(0).unwrap();
        rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, SEGMENT_BYTES).unwrap();
        self.file.sync_data().unwrap();
        self.position = 0;
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.position + bytes.len() as u64 > SEGMENT_BYTES {
            self.begin();
        }
        self.file.write_all_at(bytes, self.position).unwrap();
        self.file.sync_data().unwrap();
        self.position += bytes.len() as u64;
    }
}

fn append(c: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let sets: Vec<MessageSet> = (0..64).map(|number| set(number * 10_000)).collect();
    let plain_set = vec![b'x'; SET_BYTES];
    let mut group = c.benchmark_group("journal append");
    // Alternately more and less per fdatasync: one set, and sixteen that waited together.
    for together in [1, 16] {
        group.throughput(Throughput::Bytes((together * SET_BYTES) as u64));
        group.bench_function(format!("plain writer, {together} x 128 KiB a sync"), |b| {
            let mut plain = Plain::new(folder.path());
            let bytes = plain_set.repeat(together);
            b.iter(|| plain.append(&bytes));
        });
        group.bench_function(format!("journal, {together} x 128 KiB a sync"), |b| {
            let mut journal = Journal::open(RealFiles, options(folder.path())).unwrap();
            let mut next = 0;
            b.iter(|| {
                let at = next % (sets.len() - together + 1);
                journal.append(&sets[at..at + together]).unwrap();
                next += together;
                // As the worker does once the database has them; the plain writer's file does not grow either.
                let segments = journal.segments();
                if segments.len() > 2 {
                    journal.remove_segment(segments[0].number).unwrap();
                }
            });
        });
    }
    group.finish();
}

fn read(c: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut journal = Journal::open(RealFiles, options(folder.path())).unwrap();
    let sets: Vec<MessageSet> = (0..64).map(|number| set(number * 10_000)).collect();
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
    targets = append, read
}
criterion_main!(benches);
