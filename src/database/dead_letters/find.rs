//! Finds and counts dead letters.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::Row;

use super::{Letter, LetterCount, LetterFilter, StoredMessage};
use crate::database::connection::step::Step;
use crate::database::error::Error;
use crate::database::progress::SourceId;
use crate::database::{Database, NO_TIME};
use crate::raw::{Kind, Source};

const FILTERED: &str = "
    from ingest_dead_letter as letter join ingest_source as source on source.id = letter.source_id
    where source.pipeline = $1 and letter.id > $2
        and (cardinality($3::bigint[]) = 0 or letter.id = any ($3))
        and ($4::text is null or letter.reason = $4)
        and ($5::text is null or source.topic = $5)
        and ($6::integer is null or letter.partition = $6)
        and ($7::bigint is null or letter.\"offset\" >= $7)
        and ($8::bigint is null or letter.\"offset\" < $8)
        and ($9::bigint is null or letter.message_time >= to_timestamp($9 / 1000.0))
        and ($10::bigint is null or letter.message_time < to_timestamp($10 / 1000.0))
        and ($11::bigint is null or letter.created_at >= to_timestamp($11 / 1000.0))
        and ($12::bigint is null or letter.created_at < to_timestamp($12 / 1000.0))
        and ($13::integer is null or letter.attempts >= $13)
        and ($14::integer is null or letter.attempts < $14)";

impl Database {
    async fn filtered(
        &self,
        step: Step,
        what: &str,
        filter: &LetterFilter,
        above: i64,
        end: &str,
    ) -> Result<Vec<Row>, Error> {
        self.session()
            .await?
            .query(
                step,
                &format!("select {what} {FILTERED} {end}"),
                &[
                    &self.pipeline.as_ref(),
                    &above,
                    &filter.ids,
                    &filter.reason,
                    &filter.topic,
                    &filter.partition,
                    &filter.from_offset,
                    &filter.until_offset,
                    &filter.from_ms,
                    &filter.until_ms,
                    &filter.created_from_ms,
                    &filter.created_until_ms,
                    &filter.from_attempts,
                    &filter.until_attempts,
                ],
            )
            .await
    }

    /// Returns the next dead letters above an id, in the order of their ids. `kind_of` returns the kind of a topic's messages,
    /// for those that do not name it.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn letters(
        &self,
        filter: &LetterFilter,
        above: i64,
        limit: usize,
        kind_of: impl Fn(&str) -> Kind,
    ) -> Result<Vec<Letter>, Error> {
        let what = "letter.id, letter.source_id, source.cluster_id, source.topic, source.topic_id, letter.partition,
                    letter.\"offset\", (extract(epoch from letter.message_time) * 1000)::bigint, letter.key,
                    letter.headers, letter.payload, letter.payload_bytes, letter.reason, coalesce(letter.detail, ''),
                    (extract(epoch from letter.created_at) * 1000)::bigint, letter.attempts,
                    (extract(epoch from letter.attempted_at) * 1000)::bigint, letter.is_sample,
                    letter.xmin::text::bigint, letter.key_bytes, letter.headers_bytes, source.key";
        let rows = self
            .filtered(
                Step::Other("read dead letters"),
                what,
                filter,
                above,
                &format!("order by letter.id limit {limit}"),
            )
            .await?;
        let mut sources: HashMap<i32, Arc<Source>> = HashMap::new();
        Ok(rows
            .iter()
            .map(|row| {
                let source_id = SourceId { number: row.get(1), key: row.get(21) };
                let source = sources.entry(source_id.number).or_insert_with(|| {
                    let topic: String = row.get(3);
                    Arc::new(Source { kind: kind_of(&topic), cluster_id: row.get(2), topic, topic_id: row.get(4) })
                });
                let message = StoredMessage {
                    id: row.get(0),
                    partition: row.get(5),
                    offset: row.get(6),
                    time_ms: row.get::<_, Option<i64>>(7).filter(|time| *time != NO_TIME),
                    key: row.get(8),
                    key_bytes: row.get(19),
                    headers: row.get(9),
                    headers_bytes: row.get(20),
                    payload: row.get(10),
                    payload_bytes: row.get(11),
                    reason: row.get(12),
                    detail: row.get(13),
                };
                Letter {
                    message,
                    source: Arc::clone(source),
                    created_ms: row.get(14),
                    attempts: row.get(15),
                    attempted_ms: row.get(16),
                    is_sample: row.get(17),
                    source_id,
                    version: row.get(18),
                }
            })
            .collect())
    }

    /// Returns the number of dead letters.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn count_letters(&self, filter: &LetterFilter) -> Result<u64, Error> {
        let rows = self.filtered(Step::Other("count dead letters"), "count(*)", filter, i64::MIN, "").await?;
        Ok(rows.first().map_or(0, |row| row.get::<_, i64>(0).unsigned_abs()))
    }

    /// Returns the numbers of dead letters of each partition and reason of the pipeline.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn letter_counts(&self) -> Result<Vec<LetterCount>, Error> {
        let rows = self
            .session()
            .await?
            .query(
                Step::Other("read the counts of dead letters"),
                "select source.topic, known.partition, known.reason, known.kept, known.only_counted,
                        known.first_offset, known.last_offset, known.redriven
                 from ingest_dead_letter_count as known join ingest_source as source on source.id = known.source_id
                 where source.pipeline = $1
                 order by source.topic, source.id, known.partition, known.reason",
                &[&self.pipeline.as_ref()],
            )
            .await?;
        Ok(rows
            .iter()
            .map(|row| LetterCount {
                topic: row.get(0),
                partition: row.get(1),
                reason: row.get(2),
                kept: row.get(3),
                only_counted: row.get(4),
                counted_between: row.get::<_, Option<i64>>(5).zip(row.get(6)),
                redriven: row.get(7),
            })
            .collect())
    }
}
