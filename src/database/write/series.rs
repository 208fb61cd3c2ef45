//! The rows of `time_series_metadata`: created or updated before the points that need them.
//!
//! Both statements are idempotent, sorted by the server, and never put an older definition over a newer one, so they may
//! run outside the points' transaction and again in every replay.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::batch::{Batch, Definition, SeriesDeletion, SeriesTombstone, SeriesTombstones};
use crate::database::NO_TIME;
use crate::database::connection::session::Session;
use crate::database::connection::step::Step;
use crate::database::error::Error;
use crate::database::progress::ResolvedSources;
use crate::message::Points;
use crate::telemetry::metrics;

/// How the points' reference to a series' row is enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReferentialCheck {
    /// Each transaction locks the rows of its series, and the foreign key's trigger is skipped.
    Locked,
    /// The foreign key's trigger, for each point.
    Trigger,
    /// Each transaction locks the rows of its series; the table has no foreign key.
    Absent,
}

impl ReferentialCheck {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Locked, Self::Trigger, Self::Absent];

    /// The word that the migrations' function returns, and that `/status` shows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Locked => "locked",
            Self::Trigger => "trigger",
            Self::Absent => "absent",
        }
    }

    /// The same in a sentence.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Locked => "the rows of series are locked, and the foreign key's trigger is skipped",
            Self::Trigger => {
                "the foreign key's trigger fires for each point: the role may not set session_replication_role, or skipping it \
                 would skip other triggers, rules, constraints or event triggers as well"
            }
            Self::Absent => "the rows of series are locked; the table has no foreign key",
        }
    }

    fn parse(word: &str) -> Result<Self, Error> {
        let known = Self::ALL.into_iter().find(|reference| reference.as_str() == word);
        known.ok_or_else(|| Error::Unexpected(format!("ingest_lock_series answers {word:?}")))
    }
}

/// Maximum number of (series, column) pairs and labels that are remembered before all are forgotten.
const MAX_KNOWN: usize = 1_000_000;

/// The columns known to be listed in each series' row, and the labels known to be in it.
#[derive(Debug, Default)]
pub(in crate::database) struct KnownSeries {
    known: Mutex<Known>,
    /// Labels may be long: only the hash of those that were written last is kept. Randomly seeded, because labels come from
    /// outside.
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Known {
    series: HashMap<String, KnownRow>,
    /// The number of columns and labels of all of them.
    entries: usize,
    /// The server's count of what other programs have removed, when it was last read.
    changes: Option<i64>,
}

#[derive(Debug, Default)]
struct KnownRow {
    columns: Vec<String>,
    labels: Option<u64>,
}

/// What the points' series need and their rows are not known to have.
#[derive(Debug, Default, PartialEq, Eq)]
struct Unknown<'a> {
    /// Pairs of a series and a column.
    columns: Vec<(&'a str, &'a str)>,
    /// Pairs of a series and its labels.
    labels: Vec<(&'a str, &'a str)>,
}

impl Unknown<'_> {
    fn is_empty(&self) -> bool {
        self.columns.is_empty() && self.labels.is_empty()
    }
}

impl KnownSeries {
    /// What the points' series need and their rows are not known to have. A series without a column needs no row.
    fn unknown<'a>(&self, points: &'a Points) -> Unknown<'a> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut unknown = Unknown::default();
        for (series, labels, columns) in points.series_columns_and_labels() {
            let row = known.series.get(series);
            let listed = row.map_or(&[][..], |row| &row.columns);
            if let Some(labels) = labels.filter(|_| !columns.is_empty())
                && row.and_then(|row| row.labels) != Some(self.hasher.hash_one(labels))
            {
                unknown.labels.push((series, labels));
            }
            let missing = columns.into_iter().filter(|column| !listed.iter().any(|name| name == column));
            unknown.columns.extend(missing.map(|column| (series, column)));
        }
        unknown
    }

    /// The series of the points whose rows are to be made or changed before.
    pub(in crate::database) fn series_to_ensure<'a>(&self, points: &'a Points) -> Vec<&'a str> {
        let Unknown { columns, labels } = self.unknown(points);
        columns.into_iter().chain(labels).map(|(series, _)| series).collect()
    }

    fn remember(&self, unknown: &Unknown<'_>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let count = unknown.columns.len() + unknown.labels.len();
        if known.entries + count > MAX_KNOWN {
            *known = Known { changes: known.changes, ..Known::default() };
        }
        for (series, column) in &unknown.columns {
            known.series.entry((*series).to_owned()).or_default().columns.push((*column).to_owned());
        }
        let mut replaced = 0;
        for (series, labels) in &unknown.labels {
            let row = known.series.entry((*series).to_owned()).or_default();
            replaced += usize::from(row.labels.replace(self.hasher.hash_one(*labels)).is_some());
        }
        known.entries += count - replaced;
    }

    /// Forgets all if another program has deleted series or columns since the last call.
    fn is_changed(&self, changes: i64) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_changed = known.changes.is_some_and(|before| before != changes);
        if is_changed {
            *known = Known::default();
        }
        known.changes = Some(changes);
        is_changed
    }

    /// Forgets all: the database may have lost rows.
    pub(in crate::database) fn forget(&self) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Known::default();
    }
}

/// The parameters of `ingest_check_deleted` after the ids: what is known of deletions for a batch.
#[derive(Debug, Default)]
struct KnownTombstones<'a> {
    oldest_ms: i64,
    ids: Vec<&'a str>,
    before_us: Vec<Option<i64>>,
    message_ms: Vec<i64>,
}

impl<'a> KnownTombstones<'a> {
    fn new(batch: &'a Batch) -> Self {
        let mut known = Self { oldest_ms: batch.oldest_for_tombstones(), ..Self::default() };
        for (series, SeriesTombstone { message_ms, before_us }) in batch.tombstones().iter() {
            known.ids.push(series);
            known.before_us.push(before_us);
            known.message_ms.push(message_ms);
        }
        known
    }
}

/// The deletions of the points' series.
pub(in crate::database) async fn tombstones(session: &mut Session, points: &Points) -> Result<SeriesTombstones, Error> {
    let ids = points.series_with_columns();
    let sql = "select series_id, before_us, message_ms from ingest_series_tombstones($1)";
    let rows = session.query(Step::Other("read the deletions of series"), sql, &[&ids]).await?;
    let mut tombstones = SeriesTombstones::default();
    for row in rows {
        tombstones.add(row.get(0), SeriesTombstone { before_us: row.get(1), message_ms: row.get(2) });
    }
    Ok(tombstones)
}

/// Makes sure that each series of the batch's points has its row, with its columns and its labels.
///
/// # Errors
/// Also [`Error::is_series_deleted`], and then no row was created.
pub(in crate::database) async fn ensure_series(
    session: &mut Session,
    known: &KnownSeries,
    batch: &Batch,
) -> Result<(), Error> {
    let unknown = known.unknown(batch.points());
    if unknown.is_empty() {
        return Ok(());
    }
    let (ids, columns): (Vec<&str>, Vec<&str>) = unknown.columns.iter().copied().unzip();
    let (labelled, labels): (Vec<&str>, Vec<&str>) = unknown.labels.iter().copied().unzip();
    let deleted = KnownTombstones::new(batch);
    let sql = "select ingest_check_deleted($1::text[] || $3::text[], $6, $7, $8, $9)
               from (select set_config('lock_timeout', $5, true) as is_set offset 0) as wait,
                   lateral (select ingest_ensure_series($1, $2, $3, $4) as ensured where is_set is not null offset 0) as rows
               where ensured is not null";
    let parameters: [&(dyn ToSql + Sync); 9] = [
        &ids,
        &columns,
        &labelled,
        &labels,
        &session.row_wait(),
        &deleted.oldest_ms,
        &deleted.ids,
        &deleted.before_us,
        &deleted.message_ms,
    ];
    session.query(Step::EnsureSeries, sql, &parameters).await?;
    known.remember(&unknown);
    Ok(())
}

/// The condition that the functions work with the tables of this session's schema: they keep its name from the time they were
/// made, and a schema can be renamed, or take another one's name.
const SAME_SCHEMA: &str = "exists (select from pg_proc where oid = 'ingest_lock_series(text[])'::regprocedure
    and format('search_path=%I, pg_temp', current_schema()) = any (proconfig))";

fn referential_check(rows: &[Row]) -> Result<ReferentialCheck, Error> {
    let row = rows.first().ok_or_else(|| Error::Unexpected("ingest_lock_series returns nothing".to_owned()))?;
    if !row.get::<_, bool>(1) {
        return Err(Error::Unexpected(
            "the functions of this schema work with the tables of another one: it was renamed. Run `series-ingest migrate`"
                .to_owned(),
        ));
    }
    ReferentialCheck::parse(row.get(0))
}

/// Locks the rows of the points' series until the transaction ends, and skips the foreign key's trigger from now on if that is
/// allowed.
///
/// # Errors
/// Also if a series has no row, or another program has deleted or changed series: the points' columns must then be ensured
/// again.
pub(in crate::database) async fn lock(
    session: &mut Session,
    known: &KnownSeries,
    batch: &Batch,
) -> Result<ReferentialCheck, Error> {
    #[cfg(feature = "planted-bugs")]
    if crate::planted_bugs::is_on("series-not-locked") {
        session.execute(Step::Other("disable triggers"), "set local session_replication_role = replica").await?;
        return Ok(ReferentialCheck::Locked);
    }
    let ids = batch.points().series_with_columns();
    let deleted = KnownTombstones::new(batch);
    // A setting of the caller, who may set it, and not of the function, whose owner may set anything.
    let sql = format!(
        "select reference, {SAME_SCHEMA},
             case when reference = 'locked' then set_config('session_replication_role', 'replica', true) end,
             ingest_series_changes(), set_config('lock_timeout', before, true),
             ingest_check_deleted($1, $3, $4, $5, $6)
         from (select current_setting('lock_timeout') as before offset 0) as session,
             lateral (select set_config('lock_timeout', case when before is not null then $2 end, true) as is_set offset 0)
                 as wait,
             lateral ingest_lock_series(case when is_set is not null then $1::text[] end) as reference"
    );
    let parameters: [&(dyn ToSql + Sync); 6] =
        [&ids, &session.row_wait(), &deleted.oldest_ms, &deleted.ids, &deleted.before_us, &deleted.message_ms];
    let rows = session.query(Step::Other("lock the rows of series"), &sql, &parameters).await?;
    let reference = referential_check(&rows)?;
    if rows.first().is_some_and(|row| known.is_changed(row.get(3))) {
        return Err(Error::SeriesChanged);
    }
    Ok(reference)
}

/// Lets triggers fire again for the rest of the transaction, and checks that its points are where queries find them.
///
/// # Errors
/// Also if rows went into the root table of a hypertable.
pub(in crate::database) async fn check_landing(
    session: &mut Session,
    reference: ReferentialCheck,
) -> Result<(), Error> {
    let sql = match reference {
        ReferentialCheck::Locked => {
            "select set_config('session_replication_role', 'origin', true), ingest_check_root_tables()"
        }
        ReferentialCheck::Trigger | ReferentialCheck::Absent => "select ingest_check_root_tables()",
    };
    session.query(Step::Other("check where points are"), sql, &[]).await.map(drop)
}

/// How the points' reference to their series is enforced, for this role and this table, without writing any.
pub(in crate::database) async fn reference(session: &mut Session) -> Result<ReferentialCheck, Error> {
    let sql = format!("select reference, {SAME_SCHEMA} from ingest_lock_series('{{}}') as reference");
    referential_check(&session.query(Step::Other("ask for triggers"), &sql, &[]).await?)
}

/// Records deletions of series; their points are deleted later, outside the transaction.
pub(in crate::database) async fn delete(session: &mut Session, deletions: &[SeriesDeletion]) -> Result<(), Error> {
    if deletions.is_empty() {
        return Ok(());
    }
    let (ids, times): (Vec<&str>, Vec<i64>) =
        deletions.iter().map(|one| (one.series.as_str(), one.message_ms.unwrap_or(NO_TIME))).unzip();
    let sql = "select ingest_delete_series($1, 'infinity', $2)";
    session.query(Step::DefineSeries, sql, &[&ids, &times]).await.map(drop)
}

/// Creates or updates series by their definitions.
pub(in crate::database) async fn define(
    session: &mut Session,
    sources: &ResolvedSources,
    definitions: &[Definition],
) -> Result<(), Error> {
    if definitions.is_empty() {
        return Ok(());
    }
    let ids: Vec<&str> = definitions.iter().map(|d| d.series.id.as_str()).collect();
    let names: Vec<Option<&str>> = definitions.iter().map(|d| d.series.name.as_deref()).collect();
    let descriptions: Vec<Option<&str>> = definitions.iter().map(|d| d.series.description.as_deref()).collect();
    let time_columns: Vec<Option<&str>> = definitions.iter().map(|d| d.series.time_column.as_deref()).collect();
    let value_columns: Vec<String> =
        definitions.iter().map(|d| serde_json::Value::from(d.series.value_columns.clone()).to_string()).collect();
    let labels: Vec<Option<&str>> = definitions.iter().map(|d| d.series.labels.as_deref()).collect();
    let times: Vec<i64> = definitions.iter().map(|d| d.at.time_ms.unwrap_or(NO_TIME)).collect();
    let source_keys =
        definitions.iter().map(|d| sources.key(&d.at.partition.source)).collect::<Result<Vec<Uuid>, Error>>()?;
    let partitions: Vec<i32> = definitions.iter().map(|d| d.at.partition.number).collect();
    let offsets: Vec<i64> = definitions.iter().map(|d| d.at.offset).collect();
    let rows = session
        .query(
            Step::DefineSeries,
            "select ingest_define_series($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
             from (select set_config('lock_timeout', $11, true) as is_set offset 0) as wait where is_set is not null",
            &[
                &ids,
                &names,
                &descriptions,
                &time_columns,
                &value_columns,
                &times,
                &source_keys,
                &partitions,
                &offsets,
                &labels,
                &session.row_wait(),
            ],
        )
        .await?;
    metrics::series_conflicts(rows.first().map_or(0, |row| row.get::<_, i64>(0).unsigned_abs()));
    Ok(())
}

/// The series of the points that have no row.
pub(in crate::database) async fn without_row(session: &mut Session, points: &Points) -> Result<Vec<String>, Error> {
    let ids: Vec<&str> = points.series_columns().into_iter().map(|(series, _)| series).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = session
        .query(
            Step::Other("look up series"),
            "select named.id from unnest($1::text[]) as named (id)
             where not exists (select from time_series_metadata as series where series.id = named.id)",
            &[&ids],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
