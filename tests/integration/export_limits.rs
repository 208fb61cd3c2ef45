//! `points export` where something is extreme: very many columns, values near the largest, names of files that meet.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Output;

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use crate::support::fixture::Fixture;
use crate::support::worker::{run, run_measured, text};

type Environment = Vec<(String, String)>;

fn export(environment: &Environment, arguments: &[&str]) -> Output {
    run(environment, &[&["points", "export"], arguments].concat())
}

/// What the command printed; it must have succeeded.
fn exported(environment: &Environment, arguments: &[&str]) -> String {
    let output = export(environment, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(environment: &Environment, arguments: &[&str], words: &str) {
    let output = export(environment, arguments);
    assert!(output.status.code() == Some(64) && text(&output).contains(words), "{arguments:?}: {}", text(&output));
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn rows(path: &Path) -> i64 {
    let file = fs::File::open(path).unwrap();
    ParquetRecordBatchReaderBuilder::try_new(file).unwrap().metadata().file_metadata().num_rows()
}

async fn store(fixture: &Fixture, sql: &str) {
    let insert = "insert into time_series_data_points (time_series_id, column_name, \"timestamp\", value)";
    fixture.client.batch_execute(&format!("{insert} {sql}")).await.unwrap();
}

async fn define(fixture: &Fixture, id: &str) {
    let sql = "insert into time_series_metadata (id, time_column, value_columns) values ($1, 'date', '[]')";
    fixture.client.execute(sql, &[&id]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded_for_ten_thousand_columns() {
    let Some(fixture) = Fixture::new("export_memory", 1).await else { return };
    define(&fixture, "sparse").await;
    define(&fixture, "dense").await;
    // Each time has a point of one column, and each time has one of all.
    let time = "'2025-01-01 00:00Z'::timestamptz + n * interval '1 second'";
    store(&fixture, &format!("select 'sparse', 'c' || n % 10000, {time}, n from generate_series(0, 4999) as n")).await;
    let dense = format!(
        "select 'dense', 'c' || c, {time}, random() from generate_series(1, 3000) as c, generate_series(1, 100) as n"
    );
    store(&fixture, &dense).await;
    // The definition has all ten thousand.
    let columns = json!((0..10_000).map(|n| format!("c{n}")).collect::<Vec<_>>()).to_string();
    let sql = "update time_series_metadata set value_columns = $1 where id = 'sparse'";
    fixture.client.execute(sql, &[&columns]).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (id, count) in [("sparse", 5_000), ("dense", 100)] {
        for format in ["parquet", "arrow"] {
            let path = folder.path().join(format!("{id}.{format}"));
            let arguments = ["points", "export", id, "--out", path.to_str().unwrap()];
            let (output, most) = run_measured(&fixture.environment(), &arguments);
            assert_eq!(output.status.code(), Some(0), "{}", text(&output));
            println!("export_memory: {id}.{format}: {} MiB", most >> 20);
            assert!(most < 256 << 20, "{id}.{format}: {} MiB", most >> 20);
            if format == "parquet" {
                assert_eq!(rows(&path), count);
            }
        }
    }
    fixture.remove().await;
}

/// Lines of CSV: by the first field the others.
fn cells(text: &str) -> BTreeMap<String, Vec<String>> {
    let line = |line: &str| {
        let mut cells = line.split(',').map(str::to_owned);
        (cells.next().unwrap(), cells.collect())
    };
    text.lines().skip(1).map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn aggregates_of_the_largest_and_the_smallest_values_are_numbers() {
    let Some(fixture) = Fixture::new("export_extremes", 1).await else { return };
    define(&fixture, "s").await;
    let most = f64::MAX;
    let least = f64::from_bits(1);
    let infinite = f64::INFINITY;
    // The values of an hour, their mean and their sum.
    let hours: [(&[f64], f64, f64); 13] = [
        (&[1e200, -1e200, 3.0], 1.0, 3.0),
        (&[1e200, 3e200], 2e200, 4e200),
        (&[1.7e308, 1.7e308], 1.7e308, infinite),
        (&[-1.7e308, -1.7e308, 5.0], -1.7e308 / 3.0 * 2.0, -infinite),
        (&[most, most, most, most, most, most, most], most, infinite),
        (&[most, -most, 7.0, 1.0], 2.0, 8.0),
        (&[1e300, 1e-300], 5e299, 1e300),
        (&[least, 0.0, 0.0], 0.0, least),
        (&[least, least], least, 2.0 * least),
        (&[infinite, 1.7e308, 1.7e308], infinite, infinite),
        (&[-infinite, 1.7e308, 1.0], -infinite, -infinite),
        (&[0.1, 0.2, 0.3], (0.1 + 0.2 + 0.3) / 3.0, 0.1 + 0.2 + 0.3),
        (&[-2.5], -2.5, -2.5),
    ];
    let (mut at, mut values) = (Vec::new(), Vec::new());
    for (hour, (of_hour, ..)) in hours.iter().enumerate() {
        for (second, value) in of_hour.iter().enumerate() {
            at.push((hour * 3600 + second) as f64);
            values.push(*value);
        }
    }
    let sql = "insert into time_series_data_points (time_series_id, column_name, \"timestamp\", value)
               select 's', 'v', to_timestamp(at), value from unnest($1::float8[], $2::float8[]) as t (at, value)";
    fixture.client.execute(sql, &[&at, &values]).await.unwrap();
    // An hour of NULL only.
    store(&fixture, "values ('s', 'v', to_timestamp(3600 * 13), null)").await;
    let arguments = ["s", "--bucket", "1h", "--aggregate", "mean,sum,min,max,count"];
    let found = cells(&exported(&fixture.environment(), &arguments));
    assert_eq!(found.len(), hours.len() + 1);
    for ((time, found), (values, mean, sum)) in found.iter().zip(hours) {
        let number = |at: usize| found[at].parse::<f64>().unwrap();
        let is_near = |found: f64, expected: f64| found == expected || ((found - expected) / expected).abs() < 1e-15;
        assert!(is_near(number(0), mean), "{time}: {values:?}: mean {found:?}, {mean:e}");
        assert!(is_near(number(1), sum), "{time}: {values:?}: sum {found:?}, {sum:e}");
        let sorted = |from: f64, by: fn(f64, f64) -> f64| values.iter().copied().fold(from, by);
        assert_eq!((number(2), number(3)), (sorted(infinite, f64::min), sorted(-infinite, f64::max)));
        assert_eq!(number(4), values.len() as f64);
    }
    assert_eq!(found.last_key_value().unwrap().1[..], ["", "", "", "", "0.0"]);
    // Only one of several series has such values.
    define(&fixture, "t").await;
    store(&fixture, "values ('t', 'v', to_timestamp(0), 1)").await;
    let all = exported(&fixture.environment(), &["--match", "*", "--long", "--bucket", "1h"]);
    assert_eq!(all.lines().count(), 1 + hours.len() + 1 + 1, "{all}");
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_on_standard_output_leave_the_document_to_standard_error() {
    let Some(fixture) = Fixture::new("export_json", 1).await else { return };
    define(&fixture, "s").await;
    store(&fixture, "values ('s', 'v', to_timestamp(0), 1)").await;
    let output = export(&fixture.environment(), &["s", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let document: Value =
        serde_json::from_slice(&output.stderr).unwrap_or_else(|error| panic!("{error}: {}", text(&output)));
    assert_eq!(document["files"], json!([{"file": "-", "series": 1, "rows": 1}]));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "date,v\n1970-01-01T00:00:00Z,1.0\n");
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_file_of_a_series_replaces_that_of_another_one() {
    let Some(fixture) = Fixture::new("export_meet", 1).await else { return };
    for id in ["huge", "huge.1970-01-01", "huge@1970-01-01", "huge~1970-01-01"] {
        define(&fixture, id).await;
    }
    store(&fixture, "select 'huge', 'v', to_timestamp(n), n from generate_series(1, 4) as n").await;
    let folder = tempfile::tempdir().unwrap();
    let out = format!("{}/", folder.path().display());
    let environment = fixture.environment();
    for _ in 0..2 {
        exported(&environment, &["--match", "*", "--partition-by", "day", "--out", &out, "--overwrite"]);
        let expected = [
            "huge%401970-01-01.parquet",
            "huge%7E1970-01-01.parquet",
            "huge.1970-01-01.parquet",
            "huge@1970-01-01.parquet",
        ];
        assert_eq!(names(folder.path()), expected);
        assert_eq!(rows(&folder.path().join("huge@1970-01-01.parquet")), 4);
    }
    exported(&environment, &["huge", "--partition-by", "month", "--out", &out]);
    assert_eq!(rows(&folder.path().join("huge@1970-01.parquet")), 4);

    // Two names that are the same file, by a link.
    let folder = tempfile::tempdir().unwrap();
    let out = format!("{}/", folder.path().display());
    fs::write(folder.path().join("huge.parquet"), "old").unwrap();
    symlink("huge.parquet", folder.path().join("huge.1970-01-01.parquet")).unwrap();
    let one_after_the_other = ["huge", "huge.1970-01-01", "--out", &out, "--overwrite"];
    refused(&environment, &one_after_the_other, "is the file of another series");
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_stay_and_devices_are_no_files() {
    let Some(fixture) = Fixture::new("export_links", 1).await else { return };
    define(&fixture, "s").await;
    store(&fixture, "values ('s', 'v', to_timestamp(0), 1)").await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let environment = fixture.environment();
    fs::create_dir(path("data")).unwrap();
    fs::write(path("data/s.csv"), "old").unwrap();
    symlink("data/s.csv", path("s.csv")).unwrap();
    refused(&environment, &["s", "--out", path("s.csv").to_str().unwrap()], "exists");
    exported(&environment, &["s", "--out", path("s.csv").to_str().unwrap(), "--overwrite"]);
    assert!(fs::symlink_metadata(path("s.csv")).unwrap().is_symlink());
    assert!(fs::read_to_string(path("data/s.csv")).unwrap().starts_with("date,v\n"));
    symlink("/dev/null", path("null.csv")).unwrap();
    for more in [&[][..], &["--overwrite"]] {
        let arguments = ["s", "--format", "csv", "--out", path("null.csv").to_str().unwrap()].map(str::to_owned);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
        refused(&environment, &arguments, "is not a regular file");
    }
    assert_eq!(names(folder.path()), ["data", "null.csv", "s.csv", "s.csv.series.json"]);
    fixture.remove().await;
}
