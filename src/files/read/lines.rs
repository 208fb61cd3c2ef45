//! JSON lines: an object a line. All lines are read once for the names that they have, and once for their rows.

use std::collections::HashMap;
use std::io::{BufRead as _, Read as _};

use jiter::Peek;

use super::ReadError;
use super::content::Content;
use super::csv::put_time_of_text;
use super::encode::{Cells, Emitter};
use super::fields::{Field, Seen};
use super::json::put_text;
use super::layout::CellTime;
use super::text::{self, Failure, Text};
use crate::files::Compression;
use crate::message::json::Cursor;

/// The longest line, in bytes.
const MAX_LINE_BYTES: usize = 16 * 1024 * 1024;
/// The most names that a file may have.
const MAX_NAMES: usize = 100_000;

/// What is known of a file of JSON lines.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    compression: Compression,
    pub(super) fields: Vec<Field>,
    numbers: HashMap<String, usize>,
}

/// A line, and what its cells are: for each the number of its column and where it stands.
#[derive(Debug, Default)]
struct Line {
    bytes: Vec<u8>,
    cells: Vec<(usize, std::ops::Range<usize>)>,
    /// For each column, the number of its cell and 1, or 0 if the line has none.
    places: Vec<usize>,
}

impl Line {
    /// Reads the next line that is not blank; returns `false` if there is none.
    fn next(&mut self, text: &mut Text) -> Result<bool, Failure> {
        loop {
            self.bytes.clear();
            let read = text
                .by_ref()
                .take(MAX_LINE_BYTES as u64 + 1)
                .read_until(b'\n', &mut self.bytes)
                .map_err(Failure::Io)?;
            if read == 0 {
                return Ok(false);
            }
            if read > MAX_LINE_BYTES {
                return Err(Failure::TooLong);
            }
            if !self.bytes.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
    }

    /// Finds the cells of the line. `number` says the number of a name.
    fn find(&mut self, mut number: impl FnMut(&str) -> Option<usize>) -> Result<(), String> {
        for (column, _) in self.cells.drain(..) {
            self.places[column] = 0;
        }
        if let Err(error) = std::str::from_utf8(&self.bytes) {
            return Err(format!("the line is not UTF-8 (byte {})", error.valid_up_to()));
        }
        let mut cursor = Cursor::at(&self.bytes, 0);
        let why = |fault| crate::message::Rejected::from(fault).detail;
        let mut next = cursor.first_key().map_err(why)?.map(&mut number);
        while let Some(column) = next {
            let start = cursor.skip().map_err(why)?;
            if let Some(column) = column {
                if self.places.len() <= column {
                    self.places.resize(column + 1, 0);
                }
                if self.places[column] > 0 {
                    return Err("a field is a duplicate".to_owned());
                }
                self.cells.push((column, start..cursor.position()));
                self.places[column] = self.cells.len();
            }
            next = cursor.next_key().map_err(why)?.map(&mut number);
        }
        cursor.finish().map_err(why)
    }

    fn cell(&self, column: usize) -> Option<&[u8]> {
        let place = self.places.get(column).copied()?.checked_sub(1)?;
        self.bytes.get(self.cells.get(place)?.1.clone())
    }
}

/// The text of a JSON string.
fn text_of(cell: &[u8]) -> String {
    serde_json::from_slice(cell).unwrap_or_else(|_| String::from_utf8_lossy(cell).into_owned())
}

impl Cells for Line {
    fn put_time(&self, column: usize, form: &CellTime, out: &mut Vec<u8>) {
        match (self.cell(column), form) {
            (None, _) => out.extend_from_slice(b"null"),
            (Some(cell @ [b'"', ..]), CellTime::Pattern(..) | CellTime::Number(_)) => {
                put_time_of_text(&text_of(cell), form, out);
            }
            (Some(cell), CellTime::Pattern(..)) if !cell.starts_with(b"n") => {
                put_time_of_text(&String::from_utf8_lossy(cell), form, out);
            }
            // Without a unit a number would be taken for one of any.
            (Some(cell), CellTime::Text) if cell.first().is_some_and(|byte| b"-0123456789".contains(byte)) => {
                put_text(&String::from_utf8_lossy(cell), out);
            }
            (Some(cell), _) => out.extend_from_slice(cell),
        }
    }

    fn put_value(&self, column: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(match self.cell(column) {
            None => b"null",
            Some(b"true") => b"1",
            Some(b"false") => b"0",
            // As an integer it would lose its sign.
            Some(b"-0") => b"-0.0",
            Some(cell) => cell,
        });
    }

    fn put_name(&self, column: usize, out: &mut Vec<u8>) {
        match self.cell(column) {
            None => out.extend_from_slice(b"null"),
            Some(cell) if cell.first().is_some_and(|byte| b"-0123456789".contains(byte)) => {
                put_text(&String::from_utf8_lossy(cell), out);
            }
            Some(cell) => out.extend_from_slice(cell),
        }
    }

    fn has(&self, column: usize) -> bool {
        self.places.get(column).is_some_and(|place| *place > 0)
    }
}

impl Lines {
    /// Reads all lines for their names. What cannot be read is found again with the rows. A file without lines has the columns
    /// `defined`.
    pub(super) fn open(content: &Content, compression: Compression, defined: &[String]) -> Result<Self, ReadError> {
        let mut text = text::open(content, compression)?;
        let (mut names, mut seen) = (HashMap::<String, usize>::new(), Vec::<Seen>::new());
        let mut ordered = Vec::new();
        let mut line = Line::default();
        let mut is_readable = false;
        let mut first_fault = None;
        while let Ok(true) = line.next(&mut text) {
            let found = line.find(|name| {
                if let Some(number) = names.get(name) {
                    return Some(*number);
                }
                let number = names.len();
                names.insert(name.to_owned(), number);
                ordered.push(name.to_owned());
                seen.push(Seen::default());
                Some(number)
            });
            if names.len() > MAX_NAMES {
                let why = format!("has more than {MAX_NAMES} different names: they are to be names of columns");
                return Err(ReadError::unclear(content.path(), why));
            }
            match found {
                Ok(()) => {
                    is_readable = true;
                    line.cells.iter().for_each(|(column, at)| see(&mut seen[*column], &line.bytes[at.clone()]));
                }
                Err(why) => drop(first_fault.get_or_insert(why)),
            }
        }
        if let (false, Some(why)) = (is_readable, first_fault) {
            return Err(ReadError::unclear(content.path(), format!("no line is an object of JSON: {why}")));
        }
        if ordered.is_empty() {
            ordered.extend(defined.iter().cloned());
            seen.resize_with(ordered.len(), Seen::default);
        }
        let fields = ordered.into_iter().zip(seen).map(|(name, seen)| seen.into_field(name)).collect();
        Ok(Self { compression, fields, numbers: names })
    }

    /// Gives all rows.
    pub(super) fn read(&self, content: &Content, emitter: &mut Emitter<'_>) -> Result<(), ReadError> {
        let mut text = text::open(content, self.compression)?;
        let mut line = Line::default();
        loop {
            match line.next(&mut text) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(failure) => {
                    let too_long = || format!("the next line has more than {MAX_LINE_BYTES} bytes");
                    return Err(failure.after(content, emitter.row, too_long));
                }
            }
            match line.find(|name| self.numbers.get(name).copied()) {
                Ok(()) => emitter.emit(&line)?,
                Err(why) => emitter.emit_unreadable(&why, String::from_utf8_lossy(&line.bytes).trim_end())?,
            }
        }
    }
}

/// Notes what a cell has.
fn see(seen: &mut Seen, cell: &[u8]) {
    match Cursor::at(cell, 0).peek() {
        Ok(Peek::Null | Peek::NaN) => {}
        Ok(Peek::True | Peek::False) => seen.add_other("true"),
        Ok(Peek::String) => seen.add_string(&text_of(cell)),
        Ok(Peek::Array | Peek::Object) => seen.add_nested(),
        Ok(_) => seen.add_number(&String::from_utf8_lossy(cell)),
        Err(_) => {}
    }
}
