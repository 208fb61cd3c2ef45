//! Topics that are recreated, lose records, or have offsets without a message.

use std::time::Duration;

use crate::support::broker::Producer;
use crate::support::data::{Difference, Published, Row};
use crate::support::fixture::{Fixture, connect};
use crate::support::until;

/// Returns `true` if a lag metric of this partition says that all is applied.
async fn until_lag_is_zero(fixture: &Fixture, worker: &crate::support::worker::Worker, partition: i32) {
    let name = format!(
        "series_ingest_kafka_lag_messages{{input=\"points\",topic=\"{}\",partition=\"{partition}\"}}",
        fixture.points_topic
    );
    until(60, "lag 0", async || worker.metric(&name) == Some(0.0)).await;
}

async fn recreate(fixture: &Fixture) {
    fixture.broker.delete(&[&fixture.points_topic]).await;
    until(60, "the topic is gone", async || !fixture.broker.exists(&fixture.points_topic)).await;
    fixture.broker.create(&fixture.points_topic, fixture.partitions, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recreated_topic_is_read_from_its_start() {
    let Some(mut fixture) = Fixture::new("anew", 2).await else { return };
    let mut published = Published::default();
    // Recreated while no worker runs, and while one does.
    fixture.publish_to(&mut published, 0, 20, 5);
    let mut worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    assert_eq!(worker.terminate(10), Some(0));
    recreate(&fixture).await;
    fixture.producer = Producer::new(&fixture.brokers);
    fixture.publish_to(&mut published, 0, 10, 5);
    fixture.publish_to(&mut published, 1, 10, 5);
    let worker = fixture.worker(&[]);
    until(60, "the second topic", async || fixture.count("select count(*) from ingest_source").await == 3).await;
    fixture.until_applied(60).await;
    fixture.assert_exact(&published).await;

    recreate(&fixture).await;
    fixture.producer = Producer::new(&fixture.brokers);
    fixture.publish_to(&mut published, 0, 30, 5);
    fixture.publish_to(&mut published, 1, 5, 5);
    until(90, "the third topic", async || fixture.count("select count(*) from ingest_source").await == 4).await;
    fixture.until_applied(90).await;
    fixture.assert_exact(&published).await;
    until_lag_is_zero(&fixture, &worker, 0).await;
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_removed_before_they_were_read_are_one_gap() {
    let Some(fixture) = Fixture::new("retention", 1).await else { return };
    let mut published = Published::default();
    fixture.publish_to(&mut published, 0, 10, 5);
    let mut worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    assert_eq!(worker.terminate(10), Some(0));
    let mut lost = Published::default();
    for _ in 0..30 {
        let payload = lost.batch("lost", 5);
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(payload.as_bytes()));
    }
    fixture.publish_to(&mut published, 0, 10, 5);
    fixture.broker.delete_records(&fixture.points_topic, 0, 40).await;
    let worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    let rows = fixture.client.query("select from_offset, until_offset, reason from ingest_gap", &[]).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].get::<_, i64>(0), rows[0].get::<_, i64>(1), rows[0].get::<_, &str>(2)), (10, 40, "retention"));
    assert_eq!(fixture.difference(&published).await, Difference::default());
    worker.until_metric("series_ingest_gaps_total", 1.0).await;
    // And reading goes on.
    fixture.publish_to(&mut published, 0, 10, 5);
    fixture.until_applied(60).await;
    assert_eq!(fixture.difference(&published).await, Difference::default());
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_removed_while_a_worker_was_frozen_are_one_gap() {
    let Some(fixture) = Fixture::new("overtaken", 1).await else { return };
    let mut published = Published::default();
    fixture.publish_to(&mut published, 0, 10, 5);
    let worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    // A frozen worker reads nothing, and keeps its place in the log.
    worker.signal("STOP");
    // Its last fetch ends empty, or the broker would still answer it with what comes now.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut lost = Published::default();
    for _ in 0..30 {
        let payload = lost.batch("lost", 5);
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(payload.as_bytes()));
    }
    fixture.publish_to(&mut published, 0, 10, 5);
    fixture.broker.delete_records(&fixture.points_topic, 0, 40).await;
    worker.signal("CONT");
    fixture.until_applied(60).await;
    let rows = fixture.client.query("select from_offset, until_offset from ingest_gap", &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| (row.get(0), row.get(1))).collect::<Vec<(i64, i64)>>(), [(10, 40)]);
    assert_eq!(fixture.difference(&published).await, Difference::default());
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_memory_when_kafka_removes_it_is_not_a_gap() {
    let Some(fixture) = Fixture::new("in_memory", 1).await else { return };
    let mut published = Published::default();
    fixture.publish_to(&mut published, 0, 10, 5);
    let worker = fixture
        .worker(&[("SERIES_INGEST__BATCH__MAX_POINTS", "50"), ("SERIES_INGEST__DATABASE__LOCK_TIMEOUT_MS", "60000")]);
    fixture.until_applied(60).await;
    let lock = connect(&fixture.url).await;
    lock.batch_execute("begin; lock table time_series_data_points in exclusive mode").await.unwrap();
    // One by one, so that each is its own set: the writers take the first, and the others wait in their channel.
    for _ in 0..40 {
        fixture.publish_to(&mut published, 0, 1, 5);
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    worker.signal("STOP");
    tokio::time::sleep(Duration::from_millis(700)).await;
    let mut lost = Published::default();
    for _ in 0..30 {
        let payload = lost.batch("lost", 5);
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(payload.as_bytes()));
    }
    fixture.publish_to(&mut published, 0, 10, 5);
    fixture.broker.delete_records(&fixture.points_topic, 0, 80).await;
    worker.signal("CONT");
    until(30, "a gap", async || fixture.count("select count(*) from ingest_gap").await > 0).await;
    lock.batch_execute("rollback").await.unwrap();
    fixture.until_applied(60).await;
    let rows = fixture.client.query("select from_offset, until_offset from ingest_gap", &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| (row.get(0), row.get(1))).collect::<Vec<(i64, i64)>>(), [(50, 80)]);
    assert_eq!(fixture.difference(&published).await, Difference::default());
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_partitions_overtaken_at_once_have_one_gap_each() {
    let Some(fixture) = Fixture::new("all_overtaken", 8).await else { return };
    let mut published = Published::default();
    let mut lost = Published::default();
    for partition in 0..8 {
        fixture.publish_to(&mut published, partition, 10, 5);
    }
    let worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    for round in 0..2 {
        worker.signal("STOP");
        tokio::time::sleep(Duration::from_millis(700)).await;
        for partition in 0..8 {
            for _ in 0..30 {
                let payload = lost.batch("lost", 5);
                fixture.producer.send(&fixture.points_topic, partition, "s", Some(payload.as_bytes()));
            }
            fixture.publish_to(&mut published, partition, 20, 5);
            fixture.broker.delete_records(&fixture.points_topic, partition, 10 + 50 * round + 30).await;
        }
        worker.signal("CONT");
        fixture.until_applied(120).await;
        assert_eq!(fixture.difference(&published).await, Difference::default());
        assert_eq!(fixture.count("select count(*) from ingest_gap").await, 8 * (round + 1));
        assert_eq!(
            fixture.count("select sum(until_offset - from_offset)::bigint from ingest_gap").await,
            8 * 30 * (round + 1)
        );
    }
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafkas_group_offsets_mean_nothing_to_the_tables() {
    let Some(fixture) = Fixture::new("group_offsets", 1).await else { return };
    let mut published = Published::default();
    fixture.publish_to(&mut published, 0, 20, 5);
    let mut worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    assert_eq!(worker.terminate(10), Some(0));
    fixture.broker.reset_group(&fixture.group, &fixture.points_topic, 0, 0);
    let mut worker = fixture.worker(&[]);
    fixture.publish_to(&mut published, 0, 20, 5);
    fixture.until_applied(60).await;
    fixture.assert_exact(&published).await;
    assert_eq!(worker.metric("series_ingest_points_skipped_total"), Some(0.0));
    assert_eq!(worker.terminate(10), Some(0));
    until(30, "the group is deleted", async || fixture.broker.delete_group(&fixture.group).await).await;
    let worker = fixture.worker(&[]);
    fixture.publish_to(&mut published, 0, 20, 5);
    fixture.until_applied(60).await;
    fixture.assert_exact(&published).await;
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_never_read_before_starts_where_the_configuration_says() {
    let Some(fixture) = Fixture::new("latest", 1).await else { return };
    let mut before = Published::default();
    fixture.publish_to(&mut before, 0, 10, 5);
    let worker = fixture.worker(&[("SERIES_INGEST__KAFKA__START", "latest")]);
    let started = "select count(*) from ingest_progress where next_offset = 10";
    until(60, "the partition starts", async || fixture.count(started).await == 1).await;
    let mut published = Published::default();
    fixture.publish_to(&mut published, 0, 10, 5);
    fixture.until_applied(60).await;
    fixture.assert_exact(&published).await;
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_restored_database_has_lost_is_read_again() {
    let Some(mut fixture) = Fixture::new("restored", 1).await else { return };
    let mut published = Published::default();
    fixture.publish_to(&mut published, 0, 5, 5);
    let worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    let backup = fixture.stored().await;
    fixture.publish_to(&mut published, 0, 15, 5);
    fixture.until_applied(60).await;
    // What a restore does: rows and progress go back together.
    let client = &mut fixture.client;
    let restore = client.transaction().await.unwrap();
    restore
        .batch_execute("update ingest_progress set next_offset = 5, ahead = '{}' where next_offset = 20")
        .await
        .unwrap();
    let keep = backup.iter().map(|row| row.2).max().unwrap();
    let sql = "delete from time_series_data_points where (extract(epoch from \"timestamp\") * 1000000)::bigint > $1";
    restore.execute(sql, &[&keep]).await.unwrap();
    restore.commit().await.unwrap();
    assert_eq!(fixture.stored().await.len(), backup.len());
    fixture.publish_to(&mut published, 0, 1, 5);
    fixture.until_applied(60).await;
    fixture.assert_exact(&published).await;
    // A restore to a time before the partition was ever read.
    fixture.client.batch_execute("truncate time_series_data_points, ingest_progress").await.unwrap();
    fixture.publish_to(&mut published, 0, 1, 5);
    fixture.until_applied(60).await;
    fixture.assert_exact(&published).await;
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_transactions_only_what_is_committed_arrives() {
    let Some(fixture) = Fixture::new("transactions", 1).await else { return };
    let producer = Producer::transactional(&fixture.brokers, &fixture.name);
    let worker = fixture.worker(&[]);
    let mut published = Published::default();
    for round in 0..6 {
        producer.begin();
        let mut aborted = Published::default();
        for _ in 0..10 {
            let payload = if round % 2 == 0 { published.batch("s", 5) } else { aborted.batch("aborted", 5) };
            producer.send(&fixture.points_topic, 0, "s", Some(payload.as_bytes()));
        }
        if round % 2 == 0 {
            producer.commit()
        } else {
            producer.abort()
        }
        if round >= 4 {
            // The last record of the log is a marker, of a commit and then of an abort: neither may look unread.
            until(60, "all points", async || fixture.count_points().await as usize == published.rows.len()).await;
            fixture.until_applied(60).await;
            until_lag_is_zero(&fixture, &worker, 0).await;
        }
    }
    fixture.assert_exact(&published).await;
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_leaves_no_false_gap() {
    let Some(mut fixture) = Fixture::new("compaction", 1).await else { return };
    fixture.points_topic = format!("{}.compacted", fixture.name);
    let settings = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "100"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("delete.retention.ms", "100"),
        ("max.compaction.lag.ms", "1000"),
    ];
    fixture.broker.create(&fixture.points_topic, 1, &settings).await;
    // What each record holds, by offset.
    let mut all: Vec<Vec<Row>> = Vec::new();
    let mut published = Published::default();
    let mut send = |key: &str| {
        let payload = published.batch("s", 5);
        fixture.producer.send(&fixture.points_topic, 0, key, Some(payload.as_bytes()));
        all.push(std::mem::take(&mut published.rows));
    };
    for round in 0..20 {
        for key in ["a", "b", "c"] {
            send(key);
        }
        if round % 5 == 4 {
            fixture.producer.flush();
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }
    fixture.producer.flush();
    until(90, "the log is compacted", async || fixture.broker.offsets(&fixture.points_topic, 0).len() < 40).await;
    // A new segment, with which the closed ones stay as they are.
    send("a");
    fixture.producer.flush();
    let worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    until_lag_is_zero(&fixture, &worker, 0).await;
    assert_eq!(fixture.count("select count(*) from ingest_gap").await, 0);
    // Compaction may go on while the worker reads: what is there at the end was there when it was read, and nothing is there
    // twice or of anything else.
    let left = fixture.broker.offsets(&fixture.points_topic, 0);
    let rows_of = |keep: &dyn Fn(i64) -> bool| {
        (0..).zip(&all).filter(|(offset, _)| keep(*offset)).flat_map(|(_, rows)| rows.clone()).collect::<Vec<_>>()
    };
    let stored = fixture.stored().await;
    assert_eq!(Difference::between(rows_of(&|offset| left.contains(&offset)), stored.clone()).lost, 0);
    let against_all = Difference::between(rows_of(&|_| true), stored);
    assert_eq!((against_all.duplicated, against_all.invented), (0, 0));
    assert!(against_all.lost > 0, "something was compacted away");
    drop(worker);
    fixture.remove().await;
}
