//! What is stored of a dead letter, how it is listed, and how storms are bounded.

use std::process::Stdio;

use rdkafka::Message as _;
use rdkafka::message::Headers as _;
use serde_json::Value;

use super::{LETTERS, assert_counted, dead_letter, redrive_in_part, take};
use crate::claims::plant;
use crate::support::fixture::{Fixture, connect};
use crate::support::until;
use crate::support::worker::{command, run, text};

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
    worker.until_metric(metric, 4.0).await;
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
async fn a_storm_of_invalid_messages_is_bounded_and_counted_exactly() {
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
