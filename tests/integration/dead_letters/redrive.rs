//! Writing dead letters again.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;

use super::{
    LETTERS, UNKNOWN, assert_counted, dead_letter, letters_of_an_unknown_series, redrive_in_part, spawn_redrive, take,
    with,
};
use crate::support::data::{Difference, Published};
use crate::support::fixture::{Fixture, connect};
use crate::support::until;
use crate::support::worker::{command, run, text};

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

/// Two redrives of the same letters; the first is held until the second has read them too; the points then.
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
async fn what_is_rejected_again_is_named_and_a_dry_run_is_not_an_attempt() {
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
async fn key_and_headers_are_read_whole_before_a_letter_is_written() {
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

/// Letters that take longer together than a statement may, and alone do not.
#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_that_the_server_cancels_is_halved_until_it_is_written() {
    let Some(fixture) = Fixture::new("redrive_canceled", 1).await else { return };
    let published = letters_of_an_unknown_series(&fixture, 8).await;
    fixture.slow_down_rows(0.03).await;
    let limit = [("SERIES_INGEST__DATABASE__STATEMENT_TIMEOUT_MS", "500")];
    let done = dead_letter(&fixture, &limit, &["redrive"]);
    assert!(done.contains("8 dead letters with 32 points written; 0 rejected again"), "{done}");
    assert_eq!(fixture.difference(&published).await, Difference::default());
    assert_counted(&fixture, 0, 0, 8).await;
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
