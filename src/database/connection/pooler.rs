//! A pooler between this program and the server. It must keep a client's session for as long as the client stays: settings,
//! prepared statements and advisory locks are the session's. One that gives each transaction, or each statement, another
//! session is detected before anything is done.

use tokio_postgres::{Client, SimpleQueryMessage};
use tracing::debug;

use super::connector::Connector;
use crate::database::connection::step::Step;
use crate::database::error::Error;

const STEP: Step = Step::Other("look for a pooler");

/// Maximum number of attempts to get the session of the other client.
const ROUNDS: usize = 4;

/// Returns `true` if there is a pooler in transaction or statement mode in between: `client` must not have the session that
/// another one uses while `client` is connected, and must keep its own.
///
/// # Errors
/// If the server does not answer.
pub(in crate::database) async fn is_shared(client: &Client, place: &str, connector: &Connector) -> Result<bool, Error> {
    // Processes of another host may have the same numbers.
    let other = match connector.connect_to_one(Some(place)).await {
        Ok(made) => made.client,
        Err(failure) => {
            // The role may have one connection only.
            debug!(failure = failure.tried, "whether a pooler shares sessions is not known");
            return Ok(false);
        }
    };
    let before = session_of(client).await?;
    // It keeps its session as long as its transaction lasts, in transaction mode as well. A pooler that has several sessions
    // assigns them in any order, so that a single query would prove nothing.
    for _ in 0..ROUNDS {
        match other.batch_execute("begin").await {
            Ok(()) => {}
            Err(error) if says_statement_mode(&error) => return Ok(true),
            Err(source) => return Err(Error::Server { step: STEP, source }),
        }
        let is_shared = session_of(&other).await? == before || session_of(client).await? != before;
        other.batch_execute("rollback").await.map_err(|source| Error::Server { step: STEP, source })?;
        if is_shared {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The server's process of this session, by a protocol that every pooler forwards.
async fn session_of(client: &Client) -> Result<String, Error> {
    let answer =
        client.simple_query("select pg_backend_pid()").await.map_err(|source| Error::Server { step: STEP, source })?;
    let pid = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    pid.ok_or_else(|| Error::Unexpected(format!("{STEP}: no process")))
}

/// Returns `true` if the error says that there are no transactions of several statements, as PgBouncer's does.
fn says_statement_mode(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|answer| answer.message().contains("statement pooling"))
}
