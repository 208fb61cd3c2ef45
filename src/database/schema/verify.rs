//! The check that the schema is what this program was built for, and has what the configuration needs.

use tokio_postgres::Client;
use tracing::{debug, info, warn};

use super::columns::{COLUMNS, other_type};
use super::error::SchemaError;
use super::history::{check_history, runner};
use super::inspect::Remark;
use super::namespace::{check_paths, check_schema};
use super::server::{Server, server};
use super::unique_index::unique_index;
use super::{connect, connection_limits, in_time, inspect, rights};
use crate::config::{self, OnDuplicate};
use crate::database::Database;
use crate::database::connection::connector::Connector;
use crate::database::connection::step::Step;
use crate::database::error::{Class, Error};
use crate::database::waits::{self, Observer};

/// Checks that the schema is what this program was built for, and has what the configuration needs.
///
/// # Errors
/// If the server does not answer, or the schema differs: the first of what [`examine`] finds.
pub async fn verify(config: &config::Config) -> Result<Server, SchemaError> {
    Ok(verify_and_report(config, |wait| debug!(wait, "verify")).await?.server)
}

/// The same; `say` gets a sentence while another session's lock is waited for.
///
/// # Errors
/// Those of [`verify`].
pub async fn verify_and_report(config: &config::Config, say: impl FnMut(&str)) -> Result<Verified, SchemaError> {
    let examination = examine_and_report(config, say).await?;
    for Remark { text, is_problem } in &examination.remarks {
        if *is_problem {
            warn!(remark = text, "the tables");
        } else {
            info!(remark = text, "the tables");
        }
    }
    match examination.faults.into_iter().next() {
        Some(fault) => Err(fault),
        None => Ok(Verified { server: examination.server, too_few_connections: examination.too_few_connections }),
    }
}

/// The facts about a schema that a worker can work with.
#[derive(Debug)]
pub struct Verified {
    /// The server's versions and edition.
    pub server: Server,
    /// Why the server may refuse connections of the pool.
    pub too_few_connections: Option<String>,
}

/// What was found of the server and the schema.
#[derive(Debug)]
pub struct Examination {
    /// The server's versions and edition.
    pub server: Server,
    /// Everything that keeps a worker from writing, or from writing all that it should.
    pub faults: Vec<SchemaError>,
    /// What does not keep a worker from writing.
    pub remarks: Vec<Remark>,
    /// Why the server may refuse connections of the pool.
    pub too_few_connections: Option<String>,
}

/// Checks everything that a worker depends on in the database.
///
/// # Errors
/// If the server does not answer.
pub async fn examine(config: &config::Config) -> Result<Examination, Error> {
    examine_and_report(config, |wait| debug!(wait, "look at the schema")).await
}

/// The same; `say` gets a sentence while another session's lock is waited for.
///
/// # Errors
/// Those of [`examine`].
pub async fn examine_and_report(config: &config::Config, say: impl FnMut(&str)) -> Result<Examination, Error> {
    in_time(&config.database, Step::Other("look at the schema"), examine_without_limit(config, say)).await?
}

async fn examine_without_limit(config: &config::Config, mut say: impl FnMut(&str)) -> Result<Examination, Error> {
    let client = connect(&config.database).await?;
    wait_for_locks(&client, &config.database).await?;
    let pid = waits::pid_of(&client).await?;
    let observer = Observer::Later(Connector::new(&config.database), None);
    let mut examination = waits::watch(observer, || vec![pid], &mut say, examine_by(&client, config)).await?;
    // The role may have few connections.
    drop(client);
    if examination.faults.is_empty() {
        let database = Database::new(config)?;
        let rehearsed = database.saying_waits(say, rehearse(&database)).await;
        database.close();
        examination.faults.extend(rehearsed?);
    }
    Ok(examination)
}

async fn examine_by(client: &Client, config: &config::Config) -> Result<Examination, Error> {
    let server = server(client).await?;
    let too_few_connections = connection_limits::too_low(client, &config.database).await?;
    let (mut faults, mut remarks) = (Vec::new(), Vec::new());
    match check_migrations(client, &config.database).await {
        // Without its tables there is nothing more to check.
        Err(fault) => faults.push(fault),
        Ok(()) => examine_tables(client, config, &mut faults, &mut remarks).await?,
    }
    // A query that was not answered is not an error of the schema.
    match faults.iter().position(|fault| matches!(fault, SchemaError::Database(_))) {
        None => Ok(Examination { server, faults, remarks, too_few_connections }),
        Some(index) => match faults.swap_remove(index) {
            SchemaError::Database(error) => Err(error),
            other => Err(Error::Unexpected(other.to_string())),
        },
    }
}

/// Sets the session's timeout for locks, as those of the pool have it.
async fn wait_for_locks(client: &Client, database: &config::Database) -> Result<(), Error> {
    let sql = format!("set lock_timeout = {}", database.lock_timeout_ms);
    client
        .batch_execute(&sql)
        .await
        .map_err(|source| Error::Server { step: Step::Other("prepare the session"), source })
}

async fn examine_tables(
    client: &Client,
    config: &config::Config,
    faults: &mut Vec<SchemaError>,
    remarks: &mut Vec<Remark>,
) -> Result<(), Error> {
    let rule = config.points.on_duplicate;
    faults.extend(rights::missing(client, rule).await?.into_iter().map(SchemaError::Role));
    match inspect::tables(client, faults, remarks).await {
        // What cannot be read is reported already.
        Err(failure) if failure.is_forbidden() && !faults.is_empty() => {}
        looked => looked?,
    }
    for checked in [check_types(client).await, check_duplicates(client, rule).await] {
        faults.extend(checked.err());
    }
    Ok(())
}

/// Does what a worker does for its first message, without a message and a commit: finds what no catalog shows.
async fn rehearse(database: &Database) -> Result<Option<SchemaError>, Error> {
    match database.rehearse().await {
        Ok(()) => Ok(None),
        // The connections before may still be counted; that the limit is low is reported separately.
        Err(failure) if failure.is_out_of_connections() => Ok(None),
        Err(failure) if matches!(failure.class(), Class::Outage | Class::Retry) || failure.is_restoring() => {
            Err(failure)
        }
        Err(failure) => Ok(Some(SchemaError::Unusable(failure))),
    }
}

async fn check_migrations(client: &Client, database: &config::Database) -> Result<(), SchemaError> {
    check_schema(client, database).await?;
    let known = runner().get_migrations().clone();
    let applied = check_history(client).await?;
    let missing: Vec<String> = known
        .iter()
        .filter(|migration| !applied.iter().any(|row| row.version == migration.version()))
        .map(ToString::to_string)
        .collect();
    if !missing.is_empty() {
        return Err(SchemaError::NotMigrated { missing: missing.join(", ") });
    }
    let newest = known.iter().map(|migration| migration.version()).max().unwrap_or(0);
    if let Some(row) = applied.iter().find(|row| row.version > newest) {
        return Err(SchemaError::TooNew { version: row.version });
    }
    check_paths(client).await
}

async fn check_duplicates(client: &Client, rule: OnDuplicate) -> Result<(), SchemaError> {
    match (unique_index(client).await?, rule) {
        (None, OnDuplicate::Ignore | OnDuplicate::Replace) => Err(SchemaError::NotUnique { rule: rule.as_str() }),
        (Some(index), OnDuplicate::Append) => Err(SchemaError::Unique { index }),
        _ => Ok(()),
    }
}

/// Checks that the columns of the points are of the types that COPY sends: with others the server misreads the bytes, or
/// refuses all of them.
async fn check_types(client: &Client) -> Result<(), SchemaError> {
    let step = Step::Other("look at the types of columns");
    let rows = client.query(COLUMNS, &[]).await.map_err(|source| Error::Server { step, source })?;
    let columns: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    other_type(&columns).map_or(Ok(()), |other| Err(SchemaError::OtherType(other)))
}
