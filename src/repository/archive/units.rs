//! What is archived as a whole: a chunk, or a day of a plain table.

use super::session::Session;
use super::{ArchiveError, POINTS};
use crate::database::Step;
use crate::repository::literal::time;

const DAY_US: i64 = 86_400_000_000;
const STEP: Step = Step::Other("look for old points");

/// A span of time that is archived as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    /// Where it begins, in microseconds since the Unix epoch.
    pub from_us: i64,
    /// The first time after it.
    pub until_us: i64,
}

/// How the points are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Storage {
    /// In the chunks of a hypertable.
    Chunks,
    /// In a plain table.
    Plain,
}

/// How the points are stored, and the units that end at or before a time, the oldest first. Those of chunks may be empty.
pub(super) async fn units(session: &Session, cutoff_us: i64) -> Result<(Storage, Vec<Unit>), ArchiveError> {
    let us = |column: &str| {
        format!("case when isfinite({column}) then (extract(epoch from {column}) * 1000000)::bigint end")
    };
    let sql =
        format!("select {}, {} from ingest_chunk_windows() order by from_time", us("from_time"), us("until_time"));
    let rows = session.query(STEP, &sql, &[]).await?;
    let windows: Vec<(Option<i64>, Option<i64>)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    if windows == [(None, None)] {
        return Ok((Storage::Plain, days(session, cutoff_us).await?));
    }
    let whole = windows.into_iter().filter_map(|(from, until)| Some(Unit { from_us: from?, until_us: until? }));
    Ok((Storage::Chunks, whole.filter(|unit| unit.until_us <= cutoff_us).collect()))
}

/// The days that have points, by one step down an index for each.
async fn days(session: &Session, cutoff_us: i64) -> Result<Vec<Unit>, ArchiveError> {
    let mut days = Vec::new();
    let mut after = "\"timestamp\" > '-infinity'".to_owned();
    loop {
        let sql = format!(
            "select (extract(epoch from min(\"timestamp\")) * 1000000)::bigint from {POINTS} where {after} and \"timestamp\" < {}",
            time(cutoff_us)
        );
        let rows = session.query(STEP, &sql, &[]).await?;
        let Some(first_us) = rows.first().and_then(|row| row.get::<_, Option<i64>>(0)) else { return Ok(days) };
        let from_us = first_us.div_euclid(DAY_US) * DAY_US;
        let until_us = from_us + DAY_US;
        if until_us > cutoff_us {
            return Ok(days);
        }
        days.push(Unit { from_us, until_us });
        after = format!("\"timestamp\" >= {}", time(until_us));
    }
}
