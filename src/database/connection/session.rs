//! A connection in use. Every query has our own timeout besides the server's: a frozen server enforces none. A connection
//! whose state is not known never returns to the pool.

use std::future::Future;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use deadpool_postgres::Object;
use futures_util::SinkExt;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::step::Step;
use crate::database::error::Error;
use crate::database::write::copy::CopyEncoder;
use crate::message::{Order, Points};
use crate::telemetry::metrics;

/// Number of bytes of a COPY that are encoded before they are sent.
const COPY_CHUNK_BYTES: usize = 256 * 1024;

const COPY: &str = "copy time_series_data_points (time_series_id, \"timestamp\", column_name, value) \
                    from stdin with (format binary)";

/// A connection taken from the pool for one piece of work.
pub(in crate::database) struct Session {
    client: Option<Object>,
    limit: Duration,
    row_wait: String,
    /// `true` if the connection can be used again.
    clean: bool,
}

impl Session {
    pub(in crate::database) fn new(client: Object, limit: Duration, row_wait: Duration) -> Self {
        Self { client: Some(client), limit, row_wait: format!("{}ms", row_wait.as_millis()), clean: true }
    }

    /// `lock_timeout` of the statements that lock the rows of series.
    pub(in crate::database) fn row_wait(&self) -> String {
        self.row_wait.clone()
    }

    fn client(&self) -> &Object {
        self.client.as_ref().expect("the connection is taken out on drop only")
    }

    /// Runs a prepared statement.
    pub(in crate::database) async fn query(
        &mut self,
        step: Step,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        let client = self.client();
        let answer = within(self.limit, step, async {
            let statement = client.prepare_cached(sql).await?;
            client.query(&statement, parameters).await
        });
        let answer = answer.await;
        self.clean &= answer.is_ok();
        answer
    }

    /// Runs statements without parameters and results.
    pub(in crate::database) async fn execute(&mut self, step: Step, sql: &str) -> Result<(), Error> {
        let answer = within(self.limit, step, self.client().batch_execute(sql)).await;
        self.clean &= answer.is_ok();
        answer
    }

    /// Begins a transaction. The ids of its points are above those of earlier transactions, so that of two points of the same
    /// time the later one has the higher id: a connection keeps ids in stock (`cache 10000`), and those of an earlier transaction
    /// are given back.
    pub(in crate::database) async fn begin(&mut self) -> Result<(), Error> {
        self.clean = false;
        let sql = "begin; discard sequences";
        within(self.limit, Step::Other("begin"), self.client().batch_execute(sql)).await
    }

    /// Commits. After an error it is not known whether the server has committed, and the connection is not reused.
    pub(in crate::database) async fn commit(mut self) -> Result<(), Error> {
        let answer = within(self.limit, Step::Commit, self.client().batch_execute("commit")).await;
        self.clean = answer.is_ok();
        if answer.as_ref().is_err_and(|failure| failure.from_server().is_some()) {
            // The server reports an error before it aborts the transaction (PostgreSQL's `PostgresMain` reports, then aborts),
            // and the next transaction must not wait for its locks. It has aborted it when it answers again.
            drop(within(self.limit, Step::Other("roll back"), self.client().batch_execute("rollback")).await);
        }
        #[cfg(feature = "planted-bugs")]
        if crate::planted_bugs::is_on("reuse-after-unknown-commit") {
            self.clean = true;
        }
        answer
    }

    /// Rolls the transaction back. The connection is reused if the server confirms that.
    pub(in crate::database) async fn roll_back(mut self) {
        let answer = within(self.limit, Step::Other("roll back"), self.client().batch_execute("rollback")).await;
        self.clean = answer.is_ok();
    }

    /// Copies these points, in this order.
    pub(in crate::database) async fn copy(&mut self, points: &Points, order: &Order) -> Result<(), Error> {
        let step = Step::Copy;
        let begun = Instant::now();
        let client = self.client();
        let sink = within(self.limit, step, async {
            let statement = client.prepare_cached(COPY).await?;
            client.copy_in::<_, Bytes>(&statement).await
        });
        let mut sink = std::pin::pin!(sink.await?);
        let mut encoder = CopyEncoder::new(points, order);
        let mut chunk = BytesMut::with_capacity(COPY_CHUNK_BYTES + COPY_CHUNK_BYTES / 8);
        let mut more = true;
        let mut encoding = Duration::ZERO;
        while more {
            let start = Instant::now();
            more = encoder.encode_into(&mut chunk, COPY_CHUNK_BYTES);
            encoding += start.elapsed();
            within(self.limit, step, sink.send(chunk.split().freeze())).await?;
        }
        let copied = within(self.limit, step, sink.finish()).await?;
        if copied != order.indices().len() as u64 {
            return Err(Error::Unexpected(format!("{copied} rows copied of {}", order.indices().len())));
        }
        metrics::step_took(metrics::Step::Encode, encoding);
        metrics::step_took(metrics::Step::Copy, begun.elapsed().saturating_sub(encoding));
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(client) = self.client.take()
            && !self.clean
        {
            drop(Object::take(client));
        }
    }
}

async fn within<T>(
    limit: Duration,
    step: Step,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(source)) => Err(Error::Server { step, source }),
        Err(_) => Err(Error::TimedOut { step, seconds: limit.as_secs() }),
    }
}
