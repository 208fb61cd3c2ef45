//! Waiting for an answer of a server that may be frozen.

use std::time::Duration;

use super::step::Step;
use crate::database::error::Error;

/// The answer of a server, if it comes within `limit`.
///
/// # Errors
/// What the server says, or that it does not answer in time.
pub(crate) async fn answered<T>(
    step: Step,
    limit: Duration,
    question: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, question).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(Error::Server { step, source }),
        Err(_) => Err(Error::TimedOut { step, seconds: limit.as_secs() }),
    }
}
