//! Deleting series, or their points before a time, so that they stay deleted.
//!
//! First a tombstone is recorded: from then on, no transaction stores points of messages that are not newer. When the
//! transactions that may not have seen it have ended, the points are deleted in short transactions, then dead letters, then the
//! row of the series. Each step can be repeated, also by another process: a deletion that was interrupted stays pending.

use std::time::{Duration, Instant};

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use tracing::debug;

use super::connection::step::Step;
use super::{Class, Database, Error};
use crate::raw::FILE_CLUSTER;

type Parameter<'a> = &'a (dyn ToSql + Sync);

/// Timeout for transactions that may not have seen the tombstone.
const WRITERS_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause between two looks for them.
const WRITERS_INTERVAL: Duration = Duration::from_millis(20);
/// Time that a transaction that deletes points is to take: other sessions may wait for what it locks.
const STEP_TIME: Duration = Duration::from_millis(250);
/// Points that the first transaction deletes, and the least and most that later ones do.
const STEP_POINTS: (i32, i32, i32) = (5_000, 500, 200_000);
/// Maximum number of points of a round after which the rest is left to the transaction that deletes the row of the series.
const MAX_LEFT: u64 = 5_000;
/// Number of times that points are deleted again because others came meanwhile.
const MAX_ROUNDS: usize = 20;
/// Number of times that a step is repeated while other transactions are in the way, and the pause before each.
const RETRIES: (usize, Duration) = (100, Duration::from_millis(100));

/// A deletion of a series, or of its points before a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// The id of the series.
    pub series: String,
    /// The time before which points are deleted, in microseconds since the Unix epoch; `None`: the series with all its points.
    pub before_us: Option<i64>,
}

/// What a deletion has deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Deleted {
    /// Number of points, by all processes that have worked on the deletion since it was recorded last; those that came after the last look
    /// and went with the row of the series are not counted.
    pub points: u64,
    /// Number of dead letters.
    pub dead_letters: u64,
    /// `true` if the row of the series was deleted.
    pub series: bool,
}

impl Database {
    /// Records deletions as of now: messages that were sent until now no longer count.
    ///
    /// # Errors
    /// If the database does not answer, or this role may not do it.
    pub async fn begin_deletions(&self, series: &[&str], before_us: Option<i64>) -> Result<(), Error> {
        let sql = format!(
            "select ingest_delete_series($1, {}, array_fill(null::bigint, array[cardinality($1::text[])]))",
            before("$2")
        );
        let mut session = self.session().await?;
        session.query(Step::Other("record a deletion"), &sql, &[&series, &before_us]).await.map(drop)
    }

    /// The deletions that are not completed, oldest first.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn pending_deletions(&self) -> Result<Vec<Deletion>, Error> {
        let sql = "select series_id::text,
                       case when isfinite(before_time) then (extract(epoch from before_time) * 1000000)::bigint end
                   from ingest_series_tombstone where completed_at is null order by deleted_at, series_id";
        let rows = self.session().await?.query(Step::Other("read the pending deletions"), sql, &[]).await?;
        Ok(rows.iter().map(|row| Deletion { series: row.get(0), before_us: row.get(1) }).collect())
    }

    /// Those of these series that exist.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn existing_series(&self, series: &[&str]) -> Result<Vec<String>, Error> {
        let sql = "select id::text from time_series_metadata where id = any ($1)";
        let rows = self.session().await?.query(Step::Other("look up series"), sql, &[&series]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// The Kafka time, in milliseconds since the Unix epoch, up to which messages of a series that was deleted no longer count;
    /// `None` if it was not deleted as a whole.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn deleted_ms(&self, series: &str) -> Result<Option<i64>, Error> {
        let sql =
            "select max(message_ms) from ingest_series_tombstone where series_id = $1 and not isfinite(before_time)";
        let rows = self.session().await?.query(Step::Other("look for a deletion"), sql, &[&series]).await?;
        Ok(rows.first().and_then(|row| row.get(0)))
    }

    /// Number of points that a deletion would delete now.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn points_to_delete(&self, deletion: &Deletion) -> Result<i64, Error> {
        let sql = format!(
            "select count(*) from time_series_data_points where time_series_id = $1 and \"timestamp\" < {}",
            before("$2")
        );
        let parameters: [Parameter<'_>; 2] = [&deletion.series, &deletion.before_us];
        let rows = self.session().await?.query(Step::Other("count points"), &sql, &parameters).await?;
        Ok(rows.first().map_or(0, |row| row.get(0)))
    }

    /// Deletes what a recorded deletion applies to, and marks it as completed. `until_now`: messages that were sent until the
    /// end no longer count; otherwise only those until the time that is recorded. `on_points` gets the number of points of
    /// each step.
    ///
    /// # Errors
    /// If the database does not answer, or other transactions are in the way for long. The deletion stays pending, and what is
    /// deleted stays deleted.
    pub async fn complete_deletion(
        &self,
        deletion: &Deletion,
        until_now: bool,
        on_points: impl Fn(u64),
    ) -> Result<Deleted, Error> {
        self.wait_for_writers(deletion).await?;
        for _ in 0..MAX_ROUNDS {
            let points = self.delete_points(deletion, &on_points).await?;
            // During a round that had few points, few came.
            if deletion.before_us.is_some() || points <= MAX_LEFT {
                break;
            }
        }
        self.delete_dead_letters(deletion).await?;
        self.finish_deletion(deletion, until_now).await
    }

    /// Waits until the transactions that may not have seen the tombstone have ended.
    async fn wait_for_writers(&self, deletion: &Deletion) -> Result<(), Error> {
        let begun = Instant::now();
        let step = Step::Other("look for transactions that write points");
        let mut session = self.session().await?;
        let sql = "select writer from ingest_writers() as writer where $1::text[] is null or writer = any ($1)";
        let mut before: Option<Vec<String>> = None;
        loop {
            let rows = session.query(step, sql, &[&before]).await?;
            let writers: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            if writers.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > WRITERS_TIMEOUT {
                debug!(?writers, "transactions that began before the deletion do not end");
                // The row of a series is deleted after them in any case: they hold a lock on it if they write its points.
                return if deletion.before_us.is_none() {
                    Ok(())
                } else {
                    Err(Error::Unexpected(format!(
                        "{} transactions that may write points have not ended for {} s: look for sessions that are idle in a \
                         transaction, and delete again",
                        writers.len(),
                        WRITERS_TIMEOUT.as_secs()
                    )))
                };
            }
            before = Some(writers);
            tokio::time::sleep(WRITERS_INTERVAL).await;
        }
    }

    /// Deletes the points chunk by chunk; returns their number.
    async fn delete_points(&self, deletion: &Deletion, on_points: &impl Fn(u64)) -> Result<u64, Error> {
        let sql = format!(
            "select from_time::text, least(until_time, before)::text from ingest_chunk_windows(), {} as before
             where from_time < before order by from_time",
            before("$1")
        );
        let rows = self.session().await?.query(Step::Other("look for chunks"), &sql, &[&deletion.before_us]).await?;
        let mut total = 0;
        let mut limit = STEP_POINTS.0;
        for row in rows {
            let window: (String, String) = (row.get(0), row.get(1));
            let mut place: (Option<String>, Option<String>) = (None, None);
            loop {
                let begun = Instant::now();
                let (points, next) = self.delete_step(deletion, &window, &place, limit).await?;
                total += points;
                on_points(points);
                limit = next_limit(limit, begun.elapsed());
                if next.0.is_none() {
                    break;
                }
                place = next;
            }
        }
        Ok(total)
    }

    /// Deletes some points of a window in one transaction, and returns their number and the place of the last.
    async fn delete_step(
        &self,
        deletion: &Deletion,
        (from, until): &(String, String),
        (column, time): &(Option<String>, Option<String>),
        limit: i32,
    ) -> Result<(u64, (Option<String>, Option<String>)), Error> {
        let sql = "select deleted, p_column, p_time::text from ingest_delete_points(
                       $1, $2::text::timestamptz, $3::text::timestamptz, $4, $5, $6::text::timestamptz)";
        let parameters: [Parameter<'_>; 6] = [&deletion.series, from, until, &limit, column, time];
        let row = self.query_with_retries(Step::Other("delete points"), sql, &parameters).await?;
        Ok((row.get::<_, i64>(0).unsigned_abs(), (row.get(1), row.get(2))))
    }

    async fn delete_dead_letters(&self, deletion: &Deletion) -> Result<(), Error> {
        if deletion.before_us.is_some() {
            return Ok(());
        }
        let step = Step::Other("delete dead letters");
        let mut session = self.session().await?;
        let sql = "select id, topic::text, cluster_id = $2 from ingest_source where pipeline = $1 or cluster_id = $2";
        let rows = session.query(step, sql, &[&&*self.pipeline, &FILE_CLUSTER]).await?;
        let is_native = |row: &&Row| row.get::<_, bool>(2) || self.inputs.are_native(row.get(1));
        let sources: Vec<i32> = rows.iter().filter(is_native).map(|row| row.get(0)).collect();
        session.query(step, "select ingest_delete_dead_letters($1, $2)", &[&deletion.series, &sources]).await.map(drop)
    }

    async fn finish_deletion(&self, deletion: &Deletion, until_now: bool) -> Result<Deleted, Error> {
        let sql = format!(
            "select (finished).points, (finished).dead_letters, (finished).series_deleted
             from (select set_config('lock_timeout', '500ms', true) as is_set offset 0) as wait,
                 lateral (select ingest_finish_deletion($1, {}, $3) as finished where is_set is not null offset 0) as finish",
            before("$2")
        );
        let parameters: [Parameter<'_>; 3] = [&deletion.series, &deletion.before_us, &until_now];
        let row = self.query_with_retries(Step::Other("delete the row of a series"), &sql, &parameters).await?;
        let number = |at| row.get::<_, i64>(at).unsigned_abs();
        Ok(Deleted { points: number(0), dead_letters: number(1), series: row.get(2) })
    }

    /// Runs a statement that returns a row, again if another transaction is in the way.
    async fn query_with_retries(&self, step: Step, sql: &str, parameters: &[Parameter<'_>]) -> Result<Row, Error> {
        let mut retries = 0;
        loop {
            match self.session().await?.query(step, sql, parameters).await {
                Ok(rows) => {
                    let row = rows.into_iter().next();
                    return row.ok_or_else(|| Error::Unexpected(format!("{} returns nothing", step.as_str())));
                }
                Err(failure) if failure.class() == Class::Retry && retries < RETRIES.0 => {
                    debug!(%failure, "another transaction was in the way of a deletion");
                    tokio::time::sleep(RETRIES.1).await;
                    retries += 1;
                }
                Err(failure) => return Err(failure),
            }
        }
    }
}

/// The time before which points are deleted, in SQL, from a parameter in microseconds since the Unix epoch or NULL.
fn before(parameter: &str) -> String {
    format!("coalesce(timestamptz 'epoch' + {parameter}::bigint * interval '1 microsecond', 'infinity')")
}

/// Points of the next step, if this many took so long.
fn next_limit(limit: i32, took: Duration) -> i32 {
    let next = if took < STEP_TIME / 2 {
        limit.saturating_mul(2)
    } else if took > STEP_TIME {
        limit / 2
    } else {
        limit
    };
    next.clamp(STEP_POINTS.1, STEP_POINTS.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_grow_and_shrink_with_the_time_they_take() {
        let ms = Duration::from_millis;
        assert_eq!(next_limit(5_000, ms(10)), 10_000);
        assert_eq!(next_limit(5_000, ms(200)), 5_000);
        assert_eq!(next_limit(5_000, ms(251)), 2_500);
        assert_eq!(next_limit(600, ms(5_000)), 500);
        assert_eq!(next_limit(150_000, ms(1)), 200_000);
    }
}
