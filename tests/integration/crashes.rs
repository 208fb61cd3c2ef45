//! Workers that are killed, frozen and stopped.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::support::bed::Bed;
use crate::support::data::Published;
use crate::support::worker::Worker;
use crate::support::{seed, until};

const SMALL_BATCHES: &[(&str, &str)] =
    &[("SERIES_INGEST__BATCH__MAX_POINTS", "10000"), ("SERIES_INGEST__BATCH__LINGER_MS", "50")];

/// Publishes `messages` of 100 points each, over all partitions and ten series.
fn publish(bed: &Bed, published: &mut Published, messages: usize) {
    for number in 0..messages {
        let series = format!("s{}", number % 10);
        let payload = published.batch(&series, 50);
        bed.producer.send(&bed.points_topic, number as i32 % bed.partitions, &series, Some(payload.as_bytes()));
    }
    bed.producer.flush();
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_killed_again_and_again_lose_and_double_nothing() {
    const ROUNDS: usize = 20;
    let Some(bed) = Bed::new("killed", 8).await else { return };
    let mut random = StdRng::seed_from_u64(seed("killed"));
    let mut published = Published::default();
    let mut workers: Vec<Worker> = (0..3).map(|_| bed.worker(SMALL_BATCHES)).collect();
    let mut killed_with_some_written = 0;
    for _ in 0..ROUNDS {
        publish(&bed, &mut published, 10_000 / ROUNDS);
        tokio::time::sleep(Duration::from_millis(random.random_range(500..1500))).await;
        let chosen = random.random_range(0..workers.len());
        workers[chosen].kill();
        killed_with_some_written += usize::from(bed.count_points().await > 0);
        workers[chosen] = bed.worker(SMALL_BATCHES);
    }
    assert_eq!(published.rows.len(), 1_000_000);
    assert!(killed_with_some_written > ROUNDS / 2, "the workers were at work when they were killed");
    bed.until_applied(180).await;
    bed.assert_exact(&published).await;
    drop(workers);
    bed.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_thawed_after_its_partitions_moved_doubles_nothing_and_goes_on() {
    let Some(bed) = Bed::new("frozen", 4).await else { return };
    let mut random = StdRng::seed_from_u64(seed("frozen"));
    let mut published = Published::default();
    let settings: Vec<(&str, &str)> = SMALL_BATCHES
        .iter()
        .copied()
        // A frozen worker's transaction is ended by the server; that this is quick here only saves the test's time.
        .chain([("SERIES_INGEST__DATABASE__IDLE_IN_TRANSACTION_TIMEOUT_MS", "2000")])
        .collect();
    let frozen = bed.worker(&settings);
    publish(&bed, &mut published, 400);
    until(60, "the first points", async || bed.count_points().await > 0).await;
    for _ in 0..3 {
        publish(&bed, &mut published, 400);
        tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
        frozen.signal("STOP");
        let other = bed.worker(&settings);
        publish(&bed, &mut published, 200);
        bed.until_applied(90).await;
        frozen.signal("CONT");
        publish(&bed, &mut published, 200);
        drop(other);
        // The other is gone without a word: the thawed one takes over.
        publish(&bed, &mut published, 200);
        bed.until_applied(90).await;
    }
    bed.assert_exact(&published).await;
    drop(frozen);
    bed.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_stops_within_ten_seconds_and_loses_nothing() {
    let Some(bed) = Bed::new("sigterm", 4).await else { return };
    let mut published = Published::default();
    for round in 0..3 {
        publish(&bed, &mut published, 1000);
        let before = bed.count_points().await;
        let mut worker = bed.worker(SMALL_BATCHES);
        until(60, "some points", async || bed.count_points().await > before).await;
        assert!((bed.count_points().await as usize) < published.rows.len(), "round {round}: under load");
        assert_eq!(worker.terminate(10), Some(0), "{}", worker.log());
        let backends = format!(
            "select count(*) from pg_stat_activity where datname = '{}' and application_name = 'series-ingest'",
            bed.name
        );
        until(5, "no connection is left", async || bed.count(&backends).await == 0).await;
    }
    let worker = bed.worker(SMALL_BATCHES);
    bed.until_applied(120).await;
    bed.assert_exact(&published).await;
    drop(worker);
    bed.remove().await;
}
