//! `points export`, then `points import` into another database: all of it is there again, to the last bit.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::support::fixture::Fixture;
use crate::support::worker::{command, run, text};
use crate::support::{seed, until};

type Environment = Vec<(String, String)>;

/// Batches so small that an import has many.
const SMALL: (&str, &str) = ("SERIES_INGEST__BATCH__MAX_POINTS", "500");

fn environment(fixture: &Fixture) -> Environment {
    let mut environment = fixture.environment();
    environment.push((SMALL.0.to_owned(), SMALL.1.to_owned()));
    environment
}

fn succeed(environment: &Environment, arguments: &[&str]) -> String {
    let output = run(environment, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output));
    text(&output)
}

/// A definition as the tables have it: id, name, description, time column, columns, labels.
type Definition = (String, Option<String>, Option<String>, String, String, Option<String>);
/// A point: series, column, microseconds since the Unix epoch, bits.
type Point = (String, String, i64, Option<u64>);

async fn stored(fixture: &Fixture) -> (Vec<Definition>, Vec<Point>) {
    let sql = "select id::text, name::text, description::text, time_column::text, value_columns::text, labels::text
               from time_series_metadata order by id collate \"C\"";
    let rows = fixture.client.query(sql, &[]).await.unwrap();
    let definitions = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4), row.get(5)));
    let definitions = definitions.collect();
    let sql = "select time_series_id::text, column_name::text,
                      (extract(epoch from \"timestamp\") * 1000000)::numeric::bigint, value
               from time_series_data_points";
    let rows = fixture.client.query(sql, &[]).await.unwrap();
    let bits = |value: Option<f64>| value.map(f64::to_bits);
    let mut points: Vec<Point> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), bits(row.get(3)))).collect();
    points.sort();
    (definitions, points)
}

/// A series with all that a definition can have.
struct Series {
    id: &'static str,
    name: Option<&'static str>,
    time_column: &'static str,
    columns: &'static [&'static str],
    labels: Option<&'static str>,
}

const ALL: [Series; 7] = [
    Series {
        id: "plant/α \"1\"\nline",
        name: Some("A 'name'\twith \\ and \u{1F600}"),
        time_column: "date",
        columns: &["b", "a", "Name, with \"quotes\"\nand lines"],
        labels: Some(r#"{"n": 123456789012345678901234567890, "x": 1.10, "é \"q\"\n": true, "t": "\u0001"}"#),
    },
    Series { id: "plain", name: None, time_column: "timestamp", columns: &["v"], labels: None },
    Series { id: "never", name: Some(""), time_column: "t", columns: &["v", "w"], labels: Some(r#"{"v": "w"}"#) },
    // Names that mean something in files of other programs.
    Series {
        id: "names",
        name: None,
        time_column: "value",
        columns: &["series", "__index_level_0__", "column", "timestamp"],
        labels: None,
    },
    Series { id: "no columns", name: None, time_column: "date", columns: &[], labels: None },
    Series { id: "no points", name: None, time_column: "date", columns: &["a b", "c d", "e"], labels: None },
    Series { id: "../-etc~", name: None, time_column: "value", columns: &["NaN", "null"], labels: None },
];

/// The values that are seldom, then any bits that are a value.
fn value(random: &mut StdRng, row: usize) -> Option<f64> {
    const SPECIAL: [Option<f64>; 9] = [
        None,
        Some(0.1),
        Some(-0.0),
        Some(5e-324),
        Some(f64::MAX),
        Some(f64::MIN_POSITIVE),
        Some(f64::INFINITY),
        Some(f64::NEG_INFINITY),
        Some(9007199254740993.0),
    ];
    let any = f64::from_bits(random.random());
    SPECIAL.get(row % 40).copied().unwrap_or((!any.is_nan()).then_some(any))
}

/// The times at which a column has no point.
#[derive(Debug, Clone, Copy)]
enum Gaps {
    /// All columns have the same times.
    None,
    /// Columns have times of their own, and points without a value.
    WithNulls,
    /// Columns have times of their own, and values at all of them.
    WithoutNulls,
}

/// Stores all series.
async fn fill(fixture: &Fixture, random: &mut StdRng, rows: usize, gaps: Gaps) {
    for series in &ALL {
        let columns = serde_json::to_string(series.columns).unwrap();
        let sql = "insert into time_series_metadata (id, name, description, time_column, value_columns, labels)
                   values ($1, $2, $3, $4, $5, $6::text::jsonb)";
        let description = series.name.map(|name| format!("About {name}\n"));
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
            [&series.id, &series.name, &description, &series.time_column, &columns, &series.labels];
        fixture.client.execute(sql, &values).await.unwrap();
        if ["never", "no points"].contains(&series.id) {
            continue;
        }
        let (mut names, mut times, mut values) = (Vec::new(), Vec::new(), Vec::new());
        // From before 1970 on, each with its own microseconds.
        let mut time = -3_600_000_000_i64;
        for row in 0..rows {
            time += random.random_range(1..40_000_000);
            for column in series.columns {
                let value = value(random, row);
                let is_point = match gaps {
                    Gaps::None => true,
                    Gaps::WithNulls => random.random_bool(0.6),
                    Gaps::WithoutNulls => value.is_some() && random.random_bool(0.6),
                };
                if is_point {
                    names.push(*column);
                    times.push(time);
                    values.push(value);
                }
            }
        }
        let sql = "insert into time_series_data_points (time_series_id, column_name, \"timestamp\", value)
                   select $1, name, 'epoch'::timestamptz + us * interval '1 microsecond', value
                   from unnest($2::text[], $3::bigint[], $4::double precision[]) as t (name, us, value)";
        fixture.client.execute(sql, &[&series.id, &names, &times, &values]).await.unwrap();
    }
}

fn files(folder: &Path, ending: &str) -> Vec<String> {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let names = paths.map(|path| path.to_str().unwrap().to_owned());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(ending)).collect();
    names.sort();
    names
}

/// Exports everything, imports it into an empty database, twice, and compares.
async fn moved(test: &str, random: &mut StdRng, form: &str, gaps: Gaps) {
    let Some(source) = Fixture::new(&format!("{test}_from"), 1).await else { return };
    fill(&source, random, 700, gaps).await;
    let expected = stored(&source).await;
    for ending in ["parquet", "arrow", "csv", "csv.gz", "jsonl", "jsonl.zst"] {
        let target = Fixture::new(&format!("{test}_to"), 1).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let paths = if form == "--long" {
            let path = folder.path().join(format!("all.{ending}"));
            succeed(
                &environment(&source),
                &["points", "export", "--match", "*", form, "--out", path.to_str().unwrap()],
            );
            vec![path.to_str().unwrap().to_owned()]
        } else {
            let (format, compression) = ending.split_once('.').unwrap_or((ending, ""));
            let compression = match compression {
                "gz" => ["--compression", "gzip"].as_slice(),
                "zst" => &["--compression", "zstd"],
                _ => &[],
            };
            let out = ["points", "export", "--match", "*", form, "--format", format, "--out"];
            let out = [&out, [folder.path().to_str().unwrap()].as_slice(), compression].concat();
            succeed(&environment(&source), &out);
            files(folder.path(), ending)
        };
        assert_eq!(paths.len(), if form == "--long" { 1 } else { ALL.len() }, "{ending}: {paths:?}");
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let arguments = [&["points", "import"], paths.as_slice()].concat();
        succeed(&environment(&target), &arguments);
        assert_same(&stored(&target).await, &expected, &format!("{form} {ending}"));
        let again = succeed(&environment(&target), &arguments);
        assert_eq!(again.matches(" 0 points written").count(), paths.len(), "{again}");
        assert_same(&stored(&target).await, &expected, ending);
        target.remove().await;
    }
    source.remove().await;
}

fn assert_same(there: &(Vec<Definition>, Vec<Point>), expected: &(Vec<Definition>, Vec<Point>), what: &str) {
    assert_eq!(there.0, expected.0, "{what}");
    assert_eq!(there.1.len(), expected.1.len(), "{what}: points");
    for (one, other) in there.1.iter().zip(&expected.1) {
        assert_eq!(one, other, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wide_files_bring_back_all_that_was_exported() {
    let mut random = StdRng::seed_from_u64(seed("moves_wide"));
    moved("moves_wide", &mut random, "--wide", Gaps::None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wide_files_keep_times_that_have_no_point_of_a_column() {
    let mut random = StdRng::seed_from_u64(seed("moves_absent"));
    moved("moves_absent", &mut random, "--wide", Gaps::WithoutNulls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_files_bring_back_columns_with_times_of_their_own() {
    let mut random = StdRng::seed_from_u64(seed("moves_long"));
    moved("moves_long", &mut random, "--long", Gaps::WithNulls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_of_an_export_that_is_killed_twenty_times_is_the_same() {
    let Some(source) = Fixture::new("moves_killed_from", 1).await else { return };
    let target = Fixture::new("moves_killed_to", 1).await.unwrap();
    let mut random = StdRng::seed_from_u64(seed("moves_killed"));
    fill(&source, &mut random, 8_000, Gaps::WithNulls).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("all.parquet");
    let path = path.to_str().unwrap();
    succeed(&environment(&source), &["points", "export", "--match", "*", "--long", "--out", path]);
    let mut killed_at_work = 0;
    for _ in 0..20 {
        let mut command = command(&environment(&target));
        command.args(["points", "import", path]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let bound = target.count_points().await + random.random_range(0..1_500);
        let deadline = tokio::time::Instant::now() + Duration::from_millis(random.random_range(50..3_000));
        while target.count_points().await < bound && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        killed_at_work += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(killed_at_work > 10, "there was work to do at most kills: {killed_at_work}");
    until(60, "the killed ones' sessions have ended", async || {
        let sql = "select count(*) from pg_stat_activity where datname = current_database() and state <> 'idle'
                   and backend_type = 'client backend' and pid <> pg_backend_pid()";
        target.count(sql).await == 0
    })
    .await;
    succeed(&environment(&target), &["points", "import", path]);
    assert_same(&stored(&target).await, &stored(&source).await, "after kills");
    target.remove().await;
    source.remove().await;
}
