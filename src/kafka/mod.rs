//! Reading from Kafka: one operating-system thread owns the consumer, polls it always, and hands on what it read as
//! [`MessageSet`](crate::raw::MessageSet)s. It receives each partition's start, and the database's progress.
//!
//! - [`consumer`]: the thread, its events and its commands.
//! - [`lookup`]: requests about topics and offsets, alongside the consumer.
//! - `topics`: the requests about topics.
//! - [`member`]: the pipeline and the database that a member of a group works for.
//! - [`topic_settings`]: the settings of a topic that remove messages before they are read.
//! - [`message_fetcher`]: reads a single message again.
//! - [`dead_letter_topic`]: copies of dead letters.
//! - `auth`, `credentials`, `diagnosis`: credentials, also rotated ones, and the brokers' answers to them.
//! - [`topic_id`]: the one request for which rdkafka has no safe call.
//! - [`publisher`], [`embedded`]: publishing, and a broker in this process, for the demo and the benchmark.
//!
//! librdkafka's pitfalls, and how each is avoided:
//! callbacks run on the polling thread and must not wait (the rebalance callback assigns nothing and returns; partitions are
//! assigned when their start offsets are known); start offsets are set in the partition list of the first assignment, without a
//! seek; partition queues are not used; events of an assignment carry its epoch; a paused consumer is still polled; a pause
//! discards what was fetched ahead, so it begins late and ends late; a partition assigned while all are paused is paused too;
//! `auto.offset.reset=error` makes lost offsets an event; commits are asynchronous and their failure has no consequences;
//! closing has a deadline and is left to its thread after that; lag is counted from the end of committed transactions;
//! checksums are checked; metrics are not pushed to the broker; static membership and `group.protocol=consumer` are refused by
//! the configuration.

pub mod consumer;
pub mod dead_letter_topic;
pub mod embedded;
pub mod events;
pub mod lookup;
pub mod member;
pub mod message_fetcher;
pub mod partition;
pub mod publisher;
pub mod sampler;
pub mod settings;
pub mod topic_id;
pub mod topic_settings;

mod assignment;
mod auth;
mod context;
mod credentials;
mod diagnosis;
mod headers;
mod topics;

pub use rdkafka::error::KafkaError as Error;

/// The name of the property that librdkafka refuses; `None` if the error is another one.
pub fn refused_property(error: &Error) -> Option<&str> {
    match error {
        Error::ClientConfig(_, _, name, _) => Some(name),
        _ => None,
    }
}
