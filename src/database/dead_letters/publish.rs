//! Reads the dead letters whose copies are to be published, and marks those that were.

use super::{LetterToPublish, StoredMessage};
use crate::database::connection::step::Step;
use crate::database::error::Error;
use crate::database::{Database, NO_TIME};

impl Database {
    /// Passes the first dead letters after this id whose copies are to be published to `publish`, if there are any, and marks
    /// those that it returns as published.
    ///
    /// # Errors
    /// If the database does not answer; copies may then be published twice.
    pub async fn publish_letters(
        &self,
        after: i64,
        limit: i32,
        publish: impl AsyncFnOnce(Vec<LetterToPublish>) -> Vec<i64>,
    ) -> Result<(), Error> {
        let mut session = self.session().await?;
        session.begin().await?;
        let rows = session
            .query(
                Step::Other("read dead letters to publish"),
                "select * from ingest_dead_letters_to_publish($1, $2, $3)",
                &[&self.pipeline.as_ref(), &after, &limit],
            )
            .await?;
        let letters: Vec<LetterToPublish> = rows
            .iter()
            .map(|row| LetterToPublish {
                cluster_id: row.get(1),
                topic: row.get(2),
                topic_id: row.get(3),
                message: StoredMessage {
                    id: row.get(0),
                    partition: row.get(4),
                    offset: row.get(5),
                    time_ms: row.get::<_, Option<i64>>(6).filter(|time| *time != NO_TIME),
                    key: row.get(7),
                    key_bytes: row.get(13),
                    headers: row.get(8),
                    headers_bytes: row.get(14),
                    payload: row.get(9),
                    payload_bytes: row.get(10),
                    reason: row.get(11),
                    detail: row.get::<_, Option<String>>(12).unwrap_or_default(),
                },
            })
            .collect();
        let done = if letters.is_empty() { Vec::new() } else { publish(letters).await };
        if !done.is_empty() {
            session
                .query(Step::Other("mark published letters"), "select ingest_mark_dead_letters_published($1)", &[&done])
                .await?;
        }
        session.commit().await
    }
}
