//! Copies of dead letters for a topic, published from their rows: a worker that ends before the broker has a copy loses none,
//! and no writer waits for it. A copy may be duplicated, and is never missing while its row exists.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::{debug, error, info, warn};

use crate::config::Config;
use crate::database::dead_letters::LetterToPublish;
use crate::database::{Database, Error};
use crate::kafka::dead_letter_topic::{DeadLetterTopic, Letter, Published};
use crate::kafka::message_fetcher::MessageFetcher;
use crate::kafka::partition::TopicPartition;
use crate::message::Reason;
use crate::raw::Kind;
use crate::raw::{Source, headers};
use crate::telemetry::health::Health;
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics;

/// Maximum number of letters that are published together, and held in memory.
const PAGE: i32 = 50;
/// Timeout for reading the letters of a page from Kafka, because their rows are locked meanwhile; the rest follows with the
/// next page. A partition that returns nothing for this long is silent.
const PAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval between checks of the rows without a notification: for letters that failed, and for those of a worker that has
/// ended.
const ROUND_INTERVAL: Duration = Duration::from_secs(5);

/// The result of an attempt, as the metric's label.
const DELIVERED: &str = "delivered";
const FAILED: &str = "failed";
const REFUSED: &str = "refused";

/// Publishes alongside the pipeline, and ends with it.
pub(in crate::pipeline) struct CopyPublisher {
    wake: Arc<Notify>,
    task: JoinHandle<()>,
}

impl CopyPublisher {
    /// Starts publishing to the configured topic.
    ///
    /// # Errors
    /// If librdkafka refuses a property.
    pub(in crate::pipeline) fn start(
        config: &Config,
        database: Database,
        health: Arc<Health>,
    ) -> Result<Self, crate::kafka::Error> {
        let wake = Arc::new(Notify::new());
        let copies = Copies {
            topic: DeadLetterTopic::new(&config.kafka, &config.pipeline)?,
            fetcher: MessageFetcher::new(&config.kafka)?,
            silent: Mutex::default(),
            log: LogLimit::default(),
        };
        for outcome in [DELIVERED, FAILED, REFUSED] {
            metrics::dead_letters_published(outcome, 0);
        }
        let topic = config.kafka.dead_letter_topic.clone();
        health.set_copies_problem(&topic, None);
        let report = move |problem| health.set_copies_problem(&topic, problem);
        let task = tokio::spawn(publish(database, Arc::new(copies), Arc::clone(&wake), report));
        Ok(Self { wake, task })
    }

    /// Reports new dead letters.
    pub(in crate::pipeline) fn wake(&self) {
        self.wake.notify_one();
    }
}

impl Drop for CopyPublisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Copies {
    topic: DeadLetterTopic,
    fetcher: MessageFetcher,
    silent: Mutex<SilentPartitions>,
    log: LogLimit,
}

/// The state of a topic that takes no copies, in the log.
const NOT_PUBLISHED: &str = "dead-letter-copies";

/// Partitions that did not answer in time, with the last letter that waited for each. In each round one letter waits for a
/// partition, the next one each time, so that a letter that is itself the cause does not block the others.
#[derive(Default)]
struct SilentPartitions(HashMap<TopicPartition, Waited>);

struct Waited {
    letter: i64,
    in_this_round: bool,
    failure: String,
}

impl SilentPartitions {
    /// Returns the reason why a letter is skipped in this round.
    fn why(&self, partition: &TopicPartition, letter: i64) -> Option<&str> {
        let waited = self.0.get(partition)?;
        (waited.in_this_round || letter <= waited.letter).then_some(waited.failure.as_str())
    }

    fn insert(&mut self, partition: TopicPartition, letter: i64, failure: String) {
        self.0.insert(partition, Waited { letter, in_this_round: true, failure });
    }

    /// Restarts partitions that no letter has waited for in this round with their oldest letter.
    fn end_round(&mut self) {
        self.0.retain(|_, waited| std::mem::take(&mut waited.in_this_round));
    }
}

/// The result of publishing a page of letters.
#[derive(Default)]
struct Page {
    /// Letters that need no further attempt.
    done: Vec<i64>,
    /// Number of letters to retry.
    left: usize,
    /// The reason.
    problem: Option<String>,
    /// The letter after which the next page begins; `None` if this was the last page, or the topic accepted none of its copies.
    next: Option<i64>,
}

async fn publish(database: Database, copies: Arc<Copies>, wake: Arc<Notify>, report: impl Fn(Option<String>)) {
    loop {
        let round = publish_all(&database, &copies, &report).await;
        copies.silent().end_round();
        match round {
            Ok(Some(_)) => {
                tokio::time::sleep(ROUND_INTERVAL).await;
                continue;
            }
            Ok(None) => {}
            // The database reports its outages itself; this only waits.
            Err(failure) => debug!(%failure, "dead letters are not published now"),
        }
        drop(tokio::time::timeout(ROUND_INTERVAL, wake.notified()).await);
    }
}

/// Publishes all letters, oldest first, and skips those that cannot be read from Kafka now. Returns why some are left.
async fn publish_all(
    database: &Database,
    copies: &Arc<Copies>,
    report: &impl Fn(Option<String>),
) -> Result<Option<String>, Error> {
    let (mut after, mut left, mut problem) = (0, 0, None);
    loop {
        let mut page = Page::default();
        let published = database.publish_letters(after, PAGE, async |letters| {
            let copies = Arc::clone(copies);
            page = tokio::task::spawn_blocking(move || copies.publish(letters)).await.unwrap_or_else(|failure| {
                error!(%failure, "publishing dead letters ended by an internal error");
                Page { problem: Some(failure.to_string()), ..Page::default() }
            });
            std::mem::take(&mut page.done)
        });
        let published = published.await;
        left += page.left;
        problem = problem.or(page.problem);
        if problem.is_some() {
            report(problem.clone());
        }
        published?;
        let Some(next) = page.next else { break };
        after = next;
    }
    match &problem {
        Some(problem) => {
            if let Some(repeated) = copies.log.lasts(NOT_PUBLISHED, problem) {
                let (seconds, unlogged) = (repeated.seconds, repeated.unlogged);
                warn!(
                    copies = left,
                    problem, seconds, unlogged, "copies of dead letters were not published; trying again"
                );
            }
        }
        None => {
            if let Some(ended) = copies.log.ends(NOT_PUBLISHED) {
                info!(seconds = ended.seconds, "copies of dead letters are published again");
            }
            report(None);
        }
    }
    Ok(problem)
}

impl Copies {
    /// Publishes letters in the order of their ids.
    fn publish(&self, letters: Vec<LetterToPublish>) -> Page {
        let count = letters.len();
        let (mut ids, mut whole) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let (mut seen, mut last, mut unread) = (0, None, None);
        let began = Instant::now();
        for letter in letters {
            if began.elapsed() >= PAGE_TIMEOUT {
                break;
            }
            let id = letter.message.id;
            (seen, last) = (seen + 1, Some(id));
            match self.complete(letter) {
                Ok(letter) => {
                    ids.push(id);
                    whole.push(letter);
                }
                Err(failure) => drop(unread.get_or_insert(failure)),
            }
        }
        let (outcomes, why) = self.topic.publish(&whole);
        let count_of = |outcome| outcomes.iter().filter(|one| **one == outcome).count() as u64;
        metrics::dead_letters_published(DELIVERED, count_of(Published::Delivered));
        metrics::dead_letters_published(FAILED, count_of(Published::Failed));
        metrics::dead_letters_published(REFUSED, count_of(Published::Refused));
        if count_of(Published::Refused) > 0
            && let Some(unlogged) = self.log.happened("copies-refused", count_of(Published::Refused))
        {
            error!(
                copies = count_of(Published::Refused),
                unlogged,
                "the dead-letter topic refuses copies, most often as too large; their rows in the database stay"
            );
        }
        let done: Vec<i64> = ids
            .iter()
            .zip(&outcomes)
            .filter(|(_, outcome)| **outcome != Published::Failed)
            .map(|(id, _)| *id)
            .collect();
        let is_last = seen == count && count < PAGE as usize;
        Page {
            left: seen - done.len(),
            next: last.filter(|_| !is_last && (why.is_none() || !done.is_empty())),
            done,
            problem: why.or(unread),
        }
    }

    fn silent(&self) -> MutexGuard<'_, SilentPartitions> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Completes a letter with its whole message, if Kafka still has it.
    ///
    /// # Errors
    /// If Kafka does not answer, with the reason.
    fn complete(&self, letter: LetterToPublish) -> Result<Letter, String> {
        let LetterToPublish { message, cluster_id, topic, topic_id } = letter;
        let cut_from = message.cut().into_iter().map(|cut| (cut.part, cut.bytes)).collect();
        let id = message.id;
        let mut copy = Letter {
            partition: message.partition,
            offset: message.offset,
            time_ms: message.time_ms,
            key: message.key,
            headers: owned(message.headers.as_deref()),
            payload: message.payload,
            cut_from,
            undecodable: ![Reason::UnknownSeries, Reason::RejectedByDatabase]
                .iter()
                .any(|reason| reason.as_str() == message.reason),
            reason: message.reason,
            detail: message.detail,
            topic,
        };
        if !copy.cut_from.is_empty() {
            let partition = TopicPartition::new(copy.topic.clone(), copy.partition);
            let silent = self.silent().why(&partition, id).map(str::to_owned);
            let read = match silent {
                Some(failure) => Err(failure),
                None => {
                    // The kind of its messages does not matter here.
                    let source = Source { kind: Kind::Points, cluster_id, topic: copy.topic.clone(), topic_id };
                    let began = Instant::now();
                    let read = self.fetcher.read(&source, copy.partition, copy.offset);
                    let read = read.map_err(|failure| failure.to_string());
                    // Also if it was deleted with its topic, which Kafka reports late.
                    if !matches!(read, Ok(Some(_))) && began.elapsed() >= PAGE_TIMEOUT {
                        let failure =
                            read.as_ref().err().map_or("another one of its partition was waited for", String::as_str);
                        self.silent().insert(partition, id, failure.to_owned());
                    }
                    read
                }
            };
            match read {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_silent_partition_each_round_waits_for_one_letter_and_each_letter_gets_its_turn() {
        let partitions = [0, 1].map(|number| TopicPartition::new("t", number));
        let mut silent = SilentPartitions::default();
        let mut rounds = Vec::new();
        for _ in 0..5 {
            let mut tried = Vec::new();
            for letter in 1..=6 {
                let partition = &partitions[letter as usize % 2];
                if silent.why(partition, letter).is_none() {
                    tried.push(letter);
                    // The other one answers.
                    if partition.number == 1 {
                        silent.insert(partition.clone(), letter, String::new());
                    }
                }
            }
            rounds.push(tried);
            silent.end_round();
        }
        assert_eq!(rounds, [vec![1, 2, 4, 6], vec![2, 3, 4, 6], vec![2, 4, 5, 6], vec![2, 4, 6], vec![1, 2, 4, 6]]);
    }
}
