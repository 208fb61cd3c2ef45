//! What is done with messages that cannot be stored: found, repaired, sent again, counted beyond a bound, published.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use rdkafka::Message as _;
use rdkafka::message::Headers as _;
use serde_json::Value;

use crate::claims::plant;
use crate::support::certificates::Authority;
use crate::support::data::{Difference, Published};
use crate::support::fixture::{Fixture, connect};
use crate::support::secure_broker::SecureBroker;
use crate::support::until;
use crate::support::worker::{command, run, text};

const LETTERS: &str = "select count(*) from ingest_dead_letter";
const UNKNOWN: (&str, &str) = ("SERIES_INGEST__POINTS__UNKNOWN_SERIES", "dead-letter");

/// Environment followed by other settings.
fn with(fixture: &Fixture, extra: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut environment = fixture.environment();
    environment.retain(|(name, _)| !extra.iter().any(|(other, _)| other == name));
    environment.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    environment
}

/// Runs `dead-letter` with arguments; what it has printed.
fn dead_letter(fixture: &Fixture, extra: &[(&str, &str)], arguments: &[&str]) -> String {
    let output = run(&with(fixture, extra), &[&["dead-letter"], arguments].concat());
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output));
    text(&output)
}

/// Runs `dead-letter redrive` with arguments where letters are left that cannot be written; what it has printed.
fn redrive_in_part(fixture: &Fixture, extra: &[(&str, &str)], arguments: &[&str]) -> String {
    let output = run(&with(fixture, extra), &[&["dead-letter", "redrive"], arguments].concat());
    assert_eq!(output.status.code(), Some(65), "{arguments:?}: {}", text(&output));
    text(&output)
}

/// Publishes messages, lets a worker take them, and ends it.
async fn take(fixture: &Fixture, extra: &[(&str, &str)]) {
    fixture.producer.flush();
    let mut worker = fixture.worker(extra);
    fixture.until_applied(120).await;
    assert_eq!(worker.terminate(10), Some(0));
}

/// Good messages of a series that nobody has created, which are dead letters for now.
async fn letters_of_an_unknown_series(fixture: &Fixture, messages: i32) -> Published {
    let mut published = Published::default();
    for number in 0..messages {
        let payload = published.batch("s", 2);
        fixture.producer.send(&fixture.points_topic, number % fixture.partitions, "s", Some(payload.as_bytes()));
    }
    take(fixture, &[UNKNOWN]).await;
    assert_eq!(fixture.count(LETTERS).await, i64::from(messages));
    published
}

fn spawn_redrive(fixture: &Fixture, extra: &[(&str, &str)]) -> Child {
    command(&with(fixture, extra))
        .args(["dead-letter", "redrive"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Each number of letters is where it should be: as rows, and as the counts have it.
async fn assert_counted(fixture: &Fixture, kept: i64, only_counted: i64, redriven: i64) {
    let row = fixture
        .client
        .query_one(
            "select (select count(*) from ingest_dead_letter), sum(kept)::bigint, sum(only_counted)::bigint,
                    sum(redriven)::bigint
             from ingest_dead_letter_count",
            &[],
        )
        .await
        .unwrap();
    let found: [Option<i64>; 4] = [row.get(0), row.get(1), row.get(2), row.get(3)];
    assert_eq!(found, [kept, kept, only_counted, redriven].map(Some));
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_letters_are_written_once_through_two_kills() {
    let Some(fixture) = Fixture::new("redrive", 4).await else { return };
    let published = letters_of_an_unknown_series(&fixture, 10_000).await;
    let would = dead_letter(&fixture, &[], &["redrive", "--dry-run"]);
    assert!(would.contains("10000 dead letters with 40000 points would be written; 0 rejected"), "{would}");
    assert_counted(&fixture, 10_000, 0, 0).await;
    assert_eq!(fixture.count("select count(*) from time_series_metadata").await, 0, "nothing stays of a dry run");
    let lock = connect(&fixture.url).await;
    let mut left = 10_000;
    for _ in 0..2 {
        let mut redrive = spawn_redrive(&fixture, &[]);
        until(60, "some are written", async || fixture.count(LETTERS).await < left).await;
        // It is stopped inside of a transaction.
        lock.batch_execute("begin; lock table time_series_data_points in share mode").await.unwrap();
        until(60, "it waits in a transaction", async || fixture.waiting_for_locks().await == 1).await;
        redrive.kill().unwrap();
        redrive.wait().unwrap();
        lock.batch_execute("commit").await.unwrap();
        let now = fixture.count(LETTERS).await;
        assert!(0 < now && now < left, "{now} letters are left of {left}");
        left = now;
    }
    let start = std::time::Instant::now();
    let done = dead_letter(&fixture, &[], &["redrive"]);
    println!("{left} letters were left, and took {:.1} s", start.elapsed().as_secs_f64());
    until(60, "the killed ones' locks are gone", async || {
        dead_letter(&fixture, &[], &["redrive"]).contains("0 dead letters with 0 points written")
    })
    .await;
    assert_eq!(fixture.difference(&published).await, Difference::default(), "{done}");
    assert_counted(&fixture, 0, 0, 10_000).await;
    fixture.remove().await;
}

/// Two redrives of the same letters, of which the first is held until the second has read them too; the points then.
async fn points_of_two_redrives(fixture: &Fixture, extra: &[(&str, &str)]) -> i64 {
    letters_of_an_unknown_series(fixture, 10).await;
    let lock = connect(&fixture.url).await;
    lock.batch_execute("begin; lock table time_series_data_points in share mode").await.unwrap();
    let mut first = spawn_redrive(fixture, extra);
    until(60, "the first one copies", async || fixture.waiting_for_locks().await == 1).await;
    let mut second = spawn_redrive(fixture, extra);
    until(60, "the second one copies, or has found nothing to do", async || {
        second.try_wait().unwrap().is_some() || fixture.waiting_for_locks().await == 2
    })
    .await;
    lock.batch_execute("commit").await.unwrap();
    assert!(first.wait().unwrap().success() && second.wait().unwrap().success());
    fixture.count_points().await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_redrives_at_once_one_writes() {
    let Some(fixture) = Fixture::new("two_redrives", 1).await else { return };
    assert_eq!(points_of_two_redrives(&fixture, &[]).await, 40);
    assert_counted(&fixture, 0, 0, 10).await;
    fixture.remove().await;
}

#[cfg(feature = "planted-bugs")]
#[tokio::test(flavor = "multi_thread")]
async fn planted_bug_a_redrive_takes_no_lock() {
    let Some(fixture) = Fixture::new("redrive_bug", 1).await else { return };
    let bug = [("SERIES_INGEST_PLANTED_BUGS", "redrive-takes-no-lock")];
    assert_eq!(points_of_two_redrives(&fixture, &bug).await, 80, "the bug is caught: all points are there twice");
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_found_shown_exported_and_deleted() {
    let Some(fixture) = Fixture::new("letters", 2).await else { return };
    let bad: [(i32, &[u8]); 4] = [
        (0, br#"{"time_series_id":"a","timestamps":[0],"columns":{"c":[1,2]}}"#),
        (0, br#"{"time_series_id":"b","timestamps":[0"#),
        (1, b"{\"time_series_id\":\"a\xff\"}"),
        (1, br#"{"time_series_id":"a","timestamps":["never"],"columns":{"c":[1]}}"#),
    ];
    for (partition, payload) in bad {
        fixture.producer.send(&fixture.points_topic, partition, "key", Some(payload));
    }
    take(&fixture, &[]).await;
    let list = |arguments: &[&str]| -> Vec<Value> {
        let printed = dead_letter(&fixture, &[], &[&["list", "--json"], arguments].concat());
        printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let topic = fixture.points_topic.as_str();
    let year_ago = "2020-01-01T00:00:00Z";
    for (arguments, count) in [
        (&[][..], 4),
        (&["--reason", "schema"], 2),
        (&["--reason", "encoding"], 1),
        (&["--partition", "1"], 2),
        (&["--topic", topic, "--from-offset", "1"], 2),
        (&["--until-offset", "1"], 2),
        (&["--topic", "another"], 0),
        (&["--series", "a"], 2),
        (&["--series", "b", "--reason", "syntax"], 1),
        (&["--from-time", year_ago, "--created-from", year_ago], 4),
        (&["--until-time", year_ago], 0),
        (&["--created-until", year_ago], 0),
        (&["--limit", "3"], 3),
        (&["--parked"], 0),
    ] {
        assert_eq!(list(arguments).len(), count, "{arguments:?}");
    }
    let table = dead_letter(&fixture, &[], &["list"]);
    for part in
        ["syntax", "schema", "encoding", topic, "4 of 4 dead letters shown", "more values than the 1 timestamps"]
    {
        assert!(table.contains(part), "{part}: {table}");
    }
    let letters = list(&["--partition", "0"]);
    let id = letters[0]["id"].to_string();
    let shown = dead_letter(&fixture, &[], &["show", &id]);
    assert!(shown.contains(r#""columns":{"c":[1,2]}"#) && shown.contains("columns.c"), "{shown}");
    let exported = dead_letter(&fixture, &[], &["export", "--partition", "1"]);
    let exported: Vec<Value> = exported.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(exported.len(), 2);
    assert!(exported[0]["payload_base64"].is_string(), "{}", exported[0]);
    assert_eq!(exported[1]["payload"].as_str().unwrap().as_bytes(), bad[3].1);
    assert_eq!((&exported[1]["key"], &exported[1]["offset"]), (&"key".into(), &1.into()));

    assert_eq!(run(&fixture.environment(), &["dead-letter", "show", "99999"]).status.code(), Some(64));
    let unsure = run(&fixture.environment(), &["dead-letter", "purge", "--reason", "schema"]);
    assert_eq!(unsure.status.code(), Some(64), "{}", text(&unsure));
    assert!(dead_letter(&fixture, &[], &["purge", "--dry-run"]).contains("4 dead letters would be deleted"));
    assert_counted(&fixture, 4, 0, 0).await;
    let purged = dead_letter(&fixture, &[], &["purge", "--series", "a", "--yes"]);
    assert!(purged.contains("2 dead letters deleted"), "{purged}");
    assert_counted(&fixture, 2, 0, 0).await;
    fixture.client.batch_execute("delete from ingest_dead_letter where partition = 0").await.unwrap();
    assert_counted(&fixture, 1, 0, 0).await;
    fixture.client.batch_execute("truncate ingest_dead_letter").await.unwrap();
    assert_counted(&fixture, 0, 0, 0).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_nothing_is_deleted_but_by_yes() {
    use std::io::Write as _;
    let Some(fixture) = Fixture::new("purge", 1).await else { return };
    for _ in 0..3 {
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(b"{"));
    }
    take(&fixture, &[("SERIES_INGEST__DEAD_LETTER__MAX_ROWS", "1")]).await;
    assert_counted(&fixture, 2, 1, 0).await;
    // An answer that comes by a pipe is nobody's.
    for answer in ["", "y\n", "yes\n"] {
        let mut purge = command(&fixture.environment())
            .args(["dead-letter", "purge", "--counts"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may have ended by now.
        drop(purge.stdin.take().unwrap().write_all(answer.as_bytes()));
        let output = purge.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{answer:?}: {}", text(&output));
        assert!(text(&output).contains("2 dead letters: add --yes to delete them"), "{}", text(&output));
        assert_counted(&fixture, 2, 1, 0).await;
    }
    assert!(dead_letter(&fixture, &[], &["purge", "--yes"]).contains("2 dead letters deleted"));
    assert_counted(&fixture, 0, 1, 0).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cut_of_a_key_and_of_headers_shows() {
    let Some(fixture) = Fixture::new("cut_key", 1).await else { return };
    let topic = format!("{}.dead", fixture.name);
    fixture.broker.create(&topic, 1, &[]).await;
    let (key, value) = ("k".repeat(70_000), "v".repeat(70_000));
    for _ in 0..2 {
        let headers = [("first", "1"), ("long", value.as_str())];
        fixture.producer.send_with_headers(&fixture.points_topic, 0, &key, Some(b"{"), &headers);
    }
    fixture.producer.send_with_headers(&fixture.points_topic, 0, "k", Some(b"{"), &[("first", "1")]);
    take(&fixture, &[]).await;
    let exported = dead_letter(&fixture, &[], &["export"]);
    let exported: Vec<Value> = exported.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let headers_bytes = 4 + 5 + 4 + 1 + 4 + 4 + 4 + 70_000;
    for letter in &exported[..2] {
        assert_eq!(letter["cut"], serde_json::json!(["key", "headers"]));
        assert_eq!((&letter["key_bytes"], &letter["headers_bytes"]), (&70_000.into(), &headers_bytes.into()));
        assert_eq!(letter["key"].as_str().unwrap().len(), 65_536);
        assert_eq!(letter["headers"], serde_json::json!([{"name": "first", "value": "1"}]), "what is whole is there");
    }
    assert_eq!((&exported[2]["cut"], &exported[2]["key_bytes"]), (&serde_json::json!([]), &1.into()));
    let shown = dead_letter(&fixture, &[], &["show", &exported[0]["id"].to_string()]);
    for what in ["key", "headers"] {
        assert!(shown.contains(&format!("only the first 65536 bytes of the {what} are here")), "{shown:.300}");
    }
    assert!(!dead_letter(&fixture, &[], &["show", &exported[2]["id"].to_string()]).contains("only the first"));
    // Copies have all of it, as long as Kafka has.
    fixture.broker.delete_records(&fixture.points_topic, 0, 1).await;
    fixture.client.batch_execute("update ingest_dead_letter set to_publish = true").await.unwrap();
    let worker = fixture.worker(&[("SERIES_INGEST__KAFKA__DEAD_LETTER_TOPIC", topic.as_str())]);
    until(60, "all are published", async || fixture.broker.offsets(&topic, 0).len() == 3).await;
    for (record, (length, whole)) in
        fixture.broker.records(&topic, 0).iter().zip([(65_536, false), (70_000, true), (1, true)])
    {
        let header = |name: &str| {
            let found = record.headers().unwrap().iter().find(|header| header.key == name)?;
            Some(String::from_utf8(found.value?.to_vec()).unwrap())
        };
        assert_eq!((record.key().unwrap().len(), header("first")), (length, Some("1".to_owned())));
        assert_eq!(header("long").is_some(), whole && length > 1);
        let marks = ["key", "headers"].map(|what| header(&format!("__connect.errors.{what}.bytes")));
        let expected = if whole { [None, None] } else { [Some("70000".to_owned()), Some(headers_bytes.to_string())] };
        assert_eq!(marks, expected);
    }
    drop(worker);
    fixture.broker.delete(&[&topic]).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn header_names_of_any_bytes_pass() {
    let Some(fixture) = Fixture::new("odd_headers", 1).await else { return };
    let topic = format!("{}.dead", fixture.name);
    fixture.broker.create(&topic, 1, &[]).await;
    let good = br#"{"time_series_id":"s","timestamps":[0],"columns":{"c":[1]}}"#;
    let names: [&[u8]; 4] = [b"\xff\xfename", b"", b"a\nb\x1b[31m", "\u{202e}".as_bytes()];
    for payload in [&good[..], b"{"] {
        for name in names {
            fixture.producer.send_with_odd_header(&fixture.points_topic, 0, payload, name, "v");
        }
    }
    fixture.producer.flush();
    let worker = fixture.worker(&[("SERIES_INGEST__KAFKA__DEAD_LETTER_TOPIC", topic.as_str())]);
    fixture.until_applied(60).await;
    assert_eq!((fixture.count_points().await, fixture.count(LETTERS).await), (4, 4));
    let exported = dead_letter(&fixture, &[], &["export"]);
    let exported: Vec<Value> = exported.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let shown = names.map(|name| String::from_utf8_lossy(name).into_owned());
    for (letter, name) in exported.iter().zip(&shown) {
        assert_eq!(letter["headers"], serde_json::json!([{"name": name, "value": "v"}]));
        let printed = dead_letter(&fixture, &[], &["show", &letter["id"].to_string()]);
        assert!(!printed.contains('\u{1b}'), "nothing reaches the terminal: {printed:?}");
    }
    until(60, "all are published", async || fixture.broker.offsets(&topic, 0).len() == 4).await;
    for (record, name) in fixture.broker.records(&topic, 0).iter().zip(&shown) {
        let first = record.headers().unwrap().get(0);
        assert_eq!((first.key, first.value), (name.as_str(), Some(&b"v"[..])));
    }
    drop(worker);
    fixture.broker.delete(&[&topic]).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_more_headers_than_can_be_read_is_a_letter() {
    let Some(fixture) = Fixture::new("many_headers", 1).await else { return };
    let good = br#"{"time_series_id":"s","timestamps":[0],"columns":{"c":[1]}}"#;
    for count in [100_000, 100_001] {
        fixture.producer.send_with_headers(&fixture.points_topic, 0, "s", Some(good), &vec![("h", ""); count]);
    }
    fixture.producer.flush();
    take(&fixture, &[]).await;
    let letters = "select count(*) from ingest_dead_letter
                   where \"offset\" = 1 and reason = 'limits' and detail like 'the headers cannot be read: %100000%'";
    assert_eq!((fixture.count_points().await, fixture.count(LETTERS).await, fixture.count(letters).await), (1, 1, 1));
    // What they say is not known later either.
    let done = redrive_in_part(&fixture, &[], &[]);
    assert!(done.contains("0 dead letters with 0 points written; 1 rejected again"), "{done}");
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_and_versions_that_are_not_known_are_counted_and_refused() {
    let Some(fixture) = Fixture::new("unknown_fields", 1).await else { return };
    let message = r#"{"time_series_id":"s","timestamps":[0],"columns":{"c":[1]},"unit":"C","site":7}"#;
    let send = || {
        for version in [&[][..], &[("series-ingest-version", "1")], &[("series-ingest-version", "2")]] {
            fixture.producer.send_with_headers(&fixture.points_topic, 0, "s", Some(message.as_bytes()), version);
        }
        fixture.producer.flush();
    };
    let metric = "series_ingest_unknown_fields_total";
    let refused = "select count(*) from ingest_dead_letter where reason = 'schema' and detail like $1";
    let refused = async |like: &str| -> i64 { fixture.client.query_one(refused, &[&like]).await.unwrap().get(0) };
    send();
    let mut worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    assert_eq!(worker.metric(metric), Some(4.0));
    assert_eq!((fixture.count_points().await, fixture.count(LETTERS).await), (2, 1));
    assert_eq!(refused("header series-ingest-version: expected \"1\", found \"2\"").await, 1);
    assert_eq!(worker.terminate(10), Some(0));
    send();
    let worker = fixture.worker(&[("SERIES_INGEST__MESSAGE__DENY_UNKNOWN_FIELDS", "true")]);
    fixture.until_applied(60).await;
    assert_eq!((fixture.count_points().await, fixture.count(LETTERS).await), (2, 4));
    assert_eq!(refused("the field \"unit\" is unknown, and message.deny_unknown_fields %").await, 2);
    drop(worker);
    // What became allowed is written; another version stays one.
    let done = redrive_in_part(&fixture, &[], &[]);
    assert!(done.contains("2 dead letters with 2 points written; 2 rejected again"), "{done}");
    fixture.remove().await;
}

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
async fn what_is_rejected_again_and_again_is_parked_and_takes_no_other_with_it() {
    let Some(fixture) = Fixture::new("parked", 1).await else { return };
    fixture
        .client
        .batch_execute("alter table time_series_data_points add constraint no_sevens check (value <> -7)")
        .await
        .unwrap();
    let mut published = Published::default();
    for number in 0..40 {
        let refused = r#"{"time_series_id":"s","timestamps":[0,1],"columns":{"c":[1,-7]}}"#;
        let payload = match number {
            7 | 30 => refused.to_owned(),
            8 => "{".to_owned(),
            _ => published.batch("s", 3),
        };
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(payload.as_bytes()));
    }
    take(&fixture, &[UNKNOWN]).await;
    assert_eq!(fixture.count(LETTERS).await, 40);
    let limit = [("SERIES_INGEST__DEAD_LETTER__MAX_ATTEMPTS", "2")];
    let expected = "37 dead letters with 222 points";
    let would = redrive_in_part(&fixture, &limit, &["--dry-run"]);
    assert!(would.contains(&format!("{expected} would be written; 3 rejected again")), "{would}");
    let done = redrive_in_part(&fixture, &limit, &[]);
    assert!(done.contains(&format!("{expected} written; 3 rejected again")), "{done}");
    assert_eq!(fixture.difference(&published).await, Difference::default());
    let detail = "select count(*) from ingest_dead_letter where reason = 'rejected_by_database'
                  and detail like '%23514%no_sevens%' and detail not like '%-7%' and attempts = 1";
    assert_eq!(fixture.count(detail).await, 2);
    assert_counted(&fixture, 3, 0, 37).await;
    let done = redrive_in_part(&fixture, &limit, &[]);
    assert!(done.contains("0 dead letters with 0 points written; 3 rejected again"), "{done}");
    assert!(done.contains("3 of them are parked now, after 2 attempts (dead_letter.max_attempts)"), "{done}");
    assert!(done.contains("`redrive --parked` takes them too"), "{done}");
    let parked = dead_letter(&fixture, &limit, &["redrive"]);
    assert!(parked.contains("written; 0 rejected again") && parked.contains("3 are parked"), "{parked}");
    assert!(dead_letter(&fixture, &limit, &["list", "--parked"]).contains("3 of 3 dead letters shown"));
    fixture.client.batch_execute("alter table time_series_data_points drop constraint no_sevens").await.unwrap();
    let done = redrive_in_part(&fixture, &limit, &["--parked"]);
    assert!(done.contains("2 dead letters with 4 points written; 1 rejected again"), "{done}");
    assert_counted(&fixture, 1, 0, 39).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rejected_again_is_named_and_a_dry_run_is_no_attempt() {
    let Some(fixture) = Fixture::new("named", 1).await else { return };
    for number in 0..29 {
        let payload = format!("{{\"time_series_id\":{number}}}");
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(payload.as_bytes()));
    }
    take(&fixture, &[]).await;
    let attempts = async || fixture.count("select sum(attempts)::bigint from ingest_dead_letter").await;
    let first = fixture.count("select min(id) from ingest_dead_letter").await;
    let topic = &fixture.points_topic;
    for arguments in [&["--dry-run"][..], &["--dry-run", "--json"]] {
        redrive_in_part(&fixture, &[], arguments);
        assert_eq!(attempts().await, 0, "{arguments:?}");
    }
    let done = redrive_in_part(&fixture, &[], &[]);
    assert_eq!(attempts().await, 29);
    assert!(done.contains("0 dead letters with 0 points written; 29 rejected again"), "{done}");
    assert!(done.contains(&format!("  dead letter {first}, {topic} partition 0 offset 0: schema: ")), "{done}");
    assert!(done.contains("(attempt 1 of 5)"), "{done}");
    assert_eq!(done.lines().filter(|line| line.starts_with("  dead letter ")).count(), 20, "{done}");
    assert!(done.contains("… and 9 more; by reason, of all: schema 29. `--json` names each"), "{done}");
    assert!(done.contains("29 dead letters were rejected again") && !done.contains("parked now"), "{done}");
    let output = run(&fixture.environment(), &["dead-letter", "redrive", "--json"]);
    assert_eq!(output.status.code(), Some(65));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rejected = document["rejected"].as_array().unwrap();
    assert_eq!((rejected.len(), &document["written"], &document["parked_now"]), (29, &0.into(), &0.into()));
    let ids: Vec<i64> = rejected.iter().map(|letter| letter["id"].as_i64().unwrap()).collect();
    assert!(ids.is_sorted() && ids[0] == first, "{ids:?}");
    for (key, value) in [("topic", Value::from(topic.as_str())), ("offset", 0.into()), ("attempts", 2.into())] {
        assert_eq!(rejected[0][key], value, "{key}");
    }
    assert_eq!((&rejected[0]["reason"], &rejected[0]["parked"]), (&"schema".into(), &false.into()));
    for _ in 0..2 {
        redrive_in_part(&fixture, &[], &[]);
    }
    let last = redrive_in_part(&fixture, &[], &[]);
    assert!(last.contains("29 of them are parked now, after 5 attempts (dead_letter.max_attempts)"), "{last}");
    let parked: Value =
        serde_json::from_slice(&run(&fixture.environment(), &["dead-letter", "redrive", "--json"]).stdout).unwrap();
    assert_eq!((&parked["parked_before"], parked["rejected"].as_array().unwrap().len()), (&29.into(), 0));
    let counts = dead_letter(&fixture, &[], &["counts", "--json"]);
    let counts: Value = serde_json::from_str(&counts).unwrap();
    let known = &counts["counts"][0];
    assert_eq!((&known["topic"], &known["reason"]), (&topic.as_str().into(), &"schema".into()));
    assert_eq!((&known["kept"], &known["only_counted"]), (&29.into(), &0.into()));
    let shown = dead_letter(&fixture, &[], &["show", &first.to_string(), "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap()["payload"], "{\"time_series_id\":0}");
    fixture.remove().await;
}

/// A program in the test's folder that does as an editor does.
fn editor(fixture: &Fixture, script: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-editor", fixture.name));
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_is_repaired_in_the_editor() {
    use std::io::Write as _;
    let Some(fixture) = Fixture::new("edit", 1).await else { return };
    for _ in 0..2 {
        let bad = r#"{"time_series_id":"s","timestamps":[0],"columns":{"c":["one"]}}"#;
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(bad.as_bytes()));
    }
    take(&fixture, &[]).await;
    // The first edit is not good enough, the second one is; the next letter is skipped.
    let script = r#"if grep -q '"one"' "$1"; then sed -i 's/"one"/tow/' "$1"; else sed -i 's/tow/2.5/' "$1"; fi"#;
    let editor = editor(&fixture, script);
    let mut redrive = command(&with(&fixture, &[("EDITOR", editor.to_str().unwrap()), ("PATH", "/usr/bin:/bin")]))
        .args(["dead-letter", "redrive", "--edit"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    redrive.stdin.take().unwrap().write_all(b"e\ns\n").unwrap();
    let output = redrive.wait_with_output().unwrap();
    let printed = text(&output);
    assert!(output.status.success(), "{printed}");
    for part in
        ["not written: syntax", "is written, with 1 points", "1 dead letters with 1 points written", "1 skipped"]
    {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    let value: f64 = fixture.client.query_one("select value from time_series_data_points", &[]).await.unwrap().get(0);
    assert_eq!(value, 2.5);
    assert_eq!(
        fixture.count("select count(*) from ingest_dead_letter where attempts = 0 and reason = 'schema'").await,
        1
    );
    assert_counted(&fixture, 1, 0, 1).await;
    std::fs::remove_file(editor).unwrap();
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_beside_a_payload_is_read_whole_before_a_letter_is_written() {
    let Some(fixture) = Fixture::new("cut_beside", 1).await else { return };
    let good = br#"{"time_series_id":"s","timestamps":[0],"columns":{"c":[1]}}"#;
    let limit = [("SERIES_INGEST__MESSAGE__MAX_BYTES", "66000")];
    let (key, long) = ("k".repeat(70_000), "v".repeat(70_000));
    fixture.producer.send(&fixture.points_topic, 0, &key, Some(good));
    take(&fixture, &limit).await;
    let headers = [("long", long.as_str()), ("series-ingest-version", "2")];
    fixture.producer.send_with_headers(&fixture.points_topic, 0, "s", Some(good), &headers);
    take(&fixture, &[]).await;
    assert_eq!(fixture.count(LETTERS).await, 2);
    // What is right of both stands beyond what the database has of them.
    let none = "0 dead letters with 0 points written; 1 rejected again";
    let done = redrive_in_part(&fixture, &limit, &["--reason", "too_large"]);
    assert!(done.contains(none), "{done}");
    let done = redrive_in_part(&fixture, &[], &["--reason", "schema"]);
    assert!(done.contains(none), "{done}");
    let done = dead_letter(&fixture, &[("EDITOR", "false")], &["redrive", "--edit", "--reason", "schema"]);
    assert!(done.contains("--edit changes the payload alone: header series-ingest-version"), "{done}");
    let done = dead_letter(&fixture, &[], &["redrive", "--reason", "too_large"]);
    assert!(done.contains("1 dead letters with 1 points written"), "{done}");
    fixture.broker.delete_records(&fixture.points_topic, 0, 2).await;
    let done = redrive_in_part(&fixture, &[], &[]);
    assert!(done.contains("bytes of its headers: Kafka no longer has") && done.contains("1 left alone"), "{done}");
    assert_counted(&fixture, 1, 0, 1).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_letter_of_a_series_that_is_there_now_is_written() {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    let Some(fixture) = Fixture::new("edit_unknown", 1).await else { return };
    letters_of_an_unknown_series(&fixture, 2).await;
    let mut redrive = command(&with(&fixture, &[UNKNOWN, ("EDITOR", "true")]))
        .args(["dead-letter", "redrive", "--edit"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut printed = BufReader::new(redrive.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("not written: unknown_series") {
        line.clear();
        assert!(printed.read_line(&mut line).unwrap() > 0, "the first one is rejected once more");
    }
    fixture.client.batch_execute("insert into time_series_metadata (id, name) values ('s', 's')").await.unwrap();
    redrive.stdin.take().unwrap().write_all(b"s\n").unwrap();
    let mut rest = String::new();
    printed.read_to_string(&mut rest).unwrap();
    assert!(redrive.wait().unwrap().success(), "{rest}");
    assert!(rest.contains("1 dead letters with 4 points written") && rest.contains("1 skipped"), "{rest}");
    assert_counted(&fixture, 1, 0, 1).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_pauses_while_others_are_in_its_way() {
    let Some(fixture) = Fixture::new("redrive_pauses", 1).await else { return };
    letters_of_an_unknown_series(&fixture, 1).await;
    // A sequence keeps what a transaction that is given up has counted.
    let in_the_way = "create sequence attempts;
        create function stand_in_the_way() returns trigger language plpgsql as $$
        begin
            perform nextval('attempts');
            raise exception using errcode = 'serialization_failure';
        end $$;
        create trigger stand_in_the_way before insert on time_series_data_points
            for each row execute function stand_in_the_way()";
    fixture.client.batch_execute(in_the_way).await.unwrap();
    let pause = [("SERIES_INGEST__DATABASE__RETRY_MIN_MS", "5000"), ("SERIES_INGEST__DATABASE__RETRY_MAX_MS", "5000")];
    let mut redrive = spawn_redrive(&fixture, &pause);
    let attempts = "select last_value from attempts where is_called";
    until(60, "it was tried", async || fixture.client.query_opt(attempts, &[]).await.unwrap().is_some()).await;
    // What takes a while, and less than a pause.
    for _ in 0..5 {
        dead_letter(&fixture, &[], &["list"]);
    }
    fixture.client.batch_execute("drop trigger stand_in_the_way on time_series_data_points").await.unwrap();
    assert!(redrive.wait().unwrap().success());
    assert_eq!((fixture.count_points().await, fixture.count(LETTERS).await), (4, 0));
    let attempts = fixture.count(attempts).await;
    assert!(attempts <= 2, "{attempts} attempts in a moment");
    fixture.remove().await;
}

/// Takes 6000 invalid messages where there is room for 500, with a worker that is killed in a transaction on the way; how many
/// are kept, how many are only counted, and by how much the metric differs from that.
async fn storm(fixture: &Fixture) -> (i64, i64, i64) {
    let publish = |messages: std::ops::Range<i32>| {
        for number in messages {
            let payload: &[u8] = if number % 3 == 0 { b"{" } else { b"7" };
            fixture.producer.send(&fixture.points_topic, number % 2, "s", Some(payload));
        }
        fixture.producer.flush();
    };
    publish(0..3000);
    let settings = [
        ("SERIES_INGEST__DEAD_LETTER__MAX_ROWS", "500"),
        ("SERIES_INGEST__MESSAGE__REJECTIONS_BEFORE_PAUSE", "0"),
        ("SERIES_INGEST__BATCH__MAX_BYTES", "1024"),
        ("SERIES_INGEST__DATABASE__WRITERS", "1"),
    ];
    let counted = "select coalesce(sum(only_counted), 0)::bigint from ingest_dead_letter_count";
    let mut killed = fixture.worker(&settings);
    until(60, "some are counted", async || fixture.count(counted).await > 0).await;
    let lock = connect(&fixture.url).await;
    lock.batch_execute("begin; lock table ingest_dead_letter in share mode").await.unwrap();
    publish(3000..6000);
    until(60, "it waits in a transaction", async || fixture.waiting_for_locks().await == 1).await;
    killed.kill();
    let before = fixture.count(counted).await;
    lock.batch_execute("commit").await.unwrap();
    let worker = fixture.worker(&settings);
    fixture.until_applied(120).await;
    let now = fixture.count(counted).await;
    let metric = "series_ingest_dead_letters_only_counted_total";
    until(20, "the metric counts", async || worker.metric(metric) >= Some((now - before) as f64)).await;
    let differs = worker.metric(metric).unwrap() as i64 - (now - before);
    (fixture.count(LETTERS).await, now, differs)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_bad_messages_is_bounded_and_counted_exactly() {
    let Some(fixture) = Fixture::new("storm", 2).await else { return };
    // With a sample for each of two partitions and two reasons.
    assert_eq!(storm(&fixture).await, (504, 5496, 0));
    assert_counted(&fixture, 504, 5496, 0).await;
    assert_eq!(fixture.count("select count(*) from ingest_dead_letter where is_sample").await, 4);
    let newest = "select count(*) from ingest_dead_letter where is_sample and \"offset\" >= 2997";
    assert_eq!(fixture.count(newest).await, 4, "the samples are the newest");
    let listed = dead_letter(&fixture, &[], &["list", "--limit", "1"]);
    assert_eq!(listed.lines().filter(|line| line.contains("were only counted")).count(), 4, "{listed}");
    let purged = dead_letter(&fixture, &[], &["purge", "--yes", "--counts"]);
    assert!(purged.contains("5496 that were only counted"), "{purged}");
    assert_counted(&fixture, 0, 0, 0).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn planted_bug_a_replaced_sample_is_not_counted() {
    let Some(fixture) = Fixture::new("storm_bug", 2).await else { return };
    plant(&fixture.client, "ingest_add_dead_letters", "only_counted = known.only_counted + 1,", "").await;
    let (kept, counted, _) = storm(&fixture).await;
    assert!(kept + counted < 6000, "the bug is caught: {kept} kept and {counted} counted of 6000");
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_that_comes_again_after_a_reset_is_counted_no_more() {
    let Some(fixture) = Fixture::new("sample_again", 1).await else { return };
    let bound = [("SERIES_INGEST__DEAD_LETTER__MAX_ROWS", "1")];
    for _ in 0..3 {
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(b"{"));
    }
    take(&fixture, &bound).await;
    assert_counted(&fixture, 2, 1, 0).await;
    let source = fixture.count("select id::bigint from ingest_source where topic like '%.points'").await.to_string();
    let reset = ["progress", "reset", "--source", &source, "--next-offset", "2", "--yes"];
    let output = run(&fixture.environment(), &reset);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    take(&fixture, &bound).await;
    assert_counted(&fixture, 2, 1, 0).await;
    assert_eq!(fixture.count("select \"offset\" from ingest_dead_letter where is_sample").await, 2);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_was_cut_is_read_from_kafka_again() {
    let Some(fixture) = Fixture::new("cut", 1).await else { return };
    let mut published = Published::default();
    for _ in 0..2 {
        let payload = published.batch("s", 4000);
        assert!(payload.len() > 65_536);
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(payload.as_bytes()));
    }
    take(&fixture, &[("SERIES_INGEST__MESSAGE__MAX_BYTES", "1024")]).await;
    assert_eq!(fixture.count("select count(*) from ingest_dead_letter where reason = 'too_large'").await, 2);
    let id = fixture.count("select min(id) from ingest_dead_letter").await.to_string();
    assert!(dead_letter(&fixture, &[], &["show", &id]).contains("only the first 65536 bytes"));
    // Of the first one Kafka has nothing any more.
    fixture.broker.delete_records(&fixture.points_topic, 0, 1).await;
    let done = redrive_in_part(&fixture, &[], &[]);
    assert!(done.contains("1 dead letters with 8000 points written; 0 rejected again"), "{done}");
    assert!(done.contains("1 left alone") && done.contains("no longer has the message"), "{done}");
    let difference = fixture.difference(&published).await;
    assert_eq!(difference, Difference { lost: 8000, ..Difference::default() });
    assert_counted(&fixture, 1, 0, 1).await;
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
async fn a_missing_topic_for_copies_is_told_and_keeps_nothing_from_moving() {
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
