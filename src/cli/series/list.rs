//! `series list` and `series show`.

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::cli::Failure;
use crate::cli::output::{is_open, print_line};
use crate::cli::reading::{Reading, say_moments};
use crate::cli::selection::Matching;
use crate::config::Config;
use crate::repository::{ColumnSpan, Series, Snapshot};
use crate::telemetry::{escaped, list, time_us};

/// The widest column of ids.
const MAX_WIDTH: usize = 60;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    series-ingest series list\n  \
    series-ingest series list --match 'plant-*' --label site=a --json | jq .id\n  \
    series-ingest series list --definitions            only what is defined, also of very many series at once\n\n\
    The number of points is an estimate by the server's statistics.")]
pub(in crate::cli) struct ListArguments {
    #[command(flatten)]
    matching: Matching,
    #[command(flatten)]
    reading: Reading,
    /// Only the definitions, without reading points.
    #[arg(long)]
    definitions: bool,
    /// As JSON lines, one for each series.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    series-ingest series show seattle-weather\n  \
    series-ingest series show seattle-weather --json | jq .columns")]
pub(in crate::cli) struct ShowArguments {
    /// The id of the series.
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    reading: Reading,
    /// As one JSON document.
    #[arg(long)]
    json: bool,
}

/// The points of a series, or of one of its columns.
struct Extent {
    first_us: i64,
    last_us: i64,
    points: u64,
}

impl Extent {
    fn first(&self) -> String {
        time(self.first_us)
    }

    fn last(&self) -> String {
        time(self.last_us)
    }
}

/// A time, also one without end.
fn time(us: i64) -> String {
    match us {
        i64::MIN => "-infinity".to_owned(),
        i64::MAX => "infinity".to_owned(),
        us => time_us(us),
    }
}

/// The extent of all columns; `None` if there are no points.
async fn extent(snapshot: &Snapshot, id: &str, columns: &[ColumnSpan]) -> Result<Option<Extent>, Failure> {
    let first_us = columns.iter().map(|column| column.first_us).min();
    let last_us = columns.iter().map(|column| column.last_us).max();
    let (Some(first_us), Some(last_us)) = (first_us, last_us) else { return Ok(None) };
    Ok(Some(Extent { first_us, last_us, points: snapshot.expected_points(id, None).await? }))
}

pub(super) async fn list_all(config: &Config, arguments: &ListArguments) -> Result<(), Failure> {
    let selection = arguments.matching.selection(Vec::new())?;
    let snapshot = arguments.reading.open(config).await?;
    let all = snapshot.series(&selection).await?;
    let width = all.iter().map(|one| shown(&one.definition.id).chars().count()).max().unwrap_or(0).clamp(2, MAX_WIDTH);
    if !arguments.json {
        print_line(heading(width, arguments.definitions));
    }
    for series in &all {
        if !is_open() {
            break;
        }
        let id = &series.definition.id;
        let extent = match arguments.definitions {
            true => None,
            false => extent(&snapshot, id, &snapshot.columns(id).await?).await?,
        };
        if arguments.json {
            let points = (!arguments.definitions).then(|| Points::of(extent.as_ref()));
            Document { points, ..Document::of(series) }.print();
        } else {
            print_line(line(series, extent.as_ref(), width, arguments.definitions));
        }
    }
    say_moments(&snapshot, "the list");
    Ok(())
}

fn shown(id: &str) -> String {
    escaped(id).to_string()
}

fn columns_of(series: &Series) -> String {
    escaped(&list(series.definition.value_columns.iter().map(String::as_str))).to_string()
}

fn heading(width: usize, only_definitions: bool) -> String {
    let points = format!("  {:27}  {:27}  {:>12}", "first_time", "last_time", "points");
    let points = if only_definitions { "" } else { &points };
    format!("{:width$}{points}  {:27}  columns", "id", "updated_at")
}

fn line(series: &Series, extent: Option<&Extent>, width: usize, only_definitions: bool) -> String {
    let points = match extent {
        _ if only_definitions => String::new(),
        Some(extent) => format!("  {:27}  {:27}  {:>12}", extent.first(), extent.last(), extent.points),
        None => format!("  {:27}  {:27}  {:>12}", "-", "-", 0),
    };
    let columns = columns_of(series);
    format!("{:width$}{points}  {:27}  {columns}", shown(&series.definition.id), time(series.updated_us))
}

/// A series as JSON, with the names of the message `series-create`.
#[derive(Serialize)]
struct Document<'a> {
    id: &'a str,
    name: Option<&'a str>,
    description: Option<&'a str>,
    time_column: &'a str,
    value_columns: &'a [String],
    /// As the database prints them: a number keeps all of its digits.
    labels: Option<&'a RawValue>,
    created_at: String,
    updated_at: String,
    #[serde(flatten)]
    points: Option<Points>,
    #[serde(skip_serializing_if = "Option::is_none")]
    columns: Option<Vec<Column<'a>>>,
}

/// The points of a series or a column as JSON.
#[derive(Serialize)]
struct Points {
    first_time: Option<String>,
    last_time: Option<String>,
    points_estimate: u64,
}

/// A column as JSON.
#[derive(Serialize)]
struct Column<'a> {
    name: &'a str,
    #[serde(flatten)]
    points: Points,
    last_value: Value,
}

impl Points {
    fn of(extent: Option<&Extent>) -> Self {
        Self {
            first_time: extent.map(Extent::first),
            last_time: extent.map(Extent::last),
            points_estimate: extent.map_or(0, |extent| extent.points),
        }
    }
}

impl<'a> Document<'a> {
    fn of(series: &'a Series) -> Self {
        let known = &series.definition;
        Self {
            id: &known.id,
            name: known.name.as_deref(),
            description: known.description.as_deref(),
            time_column: &known.time_column,
            value_columns: &known.value_columns,
            labels: known.labels.as_deref().and_then(|text| serde_json::from_str(text).ok()),
            created_at: time(series.created_us),
            updated_at: time(series.updated_us),
            points: None,
            columns: None,
        }
    }

    fn print(&self) {
        print_line(serde_json::to_string(self).expect("texts and JSON are JSON"));
    }
}

/// A value as messages have it.
fn value(value: Option<f64>) -> Value {
    match value {
        Some(value) if value.is_infinite() => if value > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        value => value.into(),
    }
}

pub(super) async fn show(config: &Config, arguments: &ShowArguments) -> Result<(), Failure> {
    let snapshot = arguments.reading.open(config).await?;
    let series = snapshot.one_series(&arguments.id).await?;
    let spans = snapshot.columns(&arguments.id).await?;
    let all = extent(&snapshot, &arguments.id, &spans).await?;
    let mut columns = Vec::new();
    for span in spans {
        let points = snapshot.expected_points(&arguments.id, Some(&span.name)).await?;
        let extent = Extent { first_us: span.first_us, last_us: span.last_us, points };
        columns.push((span.name, extent, span.last_value));
    }
    if arguments.json {
        let columns = columns.iter().map(|(name, extent, last)| Column {
            name,
            points: Points::of(Some(extent)),
            last_value: value(*last),
        });
        let points = Some(Points::of(all.as_ref()));
        Document { points, columns: Some(columns.collect()), ..Document::of(&series) }.print();
    } else {
        print_series(&series, all.as_ref(), &columns);
    }
    say_moments(&snapshot, "this");
    Ok(())
}

fn print_series(series: &Series, all: Option<&Extent>, columns: &[(String, Extent, Option<f64>)]) {
    let known = &series.definition;
    let optional =
        |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), |text| escaped(text).to_string());
    for (name, value) in [
        ("id", shown(&known.id)),
        ("name", optional(&known.name)),
        ("description", optional(&known.description)),
        ("time_column", escaped(&known.time_column).to_string()),
        ("value_columns", columns_of(series)),
        ("labels", optional(&known.labels)),
        ("created_at", time(series.created_us)),
        ("updated_at", time(series.updated_us)),
        ("points", all.map_or_else(|| "none".to_owned(), |all| format!("about {}", all.points))),
    ] {
        print_line(format_args!("{name:13}  {value}"));
    }
    if columns.is_empty() {
        return;
    }
    let width = columns.iter().map(|(name, ..)| shown(name).chars().count()).max().unwrap_or(0).clamp(6, MAX_WIDTH);
    let heading = format!("{:width$}  {:27}  {:27}  {:>12}  last_value", "column", "first_time", "last_time", "points");
    print_line(format_args!("\n{heading}"));
    for (name, extent, last) in columns {
        let (name, first, last_time) = (shown(name), extent.first(), extent.last());
        let last = last.map_or_else(|| "NULL".to_owned(), |value| value.to_string());
        print_line(format_args!("{name:width$}  {first:27}  {last_time:27}  {:>12}  {last}", extent.points));
    }
}
