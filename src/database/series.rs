//! The rows of `time_series_metadata`: created or updated before the points that need them.
//!
//! Both statements are idempotent, sorted by the server, and never put an older definition over a newer one, so they may
//! run outside the points' transaction and again in every replay.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::error::Error;
use super::progress::Resolved;
use super::session::Session;
use crate::batch::{Definition, Points};

/// How many (series, column) pairs are remembered before all are forgotten.
const MAX_KNOWN: usize = 1_000_000;

/// The columns known to be listed in each series' row.
#[derive(Debug, Default)]
pub(super) struct KnownSeries {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    columns: HashMap<String, Vec<String>>,
    pairs: usize,
}

impl KnownSeries {
    /// The pairs of the points that are not known to have their row.
    fn unknown<'a>(&self, points: &'a Points) -> Vec<(&'a str, &'a str)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut unknown = Vec::new();
        for (series, columns) in points.series_columns() {
            let listed = known.columns.get(series).map_or(&[][..], Vec::as_slice);
            let missing = columns.into_iter().filter(|column| !listed.iter().any(|name| name == column));
            unknown.extend(missing.map(|column| (series, column)));
        }
        unknown
    }

    fn remember(&self, pairs: &[(&str, &str)]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.pairs + pairs.len() > MAX_KNOWN {
            *known = Known::default();
        }
        for (series, column) in pairs {
            known.columns.entry((*series).to_owned()).or_default().push((*column).to_owned());
        }
        known.pairs += pairs.len();
    }

    /// Forgets all: the database may have lost rows.
    pub(super) fn forget(&self) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Known::default();
    }
}

/// Makes sure that each series of the points has its row, with its columns.
pub(super) async fn see(session: &mut Session, known: &KnownSeries, points: &Points) -> Result<(), Error> {
    let pairs = known.unknown(points);
    if pairs.is_empty() {
        return Ok(());
    }
    let (ids, columns): (Vec<&str>, Vec<&str>) = pairs.iter().copied().unzip();
    session.query("list the columns of series", "select ingest_see_columns($1, $2)", &[&ids, &columns]).await?;
    known.remember(&pairs);
    Ok(())
}

/// Creates or updates series by their definitions.
pub(super) async fn define(session: &mut Session, sources: &Resolved, definitions: &[Definition]) -> Result<(), Error> {
    if definitions.is_empty() {
        return Ok(());
    }
    let ids: Vec<&str> = definitions.iter().map(|d| d.series.id.as_str()).collect();
    let names: Vec<&str> = definitions.iter().map(|d| d.series.name.as_str()).collect();
    let descriptions: Vec<Option<&str>> = definitions.iter().map(|d| d.series.description.as_deref()).collect();
    let time_columns: Vec<Option<&str>> = definitions.iter().map(|d| d.series.time_column.as_deref()).collect();
    let value_columns: Vec<String> =
        definitions.iter().map(|d| serde_json::Value::from(d.series.value_columns.clone()).to_string()).collect();
    let times: Vec<i64> = definitions.iter().map(|d| d.at.time_ms).collect();
    let source_ids = definitions.iter().map(|d| sources.get(&d.at.source)).collect::<Result<Vec<i32>, Error>>()?;
    let partitions: Vec<i32> = definitions.iter().map(|d| d.at.partition).collect();
    let offsets: Vec<i64> = definitions.iter().map(|d| d.at.offset).collect();
    session
        .query(
            "define series",
            "select ingest_define_series($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            &[&ids, &names, &descriptions, &time_columns, &value_columns, &times, &source_ids, &partitions, &offsets],
        )
        .await?;
    Ok(())
}

/// The series of the points that have no row.
pub(super) async fn without_row(session: &mut Session, points: &Points) -> Result<Vec<String>, Error> {
    let ids: Vec<&str> = points.series_columns().into_iter().map(|(series, _)| series).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = session
        .query(
            "look up series",
            "select named.id from unnest($1::text[]) as named (id)
             where not exists (select from time_series_metadata as series where series.id = named.id)",
            &[&ids],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
