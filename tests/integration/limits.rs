//! What the system allows: descriptors above all.

use std::net::TcpStream;

use crate::support::data::Published;
use crate::support::fixture::Fixture;
use crate::support::proxy::Proxy;
use crate::support::until;
use crate::support::worker::{PROGRAM, Worker, text};

/// A launcher that sets limits. librdkafka's sockets in this process are inherited by its children, and would count.
fn limited(limits: &str) -> [String; 4] {
    let close = "for fd in /proc/$$/fd/*; do fd=${fd##*/}; if ((fd > 2)); then eval \"exec $fd>&-\"; fi; done";
    ["bash".to_owned(), "-c".to_owned(), format!("{close}; {limits}; exec \"$@\""), "bash".to_owned()]
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_http_clients_leave_descriptors_to_the_database_and_to_the_journal() {
    let Some(fixture) = Fixture::new("descriptors", 2).await else { return };
    let proxy = Proxy::start(&fixture.server()).await;
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("journal");
    let url = fixture.url_by(proxy.port);
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("SERIES_INGEST__JOURNAL__ENABLED", "true"),
        ("SERIES_INGEST__JOURNAL__DIRECTORY", directory.to_str().unwrap()),
        ("SERIES_INGEST__JOURNAL__MIN_FREE_BYTES", "0"),
        ("SERIES_INGEST__DATABASE__OUTAGE_GRACE_MS", "300"),
    ];
    let launcher = limited("ulimit -n 64");
    let launcher: Vec<&str> = launcher.iter().map(String::as_str).collect();
    let mut worker = Worker::start_by(&launcher, "descriptors", &fixture.environment(), &settings);
    until(60, "it answers", async || worker.get("/livez").is_some()).await;
    // They stay, and say nothing. New ones come while the old ones are closed.
    let mut idle: Vec<TcpStream> = Vec::new();
    let mut fill = || {
        idle.clear();
        idle.extend((0..64).map(|_| TcpStream::connect(&worker.http).unwrap()));
    };
    fill();
    let mut published = Published::default();
    fixture.publish(&mut published, 20, 25);
    fixture.until_applied(60).await;
    until(60, "ready alongside idle clients", async || worker.get("/readyz").is_some_and(|(code, _)| code == 200))
        .await;

    proxy.refuse(true);
    fill();
    worker.until_mode("journaling").await;
    fixture.publish(&mut published, 20, 25);
    until(60, "the journal has records", async || {
        worker.metric("series_ingest_journal_records").is_some_and(|records| records > 0.0)
    })
    .await;
    fill();
    proxy.refuse(false);
    fixture.until_applied(60).await;
    fixture.assert_exact(&published).await;
    worker.until_mode("streaming").await;
    assert!(!worker.log().contains("Too many open files"), "{}", worker.log());
    assert_eq!(worker.terminate(10), Some(0));
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_too_low_is_named_by_run_and_check_and_a_soft_one_is_raised() {
    let Some(fixture) = Fixture::new("low", 1).await else { return };
    let check = |limits: &str, extra: &[(&str, &str)]| {
        let launcher = limited(limits);
        std::process::Command::new(&launcher[0])
            .args(&launcher[1..])
            .args([PROGRAM, "check"])
            .env_clear()
            .envs(fixture.environment())
            .envs(extra.iter().copied())
            .output()
            .unwrap()
    };
    let output = check("ulimit -n 50", &[]);
    assert_eq!(output.status.code(), Some(64), "{}", text(&output));
    assert!(text(&output).contains("ulimit -n: 50 open files are allowed"), "{}", text(&output));
    assert!(text(&output).contains("LimitNOFILE="), "{}", text(&output));
    let output = check("ulimit -Sn 50", &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("journal");
    let journal = [
        ("SERIES_INGEST__JOURNAL__ENABLED", "true"),
        ("SERIES_INGEST__JOURNAL__DIRECTORY", directory.to_str().unwrap()),
    ];
    let output = check("ulimit -f 1024", &journal);
    assert_eq!(output.status.code(), Some(64), "{}", text(&output));
    assert!(text(&output).contains("journal.segment_bytes: "), "{}", text(&output));

    let launcher = limited("ulimit -n 50");
    let launcher: Vec<&str> = launcher.iter().map(String::as_str).collect();
    let mut worker = Worker::start_by(&launcher, "low", &fixture.environment(), &[]);
    until(30, "it says so", async || worker.log().contains("ulimit -n: 50 open files are allowed")).await;
    assert_eq!(worker.terminate(10), Some(0));
    fixture.remove().await;
}
