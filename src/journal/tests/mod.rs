//! Tests of the journal: the same code on a file system that forgets, fails and lies, and on the real one.

mod codec;
mod crash;
mod damage;
mod fault_files;
mod faults;
mod handle;
mod lost;
mod model;
#[cfg(feature = "planted-bugs")]
mod planted;
mod real;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Files, Journal, Options, Record};
use crate::raw::Kind;
use crate::raw::{MessageSet, MessageSetBuilder, RawMessage, Source};
use fault_files::FaultFiles;

/// The seed of a random test, from the environment's `SEED` or a new one; printed, so that a failure can be replayed.
fn seed() -> u64 {
    let seed = std::env::var("SEED").ok().map_or_else(rand::random, |seed| seed.parse().expect("SEED is a number"));
    println!("SEED={seed}");
    seed
}

/// Segments small enough that a few records fill one.
const SEGMENT_BYTES: u64 = 2048;

fn options() -> Options {
    Options {
        directory: PathBuf::from("/journal"),
        segment_bytes: SEGMENT_BYTES,
        max_bytes: 1 << 30,
        min_free_bytes: 0,
    }
}

fn open(files: &FaultFiles) -> Journal<FaultFiles> {
    Journal::open(files.clone(), options()).expect("the journal opens")
}

fn source(number: usize) -> Arc<Source> {
    Arc::new(Source {
        kind: if number.is_multiple_of(2) { Kind::Points } else { Kind::Series },
        cluster_id: "cluster".to_owned(),
        topic: format!("topic-{number}"),
        topic_id: "AAAAAAAAAAAAAAAAAAAAAA".to_owned(),
    })
}

/// Makes message sets, each with its own interval.
struct Sets {
    rng: StdRng,
    next: i64,
    /// The largest payload, in bytes.
    payload: usize,
}

impl Sets {
    fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), next: 0, payload: 300 }
    }

    fn one(&mut self) -> MessageSet {
        let rng = &mut self.rng;
        let mut builder = MessageSetBuilder::new(source(rng.random_range(0..2)), rng.random_range(0..3), self.next);
        for _ in 0..rng.random_range(0..4) {
            let offset = builder.until() + rng.random_range(0..3);
            let length = rng.random_range(0..=self.payload);
            // Text that compresses, and noise that does not.
            let payload: Vec<u8> = match rng.random_bool(0.5) {
                true => vec![b'x'; length],
                false => (0..length).map(|_| rng.random()).collect(),
            };
            builder.push(&RawMessage {
                offset,
                time_ms: rng.random_bool(0.8).then(|| rng.random_range(0..2_000_000_000_000)),
                key: rng.random_bool(0.5).then_some(b"key".as_slice()),
                payload: rng.random_bool(0.9).then_some(payload.as_slice()),
                headers: rng.random_bool(0.3).then_some(b"headers".as_slice()),
            });
        }
        builder.extend_to(builder.until() + 1);
        self.next = builder.until();
        builder.build(None)
    }

    fn some(&mut self) -> Vec<MessageSet> {
        (0..self.rng.random_range(1..4)).map(|_| self.one()).collect()
    }
}

type PlainMessage = (i64, Option<i64>, [Option<Vec<u8>>; 3]);

/// A message set by value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Plain {
    source: Source,
    partition: i32,
    from: i64,
    until: i64,
    messages: Vec<PlainMessage>,
}

impl Plain {
    fn of(set: &MessageSet) -> Self {
        let interval = set.interval();
        let part = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        Self {
            source: Source::clone(set.source()),
            partition: interval.partition.number,
            from: interval.from,
            until: interval.until,
            messages: set.messages().map(|m| (m.offset, m.time_ms, [m.key, m.payload, m.headers].map(part))).collect(),
        }
    }

    /// Returns `true` if it is the record's. Each set in these tests has its own interval.
    fn is(&self, record: &Record) -> bool {
        (self.partition, self.from, self.until) == (record.partition.number, record.from, record.until)
    }

    fn all(sets: &[MessageSet]) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for set in sets.iter().map(Self::of) {
            let is_same = |other: &&mut Self| (&other.source, other.partition) == (&set.source, set.partition);
            match all.iter_mut().rev().find(is_same) {
                Some(last) if last.until == set.from => {
                    last.until = set.until;
                    last.messages.extend(set.messages);
                }
                _ => all.push(set),
            }
        }
        all
    }
}

/// What the journal delivers, in its order; damaged records are omitted.
fn delivered<F: Files>(journal: &mut Journal<F>) -> Vec<Plain> {
    let records: Vec<_> = journal.records().cloned().collect();
    records
        .iter()
        .filter_map(|record| {
            let plain = Plain::of(&journal.read(record).ok()?);
            assert_eq!((plain.from, plain.until), (record.from, record.until));
            Some(plain)
        })
        .collect()
}

/// What a workload did.
#[derive(Debug, Clone, Default)]
struct Log {
    /// Sets whose append said `Ok`, and whose segment nobody removed.
    acknowledged: BTreeSet<Plain>,
    /// All sets that were ever given to an append.
    attempted: BTreeSet<Plain>,
}

impl Log {
    /// Appends and records the result.
    fn append<F: Files>(&mut self, journal: &mut Journal<F>, sets: &[MessageSet]) -> bool {
        self.attempted.extend(Plain::all(sets));
        let is_acknowledged = journal.append(sets).is_ok();
        if is_acknowledged {
            self.acknowledged.extend(Plain::all(sets));
        }
        is_acknowledged
    }

    /// The records of a segment may be removed; returns them.
    fn release<F: Files>(&mut self, journal: &Journal<F>, segment: u64) -> Vec<Record> {
        let records: Vec<Record> = journal.records().filter(|record| record.segment == segment).cloned().collect();
        self.acknowledged.retain(|set| !records.iter().any(|record| set.is(record)));
        records
    }

    /// The checker: acknowledged sets are there, byte by byte, and nothing is there that was not appended.
    fn check<F: Files>(&self, journal: &mut Journal<F>) -> Result<(), String> {
        let delivered: BTreeSet<Plain> = delivered(journal).into_iter().collect();
        if let Some(lost) = self.acknowledged.difference(&delivered).next() {
            return Err(format!("lost {lost:?}; damage: {:?}", journal.damage()));
        }
        if let Some(invented) = delivered.difference(&self.attempted).next() {
            return Err(format!("invented {invented:?}"));
        }
        Ok(())
    }
}

/// The bytes of each record, by segment: position, end.
fn extents<F: Files>(journal: &Journal<F>) -> BTreeMap<u64, Vec<(u64, u64)>> {
    let mut extents: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
    for record in journal.records() {
        extents.entry(record.segment).or_default().push((record.position, record.position + record.bytes()));
    }
    extents
}
