//! What is done with messages that cannot be stored: found, repaired, sent again, counted beyond a bound, published.

mod copies;
mod redrive;
mod stored;

use std::process::{Child, Stdio};

use crate::support::data::Published;
use crate::support::fixture::Fixture;
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
    // Their topic has nothing else, and is to be read nevertheless.
    let never = ("SERIES_INGEST__MESSAGE__REJECTIONS_BEFORE_PAUSE", "0");
    let mut worker = fixture.worker(&[extra, &[never]].concat());
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
