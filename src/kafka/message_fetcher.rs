//! Reads a single message again, by its offset: for a dead letter whose row is truncated. All calls block:
//! call them where blocking is allowed.

use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use super::auth::AuthContext;
use super::headers;
use super::lookup::{Lookup, TIMEOUT};
use super::settings;
use crate::config::Kafka;
use crate::raw::Source;

/// A message as Kafka has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FullMessage {
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The headers, in the form of [`headers`](crate::raw::headers).
    pub headers: Option<Vec<u8>>,
    /// The payload.
    pub payload: Option<Vec<u8>>,
}

/// Reads messages again.
pub struct MessageFetcher {
    /// Destroying a consumer waits for its brokers without a limit; its owner needs it until the process ends.
    consumer: ManuallyDrop<BaseConsumer<AuthContext>>,
    lookup: Lookup,
}

impl std::fmt::Debug for MessageFetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MessageFetcher").finish_non_exhaustive()
    }
}

impl MessageFetcher {
    /// A reader for the configured brokers; it connects at the first request.
    ///
    /// # Errors
    /// If librdkafka refuses a property.
    pub fn new(kafka: &Kafka) -> Result<Self, KafkaError> {
        let mut properties = settings::consumer(kafka);
        // Only one message is needed at a time.
        properties.set("enable.partition.eof", "true");
        properties.set("queued.max.messages.kbytes", "2048");
        properties.set("fetch.max.bytes", (2 * 1024 * 1024).to_string());
        let consumer = properties.create_with_context(AuthContext::new(kafka)).map_err(settings::without_value)?;
        Ok(Self { consumer: ManuallyDrop::new(consumer), lookup: Lookup::new(kafka)? })
    }

    /// The message at an offset; `None` if Kafka no longer has it, or the topic was recreated.
    ///
    /// # Errors
    /// If the brokers do not answer.
    pub fn read(&self, source: &Source, partition: i32, offset: i64) -> Result<Option<FullMessage>, KafkaError> {
        if source.topic_id.is_empty() {
            return Ok(None);
        }
        let cluster_id = self.lookup.cluster_id().ok_or(KafkaError::MetadataFetch(Code::OperationTimedOut))?;
        if cluster_id != source.cluster_id {
            return Ok(None);
        }
        self.consumer.context().renew(self.consumer.client());
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&source.topic, partition, Offset::Offset(offset))?;
        self.consumer.assign(&list)?;
        let message = self.poll(offset);
        self.consumer.unassign()?;
        // Ids are not reused: a topic that has its id after the message was read had it when it was read.
        if self.lookup.topic_ids(&[&source.topic])?.get(&source.topic) != Some(&source.topic_id) {
            return Ok(None);
        }
        message
    }

    fn poll(&self, offset: i64) -> Result<Option<FullMessage>, KafkaError> {
        let deadline = Instant::now() + TIMEOUT;
        while Instant::now() < deadline {
            match self.consumer.poll(Duration::from_millis(100)) {
                None => {}
                Some(Ok(message)) if message.offset() == offset => {
                    return Ok(Some(FullMessage {
                        key: message.key().map(<[u8]>::to_vec),
                        headers: headers::encode_of(&message),
                        payload: message.payload().map(<[u8]>::to_vec),
                    }));
                }
                // It no longer exists: the offset is below or above the log, or has no message any more.
                Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => return Ok(None),
                Some(Err(error)) if is_gone(&error) => return Ok(None),
                Some(Err(error)) => return Err(error),
            }
        }
        Err(KafkaError::MessageConsumption(Code::OperationTimedOut))
    }
}

/// Returns `true` if the log does not contain the offset. A missing topic says nothing about its messages: a broker that has
/// just started does not know its topics yet.
fn is_gone(error: &KafkaError) -> bool {
    matches!(error.rdkafka_error_code(), Some(Code::AutoOffsetReset | Code::OffsetOutOfRange))
}
