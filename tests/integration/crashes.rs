//! Workers that are killed, frozen and stopped.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::support::data::Published;
use crate::support::fixture::{Fixture, connect};
use crate::support::worker::Worker;
use crate::support::{seed, until};

const SMALL_BATCHES: &[(&str, &str)] =
    &[("SERIES_INGEST__BATCH__MAX_POINTS", "10000"), ("SERIES_INGEST__BATCH__LINGER_MS", "50")];

#[tokio::test(flavor = "multi_thread")]
async fn workers_killed_again_and_again_lose_and_duplicate_nothing() {
    const ROUNDS: usize = 20;
    let Some(fixture) = Fixture::new("killed", 8).await else { return };
    let mut random = StdRng::seed_from_u64(seed("killed"));
    let mut published = Published::default();
    let mut workers: Vec<Worker> = (0..3).map(|_| fixture.worker(SMALL_BATCHES)).collect();
    let mut killed_at_work = 0;
    for _ in 0..ROUNDS {
        fixture.publish_series(&mut published, 10_000 / ROUNDS, 10, 50);
        tokio::time::sleep(Duration::from_millis(random.random_range(500..1500))).await;
        let chosen = random.random_range(0..workers.len());
        workers[chosen].kill();
        killed_at_work += usize::from((fixture.count_points().await as usize) < published.rows.len());
        workers[chosen] = fixture.worker(SMALL_BATCHES);
    }
    assert_eq!(published.rows.len(), 1_000_000);
    assert!(killed_at_work > ROUNDS / 2, "there was work to do at most kills: {killed_at_work}");
    fixture.until_applied(180).await;
    fixture.assert_exact(&published).await;
    drop(workers);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_thawed_after_its_partitions_moved_duplicates_nothing_and_goes_on() {
    let Some(fixture) = Fixture::new("frozen", 4).await else { return };
    let mut random = StdRng::seed_from_u64(seed("frozen"));
    let mut published = Published::default();
    let settings: Vec<(&str, &str)> = SMALL_BATCHES
        .iter()
        .copied()
        // A frozen worker's transaction is ended by the server; that this is quick here only saves the test's time.
        .chain([("SERIES_INGEST__DATABASE__IDLE_IN_TRANSACTION_TIMEOUT_MS", "2000")])
        .collect();
    let frozen = fixture.worker(&settings);
    fixture.publish_series(&mut published, 400, 10, 50);
    until(60, "the first points", async || fixture.count_points().await > 0).await;
    for _ in 0..3 {
        fixture.publish_series(&mut published, 400, 10, 50);
        tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
        frozen.signal("STOP");
        let other = fixture.worker(&settings);
        fixture.publish_series(&mut published, 200, 10, 50);
        fixture.until_applied(90).await;
        frozen.signal("CONT");
        fixture.publish_series(&mut published, 200, 10, 50);
        drop(other);
        // The other is gone without a word: the thawed one takes over.
        fixture.publish_series(&mut published, 200, 10, 50);
        fixture.until_applied(90).await;
    }
    fixture.assert_exact(&published).await;
    drop(frozen);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_lost_and_won_again_while_the_database_is_slow_duplicates_nothing() {
    let Some(fixture) = Fixture::new("slow_rebalance", 1).await else { return };
    let mut published = Published::default();
    fixture.publish_series(&mut published, 10, 10, 50);
    let worker = fixture.worker(&[("SERIES_INGEST__DATABASE__LOCK_TIMEOUT_MS", "60000")]);
    fixture.until_applied(60).await;
    let lock = connect(&fixture.url).await;
    lock.batch_execute("begin; lock table time_series_data_points in exclusive mode").await.unwrap();
    // More batches than writers: what comes last waits with the worker, in a batch that is not full.
    let lag = format!(
        "series_ingest_kafka_lag_messages{{input=\"points\",topic=\"{}\",partition=\"0\"}}",
        fixture.points_topic
    );
    for number in 1..=8 {
        fixture.publish_series(&mut published, 1, 10, 50);
        until(20, "the message is read", async || worker.metric(&lag) == Some(f64::from(number))).await;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let assigned = || worker.log().matches("partitions assigned").count();
    let before = assigned();
    worker.signal("STOP");
    // Longer than its session, so that the group goes on without it.
    tokio::time::sleep(Duration::from_secs(5)).await;
    worker.signal("CONT");
    until(30, "the partition is assigned again", async || assigned() > before).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    lock.batch_execute("rollback").await.unwrap();
    fixture.until_applied(60).await;
    fixture.assert_exact(&published).await;
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_stops_within_ten_seconds_and_loses_nothing() {
    let Some(fixture) = Fixture::new("sigterm", 4).await else { return };
    let mut published = Published::default();
    // The time that is allowed by default; the session must be longer than that.
    let settings: Vec<(&str, &str)> = SMALL_BATCHES
        .iter()
        .copied()
        .chain([
            ("SERIES_INGEST__SHUTDOWN__DRAIN_TIMEOUT_MS", "5000"),
            ("SERIES_INGEST__KAFKA__SESSION_TIMEOUT_MS", "10000"),
        ])
        .collect();
    for round in 0..3 {
        fixture.publish_series(&mut published, 1000, 10, 50);
        let before = fixture.count_points().await;
        let mut worker = fixture.worker(&settings);
        until(60, "some points", async || fixture.count_points().await > before).await;
        assert!((fixture.count_points().await as usize) < published.rows.len(), "round {round}: under load");
        assert_eq!(worker.terminate(10), Some(0), "{}", worker.log());
        let backends = format!(
            "select count(*) from pg_stat_activity where datname = '{}' and application_name = 'series-ingest'",
            fixture.name
        );
        until(5, "no connection is left", async || fixture.count(&backends).await == 0).await;
    }
    let worker = fixture.worker(SMALL_BATCHES);
    fixture.until_applied(120).await;
    fixture.assert_exact(&published).await;
    drop(worker);
    fixture.remove().await;
}
