//! A row as native messages: one for each group of its columns.

use std::collections::HashSet;

use super::fields::Field;
use super::json::{put, put_text};
use super::layout::{CellTime, Layout, SeriesOf, Shape};
use super::options::ReadOptions;
use super::{ReadError, Rows, partition_of};
use crate::raw::file_row;

/// What a value adds to a message besides the name of its column: brackets, and a double with all its digits.
const VALUE_BYTES: usize = 32;
/// How much of a row that cannot be read is kept, in characters. As JSON it is below what a dead letter keeps.
const MAX_ROW_TEXT: usize = 8 * 1024;

/// The cells of one row, each by the number of its column.
pub(super) trait Cells {
    /// Adds the time as JSON; what is none is added as what it is.
    fn put_time(&self, column: usize, form: &CellTime, out: &mut Vec<u8>);
    /// Adds a value as JSON, in the same way.
    fn put_value(&self, column: usize, out: &mut Vec<u8>);
    /// Adds a name as a JSON string, or null if there is none.
    fn put_name(&self, column: usize, out: &mut Vec<u8>);
    /// Returns `true` if the row has this cell, be it null.
    fn has(&self, _column: usize) -> bool {
        true
    }
}

/// Makes the messages of rows.
#[derive(Debug, Clone)]
pub(super) struct Encoder {
    layout: Layout,
    /// The series, as JSON, if it is the same in all rows.
    series: Vec<u8>,
    /// What stands between the series and the time.
    before_time: Vec<u8>,
    groups: Vec<Group>,
    /// `true` for each column of the file in which null means that there is no point.
    skip_nulls: Vec<bool>,
}

/// Columns whose values are in one message, each with its name and what stands around it as JSON.
#[derive(Debug, Clone, Default)]
struct Group {
    columns: Vec<(usize, Vec<u8>)>,
}

impl Encoder {
    /// An encoder of these columns. `unit` is that of times which are numbers; `absent` are the columns in which null means that there is no point
    /// by what the file says.
    pub(super) fn new(layout: Layout, fields: &[Field], unit: &str, options: &ReadOptions, absent: &[String]) -> Self {
        let mut series = Vec::new();
        if let SeriesOf::Fixed(id) = &layout.series {
            put_text(id, &mut series);
        }
        let mut before_time = Vec::new();
        put(format_args!(",\"timestamp_unit\":\"{unit}\",\"timestamps\":["), &mut before_time);
        let mut groups = vec![Group::default()];
        if let Shape::Wide(columns) = &layout.shape {
            let mut bytes = 0;
            for column in columns {
                let mut name = Vec::new();
                put_text(&fields[*column].name, &mut name);
                name.extend_from_slice(b":[");
                let size = name.len() + VALUE_BYTES;
                let last = groups.last().map_or(0, |group| group.columns.len());
                if last > 0 && (last >= options.max_columns || bytes + size > options.max_bytes) {
                    groups.push(Group::default());
                    bytes = 0;
                }
                bytes += size;
                if let Some(group) = groups.last_mut() {
                    group.columns.push((*column, name));
                }
            }
        }
        let absent: HashSet<&String> = absent.iter().collect();
        let skips = |field: &Field| options.skip_nulls.unwrap_or_else(|| absent.contains(&field.name));
        let skip_nulls = fields.iter().map(skips).collect();
        Self { layout, series, before_time, groups, skip_nulls }
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns `true` if null means that there is no point in this column.
    pub(super) fn skips_nulls(&self, column: usize) -> bool {
        self.skip_nulls.get(column).copied().unwrap_or(false)
    }

    /// The number of messages of a row.
    pub(super) fn groups(&self) -> usize {
        self.groups.len()
    }

    /// The number of columns of each message of a row.
    pub(super) fn group_sizes(&self) -> impl Iterator<Item = usize> + '_ {
        self.groups.iter().map(|group| group.columns.len())
    }

    /// The columns that the messages of a group are made of.
    pub(super) fn columns_of(&self, group: usize) -> Vec<usize> {
        let layout = &self.layout;
        let mut columns = vec![layout.time];
        columns.extend(layout.series.column());
        match layout.shape {
            Shape::Long { column, value } => columns.extend([column, value]),
            Shape::Wide(_) => columns.extend(self.groups[group].columns.iter().map(|(column, _)| *column)),
        }
        columns
    }

    /// Adds the message of a group; returns the number of its points.
    fn put_message(&self, cells: &impl Cells, group: usize, out: &mut Vec<u8>) -> usize {
        out.extend_from_slice(b"{\"time_series_id\":");
        match self.layout.series {
            SeriesOf::Fixed(_) => out.extend_from_slice(&self.series),
            SeriesOf::Column(column) => cells.put_name(column, out),
        }
        out.extend_from_slice(&self.before_time);
        cells.put_time(self.layout.time, &self.layout.time_form, out);
        out.extend_from_slice(b"],\"columns\":{");
        let mut points = 0;
        match self.layout.shape {
            Shape::Long { column, value } => {
                points += 1;
                cells.put_name(column, out);
                out.extend_from_slice(b":[");
                cells.put_value(value, out);
                out.push(b']');
            }
            Shape::Wide(_) => {
                for (column, name) in self.groups[group].columns.iter().filter(|(column, _)| cells.has(*column)) {
                    let before = out.len();
                    if points > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(name);
                    let value = out.len();
                    cells.put_value(*column, out);
                    if self.skips_nulls(*column) && out[value..] == *b"null" {
                        out.truncate(before);
                        continue;
                    }
                    points += 1;
                    out.push(b']');
                }
            }
        }
        out.extend_from_slice(b"}}");
        points
    }
}

/// Gives the rows of a file to who takes them, one after the other.
pub(super) struct Emitter<'a> {
    encoder: &'a Encoder,
    rows: &'a mut dyn Rows,
    groups: std::ops::Range<usize>,
    message: Vec<u8>,
    /// The last row that was given.
    pub(super) row: i64,
}

impl<'a> Emitter<'a> {
    /// Begins after the row `row`, with the messages of these groups.
    pub(super) fn new(encoder: &'a Encoder, rows: &'a mut dyn Rows, groups: std::ops::Range<usize>, row: i64) -> Self {
        Self { encoder, rows, groups, message: Vec::new(), row }
    }

    /// The next row.
    pub(super) fn emit(&mut self, cells: &impl Cells) -> Result<(), ReadError> {
        self.row += 1;
        for group in self.groups.clone() {
            let partition = partition_of(group);
            if self.rows.wants(self.row, partition) {
                self.message.clear();
                let points = self.encoder.put_message(cells, group, &mut self.message);
                // A line of JSON may have none of a group's columns.
                if points > 0 || group == 0 {
                    self.rows.put(self.row, partition, &self.message, points);
                }
            }
        }
        self.rows.end_row(self.row, self.groups.clone())
    }

    /// The next row, which cannot be read.
    pub(super) fn emit_unreadable(&mut self, why: &str, text: &str) -> Result<(), ReadError> {
        self.row += 1;
        for group in self.groups.clone() {
            if self.rows.wants(self.row, partition_of(group)) && group == 0 {
                let head: String = text.chars().take(MAX_ROW_TEXT).collect();
                self.rows.put(self.row, partition_of(0), &file_row::unreadable(why, &head), 0);
            }
        }
        self.rows.end_row(self.row, self.groups.clone())
    }

    /// There is no other row.
    pub(super) fn end(self) -> Result<(), ReadError> {
        self.rows.end(self.row, self.groups)
    }
}
