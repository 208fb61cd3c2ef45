//! Topics that were deleted and recreated while their messages were in flight.
//!
//! A consumer does not notice when a topic is deleted and recreated: it continues at its offset, in the new topic. Ids are
//! never reused, so a topic that still has its id *after* messages were read had it when they were read.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use backon::BackoffBuilder as _;
use tracing::{error, info, warn};

use super::{Outcome, Writer};
use crate::batch::Batch;
use crate::raw::{Interval, MessageSet, Source};
use crate::telemetry;

/// The state of topics whose ids cannot be requested, in the log.
const TOPIC_IDS: &str = "topic-ids";

impl Writer {
    /// Returns the batch without messages of topics that were recreated since.
    pub(super) async fn without_deleted_topics(&self, batch: Batch, outcome: &mut Outcome) -> Batch {
        let deleted = self.deleted(outcome.intervals.iter().map(|interval| &interval.partition.source)).await;
        if deleted.is_empty() {
            return batch;
        }
        let (dropped, kept): (Vec<Interval>, Vec<Interval>) =
            outcome.intervals.iter().cloned().partition(|interval| deleted.contains(&interval.partition.source));
        outcome.of_deleted_topics = dropped;
        batch.keep(&kept)
    }

    /// Returns the sets without those of topics that were recreated since, and the intervals of the removed ones.
    pub(in crate::pipeline) async fn without_deleted(
        &self,
        mut sets: Vec<MessageSet>,
    ) -> (Vec<MessageSet>, Vec<Interval>) {
        let mut dropped = Vec::new();
        for source in self.deleted(sets.iter().map(MessageSet::source)).await {
            warn!(source.topic, "its topic was deleted and recreated; what was read of it is dropped");
            let of_topic = sets.extract_if(.., |set| *set.source() == source);
            dropped.extend(of_topic.map(|set| set.interval()));
        }
        (sets, dropped)
    }

    /// Returns those of the sources whose topics were recreated: a topic of the same name has another id now. If there is no
    /// topic of this name, the messages are of the deleted one.
    async fn deleted(&self, sources: impl Iterator<Item = &Arc<Source>>) -> Vec<Arc<Source>> {
        let mut sources: Vec<Arc<Source>> =
            sources.filter(|source| !source.topic_id.is_empty()).map(Arc::clone).collect();
        sources.sort();
        sources.dedup();
        if sources.is_empty() {
            return sources;
        }
        let names: Vec<String> = sources.iter().map(|source| source.topic.clone()).collect();
        let ids = self.topic_ids(&names.into()).await;
        sources.retain(|source| source.was_recreated(ids.get(&source.topic).map(String::as_str)));
        sources
    }

    /// Requests the present ids of topics, until the brokers answer.
    async fn topic_ids(&self, topics: &Arc<[String]>) -> HashMap<String, String> {
        let mut delays = self.backoff.build();
        loop {
            let (lookup, asked) = (Arc::clone(&self.lookup), Arc::clone(topics));
            let question = move || lookup.topic_ids(&asked.iter().map(String::as_str).collect::<Vec<_>>());
            match tokio::task::spawn_blocking(question).await {
                Ok(Ok(ids)) => {
                    if let Some(ended) = self.log.ends(TOPIC_IDS) {
                        info!(seconds = ended.seconds, "the topics' ids can be asked for again");
                    }
                    return ids;
                }
                Ok(Err(failure)) => {
                    if let Some(repeated) = self.log.lasts(TOPIC_IDS, &failure.to_string()) {
                        let (seconds, unlogged) = (repeated.seconds, repeated.unlogged);
                        let topics = telemetry::list(topics.iter().map(String::as_str));
                        warn!(%failure, topics, seconds, unlogged, "the topics' ids cannot be asked for; trying again");
                    }
                }
                Err(failure) => error!(%failure, "asking for the topics' ids ended by an internal error"),
            }
            tokio::time::sleep(delays.next().unwrap_or(Duration::from_secs(1))).await;
        }
    }
}
