//! Reports of what work in the database waits for: the sessions that hold its locks. For migrations and commands that an
//! operator watches; a worker reports it by `write::locks`.

use std::time::{Duration, Instant};

use tokio_postgres::{Client, SimpleQueryMessage};
use tracing::debug;

use super::Database;
use super::connection::connector::{Connector, Failed};
use super::error::Error;
use crate::database::connection::step::Step;
use crate::telemetry::escaped;

/// Interval between reports of a wait, while it lasts.
pub const WAIT_REPORT_INTERVAL: Duration = Duration::from_secs(30);
/// Time that work waits for another session's lock before that is reported.
const FIRST: Duration = Duration::from_secs(5);
const STEP: Step = Step::Other("ask who holds locks");

/// The connection that reads who holds locks: the one that works is waiting.
pub(super) enum Observer<'a> {
    /// An existing one.
    Here(&'a Client),
    /// One that is made when a wait begins.
    Later(Connector, Option<Client>),
}

impl Observer<'_> {
    async fn client(&mut self) -> Result<&Client, Error> {
        match self {
            Self::Here(client) => Ok(client),
            Self::Later(connector, made) => {
                if made.as_ref().is_none_or(Client::is_closed) {
                    let connecting = connector.connect().await;
                    let connecting = connecting.map_err(|Failed { source, tried }| Error::Connect { source, tried });
                    *made = Some(connecting?.0);
                }
                made.as_ref().ok_or_else(|| Error::Unexpected(format!("{STEP}: no connection")))
            }
        }
    }

    /// The sessions that hold what these processes of the server wait for.
    async fn holders(&mut self, pids: &[i32]) -> Result<Vec<String>, Error> {
        if pids.is_empty() {
            return Ok(Vec::new());
        }
        let pids: Vec<String> = pids.iter().map(i32::to_string).collect();
        let pids = pids.join(", ");
        let blocking = format!(
            "select distinct holder as pid from unnest(array[{pids}]) as waiting, unnest(pg_blocking_pids(waiting)) as holder
             where holder not in ({pids})"
        );
        sessions(self.client().await?, &blocking).await
    }
}

/// Does work on the sessions of these processes of the server. While it waits for another session's lock, `say` gets a
/// sentence that names the holder, after 5 s and every 30 s.
pub(super) async fn watch<T>(
    mut observer: Observer<'_>,
    pids: impl Fn() -> Vec<i32>,
    mut say: impl FnMut(&str),
    work: impl Future<Output = T>,
) -> T {
    let mut free = Instant::now();
    let mut work = std::pin::pin!(work);
    let mut pause = FIRST;
    loop {
        tokio::select! {
            result = &mut work => return result,
            () = tokio::time::sleep(pause) => {}
        }
        let pids = pids();
        let asked = tokio::select! {
            result = &mut work => return result,
            asked = observer.holders(&pids) => asked,
        };
        match asked {
            Ok(holders) if holders.is_empty() => (free, pause) = (Instant::now(), FIRST),
            Ok(holders) => {
                let seconds = free.elapsed().as_secs();
                say(&format!("waiting for a lock of {}, for {seconds} s now", holders.join("; ")));
                pause = WAIT_REPORT_INTERVAL;
            }
            Err(failure) => {
                debug!(%failure, "whom the work waits for is not known");
                pause = WAIT_REPORT_INTERVAL;
            }
        }
    }
}

impl Database {
    /// Does work on connections of this pool, and reports whose locks it waits for: after 5 s and every 30 s.
    pub async fn saying_waits<T>(&self, say: impl FnMut(&str), work: impl Future<Output = T>) -> T {
        let observer = Observer::Later(self.connections.connector(), None);
        watch(observer, || self.connections.pids(), say, work).await
    }
}

/// The process of the server that works for a connection.
pub(super) async fn pid_of(client: &Client) -> Result<i32, Error> {
    let row = client.query_one("select pg_backend_pid()", &[]).await;
    Ok(row.map_err(|source| Error::Server { step: Step::Other("ask for the session's process"), source })?.get(0))
}

/// The sessions whose processes a query names, each with its details.
pub(super) async fn sessions(client: &Client, pids: &str) -> Result<Vec<String>, Error> {
    // Within a transaction the server shows the sessions as they were when it was first asked.
    let sql = format!(
        "select pg_stat_clear_snapshot();
         select pid, nullif(application_name, ''), usename::text, host(client_addr), state,
             to_char(coalesce(xact_start, backend_start) at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
         from ({pids}) as wanted left join pg_stat_activity using (pid)"
    );
    let answer = client.simple_query(&sql).await.map_err(|source| Error::Server { step: STEP, source })?;
    let described = |message: &SimpleQueryMessage| {
        let SimpleQueryMessage::Row(row) = message else { return None };
        if row.len() == 1 {
            return None;
        }
        let part = |at: usize, before: &str| row.get(at).map(|text| format!("{before}{}", escaped(text)));
        let known: Vec<String> =
            [part(1, ""), part(2, "user "), part(3, "from "), part(4, "")].into_iter().flatten().collect();
        let known = if known.is_empty() { String::new() } else { format!(" ({})", known.join(", ")) };
        let pid = row.get(0).filter(|pid| *pid != "0").map_or_else(
            || "a prepared transaction (pg_prepared_xacts has its name)".to_owned(),
            |pid| format!("process {pid}"),
        );
        Some(format!("{pid}{known}{}", part(5, " since ").unwrap_or_default()))
    };
    Ok(answer.iter().filter_map(described).collect())
}
