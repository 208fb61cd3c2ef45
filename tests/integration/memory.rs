//! `memory.limit_bytes` holds, with 200 partitions, large messages, a backlog and a database that hangs. A backlog of
//! large messages has MEMORY_MIB: 384, and 10240 under `make chaos`.

use crate::support::broker::Producer;
use crate::support::data::Published;
use crate::support::fixture_with_proxy::FixtureWithProxy;
use crate::support::until;
use crate::support::worker::Worker;

const MIB: usize = 1024 * 1024;
const PARTITIONS: i32 = 200;
/// The default of `memory.limit_bytes`.
const LIMIT: usize = 256 * MIB;
/// Of it, what messages and points may take.
const BUFFERED: usize = (LIMIT - 32 * MIB) / 3;
/// What the resident set may have at most: the limit and 15 %.
const MOST: usize = LIMIT + LIMIT * 15 / 100;

/// The backlog of compressed messages: a test has to remember their millions of points.
const COMPRESSED_BYTES: usize = 768 * MIB;

fn backlog_bytes() -> usize {
    std::env::var("MEMORY_MIB").ok().map_or(384, |text| text.parse().expect("MEMORY_MIB is a number")) * MIB
}

/// Timeout for a backlog of this size, in seconds.
fn drain_timeout_s() -> u64 {
    60 + backlog_bytes() as u64 / (10 * MIB as u64)
}

/// The settings of [`FixtureWithProxy`] that make a test quick are not those that a worker has.
const DEFAULTS: [(&str, &str); 3] = [
    ("SERIES_INGEST__JOURNAL__SEGMENT_BYTES", "67108864"),
    ("SERIES_INGEST__JOURNAL__MAX_BYTES", "21474836480"),
    ("SERIES_INGEST__BATCH__LINGER_MS", "200"),
];
const WITHOUT_JOURNAL: [(&str, &str); 4] =
    [DEFAULTS[0], DEFAULTS[1], DEFAULTS[2], ("SERIES_INGEST__JOURNAL__ENABLED", "false")];

/// Publishes a backlog over all partitions, with `message`; `run` neighbours go to the same partition.
fn publish_backlog(
    away: &FixtureWithProxy,
    codec: &str,
    run: i32,
    backlog: usize,
    mut message: impl FnMut() -> String,
) {
    let settings = [("compression.type", codec), ("message.max.bytes", "10000000"), ("linger.ms", "50")];
    let producer = Producer::with(&away.fixture.brokers, &settings);
    let mut bytes = 0;
    for number in 0.. {
        let payload = message();
        producer.send(&away.fixture.points_topic, number / run % PARTITIONS, "s", Some(payload.as_bytes()));
        bytes += payload.len();
        if bytes >= backlog {
            println!("{} messages, {} MiB, over {PARTITIONS} partitions, {codec}", number + 1, bytes / MIB);
            break;
        }
    }
    producer.flush();
}

/// Shows and checks the most memory that the worker had resident so far.
fn assert_bounded(worker: &Worker, what: &str) {
    let peak = worker.most_resident_bytes() as usize;
    println!("{what}: {} MiB resident at most, of {} MiB", peak / MIB, MOST / MIB);
    assert!(peak < MOST, "{what}: {} MiB resident, of {} MiB", peak / MIB, MOST / MIB);
}

async fn assert_drained(away: FixtureWithProxy, worker: Worker, published: &Published, what: &str) {
    away.fixture.until_applied(drain_timeout_s()).await;
    assert_bounded(&worker, what);
    away.fixture.assert_exact(published).await;
    drop(worker);
    away.remove().await;
}

/// The worker pauses, and Kafka holds the rest.
#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded_while_the_database_hangs() {
    let Some(away) = FixtureWithProxy::new("memory_hangs", PARTITIONS).await else { return };
    let mut published = Published::default();
    away.publish(&mut published, 1);
    let worker = away.worker("unused", &WITHOUT_JOURNAL);
    away.fixture.until_applied(60).await;
    away.proxy.freeze(true);
    publish_backlog(&away, "none", 1, backlog_bytes(), || published.padded_batch("s", 5, 1_000_000, 990_000));
    until(60, "as much is read as memory is there for", async || {
        // One that knows no bound does not get there.
        assert_bounded(&worker, "while the backlog is read");
        let status = worker.get("/status").filter(|(code, _)| *code == 200);
        let status: Option<serde_json::Value> = status.map(|(_, status)| serde_json::from_str(&status).unwrap());
        status.is_some_and(|status| status["buffered_bytes"].as_u64() >= Some(BUFFERED as u64))
    })
    .await;
    assert_bounded(&worker, "while the database hangs");
    away.proxy.freeze(false);
    assert_drained(away, worker, &published, "after it").await;
}

/// The journal takes all of a backlog, and then it drains.
async fn through_the_journal(test: &str, publish: impl FnOnce(&FixtureWithProxy, &mut Published)) {
    let Some(away) = FixtureWithProxy::new(test, PARTITIONS).await else { return };
    let mut published = Published::default();
    away.publish(&mut published, 1);
    let worker = away.worker("journal", &DEFAULTS);
    away.fixture.until_applied(60).await;
    away.proxy.freeze(true);
    publish(&away, &mut published);
    worker.until_mode("journaling").await;
    away.fixture.until_journaled_within(drain_timeout_s(), &worker).await;
    assert_bounded(&worker, "while messages go to the journal");
    away.proxy.freeze(false);
    assert_drained(away, worker, &published, "after it").await;
}

/// Of messages as long as they may be.
#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded_while_large_messages_go_to_the_journal_and_back() {
    through_the_journal("memory_large", |away, published| {
        publish_backlog(away, "lz4", 1, backlog_bytes(), || published.padded_batch("s", 5, MIB, MIB / 16));
    })
    .await;
}

/// What the brokers send is about sixty times as much when it is decompressed, and one answer has messages of many partitions.
#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded_while_compressed_messages_go_to_the_journal_and_back() {
    through_the_journal("memory_compressed", |away, published| {
        publish_backlog(away, "zstd", 500, COMPRESSED_BYTES, || published.padded_batch("s", 2, 3000, 20));
    })
    .await;
}
