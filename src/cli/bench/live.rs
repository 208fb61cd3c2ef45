//! The delay from sending a message to its commit, at a steady rate.

use std::path::Path;
use std::time::{Duration, Instant};

use super::arguments::{Arguments, series_id};
use super::drain::until_applied;
use super::process::Worker;
use super::topics::{PARTITIONS, publisher_with_topics};
use crate::cli::interrupt::is_interrupted;
use crate::cli::{Failure, print_line};
use crate::config::Config;
use crate::database::scratch::ScratchDatabase;

/// Duration of sending.
const LASTS: Duration = Duration::from_secs(15);
/// Interval between reads of the committed messages, which is the resolution of the measurement.
const POLL: Duration = Duration::from_millis(5);

/// The delays of all messages: the n-th one sent is matched with the n-th one committed.
#[derive(Debug)]
pub(super) struct Delays(Vec<Duration>);

impl Delays {
    /// The delay that this percentage of messages does not exceed.
    pub(super) fn percentile(&self, percent: usize) -> Duration {
        let index = (self.0.len() * percent).div_ceil(100).max(1) - 1;
        self.0.get(index).copied().unwrap_or_default()
    }
}

/// Sends messages at this many points per second to a worker without other work.
pub(super) async fn measure(
    bench: &Config,
    file: Option<&Path>,
    arguments: &Arguments,
    scratch: &ScratchDatabase,
    points_a_second: f64,
) -> Result<Delays, Failure> {
    scratch.empty_tables().await?;
    print_line(format_args!("live, {points_a_second:.0} points/s"));
    let publisher = publisher_with_topics(bench).await?;
    let points_topic = bench.kafka.points_topic.clone();
    let mut worker = Worker::start(bench, file, scratch)?;
    for partition in 0..PARTITIONS {
        publisher.send(&points_topic, Some(partition), &series_id(0), arguments.message(0, 0).as_bytes())?;
    }
    let warm = PARTITIONS as usize;
    until_applied(scratch, &mut worker, warm, POLL, |_| ()).await?;

    let pause = Duration::from_secs_f64(arguments.points_a_message() as f64 / points_a_second);
    let count = (LASTS.as_secs_f64() / pause.as_secs_f64()) as usize;
    let messages = arguments.clone();
    let sending = tokio::task::spawn_blocking(move || -> Result<Vec<Instant>, Failure> {
        let start = Instant::now();
        let mut sent = Vec::with_capacity(count);
        for number in 0..count {
            if is_interrupted() {
                break;
            }
            // Sleeps are longer than requested; overdue messages are then sent at once.
            if let Some(early) = (start + pause * number as u32).checked_duration_since(Instant::now()) {
                std::thread::sleep(early);
            }
            let (round, series) = (number / messages.series, number % messages.series);
            let payload = messages.message(series, round);
            sent.push(Instant::now());
            publisher.send(&points_topic, None, &series_id(series), payload.as_bytes())?;
        }
        publisher.flush()?;
        Ok(sent)
    });
    let mut committed = Vec::with_capacity(count);
    let watched = until_applied(scratch, &mut worker, warm + count, POLL, |applied| {
        committed.resize(applied.saturating_sub(warm).max(committed.len()), Instant::now());
    });
    watched.await?;
    let sent = sending.await.map_err(|error| Failure::Internal(error.to_string()))??;
    worker.stop()?;
    let mut delays: Vec<Duration> =
        sent.iter().zip(&committed).map(|(sent, committed)| committed.saturating_duration_since(*sent)).collect();
    delays.sort_unstable();
    Ok(Delays(delays))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_what_that_share_does_not_exceed() {
        let delays = Delays((1..=200).map(Duration::from_millis).collect());
        assert_eq!([1, 50, 99, 100].map(|percent| delays.percentile(percent).as_millis()), [2, 100, 198, 200]);
        assert_eq!(Delays(Vec::new()).percentile(99), Duration::ZERO);
    }
}
