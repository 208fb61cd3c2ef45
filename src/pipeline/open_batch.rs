//! The batch being filled.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::topic_settings::PointsInSeries;
use crate::batch::{Batch, Counts};
use crate::config::Config;
use crate::input::Decoder;
use crate::raw::{Budget, MessageSet};
use crate::telemetry::metrics::{self, Step};

/// Decodes messages into a batch until it is taken.
pub(super) struct OpenBatch {
    batch: Batch,
    /// Arrival of its first message; `None` while it is empty.
    since: Option<Instant>,
    decoder: Decoder,
    points_in_series: PointsInSeries,
    budget: Budget,
    memory_limit: usize,
    max_points: usize,
    max_bytes: usize,
    linger: Duration,
}

impl OpenBatch {
    pub(super) fn new(config: &Config, budget: Budget, points_in_series: PointsInSeries) -> Self {
        let decoder = config.decoder();
        Self {
            batch: Batch::charged(decoder.clone(), &budget),
            since: None,
            decoder,
            points_in_series,
            budget,
            memory_limit: config.memory.limit_bytes,
            max_points: config.batch.max_points,
            max_bytes: config.batch.max_bytes,
            linger: Duration::from_millis(config.batch.linger_ms),
        }
    }

    /// The worker's memory limit, in bytes.
    pub(super) fn memory_limit(&self) -> usize {
        self.memory_limit
    }

    /// The budget that its messages and points are charged to.
    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Adds messages that were just read, and counts them by their types.
    pub(super) fn add_read(&mut self, set: MessageSet) {
        let source = Arc::clone(set.source());
        let counts = self.add(set);
        for (kind, count) in counts.by_type().into_iter().filter(|(_, count)| *count > 0) {
            metrics::messages_received(self.decoder.inputs().label(&source), &source.topic, kind, count as u64);
        }
        metrics::unknown_fields(counts.unknown_fields as u64);
    }

    /// Adds messages that were counted when they were read, by their types or as journaled.
    pub(super) fn add_waiting(&mut self, set: MessageSet) {
        let counts = self.add(set);
        metrics::unknown_fields(counts.unknown_fields as u64);
    }

    /// Adds messages that were decoded before.
    pub(super) fn add(&mut self, set: MessageSet) -> Counts {
        let begun = Instant::now();
        let source = Arc::clone(set.source());
        let counts = self.batch.push(set);
        self.points_in_series.record(&source, counts);
        metrics::step_took(Step::Decode, begun.elapsed());
        self.since.get_or_insert_with(Instant::now);
        counts
    }

    /// Returns `true` if no message was added since the batch was last taken.
    pub(super) fn is_empty(&self) -> bool {
        self.since.is_none()
    }

    /// Returns `true` if the batch has reached the size of one transaction.
    pub(super) fn is_full(&self) -> bool {
        self.batch.is_full(self.max_points, self.max_bytes)
    }

    /// Returns `true` if the batch's first message has waited long enough for others.
    pub(super) fn has_lingered(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= self.linger)
    }

    /// Returns the batch, and leaves an empty one.
    pub(super) fn take(&mut self) -> Batch {
        self.since = None;
        std::mem::replace(&mut self.batch, Batch::charged(self.decoder.clone(), &self.budget))
    }
}
