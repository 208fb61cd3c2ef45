//! What is published arrives, with the right values.

use crate::support::data::{Published, bits};
use crate::support::fixture::Fixture;
use crate::support::until;

const SEATTLE: &str = include_str!("../../examples/seattle-weather.csv");
const COLUMNS: [&str; 4] = ["precipitation", "temp_max", "temp_min", "wind"];

/// The file's days as point batches of 100 days, and all their points.
fn seattle() -> (Vec<String>, Published) {
    let mut published = Published::default();
    let days: Vec<Vec<&str>> = SEATTLE.lines().skip(1).map(|line| line.split(',').collect()).collect();
    assert_eq!(days.len(), 1461);
    let messages = days.chunks(100).map(|days| {
        let dates: Vec<String> = days.iter().map(|day| day[0].replace('/', "-")).collect();
        let columns: serde_json::Map<String, serde_json::Value> = (1..)
            .zip(COLUMNS)
            .map(|(at, column)| {
                let values: Vec<f64> = days.iter().map(|day| day[at].parse().unwrap()).collect();
                for (date, value) in dates.iter().zip(&values) {
                    let midnight: jiff::Timestamp = format!("{date}T00:00:00Z").parse().unwrap();
                    let row = ("seattle-weather".to_owned(), column.to_owned(), midnight.as_microsecond(), value.to_bits());
                    published.rows.push(row);
                }
                (column.to_owned(), values.into())
            })
            .collect();
        serde_json::json!({"type": "point-batch", "time_series_id": "seattle-weather", "timestamps": dates, "columns": columns})
            .to_string()
    });
    (messages.collect(), published)
}

#[tokio::test(flavor = "multi_thread")]
async fn four_years_of_seattles_weather_arrive() {
    let Some(fixture) = Fixture::unmigrated("seattle", 3).await else { return };
    let worker = fixture.worker(&[
        ("SERIES_INGEST__DATABASE__MIGRATE_ON_START", "true"),
        ("SERIES_INGEST__DATABASE__CHUNK_INTERVAL_S", "15724800"),
    ]);
    until(60, "the tables are there", async || {
        fixture.count("select count(*) from pg_class where relname = 'ingest_progress'").await == 1
    })
    .await;
    let definition = serde_json::json!({
        "type": "series-create", "id": "seattle-weather", "name": "Seattle weather", "description": "NOAA daily",
        "time_column": "date", "value_columns": COLUMNS,
    });
    fixture.producer.send(&fixture.series_topic, 0, "seattle-weather", Some(definition.to_string().as_bytes()));
    let (messages, published) = seattle();
    assert_eq!(published.rows.len(), 5844);
    for message in &messages {
        fixture.producer.send(&fixture.points_topic, 1, "seattle-weather", Some(message.as_bytes()));
    }
    fixture.producer.flush();
    fixture.until_applied(120).await;
    fixture.assert_exact(&published).await;
    let sql = "select name, description, time_column, value_columns, created_at <= updated_at from time_series_metadata
               where id = 'seattle-weather' and name <> id";
    until(30, "the series is defined", async || !fixture.client.query(sql, &[]).await.unwrap().is_empty()).await;
    let row = fixture.client.query_one(sql, &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "Seattle weather");
    assert_eq!(row.get::<_, &str>(1), "NOAA daily");
    assert_eq!(row.get::<_, &str>(2), "date");
    assert_eq!(row.get::<_, &str>(3), r#"["precipitation","temp_max","temp_min","wind"]"#);
    assert!(row.get::<_, bool>(4));
    assert_eq!(fixture.count("select count(*) from time_series_metadata").await, 1);
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_a_timestamp_is_stored_as_the_same_instant() {
    let Some(fixture) = Fixture::new("instants", 1).await else { return };
    let forms = [
        ("date", "s", r#""2012-01-01""#),
        ("naive", "s", r#""2012-01-01T00:00:00""#),
        ("offset", "s", r#""2012-01-01T05:30:00+05:30""#),
        ("zulu", "ms", r#""2012-01-01 00:00:00.000Z""#),
        ("seconds", "s", "1325376000"),
        ("fraction", "s", "1325376000.0"),
        ("milliseconds", "ms", "1325376000000"),
        ("microseconds", "us", "1325376000000000"),
        ("nanoseconds", "ns", "1325376000000000000"),
    ];
    for (name, unit, text) in forms {
        let message = format!(
            r#"{{"time_series_id":"{name}","timestamp_unit":"{unit}","timestamps":[{text}],"columns":{{"c":[1]}}}}"#
        );
        fixture.producer.send(&fixture.points_topic, 0, name, Some(message.as_bytes()));
    }
    fixture.producer.flush();
    let worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    let mut published = Published::default();
    let us = 1_325_376_000_000_000;
    published.rows =
        forms.iter().map(|(name, ..)| ((*name).to_owned(), "c".to_owned(), us, 1.0_f64.to_bits())).collect();
    fixture.assert_exact(&published).await;
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_are_not_finite_are_stored_as_what_they_are() {
    let Some(fixture) = Fixture::new("values", 1).await else { return };
    let message = br#"{"time_series_id":"s","timestamp_unit":"us","timestamps":[0,1,2,3,4,5,6,7,8,9],
        "columns":{"c":[null,NaN,"NaN",Infinity,"Infinity",-Infinity,"-Infinity",-0.0,5e-324,1.7976931348623157e308]}}"#;
    fixture.producer.send(&fixture.points_topic, 0, "s", Some(message));
    fixture.producer.flush();
    let worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    let infinity = Some(f64::INFINITY);
    let values = [
        None,
        None,
        None,
        infinity,
        infinity,
        Some(f64::NEG_INFINITY),
        Some(f64::NEG_INFINITY),
        Some(-0.0),
        Some(5e-324),
        Some(f64::MAX),
    ];
    let mut published = Published::default();
    published.rows =
        (0..).zip(values).map(|(time, value)| ("s".to_owned(), "c".to_owned(), time, bits(value))).collect();
    fixture.assert_exact(&published).await;
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_becomes_a_dead_letter_and_the_rest_goes_on() {
    let Some(fixture) = Fixture::new("dead", 2).await else { return };
    let mut published = Published::default();
    let bad: [(&[u8], &str); 5] = [
        (b"{\"time_series_id\":", "syntax"),
        (b"{\"time_series_id\":\"s\"}", "schema"),
        (b"{\"type\":\"delete\"}", "unknown_type"),
        (b"{\"time_series_id\":\"s\",\"timestamps\":[99999999999999],\"columns\":{\"a\":[1]}}", "time_window"),
        (b"{\"time_series_id\":\"\xff\"}", "encoding"),
    ];
    for (number, (payload, _)) in bad.iter().enumerate() {
        let good = published.batch("s", 10);
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(good.as_bytes()));
        fixture.producer.send(&fixture.points_topic, 0, &format!("key-{number}"), Some(payload));
        fixture.producer.send(&fixture.points_topic, 1, "s", None);
    }
    fixture.producer.flush();
    let worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    let rows = fixture
        .client
        .query(
            "select letter.\"offset\", letter.reason, letter.key, letter.payload, letter.payload_bytes, letter.detail,
                    letter.message_time is not null, source.topic
             from ingest_dead_letter as letter join ingest_source as source on source.id = letter.source_id
             order by letter.\"offset\"",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(rows.len(), bad.len());
    for ((number, row), (payload, reason)) in rows.iter().enumerate().zip(bad) {
        assert_eq!(row.get::<_, i64>(0), 2 * number as i64 + 1);
        assert_eq!(row.get::<_, &str>(1), reason);
        assert_eq!(row.get::<_, &[u8]>(2), format!("key-{number}").as_bytes());
        assert_eq!(row.get::<_, &[u8]>(3), payload);
        assert_eq!(row.get::<_, i64>(4), payload.len() as i64);
        assert!(row.get::<_, &str>(5).contains("byte"), "a producer is told where");
        assert!(row.get::<_, bool>(6));
        assert_eq!(row.get::<_, &str>(7), fixture.points_topic);
    }
    let mut expected = published.rows.clone();
    expected.sort_unstable();
    let mut stored = fixture.stored().await;
    stored.sort_unstable();
    assert_eq!(stored, expected);
    worker.until_metric("series_ingest_dead_letters_total{input=\"points\",reason=\"time_window\"}", 1.0).await;
    until(10, "lag 0", async || {
        let lag = |partition| {
            format!(
                "series_ingest_kafka_lag_messages{{input=\"points\",topic=\"{}\",partition=\"{partition}\"}}",
                fixture.points_topic
            )
        };
        worker.metric(&lag(0)) == Some(0.0) && worker.metric(&lag(1)) == Some(0.0)
    })
    .await;
    drop(worker);
    fixture.remove().await;
}
