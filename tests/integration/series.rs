//! The rows of `time_series_metadata`.

use series_ingest::database::schema;
use series_ingest::database::schema::profile::Profile;

use crate::support::fixture::Fixture;
use crate::support::until;

async fn series(fixture: &Fixture, id: &str) -> Option<(Option<String>, Option<String>, String)> {
    let sql = "select name, description, value_columns from time_series_metadata where id = $1";
    let row = fixture.client.query_opt(sql, &[&id]).await.unwrap()?;
    Some((row.get(0), row.get(1), row.get(2)))
}

fn points(id: &str, column: &str) -> String {
    format!(r#"{{"time_series_id":"{id}","timestamps":[0],"columns":{{"{column}":[1]}}}}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn points_make_a_placeholder_that_a_definition_completes_later() {
    let Some(fixture) = Fixture::new("placeholder", 1).await else { return };
    let worker = fixture.worker(&[]);
    fixture.producer.send(&fixture.points_topic, 0, "s", Some(points("s", "b").as_bytes()));
    fixture.producer.flush();
    until(60, "a placeholder", async || series(&fixture, "s").await == Some((None, None, r#"["b"]"#.into()))).await;
    let created = fixture.count("select extract(epoch from created_at)::bigint from time_series_metadata").await;
    let definition = br#"{"id":"s","name":"S","description":"d","value_columns":["a"]}"#;
    fixture.producer.send(&fixture.series_topic, 0, "s", Some(definition));
    fixture.producer.flush();
    let complete = Some((Some("S".to_owned()), Some("d".to_owned()), r#"["a","b"]"#.to_owned()));
    until(30, "the definition", async || series(&fixture, "s").await == complete).await;
    fixture.producer.send(&fixture.points_topic, 0, "s", Some(points("s", "c").as_bytes()));
    fixture.producer.flush();
    until(30, "the new column", async || series(&fixture, "s").await.unwrap().2 == r#"["a","b","c"]"#).await;
    assert_eq!(fixture.count("select extract(epoch from created_at)::bigint from time_series_metadata").await, created);
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_never_puts_an_older_definition_over_a_newer_one() {
    let Some(fixture) = Fixture::new("older", 1).await else { return };
    for name in ["first", "second", "third"] {
        let definition = format!(r#"{{"id":"s","name":"{name}"}}"#);
        fixture.producer.send(&fixture.series_topic, 0, "s", Some(definition.as_bytes()));
        fixture.producer.flush();
    }
    // One message a transaction, so that the first two are on their own when they come again.
    let one_by_one = [("SERIES_INGEST__BATCH__LINGER_MS", "0"), ("SERIES_INGEST__DATABASE__WRITERS", "1")];
    let mut worker = fixture.worker(&one_by_one);
    until(60, "the newest", async || series(&fixture, "s").await.is_some_and(|row| row.0.as_deref() == Some("third")))
        .await;
    assert_eq!(worker.terminate(10), Some(0));
    fixture.client.batch_execute("update ingest_progress set next_offset = 0, ahead = '{}'").await.unwrap();
    // The replay stops before the newest: what is stored must be it nevertheless.
    fixture.broker.delete(&[&fixture.points_topic]).await;
    let mut worker = fixture.worker(&one_by_one);
    let done = "select count(*) from ingest_progress where next_offset = 3";
    until(60, "all read again", async || fixture.count(done).await == 1).await;
    assert_eq!(series(&fixture, "s").await.unwrap().0.as_deref(), Some("third"));
    assert_eq!(worker.terminate(10), Some(0));
    // The same function again, with an older and a newer message.
    for (name, time_ms, stored) in [("older", 1_i64, "third"), ("newer", 1 << 45, "newer")] {
        let sql = "select ingest_define_series(array['s'], array[$1], array[null], array[null], array['[]'], array[$2::bigint],
                                               array(select key from ingest_source where topic like '%.series'), array[0], array[7::bigint])";
        fixture.client.execute(sql, &[&name, &time_ms]).await.unwrap();
        assert_eq!(series(&fixture, "s").await.unwrap().0.as_deref(), Some(stored));
    }
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn points_of_unknown_series_are_dead_letters_where_the_configuration_asks_for_it() {
    let Some(fixture) = Fixture::new("unknown", 1).await else { return };
    let worker = fixture.worker(&[("SERIES_INGEST__POINTS__UNKNOWN_SERIES", "dead-letter")]);
    fixture.producer.send(&fixture.series_topic, 0, "known", Some(br#"{"id":"known"}"#));
    fixture.producer.flush();
    until(60, "the series", async || series(&fixture, "known").await.is_some()).await;
    for id in ["known", "unknown", "known"] {
        fixture.producer.send(&fixture.points_topic, 0, id, Some(points(id, "c").as_bytes()));
    }
    fixture.producer.flush();
    fixture.until_applied(60).await;
    assert_eq!(fixture.count_points().await, 2);
    assert_eq!(fixture.count("select \"offset\" from ingest_dead_letter where reason = 'unknown_series'").await, 1);
    assert_eq!(fixture.count("select count(*) from time_series_metadata").await, 1);
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn points_of_a_series_deleted_meanwhile_make_it_again() {
    let Some(fixture) = Fixture::new("deleted", 1).await else { return };
    let worker = fixture.worker(&[]);
    fixture.producer.send(&fixture.points_topic, 0, "s", Some(points("s", "c").as_bytes()));
    fixture.producer.flush();
    fixture.until_applied(60).await;
    fixture
        .client
        .batch_execute(
            "delete from time_series_data_points; delete from time_series_metadata; delete from ingest_series",
        )
        .await
        .unwrap();
    fixture.producer.send(&fixture.points_topic, 0, "s", Some(points("s", "c").as_bytes()));
    fixture.producer.flush();
    fixture.until_applied(60).await;
    assert_eq!(fixture.count_points().await, 1);
    assert_eq!(fixture.count("select count(*) from ingest_dead_letter").await, 0);
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_that_differ_are_counted() {
    let Some(fixture) = Fixture::new("conflicts", 1).await else { return };
    let worker = fixture.worker(&[]);
    let counted = || worker.metric("series_ingest_series_conflicts_total");
    // A placeholder is not a definition, and the same one again does not differ.
    fixture.producer.send(&fixture.points_topic, 0, "s", Some(points("s", "c").as_bytes()));
    fixture.producer.flush();
    fixture.until_applied(60).await;
    let done = "select next_offset from ingest_progress as p join ingest_source as s on s.id = p.source_id
                where s.topic like '%.series'";
    let mut offset = 0;
    for (definitions, conflicts) in [
        (
            &[r#"{"id":"s","value_columns":["a"]}"#, r#"{"id":"s","time_column":"timestamp","value_columns":["a"]}"#][..],
            0.0,
        ),
        (&[r#"{"id":"s","value_columns":["b"]}"#], 1.0),
        (&[r#"{"id":"s","name":null,"value_columns":["b"]}"#, r#"{"id":"t"}"#], 1.0),
        (&[r#"{"id":"t","description":"d"}"#], 2.0),
    ] {
        for definition in definitions {
            fixture.producer.send(&fixture.series_topic, 0, "s", Some(definition.as_bytes()));
            offset += 1;
        }
        fixture.producer.flush();
        until(60, "they are applied", async || {
            fixture.client.query_opt(done, &[]).await.unwrap().is_some_and(|row| row.get::<_, i64>(0) == offset)
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
        let found: i64 = fixture.client.query_one(sql, &[&names, &time_ms]).await.unwrap().get(0);
        assert_eq!(found, conflicts, "{names:?}");
    }
    fixture.remove().await;
}

/// Where a definition without a name, a time column and columns leaves a row that the analyzer's reader can read.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_definition_omits_can_be_read_nevertheless() {
    let Some(fixture) = Fixture::new("nameless", 1).await else { return };
    let worker = fixture.worker(&[]);
    fixture.producer.send(&fixture.series_topic, 0, "s", Some(br#"{"id":"s"}"#));
    fixture.producer.send(
        &fixture.series_topic,
        0,
        "t",
        Some(br#"{"id":"t","name":null,"time_column":null,"value_columns":null}"#),
    );
    fixture.producer.flush();
    let sql = "select count(*) from time_series_metadata
               where name is null and description is null and time_column = 'timestamp' and value_columns = '[]'";
    until(60, "both", async || fixture.count(sql).await == 2).await;
    drop(worker);
    fixture.remove().await;
}

/// Another program inserts series itself, changes the list of columns, and writes what is not a list.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_other_programs_keep_what_they_say_and_get_the_columns_of_points() {
    let Some(fixture) = Fixture::new("others", 1).await else { return };
    let insert = "insert into time_series_metadata (id, name, time_column, value_columns) values
                      ('s', 'Own', 'date', '[\"z\", \"y\"]'), ('bad', 'Bad', 'date', 'a, b'), ('object', null, 'date', '{\"a\": 1}')";
    fixture.client.batch_execute(insert).await.unwrap();
    let worker = fixture.worker(&[("SERIES_INGEST__BATCH__LINGER_MS", "1")]);
    let send = async |series: &str, column: &str| {
        fixture.producer.send(&fixture.points_topic, 0, series, Some(points(series, column).as_bytes()));
        fixture.producer.flush();
        fixture.until_applied(60).await;
    };
    send("s", "y").await;
    let own = Some("Own".to_owned());
    let expected = Some((own.clone(), None, r#"["z", "y"]"#.to_owned()));
    assert_eq!(series(&fixture, "s").await, expected, "what it has written itself stays as it is written");
    send("s", "b").await;
    send("s", "a").await;
    assert_eq!(series(&fixture, "s").await, Some((own.clone(), None, r#"["z","y","b","a"]"#.to_owned())));
    send("bad", "c").await;
    send("object", "c").await;
    assert_eq!(series(&fixture, "bad").await, Some((Some("Bad".to_owned()), None, r#"["c"]"#.to_owned())));
    assert_eq!(series(&fixture, "object").await, Some((None, None, r#"["c"]"#.to_owned())));

    // What it deletes is not put back, until points of it come again.
    let update = "update time_series_metadata set name = 'Other', value_columns = '[\"q\"]' where id = 's'";
    fixture.client.batch_execute(update).await.unwrap();
    send("s", "b").await;
    let other = Some("Other".to_owned());
    assert_eq!(series(&fixture, "s").await, Some((other.clone(), None, r#"["q","b"]"#.to_owned())));
    fixture
        .client
        .batch_execute("update time_series_metadata set value_columns = 'no list' where id = 's'")
        .await
        .unwrap();
    send("s", "b").await;
    assert_eq!(series(&fixture, "s").await, Some((other, None, r#"["b"]"#.to_owned())));

    // A definition is newer than the row; the columns that its points may have stay.
    fixture
        .client
        .batch_execute("update time_series_metadata set value_columns = '[\"q\"]' where id = 'bad'")
        .await
        .unwrap();
    fixture.producer.send(&fixture.series_topic, 0, "bad", Some(br#"{"id":"bad","value_columns":["d"]}"#));
    fixture.producer.flush();
    let expected = Some((None, None, r#"["d","q"]"#.to_owned()));
    until(60, "the definition", async || series(&fixture, "bad").await == expected).await;
    assert_eq!(fixture.count("select count(*) from ingest_dead_letter").await, 0);
    drop(worker);
    fixture.remove().await;
}

/// A series that another program deletes, one by one or all at once, while a worker knows it.
async fn deleted_by_another_program(test: &str, profile: Profile) {
    let Some(fixture) = Fixture::with_profile(test, 1, profile).await else { return };
    let on_duplicate = ("SERIES_INGEST__POINTS__ON_DUPLICATE", "replace");
    schema::migrate(&fixture.config(&[on_duplicate])).await.unwrap();
    let worker = fixture.worker(&[on_duplicate]);
    let send = async |payload: &str, time_ms: i64| {
        fixture.producer.send_at(&fixture.points_topic, 0, "s", Some(payload.as_bytes()), time_ms);
        fixture.producer.flush();
        fixture.until_applied(60).await;
    };
    // Retention deletes messages of older times.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let later = i64::try_from(now.as_millis()).unwrap() - 60_000;
    for delete in [
        "delete from time_series_metadata where id = 's'",
        "delete from time_series_metadata",
        if profile == Profile::Standard {
            "truncate time_series_metadata cascade"
        } else {
            "truncate time_series_metadata"
        },
        "truncate time_series_metadata, time_series_data_points",
        // As the analyzer does in one transaction.
        "begin; delete from time_series_metadata; insert into time_series_metadata (id, time_column, value_columns)
             values ('s', 'timestamp', '[]'); commit",
    ] {
        send(r#"{"type":"series-create","id":"s","name":"S","value_columns":["a"]}"#, later).await;
        send(&points("s", "b"), later).await;
        assert_eq!(series(&fixture, "s").await.unwrap().2, r#"["a","b"]"#, "{delete}");
        assert!(fixture.count_points().await > 0, "{delete}");
        fixture.client.batch_execute(delete).await.unwrap();
        assert_eq!(fixture.count_points().await, 0, "{delete}");
        // Of an earlier time than what was there: nothing of that is left that would decide about it.
        send(&points("s", "b"), later - 1000).await;
        assert_eq!(fixture.count_points().await, 1, "{delete}");
        assert_eq!(series(&fixture, "s").await, Some((None, None, r#"["b"]"#.to_owned())), "{delete}");
        send(r#"{"type":"series-create","id":"s","name":"Earlier","value_columns":[]}"#, later - 1000).await;
        let earlier = Some((Some("Earlier".to_owned()), None, r#"["b"]"#.to_owned()));
        assert_eq!(series(&fixture, "s").await, earlier, "{delete}");
        fixture.client.batch_execute("delete from time_series_metadata").await.unwrap();
    }
    assert_eq!(fixture.count("select count(*) from ingest_series").await, 0);
    assert_eq!(fixture.count("select count(*) from ingest_point_version").await, 0);
    assert_eq!(fixture.count("select count(*) from ingest_dead_letter").await, 0);
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_deleted_series_is_left() {
    deleted_by_another_program("deleted_others", Profile::Standard).await;
    deleted_by_another_program("deleted_others_fast", Profile::Throughput).await;
}

/// What no trigger can see to on the profile throughput is refused instead.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_foreign_key_what_would_leave_points_without_a_series_is_refused() {
    let Some(fixture) = Fixture::with_profile("no_key", 1, Profile::Throughput).await else { return };
    let fill = "select ingest_ensure_series('{s,t}', '{a,a}');
                insert into time_series_data_points (time_series_id, \"timestamp\", column_name) values ('s', now(), 'a')";
    fixture.client.batch_execute(fill).await.unwrap();
    for (sql, code) in [
        ("update time_series_metadata set id = 'u' where id = 's'", "23503"),
        ("begin isolation level repeatable read; delete from time_series_metadata where id = 's'; commit", "0A000"),
        ("begin isolation level serializable; delete from time_series_metadata where id = 's'; commit", "0A000"),
    ] {
        let error = fixture.client.batch_execute(sql).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), code, "{sql}");
        fixture.client.batch_execute("rollback").await.unwrap();
    }
    fixture.client.batch_execute("update time_series_metadata set id = 'u' where id = 't'").await.unwrap();
    fixture.client.batch_execute("delete from time_series_metadata where id = 's'").await.unwrap();
    assert_eq!(fixture.count_points().await, 0);
    fixture.remove().await;
}
