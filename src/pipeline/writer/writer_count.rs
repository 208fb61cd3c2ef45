//! The number of batches that are written at the same time: with a backlog, as many as increase the throughput.
//!
//! From time to time another number is tried for a while. One more writer stays if it is clearly faster, one fewer if it is not
//! slower: a connection that does not help costs the server memory and locks. Without a backlog there is nothing to measure,
//! and the number stays.

use std::time::{Duration, Instant};

use tracing::info;

use crate::config;

/// The initial number: one transaction's COMMIT and the next one's COPY overlap.
const FIRST: usize = 2;
/// Minimum duration of a measurement.
const WINDOW: Duration = Duration::from_secs(5);
/// Minimum number of batches for each writer in a measurement. A batch that is half in it is counted at its beginning and at
/// its end.
const WINDOW_BATCHES: usize = 8;
/// Time until the next trial after a measurement that changed nothing. The best number changes with the server's load.
const REST: Duration = Duration::from_secs(120);
/// Minimum throughput with one more writer, relative to before: rates of the same load differ by some percent.
const GAIN: f64 = 1.1;
/// Minimum throughput with one writer fewer, relative to before.
const LOSS: f64 = 0.98;

/// Chooses the number of writers.
#[derive(Debug)]
pub(in crate::pipeline) struct WriterCount {
    count: usize,
    /// The number is fixed if `least` and `most` are equal.
    least: usize,
    most: usize,
    window: Window,
    /// The number before the trial, and its points per second.
    trying: Option<(usize, f64)>,
    upward: bool,
    rest_until: Instant,
}

/// The batches and points written in a measurement.
#[derive(Debug)]
struct Window {
    since: Instant,
    points: usize,
    batches: usize,
}

impl Window {
    fn new(since: Instant) -> Self {
        Self { since, points: 0, batches: 0 }
    }
}

impl WriterCount {
    pub(in crate::pipeline) fn new(database: &config::Database, now: Instant) -> Self {
        let (least, most) = database.writer_range().into_inner();
        let count = FIRST.clamp(least, most);
        Self { count, least, most, window: Window::new(now), trying: None, upward: true, rest_until: now }
    }

    /// The present number.
    pub(in crate::pipeline) fn get(&self) -> usize {
        self.count
    }

    /// Discards the measurement: there is no backlog, or the database is not available.
    pub(in crate::pipeline) fn interrupt(&mut self, now: Instant) {
        if let Some((before, _)) = self.trying.take() {
            self.count = before;
        }
        self.window = Window::new(now);
    }

    /// Records that a batch with `points` points was written.
    pub(in crate::pipeline) fn written(&mut self, points: usize, now: Instant) {
        self.window.points += points;
        self.window.batches += 1;
        let took = now.saturating_duration_since(self.window.since);
        if took < WINDOW || self.window.batches < WINDOW_BATCHES * self.count {
            return;
        }
        let rate = self.window.points as f64 / took.as_secs_f64();
        self.window = Window::new(now);
        self.measured(rate, now);
    }

    fn measured(&mut self, rate: f64, now: Instant) {
        match self.trying.take() {
            None if now < self.rest_until => return,
            None => {}
            Some((before, rate_before)) => {
                let needed = rate_before * if self.count > before { GAIN } else { LOSS };
                let (writers, points_a_second) = (self.count, rate.round());
                let kept = rate >= needed;
                info!(
                    writers,
                    points_a_second,
                    before,
                    points_a_second_before = rate_before.round(),
                    kept,
                    "tried a number of writers"
                );
                if !kept {
                    self.count = before;
                    self.turn(now);
                    return;
                }
            }
        }
        let next = if self.upward { self.count + 1 } else { self.count - 1 };
        if (self.least..=self.most).contains(&next) {
            self.trying = Some((self.count, rate));
            self.count = next;
        } else {
            self.turn(now);
        }
    }

    /// Reverses the direction of the trials, and waits before the next one.
    fn turn(&mut self, now: Instant) {
        self.upward = !self.upward;
        self.rest_until = now + REST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn writer_count(writers: usize, pool_size: usize, now: Instant) -> WriterCount {
        let mut config = Config::load(None, []).unwrap();
        (config.database.writers, config.database.pool_size) = (writers.into(), pool_size);
        WriterCount::new(&config.database, now)
    }

    /// The numbers of writers that result from a backlog of `minutes` minutes, with the throughput of each number in `rates`,
    /// in points per second.
    fn numbers(count: &mut WriterCount, now: &mut Instant, minutes: u64, rates: &[f64]) -> Vec<usize> {
        let mut numbers = vec![count.get()];
        let end = *now + Duration::from_secs(60 * minutes);
        while *now < end {
            *now += Duration::from_secs_f64(100_000.0 / rates[count.get() - 1]);
            count.written(100_000, *now);
            if numbers.last() != Some(&count.get()) {
                numbers.push(count.get());
            }
        }
        numbers
    }

    #[test]
    fn more_writers_stay_while_each_is_faster() {
        let mut now = Instant::now();
        let mut count = writer_count(0, 6, now);
        assert_eq!(count.get(), 2);
        let rising = [1e5, 2e5, 3e5, 4e5, 5e5];
        assert_eq!(numbers(&mut count, &mut now, 2, &rising), [2, 3, 4, 5]);
        // One fewer is tried, and is slower.
        assert_eq!(numbers(&mut count, &mut now, 4, &rising), [5, 4, 5]);
    }

    #[test]
    fn writers_that_bring_nothing_are_given_up() {
        let mut now = Instant::now();
        let mut count = writer_count(0, 5, now);
        // Two are faster than one, and more are no faster than two.
        let flat = [1e5, 1.7e5, 1.75e5, 1.75e5];
        assert_eq!(numbers(&mut count, &mut now, 2, &flat), [2, 3, 2]);
        assert_eq!(numbers(&mut count, &mut now, 2, &flat), [2, 1, 2]);
        let only_one = [1e5, 1e5, 1e5, 1e5];
        let after = numbers(&mut count, &mut now, 10, &only_one);
        assert_eq!(after.iter().filter(|number| **number > 2).max(), Some(&3), "{after:?}");
        assert_eq!(after.iter().min(), Some(&1), "{after:?}");
        // A number that helps again is found again.
        assert!(numbers(&mut count, &mut now, 10, &[1e5, 2e5, 3e5, 4e5]).contains(&4));
    }

    #[test]
    fn without_a_backlog_nothing_is_tried() {
        let mut now = Instant::now();
        let mut count = writer_count(0, 5, now);
        for _ in 0..1000 {
            now += Duration::from_secs(1);
            count.written(100, now);
            count.interrupt(now);
            assert_eq!(count.get(), 2);
        }
        // The trial ends with the backlog.
        while count.get() == 2 {
            now += Duration::from_secs(1);
            count.written(100_000, now);
        }
        count.interrupt(now);
        assert_eq!(count.get(), 2);
    }

    #[test]
    fn a_number_that_is_set_stays_and_a_small_pool_limits() {
        for (writers, pool_size, expected) in [(1, 5, 1), (7, 5, 7), (0, 1, 1), (0, 2, 1), (0, 3, 2), (0, 50, 2)] {
            assert_eq!(writer_count(writers, pool_size, Instant::now()).get(), expected, "{writers} {pool_size}");
        }
        let mut now = Instant::now();
        let mut fixed = writer_count(3, 5, now);
        assert_eq!(numbers(&mut fixed, &mut now, 20, &[1e5; 3]), [3]);
    }
}
