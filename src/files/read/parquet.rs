//! Parquet: each group of columns is read by itself, so that of a file with thousands of columns only some are in memory.

use std::io::{BufReader, Read as _};

use arrow_schema::SchemaRef;
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::basic::Compression;
use parquet::errors::Result as ParquetResult;
use parquet::file::reader::{ChunkReader, Length};

use super::content::{BLOCK_BYTES, Content, Place};
use super::encode::{Emitter, Encoder};
use super::foreign::guarded;
use super::metadata::Metadata;
use super::{ReadError, arrow};

/// The values of a batch at most, over all its columns.
const BATCH_VALUES: usize = 128 * 1024;
const MAX_BATCH_ROWS: usize = 8192;

impl Length for Content {
    fn len(&self) -> u64 {
        self.length()
    }
}

impl ChunkReader for Content {
    type T = BufReader<Place>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(BufReader::with_capacity(BLOCK_BYTES, self.reader_at(start)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let mut bytes = Vec::new();
        // Not allocated before it is there: a damaged file may have any length.
        let read = self.reader_at(start).take(length as u64).read_to_end(&mut bytes)?;
        if read < length {
            return Err(parquet::errors::ParquetError::EOF(format!("the file ends at byte {}", start + read as u64)));
        }
        Ok(bytes.into())
    }
}

/// What is known of a Parquet file.
#[derive(Debug, Clone)]
pub(super) struct Parquet {
    metadata: ArrowReaderMetadata,
}

impl Parquet {
    /// Reads the footer.
    pub(super) fn open(content: &Content) -> Result<(Self, Metadata), ReadError> {
        let load = || ArrowReaderMetadata::load(content, ArrowReaderOptions::new());
        let metadata = guarded(content.path(), 0, load)?.map_err(|error| {
            ReadError::damaged(content.path(), 0, format!("the Parquet footer cannot be read: {error}"))
        })?;
        refuse_compression(content, &metadata)?;
        let pairs = metadata.metadata().file_metadata().key_value_metadata();
        let value = |key: &str| {
            let found = pairs.into_iter().flatten().find(|pair| pair.key == key);
            // Some writers keep it only in the schema of Arrow, which is one of the pairs.
            let of_schema = || metadata.schema().metadata().get(key).map(String::as_str);
            found.and_then(|pair| pair.value.as_deref()).or_else(of_schema)
        };
        let described = Metadata::of_keys(content.path(), value)?;
        Ok((Self { metadata }, described))
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        self.metadata.schema()
    }

    /// Gives all rows with the messages of one group, those before the row `first` omitted.
    pub(super) fn read(
        &self,
        content: &Content,
        (encoder, group): (&Encoder, usize),
        first: i64,
        emitter: &mut Emitter<'_>,
    ) -> Result<(), ReadError> {
        let mut numbers = encoder.columns_of(group);
        numbers.sort_unstable();
        let rows = self.metadata.metadata().file_metadata().num_rows();
        emitter.row = (first - super::FIRST_ROW).clamp(0, rows.max(0));
        let batch_rows = (BATCH_VALUES / numbers.len()).clamp(1, MAX_BATCH_ROWS);
        match self.read_on(content, &numbers, batch_rows, emitter) {
            // Row by row up to the damaged page, which is in the middle of a batch.
            Err(ReadError::Damaged { .. }) if batch_rows > 1 => self.read_on(content, &numbers, 1, emitter),
            result => result,
        }
    }

    /// Gives the rows after the last one that was given.
    fn read_on(
        &self,
        content: &Content,
        numbers: &[usize],
        batch_rows: usize,
        emitter: &mut Emitter<'_>,
    ) -> Result<(), ReadError> {
        let damaged = |row: i64, error: &dyn std::fmt::Display| ReadError::damaged(content.path(), row, error);
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(content.clone(), self.metadata.clone());
        let mask = ProjectionMask::roots(builder.parquet_schema(), numbers.iter().copied());
        let skip = usize::try_from(emitter.row).unwrap_or(usize::MAX);
        let build = || builder.with_projection(mask).with_batch_size(batch_rows).with_offset(skip).build();
        let reader = guarded(content.path(), emitter.row, build)?;
        let mut reader = reader.map_err(|error| damaged(emitter.row, &error))?;
        while let Some(batch) = guarded(content.path(), emitter.row, || reader.next())? {
            let batch = batch.map_err(|error| damaged(emitter.row, &error))?;
            arrow::emit(content, &batch, numbers, 0, emitter)?;
        }
        Ok(())
    }
}

/// Refuses a file whose pages are compressed as they cannot be read.
fn refuse_compression(content: &Content, metadata: &ArrowReaderMetadata) -> Result<(), ReadError> {
    for column in metadata.metadata().row_groups().iter().flat_map(|group| group.columns()) {
        let name = match column.compression() {
            Compression::UNCOMPRESSED
            | Compression::SNAPPY
            | Compression::GZIP(_)
            | Compression::LZ4
            | Compression::ZSTD(_)
            | Compression::LZ4_RAW => continue,
            Compression::BROTLI(_) => "Brotli",
            Compression::LZO => "LZO",
        };
        let text = format!(
            "its column {:?} is compressed by {name}, which cannot be read: write it again with zstd, Snappy or gzip",
            column.column_path().string()
        );
        return Err(ReadError::unclear(content.path(), text));
    }
    Ok(())
}
