//! Arrow IPC: a file with its footer, and a stream.

use std::collections::HashMap;
use std::io::BufReader;

use arrow_array::RecordBatch;
use arrow_ipc::reader::{FileReader, StreamReader};
use arrow_schema::{ArrowError, SchemaRef};

use super::blocks::Blocks;
use super::content::{BLOCK_BYTES, Content, Place};
use super::encode::Emitter;
use super::foreign::guarded;
use super::metadata::Metadata;
use super::{ReadError, arrow};

/// What is known of an Arrow file.
#[derive(Debug, Clone)]
pub(super) struct Ipc {
    is_stream: bool,
    schema: SchemaRef,
}

enum Reader {
    File(FileReader<BufReader<Place>>),
    Stream(StreamReader<BufReader<Place>>),
}

/// Opens a file whose messages are checked before they are read.
fn open(content: &Content, is_stream: bool) -> Result<(Reader, Blocks), ReadError> {
    let damaged =
        |error: ArrowError| ReadError::damaged(content.path(), 0, format!("the Arrow schema cannot be read: {error}"));
    let blocks = Blocks::open(content, is_stream).map_err(|error| damaged(error.into()))?;
    let reader = guarded(content.path(), 0, || Reader::open(content, is_stream))?.map_err(damaged)?;
    Ok((reader, blocks))
}

impl Reader {
    fn open(content: &Content, is_stream: bool) -> Result<Self, ArrowError> {
        let bytes = BufReader::with_capacity(BLOCK_BYTES, content.reader());
        if is_stream {
            StreamReader::try_new(bytes, None).map(Self::Stream)
        } else {
            FileReader::try_new(bytes, None).map(Self::File)
        }
    }

    fn schema(&self) -> SchemaRef {
        match self {
            Self::File(reader) => reader.schema(),
            Self::Stream(reader) => reader.schema(),
        }
    }

    /// The pairs that stand after the rows.
    fn footer(&self) -> Option<&HashMap<String, String>> {
        match self {
            Self::File(reader) => Some(reader.custom_metadata()),
            Self::Stream(_) => None,
        }
    }

    fn next(&mut self) -> Option<Result<RecordBatch, ArrowError>> {
        match self {
            Self::File(reader) => reader.next(),
            Self::Stream(reader) => reader.next(),
        }
    }
}

impl Ipc {
    /// Reads the schema.
    pub(super) fn open(content: &Content, is_stream: bool) -> Result<(Self, Metadata), ReadError> {
        let (reader, _) = open(content, is_stream)?;
        let schema = reader.schema();
        let value = |key: &str| {
            let of_footer = || reader.footer().and_then(|pairs| pairs.get(key));
            schema.metadata().get(key).or_else(of_footer).map(String::as_str)
        };
        let described = Metadata::of_keys(content.path(), value)?;
        Ok((Self { is_stream, schema }, described))
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Gives all rows, those before the row `first` omitted.
    pub(super) fn read(&self, content: &Content, first: i64, emitter: &mut Emitter<'_>) -> Result<(), ReadError> {
        let damaged = |row: i64, error: ArrowError| ReadError::damaged(content.path(), row, error);
        let (mut reader, mut blocks) = open(content, self.is_stream)?;
        let numbers: Vec<usize> = (0..self.schema.fields().len()).collect();
        loop {
            blocks.check_next().map_err(|error| damaged(emitter.row, error.into()))?;
            let Some(batch) = guarded(content.path(), emitter.row, || reader.next())? else { break };
            let batch = batch.map_err(|error| damaged(emitter.row, error))?;
            let length = i64::try_from(batch.num_rows()).unwrap_or(i64::MAX);
            let skip = (first - super::FIRST_ROW - emitter.row).clamp(0, length);
            emitter.row += skip;
            arrow::emit(content, &batch, &numbers, usize::try_from(skip).unwrap_or(0), emitter)?;
        }
        Ok(())
    }
}
