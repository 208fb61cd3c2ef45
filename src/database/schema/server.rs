//! The server's versions and edition.

use tokio_postgres::{Client, Row};

use super::{connect, in_time};
use crate::config;
use crate::database::connection::step::Step;
use crate::database::error::Error;

/// The server's versions and edition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// PostgreSQL's version.
    pub version: String,
    /// TimescaleDB's version; `None` on plain PostgreSQL.
    pub timescaledb: Option<String>,
    /// The version that `migrate` would add to the database.
    pub available: Option<String>,
    /// TimescaleDB's edition.
    pub edition: Edition,
}

/// What the server's TimescaleDB allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edition {
    /// No extension: the points are in a plain table.
    Plain,
    /// Hypertables, without compression and policies.
    Apache,
    /// Hypertables, compression and policies.
    Community,
}

impl Edition {
    /// The edition's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain PostgreSQL",
            Self::Apache => "Apache",
            Self::Community => "community",
        }
    }
}

/// Describes the server, whatever its schema.
///
/// # Errors
/// If it does not answer.
pub async fn describe_server(database: &config::Database) -> Result<Server, Error> {
    in_time(database, Step::Other("ask for the server's version"), async { server(&connect(database).await?).await })
        .await?
}

/// The step that reads the server's versions.
pub(in crate::database) const SERVER_STEP: Step = Step::Other("ask for the server's version");

/// The query for the server's versions; [`server_of`] reads its result.
pub(in crate::database) const SERVER_SQL: &str = "select current_setting('server_version'),
    (select extversion from pg_extension where extname = 'timescaledb'), current_setting('timescaledb.license', true),
    (select default_version from pg_available_extensions where name = 'timescaledb' and installed_version is null
         and exists (select from pg_settings where name like 'timescaledb%'))";

pub(super) async fn server(client: &Client) -> Result<Server, Error> {
    let row = client.query_one(SERVER_SQL, &[]).await;
    Ok(server_of(&row.map_err(|source| Error::Server { step: SERVER_STEP, source })?))
}

pub(in crate::database) fn server_of(row: &Row) -> Server {
    let timescaledb: Option<String> = row.get(1);
    let license: Option<String> = row.get(2);
    let edition = match (&timescaledb, license.as_deref()) {
        (None, _) => Edition::Plain,
        (Some(_), Some("timescale")) => Edition::Community,
        (Some(_), _) => Edition::Apache,
    };
    Server { version: row.get(0), timescaledb, available: row.get(3), edition }
}
