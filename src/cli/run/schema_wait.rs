//! Waits until the schema is the one that this program needs.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::cli::Failure;
use crate::cli::signals::{self, Signal};
use crate::config::Config;
use crate::database::schema::{self, SchemaError, Verified, WAIT_REPORT_INTERVAL};
use crate::database::{self, Class};
use crate::pipeline;
use crate::telemetry::health::{Component, Health};
use crate::telemetry::log_limit::LogLimit;

/// Time after which unfinished work on the schema makes the worker unready.
const SCHEMA_SILENCE: Duration = Duration::from_secs(2);
/// Delay before a schema that cannot be read is read again.
const SCHEMA_RETRY: Duration = Duration::from_millis(500);
/// The state of a database that is not available at the start, in the log.
const AWAY: &str = "database";

/// The conditions of the wait for the schema.
pub(super) struct Wait {
    /// Time after which the caller continues without an unavailable database; `None` for no limit.
    pub(super) timeout: Option<Duration>,
    /// `true` if nothing else runs that would show that the worker is alive.
    pub(super) alone: bool,
}

/// The result of the wait for the schema.
pub(super) enum Schema {
    Verified,
    /// The database is not available, and there is a journal.
    Later,
    Stopping,
}

/// Waits until the schema is verified. The wait for an unavailable database is limited by `timeout`.
///
/// # Errors
/// If the schema is not the one that this program needs.
pub(super) async fn await_schema(
    config: &Config,
    health: &Health,
    stopping: watch::Receiver<Option<Signal>>,
    wait: Wait,
) -> Result<Schema, Failure> {
    let start = Instant::now();
    let log = LogLimit::default();
    let mut stopped = std::pin::pin!(signals::stopped(stopping));
    // The pipeline does this once it runs.
    let mut asking = std::pin::pin!(async {
        if wait.alone { pipeline::ask_brokers(config, health).await } else { std::future::pending().await }
    });
    loop {
        let attempt = Attempt { config, health, alone: wait.alone, began: Instant::now(), waited: Mutex::new(None) };
        let failure = tokio::select! {
            _ = &mut stopped => return Ok(Schema::Stopping),
            never = attempt.beat() => match never {},
            () = &mut asking => return Ok(Schema::Stopping),
            ended = attempt.run() => match ended {
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
        if !is_passing(&failure) {
            error!(%failure, "the schema is not what this program needs");
            return Err(failure.into());
        }
        if wait.timeout.is_some_and(|timeout| start.elapsed() >= timeout) {
            warn!(%failure, "the database is away; messages go to the journal meanwhile");
            health.set_condition("schema", None);
            return Ok(Schema::Later);
        }
        if let Some(repeated) = log.lasts(AWAY, &failure.to_string()) {
            let (seconds, unlogged) = (repeated.seconds, repeated.unlogged);
            warn!(%failure, seconds, unlogged, "the database is away; waiting for it");
        }
        if wait.alone {
            health.set_condition("schema", Some(failure.to_string()));
        }
        tokio::select! {
            _ = &mut stopped => return Ok(Schema::Stopping),
            () = tokio::time::sleep(SCHEMA_RETRY) => {}
        }
    }
}

/// One attempt to migrate and verify the schema.
struct Attempt<'a> {
    config: &'a Config,
    health: &'a Health,
    alone: bool,
    began: Instant,
    /// The last lock that the migration waited for, and the time of the report.
    waited: Mutex<Option<(Instant, String)>>,
}

impl Attempt<'_> {
    async fn run(&self) -> Result<Verified, SchemaError> {
        let report_wait = |wait: &str| {
            warn!(wait, "{}", self.step());
            *self.waited.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), wait.to_owned()));
        };
        if self.config.database.migrate_on_start {
            for note in schema::migrate_and_report(self.config, &report_wait).await?.notes {
                info!(note, "schema");
            }
        }
        schema::verify_and_report(self.config, &report_wait).await
    }

    /// Reports that the worker is alive, because a migration takes as long as it needs; never returns.
    async fn beat(&self) -> Infallible {
        loop {
            if self.alone {
                self.health.beat(Component::Pipeline);
                self.health.beat(Component::Consumer);
                self.health.review();
                if self.began.elapsed() >= SCHEMA_SILENCE {
                    self.health.set_condition("schema", Some(self.reason_to_wait()));
                }
            }
            tokio::time::sleep(SCHEMA_RETRY).await;
        }
    }

    fn step(&self) -> &'static str {
        if self.config.database.migrate_on_start { "migrate" } else { "verify" }
    }

    /// Returns the reason why the worker is not ready yet.
    fn reason_to_wait(&self) -> String {
        let step = self.step();
        let seconds = self.began.elapsed().as_secs();
        let waits = self.waited.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // A wait is reported repeatedly while it lasts.
        let waits = waits.filter(|(at, _)| at.elapsed() < WAIT_REPORT_INTERVAL + SCHEMA_SILENCE);
        let why = waits.map_or_else(
            || "another session may hold a lock on its tables, see pg_stat_activity".to_owned(),
            |(_, wait)| wait,
        );
        format!("waits for the database to {step} the schema for {seconds} s: {why}")
    }
}

/// Returns `true` if the failure will pass: an outage, another session's lock, or a restore in progress.
fn is_passing(failure: &SchemaError) -> bool {
    let is_passing =
        |error: &database::Error| matches!(error.class(), Class::Outage | Class::Retry) || error.is_restoring();
    matches!(failure, SchemaError::Database(error) if is_passing(error))
}
