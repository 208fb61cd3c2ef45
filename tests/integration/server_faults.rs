//! The database server is killed, stopped, frozen, read-only, out of connections, out of room or closed to the worker, under
//! a live load, and comes back. OUTAGE_S sets for how many seconds it is away: 10, and 30 under `make chaos`.

use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::support::data::Published;
use crate::support::fixture_with_server::FixtureWithServer;
use crate::support::load::Load;
use crate::support::outage::{Outage, until_writable};
use crate::support::until;
use crate::support::worker::Worker;

/// Maximum number of these tests at a time: each is a load that a machine with two cores feels.
static TURNS: Semaphore = Semaphore::const_new(2);

const PARTITIONS: i32 = 4;
/// The defaults of `memory.limit_bytes`, and of what of it is for messages and points.
const MEMORY_LIMIT_BYTES: f64 = 268_435_456.0;
const BUDGET_BYTES: f64 = MEMORY_LIMIT_BYTES / 3.0;
/// How old the newest point may be while what was missed is still being written, in seconds.
const LIVE_LAG_S: f64 = 5.0;

fn outage_time() -> Duration {
    let seconds = std::env::var("OUTAGE_S").ok().map_or(10, |text| text.parse().expect("OUTAGE_S is a number"));
    Duration::from_secs(seconds)
}

/// What was seen of a worker.
#[derive(Debug, Default)]
struct Seen {
    journaling: bool,
    most_buffered: f64,
}

impl Seen {
    fn look(&mut self, worker: &Worker) {
        self.journaling |= worker.is_mode("journaling");
        let buffered = worker.metric("series_ingest_buffered_bytes").unwrap_or_default();
        self.most_buffered = self.most_buffered.max(buffered);
    }
}

async fn nothing_is_lost_and_live_data_comes_first(test: &str, outage: Outage, extra: &[(&str, &str)]) {
    let _turn = TURNS.acquire().await.unwrap();
    let Some(mut ground) = FixtureWithServer::for_outage(test, PARTITIONS, outage).await else { return };
    let worker = ground.worker("journal", extra);
    let load = Load::start(&ground.fixture, Published::default(), 20_000);
    until(30, "points are written", async || ground.fixture.count_points().await > 40_000).await;
    worker.until_mode("streaming").await;

    let ongoing = outage.begin(&mut ground).await;
    let mut seen = Seen::default();
    let begun = Instant::now();
    while begun.elapsed() < outage_time() {
        seen.look(&worker);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(seen.journaling, "an outage was declared");

    ongoing.end(&mut ground).await;
    let (client, since) = until_writable(&ground).await;
    let returned = Instant::now();
    let is_committed = "select exists (select from ingest_progress where updated_at > $1)";
    until(60, "something is committed", async || client.query_one(is_committed, &[&since]).await.unwrap().get(0)).await;
    let first_commit = returned.elapsed();

    let live_lag = "select extract(epoch from now() - max(\"timestamp\"))::float8 from time_series_data_points";
    // While what was missed is still being written, or at the latest then.
    let (live, is_drained) = loop {
        seen.look(&worker);
        let is_drained = worker.is_mode("streaming");
        let lag: f64 = client.query_one(live_lag, &[]).await.unwrap().get(0);
        if lag < LIVE_LAG_S {
            break (returned.elapsed(), is_drained);
        }
        assert!(!is_drained, "all that was missed is written, and the newest point is {lag} s old");
        assert!(returned.elapsed() < Duration::from_secs(60), "after 60 s the newest point is {lag} s old");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let published = load.stop();
    until(180, "it is drained", async || {
        seen.look(&worker);
        worker.is_mode("streaming")
    })
    .await;
    let drained = returned.elapsed();
    ground.fixture.connect_to(&ground.server).await;
    ground.fixture.until_applied(60).await;
    let resident = worker.most_resident_bytes();
    println!(
        "{test}: {} points, away {} s; first commit after {first_commit:.2?}, live lag below {LIVE_LAG_S} s after {live:.2?} \
         (drained: {is_drained}), all drained after {drained:.2?}; at most {} MiB buffered, {} MiB resident",
        published.rows.len(),
        outage_time().as_secs(),
        seen.most_buffered as u64 >> 20,
        resident >> 20,
    );
    ground.fixture.assert_exact(&published).await;
    assert!(seen.most_buffered <= BUDGET_BYTES, "{} bytes were buffered", seen.most_buffered);
    assert!((resident as f64) < MEMORY_LIMIT_BYTES, "{resident} bytes were resident");
    drop(worker);
    ground.fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_and_started_again() {
    nothing_is_lost_and_live_data_comes_first("server_killed", Outage::Killed, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_stopped_and_started_again() {
    nothing_is_lost_and_live_data_comes_first("server_stopped", Outage::Stopped, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_frozen_and_thawed() {
    // A server that hangs is noticed by these.
    let settings = [
        ("SERIES_INGEST__DATABASE__CONNECT_TIMEOUT_MS", "1000"),
        ("SERIES_INGEST__DATABASE__POOL_WAIT_TIMEOUT_MS", "1000"),
    ];
    nothing_is_lost_and_live_data_comes_first("server_frozen", Outage::Frozen, &settings).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_no_writes() {
    nothing_is_lost_and_live_data_comes_first("server_read_only", Outage::ReadOnly, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_connections_others_have() {
    nothing_is_lost_and_live_data_comes_first("server_no_connections", Outage::NoConnections, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_a_full_disk() {
    nothing_is_lost_and_live_data_comes_first("server_disk_full", Outage::DiskFull, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_locks_the_workers_role() {
    nothing_is_lost_and_live_data_comes_first("server_role_locked", Outage::RoleLocked, &[]).await;
}
