//! What the table of points has of indexes and constraints, by the catalog: its profile, and whether the server compresses a
//! COPY into it directly. `set` brings it from any state to a profile.
//!
//! - *standard*: what the migrations make.
//! - *throughput*: without the primary key, the foreign key and the two indexes that another one covers in practice. They are
//!   most of what a row costs, and a unique index or a trigger keeps the server from direct compress.

use std::sync::LazyLock;
use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};
use tracing::{info, warn};

use super::columns::{COLUMNS, OtherType, other_type};
use super::migration_lock::MigrationLock;
use crate::config;
use crate::database::connection::session::Session;
use crate::database::connection::settings::quoted_name;
use crate::database::error::{Error, describe};
use crate::database::schema::{SchemaError, connect};
use crate::telemetry::metrics;

/// What is being done, in errors.
const STEP: &str = "look at the table of points";

const TABLE: &str = "time_series_data_points";
const PRIMARY_KEY: &str = "time_series_data_points_pkey";
const FOREIGN_KEY: &str = "time_series_data_points_time_series_id_fkey";

/// The indexes of both profiles, with their columns.
const KEPT_INDEXES: [(&str, &str); 2] = [
    ("idx_time_series_data_points_timestamp", "\"timestamp\""),
    ("idx_time_series_data_points_series_column_time", "time_series_id, column_name, \"timestamp\""),
];

/// The indexes of the profile `standard` only.
const COVERED_INDEXES: [(&str, &str); 2] = [
    ("idx_time_series_data_points_series_time", "time_series_id, \"timestamp\""),
    ("idx_time_series_data_points_series_column", "time_series_id, column_name"),
];

/// How long a statement waits for each lock. Whoever writes waits behind it; this is less than `database.lock_timeout_ms` is
/// by default, after which a worker would try again.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// A set of indexes and constraints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// All that the migrations make.
    Standard,
    /// What is needed to read points, and nothing more.
    Throughput,
}

impl Profile {
    /// The profile's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Throughput => "throughput",
        }
    }
}

/// The table of points as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its profile's name, or what it lacks to have one.
    pub profile: String,
    /// The span of a chunk in microseconds where the server compresses a COPY directly, or why it does not.
    pub direct_compress: Result<i64, String>,
    /// A column that is of another type than the program writes.
    pub other_type: Option<OtherType>,
}

impl Table {
    /// Whether it has all of a profile, and nothing of it is missing.
    pub fn has_profile(&self) -> bool {
        [Profile::Standard, Profile::Throughput].iter().any(|profile| profile.as_str() == self.profile)
    }

    /// Says in the log and by a metric what has come of it.
    pub(in crate::database) fn report(&self, is_new: bool) {
        metrics::direct_compress(self.direct_compress.is_ok());
        let profile = &self.profile;
        let direct_compress = self.direct_compress_text();
        if is_new {
            info!(profile, direct_compress, "the table of points");
        } else {
            warn!(profile, direct_compress, "the table of points has changed");
        }
    }

    /// Whether the server compresses directly, for a person.
    pub fn direct_compress_text(&self) -> String {
        match &self.direct_compress {
            Ok(_) => "on".to_owned(),
            Err(reason) => format!("off: {reason}"),
        }
    }
}

/// The foreign key of the points to their series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ForeignKey {
    is_validated: bool,
    /// Whether a series that is deleted takes its points with it.
    cascades: bool,
}

impl ForeignKey {
    /// That of the profile `standard`.
    const WANTED: Self = Self { is_validated: true, cascades: true };
}

/// What the catalog says.
#[derive(Debug)]
struct Look {
    valid: Vec<String>,
    invalid: Vec<String>,
    /// Unique indexes, and those of exclusion constraints.
    unique: Vec<String>,
    /// Triggers, those of foreign keys by the constraint's name.
    triggers: Vec<String>,
    foreign_key: Option<ForeignKey>,
    timescaledb: Option<String>,
    is_community: bool,
    has_setting: bool,
    is_optimized: bool,
    other_type: Option<OtherType>,
}

/// The question for [`Look`].
fn look_sql() -> &'static str {
    static SQL: LazyLock<String> = LazyLock::new(|| format!("{LOOK}, array({COLUMNS}) {OF_POINTS}"));
    &SQL
}

/// TimescaleDB's own trigger is that of its older versions, which keeps rows out of the hypertable's root.
const LOOK: &str = "
    select array(select relname::text from pg_index join pg_class on pg_class.oid = indexrelid
                 where indrelid = points.oid and indisvalid),
        array(select relname::text from pg_index join pg_class on pg_class.oid = indexrelid
              where indrelid = points.oid and not indisvalid),
        array(select relname::text from pg_index join pg_class on pg_class.oid = indexrelid
              where indrelid = points.oid and (indisunique or indisexclusion) order by 1),
        array(select distinct coalesce(conname, tgname)::text
              from pg_trigger left join pg_constraint on pg_constraint.oid = tgconstraint
              where tgrelid = points.oid and tgname <> 'ts_insert_blocker' order by 1),
        (select array[convalidated, confdeltype = 'c'] from pg_constraint
         where conrelid = points.oid and conname = 'time_series_data_points_time_series_id_fkey'),
        (select extversion from pg_extension where extname = 'timescaledb'),
        current_setting('timescaledb.license', true) is not distinct from 'timescale',
        current_setting('timescaledb.enable_direct_compress_copy', true) is not null,
        current_setting('timescaledb.enable_optimizations', true) is distinct from 'off'";

const OF_POINTS: &str = "from (select 'time_series_data_points'::regclass as oid) as points";

/// Whether compression is set, and the span of a chunk in microseconds; no row where the points are no hypertable.
const LOOK_AT_HYPERTABLE: &str = "
    select compression_enabled, (extract(epoch from time_interval) * 1000000)::bigint
    from timescaledb_information.hypertables
    join timescaledb_information.dimensions using (hypertable_schema, hypertable_name)
    where hypertable_schema = current_schema() and hypertable_name = 'time_series_data_points'
        and column_name = 'timestamp'";

impl Look {
    fn new(row: &Row) -> Self {
        Self {
            valid: row.get(0),
            invalid: row.get(1),
            unique: row.get(2),
            triggers: row.get(3),
            foreign_key: match row.get::<_, Option<Vec<bool>>>(4).as_deref() {
                Some(&[is_validated, cascades]) => Some(ForeignKey { is_validated, cascades }),
                _ => None,
            },
            timescaledb: row.get(5),
            is_community: row.get(6),
            has_setting: row.get(7),
            is_optimized: row.get(8),
            other_type: other_type(&row.get::<_, Vec<String>>(9)),
        }
    }

    fn has(&self, index: &str) -> bool {
        self.valid.iter().any(|name| name == index)
    }

    fn profile(&self) -> String {
        let lacks = |names: &[&'static str]| names.iter().copied().filter(|name| !self.has(name)).collect::<Vec<_>>();
        let mut of_standard = lacks(&[PRIMARY_KEY, COVERED_INDEXES[0].0, COVERED_INDEXES[1].0]);
        if self.foreign_key != Some(ForeignKey::WANTED) {
            of_standard.push(FOREIGN_KEY);
        }
        let of_both = lacks(&KEPT_INDEXES.map(|(name, _)| name));
        if of_both.is_empty() && of_standard.is_empty() {
            return Profile::Standard.as_str().to_owned();
        }
        if of_both.is_empty() && of_standard.len() == 4 && self.foreign_key.is_none() {
            return Profile::Throughput.as_str().to_owned();
        }
        format!("neither standard nor throughput, without {}", [of_both, of_standard].concat().join(", "))
    }

    /// Why the server does not compress directly, as far as the table and the server's version say: TimescaleDB's source,
    /// `choose_copy_method` and `TSCopyMultiInsertBufferInit` in `copy.c`.
    fn hindrance(&self) -> Option<String> {
        let Some(version) = &self.timescaledb else { return Some("there is no TimescaleDB".to_owned()) };
        if !self.is_community {
            return Some("TimescaleDB is the Apache edition".to_owned());
        }
        if !self.has_setting {
            return Some(format!("TimescaleDB {version} has no direct compress; 2.21 is the first that has"));
        }
        if !self.is_optimized {
            return Some("timescaledb.enable_optimizations is off".to_owned());
        }
        let mut reasons = Vec::new();
        if !self.unique.is_empty() {
            reasons.push(format!("unique indexes ({})", self.unique.join(", ")));
        }
        if !self.triggers.is_empty() {
            reasons.push(format!("triggers or foreign keys ({})", self.triggers.join(", ")));
        }
        (!reasons.is_empty()).then(|| format!("the table has {}", reasons.join(" and ")))
    }

    fn table(&self, hypertable: Option<&Row>) -> Table {
        let direct_compress = match (self.hindrance(), hypertable) {
            (Some(reason), _) => Err(reason),
            (None, None) => Err("the points are no hypertable".to_owned()),
            (None, Some(row)) if !row.get::<_, bool>(0) => Err("compression is not set".to_owned()),
            (None, Some(row)) => Ok(row.get::<_, Option<i64>>(1).unwrap_or(i64::MAX).max(1)),
        };
        Table { profile: self.profile(), direct_compress, other_type: self.other_type.clone() }
    }
}

/// The table of points as it is now. It takes no locks: it may be another one when the answer is there.
pub(in crate::database) async fn look(session: &mut Session) -> Result<Table, Error> {
    let rows = session.query(STEP, look_sql(), &[]).await?;
    let look = rows.first().map(Look::new).ok_or_else(|| Error::Unexpected(format!("{STEP}: no row")))?;
    let hypertable = if look.hindrance().is_none() {
        session.query("look at the hypertable", LOOK_AT_HYPERTABLE, &[]).await?
    } else {
        Vec::new()
    };
    Ok(look.table(hypertable.first()))
}

async fn catalog(client: &Client) -> Result<Look, Error> {
    let row = client.query_one(look_sql(), &[]).await.map_err(|source| Error::Server { step: STEP, source })?;
    Ok(Look::new(&row))
}

async fn hypertable(client: &Client) -> Result<Option<Row>, Error> {
    let step = "look at the hypertable";
    client.query_opt(LOOK_AT_HYPERTABLE, &[]).await.map_err(|source| Error::Server { step, source })
}

/// Brings the table of points to a profile, one statement after the other; what is right already stays. It may be stopped at
/// any time, and repeated. Each statement goes to `say` before it runs; with `dry_run` none does.
///
/// # Errors
/// Where the server does not answer, or a statement fails; those before it stay.
pub async fn set(
    database: &config::Database,
    profile: Profile,
    dry_run: bool,
    say: impl FnMut(&str),
) -> Result<(), SchemaError> {
    let client = connect(database).await?;
    let step = "prepare the session";
    let settings = format!(
        "set lock_timeout = {}; set client_connection_check_interval = 2000; set client_min_messages = error",
        LOCK_WAIT.as_millis()
    );
    client.batch_execute(&settings).await.map_err(|source| Error::Server { step, source })?;
    let look = match catalog(&client).await {
        Err(Error::Server { source, .. }) if source.code() == Some(&SqlState::UNDEFINED_TABLE) => {
            return Err(SchemaError::NotMigrated { missing: TABLE.to_owned() });
        }
        look => look?,
    };
    let place = place(&client, &look).await?;
    let mut change = Change { client: &client, look, place, dry_run, say, statements: 0 };
    (change.say)(&format!("the profile of the table of points is {}", change.look.profile()));
    if dry_run {
        (change.say)(&format!("set search_path = {};", quoted_name(&database.schema)));
    }
    let mut lock = None;
    if !dry_run {
        lock = Some(change.lock_out_others(database).await?);
        // Another one may have been at it until now.
        change.look = catalog(change.client).await?;
    }
    for (index, columns) in KEPT_INDEXES {
        change.make_index(index, columns).await?;
    }
    match profile {
        Profile::Standard => change.make_standard().await?,
        Profile::Throughput => change.make_throughput().await?,
    }
    match (dry_run, change.statements) {
        (_, 0) => (change.say)("there is nothing to do"),
        (true, _) => (change.say)("nothing was done: leave out --dry-run to do it"),
        (false, _) => (change.say)(&format!("the profile is {} now", catalog(change.client).await?.profile())),
    }
    if let Some(lock) = lock {
        lock.release().await?;
    }
    Ok(())
}

/// Has a series that is deleted take its points with it, if the foreign key refuses the deletion instead, as that of earlier
/// versions and of other programs does. Returns whether there was something to do.
///
/// # Errors
/// If the server does not answer, or a lock is not to be had; the foreign key is then as it was.
pub(in crate::database) async fn cascade(client: &Client, say: impl FnMut(&str)) -> Result<bool, SchemaError> {
    let look = catalog(client).await?;
    if look.foreign_key.is_none_or(|key| key.cascades) {
        return Ok(false);
    }
    let place = place(client, &look).await?;
    let step = "prepare the session";
    let limit = |ms: u128| format!("set lock_timeout = {ms}");
    client.batch_execute(&limit(LOCK_WAIT.as_millis())).await.map_err(|source| Error::Server { step, source })?;
    let changed = Change { client, look, place, dry_run: false, say, statements: 0 }.make_foreign_key().await;
    client.batch_execute(&limit(0)).await.map_err(|source| Error::Server { step, source })?;
    changed.map(|()| true)
}

async fn place(client: &Client, look: &Look) -> Result<Place, Error> {
    let hypertable = if look.timescaledb.is_some() { hypertable(client).await? } else { None };
    Ok(match hypertable {
        None => Place::Plain,
        Some(row) if row.get(0) => Place::Compressed,
        Some(_) => Place::Hypertable,
    })
}

/// What the points are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Plain,
    /// Without compression.
    Hypertable,
    /// With compression set, whether or not a chunk is compressed.
    Compressed,
}

struct Change<'a, S> {
    client: &'a Client,
    look: Look,
    place: Place,
    dry_run: bool,
    say: S,
    statements: usize,
}

// The times are measured on 2 cores, with 2,000,000 rows in 2 chunks: docs/schema.md.
const AT_ONCE: &str = "milliseconds";
const ALL: &str = "ACCESS EXCLUSIVE on the table and its chunks";

impl<S: FnMut(&str)> Change<'_, S> {
    async fn make_throughput(&mut self) -> Result<(), SchemaError> {
        if self.look.foreign_key.is_some() {
            let locks = "ACCESS EXCLUSIVE on the table, its chunks and time_series_metadata";
            self.run(&format!("alter table {TABLE} drop constraint {FOREIGN_KEY}"), locks, AT_ONCE).await?;
        }
        if self.look.has(PRIMARY_KEY) {
            self.run(&format!("alter table {TABLE} drop constraint {PRIMARY_KEY}"), ALL, AT_ONCE).await?;
        }
        for (index, _) in COVERED_INDEXES {
            if self.look.has(index) || self.is_left_over(index) {
                self.drop_index(index).await?;
            }
        }
        let others: Vec<&String> = self.look.unique.iter().filter(|name| *name != PRIMARY_KEY).collect();
        if !others.is_empty() {
            let names: Vec<&str> = others.iter().map(|name| name.as_str()).collect();
            (self.say)(&format!("{} stays; while it does, nothing is compressed directly", names.join(", ")));
        }
        Ok(())
    }

    async fn make_standard(&mut self) -> Result<(), SchemaError> {
        for (index, columns) in COVERED_INDEXES {
            self.make_index(index, columns).await?;
        }
        if !self.look.has(PRIMARY_KEY) {
            let sql = format!("alter table {TABLE} add constraint {PRIMARY_KEY} primary key (id, \"timestamp\")");
            self.run(&sql, ALL, "0.3 s a million rows").await?;
        }
        if self.look.foreign_key.is_none_or(|key| !key.is_validated) {
            self.adopt_orphans().await?;
        }
        self.make_foreign_key().await
    }

    /// Makes the foreign key. One that refuses to delete a series is replaced in one transaction: there is always one.
    async fn make_foreign_key(&mut self) -> Result<(), SchemaError> {
        if self.look.foreign_key == Some(ForeignKey::WANTED) {
            return Ok(());
        }
        let add = format!(
            "alter table {TABLE} add constraint {FOREIGN_KEY} foreign key (time_series_id) references \
             time_series_metadata (id) on delete cascade"
        );
        let drop = format!("alter table {TABLE} drop constraint {FOREIGN_KEY}; ");
        let validate = format!("alter table {TABLE} validate constraint {FOREIGN_KEY}");
        let locks =
            "SHARE ROW EXCLUSIVE on the table, its chunks and time_series_metadata: nothing is written meanwhile";
        // TimescaleDB validates none later where compression is set.
        if self.place == Place::Compressed {
            return match self.look.foreign_key {
                None => self.run(&add, locks, "0.2 s a million rows").await,
                Some(_) => self.run(&format!("{drop}{add}"), ALL, "0.2 s a million rows").await,
            };
        }
        match self.look.foreign_key {
            None => self.run(&format!("{add} not valid"), locks, AT_ONCE).await?,
            Some(key) if !key.cascades => self.run(&format!("{drop}{add} not valid"), ALL, AT_ONCE).await?,
            Some(_) => {}
        }
        let locks = "SHARE UPDATE EXCLUSIVE on the table and its chunks: writing goes on";
        self.run(&validate, locks, "0.2 s a million rows").await
    }

    /// Whether the index was left by a statement that was stopped.
    fn is_left_over(&self, index: &str) -> bool {
        self.look.invalid.iter().any(|name| name == index)
    }

    async fn drop_index(&mut self, index: &str) -> Result<(), SchemaError> {
        self.run(&format!("drop index {index}"), ALL, AT_ONCE).await
    }

    async fn make_index(&mut self, index: &str, columns: &str) -> Result<(), SchemaError> {
        if self.look.has(index) {
            return Ok(());
        }
        if self.is_left_over(index) {
            self.drop_index(index).await?;
        }
        let (concurrently, with, locks) = match self.place {
            Place::Plain => (" concurrently", "", "SHARE UPDATE EXCLUSIVE on the table: writing goes on"),
            Place::Hypertable | Place::Compressed => {
                let locks = "SHARE on one chunk after the other: nothing is written into that chunk meanwhile";
                ("", " with (timescaledb.transaction_per_chunk)", locks)
            }
        };
        self.run(
            &format!("create index{concurrently} {index} on {TABLE} ({columns}){with}"),
            locks,
            "0.8 s a million rows",
        )
        .await
    }

    /// Gives a placeholder to each series that has points and no row, as a worker does.
    async fn adopt_orphans(&mut self) -> Result<(), SchemaError> {
        let without_row = format!(
            "from {TABLE} as point where not exists (select from time_series_metadata as series \
             where series.id = point.time_series_id)"
        );
        let sql = format!("select count(distinct time_series_id), min(time_series_id) {without_row}");
        let step = "look for points without a series";
        let row = self.client.query_one(&sql, &[]).await.map_err(|source| Error::Server { step, source })?;
        let (orphans, example): (i64, Option<String>) = (row.get(0), row.get(1));
        let Some(example) = example else { return Ok(()) };
        (self.say)(&format!(
            "{orphans} series with points have no row in time_series_metadata, for instance {example:?}: each gets a \
             placeholder, as a series has whose points come first"
        ));
        let sql = format!(
            "select ingest_ensure_series(array_agg(time_series_id), array_agg(column_name)) from (select distinct \
             time_series_id, column_name {without_row}) as orphan having count(*) > 0"
        );
        self.run(&sql, "ROW EXCLUSIVE on time_series_metadata and ingest_series", "0.2 s a million rows").await
    }

    async fn run(&mut self, sql: &str, locks: &str, time: &str) -> Result<(), SchemaError> {
        self.statements += 1;
        (self.say)(&format!("{sql};\n  -- {locks}; {time}"));
        if self.dry_run { Ok(()) } else { self.execute(sql).await }
    }

    /// Waits for another command that changes the tables, and keeps all later ones waiting.
    async fn lock_out_others(&mut self, database: &config::Database) -> Result<MigrationLock, SchemaError> {
        let lock = MigrationLock::take(database, Some(LOCK_WAIT), |wait| (self.say)(wait)).await?;
        lock.ok_or_else(|| {
            SchemaError::Profile(format!(
                "another migrate or set-profile is at work in this database, and was not done within {} s. Run the command \
                 again when it is",
                LOCK_WAIT.as_secs()
            ))
        })
    }

    async fn execute(&self, sql: &str) -> Result<(), SchemaError> {
        let Err(source) = self.client.batch_execute(sql).await else { return Ok(()) };
        let words = describe(&source);
        let code = source.code().cloned();
        let again = "What was done before stays: run the command again";
        let text = match code {
            Some(SqlState::LOCK_NOT_AVAILABLE | SqlState::T_R_DEADLOCK_DETECTED) => format!(
                "a lock was not to be had within {} s.{} {again} when the table is less busy. It was for: {sql}",
                LOCK_WAIT.as_secs(),
                self.holder().await.unwrap_or_default()
            ),
            Some(SqlState::FEATURE_NOT_SUPPORTED) => format!(
                "TimescaleDB {} does not do this on a table that has compression set: {sql}: {words}. Decompress all \
                 chunks, set timescaledb.compress to false, run the command again, and then migrate; or keep the profile",
                self.look.timescaledb.as_deref().unwrap_or("")
            ),
            Some(SqlState::FOREIGN_KEY_VIOLATION) => {
                format!("a series was deleted meanwhile that has points: {words}. {again}")
            }
            Some(SqlState::UNIQUE_VIOLATION) => {
                format!("rows have the same id and timestamp, and no primary key can be made: {words}")
            }
            _ => return Err(Error::Server { step: "set the profile", source }.into()),
        };
        Err(SchemaError::Profile(text))
    }

    /// Who has used the table for longest, as far as this role may know.
    async fn holder(&self) -> Option<String> {
        let sql = "select pid, coalesce(nullif(application_name, ''), backend_type),
                       extract(epoch from clock_timestamp() - xact_start)::bigint
                   from pg_locks join pg_stat_activity using (pid)
                   where granted and pid <> pg_backend_pid() and xact_start is not null
                       and (relation in ('time_series_data_points'::regclass, 'time_series_metadata'::regclass)
                            or relation in (select inhrelid from pg_inherits
                                            where inhparent = 'time_series_data_points'::regclass))
                   order by xact_start limit 1";
        let row = self.client.query_opt(sql, &[]).await.ok()??;
        let (pid, name, seconds): (i32, String, i64) = (row.get(0), row.get(1), row.get(2));
        Some(format!(
            " Process {pid} ({name}) has used the table for {seconds} s; pg_terminate_backend({pid}) would end it."
        ))
    }
}
