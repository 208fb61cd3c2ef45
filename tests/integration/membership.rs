//! How soon messages are read: after a worker was killed, and of partitions and topics that are new.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use series_ingest::config::Config;

use crate::support::broker::{Member, Producer};
use crate::support::data::Published;
use crate::support::fixture::{Fixture, connect, url_with};
use crate::support::until;
use crate::support::worker::{Worker, run, text};

/// The time within which rows are there after the start of a worker whose predecessors were killed.
const RESTART_S: u64 = 15;
/// The time within which a new partition or topic is read.
const NEW_S: u64 = 30;

/// A worker with the session timeout that the program has by default.
fn worker(fixture: &Fixture) -> Worker {
    let default = Config::load(None, Vec::<(OsString, OsString)>::new()).unwrap().kafka.session_timeout_ms.to_string();
    fixture.worker(&[("SERIES_INGEST__KAFKA__SESSION_TIMEOUT_MS", &default)])
}

async fn until_exact(fixture: &Fixture, seconds: u64, what: &str, published: &Published) {
    until(seconds, what, async || fixture.count_points().await as usize == published.rows.len()).await;
    fixture.assert_exact(published).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_reads_within_15_s_of_its_restart_after_one_kill_and_after_two() {
    let Some(fixture) = Fixture::new("restarted", 2).await else { return };
    let mut published = Published::default();
    let publish_all =
        |published: &mut Published| (0..2).for_each(|partition| fixture.publish_to(published, partition, 1, 5));
    publish_all(&mut published);
    let mut first = worker(&fixture);
    until_exact(&fixture, 60, "the first rows", &published).await;

    first.kill();
    publish_all(&mut published);
    let mut second = worker(&fixture);
    let restarted = Instant::now();
    until_exact(&fixture, RESTART_S, "rows after one kill", &published).await;
    println!("after one kill: {:?}", restarted.elapsed());
    let log = second.log();
    assert!(log.contains("the consumer group has members"), "it says what it waits for: {log}");

    // The third is killed while it waits for the group.
    second.kill();
    publish_all(&mut published);
    let mut third = worker(&fixture);
    until(10, "the third waits", async || third.log().contains("the consumer group has members")).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(third.get("/readyz").unwrap().0, 503, "a worker that waits for the group is not ready");
    third.kill();
    let fourth = worker(&fixture);
    let restarted = Instant::now();
    until_exact(&fixture, RESTART_S, "rows after two kills", &published).await;
    println!("after two kills: {:?}", restarted.elapsed());
    until(10, "ready", async || fourth.get("/readyz").unwrap().0 == 200).await;
    drop(fourth);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_stopped_is_followed_at_once() {
    let Some(fixture) = Fixture::new("stopped", 1).await else { return };
    let mut published = Published::default();
    fixture.publish_to(&mut published, 0, 1, 5);
    let mut first = worker(&fixture);
    until_exact(&fixture, 60, "the first rows", &published).await;
    assert_eq!(first.terminate(10), Some(0));
    fixture.publish_to(&mut published, 0, 1, 5);
    let second = worker(&fixture);
    until_exact(&fixture, 60, "the next rows", &published).await;
    assert!(!second.log().contains("the consumer group has members"), "nothing is waited for: {}", second.log());
    drop(second);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_are_added_are_read_within_30_s() {
    let Some(fixture) = Fixture::new("added", 1).await else { return };
    let mut published = Published::default();
    fixture.publish_to(&mut published, 0, 1, 5);
    let worker = worker(&fixture);
    until_exact(&fixture, 60, "the first rows", &published).await;
    fixture.broker.add_partitions(&fixture.points_topic, 3).await;
    let added = Instant::now();
    // Its own producer: the other one learns of the partitions some time.
    let producer = Producer::new(&fixture.brokers);
    for partition in 1..3 {
        let payload = published.batch("s", 5);
        producer.send(&fixture.points_topic, partition, "s", Some(payload.as_bytes()));
    }
    producer.flush();
    until_exact(&fixture, NEW_S, "rows of the new partitions", &published).await;
    println!("partitions added: {:?}", added.elapsed());
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_created_later_and_one_that_is_recreated_are_read_within_30_s() {
    let Some(mut fixture) = Fixture::new("later", 1).await else { return };
    fixture.broker.delete(&[&fixture.points_topic]).await;
    until(30, "the topic is gone", async || !fixture.broker.exists(&fixture.points_topic)).await;
    let worker = worker(&fixture);
    // It has joined, with the partition of the series' topic.
    let lag = format!(
        "series_ingest_kafka_lag_messages{{input=\"series\",topic=\"{}\",partition=\"0\"}}",
        fixture.series_topic
    );
    until(60, "the series' topic is read", async || worker.metric(&lag).is_some()).await;

    let mut published = Published::default();
    fixture.broker.create(&fixture.points_topic, 1, &[]).await;
    let created = Instant::now();
    fixture.publish_to(&mut published, 0, 1, 5);
    until_exact(&fixture, NEW_S, "rows of the topic that was created", &published).await;
    println!("topic created: {:?}", created.elapsed());

    // With more partitions, and after it was away for long enough to be noticed.
    for pause_s in [0, 15] {
        fixture.broker.delete(&[&fixture.points_topic]).await;
        until(30, "the topic is gone", async || !fixture.broker.exists(&fixture.points_topic)).await;
        tokio::time::sleep(Duration::from_secs(pause_s)).await;
        fixture.broker.create(&fixture.points_topic, 2, &[]).await;
        let created = Instant::now();
        fixture.producer = Producer::new(&fixture.brokers);
        fixture.publish_to(&mut published, 0, 1, 5);
        fixture.publish_to(&mut published, 1, 1, 5);
        until_exact(&fixture, NEW_S, "rows of the topic that was recreated", &published).await;
        println!("topic recreated after {pause_s} s: {:?}", created.elapsed());
    }
    drop(worker);
    fixture.remove().await;
}

fn unready_because(worker: &Worker, words: &str) -> bool {
    worker.get("/readyz").is_some_and(|(code, page)| code == 503 && page.contains(words))
}

const SHARED: &str = "has members of another pipeline or database";

/// Workers of two pipelines, or of two databases, in one group would divide the partitions: nobody would read all.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_another_pipeline_or_database_is_named_and_not_joined() {
    let Some(fixture) = Fixture::new("shared", 2).await else { return };
    let other = fixture.new_database().await;
    let other = url_with(&fixture.url, &other, None);
    let first = fixture.worker(&[]);
    let mut published = Published::default();
    (0..2).for_each(|partition| fixture.publish_to(&mut published, partition, 1, 5));
    until_exact(&fixture, 60, "the first rows", &published).await;
    first.until_ready().await;
    for (name, value) in [("SERIES_INGEST__PIPELINE", "second"), ("DATABASE_URL", &other)] {
        let mut environment = fixture.environment();
        environment.retain(|(known, _)| known != name);
        environment.push((name.to_owned(), value.to_owned()));
        let output = run(&environment, &["check"]);
        assert_eq!(output.status.code(), Some(64), "{}", text(&output));
        assert!(text(&output).contains("kafka.group_id") && text(&output).contains(SHARED), "{}", text(&output));

        let mut second = fixture.worker(&[(name, value)]);
        until(60, "the second is not ready", async || unready_because(&second, SHARED)).await;
        let is_line = |line: &str| line.contains("ERROR") && line.contains(SHARED);
        assert!(second.log().lines().any(is_line), "{}", second.log());
        (0..2).for_each(|partition| fixture.publish_to(&mut published, partition, 1, 5));
        until_exact(&fixture, 60, "the first reads all partitions", &published).await;
        first.until_ready().await;
        assert_eq!(second.terminate(10), Some(0));
    }
    // Its own group is that of its pipeline by default.
    let output = run(&fixture.environment(), &["check"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    drop(first);
    let admin = connect(&url_with(&fixture.url, "postgres", None)).await;
    admin.batch_execute(&format!("drop database {} with (force)", other.rsplit('/').next().unwrap())).await.unwrap();
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_group_another_pipeline_joins_is_not_ready_until_it_has_left() {
    let Some(fixture) = Fixture::new("shared_later", 2).await else { return };
    let worker = fixture.worker(&[]);
    worker.until_ready().await;
    // A client id of a program of another kind, or of this pipeline without a database, is none of another pipeline.
    let harmless = Member::join(&fixture.brokers, &fixture.group, &fixture.points_topic, "series-ingest");
    let also = Member::join(&fixture.brokers, &fixture.group, &fixture.points_topic, "series-ingest/default/-");
    let other = Member::join(&fixture.brokers, &fixture.group, &fixture.points_topic, "series-ingest/other/0a0b0c0d");
    until(60, "not ready", async || unready_because(&worker, SHARED)).await;
    let page = worker.get("/readyz").unwrap().1;
    assert!(page.contains("other") && page.contains("0a0b0c0d") && !page.contains("default"), "{page}");
    let is_line = |line: &str| line.contains("ERROR") && line.contains(SHARED);
    assert!(worker.log().lines().any(is_line), "{}", worker.log());
    drop(other);
    worker.until_ready().await;
    drop((harmless, also));
    drop(worker);
    fixture.remove().await;
}
