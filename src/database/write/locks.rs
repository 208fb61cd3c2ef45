//! Locks of other sessions: the messages of a batch that they keep from being written, and their holders.
//!
//! A transaction waits for the rows of series no longer than `Database::row_wait`. If that times out, the server is asked for
//! the locks that only some messages wait for: of rows, chunks, the tables of dead letters. These messages are set aside, and
//! all others are written. If there are none, a whole table is locked and nothing can be written: that is a state of the
//! database, as an outage is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{LazyLock, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tracing::{debug, info, warn};

use crate::batch::Batch;
use crate::config::OnDuplicate;
use crate::database::Database;
use crate::database::connection::session::Session;
use crate::database::connection::step::Step;
use crate::database::error::Error;
use crate::raw::{MessageAt, MessageSet, Partition};
use crate::telemetry::escaped;

/// Minimum timeout for the rows of series: shorter locks are common.
const MIN_ROW_WAIT: Duration = Duration::from_millis(200);

/// The locks of whole tables that an INSERT or a COPY waits for, also requested ones: they are before it in the queue.
const IN_THE_WAY: &str = "lock.locktype = 'relation'
    and lock.database = (select oid from pg_database where datname = current_database())
    and lock.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
    and lock.pid is distinct from pg_backend_pid()";

/// The named tables that are locked as a whole, and whether points may lie in chunks. The tables of points are locked by this
/// program's own sessions as well, for a short time while they make a chunk.
static LOCKED_TABLES: LazyLock<String> = LazyLock::new(|| {
    format!(
        "select array(
            select locked.relname::text
            from pg_locks as lock join pg_class as locked on locked.oid = lock.relation
            left join pg_stat_activity as holder on holder.pid = lock.pid
            where {IN_THE_WAY}
                and locked.relnamespace = (select oid from pg_namespace where nspname = current_schema())
                and locked.relname = any ($1)
                and (holder.usename = session_user
                    and holder.application_name = current_setting('application_name')) is not true),
         to_regclass('_timescaledb_catalog.chunk') is not null"
    )
});

/// The intervals of locked chunks of the named hypertables, in microseconds since the Unix epoch. The compressed data of a
/// chunk is in its own table.
static LOCKED_CHUNKS: LazyLock<String> = LazyLock::new(|| {
    format!(
        "select distinct slice.range_start, slice.range_end
         from pg_locks as lock
         join pg_class as locked on locked.oid = lock.relation
         join pg_namespace as space on space.oid = locked.relnamespace
         join _timescaledb_catalog.chunk as named
             on named.schema_name = space.nspname and named.table_name = locked.relname
         join _timescaledb_catalog.chunk as chunk on named.id in (chunk.id, chunk.compressed_chunk_id)
         join _timescaledb_catalog.hypertable as points on points.id = chunk.hypertable_id
         join _timescaledb_catalog.chunk_constraint as part on part.chunk_id = chunk.id
         join _timescaledb_catalog.dimension_slice as slice on slice.id = part.dimension_slice_id
         join _timescaledb_catalog.dimension as axis on axis.id = slice.dimension_id
         where {IN_THE_WAY} and axis.column_name = 'timestamp'
             and points.schema_name = current_schema() and points.table_name = any ($1)"
    )
});

/// The step of all these queries.
const ASK: Step = Step::Other("ask what is locked");

const POINTS: &str = "time_series_data_points";
const VERSIONS: &str = "ingest_point_version";
const SERIES: &str = "ingest_series";
const LETTERS: [&str; 2] = ["ingest_dead_letter", "ingest_dead_letter_count"];

/// A session that holds a lock that this worker waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockHolder {
    /// The locked object: a table, or a row of it.
    pub object: String,
    /// The process of the server; 0 for a prepared transaction.
    pub pid: i32,
    /// The name that the holder has set.
    pub application_name: Option<String>,
    /// Its role.
    pub user: Option<String>,
    /// Its address; `None` for a socket of the server's machine.
    pub client: Option<String>,
    /// The state of its session, such as `idle in transaction`; `None` if this role may not see it.
    pub state: Option<String>,
    /// When its transaction began; if this role may not see that, when the wait for it began.
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

/// The locks of other sessions.
#[derive(Debug, Default)]
pub(in crate::database) struct Locks {
    /// Series whose rows were locked when they were last read.
    /// `true` for those whose rows were to be changed, for which weaker locks are in the way, too.
    series: HashMap<String, bool>,
    /// Topic, topic id and partition of progress that was locked when it was last read.
    partitions: HashSet<(String, String, i32)>,
    /// The locks of tables when they were last read.
    tables: LockedTables,
    /// The holders, by the place of the lock.
    holders: BTreeMap<(String, i32), LockHolder>,
}

impl Locks {
    /// Returns `true` if something was locked that only some messages need.
    fn holds_some(&self) -> bool {
        !(self.series.is_empty() && self.partitions.is_empty()) || self.tables.holds_some()
    }
}

/// Tables, or parts of them, that are locked and that only some messages need.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct LockedTables {
    /// The intervals `[from, until)` of chunks, in microseconds since the Unix epoch.
    chunks: Vec<(i64, i64)>,
    /// `true` if `ingest_series` is locked; series that only get points do not need it.
    series: bool,
    /// `true` if the letters, or their counts, are locked.
    letters: bool,
}

impl LockedTables {
    fn holds_some(&self) -> bool {
        !self.chunks.is_empty() || self.series || self.letters
    }

    fn has_point_at(&self, time_us: i64) -> bool {
        self.chunks.iter().any(|(from, until)| (*from..*until).contains(&time_us))
    }
}

/// The locks that only some messages of a batch would wait for.
#[derive(Debug, Default)]
pub struct Locked {
    series: HashSet<String>,
    partitions: HashSet<(String, String, i32)>,
    tables: LockedTables,
}

impl Locked {
    /// For each message of the batch, `true` if it needs something that is locked. `letters` are places of messages that
    /// became dead letters only when they were written, and could not be stored because of a lock.
    pub fn messages_of(&self, batch: &Batch, letters: &[MessageAt]) -> Vec<bool> {
        let mut needs: Vec<bool> =
            batch.sets().iter().flat_map(|set| std::iter::repeat_n(self.has_partition(set), set.len())).collect();
        self.mark_points(batch, &mut needs);
        let definitions = batch.definitions().iter().filter(|one| self.series.contains(&one.series.id));
        mark(batch, definitions.map(|one| &one.at), &mut needs);
        mark(batch, letters, &mut needs);
        if self.tables.letters {
            mark(batch, batch.dead_letters().iter().map(|letter| &letter.at), &mut needs);
        }
        needs
    }

    fn mark_points(&self, batch: &Batch, needs: &mut [bool]) {
        let points = batch.points();
        let keys: Vec<bool> = (0..points.key_count()).map(|key| self.series.contains(points.names(key).0)).collect();
        let is_locked = |point: &usize| keys[points.key_of(*point)] || self.tables.has_point_at(points.time_of(*point));
        for message in (0..points.len()).filter(is_locked).filter_map(|point| batch.message_of_point(point)) {
            needs[message] = true;
        }
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

/// Records the messages at these places.
fn mark<'a>(batch: &Batch, places: impl IntoIterator<Item = &'a MessageAt>, needs: &mut [bool]) {
    let mut offsets: HashMap<&Partition, HashSet<i64>> = HashMap::new();
    for at in places {
        offsets.entry(&at.partition).or_default().insert(at.offset);
    }
    let mut first = 0;
    for set in batch.sets() {
        if let Some(offsets) = offsets.get(set.partition()) {
            for (number, _) in set.messages().enumerate().filter(|(_, one)| offsets.contains(&one.offset)) {
                needs[first + number] = true;
            }
        }
        first += set.len();
    }
}

impl Database {
    /// Returns `true` if something that only some messages need was locked when it was last read.
    pub fn knows_locked(&self) -> bool {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner).holds_some()
    }

    /// The locks of other sessions that only some messages of the batch need; none if the server does not answer, or its
    /// tables are locked as a whole.
    pub async fn locked(&self, batch: &Batch) -> Locked {
        match self.ask_for_locked(batch).await {
            Ok(locked) => locked,
            Err(failure) => {
                debug!(%failure, "what others have locked is not known");
                Locked::default()
            }
        }
    }

    async fn ask_for_locked(&self, batch: &Batch) -> Result<Locked, Error> {
        let points = batch.points();
        let with_points = points.series_with_columns();
        let mut rows_of: Vec<&str> = batch.definitions().iter().map(|one| one.series.id.as_str()).collect();
        rows_of.extend(self.known_series.series_to_ensure(points));
        rows_of.sort_unstable();
        rows_of.dedup();
        let mut session = self.session().await?;
        let tables = self.ask_for_locked_tables(&mut session).await?;
        // Known locks are read again, or they would be known for ever.
        let known = self.locks.lock().unwrap_or_else(PoisonError::into_inner).series.clone();
        let (known_rows, known_points): (Vec<&str>, Vec<&str>) =
            known.keys().map(String::as_str).partition(|series| known[*series]);
        let series = locked_series(&mut session, &tables, &with_points, &rows_of).await?;
        let still = locked_series(&mut session, &tables, &known_points, &known_rows).await?;
        let partitions = session
            .query(
                ASK,
                "select topic, topic_id, partition from ingest_locked_partitions($1)",
                &[&self.pipeline.as_ref()],
            )
            .await?;
        let partitions = partitions.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
        let locked = Locked { series, partitions, tables };
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.series.retain(|series, _| !known.contains_key(series) || still.contains(series));
        for series in &locked.series {
            let changes = rows_of.contains(&series.as_str());
            *locks.series.entry(series.clone()).or_default() |= changes;
        }
        locks.partitions.clone_from(&locked.partitions);
        locks.tables.clone_from(&locked.tables);
        Ok(locked)
    }

    async fn ask_for_locked_tables(&self, session: &mut Session) -> Result<LockedTables, Error> {
        let of_points: &[&str] =
            if self.on_duplicate == OnDuplicate::Replace { &[POINTS, VERSIONS] } else { &[POINTS] };
        let named: Vec<&str> = of_points.iter().copied().chain([SERIES]).chain(LETTERS).collect();
        let rows = session.query(ASK, &LOCKED_TABLES, &[&named]).await?;
        let row = rows.first().ok_or_else(|| Error::Unexpected(format!("{ASK}: no row")))?;
        let (locked, has_chunks): (Vec<String>, bool) = (row.get(0), row.get(1));
        let is_locked = |names: &[&str]| locked.iter().any(|name| names.contains(&name.as_str()));
        let mut tables =
            LockedTables { chunks: Vec::new(), series: is_locked(&[SERIES]), letters: is_locked(&LETTERS) };
        // A lock on the whole table is one on its chunks as well, and all points wait.
        if has_chunks && !is_locked(of_points) {
            let chunks = session.query(ASK, &LOCKED_CHUNKS, &[&of_points]).await?;
            tables.chunks = chunks.iter().map(|row| (row.get(0), row.get(1))).collect();
        }
        Ok(tables)
    }

    /// Reads who holds the locks that this worker waits for, and reports it.
    pub(in crate::database) async fn look_for_lock_holders(&self) {
        let sql = "select object, pid, application_name, username, client, state, \
                   (extract(epoch from coalesce(held_since, waiting_since)) * 1000)::bigint from ingest_lock_waits()";
        let work = async { self.session().await?.query(Step::Other("ask who holds locks"), sql, &[]).await };
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
                warn!(%holder, "another session's lock keeps points from being written");
            }
            locks.holders.insert(place, holder);
        }
    }

    /// The holders of locks that this worker waits for.
    pub fn lock_holders(&self) -> Vec<LockHolder> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner).holders.values().cloned().collect()
    }

    /// Records a transaction that did not wait long: unless something is known to be locked that only some messages need, no
    /// session is in the way any more.
    pub(in crate::database) fn forget_lock_holders(&self) {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if !locks.holds_some() && !locks.holders.is_empty() {
            let holders: Vec<String> = locks.holders.values().map(ToString::to_string).collect();
            info!(were = holders.join("; "), "no lock keeps points from being written any more");
            locks.holders.clear();
        }
    }
}

/// The series of these whose rows other sessions hold. If `ingest_series` is locked as a whole, rows cannot be read, and it is
/// all of those whose rows are to be changed.
async fn locked_series(
    session: &mut Session,
    tables: &LockedTables,
    with_points: &[&str],
    rows_of: &[&str],
) -> Result<HashSet<String>, Error> {
    if tables.series {
        return Ok(rows_of.iter().map(|series| (*series).to_owned()).collect());
    }
    if with_points.is_empty() && rows_of.is_empty() {
        return Ok(HashSet::new());
    }
    let rows = session.query(ASK, "select ingest_locked_series($1, $2)", &[&with_points, &rows_of]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Timeout for rows of series: the time that an outage may last before it counts as one.
pub(in crate::database) fn row_wait(grace: Duration, lock_timeout: Duration) -> Duration {
    grace.max(MIN_ROW_WAIT).min(lock_timeout)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::input::{Decoder, Inputs};
    use crate::message::Limits;
    use crate::raw::{Kind, MessageSetBuilder, RawMessage, Source};

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
    fn messages_need_a_chunk_by_their_points_and_the_letters_by_their_fault() {
        let source =
            Source { kind: Kind::Points, cluster_id: String::new(), topic: "t".into(), topic_id: String::new() };
        let mut builder = MessageSetBuilder::new(Arc::new(source), 0, 5);
        for (offset, times) in [(5, "[1,10]"), (6, "[9]"), (7, "[20,19]"), (8, "no JSON"), (9, "[20]"), (10, "[]")] {
            let values = vec![1; if times == "[]" { 0 } else { times.split(',').count() }];
            let payload = format!(
                r#"{{"time_series_id":"s","timestamp_unit":"us","timestamps":{times},"columns":{{"c":{values:?}}}}}"#
            );
            builder.push(&RawMessage { offset, payload: Some(payload.as_bytes()), ..RawMessage::default() });
        }
        let (max_bytes, max_points, max_name_bytes, min_us, max_us) = (1 << 20, 1 << 20, 100, i64::MIN, i64::MAX);
        let limits = Limits { max_bytes, max_points, max_name_bytes, min_us, max_us, deny_unknown_fields: false };
        let mut batch = Batch::new(Decoder::new(limits, Inputs::default()));
        batch.push(builder.build(None));
        assert_eq!(batch.dead_letters().len(), 1);

        let mut locked = Locked::default();
        locked.tables.chunks = vec![(10, 20)];
        assert_eq!(locked.messages_of(&batch, &[]), [true, false, true, false, false, false]);
        locked.tables.letters = true;
        assert_eq!(locked.messages_of(&batch, &[]), [true, false, true, true, false, false]);
        let refused = MessageAt { offset: 9, ..batch.dead_letters()[0].at.clone() };
        assert_eq!(Locked::default().messages_of(&batch, &[refused]), [false, false, false, false, true, false]);
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
