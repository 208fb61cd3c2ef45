//! Recovery to a point in time, between two commits of a worker under load: what the recovered database lacks comes back from
//! Kafka, or from the journal if Kafka has deleted it.

use crate::support::data::Published;
use crate::support::fixture_with_server::FixtureWithServer;
use crate::support::until;

const PARTITIONS: i32 = 2;
/// Small batches, so that there are many commits.
const SMALL_BATCHES: [(&str, &str); 2] =
    [("SERIES_INGEST__BATCH__MAX_POINTS", "250"), ("SERIES_INGEST__DATABASE__WRITERS", "2")];

/// Where the recovery ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Time,
    Lsn,
}

/// Who still has what the recovered database lacks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Kafka,
    /// The journal alone.
    Journal,
}

async fn applied(ground: &FixtureWithServer) -> i64 {
    ground.fixture.next_offsets().await.iter().sum()
}

/// The target of a recovery to now, as a setting.
async fn now(ground: &FixtureWithServer, target: Target) -> String {
    let sql = match target {
        Target::Time => "select format('time = %L', clock_timestamp())",
        Target::Lsn => "select format('lsn = %L', pg_current_wal_insert_lsn())",
    };
    ground.fixture.client.query_one(sql, &[]).await.unwrap().get(0)
}

async fn recovered(test: &str, target: Target, source: Source) {
    let Some(mut ground) = FixtureWithServer::new(test, PARTITIONS).await else { return };
    ground.server.begin_archiving().await;
    ground.fixture.connect_to(&ground.server).await;
    let mut published = Published::default();
    let worker = ground.worker("journal", &SMALL_BATCHES);
    ground.fixture.publish(&mut published, 100, 25);
    ground.fixture.until_applied(60).await;
    ground.server.base_backup().await;
    let at_base = applied(&ground).await;

    if source == Source::Journal {
        ground.server.stop_fast();
        ground.fixture.publish(&mut published, 600, 25);
        worker.until_mode("journaling").await;
        ground.fixture.until_journaled(&worker).await;
        ground.server.start_again().await;
        ground.fixture.connect_to(&ground.server).await;
    } else {
        ground.fixture.publish(&mut published, 600, 25);
    }
    until(60, "the worker writes", async || applied(&ground).await > at_base + 50).await;
    let before = applied(&ground).await;
    let to = now(&ground, target).await;
    until(60, "the worker goes on writing", async || applied(&ground).await > before + 50).await;
    ground.fixture.until_applied(60).await;
    let end = applied(&ground).await;
    assert!(before < end, "the moment is between two commits: {before} of {end}");
    if source == Source::Journal {
        worker.until_mode("streaming").await;
        ground.fixture.delete_records().await;
    }
    ground.server.archive_all().await;

    ground.server.kill_9();
    ground.server.recover_to(&to).await;
    ground.fixture.connect_to(&ground.server).await;
    if source == Source::Kafka {
        // New messages come as well.
        ground.fixture.publish(&mut published, 50, 25);
    }
    let lines = ground.server.log();
    assert!(lines.contains("recovery stopping"), "{lines}");
    ground.fixture.until_applied(60).await;
    ground.fixture.assert_exact(&published).await;
    drop(worker);
    ground.fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_recovery_to_a_time_what_is_missing_comes_from_kafka() {
    recovered("pitr_time", Target::Time, Source::Kafka).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_recovery_to_a_position_what_is_missing_comes_from_kafka() {
    recovered("pitr_lsn", Target::Lsn, Source::Kafka).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_recovery_to_a_time_what_kafka_has_deleted_comes_from_the_journal() {
    recovered("pitr_journal", Target::Time, Source::Journal).await;
}
