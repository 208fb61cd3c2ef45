//! A pipeline moves to another cluster, to which its topics are mirrored: nothing that is written already is written again.

use crate::support::broker::{Broker, Producer};
use crate::support::certificates::Authority;
use crate::support::fixture::Fixture;
use crate::support::secure_broker::SecureBroker;
use crate::support::until;
use crate::support::worker::{Worker, run, text};

/// The messages that both clusters have, and those that only the new one has. Each has one point.
const MIRRORED: i64 = 10;
const NEW: i64 = 5;
/// The definitions of series that both clusters have.
const DEFINITIONS: i64 = 1;

/// Another pipeline with these brokers.
struct Mover<'a> {
    fixture: &'a Fixture,
    pipeline: &'a str,
}

impl Mover<'_> {
    fn group(&self) -> String {
        format!("{}-{}", self.fixture.group, self.pipeline)
    }

    fn settings(&self, brokers: &str) -> Vec<(String, String)> {
        let group = self.group();
        let own = [
            ("KAFKA_BROKERS", brokers),
            ("SERIES_INGEST__PIPELINE", self.pipeline),
            ("SERIES_INGEST__KAFKA__GROUP_ID", &group),
        ];
        let mut all = self.fixture.environment();
        all.retain(|(name, _)| !own.iter().any(|(other, _)| other == name));
        all.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
        all
    }

    fn worker(&self, brokers: &str, new_cluster: Option<&str>) -> Worker {
        let extra: Vec<(&str, &str)> =
            new_cluster.map(|value| ("SERIES_INGEST__KAFKA__NEW_CLUSTER", value)).into_iter().collect();
        Worker::start(&self.fixture.name, &self.settings(brokers), &extra)
    }

    /// The next offset of the points' partition in the cluster that was read last.
    async fn until_next_offset(&self, next_offset: i64) {
        self.until_next_offset_of(&self.fixture.points_topic, next_offset).await;
    }

    /// The same of this topic.
    async fn until_next_offset_of(&self, topic: &str, next_offset: i64) {
        let sql = format!(
            "select count(*) from ingest_progress as p join ingest_source as s on s.id = p.source_id
             where s.pipeline = '{}' and s.topic = '{topic}' and p.next_offset = {next_offset} and s.id = (
                 select max(id) from ingest_source where pipeline = s.pipeline and topic = s.topic)",
            self.pipeline
        );
        let what = format!("{} has next offset {next_offset} of {topic}", self.pipeline);
        until(60, &what, async || self.fixture.count(&sql).await == 1).await;
    }

    /// Reads what the old cluster has.
    async fn read_old(&self) {
        let mut worker = self.worker(&self.fixture.brokers, None);
        self.until_next_offset(MIRRORED).await;
        self.until_next_offset_of(&self.fixture.series_topic, DEFINITIONS).await;
        assert_eq!(worker.terminate(10), Some(0));
    }

    /// The number of the source of the points in the old cluster.
    async fn source(&self) -> String {
        self.source_of(&self.fixture.points_topic).await
    }

    /// The number of this topic's source in the old cluster.
    async fn source_of(&self, topic: &str) -> String {
        let sql = format!(
            "select min(id)::bigint from ingest_source where pipeline = '{}' and topic = '{topic}'",
            self.pipeline
        );
        self.fixture.count(&sql).await.to_string()
    }

    /// Runs `progress …`; returns its exit code and what it prints.
    fn progress(&self, brokers: &str, arguments: &[&str]) -> (Option<i32>, String) {
        let output = run(&self.settings(brokers), &[&["progress"], arguments].concat());
        (output.status.code(), text(&output))
    }
}

fn publish_points(producer: &Producer, topic: &str, seconds: std::ops::Range<i64>) {
    for n in seconds {
        let payload = format!(r#"{{"time_series_id":"s","timestamps":[{n}],"columns":{{"c":[1]}}}}"#);
        producer.send(topic, 0, "s", Some(payload.as_bytes()));
    }
    producer.flush();
}

fn define(producer: &Producer, topic: &str) {
    producer.send(topic, 0, "s", Some(br#"{"type":"series-create","id":"s","name":"a series"}"#));
    producer.flush();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_moves_to_a_mirror_writes_nothing_again() {
    let Some(other) = SecureBroker::start("clusters", &Authority::new("Test CA")).await else { return };
    let Some(fixture) = Fixture::new("clusters", 1).await else { return };
    let new = other.plain.as_str();
    define(&fixture.producer, &fixture.series_topic);
    publish_points(&fixture.producer, &fixture.points_topic, 0..MIRRORED);
    let pipelines = ["adopts", "adopts-given", "synced", "unsynced", "starts", "resets"];
    let [adopts, given, synced, unsynced, starts, resets] =
        pipelines.map(|pipeline| Mover { fixture: &fixture, pipeline });
    for mover in [&adopts, &given, &synced, &unsynced, &starts] {
        mover.read_old().await;
    }
    let mut expected = 5 * MIRRORED;
    assert_eq!(fixture.count_points().await, expected);

    let mirror = Broker::new(new);
    mirror.create(&fixture.series_topic, 1, &[]).await;
    mirror.create(&fixture.points_topic, 1, &[]).await;
    let mirrored = Producer::new(new);
    define(&mirrored, &fixture.series_topic);
    publish_points(&mirrored, &fixture.points_topic, 0..MIRRORED + NEW);
    for mover in [&adopts, &synced] {
        mirror.reset_group(&mover.group(), &fixture.points_topic, 0, MIRRORED);
    }

    // Stopped by default, with what to do.
    let worker = adopts.worker(new, None);
    let source = adopts.source().await;
    let advice = format!("progress adopt --source {source} --group-offsets");
    until(60, "the worker says what to do", async || {
        worker.get("/readyz").is_some_and(|(code, body)| code == 503 && body.contains(&advice))
    })
    .await;
    drop(worker);
    assert_eq!(fixture.count_points().await, expected, "nothing is written while it stops");
    let checked = run(&adopts.settings(new), &["check"]);
    let said = text(&checked);
    assert!(
        checked.status.code() == Some(64) && said.contains("kafka.new_cluster: ") && said.contains(&advice),
        "{said}"
    );

    // Adopted: by the group's offsets.
    let said = adopts.progress(new, &["adopt", "--source", &source, "--group-offsets"]);
    assert_eq!(said.0, Some(0), "{}", said.1);
    assert!(
        said.1.contains(&format!("{MIRRORED} in the other cluster -> {MIRRORED}")) && said.1.contains("--yes"),
        "{}",
        said.1
    );
    let done = adopts.progress(new, &["adopt", "--source", &source, "--group-offsets", "--yes"]);
    assert!(done.0 == Some(0) && done.1.contains("1 partitions were adopted"), "{}", done.1);
    let again = adopts.progress(new, &["adopt", "--source", &source, "--group-offsets", "--yes"]);
    assert!(again.0 == Some(64) && again.1.contains("has progress in the configured cluster already"), "{}", again.1);
    let worker = adopts.worker(new, None);
    adopts.until_next_offset(MIRRORED + NEW).await;
    // The other topic is still to be adopted.
    let series = adopts.source_of(&fixture.series_topic).await;
    until(60, "not ready for the topic of series", async || {
        worker.get("/readyz").is_some_and(|(code, body)| {
            code == 503 && body.contains(&fixture.series_topic) && body.contains(&format!("--source {series} "))
        })
    })
    .await;
    let done = adopts.progress(new, &["adopt", "--source", &series, "--offsets", "0=1", "--yes"]);
    assert!(done.0 == Some(0) && done.1.contains("1 partitions were adopted"), "{}", done.1);
    adopts.until_next_offset_of(&fixture.series_topic, DEFINITIONS).await;
    until(60, "ready", async || worker.get("/readyz").is_some_and(|(code, _)| code == 200)).await;
    drop(worker);
    expected += NEW;
    assert_eq!(fixture.count_points().await, expected);

    // By offsets that are given.
    let source = given.source().await;
    let here = given.progress(&fixture.brokers, &["adopt", "--source", &source, "--offsets", "0=10"]);
    assert!(here.0 == Some(64) && here.1.contains("is of the configured cluster"), "{}", here.1);
    let beyond = given.progress(new, &["adopt", "--source", &source, "--offsets", "0=99", "--yes"]);
    assert!(beyond.0 == Some(64) && beyond.1.contains("outside its log"), "{}", beyond.1);
    let other_partition = given.progress(new, &["adopt", "--source", &source, "--offsets", "1=3", "--yes"]);
    assert!(
        other_partition.0 == Some(64) && other_partition.1.contains("--offsets does not name it"),
        "{}",
        other_partition.1
    );
    let none = given.progress(new, &["adopt", "--source", &source, "--group-offsets", "--yes"]);
    assert!(none.0 == Some(64) && none.1.contains("has no offset of it"), "{}", none.1);
    let offset = format!("0={}", MIRRORED + 2);
    let done = given.progress(new, &["adopt", "--source", &source, "--offsets", &offset, "--yes"]);
    assert_eq!(done.0, Some(0), "{}", done.1);
    let worker = given.worker(new, None);
    given.until_next_offset(MIRRORED + NEW).await;
    drop(worker);
    expected += NEW - 2;
    assert_eq!(fixture.count_points().await, expected);

    // Islands: what is applied above the next offset would be written again.
    let islands = |ranges: &str| {
        format!(
            "update ingest_progress as p set ahead = '{ranges}' from ingest_source as s
             where s.id = p.source_id and s.pipeline = 'synced' and s.topic = '{}'",
            fixture.points_topic
        )
    };
    fixture.client.batch_execute(&islands("{[12,14)}")).await.unwrap();
    let source = synced.source().await;
    let refused = synced.progress(new, &["adopt", "--source", &source, "--group-offsets"]);
    assert!(refused.0 == Some(64) && refused.1.contains("{[12,14)} above its next offset"), "{}", refused.1);
    let accepted = synced.progress(new, &["adopt", "--source", &source, "--group-offsets", "--accept-duplicates"]);
    assert_eq!(accepted.0, Some(0), "{}", accepted.1);
    let worker = synced.worker(new, Some("group-offsets"));
    until(60, "islands stop it", async || {
        worker.get("/readyz").is_some_and(|(code, body)| code == 503 && body.contains("--accept-duplicates"))
    })
    .await;
    drop(worker);
    fixture.client.batch_execute(&islands("{}")).await.unwrap();

    // By the group's offsets, without a command.
    let worker = synced.worker(new, Some("group-offsets"));
    synced.until_next_offset(MIRRORED + NEW).await;
    drop(worker);
    expected += NEW;
    assert_eq!(fixture.count_points().await, expected);
    let worker = unsynced.worker(new, Some("group-offsets"));
    until(60, "a group without offsets stops", async || {
        worker
            .get("/readyz")
            .is_some_and(|(code, body)| code == 503 && body.contains("the group has no offset of it here"))
    })
    .await;
    drop(worker);
    assert_eq!(fixture.count_points().await, expected);

    // As a topic never read: all of it again, which the log says.
    let worker = starts.worker(new, Some("start"));
    starts.until_next_offset(MIRRORED + NEW).await;
    assert!(worker.log().contains("what was written from the other cluster is written again"), "{}", worker.log());
    drop(worker);
    expected += MIRRORED + NEW;
    assert_eq!(fixture.count_points().await, expected);

    // A pipeline that never read the topic anywhere begins where its configuration says.
    let offset = (MIRRORED + 1).to_string();
    let reset = ["reset", "--topic", &fixture.points_topic, "--next-offset", &offset];
    let said = resets.progress(new, &reset);
    assert!(said.0 == Some(0) && said.1.contains("next_offset none -> 11"), "{}", said.1);
    let done = resets.progress(new, &[&reset[..], &["--yes"]].concat());
    assert!(done.0 == Some(0) && done.1.contains("1 partitions were set"), "{}", done.1);
    let worker = resets.worker(new, None);
    resets.until_next_offset(MIRRORED + NEW).await;
    drop(worker);
    expected += NEW - 1;
    assert_eq!(fixture.count_points().await, expected);
    // And again, now that it has progress.
    let done = resets.progress(new, &[&reset[..], &["--yes"]].concat());
    assert!(done.0 == Some(0) && done.1.contains("next_offset 15 -> 11"), "{}", done.1);
    resets.until_next_offset(MIRRORED + 1).await;
    assert_eq!(fixture.count("select count(*) from ingest_gap").await, 0);
    fixture.remove().await;
}
