//! The connections: `database.pool_size` of them are kept, up to `database.max_overflow` more are made when they are needed
//! and closed again when they are idle, and none grows older than `database.pool_recycle_s`. A connection is tested before it
//! is handed out.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, TimeoutType, Timeouts,
};
use tokio_postgres::Config as ConnectionConfig;
use tracing::{debug, warn};
use uuid::Uuid;

use super::connector::Connector;
use super::options::connection_config;
use super::settings;
use super::tls;
use crate::config::{self, SslMode};
use crate::database::error::Error;
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics;

/// The pool with the limits it keeps.
#[derive(Debug, Clone)]
pub(in crate::database) struct Connections {
    pool: Pool,
    connector: Connector,
    kept: usize,
    max_age: Duration,
    overflow_idle: Duration,
    servers: Arc<Servers>,
    /// Connections that were made before this are closed instead of being reused.
    renewed: Arc<Mutex<Instant>>,
    wait: Duration,
    /// When the server last refused another connection besides the existing ones.
    refused: Arc<Mutex<Option<Instant>>>,
    log: LogLimit,
}

/// Interval between checks for a free connection, if the server accepts no more.
const FREE_INTERVAL: Duration = Duration::from_millis(20);
/// Time for which no more connections are requested after the server has refused one.
const REFUSED_FOR: Duration = Duration::from_secs(5);
/// The name in the log of the state in which the server accepts fewer connections than the pool may have.
const FEWER: &str = "fewer connections";

/// Maximum number of processes that are remembered: more than a pool may have connections.
const MAX_PIDS: usize = 2000;

/// The servers that new connections have reached.
#[derive(Debug, Default)]
struct Servers {
    last: Mutex<Option<Server>>,
    met: AtomicU64,
    /// The processes of the server that work for the connections; some may have ended.
    pids: Mutex<VecDeque<i32>>,
}

/// A server and its database.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Server {
    /// The identity that `migrate` gave to the database; `None` before.
    database: Option<Uuid>,
    /// The database's oid, and when the server started, in microseconds since the Unix epoch: a restored copy of the database
    /// has its identity.
    oid: u32,
    started_us: i64,
}

impl Servers {
    fn add_process(&self, pid: i32) {
        let mut pids = self.pids.lock().unwrap_or_else(PoisonError::into_inner);
        pids.push_back(pid);
        if pids.len() > MAX_PIDS {
            pids.pop_front();
        }
    }

    /// Identifies the server, and counts it if it is not the one that the last connection has reached.
    async fn identify(&self, client: &tokio_postgres::Client) -> Result<(), tokio_postgres::Error> {
        let row = client
            .query_one(
                "select (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint,
                        to_regclass('ingest_database') is not null, pg_backend_pid(),
                        (select oid from pg_database where datname = current_database())",
                &[],
            )
            .await?;
        self.add_process(row.get(2));
        let database = match row.get(1) {
            true => client.query_opt("select id from ingest_database", &[]).await?.map(|row| row.get(0)),
            false => None,
        };
        let server = Server { database, oid: row.get(3), started_us: row.get(0) };
        let before = self.last.lock().unwrap_or_else(PoisonError::into_inner).replace(server.clone());
        let Some(before) = before.filter(|before| *before != server) else { return Ok(()) };
        self.met.fetch_add(1, Ordering::AcqRel);
        match (before.database, server.database) {
            (Some(before), Some(now)) if before != now => warn!(
                before = %before, now = %now,
                "this is another database than before; what was known of the other one is forgotten"
            ),
            _ => debug!("the server was restarted, or the database is another one; what was known of it is forgotten"),
        }
        Ok(())
    }
}

impl Connections {
    pub(in crate::database) fn new(database: &config::Database) -> Result<Self, Error> {
        let (connection, tls) = connection_config(database)?;
        warn_of_weak(&connection, tls.mode());
        let connector = Connector::new(database);
        // The connector reads the URL again for each connection.
        // A lost connection is detected by the statement that runs before each use.
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_connect(connection, connector.clone(), recycling);
        let session = session_settings(database);
        let servers = Arc::<Servers>::default();
        let met = Arc::clone(&servers);
        let max_age = Duration::from_secs(database.pool_recycle_s);
        let renewed = Arc::new(Mutex::new(Instant::now()));
        let valid_since = Arc::clone(&renewed);
        let connect = Duration::from_millis(database.connect_timeout_ms);
        let pool = Pool::builder(manager)
            .max_size(database.pool_size + database.max_overflow)
            .timeouts(Timeouts {
                wait: Some(Duration::from_millis(database.pool_wait_timeout_ms)),
                // Each address has its own limit.
                create: None,
                recycle: Some(connect),
            })
            .runtime(Runtime::Tokio1)
            .post_create(Hook::async_fn(move |client, _| {
                let (session, met) = (session.clone(), Arc::clone(&met));
                Box::pin(async move {
                    let prepare = async {
                        client.batch_execute(&session).await?;
                        met.identify(client).await
                    };
                    // The pool's own timeout covers only the making of the connection.
                    let told = tokio::time::timeout(connect, prepare).await;
                    told.map_err(|_| HookError::message("no answer in time"))?.map_err(HookError::Backend)
                })
            }))
            .pre_recycle(Hook::sync_fn(move |_, metrics| {
                if metrics.age() >= max_age {
                    return Err(HookError::message("reached its age"));
                }
                if metrics.created < *valid_since.lock().unwrap_or_else(PoisonError::into_inner) {
                    return Err(HookError::message("made before a fault"));
                }
                Ok(())
            }))
            .pre_recycle(Hook::async_fn(move |client, _| {
                let still_fit = settings::still_fit();
                Box::pin(async move {
                    let told = tokio::time::timeout(connect, client.batch_execute(&still_fit)).await;
                    told.map_err(|_| HookError::message("no answer in time"))?.map_err(HookError::Backend)
                })
            }))
            .build()
            .map_err(|error| Error::Unexpected(format!("build the pool: {error}")))?;
        let overflow_idle = Duration::from_millis(database.overflow_idle_ms);
        Ok(Self {
            pool,
            connector,
            kept: database.pool_size,
            max_age,
            overflow_idle,
            servers,
            renewed,
            wait: Duration::from_millis(database.pool_wait_timeout_ms),
            refused: Arc::default(),
            log: LogLimit::default(),
        })
    }

    pub(in crate::database) async fn get(&self) -> Result<Object, Error> {
        let start = tokio::time::Instant::now();
        let got = self.get_or_wait(Instant::now() + self.wait).await;
        metrics::pool_waited(start.elapsed());
        metrics::step_took(metrics::Step::Pool, start.elapsed());
        got
    }

    /// A connection; if the server accepts no more, an existing one as soon as it is free.
    async fn get_or_wait(&self, deadline: Instant) -> Result<Object, Error> {
        loop {
            if self.was_refused() && !self.until_free(deadline).await {
                return Err(PoolError::Timeout(TimeoutType::Wait).into());
            }
            let failure = match self.pool.get().await {
                Ok(object) => return Ok(object),
                Err(PoolError::Backend(source)) => Error::Connect { source, tried: self.connector.tried() },
                Err(other) => other.into(),
            };
            if !failure.is_out_of_connections() || !self.has_others() {
                return Err(failure);
            }
            self.record_refused_connection(&failure);
        }
    }

    /// Returns `true` if there are connections that will become free.
    fn has_others(&self) -> bool {
        self.pool.status().size > 0
    }

    /// Returns `true` if the server has recently refused a connection, and is expected to refuse another one.
    fn was_refused(&self) -> bool {
        let refused = *self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.is_some_and(|at| at.elapsed() < REFUSED_FOR) && self.has_others()
    }

    fn record_refused_connection(&self, failure: &Error) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        if let Some(repeated) = self.log.lasts(FEWER, &failure.to_string()) {
            let (size, most, seconds) = (self.pool.status().size, self.pool.status().max_size, repeated.seconds);
            warn!(
                %failure, connections = size, pool_size_and_max_overflow = most, seconds,
                "the server takes fewer connections than database.pool_size + database.max_overflow; waiting for a free one"
            );
        }
    }

    /// Waits for a free connection; returns `true` if there may be one before the deadline.
    async fn until_free(&self, deadline: Instant) -> bool {
        while self.pool.status().available == 0 && self.was_refused() {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(FREE_INTERVAL).await;
        }
        true
    }

    /// The number of times that a new connection has reached another server, or another database, than the one before.
    pub(in crate::database) fn servers_met(&self) -> u64 {
        self.servers.met.load(Ordering::Acquire)
    }

    /// The processes of the server that work for these connections.
    pub(in crate::database) fn pids(&self) -> Vec<i32> {
        self.servers.pids.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// The connector of these connections.
    pub(in crate::database) fn connector(&self) -> Connector {
        self.connector.clone()
    }

    /// The identity of the database that the last new connection has reached.
    pub(in crate::database) fn database_met(&self) -> Option<Uuid> {
        self.servers.last.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.database
    }

    /// Closes all existing connections before they are used again: a session keeps the settings of the role and the database
    /// that it was opened with.
    pub(in crate::database) fn renew(&self) {
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Closes idle connections that are too old, and those beyond the kept number that have been idle for a while.
    pub(in crate::database) fn close_idle_connections(&self) {
        let mut beyond = self.pool.status().size.saturating_sub(self.kept);
        let removed = self.pool.retain(|_, metrics| {
            let overflow = beyond > 0 && metrics.last_used() >= self.overflow_idle;
            if overflow {
                beyond -= 1;
            }
            !overflow && metrics.age() < self.max_age
        });
        if !removed.removed.is_empty() {
            debug!(closed = removed.removed.len(), "closed idle connections");
        }
        self.measure();
    }

    pub(in crate::database) fn measure(&self) {
        let status = self.pool.status();
        metrics::pool(status.size, status.available, status.waiting, status.max_size);
    }

    pub(in crate::database) fn close(&self) {
        self.pool.close();
    }
}

/// Logs what the configured mode does not protect against.
fn warn_of_weak(connection: &ConnectionConfig, mode: SslMode) {
    let risk = match mode {
        SslMode::Disable if !tls::is_local(connection) => "passwords and points cross the network in plaintext",
        SslMode::Prefer => "a host in between can make the connection one in plaintext",
        SslMode::Require => "nobody checks that the server is the one it should be",
        _ => return,
    };
    warn!(sslmode = mode.as_str(), risk, "the connection to PostgreSQL is weaker than verify-full");
}

/// The settings of every session. Messages below an error that a trigger raises would be a line of the log for each point. The
/// settings override those of the role and the database: `statement_timeout` bounds what `transaction_timeout` would, and an
/// idle connection of the pool is closed by the pool. The server ends the work of a vanished client: it checks its client
/// while it works, and the client's locks do not outlive it for long.
fn session_settings(database: &config::Database) -> String {
    format!(
        "{pinned} set client_min_messages = error; set statement_timeout = {statement}; set lock_timeout = {lock}; \
         set idle_in_transaction_session_timeout = {idle}; set client_connection_check_interval = 2000; \
         set tcp_keepalives_idle = {keepalive}; set tcp_keepalives_interval = {keepalive}; set tcp_keepalives_count = 3; \
         set tcp_user_timeout = {user}; set idle_session_timeout = 0; \
         select case when current_setting('transaction_timeout', true) is not null \
         then set_config('transaction_timeout', '0', false) end",
        pinned = settings::pinned(database),
        statement = database.statement_timeout_ms,
        // After the statement's timeout it would have no effect.
        lock = database.lock_timeout_ms.min(database.statement_timeout_ms * 3 / 4).max(1),
        idle = database.idle_in_transaction_timeout_ms,
        keepalive = (database.keepalive_idle_ms / 1000).max(1),
        user = database.tcp_user_timeout_ms,
    )
}
