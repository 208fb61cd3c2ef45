//! What a series has of what is asked for.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::options::{Form, Options};
use crate::files::Definition;
use crate::repository::{ColumnSpan, Error, Snapshot};

/// What a series has of what is asked for.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The series; its columns are those that are read.
    pub definition: Definition,
    /// The columns of the rows, as Arrow has them.
    pub schema: SchemaRef,
    /// The columns that are asked for, if not all are.
    pub(super) chosen: Option<Vec<String>>,
    /// The columns whose points are read, in the order of the rows' columns; with aggregates, those of the aggregates.
    pub(super) columns: Vec<String>,
    /// The times, in microseconds since the Unix epoch.
    pub(super) range: Range<i64>,
}

impl Plan {
    /// Finds out what a series has.
    ///
    /// # Errors
    /// If the server does not answer; if the series has none of the columns; if a column has the name of the time column; if
    /// the times cannot be in a file.
    pub async fn new(snapshot: &Snapshot, mut definition: Definition, options: &Options) -> Result<Self, Error> {
        let mut spans = snapshot.columns(&definition.id).await?;
        let mut known = unique(std::mem::take(&mut definition.value_columns));
        let listed: HashSet<&String> = known.iter().collect();
        let others: Vec<String> =
            spans.iter().map(|span| span.name.clone()).filter(|name| !listed.contains(name)).collect();
        known.extend(others);
        let mut columns = known;
        let mut chosen = None;
        if !options.columns.is_empty() {
            let there: HashSet<String> = columns.iter().cloned().collect();
            let asked = unique(options.columns.clone());
            if let Some(column) = asked.iter().find(|name| !there.contains(*name)) {
                return Err(Error::UnknownColumn { series: definition.id, column: column.clone(), known: columns });
            }
            let asked_set: HashSet<&String> = asked.iter().collect();
            spans.retain(|span| asked_set.contains(&span.name));
            chosen = Some(asked.clone());
            columns = asked;
        }
        if let Some(bucket) = &options.bucket {
            columns = columns
                .iter()
                .flat_map(|column| bucket.aggregates.iter().map(move |aggregate| aggregate.column(column)))
                .collect();
        }
        let range = range(&definition.id, &spans, options)?;
        definition.value_columns.clone_from(&columns);
        if let Some(name) = &options.time_column {
            definition.time_column.clone_from(name);
        }
        let schema = match options.form {
            Form::Wide => wide_schema(&definition)?,
            Form::Long => long_schema(),
        };
        Ok(Self { definition, schema, chosen, columns, range })
    }
}

/// Each name once, at its first place.
fn unique(names: Vec<String>) -> Vec<String> {
    let mut seen = HashSet::new();
    names.into_iter().filter(|name| seen.insert(name.clone())).collect()
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

fn wide_schema(definition: &Definition) -> Result<SchemaRef, Error> {
    let time = &definition.time_column;
    if definition.value_columns.contains(time) {
        return Err(Error::TimeColumn { series: definition.id.clone(), column: time.clone() });
    }
    let values = definition.value_columns.iter().map(|name| Field::new(name, DataType::Float64, true));
    let fields: Vec<Field> = std::iter::once(Field::new(time, time_type(), false)).chain(values).collect();
    Ok(Arc::new(Schema::new(fields)))
}

fn long_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("series", DataType::Utf8, false),
        Field::new("timestamp", time_type(), false),
        Field::new("column", DataType::Utf8, false),
        Field::new("value", DataType::Float64, true),
    ]))
}
