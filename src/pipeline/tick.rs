//! What is done ten times a second: what waits for its time, and what the metrics and `/status` show.

use std::time::{Duration, Instant};

use tracing::warn;

use super::{Pipeline, named, unix_ms, watch};
use crate::kafka::events::{Assigned, Command};
use crate::telemetry::{lag, metrics};

/// How long nothing may come of a partition that has more. What could hold it, a broker that is away among it, is not known
/// here, and starting again does no harm.
const STUCK_AFTER: Duration = Duration::from_secs(30);

impl Pipeline {
    /// Does what is due, while `waiting` message sets wait to be taken.
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

    /// Starts partitions again of which nothing comes, while this many message sets wait to be taken.
    fn restart_stuck(&mut self, waiting: usize) {
        // What waits here, or a pause, is no reason: both end by themselves.
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

    /// Lets the mode change, and follows what that means for the messages in memory.
    fn tick_journal(&mut self) {
        if self.journaling.update() {
            // It may have to outlive this process, and Kafka may not have it any more by then. Held by nobody else, the messages
            // leave room in memory for what comes.
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
            // Before the group has been joined, having no partitions is no sign.
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
        let stall = Duration::from_millis(self.config.http.stall_ms);
        // Only time counts in which data could have moved to the database.
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
            (self.open_batch.budget().used(), self.config.memory.limit_bytes, self.writers.busy());
        let writers = self.writers.limit();
        metrics::writers(writers);
        self.health.update(|status| {
            watch::fill_status(status, &lags, (buffered, limit, in_flight));
            status.writers = writers as u64;
            status.journal = self.journaling.status();
        });
    }
}
