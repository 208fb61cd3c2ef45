//! A pipeline that moves to another cluster: its topics there are new sources, which continue where the old ones ended.

use std::sync::Arc;

use crate::database::connection::step::Step;
use crate::database::{Database, Error};
use crate::raw::{FILE_CLUSTER, Source};

/// Progress that the pipeline has of a topic of the same name in another cluster.
#[derive(Debug, Clone)]
pub struct Elsewhere {
    /// The partition's number.
    pub partition: i32,
    /// The other cluster's id.
    pub cluster_id: String,
    /// The number of the source there, as `progress show` prints it.
    pub source_id: i32,
    /// Every offset below it is applied there.
    pub next_offset: i64,
    /// The islands that are applied above it, as the server prints them.
    pub ahead: String,
}

impl Database {
    /// Returns those of these partitions of `source` that have no progress in the source's cluster, but have some under the
    /// topic's name in another one; a file that was imported is none. Of several other clusters it is the one that was written
    /// last.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn progress_elsewhere(&self, source: &Arc<Source>, partitions: &[i32]) -> Result<Vec<Elsewhere>, Error> {
        let work = async {
            let mut session = self.session().await?;
            session
                .query(
                    Step::Other("look for progress in other clusters"),
                    "select distinct on (there.partition)
                         there.partition, source.cluster_id, source.id, there.next_offset, there.ahead::text
                     from ingest_progress as there join ingest_source as source on source.id = there.source_id
                     where source.pipeline = $1 and source.topic = $2 and source.cluster_id <> $3
                         and source.cluster_id <> $5
                         and there.partition = any ($4::integer[])
                         and (there.next_offset > 0 or there.ahead <> '{}')
                         and not exists (
                             select from ingest_progress as here join ingest_source as known on known.id = here.source_id
                             where known.pipeline = $1 and known.topic = $2 and known.cluster_id = $3
                                 and here.partition = there.partition)
                     order by there.partition, there.updated_at desc",
                    &[&self.pipeline.as_ref(), &source.topic, &source.cluster_id, &partitions, &FILE_CLUSTER],
                )
                .await
        };
        let rows = self.recorded(work.await)?;
        let elsewhere = |row: &tokio_postgres::Row| Elsewhere {
            partition: row.get(0),
            cluster_id: row.get(1),
            source_id: row.get(2),
            next_offset: row.get(3),
            ahead: row.get(4),
        };
        Ok(rows.iter().map(elsewhere).collect())
    }
}
