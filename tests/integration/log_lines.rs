//! How much a worker logs while something is away: a state when it begins, when it changes and when it ends, and not at each
//! attempt.

use std::time::Duration;

use crate::support::cluster::Cluster;
use crate::support::data::Published;
use crate::support::fixture::Fixture;
use crate::support::fixture_with_proxy::FixtureWithProxy;
use crate::support::until;
use crate::support::worker::Worker;

/// For how long lines are counted.
const WATCHED: Duration = Duration::from_secs(20);
/// Maximum number of lines in that time.
const MOST: usize = 20;

/// The lines that a worker has logged.
fn lines(worker: &Worker) -> usize {
    worker.log().lines().count()
}

/// Counts the lines that are logged while something is away, its begin included: there were `before` lines then.
async fn assert_few_lines(worker: &Worker, before: usize) {
    tokio::time::sleep(WATCHED).await;
    let log = worker.log();
    let logged: Vec<&str> = log.lines().skip(before).collect();
    println!("{} lines in {} s", logged.len(), WATCHED.as_secs());
    assert!(!logged.is_empty(), "the outage is logged");
    assert!(logged.len() <= MOST, "{} lines in {} s:\n{}", logged.len(), WATCHED.as_secs(), logged.join("\n"));
}

async fn a_database_that_is_away_is_logged_a_few_times(test: &str, journal: &str) {
    let Some(away) = FixtureWithProxy::new(test, 2).await else { return };
    let mut published = Published::default();
    let worker = away.worker("journal", &[("SERIES_INGEST__JOURNAL__ENABLED", journal)]);
    away.publish(&mut published, 20);
    away.fixture.until_applied(60).await;
    let before = lines(&worker);
    away.proxy.refuse(true);
    away.publish(&mut published, 100);
    assert_few_lines(&worker, before).await;
    away.proxy.refuse(false);
    away.fixture.until_applied(60).await;
    until(20, "its end is logged", async || {
        let log = worker.log();
        log.lines().skip(before).any(|line| line.contains("batches are written again") && line.contains("seconds"))
    })
    .await;
    away.fixture.assert_exact(&published).await;
    drop(worker);
    away.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_with_a_journal() {
    a_database_that_is_away_is_logged_a_few_times("lines_journal", "true").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_without_a_journal() {
    a_database_that_is_away_is_logged_a_few_times("lines_no_journal", "false").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_starts_while_the_database_is_away() {
    let Some(away) = FixtureWithProxy::new("lines_start", 1).await else { return };
    away.proxy.refuse(true);
    let worker = away.worker("journal", &[("SERIES_INGEST__JOURNAL__ENABLED", "false")]);
    until(20, "it waits", async || worker.log().contains("the database is away; waiting for it")).await;
    assert_few_lines(&worker, 0).await;
    away.proxy.refuse(false);
    until(20, "it goes on", async || worker.log().contains("the database is there")).await;
    drop(worker);
    away.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_are_away_and_then_the_database_as_well() {
    let Some(mut cluster) = Cluster::start("lines_brokers", 1).await else { return };
    let fixture = Fixture::on_broker(&cluster.brokers, "lines_brokers", 2).await;
    let away = FixtureWithProxy::before(fixture).await;
    let mut published = Published::default();
    let worker = away.worker("journal", &[]);
    away.publish(&mut published, 20);
    away.fixture.until_applied(60).await;

    let before = lines(&worker);
    cluster.kill();
    assert_few_lines(&worker, before).await;
    let log = worker.log();
    let disturbed: Vec<&str> = log.lines().filter(|line| line.contains("reading from Kafka is disturbed")).collect();
    let refused = |line: &&&str| line.contains(&cluster.brokers) && line.contains("Connection refused");
    let of_broker = disturbed.iter().filter(refused);
    assert_eq!(of_broker.count(), 1, "it names the broker and why, once: {disturbed:#?}");

    let before = lines(&worker);
    away.proxy.refuse(true);
    assert_few_lines(&worker, before).await;

    away.proxy.refuse(false);
    cluster.launch();
    cluster.until_answer().await;
    away.publish(&mut published, 20);
    away.fixture.until_applied(60).await;
    worker.until_mode("streaming").await;
    away.fixture.assert_exact(&published).await;
    drop(worker);
    away.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_deleted_while_it_is_read_is_named_once() {
    let Some(fixture) = Fixture::new("lines_topic", 4).await else { return };
    let mut published = Published::default();
    let publish = |published: &mut Published| {
        for partition in 0..fixture.partitions {
            let payload = published.batch("s", 5);
            fixture.producer.send(&fixture.points_topic, partition, "s", Some(payload.as_bytes()));
        }
        fixture.producer.flush();
    };
    // At this level each report of librdkafka's is a line.
    let worker = fixture.worker(&[("SERIES_INGEST__LOG__FILTER", "info,series_ingest::kafka::consumer=debug")]);
    let disturbed = |level: &str| {
        let log = worker.log();
        let is_one = |line: &&str| line.contains(level) && line.contains("reading from Kafka is disturbed");
        log.lines().filter(is_one).map(str::to_owned).collect::<Vec<_>>()
    };
    publish(&mut published);
    fixture.until_applied(60).await;
    for time in 1..=2 {
        fixture.broker.delete(&[&fixture.points_topic]).await;
        until(60, &format!("it is reported {time} times"), async || disturbed(" DEBUG ").len() == time).await;
        let logged = disturbed(" WARN ");
        assert_eq!(logged.len(), 1, "{}", worker.log());
        assert!(logged[0].contains(&fixture.points_topic) && logged[0].contains("Unknown topic"), "{}", logged[0]);
        fixture.broker.create(&fixture.points_topic, fixture.partitions, &[]).await;
        publish(&mut published);
        until(60, "it is read again", async || fixture.count_points().await == published.rows.len() as i64).await;
    }
    fixture.assert_exact(&published).await;
    drop(worker);
    fixture.remove().await;
}
