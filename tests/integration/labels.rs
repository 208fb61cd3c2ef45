//! The labels of series: of points, of definitions, and of other programs.

use crate::claims::plant;
use crate::support::fixture::Fixture;
use crate::support::until;
use crate::support::worker::Worker;

const INPUTS: &str = r#"
[[input]]
name = "json"
topics = ["TOPIC.json"]
format = "json"
series = "{/id}"
time = { at = "/ts", unit = "s" }
columns = { except = ["/id", "/ts", "/site", "/floor"] }
labels = ["/site", "/floor"]

[[input]]
name = "telegraf"
topics = ["TOPIC.telegraf"]
format = "telegraf-json"
"#;

/// A fixture with the two inputs, and a worker that writes each message at once.
async fn start(test: &str) -> Option<(Fixture, Worker)> {
    start_lingering(test, "0").await
}

async fn start_lingering(test: &str, linger_ms: &str) -> Option<(Fixture, Worker)> {
    let mut fixture = Fixture::new(test, 1).await?;
    for topic in ["json", "telegraf"] {
        fixture.broker.create(&format!("{}.{topic}", fixture.name), 1, &[]).await;
    }
    fixture.set_config(&INPUTS.replace("TOPIC", &fixture.name));
    let worker = fixture.worker(&[("SERIES_INGEST__BATCH__LINGER_MS", linger_ms)]);
    Some((fixture, worker))
}

fn send(fixture: &Fixture, topic: &str, payload: &str) {
    fixture.producer.send(&format!("{}.{topic}", fixture.name), 0, "k", Some(payload.as_bytes()));
    fixture.producer.flush();
}

/// A point of series `s` with these fields, without the braces, and waits until it is stored.
async fn send_point(fixture: &Fixture, fields: &str) {
    let of_s = "select count(*) from time_series_data_points where time_series_id = 's'";
    let before = fixture.count(of_s).await;
    send(fixture, "json", &format!(r#"{{"id":"s","ts":{before},"x":1,{fields}}}"#));
    until(60, "the point is stored", async || fixture.count(of_s).await == before + 1).await;
}

async fn labels(fixture: &Fixture, id: &str) -> Option<String> {
    let sql = "select labels::text from time_series_metadata where id = $1";
    fixture.client.query_opt(sql, &[&id]).await.unwrap()?.get(0)
}

async fn until_labels(fixture: &Fixture, id: &str, expected: Option<&str>) {
    until(60, &format!("{id} has the labels {expected:?}"), async || labels(fixture, id).await.as_deref() == expected)
        .await;
}

/// A definition with these labels, JSON, and waits until it is applied.
async fn define(fixture: &Fixture, labels: &str) {
    send_definition(fixture, &format!(r#"{{"id":"s","labels":{labels}}}"#)).await;
}

async fn send_definition(fixture: &Fixture, payload: &str) {
    fixture.producer.send(&fixture.series_topic, 0, "s", Some(payload.as_bytes()));
    fixture.producer.flush();
    let end = fixture.broker.end(&fixture.series_topic, 0);
    let sql =
        "select coalesce(max(next_offset), 0) from ingest_progress as p join ingest_source as s on s.id = p.source_id
               where s.topic like '%.series'";
    until(60, "the definition is applied", async || fixture.count(sql).await == end).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_of_points_are_stored_found_by_the_index_and_follow_the_points() {
    let Some((fixture, worker)) = start("labels").await else { return };
    send_point(&fixture, r#""site":"a","floor":3"#).await;
    until_labels(&fixture, "s", Some(r#"{"site": "a", "floor": 3}"#)).await;
    send(
        &fixture,
        "telegraf",
        r#"{"name":"cpu","tags":{"region":"eu","host":"h"},"fields":{"idle":1},"timestamp":1700000000}"#,
    );
    until_labels(&fixture, "cpu,host=h,region=eu", Some(r#"{"host": "h", "region": "eu"}"#)).await;
    let sql = "select id from time_series_metadata where labels @> '{\"site\":\"a\"}'";
    fixture.client.batch_execute("set enable_seqscan = off").await.unwrap();
    let plan = fixture.client.query(&format!("explain {sql}"), &[]).await.unwrap();
    let plan: Vec<&str> = plan.iter().map(|row| row.get(0)).collect();
    assert!(plan.iter().any(|line| line.contains("idx_time_series_metadata_labels")), "{plan:?}");
    assert_eq!(fixture.client.query_one(sql, &[]).await.unwrap().get::<_, &str>(0), "s");

    // What comes later replaces the same label only; what another program has added stays.
    let edit =
        "update time_series_metadata set labels = labels || '{\"owner\": \"x\", \"site\": \"mine\"}' where id = 's'";
    fixture.client.batch_execute(edit).await.unwrap();
    send_point(&fixture, r#""site":"a","floor":3"#).await;
    let edited = r#"{"site": "mine", "floor": 3, "owner": "x"}"#;
    assert_eq!(labels(&fixture, "s").await.as_deref(), Some(edited), "unchanged labels cost no statement");
    send_point(&fixture, r#""site":"b""#).await;
    until_labels(&fixture, "s", Some(r#"{"site": "b", "floor": 3, "owner": "x"}"#)).await;
    for not_an_object in ["'[1]'", "'\"x\"'", "'null'", "null"] {
        let edit = format!("update time_series_metadata set labels = {not_an_object} where id = 's'");
        fixture.client.batch_execute(&edit).await.unwrap();
        send_point(&fixture, r#""site":"a""#).await;
        send_point(&fixture, r#""site":"b""#).await;
        assert_eq!(labels(&fixture, "s").await.as_deref(), Some(r#"{"site": "b"}"#), "{not_an_object}");
    }
    // A series that was deleted gets them again.
    fixture.client.batch_execute("delete from time_series_metadata where id = 's'").await.unwrap();
    send_point(&fixture, r#""site":"b""#).await;
    assert_eq!(labels(&fixture, "s").await.as_deref(), Some(r#"{"site": "b"}"#));
    assert_eq!(fixture.count("select count(*) from ingest_dead_letter").await, 0);
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_of_a_definition_take_precedence_whichever_comes_first() {
    let Some((fixture, worker)) = start("label_definitions").await else { return };
    for definition_first in [true, false] {
        let definition = r#"{"site":"defined","kind":"weather"}"#;
        if definition_first {
            define(&fixture, definition).await;
            assert_eq!(labels(&fixture, "s").await.as_deref(), Some(r#"{"kind": "weather", "site": "defined"}"#));
        }
        send_point(&fixture, r#""site":"a","floor":3"#).await;
        if !definition_first {
            assert_eq!(labels(&fixture, "s").await.as_deref(), Some(r#"{"site": "a", "floor": 3}"#));
            define(&fixture, definition).await;
        }
        let both = Some(r#"{"kind": "weather", "site": "defined", "floor": 3}"#);
        assert_eq!(labels(&fixture, "s").await.as_deref(), both, "{definition_first}");
        // Without labels it leaves them as they are, and a newer definition replaces those of an older one.
        send_definition(&fixture, r#"{"id":"s","name":"S"}"#).await;
        assert_eq!(labels(&fixture, "s").await.as_deref(), both);
        define(&fixture, r#"{"kind":"air"}"#).await;
        assert_eq!(labels(&fixture, "s").await.as_deref(), Some(r#"{"kind": "air", "floor": 3}"#));
        // What it has given up, the points may set again, although the worker has seen these labels before.
        send_point(&fixture, r#""site":"a","floor":3"#).await;
        assert_eq!(labels(&fixture, "s").await.as_deref(), Some(r#"{"kind": "air", "site": "a", "floor": 3}"#));
        for none in ["null", "{}"] {
            define(&fixture, none).await;
            assert_eq!(labels(&fixture, "s").await.as_deref(), Some(r#"{"site": "a", "floor": 3}"#));
        }
        fixture.client.batch_execute("delete from time_series_metadata").await.unwrap();
    }
    assert_eq!(fixture.count("select count(*) from ingest_dead_letter").await, 0);
    drop(worker);
    fixture.remove().await;
}

/// What the function makes of definitions of one series, each with its time and its labels; also in one call.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_definition_changes_no_label() {
    let Some((fixture, worker)) = start("label_replays").await else { return };
    define(&fixture, r#"{"a":1}"#).await;
    drop(worker);
    let define = async |definitions: &[(i64, Option<&str>)]| -> i64 {
        let sql = "select ingest_define_series(array_agg('s'::text), array_agg(null::text), array_agg(null::text),
                       array_agg(null::text), array_agg('[]'::text), array_agg(time_ms),
                       array_agg((select key from ingest_source where topic like '%.series')), array_agg(0),
                       array_agg(time_ms), array_agg(labels))
                   from unnest($1::bigint[], $2::text[]) as t (time_ms, labels)";
        let (times, labels): (Vec<i64>, Vec<Option<&str>>) = definitions.iter().copied().unzip();
        fixture.client.query_one(sql, &[&times, &labels]).await.unwrap().get(0)
    };
    const NEW: i64 = 1 << 45;
    for (definitions, conflicts, expected) in [
        (&[(1, Some(r#"{"a":0,"b":0}"#))][..], 1, Some(r#"{"a": 1}"#)),
        (&[(1, Some("{}"))], 1, Some(r#"{"a": 1}"#)),
        (&[(NEW, None), (1, Some(r#"{"b":0}"#))], 1, Some(r#"{"a": 1}"#)),
        (&[(NEW + 1, Some(r#"{"b":2}"#)), (NEW + 2, None)], 1, Some(r#"{"b": 2}"#)),
        (&[(NEW + 4, Some(r#"{"c":4}"#)), (NEW + 3, Some(r#"{"b":3}"#))], 2, Some(r#"{"c": 4}"#)),
        (&[(NEW + 5, Some(r#"{"c":4}"#))], 0, Some(r#"{"c": 4}"#)),
        (&[(NEW + 6, Some("{}"))], 1, None),
    ] {
        assert_eq!(define(definitions).await, conflicts, "{definitions:?}");
        assert_eq!(labels(&fixture, "s").await.as_deref(), expected, "{definitions:?}");
    }
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_labels_that_change_wait_for_a_row_that_another_session_has_locked() {
    // Long enough for both messages to be in one batch.
    let Some((fixture, worker)) = start_lingering("label_locks", "500").await else { return };
    send_point(&fixture, r#""site":"a""#).await;
    let other = fixture.connect_to_database(&fixture.name).await;
    other.batch_execute("begin; select from time_series_metadata for no key update").await.unwrap();
    send_point(&fixture, r#""site":"a""#).await;
    send(&fixture, "json", r#"{"id":"s","ts":100,"x":1,"site":"b"}"#);
    send(&fixture, "json", r#"{"id":"t","ts":100,"x":1,"site":"b"}"#);
    until_labels(&fixture, "t", Some(r#"{"site": "b"}"#)).await;
    let of_s = "select count(*) from time_series_data_points where time_series_id = 's'";
    assert_eq!(fixture.count(of_s).await, 2, "the last message of the series waits");
    other.batch_execute("commit").await.unwrap();
    until(60, "it is written when the row is free", async || fixture.count(of_s).await == 3).await;
    assert_eq!(labels(&fixture, "s").await.as_deref(), Some(r#"{"site": "b"}"#));
    assert_eq!(fixture.count("select count(*) from ingest_dead_letter").await, 0);
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn planted_bug_points_change_the_labels_of_a_definition() {
    let Some((fixture, worker)) = start("label_bug").await else { return };
    let good = "ingest_without_keys(given.labels, stored.defined_labels)";
    plant(&fixture.client, "ingest_ensure_series", good, "given.labels").await;
    define(&fixture, r#"{"site":"defined"}"#).await;
    send_point(&fixture, r#""site":"a""#).await;
    assert_eq!(labels(&fixture, "s").await.as_deref(), Some(r#"{"site": "a"}"#), "the bug is caught");
    drop(worker);
    fixture.remove().await;
}
