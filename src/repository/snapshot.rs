//! The database at one moment.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, SimpleQueryMessage};

use super::Error;
use super::replica::{ReadOptions, Replicas};
use crate::config;
use crate::database::{self, Step, answered};

/// How much longer than the server's own limit an answer may take before we call the server frozen.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);
/// The table of points.
const POINTS: &str = "time_series_data_points";

/// One transaction that reads: whatever it is asked, and however long it takes, it answers as of the moment of its first
/// question, also while workers write. It has its own connection.
///
/// One that was opened by [`Snapshot::of_replica`] goes on with another moment if the server interrupts it:
/// [`Snapshot::places`] says of how many.
#[derive(Debug)]
pub struct Snapshot {
    client: Mutex<Arc<Client>>,
    /// The servers that were read, one for each moment.
    places: Mutex<Vec<String>>,
    replicas: Option<tokio::sync::Mutex<Replicas>>,
    schema: String,
    limit: Duration,
}

impl Snapshot {
    /// Begins to read the database of `database.url`.
    ///
    /// # Errors
    /// If the server does not answer or refuses, or the tables are missing.
    pub async fn open(config: &config::Database) -> Result<Self, Error> {
        let snapshot = Self::of(config, database::connect(config).await?, None);
        snapshot.begin().await?;
        Ok(snapshot)
    }

    /// Begins to read the database of `database.read_url`, or of `database.url` if there is none. If the server interrupts a
    /// question, it is asked again as of a later moment.
    ///
    /// # Errors
    /// If no server can be read, none has what must be seen in time, or the tables are missing.
    pub async fn of_replica(config: &config::Database, options: ReadOptions) -> Result<Self, Error> {
        let mut replicas = Replicas::new(config, options);
        let reading = replicas.connect().await?;
        let snapshot = Self::of(config, reading.client, Some(replicas));
        snapshot.places_now().push(reading.place);
        if let Err(error) = snapshot.begin().await {
            snapshot.go_on_after(error).await?;
        }
        Ok(snapshot)
    }

    /// Waits this long for each answer instead of as the configuration says: sorting many points takes its time.
    pub(super) fn with_limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    fn of(config: &config::Database, client: Client, replicas: Option<Replicas>) -> Self {
        Self {
            client: Mutex::new(Arc::new(client)),
            places: Mutex::default(),
            replicas: replicas.map(tokio::sync::Mutex::new),
            schema: config.schema.clone(),
            limit: Duration::from_millis(config.statement_timeout_ms) + ANSWER_MARGIN,
        }
    }

    async fn begin(&self) -> Result<(), Error> {
        let client = self.client();
        // Compiling a query of each window takes longer than it saves.
        let begin = "begin isolation level repeatable read read only; set local jit = off";
        self.within(Step::Other("begin to read"), client.batch_execute(begin)).await?;
        let sql = "select to_regclass($1) is not null";
        let rows = self.within(Step::Other("look for the tables"), client.query(sql, &[&POINTS])).await?;
        if !rows.first().is_some_and(|row| row.get(0)) {
            return Err(Error::NotMigrated(self.schema.clone()));
        }
        Ok(())
    }

    fn client(&self) -> Arc<Client> {
        Arc::clone(&self.client.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn places_now(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The servers that were read, one for each moment. Empty if it is of `database.url` by
    /// [`Snapshot::open`], which has one moment.
    pub fn places(&self) -> Vec<String> {
        self.places_now().clone()
    }

    /// Returns `true` if it does not answer as of its first moment any more.
    pub(super) fn is_of_several_moments(&self) -> bool {
        self.places_now().len() > 1
    }

    /// Begins again as of a later moment, after a failure that permits it.
    ///
    /// # Errors
    /// The failure, if it does not; or if no server can be read.
    pub(super) async fn go_on_after(&self, mut error: Error) -> Result<(), Error> {
        let Some(replicas) = &self.replicas else { return Err(error) };
        let mut replicas = replicas.lock().await;
        loop {
            let place = self.places_now().last().cloned().unwrap_or_default();
            replicas.go_on_after(error, &place)?;
            let reading = replicas.connect().await?;
            *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(reading.client);
            self.places_now().push(reading.place);
            match self.begin().await {
                Ok(()) => return Ok(()),
                Err(failure) => error = failure,
            }
        }
    }

    /// An answer has come.
    async fn succeeded(&self) {
        if let Some(replicas) = &self.replicas {
            replicas.lock().await.succeeded();
        }
    }

    async fn within<T>(
        &self,
        step: Step,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        Ok(answered(step, self.limit, work).await?)
    }

    /// Asks a question.
    pub(super) async fn query(
        &self,
        step: Step,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        loop {
            match self.within(step, self.client().query(sql, parameters)).await {
                Ok(rows) => {
                    self.succeeded().await;
                    return Ok(rows);
                }
                Err(error) => self.go_on_after(error).await?,
            }
        }
    }

    /// The number of rows that the server expects a query to return.
    pub(super) async fn estimate(&self, sql: &str) -> Result<u64, Error> {
        let step = Step::Other("estimate the number of points");
        let sql = format!("explain (format json) {sql}");
        let answer = loop {
            match self.within(step, self.client().simple_query(&sql)).await {
                Ok(answer) => break answer,
                Err(error) => self.go_on_after(error).await?,
            }
        };
        let text: String = answer
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0),
                _ => None,
            })
            .collect();
        let plan: serde_json::Value = serde_json::from_str(&text)
            .map_err(|error| database::Error::Unexpected(format!("the server's plan cannot be read: {error}")))?;
        Ok(plan[0]["Plan"]["Plan Rows"].as_u64().unwrap_or(0))
    }

    /// Copies the rows of a query in the binary format; `take` gets them piece by piece. It is not repeated: the caller has to
    /// forget the pieces first.
    pub(super) async fn copy(&self, sql: &str, mut take: impl FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        let step = Step::Other("read points");
        let copy = format!("copy ({sql}) to stdout (format binary)");
        let stream = self.within(step, self.client().copy_out(copy.as_str())).await?;
        let mut stream = std::pin::pin!(stream);
        loop {
            // Nearly all pieces are there already, and need no clock.
            let next = match stream.next().now_or_never() {
                Some(next) => next,
                None => {
                    let waiting = tokio::time::timeout(self.limit, stream.next()).await;
                    waiting.map_err(|_| database::Error::TimedOut { step, seconds: self.limit.as_secs() })?
                }
            };
            match next {
                Some(Ok(piece)) => take(&piece)?,
                Some(Err(source)) => return Err(database::Error::Server { step, source }.into()),
                None => break,
            }
        }
        self.succeeded().await;
        Ok(())
    }

    /// Where the chunks of the points begin and end, in microseconds since the Unix epoch, in order; empty if they are a plain
    /// table.
    pub(super) async fn chunk_bounds(&self, from_us: i64, until_us: i64) -> Result<Vec<i64>, Error> {
        let step = Step::Other("look for chunks");
        let has_any = "select to_regclass('timescaledb_information.chunks') is not null";
        if !self.query(step, has_any, &[]).await?.first().is_some_and(|row| row.get(0)) {
            return Ok(Vec::new());
        }
        let sql = "select distinct (extract(epoch from bound) * 1000000)::bigint as us
                   from timescaledb_information.chunks, unnest(array[range_start, range_end]) as bound
                   where hypertable_schema = current_schema() and hypertable_name = $1 and isfinite(bound)
                   order by us";
        let rows = self.query(step, sql, &[&POINTS]).await?;
        Ok(rows.iter().map(|row| row.get(0)).filter(|bound| (from_us..until_us).contains(bound)).collect())
    }
}
