//! The database goes away and comes back: with a journal messages go on, without one they wait in Kafka.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::support::data::{Difference, Published};
use crate::support::fixture::{connect, url_with};
use crate::support::fixture_with_proxy::FixtureWithProxy;
use crate::support::worker::{Worker, run, text};
use crate::support::{seed, servers, until};

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_to_the_journal_and_from_there_to_the_database_automatically() {
    let Some(away) = FixtureWithProxy::new("outage", 4).await else { return };
    let mut published = Published::default();
    let worker = away.worker("journal", &[]);
    away.publish(&mut published, 40);
    away.fixture.until_applied(60).await;
    worker.until_mode("streaming").await;

    away.proxy.refuse(true);
    away.publish(&mut published, 400);
    worker.until_mode("journaling").await;
    away.fixture.until_journaled(&worker).await;
    assert!(worker.metric("series_ingest_journal_records").unwrap() > 0.0);
    assert_eq!(worker.get("/readyz").unwrap().0, 200, "in an outage with room in the journal the worker is ready");
    let lag = format!(
        "series_ingest_kafka_lag_seconds{{input=\"points\",topic=\"{}\",partition=\"0\"}}",
        away.fixture.points_topic
    );
    assert!(worker.metric(&lag).unwrap() > 0.0, "what is only journaled is behind");
    // Kafka may lose it now.
    away.delete_records().await;
    away.publish(&mut published, 40);

    away.proxy.refuse(false);
    away.fixture.until_applied(60).await;
    away.fixture.assert_exact(&published).await;
    worker.until_mode("streaming").await;
    until(60, "the journal is empty", async || worker.metric("series_ingest_journal_records") == Some(0.0)).await;
    away.publish(&mut published, 40);
    away.fixture.until_applied(60).await;
    away.fixture.assert_exact(&published).await;
    drop(worker);
    away.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_closed_for_maintenance_is_away() {
    let Some(away) = FixtureWithProxy::new("outage_closed", 1).await else { return };
    let admin = connect(&url_with(&away.fixture.url, "postgres", None)).await;
    let allow = |allowed: bool| format!("alter database {} allow_connections {allowed}", away.fixture.name);
    admin.batch_execute(&allow(false)).await.unwrap();
    for command in [&["check"][..], &["progress", "show"]] {
        let output = run(&away.fixture.environment(), command);
        assert_eq!(output.status.code(), Some(69), "{command:?}: {}", text(&output));
        assert!(text(&output).contains("not currently accepting connections"), "{}", text(&output));
    }
    let mut published = Published::default();
    let worker = away.worker("journal", &[]);
    let without = away.fixture.worker(&[("SERIES_INGEST__KAFKA__GROUP_ID", &format!("{}_2", away.fixture.group))]);
    worker.until_mode("journaling").await;
    away.publish(&mut published, 20);
    away.fixture.until_journaled(&worker).await;
    until(30, "without a journal it waits", async || {
        without.get("/readyz").is_some_and(|(code, page)| code == 503 && page.contains("not currently accepting"))
    })
    .await;
    admin.batch_execute(&allow(true)).await.unwrap();
    away.fixture.until_applied(60).await;
    away.fixture.assert_exact(&published).await;
    drop((worker, without));
    away.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_hangs_is_away_too() {
    let Some(away) = FixtureWithProxy::new("outage_hang", 2).await else { return };
    let mut published = Published::default();
    let settings = [
        ("SERIES_INGEST__DATABASE__CONNECT_TIMEOUT_MS", "1000"),
        ("SERIES_INGEST__DATABASE__POOL_WAIT_TIMEOUT_MS", "1000"),
        ("SERIES_INGEST__DATABASE__STATEMENT_TIMEOUT_MS", "2000"),
    ];
    let worker = away.worker("journal", &settings);
    away.publish(&mut published, 20);
    away.fixture.until_applied(60).await;
    away.proxy.freeze(true);
    away.publish(&mut published, 200);
    worker.until_mode("journaling").await;
    away.fixture.until_journaled(&worker).await;
    assert_eq!(worker.get("/livez").unwrap().0, 200);
    away.proxy.freeze(false);
    away.fixture.until_applied(60).await;
    away.fixture.assert_exact(&published).await;
    worker.until_mode("streaming").await;
    drop(worker);
    away.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_in_an_outage_finds_its_journal_again() {
    let Some(away) = FixtureWithProxy::new("outage_kill", 2).await else { return };
    let mut published = Published::default();
    let mut worker = away.worker("journal", &[]);
    away.begin_outage(&worker, &mut published, 20, 200).await;
    away.fixture.until_journaled(&worker).await;
    worker.kill();
    away.delete_records().await;
    // It starts without the database, goes on journaling, and reconciles when it is back.
    let worker = away.worker("journal", &[]);
    away.publish(&mut published, 100);
    worker.until_mode("journaling").await;
    away.fixture.until_journaled(&worker).await;
    away.proxy.refuse(false);
    away.fixture.until_applied(60).await;
    away.fixture.assert_exact(&published).await;
    drop(worker);
    away.remove().await;
}

/// Returns the number of lost rows when Kafka has nothing of an outage any more and the worker, with such a fault, has emptied its
/// journal.
#[cfg(feature = "planted-bugs")]
async fn lost_with(test: &str, bug: &str) -> usize {
    let away = FixtureWithProxy::new(test, 2).await.expect("there are servers");
    let mut published = Published::default();
    let worker = away.worker("journal", &[("SERIES_INGEST_PLANTED_BUGS", bug)]);
    away.begin_outage(&worker, &mut published, 20, 100).await;
    away.fixture.until_journaled(&worker).await;
    away.delete_records().await;
    away.proxy.refuse(false);
    until(60, "the journal is empty", async || worker.metric("series_ingest_journal_records") == Some(0.0)).await;
    let lost = away.fixture.difference(&published).await.lost;
    drop(worker);
    away.remove().await;
    lost
}

#[cfg(feature = "planted-bugs")]
#[tokio::test(flavor = "multi_thread")]
async fn planted_bug_a_segment_is_deleted_before_the_database_has_it() {
    let Some(_) = servers("outage_deleted_early") else { return };
    assert_eq!(lost_with("outage_deleted_never", "none").await, 0);
    assert!(lost_with("outage_deleted_early", "journal-segment-deleted-early").await > 0, "the bug is caught");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_journal_had_and_kafka_has_no_longer_becomes_a_gap() {
    let Some(away) = FixtureWithProxy::new("outage_gap", 1).await else { return };
    let (mut kept, mut gone) = (Published::default(), Published::default());
    let mut first = away.worker("first", &[]);
    away.publish(&mut kept, 20);
    away.fixture.until_applied(60).await;
    away.proxy.refuse(true);
    away.publish(&mut gone, 20);
    first.until_mode("journaling").await;
    away.fixture.until_journaled(&first).await;
    first.kill();
    away.delete_records().await;
    let second = away.worker("second", &[]);
    second.until_mode("journaling").await;
    away.publish(&mut kept, 10);
    away.fixture.until_journaled(&second).await;
    // Two findings at once, and each has the partition started again: a hole, and a progress below the known one.
    away.proxy.refuse(false);
    away.fixture.until_applied(60).await;
    assert_eq!(away.fixture.difference(&kept).await, Difference::default());
    let gaps = "select count(*) from ingest_gap where from_offset = 20 and until_offset = 40";
    assert_eq!(away.fixture.count(gaps).await, 1);
    drop(second);
    away.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_starts_in_an_outage_with_an_empty_journal() {
    let Some(away) = FixtureWithProxy::new("outage_start", 2).await else { return };
    let mut published = Published::default();
    away.publish(&mut published, 50);
    away.proxy.refuse(true);
    let worker = away.worker("journal", &[]);
    worker.until_mode("journaling").await;
    away.publish(&mut published, 50);
    away.fixture.until_journaled(&worker).await;
    away.proxy.refuse(false);
    away.fixture.until_applied(60).await;
    away.fixture.assert_exact(&published).await;
    drop(worker);
    away.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_journal_messages_wait_in_kafka() {
    let Some(away) = FixtureWithProxy::new("outage_off", 2).await else { return };
    let mut published = Published::default();
    let worker = away.worker("journal", &[("SERIES_INGEST__JOURNAL__ENABLED", "false")]);
    away.publish(&mut published, 20);
    away.fixture.until_applied(60).await;
    away.proxy.refuse(true);
    away.publish(&mut published, 300);
    until(20, "not ready", async || worker.get("/readyz").unwrap().0 == 503).await;
    away.proxy.refuse(false);
    away.fixture.until_applied(60).await;
    away.fixture.assert_exact(&published).await;
    until(20, "ready again", async || worker.get("/readyz").unwrap().0 == 200).await;
    assert!(!away.journal("journal").try_exists().unwrap());
    drop(worker);
    away.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_journal_pauses_and_goes_on_by_itself() {
    let Some(away) = FixtureWithProxy::new("outage_full", 2).await else { return };
    let mut published = Published::default();
    // So little memory that it is full as well.
    let settings =
        [("SERIES_INGEST__JOURNAL__MAX_BYTES", "2097152"), ("SERIES_INGEST__MEMORY__LIMIT_BYTES", "100663296")];
    let worker = away.worker("journal", &settings);
    away.publish(&mut published, 20);
    away.fixture.until_applied(60).await;
    away.proxy.refuse(true);
    until_mode_after(&away, &worker, &mut published).await;
    // More than the journal takes, in values that do not compress well.
    let mut random = StdRng::seed_from_u64(seed("outage_full"));
    for number in 0..500 {
        let times: Vec<i64> = (0..2000).map(|n| 1_600_000_000 + number * 2000 + n).collect();
        let values: Vec<f64> = times.iter().map(|_| random.random()).collect();
        for (time, value) in times.iter().zip(&values) {
            published.rows.push(("noise".to_owned(), "c".to_owned(), time * 1_000_000, value.to_bits()));
        }
        let payload = serde_json::json!({"time_series_id": "noise", "timestamps": times, "columns": {"c": values}});
        away.fixture.producer.send(
            &away.fixture.points_topic,
            number as i32 % 2,
            "noise",
            Some(payload.to_string().as_bytes()),
        );
    }
    away.fixture.producer.flush();
    until(60, "the journal is full, and the worker says so", async || {
        worker.get("/readyz").is_some_and(|(code, why)| code == 503 && why.contains("journal"))
    })
    .await;
    assert!(worker.metric("series_ingest_journal_bytes").unwrap() <= 2_097_152.0);
    away.proxy.refuse(false);
    away.fixture.until_applied(90).await;
    away.fixture.assert_exact(&published).await;
    until(30, "ready again", async || worker.get("/readyz").unwrap().0 == 200).await;
    drop(worker);
    away.remove().await;
}

async fn until_mode_after(away: &FixtureWithProxy, worker: &Worker, published: &mut Published) {
    away.publish(published, 10);
    worker.until_mode("journaling").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_takes_nothing_keeps_nothing_from_the_database_that_is_back() {
    let Some(away) = FixtureWithProxy::new("outage_useless", 2).await else { return };
    let mut published = Published::default();
    // More than any disk has.
    let worker = away.worker("journal", &[("SERIES_INGEST__JOURNAL__MIN_FREE_BYTES", "1000000000000000")]);
    away.publish(&mut published, 20);
    away.fixture.until_applied(60).await;
    // A batch is on its way when the database goes.
    away.publish(&mut published, 200);
    away.proxy.refuse(true);
    away.publish(&mut published, 200);
    until(60, "the journal takes nothing, and the worker says so", async || {
        worker.get("/readyz").is_some_and(|(code, why)| code == 503 && why.contains("journal"))
    })
    .await;
    assert_eq!(worker.metric("series_ingest_journal_up"), Some(0.0));
    away.proxy.refuse(false);
    away.fixture.until_applied(60).await;
    away.fixture.assert_exact(&published).await;
    worker.until_mode("streaming").await;
    until(30, "ready again", async || worker.get("/readyz").unwrap().0 == 200).await;
    drop(worker);
    away.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_is_read_again_from_kafka() {
    let Some(away) = FixtureWithProxy::new("outage_damage", 1).await else { return };
    let mut published = Published::default();
    let mut worker = away.worker("journal", &[]);
    away.publish(&mut published, 20);
    away.fixture.until_applied(60).await;
    away.proxy.refuse(true);
    for _ in 0..20 {
        away.publish(&mut published, 10);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    worker.until_mode("journaling").await;
    away.fixture.until_journaled(&worker).await;
    worker.kill();
    // A byte in the middle of the first segment that has records.
    let mut segments: Vec<PathBuf> = std::fs::read_dir(away.journal("journal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "segment"))
        .collect();
    segments.sort();
    let mut bytes = std::fs::read(&segments[0]).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[used / 2] ^= 0x40;
    std::fs::write(&segments[0], bytes).unwrap();
    let worker = away.worker("journal", &[]);
    worker.until_mode("journaling").await;
    away.proxy.refuse(false);
    away.fixture.until_applied(60).await;
    away.fixture.assert_exact(&published).await;
    assert!(worker.log().contains("damage"), "{}", worker.log());
    drop(worker);
    away.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outages_kills_and_rebalances_in_random_order_lose_and_duplicate_nothing() {
    const STEPS: usize = 14;
    let Some(away) = FixtureWithProxy::new("outage_random", 4).await else { return };
    let mut random = StdRng::seed_from_u64(seed("outage_random"));
    let mut published = Published::default();
    let names = ["first", "second"];
    let mut workers: [Option<Worker>; 2] = [Some(away.worker(names[0], &[])), Some(away.worker(names[1], &[]))];
    away.publish(&mut published, 40);
    away.fixture.until_applied(60).await;
    let mut is_away = false;
    for _ in 0..STEPS {
        let chosen = random.random_range(0..2);
        match random.random_range(0..4) {
            0 => {
                is_away = !is_away;
                away.proxy.refuse(is_away);
            }
            1 => {
                if let Some(worker) = &mut workers[chosen] {
                    worker.kill();
                }
                workers[chosen] = None;
            }
            2 if workers[chosen].is_none() => workers[chosen] = Some(away.worker(names[chosen], &[])),
            _ => {}
        }
        away.publish(&mut published, random.random_range(0..80));
        tokio::time::sleep(Duration::from_millis(random.random_range(200..1500))).await;
    }
    away.proxy.refuse(false);
    for (worker, name) in workers.iter_mut().zip(names) {
        if worker.is_none() {
            *worker = Some(away.worker(name, &[]));
        }
    }
    away.fixture.until_applied(120).await;
    assert_eq!(away.fixture.difference(&published).await, Difference::default());
    drop(workers);
    away.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_filled_by_the_journal_of_a_worker_that_returns() {
    let Some(away) = FixtureWithProxy::new("outage_gap", 2).await else { return };
    let mut published = Published::default();
    let mut first = away.worker("first", &[]);
    away.begin_outage(&first, &mut published, 20, 60).await;
    away.fixture.until_journaled(&first).await;
    first.kill();
    away.delete_records().await;
    away.proxy.refuse(false);
    let second = away.worker("second", &[]);
    away.fixture.until_applied(60).await;
    let lost = "select coalesce(sum(until_offset - from_offset), 0)::bigint from ingest_gap where filled_at is null";
    assert_eq!(away.fixture.count(lost).await, 60);
    let first = away.worker("first", &[]);
    until(60, "the gaps are filled", async || away.fixture.count(lost).await == 0).await;
    away.publish(&mut published, 20);
    away.fixture.until_applied(60).await;
    away.fixture.assert_exact(&published).await;
    until(60, "the journal is empty", async || first.metric("series_ingest_journal_records") == Some(0.0)).await;
    drop((first, second));
    away.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_journaled_before_there_was_any_progress_is_not_skipped() {
    let Some(away) = FixtureWithProxy::new("outage_first", 2).await else { return };
    let mut published = Published::default();
    let latest = [("SERIES_INGEST__KAFKA__START", "latest")];
    away.proxy.refuse(true);
    let mut first = away.worker("first", &latest);
    first.until_mode("journaling").await;
    until(30, "both partitions are read", async || {
        let status = first.get("/status").map_or(String::new(), |(_, body)| body);
        let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
        let is_read = |partition: &serde_json::Value| {
            partition["topic"] == away.fixture.points_topic && !partition["position"].is_null()
        };
        status["partitions"].as_array().is_some_and(|all| all.iter().filter(|one| is_read(one)).count() == 2)
    })
    .await;
    away.publish(&mut published, 40);
    away.fixture.until_journaled(&first).await;
    let committed =
        |partition| away.fixture.broker.committed(&away.fixture.group, &away.fixture.points_topic, partition);
    until(30, "the group's offsets tell where it began", async || committed(0).is_some() && committed(1).is_some())
        .await;
    first.kill();
    for partition in 0..2 {
        away.fixture.broker.delete_records(&away.fixture.points_topic, partition, 10).await;
    }
    away.proxy.refuse(false);
    let second = away.worker("second", &latest);
    away.fixture.until_applied(60).await;
    let first = away.worker("first", &latest);
    let lost = "select count(*) from ingest_gap where filled_at is null";
    until(60, "the gaps are filled", async || away.fixture.count(lost).await == 0).await;
    away.fixture.until_applied(60).await;
    away.fixture.assert_exact(&published).await;
    drop((first, second));
    away.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_with_the_same_journal_refuses_to_start() {
    let Some(away) = FixtureWithProxy::new("outage_lock", 1).await else { return };
    let worker = away.worker("journal", &[]);
    until(30, "it runs", async || worker.get("/livez").is_some()).await;
    worker.until_mode("streaming").await;
    let mut second = away.worker("journal", &[]);
    assert_eq!(second.exit_code(20), Some(64), "{}", second.log());
    assert!(second.log().contains("journal.directory"), "{}", second.log());
    drop(worker);
    away.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_writer_is_shared_by_the_journal_and_what_comes_from_kafka() {
    let Some(away) = FixtureWithProxy::new("outage_one_writer", 1).await else { return };
    let mut published = Published::default();
    // A batch a message.
    let settings = [("SERIES_INGEST__DATABASE__WRITERS", "1"), ("SERIES_INGEST__BATCH__MAX_POINTS", "10")];
    let worker = away.worker("journal", &settings);
    away.begin_outage(&worker, &mut published, 10, 10).await;
    // Many turns of the journal's.
    away.publish_large(&mut published, 1_000, 20_000);
    away.fixture.until_journaled(&worker).await;
    let journaled = away.fixture.broker.end(&away.fixture.points_topic, 0);
    away.proxy.refuse(false);
    worker.until_mode("replaying").await;
    away.publish(&mut published, 4_000);
    let end = away.fixture.broker.end(&away.fixture.points_topic, 0);
    // It goes to the end of all that is written without a hole, live messages among them.
    let mut next = 0;
    until(60, "the journal is written", async || {
        next = away.fixture.next_offsets().await[0];
        next >= journaled
    })
    .await;
    assert!(next > journaled, "live messages were written meanwhile");
    assert!(next < end, "the journal had to wait for all live messages");
    away.fixture.until_applied(60).await;
    away.fixture.assert_exact(&published).await;
    drop(worker);
    away.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_topic_does_not_fill_the_journal_with_small_records() {
    let Some(away) = FixtureWithProxy::new("outage_small_records", 1).await else { return };
    let mut published = Published::default();
    let worker = away.worker("journal", &[]);
    away.begin_outage(&worker, &mut published, 10, 10).await;
    away.fixture.until_journaled(&worker).await;
    let records = || worker.metric("series_ingest_journal_records").unwrap();
    let (before, begun) = (records(), Instant::now());
    for _ in 0..300 {
        let message = published.batch("s", 1);
        away.fixture.producer.send(&away.fixture.points_topic, 0, "s", Some(message.as_bytes()));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    away.fixture.producer.flush();
    away.fixture.until_journaled(&worker).await;
    // One each 100 ms, and the first at once.
    let (made, allowed) = (records() - before, begun.elapsed().as_secs_f64() * 10.0 + 2.0);
    assert!(made >= 1.0 && made <= allowed, "{made} records, {allowed} would do");
    away.proxy.refuse(false);
    away.fixture.until_applied(60).await;
    away.fixture.assert_exact(&published).await;
    drop(worker);
    away.remove().await;
}
