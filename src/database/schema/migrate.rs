//! Bringing the schema up to date.

use tokio_postgres::Client;
use tracing::{info, warn};

use super::error::SchemaError;
use super::history::{HISTORY, check_history, runner};
use super::migration_lock::MigrationLock;
use super::namespace::{ensure_schema, set_paths};
use super::timescaledb::{apply_extension, compress};
use super::unique_index::make_unique;
use super::{adopt, connect, retention, set_profile};
use crate::config::{self, OnDuplicate};
use crate::database::waits;

/// What a migration has done.
#[derive(Debug)]
pub struct Report {
    /// The migrations applied now, by name.
    pub applied: Vec<String>,
    /// What was done, and what could not be done on this server, in sentences.
    pub notes: Vec<String>,
}

/// Brings the schema up to date; nothing happens if it is up to date already.
///
/// # Errors
/// If the server does not answer, or a step fails; steps before it stay.
pub async fn migrate(config: &config::Config) -> Result<Report, SchemaError> {
    migrate_and_report(config, |wait| warn!(wait, "migrate")).await
}

/// The same; `say` gets a sentence when a wait begins, and every 30 s while it lasts.
///
/// # Errors
/// Those of [`migrate`].
pub async fn migrate_and_report(config: &config::Config, mut say: impl FnMut(&str)) -> Result<Report, SchemaError> {
    let client = connect(&config.database).await?;
    let lock = MigrationLock::acquire(&config.database, None, &mut say).await?;
    let lock = lock.ok_or_else(|| SchemaError::Migration("another migration was not waited for".to_owned()))?;
    let pid = waits::pid_of(&client).await?;
    let report = lock.watch(pid, say, apply(client, config)).await?;
    lock.release().await?;
    Ok(report)
}

async fn apply(mut client: Client, config: &config::Config) -> Result<Report, SchemaError> {
    let mut notes = Vec::new();
    ensure_schema(&client, &config.database, &mut notes).await?;
    check_history(&client).await?;
    adopt::adopt(&mut client, HISTORY, &mut notes).await?;
    let applied = runner()
        .run_async(&mut client)
        .await
        .map_err(|error| SchemaError::Migration(in_full(&error)))?
        .applied_migrations()
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>();
    set_paths(&client, &mut notes).await?;
    if set_profile::cascade(&client, |sql| info!(sql, "schema")).await? {
        notes.push("a series that is deleted takes its points with it".to_owned());
    }
    let can_compress = apply_extension(&client, &config.database, &mut notes).await?;
    // Some versions of TimescaleDB make no unique index on compressed data.
    if config.points.on_duplicate != OnDuplicate::Append {
        make_unique(&client, config, &mut notes).await?;
    }
    if can_compress {
        compress(&client, &config.database, &mut notes).await?;
    }
    retention::apply(&client, &config.retention, can_compress, &mut notes).await?;
    Ok(Report { applied, notes })
}

fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
