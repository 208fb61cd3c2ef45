//! Points that are older than the retention are deleted, and nothing else is.

use std::time::{SystemTime, UNIX_EPOCH};

use series_ingest::database::Database;
use series_ingest::database::schema;
use series_ingest::database::schema::profile::Profile;

use crate::support::fixture::{Fixture, connect};
use crate::support::shell::{Shell, examples};
use crate::support::until;
use crate::support::worker::{Worker, run, text};

const DAY_S: i64 = 86_400;
/// The retention of these tests.
const KEPT_DAYS: i64 = 30;
const DROP_AFTER: (&str, &str) = ("SERIES_INGEST__RETENTION__DROP_AFTER_S", "2592000");
const NOT_OLDER: (&str, &str) = ("SERIES_INGEST__MESSAGE__MIN_TIMESTAMP", "-30d");
/// What has expired as a whole.
const EXPIRED_CHUNKS: &str = "select count(*) from timescaledb_information.chunks
    where hypertable_name = 'time_series_data_points' and range_end <= now() - interval '30 days'";
const CHUNKS: &str =
    "select count(*) from timescaledb_information.chunks where hypertable_name = 'time_series_data_points'";
const EXPIRED_POINTS: &str =
    "select count(*) from time_series_data_points where \"timestamp\" < now() - interval '30 days'";

fn now_s() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

/// The noon of a day that is this many days before today: at no time of the day is it near the end of a chunk or of the retention.
fn noon(days_ago: i64) -> i64 {
    let now = now_s();
    now - now % DAY_S - days_ago * DAY_S + DAY_S / 2
}

async fn migrate(fixture: &Fixture, extra: &[(&str, &str)]) -> Vec<String> {
    schema::migrate(&fixture.config(extra)).await.unwrap().notes
}

/// A migrated fixture with a plain table.
async fn plain(test: &str) -> Option<Fixture> {
    let fixture = Fixture::without_extension(test, 2).await?;
    migrate(&fixture, &[]).await;
    Some(fixture)
}

/// One point for each of the last days.
fn send_days(fixture: &Fixture, days: std::ops::Range<i64>) {
    for day in days {
        fixture.send_point(if day % 2 == 0 { "even" } else { "odd" }, noon(day));
    }
    fixture.producer.flush();
}

fn dropped(workers: &[Worker]) -> f64 {
    let of = |worker: &Worker, unit| {
        worker.metric(&format!("series_ingest_retention_dropped_total{{unit=\"{unit}\"}}")).unwrap_or(0.0)
    };
    workers.iter().map(|worker| of(worker, "chunk") + of(worker, "point")).sum()
}

/// Two workers write the points of fifty days while late ones come, and what is older than thirty goes, once.
async fn expired_points_go_alongside_workers(fixture: Fixture, is_hypertable: bool, by_policy: bool) {
    send_days(&fixture, 0..50);
    let mut worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    assert_eq!(worker.terminate(10), Some(0));
    assert_eq!(fixture.count_points().await, 50);
    for times in [1, 0] {
        let notes = migrate(&fixture, &[DROP_AFTER]).await;
        assert_eq!(notes.iter().filter(|note| note.contains("older than 2592000 s")).count(), times, "{notes:?}");
    }

    // By a role that may not delete anything itself.
    let (role, url) = fixture.worker_role("").await;
    let settings = [NOT_OLDER, ("DATABASE_URL", url.as_str())];
    let workers = [fixture.worker(&settings), fixture.worker(&settings)];
    let expired = if is_hypertable { EXPIRED_CHUNKS } else { EXPIRED_POINTS };
    until(90, "what has expired is gone", async || {
        // New data all the while.
        fixture.send_point("new", now_s());
        fixture.producer.flush();
        fixture.count(expired).await == 0
    })
    .await;
    fixture.until_applied(60).await;
    // Noon thirty days ago has expired only in the afternoon, and a chunk goes as a whole.
    let is_over = now_s() - KEPT_DAYS * DAY_S > noon(KEPT_DAYS);
    let kept_days = if is_over && !is_hypertable { KEPT_DAYS } else { KEPT_DAYS + 1 };
    let of_days = "select count(*) from time_series_data_points where time_series_id <> 'new'";
    assert_eq!(fixture.count(of_days).await, kept_days, "no day too early, none too late");
    if !by_policy {
        until(30, "the workers have counted it once", async || dropped(&workers) == (50 - kept_days) as f64).await;
    }
    let oldest = (now_s() - noon(kept_days - 1)) as f64;
    until(90, "the age of the oldest point is measured", async || {
        workers.iter().all(|worker| {
            let age = worker.metric("series_ingest_oldest_point_seconds").unwrap_or(0.0);
            (age - oldest).abs() < 120.0
                && worker.metric("series_ingest_retention_seconds") == Some(2_592_000.0)
                && worker.metric("series_ingest_retention_overdue_seconds").is_some_and(|overdue| overdue < 60.0)
        })
    })
    .await;

    // Late points make no chunk again: their messages are dead letters.
    let chunks = if is_hypertable { fixture.count(CHUNKS).await } else { 0 };
    send_days(&fixture, 40..45);
    fixture.until_applied(60).await;
    assert_eq!(fixture.count("select count(*) from ingest_dead_letter where reason = 'time_window'").await, 5);
    assert_eq!(fixture.count(of_days).await, kept_days);
    if is_hypertable {
        assert_eq!(fixture.count(CHUNKS).await, chunks);
    }
    for worker in workers {
        assert_eq!(
            worker.metric("series_ingest_database_errors_total{class=\"retry\"}"),
            Some(0.0),
            "no writer had to wait long"
        );
        drop(worker);
    }
    fixture.remove_with_role(&role).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_chunks_go_alongside_workers() {
    let Some(fixture) = Fixture::new("retention", 2).await else { return };
    expired_points_go_alongside_workers(fixture, true, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_chunks_go_alongside_workers_on_the_profile_throughput() {
    let Some(fixture) = Fixture::with_profile("retention_throughput", 2, Profile::Throughput).await else { return };
    expired_points_go_alongside_workers(fixture, true, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_rows_of_a_plain_table_go_alongside_workers() {
    let Some(fixture) = plain("retention_plain").await else { return };
    expired_points_go_alongside_workers(fixture, false, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_community_edition_a_policy_deletes_expired_chunks() {
    let Some(fixture) = Fixture::on_community("retention_policy", 2, Profile::Standard).await else { return };
    expired_points_go_alongside_workers(fixture, true, true).await;
}

/// Of two sessions one deletes; the other does nothing, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_workers_one_deletes() {
    let Some(fixture) = Fixture::new("retention_alone", 2).await else { return };
    send_days(&fixture, 40..45);
    let mut worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    assert_eq!(worker.terminate(10), Some(0));
    migrate(&fixture, &[DROP_AFTER]).await;
    let first = connect(&fixture.url).await;
    first.batch_execute("begin; select from ingest_drop_expired(1000, 1000)").await.unwrap();
    let second = Database::new(&fixture.config(&[])).unwrap();
    let dropped = second.drop_expired().await.unwrap();
    assert!(dropped.is_busy, "{dropped:?}");
    assert_eq!((dropped.chunks, dropped.points, dropped.has_more), (0, 0, false));
    first.batch_execute("commit").await.unwrap();
    assert_eq!(fixture.count(EXPIRED_CHUNKS).await, 4);
    let dropped = second.drop_expired().await.unwrap();
    assert_eq!((dropped.chunks, dropped.is_busy, dropped.has_more), (1, false, true));
    fixture.remove().await;
}

/// A chunk that cannot be locked stays, and its lock's holder keeps no writer waiting: points are written meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_is_locked_goes_later_and_keeps_no_writer_waiting() {
    let Some(fixture) = Fixture::with_profile("retention_locked", 2, Profile::Standard).await else { return };
    send_days(&fixture, 40..42);
    let mut worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    assert_eq!(worker.terminate(10), Some(0));
    let reader = connect(&fixture.url).await;
    reader.batch_execute("begin; select from time_series_metadata").await.unwrap();
    migrate(&fixture, &[DROP_AFTER]).await;
    let worker = fixture.worker(&[]);
    until(60, "the worker has tried and says so", async || worker.log().contains("expired points were not deleted"))
        .await;
    send_days(&fixture, 0..2);
    fixture.until_applied(60).await;
    assert_eq!(fixture.count(EXPIRED_CHUNKS).await, 2);
    assert!(worker.metric("series_ingest_database_up") == Some(1.0));
    reader.batch_execute("commit").await.unwrap();
    until(60, "the chunks are gone", async || fixture.count(EXPIRED_CHUNKS).await == 0).await;
    assert_eq!(fixture.count_points().await, 2);
    drop(worker);
    fixture.remove().await;
}

fn succeed(fixture: &Fixture, arguments: &[&str]) -> String {
    let output = run(&fixture.environment(), arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn json(fixture: &Fixture, arguments: &[&str]) -> serde_json::Value {
    serde_json::from_str(&succeed(fixture, arguments)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_shows_lists_and_deletes_what_has_expired() {
    for is_hypertable in [true, false] {
        let name = if is_hypertable { "retention_command" } else { "retention_command_plain" };
        let made = if is_hypertable { Fixture::new(name, 2).await } else { plain(name).await };
        let Some(fixture) = made else { return };
        send_days(&fixture, 28..40);
        let mut worker = fixture.worker(&[]);
        fixture.until_applied(60).await;
        assert_eq!(worker.terminate(10), Some(0));
        assert!(succeed(&fixture, &["retention", "show"]).contains("points are kept"));
        let refused = run(&fixture.environment(), &["retention", "apply"]);
        assert_eq!(refused.status.code(), Some(64), "{}", text(&refused));
        assert!(text(&refused).contains("set retention.drop_after_s"), "{}", text(&refused));

        migrate(&fixture, &[DROP_AFTER]).await;
        let shown = json(&fixture, &["retention", "show", "--json"]);
        assert_eq!(
            (&shown["drop_after_seconds"], &shown["configured_seconds"], &shown["by"]),
            (&2_592_000.into(), &0.into(), &"worker".into())
        );
        assert_eq!(shown["unit"], if is_hypertable { "chunk" } else { "point" });
        assert!(shown["overdue_seconds"].as_f64().is_some_and(|overdue| overdue > 7.0 * 86_400.0), "{shown}");
        let is_over = now_s() - KEPT_DAYS * DAY_S > noon(KEPT_DAYS);
        let expired = if is_over && !is_hypertable { 10 } else { 9 };
        let listed = json(&fixture, &["retention", "apply", "--dry-run", "--json"]);
        let found = if is_hypertable {
            listed["chunks"].as_array().unwrap().len() as u64
        } else {
            listed["points"].as_u64().unwrap()
        };
        assert_eq!((found, fixture.count_points().await), (expired, 12), "{listed}");
        let gone = json(&fixture, &["retention", "apply", "--json"]);
        assert_eq!(gone[if is_hypertable { "chunks" } else { "points" }], expired);
        assert_eq!(fixture.count_points().await, 12 - i64::try_from(expired).unwrap());
        let gone = succeed(&fixture, &["retention", "apply"]);
        assert!(gone.starts_with("0 "), "{gone}");

        // Without an age in the configuration points are kept again.
        let notes = migrate(&fixture, &[]).await;
        assert_eq!(notes.iter().filter(|note| note.contains("points are kept")).count(), 1, "{notes:?}");
        assert_eq!(json(&fixture, &["retention", "show", "--json"])["drop_after_seconds"], 0);
        fixture.remove().await;
    }
}

/// A file that is imported is older than any age: who imports it means its times.
#[tokio::test(flavor = "multi_thread")]
async fn an_age_does_not_concern_files() {
    let Some(fixture) = Fixture::new("retention_import", 1).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("old.csv");
    std::fs::write(&file, "timestamp,v\n1970-01-02T00:00:00Z,1\n").unwrap();
    let mut environment = fixture.environment();
    environment.push((NOT_OLDER.0.to_owned(), NOT_OLDER.1.to_owned()));
    let output = run(&environment, &["points", "import", file.to_str().unwrap(), "--series", "s"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(fixture.count_points().await, 1);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_the_documentation_works() {
    let Some(fixture) = Fixture::new("retention_document", 1).await else { return };
    send_days(&fixture, 89..93);
    let mut worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    assert_eq!(worker.terminate(10), Some(0));
    let shell = Shell::new(fixture.environment());
    let configuration = examples("docs/keeping.md", "toml").concat();
    std::fs::write(shell.folder.path().join("ingest.toml"), configuration).unwrap();
    let output = shell.run(&examples("docs/keeping.md", "sh").concat());
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    for part in ["points older than 90 d are deleted", "2 chunks would be deleted", "2 chunks were deleted"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(fixture.count_points().await, 2);
    fixture.remove().await;
}
