//! What a series has of what is asked for.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::options::Options;
use crate::database;
use crate::files::{Definition, Form};
use crate::repository::series::{chosen_columns, columns_in_order};
use crate::repository::{ColumnSpan, Error, Snapshot};

/// What a series has of what is asked for.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The series; its columns are those that are read.
    pub definition: Definition,
    /// The columns of the rows, as Arrow has them.
    pub schema: SchemaRef,
    /// Number of points that the server expects; with aggregates, of those that they are computed from.
    pub expected_points: u64,
    /// The columns whose points are read.
    pub(super) sources: Vec<String>,
    /// `true` if the series may have points of other columns.
    pub(super) is_chosen: bool,
    /// The columns of values in their order; with aggregates, those of the aggregates.
    pub(super) columns: Vec<String>,
    /// The times, in microseconds since the Unix epoch.
    pub(super) range: Range<i64>,
}

impl Plan {
    /// Finds out what a series has, without the number of its points.
    pub(super) async fn new(snapshot: &Snapshot, mut definition: Definition, options: &Options) -> Result<Self, Error> {
        let mut spans = snapshot.columns(&definition.id).await?;
        let known = columns_in_order(&definition, &spans);
        let sources = chosen_columns(&definition.id, known, &options.columns)?;
        let is_chosen = !options.columns.is_empty();
        if is_chosen {
            let chosen: HashSet<&String> = sources.iter().collect();
            spans.retain(|span| chosen.contains(&span.name));
        }
        let columns: Vec<String> = match &options.bucket {
            None => sources.clone(),
            Some(bucket) => sources
                .iter()
                .flat_map(|column| bucket.aggregates.iter().map(move |aggregate| aggregate.column(column)))
                .collect(),
        };
        let range = range(&definition.id, &spans, options)?;
        // Of all columns the definition goes with them unchanged, so that an import restores it.
        if is_chosen || options.bucket.is_some() {
            definition.value_columns.clone_from(&columns);
        }
        if let Some(name) = &options.time_column {
            definition.time_column.clone_from(name);
        }
        let schema = match options.form {
            Form::Wide => wide_schema(&definition, &columns)?,
            Form::Long => long_schema(),
        };
        Ok(Self { definition, schema, expected_points: 0, sources, is_chosen, columns, range })
    }

    /// The same for a moment at which the series may have more columns.
    pub(super) fn of_later_moment(&self) -> Self {
        #[cfg(feature = "planted-bugs")]
        if crate::planted_bugs::is_on("columns-of-later-moments-are-read") {
            return self.clone();
        }
        Self { is_chosen: true, ..self.clone() }
    }

    /// A batch of rows with these columns, which are those of the schema.
    pub(super) fn batch(&self, arrays: Vec<ArrayRef>) -> Result<RecordBatch, Error> {
        RecordBatch::try_new(Arc::clone(&self.schema), arrays)
            .map_err(|error| database::Error::Unexpected(error.to_string()).into())
    }
}

/// Times in microseconds since the Unix epoch, in the type of the schemas.
pub(in crate::repository) fn times(us: Vec<i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(us).with_timezone("UTC"))
}

/// The times that are read, which may be fewer than those that are asked for.
fn range(series: &str, spans: &[ColumnSpan], options: &Options) -> Result<Range<i64>, Error> {
    let (Some(first), Some(last)) =
        (spans.iter().map(|span| span.first_us).min(), spans.iter().map(|span| span.last_us).max())
    else {
        return Ok(0..0);
    };
    let from = options.from_us.unwrap_or(i64::MIN).max(first);
    let until = options.until_us.unwrap_or(i64::MAX).min(last.saturating_add(1));
    if from >= until {
        return Ok(0..0);
    }
    // Only what is infinite is read with such an end.
    if from == i64::MIN || until == i64::MAX {
        return Err(Error::Time { series: series.to_owned() });
    }
    Ok(from..until)
}

fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn wide_schema(definition: &Definition, columns: &[String]) -> Result<SchemaRef, Error> {
    let time = &definition.time_column;
    if columns.contains(time) {
        return Err(Error::TimeColumn { series: definition.id.clone(), column: time.clone() });
    }
    let values = columns.iter().map(|name| Field::new(name, DataType::Float64, true));
    let fields: Vec<Field> = std::iter::once(Field::new(time, time_type(), false)).chain(values).collect();
    Ok(Arc::new(Schema::new(fields)))
}

/// The columns of rows that are points.
pub(in crate::repository) fn long_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("series", DataType::Utf8, false),
        Field::new("timestamp", time_type(), false),
        Field::new("column", DataType::Utf8, false),
        Field::new("value", DataType::Float64, true),
    ]))
}
