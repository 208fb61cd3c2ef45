//! What `points import --dry-run` has found in a file.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cli::output::print_line;
use crate::files::read::table::Table;
use crate::repository::import::Checked;
use crate::telemetry::{escaped, shown};

fn time(time_us: Option<i64>) -> Option<String> {
    let time_us = time_us?;
    Some(Timestamp::from_microsecond(time_us).map_or_else(|_| format!("{time_us} us"), |time| time.to_string()))
}

/// What was found, as JSON.
pub(super) fn document(table: &Table, checked: &Checked) -> Value {
    let named =
        checked.named.iter().map(|(row, why)| json!({"row": row, "reason": why.reason.as_str(), "detail": why.detail}));
    json!({
        "file": table.content().path().display().to_string(),
        "format": table.format().as_str(),
        "form": table.form().as_str(),
        "series": table.series().ok(),
        "series_column": table.series().err(),
        "time_column": table.time_column(),
        "columns": table.columns(),
        "definitions": table.definitions().len(),
        "rows": checked.rows,
        "points": checked.points,
        "first_time": time(checked.first_us),
        "last_time": time(checked.last_us),
        "refused": checked.rejected,
        "refused_first": named.collect::<Vec<_>>(),
    })
}

/// The same, printed for a person.
pub(super) fn print_found(table: &Table, checked: &Checked) {
    let columns = table.columns();
    let what = if columns.is_empty() {
        "a row is a point".to_owned()
    } else {
        let shown: Vec<String> = columns.iter().take(20).map(|name| escaped(name).to_string()).collect();
        let more = if shown.len() < columns.len() { ", …" } else { "" };
        format!("{} columns: {}{more}", columns.len(), shown.join(", "))
    };
    let series = match table.series() {
        Ok(id) => format!("series {}", escaped(id)),
        Err(column) => format!("series by the column {}", escaped(column)),
    };
    print_line(format_args!(
        "{}: {}, {}, {series}, times in {}",
        shown(table.content().path()),
        table.format().as_str(),
        table.form().as_str(),
        escaped(table.time_column())
    ));
    print_line(format_args!("  {what}; {} definitions of series", table.definitions().len()));
    let span = match (time(checked.first_us), time(checked.last_us)) {
        (Some(first), Some(last)) => format!(", from {first} to {last}"),
        _ => String::new(),
    };
    print_line(format_args!("  {} rows with {} points would be written{span}", checked.rows, checked.points));
    for (row, why) in &checked.named {
        print_line(format_args!("  row {row} would be refused: {}: {}", why.reason.as_str(), escaped(&why.detail)));
    }
    if checked.rejected > checked.named.len() {
        print_line(format_args!("  … and {} more", checked.rejected - checked.named.len()));
    }
}
