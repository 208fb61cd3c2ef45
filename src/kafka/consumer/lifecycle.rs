//! How a consumer is built, recreated after a fatal failure, and closed.

use std::collections::HashSet;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use tracing::{error, info, warn};

use super::{ConsumerThread, POLL};
use crate::config::Kafka;
use crate::kafka::auth::AuthContext;
use crate::kafka::context::{Context, Notice, log_failure};
use crate::kafka::events::Event;
use crate::kafka::member::Member;
use crate::kafka::settings;
use crate::telemetry::health::Component;

/// Timeout for the last commit, and for leaving the group.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Delay before a consumer that has failed fatally is recreated.
const REBUILD_DELAY: Duration = Duration::from_secs(5);

impl ConsumerThread {
    /// Builds a consumer without partitions.
    pub(super) fn build(kafka: &Kafka, member: &Member) -> Result<BaseConsumer<Context>, KafkaError> {
        let mut properties = settings::consumer(kafka);
        if let Some(client_id) = member.client_id(kafka) {
            properties.set("client.id", client_id);
        }
        properties.create_with_context(Context::new(AuthContext::new(kafka))).map_err(settings::without_value)
    }

    /// Joins the group.
    pub(super) fn join(&mut self) {
        self.joined = true;
        self.subscribe();
    }

    /// Reads these topics from now on; the partitions that the group gives this member arrive as an assignment.
    pub(super) fn read_topics(&mut self, topics: Vec<String>) {
        let read: HashSet<&str> = topics.iter().map(String::as_str).collect();
        self.left_at.retain(|partition, _| read.contains(partition.topic.as_str()));
        self.topics = topics;
        if self.joined {
            self.subscribe();
        }
    }

    /// Subscribes to the topics to read, unless that is done. An empty list leaves the group, because librdkafka accepts no
    /// empty subscription.
    fn subscribe(&mut self) {
        if self.topics == self.subscribed {
            return;
        }
        let result = if self.topics.is_empty() {
            self.consumer.unsubscribe();
            Ok(())
        } else {
            self.consumer.subscribe(&self.topics.iter().map(String::as_str).collect::<Vec<_>>())
        };
        if result.is_ok() {
            self.subscribed.clone_from(&self.topics);
        }
        log_failure("subscribe", result);
    }

    /// Replaces a consumer that has failed fatally; all its partitions are lost.
    pub(super) fn rebuild(&mut self) {
        self.lose_all();
        loop {
            thread::sleep(REBUILD_DELAY);
            self.health.beat(Component::Consumer);
            match Self::build(&self.kafka, &self.member) {
                Ok(consumer) => return self.replace(consumer),
                Err(error) => {
                    if let Some(unlogged) = self.log.happened("not-recreated", 1) {
                        error!(%error, unlogged, "the consumer cannot be recreated; trying again");
                    }
                }
            }
        }
    }

    /// Replaces the consumer by one of this name, because a client id cannot be changed.
    pub(super) fn rename(&mut self, member: Member) {
        match Self::build(&self.kafka, &member) {
            Ok(consumer) => {
                info!(%member, "joining the consumer group again, by another client id");
                self.member = member;
                self.commit(CommitMode::Async);
                self.lose_all();
                self.replace(consumer);
            }
            Err(error) => warn!(%error, "the consumer cannot be recreated; it keeps its client id"),
        }
    }

    fn lose_all(&mut self) {
        let owned = self.assignment.owned();
        self.on_revoked(owned, true);
        self.paused = false;
        self.left_at.clear();
    }

    fn replace(&mut self, consumer: BaseConsumer<Context>) {
        let before = std::mem::replace(&mut self.consumer, consumer);
        self.subscribed.clear();
        if self.joined {
            self.join();
        }
        // Destroying a consumer waits for its brokers without a limit, which the polling thread must not do.
        if let Err(error) = thread::Builder::new().name("kafka-end".into()).spawn(move || drop(before)) {
            error!(%error, "the consumer before cannot be ended on its own thread");
        }
    }

    /// Commits, leaves the group and ends. Leaving lets the other members get this worker's partitions at once; it is given up
    /// after a timeout.
    pub(super) fn close(mut self) {
        let committing = !self.commits.is_empty();
        self.commit(CommitMode::Async);
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        while committing && Instant::now() < deadline {
            drop(self.consumer.poll(POLL));
            if self.consumer.context().take_notices().iter().any(|notice| matches!(notice, Notice::Committed)) {
                break;
            }
        }
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        match self.consumer.close_queue() {
            Ok(()) => {
                while !self.consumer.closed() && Instant::now() < deadline {
                    drop(self.consumer.poll(POLL));
                }
            }
            Err(error) => warn!(%error, "leaving the consumer group failed"),
        }
        if !self.consumer.closed() {
            warn!("leaving the consumer group took too long and was given up");
        }
        self.send_event(Event::Stopped);
        // Destroying a consumer waits for its brokers without a limit, and the process ends anyway.
        std::mem::forget(self.consumer);
    }
}
