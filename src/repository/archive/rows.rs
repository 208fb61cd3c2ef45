//! The binary format of COPY for rows of (series, column, time, value, id).
//!
//! Source: PostgreSQL's documentation, COPY, "Binary Format".

use crate::files::read::points::Point;
use crate::repository::Error;
use crate::repository::copy_rows::{HEADER_BYTES, array, time_us, unexpected};

/// Decodes the pieces of an answer.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// The bytes of an incomplete row.
    rest: Vec<u8>,
    is_begun: bool,
    is_ended: bool,
}

/// A field, or NULL; the outer `None` if it is not there as a whole.
fn field<'a>(bytes: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = array(bytes).map(i32::from_be_bytes)?;
    let Ok(length) = usize::try_from(length) else { return Some(None) };
    let (field, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(Some(field))
}

fn number(field: Option<&[u8]>) -> Result<Option<[u8; 8]>, Error> {
    let number = field.map(|bytes| bytes.try_into().map_err(|_| unexpected("a number does not have eight bytes")));
    number.transpose()
}

fn text(field: Option<&[u8]>) -> Result<&str, Error> {
    let text = field.and_then(|bytes| std::str::from_utf8(bytes).ok());
    text.ok_or_else(|| unexpected("a name is missing, or not UTF-8"))
}

impl Decoder {
    /// Takes a piece of the answer; `each` gets the rows that are whole, each with its id.
    pub(super) fn take(
        &mut self,
        piece: &[u8],
        each: &mut impl FnMut(&Point<'_>, i64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let joined;
        let mut bytes = piece;
        if !self.rest.is_empty() {
            let mut rest = std::mem::take(&mut self.rest);
            rest.extend_from_slice(piece);
            joined = rest;
            bytes = &joined;
        }
        if !self.is_begun && bytes.len() >= HEADER_BYTES {
            bytes = &bytes[HEADER_BYTES..];
            self.is_begun = true;
        }
        while self.is_begun && !self.is_ended {
            match self.row(bytes, each)? {
                Some(rest) => bytes = rest,
                None => break,
            }
        }
        self.rest.extend_from_slice(bytes);
        Ok(())
    }

    /// Takes a row from the front; `None` if it is not there as a whole.
    fn row<'a>(
        &mut self,
        mut bytes: &'a [u8],
        each: &mut impl FnMut(&Point<'_>, i64) -> Result<(), Error>,
    ) -> Result<Option<&'a [u8]>, Error> {
        let Some(fields) = array(&mut bytes).map(i16::from_be_bytes) else { return Ok(None) };
        if fields == -1 {
            self.is_ended = true;
            return Ok(Some(bytes));
        }
        let mut next = || field(&mut bytes);
        let (Some(series), Some(column), Some(time), Some(value), Some(id)) = (next(), next(), next(), next(), next())
        else {
            return Ok(None);
        };
        let (series, column) = (text(series)?, text(column)?);
        let (Some(time), Some(id)) = (number(time)?, number(id)?) else {
            return Err(unexpected("a point has no time or no id"));
        };
        let time_us = time_us(i64::from_be_bytes(time), series)?;
        let value = number(value)?.map(|bytes| f64::from_bits(u64::from_be_bytes(bytes)));
        each(&Point { series, column, time_us, value }, i64::from_be_bytes(id))?;
        Ok(Some(bytes))
    }

    /// Checks that the answer has ended as a whole.
    pub(super) fn end(&self) -> Result<(), Error> {
        if self.is_ended && self.rest.is_empty() { Ok(()) } else { Err(unexpected("it ends in the middle")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::POSTGRES_EPOCH_US;

    fn answer() -> Vec<u8> {
        let mut bytes = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
        for (series, value, id) in [("a\n'", Some(-0.0_f64), 1_i64), ("", None, i64::MAX)] {
            bytes.extend(5_i16.to_be_bytes());
            for text in [series, "c"] {
                bytes.extend(i32::try_from(text.len()).unwrap().to_be_bytes());
                bytes.extend(text.as_bytes());
            }
            bytes.extend(8_i32.to_be_bytes());
            bytes.extend((5 - POSTGRES_EPOCH_US).to_be_bytes());
            match value {
                Some(value) => {
                    bytes.extend(8_i32.to_be_bytes());
                    bytes.extend(value.to_bits().to_be_bytes());
                }
                None => bytes.extend((-1_i32).to_be_bytes()),
            }
            bytes.extend(8_i32.to_be_bytes());
            bytes.extend(id.to_be_bytes());
        }
        bytes.extend((-1_i16).to_be_bytes());
        bytes
    }

    #[test]
    fn rows_are_the_same_in_pieces_of_any_size() {
        let answer = answer();
        for size in 1..=answer.len() {
            let (mut decoder, mut rows) = (Decoder::default(), Vec::new());
            for piece in answer.chunks(size) {
                let mut each = |point: &Point<'_>, id| {
                    let value = point.value.map(f64::to_bits);
                    rows.push((point.series.to_owned(), point.column.to_owned(), point.time_us, value, id));
                    Ok(())
                };
                decoder.take(piece, &mut each).unwrap();
            }
            decoder.end().unwrap();
            let expected = [
                ("a\n'".to_owned(), "c".to_owned(), 5, Some((-0.0_f64).to_bits()), 1),
                (String::new(), "c".to_owned(), 5, None, i64::MAX),
            ];
            assert_eq!(rows, expected);
        }
    }

    #[test]
    fn an_answer_that_is_cut_off_is_an_error() {
        let answer = answer();
        for length in 0..answer.len() {
            let mut decoder = Decoder::default();
            let taken = decoder.take(&answer[..length], &mut |_, _| Ok(()));
            assert!(taken.and_then(|()| decoder.end()).is_err(), "{length}");
        }
    }
}
