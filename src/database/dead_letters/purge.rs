//! Deletes dead letters and resets their counts.

use uuid::Uuid;

use super::{LetterFilter, LetterId};
use crate::database::Database;
use crate::database::connection::step::Step;
use crate::database::error::Error;

impl Database {
    /// Deletes dead letters; returns how many of them existed.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn purge_letters(&self, letters: &[LetterId]) -> Result<u64, Error> {
        let ids: Vec<i64> = letters.iter().map(|letter| letter.id).collect();
        let keys: Vec<Uuid> = letters.iter().map(|letter| letter.source_key).collect();
        let partitions: Vec<i32> = letters.iter().map(|letter| letter.partition).collect();
        let offsets: Vec<i64> = letters.iter().map(|letter| letter.offset).collect();
        // Another database may have another letter under the same id.
        let sql = "delete from ingest_dead_letter as letter
                   using unnest($1::bigint[], $2::uuid[], $3::integer[], $4::bigint[])
                       as known (id, source_key, partition, \"offset\")
                   join ingest_source as source on source.key = known.source_key
                   where letter.id = known.id and letter.source_id = source.id
                       and (letter.partition, letter.\"offset\") = (known.partition, known.\"offset\")
                   returning letter.id";
        let rows = self
            .session()
            .await?
            .query(Step::Other("remove dead letters"), sql, &[&ids, &keys, &partitions, &offsets])
            .await?;
        Ok(rows.len() as u64)
    }

    /// Resets the numbers of dead letters that were only counted, and returns their sum.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn purge_letter_counts(&self, filter: &LetterFilter) -> Result<u64, Error> {
        let rows = self
            .session()
            .await?
            .query(
                Step::Other("forget counts of dead letters"),
                "with chosen as (
                     select known.source_id, known.partition, known.reason, known.only_counted
                     from ingest_dead_letter_count as known join ingest_source as source on source.id = known.source_id
                     where source.pipeline = $1 and known.only_counted > 0
                         and ($2::text is null or known.reason = $2) and ($3::text is null or source.topic = $3)
                         and ($4::integer is null or known.partition = $4)
                     order by 1, 2, 3 for update of known
                 ), forgotten as (
                     update ingest_dead_letter_count as known
                     set only_counted = 0, first_offset = null, last_offset = null
                     from chosen where (known.source_id, known.partition, known.reason)
                         = (chosen.source_id, chosen.partition, chosen.reason)
                 )
                 select coalesce(sum(only_counted), 0)::bigint from chosen",
                &[&self.pipeline.as_ref(), &filter.reason, &filter.topic, &filter.partition],
            )
            .await?;
        Ok(rows.first().map_or(0, |row| row.get::<_, i64>(0).unsigned_abs()))
    }
}
