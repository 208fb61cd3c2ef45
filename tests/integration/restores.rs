//! The database is set back: restored to an older copy, or replaced by a standby that misses the last commits. What it lacks
//! comes back from Kafka, or from the journal where Kafka has deleted it.

use crate::support::data::Published;
use crate::support::fixture::{connect, url_with};
use crate::support::fixture_with_server::FixtureWithServer;
use crate::support::proxy::Proxy;
use crate::support::server::Server;
use crate::support::until;
use crate::support::worker::Worker;

const PARTITIONS: i32 = 2;
const WITHOUT_JOURNAL: (&str, &str) = ("SERIES_INGEST__JOURNAL__ENABLED", "false");

/// Who still has what the database lacks then.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Kafka,
    /// The journal alone: Kafka has deleted it.
    Journal,
}

/// `true` if messages come after it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Topic {
    Busy,
    Quiet,
}

async fn applied(ground: &FixtureWithServer) -> i64 {
    ground.fixture.next_offsets().await.iter().sum()
}

/// Publishes what the database is to lose, and waits until it has it.
async fn publish_what_gets_lost(
    ground: &mut FixtureWithServer,
    worker: &Worker,
    published: &mut Published,
    source: Source,
) {
    if source == Source::Journal {
        ground.server.stop_fast();
        ground.fixture.publish(published, 200, 25);
        worker.until_mode("journaling").await;
        ground.fixture.until_journaled(worker).await;
        ground.server.start_again().await;
        ground.fixture.connect_to(&ground.server).await;
    } else {
        ground.fixture.publish(published, 200, 25);
    }
    ground.fixture.until_applied(60).await;
    worker.until_mode("streaming").await;
    if source == Source::Journal {
        ground.fixture.delete_records().await;
    }
}

/// That all of it comes back.
async fn all_comes_back(ground: &FixtureWithServer, published: &mut Published, topic: Topic) {
    if topic == Topic::Busy {
        ground.fixture.publish(published, 50, 25);
    }
    ground.fixture.until_applied(60).await;
    ground.fixture.assert_exact(published).await;
}

async fn restored(test: &str, source: Source, topic: Topic, extra: &[(&str, &str)]) {
    let Some(mut ground) = FixtureWithServer::new(test, PARTITIONS).await else { return };
    let mut published = Published::default();
    let worker = ground.worker("journal", extra);
    ground.fixture.publish(&mut published, 100, 25);
    ground.fixture.until_applied(60).await;
    let at_copy = applied(&ground).await;
    ground.server.stop_fast();
    ground.server.back_up();
    ground.server.start_again().await;
    ground.fixture.connect_to(&ground.server).await;
    publish_what_gets_lost(&mut ground, &worker, &mut published, source).await;
    let before = applied(&ground).await;
    assert!(at_copy < before, "the copy misses commits: {at_copy} of {before} offsets");

    ground.server.stop_fast();
    ground.server.restore();
    ground.server.start_again().await;
    ground.fixture.connect_to(&ground.server).await;
    all_comes_back(&ground, &mut published, topic).await;
    drop(worker);
    ground.fixture.remove().await;
}

/// A standby of the ground's server with all that it has, which then hears no more of it.
async fn standby_that_is_cut_off(ground: &FixtureWithServer) -> Server {
    let standby = ground.server.standby().await;
    let url = url_with(&standby.url(), &ground.fixture.name, None);
    let client = connect(&url).await;
    let lsn: String = ground.fixture.client.query_one("select pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
    let has_it = "select pg_last_wal_replay_lsn() >= $1::text::pg_lsn";
    until(30, "the standby has it", async || client.query_one(has_it, &[&lsn]).await.unwrap().get(0)).await;
    client.batch_execute("alter system set primary_conninfo = ''").await.unwrap();
    client.batch_execute("select pg_reload_conf()").await.unwrap();
    until(30, "nobody listens", async || ground.fixture.count("select count(*) from pg_stat_replication").await == 0)
        .await;
    standby
}

async fn promoted(test: &str, source: Source, topic: Topic) {
    let Some(mut ground) = FixtureWithServer::new(test, PARTITIONS).await else { return };
    let proxy = Proxy::start(&ground.server.address()).await;
    let url = url_with(&ground.url(), &ground.fixture.name, Some(proxy.port));
    let mut published = Published::default();
    let worker = ground.worker("journal", &[("DATABASE_URL", &url)]);
    ground.fixture.publish(&mut published, 100, 25);
    ground.fixture.until_applied(60).await;
    let standby = standby_that_is_cut_off(&ground).await;
    publish_what_gets_lost(&mut ground, &worker, &mut published, source).await;
    let before = applied(&ground).await;

    ground.server.kill_9();
    ground.fixture.connect_to(&standby).await;
    let after = applied(&ground).await;
    assert!(after < before, "the standby misses commits: {after} of {before} offsets");
    ground.fixture.client.query_one("select pg_promote()", &[]).await.unwrap();
    proxy.point_to(&standby.address());
    all_comes_back(&ground, &mut published, topic).await;
    drop(worker);
    ground.fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_what_is_missing_comes_from_kafka() {
    restored("restore_kafka", Source::Kafka, Topic::Busy, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_what_is_missing_comes_from_kafka_although_nothing_new_comes() {
    restored("restore_kafka_quiet", Source::Kafka, Topic::Quiet, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_what_kafka_has_deleted_comes_from_the_journal() {
    restored("restore_journal", Source::Journal, Topic::Busy, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_what_kafka_has_deleted_comes_from_the_journal_although_nothing_new_comes() {
    restored("restore_journal_quiet", Source::Journal, Topic::Quiet, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_without_a_journal_what_is_missing_comes_from_kafka() {
    restored("restore_alone", Source::Kafka, Topic::Busy, &[WITHOUT_JOURNAL]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_without_a_journal_what_is_missing_comes_from_kafka_although_nothing_new_comes() {
    restored("restore_alone_quiet", Source::Kafka, Topic::Quiet, &[WITHOUT_JOURNAL]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_promoted_standby_misses_comes_from_kafka() {
    promoted("promoted_kafka", Source::Kafka, Topic::Busy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_promoted_standby_misses_comes_from_kafka_although_nothing_new_comes() {
    promoted("promoted_kafka_quiet", Source::Kafka, Topic::Quiet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_promoted_standby_misses_and_kafka_has_deleted_comes_from_the_journal() {
    promoted("promoted_journal", Source::Journal, Topic::Quiet).await;
}
