//! A pooler between the program and its server: in session mode all works, in others nothing is begun.

use crate::support::bed::{Bed, connect};
use crate::support::data::Published;
use crate::support::pgbouncer::PgBouncer;
use crate::support::until;
use crate::support::worker::{Worker, command, run, text};

fn environment(bed: &Bed, url: &str) -> Vec<(String, String)> {
    let mut environment = bed.environment();
    environment.retain(|(name, _)| name != "DATABASE_URL");
    environment.push(("DATABASE_URL".to_owned(), url.to_owned()));
    environment
}

/// How many advisory locks anybody holds in the database.
const ADVISORY: &str = "select count(*) from pg_locks join pg_database on pg_database.oid = pg_locks.database
    where locktype = 'advisory' and datname = current_database()";

#[tokio::test(flavor = "multi_thread")]
async fn in_session_mode_all_works() {
    let Some(bed) = Bed::unmigrated("bouncer_session", 2).await else { return };
    let Some(bouncer) = PgBouncer::start(&bed.name, &bed.server(), "session", "").await else { return };
    let url = bed.url_by(bouncer.port);
    let environment = environment(&bed, &url);
    for arguments in [&["migrate"][..], &["migrate"], &["check"], &["progress", "show"]] {
        let output = run(&environment, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    }
    let mut published = Published::default();
    let worker = bed.worker(&[("DATABASE_URL", &url)]);
    for number in 0..100 {
        let payload = published.batch("s", 20);
        bed.producer.send(&bed.points_topic, number % 2, "s", Some(payload.as_bytes()));
    }
    bed.producer.flush();
    bed.until_applied(60).await;
    bed.assert_exact(&published).await;
    drop(worker);
    drop(bouncer);
    bed.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_shares_sessions_is_refused_in_one_sentence_and_keeps_no_lock() {
    for (mode, settings) in
        [("transaction", ""), ("transaction", "server_round_robin = 1\nmin_pool_size = 3"), ("statement", "")]
    {
        let Some(bed) = Bed::unmigrated("bouncer_shared", 1).await else { return };
        let Some(bouncer) = PgBouncer::start(&bed.name, &bed.server(), mode, settings).await else { return };
        let environment = environment(&bed, &bed.url_by(bouncer.port));
        let refused = |arguments: &[&str]| {
            let output = run(&environment, arguments);
            let text = text(&output);
            assert_eq!(output.status.code(), Some(64), "{mode} {arguments:?}: {text}");
            assert!(text.contains("pool_mode = session"), "{mode} {arguments:?}: {text}");
        };
        refused(&["migrate"]);
        refused(&["migrate"]);
        assert_eq!(bed.count(ADVISORY).await, 0, "no lock is left");
        bed.migrate(&[]).await;
        refused(&["check"]);
        refused(&["schema", "set-profile", "throughput"]);
        let mut worker = Worker::start(&bed.name, &environment, &[]);
        assert_eq!(worker.exit_code(60), Some(64), "{}", worker.log());
        assert!(worker.log().contains("pool_mode = session"), "{}", worker.log());
        drop(worker);
        drop(bouncer);
        bed.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_says_whom_it_waits_for() {
    let Some(bed) = Bed::unmigrated("migration_waits", 1).await else { return };
    let holder = connect(&format!("{}?application_name=forgotten", bed.url)).await;
    // The key of the lock, which earlier versions took for a session.
    holder.batch_execute("select pg_advisory_lock(x'7365726965732d69'::bigint)").await.unwrap();
    let pid: i32 = holder.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut child = command(&bed.environment())
        .arg("migrate")
        .stdout(log.reopen().unwrap())
        .stderr(log.reopen().unwrap())
        .spawn()
        .unwrap();
    let said = || std::fs::read_to_string(log.path()).unwrap();
    until(30, "it says whom it waits for", async || said().contains("waiting for another migration: ")).await;
    for part in [&format!("process {pid} "), "forgotten", " since 20"] {
        assert!(said().contains(part), "{part}: {}", said());
    }
    // What is said is bounded.
    assert_eq!(said().matches("waiting for another migration").count(), 1);
    assert!(child.try_wait().unwrap().is_none());
    drop(holder);
    let mut status = None;
    until(60, "it migrates", async || {
        status = child.try_wait().unwrap();
        status.is_some()
    })
    .await;
    assert!(status.unwrap().success(), "{}", said());
    assert_eq!(bed.count(ADVISORY).await, 0);
    bed.remove().await;
}
