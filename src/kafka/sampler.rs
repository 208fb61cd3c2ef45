//! The newest messages of a topic, read without a group: nothing is committed, and no other consumer notices. All calls block:
//! call them where blocking is allowed.

use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use super::auth::AuthContext;
use super::headers;
use super::lookup::{Lookup, TIMEOUT, is_missing_topic};
use super::partition::{LogRange, TopicPartition};
use super::settings;
use crate::config::Kafka;
use crate::input::inspect::Sample;

/// Reads at most `limit` of the newest messages of a topic, about as many from each partition; `None` if there is no such
/// topic. Offsets without a message, after compaction or in transactions, make the sample smaller.
///
/// # Errors
/// If the brokers do not answer, or librdkafka refuses a property.
pub fn sample(kafka: &Kafka, topic: &str, limit: usize) -> Result<Option<Vec<Sample>>, KafkaError> {
    let lookup = Lookup::new(kafka)?;
    let described = match lookup.topic(topic) {
        Err(error) if is_missing_topic(&error) => return Ok(None),
        described => described?,
    };
    if described.partitions == 0 {
        return Ok(None);
    }
    let partitions: Vec<TopicPartition> =
        (0..).take(described.partitions).map(|number| TopicPartition::new(topic, number)).collect();
    let mut ranges: Vec<(TopicPartition, LogRange)> = lookup.log_ranges(&partitions)?.into_iter().collect();
    // The smallest first: what they lack is taken from the others.
    ranges.sort_by_key(|(partition, range)| (range.end - range.start, partition.number));
    let mut left = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut others = i64::try_from(ranges.len()).unwrap_or(i64::MAX);
    let mut wanted = TopicPartitionList::new();
    // The present end of each partition.
    let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
    for (partition, range) in ranges {
        let count = (left + others - 1).div_euclid(others).min(range.end - range.start);
        (left, others) = (left - count, others - 1);
        if count > 0 {
            wanted.add_partition_offset(topic, partition.number, Offset::Offset(range.end - count))?;
            ends.insert(partition.number, range.end);
        }
    }
    if ends.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let mut properties = settings::consumer(kafka);
    properties.set("enable.partition.eof", "true");
    let consumer: BaseConsumer<AuthContext> =
        properties.create_with_context(AuthContext::new(kafka)).map_err(settings::without_value)?;
    // Destroying a consumer waits for its brokers without a limit, and the command ends anyway.
    let consumer = ManuallyDrop::new(consumer);
    consumer.assign(&wanted)?;
    read(&consumer, ends, limit).map(Some)
}

fn read(
    consumer: &BaseConsumer<AuthContext>,
    mut ends: BTreeMap<i32, i64>,
    limit: usize,
) -> Result<Vec<Sample>, KafkaError> {
    let mut messages = Vec::new();
    let mut deadline = Instant::now() + TIMEOUT;
    while !ends.is_empty() && messages.len() < limit {
        if Instant::now() > deadline {
            return Err(KafkaError::MessageConsumption(Code::OperationTimedOut));
        }
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) => {
                deadline = Instant::now() + TIMEOUT;
                if ends.get(&message.partition()).is_some_and(|end| message.offset() + 1 >= *end) {
                    ends.remove(&message.partition());
                }
                messages.push(Sample {
                    partition: message.partition(),
                    offset: message.offset(),
                    time_ms: message.timestamp().to_millis().filter(|time| *time >= 0),
                    key: message.key().map(<[u8]>::to_vec),
                    payload: message.payload().map(<[u8]>::to_vec),
                    headers: headers::encode_of(&message),
                });
            }
            // The partition may end with a transaction's marker, or with offsets that compaction has emptied.
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(ends.remove(&partition)),
            Some(Err(error)) => return Err(error),
        }
    }
    Ok(messages)
}
