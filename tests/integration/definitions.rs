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
    // Numbers keep all of their digits, also those that are not named.
    done(&fixture, &["update", id, "--labels", "n=123456789012345678901234567890,x=1.10"]);
    done(&fixture, &["update", id, "--labels", "site=SEA"]);
    let sql = "select labels::text from time_series_metadata where id = $1";
    let labels: String = fixture.client.query_one(sql, &[&id]).await.unwrap().get(0);
    assert!(labels.contains("123456789012345678901234567890") && labels.contains("1.10"), "{labels}");
    let listed = series(&fixture, &["show", id, "--json"]);
    assert!(text(&listed).contains("123456789012345678901234567890"), "{}", text(&listed));
    // A comma in a name or a value.
    done(
        &fixture,
        &["update", id, "--column", "a,b", "--column", "c", "--label", "place=Berlin, Mitte", "--labels", "m=1,k=2"],
    );
    let stored = row(&fixture, id).await;
    let columns: Value = serde_json::from_str(stored["value_columns"].as_str().unwrap()).unwrap();
    assert_eq!((&columns, &stored["labels"]["place"]), (&serde_json::json!(["a,b", "c"]), &"Berlin, Mitte".into()));
    assert_eq!((&stored["labels"]["m"], &stored["labels"]["k"]), (&1.into(), &2.into()));
    let refused = |arguments: &[&str], words: &str| {
        let output = series(&fixture, arguments);
        assert!(output.status.code() == Some(64) && text(&output).contains(words), "{arguments:?}: {}", text(&output));
    };
    refused(&["update", id, "--labels", "place=Berlin, Mitte"], "--label");
    refused(&["update", id], "there is nothing to change");
    // The times are called `at` since above.
    refused(&["update", id, "--columns", "at,b"], "would both be \"at\"");
    refused(&["update", id, "--time-column", "c"], "would both be \"c\"");
    refused(&["create", "new", "--time-column", "t", "--columns", "t,a"], "would both be \"t\"");
    refused(&["create", "new", "--columns", "a,timestamp"], "would both be \"timestamp\"");
    assert_eq!(fixture.count("select count(*) from time_series_metadata where id = 'new'").await, 0);
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

#[tokio::test(flavor = "multi_thread")]
async fn an_update_leaves_what_it_does_not_name_of_a_row_of_another_program() {
    let Some(fixture) = Fixture::new("define_foreign", 1).await else { return };
    let sql = "insert into time_series_metadata (id, name, description, time_column, value_columns, labels)
               values ('s', 'Old', 'About', 'at', '[\"z\", \"a\"]', '{\"floor\": 2}')";
    fixture.client.batch_execute(sql).await.unwrap();
    done(&fixture, &["update", "s", "--name", "New"]);
    let stored = row(&fixture, "s").await;
    assert_eq!(
        (&stored["name"], &stored["description"], &stored["time_column"]),
        (&"New".into(), &"About".into(), &"at".into())
    );
    assert_eq!(stored["value_columns"].as_str().unwrap().replace(' ', ""), "[\"z\",\"a\"]");
    assert_eq!(stored["labels"], serde_json::json!({"floor": 2}));
    // No definition can remove a label that it has not set.
    let refused = series(&fixture, &["update", "s", "--labels", "floor="]);
    assert!(refused.status.code() == Some(64) && text(&refused).contains("was not defined"), "{}", text(&refused));
    done(&fixture, &["update", "s", "--labels", "floor=3"]);
    done(&fixture, &["update", "s", "--labels", "floor="]);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_is_created_again_although_the_clock_of_its_deletion_was_ahead() {
    let Some(fixture) = Fixture::new("define_ahead", 1).await else { return };
    let sql = "select ingest_delete_series(array['s'], 'infinity',
                   array[floor(extract(epoch from now() + interval '1 hour') * 1000)::bigint])";
    fixture.client.batch_execute(sql).await.unwrap();
    done(&fixture, &["create", "s", "--name", "Again"]);
    assert_eq!(row(&fixture, "s").await["name"], "Again");
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_commands_that_create_the_same_series_at_the_same_time_one_succeeds() {
    let Some(fixture) = Fixture::new("define_twice", 1).await else { return };
    let environment = fixture.environment();
    let commands = (0..6).map(|number| {
        let environment = environment.clone();
        let name = format!("Name {number}");
        std::thread::spawn(move || run(&environment, &["series", "create", "s", "--name", &name]).status.code())
    });
    let commands: Vec<_> = commands.collect();
    let codes: Vec<_> = commands.into_iter().map(|command| command.join().unwrap()).collect();
    assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == Some(64)).count(), 5, "{codes:?}");
    fixture.remove().await;
}
