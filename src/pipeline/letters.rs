//! Copies of dead letters for a topic, published from their rows: so a worker that ends before the broker has a copy loses none,
//! and no writer waits for it. A copy may be there twice, never not at all, while its row is there.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::{debug, error, warn};

use crate::batch::{Source, headers};
use crate::config::Config;
use crate::database::Database;
use crate::database::dead_letters::LetterToPublish;
use crate::kafka::dead_letter_topic::{DeadLetterTopic, Letter, Published};
use crate::kafka::reread::Rereader;
use crate::message::{Kind, Reason};
use crate::telemetry::metrics;

/// How many are published together, and so held in memory.
const PAGE: i32 = 50;
/// How often the rows are looked at where nothing wakes it: for what failed, and for what a worker left that has ended.
const INTERVAL: Duration = Duration::from_secs(5);

/// The publishing beside the pipeline; it ends with it.
pub(super) struct Publishing {
    wake: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Publishing {
    /// Starts publishing to the configured topic.
    ///
    /// # Errors
    /// Where librdkafka refuses a property.
    pub(super) fn start(config: &Config, database: Database) -> Result<Self, crate::kafka::Error> {
        let wake = Arc::new(Notify::new());
        let copies = Copies {
            topic: DeadLetterTopic::new(&config.kafka, &config.pipeline)?,
            rereader: Rereader::new(&config.kafka)?,
        };
        let task = tokio::spawn(publish(database, Arc::new(copies), Arc::clone(&wake)));
        Ok(Self { wake, task })
    }

    /// There are new dead letters.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Copies {
    topic: DeadLetterTopic,
    rereader: Rereader,
}

async fn publish(database: Database, copies: Arc<Copies>, wake: Arc<Notify>) {
    loop {
        // It tells of its outages itself; here they are waited out.
        let mut failed = false;
        let page = database.publish_letters(PAGE, async |letters| {
            let copies = Arc::clone(&copies);
            let done = tokio::task::spawn_blocking(move || copies.publish(letters)).await;
            let (done, all) = done.unwrap_or_else(|failure| {
                error!(%failure, "publishing dead letters ended by a fault of ours");
                (Vec::new(), false)
            });
            failed = !all;
            done
        });
        match page.await {
            Ok(count) if count == PAGE as usize && !failed => continue,
            Ok(_) => {}
            Err(failure) => debug!(%failure, "dead letters are not published now"),
        }
        if failed {
            tokio::time::sleep(INTERVAL).await;
        } else {
            drop(tokio::time::timeout(INTERVAL, wake.notified()).await);
        }
    }
}

impl Copies {
    /// Publishes letters; the ids of those that are done with, and whether all are.
    fn publish(&self, letters: Vec<LetterToPublish>) -> (Vec<i64>, bool) {
        let ids: Vec<i64> = letters.iter().map(|letter| letter.id).collect();
        let mut whole = Vec::with_capacity(letters.len());
        for letter in letters {
            match self.whole(letter) {
                Some(letter) => whole.push(letter),
                // Those behind it are tried again with it.
                None => break,
            }
        }
        let outcomes = self.topic.publish(&whole);
        let count = |outcome| outcomes.iter().filter(|one| **one == outcome).count() as u64;
        metrics::dead_letters_published("delivered", count(Published::Delivered));
        metrics::dead_letters_published("failed", count(Published::Failed));
        metrics::dead_letters_published("refused", count(Published::Refused));
        if count(Published::Refused) > 0 {
            error!(
                copies = count(Published::Refused),
                "the dead-letter topic refuses copies, most often as too large; \
                                                        their rows in the database stay"
            );
        }
        if count(Published::Failed) > 0 {
            warn!(copies = count(Published::Failed), "copies of dead letters were not published; trying again");
        }
        let done: Vec<i64> = ids
            .iter()
            .zip(&outcomes)
            .filter(|(_, outcome)| **outcome != Published::Failed)
            .map(|(id, _)| *id)
            .collect();
        let all = done.len() == ids.len();
        (done, all)
    }

    /// The letter with its whole payload, as far as Kafka still has it; `None` where Kafka does not answer.
    fn whole(&self, letter: LetterToPublish) -> Option<Letter> {
        let (cluster_id, topic, topic_id) = letter.source;
        let has = letter.payload.as_ref().map_or(0, |payload| payload.len() as i64);
        let mut copy = Letter {
            partition: letter.partition,
            offset: letter.offset,
            time_ms: letter.time_ms,
            key: letter.key,
            headers: owned(letter.headers.as_deref()),
            payload: letter.payload,
            cut_from: (has < letter.payload_bytes).then_some(letter.payload_bytes),
            undecodable: ![Reason::UnknownSeries, Reason::RejectedByDatabase]
                .iter()
                .any(|reason| reason.as_str() == letter.reason),
            reason: letter.reason,
            detail: letter.detail,
            topic,
        };
        if copy.cut_from.is_some() {
            // What its messages are is not asked here.
            let source = Source { kind: Kind::Points, cluster_id, topic: copy.topic.clone(), topic_id };
            match self.rereader.read(&source, copy.partition, copy.offset) {
                Ok(Some(whole)) => {
                    copy.key = whole.key;
                    copy.headers = owned(whole.headers.as_deref());
                    copy.payload = whole.payload;
                    copy.cut_from = None;
                }
                Ok(None) => {}
                Err(failure) => {
                    warn!(%failure, copy.topic, copy.partition, copy.offset, "a dead letter cannot be read from Kafka now");
                    return None;
                }
            }
        }
        Some(copy)
    }
}

fn owned(encoded: Option<&[u8]>) -> Vec<(String, Option<Vec<u8>>)> {
    headers::decode(encoded.unwrap_or_default())
        .into_iter()
        .map(|(name, value)| (name, value.map(<[u8]>::to_vec)))
        .collect()
}
