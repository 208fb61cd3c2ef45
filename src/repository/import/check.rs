//! What a file has: all of its rows are read and decoded, and nothing is written.

use std::sync::Arc;

use super::assemble::{Assembler, Bounds, Chunk};
use crate::batch::Batch;
use crate::files::read::table::Table;
use crate::files::read::{FIRST_ROW, ReadError};
use crate::input::Decoder;
use crate::message::Rejected;
use crate::raw::{FILE_CLUSTER, Kind, Source};

/// Maximum number of rejected rows that are named.
const NAMED: usize = 10;
/// How much is decoded at a time.
const CHUNK_POINTS: usize = 100_000;
const CHUNK_BYTES: usize = 8 * 1024 * 1024;

/// What a file has.
#[derive(Debug, Default)]
pub struct Checked {
    /// The rows that were read.
    pub rows: i64,
    /// The points of those that are not rejected.
    pub points: usize,
    /// The first time, in microseconds since the Unix epoch.
    pub first_us: Option<i64>,
    /// The last time.
    pub last_us: Option<i64>,
    /// The messages that would be rejected.
    pub rejected: usize,
    /// The first of them: the numbers of their rows, and why.
    pub named: Vec<(i64, Rejected)>,
}

impl Checked {
    /// Returns `true` if there are rows, and none that could be stored.
    pub fn is_all_rejected(&self) -> bool {
        self.rejected > 0 && self.points == 0
    }

    fn add(&mut self, batch: &Batch) {
        let points = batch.points();
        self.points += points.len();
        for point in 0..points.len() {
            let time = points.time_of(point);
            self.first_us = Some(self.first_us.map_or(time, |first| first.min(time)));
            self.last_us = Some(self.last_us.map_or(time, |last| last.max(time)));
        }
        self.rejected += batch.dead_letters().len();
        for letter in batch.dead_letters().iter().take(NAMED - self.named.len()) {
            self.named.push((letter.at.offset, letter.rejected.clone()));
        }
    }
}

/// Reads a file, or its rows up to `last_row`, and decodes them. What was read before a failure is counted, too.
pub fn check(table: &Table, decoder: &Decoder, last_row: Option<i64>) -> (Checked, Result<(), ReadError>) {
    let source = Source {
        kind: Kind::Points,
        cluster_id: FILE_CLUSTER.to_owned(),
        topic: table.content().path().display().to_string(),
        topic_id: String::new(),
    };
    let mut checked = Checked::default();
    let decode = |chunk: Chunk, checked: &mut Checked| {
        let mut batch = Batch::new(decoder.clone());
        for set in chunk.sets {
            batch.push(set);
        }
        checked.add(&batch);
    };
    let missing = vec![vec![(FIRST_ROW, i64::MAX)]; table.groups()];
    let bounds = Bounds { max_points: CHUNK_POINTS, max_bytes: CHUNK_BYTES, time_ms: None, last_row, budget: None };
    let mut assembler = Assembler::new(&Arc::new(source), missing, bounds, |chunk| {
        decode(chunk, &mut checked);
        Ok(())
    });
    let read = table.read(&mut assembler);
    let (rows, _) = assembler.rows();
    if let Some(rest) = assembler.into_rest() {
        decode(rest, &mut checked);
    }
    checked.rows = rows;
    let result = match read {
        Err(ReadError::Stopped) => Ok(()),
        other => other,
    };
    (checked, result)
}
