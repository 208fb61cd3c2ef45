//! A steady load, from its own thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::broker::Producer;
use super::data::Published;
use super::fixture::Fixture;

/// Timestamps in a message, with two columns.
const TIMESTAMPS: usize = 50;
const POINTS: u32 = 100;

/// Publishes at a steady rate until it is stopped. The points carry the wall clock.
pub struct Load {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Published>>,
}

impl Load {
    /// Goes on from what was published before, over all partitions.
    pub fn start(fixture: &Fixture, mut published: Published, points_per_s: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, producer) = (Arc::clone(&stop), Producer::new(&fixture.brokers));
        let (topic, partitions) = (fixture.points_topic.clone(), fixture.partitions);
        let thread = std::thread::spawn(move || {
            let mut due = Instant::now();
            let mut last_us = 0;
            let mut number = 0;
            while !stopped.load(Ordering::SeqCst) {
                let now_us = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as i64;
                // No time twice, also where the thread has to catch up.
                let first_us = now_us.max(last_us + 1);
                let times: Vec<i64> = (first_us..).take(TIMESTAMPS).collect();
                last_us = times[TIMESTAMPS - 1];
                let series = format!("s{}", number % 10);
                let payload = published.batch_at(&series, times);
                producer.send(&topic, number % partitions, &series, Some(payload.as_bytes()));
                number += 1;
                due += Duration::from_secs(1) * POINTS / points_per_s;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            producer.flush();
            published
        });
        Self { stop, thread: Some(thread) }
    }

    /// All that was published, when the broker has it.
    pub fn stop(mut self) -> Published {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}
