//! `journal status|verify|export|replay`, with journals of workers that run, are dead, or were damaged.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use jiff::Timestamp;
use series_ingest::journal::{Inspection, RealFiles};

use crate::support::data::{Difference, Published};
use crate::support::fixture_with_proxy::FixtureWithProxy;
use crate::support::until;
use crate::support::worker::{command, run, text};

/// The lines of a command, and its exit code.
fn journal(away: &FixtureWithProxy, arguments: &[&str]) -> (Vec<String>, Option<i32>) {
    let output = run(&away.fixture.environment(), &[&["journal"], arguments].concat());
    (text(&output).lines().map(str::to_owned).collect(), output.status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_is_examined_exported_and_replayed_alongside_its_worker() {
    let Some(away) = FixtureWithProxy::new("outage_commands", 2).await else { return };
    let mut published = Published::default();
    let worker = away.worker("journal", &[]);
    away.begin_outage(&worker, &mut published, 20, 20).await;
    away.publish(&mut published, 200);
    away.fixture.until_journaled(&worker).await;

    let directory = away.journal("journal").to_str().unwrap().to_owned();
    let (lines, code) = journal(&away, &["status", "--directory", &directory]);
    assert_eq!(code, Some(0), "{lines:?}");
    let topic = &away.fixture.points_topic;
    assert_eq!(lines.iter().filter(|line| line.starts_with(topic) && line.contains("[10, ")).count(), 2, "{lines:?}");
    let (lines, code) = journal(&away, &["verify", "--directory", &directory]);
    assert_eq!(code, Some(0), "{lines:?}");

    let (lines, code) = journal(&away, &["export", "--directory", &directory]);
    assert_eq!(code, Some(0));
    assert_eq!(lines.len(), 220);
    let exported: Vec<serde_json::Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(
        exported.iter().all(|line| line["key"] == "s" && line["payload"].as_str().unwrap().contains("time_series_id"))
    );
    let filter =
        ["export", "--directory", &directory, "--partition", "1", "--from-offset", "15", "--until-offset", "18"];
    let (lines, _) = journal(&away, &filter);
    let offsets: Vec<i64> = lines
        .iter()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["offset"].as_i64().unwrap())
        .collect();
    assert_eq!(offsets, [15, 16, 17]);
    // One moment has at least the message that names it; what comes before it and what comes from it on are all.
    let times: Vec<i64> = exported.iter().map(|line| line["time_ms"].as_i64().unwrap()).collect();
    let (oldest, newest) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    assert!(oldest < newest, "{oldest} to {newest}");
    let newest_text = Timestamp::from_millisecond(*newest).unwrap().to_string();
    let (older, _) = journal(&away, &["export", "--directory", &directory, "--until-time", &newest_text]);
    let (newer, _) = journal(&away, &["export", "--directory", &directory, "--from-time", &newest_text]);
    let expected = times.iter().filter(|time| *time < newest).count();
    assert_eq!((older.len(), newer.len()), (expected, times.len() - expected));
    let (refused, code) = journal(&away, &["replay", "--directory", &directory, "--from-time", &newest_text]);
    assert_eq!(code, Some(64));
    assert!(refused[0].contains("unexpected argument '--from-time'"), "{refused:?}");
    let (help, _) = journal(&away, &["replay", "--help"]);
    let offered = |filter: &str| help.iter().any(|line| line.contains(filter));
    assert!(offered("--from-offset") && !offered("-time"), "{help:?}");
    let (document, code) = journal(&away, &["status", "--json", "--directory", &directory]);
    assert_eq!((document.len(), code), (1, Some(0)));
    let document: serde_json::Value = serde_json::from_str(&document[0]).unwrap();
    let partitions = document["partitions"].as_array().unwrap();
    assert_eq!(
        (partitions.len(), &document["directory"], &document["damage"]),
        (2, &directory.as_str().into(), &serde_json::json!([]))
    );
    let sum = |key: &str| partitions.iter().map(|one| one[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!(
        (sum("messages"), &partitions[0]["topic"], &partitions[1]["partition"]),
        (220, &topic.as_str().into(), &1.into())
    );
    assert_eq!(partitions[0]["offsets"][0]["from"], 10);
    let (document, code) = journal(&away, &["verify", "--json", "--directory", &directory]);
    assert_eq!((document.len(), code), (1, Some(0)));
    let document: serde_json::Value = serde_json::from_str(&document[0]).unwrap();
    assert_eq!(document["damage"], serde_json::json!([]));
    let (refused, code) = journal(&away, &["verify", "--directory", "/nowhere"]);
    assert_eq!(code, Some(64));
    assert!(refused[0].contains("/nowhere"), "{refused:?}");

    // Another host has a copy of it. The database is up: it is only the worker that is cut off from it.
    let copy = away.journal("copy");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(away.journal("journal")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let copy = copy.to_str().unwrap();
    let (planned, code) = journal(&away, &["replay", "--directory", copy, "--dry-run"]);
    assert_eq!(code, Some(0), "{planned:?}");
    assert!(planned[0].starts_with("220 messages with 11000 points would be written"), "{planned:?}");
    away.proxy.refuse(false);
    let (done, code) = journal(&away, &["replay", "--directory", copy]);
    assert_eq!(code, Some(0), "{done:?}");
    away.fixture.until_applied(60).await;
    away.fixture.assert_exact(&published).await;
    let (again, _) = journal(&away, &["replay", "--directory", copy]);
    assert!(again[0].starts_with("0 messages with 0 points written"), "{again:?}");
    away.fixture.assert_exact(&published).await;
    drop(worker);
    away.remove().await;
}

/// What a worker that was killed in an outage has left: a journal with this many messages of 50 points.
async fn leave_a_journal(away: &FixtureWithProxy, published: &mut Published, messages: usize) -> PathBuf {
    let mut worker = away.worker("journal", &[]);
    away.begin_outage(&worker, published, 20, 20).await;
    away.publish(published, messages - 20);
    away.fixture.until_journaled(&worker).await;
    worker.kill();
    away.journal("journal")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_journal_gives_what_is_intact_and_says_what_is_not() {
    let Some(away) = FixtureWithProxy::new("journal_damaged", 2).await else { return };
    let mut published = Published::default();
    let directory = leave_a_journal(&away, &mut published, 220).await;
    let (segment, position, record_bytes, messages) = {
        let inspection = Inspection::open(RealFiles, &directory).unwrap();
        let record = inspection.records().nth(1).unwrap();
        (record.segment, record.position, record.bytes(), record.messages)
    };
    let file = directory.join(format!("{segment:020}.segment"));
    let mut bytes = fs::read(&file).unwrap();
    // After the record's header.
    bytes[usize::try_from(position).unwrap() + 64 + 10] ^= 1;
    fs::write(&file, bytes).unwrap();

    let directory = directory.to_str().unwrap();
    let place = format!("segment {segment}, bytes {position} to {}: ", position + record_bytes);
    let (lines, code) = journal(&away, &["verify", "--directory", directory]);
    assert_eq!(code, Some(65), "{lines:?}");
    assert!(lines[0].starts_with("damaged: ") && lines[0].contains(&place), "{lines:?}");
    assert!(lines[1].contains("damaged in 1 places"), "{lines:?}");
    let (lines, code) = journal(&away, &["verify", "--json", "--directory", directory]);
    assert_eq!(code, Some(65), "{lines:?}");
    let document: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    assert!(document["damage"][0].as_str().unwrap().contains(&place), "{document}");
    let (lines, code) = journal(&away, &["export", "--directory", directory]);
    assert_eq!(code, Some(65));
    assert_eq!(lines.iter().filter(|line| line.starts_with('{')).count(), 220 - messages as usize);
    assert!(lines.iter().any(|line| line.contains(&place)), "the damage is named");

    // No worker is there: the dry run says exactly what the real one does.
    let counts = format!("{} messages with {} points", 220 - messages, (220 - messages) * 50);
    let (planned, code) = journal(&away, &["replay", "--directory", directory, "--dry-run"]);
    assert_eq!(code, Some(65), "{planned:?}");
    assert!(planned.iter().any(|line| line.starts_with(&format!("{counts} would be written"))), "{planned:?}");
    assert_eq!(away.fixture.count_points().await, 1000, "a dry run writes nothing");
    let (done, code) = journal(&away, &["replay", "--directory", directory]);
    assert_eq!(code, Some(65), "{done:?}");
    assert!(done.iter().any(|line| line.starts_with(&format!("{counts} written"))), "{done:?}");
    let missing = Difference { lost: messages as usize * 50, ..Difference::default() };
    assert_eq!(away.fixture.difference(&published).await, missing);

    // A worker reads the rest from Kafka.
    away.proxy.refuse(false);
    let worker = away.worker("journal", &[]);
    away.fixture.until_applied(60).await;
    away.fixture.assert_exact(&published).await;
    drop(worker);
    away.remove().await;
}

/// `database.writers = 0` stands for as many as help, not for none.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_writes_several_batches_at_the_same_time_by_default() {
    let Some(away) = FixtureWithProxy::new("journal_replay_writers", 2).await else { return };
    let mut published = Published::default();
    let directory = leave_a_journal(&away, &mut published, 100).await;
    let mut environment = away.fixture.environment();
    environment.push(("SERIES_INGEST__BATCH__MAX_POINTS".to_owned(), "50".to_owned()));
    let client = &away.fixture.client;
    client
        .batch_execute(
            "create function wait_there() returns trigger language plpgsql as $$ begin
                 perform pg_advisory_xact_lock_shared(1);
                 return null;
             end $$;
             create trigger wait_there before insert on time_series_data_points for each statement
                 execute function wait_there();
             select pg_advisory_lock(1)",
        )
        .await
        .unwrap();
    let arguments = ["journal", "replay", "--directory", directory.to_str().unwrap()];
    let mut replay = command(&environment).args(arguments).stdout(Stdio::null()).spawn().unwrap();
    // All connections that are kept, 5, but one.
    until(60, "several transactions are open at the same time", async || {
        let sql = "select count(*) from pg_locks where locktype = 'advisory' and not granted
                   and database = (select oid from pg_database where datname = current_database())";
        away.fixture.count(sql).await == 4
    })
    .await;
    client.batch_execute("select pg_advisory_unlock(1)").await.unwrap();
    assert_eq!(replay.wait().unwrap().code(), Some(0));
    away.fixture.assert_exact(&published).await;
    away.remove().await;
}

/// A batch that takes longer than a statement may; a part of it does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_the_server_cancels_is_halved_until_it_is_written() {
    let Some(away) = FixtureWithProxy::new("journal_canceled", 1).await else { return };
    let mut published = Published::default();
    let directory = leave_a_journal(&away, &mut published, 20).await;
    away.fixture.slow_down_rows(0.001).await;
    let mut environment = away.fixture.environment();
    environment.push(("SERIES_INGEST__DATABASE__STATEMENT_TIMEOUT_MS".to_owned(), "500".to_owned()));
    let output = run(&environment, &["journal", "replay", "--directory", directory.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("20 messages with 1000 points written, 0 dead letters"), "{}", text(&output));
    away.fixture.assert_exact(&published).await;
    away.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_was_killed_goes_on_where_it_was() {
    let Some(away) = FixtureWithProxy::new("journal_killed_replay", 2).await else { return };
    let mut published = Published::default();
    let directory = leave_a_journal(&away, &mut published, 1_000).await;
    let directory = directory.to_str().unwrap();
    // Only the journal has it now.
    away.delete_records().await;
    // A batch a message, so that it takes long enough.
    let mut environment = away.fixture.environment();
    environment.push(("SERIES_INGEST__BATCH__MAX_POINTS".to_owned(), "50".to_owned()));
    environment.push(("SERIES_INGEST__DATABASE__WRITERS".to_owned(), "1".to_owned()));
    // Each attempt comes so far, waits there, and is killed.
    let stop = "create function wait_there() returns trigger language plpgsql as $$ begin
            if (select count(*) from time_series_data_points) >= (select points from stop_at) then
                perform pg_advisory_xact_lock(1);
            end if;
            return null;
        end $$;
        create table stop_at (points bigint); insert into stop_at values (0);
        create trigger wait_there before insert on time_series_data_points for each statement execute function wait_there()";
    let client = &away.fixture.client;
    client.batch_execute(stop).await.unwrap();
    for points in [5_000, 20_000] {
        client
            .batch_execute(&format!("update stop_at set points = {points}; select pg_advisory_lock(1)"))
            .await
            .unwrap();
        let arguments = ["journal", "replay", "--directory", directory];
        let mut replay =
            command(&environment).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted
                     and database = (select oid from pg_database where datname = current_database())";
        until(60, "it waits", async || away.fixture.count(waits).await == 1).await;
        replay.kill().unwrap();
        assert!(!replay.wait().unwrap().success(), "it was still at work");
        client.batch_execute("select pg_advisory_unlock(1)").await.unwrap();
        until(30, "its session has ended", async || away.fixture.count(waits).await == 0).await;
        assert!(away.fixture.count_points().await >= points, "a part is written");
    }
    client.batch_execute("drop trigger wait_there on time_series_data_points").await.unwrap();
    // What a session that lost its client was about to commit.
    until(30, "the killed one's sessions have ended", async || {
        let sql = "select count(*) from pg_stat_activity where datname = current_database() and state <> 'idle'
                   and backend_type = 'client backend' and pid <> pg_backend_pid()";
        away.fixture.count(sql).await == 0
    })
    .await;
    let left = (published.rows.len() as i64 - away.fixture.count_points().await) as usize;
    assert!(left > 0);
    let (planned, code) = journal(&away, &["replay", "--directory", directory, "--dry-run"]);
    assert_eq!(code, Some(0), "{planned:?}");
    assert!(planned[0].contains(&format!(" with {left} points would be written")), "{planned:?}, {left} are left");
    let (done, code) = journal(&away, &["replay", "--directory", directory]);
    assert_eq!(code, Some(0), "{done:?}");
    assert!(done[0].contains(&format!(" with {left} points written")), "{done:?}, {left} were left");
    away.fixture.until_applied(10).await;
    away.fixture.assert_exact(&published).await;
    away.remove().await;
}
