//! Topics that were deleted and recreated while their messages were in flight.
//!
//! A consumer does not notice when a topic is deleted and recreated: it continues at its offset, in the new topic. Ids are never
//! reused, so a topic that still has its id *after* messages were read had it when they were read.

use std::sync::Arc;
use std::time::Duration;

use backon::BackoffBuilder as _;
use tracing::{error, info, warn};

use super::{Outcome, Writer};
use crate::batch::Batch;
use crate::raw::{Interval, MessageSet, Source};

impl Writer {
    /// Returns the batch without what was read of a topic that was recreated since.
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

    /// Returns the sets without those of topics that were recreated since, and the intervals of those.
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

    /// Returns those of the sources whose topics were recreated.
    async fn deleted(&self, sources: impl Iterator<Item = &Arc<Source>>) -> Vec<Arc<Source>> {
        let mut sources: Vec<Arc<Source>> = sources.map(Arc::clone).collect();
        sources.sort();
        sources.dedup();
        let mut deleted = Vec::new();
        for source in sources {
            if self.is_deleted(&source).await {
                deleted.push(source);
            }
        }
        deleted
    }

    /// Returns `true` if a topic of this name has another id now. If there is no topic of this name, what was read is of the one
    /// that was there.
    async fn is_deleted(&self, source: &Source) -> bool {
        if source.topic_id.is_empty() {
            return false;
        }
        let mut delays = self.backoff.build();
        let state = format!("topic-id {}", source.topic);
        loop {
            let (lookup, topic) = (Arc::clone(&self.lookup), source.topic.clone());
            match tokio::task::spawn_blocking(move || lookup.topic_id(&topic)).await {
                Ok(Ok(id)) => {
                    if let Some(ended) = self.log.ends(&state) {
                        info!(source.topic, seconds = ended.seconds, "the topic's id can be asked for again");
                    }
                    return source.was_recreated(id.as_deref());
                }
                Ok(Err(failure)) => {
                    if let Some(repeated) = self.log.lasts(&state, &failure.to_string()) {
                        let (seconds, unlogged) = (repeated.seconds, repeated.unlogged);
                        warn!(
                            %failure, source.topic, seconds, unlogged,
                            "the topic's id cannot be asked for; trying again"
                        );
                    }
                }
                Err(failure) => error!(%failure, source.topic, "asking for the topic's id ended by an internal error"),
            }
            tokio::time::sleep(delays.next().unwrap_or(Duration::from_secs(1))).await;
        }
    }
}
