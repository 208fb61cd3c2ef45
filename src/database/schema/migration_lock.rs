//! The lock that lets one change of the schema run at a time. It is a transaction's, on its own connection: whatever ends
//! that connection ends the lock, also with a pooler, which would hand a session's lock on to the next client.

use std::time::{Duration, Instant};

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::config;
use crate::database::connection::connector::{Connector, Failed};
use crate::database::connection::step::Step;
use crate::database::error::Error;
use crate::database::waits::{Observer, WAIT_REPORT_INTERVAL, sessions, watch};

/// The key of the lock: "series-i" in ASCII.
const KEY: i64 = 0x7365_7269_6573_2d69;
/// Interval between attempts to take the lock.
const ASK: Duration = Duration::from_millis(500);
const STEP: Step = Step::Other("wait for other migrations");

/// The lock, for as long as this is kept.
#[derive(Debug)]
pub(in crate::database) struct MigrationLock {
    client: Client,
}

impl MigrationLock {
    /// Takes the lock. While another session holds it, `say` gets a sentence that names it, at once and every 30 s; `timeout`
    /// is the maximum wait, without a limit if it is `None`.
    ///
    /// # Errors
    /// If the server does not answer. `Ok(None)`: another session still holds it.
    pub(in crate::database) async fn acquire(
        database: &config::Database,
        timeout: Option<Duration>,
        mut say: impl FnMut(&str),
    ) -> Result<Option<Self>, Error> {
        let (client, _) = Connector::new(database)
            .connect()
            .await
            .map_err(|Failed { source, tried }| Error::Connect { source, tried })?;
        // The migration takes as long as it needs, and this transaction does nothing meanwhile.
        let begin = "begin; set local idle_in_transaction_session_timeout = 0;
            select case when current_setting('transaction_timeout', true) is not null
                then set_config('transaction_timeout', '0', true) end";
        client.batch_execute(begin).await.map_err(|source| Error::Server { step: STEP, source })?;
        let begun = Instant::now();
        let mut said: Option<Instant> = None;
        loop {
            let sql = format!("select pg_try_advisory_xact_lock({KEY})");
            // A simple query: after a prepared one its portal, and with it a snapshot, stays open in the transaction, for which
            // `create index concurrently` would wait.
            let answer = client.simple_query(&sql).await.map_err(|source| Error::Server { step: STEP, source })?;
            let is_taken = |message: &SimpleQueryMessage| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("t"));
            if answer.iter().any(is_taken) {
                return Ok(Some(Self { client }));
            }
            if timeout.is_some_and(|timeout| begun.elapsed() >= timeout) {
                return Ok(None);
            }
            if said.is_none_or(|said| said.elapsed() >= WAIT_REPORT_INTERVAL) {
                said = Some(Instant::now());
                let holder = holder(&client).await?;
                let seconds = begun.elapsed().as_secs();
                say(&format!("waiting for {holder}, for {seconds} s now"));
            }
            tokio::time::sleep(ASK).await;
        }
    }

    /// Does a migration's work on the session with this process. While it waits for a lock, `say` gets a sentence that names
    /// its holder.
    ///
    /// # Errors
    /// Those of the work.
    pub(in crate::database) async fn watch<T>(
        &self,
        pid: i32,
        say: impl FnMut(&str),
        work: impl Future<Output = T>,
    ) -> T {
        watch(Observer::Here(&self.client), || vec![pid], say, work).await
    }

    /// Releases the lock.
    pub(in crate::database) async fn release(self) -> Result<(), Error> {
        self.client
            .batch_execute("rollback")
            .await
            .map_err(|source| Error::Server { step: Step::Other("end the migration"), source })
    }
}

/// The holder of the lock.
async fn holder(client: &Client) -> Result<String, Error> {
    // As the server shows a key of 64 bits: its two halves.
    let (high, low) = ((KEY >> 32) as u32, (KEY & 0xffff_ffff) as u32);
    let pids = format!(
        "select pid from pg_locks
         where locktype = 'advisory' and granted and database = (select oid from pg_database where datname = current_database())
             and classid = {high} and objid = {low}"
    );
    let found = sessions(client, &pids).await?;
    if found.is_empty() {
        return Ok("another migration, which has just ended".to_owned());
    }
    Ok(format!("another migration: {}", found.join("; ")))
}
