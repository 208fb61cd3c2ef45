//! The connection that drops points. It holds the lock that lets one archive of a database run at a time, so that whatever ends
//! the connection ends the lock.

use std::time::Duration;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::origin::Origin;
use super::{ANSWER_TIMEOUT, ArchiveError, POINTS, VERSIONS};
use crate::config;
use crate::database::{self, Class, Step, answered};
use crate::repository::Error;

/// The key of the lock: "series-a" in ASCII.
const KEY: i64 = 0x7365_7269_6573_2d61;
const STEP: Step = Step::Other("begin to archive");

/// The connection.
#[derive(Debug)]
pub(super) struct Session {
    client: Client,
    /// The schema of TimescaleDB's functions, quoted, if it is there.
    pub(super) timescaledb: Option<String>,
}

impl Session {
    /// Connects, without a lock.
    pub(super) async fn open(config: &config::Database) -> Result<Self, ArchiveError> {
        let client = database::connect(config).await?;
        let mut session = Self { client, timescaledb: None };
        session.execute(STEP, "set jit = off; set client_min_messages = error").await?;
        let sql = "select to_regclass($1) is not null,
                       (select quote_ident(nspname) from pg_extension join pg_namespace on pg_namespace.oid = extnamespace
                        where extname = 'timescaledb')";
        let rows = session.query(STEP, sql, &[&POINTS]).await?;
        let row = rows.first();
        if !row.is_some_and(|row| row.get(0)) {
            return Err(Error::NotMigrated(config.schema.clone()).into());
        }
        session.timescaledb = row.and_then(|row| row.get(1));
        Ok(session)
    }

    /// Takes the lock.
    ///
    /// # Errors
    /// [`ArchiveError::Busy`] if another session has it.
    pub(super) async fn lock(&self) -> Result<(), ArchiveError> {
        // As the server shows a key of 64 bits: its two halves.
        let sql = "select pg_try_advisory_lock($1),
                       (select min(pid) from pg_locks where locktype = 'advisory' and granted and pid <> pg_backend_pid()
                            and database = (select oid from pg_database where datname = current_database())
                            and classid::bigint = $1 >> 32 and objid::bigint = $1 & 4294967295)";
        let rows = self.query(STEP, sql, &[&KEY]).await?;
        if rows.first().is_some_and(|row| row.get(0)) {
            return Ok(());
        }
        let pid: Option<i32> = rows.first().and_then(|row| row.get(1));
        let pid = pid.map_or_else(String::new, |pid| format!(" (process {pid} of the server)"));
        Err(ArchiveError::Busy(format!(
            "another archive is at work in this database{pid}: run this command again when it has ended"
        )))
    }

    /// Checks that this role may drop chunks.
    ///
    /// # Errors
    /// [`ArchiveError::Usage`] if it may not.
    pub(super) async fn check_rights(&self) -> Result<(), ArchiveError> {
        let sql = "select relname::text, pg_get_userbyid(relowner)::text, current_user::text from pg_class
                   where oid in (to_regclass($1), to_regclass($2)) and not pg_has_role(relowner, 'USAGE') limit 1";
        let rows = self.query(Step::Other("check rights"), sql, &[&POINTS, &VERSIONS]).await?;
        let Some(row) = rows.first() else { return Ok(()) };
        let (table, owner, role): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
        Err(ArchiveError::Usage(format!(
            "the role {role:?} of database.url may not drop points: {table} belongs to {owner:?}. Archive as that role, or as a \
             member of it"
        )))
    }

    /// Where points come from, for manifests.
    pub(super) async fn origin(&self) -> Result<Origin, ArchiveError> {
        let sql = "select current_setting('server_version'), (select extversion from pg_extension where extname = 'timescaledb'),
                       (select id::text from ingest_database), current_database()::text, current_schema()::text";
        let rows = self.query(STEP, sql, &[]).await?;
        let row = rows.first().ok_or_else(|| ArchiveError::Internal("the server says nothing of itself".to_owned()))?;
        Ok(Origin {
            postgresql: row.get(0),
            timescaledb: row.get(1),
            database_id: row.get(2),
            database: row.get(3),
            schema: row.get(4),
            table: POINTS.to_owned(),
        })
    }

    /// The server's time, in microseconds since the Unix epoch.
    pub(super) async fn now_us(&self) -> Result<i64, ArchiveError> {
        let sql = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint";
        let rows = self.query(STEP, sql, &[]).await?;
        rows.first().map(|row| row.get(0)).ok_or_else(|| ArchiveError::Internal("the server has no time".to_owned()))
    }

    /// Asks a question.
    pub(super) async fn query(
        &self,
        step: Step,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, database::Error> {
        answered(step, ANSWER_TIMEOUT, self.client.query(sql, parameters)).await
    }

    /// Runs statements.
    pub(super) async fn execute(&self, step: Step, sql: &str) -> Result<(), database::Error> {
        answered(step, ANSWER_TIMEOUT, self.client.batch_execute(sql)).await
    }

    /// Begins a transaction that waits this long for each lock.
    pub(super) async fn begin(&self, wait: Duration) -> Result<(), database::Error> {
        let sql = format!("begin isolation level read committed; set local lock_timeout = '{}ms'", wait.as_millis());
        self.execute(STEP, &sql).await
    }

    /// Ends a transaction: commits it if its work returned `true`, and rolls it back otherwise. `None`: another transaction was in
    /// the way, and the work may be tried again.
    pub(super) async fn end(&self, work: Result<bool, ArchiveError>) -> Result<Option<bool>, ArchiveError> {
        let is_done = match work {
            Ok(is_done) => is_done,
            Err(error) => return self.roll_back_after(error).await.map(|()| None),
        };
        if is_done {
            self.execute(Step::Commit, "commit").await?;
        } else {
            self.roll_back().await?;
        }
        Ok(Some(is_done))
    }

    async fn roll_back(&self) -> Result<(), database::Error> {
        self.execute(Step::Other("roll back"), "rollback").await
    }

    /// Ends a transaction that another one was in the way of: `Ok` if it may be tried again.
    async fn roll_back_after(&self, error: ArchiveError) -> Result<(), ArchiveError> {
        match &error {
            ArchiveError::Repository(Error::Database(failure)) if failure.class() == Class::Outage => Err(error),
            ArchiveError::Repository(Error::Database(failure)) if failure.class() == Class::Retry => {
                Ok(self.roll_back().await?)
            }
            _ => {
                self.roll_back().await?;
                Err(error)
            }
        }
    }
}
