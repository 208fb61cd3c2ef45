//! What each signal does.

use crate::support::data::Published;
use crate::support::fixture::{Fixture, connect};
use crate::support::until;
use crate::support::worker::Worker;

async fn until_logged(worker: &Worker, text: &str) {
    until(30, text, async || worker.log().contains(text)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigquit_and_sigint_end_the_worker_as_sigterm_does() {
    let Some(fixture) = Fixture::new("quit", 1).await else { return };
    let mut published = Published::default();
    for name in ["QUIT", "INT", "TERM"] {
        let mut worker = fixture.worker(&[]);
        fixture.publish_to(&mut published, 0, 10, 10);
        fixture.until_applied(60).await;
        worker.signal(name);
        assert_eq!(worker.exit_code(10), Some(0), "{name}");
        let log = worker.log();
        assert!(log.contains(&format!("SIG{name}: stopping")) && log.contains("pipeline: stopped"), "{log}");
    }
    fixture.assert_exact(&published).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reads_the_log_filter_again_and_signals_that_mean_nothing_are_ignored() {
    let Some(fixture) = Fixture::new("hangup", 1).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ingest.toml");
    std::fs::write(&file, "log.filter = \"info\"\n").unwrap();
    let with_file = ["sh", "-c", "exec \"$@\" --config \"$FILE\"", "sh"];
    let mut worker =
        Worker::start_by(&with_file, "hangup", &fixture.environment(), &[("FILE", file.to_str().unwrap())]);
    let mut published = Published::default();
    fixture.publish_to(&mut published, 0, 10, 10);
    fixture.until_applied(60).await;
    assert!(!worker.log().contains(" DEBUG "), "{}", worker.log());

    std::fs::write(&file, "log.filter = \"info,series_ingest=debug,tokio_postgres=debug\"\n").unwrap();
    worker.signal("HUP");
    until_logged(&worker, "SIGHUP: the log filter was read again").await;
    until_logged(&worker, " DEBUG tokio_postgres").await;
    std::fs::write(&file, "log.filter = \"info\"\nbatch.linger_ms = \"many\"\n").unwrap();
    worker.signal("HUP");
    until_logged(&worker, "SIGHUP: the configuration cannot be read").await;
    assert!(worker.log().contains("batch.linger_ms"), "{}", worker.log());
    for name in ["USR1", "USR2", "ALRM"] {
        worker.signal(name);
        until_logged(&worker, &format!("SIG{name}: ignored")).await;
    }
    worker.signal("PIPE");
    fixture.publish_to(&mut published, 0, 10, 10);
    fixture.until_applied(60).await;
    fixture.assert_exact(&published).await;
    assert_eq!(worker.terminate(10), Some(0));
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_drain_at_once() {
    let Some(fixture) = Fixture::new("second", 1).await else { return };
    let mut worker = fixture.worker(&[
        ("SERIES_INGEST__SHUTDOWN__DRAIN_TIMEOUT_MS", "200000"),
        ("SERIES_INGEST__KAFKA__SESSION_TIMEOUT_MS", "300000"),
    ]);
    let mut published = Published::default();
    fixture.publish_to(&mut published, 0, 10, 10);
    fixture.until_applied(60).await;
    // The drain waits for a lock.
    fixture.client.batch_execute("begin; lock table time_series_data_points in access exclusive mode").await.unwrap();
    fixture.publish_to(&mut published, 0, 10, 10);
    let observer = connect(&fixture.url).await;
    until(30, "a batch waits for the lock", async || {
        let waiting =
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        observer.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) > 0
    })
    .await;
    worker.signal("TERM");
    until_logged(&worker, "stopping: writing what was read").await;
    worker.signal("INT");
    assert_eq!(worker.exit_code(10), Some(130));
    assert!(worker.log().contains("SIGINT again: ending at once"), "{}", worker.log());
    fixture.client.batch_execute("rollback").await.unwrap();
    // The first group keeps its member's place for as long as the session lasts.
    let worker = fixture.worker(&[("SERIES_INGEST__KAFKA__GROUP_ID", &format!("{}-next", fixture.group))]);
    fixture.until_applied(60).await;
    fixture.assert_exact(&published).await;
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_still_migrates_ends_with_a_signal() {
    let Some(fixture) = Fixture::unmigrated("migrating", 1).await else { return };
    // The first migration makes a table of this name, and waits for the session that makes it, too.
    fixture.client.batch_execute("begin; create table time_series_metadata (id text)").await.unwrap();
    let mut worker = fixture.worker(&[("SERIES_INGEST__DATABASE__MIGRATE_ON_START", "true")]);
    let observer = connect(&fixture.url).await;
    until(60, "the migration waits", async || {
        let waiting =
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        observer.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) > 0
    })
    .await;
    assert_eq!(worker.terminate(10), Some(0), "{}", worker.log());
    assert!(worker.log().contains("SIGTERM: stopping"), "{}", worker.log());
    fixture.client.batch_execute("rollback").await.unwrap();
    fixture.remove().await;
}
