//! Changing the profile of the table of points: from any state to one of the two.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::migration_lock::MigrationLock;
use super::profile::{
    COVERED_INDEXES, Catalog, FOREIGN_KEY, ForeignKey, KEPT_INDEXES, PRIMARY_KEY, Profile, TABLE, read_hypertable,
};
use crate::config;
use crate::database::connection::settings::quoted_name;
use crate::database::connection::step::Step;
use crate::database::error::{Error, describe};
use crate::database::schema::{SchemaError, connect};

/// Timeout for each lock of a statement. Workers that write wait after it; this is less than the default of
/// `database.lock_timeout_ms`, after which a worker would try again.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Brings the table of points to a profile, one statement after the other; what is right already stays. It may be stopped at
/// any time, and repeated. Each statement goes to `say` before it runs; with `dry_run` none does.
///
/// # Errors
/// If the server does not answer, or a statement fails; those before it stay.
pub async fn set(
    database: &config::Database,
    profile: Profile,
    dry_run: bool,
    say: impl FnMut(&str),
) -> Result<(), SchemaError> {
    let client = connect(database).await?;
    let step = Step::Other("prepare the session");
    let settings = format!(
        "set lock_timeout = {}; set client_connection_check_interval = 2000; set client_min_messages = error",
        LOCK_WAIT.as_millis()
    );
    client.batch_execute(&settings).await.map_err(|source| Error::Server { step, source })?;
    let catalog = match Catalog::read(&client).await {
        Err(Error::Server { source, .. }) if source.code() == Some(&SqlState::UNDEFINED_TABLE) => {
            return Err(SchemaError::NotMigrated { missing: TABLE.to_owned() });
        }
        catalog => catalog?,
    };
    let place = place(&client, &catalog).await?;
    let mut change = Change { client: &client, catalog, place, dry_run, say, statements: 0 };
    (change.say)(&format!("the profile of the table of points is {}", change.catalog.profile()));
    if dry_run {
        (change.say)(&format!("set search_path = {};", quoted_name(&database.schema)));
    }
    let mut lock = None;
    if !dry_run {
        lock = Some(change.lock_out_others(database).await?);
        // Another command may have changed it until now.
        change.catalog = Catalog::read(change.client).await?;
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
        (false, _) => (change.say)(&format!("the profile is {} now", Catalog::read(change.client).await?.profile())),
    }
    if let Some(lock) = lock {
        lock.release().await?;
    }
    Ok(())
}

/// Makes deleting a series delete its points, if the foreign key refuses the deletion instead, as that of earlier versions and
/// of other programs does. Returns `true` if there was something to do.
///
/// # Errors
/// If the server does not answer, or a lock is not available; the foreign key is then as it was.
pub(in crate::database) async fn cascade(client: &Client, say: impl FnMut(&str)) -> Result<bool, SchemaError> {
    let catalog = Catalog::read(client).await?;
    if catalog.foreign_key.is_none_or(|key| key.cascades) {
        return Ok(false);
    }
    let place = place(client, &catalog).await?;
    let step = Step::Other("prepare the session");
    let limit = |ms: u128| format!("set lock_timeout = {ms}");
    client.batch_execute(&limit(LOCK_WAIT.as_millis())).await.map_err(|source| Error::Server { step, source })?;
    let changed = Change { client, catalog, place, dry_run: false, say, statements: 0 }.make_foreign_key().await;
    client.batch_execute(&limit(0)).await.map_err(|source| Error::Server { step, source })?;
    changed.map(|()| true)
}

async fn place(client: &Client, catalog: &Catalog) -> Result<Place, Error> {
    let hypertable = if catalog.timescaledb.is_some() { read_hypertable(client).await? } else { None };
    Ok(match hypertable {
        None => Place::Plain,
        Some(row) if row.get(0) => Place::Compressed,
        Some(_) => Place::Hypertable,
    })
}

/// The kind of table that the points are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Plain,
    /// Without compression.
    Hypertable,
    /// With compression set, whether or not a chunk is compressed.
    Compressed,
}

/// A change of the table, statement by statement.
struct Change<'a, S> {
    client: &'a Client,
    catalog: Catalog,
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
        if self.catalog.foreign_key.is_some() {
            let locks = "ACCESS EXCLUSIVE on the table, its chunks and time_series_metadata";
            self.run(&format!("alter table {TABLE} drop constraint {FOREIGN_KEY}"), locks, AT_ONCE).await?;
        }
        if self.catalog.has(PRIMARY_KEY) {
            self.run(&format!("alter table {TABLE} drop constraint {PRIMARY_KEY}"), ALL, AT_ONCE).await?;
        }
        for (index, _) in COVERED_INDEXES {
            if self.catalog.has(index) || self.is_left_over(index) {
                self.drop_index(index).await?;
            }
        }
        let others: Vec<&String> = self.catalog.unique.iter().filter(|name| *name != PRIMARY_KEY).collect();
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
        if !self.catalog.has(PRIMARY_KEY) {
            let sql = format!("alter table {TABLE} add constraint {PRIMARY_KEY} primary key (id, \"timestamp\")");
            self.run(&sql, ALL, "0.3 s a million rows").await?;
        }
        if self.catalog.foreign_key.is_none_or(|key| !key.is_validated) {
            self.adopt_orphans().await?;
        }
        self.make_foreign_key().await
    }

    /// Makes the foreign key. One that refuses to delete a series is replaced in one transaction: there is always one.
    async fn make_foreign_key(&mut self) -> Result<(), SchemaError> {
        if self.catalog.foreign_key == Some(ForeignKey::WANTED) {
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
        // TimescaleDB cannot validate one later if compression is set.
        if self.place == Place::Compressed {
            return match self.catalog.foreign_key {
                None => self.run(&add, locks, "0.2 s a million rows").await,
                Some(_) => self.run(&format!("{drop}{add}"), ALL, "0.2 s a million rows").await,
            };
        }
        match self.catalog.foreign_key {
            None => self.run(&format!("{add} not valid"), locks, AT_ONCE).await?,
            Some(key) if !key.cascades => self.run(&format!("{drop}{add} not valid"), ALL, AT_ONCE).await?,
            Some(_) => {}
        }
        let locks = "SHARE UPDATE EXCLUSIVE on the table and its chunks: writing goes on";
        self.run(&validate, locks, "0.2 s a million rows").await
    }

    /// Returns `true` if the index was left by a statement that was stopped.
    fn is_left_over(&self, index: &str) -> bool {
        self.catalog.invalid.iter().any(|name| name == index)
    }

    async fn drop_index(&mut self, index: &str) -> Result<(), SchemaError> {
        self.run(&format!("drop index {index}"), ALL, AT_ONCE).await
    }

    async fn make_index(&mut self, index: &str, columns: &str) -> Result<(), SchemaError> {
        if self.catalog.has(index) {
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
        let step = Step::Other("look for points without a series");
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
        let lock = MigrationLock::acquire(database, Some(LOCK_WAIT), |wait| (self.say)(wait)).await?;
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
                "a lock was not available within {} s.{} {again} when the table is less busy. It was for: {sql}",
                LOCK_WAIT.as_secs(),
                self.holder().await.unwrap_or_default()
            ),
            Some(SqlState::FEATURE_NOT_SUPPORTED) => format!(
                "TimescaleDB {} does not do this on a table that has compression set: {sql}: {words}. Decompress all \
                 chunks, set timescaledb.compress to false, run the command again, and then migrate; or keep the profile",
                self.catalog.timescaledb.as_deref().unwrap_or("")
            ),
            Some(SqlState::FOREIGN_KEY_VIOLATION) => {
                format!("a series was deleted meanwhile that has points: {words}. {again}")
            }
            Some(SqlState::UNIQUE_VIOLATION) => {
                format!("rows have the same id and timestamp, and no primary key can be made: {words}")
            }
            _ => return Err(Error::Server { step: Step::Other("set the profile"), source }.into()),
        };
        Err(SchemaError::Profile(text))
    }

    /// The process that has used the table for longest, as far as this role may see.
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
