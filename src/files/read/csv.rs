//! CSV: a header, and rows of as many fields, between a delimiter that is found if it is not said.
//!
//! `csv_core` is what the crate `csv` is made of. Used directly it bounds a row: an open quote would make the rest of the file
//! one field.

use std::io::{BufRead as _, Read as _};

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use super::ReadError;
use super::content::Content;
use super::encode::{Cells, Emitter};
use super::fields::{Field, Seen};
use super::json::{is_number, put_text, put_value_of_text};
use super::layout::CellTime;
use super::text::{self, Failure, Text};
use crate::files::Compression;
use crate::message::timestamp::Unit;

/// The longest row, in bytes.
const MAX_ROW_BYTES: usize = 16 * 1024 * 1024;
/// How much of a file is examined, in bytes and in rows.
const SAMPLE_BYTES: u64 = 1024 * 1024;
const SAMPLE_ROWS: usize = 1000;
/// What may be between fields; of those that fit as well the first one is.
const DELIMITERS: [u8; 5] = *b",;\t| ";

/// What is known of a CSV file.
#[derive(Debug, Clone)]
pub(super) struct Csv {
    compression: Compression,
    pub(super) delimiter: u8,
    pub(super) fields: Vec<Field>,
}

/// One record after the other.
struct Records {
    text: Text,
    core: Box<Reader>,
    bytes: Vec<u8>,
    length: usize,
    ends: Vec<usize>,
    count: usize,
}

impl Records {
    fn new(text: Text, delimiter: u8) -> Self {
        let core = Box::new(ReaderBuilder::new().delimiter(delimiter).build());
        Self { text, core, bytes: vec![0; 4096], length: 0, ends: vec![0; 64], count: 0 }
    }

    /// Reads the next record; returns `false` if there is none.
    fn next(&mut self) -> Result<bool, Failure> {
        (self.length, self.count) = (0, 0);
        loop {
            let input = self.text.fill_buf().map_err(Failure::Io)?;
            let (result, read, written, ended) =
                self.core.read_record(input, &mut self.bytes[self.length..], &mut self.ends[self.count..]);
            self.text.consume(read);
            self.length += written;
            self.count += ended;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if self.bytes.len() >= MAX_ROW_BYTES => return Err(Failure::TooLong),
                ReadRecordResult::OutputFull => self.bytes.resize(self.bytes.len() * 2, 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::Record => return Ok(true),
                ReadRecordResult::End => return Ok(false),
            }
        }
    }

    /// The fields of the record, if they are UTF-8; or else the byte where they are not.
    fn record(&self) -> Result<Record<'_>, usize> {
        let text = std::str::from_utf8(&self.bytes[..self.length]).map_err(|error| error.valid_up_to())?;
        Ok(Record { text, ends: &self.ends[..self.count] })
    }

    /// The record as text, for a person.
    fn shown(&self, delimiter: u8) -> String {
        let mut shown = String::new();
        let mut start = 0;
        for end in &self.ends[..self.count] {
            let field = String::from_utf8_lossy(&self.bytes[start..*end]);
            if start > 0 || !shown.is_empty() {
                shown.push(char::from(delimiter));
            }
            if field.contains([char::from(delimiter), '"', '\n', '\r']) {
                shown.push_str(&format!("\"{}\"", field.replace('"', "\"\"")));
            } else {
                shown.push_str(&field);
            }
            start = *end;
        }
        shown
    }
}

/// The fields of a record.
struct Record<'a> {
    text: &'a str,
    ends: &'a [usize],
}

impl<'a> Record<'a> {
    fn field(&self, column: usize) -> &'a str {
        let start = if column == 0 { 0 } else { self.ends.get(column - 1).copied().unwrap_or(0) };
        let end = self.ends.get(column).copied().unwrap_or(start);
        self.text.get(start..end).unwrap_or_default()
    }

    fn iter(&self) -> impl Iterator<Item = &'a str> + '_ {
        (0..self.ends.len()).map(|column| self.field(column))
    }
}

impl Cells for Record<'_> {
    fn put_time(&self, column: usize, form: &CellTime, out: &mut Vec<u8>) {
        put_time_of_text(self.field(column), form, out);
    }

    fn put_value(&self, column: usize, out: &mut Vec<u8>) {
        put_value_of_text(self.field(column), out);
    }

    fn put_name(&self, column: usize, out: &mut Vec<u8>) {
        put_text(self.field(column), out);
    }
}

/// A time that is a text, as JSON.
pub(super) fn put_time_of_text(text: &str, form: &CellTime, out: &mut Vec<u8>) {
    let text = text.trim_ascii();
    match form {
        CellTime::Number(_) if is_number(text.as_bytes()) => out.extend_from_slice(text.as_bytes()),
        CellTime::Pattern(_, pattern) => match pattern.of_text(text, 0, &super::fields::ANY_TIME) {
            Ok(time_us) => super::json::put(format_args!("{time_us}"), out),
            Err(_) => put_text(text, out),
        },
        CellTime::Number(_) | CellTime::Text | CellTime::Typed => put_text(text, out),
    }
}

/// The unit of the numbers that [`put_time_of_text`] adds.
pub(super) fn unit_of(form: &CellTime) -> Unit {
    match form {
        CellTime::Number(unit) => *unit,
        CellTime::Pattern(..) | CellTime::Text | CellTime::Typed => Unit::Microseconds,
    }
}

impl Csv {
    /// Looks at the beginning of a file.
    pub(super) fn open(content: &Content, compression: Compression, delimiter: Option<u8>) -> Result<Self, ReadError> {
        let mut head = Vec::new();
        // What is damaged after the sample is found when the rows are read.
        let read = text::open(content, compression)?.take(SAMPLE_BYTES).read_to_end(&mut head);
        if let (Err(error), true) = (&read, head.is_empty()) {
            return Err(ReadError::damaged(content.path(), 0, text::why(error)));
        }
        // The last line may be cut.
        if head.len() as u64 == SAMPLE_BYTES
            && let Some(end) = head.iter().rposition(|byte| *byte == b'\n')
        {
            head.truncate(end + 1);
        }
        let delimiter = delimiter.unwrap_or_else(|| find_delimiter(&head));
        let mut records = in_memory(&head, delimiter);
        let unclear = |text: String| ReadError::unclear(content.path(), text);
        match records.next() {
            Ok(true) => {}
            Ok(false) => {
                return Err(unclear("is empty: the first line is to have the names of the columns".to_owned()));
            }
            Err(_) => return Err(unclear("the first line is too long for a CSV file's header".to_owned())),
        }
        let header = records.record().map_err(|at| {
            unclear(format!("the first line is not UTF-8 (byte {at}): convert the file, iconv -f latin1 -t utf-8"))
        })?;
        let names: Vec<String> = header.iter().map(str::to_owned).collect();
        let mut seen = vec![Seen::default(); names.len()];
        let mut rows = 0;
        while rows < SAMPLE_ROWS && matches!(records.next(), Ok(true)) {
            rows += 1;
            if let Ok(record) = records.record()
                && record.ends.len() == names.len()
            {
                record.iter().zip(&mut seen).for_each(|(field, seen)| seen.add_text(field));
            }
        }
        let fields = names.into_iter().zip(seen).map(|(name, seen)| seen.into_field(name)).collect();
        Ok(Self { compression, delimiter, fields })
    }

    /// Gives all rows.
    pub(super) fn read(&self, content: &Content, emitter: &mut Emitter<'_>) -> Result<(), ReadError> {
        let mut records = Records::new(text::open(content, self.compression)?, self.delimiter);
        let mut is_header = true;
        loop {
            match records.next() {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(failure) => {
                    let too_long =
                        || format!("the next row has more than {MAX_ROW_BYTES} bytes: is a quote left open in it?");
                    return Err(failure.after(content, emitter.row, too_long));
                }
            }
            if std::mem::take(&mut is_header) {
                continue;
            }
            let shown = |records: &Records| records.shown(self.delimiter);
            match records.record() {
                Ok(record) if record.ends.len() == self.fields.len() => emitter.emit(&record)?,
                Ok(record) => {
                    let why = format!("the row has {} fields, and the header {}", record.ends.len(), self.fields.len());
                    emitter.emit_unreadable(&why, &shown(&records))?;
                }
                Err(at) => {
                    let why = format!("the row is not UTF-8 (byte {at}, without delimiters and quotes)");
                    emitter.emit_unreadable(&why, &shown(&records))?;
                }
            }
        }
    }
}

fn in_memory(head: &[u8], delimiter: u8) -> Records {
    let text: Box<dyn std::io::Read + Send> = Box::new(std::io::Cursor::new(head.to_vec()));
    Records::new(Text::new(text), delimiter)
}

/// The delimiter that gives most rows as many fields as the header has, and then the one that gives most fields.
fn find_delimiter(head: &[u8]) -> u8 {
    let score = |delimiter: u8| -> (usize, usize) {
        let mut records = in_memory(head, delimiter);
        if !matches!(records.next(), Ok(true)) || records.count < 2 {
            return (0, 0);
        }
        let columns = records.count;
        let (mut same, mut rows) = (1, 1);
        while rows < SAMPLE_ROWS && matches!(records.next(), Ok(true)) {
            rows += 1;
            same += usize::from(records.count == columns);
        }
        // A space between two words of a text makes no columns.
        if same * 10 < rows * 9 { (0, 0) } else { (same, columns) }
    };
    let mut best = (b',', (0, 0));
    for delimiter in DELIMITERS {
        let score = score(delimiter);
        if score > best.1 {
            best = (delimiter, score);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delimiter_is_the_one_that_makes_columns() {
        let cases: [(&str, u8); 9] = [
            ("a,b\n1,2\n3,4\n", b','),
            ("a;b\n1,5;2,5\n3;4\n", b';'),
            ("a\tb\n1\t2\n", b'\t'),
            ("a|b|c\n1|2|3\n", b'|'),
            ("date time,v\n2012-01-01 00:00:00,1\n", b','),
            ("only\n1\n2\n", b','),
            ("a;b\n", b';'),
            ("\"a,b\";c\n\"1,2\";3\n", b';'),
            ("t v\n1 2\n3 4\n", b' '),
        ];
        for (text, delimiter) in cases {
            assert_eq!(char::from(find_delimiter(text.as_bytes())), char::from(delimiter), "{text}");
        }
    }

    #[test]
    fn a_record_is_shown_as_it_would_be_written() {
        let mut records = in_memory(b"\"a,\"\"b\",c\n", b',');
        assert!(matches!(records.next(), Ok(true)));
        assert_eq!(records.shown(b','), "\"a,\"\"b\",c");
    }
}
