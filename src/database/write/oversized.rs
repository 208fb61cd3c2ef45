//! Messages whose points lie in more chunks than one transaction can lock.

use std::collections::HashSet;

use tracing::debug;

use crate::batch::Batch;
use crate::database::connection::step::Step;
use crate::database::{Database, Error};
use crate::message::Rejected;

/// The query for the number of locks that a transaction takes for each chunk, and the number that the server has room for:
/// `NLOCKENTS` of PostgreSQL's `lock.c`. None are taken for chunks if there are none.
const ROOM_FOR_LOCKS: &str = "
    select (select count(*) + 1 from pg_index where indrelid = 'time_series_data_points'::regclass),
        current_setting('max_locks_per_transaction')::bigint * (
            current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint
            + current_setting('max_worker_processes')::bigint + current_setting('max_wal_senders')::bigint
            + coalesce(current_setting('autovacuum_worker_slots', true), current_setting('autovacuum_max_workers'))::bigint
            + 2),
        exists (select from pg_inherits where inhparent = 'time_series_data_points'::regclass)";

/// A message whose points lie in more chunks than one transaction can ever lock.
#[derive(Debug, Clone)]
pub struct Oversized {
    /// Its number in the batch.
    pub number: usize,
    /// Why it is a dead letter.
    pub rejected: Rejected,
}

impl Database {
    /// The messages of a batch that the server never has room for, after a failure of [`Error::is_out_of_room`]: other
    /// transactions may have taken the room, so that the failure alone proves nothing. The last one comes first. If the server
    /// does not answer there is none.
    pub async fn oversized(&self, failure: &Error, batch: &Batch) -> Vec<Oversized> {
        let work =
            async { self.session().await?.query(Step::Other("ask for the room for locks"), ROOM_FOR_LOCKS, &[]).await };
        let rows = match work.await {
            Ok(rows) => rows,
            Err(failure) => {
                debug!(%failure, "the room for locks is not known");
                return Vec::new();
            }
        };
        let Some(row) = rows.first().filter(|row| row.get(2)) else { return Vec::new() };
        // The server has some more room than it guarantees.
        let (of_chunk, room) = (row.get::<_, i64>(0), row.get::<_, i64>(1) / 4 * 5);
        let mut oversized: Vec<Oversized> = self
            .chunk_counts(batch)
            .into_iter()
            .enumerate()
            .filter(|(_, chunks)| i64::try_from(*chunks).is_ok_and(|chunks| chunks * of_chunk > room))
            .map(|(number, chunks)| {
                let Rejected { reason, detail } = failure.rejected();
                let detail = format!(
                    "{detail}; its points lie in {chunks} chunks, for whose locks a transaction has no room: send less time \
                     in a message, or raise the server's max_locks_per_transaction"
                );
                Oversized { number, rejected: Rejected { reason, detail } }
            })
            .collect();
        oversized.reverse();
        oversized
    }

    /// The number of chunks in which the points of each message lie, by the configured interval.
    fn chunk_counts(&self, batch: &Batch) -> Vec<usize> {
        let mut counts = vec![0; batch.message_count()];
        let (mut last, mut chunks) = (None, HashSet::new());
        for point in 0..batch.points().len() {
            let Some(message) = batch.message_of_point(point) else { continue };
            if last.replace(message) != Some(message) {
                chunks.clear();
            }
            if chunks.insert(batch.points().time_of(point).div_euclid(self.chunk_us)) {
                counts[message] += 1;
            }
        }
        counts
    }
}
