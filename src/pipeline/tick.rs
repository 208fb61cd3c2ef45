//! Periodic work, ten times a second: messages that wait in memory, and the contents of the metrics and `/status`.

use std::time::{Duration, Instant};

use tracing::warn;

use super::{Pipeline, named, unix_ms, watch};
use crate::kafka::events::{Assigned, Command};
use crate::telemetry::{lag, metrics};

/// Time after which a partition that has more messages and yields none is restarted. What delays it, such as an unavailable
/// broker, is not known here, and a restart does no harm.
const STUCK_AFTER: Duration = Duration::from_secs(30);

impl Pipeline {
    /// Does what is due, while `waiting` message sets wait to be handled.
    pub(super) fn tick(&mut self, waiting: usize) {
        self.restart_stuck(waiting);
        if self.starts.is_empty() {
            self.health.update_facts(|facts| facts.partitions.problem = None);
        }
        self.tick_guard();
        self.tick_journal();
        if self.journaling.wants_survey() {
            self.surveyor.request();
        }
        let is_journaling = self.is_journaling();
        self.starts.tick(is_journaling, || self.partitions.in_flight());
        self.surveyor.tick(&self.partitions, self.journaling.appends());
        self.subscription.tick();
        self.watch.tick(
            &self.partitions,
            &self.subscription.topics(),
            self.is_journaling().then(|| self.journaling.took_at()),
        );
        self.measure();
    }

    /// Restarts partitions that yield nothing, while `waiting` message sets wait to be handled.
    fn restart_stuck(&mut self, waiting: usize) {
        // Waiting messages, or a pause, are no reason: both end by themselves.
        if waiting > 0 || !self.open_batch.budget().has_room() {
            self.times.calm_since = Instant::now();
        }
        if self.times.calm_since.elapsed() < STUCK_AFTER {
            return;
        }
        let stuck = self.partitions.stuck(STUCK_AFTER);
        if stuck.is_empty() {
            return;
        }
        if let Some(unlogged) = self.log.happened("stuck", 1) {
            warn!(
                unlogged,
                partitions = named(&stuck),
                "there is more in Kafka, and nothing comes of it; starting these partitions again"
            );
        }
        self.consumer.send(Command::Restart(stuck));
    }

    /// Updates the mode, and moves the messages in memory accordingly.
    fn tick_journal(&mut self) {
        if self.journaling.update() {
            // The messages may have to outlive this process, and Kafka may have deleted them by then. Once the writers have
            // released them, they leave room in memory for new ones.
            let in_flight = self.writers.abort();
            let open = self.open_batch.take();
            self.journaling.save(in_flight.into_iter().chain(open.sets().iter().cloned()).collect::<Vec<_>>());
            self.writers.interrupt();
            self.journaling.on_abandoned();
        }
        if self.journaling.is_needed() {
            self.health.set_condition("journal", self.journaling.problem());
        } else {
            self.health.set_warning("journal", self.journaling.problem());
        }
        let lost = self.journaling.take_lost();
        if lost.is_empty() {
            return;
        }
        self.partitions.mark_done(&lost);
        let mut reading: Vec<Assigned> = lost.iter().filter_map(|interval| self.partitions.reading(interval)).collect();
        reading.sort_by(|a, b| a.partition.cmp(&b.partition));
        reading.dedup();
        warn!(
            records = lost.len(),
            partitions = reading.len(),
            "records of the journal are lost; what the database lacks of them is read from Kafka again"
        );
        self.consumer.send(Command::Restart(reading));
        self.surveyor.request();
    }

    /// Updates the facts of readiness about the partitions.
    pub(super) fn update_partition_facts(&self) {
        let (assigned, reading) = self.partitions.counts();
        let oldest = self.partitions.oldest_log();
        self.health.update_facts(|facts| {
            facts.partitions.assigned = assigned;
            facts.partitions.reading = reading;
            // Before the worker has joined the group, having no partitions says nothing.
            if assigned == reading && (assigned > 0 || facts.group.joined.is_some()) {
                facts.partitions.complete = Some(Instant::now());
            }
            facts.logs.oldest = oldest;
        });
    }

    fn measure(&mut self) {
        metrics::buffered_bytes(self.open_batch.budget().used() as u64);
        self.update_partition_facts();
        self.health.review();
        let now_ms = unix_ms();
        let stall = self.times.stall;
        // Only time in which data could move to the database counts.
        let can_move = self.watch.database_is_up() && self.health.brokers_answer();
        if !can_move || self.is_journaling() {
            self.times.movable_since = Instant::now();
        }
        let stalled = self.partitions.stalled_for(self.times.movable_since).filter(|stalled| *stalled >= stall);
        self.journaling.measure(now_ms);
        self.health.set_condition(
            "stalled",
            stalled.map(|for_| format!("there is data to write, and none was committed for {} s", for_.as_secs())),
        );
        let lags = self.partitions.lags(now_ms, self.health.brokers_answer());
        for lag in &lags {
            if let Some(messages) = lag.messages {
                lag::set(&lag.input, &lag.partition.topic, lag.partition.number, messages, lag.seconds);
            }
        }
        let (buffered, limit, in_flight) =
            (self.open_batch.budget().used(), self.open_batch.memory_limit(), self.writers.busy());
        let writers = self.writers.limit();
        metrics::writers(writers);
        self.health.update(|status| {
            watch::fill_status(status, &lags, (buffered, limit, in_flight));
            status.writers = writers as u64;
            status.journal = self.journaling.status();
        });
    }
}
