//! `run`: the worker.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::Failure;
use super::limits::{self, Limits};
use super::signals::{self, Signal};
use crate::config::{self, Config};
use crate::database::schema::{self, SchemaError, WAIT_REPORT_INTERVAL};
use crate::database::{self, Class, Database};
use crate::journal::{Journal, JournalHandle, OpenError, Options, RealFiles};
use crate::message::Reason;
use crate::pipeline;
use crate::telemetry::health::{Component, Health};
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::{http, logging, metrics};

/// How long the journal's last write may take at the end.
const JOURNAL_CLOSE: Duration = Duration::from_secs(5);
/// How long the work on the schema may take before it is a reason not to be ready.
const SCHEMA_SILENCE: Duration = Duration::from_secs(2);
/// How long to wait before a schema that cannot be read is asked for again.
const SCHEMA_RETRY: Duration = Duration::from_millis(500);
/// The state of a database that the start waits for, in the log.
const AWAY: &str = "database";

/// Runs the worker with the configuration that `file` and the environment give.
pub(super) async fn run(config: Arc<Config>, file: Option<PathBuf>) -> Result<(), Failure> {
    config.require_database()?;
    logging::init(config.log.format, &config.log.filter).map_err(|error| Failure::Usage(error.to_string()))?;
    let stopping = signals::listen(move || reload(file.as_deref()))?;
    info!(version = env!("CARGO_PKG_VERSION"), pipeline = config.pipeline, "series-ingest starts");
    for note in config.notes() {
        warn!("{note}");
    }
    let rendered = metrics::install();
    metrics::preset(Class::ALL.map(Class::as_str), Reason::ALL.map(Reason::as_str));
    let health = Arc::new(Health::new(&config.pipeline, Duration::from_millis(config.http.watchdog_ms)));
    pipeline::expect(&config, &health);
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
        // Its connections are read-only: none is worth waiting for.
        server.abort();
    }
    result
}

/// Reads the configuration again, of which the log filter is the one key that can be changed while the worker runs.
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
        // A long journal takes a while to open; what is not opened need not be closed.
        tokio::select! {
            opened = open_journal(config) => Some(opened?),
            _ = signals::stopped(stopping.clone()) => return Ok(()),
        }
    } else {
        None
    };
    // With a journal the worker does not wait for a database that is away: its messages are kept meanwhile.
    let patience = journal.as_ref().map(|_| Duration::from_millis(config.database.outage_grace_ms));
    let database = Database::new(config)?;
    match await_schema(config, health, stopping.clone(), Wait { patience, alone: true }).await? {
        // So that the group can tell this worker from those of other databases.
        Schema::Verified => drop(database.identify().await),
        Schema::Later => {
            let (config, health, stopping) = (Arc::clone(config), Arc::clone(health), stopping.clone());
            tokio::spawn(async move {
                if let Err(failure) =
                    await_schema(&config, &health, stopping, Wait { patience: None, alone: false }).await
                {
                    // What is journaled stays there until somebody has mended it.
                    health.set_condition("schema", Some(failure.to_string()));
                }
            });
        }
        Schema::Stopping => return Ok(()),
    }
    pipeline::run(Arc::clone(config), database.clone(), journal.clone(), Arc::clone(health), until(stopping)).await?;
    database.close();
    if let Some(journal) = journal
        && tokio::time::timeout(JOURNAL_CLOSE, journal.close()).await.is_err()
    {
        warn!("the journal's disk does not answer; what was not acknowledged is read from Kafka again");
    }
    Ok(())
}

/// How the journal is opened.
pub(super) fn journal_options(journal: &config::Journal) -> Options {
    Options {
        directory: PathBuf::from(&journal.directory),
        segment_bytes: journal.segment_bytes,
        max_bytes: journal.max_bytes,
        min_free_bytes: journal.min_free_bytes,
    }
}

/// Opens the journal, with what an earlier process left there.
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

/// How to wait for the schema.
struct Wait {
    /// After this long a database that is away is given up for now.
    patience: Option<Duration>,
    /// Whether nothing else runs that would show that the worker is alive.
    alone: bool,
}

/// How the wait for the schema has ended.
enum Schema {
    Verified,
    /// The database is away, and there is a journal.
    Later,
    Stopping,
}

/// Waits until the schema is there. A database that is away is waited for, for as long as `patience` says; a schema that is
/// another one is not.
async fn await_schema(
    config: &Config,
    health: &Health,
    stopping: watch::Receiver<Option<Signal>>,
    Wait { patience, alone }: Wait,
) -> Result<Schema, Failure> {
    let start = Instant::now();
    let log = LogLimit::default();
    let mut stopped = std::pin::pin!(until(stopping));
    // The pipeline does this as soon as it runs.
    let mut asking = std::pin::pin!(async {
        if alone { pipeline::ask_brokers(&config.kafka, health).await } else { std::future::pending().await }
    });
    let step = if config.database.migrate_on_start { "migrate" } else { "verify" };
    loop {
        let began = Instant::now();
        // The last lock that the migration waited for, and when it did.
        let waited = Mutex::new(None);
        let note_wait = |wait: &str| {
            warn!(wait, "{step}");
            *waited.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), wait.to_owned()));
        };
        let attempt = async {
            if config.database.migrate_on_start {
                for note in schema::migrate_and_say(config, &note_wait).await?.notes {
                    info!(note, "schema");
                }
            }
            schema::verify_and_say(config, &note_wait).await
        };
        // A migration takes as long as it needs.
        let beats = async {
            loop {
                if alone {
                    health.beat(Component::Pipeline);
                    health.beat(Component::Consumer);
                    health.review();
                }
                if alone && began.elapsed() >= SCHEMA_SILENCE {
                    let seconds = began.elapsed().as_secs();
                    let waits = waited.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    // A wait is reported again while it lasts.
                    let waits = waits
                        .filter(|(at, _): &(Instant, String)| at.elapsed() < WAIT_REPORT_INTERVAL + SCHEMA_SILENCE);
                    let why = waits.map_or_else(
                        || "another session may hold a lock on its tables, see pg_stat_activity".to_owned(),
                        |(_, wait)| wait,
                    );
                    let reason = format!("waits for the database to {step} the schema for {seconds} s: {why}");
                    health.set_condition("schema", Some(reason));
                }
                tokio::time::sleep(SCHEMA_RETRY).await;
            }
        };
        let failure = tokio::select! {
            () = &mut stopped => return Ok(Schema::Stopping),
            () = beats => return Ok(Schema::Stopping),
            () = &mut asking => return Ok(Schema::Stopping),
            attempt = attempt => match attempt {
                Ok(verified) => {
                    if let Some(ended) = log.ends(AWAY) {
                        info!(seconds = ended.seconds, "the database is there");
                    }
                    pipeline::show_server(health, &verified.server);
                    health.set_warning("connections", verified.too_few_connections);
                    health.set_condition("schema", None);
                    return Ok(Schema::Verified);
                }
                Err(failure) => failure,
            },
        };
        match &failure {
            SchemaError::Database(error)
                if is_passing(error) && patience.is_some_and(|patience| start.elapsed() >= patience) =>
            {
                warn!(%failure, "the database is away; messages go to the journal meanwhile");
                health.set_condition("schema", None);
                return Ok(Schema::Later);
            }
            SchemaError::Database(error) if is_passing(error) => {
                if let Some(repeated) = log.lasts(AWAY, &failure.to_string()) {
                    let (seconds, unlogged) = (repeated.seconds, repeated.unlogged);
                    warn!(%failure, seconds, unlogged, "the database is away; waiting for it");
                }
            }
            _ => {
                error!(%failure, "the schema is not what this program needs");
                return Err(failure.into());
            }
        }
        if alone {
            health.set_condition("schema", Some(failure.to_string()));
        }
        tokio::select! {
            () = &mut stopped => return Ok(Schema::Stopping),
            () = tokio::time::sleep(SCHEMA_RETRY) => {}
        }
    }
}

/// Whether the fault is one to wait out: an outage, somebody's lock, or a restore in progress.
fn is_passing(error: &database::Error) -> bool {
    matches!(error.class(), Class::Outage | Class::Retry) || error.is_restoring()
}

/// Ready when the worker is to stop.
async fn until(stopping: watch::Receiver<Option<Signal>>) {
    signals::stopped(stopping).await;
}
