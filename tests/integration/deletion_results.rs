//! What a deletion deletes besides points, and what it says of it.

use series_ingest::database::Database;
use series_ingest::database::deletion::Deletion;

use crate::support::fixture::Fixture;
use crate::support::worker::{run, text};

fn send_native(fixture: &Fixture, payload: &str) {
    fixture.producer.send(&fixture.points_topic, 0, "7", Some(payload.as_bytes()));
}

/// In another format a key, an `id` or a `time_series_id` is not the series of the message, so its dead letters stay. Those of native
/// messages go by what the payload says, and by the key only if it says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn only_dead_letters_of_the_series_itself_go_with_it() {
    let Some(mut fixture) = Fixture::new("deleted_other_letters", 1).await else { return };
    let topic = format!("{}.sites", fixture.name);
    fixture.broker.create(&topic, 1, &[]).await;
    fixture.set_config(&format!(
        "[[input]]\nname = \"sites\"\ntopics = [\"{topic}\"]\nformat = \"json\"\nseries = \"{{/site}}/{{/sensor}}\"\n\
         time = {{ at = \"/ts\", unit = \"s\" }}\n"
    ));
    for payload in [
        r#"{"site":"b","sensor":1,"v":1,"ts":"bad"}"#,
        r#"{"id":"7","site":"b","sensor":2,"v":1,"ts":"bad"}"#,
        r#"{"time_series_id":"7","site":"b","sensor":3,"v":1,"ts":"bad"}"#,
    ] {
        fixture.producer.send(&topic, 0, "7", Some(payload.as_bytes()));
    }
    send_native(&fixture, r#"{"time_series_id":"7","timestamps":[1],"columns":{"v":[1]}}"#);
    send_native(&fixture, r#"{"time_series_id":"7","timestamps":["bad"],"columns":{"v":[1]}}"#);
    send_native(&fixture, r#"{"time_series_id":"8","timestamps":["bad"],"columns":{"v":[1]}}"#);
    send_native(&fixture, "no JSON");
    fixture.producer.flush();
    let mut worker = fixture.worker(&[]);
    let letters = "select count(*) from ingest_dead_letter";
    crate::support::until(60, "all are stored", async || {
        fixture.count(letters).await == 6 && fixture.count_points().await == 1
    })
    .await;
    assert_eq!(worker.terminate(10), Some(0));
    let output = run(&fixture.environment(), &["series", "delete", "7", "--yes"]);
    assert!(text(&output).contains("1 points, 2 dead letters deleted, with the series"), "{}", text(&output));
    let left = fixture
        .client
        .query("select convert_from(payload, 'UTF8') from ingest_dead_letter order by source_id, \"offset\"", &[])
        .await
        .unwrap();
    let left: Vec<String> = left.iter().map(|row| row.get(0)).collect();
    assert_eq!(left.len(), 4, "{left:?}");
    assert_eq!(left.iter().filter(|payload| payload.contains("\"site\"")).count(), 3, "{left:?}");
    assert!(left.iter().any(|payload| payload.contains("\"8\"")), "{left:?}");
    fixture.remove().await;
}

/// A worker completes deletions that are pending, also one that a command is working on: both say what was deleted together.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_process_has_deleted_counts_too() {
    let Some(fixture) = Fixture::new("deleted_together", 1).await else { return };
    send_native(&fixture, r#"{"time_series_id":"7","timestamps":[1,2,3],"columns":{"v":[1,2,3]}}"#);
    send_native(&fixture, r#"{"time_series_id":"7","timestamps":["bad"],"columns":{"v":[1]}}"#);
    fixture.producer.flush();
    let mut worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    assert_eq!(worker.terminate(10), Some(0));
    let config = fixture.config(&[]);
    let (command, worker) = (Database::new(&config).unwrap(), Database::new(&config).unwrap());
    let deletion = Deletion { series: "7".to_owned(), before_us: None };
    command.begin_deletions(&["7"], None).await.unwrap();
    assert_eq!(worker.pending_deletions().await.unwrap(), std::slice::from_ref(&deletion));
    let by_worker = worker.complete_deletion(&deletion, false, |_| ()).await.unwrap();
    let by_command = command.complete_deletion(&deletion, true, |_| ()).await.unwrap();
    assert_eq!((by_worker.points, by_worker.dead_letters, by_worker.series), (3, 1, true));
    assert_eq!(by_command, by_worker);

    // The next deletion counts for itself.
    command.begin_deletions(&["7"], None).await.unwrap();
    let again = command.complete_deletion(&deletion, true, |_| ()).await.unwrap();
    assert_eq!((again.points, again.dead_letters, again.series), (0, 0, false));
    fixture.remove().await;
}
