//! The cases of `tests/corpus/` through the whole program, and what the encoder makes, read back from the server.

#[path = "../corpus/cases.rs"]
mod cases;

use std::collections::BTreeSet;
use std::pin::pin;

use bytes::{Bytes, BytesMut};
use futures_util::SinkExt as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use series_ingest::config::Config;
use series_ingest::database::write::copy::CopyEncoder;
use series_ingest::message::Points;

use crate::support::data::{Difference, Published, bits};
use crate::support::fixture::Fixture;
use crate::support::worker::{run, text};
use crate::support::{seed, until};
use cases::{Case, Outcome, Topic};

/// Topic, offset, reason, detail, payload.
type Letter = (String, i64, String, String, Vec<u8>);

#[tokio::test(flavor = "multi_thread")]
async fn every_case_of_the_corpus_goes_through_the_program() {
    let Some(fixture) = Fixture::new("corpus", 1).await else { return };
    let mut published = Published::default();
    let mut letters: Vec<Letter> = Vec::new();
    let mut series = Vec::new();
    let mut next = [0_i64; 2];
    let (refused, cases): (Vec<Case>, Vec<Case>) =
        cases::all().into_iter().partition(|case| matches!(case.outcome, Outcome::Refused { .. }));
    for case in &cases {
        let (topic, next) = match case.topic {
            Topic::Series => (&fixture.series_topic, &mut next[0]),
            Topic::Points => (&fixture.points_topic, &mut next[1]),
        };
        fixture.producer.send(topic, 0, &case.name, case.payload.as_deref());
        match case.outcome.clone() {
            Outcome::PointBatch { points } => {
                let value = |value: f64| bits((!value.is_nan()).then_some(value));
                published.rows.extend(points.into_iter().map(|(s, c, time, v)| (s, c, time, value(v))));
            }
            Outcome::SeriesCreate { id, name, description, time_column, value_columns, labels } => {
                series.push((id, name, description, time_column, value_columns, labels));
            }
            Outcome::DeadLetter { reason, detail } => {
                let payload = case.payload.clone().unwrap();
                letters.push((topic.clone(), *next, reason, detail, payload));
            }
            Outcome::Tombstone | Outcome::Refused { .. } => {}
        }
        *next += 1;
    }
    fixture.producer.flush();
    let rules = Config::load(Some(&cases::config_file()), []).unwrap().message;
    let worker = fixture.worker(&[
        ("SERIES_INGEST__MESSAGE__MAX_BYTES", &rules.max_bytes.to_string()),
        ("SERIES_INGEST__MESSAGE__MAX_POINTS", &rules.max_points.to_string()),
        ("SERIES_INGEST__MESSAGE__MAX_NAME_BYTES", &rules.max_name_bytes.to_string()),
        ("SERIES_INGEST__MESSAGE__MIN_TIMESTAMP", &rules.min_timestamp.to_string()),
        ("SERIES_INGEST__MESSAGE__MAX_TIMESTAMP", &rules.max_timestamp.to_string()),
    ]);
    for (input, topic) in [("series", &fixture.series_topic), ("points", &fixture.points_topic)] {
        let lag = format!("series_ingest_kafka_lag_messages{{input=\"{input}\",topic=\"{topic}\",partition=\"0\"}}");
        let applied = async || {
            let sql = "select next_offset from ingest_progress as p join ingest_source as s on s.id = p.source_id
                       where s.topic = $1";
            let row = fixture.client.query_opt(sql, &[topic]).await.unwrap();
            row.is_some_and(|row| row.get::<_, i64>(0) == fixture.broker.end(topic, 0))
        };
        until(60, "all is applied, and lag 0", async || applied().await && worker.metric(&lag) == Some(0.0)).await;
    }
    assert_eq!(fixture.difference(&published).await, Difference::default());

    let sql = "select source.topic, letter.\"offset\", letter.reason, letter.detail, letter.payload
               from ingest_dead_letter as letter join ingest_source as source on source.id = letter.source_id";
    let rows = fixture.client.query(sql, &[]).await.unwrap();
    let mut stored: Vec<Letter> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4))).collect();
    stored.sort();
    letters.sort();
    assert_eq!(stored.len(), letters.len());
    for (stored, expected) in stored.iter().zip(&letters) {
        assert_eq!(stored, expected);
    }

    for (id, name, description, time_column, value_columns, labels) in &series {
        let sql = "select name, description, time_column, value_columns, labels is not distinct from nullif($2::text, '{}')::jsonb
                   from time_series_metadata where id = $1";
        let row = fixture.client.query_one(sql, &[id, labels]).await.unwrap_or_else(|error| panic!("{id}: {error}"));
        assert_eq!(&row.get::<_, Option<String>>(0), name);
        assert_eq!(&row.get::<_, Option<String>>(1), description);
        assert_eq!(row.get::<_, &str>(2), time_column.as_deref().unwrap_or("timestamp"));
        let stored: Vec<String> = serde_json::from_str(row.get(3)).unwrap();
        assert_eq!(&stored, value_columns, "{id}");
        assert!(row.get::<_, bool>(4), "{id}: its labels are {labels:?}");
    }
    assert_eq!(fixture.count("select count(*) from ingest_gap").await, 0, "no gaps");
    let mut ids: BTreeSet<String> = series.iter().map(|(id, ..)| id.clone()).collect();
    ids.extend(published.rows.iter().map(|row| row.0.clone()));
    let others = fixture.client.query("select id from time_series_metadata", &[]).await.unwrap();
    let others: Vec<String> = others.iter().map(|row| row.get(0)).filter(|id| !ids.contains(id)).collect();
    // Good messages without a point name a series, too.
    assert!(others.iter().all(|id| id == "s"), "bad messages name no series: {others:?}");
    println!("{} messages: {} points, {} dead letters", cases.len(), published.rows.len(), letters.len());
    drop(worker);
    let first = fixture.broker.end(&fixture.points_topic, 0);
    assert_refused(&fixture, &refused, first).await;
    assert_eq!(fixture.difference(&published).await, Difference::default());
    // When it is fixed, they are written.
    fixture.client.batch_execute("alter table time_series_data_points drop constraint corpus").await.unwrap();
    let those = ["--topic", fixture.points_topic.as_str(), "--from-offset", &first.to_string()];
    let redriven = run(&fixture.environment(), &[&["dead-letter", "redrive"], &those[..]].concat());
    assert!(redriven.status.success(), "{}", text(&redriven));
    for case in refused {
        let Outcome::Refused { points, .. } = case.outcome else { unreachable!("no other case is here") };
        published.rows.extend(points.into_iter().map(|(s, c, time, value)| (s, c, time, bits(Some(value)))));
    }
    assert_eq!(fixture.difference(&published).await, Difference::default());
    fixture.remove().await;
}

/// That the cases which only the database refuses are dead letters of a worker and a table that are set up for it.
async fn assert_refused(fixture: &Fixture, cases: &[Case], first: i64) {
    let add = "alter table time_series_data_points add constraint corpus check (value <> -777.25)";
    fixture.client.batch_execute(add).await.unwrap();
    for case in cases {
        fixture.producer.send(&fixture.points_topic, 0, &case.name, case.payload.as_deref());
    }
    fixture.producer.flush();
    let worker = fixture.worker(&[("SERIES_INGEST__POINTS__UNKNOWN_SERIES", "dead-letter")]);
    fixture.until_applied(60).await;
    let sql = "select letter.reason, letter.detail, letter.payload
               from ingest_dead_letter as letter join ingest_source as source on source.id = letter.source_id
               where source.topic = $1 and letter.\"offset\" >= $2 order by letter.\"offset\"";
    let letters = fixture.client.query(sql, &[&fixture.points_topic, &first]).await.unwrap();
    assert_eq!(letters.len(), cases.len());
    for (letter, case) in letters.iter().zip(cases) {
        let Outcome::Refused { reason, detail, .. } = &case.outcome else { unreachable!("no other case is here") };
        assert_eq!((letter.get(0), letter.get(2)), (reason.as_str(), case.payload.as_deref()), "{}", case.name);
        let found: &str = letter.get(1);
        assert!(found.starts_with(detail), "{}: {found}", case.name);
    }
    for reason in ["unknown_series", "rejected_by_database"] {
        assert!(letters.iter().any(|letter| letter.get::<_, &str>(0) == reason), "a case of {reason}");
    }
    drop(worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_from_outside_cannot_forge_log_lines_or_reach_a_terminal() {
    let Some(fixture) = Fixture::new("log", 1).await else { return };
    let column = "\\u001b[31mred\\u001b[0m\\r\\nINFO all is well\\u0007\\u009b2J\u{202e}";
    let forging = format!(r#"{{"time_series_id":"s","timestamps":[0],"columns":{{"{column}":[1,2]}}}}"#);
    let long = format!(r#"{{"time_series_id":"s","timestamps":[0],"columns":{{"{}":[1e999]}}}}"#, "x".repeat(1000));
    for format in ["human", "json"] {
        // Each for another reason: of one reason only some are logged.
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(forging.as_bytes()));
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(long.as_bytes()));
        fixture.producer.flush();
        let mut worker = fixture.worker(&[("SERIES_INGEST__LOG__FORMAT", format)]);
        until(60, "both are logged", async || worker.log().matches("a message became a dead letter").count() == 2)
            .await;
        fixture.until_applied(60).await;
        assert_eq!(worker.terminate(20), Some(0));
        let log = worker.log();
        let misleading = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        assert!(!log.contains(misleading), "{format}: {log:?}");
        assert!(!log.lines().any(|line| line.starts_with("INFO all is well")), "{format}: {log}");
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("a message became a dead letter")).collect();
        let escape = if format == "json" { r"\\u{1b}[31mred" } else { r"\u{1b}[31mred" };
        assert!(lines.iter().any(|line| line.contains(escape)), "{format}: {lines:?}");
        assert!(lines.iter().any(|line| line.contains("xxx…")), "{format}: {lines:?}");
        assert!(lines.iter().all(|line| line.len() < 1000), "{format}: {lines:?}");
    }
    fixture.remove().await;
}

/// Text that a name may be: all of Unicode but U+0000.
fn name(rng: &mut StdRng) -> String {
    let length = rng.random_range(1..20);
    let character = |rng: &mut StdRng| match rng.random_range(0..4) {
        0 => rng.random_range('\u{1}'..='\u{7f}'),
        1 => rng.random_range('\u{80}'..='\u{7ff}'),
        2 => ['\\', '.', '\n', '\t', '\'', '"', ',', 'N'][rng.random_range(0..8)],
        _ => rng.random_range('\u{800}'..=char::MAX),
    };
    (0..length).map(|_| character(rng)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_encoded_the_server_reads_back_equal() {
    let Some(fixture) = Fixture::new("encoded", 1).await else { return };
    let mut rng = StdRng::seed_from_u64(seed("what_is_encoded_the_server_reads_back_equal"));
    let create = "create temp table copied as
                  select time_series_id, \"timestamp\", column_name, value from time_series_data_points;
                  alter table copied add column number bigint generated always as identity";
    fixture.client.batch_execute(create).await.unwrap();
    for _ in 0..20 {
        let mut points = Points::default();
        let keys: Vec<_> = (0..rng.random_range(1..20)).map(|_| (name(&mut rng), name(&mut rng))).collect();
        for _ in 0..rng.random_range(0..2000) {
            let (series, column) = &keys[rng.random_range(0..keys.len())];
            let series = points.series(series);
            let key = points.key(series, column);
            // The years 1 to 9999, and any bits as a value: NaN is NULL.
            let time = rng.random_range(-62_135_596_800_000_000..253_402_300_800_000_000);
            let value = match rng.random_range(0..8) {
                0 => f64::NAN,
                1 => f64::NEG_INFINITY,
                2 => -0.0,
                3 => f64::from_bits(rng.random_range(0..1 << 52)),
                _ => f64::from_bits(rng.random()),
            };
            points.push(key, time, value);
        }
        let order = points.order();
        let expected: Vec<_> = order
            .indices()
            .iter()
            .map(|index| {
                let (series, column, time, value) = points.get(*index as usize);
                (series.to_owned(), column.to_owned(), time, bits((!value.is_nan()).then_some(value)))
            })
            .collect();
        let copy = "copy copied (time_series_id, \"timestamp\", column_name, value) from stdin (format binary)";
        let mut sink = pin!(fixture.client.copy_in::<_, Bytes>(copy).await.unwrap());
        let mut encoder = CopyEncoder::new(&points, &order);
        let mut more = true;
        while more {
            let mut chunk = BytesMut::new();
            more = encoder.encode_into(&mut chunk, 10_000);
            sink.send(chunk.freeze()).await.unwrap();
        }
        assert_eq!(sink.finish().await.unwrap(), expected.len() as u64);
        let sql = "select time_series_id, column_name, (extract(epoch from \"timestamp\") * 1000000)::bigint, value
                   from copied order by number";
        let rows = fixture.client.query(sql, &[]).await.unwrap();
        let stored: Vec<_> = rows
            .iter()
            .map(|row| (row.get::<_, String>(0), row.get::<_, String>(1), row.get(2), bits(row.get(3))))
            .collect();
        assert_eq!(stored, expected);
        fixture.client.batch_execute("truncate copied").await.unwrap();
    }
    fixture.remove().await;
}
