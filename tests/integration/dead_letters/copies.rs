//! Copies of dead letters in a topic.

use rdkafka::Message as _;
use rdkafka::message::Headers as _;
use serde_json::Value;

use super::{LETTERS, take};
use crate::support::certificates::Authority;
use crate::support::fixture::{Fixture, connect};
use crate::support::secure_broker::SecureBroker;
use crate::support::until;

#[tokio::test(flavor = "multi_thread")]
async fn copies_wait_in_their_rows_while_kafka_is_away() {
    let test = "published_later";
    let Some(broker) = SecureBroker::start(test, &Authority::new("ours")).await else { return };
    let fixture = Fixture::on_broker(&broker.plain, test, 1).await;
    let topic = format!("{}.dead", fixture.name);
    fixture.broker.create(&topic, 1, &[]).await;
    for number in 0..5 {
        fixture.producer.send(&fixture.points_topic, 0, &format!("key-{number}"), Some(b"{"));
    }
    fixture.producer.flush();
    let lock = connect(&fixture.url).await;
    lock.batch_execute("begin; lock table ingest_dead_letter in share mode").await.unwrap();
    let worker = fixture.worker(&[("SERIES_INGEST__KAFKA__DEAD_LETTER_TOPIC", topic.as_str())]);
    until(60, "it stores the letters", async || fixture.waiting_for_locks().await >= 1).await;
    broker.signal("STOP");
    lock.batch_execute("commit").await.unwrap();
    let count = |outcome: &str| {
        let metric = format!("series_ingest_dead_letters_published_total{{outcome=\"{outcome}\"}}");
        worker.metric(&metric).unwrap_or(0.0)
    };
    until(60, "they are tried unsuccessfully", async || count("failed") >= 5.0).await;
    let waiting = "select count(*) from ingest_dead_letter where to_publish";
    assert_eq!((fixture.count(LETTERS).await, fixture.count(waiting).await, count("delivered")), (5, 5, 0.0));
    broker.signal("CONT");
    until(90, "all are published", async || fixture.count(waiting).await == 0).await;
    until(20, "they are counted", async || count("delivered") == 5.0).await;
    let mut keys: Vec<String> = fixture
        .broker
        .records(&topic, 0)
        .iter()
        .map(|record| String::from_utf8(record.key().unwrap().to_vec()).unwrap())
        .collect();
    // At least once: what was given up may have come to the broker nevertheless.
    keys.sort();
    keys.dedup();
    assert_eq!(keys, ["key-0", "key-1", "key-2", "key-3", "key-4"]);
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_letter_is_published_whole_when_kafka_is_back() {
    let test = "cut_away";
    let Some(broker) = SecureBroker::start(test, &Authority::new("ours")).await else { return };
    let fixture = Fixture::on_broker(&broker.plain, test, 1).await;
    let topic = format!("{}.dead", fixture.name);
    fixture.broker.create(&topic, 1, &[]).await;
    let large = format!("[{}]", "1,".repeat(40_000));
    fixture.producer.send(&fixture.points_topic, 0, "s", Some(large.as_bytes()));
    take(&fixture, &[]).await;
    fixture.client.batch_execute("update ingest_dead_letter set to_publish = true").await.unwrap();
    broker.signal("STOP");
    let worker = fixture.worker(&[("SERIES_INGEST__KAFKA__DEAD_LETTER_TOPIC", topic.as_str())]);
    let why = format!("offset 0 of {}/0 cannot be read from Kafka now", fixture.points_topic);
    until(90, "it waits for Kafka", async || worker.get("/status").is_some_and(|(_, status)| status.contains(&why)))
        .await;
    assert_eq!(fixture.count("select count(*) from ingest_dead_letter where to_publish").await, 1);
    broker.signal("CONT");
    until(90, "it is published", async || {
        fixture.count("select count(*) from ingest_dead_letter where to_publish").await == 0
    })
    .await;
    let copies = fixture.broker.records(&topic, 0);
    assert_eq!(copies.len(), 1);
    assert!(copies[0].payload() == Some(large.as_bytes()), "the payload is whole");
    let marks = copies[0].headers().unwrap().iter().filter(|header| header.key.ends_with(".payload.bytes"));
    assert_eq!(marks.count(), 0);
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_each_letter_is_published_also_by_the_next_worker() {
    let Some(fixture) = Fixture::new("published", 1).await else { return };
    let topic = format!("{}.dead", fixture.name);
    fixture.broker.create(&topic, 1, &[]).await;
    let settings =
        [("SERIES_INGEST__KAFKA__DEAD_LETTER_TOPIC", topic.as_str()), ("SERIES_INGEST__MESSAGE__MAX_BYTES", "70000")];
    let bad = |number: usize| format!("{{\"time_series_id\":\"s\",\"n\":{number}}}");
    let large = format!("[{}]", "1,".repeat(40_000));
    for number in 0..60 {
        fixture.producer.send(&fixture.points_topic, 0, &format!("key-{number}"), Some(bad(number).as_bytes()));
    }
    fixture.producer.send_with_headers(&fixture.points_topic, 0, "large", Some(large.as_bytes()), &[("trace", "42")]);
    fixture.producer.flush();
    // The first worker ends before it has published any.
    let function: String = fixture
        .client
        .query_one("select pg_get_functiondef('ingest_dead_letters_to_publish'::regproc)", &[])
        .await
        .unwrap()
        .get(0);
    // The worker would not start without it.
    let (head, _) = function.split_once("$function$").unwrap();
    let head = head.replace("LANGUAGE sql", "LANGUAGE plpgsql");
    let failing = format!("{head}$function$ begin raise exception 'later'; end $function$");
    fixture.client.batch_execute(&failing).await.unwrap();
    let mut killed = fixture.worker(&settings);
    fixture.until_applied(60).await;
    killed.kill();
    assert_eq!(fixture.count("select count(*) from ingest_dead_letter where to_publish").await, 61);
    assert_eq!(fixture.broker.offsets(&topic, 0).len(), 0);
    fixture.client.batch_execute(&function).await.unwrap();
    let worker = fixture.worker(&settings);
    until(60, "all are published", async || {
        fixture.count("select count(*) from ingest_dead_letter where to_publish").await == 0
    })
    .await;
    // And one that comes now.
    fixture.producer.send(&fixture.points_topic, 0, "late", Some(b"{"));
    fixture.producer.flush();
    until(60, "the late one is published", async || fixture.broker.offsets(&topic, 0).len() == 62).await;
    let records = fixture.broker.records(&topic, 0);
    let original = fixture.broker.records(&fixture.points_topic, 0);
    assert_eq!(original.len(), 62);
    for (record, original) in records.iter().zip(&original) {
        assert_eq!(record.key(), original.key());
        assert!(record.payload() == original.payload(), "the payload of offset {} is unchanged", original.offset());
        assert_eq!(record.timestamp(), original.timestamp());
        let headers = record.headers().unwrap();
        let value = |name: &str| {
            let found: Vec<_> = headers.iter().filter(|header| header.key == name).collect();
            assert_eq!(found.len(), 1, "{name}");
            String::from_utf8(found[0].value.unwrap().to_vec()).unwrap()
        };
        assert_eq!(value("__connect.errors.topic"), fixture.points_topic);
        assert_eq!(value("__connect.errors.partition"), "0");
        assert_eq!(value("__connect.errors.offset"), original.offset().to_string());
        assert_eq!(value("__connect.errors.connector.name"), "default");
        assert_eq!(value("__connect.errors.task.id"), "0");
        assert_eq!(value("__connect.errors.stage"), "VALUE_CONVERTER");
        assert_eq!(value("__connect.errors.class.name"), "series_ingest::message::Decoder");
        let reason = value("__connect.errors.exception.class.name");
        assert!(["schema", "too_large", "syntax"].contains(&reason.as_str()), "{reason}");
        let detail = value("__connect.errors.exception.message");
        assert!(!detail.is_empty());
        assert_eq!(value("__connect.errors.exception.stacktrace"), format!("{reason}: {detail}"));
        if original.key() == Some(b"large") {
            assert_eq!(value("trace"), "42");
        }
    }
    let metric = "series_ingest_dead_letters_published_total{outcome=\"delivered\"}";
    until(20, "they are counted", async || worker.metric(metric) == Some(62.0)).await;
    drop(worker);
    fixture.broker.delete(&[&topic]).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_for_copies_is_reported_and_keeps_nothing_from_moving() {
    let Some(fixture) = Fixture::new("no_dead_topic", 1).await else { return };
    let topic = format!("{}.dead", fixture.name);
    fixture.producer.send(&fixture.points_topic, 0, "s", Some(b"{"));
    fixture.producer.flush();
    let worker = fixture.worker(&[("SERIES_INGEST__KAFKA__DEAD_LETTER_TOPIC", topic.as_str())]);
    let problem = || {
        let status: Value = serde_json::from_str(&worker.get("/status").unwrap().1).unwrap();
        status["dead_letter_topic"]["problem"]["reason"].as_str().map(str::to_owned)
    };
    fixture.until_applied(60).await;
    let missing = format!("there is no topic {topic}");
    until(60, "it says what is missing", async || problem().is_some_and(|why| why.contains(&missing))).await;
    assert!(worker.log().contains(&missing), "{}", worker.log());
    assert_eq!(worker.get("/readyz").unwrap().0, 200, "nothing waits for copies");
    fixture.broker.create(&topic, 1, &[]).await;
    until(60, "the copy is there", async || fixture.broker.offsets(&topic, 0).len() == 1).await;
    until(60, "the problem is over", async || problem().is_none()).await;
    drop(worker);
    fixture.broker.delete(&[&topic]).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_cannot_be_read_keep_no_others_from_being_published() {
    let Some(fixture) = Fixture::new("unread", 1).await else { return };
    let topic = format!("{}.dead", fixture.name);
    fixture.broker.create(&topic, 1, &[]).await;
    let large = format!("[{}]", "1,".repeat(40_000));
    fixture.producer.send(&fixture.points_topic, 0, "large", Some(large.as_bytes()));
    take(&fixture, &[]).await;
    // More than a page of cut letters that Kafka does not let be read: the topic has no such partition.
    fixture.client
        .batch_execute(
            "insert into ingest_dead_letter (source_id, partition, \"offset\", payload, payload_bytes, reason, to_publish)
                 select source_id, 7, n, payload, payload_bytes, reason, true
                 from ingest_dead_letter, generate_series(1, 60) as n;
             delete from ingest_dead_letter where partition = 0",
        )
        .await
        .unwrap();
    let worker = fixture.worker(&[("SERIES_INGEST__KAFKA__DEAD_LETTER_TOPIC", topic.as_str())]);
    let problem = || {
        let status: Value = serde_json::from_str(&worker.get("/status").unwrap().1).unwrap();
        status["dead_letter_topic"]["problem"]["reason"].as_str().map(str::to_owned)
    };
    fixture.producer.send(&fixture.points_topic, 0, "behind", Some(b"{"));
    fixture.producer.flush();
    until(60, "the letter behind is published", async || fixture.broker.offsets(&topic, 0).len() == 1).await;
    let unread = format!("offset 1 of {}/7 cannot be read from Kafka now", fixture.points_topic);
    until(60, "it says why", async || problem().is_some_and(|why| why.contains(&unread))).await;
    let waiting = "select count(*) from ingest_dead_letter where to_publish";
    assert_eq!(fixture.count(waiting).await, 60);

    // One of them can be read now.
    fixture
        .client
        .batch_execute(
            "update ingest_dead_letter set partition = 0, \"offset\" = 0 where \"offset\" = 30 and partition = 7",
        )
        .await
        .unwrap();
    until(60, "it is published", async || fixture.count(waiting).await == 59).await;
    let last = fixture.broker.records(&topic, 0).pop().unwrap();
    assert!(last.payload() == Some(large.as_bytes()), "the payload is whole");
    fixture.client.batch_execute("delete from ingest_dead_letter where to_publish").await.unwrap();
    until(60, "the problem is over", async || problem().is_none()).await;
    drop(worker);
    fixture.broker.delete(&[&topic]).await;
    fixture.remove().await;
}
