//! The pool: what is kept, what comes on top, and what grows old.

use std::collections::BTreeSet;

use crate::support::data::Published;
use crate::support::fixture::{Fixture, connect};
use crate::support::until;
use crate::support::worker::{run, text};

async fn backends(fixture: &Fixture) -> BTreeSet<i32> {
    let sql =
        "select pid from pg_stat_activity where datname = current_database() and application_name = 'series-ingest'";
    fixture.client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_kept_ones_are_made_when_needed_and_closed_when_idle() {
    let Some(fixture) = Fixture::new("overflow", 1).await else { return };
    let mut published = Published::default();
    let worker = fixture.worker(&[
        ("DATABASE_POOL_SIZE", "1"),
        ("DATABASE_MAX_OVERFLOW", "3"),
        ("SERIES_INGEST__DATABASE__OVERFLOW_IDLE_MS", "1000"),
        ("SERIES_INGEST__DATABASE__WRITERS", "4"),
        ("SERIES_INGEST__BATCH__MAX_POINTS", "200"),
        ("SERIES_INGEST__BATCH__LINGER_MS", "10"),
    ]);
    fixture.publish_to(&mut published, 0, 1, 100);
    fixture.until_applied(60).await;
    // While every claim waits, all four writers need a connection of their own.
    let lock = connect(&fixture.url).await;
    lock.batch_execute("begin; lock table ingest_progress in exclusive mode").await.unwrap();
    until(30, "four writers at work", async || {
        fixture.publish_to(&mut published, 0, 1, 100);
        fixture.waiting_for_locks().await == 4
    })
    .await;
    assert_eq!(worker.metric("series_ingest_pool_max"), Some(4.0));
    assert_eq!(worker.metric("series_ingest_writers"), Some(4.0));
    assert_eq!(backends(&fixture).await.len(), 4, "never more than pool_size + max_overflow");
    lock.batch_execute("rollback").await.unwrap();
    fixture.until_applied(60).await;
    until(30, "only the kept connection is left", async || backends(&fixture).await.len() == 1).await;
    fixture.assert_exact(&published).await;
    drop(worker);
    fixture.remove().await;
}

/// Lets each COPY take time, and no processor.
async fn slow_down(fixture: &Fixture) {
    fixture
        .client
        .batch_execute(
            "create function wait() returns trigger language plpgsql as
                 'begin perform pg_sleep(0.1); return null; end';
             create trigger wait after insert on time_series_data_points for each statement execute function wait()",
        )
        .await
        .unwrap();
}

/// With a table whose COPY takes time and no processor, each writer adds as much as the one before.
#[tokio::test(flavor = "multi_thread")]
async fn writers_are_added_while_each_of_them_helps() {
    let Some(fixture) = Fixture::new("writers_added", 4).await else { return };
    slow_down(&fixture).await;
    let mut published = Published::default();
    // So large that each is its own batch.
    let pad = "x".repeat(130 * 1024);
    for number in 0..400 {
        let payload = published.batch("s", 100).replacen('{', &format!(r#"{{"pad":"{pad}","#), 1);
        fixture.producer.send(&fixture.points_topic, number % 4, "s", Some(payload.as_bytes()));
    }
    fixture.producer.flush();
    let worker = fixture.worker(&[("DATABASE_POOL_SIZE", "5"), ("SERIES_INGEST__BATCH__MAX_POINTS", "100")]);
    until(30, "the worker begins with two", async || worker.metric("series_ingest_writers") == Some(2.0)).await;
    // The fourth is tried only if the third was kept.
    until(120, "a fourth is tried", async || worker.metric("series_ingest_writers") == Some(4.0)).await;
    fixture.client.batch_execute("drop trigger wait on time_series_data_points").await.unwrap();
    fixture.until_applied(120).await;
    fixture.assert_exact(&published).await;
    drop(worker);
    fixture.remove().await;
}

/// The server takes fewer connections of the role than the pool may have.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_connections_below_the_pool_is_named_and_is_not_an_outage() {
    let Some(fixture) = Fixture::new("limited", 2).await else { return };
    let (role, url) = fixture.worker_role("connection limit 3").await;
    let mut environment = fixture.environment();
    environment.retain(|(name, _)| name != "DATABASE_URL");
    environment.push(("DATABASE_URL".to_owned(), url.clone()));
    let output = run(&environment, &["check"]);
    assert_eq!(output.status.code(), Some(64), "{}", text(&output));
    for words in ["may have 3 connections (rolconnlimit", "may take 17", "database.max_overflow = 10"] {
        assert!(text(&output).contains(words), "{words}: {}", text(&output));
    }

    // Each batch takes a while, and every writer wants a connection.
    slow_down(&fixture).await;
    let worker = fixture.worker(&[
        ("DATABASE_URL", &url),
        ("DATABASE_POOL_SIZE", "1"),
        ("DATABASE_MAX_OVERFLOW", "9"),
        ("SERIES_INGEST__DATABASE__WRITERS", "8"),
        ("SERIES_INGEST__BATCH__MAX_POINTS", "100"),
        ("SERIES_INGEST__BATCH__LINGER_MS", "10"),
    ]);
    until(60, "ready", async || worker.get("/readyz").is_some_and(|page| page.0 == 200)).await;
    assert!(worker.get("/status").unwrap().1.contains("rolconnlimit"), "the limit is a condition");
    let mut published = Published::default();
    for number in 0..400 {
        let payload = published.batch("s", 100);
        fixture.producer.send(&fixture.points_topic, number % 2, "s", Some(payload.as_bytes()));
    }
    fixture.producer.flush();
    fixture.until_applied(120).await;
    fixture.assert_exact(&published).await;
    let log = worker.log();
    assert!(log.contains("the server takes fewer connections than"), "{log}");
    assert!(!log.contains("a batch was not written") && !log.contains("down (outage)"), "{log}");
    assert_eq!(worker.metric("series_ingest_database_errors_total{class=\"outage\"}"), Some(0.0));
    drop(worker);
    fixture.remove_with_role(&role).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_grows_older_than_its_age() {
    let Some(fixture) = Fixture::new("recycle", 1).await else { return };
    let mut published = Published::default();
    let worker =
        fixture.worker(&[("DATABASE_POOL_SIZE", "1"), ("DATABASE_MAX_OVERFLOW", "1"), ("DATABASE_POOL_RECYCLE", "2")]);
    fixture.publish_to(&mut published, 0, 1, 100);
    fixture.until_applied(60).await;
    let first = backends(&fixture).await;
    assert!(!first.is_empty());
    until(30, "other connections", async || {
        fixture.publish_to(&mut published, 0, 1, 100);
        let now = backends(&fixture).await;
        !now.is_empty() && now.is_disjoint(&first)
    })
    .await;
    fixture.until_applied(60).await;
    fixture.assert_exact(&published).await;
    assert_eq!(worker.metric("series_ingest_database_errors_total{class=\"outage\"}"), Some(0.0));
    drop(worker);
    fixture.remove().await;
}
