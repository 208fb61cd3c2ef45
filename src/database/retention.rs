//! Retention: deleting points that are older than an age, which the database itself knows, so that all workers use the same one.
//! Where TimescaleDB has a policy for it, nothing is left to do here but to look.

use std::time::Duration;

use super::connection::step::Step;
use super::{Class, Database, Error};

/// Maximum wait for the lock of a chunk at first; each further attempt waits twice as long, up to the last. A session that
/// waits for a lock keeps others waiting, and transactions that write last longer than the first under load.
const LOCK_TIMEOUTS: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];
/// Points of a plain table that one transaction deletes.
const STEP_POINTS: i32 = 20_000;

/// The retention of the points.
#[derive(Debug, Clone, PartialEq)]
pub struct Retention {
    /// The age from which points are deleted, in seconds.
    pub drop_after_s: i64,
    /// `true` if TimescaleDB's own policy deletes them.
    pub by_policy: bool,
    /// `true` if whole chunks are deleted; otherwise rows of a plain table.
    pub is_hypertable: bool,
    /// For how long the oldest of what has expired should have been gone, in seconds; `None` if nothing has expired. A chunk
    /// expires as a whole.
    pub overdue_s: Option<f64>,
}

/// What one step has deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Number of chunks.
    pub chunks: u64,
    /// Number of points of a plain table.
    pub points: u64,
    /// `true` if another session is deleting: nothing was done.
    pub is_busy: bool,
    /// `true` if there may be more to delete.
    pub has_more: bool,
}

/// A chunk that has expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpiredChunk {
    /// Its name with its schema.
    pub name: String,
    /// Its first time, in microseconds since the Unix epoch.
    pub from_us: i64,
    /// The first time after it, in microseconds since the Unix epoch.
    pub until_us: i64,
}

impl Database {
    /// The retention of the points; `None` if they are kept.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn retention(&self) -> Result<Option<Retention>, Error> {
        let sql = "select drop_after_s, by_policy, is_hypertable, overdue_s from ingest_retention_state()";
        let rows = self.session().await?.query(Step::Other("read the retention"), sql, &[]).await?;
        Ok(rows.first().map(|row| Retention {
            drop_after_s: row.get(0),
            by_policy: row.get(1),
            is_hypertable: row.get(2),
            overdue_s: row.get(3),
        }))
    }

    /// The time of the oldest point, in microseconds since the Unix epoch; `None` if there is none.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn oldest_point_us(&self) -> Result<Option<i64>, Error> {
        let step = Step::Other("look for the oldest point");
        let rows = self.session().await?.query(step, "select ingest_oldest_point()", &[]).await?;
        Ok(rows.first().and_then(|row| row.get(0)))
    }

    /// The chunks that have expired, oldest first; none if the points are a plain table.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn expired_chunks(&self) -> Result<Vec<ExpiredChunk>, Error> {
        let sql = "select chunk.chunk, (extract(epoch from chunk.from_time) * 1000000)::bigint,
                       (extract(epoch from chunk.until_time) * 1000000)::bigint
                   from ingest_retention,
                       lateral ingest_chunks_before('time_series_data_points', now() - drop_after) as chunk
                   where table_name = 'time_series_data_points'";
        let rows = self.session().await?.query(Step::Other("look for expired chunks"), sql, &[]).await?;
        Ok(rows
            .iter()
            .map(|row| ExpiredChunk { name: row.get(0), from_us: row.get(1), until_us: row.get(2) })
            .collect())
    }

    /// The number of points of a plain table that have expired.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn expired_points(&self) -> Result<u64, Error> {
        let sql = "select count(*) from time_series_data_points as point, ingest_retention as retention
                   where retention.table_name = 'time_series_data_points'
                       and point.\"timestamp\" < now() - retention.drop_after and point.\"timestamp\" > '-infinity'";
        let rows = self.session().await?.query(Step::Other("count expired points"), sql, &[]).await?;
        Ok(rows.first().map_or(0, |row| row.get::<_, i64>(0).unsigned_abs()))
    }

    /// Deletes the oldest of what has expired, in one short transaction: a chunk, or some points of a plain table.
    ///
    /// # Errors
    /// If the database does not answer, this role may not do it, or other transactions hold the locks for long.
    pub async fn drop_expired(&self) -> Result<Dropped, Error> {
        let sql = "select chunks, points, is_busy, has_more from ingest_drop_expired($1, $2)";
        let step = Step::Other("delete expired points");
        let mut last = None;
        for timeout in LOCK_TIMEOUTS {
            let lock_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
            match self.session().await?.query(step, sql, &[&lock_ms, &STEP_POINTS]).await {
                Ok(rows) => {
                    let row = rows
                        .first()
                        .ok_or_else(|| Error::Unexpected("ingest_drop_expired returns nothing".to_owned()))?;
                    let number = |at| row.get::<_, i64>(at).unsigned_abs();
                    let (is_busy, has_more) = (row.get(2), row.get(3));
                    return Ok(Dropped { chunks: number(0), points: number(1), is_busy, has_more });
                }
                Err(failure) if failure.class() == Class::Retry => last = Some(failure),
                Err(failure) => return Err(failure),
            }
            // Those who have waited because of this attempt go first.
            tokio::time::sleep(timeout).await;
        }
        Err(last.unwrap_or_else(|| Error::Unexpected("nothing was tried".to_owned())))
    }
}
