//! TimescaleDB, or plain PostgreSQL: stores points, series and progress.
//!
//! - `connection`: how connections are made, secured, set up, pooled and closed.
//! - [`schema`]: the tables: migrations, checks, profiles and roles.
//! - `progress`: which offsets are applied, and the claim.
//! - [`mod@write`]: the one transaction {COPY, dead letters, claim, COMMIT}.
//! - `health`: whether the database answers and accepts writes.
//! - `waits`: the sessions whose locks work waits for.
//! - [`dead_letters`]: messages that cannot be stored: finding, redriving, deleting and publishing them.
//! - `backups`: the backups that the database remembers.
//! - [`definition`]: definitions of series by commands.
//! - [`deletion`]: deleting series and points, so that they stay deleted.
//! - [`error`]: what a failure means; [`verdict`]: what follows it.
//! - [`reading`]: connections of commands that only read, to standbys.
//! - [`scratch`]: a database that the demo and the benchmark make and remove.

pub mod dead_letters;
pub mod definition;
pub mod deletion;
pub mod error;
pub mod reading;
pub mod retention;
pub mod schema;
pub mod scratch;
pub mod verdict;
pub mod write;

mod backups;
mod class;
mod connection;
mod health;
mod progress;
mod waits;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use backups::BackupAges;
pub(crate) use connection::answer::answered;
pub(crate) use connection::libpq::libpq_environment;
pub(crate) use connection::settings::quoted_name;
pub use connection::step::Step;
pub use error::{Class, Error};
use health::Operation;
pub use health::State;
pub use progress::admin::{NO_ISLANDS, ProgressRow};
pub use progress::{Acceptance, Applied, Coverage, Elsewhere, FileSource, Started};
pub(crate) use schema::{connect, quoted_text};
pub(crate) use write::copy::POSTGRES_EPOCH_US;
pub use write::series::ReferentialCheck;
pub use write::settle::Settled;
pub use write::{ClaimOrder, Oversized, Written};

use crate::batch::Batch;
use crate::config::{self, OnDuplicate, UnknownSeries};
use crate::input::Inputs;
use crate::message::Points;
use crate::raw::Source;

use connection::pool::Connections;
use connection::session::Session;
use progress::{AcceptedSources, Claim, ResolvedSources, SourceIds};
use schema::profile::Table;
use uuid::Uuid;
use write::chunks::KnownChunks;
use write::insert::Store;
use write::locks::Locks;
use write::series::KnownSeries;

/// The time of a message without one, in the tables and their functions.
const NO_TIME: i64 = 0;
/// It inserts no row, and fails on a read-only server.
const PROBE: &str = "select ingest_probe()";
/// Time after the server's own timeout until the server is considered frozen.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);

/// Number of batches without a refused row until the next is expected to have none either.
const REFUSALS_EXPECTED: u32 = 4;

/// The database as the pipeline uses it. Clones share the connections.
#[derive(Debug, Clone)]
pub struct Database {
    connections: Connections,
    pipeline: Arc<str>,
    inputs: Inputs,
    unknown_series: UnknownSeries,
    on_duplicate: OnDuplicate,
    letters: dead_letters::StoragePolicy,
    letter_refusals: Arc<dead_letters::Refusals>,
    limit: Duration,
    /// Timeout for rows of series that other sessions have locked.
    row_wait: Duration,
    locks: Arc<Mutex<Locks>>,
    sources: Arc<SourceIds>,
    /// The number of servers reached when the remembered state was last forgotten.
    server_known: Arc<AtomicU64>,
    known_series: Arc<KnownSeries>,
    known_chunks: Arc<KnownChunks>,
    accepted: Arc<AcceptedSources>,
    /// The length of new chunks, in microseconds.
    chunk_us: i64,
    /// Number of further batches in which refused rows are expected.
    expected_refusals: Arc<AtomicU32>,
    state: Arc<Mutex<State>>,
    table: Arc<Mutex<Option<Table>>>,
}

impl Database {
    /// Prepares the connections; none is made before it is needed.
    ///
    /// # Errors
    /// If the URL cannot be read.
    pub fn new(config: &config::Config) -> Result<Self, Error> {
        let database = &config.database;
        Ok(Self {
            connections: Connections::new(database)?,
            pipeline: config.pipeline.as_str().into(),
            inputs: config.inputs(),
            unknown_series: config.points.unknown_series,
            on_duplicate: config.points.on_duplicate,
            letters: dead_letters::StoragePolicy::new(config),
            letter_refusals: Arc::default(),
            limit: Duration::from_millis(database.statement_timeout_ms) + ANSWER_MARGIN,
            row_wait: write::locks::row_wait(
                Duration::from_millis(database.outage_grace_ms),
                Duration::from_millis(database.lock_timeout_ms),
            ),
            locks: Arc::default(),
            sources: Arc::default(),
            server_known: Arc::default(),
            known_series: Arc::default(),
            known_chunks: Arc::default(),
            accepted: Arc::default(),
            chunk_us: i64::try_from(database.chunk_interval_s.saturating_mul(1_000_000)).unwrap_or(i64::MAX),
            expected_refusals: Arc::default(),
            state: Arc::new(Mutex::new(State::new(false))),
            table: Arc::default(),
        })
    }

    async fn session(&self) -> Result<Session, Error> {
        let client = self.connections.get().await?;
        let server = self.connections.servers_met();
        if self.server_known.swap(server, Ordering::AcqRel) != server {
            self.forget();
        }
        Ok(Session::new(client, self.limit, self.row_wait))
    }

    /// A connection, and the key that the database has given to `source`. If it turns out to be the key of another database
    /// the work fails with [`Class::Progress`], and the next attempt reads it again.
    async fn session_for(&self, source: &Arc<Source>) -> Result<(Session, Uuid), Error> {
        let mut session = self.session().await?;
        let ids = self.sources.resolve(&mut session, &self.pipeline, &[source]).await?;
        Ok((session, ids.key(source)?))
    }

    /// The applied offsets of partitions of `source`; those without progress are omitted.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn coverage(&self, source: &Arc<Source>, partitions: &[i32]) -> Result<HashMap<i32, Coverage>, Error> {
        let work = async {
            let (mut session, key) = self.session_for(source).await?;
            progress::coverage(&mut session, key, partitions).await
        };
        self.recorded(work.await)
    }

    /// Records `[from, until)` as lost in Kafka, if it is not applied; returns the intervals recorded.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn record_gap(
        &self,
        source: &Arc<Source>,
        partition: i32,
        interval: (i64, i64),
        reason: &str,
    ) -> Result<Vec<(i64, i64)>, Error> {
        let work = async {
            let (mut session, key) = self.session_for(source).await?;
            progress::record_gap(&mut session, key, partition, interval, reason).await
        };
        self.recorded(work.await)
    }

    /// How the points' reference to their series is enforced, for this role and this table as they are now.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn reference(&self) -> Result<ReferentialCheck, Error> {
        let work = async { write::series::reference(&mut self.session().await?).await };
        self.recorded(work.await)
    }

    /// The table of points as it is now.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn look_at_table(&self) -> Result<Table, Error> {
        let work = async { schema::profile::read_catalog(&mut self.session().await?).await };
        self.recorded(work.await)
    }

    /// Checks that the server answers.
    ///
    /// # Errors
    /// If it does not.
    pub async fn probe(&self) -> Result<(), Error> {
        let work = async {
            let mut session = self.session().await?;
            session.query(Step::Other("probe"), PROBE, &[]).await?;
            self.read_table(&mut session).await.map(drop)
        };
        self.recorded(work.await)
    }

    /// Does everything that a write does, except the points and the COMMIT.
    ///
    /// # Errors
    /// Those that the first message would cause.
    pub(in crate::database) async fn rehearse(&self) -> Result<(), Error> {
        let mut session = self.session().await?;
        session.begin().await?;
        session.query(Step::Other("probe"), PROBE, &[]).await?;
        let none = Points::default();
        session.copy(&none, &none.order()).await?;
        Claim::new(&[], &ResolvedSources::default())?.all(&mut session).await?;
        session.roll_back().await;
        Ok(())
    }

    /// The privileges that this role lacks for a worker's work, and the objects that are missing, in sentences.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn missing_rights(&self) -> Result<Vec<String>, Error> {
        schema::rights::missing_in(&mut self.session().await?, self.on_duplicate).await
    }

    /// Describes the server that answers now.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn server(&self) -> Result<schema::Server, Error> {
        let work = async {
            let rows = self.session().await?.query(schema::SERVER_STEP, schema::SERVER_SQL, &[]).await?;
            let row =
                rows.first().ok_or_else(|| Error::Unexpected("the server does not give its version".to_owned()))?;
            Ok(schema::server_of(row))
        };
        self.recorded(work.await)
    }

    /// The identity that `migrate` has given to the database that the last connection has reached; `None` before there was
    /// one.
    pub fn identity(&self) -> Option<Uuid> {
        self.connections.database_met()
    }

    /// The same, of a connection that is made if there is none.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn identify(&self) -> Result<Option<Uuid>, Error> {
        let work = async { self.session().await.map(drop) };
        self.recorded(work.await)?;
        Ok(self.identity())
    }

    /// The table of points as it was when it was last read.
    pub fn table(&self) -> Option<Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the table of points, and reports changes of it.
    async fn read_table(&self, session: &mut Session) -> Result<Table, Error> {
        let table = schema::profile::read_catalog(session).await?;
        let before = self.table.lock().unwrap_or_else(PoisonError::into_inner).replace(table.clone());
        if before.as_ref() != Some(&table) {
            table.report(before.is_none());
        }
        Ok(table)
    }

    /// How points are stored in this transaction: the table is read each time, because it may be changed while workers run,
    /// and the server does not reliably report that it compresses nothing.
    async fn prepare_store<'a>(
        &self,
        session: &mut Session,
        batch: &'a Batch,
        ids: &ResolvedSources,
    ) -> Result<Store<'a>, Error> {
        let table = self.read_table(session).await?;
        if let Some(other) = &table.other_type {
            return Err(Error::OtherType(other.clone()));
        }
        Store::new(batch, self.on_duplicate, ids, table.direct_compress.ok())
    }

    /// Closes connections that are not needed, and measures the pool.
    pub fn close_idle_connections(&self) {
        self.connections.close_idle_connections();
    }

    /// Closes all connections when their work is done.
    pub fn close(&self) {
        self.connections.close();
    }

    /// Forgets the remembered state of the database: it may be another one, or have lost its last transactions.
    pub fn forget(&self) {
        self.sources.forget();
        self.known_series.forget();
        self.known_chunks.forget();
        self.accepted.forget();
    }

    /// Returns `true` if rows are refused so often that a batch is better copied in pieces from the start.
    fn expects_refusals(&self) -> bool {
        self.expected_refusals.load(Ordering::Relaxed) > 0
    }

    /// Records the number of refused messages of a batch that was copied in pieces.
    fn record_refused_messages(&self, messages: usize) {
        let next = |expected: u32| Some(if messages > 0 { REFUSALS_EXPECTED } else { expected.saturating_sub(1) });
        let _always_a_next = self.expected_refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }
}
