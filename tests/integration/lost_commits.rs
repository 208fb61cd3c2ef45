//! Connections that are lost at the COMMIT: the worker cannot know whether it happened.

use crate::support::data::{Difference, Published};
use crate::support::fixture::Fixture;
use crate::support::proxy::{AtCommit, Proxy};
use crate::support::until;

/// Publishes, and lets a worker write through a proxy that does this at every third COMMIT.
async fn write_through(fixture: &Fixture, at_commit: AtCommit) -> Difference {
    let proxy = Proxy::start(&fixture.server()).await;
    proxy.at_commit(at_commit, 3);
    let mut published = Published::default();
    let url = fixture.url_by(proxy.port);
    let worker = fixture.worker(&[("DATABASE_URL", &url), ("SERIES_INGEST__BATCH__LINGER_MS", "10")]);
    until(120, "ten COMMITs are lost", async || {
        for partition in 0..fixture.partitions {
            let payload = published.batch("s", 50);
            fixture.producer.send(&fixture.points_topic, partition, "s", Some(payload.as_bytes()));
        }
        fixture.producer.flush();
        proxy.hits() >= 10
    })
    .await;
    fixture.until_applied(60).await;
    drop(worker);
    fixture.difference(&published).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_before_the_commit_reaches_the_server() {
    let Some(fixture) = Fixture::new("cut_before", 4).await else { return };
    assert_eq!(write_through(&fixture, AtCommit::CutBefore).await, Difference::default());
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_after_the_commit_reached_the_server() {
    let Some(fixture) = Fixture::new("cut_after", 4).await else { return };
    assert_eq!(write_through(&fixture, AtCommit::CutAfter).await, Difference::default());
    fixture.remove().await;
}

/// Holds one COMMIT until the worker has given up waiting and written the batch by another connection; returns how many
/// messages came on the held connection after that.
async fn hold_a_commit(fixture: &Fixture, extra: &[(&str, &str)]) -> usize {
    let proxy = Proxy::start(&fixture.server()).await;
    let url = fixture.url_by(proxy.port);
    let mut settings = vec![
        ("DATABASE_URL", url.as_str()),
        ("SERIES_INGEST__DATABASE__WRITERS", "1"),
        ("SERIES_INGEST__DATABASE__STATEMENT_TIMEOUT_MS", "1000"),
        // Longer than the worker waits: the held connection is still there when it could be used again.
        ("SERIES_INGEST__DATABASE__IDLE_IN_TRANSACTION_TIMEOUT_MS", "12000"),
    ];
    settings.extend_from_slice(extra);
    let worker = fixture.worker(&settings);
    let mut published = Published::default();
    let publish = |published: &mut Published| {
        let payload = published.batch("s", 50);
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(payload.as_bytes()));
        fixture.producer.flush();
    };
    publish(&mut published);
    fixture.until_applied(60).await;
    proxy.at_commit(AtCommit::Hold, 1);
    publish(&mut published);
    until(30, "a COMMIT is held", async || proxy.hits() > 0).await;
    proxy.at_commit(AtCommit::Pass, 1);
    for _ in 0..5 {
        publish(&mut published);
        fixture.until_applied(60).await;
    }
    assert_eq!(fixture.difference(&published).await, Difference::default());
    drop(worker);
    proxy.messages_after_hold()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_with_an_unknown_commit_is_never_used_again() {
    let Some(fixture) = Fixture::new("held", 1).await else { return };
    assert_eq!(hold_a_commit(&fixture, &[]).await, 0);
    fixture.remove().await;
}

#[cfg(feature = "planted-bugs")]
#[tokio::test(flavor = "multi_thread")]
async fn planted_bug_a_connection_with_an_unknown_commit_is_used_again() {
    let Some(fixture) = Fixture::new("held_bug", 1).await else { return };
    assert!(
        hold_a_commit(&fixture, &[("SERIES_INGEST_PLANTED_BUGS", "reuse-after-unknown-commit")]).await > 0,
        "the bug is caught"
    );
    fixture.remove().await;
}
