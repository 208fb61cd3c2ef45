//! The database that a backup is to be restored into: whether it can be, and which way.

use tokio_postgres::Client;

use super::error::Error;
use super::manifest::{Manifest, Origin};
use super::programs::Program;
use crate::config;
use crate::database::quoted_name;
use crate::database::schema::newest_version;
use crate::database::schema::roles::TABLES;

/// The first version whose pg_restore sets `transaction_timeout`, which older servers do not know.
const TRANSACTION_TIMEOUT: u32 = 17;

/// How a backup is restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// By pg_restore, with all tables, functions and indexes as they were.
    Whole,
    /// Into tables that this program makes, row by row, for the reason given.
    Rows(String),
}

/// What the server and the database offer.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) database: String,
    pub(super) postgresql: String,
    pub(super) major: u32,
    /// The versions of TimescaleDB that can be added; none unless the server has loaded it.
    offered: Vec<String>,
    /// The version that the database has.
    pub(super) installed: Option<String>,
    is_community: bool,
}

/// Reads what the target offers.
///
/// # Errors
/// If it does not answer, it is a standby, or it has our tables already.
pub(super) async fn examine(client: &Client, database: &config::Database) -> Result<Target, Error> {
    let sql = "select current_database()::text, current_setting('server_version'), current_setting('server_version_num')::integer,
                   array(select version::text from pg_available_extension_versions where name = 'timescaledb'
                         and exists (select from pg_settings where name like 'timescaledb%')),
                   (select extversion from pg_extension where extname = 'timescaledb'),
                   current_setting('timescaledb.license', true), pg_is_in_recovery()";
    let row = client.query_one(sql, &[]).await.map_err(Error::server("ask for the server's version"))?;
    let license: Option<String> = row.get(5);
    let target = Target {
        database: row.get(0),
        postgresql: row.get(1),
        major: row.get::<_, i32>(2).unsigned_abs() / 10_000,
        offered: row.get(3),
        installed: row.get(4),
        is_community: license.as_deref() == Some("timescale"),
    };
    if row.get(6) {
        return Err(Error::Target(format!(
            "the database {} is a standby's, which takes no writes: name the primary in database.url",
            target.database
        )));
    }
    refuse_used(client, database, &target.database).await?;
    Ok(target)
}

/// Refuses a database that has one of our tables.
async fn refuse_used(client: &Client, database: &config::Database, name: &str) -> Result<(), Error> {
    let ours: Vec<&str> = TABLES.iter().map(|(table, _)| *table).collect();
    let sql = "select relname::text from pg_class join pg_namespace on pg_namespace.oid = relnamespace
               where nspname = $1 and relname = any ($2) order by 1 limit 1";
    let found = client.query_opt(sql, &[&database.schema, &ours]).await.map_err(Error::server("look for tables"))?;
    let Some(found) = found else { return Ok(()) };
    Err(Error::Target(format!(
        "the database {name} is not empty: its schema {} has the table {}, and a backup is restored only where nothing can be \
         overwritten. Make an empty database (create database NAME) and name it in database.url",
        quoted_name(&database.schema),
        found.get::<_, String>(0)
    )))
}

impl Target {
    /// Chooses the way.
    ///
    /// # Errors
    /// If there is none, with the reason and what to do.
    pub(super) fn way(
        &self,
        manifest: &Manifest,
        database: &config::Database,
        program: &Program,
        rows: bool,
    ) -> Result<Way, Error> {
        if !self.is_community && manifest.contents.compressed() > 0 {
            return Err(Error::Target(format!(
                "{} chunks of the backup are compressed, which only the community edition of TimescaleDB can read, and this \
                 server does not have it: restore on a server with the community edition; there, `series-ingest points \
                 export` writes files that `points import` brings here",
                manifest.contents.compressed()
            )));
        }
        let why = if rows { Some("--rows".to_owned()) } else { self.obstacle(&manifest.origin, database, program) };
        let Some(why) = why else { return Ok(Way::Whole) };
        let origin = &manifest.origin;
        if manifest.contents.compressed() > 0 {
            return Err(Error::Target(format!(
                "the backup cannot be restored as a whole ({why}), and not row by row, because chunks of it are compressed: \
                 restore it on a server with TimescaleDB {}",
                origin.timescaledb.as_deref().unwrap_or_default()
            )));
        }
        if origin.schema_version != newest_version() {
            return Err(Error::Target(format!(
                "the backup cannot be restored as a whole ({why}), and not row by row, because its tables have migration {}, \
                 and those of this program {}: restore it with series-ingest {}, and then run `migrate` of this one",
                origin.schema_version,
                newest_version(),
                manifest.program
            )));
        }
        Ok(Way::Rows(why))
    }

    /// The reason why pg_restore cannot make the same tables here.
    fn obstacle(&self, origin: &Origin, database: &config::Database, program: &Program) -> Option<String> {
        let major = origin.server_version / 10_000;
        if self.major < major {
            return Some(format!("the server is PostgreSQL {}, and the backup is from {major}", self.major));
        }
        if origin.schema != database.schema {
            return Some(format!(
                "database.schema is {:?}, and the backup is of the schema {:?}",
                database.schema, origin.schema
            ));
        }
        match (&origin.timescaledb, &self.installed) {
            (Some(theirs), Some(here)) if theirs != here => {
                Some(format!("the database has TimescaleDB {here}, and the backup is from {theirs}"))
            }
            (Some(theirs), None) if self.offered.is_empty() => {
                Some(format!("the server has no TimescaleDB, and the backup is from {theirs}"))
            }
            (Some(theirs), None) if !self.offered.contains(theirs) => {
                Some(format!("the server does not offer TimescaleDB {theirs}, which the backup is from"))
            }
            (None, _) if !self.offered.is_empty() => {
                Some("the backup is from plain PostgreSQL, and the server has TimescaleDB".to_owned())
            }
            (None, _) if self.major < TRANSACTION_TIMEOUT && program.major >= TRANSACTION_TIMEOUT => {
                Some(format!("pg_restore {} sets what PostgreSQL {} does not know", program.version, self.major))
            }
            _ => None,
        }
    }

    /// Returns `true` if this pg_restore sets something that the server does not know.
    pub(super) fn refuses_a_setting(&self, program: &Program) -> bool {
        self.major < TRANSACTION_TIMEOUT && program.major >= TRANSACTION_TIMEOUT
    }
}
