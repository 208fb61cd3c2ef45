//! TimescaleDB, or plain PostgreSQL: where points, series and progress are.
//!
//! - `connection`: how a connection is made, protected, set up, pooled and given up.
//! - [`schema`]: the tables: migrations, what they must be, profiles and roles.
//! - `progress`: which offsets are applied, and the claim.
//! - [`mod@write`]: the one transaction {COPY, dead letters, claim, COMMIT}.
//! - `waits`: whose locks work waits for.
//! - [`dead_letters`]: messages that cannot be stored, and what is done with them.
//! - [`error`]: what a failure means; [`verdict`]: what follows it.
//! - [`scratch`]: a database that the demo and the benchmark make and remove.

pub mod dead_letters;
pub mod error;
pub mod schema;
pub mod scratch;
pub mod verdict;
pub mod write;

mod class;
mod connection;
mod progress;
mod waits;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use error::{Class, Error};
pub use progress::{Applied, Coverage, Elsewhere};
pub use write::series::ReferentialCheck;
pub use write::{ClaimOrder, Oversized, Written};

use crate::batch::Batch;
use crate::config::{self, OnDuplicate, UnknownSeries};
use crate::database::connection::step::Step;
use crate::message::Points;
use crate::raw::Source;
use crate::telemetry::metrics;

use connection::pool::Connections;
use connection::session::Session;
use jiff::Timestamp;
use progress::{Claim, ResolvedSources, SourceIds};
use schema::profile::Table;
use tracing::info;
use uuid::Uuid;
use write::chunks::KnownChunks;
use write::insert::Store;
use write::locks::Locks;
use write::series::KnownSeries;

/// How the server prints progress without islands.
pub const NO_ISLANDS: &str = "{}";
/// What the tables and their functions have as the time of a message without one.
const NO_TIME: i64 = 0;
/// It inserts no row, and fails on a server that takes no writes.
const PROBE: &str = "select ingest_probe()";
/// How much longer than the server's own limit a step may take before we call the server frozen.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);

/// How many batches without a refused row it takes until the next is expected to have none either.
const REFUSALS_EXPECTED: u32 = 4;

/// A partition's progress as `progress show` prints it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ProgressRow {
    /// The source's number, for a person: another database may give it to another source.
    pub source_id: i32,
    /// The source's key.
    #[serde(skip)]
    pub source_key: Uuid,
    /// The cluster's id.
    pub cluster_id: String,
    /// The topic's name.
    pub topic: String,
    /// The topic's id.
    pub topic_id: String,
    /// The partition's number.
    pub partition: i32,
    /// Every offset below it is applied.
    pub next_offset: i64,
    /// The islands applied above it.
    pub ahead: String,
    /// When it was last moved.
    pub updated_at: String,
}

impl ProgressRow {
    /// Returns `true` if offsets above the next one are applied.
    pub fn has_islands(&self) -> bool {
        self.ahead != NO_ISLANDS
    }
}

/// The database as the pipeline uses it. Clones share the connections.
#[derive(Debug, Clone)]
pub struct Database {
    connections: Connections,
    pipeline: Arc<str>,
    unknown_series: UnknownSeries,
    on_duplicate: OnDuplicate,
    letters: dead_letters::StoragePolicy,
    letter_refusals: Arc<dead_letters::Refusals>,
    limit: Duration,
    /// How long a transaction waits for rows of series that others have locked.
    row_wait: Duration,
    locks: Arc<Mutex<Locks>>,
    sources: Arc<SourceIds>,
    /// The number of servers met when what is known of the database was last forgotten.
    server_known: Arc<AtomicU64>,
    known_series: Arc<KnownSeries>,
    known_chunks: Arc<KnownChunks>,
    /// The length of new chunks, in microseconds.
    chunk_us: i64,
    /// How many batches more are taken for ones of which rows are refused.
    expected_refusals: Arc<AtomicU32>,
    state: Arc<Mutex<State>>,
    table: Arc<Mutex<Option<Table>>>,
}

/// The database's health.
#[derive(Debug, Clone)]
pub struct State {
    /// Whether it does what it is asked. After a failed write only a write says so: a server whose disk is full answers
    /// questions.
    pub up: bool,
    /// When it became so.
    pub since: Instant,
    /// Whether it answers questions, so that a write is worth trying.
    pub answers: bool,
    write_failed: bool,
    /// When the last good answer came.
    pub last_success: Option<Instant>,
    /// What keeps points from naming a series without a row; `None` before the first are written.
    pub reference: Option<ReferentialCheck>,
    /// The last failure's words and class, while it lasts.
    pub failure: Option<(String, Class)>,
    /// When that failure happened.
    pub failed_at: Option<Timestamp>,
    /// Whether that is an outage that ends only when an operator fixes something: [`Error::is_refusal`].
    pub refused: bool,
}

impl State {
    fn new(up: bool) -> Self {
        Self {
            up,
            since: Instant::now(),
            answers: up,
            write_failed: false,
            last_success: None,
            reference: None,
            failure: None,
            failed_at: None,
            refused: false,
        }
    }
}

/// What the database was asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Read,
    Write,
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
    /// the work fails with [`Class::Progress`], and the next attempt asks for it again.
    async fn session_for(&self, source: &Arc<Source>) -> Result<(Session, Uuid), Error> {
        let mut session = self.session().await?;
        let ids = self.sources.resolve(&mut session, &self.pipeline, &[source]).await?;
        Ok((session, ids.key(source)?))
    }

    /// The next offset of each partition of `source`; one never read before starts at the offset given with it.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn start(&self, source: &Arc<Source>, partitions: &[(i32, i64)]) -> Result<HashMap<i32, i64>, Error> {
        let work = async {
            let (mut session, key) = self.session_for(source).await?;
            progress::start(&mut session, key, partitions).await
        };
        self.recorded(work.await)
    }

    /// What is applied of partitions of `source`; those without progress are omitted.
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

    /// Records `[from, until)` as lost to Kafka, if it is not applied; returns the intervals recorded.
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

    /// The progress of this pipeline, of one topic or of all.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn progress(&self, topic: Option<&str>) -> Result<Vec<ProgressRow>, Error> {
        let mut session = self.session().await?;
        let rows = session
            .query(
                Step::Other("read the progress"),
                "select source.id, source.cluster_id, source.topic, source.topic_id, progress.partition,
                        progress.next_offset, progress.ahead::text,
                        to_char(progress.updated_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'),
                        source.key
                 from ingest_progress as progress join ingest_source as source on source.id = progress.source_id
                 where source.pipeline = $1 and ($2::text is null or source.topic = $2)
                 order by source.topic, source.id, progress.partition",
                &[&self.pipeline.as_ref(), &topic],
            )
            .await?;
        Ok(rows
            .iter()
            .map(|row| ProgressRow {
                source_id: row.get(0),
                cluster_id: row.get(1),
                topic: row.get(2),
                topic_id: row.get(3),
                partition: row.get(4),
                next_offset: row.get(5),
                ahead: row.get(6),
                updated_at: row.get(7),
                source_key: row.get(8),
            })
            .collect())
    }

    /// Sets the next offset of partitions of a source, and forgets the islands above it; returns their number. A
    /// partition that is set back is written again: its points are then duplicates.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn reset_progress(&self, source: Uuid, partition: Option<i32>, next_offset: i64) -> Result<usize, Error> {
        let mut session = self.session().await?;
        let rows = session
            .query(
                Step::Other("reset the progress"),
                // What is read again is no gap any more, or a journal would fill it once more.
                "with moved as (
                     update ingest_progress set next_offset = $3, ahead = '{}', updated_at = now()
                     where source_id = ingest_source_number($1) and ($2::integer is null or partition = $2) returning source_id, partition
                 ), cut as (
                     update ingest_gap as gap set until_offset = $3 from moved
                     where gap.source_id = moved.source_id and gap.partition = moved.partition
                         and gap.from_offset < $3 and gap.until_offset > $3
                 ), forgotten as (
                     delete from ingest_gap as gap using moved
                     where gap.source_id = moved.source_id and gap.partition = moved.partition
                         and gap.from_offset >= $3
                 )
                 select partition from moved",
                &[&source, &partition, &next_offset],
            )
            .await?;
        Ok(rows.len())
    }

    /// What keeps points from naming a series without a row, for this role and this table as they are now.
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

    /// Asks the server for a sign of life.
    ///
    /// # Errors
    /// If it has none.
    pub async fn probe(&self) -> Result<(), Error> {
        let work = async {
            let mut session = self.session().await?;
            session.query(Step::Other("probe"), PROBE, &[]).await?;
            self.read_table(&mut session).await.map(drop)
        };
        self.recorded(work.await)
    }

    /// Does all of a write but the points and the COMMIT.
    ///
    /// # Errors
    /// What the first message would meet.
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

    /// What this role may not do of a worker's work, and what of it is missing, in sentences.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn missing_rights(&self) -> Result<Vec<String>, Error> {
        schema::rights::missing_in(&mut self.session().await?, self.on_duplicate).await
    }

    /// What the server is that answers now.
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

    /// The identity that `migrate` has given to the database which the last connection has met; `None` before there was one.
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

    /// Looks at the table of points, and reports what has changed.
    async fn read_table(&self, session: &mut Session) -> Result<Table, Error> {
        let table = schema::profile::read_catalog(session).await?;
        let before = self.table.lock().unwrap_or_else(PoisonError::into_inner).replace(table.clone());
        if before.as_ref() != Some(&table) {
            table.report(before.is_none());
        }
        Ok(table)
    }

    /// How points are stored in this transaction: the table is read each time, because it may be changed while
    /// workers run, and the server does not tell the client for certain that it compresses nothing.
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

    /// The database's health.
    pub fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets what the database was known to have: it may be another one, or have lost its last transactions.
    pub fn forget(&self) {
        self.sources.forget();
        self.known_series.forget();
        self.known_chunks.forget();
    }

    /// Takes answers to questions as a sign that writes succeed, too, if there is nothing to write that would tell.
    pub fn trust_answers(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).write_failed = false;
    }

    fn recorded<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        match &result {
            Ok(_) => self.record_success(Operation::Read),
            Err(failure) => self.record_failure(failure, Operation::Read),
        }
        result
    }

    /// Returns `true` if rows are refused so often that a batch is better copied in pieces from the start.
    fn expects_refusals(&self) -> bool {
        self.expected_refusals.load(Ordering::Relaxed) > 0
    }

    /// Records how many messages were refused of a batch that was copied in pieces.
    fn record_refused_messages(&self, messages: usize) {
        let next = |expected: u32| Some(if messages > 0 { REFUSALS_EXPECTED } else { expected.saturating_sub(1) });
        let _always_a_next = self.expected_refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    fn record_reference(&self, reference: ReferentialCheck) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.reference != Some(reference) {
            info!(reference = reference.as_str(), "{}", reference.describe());
            metrics::foreign_key_trigger(reference == ReferentialCheck::Trigger);
            state.reference = Some(reference);
        }
    }

    fn record_success(&self, asked: Operation) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.answers = true;
        if !state.up && (asked == Operation::Write || !state.write_failed) {
            *state = State { reference: state.reference, ..State::new(true) };
            metrics::database_up(true);
        }
        state.last_success = Some(Instant::now());
    }

    /// A refused row or an overlap is an answer: the database is up. So it is when it cancels a statement, or has no room for
    /// one: that may be for a single message, and all others can be written.
    fn record_failure(&self, failure: &Error, asked: Operation) {
        let class = failure.class();
        metrics::database_error(class.as_str());
        if class == Class::Progress {
            // What is cached may be of another database.
            self.forget();
        }
        let is_answer = !(matches!(class, Class::Outage | Class::Internal) || failure.is_lock_timeout());
        if is_answer || failure.is_canceled() || failure.is_out_of_room() {
            return;
        }
        self.record_outage(failure, asked, Instant::now());
    }

    /// Records that nothing is written because of another session's lock, which was waited for since then.
    pub fn record_blocked(&self, failure: &Error, since: Instant) {
        self.record_outage(failure, Operation::Write, since);
    }

    fn record_outage(&self, failure: &Error, asked: Operation, since: Instant) {
        let class = failure.class();
        if class == Class::Internal || failure.is_read_only() {
            // The cause may be a setting that a session keeps from the time it was opened.
            self.connections.renew();
        }
        if class == Class::Outage {
            // Whatever comes back may not be what went away: a standby, or a restored backup.
            self.forget();
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.up || state.failure.is_none() {
            state.up = false;
            state.since = since;
        }
        state.answers = false;
        state.write_failed |= asked == Operation::Write;
        state.failure = Some((failure.to_string(), class));
        state.failed_at = Some(Timestamp::now());
        state.refused = failure.is_refusal();
        metrics::database_up(false);
    }
}
