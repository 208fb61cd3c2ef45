//! Reads a file, and makes a native message of each of its rows. docs/importing.md has what a file may be.
//!
//! - [`content`]: the file as it is stored: its hash, its format, its bytes.
//! - `metadata`: definitions of series, and what pandas adds.
//! - `fields`: the columns of a file; `layout`: which of them are times, names and values.
//! - `encode`: a row as messages; `json`: the parts of a message as JSON.
//! - `text`: what CSV and JSON lines are read from; `csv`, `lines`: each of them.
//! - `arrow`: the rows of a record batch; `parquet`, `ipc`: where record batches come from; `blocks`: the messages of an Arrow
//!   file, checked; `foreign`: libraries that may panic.
//! - [`table`]: all of these together; [`points`]: a file of the long form, point by point.
//!
//! A row has a number, which counts the rows of data from 1. A row of many columns is several messages: see [`partition_of`].

mod arrow;
mod blocks;
pub mod content;
mod csv;
mod encode;
mod error;
mod fields;
mod foreign;
mod ipc;
mod json;
mod layout;
mod lines;
mod metadata;
mod options;
mod parquet;
pub mod points;
pub mod table;
#[cfg(test)]
mod tests;
mod text;

pub use error::ReadError;
pub use options::ReadOptions;

/// The partition of the definitions that a file has.
pub const DEFINITIONS: i32 = 1;

/// The number of the first row.
pub const FIRST_ROW: i64 = 1;

/// The partition in which a row's messages with this group of columns stand: the first one has 0, and [`DEFINITIONS`] is none
/// of them.
pub fn partition_of(group: usize) -> i32 {
    // A file has fewer groups than columns.
    let group = i32::try_from(group).unwrap_or(i32::MAX - 1);
    if group < DEFINITIONS { group } else { group + 1 }
}

/// Takes the messages of a file's rows, in the order of rows.
pub trait Rows {
    /// Returns `true` if the message of this row in this partition is wanted. It is asked for each row, one after the other.
    fn wants(&mut self, row: i64, partition: i32) -> bool;

    /// The message of this row in this partition, and the number of its points.
    fn put(&mut self, row: i64, partition: i32, payload: &[u8], points: usize);

    /// All messages of this row and of those before it, in these groups of columns, were put.
    ///
    /// # Errors
    /// If no more rows are wanted.
    fn end_row(&mut self, row: i64, groups: std::ops::Range<usize>) -> Result<(), ReadError>;

    /// All rows of these groups were put: the last one has this number, and is 0 if there is none.
    ///
    /// # Errors
    /// If no more rows are wanted.
    fn end(&mut self, last: i64, groups: std::ops::Range<usize>) -> Result<(), ReadError>;

    /// The first row that may be wanted in these groups; those before it need not be read.
    fn first_wanted(&self, groups: std::ops::Range<usize>) -> i64;
}
