//! Topics of other formats than the program's own, through real servers into the real table.

#[path = "../shapes/mod.rs"]
mod shapes;

use std::collections::BTreeMap;

use crate::support::data::bits;
use crate::support::fixture::Fixture;
use crate::support::fixture_with_proxy::FixtureWithProxy;
use crate::support::until;
use crate::support::worker::{run, text};
use shapes::{START_S, Shape, Shaped};

/// The topics of a fixture for these shapes, one each.
async fn publish_shapes(fixture: &Fixture, shapes: &[Shape]) -> Vec<String> {
    let mut topics = Vec::new();
    for shape in shapes {
        let topic = format!("{}.{}", fixture.name, shape.name);
        fixture.broker.create(&topic, 2, &[]).await;
        for (number, message) in (0..).zip(&shape.messages) {
            send(fixture, &topic, number % 2, message);
        }
        topics.push(topic);
    }
    fixture.producer.flush();
    topics
}

fn send(fixture: &Fixture, topic: &str, partition: i32, message: &Shaped) {
    let headers: Vec<(&str, &str)> =
        message.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let key = message.key.as_deref().unwrap_or_default();
    fixture.producer.send_with_headers(topic, partition, key, Some(message.payload.as_bytes()), &headers);
}

/// Waits until both partitions of each topic are applied to their ends.
async fn until_applied(fixture: &Fixture, topics: &[String]) {
    let ends: i64 = topics.iter().map(|topic| fixture.broker.ends(topic, 2).iter().sum::<i64>()).sum();
    let sql = "select coalesce(sum(next_offset), 0)::bigint from ingest_progress
               where source_id in (select id from ingest_source where topic like $1)";
    let like = format!("{}.%", fixture.name);
    until(120, &format!("{ends} messages are applied"), async || {
        fixture.client.query_one(sql, &[&like]).await.unwrap().get::<_, i64>(0) == ends
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_section_that_inspect_proposes_stores_nearly_all_of_each_public_shape() {
    let Some(mut fixture) = Fixture::new("inspect", 1).await else { return };
    let shapes = shapes::all(1000);
    let topics = publish_shapes(&fixture, &shapes).await;
    let mut config = String::new();
    for topic in &topics {
        let output = run(&fixture.environment(), &["topic", "inspect", topic, "--json"]);
        assert!(output.status.success(), "{topic}: {}", text(&output));
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["messages"], 1000, "{topic}");
        config.push_str(document["proposal"]["input"].as_str().unwrap());
        // For people it has the same section.
        let output = run(&fixture.environment(), &["topic", "inspect", topic]);
        assert!(text(&output).contains(document["proposal"]["input"].as_str().unwrap()), "{}", text(&output));
    }
    assert_eq!(fixture.count("select count(*) from ingest_source").await, 0, "looking moves nothing");
    fixture.set_config(&config);
    let worker = fixture.worker(&[]);
    until_applied(&fixture, &topics).await;
    for (topic, shape) in topics.iter().zip(&shapes) {
        let sql = "select count(*) from ingest_dead_letter
                   where source_id in (select id from ingest_source where topic = $1)";
        let letters: i64 = fixture.client.query_one(sql, &[topic]).await.unwrap().get(0);
        assert!(letters <= 10, "{}: {letters} of 1000 messages are dead letters", shape.name);
    }
    let least: usize = shapes.iter().map(|shape| shape.messages.len() * 98 / 100 * shape.points).sum();
    let stored = usize::try_from(fixture.count_points().await).unwrap();
    assert!(stored >= least, "{stored} points are stored, and at least {least} are expected");
    drop(worker);
    fixture.remove().await;
}

/// A row: series, column, microseconds after the start, value.
type Row = (String, String, i64, u64);

/// An input, its messages, the rows and the labels that they make.
struct Case {
    name: &'static str,
    input: &'static str,
    message: fn(i64) -> Shaped,
    rows: fn(i64) -> Vec<(String, &'static str, f64)>,
    labels: &'static [(&'static str, &'static str)],
}

fn shaped(payload: String) -> Shaped {
    Shaped { payload, ..Shaped::default() }
}

const CASES: [Case; 6] = [
    Case {
        name: "json",
        input: "format = \"json\"\nseries = \"{/site}-{key}\"\ntime = { at = \"/ts\", unit = \"s\" }\nlabels = [\"/site\"]\n",
        message: |n| Shaped {
            key: Some("k".to_owned()),
            ..shaped(format!(r#"{{"site":"a","ts":{},"x":{n}.25,"w":{{"y":-1e-3}}}}"#, START_S + n))
        },
        rows: |n| vec![("a-k".into(), "x", n as f64 + 0.25), ("a-k".into(), "w.y", -1e-3)],
        labels: &[("a-k", r#"{"site": "a"}"#)],
    },
    Case {
        name: "influx",
        input: "format = \"influx\"\n",
        message: |n| shaped(format!("m,t=a\\ b x={n}i,y=0.1 {}000000000", START_S + n)),
        rows: |n| vec![(r"m,t=a\ b".into(), "x", n as f64), (r"m,t=a\ b".into(), "y", 0.1)],
        labels: &[(r"m,t=a\ b", r#"{"t": "a b"}"#)],
    },
    Case {
        name: "telegraf",
        input: "format = \"telegraf-json\"\n",
        message: |n| {
            let metric =
                format!(r#"{{"fields":{{"x":{n}}},"name":"tm","tags":{{"h":"1"}},"timestamp":{}}}"#, START_S + n);
            shaped(format!(r#"{{"metrics":[{metric}]}}"#))
        },
        rows: |n| vec![("tm,h=1".into(), "x", n as f64)],
        labels: &[("tm,h=1", r#"{"h": "1"}"#)],
    },
    Case {
        name: "debezium",
        input: "format = \"debezium-json\"\nseries = \"{/source/table}\"\ntime = { at = \"/at\", unit = \"s\" }\n",
        message: |n| {
            let (op, after) = if n % 5 == 4 {
                ("d", "null".to_owned())
            } else {
                ("c", format!(r#"{{"at":{},"x":{n}}}"#, START_S + n))
            };
            shaped(format!(
                r#"{{"payload":{{"before":null,"after":{after},"source":{{"table":"rows"}},"op":"{op}"}}}}"#
            ))
        },
        rows: |n| if n % 5 == 4 { Vec::new() } else { vec![("rows".into(), "x", n as f64)] },
        labels: &[],
    },
    Case {
        name: "cloudevents",
        input: "format = \"cloudevents\"\nseries = \"{/source}\"\ntime = { at = \"/t\", unit = \"s\" }\n",
        message: |n| {
            let data = format!(r#"{{"t":{},"x":{n}}}"#, START_S + n);
            if n % 2 == 0 {
                shaped(format!(r#"{{"specversion":"1.0","id":"1","type":"t","source":"/s","data":{data}}}"#))
            } else {
                let headers = [("ce_specversion", "1.0"), ("ce_source", "/s")];
                let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
                Shaped { headers, ..shaped(data) }
            }
        },
        rows: |n| vec![("/s".into(), "x", n as f64)],
        labels: &[],
    },
    Case {
        name: "prometheus",
        input: "format = \"prometheus-json\"\n",
        message: |n| {
            let time = format!("2024-05-01T00:{:02}:{:02}Z", n / 60, n % 60);
            shaped(format!(
                r#"{{"timestamp":"{time}","value":"{n}.5","name":"up","labels":{{"__name__":"up","j":"a"}}}}"#
            ))
        },
        rows: |n| vec![("up,j=a".into(), "value", n as f64 + 0.5)],
        labels: &[("up,j=a", r#"{"j": "a"}"#)],
    },
];

/// The messages of each case, and in each restart how many of them are published.
const MESSAGES: i64 = 300;

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_every_format_are_exact_rows_although_the_worker_is_killed_in_the_middle() {
    let Some(mut fixture) = Fixture::new("formats", 1).await else { return };
    let (mut config, mut topics, mut expected) = (String::new(), Vec::new(), Vec::<Row>::new());
    for case in &CASES {
        let topic = format!("{}.{}", fixture.name, case.name);
        fixture.broker.create(&topic, 2, &[]).await;
        config.push_str(&format!("[[input]]\nname = \"{}\"\ntopics = [\"{topic}\"]\n{}", case.name, case.input));
        topics.push(topic);
    }
    fixture.set_config(&config);
    let mut worker = fixture.worker(&[]);
    for (topic, case) in topics.iter().zip(&CASES) {
        for number in 0..MESSAGES {
            send(&fixture, topic, i32::try_from(number % 2).unwrap(), &(case.message)(number));
            let time_us = (START_S + number) * 1_000_000;
            let row =
                |(series, column, value): (String, &str, f64)| (series, column.to_owned(), time_us, bits(Some(value)));
            expected.extend((case.rows)(number).into_iter().map(row));
        }
        fixture.producer.flush();
        worker.kill();
        worker = fixture.worker(&[]);
    }
    until_applied(&fixture, &topics).await;
    let mut stored = fixture.stored().await;
    stored.sort();
    expected.sort();
    assert_eq!(stored.len(), expected.len());
    assert_eq!(stored, expected);
    assert_eq!(fixture.count("select count(*) from ingest_dead_letter").await, 0);

    let rows =
        fixture.client.query("select id, labels::text, time_column, value_columns from time_series_metadata", &[]);
    let known: BTreeMap<String, (Option<String>, String, String)> =
        rows.await.unwrap().iter().map(|row| (row.get(0), (row.get(1), row.get(2), row.get(3)))).collect();
    for case in &CASES {
        for (series, column, _) in (case.rows)(0) {
            let (labels, time_column, columns) = &known[&series];
            let expected = case.labels.iter().find(|(id, _)| *id == series).map(|(_, labels)| *labels);
            assert_eq!((labels.as_deref(), time_column.as_str()), (expected, "timestamp"), "{series}");
            assert!(columns.contains(&format!("\"{column}\"")), "{series}: {columns}");
        }
    }
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_checked_without_a_server() {
    let Some(mut fixture) = Fixture::unmigrated("message_check", 1).await else { return };
    fixture.set_config(
        "[[input]]\nname = \"iot\"\ntopics = [\"iot\", \"^site\\\\.(.+)\"]\nformat = \"json\"\nseries = \"{topic}\"\ntime = { at = \"/ts\", unit = \"s\" }\n",
    );
    // Nobody is there.
    let mut environment = fixture.environment();
    environment.retain(|(name, _)| name != "KAFKA_BROKERS" && name != "DATABASE_URL");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("messages");
    std::fs::write(&file, "{\"ts\":1714521600,\"x\":1}\n\n{\"x\":2}\n").unwrap();
    let file = file.to_str().unwrap();
    let check = |arguments: &[&str]| {
        let output = run(&environment, &[&["message", "check"], arguments].concat());
        (output.status.code(), text(&output))
    };
    let (code, printed) = check(&["--input", "iot", "--lines", file]);
    assert_eq!(code, Some(65), "{printed}");
    for part in ["message 1: 1 point", "  iot  2024-05-01T00:00:00Z  x  1", "message 3: rejected, schema: expected /ts"]
    {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    assert!(printed.contains("1 of 2 messages would be rejected"), "{printed}");
    let (code, printed) = check(&["--topic", "site.a", "--lines", "--json", file]);
    assert_eq!(code, Some(65), "{printed}");
    assert!(printed.contains(r#""time_series_id":"site.a""#), "{printed}");
    for (arguments, part) in [
        (&["--topic", "elsewhere", file][..], "no input has this topic"),
        (&["--input", "iob", file], "there are: series, points, iot"),
        (&["--input", "iot", "/nowhere"], "cannot be read"),
    ] {
        let (code, printed) = check(arguments);
        assert!(code == Some(64) && printed.contains(part), "{arguments:?}: {printed}");
    }
    fixture.remove().await;
}

/// A JSON input of the fixture's topic of points, with these ids of series.
fn input_of(fixture: &Fixture, series: &str) -> String {
    format!(
        "[kafka]\npoints_topic = \"\"\n[[input]]\nname = \"iot\"\ntopics = [\"{}\"]\nformat = \"json\"\nseries = \"{series}\"\n\
         time = {{ at = \"/ts\", unit = \"s\" }}\n",
        fixture.points_topic
    )
}

/// What the input says instead of the environment, which would have precedence.
const OF_FILE: (&str, &str) = ("SERIES_INGEST__KAFKA__POINTS_TOPIC", "");

fn publish_readings(fixture: &Fixture, numbers: std::ops::Range<i64>, sensor: &str) {
    for number in numbers {
        let payload = format!(r#"{{"{sensor}":"s","ts":{},"x":{number}}}"#, START_S + number);
        fixture.producer.send(&fixture.points_topic, 0, "k", Some(payload.as_bytes()));
    }
    fixture.producer.flush();
}

/// The number of points of each series.
async fn points_by_series(fixture: &Fixture) -> BTreeMap<String, i64> {
    let sql = "select time_series_id, count(*) from time_series_data_points group by 1";
    fixture.client.query(sql, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn counts<const N: usize>(counts: [(&str, i64); N]) -> BTreeMap<String, i64> {
    counts.into_iter().map(|(series, count)| (series.to_owned(), count)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_and_dead_letters_are_decoded_by_the_input_of_now_and_it_is_said() {
    let Some(mut away) = FixtureWithProxy::new("changed_input", 1).await else { return };
    let first = input_of(&away.fixture, "a-{/id}");
    away.fixture.set_config(&first);
    let mut worker = away.worker("journal", &[OF_FILE]);
    publish_readings(&away.fixture, 0..10, "id");
    away.fixture.until_applied(60).await;
    away.proxy.refuse(true);
    publish_readings(&away.fixture, 10..20, "id");
    worker.until_mode("journaling").await;
    away.fixture.until_journaled(&worker).await;
    assert_eq!(worker.terminate(10), Some(0));

    // Only the journal has them now, and the input is another one.
    away.delete_records().await;
    let second = input_of(&away.fixture, "b-{/id}");
    away.fixture.set_config(&second);
    away.proxy.refuse(false);
    let worker = away.worker("journal", &[OF_FILE]);
    away.fixture.until_applied(60).await;
    assert_eq!(points_by_series(&away.fixture).await, counts([("a-s", 10), ("b-s", 10)]));
    let log = worker.log();
    assert!(log.contains("decoded by the inputs as they are configured now"), "{log}");

    publish_readings(&away.fixture, 20..23, "sensor");
    away.fixture.until_applied(60).await;
    drop(worker);
    let letters = "select count(*) from ingest_dead_letter where detail like 'expected /id, which is missing%'";
    assert_eq!(away.fixture.count(letters).await, 3);
    let third = input_of(&away.fixture, "c-{/sensor}");
    away.fixture.set_config(&third);
    let mut environment = away.fixture.environment();
    environment.retain(|(name, _)| name != OF_FILE.0);
    let output = run(&environment, &["dead-letter", "redrive"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("decoded by the inputs as they are configured now"), "{}", text(&output));
    assert_eq!(points_by_series(&away.fixture).await, counts([("a-s", 10), ("b-s", 10), ("c-s", 3)]));
    away.remove().await;
}
