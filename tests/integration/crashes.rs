//! Workers that are killed, frozen and stopped.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::support::bed::{Bed, connect};
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
    let mut killed_at_work = 0;
    for _ in 0..ROUNDS {
        publish(&bed, &mut published, 10_000 / ROUNDS);
        tokio::time::sleep(Duration::from_millis(random.random_range(500..1500))).await;
        let chosen = random.random_range(0..workers.len());
        workers[chosen].kill();
        killed_at_work += usize::from((bed.count_points().await as usize) < published.rows.len());
        workers[chosen] = bed.worker(SMALL_BATCHES);
    }
    assert_eq!(published.rows.len(), 1_000_000);
    assert!(killed_at_work > ROUNDS / 2, "there was work to do at most kills: {killed_at_work}");
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
async fn a_partition_lost_and_won_again_while_the_database_is_slow_doubles_nothing() {
    let Some(bed) = Bed::new("slow_rebalance", 1).await else { return };
    let mut published = Published::default();
    publish(&bed, &mut published, 10);
    let worker = bed.worker(&[("SERIES_INGEST__DATABASE__LOCK_TIMEOUT_MS", "60000")]);
    bed.until_applied(60).await;
    let lock = connect(&bed.url).await;
    lock.batch_execute("begin; lock table time_series_data_points in exclusive mode").await.unwrap();
    // More batches than writers: what comes last waits with the worker, in a batch that is not full.
    let lag = format!("series_ingest_kafka_lag_messages{{topic=\"{}\",partition=\"0\"}}", bed.points_topic);
    for number in 1..=8 {
        publish(&bed, &mut published, 1);
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
    bed.until_applied(60).await;
    bed.assert_exact(&published).await;
    drop(worker);
    bed.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_stops_within_ten_seconds_and_loses_nothing() {
    let Some(bed) = Bed::new("sigterm", 4).await else { return };
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
        publish(&bed, &mut published, 1000);
        let before = bed.count_points().await;
        let mut worker = bed.worker(&settings);
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
