//! Publishing messages: for the demo and the benchmark.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};

use super::auth::AuthContext;
use super::settings;
use crate::config::Kafka;

/// Timeout for a full queue, or a final flush.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Publishes without waiting for each message.
pub struct Publisher {
    producer: ThreadedProducer<AuthContext>,
    admin: AdminClient<DefaultClientContext>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}

impl Publisher {
    /// A publisher for these brokers. It is idempotent: its own retries publish no duplicates.
    ///
    /// # Errors
    /// If librdkafka refuses a property.
    pub fn new(kafka: &Kafka) -> KafkaResult<Self> {
        let client = settings::client(kafka);
        let mut properties = client.clone();
        properties.set("enable.idempotence", "true");
        properties.set("linger.ms", "20");
        properties.set("compression.type", "lz4");
        properties.set("queue.buffering.max.kbytes", "65536");
        Ok(Self {
            producer: properties.create_with_context(AuthContext::new(kafka)).map_err(settings::without_value)?,
            admin: client.create().map_err(settings::without_value)?,
        })
    }

    /// Creates topics, each with its number of partitions.
    ///
    /// # Errors
    /// If the broker does not answer, or refuses.
    pub async fn create_topics(&self, topics: &[(&str, i32)]) -> KafkaResult<()> {
        let new: Vec<NewTopic<'_>> = topics
            .iter()
            .map(|(name, partitions)| NewTopic::new(name, *partitions, TopicReplication::Fixed(1)))
            .collect();
        let options = AdminOptions::new().operation_timeout(Some(TIMEOUT));
        for result in self.admin.create_topics(&new, &options).await? {
            result.map_err(|(_, code)| KafkaError::AdminOp(code))?;
        }
        Ok(())
    }

    /// Deletes topics.
    ///
    /// # Errors
    /// If the broker does not answer, or refuses.
    pub async fn delete_topics(&self, topics: &[&str]) -> KafkaResult<()> {
        let options = AdminOptions::new().operation_timeout(Some(TIMEOUT));
        for result in self.admin.delete_topics(topics, &options).await? {
            match result {
                // It was never created, because the program was interrupted before.
                Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
                Err((_, code)) => return Err(KafkaError::AdminOp(code)),
            }
        }
        Ok(())
    }

    /// Publishes one message; waits if the queue is full. Blocks.
    ///
    /// # Errors
    /// If librdkafka refuses the message.
    pub fn send(&self, topic: &str, partition: Option<i32>, key: &str, payload: &[u8]) -> KafkaResult<()> {
        let mut record = BaseRecord::to(topic).key(key).payload(payload);
        if let Some(partition) = partition {
            record = record.partition(partition);
        }
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    /// Waits until the broker has all messages. Blocks.
    ///
    /// # Errors
    /// If it does not have them within a minute.
    pub fn flush(&self) -> KafkaResult<()> {
        self.producer.flush(TIMEOUT)
    }
}
