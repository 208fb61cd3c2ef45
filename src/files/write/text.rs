//! CSV and JSON lines.

use std::io::{self, BufWriter, Write};

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Float64Type, TimestampMicrosecondType};
use arrow_array::{Array as _, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::{DataType, Schema};

use super::{Compression, Sink, rfc3339};

/// The bytes that are written at a time.
const BLOCK_BYTES: usize = 64 * 1024;

/// Where a text goes.
pub(super) enum TextSink {
    Plain(BufWriter<Sink>),
    Gzip(flate2::write::GzEncoder<BufWriter<Sink>>),
    Zstd(zstd::stream::write::Encoder<'static, BufWriter<Sink>>),
}

impl TextSink {
    pub(super) fn new(sink: Sink, compression: Compression) -> io::Result<Self> {
        let sink = BufWriter::with_capacity(BLOCK_BYTES, sink);
        Ok(match compression {
            Compression::None => Self::Plain(sink),
            Compression::Gzip => Self::Gzip(flate2::write::GzEncoder::new(sink, flate2::Compression::default())),
            Compression::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(sink, 0)?),
        })
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(sink) => sink.write_all(bytes),
            Self::Gzip(sink) => sink.write_all(bytes),
            Self::Zstd(sink) => sink.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<Sink> {
        let sink = match self {
            Self::Plain(sink) => sink,
            Self::Gzip(sink) => sink.finish()?,
            Self::Zstd(sink) => sink.finish()?,
        };
        sink.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

/// Writes rows as texts.
pub(super) struct TextWriter {
    sink: TextSink,
    /// CSV, or else JSON lines.
    is_csv: bool,
    /// What stands before each value of a JSON object.
    names: Vec<Vec<u8>>,
    block: Vec<u8>,
}

impl TextWriter {
    pub(super) fn new(sink: TextSink, is_csv: bool, schema: &Schema) -> io::Result<Self> {
        let mut block = Vec::new();
        let mut names = Vec::new();
        for (number, field) in schema.fields().iter().enumerate() {
            if is_csv {
                if number > 0 {
                    block.push(b',');
                }
                put_field(field.name(), &mut block);
            } else {
                let mut name = vec![if number > 0 { b',' } else { b'{' }];
                put_json(field.name(), &mut name)?;
                name.push(b':');
                names.push(name);
            }
        }
        if is_csv {
            block.push(b'\n');
        }
        Ok(Self { sink, is_csv, names, block })
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> io::Result<()> {
        let columns: Vec<Column<'_>> = batch.columns().iter().map(|column| Column::of(column.as_ref())).collect();
        for row in 0..batch.num_rows() {
            if self.is_csv {
                for (number, column) in columns.iter().enumerate() {
                    if number > 0 {
                        self.block.push(b',');
                    }
                    column.put_csv(row, &mut self.block)?;
                }
                self.block.push(b'\n');
            } else {
                for (name, column) in self.names.iter().zip(&columns) {
                    self.block.extend_from_slice(name);
                    column.put_json(row, &mut self.block)?;
                }
                self.block.extend_from_slice(b"}\n");
            }
            if self.block.len() >= BLOCK_BYTES {
                self.sink.write_all(&self.block)?;
                self.block.clear();
            }
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<Sink> {
        self.sink.write_all(&self.block)?;
        self.sink.finish()
    }
}

enum Column<'a> {
    Time(&'a TimestampMicrosecondArray),
    Value(&'a Float64Array),
    Text(&'a StringArray),
}

impl<'a> Column<'a> {
    fn of(array: &'a dyn arrow_array::Array) -> Self {
        match array.data_type() {
            DataType::Timestamp(..) => Self::Time(array.as_primitive::<TimestampMicrosecondType>()),
            DataType::Float64 => Self::Value(array.as_primitive::<Float64Type>()),
            _ => Self::Text(array.as_string::<i32>()),
        }
    }

    fn put_csv(&self, row: usize, out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Time(times) => rfc3339::put(times.value(row), out),
            Self::Value(values) if values.is_null(row) => Ok(()),
            // The shortest decimal that is read as the same bits; the words are inf, -inf and NaN.
            Self::Value(values) => write!(out, "{:?}", values.value(row)),
            Self::Text(texts) => {
                put_field(texts.value(row), out);
                Ok(())
            }
        }
    }

    fn put_json(&self, row: usize, out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Time(times) => {
                out.push(b'"');
                rfc3339::put(times.value(row), out)?;
                out.push(b'"');
                Ok(())
            }
            Self::Value(values) if values.is_null(row) => out.write_all(b"null"),
            Self::Value(values) => match values.value(row) {
                value if value.is_finite() => write!(out, "{value:?}"),
                // JSON has no number for them; messages have these texts, too.
                f64::INFINITY => out.write_all(b"\"Infinity\""),
                f64::NEG_INFINITY => out.write_all(b"\"-Infinity\""),
                _ => out.write_all(b"\"NaN\""),
            },
            Self::Text(texts) => put_json(texts.value(row), out),
        }
    }
}

/// A field of CSV, in quotes where RFC 4180 asks for them; an empty one as well, which a missing value is not.
fn put_field(text: &str, out: &mut Vec<u8>) {
    let has_edge = text.starts_with(' ') || text.ends_with(' ');
    if !text.is_empty() && !has_edge && !text.contains(['"', ',', '\n', '\r']) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    out.extend_from_slice(text.replace('"', "\"\"").as_bytes());
    out.push(b'"');
}

fn put_json(text: &str, out: &mut Vec<u8>) -> io::Result<()> {
    serde_json::to_writer(out, text).map_err(io::Error::from)
}
