//! Reading what one has written: waiting until the database has a message.
//!
//! A message's points and its partition's progress are written in one transaction, and are replicated as one. So a database
//! whose progress covers the message has its points.

use std::time::{Duration, Instant};

use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use crate::database::{self, Step, answered};
use crate::raw::FILE_CLUSTER;

/// Pause between two looks at the progress.
const PAUSE: Duration = Duration::from_millis(50);
const STEP: Step = Step::Other("look for the progress");

/// The partition's progress for the source of the topic that was written last: a topic that was recreated, or is in another
/// cluster now, has several.
const PROGRESS: &str = "
select progress.next_offset, progress.next_offset > $4 or progress.ahead @> $4::bigint
from (
    select id from ingest_source as source
    where pipeline = $1 and topic = $2 and cluster_id <> $5
    order by greatest(created_at, (select max(updated_at) from ingest_progress where source_id = source.id)) desc, id desc
    limit 1
) as source
join ingest_progress as progress on progress.source_id = source.id and progress.partition = $3";

/// A message that a read must see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FreshAsOf {
    /// The topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// The message's offset.
    pub offset: i64,
}

impl std::str::FromStr for FreshAsOf {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.rsplitn(3, ':');
        let offset = parts.next().and_then(|text| text.parse().ok()).filter(|offset: &i64| *offset >= 0);
        let partition = parts.next().and_then(|text| text.parse().ok()).filter(|partition: &i32| *partition >= 0);
        match (parts.next().filter(|topic| !topic.is_empty()), partition, offset) {
            (Some(topic), Some(partition), Some(offset)) => Ok(Self { topic: topic.to_owned(), partition, offset }),
            _ => Err("expected TOPIC:PARTITION:OFFSET, such as time-series.points:0:1234".to_owned()),
        }
    }
}

/// Waits until a database has all of these messages; returns what it lacks at the deadline, in words.
///
/// # Errors
/// If the server does not answer within `limit`.
pub(super) async fn wait(
    client: &Client,
    pipeline: &str,
    messages: &[FreshAsOf],
    deadline: Instant,
    limit: Duration,
) -> Result<Option<String>, database::Error> {
    #[cfg(feature = "planted-bugs")]
    if crate::planted_bugs::is_on("progress-is-not-waited-for") {
        return Ok(None);
    }
    for message in messages {
        loop {
            let lacking = match lacking(client, pipeline, message, limit).await? {
                None => break,
                Some(lacking) => lacking,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Some(lacking));
            }
            tokio::time::sleep(PAUSE.min(left)).await;
        }
    }
    Ok(None)
}

/// How far a database is from a message; `None` if it has it.
async fn lacking(
    client: &Client,
    pipeline: &str,
    message: &FreshAsOf,
    limit: Duration,
) -> Result<Option<String>, database::Error> {
    let FreshAsOf { topic, partition, offset } = message;
    let parameters: [&(dyn ToSql + Sync); 5] = [&pipeline, topic, partition, offset, &FILE_CLUSTER];
    let Some(row) = answered(STEP, limit, client.query_opt(PROGRESS, &parameters)).await? else {
        return Ok(Some(format!("the pipeline {pipeline:?} has no progress of {topic}:{partition} there")));
    };
    let next: i64 = row.get(0);
    Ok(if row.get(1) {
        None
    } else {
        let left = offset.saturating_sub(next).saturating_add(1);
        Some(format!("{topic}:{partition} is applied up to offset {next}, {left} before the end of message {offset}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_named_by_topic_partition_and_offset() {
        let message = |topic: &str, partition, offset| Ok(FreshAsOf { topic: topic.to_owned(), partition, offset });
        assert_eq!("a.b:0:12".parse(), message("a.b", 0, 12));
        assert_eq!("a:7:0".parse(), message("a", 7, 0));
        for wrong in ["", "a", "a:1", ":0:1", "a:-1:1", "a:0:-1", "a:0:1x", "a:99999999999:1"] {
            assert!(wrong.parse::<FreshAsOf>().is_err(), "{wrong}");
        }
    }
}
