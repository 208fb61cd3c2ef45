//! The points of a Parquet file of the long form, as this program writes it, one after the other.

use std::cmp::Ordering;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Float64Type, TimestampMicrosecondType};
use arrow_array::{Array as _, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::ReadError;
use super::content::Content;

/// Maximum number of rows in memory.
const BATCH_ROWS: usize = 8192;

/// A point of a file.
#[derive(Debug, Clone, Copy)]
pub struct Point<'a> {
    /// The id of its series.
    pub series: &'a str,
    /// The name of its column.
    pub column: &'a str,
    /// Its time, in microseconds since the Unix epoch.
    pub time_us: i64,
    /// Its value; `None` is NULL.
    pub value: Option<f64>,
}

impl Point<'_> {
    /// The order of points by series, column, time and the bits of the value, a point without one last.
    pub fn order(&self, other: &Point<'_>) -> Ordering {
        let value = |point: &Point<'_>| (point.value.is_none(), point.value.map(f64::to_bits));
        (self.series.as_bytes(), self.column.as_bytes(), self.time_us)
            .cmp(&(other.series.as_bytes(), other.column.as_bytes(), other.time_us))
            .then_with(|| value(self).cmp(&value(other)))
    }
}

/// Some rows of a file.
#[derive(Debug)]
struct Rows {
    series: StringArray,
    times: TimestampMicrosecondArray,
    columns: StringArray,
    values: Float64Array,
}

impl Rows {
    fn of(batch: &RecordBatch) -> Option<Self> {
        let [series, times, columns, values] = batch.columns() else { return None };
        let rows = Self {
            series: series.as_string_opt::<i32>()?.clone(),
            times: times.as_primitive_opt::<TimestampMicrosecondType>()?.clone(),
            columns: columns.as_string_opt::<i32>()?.clone(),
            values: values.as_primitive_opt::<Float64Type>()?.clone(),
        };
        let nulls = rows.series.null_count() + rows.times.null_count() + rows.columns.null_count();
        (nulls == 0).then_some(rows)
    }
}

/// The points of a file, in the order of its rows.
pub struct PointFile {
    content: Content,
    reader: ParquetRecordBatchReader,
    rows: Option<Rows>,
    row: usize,
    /// The number of rows before the current ones.
    before: i64,
}

impl std::fmt::Debug for PointFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PointFile").field("path", &self.content.path()).finish_non_exhaustive()
    }
}

impl PointFile {
    /// Opens a file, before its first point.
    ///
    /// # Errors
    /// If it is not Parquet.
    pub fn open(content: &Content) -> Result<Self, ReadError> {
        let damaged = |error: &dyn std::fmt::Display| ReadError::damaged(content.path(), 0, error);
        let builder = ParquetRecordBatchReaderBuilder::try_new(content.clone()).map_err(|error| damaged(&error))?;
        let reader = builder.with_batch_size(BATCH_ROWS).build().map_err(|error| damaged(&error))?;
        Ok(Self { content: content.clone(), reader, rows: None, row: 0, before: 0 })
    }

    /// Goes on to the next point; `false` if there is none.
    ///
    /// # Errors
    /// If the file is damaged, or its rows are not points.
    pub fn advance(&mut self) -> Result<bool, ReadError> {
        self.row += 1;
        while self.rows.as_ref().is_none_or(|rows| self.row >= rows.times.len()) {
            self.before += self.rows.as_ref().map_or(0, |rows| i64::try_from(rows.times.len()).unwrap_or(i64::MAX));
            let Some(batch) = self.reader.next() else {
                self.rows = None;
                return Ok(false);
            };
            let batch = batch.map_err(|error| ReadError::damaged(self.content.path(), self.before, error))?;
            let rows = Rows::of(&batch);
            self.rows = Some(rows.ok_or_else(|| {
                ReadError::damaged(
                    self.content.path(),
                    self.before,
                    "its rows are not series, timestamp, column and value",
                )
            })?);
            self.row = 0;
        }
        Ok(true)
    }

    /// The point to which [`Self::advance`] has gone on; `None` before the first and after the last.
    pub fn point(&self) -> Option<Point<'_>> {
        let rows = self.rows.as_ref().filter(|rows| self.row < rows.times.len())?;
        Some(Point {
            series: rows.series.value(self.row),
            column: rows.columns.value(self.row),
            time_us: rows.times.value(self.row),
            value: rows.values.is_valid(self.row).then(|| rows.values.value(self.row)),
        })
    }
}
