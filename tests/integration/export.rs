//! `points export`: every value to its last bit, in files that are whole or not there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Float64Type, TimestampMicrosecondType};
use arrow_array::{Array as _, RecordBatch};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::support::fixture::Fixture;
use crate::support::fixture_with_proxy::FixtureWithProxy;
use crate::support::until;
use crate::support::worker::{PROGRAM, command, run, text};

/// By time: the bits of each column's value, or `None` for NULL.
type Frame = BTreeMap<i64, BTreeMap<String, Option<u64>>>;
type Environment = Vec<(String, String)>;

/// Enough windows for a test to meet the command in their middle.
const SMALL_WINDOWS: &str = "export-windows-are-small";

fn with(fixture: &Fixture, bugs: &[&str]) -> Environment {
    let mut environment = fixture.environment();
    let of_test = std::env::var("SERIES_INGEST_PLANTED_BUGS").ok();
    let names: Vec<&str> = bugs.iter().copied().chain(of_test.as_deref()).collect();
    environment.push(("SERIES_INGEST_PLANTED_BUGS".to_owned(), names.join(",")));
    environment
}

fn export(environment: &Environment, arguments: &[&str]) -> Output {
    run(environment, &[&["points", "export"], arguments].concat())
}

/// What the command printed; it must have succeeded.
fn exported(environment: &Environment, arguments: &[&str]) -> Vec<u8> {
    let output = export(environment, arguments);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    output.stdout
}

fn spawn(environment: &Environment, arguments: &[&str]) -> Child {
    let mut command = command(environment);
    command.args(["points", "export"]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

async fn define(fixture: &Fixture, id: &str, columns: &[&str]) {
    let columns = serde_json::json!(columns).to_string();
    let sql = "insert into time_series_metadata (id, name, time_column, value_columns, labels)
               values ($1, 'A \"name\"', 'date', $2, '{\"site\": \"a\"}')";
    fixture.client.execute(sql, &[&id, &columns]).await.unwrap();
}

/// Stores points in this order: column, time in microseconds, value.
async fn store(fixture: &Fixture, id: &str, points: &[(&str, i64, Option<f64>)]) {
    let columns: Vec<&str> = points.iter().map(|point| point.0).collect();
    let times: Vec<i64> = points.iter().map(|point| point.1).collect();
    let values: Vec<Option<f64>> = points.iter().map(|point| point.2).collect();
    let sql = "insert into time_series_data_points (time_series_id, column_name, \"timestamp\", value)
               select $1, name, 'epoch'::timestamptz + us * interval '1 microsecond', value
               from unnest($2::text[], $3::bigint[], $4::double precision[]) with ordinality as t (name, us, value, n)
               order by n";
    fixture.client.execute(sql, &[&id, &columns, &times, &values]).await.unwrap();
}

fn add(frame: &mut Frame, batch: &RecordBatch) {
    let schema = batch.schema();
    let times = batch.column(0).as_primitive::<TimestampMicrosecondType>();
    for (number, field) in schema.fields().iter().enumerate().skip(1) {
        let values = batch.column(number).as_primitive::<Float64Type>();
        for row in 0..batch.num_rows() {
            let value = values.is_valid(row).then(|| values.value(row).to_bits());
            let cells = frame.entry(times.value(row)).or_default();
            assert_eq!(cells.insert(field.name().clone(), value), None, "a time is there once");
        }
    }
}

fn parquet(path: &Path) -> (Frame, Vec<String>, BTreeMap<String, String>) {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let names = builder.schema().fields().iter().map(|field| field.name().clone()).collect();
    let pairs = builder.metadata().file_metadata().key_value_metadata().cloned().unwrap_or_default();
    let pairs = pairs.into_iter().map(|pair| (pair.key, pair.value.unwrap_or_default())).collect();
    let mut frame = Frame::new();
    builder.build().unwrap().for_each(|batch| add(&mut frame, &batch.unwrap()));
    (frame, names, pairs)
}

fn arrow(path: &Path) -> Frame {
    let mut frame = Frame::new();
    let reader = arrow_ipc::reader::FileReader::try_new(File::open(path).unwrap(), None).unwrap();
    assert!(reader.schema().metadata()["series_ingest.series"].contains("\"id\""));
    reader.for_each(|batch| add(&mut frame, &batch.unwrap()));
    frame
}

fn microseconds(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_microsecond()
}

/// A CSV file whose names need no quotes.
fn csv(text: &str) -> Frame {
    let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    let cell = |text: &str| (!text.is_empty()).then(|| text.parse::<f64>().unwrap().to_bits());
    lines
        .map(|cells| {
            let values = header.iter().zip(&cells).skip(1).map(|(name, text)| ((*name).to_owned(), cell(text)));
            (microseconds(cells[0]), values.collect())
        })
        .collect()
}

fn json_lines(text: &str) -> Frame {
    let cell = |value: &serde_json::Value| match value {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text.parse::<f64>().unwrap().to_bits()),
        number => Some(number.to_string().parse::<f64>().unwrap().to_bits()),
    };
    text.lines()
        .map(|line| {
            let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
            let values = object.iter().filter(|(name, _)| *name != "date");
            let values = values.map(|(name, value)| (name.clone(), cell(value))).collect();
            (microseconds(object["date"].as_str().unwrap()), values)
        })
        .collect()
}

const SPECIAL: [Option<f64>; 10] = [
    Some(0.1),
    Some(-0.0),
    Some(5e-324),
    Some(f64::MAX),
    Some(f64::MIN_POSITIVE),
    Some(f64::INFINITY),
    Some(f64::NEG_INFINITY),
    None,
    Some(1e23),
    Some(-1.0),
];

/// A series whose columns have some of their times in common; returns what is stored.
async fn special(fixture: &Fixture) -> Frame {
    define(fixture, "s", &["b", "a", "never"]).await;
    let (mut points, mut frame) = (Vec::new(), Frame::new());
    for row in 0..700_i64 {
        // From 1969 on, and with microseconds.
        let time = -2_000_000_000 + row * 7_000_001;
        for (at, name) in ["a", "b", "z"].into_iter().enumerate() {
            if (row + at as i64) % 3 > 0 {
                points.push((name, time, SPECIAL[(row as usize + at) % SPECIAL.len()]));
            }
        }
    }
    for (name, time, value) in &points {
        let cells = frame
            .entry(*time)
            .or_insert_with(|| ["a", "b", "z", "never"].into_iter().map(|name| (name.to_owned(), None)).collect());
        cells.insert((*name).to_owned(), value.map(f64::to_bits));
    }
    store(fixture, "s", &points).await;
    frame
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_has_every_value_to_its_last_bit() {
    let Some(fixture) = Fixture::new("export_bits", 1).await else { return };
    let frame = special(&fixture).await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for environment in [with(&fixture, &[]), with(&fixture, &[SMALL_WINDOWS])] {
        let out = |name: &str| {
            exported(&environment, &["s", "--overwrite", "--out", path(name).to_str().unwrap()]);
            path(name)
        };
        let (read, names, pairs) = parquet(&out("s.parquet"));
        assert_eq!(read, frame);
        assert_eq!(names, ["date", "b", "a", "never", "z"]);
        let definitions: serde_json::Value = serde_json::from_str(&pairs["series_ingest.series"]).unwrap();
        let expected = serde_json::json!([{"id": "s", "name": "A \"name\"", "time_column": "date",
            "value_columns": ["b", "a", "never"], "labels": {"site": "a"}}]);
        assert_eq!(definitions, expected);
        assert_eq!(pairs["series_ingest.absent_columns"], "[\"never\"]");
        let pandas: serde_json::Value = serde_json::from_str(&pairs["pandas"]).unwrap();
        assert_eq!(pandas["index_columns"], serde_json::json!(["date"]));
        assert_eq!(arrow(&out("s.arrow")), frame);
        assert_eq!(csv(&fs::read_to_string(out("s.csv")).unwrap()), frame);
        let beside: serde_json::Value = serde_json::from_slice(&fs::read(path("s.csv.series.json")).unwrap()).unwrap();
        let mut of_file = expected.clone();
        of_file[0]["series_ingest.absent_columns"] = serde_json::json!(["never"]);
        assert_eq!(beside, of_file);
        assert_eq!(json_lines(&fs::read_to_string(out("s.jsonl")).unwrap()), frame);
        let mut plain = String::new();
        let compressed = File::open(out("s.csv.gz")).unwrap();
        flate2::read::MultiGzDecoder::new(compressed).read_to_string(&mut plain).unwrap();
        assert_eq!(csv(&plain), frame);
        let compressed = zstd::stream::decode_all(File::open(out("s.jsonl.zst")).unwrap()).unwrap();
        assert_eq!(json_lines(std::str::from_utf8(&compressed).unwrap()), frame);
        assert_eq!(csv(std::str::from_utf8(&exported(&environment, &["s"])).unwrap()), frame);
    }
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn times_columns_and_parts_are_chosen() {
    let Some(fixture) = Fixture::new("export_choice", 1).await else { return };
    let frame = special(&fixture).await;
    let environment = with(&fixture, &[]);
    let rows =
        exported(&environment, &["s", "--column", "a", "--from", "1970-01-01", "--until", "1970-01-01T00:10:00Z"]);
    let chosen: Frame = frame
        .iter()
        .filter(|(time, _)| (0..600_000_000).contains(*time))
        .map(|(time, cells)| (*time, BTreeMap::from([("a".to_owned(), cells["a"])])))
        .collect();
    let read = csv(std::str::from_utf8(&rows).unwrap());
    // A time at which the column has no point has no row.
    assert!(!read.is_empty() && read.iter().all(|(time, cells)| chosen.get(time) == Some(cells)));
    let missing: Vec<_> =
        chosen.iter().filter(|(time, cells)| !read.contains_key(time) && cells["a"].is_some()).collect();
    assert_eq!(missing, []);
    let output = export(&environment, &["s", "--column", "other"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output).contains("has no column \"other\": it has b, a, never, z"), "{}", text(&output));
    let folder = tempfile::tempdir().unwrap();
    let out = format!("{}/new/", folder.path().display());
    exported(&environment, &["s", "--partition-by", "day", "--out", &out]);
    let new = folder.path().join("new");
    assert_eq!(names(&new), ["s@1969-12-31.parquet", "s@1970-01-01.parquet"]);
    let mut all = Frame::new();
    for name in names(&new) {
        let (part, _, _) = parquet(&new.join(&name));
        assert!(part.keys().all(|time| (*time < 0) == name.contains("1969")));
        all.extend(part);
    }
    assert_eq!(all, frame);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_have_the_aggregates_of_their_points() {
    let Some(fixture) = Fixture::new("export_bucket", 1).await else { return };
    define(&fixture, "s", &["v"]).await;
    let points: Vec<(&str, i64, Option<f64>)> =
        (-300..300).map(|row| ("v", row * 1_000_000, (row % 7 != 0).then_some(row as f64))).collect();
    store(&fixture, "s", &points).await;
    for bugs in [&[][..], &[SMALL_WINDOWS]] {
        let out = exported(&with(&fixture, bugs), &["s", "--bucket", "1m", "--aggregate", "mean,min,max,count"]);
        let mut expected = Frame::new();
        for minute in -5..5_i64 {
            let of = |row: &i64| row.div_euclid(60) == minute && row % 7 != 0;
            let values: Vec<f64> = (-300..300).filter(of).map(|row| row as f64).collect();
            let count = values.len() as f64;
            let cells = [
                ("v_mean", values.iter().sum::<f64>() / count),
                ("v_min", values[0]),
                ("v_max", values[values.len() - 1]),
                ("v_count", count),
            ];
            let cells = cells.into_iter().map(|(name, value)| (name.to_owned(), Some(value.to_bits()))).collect();
            expected.insert(minute * 60_000_000, cells);
        }
        assert_eq!(csv(std::str::from_utf8(&out).unwrap()), expected);
    }
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_are_as_the_policy_says() {
    let Some(fixture) = Fixture::new("export_duplicates", 1).await else { return };
    define(&fixture, "s", &["v"]).await;
    store(&fixture, "s", &[("v", 0, Some(1.0)), ("v", 1, Some(5.0)), ("v", 0, None), ("v", 0, Some(3.0))]).await;
    let environment = with(&fixture, &[]);
    let of = |arguments: &[&str]| {
        let out = exported(&environment, &[&["s", "--duplicates"], arguments].concat());
        String::from_utf8(out).unwrap()
    };
    let (zero, one) = ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000001Z");
    assert_eq!(of(&["last"]), format!("date,v\n{zero},3.0\n{one},5.0\n"));
    assert_eq!(of(&["first"]), format!("date,v\n{zero},1.0\n{one},5.0\n"));
    let all = format!("series,timestamp,column,value\ns,{zero},v,1.0\ns,{zero},v,\ns,{zero},v,3.0\ns,{one},v,5.0\n");
    assert_eq!(of(&["all", "--long"]), all);
    let output = export(&environment, &["s", "--duplicates", "fail"]);
    assert_eq!(output.status.code(), Some(65));
    assert!(text(&output).contains("has 3 points of the column \"v\" at 1970-01-01T00:00:00Z"), "{}", text(&output));
    assert_eq!(export(&environment, &["s", "--duplicates", "all"]).status.code(), Some(64));
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_columns_and_none_are_a_file() {
    let Some(fixture) = Fixture::new("export_columns", 1).await else { return };
    define(&fixture, "s", &[]).await;
    define(&fixture, "empty", &["a", "b"]).await;
    define(&fixture, "nothing", &[]).await;
    let columns: Vec<String> = (0..10_000).map(|number| format!("c{number:05}")).collect();
    let points: Vec<(&str, i64, Option<f64>)> = columns.iter().map(|name| (name.as_str(), 7, Some(1.5))).collect();
    store(&fixture, "s", &points).await;
    let folder = tempfile::tempdir().unwrap();
    let out = format!("{}/", folder.path().display());
    exported(&with(&fixture, &[SMALL_WINDOWS]), &["--label", "site=a", "--out", &out]);
    let (frame, names, _) = parquet(&folder.path().join("s.parquet"));
    assert_eq!(names[1..], columns);
    assert_eq!(frame.len(), 1);
    assert!(frame[&7].values().all(|value| *value == Some(1.5_f64.to_bits())));
    let (frame, names, _) = parquet(&folder.path().join("empty.parquet"));
    assert_eq!((frame, names), (Frame::new(), vec!["date".to_owned(), "a".to_owned(), "b".to_owned()]));
    let (frame, names, _) = parquet(&folder.path().join("nothing.parquet"));
    assert_eq!((frame, names), (Frame::new(), vec!["date".to_owned()]));
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_names_are_files_and_fields_of_their_own() {
    let Some(fixture) = Fixture::new("export_names", 1).await else { return };
    let long = "/".repeat(1024);
    let ids = ["x/a", "x'\n\"", "x..", "y", &long];
    for id in ids {
        define(&fixture, id, &[]).await;
        store(&fixture, id, &[("c,\"\n'", 0, Some(1.0))]).await;
    }
    let environment = with(&fixture, &[]);
    let folder = tempfile::tempdir().unwrap();
    let out = format!("{}/", folder.path().display());
    exported(&environment, &["--match", "x*", "--out", &out]);
    assert_eq!(names(folder.path()), ["x%27%0A%22.parquet", "x%2Fa.parquet", "x...parquet"]);
    exported(&environment, &[&long, "--out", &out]);
    assert_eq!(names(folder.path()).len(), 4);
    let (_, columns, _) = parquet(&folder.path().join("x%2Fa.parquet"));
    assert_eq!(columns, ["date", "c,\"\n'"]);
    let lines = exported(&environment, &["x'\n\"", "--long", "--format", "jsonl"]);
    let line: serde_json::Value = serde_json::from_slice(&lines).unwrap();
    assert_eq!((line["series"].as_str(), line["column"].as_str()), (Some("x'\n\""), Some("c,\"\n'")));
    let wide = exported(&environment, &["y"]);
    assert_eq!(String::from_utf8(wide).unwrap(), "date,\"c,\"\"\n'\"\n1970-01-01T00:00:00Z,1.0\n");
    let output = export(&environment, &["--match", "x*", "--format", "csv"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output).contains("these are 3 series"), "{}", text(&output));
    let output = export(&environment, &["y", "unknown"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output).contains("there is no series unknown"), "{}", text(&output));
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_exists_is_kept() {
    let Some(fixture) = Fixture::new("export_exists", 1).await else { return };
    special(&fixture).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.csv");
    fs::write(&path, "mine").unwrap();
    let environment = with(&fixture, &[]);
    let output = export(&environment, &["s", "--out", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output).contains("exists: choose another name"), "{}", text(&output));
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    assert_eq!(names(folder.path()), ["s.csv"]);
    exported(&environment, &["s", "--out", path.to_str().unwrap(), "--overwrite"]);
    assert_ne!(fs::read_to_string(&path).unwrap(), "mine");
    fixture.remove().await;
}

async fn many(fixture: &Fixture) {
    define(fixture, "s", &["v"]).await;
    let sql = "insert into time_series_data_points (time_series_id, column_name, \"timestamp\", value)
               select 's', 'v', 'epoch'::timestamptz + n * interval '1 second', random() from generate_series(1, 200000) as n";
    fixture.client.batch_execute(sql).await.unwrap();
}

/// An export that has begun a file and has many windows before it.
async fn begun(environment: &Environment, folder: &Path) -> (Child, PathBuf) {
    let path = folder.join("s.csv");
    let child = spawn(environment, &["s", "--out", path.to_str().unwrap()]);
    let has_rows = || {
        fs::read_dir(folder)
            .unwrap()
            .any(|entry| entry.is_ok_and(|entry| entry.metadata().is_ok_and(|found| found.len() > 100_000)))
    };
    until(60, "an export that has begun", async || has_rows()).await;
    (child, path)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_leaves_no_file() {
    let Some(fixture) = Fixture::new("export_full", 1).await else { return };
    many(&fixture).await;
    let folder = tempfile::tempdir().unwrap();
    for name in ["s.parquet", "s.arrow", "s.csv", "s.jsonl.gz"] {
        let path = folder.path().join(name);
        // In blocks of 512 bytes.
        let mut limited = Command::new("sh");
        limited.args(["-c", r#"ulimit -f 200; exec "$0" "$@""#, PROGRAM, "points", "export", "s", "--out"]);
        let output = limited.arg(&path).env_clear().envs(with(&fixture, &[])).output().unwrap();
        assert_eq!(output.status.code(), Some(74), "{name}: {}", text(&output));
        assert!(text(&output).contains("File too large"), "{}", text(&output));
        assert_eq!(names(folder.path()), [""; 0], "{name}");
    }
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_leaves_no_file() {
    let Some(away) = FixtureWithProxy::new("export_away", 1).await else { return };
    many(&away.fixture).await;
    let folder = tempfile::tempdir().unwrap();
    let mut environment = with(&away.fixture, &[SMALL_WINDOWS]);
    environment.retain(|(name, _)| name != "DATABASE_URL");
    environment.push(("DATABASE_URL".to_owned(), away.fixture.url_by(away.proxy.port)));
    let (child, path) = begun(&environment, folder.path()).await;
    away.proxy.refuse(true);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(69), "{}", text(&output));
    assert!(!path.try_exists().unwrap());
    assert_eq!(names(folder.path()), [""; 0]);
    away.proxy.refuse(false);
    away.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_export_leaves_no_file() {
    let Some(fixture) = Fixture::new("export_interrupt", 1).await else { return };
    many(&fixture).await;
    let folder = tempfile::tempdir().unwrap();
    let (child, _) = begun(&with(&fixture, &[SMALL_WINDOWS]), folder.path()).await;
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    assert_eq!(names(folder.path()), [""; 0]);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_pipe_is_an_error() {
    let Some(fixture) = Fixture::new("export_pipe", 1).await else { return };
    many(&fixture).await;
    let mut child = spawn(&with(&fixture, &[]), &["s"]);
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(74), "{}", text(&output));
    assert!(text(&output).contains("what was printed is incomplete"), "{}", text(&output));
    fixture.remove().await;
}
