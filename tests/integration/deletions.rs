//! Series that are deleted, and stay deleted: whatever brings their old messages again.

use std::process::Output;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use series_ingest::database::schema::profile::Profile;

use crate::claims::plant;
use crate::support::data::Published;
use crate::support::fixture::{Fixture, connect};
use crate::support::fixture_with_proxy::FixtureWithProxy;
use crate::support::fixture_with_server::FixtureWithServer;
use crate::support::until;
use crate::support::worker::{run, text};

const PROFILES: [Profile; 2] = [Profile::Standard, Profile::Throughput];
const OF_GONE: &str = "select count(*) from time_series_data_points where time_series_id = 'gone'";
const ROWS_OF_GONE: &str = "select count(*) from time_series_metadata where id = 'gone'";
const ORPHANS: &str = "select count(*) from time_series_data_points as point
    where not exists (select from time_series_metadata as series where series.id = point.time_series_id)";
const PENDING: &str = "select count(*) from ingest_series_tombstone where completed_at is null";

fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn send(fixture: &Fixture, series: &str, first_s: i64, count: i64) {
    let times: Vec<i64> = (first_s..first_s + count).collect();
    let payload =
        serde_json::json!({"time_series_id": series, "timestamps": times, "columns": {"c": times, "d": times}});
    fixture.producer.send(&fixture.points_topic, 0, series, Some(payload.to_string().as_bytes()));
}

fn delete(fixture: &Fixture, arguments: &[&str]) -> Output {
    run(&fixture.environment(), &[&["series", "delete"], arguments].concat())
}

fn deleted(fixture: &Fixture, arguments: &[&str]) -> String {
    let output = delete(fixture, arguments);
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Sets progress back to the start, so that a worker reads all of Kafka again.
fn reset(fixture: &Fixture) {
    let output = run(
        &fixture.environment(),
        &["progress", "reset", "--topic", &fixture.points_topic, "--next-offset", "0", "--yes"],
    );
    assert!(output.status.success(), "{}", text(&output));
}

/// Publishes points of the series `gone` and `stays`, 200 each, and has them written.
async fn fill(fixture: &Fixture) {
    for first_s in (0..100).step_by(10) {
        send(fixture, "gone", first_s, 10);
        send(fixture, "stays", first_s, 10);
    }
    fixture.producer.flush();
    let mut worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    assert_eq!(worker.terminate(20), Some(0));
    assert_eq!(fixture.count_points().await, 400);
}

/// Deletes `gone`, and has all of Kafka read again; returns the number of its points and rows.
async fn read_again_after_delete(fixture: &Fixture) -> (i64, i64) {
    fill(fixture).await;
    deleted(fixture, &["gone", "--yes"]);
    assert_eq!((fixture.count(OF_GONE).await, fixture.count(ROWS_OF_GONE).await), (0, 0));
    reset(fixture);
    let mut worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    assert_eq!(worker.terminate(20), Some(0));
    (fixture.count(OF_GONE).await, fixture.count(ROWS_OF_GONE).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_series_stays_deleted_when_kafka_is_read_again() {
    for profile in PROFILES {
        let name = format!("deleted_{}", profile.as_str());
        let Some(fixture) = Fixture::with_profile(&name, 1, profile).await else { return };
        assert_eq!(read_again_after_delete(&fixture).await, (0, 0));
        assert_eq!(fixture.count_points().await, 400, "the other series is read again");
        assert_eq!(fixture.count(ORPHANS).await, 0);
        // A message that is sent later creates it again, and only its points are there.
        send(&fixture, "gone", 1000, 3);
        fixture.producer.flush();
        let worker = fixture.worker(&[]);
        fixture.until_applied(60).await;
        drop(worker);
        assert_eq!(fixture.count(OF_GONE).await, 6);
        fixture.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn planted_bug_deletions_are_not_looked_for() {
    let Some(fixture) = Fixture::new("deleted_bug", 1).await else { return };
    plant(&fixture.client, "ingest_check_deleted", "raise exception", "raise debug").await;
    assert_eq!(read_again_after_delete(&fixture).await, (200, 1), "the bug is caught: the series is there again");
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn points_before_a_time_stay_deleted_and_later_ones_stay() {
    let Some(fixture) = Fixture::new("deleted_before", 1).await else { return };
    fill(&fixture).await;
    let output = deleted(&fixture, &["gone", "--before", "1970-01-01T00:00:30Z", "--dry-run"]);
    assert!(output.contains("\"gone\": 60 points would be deleted"), "{output}");
    assert_eq!(fixture.count(OF_GONE).await, 200);
    let output = deleted(&fixture, &["gone", "--before", "1970-01-01T00:00:30Z", "--yes"]);
    assert!(output.contains("\"gone\": 60 points deleted"), "{output}");
    let before = format!("{OF_GONE} and \"timestamp\" < '1970-01-01 00:00:30Z'");
    assert_eq!((fixture.count(OF_GONE).await, fixture.count(&before).await), (140, 0));
    reset(&fixture);
    let worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    until(20, "the deleted points are counted", async || {
        worker.metric("series_ingest_points_deleted_total") == Some(60.0)
    })
    .await;
    assert_eq!((fixture.count(OF_GONE).await, fixture.count(&before).await), (280, 0));
    // Points before the time that are sent later are stored.
    send(&fixture, "gone", 0, 1);
    fixture.producer.flush();
    fixture.until_applied(60).await;
    assert_eq!(fixture.count(&before).await, 2);
    drop(worker);
    fixture.remove().await;
}

async fn replay_after_delete(profile: Profile) {
    let name = format!("deleted_journal_{}", profile.as_str());
    let Some(fixture) = Fixture::with_profile(&name, 1, profile).await else { return };
    let away = FixtureWithProxy::before(fixture).await;
    let fixture = &away.fixture;
    let mut published = Published::default();
    let worker = away.worker("journal", &[]);
    away.begin_outage(&worker, &mut published, 4, 4).await;
    for first_s in (0..50).step_by(10) {
        send(fixture, "gone", first_s, 10);
    }
    fixture.producer.flush();
    fixture.until_journaled(&worker).await;
    // The command reaches the database, and the worker does not.
    let output = deleted(fixture, &["gone", "--yes"]);
    assert!(output.contains("there is no such series"), "{output}");
    away.proxy.refuse(false);
    fixture.until_applied(60).await;
    worker.until_mode("streaming").await;
    fixture.assert_exact(&published).await;
    assert_eq!(fixture.count(ROWS_OF_GONE).await, 0);
    drop(worker);
    away.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_series_stays_deleted_when_a_journal_is_replayed() {
    for profile in PROFILES {
        replay_after_delete(profile).await;
    }
}

async fn redrive_after_delete(profile: Profile) {
    let name = format!("deleted_letters_{}", profile.as_str());
    let Some(fixture) = Fixture::with_profile(&name, 1, profile).await else { return };
    let settings = [("SERIES_INGEST__POINTS__UNKNOWN_SERIES", "dead-letter")];
    send(&fixture, "gone", 0, 10);
    send(&fixture, "stays", 0, 10);
    fixture.producer.flush();
    let worker = fixture.worker(&settings);
    fixture.until_applied(60).await;
    let letters = "select count(*) from ingest_dead_letter";
    assert_eq!(fixture.count(letters).await, 2);
    let output = deleted(&fixture, &["gone", "--yes", "--json"]);
    let line: serde_json::Value = serde_json::from_str(output.trim()).unwrap();
    assert_eq!(
        line,
        serde_json::json!({"id": "gone", "exists": false, "points": 0, "dead_letters": 1, "series": false})
    );
    drop(worker);
    // The letter is there again, and redriven: it is written, and has nothing to write.
    reset(&fixture);
    let worker = fixture.worker(&settings);
    fixture.until_applied(60).await;
    let output = run(&fixture.environment(), &["dead-letter", "redrive"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(fixture.count(letters).await, 0);
    assert_eq!((fixture.count(OF_GONE).await, fixture.count(ROWS_OF_GONE).await), (0, 0));
    assert_eq!(fixture.count_points().await, 20);
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_a_deleted_series_go_with_it_and_a_redrive_brings_nothing_back() {
    for profile in PROFILES {
        redrive_after_delete(profile).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_is_deleted_alongside_three_writers() {
    for profile in PROFILES {
        let name = format!("deleted_writers_{}", profile.as_str());
        let Some(fixture) = Fixture::with_profile(&name, 3, profile).await else { return };
        let settings = [("SERIES_INGEST__BATCH__LINGER_MS", "1")];
        let workers: Vec<_> = (0..3).map(|_| fixture.worker(&settings)).collect();
        let mut seconds = 0;
        let mut send_some = |fixture: &Fixture| {
            for partition in 0..3 {
                let payload = format!(r#"{{"time_series_id":"gone","timestamps":[{seconds}],"columns":{{"c":[1]}}}}"#);
                fixture.producer.send(&fixture.points_topic, partition, "gone", Some(payload.as_bytes()));
                seconds += 1;
            }
        };
        (0..2000).for_each(|_| send_some(&fixture));
        fixture.producer.flush();
        until(60, "points are there", async || fixture.count(OF_GONE).await > 1000).await;
        let environment = fixture.environment();
        let command =
            tokio::task::spawn_blocking(move || run(&environment, &["series", "delete", "gone", "--yes", "--json"]));
        while !command.is_finished() {
            send_some(&fixture);
            fixture.producer.flush();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let output = command.await.unwrap();
        assert!(output.status.success(), "{}", text(&output));
        let first_after = seconds;
        // By another clock than the server's, but of the same machine.
        let until_ms = fixture.count("select message_ms from ingest_series_tombstone").await;
        until(10, "the clock goes on", async || now_ms() > until_ms).await;
        let payload = r#"{"time_series_id":"gone","timestamps":[9000000],"columns":{"c":[1]}}"#;
        fixture.producer.send(&fixture.points_topic, 0, "gone", Some(payload.as_bytes()));
        fixture.producer.flush();
        fixture.until_applied(60).await;
        // What was sent while the command ended, and in the same moment, may be on either side; all of before is gone.
        let earlier = format!("{OF_GONE} and \"timestamp\" < to_timestamp({})", first_after - 300);
        assert_eq!(fixture.count(&earlier).await, 0, "{}", text(&output));
        assert!(fixture.count(OF_GONE).await >= 1);
        assert_eq!(fixture.count(ORPHANS).await, 0);
        assert_eq!(fixture.count("select count(*) from ingest_dead_letter").await, 0);
        drop(workers);
        fixture.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_delete_series_and_later_ones_create_them_again() {
    let Some(fixture) = Fixture::new("deleted_by_message", 1).await else { return };
    let (role, url) = fixture.worker_role("").await;
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("SERIES_INGEST__SERIES__TOMBSTONES", "delete"),
        ("SERIES_INGEST__BATCH__LINGER_MS", "1"),
    ];
    let worker = fixture.worker(&settings);
    for series in ["gone", "by-key", "stays"] {
        let payload = format!(r#"{{"id":"{series}","name":"first","value_columns":["c"]}}"#);
        fixture.producer.send(&fixture.series_topic, 0, series, Some(payload.as_bytes()));
        send(&fixture, series, 0, 100);
    }
    fixture.producer.flush();
    fixture.until_applied(60).await;
    let defined = "select count(*) from time_series_metadata where name = 'first'";
    until(60, "the series are defined", async || fixture.count(defined).await == 3).await;
    fixture.producer.send(&fixture.series_topic, 0, "x", Some(br#"{"type":"series-delete","id":"gone"}"#));
    fixture.producer.send(&fixture.series_topic, 0, "by-key", None);
    fixture.producer.flush();
    until(60, "two series are deleted", async || {
        fixture.count("select count(*) from time_series_metadata").await == 1 && fixture.count(PENDING).await == 0
    })
    .await;
    assert_eq!(fixture.count_points().await, 200);
    assert_eq!(
        worker.metric(&format!(
            "series_ingest_messages_total{{input=\"series\",topic=\"{}\",type=\"series-delete\"}}",
            fixture.series_topic
        )),
        Some(2.0),
        "{}",
        worker.get("/metrics").unwrap().1
    );
    // An older definition, by its time, and a later one.
    let deleted_ms = fixture.count("select min(message_ms) from ingest_series_tombstone").await;
    let older = br#"{"id":"gone","name":"older"}"#;
    fixture.producer.send_at(&fixture.series_topic, 0, "gone", Some(older), deleted_ms - 10);
    fixture.producer.send_at(
        &fixture.series_topic,
        0,
        "by-key",
        Some(br#"{"id":"by-key","name":"later"}"#),
        deleted_ms + 60_000,
    );
    fixture.producer.flush();
    let name = "select count(*) from time_series_metadata where id = 'by-key' and name = 'later'";
    until(60, "the later definition is applied", async || fixture.count(name).await == 1).await;
    assert_eq!(fixture.count(ROWS_OF_GONE).await, 0);
    drop(worker);
    fixture.remove_with_role(&role).await;
}

/// Stores this many points of `gone`, and some of `stays` in the same chunks.
async fn store_many(fixture: &Fixture, count: i64) {
    let sql = format!(
        "select ingest_ensure_series(array['gone', 'stays'], array['c', 'c']);
         insert into time_series_data_points (time_series_id, \"timestamp\", column_name, value)
         select 'gone', timestamptz '2025-01-01' + n * interval '1 second', 'c' || n % 4, n
         from generate_series(1, {count}) as n;
         insert into time_series_data_points (time_series_id, \"timestamp\", column_name, value)
         select 'stays', timestamptz '2025-01-01' + n * interval '1 second', 'c', n from generate_series(1, 1000) as n"
    );
    fixture.client.batch_execute(&sql).await.unwrap();
}

/// A session that reads and locks the row, as writers do, and adds points of the same chunks, until the series `gone` is gone;
/// it fails if it waits for a lock for a second. Returns the number of its rounds.
async fn probe(fixture: &Fixture) -> tokio::task::JoinHandle<u32> {
    let prober = connect(&fixture.url).await;
    tokio::spawn(async move {
        prober.batch_execute("set lock_timeout = '1s'").await.unwrap();
        let mut rounds = 0;
        loop {
            let sql = "begin; select from time_series_metadata where id = any (array['gone', 'stays']) for key share;
                       insert into time_series_data_points (time_series_id, \"timestamp\", column_name, value)
                       values ('stays', '2025-01-02', 'c', 0); commit";
            prober.batch_execute(sql).await.unwrap();
            rounds += 1;
            let sql = "select count(*) from time_series_metadata where id = 'gone'";
            if prober.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0 {
                return rounds;
            }
        }
    })
}

/// Takes a base backup of the whole server, deletes `gone` before it or after it, and restores it.
async fn assert_deleted_after_a_restore(test: &str, deletes_before: bool, profile: Profile) {
    let test = format!("{test}_{}", profile.as_str());
    let Some(mut ground) = FixtureWithServer::new(&test, 1).await else { return };
    ground.fixture.set_profile(profile).await;
    let worker = ground.worker("journal", &[("SERIES_INGEST__JOURNAL__ENABLED", "false")]);
    for first_s in (0..100).step_by(10) {
        send(&ground.fixture, "gone", first_s, 10);
        send(&ground.fixture, "stays", first_s, 10);
    }
    ground.fixture.producer.flush();
    ground.fixture.until_applied(60).await;
    let delete = async |ground: &FixtureWithServer| {
        let payload = br#"{"type":"series-delete","id":"gone"}"#;
        ground.fixture.producer.send(&ground.fixture.series_topic, 0, "gone", Some(payload));
        ground.fixture.producer.flush();
        until(60, "the series is deleted", async || ground.fixture.count(ROWS_OF_GONE).await == 0).await;
    };
    if deletes_before {
        delete(&ground).await;
    }
    ground.server.stop_fast();
    ground.server.back_up();
    ground.server.start_again().await;
    ground.fixture.connect_to(&ground.server).await;
    if !deletes_before {
        delete(&ground).await;
    }
    // So that there is something to be read again.
    send(&ground.fixture, "stays", 100, 10);
    ground.fixture.producer.flush();
    ground.fixture.until_applied(60).await;
    ground.server.stop_fast();
    ground.server.restore();
    ground.server.start_again().await;
    ground.fixture.connect_to(&ground.server).await;
    ground.fixture.until_applied(60).await;
    let of_stays = "select count(*) from time_series_data_points where time_series_id = 'stays'";
    until(60, "what was written after the backup is there again", async || ground.fixture.count(of_stays).await == 220)
        .await;
    until(60, "the series is gone", async || ground.fixture.count(ROWS_OF_GONE).await == 0).await;
    assert_eq!(ground.fixture.count(OF_GONE).await, 0);
    drop(worker);
    ground.fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_series_stays_deleted_when_a_backup_of_after_it_is_restored() {
    for profile in PROFILES {
        assert_deleted_after_a_restore("deleted_backup_after", true, profile).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_that_a_message_has_deleted_stays_deleted_when_a_backup_of_before_it_is_restored() {
    for profile in PROFILES {
        assert_deleted_after_a_restore("deleted_backup_before", false, profile).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_of_many_points_is_interrupted_and_completed_and_blocks_nobody_for_long() {
    let Some(fixture) = Fixture::new("deleted_many", 1).await else { return };
    store_many(&fixture, 300_000).await;
    let probing = probe(&fixture).await;
    // The first command is killed in the middle; the second one completes it.
    let mut first = crate::support::worker::command(&fixture.environment());
    let mut first =
        first.args(["series", "delete", "gone", "--yes"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    until(60, "points are being deleted", async || fixture.count(OF_GONE).await < 300_000).await;
    first.kill().unwrap();
    first.wait().unwrap();
    let left = fixture.count(OF_GONE).await;
    assert!(left > 0 && fixture.count(PENDING).await == 1, "{left} points are left");
    let output = deleted(&fixture, &["gone", "--yes"]);
    assert!(output.contains("points deleted, with the series"), "{output}");
    assert!(probing.await.unwrap() > 1, "nobody waited for a lock for a second");
    assert_eq!((fixture.count(OF_GONE).await, fixture.count(PENDING).await), (0, 0));
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_completes_what_a_command_has_left() {
    let Some(fixture) = Fixture::new("deleted_left", 1).await else { return };
    fill(&fixture).await;
    fixture
        .client
        .batch_execute("select ingest_delete_series(array['gone'], 'infinity', array[null::bigint])")
        .await
        .unwrap();
    let worker = fixture.worker(&[]);
    until(60, "the deletion is completed", async || fixture.count(PENDING).await == 0).await;
    assert_eq!((fixture.count(OF_GONE).await, fixture.count(ROWS_OF_GONE).await), (0, 0));
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_is_not_deleted_unasked_and_names_are_taken_as_they_are() {
    let Some(fixture) = Fixture::new("deleted_names", 1).await else { return };
    let names = ["it's \"quoted\"", "a\nb", " ", "-x", &"é".repeat(512), "%s", "100%_"];
    for name in names {
        send(&fixture, name, 0, 2);
    }
    fixture.producer.flush();
    let mut worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    assert_eq!(worker.terminate(20), Some(0));
    let output = delete(&fixture, &["a\nb"]);
    assert_eq!(output.status.code(), Some(64), "{}", text(&output));
    assert!(text(&output).contains("1 series with 4 points: add --yes"), "{}", text(&output));
    assert_eq!(fixture.count("select count(*) from ingest_series_tombstone").await, 0);
    for (at, name) in names.iter().enumerate() {
        assert!(delete(&fixture, &["--yes", "--", name]).status.success(), "{name:?}");
        let left = (names.len() - at - 1) as i64;
        assert_eq!(fixture.count("select count(*) from time_series_metadata").await, left, "{name:?}");
        assert_eq!(fixture.count_points().await, 4 * left);
    }
    fixture.remove().await;
}

/// Deletes a series from compressed chunks alongside a writer, and then reads its messages again.
async fn assert_deleted_from_compressed_chunks(test: &str, profile: Profile) {
    let Some(fixture) = Fixture::on_community(test, 1, profile).await else { return };
    fill(&fixture).await;
    store_many(&fixture, 200_000).await;
    fixture
        .client
        .batch_execute("select compress_chunk(chunk) from show_chunks('time_series_data_points') as chunk")
        .await
        .unwrap();
    let compressed = "select count(*) from timescaledb_information.chunks where is_compressed";
    let chunks = fixture.count(compressed).await;
    assert!(chunks > 1, "{chunks} chunks are compressed");
    let of_stays = "select count(*) from time_series_data_points where time_series_id = 'stays' and value > 0";
    let stays = fixture.count(of_stays).await;
    let output = deleted(&fixture, &["gone", "--before", "1970-01-01T00:00:30Z", "--yes"]);
    assert!(output.contains("\"gone\": 60 points deleted"), "{output}");
    let probing = probe(&fixture).await;
    let output = deleted(&fixture, &["gone", "--yes"]);
    assert!(output.contains("200140 points deleted, with the series"), "{output}");
    assert!(probing.await.unwrap() > 0);
    reset(&fixture);
    let mut worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    assert_eq!(worker.terminate(20), Some(0));
    assert_eq!((fixture.count(OF_GONE).await, fixture.count(ROWS_OF_GONE).await), (0, 0));
    assert_eq!((fixture.count(ORPHANS).await, fixture.count(PENDING).await), (0, 0));
    assert!(fixture.count(of_stays).await >= stays, "the other series keeps its points");
    // By plain SQL, as other programs do it.
    fixture.client.batch_execute("delete from time_series_metadata where id = 'stays'").await.unwrap();
    assert_eq!((fixture.count_points().await, fixture.count(ORPHANS).await), (0, 0));
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_community_edition_a_series_is_deleted_from_compressed_chunks() {
    assert_deleted_from_compressed_chunks("deleted_compressed", Profile::Standard).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_community_edition_a_series_is_deleted_from_compressed_chunks_on_the_profile_throughput() {
    assert_deleted_from_compressed_chunks("deleted_compressed_throughput", Profile::Throughput).await;
}
