//! The claim: what makes it exactly once, whichever worker writes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use series_ingest::batch::Batch;
use series_ingest::database::{ClaimOrder, Class, Database, Error, Written};
use series_ingest::input::Decoder;
use series_ingest::raw::Kind;
use series_ingest::raw::{MessageSetBuilder, RawMessage, Source};
use tokio_postgres::Client;

use crate::support::data::Published;
use crate::support::fixture::{Fixture, connect};
use crate::support::{seed, until};

struct Writer {
    database: Database,
    source: Arc<Source>,
    decoder: Decoder,
}

impl Writer {
    fn new(fixture: &Fixture) -> Self {
        let config = fixture.config(&[]);
        let source = Source {
            kind: Kind::Points,
            cluster_id: "c".into(),
            topic: fixture.points_topic.clone(),
            topic_id: "t".into(),
        };
        Self { database: Database::new(&config).unwrap(), source: Arc::new(source), decoder: config.decoder() }
    }

    /// Messages of one point each at the offsets of `[from, until)`; a point's time is its offset in microseconds.
    fn batch(&mut self, partition: i32, from: i64, until: i64) -> Batch {
        let mut set = MessageSetBuilder::new(Arc::clone(&self.source), partition, from);
        for offset in from..until {
            let payload = format!(
                r#"{{"time_series_id":"p{partition}","timestamp_unit":"us","timestamps":[{offset}],"columns":{{"c":[1]}}}}"#
            );
            set.push(&RawMessage {
                offset,
                time_ms: None,
                key: None,
                payload: Some(payload.as_bytes()),
                ..RawMessage::default()
            });
        }
        let mut batch = Batch::new(self.decoder.clone());
        batch.push(set.build(None));
        batch
    }

    async fn write(&mut self, batch: &Batch, order: ClaimOrder) -> Result<Written, Error> {
        self.database.write(batch, order).await
    }
}

/// Two writers with the same batch, stopped together before their claims; how many of them commit.
async fn commits_of_two(fixture: &Fixture) -> usize {
    let (mut first, mut second) = (Writer::new(fixture), Writer::new(fixture));
    first.database.start(&first.source, &[(0, 0)]).await.unwrap();
    // The chunk is there already: who makes one keeps the others waiting before they come to their claims.
    let batch = first.batch(0, 1000, 1001);
    first.write(&batch, ClaimOrder::CopyFirst).await.unwrap();
    let lock = connect(&fixture.url).await;
    lock.batch_execute("begin; select from ingest_progress for update").await.unwrap();
    let batch = first.batch(0, 0, 100);
    let release = async {
        // Both are at the claim: each waits for the row.
        until(20, "both writers are at their claims", async || fixture.waiting_for_locks().await == 2).await;
        lock.batch_execute("commit").await.unwrap();
    };
    let (a, b, ()) =
        tokio::join!(first.write(&batch, ClaimOrder::CopyFirst), second.write(&batch, ClaimOrder::CopyFirst), release);
    for refused in [&a, &b].into_iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!(refused.class(), Class::Overlap, "{refused}");
    }
    [a, b].iter().filter(|result| result.is_ok()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_writers_of_the_same_offsets_exactly_one_commits() {
    let Some(fixture) = Fixture::new("two_writers", 1).await else { return };
    assert_eq!(commits_of_two(&fixture).await, 1);
    assert_eq!(fixture.count_points().await, 101);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_journal_has_of_a_gap_fills_just_that_part_of_it_once() {
    let Some(fixture) = Fixture::new("gap_filled", 1).await else { return };
    let mut writer = Writer::new(&fixture);
    let source = Arc::clone(&writer.source);
    writer.database.start(&source, &[(0, 0)]).await.unwrap();
    let recorded = writer.database.record_gap(&source, 0, (10, 50), "retention").await.unwrap();
    assert_eq!(recorded, [(10, 50)]);
    let batch = writer.batch(0, 0, 10);
    writer.write(&batch, ClaimOrder::CopyFirst).await.unwrap();
    assert_eq!(fixture.count("select next_offset from ingest_progress").await, 50);
    // A batch from Kafka fills nothing: what is covered is covered.
    let (before, inside, across) = (writer.batch(0, 5, 15), writer.batch(0, 20, 30), writer.batch(0, 40, 60));
    assert_eq!(writer.write(&before, ClaimOrder::ClaimFirst).await.unwrap().points, 0);
    assert_eq!(writer.write(&before, ClaimOrder::ClaimFirstFillingGaps).await.unwrap().points, 5);
    assert_eq!(writer.write(&inside, ClaimOrder::ClaimFirstFillingGaps).await.unwrap().points, 10);
    assert_eq!(writer.write(&across, ClaimOrder::ClaimFirstFillingGaps).await.unwrap().points, 20);
    for batch in [&before, &inside, &across] {
        assert_eq!(writer.write(batch, ClaimOrder::ClaimFirstFillingGaps).await.unwrap().points, 0);
    }
    assert_eq!(fixture.count_points().await, 45);
    assert_eq!(fixture.count("select next_offset from ingest_progress").await, 60);
    let gaps = "select from_offset, until_offset, filled_at is not null from ingest_gap order by 1";
    let rows = fixture.client.query(gaps, &[]).await.unwrap();
    let gaps: Vec<(i64, i64, bool)> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!(gaps, [(10, 15, true), (15, 20, false), (20, 30, true), (30, 40, false), (40, 50, true)]);
    let coverage = writer.database.coverage(&source, &[0]).await.unwrap().remove(&0).unwrap();
    assert_eq!(coverage.missing(0, 70), [(15, 20), (30, 40), (60, 70)]);
    fixture.remove().await;
}

/// Replaces a piece of one of the claim's functions, as a bug would.
pub async fn plant(client: &Client, function: &str, good: &str, bad: &str) {
    let definition: String =
        client.query_one("select pg_get_functiondef($1::text::regproc)", &[&function]).await.unwrap().get(0);
    assert!(definition.contains(good), "{definition}");
    client.batch_execute(&definition.replace(good, bad)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn planted_bug_the_claim_takes_no_row_lock() {
    let Some(fixture) = Fixture::new("no_lock_bug", 1).await else { return };
    plant(&fixture.client, "ingest_cover", "for update", "").await;
    assert_eq!(commits_of_two(&fixture).await, 2, "the bug is caught: both commit");
    assert_eq!(fixture.count_points().await, 201);
    fixture.remove().await;
}

/// Writes the same batch twice copying first; how many points are there then.
async fn points_of_a_batch_written_twice(fixture: &Fixture) -> i64 {
    let mut writer = Writer::new(fixture);
    writer.database.start(&writer.source, &[(0, 0)]).await.unwrap();
    let batch = writer.batch(0, 0, 10);
    writer.write(&batch, ClaimOrder::CopyFirst).await.unwrap();
    if let Err(refused) = writer.write(&batch, ClaimOrder::CopyFirst).await {
        assert_eq!(refused.class(), Class::Overlap);
    }
    fixture.count_points().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_written_twice_is_there_once() {
    let Some(fixture) = Fixture::new("twice", 1).await else { return };
    assert_eq!(points_of_a_batch_written_twice(&fixture).await, 10);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn planted_bug_an_overlap_is_not_raised() {
    let Some(fixture) = Fixture::new("overlap_bug", 1).await else { return };
    plant(
        &fixture.client,
        "ingest_claim",
        "if missing <> int8multirange(int8range(want.from_offset, want.until_offset)) then",
        "if false then",
    )
    .await;
    assert_eq!(points_of_a_batch_written_twice(&fixture).await, 20, "the bug is caught: its points are there twice");
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_holds_offsets_twice_writes_them_once() {
    let Some(fixture) = Fixture::new("overlapping", 1).await else { return };
    let mut writer = Writer::new(&fixture);
    writer.database.start(&writer.source, &[(0, 0)]).await.unwrap();
    // As a partition leaves it that was lost and assigned again while the database was slow.
    let mut all = Batch::new(writer.decoder.clone());
    for (from, until) in [(0, 10), (5, 20), (7, 9), (0, 3)] {
        for set in writer.batch(0, from, until).sets() {
            all.push(set.clone());
        }
    }
    assert_eq!(writer.write(&all, ClaimOrder::CopyFirst).await.unwrap_err().class(), Class::Overlap);
    assert_eq!(writer.write(&all, ClaimOrder::ClaimFirst).await.unwrap().points, 20);
    assert_eq!(fixture.count_points().await, 20);
    assert_eq!(fixture.count("select count(distinct \"timestamp\") from time_series_data_points").await, 20);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_time_that_is_none_stops_nothing() {
    let Some(fixture) = Fixture::new("far_time", 1).await else { return };
    let mut writer = Writer::new(&fixture);
    writer.database.start(&writer.source, &[(0, 0)]).await.unwrap();
    let mut set = MessageSetBuilder::new(Arc::clone(&writer.source), 0, 0);
    for (offset, time_ms) in (0..).zip([1_700_000_000_000_000_000, i64::MAX, i64::MIN, -5]) {
        set.push(&RawMessage {
            offset,
            time_ms: Some(time_ms),
            key: None,
            payload: Some(b"{"),
            ..RawMessage::default()
        });
    }
    let mut batch = Batch::new(writer.decoder.clone());
    batch.push(set.build(None));
    assert_eq!(writer.write(&batch, ClaimOrder::CopyFirst).await.unwrap().dead_letters.len(), 4);
    assert_eq!(fixture.count("select count(*) from ingest_dead_letter").await, 4);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slow_path_writes_just_what_is_missing() {
    let Some(fixture) = Fixture::new("slow_path", 2).await else { return };
    let mut writer = Writer::new(&fixture);
    writer.database.start(&writer.source, &[(0, 0), (1, 0)]).await.unwrap();
    for (from, until) in [(10, 20), (30, 40)] {
        let batch = writer.batch(0, from, until);
        writer.write(&batch, ClaimOrder::CopyFirst).await.unwrap();
    }
    let batch = writer.batch(0, 5, 35);
    let written = writer.write(&batch, ClaimOrder::ClaimFirst).await.unwrap();
    assert_eq!((written.points, written.skipped), (15, 15));
    let written = writer.write(&batch, ClaimOrder::ClaimFirst).await.unwrap();
    assert_eq!((written.points, written.skipped), (0, 30));
    let batch = writer.batch(0, 0, 5);
    let written = writer.write(&batch, ClaimOrder::ClaimFirst).await.unwrap();
    assert_eq!(written.applied.iter().map(|applied| applied.next_offset).collect::<Vec<_>>(), [40]);
    assert_eq!(fixture.count("select count(distinct \"timestamp\") from time_series_data_points").await, 40);
    assert_eq!(fixture.count_points().await, 40);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_at_random_agree_with_a_set_of_offsets() {
    const OFFSETS: i64 = 400;
    let Some(fixture) = Fixture::new("random_claims", 2).await else { return };
    let mut random = StdRng::seed_from_u64(seed("random_claims"));
    let mut writer = Writer::new(&fixture);
    writer.database.start(&writer.source, &[(0, 0), (1, 0)]).await.unwrap();
    let mut model = [BTreeSet::new(), BTreeSet::new()];
    for _ in 0..150 {
        let partition = random.random_range(0..2);
        let from = random.random_range(0..OFFSETS);
        let until = (from + random.random_range(1..40)).min(OFFSETS);
        let batch = writer.batch(partition, from, until);
        let known = &mut model[partition as usize];
        let missing = (from..until).filter(|offset| !known.contains(offset)).count();
        if random.random_bool(0.5) {
            let result = writer.write(&batch, ClaimOrder::CopyFirst).await;
            if missing == (until - from) as usize {
                assert_eq!(result.unwrap().points, missing);
                known.extend(from..until);
            } else {
                assert_eq!(result.unwrap_err().class(), Class::Overlap);
            }
        } else {
            assert_eq!(writer.write(&batch, ClaimOrder::ClaimFirst).await.unwrap().points, missing);
            known.extend(from..until);
        }
    }
    for (partition, known) in (0..).zip(&model) {
        let sql = format!(
            "select array_agg((extract(epoch from \"timestamp\") * 1000000)::bigint order by \"timestamp\") from time_series_data_points
             where time_series_id = 'p{partition}'"
        );
        let stored: Vec<i64> = fixture.client.query_one(&sql, &[]).await.unwrap().get(0);
        assert_eq!(stored, known.iter().copied().collect::<Vec<_>>());
        let next = (0..).find(|offset| !known.contains(offset)).unwrap();
        let sql = format!("select next_offset from ingest_progress where partition = {partition}");
        assert_eq!(fixture.count(&sql).await, next);
        let sql = format!(
            "select coalesce((select sum(upper(r) - lower(r))::bigint from unnest(ahead) as r), 0) from ingest_progress where partition = {partition}"
        );
        assert_eq!(fixture.count(&sql).await, known.range(next..).count() as i64);
    }
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn islands_are_bounded() {
    let Some(fixture) = Fixture::new("islands", 1).await else { return };
    let mut writer = Writer::new(&fixture);
    writer.database.start(&writer.source, &[(0, 0)]).await.unwrap();
    fixture.client
        .batch_execute(
            "update ingest_progress set ahead = (select range_agg(int8range(2 * n, 2 * n + 1)) from generate_series(1, 1024) as n)",
        )
        .await
        .unwrap();
    let batch = writer.batch(0, 5001, 5002);
    assert_eq!(writer.write(&batch, ClaimOrder::CopyFirst).await.unwrap_err().class(), Class::Retry);
    let batch = writer.batch(0, 0, 2);
    writer.write(&batch, ClaimOrder::CopyFirst).await.unwrap();
    let batch = writer.batch(0, 5001, 5002);
    writer.write(&batch, ClaimOrder::CopyFirst).await.unwrap();
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_of_two_writers_is_not_possible() {
    let Some(fixture) = Fixture::new("sorted_claims", 8).await else { return };
    let partitions: Vec<(i32, i64)> = (0..8).map(|partition| (partition, 0)).collect();
    let setup = Writer::new(&fixture);
    setup.database.start(&setup.source, &partitions).await.unwrap();
    let tasks: Vec<_> = (0..4)
        .map(|number: i64| {
            let mut writer = Writer::new(&fixture);
            tokio::spawn(async move {
                for round in 0..25 {
                    let from = (round * 4 + number) * 10;
                    let mut all = Batch::new(writer.decoder.clone());
                    // Each writer has the partitions in another order.
                    for step in 0..8 {
                        let partition = if number % 2 == 0 { step } else { 7 - step };
                        for set in writer.batch(partition, from, from + 10).sets() {
                            all.push(set.clone());
                        }
                    }
                    writer.write(&all, ClaimOrder::CopyFirst).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(fixture.count_points().await, 8 * 4 * 25 * 10);
    fixture.remove().await;
}

/// Returns `true` if Kafka's committed offset runs ahead of the database while the database cannot commit.
async fn kafka_is_ahead(fixture: &Fixture, extra: &[(&str, &str)]) -> bool {
    let mut published = Published::default();
    let mut settings = vec![("SERIES_INGEST__BATCH__MAX_POINTS", "1000")];
    settings.extend_from_slice(extra);
    let worker = fixture.worker(&settings);
    let publish = |published: &mut Published| {
        for _ in 0..50 {
            let payload = published.batch("s", 50);
            fixture.producer.send(&fixture.points_topic, 0, "s", Some(payload.as_bytes()));
        }
        fixture.producer.flush();
    };
    publish(&mut published);
    fixture.until_applied(60).await;
    // A lock that every write waits for.
    let lock = connect(&fixture.url).await;
    lock.batch_execute("begin; lock table ingest_progress in exclusive mode").await.unwrap();
    let applied = fixture.next_offsets().await[0];
    publish(&mut published);
    let lag = format!(
        "series_ingest_kafka_lag_messages{{input=\"points\",topic=\"{}\",partition=\"0\"}}",
        fixture.points_topic
    );
    until(20, "messages are read", async || worker.metric(&lag) > Some(0.0)).await;
    // Long enough for some commits of offsets, which come every second.
    let mut ahead = false;
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        ahead |= fixture
            .broker
            .committed(&fixture.group, &fixture.points_topic, 0)
            .is_some_and(|committed| committed > applied);
    }
    lock.batch_execute("rollback").await.unwrap();
    fixture.until_applied(60).await;
    fixture.assert_exact(&published).await;
    let end = fixture.broker.end(&fixture.points_topic, 0);
    until(20, "the offset is committed", async || {
        fixture.broker.committed(&fixture.group, &fixture.points_topic, 0) == Some(end)
    })
    .await;
    ahead
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_database_has_is_committed_to_kafka() {
    let Some(fixture) = Fixture::new("commits", 1).await else { return };
    assert!(!kafka_is_ahead(&fixture, &[]).await);
    fixture.remove().await;
}

#[cfg(feature = "planted-bugs")]
#[tokio::test(flavor = "multi_thread")]
async fn planted_bug_an_offset_is_committed_to_kafka_before_the_database_has_it() {
    let Some(fixture) = Fixture::new("commits_bug", 1).await else { return };
    assert!(
        kafka_is_ahead(&fixture, &[("SERIES_INGEST_PLANTED_BUGS", "commit-before-database")]).await,
        "the bug is caught"
    );
    fixture.remove().await;
}
