//! Progress as `progress show` and `progress reset` use it.

use uuid::Uuid;

use crate::database::connection::step::Step;
use crate::database::{Database, Error};

/// How the server prints progress without islands.
pub const NO_ISLANDS: &str = "{}";

/// A partition's progress as `progress show` prints it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ProgressRow {
    /// The source's number, for display: another database may give it to another source.
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

impl Database {
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
                // Offsets that are read again are no longer a gap, or a journal would fill it once more.
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
}
