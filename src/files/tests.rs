//! What is written is read again, and a file that is damaged is refused or reported, whatever is in it.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::read::table::Table;
use super::read::{ReadError, ReadOptions, Rows};
use super::whole::WholeFile;
use super::write::{Head, Sink, Writer};
use super::{Compression, Definition, Format};

/// The rows of a file.
const ROWS: usize = 1_000;

/// Keeps the messages of rows.
#[derive(Default)]
struct Kept(Vec<Vec<u8>>);

impl Rows for Kept {
    fn wants(&mut self, _: i64, _: i32) -> bool {
        true
    }

    fn put(&mut self, _: i64, _: i32, payload: &[u8], _: usize) {
        self.0.push(payload.to_vec());
    }

    fn end_row(&mut self, _: i64, _: Range<usize>) -> Result<(), ReadError> {
        Ok(())
    }

    fn end(&mut self, _: i64, _: Range<usize>) -> Result<(), ReadError> {
        Ok(())
    }

    fn first_wanted(&self, _: Range<usize>) -> i64 {
        1
    }
}

/// The messages of a file, or why it is not read as a whole.
fn read(path: &Path) -> Result<Vec<Vec<u8>>, ReadError> {
    let options = ReadOptions { max_columns: 1000, max_bytes: 40 * 1024, ..ReadOptions::default() };
    let mut kept = Kept::default();
    Table::open(path, &options)?.read(&mut kept)?;
    Ok(kept.0)
}

fn times(rows: usize) -> ArrayRef {
    let us = (0..).map(|row| 1_700_000_000_000_000 + row * 1_000_003).take(rows);
    Arc::new(TimestampMicrosecondArray::from_iter_values(us).with_timezone("UTC"))
}

fn noise(rows: usize) -> ArrayRef {
    let of = |row: usize| (!row.is_multiple_of(5)).then(|| (row as f64).sqrt());
    Arc::new(Float64Array::from_iter((0..rows).map(of)))
}

fn wide(rows: usize) -> RecordBatch {
    let columns = vec![("date", times(rows), false), ("a", noise(rows), true), ("b", noise(rows), true)];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

fn long(rows: usize) -> RecordBatch {
    let names = |each: usize| Arc::new(StringArray::from_iter_values((0..rows).map(|row| format!("n{}", row / each))));
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("series", names(400), false),
        ("timestamp", times(rows), false),
        ("column", names(100), false),
        ("value", noise(rows), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

fn written(folder: &Path, format: Format, compression: Compression, batches: &[RecordBatch], index: bool) -> PathBuf {
    let path = folder.join(format!("f{}.{}", compression.ending(), format.as_str()));
    let schema: SchemaRef = batches[0].schema();
    let definition = Definition { id: "s".to_owned(), time_column: "date".to_owned(), ..Definition::default() };
    let head = Head { schema, definitions: vec![definition], index: index.then(|| "date".to_owned()) };
    let whole = |path: &Path| WholeFile::create(path, true).unwrap();
    let beside = (!format.has_metadata()).then(|| whole(&super::whole::with_ending(&path, super::BESIDE)));
    let mut writer = Writer::new(Sink::Whole(whole(&path)), beside, format, compression, &head).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.finish().unwrap();
    path
}

/// Every format and compression, wide and long.
fn all(folder: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for (form, batch) in [("wide", wide(ROWS)), ("long", long(ROWS))] {
        for format in [Format::Parquet, Format::Arrow, Format::Csv, Format::JsonLines] {
            for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
                if (format, compression) == (Format::Arrow, Compression::Gzip) {
                    continue;
                }
                let folder = folder.join(format!("{form}-{}", compression.ending()));
                fs::create_dir_all(&folder).unwrap();
                paths.push(written(&folder, format, compression, std::slice::from_ref(&batch), form == "wide"));
            }
        }
    }
    // As pandas writes Feather, and a stream.
    let batch = wide(ROWS);
    let lz4 = arrow_ipc::writer::IpcWriteOptions::default();
    let lz4 = lz4.try_with_compression(Some(arrow_ipc::CompressionType::LZ4_FRAME)).unwrap();
    let schema = Schema::new_with_metadata(
        batch.schema().fields().clone(),
        [("series_ingest.series".to_owned(), r#"[{"id":"s"}]"#.to_owned())],
    );
    let batch = RecordBatch::try_new(Arc::new(schema), batch.columns().to_vec()).unwrap();
    let feather = folder.join("f.feather");
    let file = fs::File::create(&feather).unwrap();
    let mut writer = arrow_ipc::writer::FileWriter::try_new_with_options(file, &batch.schema(), lz4.clone()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    let stream = folder.join("f.stream");
    let file = fs::File::create(&stream).unwrap();
    let mut writer = arrow_ipc::writer::StreamWriter::try_new_with_options(file, &batch.schema(), lz4).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    paths.extend([feather, stream]);
    paths
}

#[test]
fn what_is_written_is_read_and_what_is_damaged_is_refused_or_reported() {
    let seed = std::env::var("SEED").map_or_else(|_| rand::random(), |text| text.parse().unwrap());
    let checked = std::panic::catch_unwind(|| check_damage(seed));
    assert!(checked.is_ok(), "the panic before this one is of the seed {seed}: SEED={seed} repeats it");
}

fn check_damage(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let (mut refused, mut reported, mut unseen) = (0, 0, 0);
    for path in all(folder.path()) {
        let whole = read(&path).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(whole.len(), ROWS, "{}", path.display());
        let bytes = fs::read(&path).unwrap();
        for round in 0..40 {
            let mut damaged = bytes.clone();
            for _ in 0..random.random_range(1..=5) {
                // Half of them where the structure is: at both ends.
                let near = random.random_range(0..damaged.len().min(2_000));
                let at = match random.random_range(0..4) {
                    0 => near,
                    1 => damaged.len() - 1 - near,
                    _ => random.random_range(0..damaged.len()),
                };
                damaged[at] ^=
                    if round % 2 == 0 { 1 << random.random_range(0..8) } else { random.random_range(1..=255) };
            }
            if round % 10 == 9 {
                damaged.truncate(random.random_range(0..damaged.len()));
            }
            fs::write(&path, &damaged).unwrap();
            match read(&path) {
                Err(ReadError::Unclear { .. }) => refused += 1,
                Err(ReadError::Damaged { .. }) => reported += 1,
                // In a text, or where nothing stands.
                Ok(_) => unseen += 1,
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
    }
    assert!(reported > 100, "{refused} refused, {reported} reported, {unseen} unseen");
}

/// What a library would allocate: a length in front of a compressed buffer that no memory has.
#[test]
fn a_length_that_no_memory_has_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = all(folder.path()).into_iter().find(|path| path.ends_with("f.feather")).unwrap();
    let bytes = fs::read(&path).unwrap();
    // Of values of eight bytes each.
    let length = (8 * ROWS as i64).to_le_bytes();
    let places: Vec<usize> = (0..bytes.len() - 8).filter(|at| bytes[*at..*at + 8] == length).collect();
    assert!(!places.is_empty());
    for at in places {
        let mut damaged = bytes.clone();
        damaged[at + 6] = 0x10;
        fs::write(&path, &damaged).unwrap();
        assert!(matches!(read(&path), Err(ReadError::Damaged { .. })), "at {at}");
    }
}

#[test]
fn every_flipped_bit_of_an_exported_page_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path(), Format::Parquet, Compression::None, &[wide(ROWS)], true);
    let whole = read(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    // All but the footer, whose length stands in front of the mark.
    let footer = u32::from_le_bytes(bytes[bytes.len() - 8..bytes.len() - 4].try_into().unwrap()) as usize;
    let pages = bytes.len() - 8 - footer;
    for at in (4..pages).step_by(pages / 300) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(&path, &damaged).unwrap();
        // What is not in a page is an index, which is not needed, or in a header.
        if let Ok(read) = read(&path) {
            assert!(read == whole, "the byte {at} of {pages}");
        }
    }
}

#[test]
fn groups_of_parquet_are_bounded_and_keep_every_row() {
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    let folder = tempfile::tempdir().unwrap();
    let batch = long(70_000);
    let path = written(folder.path(), Format::Parquet, Compression::Zstd, &[batch.clone(), batch.clone()], false);
    let open = |path: &Path| ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path).unwrap()).unwrap();
    let rows =
        |path: &Path| -> Vec<i64> { open(path).metadata().row_groups().iter().map(|group| group.num_rows()).collect() };
    assert_eq!(rows(&path), [131_072, 140_000 - 131_072]);
    let read: Vec<RecordBatch> = open(&path).with_batch_size(70_000).build().unwrap().map(Result::unwrap).collect();
    // The schema of a file has metadata.
    let columns = |batch: &RecordBatch| batch.columns().to_vec();
    assert_eq!(read.iter().map(columns).collect::<Vec<_>>(), vec![columns(&batch); 2]);
    assert!(
        open(&path)
            .metadata()
            .file_metadata()
            .key_value_metadata()
            .unwrap()
            .iter()
            .any(|pair| pair.key == "ARROW:schema")
    );

    // Of very many columns a group has fewer rows, and those that have no point take nearly nothing.
    let time = Field::new("date", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false);
    let fields = std::iter::once(time).chain((0..4_000).map(|n| Field::new(format!("c{n}"), DataType::Float64, true)));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let of = |column: ArrayRef| {
        let columns = std::iter::once(times(250)).chain(std::iter::repeat_n(column, 4_000)).collect();
        RecordBatch::try_new(Arc::clone(&schema), columns).unwrap()
    };
    let dense = of(Arc::new(Float64Array::from_iter_values((0..250).map(f64::from))));
    let path = written(folder.path(), Format::Parquet, Compression::Zstd, &vec![dense; 12], true);
    let (most, all) = (rows(&path).into_iter().max().unwrap(), rows(&path).iter().sum::<i64>());
    assert!(most * 4_000 * 8 <= (64 << 20) + 250 * 4_000 * 8 && all == 3_000, "{most} of {all} rows");
    let sparse = of(Arc::new(Float64Array::new_null(250)));
    let path = written(folder.path(), Format::Parquet, Compression::Zstd, &vec![sparse; 12], true);
    assert_eq!(rows(&path), [3_000]);
}

#[test]
fn a_parquet_file_of_an_unknown_compression_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path(), Format::Parquet, Compression::Gzip, &[wide(10)], true);
    let open =
        |path: &Path| Table::open(path, &ReadOptions { max_columns: 9, max_bytes: 9000, ..ReadOptions::default() });
    open(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let footer = u32::from_le_bytes(bytes[bytes.len() - 8..bytes.len() - 4].try_into().unwrap()) as usize;
    let start = bytes.len() - 8 - footer;
    let mut said = BTreeSet::new();
    // The footer says it as the field 4 of a column, which follows its path: GZIP is 2, LZO 3, BROTLI 4.
    for (gzip, other) in [(4_u8, 6_u8), (4, 8)] {
        let mut changed = bytes.clone();
        for at in start..bytes.len() - 9 {
            if changed[at..at + 2] == [0x15, gzip] {
                changed[at + 1] = other;
                fs::write(&path, &changed).unwrap();
                if let Err(ReadError::Unclear { text, .. }) = open(&path) {
                    said.insert(text.split_once("compressed by ").unwrap().1.split(',').next().unwrap().to_owned());
                }
                changed[at + 1] = gzip;
            }
        }
    }
    assert_eq!(said.into_iter().collect::<Vec<_>>(), ["Brotli", "LZO"]);
}
