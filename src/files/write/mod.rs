//! Batches of rows into a file of any of the formats.
//!
//! - `absent`: what null means in the columns of a wide file.
//! - `metadata`: what a file says of its series, and for pandas.
//! - `parquet`: groups of rows, column by column.
//! - `text`: CSV and JSON lines; `rfc3339`: times in them.
//! - `sink`: where the bytes go.

mod absent;
mod metadata;
mod parquet;
mod rfc3339;
mod sink;
mod text;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use ::parquet::basic::{Compression as ParquetCompression, GzipLevel, ZstdLevel};
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::KeyValue;
use arrow_array::RecordBatch;
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions};
use arrow_schema::{ArrowError, Schema, SchemaRef};

use super::definition::ABSENT_KEY;
use super::whole::WholeFile;
use super::{Compression, Definition, Error, Format};
use absent::Absent;
use metadata::Pair;
use parquet::ParquetWriter;
use text::{TextSink, TextWriter};

pub use absent::{NO_POINT, NULL_POINT};
pub use sink::{Sink, Written};

/// What a file has besides its rows.
#[derive(Debug, Clone)]
pub struct Head {
    /// The columns: times in UTC in microseconds, doubles, and texts.
    pub schema: SchemaRef,
    /// The series of the rows.
    pub definitions: Vec<Definition>,
    /// The column that is the index of a frame of pandas, if there is one.
    pub index: Option<String>,
}

enum Rows {
    Parquet(Box<ParquetWriter>),
    Arrow(Box<FileWriter<io::BufWriter<Sink>>>),
    Text(Box<TextWriter>),
}

/// A file that is being written.
pub struct Writer {
    rows: Rows,
    path: PathBuf,
    head: Head,
    /// What null means, if the file is wide.
    absent: Option<Absent>,
    /// The file next to one that has no place for definitions.
    definitions: Option<WholeFile>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Writer {
    /// Begins a file. The definitions become another file at its end, `definitions`, if it is given, which appears with this one.
    ///
    /// # Errors
    /// If it cannot be written, or Arrow is to be compressed by gzip.
    pub fn new(
        sink: Sink,
        definitions: Option<WholeFile>,
        format: Format,
        compression: Compression,
        head: &Head,
    ) -> Result<Self, Error> {
        let path = sink.path().to_owned();
        let pairs =
            || metadata::pairs(head).map_err(|error| Error::Encode { path: path.clone(), why: error.to_string() });
        let rows = match format {
            Format::Parquet => {
                parquet_writer(sink, compression, head, pairs()?).map_err(|error| of_parquet(error, &path))?
            }
            Format::Arrow => {
                if compression == Compression::Gzip {
                    return Err(Error::Format("Arrow has no compression by gzip: use zstd or none".to_owned()));
                }
                arrow_writer(sink, compression, head, pairs()?).map_err(|error| of_arrow(error, &path))?
            }
            Format::Csv | Format::JsonLines => {
                let failed = |error| Error::Write { path: path.clone(), error };
                let sink = TextSink::new(sink, compression).map_err(failed)?;
                Rows::Text(Box::new(TextWriter::new(sink, format == Format::Csv, &head.schema).map_err(failed)?))
            }
        };
        let absent = head.index.as_ref().map(|_| Absent::new(head.schema.clone()));
        Ok(Self { rows, path, head: head.clone(), absent, definitions })
    }

    /// Adds rows; their columns are those of the head.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        if let Some(absent) = &mut self.absent {
            absent.add(batch);
        }
        match &mut self.rows {
            Rows::Parquet(writer) => writer.write(batch).map_err(|error| of_parquet(error, &self.path)),
            Rows::Arrow(writer) => writer.write(batch).map_err(|error| of_arrow(error, &self.path)),
            Rows::Text(writer) => writer.write(batch).map_err(|error| self.of_text(error)),
        }
    }

    fn of_text(&self, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::InvalidData => Error::Encode { path: self.path.clone(), why: error.to_string() },
            _ => Error::Write { path: self.path.clone(), error },
        }
    }

    /// The columns of a wide file in which null may be a point without a value or no point: nothing in the file
    /// distinguishes them.
    pub fn ambiguous_columns(&self) -> Vec<String> {
        self.absent.as_ref().map_or_else(Vec::new, Absent::ambiguous)
    }

    /// Ends the file, which then has its name.
    ///
    /// # Errors
    /// If a step fails.
    pub fn finish(self) -> Result<(), Error> {
        let path = self.path;
        let failed = |error| Error::Write { path: path.clone(), error };
        let absent = self.absent.map(|absent| absent.columns());
        let absent_text = || absent.as_ref().map(|names| serde_json::Value::from(names.clone()).to_string());
        let sink = match self.rows {
            Rows::Parquet(mut writer) => {
                if let Some(text) = absent_text() {
                    writer.append_key_value_metadata(KeyValue::new(ABSENT_KEY.to_owned(), text));
                }
                writer.finish().map_err(|error| of_parquet(error, &path))?
            }
            Rows::Arrow(mut writer) => {
                if let Some(text) = absent_text() {
                    writer.write_metadata(ABSENT_KEY, text);
                }
                writer.finish().map_err(|error| of_arrow(error, &path))?;
                let buffered = writer.into_inner().map_err(|error| of_arrow(error, &path))?;
                buffered.into_inner().map_err(|error| failed(error.into_error()))?
            }
            Rows::Text(writer) => writer.finish().map_err(failed)?,
        };
        // The rows last: definitions that are missing are not noticed.
        if let Some(file) = self.definitions {
            write_definitions(file, &self.head, absent.as_deref())?.finish()?;
        }
        sink.finish()
    }
}

fn write_definitions(mut file: WholeFile, head: &Head, absent: Option<&[String]>) -> Result<WholeFile, Error> {
    let text = super::definition::array(&head.definitions, absent);
    let mut text = text.map_err(|error| Error::Encode { path: file.target().to_owned(), why: error.to_string() })?;
    text.push('\n');
    let written = io::Write::write_all(&mut file, text.as_bytes());
    written.map_err(|error| Error::Write { path: file.target().to_owned(), error })?;
    Ok(file)
}

fn parquet_writer(sink: Sink, compression: Compression, head: &Head, pairs: Vec<Pair>) -> Result<Rows, ParquetError> {
    let compression = match compression {
        Compression::None => ParquetCompression::UNCOMPRESSED,
        Compression::Gzip => ParquetCompression::GZIP(GzipLevel::default()),
        Compression::Zstd => ParquetCompression::ZSTD(ZstdLevel::default()),
    };
    let of_file = pairs.iter().map(|(key, value)| KeyValue::new((*key).to_owned(), value.clone())).collect();
    // Arrow's own readers take the metadata of the schema that is within the file's: pandas finds its index there only.
    let schema = with_metadata(head, pairs);
    Ok(Rows::Parquet(Box::new(ParquetWriter::new(sink, compression, &schema, of_file)?)))
}

fn with_metadata(head: &Head, pairs: Vec<Pair>) -> Schema {
    let pairs: HashMap<String, String> = pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Schema::new_with_metadata(head.schema.fields().clone(), pairs)
}

fn arrow_writer(sink: Sink, compression: Compression, head: &Head, pairs: Vec<Pair>) -> Result<Rows, ArrowError> {
    let compression = (compression == Compression::Zstd).then_some(CompressionType::ZSTD);
    let options = IpcWriteOptions::default().try_with_compression(compression)?;
    let schema = with_metadata(head, pairs);
    let writer = FileWriter::try_new_with_options(io::BufWriter::new(sink), &schema, options)?;
    Ok(Rows::Arrow(Box::new(writer)))
}

fn of_parquet(error: ParquetError, path: &Path) -> Error {
    let path = path.to_owned();
    match error {
        ParquetError::External(error) => match error.downcast::<io::Error>() {
            Ok(error) => Error::Write { path, error: *error },
            Err(error) => Error::Encode { path, why: error.to_string() },
        },
        error => Error::Encode { path, why: error.to_string() },
    }
}

fn of_arrow(error: ArrowError, path: &Path) -> Error {
    let path = path.to_owned();
    match error {
        ArrowError::IoError(_, error) => Error::Write { path, error },
        error => Error::Encode { path, why: error.to_string() },
    }
}
