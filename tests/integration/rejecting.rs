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
    let config = fixture.config(&[]).file().unwrap().display().to_string();
    for words in [
        format!("the input \"iot\" has rejected 1000 messages of the topic {topic} and accepted none"),
        "(100 %): schema: expected /ts, which is missing".to_owned(),
        format!("series-ingest --config {config} topic inspect {topic}`"),
        format!("series-ingest --config {config} dead-letter redrive --topic {topic}`"),
    ] {
        assert!(said.contains(&words), "{words}: {said}");
    }
    assert_eq!(is_warning(&worker), Some(false));
    assert_eq!((lag(&worker, &topic), gauge(&worker, &topic)), (4000.0, Some(1.0)));
    let log = worker.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("topics are paused")).collect();
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

const LIMIT: (&str, &str) = ("SERIES_INGEST__MESSAGE__REJECTIONS_BEFORE_PAUSE", "100");

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_only_the_database_refuses_pause_their_topic_as_well() {
    let Some(mut fixture) = Fixture::new("eaten_unknown", 1).await else { return };
    let topic = foreign_topic(&mut fixture, RIGHT).await;
    publish_numbers(&fixture, &topic, 0..3000);
    let unknown = ("SERIES_INGEST__POINTS__UNKNOWN_SERIES", "dead-letter");
    let mut worker = fixture.worker(&[unknown]);
    until_paused(&worker).await;
    a_while().await;
    assert_eq!((applied(&fixture, &topic).await, letters(&fixture).await), (1000, 1000));
    let said = sentence(&worker).unwrap();
    assert!(said.contains("rejected 1000 messages") && said.contains("unknown_series: "), "{said}");
    assert_eq!(worker.terminate(10), Some(0));
    // Another start tries one message of each partition.
    let mut worker = fixture.worker(&[unknown]);
    until_paused(&worker).await;
    a_while().await;
    let tried = letters(&fixture).await;
    assert!((1001..=1002).contains(&tried), "{tried}");
    assert_eq!(worker.terminate(10), Some(0));

    let worker = fixture.worker(&[]);
    until(60, "all is applied", async || applied(&fixture, &topic).await == 3000).await;
    until(30, "it is no reason any more", async || sentence(&worker).is_none()).await;
    let redriven = run(&fixture.environment(), &["dead-letter", "redrive", "--topic", &topic]);
    assert_eq!(redriven.status.code(), Some(0), "{}", text(&redriven));
    assert_eq!((fixture.count_points().await, letters(&fixture).await), (3000, 0));
    drop(worker);
    fixture.broker.delete(&[&topic]).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_whose_rows_a_constraint_refuses_is_paused_and_a_good_one_is_reported() {
    let Some(mut fixture) = Fixture::new("eaten_check", 1).await else { return };
    let topic = foreign_topic(&mut fixture, RIGHT).await;
    let worker = fixture.worker(&[LIMIT]);
    fixture.send_point("good", 0);
    fixture.producer.flush();
    until(60, "a topic is accepted", async || accepted(&fixture, &fixture.points_topic).await == 1).await;
    let sql = "alter table time_series_data_points add constraint low check (value < -1e9) not valid";
    fixture.client.batch_execute(sql).await.unwrap();
    publish_numbers(&fixture, &topic, 0..400);
    until_paused(&worker).await;
    a_while().await;
    assert_eq!(letters(&fixture).await, 100);
    let said = sentence(&worker).unwrap();
    assert!(said.contains("rejected_by_database: SQLSTATE 23514"), "{said}");
    // One that was accepted goes on, and is reported.
    (0..300).for_each(|second| fixture.send_point("good", second));
    fixture.producer.flush();
    let good = fixture.points_topic.clone();
    until(60, "all is applied", async || applied(&fixture, &good).await == 301).await;
    let reported = format!("the last 300 messages of partition 0 of the topic {good}");
    until(30, "it is reported", async || sentence(&worker).is_some_and(|text| text.contains(&reported))).await;
    fixture.client.batch_execute("alter table time_series_data_points drop constraint low").await.unwrap();
    drop(worker);
    fixture.broker.delete(&[&topic]).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_nothing_to_store_by_its_nature_pauses_nothing_and_what_is_skipped_does() {
    let Some(mut fixture) = Fixture::new("eaten_skipped", 1).await else { return };
    let topics: Vec<String> = ["db", "text"].iter().map(|name| format!("{}.{name}", fixture.name)).collect();
    for topic in &topics {
        fixture.broker.create(topic, 1, &[]).await;
    }
    let input =
        |name: &str, topic: &str, keys: &str| format!("[[input]]\nname = \"{name}\"\ntopics = [\"{topic}\"]\n{keys}\n");
    let change = "format = \"debezium-json\"\nseries = \"{/id}\"\ntime = { at = \"/ts\", unit = \"s\" }";
    fixture.set_config(&(input("db", &topics[0], change) + &input("text", &topics[1], "format = \"influx\"")));
    for number in 0..300 {
        let delete = format!(r#"{{"before":{{"id":{number}}},"after":null,"op":"d","ts_ms":1}}"#);
        fixture.producer.send(&topics[0], 0, "k", Some(delete.as_bytes()));
        fixture.producer.send(&topics[1], 0, "k", Some(format!("m v=\"text {number}\" 1").as_bytes()));
    }
    fixture.producer.send(&topics[0], 0, "k", Some(br#"{"before":null,"after":{"id":"a","ts":1,"x":1},"op":"c"}"#));
    fixture.producer.flush();
    let worker = fixture.worker(&[LIMIT]);
    until(60, "the row is stored", async || fixture.count_points().await == 1).await;
    until_paused(&worker).await;
    let said = sentence(&worker).unwrap();
    for words in
        ["found no value to store in 100 messages of the topic", "(100 %): skipped: ", "progress reset", &topics[1]]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains(&topics[0]), "{said}");
    until(30, "its head is applied", async || applied(&fixture, &topics[1]).await == 100).await;
    assert_eq!((applied(&fixture, &topics[0]).await, letters(&fixture).await), (301, 0));
    drop(worker);
    fixture.broker.delete(&topics.iter().map(String::as_str).collect::<Vec<_>>()).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_topics_of_an_input_share_its_limit_until_one_is_accepted() {
    let Some(mut fixture) = Fixture::new("eaten_many", 1).await else { return };
    let topics: Vec<String> = (0..20).map(|number| format!("{}.iot.{number:02}", fixture.name)).collect();
    for topic in &topics {
        fixture.broker.create(topic, 1, &[]).await;
        (0..200).for_each(|_| fixture.producer.send(topic, 0, "k", Some(br#"{"dev":"a","t":1,"x":1}"#)));
    }
    fixture.producer.flush();
    let pattern = format!(r"^{}\\.iot\\..+", fixture.name);
    set_shape(&mut fixture, &pattern, WRONG);
    let mut worker = fixture.worker(&[LIMIT]);
    until_paused(&worker).await;
    until(30, "all are paused", async || sentence(&worker).is_some_and(|text| text.contains("20 of its partitions")))
        .await;
    a_while().await;
    assert_eq!(letters(&fixture).await, 100);
    let said = sentence(&worker).unwrap();
    assert!(said.contains("rejected 100 messages of the topics") && said.contains(&topics[19]), "{said}");
    assert!((0..20).all(|number| gauge(&worker, &topics[number]) == Some(1.0)));
    let lines = worker.log().lines().filter(|line| line.contains("topics are paused")).count();
    assert_eq!(lines, 1, "one line for all topics: {}", worker.log());
    assert_eq!(worker.terminate(10), Some(0));

    // Once one is accepted, each other one has its own.
    send_good(&fixture, &topics[0], 0);
    let sources = "update ingest_source set accepted_at = now() where topic = $1";
    fixture.client.execute(sources, &[&topics[0]]).await.unwrap();
    let worker = fixture.worker(&[LIMIT]);
    until(60, "each has its own", async || letters(&fixture).await == 200 + 19 * 100).await;
    until(30, "the good one is stored", async || fixture.count_points().await == 1).await;
    let paused = |text: &str| text.contains("19 of its partitions") && !text.contains(&topics[0]);
    until(30, "the others are paused", async || sentence(&worker).is_some_and(|text| paused(&text))).await;
    drop(worker);
    fixture.broker.delete(&topics.iter().map(String::as_str).collect::<Vec<_>>()).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_paused_at_once_if_its_dead_letters_were_only_counted() {
    let Some(mut fixture) = Fixture::new("eaten_full", 1).await else { return };
    let topic = foreign_topic(&mut fixture, WRONG).await;
    publish_numbers(&fixture, &topic, 0..2000);
    let rows = ("SERIES_INGEST__DEAD_LETTER__MAX_ROWS", "50");
    let mut worker = fixture.worker(&[rows, LIMIT]);
    until_paused(&worker).await;
    until(30, "it is written", async || letters(&fixture).await >= 50).await;
    assert_eq!(worker.terminate(10), Some(0));
    let before = letters(&fixture).await;
    // Another topic finds no room.
    let other = format!("{}.other", fixture.name);
    fixture.broker.create(&other, 1, &[]).await;
    set_shape(&mut fixture, &other, WRONG);
    (0..90).for_each(|_| fixture.producer.send(&other, 0, "k", Some(b"{}")));
    fixture.producer.flush();
    let worker = fixture.worker(&[rows, LIMIT]);
    until_paused(&worker).await;
    let said = sentence(&worker).unwrap();
    assert!(said.contains("rejected 0 messages") && said.contains("dead_letter.max_rows is reached"), "{said}");
    // Room is made, and is found.
    let purged = run(&fixture.environment(), &["dead-letter", "purge", "--topic", &topic, "--yes"]);
    assert!(purged.status.success(), "{}", text(&purged));
    let rest = "select coalesce(sum(kept), 0)::bigint from ingest_dead_letter_count";
    until(60, "it goes on", async || fixture.count(rest).await > 0).await;
    assert!(before <= 100, "{before}");
    drop(worker);
    fixture.broker.delete(&[&topic, &other]).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_recreated_while_it_is_paused_is_read() {
    let Some(mut fixture) = Fixture::new("eaten_again", 1).await else { return };
    let topic = foreign_topic(&mut fixture, WRONG).await;
    publish_numbers(&fixture, &topic, 0..300);
    let worker = fixture.worker(&[LIMIT]);
    until_paused(&worker).await;
    fixture.broker.delete(&[&topic]).await;
    until(60, "the topic is gone", async || !fixture.broker.exists(&topic)).await;
    fixture.broker.create(&topic, 2, &[]).await;
    fixture.producer = crate::support::broker::Producer::new(&fixture.brokers);
    send_good(&fixture, &topic, 0);
    until(60, "the new one is read", async || fixture.count_points().await == 1).await;
    until(30, "it is no reason any more", async || sentence(&worker).is_none()).await;
    drop(worker);
    fixture.broker.delete(&[&topic]).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_of_a_group_let_no_more_through_than_each_may_and_stay_paused_after_a_rebalance() {
    let Some(mut fixture) = Fixture::new("eaten_two", 1).await else { return };
    let topic = foreign_topic(&mut fixture, WRONG).await;
    publish_numbers(&fixture, &topic, 0..2000);
    let first = fixture.worker(&[LIMIT]);
    until_paused(&first).await;
    let mut second = fixture.worker(&[LIMIT]);
    let paused = |worker: &Worker| sentence(worker).map_or(0, |text| 1 + usize::from(text.contains("so 2 of its")));
    until(60, "the other one has some, and they are paused", async || {
        paused(&second) > 0 && paused(&first) + paused(&second) == 2
    })
    .await;
    a_while().await;
    assert!((100..=200).contains(&letters(&fixture).await), "{}", letters(&fixture).await);
    second.kill();
    until(60, "it has both", async || sentence(&first).is_some_and(|text| text.contains("so 2 of its"))).await;
    assert!(letters(&fixture).await <= 200);
    drop(first);
    fixture.broker.delete(&[&topic]).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_by_a_wrong_input_stops_and_keeps_the_journal() {
    let Some(mut fixture) = Fixture::new("eaten_replay", 1).await else { return };
    let topic = foreign_topic(&mut fixture, RIGHT).await;
    let mut away = FixtureWithProxy::before(fixture).await;
    // Small sets make many records.
    let mut worker = away.worker("journal", &[LIMIT]);
    until(60, "it reads", async || lag(&worker, &topic) == 0.0).await;
    away.proxy.refuse(true);
    worker.until_mode("journaling").await;
    let journaled = format!("series_ingest_messages_total{{input=\"iot\",topic=\"{topic}\",type=\"journaled\"}}");
    for part in 0..30 {
        publish_numbers(&away.fixture, &topic, part * 100..(part + 1) * 100);
        let count = f64::from((part + 1) * 100);
        until(60, "it is journaled", async || worker.metric(&journaled) == Some(count)).await;
    }
    assert_eq!(worker.terminate(10), Some(0));
    away.proxy.refuse(false);

    set_shape(&mut away.fixture, &topic, WRONG);
    let mut worker = away.worker("journal", &[LIMIT]);
    until_paused(&worker).await;
    let stays = "records stay in the journal";
    until(60, "the replay stops", async || sentence(&worker).is_some_and(|text| text.contains(stays))).await;
    a_while().await;
    let rejected = letters(&away.fixture).await;
    assert!((100..1500).contains(&rejected), "{rejected}");
    assert_eq!((applied(&away.fixture, &topic).await, worker.terminate(10)), (rejected, Some(0)));

    set_shape(&mut away.fixture, &topic, RIGHT);
    let worker = away.worker("journal", &[LIMIT]);
    until(60, "all is applied", async || applied(&away.fixture, &topic).await == 3000).await;
    worker.until_mode("streaming").await;
    let redriven = run(&away.fixture.environment(), &["dead-letter", "redrive", "--topic", &topic]);
    assert_eq!(redriven.status.code(), Some(0), "{}", text(&redriven));
    assert_eq!((away.fixture.count_points().await, letters(&away.fixture).await), (3000, 0));
    drop(worker);
    away.fixture.broker.delete(&[&topic]).await;
    away.remove().await;
}
