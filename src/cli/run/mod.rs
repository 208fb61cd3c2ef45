//! `run`: the worker.

mod schema_wait;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::Failure;
use super::journal::refuse_undecodable;
use super::limits::{self, Limits};
use super::signals::{self, Signal};
use crate::config::{self, Config};
use crate::database::{Class, Coverage, Database};
use crate::journal::{Journal, JournalHandle, OpenError, Options, RealFiles, Record};
use crate::message::Reason;
use crate::pipeline;
use crate::raw::{Kind, Partition};
use crate::telemetry::health::Health;
use crate::telemetry::{http, logging, metrics};
use schema_wait::{Schema, Wait, await_schema};

/// Timeout for the journal's last write.
const JOURNAL_CLOSE: Duration = Duration::from_secs(5);

/// Runs the worker with the configuration from `file` and the environment.
pub(super) async fn run(config: Arc<Config>, file: Option<PathBuf>) -> Result<(), Failure> {
    config.require_database()?;
    logging::init(config.log.format, &config.log.filter).map_err(|error| Failure::Usage(error.to_string()))?;
    let stopping = signals::listen(move || reload(file.as_deref()))?;
    info!(version = env!("CARGO_PKG_VERSION"), pipeline = config.pipeline, "series-ingest starts");
    for note in config.notes() {
        warn!("{note}");
    }
    let rendered = metrics::install();
    let inputs = config.inputs();
    let names = inputs.iter().map(|input| input.name.as_str());
    metrics::preset(Class::ALL.map(Class::as_str), names, inputs.topic_names(), Reason::ALL.map(Reason::as_str));
    let health = Arc::new(Health::new(&config.pipeline, Duration::from_millis(config.http.watchdog_ms)));
    pipeline::set_expectations(&config, &health);
    limits::raise_descriptors();
    let limits = Limits::read();
    for found in limits.too_low(&config) {
        error!("{}: {}", found.key, found.text);
    }

    let server = if config.http.listen.is_empty() {
        None
    } else {
        let listener = TcpListener::bind(&config.http.listen)
            .await
            .map_err(|error| Failure::Usage(format!("http.listen = {}: {error}", config.http.listen)))?;
        info!(address = %listener.local_addr()?, "serving /metrics, /livez, /readyz and /status");
        // It answers while the worker stops, too, and ends with it.
        let connections = limits.http_connections(&config);
        Some(tokio::spawn(http::serve(listener, connections, Arc::clone(&health), rendered, std::future::pending())))
    };

    let result = work(&config, &health, stopping).await;
    if let Some(server) = server {
        // Its connections are read-only: there is nothing to wait for.
        server.abort();
    }
    result
}

/// Reads the configuration again; only the log filter can be changed while the worker runs.
fn reload(file: Option<&Path>) {
    let reloaded = Config::load(file, std::env::vars_os())
        .map_err(|problems| problems.to_string())
        .map(|config| config.log.filter)
        .and_then(|filter| logging::set_filter(&filter).map(|()| filter).map_err(|error| error.to_string()));
    match reloaded {
        Ok(filter) => info!(filter, "SIGHUP: the log filter was read again; other keys hold from the next start"),
        Err(reason) => error!(reason, "SIGHUP: the configuration cannot be read; the log filter stays as it was"),
    }
}

async fn work(
    config: &Arc<Config>,
    health: &Arc<Health>,
    stopping: watch::Receiver<Option<Signal>>,
) -> Result<(), Failure> {
    let journal = if config.journal.enabled {
        // Opening a long journal takes a while; a journal that is not open needs no closing.
        tokio::select! {
            opened = open_journal(config) => opened?,
            _ = signals::stopped(stopping.clone()) => return Ok(()),
        }
    } else {
        JournalHandle::absent()
    };
    // With a journal the worker does not wait for an unavailable database: its messages are kept meanwhile.
    let timeout = (!journal.is_absent()).then(|| Duration::from_millis(config.database.outage_grace_ms));
    let database = Database::new(config)?;
    match await_schema(config, health, stopping.clone(), Wait { timeout, alone: true }).await? {
        // So that the group can distinguish this worker from those of other databases.
        Schema::Verified => drop(database.identify().await),
        Schema::Later => {
            let (config, health, stopping) = (Arc::clone(config), Arc::clone(health), stopping.clone());
            tokio::spawn(async move {
                if let Err(failure) =
                    await_schema(&config, &health, stopping, Wait { timeout: None, alone: false }).await
                {
                    // Journaled messages stay in the journal until an operator has fixed it.
                    health.set_condition("schema", Some(failure.to_string()));
                }
            });
        }
        Schema::Stopping => return Ok(()),
    }
    refuse_undecodable(&config.inputs(), &lacking(&database, &journal).await)?;
    pipeline::run(Arc::clone(config), database.clone(), journal.clone(), Arc::clone(health), until(stopping)).await?;
    database.close();
    if tokio::time::timeout(JOURNAL_CLOSE, journal.close()).await.is_err() {
        warn!("the journal's disk does not answer; what was not acknowledged is read from Kafka again");
    }
    Ok(())
}

/// The records of the journal that the database does not have, or may not have if it does not answer.
async fn lacking(database: &Database, journal: &JournalHandle) -> Vec<Record> {
    let mut lacking = Vec::new();
    let mut answers = true;
    let mut partitions: HashMap<Partition, Option<Coverage>> = HashMap::new();
    for record in journal.records().await.into_iter().flatten() {
        let Partition { source, number } = &record.partition;
        // Native messages can always be decoded.
        if source.kind != Kind::Other {
            continue;
        }
        let known = match partitions.get(&record.partition) {
            Some(known) => known.clone(),
            None if answers => {
                let known = database.coverage(source, &[*number]).await;
                // Each further request would take its whole timeout.
                answers = known.is_ok();
                known.ok().and_then(|mut known| known.remove(number))
            }
            None => None,
        };
        partitions.insert(record.partition.clone(), known.clone());
        if known.is_none_or(|known| !known.covers(record.from, record.until)) {
            lacking.push(record);
        }
    }
    lacking
}

/// The options for opening the journal.
pub(super) fn journal_options(journal: &config::Journal) -> Options {
    Options {
        directory: PathBuf::from(&journal.directory),
        segment_bytes: journal.segment_bytes,
        max_bytes: journal.max_bytes,
        min_free_bytes: journal.min_free_bytes,
    }
}

/// Opens the journal, with the records of an earlier process.
pub(super) async fn open_journal(config: &Config) -> Result<JournalHandle, Failure> {
    let options = journal_options(&config.journal);
    let opened = tokio::task::spawn_blocking(move || {
        let mut journal = Journal::open(RealFiles, options)?;
        let found = journal.probe();
        Ok((journal, found))
    });
    let (mut journal, found) =
        opened.await.map_err(|failure| Failure::Internal(failure.to_string()))?.map_err(|failure: OpenError| {
            Failure::Usage(format!("journal.directory = {}: {failure}", config.journal.directory))
        })?;
    if let Some(doubts) = journal.doubts() {
        warn!(doubts, "the journal may not outlive an outage");
    }
    if let Err(failure) = found {
        error!(%failure, directory = config.journal.directory, "the journal would take nothing in an outage");
    }
    for damage in journal.damage() {
        error!(%damage, "the journal is damaged; what is missing is read from Kafka again");
    }
    let usage = journal.usage();
    info!(directory = config.journal.directory, records = usage.records, bytes = usage.bytes, "journal");
    journal.observe_syncs(metrics::journal_synced);
    Ok(JournalHandle::start(journal)?)
}

/// Becomes ready when the worker is to stop.
async fn until(stopping: watch::Receiver<Option<Signal>>) {
    signals::stopped(stopping).await;
}
