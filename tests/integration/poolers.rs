//! A pooler between the program and its server: in session mode all works, in others nothing is begun.

use std::os::unix::fs::PermissionsExt as _;

use crate::support::data::Published;
use crate::support::fixture::{Fixture, connect};
use crate::support::pgbouncer::PgBouncer;
use crate::support::until;
use crate::support::worker::{Worker, command, run, text};

fn environment(fixture: &Fixture, url: &str) -> Vec<(String, String)> {
    let mut environment = fixture.environment();
    environment.retain(|(name, _)| name != "DATABASE_URL");
    environment.push(("DATABASE_URL".to_owned(), url.to_owned()));
    environment
}

/// Returns the number of advisory locks that are held in the database.
const ADVISORY: &str = "select count(*) from pg_locks join pg_database on pg_database.oid = pg_locks.database
    where locktype = 'advisory' and datname = current_database()";

#[tokio::test(flavor = "multi_thread")]
async fn in_session_mode_all_works() {
    let Some(fixture) = Fixture::unmigrated("bouncer_session", 2).await else { return };
    let Some(bouncer) = PgBouncer::start(&fixture.name, &fixture.server(), "session", "").await else { return };
    let url = fixture.url_by(bouncer.port);
    let environment = environment(&fixture, &url);
    for arguments in [&["migrate"][..], &["migrate"], &["check"], &["progress", "show"]] {
        let output = run(&environment, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    }
    let mut published = Published::default();
    let worker = fixture.worker(&[("DATABASE_URL", &url)]);
    for number in 0..100 {
        let payload = published.batch("s", 20);
        fixture.producer.send(&fixture.points_topic, number % 2, "s", Some(payload.as_bytes()));
    }
    fixture.producer.flush();
    fixture.until_applied(60).await;
    fixture.assert_exact(&published).await;
    drop(worker);
    drop(bouncer);
    fixture.remove().await;
}

/// PgBouncer refuses with the code of a violated protocol, which is an outage's elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_at_the_pooler_is_a_refusal_that_names_its_key() {
    let Some(fixture) = Fixture::new("bouncer_refuses", 1).await else { return };
    let folder = tempfile::tempdir().unwrap();
    // PgBouncer reads its file as another user.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (users, password, journal) = (file("users.txt"), file("password"), file("journal"));
    std::fs::write(&users, "\"postgres\" \"right\"\n").unwrap();
    let mut published = Published::default();
    for auth_type in ["scram-sha-256", "md5"] {
        let settings = format!("auth_type = {auth_type}\nauth_file = {users}");
        let Some(bouncer) = PgBouncer::start(&fixture.name, &fixture.server(), "session", &settings).await else {
            return;
        };
        let url = fixture.url_by(bouncer.port);
        let mut environment = environment(&fixture, &url);
        environment.push(("SERIES_INGEST__DATABASE__PASSWORD_FILE".to_owned(), password.clone()));
        std::fs::write(&password, "wrong\n").unwrap();
        let output = run(&environment, &["check"]);
        let printed = text(&output);
        assert_eq!(output.status.code(), Some(69), "{auth_type}: {printed}");
        for part in ["database.url: ", "SQLSTATE 08P01", "database.password_file"] {
            assert!(printed.contains(part), "{auth_type}: {part}: {printed}");
        }
        // Before the first connection, and with a journal, which takes messages while an outage lasts and hides no refusal.
        let with_journal = [
            ("SERIES_INGEST__JOURNAL__ENABLED", "true"),
            ("SERIES_INGEST__JOURNAL__DIRECTORY", &journal),
            ("SERIES_INGEST__JOURNAL__MIN_FREE_BYTES", "0"),
            ("SERIES_INGEST__DATABASE__OUTAGE_GRACE_MS", "300"),
        ];
        for (extra, condition) in [(&[][..], "schema: "), (&with_journal, "database: ")] {
            std::fs::write(&password, "wrong\n").unwrap();
            let payload = published.batch("s", 20);
            fixture.producer.send(&fixture.points_topic, 0, "s", Some(payload.as_bytes()));
            fixture.producer.flush();
            let mut worker = Worker::start(&fixture.name, &environment, extra);
            if !extra.is_empty() {
                worker.until_mode("journaling").await;
            }
            until(60, &format!("not ready: {condition}"), async || {
                worker.get("/readyz").is_some_and(|(code, why)| {
                    let parts = [condition, "SQLSTATE 08P01", "database.password_file"];
                    code == 503 && parts.iter().all(|part| why.contains(part))
                })
            })
            .await;
            std::fs::write(&password, "right\n").unwrap();
            fixture.until_applied(60).await;
            until(60, "ready", async || worker.get("/readyz").is_some_and(|(code, _)| code == 200)).await;
            assert_eq!(worker.terminate(20), Some(0));
        }
        drop(bouncer);
    }
    fixture.assert_exact(&published).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_shares_sessions_is_refused_in_one_sentence_and_keeps_no_lock() {
    for (mode, settings) in
        [("transaction", ""), ("transaction", "server_round_robin = 1\nmin_pool_size = 3"), ("statement", "")]
    {
        let Some(fixture) = Fixture::unmigrated("bouncer_shared", 1).await else { return };
        let Some(bouncer) = PgBouncer::start(&fixture.name, &fixture.server(), mode, settings).await else { return };
        let environment = environment(&fixture, &fixture.url_by(bouncer.port));
        let refused = |arguments: &[&str]| {
            let output = run(&environment, arguments);
            let text = text(&output);
            assert_eq!(output.status.code(), Some(64), "{mode} {arguments:?}: {text}");
            assert!(text.contains("pool_mode = session"), "{mode} {arguments:?}: {text}");
        };
        refused(&["migrate"]);
        refused(&["migrate"]);
        assert_eq!(fixture.count(ADVISORY).await, 0, "no lock is left");
        fixture.migrate(&[]).await;
        refused(&["check"]);
        refused(&["schema", "set-profile", "throughput"]);
        let mut worker = Worker::start(&fixture.name, &environment, &[]);
        assert_eq!(worker.exit_code(60), Some(64), "{}", worker.log());
        assert!(worker.log().contains("pool_mode = session"), "{}", worker.log());
        drop(worker);
        drop(bouncer);
        fixture.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_says_whom_it_waits_for() {
    let Some(fixture) = Fixture::unmigrated("migration_waits", 1).await else { return };
    let holder = connect(&format!("{}?application_name=forgotten", fixture.url)).await;
    // The key of the lock, which earlier versions took for a session.
    holder.batch_execute("select pg_advisory_lock(x'7365726965732d69'::bigint)").await.unwrap();
    let pid: i32 = holder.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut child = command(&fixture.environment())
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
    assert_eq!(fixture.count(ADVISORY).await, 0);
    fixture.remove().await;
}
