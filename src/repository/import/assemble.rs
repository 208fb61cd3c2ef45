//! The messages of rows as message sets, of those rows that the database lacks.

use std::ops::Range;
use std::sync::Arc;

use crate::files::read::{DEFINITIONS, FIRST_ROW, ReadError, Rows, partition_of};
use crate::raw::{Budget, MessageSet, MessageSetBuilder, Partition, RawMessage, Source};

/// What a message takes in a set besides its bytes.
const MESSAGE_BYTES: usize = 48;

/// What one transaction is to write.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) sets: Vec<MessageSet>,
}

/// When a chunk is full, and what its messages have.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    pub(super) max_points: usize,
    pub(super) max_bytes: usize,
    /// The time of all messages.
    pub(super) time_ms: Option<i64>,
    /// The row after which no more are wanted.
    pub(super) last_row: Option<i64>,
    /// What the messages are charged to.
    pub(super) budget: Option<Budget>,
}

/// Collects the messages of a file's rows, and hands them on chunk by chunk.
pub(super) struct Assembler<F> {
    bounds: Bounds,
    /// One for each group of columns.
    lanes: Vec<Lane>,
    hand_on: F,
    sets: Vec<MessageSet>,
    points: usize,
    bytes: usize,
    /// The rows of the first group that were wanted.
    wanted: i64,
    last: i64,
}

/// The messages of a partition.
#[derive(Debug)]
struct Lane {
    partition: Partition,
    /// The intervals of rows that are missing, in their order; those that have passed are gone.
    missing: std::collections::VecDeque<(i64, i64)>,
    builder: Option<MessageSetBuilder>,
}

impl<F: FnMut(Chunk) -> Result<(), ReadError>> Assembler<F> {
    /// An assembler for the rows of a source; these intervals of them are missing in each group of columns.
    pub(super) fn new(source: &Arc<Source>, missing: Vec<Vec<(i64, i64)>>, bounds: Bounds, hand_on: F) -> Self {
        let lane = |(group, missing): (usize, Vec<(i64, i64)>)| Lane {
            partition: Partition::new(Arc::clone(source), partition_of(group)),
            missing: missing.into(),
            builder: None,
        };
        let lanes = missing.into_iter().enumerate().map(lane).collect();
        Self { bounds, lanes, hand_on, sets: Vec::new(), points: 0, bytes: 0, wanted: 0, last: 0 }
    }

    /// The rows that were read, and how many of them the database had.
    pub(super) fn rows(&self) -> (i64, i64) {
        (self.last, self.last - self.wanted)
    }

    /// Hands on what was put of the rows below `until`.
    fn flush(&mut self, until: i64, groups: Range<usize>) -> Result<(), ReadError> {
        for lane in &mut self.lanes[groups] {
            lane.close(until, self.bounds.budget.as_ref(), &mut self.sets);
        }
        (self.points, self.bytes) = (0, 0);
        let sets = std::mem::take(&mut self.sets);
        if sets.is_empty() { Ok(()) } else { (self.hand_on)(Chunk { sets }) }
    }
}

impl<F> Assembler<F> {
    /// Hands what was put so far on, also of a file that cannot be read to its end.
    pub(super) fn into_rest(mut self) -> Option<Chunk> {
        let until = self.last + 1;
        for lane in &mut self.lanes {
            // Of the last row a message may be missing.
            let reached = lane.builder.as_ref().map_or(until, MessageSetBuilder::until);
            lane.close(reached.min(until), self.bounds.budget.as_ref(), &mut self.sets);
        }
        (!self.sets.is_empty()).then_some(Chunk { sets: self.sets })
    }
}

impl Lane {
    /// Ends the set at this row, or before it where what is missing ends.
    fn close(&mut self, until: i64, budget: Option<&Budget>, sets: &mut Vec<MessageSet>) {
        let Some(mut builder) = self.builder.take() else { return };
        builder.extend_to(self.missing.front().map_or(until, |(_, end)| until.min(*end)));
        if !builder.is_empty() {
            sets.push(builder.build(budget));
        }
    }
}

/// The number of a partition's group.
fn group_of(partition: i32) -> usize {
    usize::try_from(if partition > DEFINITIONS { partition - 1 } else { partition }).unwrap_or(0)
}

impl<F: FnMut(Chunk) -> Result<(), ReadError>> Rows for Assembler<F> {
    fn wants(&mut self, row: i64, partition: i32) -> bool {
        let group = group_of(partition);
        let Some(lane) = self.lanes.get_mut(group) else { return false };
        while lane.missing.front().is_some_and(|(_, until)| *until <= row) {
            lane.close(row, self.bounds.budget.as_ref(), &mut self.sets);
            lane.missing.pop_front();
        }
        let is_missing = lane.missing.front().is_some_and(|(from, _)| *from <= row);
        if is_missing {
            lane.builder.get_or_insert_with(|| MessageSetBuilder::of(lane.partition.clone(), row));
            self.wanted += i64::from(group == 0);
        }
        is_missing
    }

    fn put(&mut self, row: i64, partition: i32, payload: &[u8], points: usize) {
        let message =
            RawMessage { offset: row, time_ms: self.bounds.time_ms, payload: Some(payload), ..RawMessage::default() };
        let lane = self.lanes.get_mut(group_of(partition));
        #[cfg(feature = "planted-bugs")]
        if row % 1000 == 0 && crate::planted_bugs::is_on("import-loses-a-row") {
            return;
        }
        if let Some(builder) = lane.and_then(|lane| lane.builder.as_mut()) {
            builder.push(&message);
            self.points += points;
            self.bytes += payload.len() + MESSAGE_BYTES;
        }
    }

    fn end_row(&mut self, row: i64, groups: Range<usize>) -> Result<(), ReadError> {
        self.last = self.last.max(row);
        let is_last = self.bounds.last_row.is_some_and(|last| row >= last);
        if is_last || self.points >= self.bounds.max_points || self.bytes >= self.bounds.max_bytes {
            self.flush(row + 1, groups)?;
        }
        if is_last { Err(ReadError::Stopped) } else { Ok(()) }
    }

    fn end(&mut self, last: i64, groups: Range<usize>) -> Result<(), ReadError> {
        self.last = self.last.max(last);
        self.flush(last + 1, groups)
    }

    fn first_wanted(&self, groups: Range<usize>) -> i64 {
        let firsts = self.lanes[groups].iter().map(|lane| lane.missing.front().map_or(i64::MAX, |(from, _)| *from));
        firsts.min().unwrap_or(FIRST_ROW).max(FIRST_ROW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::{FILE_CLUSTER, Kind};

    const BOUNDS: Bounds = Bounds { max_points: 3, max_bytes: 1 << 20, time_ms: Some(5), last_row: None, budget: None };

    fn source() -> Arc<Source> {
        let (topic, topic_id) = ("f.csv".to_owned(), "id".to_owned());
        Arc::new(Source { kind: Kind::Points, cluster_id: FILE_CLUSTER.to_owned(), topic, topic_id })
    }

    /// Partition, interval and offsets of a set.
    type Shown = (i32, i64, i64, Vec<i64>);

    fn assembled(missing: Vec<Vec<(i64, i64)>>, rows: i64, unreadable: &[i64]) -> (Vec<Vec<Shown>>, (i64, i64)) {
        let groups = 0..missing.len();
        let mut chunks = Vec::new();
        let hand_on = |chunk: Chunk| {
            let shown = |set: &MessageSet| {
                let interval = set.interval();
                assert!(set.messages().all(|message| message.time_ms == Some(5)));
                let offsets = set.messages().map(|message| message.offset).collect();
                (interval.partition.number, interval.from, interval.until, offsets)
            };
            chunks.push(chunk.sets.iter().map(shown).collect());
            Ok(())
        };
        let mut assembler = Assembler::new(&source(), missing, BOUNDS, hand_on);
        for row in 1..=rows {
            for group in groups.clone() {
                let partition = partition_of(group);
                if assembler.wants(row, partition) && (group == 0 || !unreadable.contains(&row)) {
                    assembler.put(row, partition, b"{}", 1);
                }
            }
            assembler.end_row(row, groups.clone()).unwrap();
        }
        assembler.end(rows, groups).unwrap();
        let rows = assembler.rows();
        (chunks, rows)
    }

    #[test]
    fn sets_have_just_the_rows_that_are_missing() {
        let (chunks, rows) = assembled(vec![vec![(2, 4), (6, i64::MAX)]], 9, &[]);
        assert_eq!(chunks, [vec![(0, 2, 4, vec![2, 3]), (0, 6, 7, vec![6])], vec![(0, 7, 10, vec![7, 8, 9])]]);
        assert_eq!(rows, (9, 3));
        assert_eq!(assembled(vec![vec![(1, 1), (20, i64::MAX)]], 9, &[]), (vec![], (9, 9)));
    }

    #[test]
    fn rows_without_a_message_are_covered_in_each_group() {
        let all = vec![(1, i64::MAX)];
        let (chunks, _) = assembled(vec![all.clone(), all], 2, &[2]);
        assert_eq!(chunks, [vec![(0, 1, 3, vec![1, 2]), (2, 1, 3, vec![1])]]);
    }

    #[test]
    fn what_was_put_before_a_failure_is_the_rest() {
        let never = |_: Chunk| -> Result<(), ReadError> { panic!("nothing is full") };
        let mut assembler = Assembler::new(&source(), vec![vec![(1, i64::MAX)]], BOUNDS, never);
        for row in 1..=2 {
            assert!(assembler.wants(row, 0));
            assembler.put(row, 0, b"{}", 1);
            assembler.end_row(row, 0..1).unwrap();
        }
        let rest = assembler.into_rest().unwrap();
        assert_eq!(rest.sets[0].interval().until, 3);
    }
}
