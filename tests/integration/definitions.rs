//! Series that commands define, alongside messages that define them: the newer definition holds.

use std::process::Output;

use serde_json::Value;

use crate::support::fixture::Fixture;
use crate::support::until;
use crate::support::worker::{run, text};

fn series(fixture: &Fixture, arguments: &[&str]) -> Output {
    run(&fixture.environment(), &[&["series"], arguments].concat())
}

fn done(fixture: &Fixture, arguments: &[&str]) {
    let output = series(fixture, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
}

async fn row(fixture: &Fixture, id: &str) -> Value {
    let sql = "select to_jsonb(series) - 'created_at' - 'updated_at' - 'id' from time_series_metadata as series where id = $1";
    let sql = format!("select ({sql})::text");
    let text: Option<String> = fixture.client.query_one(&sql, &[&id]).await.unwrap().get(0);
    text.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_is_created_and_changed_by_commands() {
    let Some(fixture) = Fixture::new("define", 1).await else { return };
    let id = "it's \"s\"\n";
    let missing = series(&fixture, &["update", id, "--name", "x"]);
    assert_eq!(missing.status.code(), Some(64), "{}", text(&missing));
    done(&fixture, &["create", id, "--name", "First", "--columns", "b,a", "--labels", "site=SEA,floor=2,on=true"]);
    let labels = serde_json::json!({"site": "SEA", "floor": 2, "on": true});
    let expected = serde_json::json!({
        "name": "First", "description": null, "time_column": "timestamp", "value_columns": "[\"b\",\"a\"]", "labels": labels
    });
    let mut stored = row(&fixture, id).await;
    stored["value_columns"] = stored["value_columns"].as_str().unwrap().replace(' ', "").into();
    assert_eq!(stored, expected);
    let again = series(&fixture, &["create", id]);
    assert_eq!(again.status.code(), Some(64), "{}", text(&again));
    done(&fixture, &["update", id, "--description", "About it", "--time-column", "at", "--labels", "floor=,site=PDX"]);
    let stored = row(&fixture, id).await;
    assert_eq!((&stored["name"], &stored["description"]), (&"First".into(), &"About it".into()));
    assert_eq!(
        (&stored["time_column"], &stored["labels"]),
        (&"at".into(), &serde_json::json!({"site": "PDX", "on": true}))
    );
    done(&fixture, &["update", id, "--name", ""]);
    assert_eq!(row(&fixture, id).await["name"], Value::Null);
    for bad in [&["update", id, "--columns", "a,a"][..], &["create", ""], &["update", id, "--labels", "x"]] {
        assert_eq!(series(&fixture, bad).status.code(), Some(64), "{bad:?}");
    }
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_command_and_a_message_the_newer_definition_holds() {
    let Some(fixture) = Fixture::new("define_both", 1).await else { return };
    let worker = fixture.worker(&[("SERIES_INGEST__BATCH__LINGER_MS", "1")]);
    let now_ms = fixture.count("select (extract(epoch from clock_timestamp()) * 1000)::bigint").await;
    let send = async |name: &str, time_ms: i64| {
        let payload = format!(r#"{{"id":"s","name":"{name}"}}"#);
        fixture.producer.send_at(&fixture.series_topic, 0, "s", Some(payload.as_bytes()), time_ms);
        fixture.producer.flush();
        let end = fixture.broker.end(&fixture.series_topic, 0);
        let sql = "select coalesce(max(next_offset), 0) from ingest_progress as progress
                   join ingest_source as source on source.id = progress.source_id where topic like '%series'";
        until(60, "the definition is applied", async || fixture.count(sql).await == end).await;
    };
    let name = async || row(&fixture, "s").await["name"].clone();
    send("old", now_ms - 60_000).await;
    assert_eq!(name().await, "old");
    done(&fixture, &["update", "s", "--name", "by hand"]);
    assert_eq!(name().await, "by hand");
    // It comes after the command, and was sent before it.
    send("older", now_ms - 30_000).await;
    assert_eq!(name().await, "by hand");
    send("later", now_ms + 600_000).await;
    assert_eq!(name().await, "later");
    // A command is later than what is stored, also if the producer's clock is ahead.
    done(&fixture, &["update", "s", "--name", "by hand again"]);
    assert_eq!(name().await, "by hand again");
    send("latest", now_ms + 660_000).await;
    assert_eq!(name().await, "latest");
    drop(worker);
    fixture.remove().await;
}
