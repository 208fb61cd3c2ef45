//! The load with a database outage in its middle, and its observation.

use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar};

use super::load::{Load, Published};
use super::proxy::Proxy;
use super::{Failure, print_line};
use crate::database::scratch::ScratchDatabase;
use crate::journal::JournalHandle;
use crate::telemetry::health::Health;

/// Maximum time for which nothing observed may change.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval between observations.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// The course of the demo, and the parts that it controls and observes.
#[derive(Debug)]
pub(super) struct Story<'a> {
    pub(super) load: &'a Arc<Load>,
    pub(super) scratch: &'a ScratchDatabase,
    pub(super) proxy: &'a Proxy,
    pub(super) journal: &'a JournalHandle,
    pub(super) health: &'a Health,
    pub(super) bar: ProgressBar,
    /// The messages in Kafka: at first the half that is written directly.
    pub(super) published: Published,
    /// The rate of the first half, in points per second, including the worker's start.
    pub(super) rate: Option<f64>,
}

/// One observation.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    points: usize,
    /// Number of messages that the database has.
    applied: usize,
    mode: &'static str,
    /// Numbers of messages and records in the journal, and its size.
    messages: usize,
    records: usize,
    bytes: u64,
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (mode, bytes) = (self.mode, HumanBytes(self.bytes));
        write!(f, "{mode}: {} messages in {} records of the journal, {bytes}", self.messages, self.records)
    }
}

impl Story<'_> {
    /// Runs the load. The half that is in Kafka is written directly. An eighth is in flight when the database is cut off, a
    /// quarter arrives while it is not available, and an eighth while the journal drains.
    pub(super) async fn run(&mut self) -> Result<(), Failure> {
        let start = Instant::now();
        let straight = self.published;
        self.until("the table has the first half", |seen| seen.points >= straight.points).await?;
        let took = start.elapsed().as_secs_f64();
        self.rate = Some(straight.points as f64 / took);
        self.print(format_args!(
            "streaming: {} messages with {} points are in the table, after {took:.1} s",
            straight.messages, straight.points
        ));

        self.published += self.load.publish(4..5).await?;
        self.proxy.cut();
        self.print(format_args!(
            "the database is cut off, with {} messages on their way",
            self.published.messages - straight.messages
        ));
        let mut away = 0;
        for eighth in [5, 6] {
            let published = self.load.publish(eighth..eighth + 1).await?;
            self.published += published;
            away += published.messages;
            let all = self.published.messages;
            let seen = self
                .until("the journal has what the database lacks", |seen| {
                    seen.mode == "journaling" && seen.messages >= away && seen.messages + seen.applied >= all
                })
                .await?;
            self.print(seen);
        }

        self.proxy.fix();
        let back = Instant::now();
        self.print("the database is back");
        let seen = self.until("the worker sees the database again", |seen| seen.mode != "journaling").await?;
        self.print(seen);
        let last = self.load.publish(7..8).await?;
        self.published += last;
        self.print(format_args!("{} messages more are published", last.messages));
        let points = self.published.points;
        self.until("the table has all points", |seen| seen.points >= points).await?;
        self.print(format_args!(
            "all points are in the table, {:.1} s after the database came back",
            back.elapsed().as_secs_f64()
        ));
        let seen = self.until("the journal is drained", |seen| seen.mode == "streaming" && seen.records == 0).await?;
        self.print(seen);
        Ok(())
    }

    /// Waits for a state to be observed, and shows each observation.
    async fn until(&self, what: &str, reached: impl Fn(&Seen) -> bool) -> Result<Seen, Failure> {
        let mut last = (Seen::default(), Instant::now());
        loop {
            let seen = self.observe().await?;
            self.bar.set_position(seen.points as u64);
            self.bar.set_message(seen.to_string());
            if reached(&seen) {
                return Ok(seen);
            }
            if seen != last.0 {
                last = (seen, Instant::now());
            } else if last.1.elapsed() >= STALL_TIMEOUT {
                let mut lines = vec![format!("nothing has moved for {} s before {what}", STALL_TIMEOUT.as_secs())];
                lines.push(seen.to_string());
                lines.extend(self.health.not_ready());
                return Err(Failure::Internal(lines.join("\n  ")));
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }

    async fn observe(&self) -> Result<Seen, Failure> {
        let mode = self.health.status().journal.map_or("starting", |journal| journal.mode);
        let ended = || Failure::Internal("the journal's thread has ended".to_owned());
        let records = self.journal.records().await.ok_or_else(ended)?;
        Ok(Seen {
            points: self.scratch.count_points().await?,
            applied: self.scratch.applied_messages().await?,
            mode,
            messages: records.iter().map(|record| record.messages as usize).sum(),
            records: records.len(),
            bytes: records.iter().map(|record| record.bytes()).sum(),
        })
    }

    /// Prints a line, above the bar if there is one.
    fn print(&self, line: impl std::fmt::Display) {
        self.bar.suspend(|| print_line(line));
    }
}
