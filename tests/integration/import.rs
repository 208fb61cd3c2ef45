//! `points import`: each row of a file once, whatever happens to the command, to the file or to the database.

use std::fs;
use std::io::Write as _;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::Schema;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::support::data::{Difference, NULL, Published, Row};
use crate::support::fixture::{Fixture, connect};
use crate::support::fixture_with_proxy::FixtureWithProxy;
use crate::support::folder::Folder;
use crate::support::worker::{command, peak_resident, run, text};
use crate::support::{seed, until};

/// Batches so small that an import has many.
const SMALL: (&str, &str) = ("SERIES_INGEST__BATCH__MAX_POINTS", "500");
/// 2025-01-01, in microseconds since the Unix epoch.
const FIRST_US: i64 = 1_735_689_600_000_000;
const SECOND_US: i64 = 1_000_000;

type Environment = Vec<(String, String)>;

fn with(fixture: &Fixture, extra: &[(&str, &str)]) -> Environment {
    let mut environment = fixture.environment();
    environment.retain(|(name, _)| !extra.iter().any(|(other, _)| other == name));
    environment.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    environment
}

/// What `points import` prints, and its exit code.
fn import(environment: &Environment, arguments: &[&str]) -> (String, Option<i32>) {
    let output = run(environment, &[&["points", "import"], arguments].concat());
    (text(&output), output.status.code())
}

/// The same as a JSON document.
fn document(environment: &Environment, arguments: &[&str]) -> (serde_json::Value, Option<i32>) {
    let output = run(environment, &[&["points", "import", "--json"], arguments].concat());
    let document = serde_json::from_slice(&output.stdout);
    (document.unwrap_or_else(|error| panic!("{error}: {}", text(&output))), output.status.code())
}

fn spawn(environment: &Environment, arguments: &[&str]) -> Child {
    let mut command = command(environment);
    command.args(["points", "import"]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What the command printed, and its exit code.
fn ended(child: Child) -> (String, Option<i32>) {
    let output = child.wait_with_output().unwrap();
    (text(&output), output.status.code())
}

/// A wide CSV file of this many rows, one a second, with two columns; its points are noted as published.
fn csv(published: &mut Published, series: &str, rows: i64) -> String {
    let mut text = "time,a,b\n".to_owned();
    for row in 0..rows {
        let time_us = FIRST_US + row * SECOND_US;
        let values = [row as f64 / 8.0, (row * 7 % 1000) as f64];
        let time = jiff::Timestamp::from_microsecond(time_us).unwrap();
        text.push_str(&format!("{time},{},{}\n", values[0], values[1]));
        for (column, value) in ["a", "b"].into_iter().zip(values) {
            published.rows.push((series.to_owned(), column.to_owned(), time_us, value.to_bits()));
        }
    }
    text
}

fn parquet(batch: &RecordBatch) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Times and values that a double can have, also those that are seldom.
fn values(random: &mut StdRng, count: usize) -> (Vec<i64>, Vec<f64>) {
    let special = [0.1, -0.0, 5e-324, f64::MAX, f64::MIN_POSITIVE, f64::INFINITY, f64::NEG_INFINITY, NULL];
    let any = std::iter::repeat_with(|| f64::from_bits(random.random()));
    let values: Vec<f64> =
        special.into_iter().chain(any).map(|value| if value.is_nan() { NULL } else { value }).take(count).collect();
    let times = (0..).map(|row| FIRST_US + row * 999_999_937).take(count).collect();
    (times, values)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_format_arrives_to_the_last_bit_and_a_second_time_nothing_is_written() {
    let Some(fixture) = Fixture::new("import_formats", 1).await else { return };
    let environment = with(&fixture, &[SMALL]);
    let mut random = StdRng::seed_from_u64(seed("import_formats"));
    let folder = Folder::new();
    let (times, values) = values(&mut random, 2_000);
    let arrow: Vec<(&str, ArrayRef)> = vec![
        ("t", Arc::new(TimestampMicrosecondArray::from(times.clone()).with_timezone("UTC"))),
        ("v", Arc::new(Float64Array::from(values.clone()))),
    ];
    let arrow = RecordBatch::try_from_iter(arrow).unwrap();
    let time = |us: &i64| jiff::Timestamp::from_microsecond(*us).unwrap().to_string();
    let rows = || times.iter().zip(&values);
    let csv = "t,v\n".to_owned() + &rows().map(|(t, v)| format!("{},{v:?}\n", time(t))).collect::<String>();
    let json = |v: &f64| match *v {
        v if v.is_nan() => "null".to_owned(),
        v if v.is_infinite() => format!("\"{}Infinity\"", if v < 0.0 { "-" } else { "" }),
        v => format!("{v:?}"),
    };
    let lines: String = rows().map(|(t, v)| format!("{{\"t\":\"{}\",\"v\":{}}}\n", time(t), json(v))).collect();
    let mut file = arrow_ipc::writer::FileWriter::try_new(Vec::new(), &arrow.schema()).unwrap();
    file.write(&arrow).unwrap();
    let mut published = Published::default();
    for (series, bytes) in [
        ("parquet", parquet(&arrow)),
        ("arrow", file.into_inner().unwrap()),
        ("csv.gz", gzip(csv.as_bytes())),
        ("csv.zst", zstd::encode_all(csv.as_bytes(), 1).unwrap()),
        ("csv", csv.into_bytes()),
        ("jsonl", lines.into_bytes()),
    ] {
        let path = folder.file(&format!("f.{series}"), bytes);
        let (first, code) = document(&environment, &["--series", series, &path]);
        assert_eq!((code, &first["files"][0]["points"]), (Some(0), &2_000.into()), "{first}");
        let row = |(time, value): (&i64, &f64)| (series.to_owned(), "v".to_owned(), *time, value.to_bits());
        published.rows.extend(rows().map(row));
        fixture.assert_exact(&published).await;
        let (again, code) = document(&environment, &["--series", series, &path]);
        let file = &again["files"][0];
        assert_eq!((code, &file["points"], &file["already_there"]), (Some(0), &0.into(), &2_000.into()), "{again}");
    }
    fixture.assert_exact(&published).await;
    // Another name is the same content.
    fs::copy(folder.path("f.csv"), folder.path("renamed.csv")).unwrap();
    let (said, code) = import(&environment, &["--series", "csv", folder.path("renamed.csv").to_str().unwrap()]);
    assert!(
        code == Some(0) && said.contains("imported first as f.csv") && said.contains(" 0 points written"),
        "{said}"
    );
    // The same content with another meaning is asked for.
    let (said, code) = import(&environment, &["--series", "other", folder.path("f.csv").to_str().unwrap()]);
    assert!(code == Some(64) && said.contains("--again"), "{said}");
    fixture.assert_exact(&published).await;
    let (said, code) = import(&environment, &["--series", "other", "--again", folder.path("f.csv").to_str().unwrap()]);
    assert!(code == Some(0) && said.contains(" 2000 points written"), "{said}");
    fixture.remove().await;
}

/// Kills imports of one file at random moments, and lets the last one end.
async fn kill_again_and_again(test: &str, fixture: &Fixture, environment: &Environment) -> Difference {
    const ROUNDS: usize = 20;
    const ROWS: i64 = 40_000;
    let mut random = StdRng::seed_from_u64(seed(test));
    let folder = Folder::new();
    let mut published = Published::default();
    let path = folder.file("f.csv", csv(&mut published, "s", ROWS));
    let arguments = ["--series", "s", path.as_str()];
    let mut killed_at_work = 0;
    for _ in 0..ROUNDS {
        let mut child = spawn(environment, &arguments);
        let before = fixture.count_points().await;
        let bound = before + random.random_range(0..3_000);
        // Some are killed before they write at all.
        let deadline = tokio::time::Instant::now() + Duration::from_millis(random.random_range(50..3_000));
        while fixture.count_points().await < bound && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        killed_at_work += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(killed_at_work > ROUNDS / 2, "there was work to do at most kills: {killed_at_work}");
    // What a session that lost its client was about to commit.
    until(60, "the killed ones' sessions have ended", async || {
        let sql = "select count(*) from pg_stat_activity where datname = current_database() and state <> 'idle'
                   and backend_type = 'client backend' and pid <> pg_backend_pid()";
        fixture.count(sql).await == 0
    })
    .await;
    let left = published.rows.len() as i64 - fixture.count_points().await;
    let (done, code) = document(environment, &arguments);
    assert_eq!((code, &done["files"][0]["rows"]), (Some(0), &ROWS.into()), "{done}");
    println!("{test}: {killed_at_work} killed at work, {left} points were left, {done}");
    fixture.difference(&published).await
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_killed_again_and_again_lose_and_duplicate_nothing() {
    let Some(fixture) = Fixture::new("import_killed", 1).await else { return };
    let environment = with(&fixture, &[SMALL]);
    let difference = kill_again_and_again("import_killed", &fixture, &environment).await;
    assert_eq!(difference, Difference::default());
    assert_eq!(fixture.count("select count(*) from ingest_progress where ahead <> '{}'").await, 0);
    fixture.remove().await;
}

#[cfg(feature = "planted-bugs")]
#[tokio::test(flavor = "multi_thread")]
async fn planted_bug_a_file_is_another_source_each_time() {
    let Some(fixture) = Fixture::new("import_planted", 1).await else { return };
    let environment = with(&fixture, &[SMALL, ("SERIES_INGEST_PLANTED_BUGS", "import-is-another-source")]);
    let difference = kill_again_and_again("import_planted", &fixture, &environment).await;
    assert!(difference.duplicated > 0 && difference.lost == 0, "{difference:?}");
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_imports_of_a_file_at_the_same_time_write_it_once() {
    let Some(fixture) = Fixture::new("import_twice", 1).await else { return };
    let environment = with(&fixture, &[SMALL]);
    let folder = Folder::new();
    let mut published = Published::default();
    let text = csv(&mut published, "s", 20_000);
    // Also if one of them knows it by another name.
    let paths = [folder.file("f.csv", &text), folder.file("g.csv", &text)];
    // Neither can add the file yet: both would, if they did not wait for each other.
    let other = connect(&fixture.url).await;
    other.batch_execute("begin; lock table ingest_source in exclusive mode").await.unwrap();
    let both = paths.each_ref().map(|path| spawn(&environment, &["--series", "s", path]));
    until(60, "both wait", async || fixture.waiting_for_locks().await == 2).await;
    other.batch_execute("commit").await.unwrap();
    for child in both {
        let (said, code) = ended(child);
        assert_eq!(code, Some(0), "{said}");
    }
    fixture.assert_exact(&published).await;
    assert_eq!(fixture.count("select count(*) from ingest_source where cluster_id = 'file'").await, 1);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_rows_are_dead_letters_with_their_numbers_and_are_redriven() {
    let Some(mut fixture) = Fixture::new("import_refused", 1).await else { return };
    // The file has the name of a topic of another format, which must not decode its rows.
    let format = "[[input]]\nname = \"other\"\ntopics = [\"f.csv\"]\nformat = \"influx\"\n";
    fixture.set_config(format);
    fixture
        .client
        .batch_execute("alter table time_series_data_points add constraint small check (value < 1000)")
        .await
        .unwrap();
    let environment = with(&fixture, &[SMALL]);
    let folder = Folder::new();
    let mut text = "time,a\n".to_owned();
    for row in 1..=1_000 {
        text.push_str(&match row {
            17 => "2025-01-01T00:00:17Z,text\n".to_owned(),
            18 => "2025-01-01T00:00:18Z\n".to_owned(),
            300 => "1850-01-01,300\n".to_owned(),
            400 => "2025-01-01T00:06:40Z,5000\n".to_owned(),
            row => format!("2025-01-01T00:{:02}:{:02}Z,{row}\n", row / 60, row % 60),
        });
    }
    let path = folder.file("f.csv", text.replace(",1000\n", ",999.5\n"));
    let (planned, code) = import(&environment, &["--series", "s", "--dry-run", &path]);
    assert!(code == Some(65) && planned.contains("1000 rows with 997 points would be written"), "{planned}");
    assert!(planned.contains("row 17 would be refused: schema: columns.a[0]"), "{planned}");
    let (said, code) = import(&environment, &["--series", "s", &path]);
    assert!(code == Some(65) && said.contains("4 rows refused") && said.contains("dead-letter list"), "{said}");
    assert_eq!(fixture.count_points().await, 996);
    let (said, code) = import(&environment, &["--series", "s", &path]);
    assert!(code == Some(0) && said.contains(" 0 points written, 0 rows refused"), "{said}");

    let letters = async || -> Vec<(i64, String, String)> {
        let sql =
            "select \"offset\", reason, convert_from(payload, 'UTF8') from ingest_dead_letter order by \"offset\"";
        let rows = fixture.client.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
    };
    let found = letters().await;
    let rows: Vec<(i64, &str)> = found.iter().map(|(row, reason, _)| (*row, reason.as_str())).collect();
    assert_eq!(rows, [(17, "schema"), (18, "schema"), (300, "time_window"), (400, "rejected_by_database")]);
    assert!(found[0].2.contains("\"text\"") && found[1].2.contains("2025-01-01T00:00:18Z"), "{found:?}");
    let listed = text_of(&environment, &["dead-letter", "list", "--topic", "f.csv"]);
    assert!(listed.contains("the row has 1 fields, and the header 2"), "{listed}");

    // Each is written when what it was refused for is repaired.
    fixture.client.batch_execute("alter table time_series_data_points drop constraint small").await.unwrap();
    let mut repaired = environment.clone();
    repaired.push(("SERIES_INGEST__MESSAGE__MIN_TIMESTAMP".to_owned(), "1800-01-01T00:00:00Z".to_owned()));
    let output = run(&repaired, &["dead-letter", "redrive"]);
    assert_eq!(output.status.code(), Some(65), "{}", crate::support::worker::text(&output));
    assert_eq!(fixture.count_points().await, 998);
    let editor = folder.file("edit", "#!/bin/sh\nsed -i 's/\"text\"/17.5/' \"$1\"\n");
    std::process::Command::new("chmod").args(["+x", &editor]).status().unwrap();
    repaired.push(("EDITOR".to_owned(), editor));
    repaired.push(("PATH".to_owned(), std::env::var("PATH").unwrap()));
    let id = fixture.count("select id from ingest_dead_letter where \"offset\" = 17").await.to_string();
    let edited = text_of(&repaired, &["dead-letter", "redrive", "--edit", "--id", &id]);
    assert_eq!(fixture.count_points().await, 999, "{edited}");
    let sql = "select count(*) from time_series_data_points where value in (300, 5000, 17.5)";
    assert_eq!(fixture.count(sql).await, 3);
    let left: Vec<i64> = letters().await.iter().map(|(row, ..)| *row).collect();
    assert_eq!(left, [18], "it has no value to be written");
    fixture.remove().await;
}

fn text_of(environment: &Environment, arguments: &[&str]) -> String {
    text(&run(environment, arguments))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_not_concerned_by_files_of_its_topics_names() {
    let Some(fixture) = Fixture::new("import_beside", 1).await else { return };
    let environment = with(&fixture, &[]);
    let folder = Folder::new();
    // Before the worker has read anything: its topic must not seem to be in another cluster.
    let mut published = Published::default();
    let first = folder.file(&fixture.points_topic, csv(&mut published, "first", 500));
    let (said, code) = import(&environment, &["--series", "first", "--format", "csv", &first]);
    assert_eq!(code, Some(0), "{said}");
    let mut messages = Published::default();
    fixture.publish(&mut messages, 20, 50);
    let worker = fixture.worker(&[]);
    worker.until_ready().await;
    until(60, "all messages are written", async || fixture.count_points().await == 1_000 + 20 * 100).await;
    let status = || -> serde_json::Value { serde_json::from_str(&worker.get("/status").unwrap().1).unwrap() };
    let before = status()["partitions"].clone();
    assert!(!before.as_array().unwrap().is_empty(), "{before}");

    let second = folder.file("second.csv", csv(&mut published, "second", 5_000) + "2025-02-01,x,1\n");
    let (said, code) = import(&environment, &["--series", "second", &second]);
    assert!(code == Some(65) && said.contains("1 rows refused"), "{said}");
    assert_eq!(worker.get("/readyz").unwrap().0, 200);
    let of = |partitions: &serde_json::Value| -> Vec<(String, i64)> {
        let partitions = partitions.as_array().unwrap().iter();
        partitions.map(|one| (one["topic"].as_str().unwrap().to_owned(), one["position"].as_i64().unwrap())).collect()
    };
    assert_eq!(of(&status()["partitions"]), of(&before), "only topics are in it");
    fixture.publish(&mut messages, 20, 50);
    until(60, "the worker goes on", async || fixture.count_points().await == 11_000 + 40 * 100).await;
    published.rows.extend(messages.rows);
    assert_eq!(fixture.difference(&published).await, Difference::default());

    let shown = text_of(&environment, &["progress", "show", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let next = |topic: &str, is_file: bool| {
        let rows = shown["partitions"].as_array().unwrap().iter();
        let mut found = rows.filter(|row| row["topic"] == topic && (row["cluster_id"] == "file") == is_file);
        found.next().map(|row| row["next_offset"].as_i64().unwrap())
    };
    assert_eq!(next(&fixture.points_topic, true), Some(501));
    assert_eq!(next(&fixture.points_topic, false), Some(40));
    assert_eq!(next("second.csv", true), Some(5_002));
    let file = fixture.count("select id::bigint from ingest_source where topic = 'second.csv'").await.to_string();
    let output = run(&environment, &["progress", "adopt", "--source", &file, "--group-offsets"]);
    let said = text(&output);
    assert!(output.status.code() == Some(64) && said.contains("which was imported"), "{said}");
    let checked = text_of(&environment, &["check"]);
    assert!(!checked.contains("another cluster"), "{checked}");
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_is_another_one_or_is_refused() {
    let Some(fixture) = Fixture::new("import_changed", 1).await else { return };
    let environment = with(&fixture, &[SMALL, ("SERIES_INGEST__DATABASE__WRITERS", "1")]);
    let folder = Folder::new();
    let mut published = Published::default();
    let text = csv(&mut published, "s", 5_000);
    let path = folder.file("f.csv", &text);
    // Writing waits, and meanwhile the file gets another row.
    let stop = "create function wait_there() returns trigger language plpgsql as $$ begin
            perform pg_advisory_xact_lock_shared(1);
            return null;
        end $$;
        create trigger wait_there before insert on time_series_data_points for each statement execute function wait_there();
        select pg_advisory_lock(1)";
    fixture.client.batch_execute(stop).await.unwrap();
    let child = spawn(&environment, &["--series", "s", &path]);
    until(60, "it waits", async || fixture.waiting_for_locks().await > 0).await;
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"2025-06-01,1,2\n").unwrap();
    fixture.client.batch_execute("select pg_advisory_unlock(1)").await.unwrap();
    let (said, code) = ended(child);
    assert!(code == Some(65) && said.contains("was changed while it was read"), "{said}");
    let written = fixture.count_points().await;
    assert!(written > 0 && written < 10_000, "{written}");
    // The old content goes on where it was, the new one is another file.
    fs::write(&path, &text).unwrap();
    let (said, code) = import(&environment, &["--series", "s", &path]);
    assert_eq!(code, Some(0), "{said}");
    fixture.assert_exact(&published).await;
    let other = folder.file("f.csv", "time,a,b\n2025-06-01,1,2\n");
    let (said, code) = import(&environment, &["--series", "s", &other]);
    assert!(code == Some(0) && said.contains("imported before with other content"), "{said}");
    assert!(said.contains("2 points written"), "{said}");
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_before_damage_is_kept_and_the_place_is_named() {
    let Some(fixture) = Fixture::new("import_damaged", 1).await else { return };
    let environment = with(&fixture, &[SMALL]);
    let folder = Folder::new();
    let mut published = Published::default();
    let stored = gzip(csv(&mut published, "s", 20_000).as_bytes());
    let path = folder.file("f.csv.gz", &stored[..stored.len() / 2]);
    for round in 0..2 {
        let (done, code) = document(&environment, &["--series", "s", &path]);
        assert_eq!(code, Some(65), "{done}");
        let rows = done["files"][0]["rows"].as_i64().unwrap();
        assert!((5_000..20_000).contains(&rows), "{done}");
        assert_eq!(fixture.count_points().await, rows * 2, "each row that is before the damage");
        let (said, _) = import(&environment, &["--series", "s", &path]);
        assert!(said.contains(&format!("after row {rows}: the compressed file ends in the middle")), "{round}: {said}");
    }
    let difference = fixture.difference(&published).await;
    assert_eq!((difference.duplicated, difference.invented), (0, 0), "{difference:?}");
    // Whole files after it are imported nevertheless.
    let others = ["x", "y"].map(|name| folder.file(name, format!("time,{name}\n2024-01-01,1\n")));
    let (said, code) = import(&environment, &["--series", "s", &path, &others[0], &others[1]]);
    assert!(code == Some(65) && said.matches(" 1 points written").count() == 2, "{said}");

    // A page in the middle of a Parquet file is damaged: the row groups before it are kept.
    let times = TimestampMicrosecondArray::from_iter_values((0..20_000).map(|row| FIRST_US + row));
    let noise = Float64Array::from_iter_values((0..20_000).map(|row| f64::from(row).sqrt()));
    let batch: Vec<(&str, ArrayRef)> = vec![("t", Arc::new(times)), ("v", Arc::new(noise))];
    let batch = RecordBatch::try_from_iter(batch).unwrap();
    let properties = parquet::file::properties::WriterProperties::builder()
        .set_max_row_group_row_count(Some(5_000))
        .set_dictionary_enabled(false)
        .set_compression(parquet::basic::Compression::SNAPPY)
        .build();
    let mut bytes = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    let metadata = writer.close().unwrap();
    let page = metadata.row_group(2).column(1).data_page_offset();
    bytes[usize::try_from(page).unwrap()..][..40].fill(0xff);
    let path = folder.file("p.parquet", bytes);
    let before = fixture.count_points().await;
    let (done, code) = document(&environment, &["--series", "p", &path]);
    assert_eq!(code, Some(65), "{done}");
    let rows = done["files"][0]["rows"].as_i64().unwrap();
    assert_eq!(rows, 10_000, "two row groups are before it: {done}");
    assert_eq!(fixture.count_points().await - before, rows);
    let (said, _) = import(&environment, &["--series", "p", &path]);
    assert!(said.contains(&format!("after row {rows}: ")), "{said}");
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_understood_is_refused_before_anything_is_written() {
    let Some(fixture) = Fixture::new("import_wrong", 1).await else { return };
    let environment = with(&fixture, &[]);
    let folder = Folder::new();
    let good = folder.file("good.csv", "time,a\n2025-01-01,1\n");
    let cases: [(&str, &[&str], &str); 9] = [
        ("time,a\n2025-01-01,1\n", &[], "--series ID"),
        ("time,a\n1735689600,1\n", &["--series", "s"], "--time-unit s, ms, us or ns"),
        ("time,a\n1735689600000,1\n", &["--series", "s", "--time-unit", "s"], "none of the first 1 rows can be stored"),
        ("time,a\n2025-01-01,1\n", &["--series", "s", "--time-unit", "h"], "--time-unit is \"h\""),
        ("time,a\n01.02.2025,1\n", &["--series", "s"], "--time-format '%d.%m.%Y'"),
        ("time,a\n2025-01-01,1\n", &["--series", "s", "--series-column", "a"], "cannot be used with"),
        ("time,a\n2025-01-01,x\n", &["--series", "s"], "the column a is text (\"x\")"),
        ("time,a\n2025-01-01,1\n", &["--series", "s", "--delimiter", "ab"], "one ASCII character"),
        ("", &["--series", "s"], "is empty"),
    ];
    for (text, options, words) in cases {
        let bad = folder.file("bad.csv", text);
        // The good one alongside is not written either.
        let (said, code) = import(&environment, &[&[good.as_str(), &bad], options].concat());
        assert_eq!(code, Some(64), "{options:?}: {said}");
        assert!(said.contains(words), "{options:?}: {said}");
    }
    for (path, words) in [("/nowhere/f.csv", "cannot be read"), ("-", "save it to a file first"), ("/", "a directory")]
    {
        let (said, code) = import(&environment, &["--series", "s", path]);
        assert!(code == Some(64) && said.contains(words), "{said}");
    }
    assert_eq!(fixture.count_points().await, 0);
    assert_eq!(fixture.count("select count(*) from ingest_source").await, 0);
    let header_only = folder.file("h.csv", "time,a\n");
    let (said, code) = import(&environment, &["--series", "s", &header_only]);
    assert!(code == Some(0) && said.contains("0 rows read"), "{said}");
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_columns_are_written_and_a_row_of_them_is_refused_in_parts() {
    const COLUMNS: usize = 10_000;
    let Some(fixture) = Fixture::new("import_columns", 1).await else { return };
    let environment = with(&fixture, &[]);
    let folder = Folder::new();
    let names: Vec<String> = (0..COLUMNS).map(|n| format!("c{n:05}")).collect();
    let value = |row: usize, column: usize| (row * COLUMNS + column) as f64 / 4.0;
    let time = |row: usize| FIRST_US + row as i64 * SECOND_US;
    let mut published = Published::default();
    let mut add = |series: &str, row: usize, range: std::ops::Range<usize>| {
        let point = |n: usize| (series.to_owned(), names[n].clone(), time(row), value(row, n).to_bits());
        published.rows.extend(range.map(point));
    };
    let times = TimestampMicrosecondArray::from_iter_values((0..5).map(time));
    let mut columns: Vec<(&str, ArrayRef)> = vec![("time", Arc::new(times))];
    for (n, name) in names.iter().enumerate() {
        columns.push((name, Arc::new(Float64Array::from_iter_values((0..5).map(|row| value(row, n))))));
    }
    let path = folder.file("f.parquet", parquet(&RecordBatch::try_from_iter(columns).unwrap()));
    let (done, code) = document(&environment, &["--series", "p", &path]);
    assert_eq!((code, &done["files"][0]["rows"]), (Some(0), &5.into()), "{done}");
    (0..5).for_each(|row| add("p", row, 0..COLUMNS));
    let (again, code) = document(&environment, &["--series", "p", &path]);
    assert_eq!(
        (code, &again["files"][0]["already_there"], &again["files"][0]["points"]),
        (Some(0), &5.into(), &0.into())
    );

    // Of a row with a value that is none, only the message with it is refused.
    let mut text = format!("time,{}\n", names.join(","));
    for row in 0..3 {
        let cells: Vec<String> = (0..COLUMNS)
            .map(|n| if (row, n) == (1, 5_500) { "none of these".to_owned() } else { value(row, n).to_string() })
            .collect();
        let time = jiff::Timestamp::from_microsecond(time(row)).unwrap();
        text.push_str(&format!("{time},{}\n", cells.join(",")));
    }
    let path = folder.file("f.csv", text);
    let (done, code) = document(&environment, &["--series", "c", &path]);
    assert_eq!((code, &done["files"][0]["refused"]), (Some(65), &1.into()), "{done}");
    let rows = fixture
        .client
        .query("select \"offset\", partition, payload_bytes, length(payload) from ingest_dead_letter", &[]);
    let letter = &rows.await.unwrap()[0];
    let (row, partition): (i64, i32) = (letter.get(0), letter.get(1));
    assert_eq!(row, 2);
    assert!(partition > 1, "{partition}");
    assert_eq!(letter.get::<_, i64>(2), i64::from(letter.get::<_, i32>(3)), "all of it is there");
    let output = text_of(&environment, &["dead-letter", "show", "1"]);
    assert!(output.contains("none of these"), "{output}");
    let refused = fixture.count_points().await;
    let missing = 8 * COLUMNS as i64 - refused;
    assert!((1..=1_000).contains(&missing), "{missing} points are in the message");
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_rows_bring_their_series_and_definitions_come_first() {
    let Some(fixture) = Fixture::new("import_long", 1).await else { return };
    // Points of series that no definition has named would be refused.
    let environment = with(&fixture, &[SMALL, ("SERIES_INGEST__POINTS__UNKNOWN_SERIES", "dead-letter")]);
    let folder = Folder::new();
    let count = 3_000;
    let series = |row: i64| format!("s \"{}\"\n", row % 7);
    let column = |row: i64| format!("c,{}", row % 3);
    let time = |row: i64| FIRST_US + row / 3 * SECOND_US;
    let rows = || 0..count;
    let value = |row: i64| if row % 11 == 0 { None } else { Some(row as f64 / 3.0) };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("series", Arc::new(StringArray::from_iter_values(rows().map(series)))),
        ("timestamp", Arc::new(TimestampMicrosecondArray::from_iter_values(rows().map(time)).with_timezone("UTC"))),
        ("column", Arc::new(StringArray::from_iter_values(rows().map(column)))),
        ("value", Arc::new(Float64Array::from_iter(rows().map(value)))),
    ];
    let plain = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap();
    let definition = |n: i64| {
        serde_json::json!({"id": series(n), "name": format!("name {n}"), "description": null, "time_column": "when",
                           "value_columns": ["c,0", "c,1", "c,2"], "labels": {"n": n}})
    };
    let definitions = serde_json::Value::from((0..7).map(definition).collect::<Vec<_>>()).to_string();
    let metadata = std::collections::HashMap::from([("series_ingest.series".to_owned(), definitions.clone())]);
    let schema = Schema::new(plain.schema().fields().clone()).with_metadata(metadata);
    let batch = RecordBatch::try_new(Arc::new(schema), plain.columns().to_vec()).unwrap();
    let path = folder.file("f.parquet", parquet(&batch));
    let (done, code) = document(&environment, &[&path]);
    assert_eq!((code, &done["files"][0]["form"]), (Some(0), &"long".into()), "{done}");
    let mut published = Published::default();
    let row = |row: i64| -> Row { (series(row), column(row), time(row), value(row).unwrap_or(NULL).to_bits()) };
    published.rows.extend(rows().map(row));
    fixture.assert_exact(&published).await;
    let sql =
        "select count(*) from time_series_metadata where name = 'name ' || (labels ->> 'n') and time_column = 'when'
               and id = format(E's \"%s\"\\n', labels ->> 'n') and value_columns::jsonb = '[\"c,0\", \"c,1\", \"c,2\"]'";
    let listed = "select count(*) from time_series_metadata where value_columns::json ->> 2 = 'c,2'";
    assert_eq!((fixture.count(sql).await, fixture.count(listed).await), (7, 7));
    // They are written once: a newer one stays.
    fixture.client.batch_execute("update time_series_metadata set name = 'by hand'").await.unwrap();
    let (again, code) = document(&environment, &[&path]);
    assert_eq!((code, &again["files"][0]["points"]), (Some(0), &0.into()), "{again}");
    assert_eq!(fixture.count("select count(*) from time_series_metadata where name = 'by hand'").await, 7);

    // Next to a file that has no place for them.
    let csv = folder.file("beside.csv", "when,c\n2025-01-01,1\n");
    let (said, code) = import(&environment, &["--series", "beside", &csv]);
    assert!(code == Some(65) && said.contains("1 rows refused"), "its series is unknown: {said}");
    folder.file("other.csv.series.json", r#"[{"id":"beside","name":"n","time_column":"when","value_columns":["c"]}]"#);
    let csv = folder.file("other.csv", "when,c\n2025-01-02,1\n");
    let (said, code) = import(&environment, &[&csv]);
    assert!(code == Some(0) && said.contains("1 points written"), "{said}");
    let sql = "select count(*) from time_series_metadata where id = 'beside' and name = 'n' and time_column = 'when'";
    assert_eq!(fixture.count(sql).await, 1);
    // What was refused is written now.
    let redriven = text_of(&environment, &["dead-letter", "redrive"]);
    assert!(redriven.contains("1 dead letters with 1 points written"), "{redriven}");
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_waits_for_a_database_that_is_away_for_a_moment() {
    let Some(away) = FixtureWithProxy::new("import_outage", 1).await else { return };
    let url = away.fixture.url_by(away.proxy.port);
    let environment = with(&away.fixture, &[SMALL, ("DATABASE_URL", &url)]);
    let folder = Folder::new();
    let mut published = Published::default();
    let path = folder.file("f.csv", csv(&mut published, "s", 40_000));
    let child = spawn(&environment, &["--series", "s", &path]);
    until(60, "it writes", async || away.fixture.count_points().await > 1_000).await;
    away.proxy.refuse(true);
    tokio::time::sleep(Duration::from_secs(3)).await;
    away.proxy.refuse(false);
    let (said, code) = ended(child);
    assert_eq!(code, Some(0), "{said}");
    away.fixture.assert_exact(&published).await;
    // Away from the start, it says so at once.
    away.proxy.refuse(true);
    let (said, code) = import(&environment, &["--series", "s", &path]);
    assert!(code == Some(69) && said.contains("the database: "), "{said}");
    away.proxy.refuse(false);
    away.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_files_the_one_that_was_imported_first_later_wins_by_its_first_import() {
    let Some(fixture) = Fixture::unmigrated("import_replace", 1).await else { return };
    let replace = ("SERIES_INGEST__POINTS__ON_DUPLICATE", "replace");
    fixture.migrate(&[replace]).await;
    let environment = with(&fixture, &[replace]);
    let folder = Folder::new();
    let file = |name: &str, value: i32| folder.file(name, format!("time,a\n2025-01-01,0\n2025-01-01,{value}\n"));
    let (first, second) = (file("first.csv", 1), file("second.csv", 2));
    for path in [&first, &second] {
        let (said, code) = import(&environment, &["--series", "s", path]);
        assert_eq!(code, Some(0), "{said}");
    }
    let value = async || fixture.count("select value::bigint from time_series_data_points").await;
    assert_eq!((value().await, fixture.count_points().await), (2, 1), "the last row of the later file");
    // Written again, the rows of the first one are still the older ones.
    let reset = "update ingest_progress set next_offset = 1 where source_id = (select id from ingest_source where topic = 'first.csv')";
    fixture.client.batch_execute(reset).await.unwrap();
    let (done, code) = document(&environment, &["--series", "s", &first]);
    assert_eq!((code, &done["files"][0]["already_there"]), (Some(0), &0.into()), "{done}");
    assert_eq!((value().await, fixture.count_points().await), (2, 1));
    let sql = "select count(*) from ingest_point_version as version join ingest_source as source on source.id = version.source_id
               where source.topic = 'second.csv'
                   and version.message_ms = floor(extract(epoch from source.created_at) * 1000)::bigint";
    assert_eq!(fixture.count(sql).await, 1);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_of_a_worker_may_import() {
    let Some(fixture) = Fixture::new("import_role", 1).await else { return };
    let (role, url) = fixture.worker_role("").await;
    let environment = with(&fixture, &[("DATABASE_URL", &url)]);
    let folder = Folder::new();
    let mut published = Published::default();
    let path = folder.file("f.csv", csv(&mut published, "s", 1_000));
    let (said, code) = import(&environment, &["--series", "s", &path]);
    assert_eq!(code, Some(0), "{said}");
    fixture.assert_exact(&published).await;
    fixture.remove_with_role(&role).await;
}

/// A file that is much larger than the memory that may be used.
#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded_while_a_large_file_waits_for_the_database() {
    let Some(fixture) = Fixture::new("import_memory", 1).await else { return };
    let environment = with(&fixture, &[("SERIES_INGEST__MEMORY__LIMIT_BYTES", "100663296")]);
    let folder = Folder::new();
    // Nothing is written of it while the table is locked.
    let rows = 3_000_000;
    let batch: Vec<(&str, ArrayRef)> = vec![
        ("t", Arc::new(TimestampMicrosecondArray::from_iter_values((0..rows).map(|row| FIRST_US + row)))),
        ("v", Arc::new(Int64Array::from_iter_values(0..rows))),
    ];
    let path = folder.file("f.parquet", parquet(&RecordBatch::try_from_iter(batch).unwrap()));
    fixture.client.batch_execute("begin; lock table time_series_data_points in exclusive mode").await.unwrap();
    let mut child = spawn(&environment, &["--series", "s", &path]);
    tokio::time::sleep(Duration::from_secs(15)).await;
    let peak = peak_resident(child.id()).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    fixture.client.batch_execute("rollback").await.unwrap();
    println!("import_memory: {} MiB at most", peak >> 20);
    // 3 million rows would be 400 MiB as messages.
    assert!(peak < 220 << 20, "{} MiB", peak >> 20);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_a_series_that_was_deleted_is_imported_again_if_that_is_asked_for() {
    let Some(fixture) = Fixture::new("import_deleted", 1).await else { return };
    let environment = with(&fixture, &[SMALL]);
    let folder = Folder::new();
    let mut published = Published::default();
    let path = folder.file("f.csv", csv(&mut published, "s", 1_000));
    let arguments = ["--series", "s", path.as_str()];
    assert_eq!(import(&environment, &arguments).1, Some(0));
    let deleted = run(&environment, &["series", "delete", "s", "--yes"]);
    assert!(deleted.status.success(), "{}", text(&deleted));
    let (said, code) = import(&environment, &arguments);
    assert!(code == Some(64) && said.contains("was deleted after this file was imported"), "{said}");
    // Also in two parts.
    let again = [&arguments[..], &["--again"]].concat();
    let mut child = spawn(&environment, &again);
    until(30, "some of it is there", async || fixture.count_points().await > 0).await;
    child.kill().unwrap();
    child.wait().unwrap();
    // It is known now, with and without the option.
    for arguments in [&arguments[..], &again, &arguments, &again] {
        let (said, code) = import(&environment, arguments);
        assert_eq!(code, Some(0), "{said}");
        fixture.assert_exact(&published).await;
    }
    let (said, _) = import(&environment, &arguments);
    assert!(said.contains(" 0 points written, 0 rows refused"), "{said}");
    // Until it is deleted once more.
    assert!(run(&environment, &["series", "delete", "s", "--yes"]).status.success());
    let (said, code) = import(&environment, &arguments);
    assert!(code == Some(64) && said.contains("was deleted after this file was imported"), "{said}");
    // Of files with several series the points of those that were deleted are counted.
    let long = "series,timestamp,column,value\nt,2024-01-01,a,1\nu,2024-01-01,a,2\n";
    let path = folder.file("long.csv", long);
    assert_eq!(import(&environment, &[&path]).1, Some(0));
    assert!(run(&environment, &["series", "delete", "t", "--yes"]).status.success());
    let source = fixture.count("select id::bigint from ingest_source where topic = 'long.csv'").await.to_string();
    let reset = ["progress", "reset", "--source", &source, "--partition", "0", "--next-offset", "1", "--yes"];
    let reset = run(&environment, &reset);
    assert!(reset.status.success(), "{}", text(&reset));
    let (document, code) = document(&environment, &[&path]);
    assert_eq!((code, &document["files"][0]["deleted"]), (Some(0), &1.into()), "{document}");
    fixture.remove().await;
}
