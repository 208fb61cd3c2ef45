//! The rows of `time_series_metadata`.

use crate::support::bed::Bed;
use crate::support::until;

async fn series(bed: &Bed, id: &str) -> Option<(String, Option<String>, String)> {
    let sql = "select name, description, value_columns from time_series_metadata where id = $1";
    let row = bed.client.query_opt(sql, &[&id]).await.unwrap()?;
    Some((row.get(0), row.get(1), row.get(2)))
}

fn points(id: &str, column: &str) -> String {
    format!(r#"{{"time_series_id":"{id}","timestamps":[0],"columns":{{"{column}":[1]}}}}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn points_make_a_placeholder_that_a_definition_completes_later() {
    let Some(bed) = Bed::new("placeholder", 1).await else { return };
    let worker = bed.worker(&[]);
    bed.producer.send(&bed.points_topic, 0, "s", Some(points("s", "b").as_bytes()));
    bed.producer.flush();
    until(60, "a placeholder", async || series(&bed, "s").await == Some(("s".into(), None, r#"["b"]"#.into()))).await;
    let created = bed.count("select extract(epoch from created_at)::bigint from time_series_metadata").await;
    let definition = br#"{"id":"s","name":"S","description":"d","value_columns":["a"]}"#;
    bed.producer.send(&bed.series_topic, 0, "s", Some(definition));
    bed.producer.flush();
    let complete = Some(("S".to_owned(), Some("d".to_owned()), r#"["a","b"]"#.to_owned()));
    until(30, "the definition", async || series(&bed, "s").await == complete).await;
    bed.producer.send(&bed.points_topic, 0, "s", Some(points("s", "c").as_bytes()));
    bed.producer.flush();
    until(30, "the new column", async || series(&bed, "s").await.unwrap().2 == r#"["a","b","c"]"#).await;
    assert_eq!(bed.count("select extract(epoch from created_at)::bigint from time_series_metadata").await, created);
    drop(worker);
    bed.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_never_puts_an_older_definition_over_a_newer_one() {
    let Some(bed) = Bed::new("older", 1).await else { return };
    for name in ["first", "second", "third"] {
        let definition = format!(r#"{{"id":"s","name":"{name}"}}"#);
        bed.producer.send(&bed.series_topic, 0, "s", Some(definition.as_bytes()));
        bed.producer.flush();
    }
    // One message a transaction, so that the first two are on their own when they come again.
    let one_by_one = [("SERIES_INGEST__BATCH__LINGER_MS", "0"), ("SERIES_INGEST__DATABASE__WRITERS", "1")];
    let mut worker = bed.worker(&one_by_one);
    until(60, "the newest", async || series(&bed, "s").await.is_some_and(|row| row.0 == "third")).await;
    assert_eq!(worker.terminate(10), Some(0));
    bed.client.batch_execute("update ingest_progress set next_offset = 0, ahead = '{}'").await.unwrap();
    // The replay stops before the newest: what is stored must be it all the same.
    bed.broker.delete(&[&bed.points_topic]).await;
    let mut worker = bed.worker(&one_by_one);
    let done = "select count(*) from ingest_progress where next_offset = 3";
    until(60, "all read again", async || bed.count(done).await == 1).await;
    assert_eq!(series(&bed, "s").await.unwrap().0, "third");
    assert_eq!(worker.terminate(10), Some(0));
    // The same function again, with an older and a newer message.
    for (name, time_ms, stored) in [("older", 1_i64, "third"), ("newer", 1 << 45, "newer")] {
        let sql = "select ingest_define_series(array['s'], array[$1], array[null], array[null], array['[]'], array[$2::bigint],
                                               array(select key from ingest_source where topic like '%.series'), array[0], array[7::bigint])";
        bed.client.execute(sql, &[&name, &time_ms]).await.unwrap();
        assert_eq!(series(&bed, "s").await.unwrap().0, stored);
    }
    bed.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn points_of_unknown_series_are_dead_letters_where_the_configuration_asks_for_it() {
    let Some(bed) = Bed::new("unknown", 1).await else { return };
    let worker = bed.worker(&[("SERIES_INGEST__POINTS__UNKNOWN_SERIES", "dead-letter")]);
    bed.producer.send(&bed.series_topic, 0, "known", Some(br#"{"id":"known"}"#));
    bed.producer.flush();
    until(60, "the series", async || series(&bed, "known").await.is_some()).await;
    for id in ["known", "unknown", "known"] {
        bed.producer.send(&bed.points_topic, 0, id, Some(points(id, "c").as_bytes()));
    }
    bed.producer.flush();
    bed.until_applied(60).await;
    assert_eq!(bed.count_points().await, 2);
    assert_eq!(bed.count("select \"offset\" from ingest_dead_letter where reason = 'unknown_series'").await, 1);
    assert_eq!(bed.count("select count(*) from time_series_metadata").await, 1);
    drop(worker);
    bed.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn points_of_a_series_deleted_meanwhile_make_it_again() {
    let Some(bed) = Bed::new("deleted", 1).await else { return };
    let worker = bed.worker(&[]);
    bed.producer.send(&bed.points_topic, 0, "s", Some(points("s", "c").as_bytes()));
    bed.producer.flush();
    bed.until_applied(60).await;
    bed.client
        .batch_execute(
            "delete from time_series_data_points; delete from time_series_metadata; delete from ingest_series",
        )
        .await
        .unwrap();
    bed.producer.send(&bed.points_topic, 0, "s", Some(points("s", "c").as_bytes()));
    bed.producer.flush();
    bed.until_applied(60).await;
    assert_eq!(bed.count_points().await, 1);
    assert_eq!(bed.count("select count(*) from ingest_dead_letter").await, 0);
    drop(worker);
    bed.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_that_differ_are_counted() {
    let Some(bed) = Bed::new("conflicts", 1).await else { return };
    let worker = bed.worker(&[]);
    let counted = || worker.metric("series_ingest_series_conflicts_total");
    // A placeholder is no definition, and the same one again does not differ.
    bed.producer.send(&bed.points_topic, 0, "s", Some(points("s", "c").as_bytes()));
    bed.producer.flush();
    bed.until_applied(60).await;
    let done = "select next_offset from ingest_progress as p join ingest_source as s on s.id = p.source_id
                where s.topic like '%.series'";
    let mut offset = 0;
    for (definitions, conflicts) in [
        (&[r#"{"id":"s","value_columns":["a"]}"#, r#"{"id":"s","name":"s","value_columns":["a"]}"#][..], 0.0),
        (&[r#"{"id":"s","value_columns":["b"]}"#], 1.0),
        (&[r#"{"id":"s","value_columns":["b"]}"#, r#"{"id":"t"}"#], 1.0),
        (&[r#"{"id":"t","description":"d"}"#], 2.0),
    ] {
        for definition in definitions {
            bed.producer.send(&bed.series_topic, 0, "s", Some(definition.as_bytes()));
            offset += 1;
        }
        bed.producer.flush();
        until(60, "they are applied", async || {
            bed.client.query_opt(done, &[]).await.unwrap().is_some_and(|row| row.get::<_, i64>(0) == offset)
        })
        .await;
        assert_eq!(counted(), Some(conflicts), "{definitions:?}");
    }
    drop(worker);
    // Two in one statement, and an older one than what is stored.
    for (names, time_ms, conflicts) in [(["new", "new"], 1_i64 << 45, 2), (["older", "new"], 1, 1)] {
        let sql = "select ingest_define_series(array['s', 's'], $1, array[null, null], array[null, null],
                       array['[\"b\"]', '[\"b\"]'], array[$2::bigint, $2],
                       (select array[key, key] from ingest_source where topic like '%.series'), array[0, 0], array[7::bigint, 8])";
        let names = names.map(str::to_owned).to_vec();
        let found: i64 = bed.client.query_one(sql, &[&names, &time_ms]).await.unwrap().get(0);
        assert_eq!(found, conflicts, "{names:?}");
    }
    bed.remove().await;
}
