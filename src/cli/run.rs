//! `run`: the worker.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::Failure;
use crate::config::Config;
use crate::database::schema::{self, SchemaError};
use crate::database::{Class, Database};
use crate::message::Reason;
use crate::pipeline;
use crate::telemetry::health::{Component, Health};
use crate::telemetry::{http, logging, metrics};

/// How long to wait before a schema that cannot be read is asked for again.
const SCHEMA_RETRY: Duration = Duration::from_secs(2);

pub(super) async fn run(config: Arc<Config>) -> Result<(), Failure> {
    config.require_database()?;
    logging::init(config.log.format, &config.log.filter).map_err(|error| Failure::Usage(error.to_string()))?;
    info!(version = env!("CARGO_PKG_VERSION"), pipeline = config.pipeline, "series-ingest starts");
    let rendered = metrics::install();
    metrics::preset(Class::ALL.map(Class::as_str), Reason::ALL.map(Reason::as_str));
    let health = Arc::new(Health::new(&config.pipeline, Duration::from_millis(config.http.watchdog_ms)));
    let (stop, stopping) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM"),
            _ = interrupt.recv() => info!("SIGINT"),
        }
        stop.send_replace(true);
    });

    let server = if config.http.listen.is_empty() {
        None
    } else {
        let listener = TcpListener::bind(&config.http.listen)
            .await
            .map_err(|error| Failure::Usage(format!("http.listen = {}: {error}", config.http.listen)))?;
        info!(address = %listener.local_addr()?, "serving /metrics, /livez, /readyz and /status");
        // It answers while the worker stops, too, and ends with it.
        Some(tokio::spawn(http::serve(listener, Arc::clone(&health), rendered, std::future::pending())))
    };

    let result = work(&config, &health, stopping).await;
    if let Some(server) = server {
        // Its connections are read-only: none is worth waiting for.
        server.abort();
    }
    result
}

async fn work(config: &Arc<Config>, health: &Arc<Health>, stopping: watch::Receiver<bool>) -> Result<(), Failure> {
    if !await_schema(config, health, stopping.clone()).await? {
        return Ok(());
    }
    let database = Database::new(config)?;
    pipeline::run(Arc::clone(config), database.clone(), Arc::clone(health), until(stopping)).await?;
    database.close();
    Ok(())
}

/// Waits until the schema is there; whether it is, or the worker is to stop. A database that is away is waited for; a schema
/// that is another one is not.
async fn await_schema(config: &Config, health: &Health, stopping: watch::Receiver<bool>) -> Result<bool, Failure> {
    let mut stopped = std::pin::pin!(until(stopping));
    loop {
        let attempt = async {
            if config.database.migrate_on_start {
                for note in schema::migrate(config).await?.notes {
                    info!(note, "schema");
                }
            }
            schema::verify(&config.database).await
        };
        // A migration takes as long as it needs.
        let beats = async {
            loop {
                health.beat(Component::Pipeline);
                health.beat(Component::Consumer);
                tokio::time::sleep(SCHEMA_RETRY).await;
            }
        };
        let failure = tokio::select! {
            () = &mut stopped => return Ok(false),
            () = beats => return Ok(false),
            attempt = attempt => match attempt {
                Ok(server) => {
                    info!(
                        postgresql = server.version, timescaledb = server.timescaledb,
                        edition = server.edition.as_str(), "database"
                    );
                    health.update(|status| {
                        status.database.server_version = Some(server.version.clone());
                        status.database.timescaledb = server.timescaledb.clone();
                        status.database.edition = Some(server.edition.as_str().to_owned());
                    });
                    health.set_condition("schema", None);
                    return Ok(true);
                }
                Err(failure) => failure,
            },
        };
        match &failure {
            SchemaError::Database(error) if error.class() == Class::Outage => {
                warn!(%failure, "the database is away; waiting for it");
            }
            _ => {
                error!(%failure, "the schema is not what this program needs");
                return Err(failure.into());
            }
        }
        health.set_condition("schema", Some(failure.to_string()));
        tokio::select! {
            () = &mut stopped => return Ok(false),
            () = tokio::time::sleep(SCHEMA_RETRY) => {}
        }
    }
}

/// Ready when the worker is to stop.
async fn until(mut stopping: watch::Receiver<bool>) {
    // The sender is gone only when the process ends.
    drop(stopping.wait_for(|stop| *stop).await);
}
