//! What the rows of a unit are, whether the server or a file gives them: their number, and a hash of all in their order.

use sha2::{Digest as _, Sha256};

use crate::files::hex;
use crate::files::read::points::Point;

/// Maximum number of bytes that are hashed at a time.
const BLOCK_BYTES: usize = 64 * 1024;

/// What the rows are so far.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Their number.
    pub(super) rows: u64,
    /// The number of series.
    pub(super) series: u64,
    /// The number of columns of all series.
    pub(super) columns: u64,
    /// The first and the last time, in microseconds since the Unix epoch.
    pub(super) times: Option<(i64, i64)>,
    last: Option<(String, String)>,
    hasher: Sha256,
    block: Vec<u8>,
}

impl Contents {
    /// Adds a row; they come by series and column.
    pub(super) fn add(&mut self, point: &Point<'_>) {
        self.rows += 1;
        let is_new_series = self.last.as_ref().is_none_or(|(series, _)| series != point.series);
        if is_new_series || self.last.as_ref().is_none_or(|(_, column)| column != point.column) {
            self.series += u64::from(is_new_series);
            self.columns += 1;
            self.last = Some((point.series.to_owned(), point.column.to_owned()));
        }
        let (first, last) = self.times.unwrap_or((point.time_us, point.time_us));
        self.times = Some((first.min(point.time_us), last.max(point.time_us)));
        for text in [point.series, point.column] {
            self.block.extend_from_slice(&(text.len() as u64).to_le_bytes());
            self.block.extend_from_slice(text.as_bytes());
        }
        self.block.extend_from_slice(&point.time_us.to_le_bytes());
        self.block.push(u8::from(point.value.is_some()));
        self.block.extend_from_slice(&point.value.map_or(0, f64::to_bits).to_le_bytes());
        if self.block.len() >= BLOCK_BYTES {
            self.hasher.update(&self.block);
            self.block.clear();
        }
    }

    /// The SHA-256 of all rows, in hexadecimal.
    pub(super) fn hash(&self) -> String {
        let mut hasher = self.hasher.clone();
        hasher.update(&self.block);
        hex(&hasher.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(points: &[(&str, &str, i64, Option<f64>)]) -> String {
        let mut contents = Contents::default();
        for (series, column, time_us, value) in points {
            contents.add(&Point { series, column, time_us: *time_us, value: *value });
        }
        contents.hash()
    }

    #[test]
    fn every_part_of_a_row_counts() {
        let one = hash(&[("a", "b", 1, Some(0.0))]);
        for other in [
            ("ab", "", 1, Some(0.0)),
            ("", "ab", 1, Some(0.0)),
            ("a", "b", 2, Some(0.0)),
            ("a", "b", 1, Some(-0.0)),
            ("a", "b", 1, None),
        ] {
            assert_ne!(hash(&[other]), one, "{other:?}");
        }
        assert_ne!(hash(&[("a", "b", 1, Some(0.0)); 2]), one);
        assert_eq!(hash(&[("a", "b", 1, Some(0.0))]), one);
    }

    #[test]
    fn series_and_columns_are_counted() {
        let mut contents = Contents::default();
        for (series, column, time_us) in [("a", "x", 5), ("a", "x", 6), ("a", "y", 1), ("b", "y", 2), ("b", "z", 9)] {
            contents.add(&Point { series, column, time_us, value: None });
        }
        assert_eq!((contents.rows, contents.series, contents.columns), (5, 2, 4));
        assert_eq!(contents.times, Some((1, 9)));
    }
}
