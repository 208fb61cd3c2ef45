//! A topic of the wrong shape: it is paused, and loses nothing; a topic that was accepted goes on.

use std::time::Duration;

use crate::support::fixture::Fixture;
use crate::support::fixture_with_proxy::FixtureWithProxy;
use crate::support::until;
use crate::support::worker::{Worker, run, text};

const WRONG: &str = "series = \"{/site}\"\ntime = { at = \"/ts\", unit = \"s\" }\ncolumns = { only = [\"/x\"] }";
const RIGHT: &str = "series = \"{/dev}\"\ntime = { at = \"/t\", unit = \"s\" }\ncolumns = { only = [\"/x\"] }";

/// A topic of two partitions, read by an input of this shape.
async fn foreign_topic(fixture: &mut Fixture, shape: &str) -> String {
    let topic = format!("{}.iot", fixture.name);
    fixture.broker.create(&topic, 2, &[]).await;
    set_shape(fixture, &topic, shape);
    topic
}

fn set_shape(fixture: &mut Fixture, topic: &str, shape: &str) {
    fixture.set_config(&format!("[[input]]\nname = \"iot\"\ntopics = [\"{topic}\"]\nformat = \"json\"\n{shape}\n"));
}

/// Messages with these numbers, over both partitions.
fn publish_numbers(fixture: &Fixture, topic: &str, numbers: std::ops::Range<i32>) {
    for number in numbers {
        let payload = format!(r#"{{"dev":"d{}","t":{number},"x":{number}}}"#, number % 7);
        fixture.producer.send(topic, number % 2, "k", Some(payload.as_bytes()));
    }
    fixture.producer.flush();
}

fn send_good(fixture: &Fixture, topic: &str, partition: i32) {
    fixture.producer.send(topic, partition, "k", Some(br#"{"site":"s","ts":1,"x":1}"#));
    fixture.producer.flush();
}

async fn applied(fixture: &Fixture, topic: &str) -> i64 {
    let sql = "select coalesce(sum(next_offset), 0)::bigint from ingest_progress
               where source_id in (select id from ingest_source where topic = $1)";
    fixture.client.query_one(sql, &[&topic]).await.unwrap().get(0)
}

async fn letters(fixture: &Fixture) -> i64 {
    fixture.count("select coalesce(sum(kept + only_counted), 0)::bigint from ingest_dead_letter_count").await
}

async fn accepted(fixture: &Fixture, topic: &str) -> i64 {
    let sql = "select count(accepted_at) from ingest_source where topic = $1";
    fixture.client.query_one(sql, &[&topic]).await.unwrap().get(0)
}

fn lag(worker: &Worker, topic: &str) -> f64 {
    let of = |partition| {
        worker.metric(&format!(
            "series_ingest_kafka_lag_messages{{input=\"iot\",topic=\"{topic}\",partition=\"{partition}\"}}"
        ))
    };
    of(0).unwrap_or(-1.0) + of(1).unwrap_or(-1.0)
}

fn gauge(worker: &Worker, topic: &str) -> Option<f64> {
    worker.metric(&format!("series_ingest_input_rejecting{{input=\"iot\",topic=\"{topic}\"}}"))
}

/// The line of `/readyz` that says that topics are paused.
fn sentence(worker: &Worker) -> Option<String> {
    let (code, page) = worker.get("/readyz")?;
    let line = page.lines().find(|line| line.starts_with("rejecting: "))?;
    assert_eq!(code, 503, "{page}");
    Some(line.to_owned())
}

async fn until_paused(worker: &Worker) {
    until(60, "a topic is paused", async || sentence(worker).is_some()).await;
}

/// The condition in `/status`: whether it is only a warning.
fn is_warning(worker: &Worker) -> Option<bool> {
    let status: serde_json::Value = serde_json::from_str(&worker.get("/status")?.1).ok()?;
    status["conditions"]["rejecting"]["warning"].as_bool()
}

/// Long enough for all that is read to be written, and for a stopped partition to be started again if it should not be.
async fn a_while() {
    tokio::time::sleep(Duration::from_secs(8)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_of_another_shape_is_paused_and_goes_on_whole_when_its_input_is_corrected() {
    let Some(mut fixture) = Fixture::new("eaten", 1).await else { return };
    let topic = foreign_topic(&mut fixture, WRONG).await;
    publish_numbers(&fixture, &topic, 0..5000);
    let mut worker = fixture.worker(&[]);
    until_paused(&worker).await;
    until(30, "both partitions are paused", async || {
        applied(&fixture, &topic).await == 1000 && sentence(&worker).is_some_and(|text| text.contains("so 2 of its"))
    })
    .await;
    a_while().await;
    assert_eq!((applied(&fixture, &topic).await, letters(&fixture).await), (1000, 1000));
    let said = sentence(&worker).unwrap();
    for words in [
        format!("the input \"iot\" has rejected 1000 messages of the topic {topic} and accepted none"),
        "(100 %): schema: expected /ts, which is missing".to_owned(),
        format!("series-ingest topic inspect {topic}"),
        format!("series-ingest dead-letter redrive --topic {topic}"),
    ] {
        assert!(said.contains(&words), "{words}: {said}");
    }
    assert_eq!(is_warning(&worker), Some(false));
    assert_eq!((lag(&worker, &topic), gauge(&worker, &topic)), (4000.0, Some(1.0)));
    let log = worker.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("a topic is paused")).collect();
    let [line] = lines[..] else { panic!("{lines:?}") };
    assert!(line.contains("ERROR") && line.contains("dev") && line.contains("expected /ts"), "{line}");
    assert_eq!(accepted(&fixture, &topic).await, 0);

    // A restart alone changes nothing.
    assert_eq!(worker.terminate(10), Some(0));
    let mut worker = fixture.worker(&[]);
    until_paused(&worker).await;
    a_while().await;
    assert_eq!((applied(&fixture, &topic).await, letters(&fixture).await), (1000, 1000));
    assert_eq!(worker.terminate(10), Some(0));

    set_shape(&mut fixture, &topic, RIGHT);
    let mut worker = fixture.worker(&[]);
    until(60, "all is applied", async || applied(&fixture, &topic).await == 5000).await;
    assert_eq!(fixture.count_points().await, 4000);
    until(30, "it is recorded as accepted", async || accepted(&fixture, &topic).await == 1).await;
    let redriven = run(&fixture.environment(), &["dead-letter", "redrive", "--topic", &topic]);
    assert!(text(&redriven).contains("1000 dead letters with 1000 points written"), "{}", text(&redriven));
    let once = "select count(distinct \"timestamp\") from time_series_data_points
                where value = extract(epoch from \"timestamp\") and value between 0 and 4999";
    assert_eq!((fixture.count_points().await, fixture.count(once).await), (5000, 5000));
    assert_eq!(sentence(&worker), None);
    assert_eq!(worker.terminate(10), Some(0));

    // It was accepted once, and is never stopped again.
    set_shape(&mut fixture, &topic, WRONG);
    let worker = fixture.worker(&[]);
    publish_numbers(&fixture, &topic, 5000..6500);
    until(60, "all is applied", async || applied(&fixture, &topic).await == 6500).await;
    assert_eq!(letters(&fixture).await, 1500);
    drop(worker);
    fixture.broker.delete(&[&topic]).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_paused_goes_on_when_a_message_of_another_is_accepted() {
    let Some(mut fixture) = Fixture::new("eaten_other", 1).await else { return };
    let topic = foreign_topic(&mut fixture, WRONG).await;
    let worker = fixture.worker(&[("SERIES_INGEST__MESSAGE__REJECTIONS_BEFORE_PAUSE", "100")]);
    for number in 0..300 {
        fixture.producer.send(&topic, 0, "k", Some(format!(r#"{{"x":{number}}}"#).as_bytes()));
    }
    fixture.producer.flush();
    until_paused(&worker).await;
    until(30, "the head is written", async || letters(&fixture).await == 100).await;
    // Another worker that has had a message accepted.
    send_good(&fixture, &topic, 1);
    until(60, "all is applied", async || applied(&fixture, &topic).await == 301).await;
    assert_eq!((letters(&fixture).await, fixture.count_points().await), (300, 1));
    until(30, "it is no reason any more", async || sentence(&worker).is_none()).await;
    drop(worker);
    fixture.broker.delete(&[&topic]).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_accepted_is_reported_and_not_stopped() {
    let Some(mut fixture) = Fixture::new("eaten_good", 1).await else { return };
    let topic = foreign_topic(&mut fixture, WRONG).await;
    let worker = fixture.worker(&[]);
    send_good(&fixture, &topic, 0);
    until(60, "it is accepted", async || accepted(&fixture, &topic).await == 1).await;
    publish_numbers(&fixture, &topic, 0..3000);
    until(60, "all is applied", async || applied(&fixture, &topic).await == 3001).await;
    assert_eq!(letters(&fixture).await, 3000);
    until(30, "it is reported", async || is_warning(&worker) == Some(true)).await;
    assert_eq!(worker.get("/readyz").unwrap().0, 200, "{:?}", worker.get("/readyz"));
    assert_eq!(gauge(&worker, &topic), Some(1.0));
    let said = "the last messages of a partition were all rejected";
    assert_eq!(worker.log().lines().filter(|line| line.contains(said)).count(), 1, "{}", worker.log());
    for partition in [0, 1] {
        send_good(&fixture, &topic, partition);
    }
    until(30, "it is over", async || is_warning(&worker).is_none() && gauge(&worker, &topic) == Some(0.0)).await;
    drop(worker);
    fixture.broker.delete(&[&topic]).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_outage_no_more_of_a_topic_of_another_shape_is_journaled() {
    let Some(mut fixture) = Fixture::new("eaten_outage", 1).await else { return };
    let topic = foreign_topic(&mut fixture, WRONG).await;
    let mut away = FixtureWithProxy::before(fixture).await;
    let worker = away.worker("journal", &[]);
    until(60, "it reads", async || lag(&worker, &topic) == 0.0).await;
    away.proxy.refuse(true);
    worker.until_mode("journaling").await;
    publish_numbers(&away.fixture, &topic, 0..3000);
    until_paused(&worker).await;
    a_while().await;
    let type_ = format!("series_ingest_messages_total{{input=\"iot\",topic=\"{topic}\",type=\"journaled\"}}");
    assert_eq!(worker.metric(&type_), Some(1000.0));
    away.proxy.refuse(false);
    worker.until_mode("streaming").await;
    until(60, "the journal is written", async || letters(&away.fixture).await == 1000).await;
    a_while().await;
    assert_eq!((letters(&away.fixture).await, lag(&worker, &topic)), (1000, 2000.0));
    drop(worker);

    // Started in an outage, a worker does not know that another topic was accepted: what it stops goes on when it does.
    let good = away.fixture.points_topic.clone();
    away.fixture.set_config("");
    let mut worker = away.worker("other", &[]);
    away.fixture.send_point("s", 0);
    away.fixture.producer.flush();
    until(60, "it is accepted", async || accepted(&away.fixture, &good).await == 1).await;
    // With its end the group's offset is committed: that after the message that was accepted.
    assert_eq!(worker.terminate(10), Some(0));
    away.proxy.refuse(true);
    for _ in 0..1500 {
        away.fixture.producer.send(&good, 0, "k", Some(b"{"));
    }
    away.fixture.producer.flush();
    let worker = away.worker("third", &[]);
    worker.until_mode("journaling").await;
    until(60, "it is stopped", async || sentence(&worker).is_some_and(|text| text.contains(&good))).await;
    away.proxy.refuse(false);
    until(60, "all is applied", async || applied(&away.fixture, &good).await == 1501).await;
    assert_eq!(letters(&away.fixture).await, 2500);
    drop(worker);
    away.fixture.broker.delete(&[&topic]).await;
    away.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_paused_if_the_configuration_says_never() {
    let Some(mut fixture) = Fixture::new("eaten_never", 1).await else { return };
    let topic = foreign_topic(&mut fixture, WRONG).await;
    publish_numbers(&fixture, &topic, 0..2500);
    let worker = fixture.worker(&[("SERIES_INGEST__MESSAGE__REJECTIONS_BEFORE_PAUSE", "0")]);
    until(60, "all is applied", async || applied(&fixture, &topic).await == 2500).await;
    assert_eq!(letters(&fixture).await, 2500);
    assert_eq!((worker.get("/readyz").unwrap().0, is_warning(&worker), gauge(&worker, &topic)), (200, None, None));
    drop(worker);
    fixture.broker.delete(&[&topic]).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn planted_bug_the_guard_forgets_the_dead_letters_of_the_process_before() {
    let Some(mut fixture) = Fixture::new("eaten_bug", 1).await else { return };
    let topic = foreign_topic(&mut fixture, WRONG).await;
    publish_numbers(&fixture, &topic, 0..3000);
    for rejected in [1000, 2000] {
        let mut worker = fixture.worker(&[("SERIES_INGEST_PLANTED_BUGS", "guard-forgets-dead-letters")]);
        until_paused(&worker).await;
        until(30, "what was let through is written", async || letters(&fixture).await == rejected).await;
        assert_eq!(worker.terminate(10), Some(0));
    }
    fixture.broker.delete(&[&topic]).await;
    fixture.remove().await;
}
