//! librdkafka's callbacks. All of them run inside `poll`, on the consumer's thread: they record what happened and return, and
//! the thread handles it after the poll.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use tracing::{debug, error, warn};

use super::auth::{self, AuthContext};
use super::partition::TopicPartition;
use crate::telemetry::escaped;
use crate::telemetry::log_limit::LogLimit;

/// librdkafka's name of the log line about the end of the session in the group (rdkafka_cgrp.c).
const SESSION_ENDED: &str = "SESSTMOUT";

/// An event inside a poll.
#[derive(Debug)]
pub(super) enum Notice {
    Assigned(Vec<TopicPartition>),
    Revoked {
        partitions: Vec<TopicPartition>,
        /// The position at which the consumer left each of them that it was fetching.
        left_at: HashMap<TopicPartition, i64>,
        /// `true` if the membership in the group was lost with them.
        lost: bool,
    },
    /// The session in the group has ended, because its coordinator did not answer.
    SessionEnded,
    Committed,
}

#[derive(Debug)]
pub(super) struct Context {
    notices: Mutex<Vec<Notice>>,
    login: AuthContext,
    log: LogLimit,
}

impl Context {
    pub(super) fn new(login: AuthContext) -> Self {
        Self { notices: Mutex::default(), login, log: LogLimit::default() }
    }

    /// Passes the present user and password from their files to the consumer.
    pub(super) fn renew_credentials(&self, consumer: &BaseConsumer<Self>) {
        self.login.renew(consumer.client());
    }

    /// Returns the events since the last call, in order.
    pub(super) fn take_notices(&self) -> Vec<Notice> {
        std::mem::take(&mut *self.lock())
    }

    fn push(&self, notice: Notice) {
        self.lock().push(notice);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Notice>> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // librdkafka reports nothing else about a member without partitions.
        if facility == SESSION_ENDED {
            self.push(Notice::SessionEnded);
        }
        auth::log(&self.log, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(refusal) = self.login.record_error(&error, reason) {
            // Without the connection's state and the count of repetitions, which differ each time.
            let (_, what) = auth::broker_and_failure(reason);
            if let Some(repeated) = self.log.lasts("refusal", what) {
                let (seconds, unlogged) = (repeated.seconds, repeated.unlogged);
                warn!(refusal, seconds, unlogged, "Kafka does not let this client do its work");
            }
            return;
        }
        // These errors are also returned by the poll, but without the reason, which names the broker or the topic.
        match error.rdkafka_error_code() {
            // The end of a partition is not an error, and the poll's own event says more about a lost offset.
            None | Some(RDKafkaErrorCode::PartitionEOF | RDKafkaErrorCode::AutoOffsetReset) => {}
            Some(code) => {
                let (broker, what) = auth::broker_and_failure(reason);
                if let Some(repeated) = self.log.lasts(&format!("disturbed {broker}"), what) {
                    let (seconds, unlogged) = (repeated.seconds, repeated.unlogged);
                    warn!(%code, reason = %escaped(reason), seconds, unlogged, "reading from Kafka is disturbed");
                }
            }
        }
    }

    fn generate_oauth_token(&self, _config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.login.token()
    }
}

impl ConsumerContext for Context {
    /// Accepts the new partitions without fetching from them: their start offsets are not known yet, and requesting them here
    /// would block the poll. They are assigned when their offsets are known.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, what: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let named = partitions.elements().iter().map(|p| TopicPartition::new(p.topic(), p.partition())).collect();
        if what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.push(Notice::Assigned(named));
            log_failure("accept an assignment", consumer.incremental_assign(&TopicPartitionList::new()));
        } else {
            let (left_at, lost) = (positions(consumer), consumer.assignment_lost());
            let result = fetched_of(consumer, &named).and_then(|list| consumer.incremental_unassign(&list));
            self.push(Notice::Revoked { partitions: named, left_at, lost });
            log_failure("give partitions back", result);
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        self.push(Notice::Committed);
        match result.as_ref().map_err(KafkaError::rdkafka_error_code) {
            Ok(()) | Err(Some(RDKafkaErrorCode::NoOffset)) => {}
            // Offsets committed to Kafka are for lag tools: the start is read from the database.
            Err(_) => {
                debug!(error = result.err().map(|error| error.to_string()), "offsets were not committed to Kafka")
            }
        }
    }
}

/// Returns those of the partitions that the consumer fetches from; only these can be unassigned.
fn fetched_of(consumer: &BaseConsumer<Context>, named: &Vec<TopicPartition>) -> KafkaResult<TopicPartitionList> {
    let assignment = consumer.assignment()?;
    let mut list = TopicPartitionList::new();
    for TopicPartition { topic, number } in named {
        if assignment.find_partition(topic, *number).is_some() {
            list.add_partition_offset(topic, *number, Offset::Invalid)?;
        }
    }
    Ok(list)
}

/// Returns, for each partition that the consumer fetches from, the offset up to which everything was handed over or skipped. It
/// is exact only on the polling thread, which alone moves it.
pub(super) fn positions(consumer: &BaseConsumer<Context>) -> HashMap<TopicPartition, i64> {
    let list = match consumer.position() {
        Ok(list) => list,
        Err(error) => {
            debug!(%error, "the consumer's positions are not known");
            return HashMap::new();
        }
    };
    let offset = |offset| if let Offset::Offset(offset) = offset { Some(offset) } else { None };
    list.elements()
        .iter()
        .filter_map(|element| {
            Some((TopicPartition::new(element.topic(), element.partition()), offset(element.offset())?))
        })
        .collect()
}

pub(super) fn log_failure(action: &str, result: KafkaResult<()>) {
    if let Err(error) = result {
        error!(%error, action, "the consumer group's protocol failed at a step; the next rebalance repeats it");
    }
}
