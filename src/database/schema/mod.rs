//! The tables: numbered migrations by refinery, and after them a step that can be repeated: what depends on the server's
//! TimescaleDB, which may be added or change later.
//!
//! - `migrate`: bringing the schema up to date; `migration_lock`: one at a time.
//! - `verify`: checks that it is what this program needs, by `inspect`, `columns`, `rights` and `connection_limits`.
//! - `history`: the migrations of this program, and those that the database has.
//! - `namespace`: the schema of the tables; `adopt`: tables that another program has made.
//! - `retention`: the age from which points are deleted.
//! - `timescaledb`, `unique_index`: what depends on the extension and on the configuration.
//! - [`profile`], [`set_profile`]: keys and indexes; [`roles`]: the worker's role.
//! - `server`: the server's versions; `error`: what can be wrong.

pub mod profile;
pub mod roles;
pub mod set_profile;

pub(super) mod adopt;
pub(super) mod columns;
pub(super) mod inspect;
pub(super) mod migration_lock;
pub(super) mod rights;

mod connection_limits;
mod error;
mod history;
mod migrate;
mod namespace;
mod retention;
mod server;
mod timescaledb;
mod unique_index;
mod verify;

use std::future::Future;
use std::time::Duration;

use tokio_postgres::Client;

use super::error::Error;
pub use super::waits::WAIT_REPORT_INTERVAL;
use crate::config;
use crate::database::connection::answer::answered;
use crate::database::connection::connector::{Connector, Failed, Made};
use crate::database::connection::options::connection_config;
use crate::database::connection::pooler;
use crate::database::connection::settings;
use crate::database::connection::step::Step;

pub use error::SchemaError;
pub use history::newest_version;
pub(crate) use history::{UNFINISHED_RESTORE, applied_version};
pub use inspect::Remark;
pub use migrate::{Report, migrate, migrate_and_report};
pub use server::{Edition, Server, describe_server};
pub(super) use server::{SERVER_SQL, SERVER_STEP, server_of};
pub use verify::{Examination, Verified, examine, examine_and_report, verify, verify_and_report};

/// A connection outside the pool, without timeouts of statements and transactions, whatever those of the role or the database
/// are: migrations take as long as they need.
pub(crate) async fn connect(database: &config::Database) -> Result<Client, Error> {
    // An invalid configuration is not a failed connection.
    connection_config(database)?;
    let connector = Connector::new(database);
    let made =
        connector.connect_to_one(None).await.map_err(|Failed { source, tried }| Error::Connect { source, tried })?;
    prepare(&made, database, &connector).await?;
    Ok(made.client)
}

/// Prepares a session that has just been made.
pub(in crate::database) async fn prepare(
    made: &Made,
    database: &config::Database,
    connector: &Connector,
) -> Result<(), Error> {
    let client = &made.client;
    let limit = Duration::from_millis(database.connect_timeout_ms);
    // Before anything is set that another client of the pooler would get.
    let step = Step::Other("look for a pooler");
    let shared = tokio::time::timeout(limit * 4, pooler::is_shared(client, &made.place, connector)).await;
    if shared.map_err(|_| Error::TimedOut { step, seconds: limit.as_secs() * 4 })?? {
        return Err(Error::SharedSession(database.url_key()));
    }
    let sql = format!("{} {WITHOUT_TIMEOUTS}", settings::pinned(database));
    let step = Step::Other("prepare the session");
    answered(step, limit, client.batch_execute(&sql)).await
}

/// PostgreSQL has `transaction_timeout` from version 17 on.
const WITHOUT_TIMEOUTS: &str = "set statement_timeout = 0; set lock_timeout = 0; \
    set idle_in_transaction_session_timeout = 0; set idle_session_timeout = 0; \
    do $$ begin if current_setting('transaction_timeout', true) is not null \
    then perform set_config('transaction_timeout', '0', false); end if; end $$";

/// Limits the time of a query to a server that may be frozen.
pub(super) async fn in_time<T>(
    database: &config::Database,
    step: Step,
    question: impl Future<Output = T>,
) -> Result<T, Error> {
    let limit = Duration::from_millis(database.statement_timeout_ms);
    tokio::time::timeout(limit, question).await.map_err(|_| Error::TimedOut { step, seconds: limit.as_secs() })
}

/// A text as a literal in SQL, for sessions with `standard_conforming_strings`.
pub(crate) fn quoted_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
