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
use crate::telemetry::health::Health;
use crate::telemetry::metrics;

/// How many are published together, and so held in memory.
const PAGE: i32 = 50;
/// How often the rows are looked at where nothing wakes it: for what failed, and for what a worker left that has ended.
const INTERVAL: Duration = Duration::from_secs(5);

/// What becomes of an attempt, as the metric's label.
const DELIVERED: &str = "delivered";
const FAILED: &str = "failed";
const REFUSED: &str = "refused";

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
    pub(super) fn start(config: &Config, database: Database, health: Arc<Health>) -> Result<Self, crate::kafka::Error> {
        let wake = Arc::new(Notify::new());
        let copies = Copies {
            topic: DeadLetterTopic::new(&config.kafka, &config.pipeline)?,
            rereader: Rereader::new(&config.kafka)?,
        };
        for outcome in [DELIVERED, FAILED, REFUSED] {
            metrics::dead_letters_published(outcome, 0);
        }
        let topic = config.kafka.dead_letter_topic.clone();
        health.note_copies(&topic, None);
        let note = move |problem| health.note_copies(&topic, problem);
        let task = tokio::spawn(publish(database, Arc::new(copies), Arc::clone(&wake), note));
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

async fn publish(database: Database, copies: Arc<Copies>, wake: Arc<Notify>, note: impl Fn(Option<String>)) {
    loop {
        // It tells of its outages itself; here they are waited out.
        let mut problem = None;
        let page = database.publish_letters(PAGE, async |letters| {
            let copies = Arc::clone(&copies);
            let done = tokio::task::spawn_blocking(move || copies.publish(letters)).await;
            let (done, why) = done.unwrap_or_else(|failure| {
                error!(%failure, "publishing dead letters ended by a fault of ours");
                (Vec::new(), Some(failure.to_string()))
            });
            problem = why;
            done
        });
        let page = page.await;
        let failed = problem.is_some();
        if failed || page.is_ok() {
            note(problem);
        }
        match page {
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
    /// Publishes letters; the ids of those that are done with, and why not all are.
    fn publish(&self, letters: Vec<LetterToPublish>) -> (Vec<i64>, Option<String>) {
        let ids: Vec<i64> = letters.iter().map(|letter| letter.id).collect();
        let mut whole = Vec::with_capacity(letters.len());
        let mut unread = None;
        for letter in letters {
            match self.whole(letter) {
                Ok(letter) => whole.push(letter),
                // Those behind it are tried again with it.
                Err(failure) => {
                    unread = Some(failure);
                    break;
                }
            }
        }
        let (outcomes, why) = self.topic.publish(&whole);
        let count = |outcome| outcomes.iter().filter(|one| **one == outcome).count() as u64;
        metrics::dead_letters_published(DELIVERED, count(Published::Delivered));
        metrics::dead_letters_published(FAILED, count(Published::Failed));
        metrics::dead_letters_published(REFUSED, count(Published::Refused));
        if count(Published::Refused) > 0 {
            error!(
                copies = count(Published::Refused),
                "the dead-letter topic refuses copies, most often as too large; \
                                                        their rows in the database stay"
            );
        }
        let done: Vec<i64> = ids
            .iter()
            .zip(&outcomes)
            .filter(|(_, outcome)| **outcome != Published::Failed)
            .map(|(id, _)| *id)
            .collect();
        let problem = why.or(unread);
        if let Some(problem) = &problem {
            let copies = ids.len() - done.len();
            warn!(copies, problem, "copies of dead letters were not published; trying again");
        }
        (done, problem)
    }

    /// The letter with all of its message, as far as Kafka still has it.
    ///
    /// # Errors
    /// Where Kafka does not answer, in words.
    fn whole(&self, letter: LetterToPublish) -> Result<Letter, String> {
        let cut_from = letter.cut().into_iter().map(|cut| (cut.part, cut.bytes)).collect();
        let (cluster_id, topic, topic_id) = letter.source;
        let mut copy = Letter {
            partition: letter.partition,
            offset: letter.offset,
            time_ms: letter.time_ms,
            key: letter.key,
            headers: owned(letter.headers.as_deref()),
            payload: letter.payload,
            cut_from,
            undecodable: ![Reason::UnknownSeries, Reason::RejectedByDatabase]
                .iter()
                .any(|reason| reason.as_str() == letter.reason),
            reason: letter.reason,
            detail: letter.detail,
            topic,
        };
        if !copy.cut_from.is_empty() {
            // What its messages are is not asked here.
            let source = Source { kind: Kind::Points, cluster_id, topic: copy.topic.clone(), topic_id };
            match self.rereader.read(&source, copy.partition, copy.offset) {
                Ok(Some(whole)) => {
                    copy.key = whole.key;
                    copy.headers = owned(whole.headers.as_deref());
                    copy.payload = whole.payload;
                    copy.cut_from.clear();
                }
                Ok(None) => {}
                Err(failure) => {
                    let Letter { topic, partition, offset, .. } = copy;
                    return Err(format!(
                        "offset {offset} of {topic}/{partition} cannot be read from Kafka now: {failure}"
                    ));
                }
            }
        }
        Ok(copy)
    }
}

fn owned(encoded: Option<&[u8]>) -> Vec<(String, Option<Vec<u8>>)> {
    headers::decode(encoded.unwrap_or_default())
        .into_iter()
        .map(|(name, value)| (name, value.map(<[u8]>::to_vec)))
        .collect()
}
