//! Which topics inputs read: by name and by regular expression, also those that are created while a worker runs.

use std::time::Duration;

use crate::support::broker::Producer;
use crate::support::data::Published;
use crate::support::fixture::{Fixture, connect};
use crate::support::fixture_with_proxy::FixtureWithProxy;
use crate::support::until;
use crate::support::worker::{Worker, run, text};

/// 2024-01-02, in seconds since the Unix epoch.
const START_S: i64 = 1_704_164_645;
/// What a file sets and the environment of a fixture would set as well.
const NATIVE: [&str; 2] = ["SERIES_INGEST__KAFKA__SERIES_TOPIC", "SERIES_INGEST__KAFKA__POINTS_TOPIC"];

/// A worker that reads nothing but what its `[[input]]` sections have.
const WITHOUT_NATIVE: [(&str, &str); 2] = [(NATIVE[0], ""), (NATIVE[1], "")];

/// An `[[input]]` of flat JSON.
fn section(name: &str, topics: &[String]) -> String {
    format!(
        "[[input]]\nname = \"{name}\"\ntopics = {topics:?}\nformat = \"json\"\nseries = \"{{/id}}\"\n\
         time = {{ at = \"/ts\", unit = \"s\" }}\n"
    )
}

/// A regular expression of all topics whose names begin with the fixture's and this word.
fn all_of(fixture: &Fixture, word: &str) -> String {
    format!(r"^{}\.{word}\..+", fixture.name)
}

/// What was published to topics of inputs, and how many messages it was.
#[derive(Default)]
struct Readings {
    published: Published,
    messages: i64,
}

impl Readings {
    /// Publishes messages with one point each.
    fn send(&mut self, producer: &Producer, topic: &str, partition: i32, messages: usize) {
        for _ in 0..messages {
            let second = START_S + self.messages;
            let payload = format!(r#"{{"id":"d1","ts":{second},"temp":{}.5}}"#, self.messages);
            producer.send(topic, partition, "d1", Some(payload.as_bytes()));
            let value = self.messages as f64 + 0.5;
            self.published.rows.push(("d1".to_owned(), "temp".to_owned(), second * 1_000_000, value.to_bits()));
            self.messages += 1;
        }
    }

    /// Waits until all of it is applied, and compares.
    async fn until_exact(&self, fixture: &Fixture, seconds: u64) {
        let applied = "select coalesce(sum(next_offset), 0)::bigint from ingest_progress";
        until(seconds, &format!("{} messages are applied", self.messages), async || {
            fixture.count(applied).await == self.messages
        })
        .await;
        fixture.assert_exact(&self.published).await;
    }
}

async fn create(fixture: &Fixture, topics: &[String]) {
    for topic in topics {
        fixture.broker.create(topic, 1, &[]).await;
    }
}

async fn delete(fixture: &Fixture, topics: &[String]) {
    fixture.broker.delete(&topics.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

/// The sum of a metric over the lines that have all of these labels.
fn sum(worker: &Worker, metric: &str, labels: &[(&str, &str)]) -> f64 {
    let (_, body) = worker.get("/metrics").unwrap();
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    body.lines()
        .filter(|line| line.starts_with(&format!("series_ingest_{metric}{{")))
        .filter(|line| labels.iter().all(|label| line.contains(label)))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

fn status(worker: &Worker) -> serde_json::Value {
    serde_json::from_str(&worker.get("/status").unwrap().1).unwrap()
}

fn is_ready(worker: &Worker) -> bool {
    worker.get("/readyz").is_some_and(|(code, _)| code == 200)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_input_has_its_own_lag_counters_and_dead_letters() {
    let Some(mut fixture) = Fixture::new("own_lag", 1).await else { return };
    let topics: Vec<String> = ["iot", "plc"].iter().map(|name| format!("{}.{name}", fixture.name)).collect();
    create(&fixture, &topics).await;
    fixture.set_config(&(section("iot", &topics[..1]) + &section("plc", &topics[1..])));
    let mut readings = Readings::default();
    readings.send(&fixture.producer, &topics[0], 0, 7);
    readings.send(&fixture.producer, &topics[1], 0, 5);
    for (topic, count) in [(&topics[0], 2), (&topics[1], 1)] {
        (0..count).for_each(|_| fixture.producer.send(topic, 0, "k", Some(br#"{"nobody":1}"#)));
    }
    fixture.publish(&mut readings.published, 10, 3);
    fixture.send_point("native", START_S);
    fixture.producer.send(&fixture.points_topic, 0, "k", Some(b"{}"));
    fixture.producer.flush();
    let worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    for (input, topic, good, bad) in [
        ("iot", &topics[0], 7.0, 2.0),
        ("plc", &topics[1], 5.0, 1.0),
        ("points", &fixture.points_topic, 11.0, 1.0),
        ("series", &fixture.series_topic, 0.0, 0.0),
    ] {
        let labels = [("input", input), ("topic", topic.as_str())];
        let of = |kind| sum(&worker, "messages_total", &[labels[0], labels[1], ("type", kind)]);
        until(30, &format!("messages of {input}"), async || of("point-batch") == good && of("rejected") == bad).await;
        assert_eq!(sum(&worker, "messages_total", &labels[..1]), good + bad, "{input}");
        until(30, "dead letters", async || sum(&worker, "dead_letters_total", &labels[..1]) == bad).await;
        let lag = format!("series_ingest_kafka_lag_messages{{input=\"{input}\",topic=\"{topic}\",partition=\"0\"}}");
        until(30, "no lag", async || worker.metric(&lag) == Some(0.0)).await;
        let seconds = lag.replace("lag_messages", "lag_seconds");
        assert_eq!(worker.metric(&seconds), Some(0.0), "{input}");
        let partitions = status(&worker)["partitions"].as_array().unwrap().clone();
        let shown: Vec<_> = partitions.iter().filter(|one| one["topic"] == topic.as_str()).collect();
        assert_eq!((shown.len(), &shown[0]["input"]), (1, &input.into()));
    }
    let letters =
        "select count(*) from ingest_dead_letter as letter join ingest_source as source on source.id = letter.source_id
                   where source.topic = $1";
    for (topic, count) in [(&topics[0], 2), (&topics[1], 1), (&fixture.points_topic, 1)] {
        assert_eq!(fixture.client.query_one(letters, &[topic]).await.unwrap().get::<_, i64>(0), count);
    }
    // One input lags while another does not.
    let lock = connect(&fixture.url).await;
    lock.batch_execute("begin; lock table time_series_data_points in exclusive mode").await.unwrap();
    readings.send(&fixture.producer, &topics[0], 0, 3);
    fixture.producer.flush();
    let lag = |input| sum(&worker, "kafka_lag_messages", &[("input", input)]);
    until(30, "iot lags", async || lag("iot") == 3.0).await;
    assert_eq!((lag("plc"), lag("points")), (0.0, 0.0));
    lock.batch_execute("rollback").await.unwrap();
    until(60, "no lag", async || lag("iot") == 0.0).await;
    drop(worker);
    delete(&fixture, &topics).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_a_regular_expression_matches_are_read_as_they_come_and_go() {
    let Some(mut fixture) = Fixture::new("regex", 1).await else { return };
    let topics: Vec<String> = (0..3).map(|number| format!("{}.site.{number}", fixture.name)).collect();
    fixture.set_config(&section("iot", &[all_of(&fixture, "site")]));
    let dead = format!("{}.site.dead", fixture.name);
    fixture.broker.create(&dead, 1, &[]).await;
    let worker =
        fixture.worker(&[WITHOUT_NATIVE[0], WITHOUT_NATIVE[1], ("SERIES_INGEST__KAFKA__DEAD_LETTER_TOPIC", &dead)]);
    // There is none yet: the worker is ready, and says so.
    until(60, "ready without a topic", async || is_ready(&worker)).await;
    let nothing = "no topic matches a regular expression of an input";
    until(30, "it is logged", async || worker.log().contains(nothing)).await;
    assert_eq!(status(&worker)["conditions"]["no_topic"]["warning"], true);
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert!(is_ready(&worker), "{:?}", worker.get("/readyz"));
    let lines = worker.log().lines().filter(|line| line.contains(" WARN ") || line.contains("ERROR")).count();
    assert!(lines <= 3, "nothing is repeated:\n{}", worker.log());

    let mut readings = Readings::default();
    create(&fixture, &topics[..2]).await;
    readings.send(&fixture.producer, &topics[0], 0, 10);
    readings.send(&fixture.producer, &topics[1], 0, 10);
    readings.until_exact(&fixture, 30).await;
    assert!(status(&worker)["conditions"].get("no_topic").is_none());
    // Alongside topics that are read; and the topic for copies is never read.
    create(&fixture, &topics[2..]).await;
    readings.send(&fixture.producer, &topics[2], 0, 10);
    fixture.producer.send(&dead, 0, "k", Some(br#"{"id":"d1","ts":1,"temp":1}"#));
    readings.until_exact(&fixture, 30).await;
    fixture.broker.add_partitions(&topics[0], 3).await;
    fixture.producer = Producer::new(&fixture.brokers);
    for partition in 0..3 {
        readings.send(&fixture.producer, &topics[0], partition, 5);
    }
    readings.until_exact(&fixture, 40).await;
    fixture.producer.flush();

    // Deleted and created again: another source, which is read from its start.
    fixture.broker.delete(&[&topics[1]]).await;
    until(60, "the topic is gone", async || !fixture.broker.exists(&topics[1])).await;
    fixture.broker.create(&topics[1], 1, &[]).await;
    fixture.producer = Producer::new(&fixture.brokers);
    // The new topic has the offset at which the old one was read last.
    readings.send(&fixture.producer, &topics[1], 0, 15);
    readings.until_exact(&fixture, 60).await;
    let sources = "select count(*) from ingest_source where topic = $1";
    assert_eq!(fixture.client.query_one(sources, &[&topics[1]]).await.unwrap().get::<_, i64>(0), 2);

    // Gone for longer than two lists: it is not missed.
    fixture.broker.delete(&[&topics[2]]).await;
    until(60, "it is logged", async || worker.log().contains("topics no longer exist")).await;
    until(30, "ready", async || is_ready(&worker)).await;
    let lag = format!("topic=\"{}\"", topics[2]);
    until(30, "its lag is forgotten", async || {
        let (_, body) = worker.get("/metrics").unwrap();
        !body.lines().any(|line| line.starts_with("series_ingest_kafka_lag") && line.contains(&lag))
    })
    .await;
    readings.send(&fixture.producer, &topics[0], 2, 5);
    readings.until_exact(&fixture, 30).await;
    drop(worker);
    delete(&fixture, &[&topics[..2], &[dead]].concat()).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_topics_arrive_exactly_also_if_the_worker_is_killed() {
    let Some(mut fixture) = Fixture::new("many_topics", 1).await else { return };
    let topics: Vec<String> = (0..200).map(|number| format!("{}.many.{number}", fixture.name)).collect();
    create(&fixture, &topics).await;
    fixture.set_config(&section("iot", &[all_of(&fixture, "many")]));
    let mut readings = Readings::default();
    let publish = |readings: &mut Readings, messages| {
        topics.iter().for_each(|topic| readings.send(&fixture.producer, topic, 0, messages));
        fixture.producer.flush();
    };
    publish(&mut readings, 20);
    let mut worker = fixture.worker(&WITHOUT_NATIVE);
    until(90, "some are applied", async || fixture.count_points().await > 0).await;
    worker.kill();
    publish(&mut readings, 10);
    let worker = fixture.worker(&WITHOUT_NATIVE);
    readings.until_exact(&fixture, 120).await;
    publish(&mut readings, 10);
    readings.until_exact(&fixture, 60).await;
    until(60, "ready", async || is_ready(&worker)).await;
    assert_eq!(status(&worker)["partitions"].as_array().unwrap().len(), 200);
    let log = worker.log();
    assert!(log.lines().count() < 60, "no line for each topic:\n{log}");
    assert!(log.lines().all(|line| line.len() < 4000), "{log}");
    drop(worker);
    delete(&fixture, &topics).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_of_a_group_divide_the_topics_of_a_regular_expression() {
    let Some(mut fixture) = Fixture::new("divided", 1).await else { return };
    let topics: Vec<String> = (0..12).map(|number| format!("{}.site.{number}", fixture.name)).collect();
    create(&fixture, &topics[..8]).await;
    fixture.set_config(&section("iot", &[all_of(&fixture, "site")]));
    let mut readings = Readings::default();
    let publish = |readings: &mut Readings, topics: &[String]| {
        topics.iter().for_each(|topic| readings.send(&fixture.producer, topic, 0, 25));
        fixture.producer.flush();
    };
    let first = fixture.worker(&WITHOUT_NATIVE);
    publish(&mut readings, &topics[..8]);
    readings.until_exact(&fixture, 60).await;
    let mut second = fixture.worker(&WITHOUT_NATIVE);
    let owned =
        |worker: &Worker| worker.get("/status").map_or(0, |_| status(worker)["partitions"].as_array().unwrap().len());
    until(60, "divided", async || owned(&first) == 4 && owned(&second) == 4).await;
    // Created while both run: each finds them for itself.
    create(&fixture, &topics[8..]).await;
    publish(&mut readings, &topics);
    readings.until_exact(&fixture, 60).await;
    until(60, "divided again", async || owned(&first) == 6 && owned(&second) == 6).await;
    publish(&mut readings, &topics);
    second.kill();
    publish(&mut readings, &topics);
    readings.until_exact(&fixture, 90).await;
    drop(first);
    delete(&fixture, &topics).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_of_two_inputs_is_a_fault_of_the_configuration_and_is_not_read() {
    let Some(mut fixture) = Fixture::new("contested", 1).await else { return };
    let topics: Vec<String> = ["a.b", "a.c", "x.b"].iter().map(|name| format!("{}.{name}", fixture.name)).collect();
    create(&fixture, &topics[1..]).await;
    let refused = |fixture: &Fixture, key: &str, words: &str| {
        let checked = run(&fixture.environment(), &["check"]);
        let mut worker = fixture.worker(&[]);
        let (code, log) = (worker.exit_code(60), worker.log());
        for (command, code, said) in [("check", checked.status.code(), text(&checked)), ("run", code, log)] {
            assert_eq!(code, Some(64), "{command}: {said}");
            assert!(said.contains(key) && said.contains(words), "{command}: {said}");
        }
    };
    // By name in both.
    fixture.set_config(&(section("one", &topics[1..2]) + &section("two", &topics[1..2])));
    refused(&fixture, "input \"two\".topics", "is a topic of the input \"one\", too");

    let (by_a, by_b) = (all_of(&fixture, "a"), format!(r"^{}\..+\.b", fixture.name));
    fixture.set_config(&(section("one", std::slice::from_ref(&by_a)) + &section("two", std::slice::from_ref(&by_b))));
    let mut worker = fixture.worker(&[]);
    let mut readings = Readings::default();
    readings.send(&fixture.producer, &topics[1], 0, 5);
    readings.send(&fixture.producer, &topics[2], 0, 5);
    readings.until_exact(&fixture, 60).await;
    until(30, "ready", async || is_ready(&worker)).await;
    // Created while the worker runs: it is not read, the worker is not ready, and the others go on.
    create(&fixture, &topics[..1]).await;
    fixture.producer.send(&topics[0], 0, "k", Some(br#"{"id":"lost","ts":1,"temp":1}"#));
    until(30, "not ready", async || {
        let (code, why) = worker.get("/readyz").unwrap();
        code == 503
            && why.contains("contested_topics: ")
            && why.contains("\"one\" and \"two\"")
            && why.contains(&topics[0])
    })
    .await;
    readings.send(&fixture.producer, &topics[1], 0, 5);
    readings.until_exact(&fixture, 30).await;
    tokio::time::sleep(Duration::from_secs(12)).await;
    let lines = worker.log().lines().filter(|line| line.contains("is matched by regular expressions")).count();
    assert_eq!(lines, 1, "{}", worker.log());
    assert_eq!(worker.terminate(10), Some(0));
    refused(&fixture, "input \"two\".topics", &topics[0]);
    // Named in one of them, it is that one's.
    fixture.set_config(&(section("one", &[by_a, topics[0].clone()]) + &section("two", &[by_b])));
    let output = run(&fixture.environment(), &["check"]);
    assert!(output.status.success(), "{}", text(&output));
    delete(&fixture, &topics).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_looks_at_the_topics_of_all_inputs() {
    let Some(mut fixture) = Fixture::new("check_inputs", 1).await else { return };
    let topics: Vec<String> = ["there", "compact"].iter().map(|name| format!("{}.{name}", fixture.name)).collect();
    create(&fixture, &topics[..1]).await;
    let missing = format!("{}.missing", fixture.name);
    let nothing = all_of(&fixture, "nothing");
    fixture.set_config(
        &(section("iot", &[topics[0].clone(), missing.clone()]) + &section("later", std::slice::from_ref(&nothing))),
    );
    let output = run(&fixture.environment(), &["check"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let has_line = |words: &[&str]| said.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(has_line(&["warning: input \"iot\".topics: ", &missing, "input \"iot\" does not exist"]), "{said}");
    assert!(has_line(&["warning: input \"later\".topics: no topic matches", "nothing"]), "{said}");
    assert!(has_line(&["topic ", &topics[0], "1 partitions"]), "{said}");
    let output = run(&fixture.environment(), &["check", "--json"]);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let is_missing =
        |fact: &serde_json::Value| fact["subject"] == "warning" && fact["text"].as_str().unwrap().contains(&missing);
    assert!(document["ok"] == true && document["facts"].as_array().unwrap().iter().any(is_missing), "{document}");

    // Compaction loses points of any format.
    fixture.broker.create(&topics[1], 1, &[("cleanup.policy", "compact")]).await;
    fixture.set_config(&section("iot", &topics));
    let output = run(&fixture.environment(), &["check", "--json"]);
    assert_eq!(output.status.code(), Some(64), "{}", text(&output));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let problem = &document["problems"][0];
    assert_eq!(problem["key"], "input \"iot\".topics", "{document}");
    assert!(problem["text"].as_str().unwrap().contains("cleanup.policy=compact"), "{document}");
    let worker = fixture.worker(&[]);
    until(60, "not ready", async || {
        worker
            .get("/readyz")
            .is_some_and(|(code, why)| code == 503 && why.contains("topic: ") && why.contains(&topics[1]))
    })
    .await;
    drop(worker);
    delete(&fixture, &topics).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_with_messages_of_a_topic_that_no_input_reads_is_refused() {
    let Some(mut away) = FixtureWithProxy::new("no_input", 1).await else { return };
    let topics = vec![format!("{}.iot", away.fixture.name)];
    create(&away.fixture, &topics).await;
    let iot = section("iot", &topics);
    away.fixture.set_config(&iot);
    let mut readings = Readings::default();
    let mut worker = away.worker("journal", &[]);
    readings.send(&away.fixture.producer, &topics[0], 0, 5);
    readings.until_exact(&away.fixture, 60).await;
    away.proxy.refuse(true);
    readings.send(&away.fixture.producer, &topics[0], 0, 5);
    away.fixture.producer.flush();
    worker.until_mode("journaling").await;
    until(60, "journaled", async || {
        let status = status(&worker);
        let position = |one: &serde_json::Value| one["topic"] == topics[0].as_str() && one["position"] == 10;
        status["buffered_bytes"] == 0 && status["partitions"].as_array().unwrap().iter().any(position)
    })
    .await;
    assert_eq!(worker.terminate(10), Some(0));
    away.proxy.refuse(false);

    away.fixture.set_config("");
    let mut refused = away.worker("journal", &[]);
    assert_eq!(refused.exit_code(60), Some(64), "{}", refused.log());
    let journal = away.journal("journal");
    let arguments = ["journal", "replay", "--directory", journal.to_str().unwrap()];
    let output = run(&away.fixture.environment(), &arguments);
    assert_eq!(output.status.code(), Some(64), "{}", text(&output));
    for said in [refused.log(), text(&output)] {
        assert!(
            said.contains(&topics[0]) && said.contains("[[input]] again") && said.contains("journal export"),
            "{said}"
        );
    }
    assert_eq!(away.fixture.count("select count(*) from ingest_dead_letter").await, 0);
    // What the database has needs no input.
    let other = ["journal", "replay", "--dry-run", "--until-offset", "5", "--directory", journal.to_str().unwrap()];
    let output = run(&away.fixture.environment(), &other);
    assert!(output.status.success(), "{}", text(&output));

    away.fixture.set_config(&iot);
    let output = run(&away.fixture.environment(), &arguments);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("decoded by the inputs as they are configured now"), "{}", text(&output));
    readings.until_exact(&away.fixture, 10).await;
    // The records stay for journal.grace_s, and stop nothing.
    away.fixture.set_config("");
    let worker = away.worker("journal", &[]);
    worker.until_ready().await;
    drop(worker);
    delete(&away.fixture, &topics).await;
    away.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_takes_the_dead_letter_topic_for_no_input_that_matches_it() {
    let Some(mut fixture) = Fixture::new("check_dead", 1).await else { return };
    let topics: Vec<String> = ["a", "dead"].iter().map(|name| format!("{}.site.{name}", fixture.name)).collect();
    create(&fixture, &topics[..1]).await;
    fixture.set_config(&section("iot", &[all_of(&fixture, "site")]));
    let mut environment = fixture.environment();
    environment.push(("SERIES_INGEST__KAFKA__DEAD_LETTER_TOPIC".to_owned(), topics[1].clone()));
    let output = run(&environment, &["check", "--json"]);
    assert_eq!(output.status.code(), Some(64), "{}", text(&output));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let problem = &document["problems"][0];
    assert_eq!(problem["key"], "kafka.dead_letter_topic", "{document}");
    create(&fixture, &topics[1..]).await;
    let output = run(&environment, &["check"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    delete(&fixture, &topics).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_topic_that_is_created_while_a_worker_runs_is_read() {
    let Some(mut fixture) = Fixture::new("named_later", 1).await else { return };
    let topic = format!("{}.lab", fixture.name);
    fixture.set_config(&format!("[[input]]\nname = \"lab\"\ntopics = [\"{topic}\"]\nformat = \"native\"\n"));
    let worker = fixture.worker(&[]);
    let missing = |worker: &Worker| status(worker)["conditions"]["missing_topics"].clone();
    until(60, "it is missed", async || is_ready(&worker) && missing(&worker)["warning"] == true).await;
    assert!(missing(&worker)["reason"].as_str().unwrap().contains(&topic), "{}", missing(&worker));
    fixture.broker.create(&topic, 1, &[]).await;
    fixture.producer = Producer::new(&fixture.brokers);
    let payload = br#"{"time_series_id":"s","timestamps":["2024-05-01T00:00:00Z"],"columns":{"c":[1.5]}}"#;
    fixture.producer.send(&topic, 0, "s", Some(payload));
    fixture.producer.flush();
    until(60, "it is read", async || fixture.count_points().await == 1).await;
    let stored = fixture.stored().await;
    assert_eq!((stored[0].0.as_str(), stored[0].1.as_str(), stored[0].3), ("s", "c", 1.5_f64.to_bits()));
    until(30, "it is not missed any more", async || missing(&worker).is_null()).await;
    drop(worker);
    delete(&fixture, &[topic]).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_there_during_an_outage_only_is_written() {
    let Some(mut away) = FixtureWithProxy::new("born_dead", 1).await else { return };
    let topics = vec![format!("{}.site.a", away.fixture.name)];
    away.fixture.set_config(&section("iot", &[all_of(&away.fixture, "site")]));
    let worker = away.worker("journal", &[]);
    worker.until_ready().await;
    away.proxy.refuse(true);
    worker.until_mode("journaling").await;
    create(&away.fixture, &topics).await;
    away.fixture.producer = Producer::new(&away.fixture.brokers);
    let mut readings = Readings::default();
    readings.send(&away.fixture.producer, &topics[0], 0, 20);
    away.fixture.producer.flush();
    let journaled = [("input", "iot"), ("type", "journaled")];
    until(60, "journaled", async || sum(&worker, "messages_total", &journaled) == 20.0).await;
    until(30, "all of it is on disk", async || status(&worker)["buffered_bytes"] == 0).await;
    delete(&away.fixture, &topics).await;
    until(60, "it is not read any more", async || worker.log().contains("topics no longer exist")).await;
    away.proxy.refuse(false);
    until(90, "it is written", async || away.fixture.count_points().await == 20).await;
    away.fixture.assert_exact(&readings.published).await;
    worker.until_mode("streaming").await;
    drop(worker);
    away.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_a_topic_that_no_input_reads_are_left_alone_or_redriven_as_those_of_another() {
    let Some(fixture) = Fixture::new("redrive_as", 1).await else { return };
    let old = fixture.points_topic.clone();
    let point = |time: &str| format!(r#"{{"time_series_id":"s","timestamps":["{time}"],"columns":{{"c":[1]}}}}"#);
    fixture.producer.send(&old, 0, "s", Some(point("1800-05-01T00:00:00Z").as_bytes()));
    fixture.producer.send(&old, 0, "s", Some(point("2024-05-01T00:00:00Z").as_bytes()));
    let worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    drop(worker);
    // The topic is another one now, and the time is allowed.
    let mut environment = fixture.environment();
    environment.push((NATIVE[1].to_owned(), format!("{old}.renamed")));
    environment.push(("SERIES_INGEST__MESSAGE__MIN_TIMESTAMP".to_owned(), "1700-01-01T00:00:00Z".to_owned()));
    let redrive = ["dead-letter", "redrive", "--topic", &old];
    for _ in 0..2 {
        let output = run(&environment, &redrive);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(64), "{said}");
        assert!(said.contains("no input reads") && said.contains(&format!("--topic {old} --as-input NAME")), "{said}");
    }
    assert_eq!(fixture.count("select attempts::bigint from ingest_dead_letter").await, 0);
    let output = run(&environment, &[&redrive[..], &["--as-input", "none"]].concat());
    assert!(
        output.status.code() == Some(64) && text(&output).contains("there are: series, points"),
        "{}",
        text(&output)
    );
    let output = run(&environment, &[&redrive[..], &["--as-input", "points"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!((fixture.count_points().await, fixture.count("select count(*) from ingest_dead_letter").await), (2, 0));
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn message_check_has_headers() {
    let Some(mut fixture) = Fixture::new("check_headers", 1).await else { return };
    fixture.set_config("[[input]]\nname = \"events\"\ntopics = [\"e\"]\nformat = \"cloudevents\"\n");
    let file = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.json", fixture.name));
    std::fs::write(&file, r#"{"pressure":3.5}"#).unwrap();
    let check = ["message", "check", file.to_str().unwrap()];
    assert_eq!(run(&fixture.environment(), &check).status.code(), Some(65));
    let headers = ["--header", "ce_specversion=1.0", "--header", "ce_source=/a=b"];
    let output = run(&fixture.environment(), &[&check[..], &headers].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("/a=b") && text(&output).contains("pressure  3.5"), "{}", text(&output));
    assert_ne!(run(&fixture.environment(), &[&check[..], &["--header", "x"]].concat()).status.code(), Some(0));
    std::fs::remove_file(file).unwrap();
    fixture.remove().await;
}
