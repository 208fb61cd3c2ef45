//! `archive`: nothing is dropped that is not in a file that was read back from the disk, and all of it comes back once.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use arrow_array::Array as _;
use arrow_array::cast::AsArray as _;
use arrow_array::types::{Float64Type, TimestampMicrosecondType};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use series_ingest::database::schema;
use series_ingest::database::schema::profile::Profile;

use crate::support::data::{Difference, Published, Row, bits};
use crate::support::fixture::{Fixture, connect};
use crate::support::worker::{PROGRAM, command, run, text};
use crate::support::{seed, until};

/// Chunks are days, so that a test has several.
const DAILY: (&str, &str) = ("SERIES_INGEST__DATABASE__CHUNK_INTERVAL_S", "86400");
const PLANTED: &str = "SERIES_INGEST_PLANTED_BUGS";
const DAY_US: i64 = 86_400_000_000;
/// 2025-01-01, in microseconds since the Unix epoch.
const FIRST_US: i64 = 1_735_689_600_000_000;

type Environment = Vec<(String, String)>;

/// A fixture with daily chunks.
async fn daily(test: &str) -> Option<Fixture> {
    let fixture = Fixture::unmigrated(test, 1).await?;
    fixture.migrate(&[DAILY]).await;
    Some(fixture)
}

/// A fixture with a plain table.
async fn plain(test: &str) -> Option<Fixture> {
    let fixture = Fixture::without_extension(test, 1).await?;
    fixture.migrate(&[]).await;
    Some(fixture)
}

fn with(fixture: &Fixture, bugs: &[&str]) -> Environment {
    let mut environment = fixture.environment();
    let of_test = std::env::var(PLANTED).ok();
    let names: Vec<&str> = bugs.iter().copied().chain(of_test.as_deref()).collect();
    environment.push((PLANTED.to_owned(), names.join(",")));
    environment
}

fn arguments<'a>(out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    [&["archive", "--older-than", "30d", "--out", out.to_str().unwrap()], more].concat()
}

fn archive(environment: &Environment, out: &Path, more: &[&str]) -> Output {
    run(environment, &arguments(out, more))
}

/// The units that a successful archive reports.
fn archived(environment: &Environment, out: &Path, more: &[&str]) -> Vec<Value> {
    let output = archive(environment, out, &[more, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    document["units"].as_array().unwrap().clone()
}

fn spawn(environment: &Environment, out: &Path) -> Child {
    let mut command = command(environment);
    command.args(arguments(out, &[])).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// The files below a folder whose names end so, sorted.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(files(&entry, ending));
        } else if entry.to_str().unwrap().ends_with(ending) {
            found.push(entry);
        }
    }
    found.sort();
    found
}

fn parquet(folder: &Path) -> Vec<PathBuf> {
    files(folder, ".parquet")
}

fn rows_of(path: &Path) -> Vec<Row> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap();
    let mut rows = Vec::new();
    for batch in reader.map(Result::unwrap) {
        let (series, columns) = (batch.column(0).as_string::<i32>(), batch.column(2).as_string::<i32>());
        let times = batch.column(1).as_primitive::<TimestampMicrosecondType>();
        let values = batch.column(3).as_primitive::<Float64Type>();
        for row in 0..batch.num_rows() {
            let value = values.is_valid(row).then(|| values.value(row));
            rows.push((series.value(row).to_owned(), columns.value(row).to_owned(), times.value(row), bits(value)));
        }
    }
    rows
}

fn rows_of_all(folder: &Path) -> Vec<Row> {
    parquet(folder).iter().flat_map(|path| rows_of(path)).collect()
}

/// `points import` of all files; returns the number of points that it has written.
fn import(environment: &Environment, folder: &Path) -> u64 {
    let paths = parquet(folder);
    let paths: Vec<&str> = paths.iter().map(|path| path.to_str().unwrap()).collect();
    let output = run(environment, &[&["points", "import", "--json"][..], &paths].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    document["files"].as_array().unwrap().iter().map(|file| file["points"].as_u64().unwrap()).sum()
}

async fn store(fixture: &Fixture, rows: &[(&str, &str, i64, Option<f64>)]) {
    let sql = "insert into time_series_data_points (time_series_id, column_name, \"timestamp\", value)
               select id, name, timestamptz 'epoch' + us * interval '1 microsecond', value
               from unnest($1::text[], $2::text[], $3::bigint[], $4::double precision[]) with ordinality as t (id, name, us, value, n)
               order by n";
    let ids: Vec<&str> = rows.iter().map(|row| row.0).collect();
    let names: Vec<&str> = rows.iter().map(|row| row.1).collect();
    let times: Vec<i64> = rows.iter().map(|row| row.2).collect();
    let values: Vec<Option<f64>> = rows.iter().map(|row| row.3).collect();
    let columns = "select ingest_ensure_series($1::text[], $2::text[])";
    fixture.client.execute(columns, &[&ids, &names]).await.unwrap();
    fixture.client.execute(sql, &[&ids, &names, &times, &values]).await.unwrap();
}

/// Two series with points on three days, also at both ends of them, and with all that a value or a name can be; and one point
/// that is not old.
async fn special(fixture: &Fixture) {
    let values = [
        Some(0.1),
        Some(-0.0),
        Some(0.0),
        Some(5e-324),
        Some(f64::MAX),
        Some(f64::INFINITY),
        Some(f64::NEG_INFINITY),
        None,
        Some(1e23),
    ];
    let mut rows = Vec::new();
    for day in 0..3 {
        for (at, time) in (0..24_i64).map(|hour| hour * 3_600_000_000 + hour % 3).chain([DAY_US - 1]).enumerate() {
            for (number, (id, name)) in [("a", "x"), ("a", "y"), ("b'\n\"ü", "c,\"\n'")].into_iter().enumerate() {
                rows.push((id, name, FIRST_US + day * DAY_US + time, values[(at + number) % values.len()]));
            }
        }
        // Duplicates with the same value, with another one, and with none.
        rows.extend([Some(3.0), Some(1.0), None, Some(3.0)].map(|value| ("a", "x", FIRST_US + day * DAY_US, value)));
    }
    store(fixture, &rows).await;
    let now = "update time_series_metadata set name = 'The \"first\"', time_column = 'date', labels = '{\"site\": \"x\"}' where id = 'a';
               insert into time_series_data_points (time_series_id, column_name, \"timestamp\", value) values ('a', 'x', now(), 7)";
    fixture.client.batch_execute(now).await.unwrap();
}

fn sorted(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_unstable();
    rows
}

async fn definitions(fixture: &Fixture) -> Vec<(String, Option<String>, String, String, Option<String>)> {
    let sql = "select id::text, name, time_column, value_columns, labels::text from time_series_metadata order by id";
    let rows = fixture.client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4))).collect()
}

async fn assert_there_and_back(fixture: &Fixture) {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("new/archive");
    special(fixture).await;
    let environment = with(fixture, &[]);
    let (before, defined) = (sorted(fixture.stored().await), definitions(fixture).await);
    let (recent, old): (Vec<Row>, Vec<Row>) = before.iter().cloned().partition(|row| row.2 > FIRST_US + 4 * DAY_US);
    assert_eq!(recent.len(), 1);

    let units = archived(&environment, &out, &["--dry-run"]);
    assert_eq!(units.len(), 3);
    assert!(units.iter().all(|unit| unit["points"] == 79 && unit["dropped"] == false), "{units:?}");
    assert!(!out.try_exists().unwrap(), "a dry run makes no folder");
    assert_eq!(sorted(fixture.stored().await), before);

    let units = archived(&environment, &out, &[]);
    assert!(units.iter().all(|unit| unit["exported"] == true && unit["dropped"] == true), "{units:?}");
    assert_eq!(fixture.stored().await, recent);
    assert_eq!(sorted(rows_of_all(&out)), old);
    let name = "day=2025-01-01/20250101T000000Z_20250102T000000Z.1.parquet";
    assert_eq!(parquet(&out)[0], out.join(name));
    let manifest = out.join("day=2025-01-01/_20250101T000000Z_20250102T000000Z.1.json");
    let manifest: Value = serde_json::from_slice(&fs::read(manifest).unwrap()).unwrap();
    let hash = Command::new("sha256sum").arg(out.join(name)).output().unwrap();
    assert!(String::from_utf8_lossy(&hash.stdout).starts_with(manifest["sha256"].as_str().unwrap()));
    assert_eq!((&manifest["rows"], &manifest["series"], &manifest["columns"]), (&79.into(), &2.into(), &3.into()));
    assert_eq!(manifest["last_time"], "2025-01-01T23:59:59.999999Z");
    assert!(archived(&environment, &out, &[]).is_empty(), "nothing is left to archive");

    // Twice there and back, the second time without the series.
    for round in 0..2 {
        if round == 1 {
            fixture.client.batch_execute("delete from time_series_metadata").await.unwrap();
        }
        let files = parquet(&out);
        assert_eq!(import(&environment, &out), old.len() as u64);
        let now: Vec<Row> = fixture.stored().await.into_iter().filter(|row| row.2 < FIRST_US + 4 * DAY_US).collect();
        assert_eq!(sorted(now), old);
        assert_eq!(definitions(fixture).await, defined);
        assert_eq!(import(&environment, &out), 0, "a second time nothing is written");
        let units = archived(&environment, &out, &[]);
        assert!(units.iter().all(|unit| unit["exported"] == false && unit["dropped"] == true), "{units:?}");
        assert_eq!((parquet(&out), units.len()), (files, 3));
        assert_eq!(sorted(rows_of_all(&out)), old);
    }
    assert_eq!(files(&out, ".part"), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn old_chunks_become_files_and_come_back_once() {
    let Some(fixture) = daily("archive_chunks").await else { return };
    assert_there_and_back(&fixture).await;
    let chunks = "select count(*) from timescaledb_information.chunks where hypertable_schema = current_schema()";
    assert!(fixture.count(chunks).await <= 1, "the chunks are dropped");
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_days_of_a_plain_table_become_files_and_come_back_once() {
    let Some(fixture) = plain("archive_plain").await else { return };
    assert_there_and_back(&fixture).await;
    fixture.remove().await;
}

/// What the database and the files have together, compared with what was published.
async fn difference(fixture: &Fixture, out: &Path, published: &Published) -> Difference {
    let mut all = fixture.stored().await;
    all.extend(rows_of_all(out));
    Difference::between(published.rows.clone(), all)
}

/// Late points of each of ten days.
fn publish_late(fixture: &Fixture, published: &mut Published, random: &mut StdRng, timestamps: usize) {
    for day in 0..10 {
        let series = format!("s{}", random.random_range(0..5));
        let times = (0..timestamps).map(|_| FIRST_US + day * DAY_US + random.random_range(0..DAY_US)).collect();
        let payload = published.batch_at(&series, times);
        fixture.producer.send(&fixture.points_topic, 0, &series, Some(payload.as_bytes()));
    }
    fixture.producer.flush();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_killed_again_and_again_alongside_a_worker_loses_and_duplicates_nothing() {
    let Some(fixture) = daily("archive_killed").await else { return };
    kill_again_and_again("archive_killed", &fixture).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_of_a_plain_table_killed_again_and_again_loses_and_duplicates_nothing() {
    let Some(fixture) = plain("archive_killed_plain").await else { return };
    kill_again_and_again("archive_killed_plain", &fixture).await;
    fixture.remove().await;
}

async fn kill_again_and_again(test: &str, fixture: &Fixture) {
    const ROUNDS: usize = 10;
    let mut random = StdRng::seed_from_u64(seed(test));
    let root = tempfile::tempdir().unwrap();
    let out = root.path();
    let environment = with(fixture, &[]);
    let worker = fixture.worker(&[DAILY, ("SERIES_INGEST__BATCH__LINGER_MS", "50")]);
    let mut published = Published::default();
    publish_late(fixture, &mut published, &mut random, 1_000);
    fixture.until_applied(60).await;
    let (mut killed_at_work, mut dropped) = (0, BTreeSet::new());
    // How long it is left alone at most: it takes longer on some machines than on others.
    let mut alone_ms = 1_300;
    while killed_at_work < ROUNDS {
        let mut child = spawn(&environment, out);
        // Late points come while it is at work.
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..alone_ms / 4))).await;
            publish_late(fixture, &mut published, &mut random, 300);
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..alone_ms / 2))).await;
        if child.try_wait().unwrap().is_none() {
            killed_at_work += 1;
        } else {
            alone_ms = (alone_ms * 3 / 4).max(50);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        fixture.until_applied(60).await;
        dropped.insert(published.rows.len() as i64 - fixture.count_points().await);
        let found = difference(fixture, out, &published).await;
        assert_eq!((found.lost, found.invented), (0, 0), "what was dropped is in files");
    }
    assert!(dropped.len() > 2, "points were dropped in some rounds: {dropped:?}");
    publish_late(fixture, &mut published, &mut random, 20);
    fixture.until_applied(60).await;
    let units = archived(&environment, out, &[]);
    assert_eq!(units.len(), 10, "{units:?}");
    assert_eq!(fixture.count_points().await, 0);
    assert_eq!(difference(fixture, out, &published).await, Difference::default(), "each point is in one file");
    assert_eq!(files(out, ".part"), Vec::<PathBuf>::new());
    assert_eq!(files(out, ".superseded"), Vec::<PathBuf>::new());
    assert_eq!(files(out, ".json").len(), parquet(out).len(), "each file has its manifest");
    import(&environment, out);
    fixture.assert_exact(&published).await;
    assert_eq!(import(&environment, out), 0);
    drop(worker);
}

/// Points come into the chunk after its export: a session has written them, and commits when the file is there. Returns what the
/// database and the files have together in the end, compared with all points.
async fn points_come_after_the_export(fixture: &Fixture, bugs: &[&str]) -> Difference {
    special(fixture).await;
    let root = tempfile::tempdir().unwrap();
    let late = connect(&fixture.url).await;
    let sql = "begin; insert into time_series_data_points (time_series_id, column_name, \"timestamp\", value)
               values ('a', 'late', '2025-01-01 12:00Z', 42)";
    late.batch_execute(sql).await.unwrap();
    let child = spawn(&with(fixture, bugs), root.path());
    until(60, "the first file has its manifest", async || !files(root.path(), ".1.json").is_empty()).await;
    // Others write into the chunk, although the archive asks for its lock.
    let other = "insert into time_series_data_points (time_series_id, column_name, \"timestamp\", value)
                 values ('a', 'other', '2025-01-01 13:00Z', 43)";
    for _ in 0..3 {
        fixture.client.batch_execute(other).await.unwrap();
    }
    late.batch_execute("commit").await.unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let mut all = fixture.stored().await;
    all.extend(rows_of_all(root.path()));
    let mut expected: Vec<Row> =
        all.iter().filter(|row| !["late", "other"].contains(&row.1.as_str())).cloned().collect();
    let row = |column: &str, hour: i64, value: f64| {
        ("a".to_owned(), column.to_owned(), FIRST_US + hour * 3_600_000_000, value.to_bits())
    };
    expected.push(row("late", 12, 42.0));
    expected.extend(std::iter::repeat_n(row("other", 13, 43.0), 3));
    assert_eq!(expected.len(), 3 * 79 + 1 + 4);
    Difference::between(expected, all)
}

#[tokio::test(flavor = "multi_thread")]
async fn points_that_come_after_the_export_are_exported_as_well() {
    let Some(fixture) = daily("archive_late").await else { return };
    assert_eq!(points_come_after_the_export(&fixture, &[]).await, Difference::default());
    assert_eq!(fixture.count_points().await, 1, "the late ones are dropped, too");
    fixture.remove().await;
    // There they are not seen by the deletion, and stay.
    let Some(fixture) = plain("archive_late_plain").await else { return };
    assert_eq!(points_come_after_the_export(&fixture, &[]).await, Difference::default());
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn planted_bug_an_archive_drops_without_comparing() {
    let Some(fixture) = daily("archive_uncompared").await else { return };
    let found = points_come_after_the_export(&fixture, &["archive-drops-uncompared"]).await;
    assert_eq!(found, Difference { lost: 4, ..Difference::default() });
    fixture.remove().await;
}

fn flip_a_byte(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// A byte of the second day's file is flipped before its points are dropped; returns the exit code and what was said.
async fn flipped(fixture: &Fixture, out: &Path, bugs: &[&str]) -> (Option<i32>, String) {
    special(fixture).await;
    let environment = with(fixture, bugs);
    let units = archived(&environment, out, &["--keep"]);
    assert!(units.iter().all(|unit| unit["exported"] == true && unit["dropped"] == false), "{units:?}");
    assert_eq!(fixture.count_points().await, 3 * 79 + 1);
    flip_a_byte(&parquet(out)[1]);
    let output = archive(&environment, out, &[]);
    (output.status.code(), text(&output))
}

const SECOND_DAY: &str = "select count(*) from time_series_data_points
                          where \"timestamp\" >= '2025-01-02 00:00Z' and \"timestamp\" < '2025-01-03 00:00Z'";

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_stops_the_drop() {
    for (test, fixture) in [("chunks", daily("archive_flipped").await), ("plain", plain("archive_flipped_plain").await)]
    {
        let Some(fixture) = fixture else { return };
        let root = tempfile::tempdir().unwrap();
        let (code, said) = flipped(&fixture, root.path(), &[]).await;
        assert_eq!(code, Some(65), "{test}: {said}");
        let name = "day=2025-01-02/20250102T000000Z_20250103T000000Z.1.parquet: the file is damaged";
        assert!(said.contains(name) && said.contains("still in the table"), "{said}");
        assert_eq!(fixture.count(SECOND_DAY).await, 79, "{test}");
        assert_eq!(fixture.count_points().await, 80, "{test}: the other days are dropped");
        let again = run(&[], &["archive", "--verify", "--json", "--out", root.path().to_str().unwrap()]);
        assert_eq!(again.status.code(), Some(65), "{}", text(&again));
        let found: Value = serde_json::from_slice(&again.stdout).unwrap();
        let damage: Vec<bool> =
            found["files"].as_array().unwrap().iter().map(|file| file["damage"].is_string()).collect();
        assert_eq!(damage, [false, true, false], "{found}");
        // The file is moved away, and the command makes another.
        let damaged = parquet(root.path())[1].clone();
        fs::rename(&damaged, root.path().join("damaged")).unwrap();
        let units = archived(&with(&fixture, &[]), root.path(), &[]);
        assert!(units.len() == 1 && units[0]["exported"] == true, "{units:?}");
        assert_eq!((fixture.count_points().await, rows_of_all(root.path()).len()), (1, 3 * 79));
        fixture.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn planted_bug_an_archive_drops_what_was_not_verified() {
    let Some(fixture) = daily("archive_unverified").await else { return };
    let root = tempfile::tempdir().unwrap();
    let (code, said) = flipped(&fixture, root.path(), &["archive-file-not-verified"]).await;
    assert_eq!(
        (code, fixture.count(SECOND_DAY).await),
        (Some(0), 0),
        "without it, the damaged file is the only copy: {said}"
    );
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn points_that_were_imported_back_and_have_company_are_in_one_file() {
    let Some(fixture) = daily("archive_company").await else { return };
    let root = tempfile::tempdir().unwrap();
    let environment = with(&fixture, &[]);
    special(&fixture).await;
    archived(&environment, root.path(), &[]);
    let mut all = rows_of_all(root.path());
    // Late points alone are a further file; what is there stays.
    store(&fixture, &[("a", "late", FIRST_US, Some(1.0))]).await;
    assert_eq!(archived(&environment, root.path(), &[])[0]["exported"], true);
    assert_eq!(parquet(root.path()).len(), 4);
    all.push(("a".to_owned(), "late".to_owned(), FIRST_US, 1.0_f64.to_bits()));
    assert_eq!(sorted(rows_of_all(root.path())), sorted(all.clone()));
    // All of it is imported back, and there is more: one file has all of the first day.
    assert_eq!(import(&environment, root.path()), all.len() as u64);
    store(&fixture, &[("a", "later", FIRST_US, Some(2.0))]).await;
    let units = archived(&environment, root.path(), &[]);
    assert_eq!(units[0]["removed"].as_array().unwrap().len(), 2, "{units:?}");
    all.push(("a".to_owned(), "later".to_owned(), FIRST_US, 2.0_f64.to_bits()));
    assert_eq!((parquet(root.path()).len(), sorted(rows_of_all(root.path()))), (3, sorted(all.clone())));
    // A point is imported back, and deleted: the old file is kept under another name.
    import(&environment, root.path());
    fixture.client.batch_execute("delete from time_series_data_points where column_name = 'later'").await.unwrap();
    let units = archived(&environment, root.path(), &[]);
    assert_eq!(units[0]["set_aside"].as_array().unwrap().len(), 1, "{units:?}");
    all.pop();
    assert_eq!(sorted(rows_of_all(root.path())), sorted(all));
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_imported_partly_stops_the_archive() {
    let Some(fixture) = daily("archive_partly").await else { return };
    let root = tempfile::tempdir().unwrap();
    let environment = with(&fixture, &[]);
    special(&fixture).await;
    archived(&environment, root.path(), &[]);
    import(&environment, root.path());
    let sql = "update ingest_progress set next_offset = 40 where partition = 0;
               delete from time_series_data_points where id % 2 = 0";
    fixture.client.batch_execute(sql).await.unwrap();
    let before = fixture.count_points().await;
    let output = archive(&environment, root.path(), &[]);
    assert_eq!(output.status.code(), Some(64), "{}", text(&output));
    assert!(text(&output).contains("was imported partly"), "{}", text(&output));
    assert_eq!(fixture.count_points().await, before);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_archive_works_at_a_time() {
    let Some(fixture) = daily("archive_two").await else { return };
    let root = tempfile::tempdir().unwrap();
    special(&fixture).await;
    let reader = connect(&fixture.url).await;
    reader.batch_execute("begin; select count(*) from time_series_data_points").await.unwrap();
    let environment = with(&fixture, &[]);
    let first = spawn(&environment, &root.path().join("a"));
    until(60, "the first file", async || !files(root.path(), ".json").is_empty()).await;
    let second = archive(&environment, &root.path().join("b"), &[]);
    assert_eq!(second.status.code(), Some(69), "{}", text(&second));
    assert!(text(&second).contains("another archive is at work in this database (process "), "{}", text(&second));
    assert!(!root.path().join("b").try_exists().unwrap());
    reader.batch_execute("commit").await.unwrap();
    let first = first.wait_with_output().unwrap();
    assert_eq!(first.status.code(), Some(0), "{}", text(&first));
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_drops_nothing() {
    let Some(fixture) = daily("archive_full").await else { return };
    let sql = "select ingest_ensure_series('{s}', '{v}');
               insert into time_series_data_points (time_series_id, column_name, \"timestamp\", value)
               select 's', 'v', timestamptz '2025-01-01' + n * interval '1 second', random() from generate_series(1, 80000) as n";
    fixture.client.batch_execute(sql).await.unwrap();
    let root = tempfile::tempdir().unwrap();
    let mut limited = Command::new("sh");
    // In blocks of 512 bytes.
    limited.args(["-c", r#"ulimit -f 200; exec "$0" "$@""#, PROGRAM]).args(arguments(root.path(), &[]));
    let output = limited.env_clear().envs(with(&fixture, &[])).output().unwrap();
    assert_eq!(output.status.code(), Some(74), "{}", text(&output));
    assert!(text(&output).contains("File too large"), "{}", text(&output));
    assert_eq!((files(root.path(), "").len(), fixture.count_points().await), (0, 80_000));
    let interrupted = spawn(&with(&fixture, &[]), root.path());
    until(60, "a file is being written", async || !files(root.path(), ".part").is_empty()).await;
    let pid = rustix::process::Pid::from_raw(interrupted.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = interrupted.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    assert_eq!((files(root.path(), "").len(), fixture.count_points().await), (0, 80_000));
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    let output = archive(&with(&fixture, &[]), &file.join("below"), &[]);
    assert_eq!(output.status.code(), Some(74), "{}", text(&output));
    assert_eq!(fixture.count_points().await, 80_000);
    // What was done stays done, and is not said.
    let mut silent = command(&with(&fixture, &[]));
    silent.args(arguments(root.path(), &[])).stdout(File::options().write(true).open("/dev/full").unwrap());
    let output = silent.output().unwrap();
    assert_eq!(output.status.code(), Some(74), "{}", text(&output));
    assert_eq!((rows_of_all(root.path()).len(), fixture.count_points().await), (80_000, 0));
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_drop_is_refused_before_anything_is_written() {
    let Some(fixture) = daily("archive_rights").await else { return };
    special(&fixture).await;
    let role = format!("{}_worker", fixture.name);
    fixture.client.batch_execute(&format!("create role {role} login")).await.unwrap();
    let granted = run(&fixture.environment(), &["migrate", "--worker-role", &role]);
    assert_eq!(granted.status.code(), Some(0), "{}", text(&granted));
    let root = tempfile::tempdir().unwrap();
    let mut environment = with(&fixture, &[]);
    for (name, value) in &mut environment {
        if name == "DATABASE_URL" {
            *value = value.replacen("postgres@", &format!("{role}@"), 1);
        }
    }
    let output = archive(&environment, &root.path().join("a"), &[]);
    assert_eq!(output.status.code(), Some(64), "{}", text(&output));
    assert!(text(&output).contains("may not drop points: time_series_data_points belongs to"), "{}", text(&output));
    assert!(!root.path().join("a").try_exists().unwrap());
    assert_eq!(fixture.count_points().await, 3 * 79 + 1);
    fixture.remove_with_role(&role).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn points_are_not_dropped_because_of_a_file_without_a_manifest() {
    let Some(fixture) = daily("archive_orphan").await else { return };
    let root = tempfile::tempdir().unwrap();
    let environment = with(&fixture, &[]);
    special(&fixture).await;
    archived(&environment, root.path(), &["--keep"]);
    let all = sorted(rows_of_all(root.path()));
    // As if it had been killed before it wrote them.
    for manifest in files(root.path(), ".json") {
        fs::remove_file(manifest).unwrap();
    }
    let units = archived(&environment, root.path(), &[]);
    assert!(
        units.iter().all(|unit| unit["exported"] == true && unit["removed"].as_array().unwrap().len() == 1),
        "{units:?}"
    );
    assert_eq!((sorted(rows_of_all(root.path())), fixture.count_points().await), (all, 1));
    // As if it was lost after the points were dropped.
    fs::remove_file(&files(root.path(), ".json")[0]).unwrap();
    store(&fixture, &[("a", "late", FIRST_US, Some(1.0))]).await;
    let output = archive(&environment, root.path(), &[]);
    assert_eq!(output.status.code(), Some(64), "{}", text(&output));
    assert!(
        text(&output).contains("the file has no manifest, and points that the table does not have"),
        "{}",
        text(&output)
    );
    assert_eq!((parquet(root.path()).len(), fixture.count_points().await), (4, 2));
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_dropped_with_their_points_in_any_schema() {
    let settings =
        [DAILY, ("SERIES_INGEST__DATABASE__SCHEMA", "mine"), ("SERIES_INGEST__POINTS__ON_DUPLICATE", "replace")];
    for is_plain in [false, true] {
        let Some(fixture) = Fixture::unmigrated("archive_versions", 1).await else { return };
        fixture.client.batch_execute("create schema mine; set search_path = mine").await.unwrap();
        if is_plain {
            fixture.client.batch_execute("create schema _timescaledb_catalog").await.unwrap();
        }
        schema::migrate(&fixture.config(&settings)).await.unwrap();
        let mut environment = with(&fixture, &[]);
        environment.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let times: Vec<i64> = (0..300).map(|hour| FIRST_US + hour * DAY_US / 100).collect();
        let rows: Vec<_> = times.iter().map(|time| ("s", "v", *time, Some(*time as f64))).collect();
        store(&fixture, &rows).await;
        let versions = "insert into ingest_point_version
                            (time_series_id, column_name, \"timestamp\", message_ms, \"offset\", partition, source_id)
                        select time_series_id, column_name, \"timestamp\", 1, 1, 1, 1 from time_series_data_points";
        fixture.client.batch_execute(versions).await.unwrap();
        let all = sorted(fixture.stored().await);
        let root = tempfile::tempdir().unwrap();
        assert_eq!(archived(&environment, root.path(), &[]).len(), 3);
        assert_eq!(fixture.count_points().await, 0);
        assert_eq!(fixture.count("select count(*) from ingest_point_version").await, 0);
        let chunks = "select count(*) from pg_inherits where inhparent in
                          ('time_series_data_points'::regclass, 'ingest_point_version'::regclass)";
        assert_eq!(fixture.count(chunks).await, 0);
        assert_eq!(import(&environment, root.path()), 300);
        assert_eq!(sorted(fixture.stored().await), all);
        fixture.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_chunks_are_archived_as_others() {
    let Some(fixture) = Fixture::on_community("archive_compressed", 1, Profile::Standard).await else { return };
    special(&fixture).await;
    let sql = "select count(compress_chunk(format('%I.%I', chunk_schema, chunk_name)::regclass))
               from timescaledb_information.chunks where range_end < now() - interval '30 days'";
    assert!(fixture.count(sql).await > 0);
    let (recent, old): (Vec<Row>, Vec<Row>) =
        sorted(fixture.stored().await).into_iter().partition(|row| row.2 > FIRST_US + 4 * DAY_US);
    let root = tempfile::tempdir().unwrap();
    let units = archived(&with(&fixture, &[]), root.path(), &[]);
    assert!(units.iter().all(|unit| unit["dropped"] == true), "{units:?}");
    assert_eq!(fixture.stored().await, recent);
    assert_eq!(sorted(rows_of_all(root.path())), old);
    import(&with(&fixture, &[]), root.path());
    assert_eq!(fixture.stored().await.len(), old.len() + recent.len());
    fixture.remove().await;
}

/// A NaN of another program is in the file to the last bit.
#[tokio::test(flavor = "multi_thread")]
async fn a_nan_is_in_the_file_as_it_is_in_the_table() {
    let Some(fixture) = daily("archive_nan").await else { return };
    store(&fixture, &[("s", "v", FIRST_US, Some(f64::NAN)), ("s", "v", FIRST_US + 1, None)]).await;
    let root = tempfile::tempdir().unwrap();
    archived(&with(&fixture, &[]), root.path(), &[]);
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&parquet(root.path())[0]).unwrap()).unwrap();
    let batch = reader.build().unwrap().next().unwrap().unwrap();
    let values = batch.column(3).as_primitive::<Float64Type>();
    assert!(values.is_valid(0) && values.value(0).is_nan() && values.is_null(1));
    fixture.remove().await;
}

/// The command lines of docs/keeping-archive.md, one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_lines_of_the_documentation_work() {
    let Some(fixture) = daily("archive_documentation").await else { return };
    special(&fixture).await;
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("archive");
    std::os::unix::fs::symlink(PROGRAM, root.path().join("series-ingest")).unwrap();
    let document = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/keeping-archive.md")).unwrap();
    let blocks = document.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let lines: Vec<&str> = blocks.flat_map(str::lines).collect();
    assert!(lines.len() > 6, "{lines:?}");
    let path = format!("{}:{}", root.path().display(), std::env::var("PATH").unwrap());
    let all = sorted(fixture.stored().await);
    for line in &lines {
        let line = line.replace("/mnt/archive", folder.to_str().unwrap());
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", &line]).current_dir(root.path()).env_clear();
        let output = shell.envs(with(&fixture, &[])).env("PATH", &path).output().unwrap();
        assert!(output.status.success(), "{line}: {}", text(&output));
        let mut now = fixture.stored().await;
        let is_dropped = now.len() == 1;
        now.extend(if is_dropped { rows_of_all(&folder) } else { Vec::new() });
        let is_whole = sorted(now) == all;
        assert!(is_whole || line.contains("import"), "{line}: all points are in the table or in files");
    }
    assert_eq!(fixture.count_points().await, 1, "in the end they are archived");
    fixture.remove().await;
}
