//! A unit into a file, as of one moment, however many points it has.

use std::path::Path;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_array::builder::{Float64Builder, StringBuilder};
use jiff::Timestamp;

use super::contents::Contents;
use super::folder::{Known, write_manifest};
use super::manifest::{FORMAT_VERSION, Manifest};
use super::origin::Origin;
use super::rows::Decoder;
use super::summary::Summary;
use super::{ArchiveError, POINTS, Unit};
use crate::database;
use crate::files::read::points::Point;
use crate::files::whole::WholeFile;
use crate::files::write::{Head, NULL_POINT, Sink, Writer, Written};
use crate::files::{Compression, Format};
use crate::repository::export::{BATCH_ROWS, long_schema, times};
use crate::repository::{Error, Snapshot};
use crate::telemetry;

/// Maximum number of ids in a manifest.
const SAMPLE: usize = 64;

/// The rows of a unit by series, column, time and the bits of the value, which is the order of [`Point::order`]. The server has an
/// index for all but the last.
fn sql(unit: &Unit) -> String {
    format!(
        "select time_series_id::text, column_name::text, \"timestamp\", value, id::bigint from {POINTS} where {}
         order by time_series_id, column_name, \"timestamp\", float8send(value)",
        unit.condition()
    )
}

/// Some of the ids, about as far from each other.
#[derive(Debug)]
struct Sample {
    ids: Vec<i64>,
    stride: u64,
    seen: u64,
}

impl Sample {
    fn new() -> Self {
        Self { ids: Vec::new(), stride: 1, seen: 0 }
    }

    fn add(&mut self, id: i64) {
        if self.seen.is_multiple_of(self.stride) {
            if self.ids.len() == SAMPLE {
                let mut keep = [true, false].into_iter().cycle();
                self.ids.retain(|_| keep.next().unwrap_or(true));
                self.stride *= 2;
            }
            if self.seen.is_multiple_of(self.stride) {
                self.ids.push(id);
            }
        }
        self.seen += 1;
    }
}

/// Reads the rows of a unit; `take` gets them with their ids.
async fn read(
    snapshot: &Snapshot,
    unit: &Unit,
    mut take: impl FnMut(&Point<'_>, i64) -> Result<(), Error>,
) -> Result<(), ArchiveError> {
    let mut decoder = Decoder::default();
    snapshot.copy(&sql(unit), |piece| decoder.take(piece, &mut take)).await?;
    Ok(decoder.end()?)
}

/// The hash of the contents of a unit, as in manifests.
pub(super) async fn content_hash(snapshot: &Snapshot, unit: &Unit) -> Result<String, ArchiveError> {
    let mut contents = Contents::default();
    read(snapshot, unit, |point, _| {
        contents.add(point);
        Ok(())
    })
    .await?;
    Ok(contents.hash())
}

/// Writes the rows of a unit that a snapshot has into a file, and then its manifest; `progress` gets numbers of rows.
pub(super) async fn export(
    snapshot: &Snapshot,
    unit: &Unit,
    (path, number): (&Path, u32),
    (origin, summary): (&Origin, Summary),
    progress: &(impl Fn(u64) + Sync),
) -> Result<Known, ArchiveError> {
    let definitions = snapshot.definitions_within(unit.from_us, unit.until_us).await?;
    let head = Head { schema: long_schema(), definitions, index: None };
    let written = Written::default();
    let sink = Sink::Hashed(WholeFile::create(path, false)?, written.clone());
    let mut writer = Writer::new(sink, None, Format::Parquet, Compression::Zstd, &head)?;
    let (mut contents, mut sample, mut batch) = (Contents::default(), Sample::new(), Batch::default());
    read(snapshot, unit, |point, id| {
        contents.add(point);
        sample.add(id);
        batch.add(point);
        if batch.times.len() == BATCH_ROWS {
            writer.write(&std::mem::take(&mut batch).finish(&head)?)?;
            progress(BATCH_ROWS as u64);
        }
        Ok(())
    })
    .await?;
    progress(batch.times.len() as u64);
    writer.write(&batch.finish(&head)?)?;
    if i64::try_from(contents.rows) != Ok(summary.rows) {
        let text = format!("the server counts {} points and sends {}", summary.rows, contents.rows);
        return Err(ArchiveError::Internal(text));
    }
    writer.finish()?;
    let (sha256, bytes) = written.hash_and_length();
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        program: concat!("series-ingest ", env!("CARGO_PKG_VERSION")).to_owned(),
        created_at: Timestamp::now().to_string(),
        origin: origin.clone(),
        from: telemetry::time_us(unit.from_us),
        until: telemetry::time_us(unit.until_us),
        from_us: unit.from_us,
        until_us: unit.until_us,
        file: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        bytes,
        sha256,
        rows: contents.rows,
        series: contents.series,
        columns: contents.columns,
        first_time: contents.times.map(|(first, _)| telemetry::time_us(first)),
        last_time: contents.times.map(|(_, last)| telemetry::time_us(last)),
        content_sha256: contents.hash(),
        table_summary: summary,
        sample_ids: sample.ids,
    };
    write_manifest(path, &manifest)?;
    Ok(Known { number, path: path.to_owned(), manifest: Some(manifest) })
}

#[derive(Default)]
struct Batch {
    series: StringBuilder,
    times: Vec<i64>,
    columns: StringBuilder,
    values: Float64Builder,
}

impl Batch {
    fn add(&mut self, point: &Point<'_>) {
        self.series.append_value(point.series);
        self.times.push(point.time_us);
        self.columns.append_value(point.column);
        self.values.append_values(&[point.value.unwrap_or(NULL_POINT)], &[point.value.is_some()]);
    }

    fn finish(mut self, head: &Head) -> Result<RecordBatch, Error> {
        let arrays: Vec<arrow_array::ArrayRef> = vec![
            Arc::new(self.series.finish()),
            times(self.times),
            Arc::new(self.columns.finish()),
            Arc::new(self.values.finish()),
        ];
        RecordBatch::try_new(Arc::clone(&head.schema), arrays)
            .map_err(|error| database::Error::Unexpected(error.to_string()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_spread_and_small() {
        let mut sample = Sample::new();
        for id in 0..1000 {
            sample.add(id);
        }
        assert!((SAMPLE / 2..=SAMPLE).contains(&sample.ids.len()), "{:?}", sample.ids);
        assert!(sample.ids.windows(2).all(|pair| pair[1] - pair[0] == 16), "{:?}", sample.ids);
    }
}
