//! The binary format of COPY for rows of (column, time, value, id), in the order of columns and times.
//!
//! Source: PostgreSQL's documentation, COPY, "Binary Format".

use std::collections::HashMap;

use super::options::Duplicates;
use crate::files::write::NULL_POINT;
use crate::repository::Error;
use crate::repository::copy_rows::{HEADER_BYTES, array, time_us, unexpected};

/// The number of fields, and for each its length; then the time and the id.
const FIXED_BYTES: usize = 2 + 4 * 4 + 8 + 8;

/// The points of a column in a window, by time.
#[derive(Debug, Default, Clone)]
pub(super) struct Points {
    /// The times, in microseconds since the Unix epoch.
    pub(super) times: Vec<i64>,
    pub(super) values: Vec<f64>,
    /// `false` for NULL, whose value is [`NULL_POINT`].
    pub(super) is_valid: Vec<bool>,
}

impl Points {
    fn clear(&mut self) {
        self.times.clear();
        self.values.clear();
        self.is_valid.clear();
    }
}

/// Decodes the rows of a window.
#[derive(Debug)]
pub(super) struct Decoder {
    series: String,
    duplicates: Duplicates,
    numbers: HashMap<Box<[u8]>, usize>,
    pub(super) columns: Vec<Points>,
    /// The names of the columns.
    names: Vec<String>,
    /// The rows of this window.
    pub(super) rows: usize,
    /// The bytes of an incomplete row.
    rest: Vec<u8>,
    is_begun: bool,
    /// The column of the last row, by its name as well.
    name: Vec<u8>,
    current: Option<usize>,
    last_id: i64,
    /// The first point that exists more than once: column, time and number.
    duplicate: Option<(usize, i64, usize)>,
}

impl Decoder {
    /// For the columns with these names.
    pub(super) fn new(series: &str, names: &[String], duplicates: Duplicates) -> Self {
        Self {
            series: series.to_owned(),
            duplicates,
            numbers: names.iter().enumerate().map(|(number, name)| (name.as_bytes().into(), number)).collect(),
            columns: vec![Points::default(); names.len()],
            names: names.to_vec(),
            rows: 0,
            rest: Vec::new(),
            is_begun: false,
            name: Vec::new(),
            current: None,
            last_id: 0,
            duplicate: None,
        }
    }

    /// Begins a window, without the rows of the last one.
    pub(super) fn clear(&mut self) {
        self.columns.iter_mut().for_each(Points::clear);
        self.rows = 0;
        self.rest.clear();
        self.is_begun = false;
        self.current = None;
        self.duplicate = None;
    }

    /// Takes a piece of the answer.
    pub(super) fn take(&mut self, piece: &[u8]) -> Result<(), Error> {
        if self.rest.is_empty() {
            return self.take_rows(piece);
        }
        let mut joined = std::mem::take(&mut self.rest);
        joined.extend_from_slice(piece);
        self.take_rows(&joined)
    }

    fn take_rows(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        if !self.is_begun {
            if bytes.len() < HEADER_BYTES {
                self.rest.extend_from_slice(bytes);
                return Ok(());
            }
            bytes = &bytes[HEADER_BYTES..];
            self.is_begun = true;
        }
        while !bytes.is_empty() {
            match self.row(bytes)? {
                Some(rest) => bytes = rest,
                None => {
                    self.rest.extend_from_slice(bytes);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Takes a row from the front; `None` if it is not there as a whole.
    fn row<'a>(&mut self, mut bytes: &'a [u8]) -> Result<Option<&'a [u8]>, Error> {
        let Some(fields) = array(&mut bytes).map(i16::from_be_bytes) else { return Ok(None) };
        if fields == -1 {
            return Ok(Some(&[]));
        }
        let Some(length) = array(&mut bytes).map(i32::from_be_bytes) else { return Ok(None) };
        let Ok(length) = usize::try_from(length) else { return Err(unexpected("a column has no name")) };
        if bytes.len() < length + FIXED_BYTES - 6 {
            // A NULL is shorter, but ends at a trailer at least: only such a row may be whole.
            return self.short_row(bytes, length);
        }
        let (name, rest) = bytes.split_at(length);
        self.rest_of_row(name, rest)
    }

    /// A row that would be too short with a value.
    fn short_row<'a>(&mut self, bytes: &'a [u8], length: usize) -> Result<Option<&'a [u8]>, Error> {
        match bytes.split_at_checked(length) {
            Some((name, rest)) => self.rest_of_row(name, rest),
            None => Ok(None),
        }
    }

    fn rest_of_row<'a>(&mut self, name: &[u8], mut bytes: &'a [u8]) -> Result<Option<&'a [u8]>, Error> {
        let Some((time, value, id)) = numbers(&mut bytes)? else { return Ok(None) };
        self.push(name, time_us(time, &self.series)?, value, id)?;
        Ok(Some(bytes))
    }

    fn push(&mut self, name: &[u8], time: i64, value: Option<f64>, id: i64) -> Result<(), Error> {
        self.rows += 1;
        let number = match self.current {
            Some(number) if self.name == name => number,
            _ => {
                let number = *self.numbers.get(name).ok_or_else(|| unexpected("it has a column that was not there"))?;
                self.name.clear();
                self.name.extend_from_slice(name);
                self.current = Some(number);
                number
            }
        };
        let points = &mut self.columns[number];
        if points.times.last() == Some(&time) && self.duplicates != Duplicates::All {
            match self.duplicates {
                Duplicates::Fail => match &mut self.duplicate {
                    None => self.duplicate = Some((number, time, 2)),
                    Some((column, at, count)) if (*column, *at) == (number, time) => *count += 1,
                    Some(_) => {}
                },
                Duplicates::Last | Duplicates::All if id < self.last_id => return Ok(()),
                Duplicates::First if id > self.last_id => return Ok(()),
                Duplicates::Last | Duplicates::First | Duplicates::All => {}
            }
            points.times.pop();
            points.values.pop();
            points.is_valid.pop();
        }
        self.last_id = id;
        points.times.push(time);
        points.values.push(value.unwrap_or(NULL_POINT));
        points.is_valid.push(value.is_some());
        Ok(())
    }

    /// Checks that the answer ended as a whole, and has no point twice if that is an error.
    pub(super) fn end(&self) -> Result<(), Error> {
        if !self.rest.is_empty() || !self.is_begun {
            return Err(unexpected("it ends in the middle"));
        }
        match self.duplicate {
            None => Ok(()),
            Some((column, time_us, count)) => Err(Error::Duplicate {
                series: self.series.clone(),
                column: self.names[column].clone(),
                time_us,
                count,
            }),
        }
    }
}

type Numbers = (i64, Option<f64>, i64);

/// The time, the value and the id; `None` if they are not there as a whole.
fn numbers(bytes: &mut &[u8]) -> Result<Option<Numbers>, Error> {
    let Some(time) = number(bytes)? else { return Ok(None) };
    let Some(value) = number(bytes)? else { return Ok(None) };
    let Some(id) = number(bytes)? else { return Ok(None) };
    match (time, id) {
        (Some(time), Some(id)) => {
            let value = value.map(|bytes| f64::from_bits(u64::from_be_bytes(bytes)));
            Ok(Some((i64::from_be_bytes(time), value, i64::from_be_bytes(id))))
        }
        _ => Err(unexpected("a point has no time or no id")),
    }
}

/// A field of eight bytes, or NULL; the outer `None` if it is not there as a whole.
fn number(bytes: &mut &[u8]) -> Result<Option<Option<[u8; 8]>>, Error> {
    match array(bytes).map(i32::from_be_bytes) {
        None => Ok(None),
        Some(-1) => Ok(Some(None)),
        Some(8) => Ok(array(bytes).map(Some)),
        Some(_) => Err(unexpected("a number has another length than eight bytes")),
    }
}
