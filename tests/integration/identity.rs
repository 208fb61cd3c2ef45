//! The database turns out to be another one while workers run: dropped and recreated, or a backup that is older than a
//! pipeline. What a worker has cached then names nothing there, or something else. The numbers that a database gives to
//! sources depend on the order in which they are met, so each case is tried in both orders.

use std::collections::HashSet;
use std::sync::Arc;

use series_ingest::batch::Batch;
use series_ingest::database::dead_letters::{Fate, LetterFilter, Redrive, RedriveMode};
use series_ingest::database::{ClaimOrder, Class, Database};
use series_ingest::input::Decoder;
use series_ingest::raw::Kind;
use series_ingest::raw::{MessageSetBuilder, RawMessage, Source as BatchSource};
use tokio_postgres::Client;

use crate::claims::plant;
use crate::support::fixture::Fixture;
use crate::support::until;
use crate::support::worker::Worker;

/// The messages of a round, in each partition; each has one point.
const ROUND: i64 = 50;

/// The order in which the other database has met the topics.
#[derive(Clone, Copy)]
enum Order {
    /// The points' topic has the number that it had before.
    Same,
    /// The series' topic has that number.
    Swapped,
}

/// A source's columns without its number.
struct Source {
    number: i32,
    cluster_id: String,
    topic: String,
    topic_id: String,
}

/// The sources of a pipeline, in the order of their numbers.
async fn sources(client: &Client, pipeline: &str) -> Vec<Source> {
    let sql = "select id, cluster_id, topic, topic_id from ingest_source where pipeline = $1 order by id";
    let rows = client.query(sql, &[&pipeline]).await.unwrap();
    let of_row = |row: &tokio_postgres::Row| Source {
        number: row.get(0),
        cluster_id: row.get(1),
        topic: row.get(2),
        topic_id: row.get(3),
    };
    rows.iter().map(of_row).collect()
}

/// Has the database meet these topics in this order for a pipeline, and says that the numbers are the expected ones.
async fn meet(client: &Client, pipeline: &str, before: &[Source], order: Order) {
    let mut topics: Vec<&Source> = before.iter().collect();
    if matches!(order, Order::Swapped) {
        topics.reverse();
    }
    for source in topics {
        let sql = "insert into ingest_source (pipeline, cluster_id, topic, topic_id) values ($1, $2, $3, $4)";
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&pipeline, &source.cluster_id, &source.topic, &source.topic_id];
        client.execute(sql, &values).await.unwrap();
    }
    let numbers = |all: &[Source]| all.iter().map(|source| source.number).collect::<Vec<i32>>();
    let now = sources(client, pipeline).await;
    assert_eq!(numbers(&now), numbers(before), "the same numbers are given again");
    let is_same = now.iter().zip(before).all(|(now, before)| now.topic == before.topic);
    assert_eq!(is_same, matches!(order, Order::Same));
}

/// Publishes one round, the `number`th, to each partition.
fn publish_round(fixture: &Fixture, number: i64) {
    for partition in 0..fixture.partitions {
        for n in number * ROUND..(number + 1) * ROUND {
            let payload =
                format!(r#"{{"time_series_id":"p{partition}","timestamps":[{n}],"columns":{{"c":[{partition}]}}}}"#);
            fixture.producer.send(&fixture.points_topic, partition, "key", Some(payload.as_bytes()));
        }
    }
    fixture.producer.flush();
}

/// Waits until a pipeline has applied this many rounds.
async fn until_applied(fixture: &Fixture, pipeline: &str, rounds: i64) {
    let sql = format!(
        "select count(*) from ingest_progress as p join ingest_source as s on s.id = p.source_id
         where s.pipeline = '{pipeline}' and s.topic = '{}' and p.next_offset = {} and p.ahead = '{{}}'",
        fixture.points_topic,
        rounds * ROUND
    );
    let what = format!("pipeline {pipeline} has applied {rounds} rounds");
    until(60, &what, async || fixture.count(&sql).await == i64::from(fixture.partitions)).await;
}

/// That each point of these rounds is there just so often, and no gap or dead letter was made.
async fn assert_points(fixture: &Fixture, rounds: i64, times: i64) {
    let (points, distinct) =
        (i64::from(fixture.partitions) * ROUND * rounds * times, i64::from(fixture.partitions) * ROUND * rounds);
    assert_eq!(fixture.count_points().await, points);
    let sql =
        "select count(*) from (select from time_series_data_points group by time_series_id, \"timestamp\") as each";
    assert_eq!(fixture.count(sql).await, distinct);
    assert_eq!(fixture.count("select count(*) from ingest_gap").await, 0);
    assert_eq!(fixture.count("select count(*) from ingest_dead_letter").await, 0);
}

fn worker(fixture: &Fixture, pipeline: &str) -> Worker {
    let group = format!("{}-{pipeline}", fixture.group);
    fixture.worker(&[("SERIES_INGEST__PIPELINE", pipeline), ("SERIES_INGEST__KAFKA__GROUP_ID", &group)])
}

/// Puts a new database in the place of the one in which the pipeline "first" is; it has met the topics in this order.
async fn recreate(fixture: &mut Fixture, order: Order) {
    let before = sources(&fixture.client, "first").await;
    let new = fixture.new_database().await;
    meet(&fixture.connect_to_database(&new).await, "first", &before, order).await;
    fixture.switch_database_to(&new).await;
}

/// Drops the database under a running worker, which goes on in the new one without a restart.
async fn recreated(test: &str, order: Order) {
    let Some(mut fixture) = Fixture::new(test, 1).await else { return };
    let worker = worker(&fixture, "first");
    publish_round(&fixture, 0);
    until_applied(&fixture, "first", 1).await;
    recreate(&mut fixture, order).await;
    publish_round(&fixture, 1);
    until_applied(&fixture, "first", 2).await;
    // Its name in the group says the database, and other workers of this one must not take it for a stranger.
    until(30, "it has another name in the group", async || worker.log().contains("by another client id")).await;
    publish_round(&fixture, 2);
    until_applied(&fixture, "first", 3).await;
    assert_points(&fixture, 3, 1).await;
    until(30, "ready", async || worker.get("/readyz").is_some_and(|(code, _)| code == 200)).await;
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_goes_on_in_a_database_that_was_dropped_and_recreated() {
    recreated("recreated_same", Order::Same).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_goes_on_in_a_recreated_database_with_other_numbers() {
    recreated("recreated_swapped", Order::Swapped).await;
}

/// Switches to a backup that is older than the pipeline "second", in which "third" then has the numbers of its sources.
/// Returns the fixture and the running workers, when "third" has its first round.
async fn switched(test: &str, order: Order) -> Option<(Fixture, [Worker; 2])> {
    let mut fixture = Fixture::new(test, 1).await?;
    publish_round(&fixture, 0);
    let mut first = worker(&fixture, "first");
    until_applied(&fixture, "first", 1).await;
    assert_eq!(first.terminate(10), Some(0));
    let backup = fixture.copy_database().await;
    let second = worker(&fixture, "second");
    until_applied(&fixture, "second", 1).await;
    let before = sources(&fixture.client, "second").await;
    meet(&fixture.connect_to_database(&backup).await, "third", &before, order).await;
    fixture.switch_database_to(&backup).await;
    let third = worker(&fixture, "third");
    until_applied(&fixture, "third", 1).await;
    Some((fixture, [second, third]))
}

async fn switched_to_a_backup(test: &str, order: Order) {
    let Some((fixture, _workers)) = switched(test, order).await else { return };
    publish_round(&fixture, 1);
    until_applied(&fixture, "third", 2).await;
    until_applied(&fixture, "second", 2).await;
    // The backup has the first round of "first", and what the other two have written since.
    assert_eq!(fixture.count_points().await, ROUND * (1 + 2 + 2));
    assert_eq!(fixture.count("select count(*) from ingest_gap").await, 0);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_older_than_a_pipeline_loses_nothing_of_it() {
    switched_to_a_backup("backup_same", Order::Same).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_older_than_a_pipeline_loses_nothing_with_other_numbers() {
    switched_to_a_backup("backup_swapped", Order::Swapped).await;
}

/// A backup that is restored into the same database: no connection shows that it is another one, and the claim alone knows
/// that the key is stale.
#[tokio::test(flavor = "multi_thread")]
async fn planted_bug_a_key_that_the_database_does_not_know_names_the_source_with_that_number() {
    let Some(fixture) = Fixture::new("backup_bug", 1).await else { return };
    publish_round(&fixture, 0);
    let second = worker(&fixture, "second");
    until_applied(&fixture, "second", 1).await;
    let (good, bad) = (
        "where key = p_key;",
        "where key = p_key or pipeline = 'third' and topic like '%.points' order by key <> p_key limit 1;",
    );
    plant(&fixture.client, "ingest_source_number", good, bad).await;
    // As it was before "second"; "third" has the numbers of "second".
    fixture
        .client
        .batch_execute(
            "begin;
             delete from time_series_data_points;
             update ingest_progress set next_offset = 0, ahead = '{}';
             update ingest_source set pipeline = 'third', key = gen_random_uuid();
             commit",
        )
        .await
        .unwrap();
    let _third = worker(&fixture, "third");
    until_applied(&fixture, "third", 1).await;
    publish_round(&fixture, 1);
    until_applied(&fixture, "third", 2).await;
    let metric = |name| second.metric(name).unwrap_or(0.0);
    until(60, "the worker of \"second\" is done with both rounds", async || {
        let done = metric("series_ingest_points_written_total") + metric("series_ingest_points_skipped_total");
        done == (ROUND * 2) as f64
    })
    .await;
    assert_eq!(fixture.count_points().await, ROUND * 2, "the bug is caught: points of \"second\" are nowhere");
    fixture.remove().await;
}

/// Two workers of one pipeline; the database is dropped and recreated, and one of them is restarted.
async fn one_of_two_restarted(test: &str, order: Order) {
    let Some(mut fixture) = Fixture::new(test, 2).await else { return };
    let mut restarted = worker(&fixture, "first");
    let mut other = worker(&fixture, "first");
    publish_round(&fixture, 0);
    until_applied(&fixture, "first", 1).await;
    recreate(&mut fixture, order).await;
    restarted.kill();
    let _restarted = worker(&fixture, "first");
    publish_round(&fixture, 1);
    until_applied(&fixture, "first", 2).await;
    assert_points(&fixture, 2, 1).await;
    // And the other one as well.
    other.kill();
    let _other = worker(&fixture, "first");
    publish_round(&fixture, 2);
    until_applied(&fixture, "first", 3).await;
    assert_points(&fixture, 3, 1).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_workers_restarted_after_the_database_was_recreated_loses_and_duplicates_nothing() {
    one_of_two_restarted("restarted_same", Order::Same).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_workers_restarted_in_a_database_with_other_numbers_loses_and_duplicates_nothing() {
    one_of_two_restarted("restarted_swapped", Order::Swapped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_from_before_a_column_lists_the_column_again() {
    let Some(mut fixture) = Fixture::new("column_again", 1).await else { return };
    let publish_column = |fixture: &Fixture, column: &str, second: i64| {
        let payload = format!(r#"{{"time_series_id":"s","timestamps":[{second}],"columns":{{"{column}":[1]}}}}"#);
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(payload.as_bytes()));
        fixture.producer.flush();
    };
    let columns = "select count(*) from time_series_metadata, jsonb_array_elements_text(value_columns::jsonb) as c
                   where id = 's' and c in ('first', 'later')";
    let worker = worker(&fixture, "first");
    publish_column(&fixture, "first", 0);
    until(60, "the first point", async || fixture.count_points().await == 1).await;
    assert_eq!(fixture.count(columns).await, 1);
    // It has the identity of the database.
    let copy = fixture.copy_database().await;
    publish_column(&fixture, "later", 1);
    until(60, "the later point", async || fixture.count_points().await == 2).await;
    assert_eq!(fixture.count(columns).await, 2);
    fixture.switch_database_to(&copy).await;
    publish_column(&fixture, "later", 2);
    until(60, "all points", async || fixture.count_points().await == 3).await;
    assert_eq!(fixture.count(columns).await, 2, "{}", worker.log());
    drop(worker);
    fixture.remove().await;
}

/// Gives each source another key, as if the database were another one with the same numbers.
async fn change_keys(fixture: &Fixture) {
    fixture.client.batch_execute("update ingest_source set key = gen_random_uuid()").await.unwrap();
}

/// A message set of points with one message that is not JSON, from `offset` on.
fn batch(source: &Arc<BatchSource>, offset: i64, decoder: &Decoder) -> Batch {
    let mut set = MessageSetBuilder::new(Arc::clone(source), 0, offset);
    let good = format!(r#"{{"time_series_id":"s","timestamps":[{offset}],"columns":{{"c":[1]}}}}"#);
    let definition = r#"{"type":"series-create","id":"d","name":"d"}"#;
    for (number, payload) in [good.as_str(), "no JSON", definition].into_iter().enumerate() {
        let offset = offset + number as i64;
        set.push(&RawMessage { offset, payload: Some(payload.as_bytes()), ..RawMessage::default() });
    }
    let mut batch = Batch::new(decoder.clone());
    batch.push(set.build(None));
    batch
}

/// All that is stored, as one text.
async fn stored(fixture: &Fixture) -> String {
    let sql = "select concat_ws('; ',
        (select json_agg(p order by source_id, partition)::text
         from (select source_id, partition, next_offset, ahead from ingest_progress) as p),
        (select json_agg(g)::text from ingest_gap as g),
        (select json_agg(l order by id)::text from ingest_dead_letter as l),
        (select json_agg(c)::text from ingest_dead_letter_count as c),
        (select json_agg(v)::text from ingest_point_version as v),
        (select json_agg(s)::text from (select series_id, source_id, \"offset\" from ingest_series order by 1) as s),
        (select count(*)::text from time_series_data_points))";
    fixture.client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_takes_a_source_takes_a_stale_key() {
    let Some(fixture) = Fixture::unmigrated("stale_keys", 1).await else { return };
    let replace = [("SERIES_INGEST__POINTS__ON_DUPLICATE", "replace")];
    fixture.migrate(&replace).await;
    let config = fixture.config(&replace);
    let database = Database::new(&config).unwrap();
    let decoder = config.decoder();
    let source = Arc::new(BatchSource {
        kind: Kind::Points,
        cluster_id: "c".into(),
        topic: fixture.points_topic.clone(),
        topic_id: "t".into(),
    });
    database.start(&source, &[(0, 0)]).await.unwrap();
    let first = batch(&source, 0, &decoder);
    database.write(&first, ClaimOrder::CopyFirst).await.unwrap();
    let before = stored(&fixture).await;

    let assert_refused = async |what: &str, class: Option<Class>| {
        assert_eq!(class, Some(Class::Progress), "{what}");
        assert_eq!(stored(&fixture).await, before, "{what} changes nothing");
        // What was cached is forgotten with the refusal, and asked for again.
        assert!(database.coverage(&source, &[0]).await.unwrap()[&0].covers(0, 3), "{what}");
    };
    let next = batch(&source, 3, &decoder);
    for order in [
        ClaimOrder::CopyFirst,
        ClaimOrder::ClaimFirst,
        ClaimOrder::CopyFirstFillingGaps,
        ClaimOrder::ClaimFirstFillingGaps,
    ] {
        change_keys(&fixture).await;
        let refused = database.write(&next, order).await.map(drop).map_err(|error| error.class());
        assert_refused(&format!("{order:?}"), refused.err()).await;
    }
    change_keys(&fixture).await;
    let refused = database.start(&source, &[(1, 7)]).await.map(drop).map_err(|error| error.class());
    assert_refused("a start", refused.err()).await;
    change_keys(&fixture).await;
    let refused = database.coverage(&source, &[0]).await.map(drop).map_err(|error| error.class());
    assert_refused("a survey of the journal", refused.err()).await;
    change_keys(&fixture).await;
    let refused = database.record_gap(&source, 0, (3, 9), "retention").await.map(drop).map_err(|error| error.class());
    assert_refused("a gap", refused.err()).await;

    // A letter that was read of one database, and may have the id of another letter in the next.
    let letters = database.letters(&LetterFilter::default(), i64::MIN, 10, |_| Kind::Points).await.unwrap();
    assert_eq!(letters.len(), 1);
    change_keys(&fixture).await;
    let good: &[u8] = br#"{"time_series_id":"s","timestamps":[9],"columns":{"c":[1]}}"#;
    let redrive = [Redrive { letter: &letters[0], payload: Some(good) }];
    let (mode, pauses) = (RedriveMode::Write, config.database.backoff());
    let redriven = database.redrive(&redrive, mode, &decoder, &mut HashSet::new(), &pauses).await.unwrap();
    assert_eq!(redriven.fates, [Fate::Elsewhere]);
    assert_eq!(database.purge_letters(&[letters[0].identity()]).await.unwrap(), 0);
    assert_eq!(stored(&fixture).await, before);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_connection_to_another_database_is_noticed() {
    let Some(mut fixture) = Fixture::new("noticed", 1).await else { return };
    let worker = worker(&fixture, "first");
    publish_round(&fixture, 0);
    until_applied(&fixture, "first", 1).await;
    let new = fixture.new_database().await;
    fixture.switch_database_to(&new).await;
    until(60, "the worker says so", async || worker.log().contains("this is another database than before")).await;
    until_applied(&fixture, "first", 1).await;
    assert_points(&fixture, 1, 1).await;
    fixture.remove().await;
}
