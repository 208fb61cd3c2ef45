//! The migrations of this program, and which of them the database has.

use refinery::Runner;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::error::{NO_UPGRADE, SchemaError};
use crate::database::connection::step::Step;
use crate::database::error::Error;

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// The table of the applied migrations. refinery's default name would be that of every program that uses refinery.
pub(super) const HISTORY: &str = "ingest_schema_history";

pub(super) fn runner() -> Runner {
    let mut runner = embedded::migrations::runner();
    runner.set_migration_table_name(HISTORY);
    runner
}

/// A row of the table of applied migrations.
pub(super) struct AppliedMigration {
    pub(super) version: i32,
    pub(super) checksum: String,
}

/// Returns the rows of the table of applied migrations; none if it is missing.
async fn history(client: &Client) -> Result<Vec<AppliedMigration>, Error> {
    let sql = format!("select version::integer, checksum::text from {HISTORY} order by version");
    let rows = match client.query(&sql, &[]).await {
        Ok(rows) => rows,
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Vec::new(),
        Err(source) => return Err(Error::Server { step: Step::Other("read the schema's version"), source }),
    };
    Ok(rows.iter().map(|row| AppliedMigration { version: row.get(0), checksum: row.get(1) }).collect())
}

/// The version of the newest migration of this program.
pub fn newest_version() -> i32 {
    runner().get_migrations().iter().map(refinery::Migration::version).max().unwrap_or(0)
}

/// The version of the newest migration that the database has; 0 if it has none.
///
/// # Errors
/// If the server does not answer.
pub(crate) async fn applied_version(client: &Client) -> Result<i32, Error> {
    Ok(history(client).await?.iter().map(|row| row.version).max().unwrap_or(0))
}

/// The table that `backup restore` makes at its start, and drops at its end.
pub(crate) const UNFINISHED_RESTORE: &str = "ingest_unfinished_restore";

/// Returns the applied migrations.
///
/// # Errors
/// If one has another content than this program's, or tables of the migrations are there and none is listed: there is no
/// upgrade from them.
pub(super) async fn check_history(client: &Client) -> Result<Vec<AppliedMigration>, SchemaError> {
    let step = Step::Other("look for an unfinished restore");
    let row = client.query_one("select to_regclass($1) is not null", &[&UNFINISHED_RESTORE]).await;
    if row.map_err(|source| Error::Server { step, source })?.get(0) {
        return Err(SchemaError::UnfinishedRestore);
    }
    let applied = history(client).await?;
    for migration in runner().get_migrations() {
        let same_version = applied.iter().find(|row| row.version == migration.version());
        if same_version.is_some_and(|row| row.checksum != migration.checksum().to_string()) {
            return Err(SchemaError::Different { name: migration.to_string() });
        }
    }
    if applied.is_empty() {
        let step = Step::Other("look for tables without a history");
        let sql = "select to_regclass('ingest_progress') is not null";
        let row = client.query_one(sql, &[]).await.map_err(|source| Error::Server { step, source })?;
        if row.get(0) {
            return Err(SchemaError::Table(format!(
                "the table ingest_progress is there, and {HISTORY} does not list its migration: {NO_UPGRADE}"
            )));
        }
    }
    Ok(applied)
}
