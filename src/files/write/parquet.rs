//! Parquet: rows are kept until they are a group, and then each column is encoded by itself, so that of thousands of columns
//! only one has an encoder, a compressor and pages in memory. A value that is null takes a bit until then.
//!
//! Each page has a checksum. The crate verifies them, but writes none: [`with_checksum`] adds it to a page's header.

use std::sync::Arc;

use arrow_array::builder::BooleanBufferBuilder;
use arrow_array::cast::AsArray as _;
use arrow_array::types::{Float64Type, TimestampMicrosecondType};
use arrow_array::{Array as _, ArrayRef, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::{ArrowSchemaConverter, add_encoded_arrow_schema_to_metadata};
use parquet::basic::{Compression, Encoding};
use parquet::column::page::{CompressedPage, PageWriteSpec, PageWriter};
use parquet::column::writer::{ColumnWriter, get_column_writer};
use parquet::data_type::ByteArray;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedFileWriter, SerializedPageWriter, TrackedWrite};
use parquet::schema::types::{ColumnDescPtr, ColumnPath};

use super::Sink;

/// The rows of a group.
const GROUP_ROWS: usize = 128 * 1024;
/// A group of many columns ends earlier, so that it fits into memory.
const GROUP_BYTES: usize = 64 * 1024 * 1024;
/// A file of more columns has no index of pages: the footer, which has each column of each group, is in memory to the end.
const MANY_COLUMNS: usize = 1000;

/// Writes groups of rows.
pub(super) struct ParquetWriter {
    file: SerializedFileWriter<Sink>,
    descriptions: Vec<ColumnDescPtr>,
    columns: Vec<Column>,
    rows: usize,
}

/// What is kept of a column until its group is written.
enum Column {
    Times(Vec<i64>),
    Values(Values),
    Texts(Vec<StringArray>),
}

/// The values that are not null, and where they are.
struct Values {
    values: Vec<f64>,
    is_valid: BooleanBufferBuilder,
}

impl ParquetWriter {
    pub(super) fn new(sink: Sink, compression: Compression, schema: &Schema, pairs: Vec<KeyValue>) -> Result<Self> {
        let mut properties = WriterProperties::builder()
            .set_compression(compression)
            .set_created_by(concat!("series-ingest ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_key_value_metadata(Some(pairs));
        if schema.fields().len() > MANY_COLUMNS {
            properties = properties
                .set_statistics_enabled(EnabledStatistics::Chunk)
                .set_offset_index_disabled(true)
                // Their groups have so few rows that a dictionary costs more than it saves.
                .set_dictionary_enabled(false);
        }
        for field in schema.fields() {
            // Times are seldom the same, and their differences often.
            if matches!(field.data_type(), DataType::Timestamp(..)) {
                let path = ColumnPath::new(vec![field.name().clone()]);
                properties = properties
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
            }
        }
        let mut properties = properties.build();
        let of_parquet = ArrowSchemaConverter::new().convert(schema)?;
        // Arrow's own readers take types and metadata from it.
        add_encoded_arrow_schema_to_metadata(schema, &mut properties);
        let file = SerializedFileWriter::new(sink, of_parquet.root_schema_ptr(), Arc::new(properties))?;
        let columns = schema.fields().iter().map(|field| Column::of(field)).collect();
        Ok(Self { file, descriptions: of_parquet.columns().to_vec(), columns, rows: 0 })
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut from = 0;
        while from < batch.num_rows() {
            let length = (GROUP_ROWS - self.rows).min(batch.num_rows() - from);
            for (column, array) in self.columns.iter_mut().zip(batch.columns()) {
                column.add(&array.slice(from, length));
            }
            (self.rows, from) = (self.rows + length, from + length);
            let bytes: usize = self.columns.iter().map(Column::bytes).sum();
            if self.rows == GROUP_ROWS || bytes > GROUP_BYTES {
                self.end_group()?;
            }
        }
        Ok(())
    }

    fn end_group(&mut self) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let properties = Arc::clone(self.file.properties());
        let mut group = self.file.next_row_group()?;
        let mut bytes = Vec::new();
        for (column, description) in self.columns.iter_mut().zip(&self.descriptions) {
            let pages = Box::new(Pages(&mut bytes));
            let mut writer = get_column_writer(Arc::clone(description), Arc::clone(&properties), pages);
            column.take(&mut writer)?;
            let closed = writer.close()?;
            let chunk = bytes::Bytes::from(std::mem::take(&mut bytes));
            group.append_column(&chunk, closed)?;
        }
        group.close()?;
        self.rows = 0;
        Ok(())
    }

    pub(super) fn append_key_value_metadata(&mut self, pair: KeyValue) {
        self.file.append_key_value_metadata(pair);
    }

    pub(super) fn finish(mut self) -> Result<Sink> {
        self.end_group()?;
        self.file.into_inner()
    }
}

impl Column {
    fn of(field: &Field) -> Self {
        match field.data_type() {
            DataType::Timestamp(..) => Self::Times(Vec::new()),
            DataType::Float64 => Self::Values(Values { values: Vec::new(), is_valid: BooleanBufferBuilder::new(0) }),
            _ => Self::Texts(Vec::new()),
        }
    }

    fn add(&mut self, array: &ArrayRef) {
        match self {
            Self::Times(times) => times.extend_from_slice(array.as_primitive::<TimestampMicrosecondType>().values()),
            Self::Values(kept) => {
                let values = array.as_primitive::<Float64Type>();
                match values.nulls().filter(|nulls| nulls.null_count() > 0) {
                    None => {
                        kept.values.extend_from_slice(values.values());
                        kept.is_valid.append_n(values.len(), true);
                    }
                    Some(nulls) => {
                        kept.values.extend(nulls.valid_indices().map(|row| values.value(row)));
                        kept.is_valid.append_buffer(nulls.inner());
                    }
                }
            }
            Self::Texts(texts) => texts.push(array.as_string::<i32>().clone()),
        }
    }

    /// What is kept of it, in bytes.
    fn bytes(&self) -> usize {
        match self {
            Self::Times(times) => times.len() * size_of::<i64>(),
            Self::Values(kept) => kept.values.len() * size_of::<f64>() + kept.is_valid.len().div_ceil(8),
            Self::Texts(texts) => texts.iter().map(|texts| texts.get_array_memory_size()).sum(),
        }
    }

    /// Moves what is kept into a chunk of the file.
    fn take(&mut self, writer: &mut ColumnWriter<'_>) -> Result<()> {
        match (self, writer) {
            (Self::Times(times), ColumnWriter::Int64ColumnWriter(writer)) => {
                writer.write_batch(&std::mem::take(times), None, None)?;
            }
            (Self::Values(kept), ColumnWriter::DoubleColumnWriter(writer)) => {
                let is_valid = kept.is_valid.finish();
                let levels: Vec<i16> = is_valid.iter().map(i16::from).collect();
                writer.write_batch(&std::mem::take(&mut kept.values), Some(&levels), None)?;
            }
            (Self::Texts(texts), ColumnWriter::ByteArrayColumnWriter(writer)) => {
                for texts in std::mem::take(texts) {
                    writer.write_batch(&byte_arrays(&texts), None, None)?;
                }
            }
            _ => return Err(ParquetError::General("a column has a type that is not written".to_owned())),
        }
        Ok(())
    }
}

/// Texts; neighbors are mostly the same.
fn byte_arrays(texts: &StringArray) -> Vec<ByteArray> {
    let mut all: Vec<ByteArray> = Vec::with_capacity(texts.len());
    for row in 0..texts.len() {
        let text = texts.value(row).as_bytes();
        let one = match all.last() {
            Some(last) if last.data() == text => last.clone(),
            _ => ByteArray::from(text.to_vec()),
        };
        all.push(one);
    }
    all
}

/// Appends the pages of a chunk.
struct Pages<'a>(&'a mut Vec<u8>);

impl PageWriter for Pages<'_> {
    fn write_page(&mut self, page: CompressedPage) -> Result<PageWriteSpec> {
        let length = page.data().len();
        let mut checksum = flate2::Crc::new();
        checksum.update(page.data());
        let mut plain = TrackedWrite::new(Vec::new());
        let mut spec = SerializedPageWriter::new(&mut plain).write_page(page)?;
        let plain = plain.into_inner()?;
        let (header, data) = plain.split_at(plain.len() - length);
        let start = self.0.len();
        with_checksum(header, checksum.sum(), self.0)
            .ok_or_else(|| ParquetError::General("the header of a page has no place for a checksum".to_owned()))?;
        let longer = self.0.len() - start - header.len();
        self.0.extend_from_slice(data);
        spec.uncompressed_size += longer;
        spec.compressed_size += longer;
        spec.offset = start as u64;
        spec.bytes_written = (self.0.len() - start) as u64;
        Ok(spec)
    }

    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A field of 32 bits, in Thrift's compact protocol, whose number is the next one.
const NEXT_I32: u8 = 0x15;

/// Appends a page's header to which the checksum is added, which is its fourth field: it has the first three, each of 32
/// bits, and not the fourth.
///
/// Source: the Thrift definition of Parquet, `PageHeader`, and Thrift's documentation, "Compact protocol".
fn with_checksum(header: &[u8], checksum: u32, out: &mut Vec<u8>) -> Option<()> {
    let mut end = 0;
    for _ in 0..3 {
        if *header.get(end)? != NEXT_I32 {
            return None;
        }
        let number = header.get(end + 1..)?;
        end += 2 + number.iter().position(|byte| byte & 0x80 == 0)?;
    }
    let (three, rest) = header.split_at(end);
    // The number of the field after it is relative to that before it.
    let (next, rest) = rest.split_first()?;
    let next = next.checked_sub(0x10).filter(|next| next >> 4 > 0)?;
    out.extend_from_slice(three);
    out.push(NEXT_I32);
    let signed = checksum.cast_signed();
    let mut zigzag = ((signed << 1) ^ (signed >> 31)).cast_unsigned();
    while zigzag >= 0x80 {
        out.push((zigzag & 0x7f) as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
    out.push(next);
    out.extend_from_slice(rest);
    Some(())
}
