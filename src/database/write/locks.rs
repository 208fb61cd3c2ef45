//! Locks of others: which rows of a batch they keep from being written, and who holds them.
//!
//! A transaction waits for the rows of series no longer than `Database::row_wait`. If it has waited in vain, the server is
//! asked which rows are locked: their messages are set aside, and all others are written. If no row is locked, a whole table
//! is, and nothing can be written: that is a state of the database, as an outage is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::PoisonError;
use std::time::Duration;

use jiff::Timestamp;
use tracing::{debug, info, warn};

use crate::batch::Batch;
use crate::database::Database;
use crate::database::error::Error;
use crate::raw::MessageSet;
use crate::telemetry::escaped;

/// How long the rows of series are waited for at least: shorter locks are everyday ones.
const MIN_ROW_WAIT: Duration = Duration::from_millis(200);

/// Somebody who holds a lock that this worker waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockHolder {
    /// What is locked: a table, or a row of it.
    pub object: String,
    /// The process of the server; 0 for a prepared transaction.
    pub pid: i32,
    /// What the holder calls itself.
    pub application_name: Option<String>,
    /// Its role.
    pub user: Option<String>,
    /// Its address; `None` for a socket of the server's machine.
    pub client: Option<String>,
    /// What its session does, such as `idle in transaction`; `None` if this role may not see it.
    pub state: Option<String>,
    /// When its transaction began; if this role may not see that, since when it is waited for.
    pub since: Option<String>,
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, pid, application_name, user, client, state, since } = self;
        write!(f, "{object} is locked by ")?;
        match pid {
            0 => write!(f, "a prepared transaction (pg_prepared_xacts has its name)")?,
            pid => {
                write!(f, "process {pid}")?;
                let known = [
                    application_name.as_deref().filter(|name| !name.is_empty()).map(|name| escaped(name).to_string()),
                    user.as_deref().map(|user| format!("user {user}")),
                    client.as_deref().map(|client| format!("from {client}")),
                    state.clone(),
                ];
                let known: Vec<String> = known.into_iter().flatten().collect();
                if !known.is_empty() {
                    write!(f, " ({})", known.join(", "))?;
                }
            }
        }
        since.as_ref().map_or(Ok(()), |since| write!(f, " since {since}"))
    }
}

/// What is known of locks of others.
#[derive(Debug, Default)]
pub(in crate::database) struct Locks {
    /// Series whose rows were locked when they were last asked for.
    /// True for those whose rows were to be changed, so that weaker locks are in the way, too.
    series: HashMap<String, bool>,
    /// Topic, topic id and partition of progress that was locked when it was last asked for.
    partitions: HashSet<(String, String, i32)>,
    /// Who is in the way, by the place of the lock.
    holders: BTreeMap<(String, i32), LockHolder>,
}

/// The rows that a batch would wait for.
#[derive(Debug, Default)]
pub struct LockedRows {
    series: HashSet<String>,
    partitions: HashSet<(String, String, i32)>,
}

impl LockedRows {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty() && self.partitions.is_empty()
    }

    /// For each message of the batch whether it needs one of them.
    pub fn messages_of(&self, batch: &Batch) -> Vec<bool> {
        let mut needs: Vec<bool> =
            batch.sets().iter().flat_map(|set| std::iter::repeat_n(self.has_partition(set), set.len())).collect();
        let points = batch.points();
        let keys: Vec<bool> = (0..points.key_count()).map(|key| self.series.contains(points.names(key).0)).collect();
        for point in (0..points.len()).filter(|point| keys[points.key_of(*point)]) {
            if let Some(message) = batch.message_of_point(point) {
                needs[message] = true;
            }
        }
        for definition in batch.definitions().iter().filter(|one| self.series.contains(&one.series.id)) {
            if let Some(message) = batch.number_of(&definition.at) {
                needs[message] = true;
            }
        }
        needs
    }

    fn has_partition(&self, set: &MessageSet) -> bool {
        !self.partitions.is_empty()
            && self.partitions.contains(&(
                set.source().topic.clone(),
                set.source().topic_id.clone(),
                set.partition().number,
            ))
    }
}

impl Database {
    /// Whether rows were locked when they were last asked for.
    pub fn knows_locked_rows(&self) -> bool {
        let locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        !(locks.series.is_empty() && locks.partitions.is_empty())
    }

    /// The rows that others hold of those that the batch needs. A server that does not answer, or whose tables are locked as a
    /// whole, tells of none.
    pub async fn locked_rows(&self, batch: &Batch) -> LockedRows {
        match self.ask_for_locked_rows(batch).await {
            Ok(rows) => rows,
            Err(failure) => {
                debug!(%failure, "the rows that others have locked are not known");
                LockedRows::default()
            }
        }
    }

    async fn ask_for_locked_rows(&self, batch: &Batch) -> Result<LockedRows, Error> {
        let points = batch.points();
        let with_points = points.series_with_columns();
        let mut rows_of: Vec<&str> = batch.definitions().iter().map(|one| one.series.id.as_str()).collect();
        rows_of.extend(self.known_series.series_to_see(points));
        rows_of.sort_unstable();
        rows_of.dedup();
        let mut session = self.session().await?;
        let (step, sql) = ("ask for locked rows", "select ingest_locked_series($1, $2)");
        let series = session.query(step, sql, &[&with_points, &rows_of]).await?;
        // What is known to be locked is asked for again, or it would be known for ever.
        let known = self.locks.lock().unwrap_or_else(PoisonError::into_inner).series.clone();
        let (known_rows, known_points): (Vec<&str>, Vec<&str>) =
            known.keys().map(String::as_str).partition(|series| known[*series]);
        let still =
            if known.is_empty() { Vec::new() } else { session.query(step, sql, &[&known_points, &known_rows]).await? };
        let partitions = session
            .query(
                step,
                "select topic, topic_id, partition from ingest_locked_partitions($1)",
                &[&self.pipeline.as_ref()],
            )
            .await?;
        let locked = LockedRows {
            series: series.iter().map(|row| row.get(0)).collect(),
            partitions: partitions.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect(),
        };
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        let still: HashSet<String> = still.iter().map(|row| row.get(0)).collect();
        locks.series.retain(|series, _| !known.contains_key(series) || still.contains(series));
        for series in &locked.series {
            let changes = rows_of.contains(&series.as_str());
            *locks.series.entry(series.clone()).or_default() |= changes;
        }
        locks.partitions.clone_from(&locked.partitions);
        Ok(locked)
    }

    /// Asks who holds the locks that this worker waits for, and says it.
    pub(in crate::database) async fn look_for_lock_holders(&self) {
        let sql = "select object, pid, application_name, username, client, state, \
                   (extract(epoch from coalesce(held_since, waiting_since)) * 1000)::bigint from ingest_lock_waits()";
        let work = async { self.session().await?.query("ask who holds locks", sql, &[]).await };
        let rows = match work.await {
            Ok(rows) => rows,
            Err(failure) => return debug!(%failure, "who holds locks is not known"),
        };
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        for row in rows {
            let since: Option<i64> = row.get(6);
            let since = since.and_then(|ms| Timestamp::from_millisecond(ms).ok()).map(|time| format!("{time:.0}"));
            let holder = LockHolder {
                object: row.get(0),
                pid: row.get(1),
                application_name: row.get(2),
                user: row.get(3),
                client: row.get(4),
                state: row.get(5),
                since,
            };
            let place = (holder.object.clone(), holder.pid);
            if !locks.holders.contains_key(&place) {
                warn!(%holder, "somebody's lock keeps points from being written");
            }
            locks.holders.insert(place, holder);
        }
    }

    /// Who holds locks that this worker waits for.
    pub fn lock_holders(&self) -> Vec<LockHolder> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner).holders.values().cloned().collect()
    }

    /// Notes a transaction that waited for nothing long: unless rows are known to be locked, nobody is in the way any more.
    pub(in crate::database) fn note_free(&self) {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if locks.series.is_empty() && locks.partitions.is_empty() && !locks.holders.is_empty() {
            let holders: Vec<String> = locks.holders.values().map(ToString::to_string).collect();
            info!(were = holders.join("; "), "no lock keeps points from being written any more");
            locks.holders.clear();
        }
    }
}

/// How long rows of series are waited for: as long as an outage may last before it counts as one.
pub(in crate::database) fn row_wait(grace: Duration, lock_timeout: Duration) -> Duration {
    grace.max(MIN_ROW_WAIT).min(lock_timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_named_with_what_is_known_of_it() {
        let mut holder = LockHolder {
            object: "the table time_series_data_points".to_owned(),
            pid: 4711,
            application_name: Some("psql".to_owned()),
            user: Some("postgres".to_owned()),
            client: Some("10.0.0.7".to_owned()),
            state: Some("idle in transaction".to_owned()),
            since: Some("2026-11-27T10:00:00Z".to_owned()),
        };
        assert_eq!(
            holder.to_string(),
            "the table time_series_data_points is locked by process 4711 (psql, user postgres, from 10.0.0.7, idle in \
             transaction) since 2026-11-27T10:00:00Z"
        );
        (holder.application_name, holder.client, holder.state, holder.since) = (Some(String::new()), None, None, None);
        assert_eq!(holder.to_string(), "the table time_series_data_points is locked by process 4711 (user postgres)");
        holder.pid = 0;
        assert!(holder.to_string().ends_with("locked by a prepared transaction (pg_prepared_xacts has its name)"));
    }

    #[test]
    fn rows_are_waited_for_as_long_as_an_outage_may_last() {
        let wait = |grace, lock| row_wait(Duration::from_millis(grace), Duration::from_millis(lock)).as_millis();
        assert_eq!(
            [wait(2000, 10_000), wait(0, 10_000), wait(2000, 500), wait(60_000, 10_000)],
            [2000, 200, 500, 10_000]
        );
    }
}
