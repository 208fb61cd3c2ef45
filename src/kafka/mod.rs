//! Reading from Kafka: one thread of the operating system owns the consumer, polls it always, and hands on what it read as
//! [`MessageSet`](crate::raw::MessageSet)s. It is given each partition's start, and what the database has.
//!
//! - [`consumer`]: the thread, its events and its commands.
//! - [`lookup`]: questions about topics and offsets, asked alongside the consumer.
//! - `topics`: those of them that are about topics.
//! - [`member`]: for which pipeline and database a member of a group works.
//! - [`topic_settings`]: which settings of a topic remove messages before they are read.
//! - [`message_fetcher`]: one message, read once more.
//! - [`dead_letter_topic`]: copies of dead letters.
//! - `auth`, `credentials`, `diagnosis`: credentials, also rotated ones, and what the brokers say to them.
//! - [`topic_id`]: the one question that rdkafka has no safe call for.
//! - [`publisher`], [`embedded`]: publishing, and a broker in this process, for the demo and the benchmark.
//!
//! librdkafka's pitfalls, and where each is met:
//! callbacks run on the polling thread and must not wait (the rebalance callback assigns nothing and returns; partitions are
//! assigned when their start offsets are known); start offsets stand in the partition list of the first assignment, there is
//! no seek; partition queues are not used; events of an assignment carry its epoch; a paused consumer is still polled; a pause
//! throws away what was fetched ahead, so it comes late and ends late; a partition assigned while all are paused is paused
//! too; `auto.offset.reset=error` makes lost offsets an event; commits are asynchronous and their failure costs nothing;
//! closing has a deadline and is left to its thread after that; lag is counted from the end of what transactions have
//! committed; checksums are checked; metrics are not pushed to the broker; static membership and `group.protocol=consumer`
//! are refused by the configuration.

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
