//! Dropping the points of a unit, if they are still those of its file.
//!
//! A chunk is locked against writers, compared, and truncated, in one transaction. That needs no lock on the series, which each
//! transaction that writes points has; dropping the empty chunk does, if it has a foreign key, and is another transaction, which
//! holds it for an instant. A request for a lock that waits keeps those after it waiting, so it waits briefly, and again later.

use std::time::Duration;

use super::session::Session;
use super::summary::{AGGREGATES, Summary};
use super::units::Storage;
use super::{ArchiveError, POINTS, Unit, VERSIONS};
use crate::database::Step;
use crate::raw::FILE_CLUSTER;
use crate::repository::literal::time;

const STEP: Step = Step::Other("drop points");
/// The first wait for a lock.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// The longest wait for a lock of a chunk: longer than the usual `deadlock_timeout`, after which the server ends an autovacuum that
/// is in the way.
const MAX_WAIT: Duration = Duration::from_millis(1500);
/// The longest wait for a lock of the series, for which all who write points wait.
const MAX_SERIES_WAIT: Duration = Duration::from_millis(800);
/// How much longer than a wait the pause after it is.
const PAUSES: u32 = 3;
/// The number of attempts to drop points.
const ATTEMPTS: usize = 40;
/// The number of attempts to drop an empty chunk: the next archive drops it as well.
const EMPTY_ATTEMPTS: usize = 12;

/// Attempts at what other sessions may be in the way of.
struct Attempts {
    left: usize,
    wait: Duration,
    max_wait: Duration,
}

impl Attempts {
    fn new(left: usize, max_wait: Duration) -> Self {
        Self { left, wait: FIRST_WAIT, max_wait }
    }

    /// Pauses after a failed attempt; `false` if there is no other.
    async fn pause(&mut self) -> bool {
        self.left -= 1;
        if self.left == 0 {
            return false;
        }
        tokio::time::sleep(self.wait * PAUSES).await;
        self.wait = (self.wait * 2).min(self.max_wait);
        true
    }
}

/// Drops the points of a unit if the table has just the rows that `expected` describes; returns `true` if it did. If the file with
/// the hash `imported` was imported back, that is forgotten in the same transaction, so that it can be imported again.
pub(super) async fn remove(
    session: &Session,
    (storage, unit): (Storage, &Unit),
    expected: &Summary,
    imported: Option<&str>,
) -> Result<bool, ArchiveError> {
    let mut attempts = Attempts::new(ATTEMPTS, MAX_WAIT);
    loop {
        session.begin(attempts.wait).await?;
        let work = async {
            let is_removed = match storage {
                Storage::Chunks => truncate(session, unit, expected).await?,
                Storage::Plain => delete(session, unit, expected).await?,
            };
            if let Some(hash) = imported.filter(|_| is_removed) {
                forget_import(session, hash).await?;
            }
            Ok(is_removed)
        };
        if let Some(is_removed) = session.end(work.await).await? {
            return Ok(is_removed);
        }
        if !attempts.pause().await {
            return Err(ArchiveError::Busy(format!(
                "the points of {} were not dropped: other sessions have locked them again and again. They are in a file that was \
                 verified: run the command again when the table is less busy",
                unit.text()
            )));
        }
    }
}

/// Compares, unless a bug is planted.
fn is_same(found: &Summary, expected: &Summary) -> bool {
    #[cfg(feature = "planted-bugs")]
    if crate::planted_bugs::is_on("archive-drops-uncompared") {
        return true;
    }
    found == expected
}

async fn truncate(session: &Session, unit: &Unit, expected: &Summary) -> Result<bool, ArchiveError> {
    let versions = chunks(session, VERSIONS, unit).await?;
    let points = chunks(session, POINTS, unit).await?;
    // In the order of those who write points.
    if !versions.is_empty() {
        session
            .execute(STEP, &format!("lock table only {} in access exclusive mode", versions.join(", only ")))
            .await?;
    }
    if !points.is_empty() {
        session.execute(STEP, &format!("lock table only {} in share mode", points.join(", only "))).await?;
    }
    if !is_same(&Summary::of_session(session, unit).await?, expected) {
        return Ok(false);
    }
    let all = [points, versions].concat();
    if !all.is_empty() {
        session.execute(STEP, &format!("truncate table {}", all.join(", "))).await?;
    }
    // Versions may have other chunks, or none.
    session.execute(STEP, &format!("delete from {VERSIONS} where {}", unit.condition())).await?;
    if has_points(session, unit).await? {
        return Err(ArchiveError::Internal(format!("the chunk of {} is not empty after TRUNCATE", unit.text())));
    }
    Ok(true)
}

async fn delete(session: &Session, unit: &Unit, expected: &Summary) -> Result<bool, ArchiveError> {
    session.execute(STEP, &format!("delete from {VERSIONS} where {}", unit.condition())).await?;
    let sql = format!(
        "with gone as (delete from {POINTS} where {}
                       returning id, time_series_id, column_name, \"timestamp\", value) select {AGGREGATES} from gone",
        unit.condition()
    );
    let found = Summary::first(&session.query(STEP, &sql, &[]).await?)?;
    Ok(is_same(&found, expected))
}

async fn has_points(session: &Session, unit: &Unit) -> Result<bool, ArchiveError> {
    let sql = format!("select exists (select from {POINTS} where {})", unit.condition());
    Ok(session.query(STEP, &sql, &[]).await?.first().is_some_and(|row| row.get(0)))
}

/// The chunks of a table in a unit, quoted.
async fn chunks(session: &Session, table: &str, unit: &Unit) -> Result<Vec<String>, ArchiveError> {
    if session.timescaledb.is_none() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "select format('%I.%I', chunk_schema, chunk_name) from timescaledb_information.chunks
         where hypertable_schema = current_schema() and hypertable_name = $1 and range_start >= {} and range_end <= {} order by 1",
        time(unit.from_us),
        time(unit.until_us)
    );
    let rows = session.query(Step::Other("look for chunks"), &sql, &[&table]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// A file that was imported, and whose points are dropped again, is as one that was not.
async fn forget_import(session: &Session, hash: &str) -> Result<(), ArchiveError> {
    #[cfg(feature = "planted-bugs")]
    if crate::planted_bugs::is_on("archive-remembers-imports") {
        return Ok(());
    }
    let sql = "update ingest_progress set next_offset = case when partition = $3::integer then 0 else $4::bigint end, ahead = '{}', updated_at = now()
               where source_id in (select id from ingest_source where cluster_id = $1 and starts_with(topic_id, $2))";
    let (definitions, first) = (crate::files::read::DEFINITIONS, crate::files::read::FIRST_ROW);
    session.query(Step::Other("forget an import"), sql, &[&FILE_CLUSTER, &hash, &definitions, &first]).await?;
    Ok(())
}

/// Drops the chunks of a unit if they are empty; returns `true` if there is none left. `false`: points have come, or other sessions
/// were in the way.
pub(super) async fn drop_empty(session: &Session, unit: &Unit) -> Result<bool, ArchiveError> {
    let mut attempts = Attempts::new(EMPTY_ATTEMPTS, MAX_SERIES_WAIT);
    loop {
        let points = chunks(session, POINTS, unit).await?;
        let versions = chunks(session, VERSIONS, unit).await?;
        if points.is_empty() && versions.is_empty() {
            return Ok(true);
        }
        session.begin(attempts.wait).await?;
        let dropped = drop_chunks(session, unit, (&points, &versions)).await;
        if let Some(is_dropped) = session.end(dropped).await? {
            return Ok(is_dropped);
        }
        if !attempts.pause().await {
            return Ok(false);
        }
    }
}

async fn drop_chunks(
    session: &Session,
    unit: &Unit,
    (points, versions): (&[String], &[String]),
) -> Result<bool, ArchiveError> {
    let step = Step::Other("drop an empty chunk");
    let Some(timescaledb) = &session.timescaledb else { return Ok(true) };
    let sql = format!(
        "select exists (select from pg_constraint where conrelid = '{POINTS}'::regclass and contype = 'f'
                            and confrelid = 'time_series_metadata'::regclass)"
    );
    // First, as those who write points have locked rows of it before they wait for a chunk; and even if no foreign key asks for
    // it: who waits for a chunk that is dropped meets an error.
    let is_referenced = session.query(step, &sql, &[]).await?.first().is_some_and(|row| row.get(0));
    let mode = if is_referenced { "access exclusive" } else { "exclusive" };
    session.execute(step, &format!("lock table time_series_metadata in {mode} mode")).await?;
    let all = [versions, points].concat();
    session.execute(step, &format!("lock table only {} in access exclusive mode", all.join(", only "))).await?;
    let sql = format!("select exists (select from {VERSIONS} where {})", unit.condition());
    let has_versions: bool = session.query(step, &sql, &[]).await?.first().is_some_and(|row| row.get(0));
    if has_points(session, unit).await? || has_versions {
        return Ok(false);
    }
    for (table, chunks) in [(POINTS, points), (VERSIONS, versions)] {
        if !chunks.is_empty() {
            let sql = format!(
                "select {timescaledb}.drop_chunks('{table}', older_than => timestamptz {}, newer_than => timestamptz {})",
                time(unit.until_us),
                time(unit.from_us)
            );
            session.query(step, &sql, &[]).await?;
        }
    }
    Ok(true)
}
