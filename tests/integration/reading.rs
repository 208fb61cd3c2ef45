//! What analysts ask: docs/reading.md's examples as they stand, and the commands and roles for them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::support::fixture::{Fixture, connect, url_with};
use crate::support::skip;
use crate::support::worker::{PROGRAM, run, text};

const DAY_US: i64 = 86_400_000_000;
/// 2024-01-01, in microseconds since the Unix epoch.
const FIRST_US: i64 = 1_704_067_200_000_000;
const DAYS: i64 = 366;
/// The days without a point of `temp_min`, counted from the first.
const MISSING: std::ops::Range<i64> = 60..64;

type Environment = Vec<(String, String)>;

fn done(environment: &Environment, arguments: &[&str]) -> String {
    let output = run(environment, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn document(environment: &Environment, arguments: &[&str]) -> Value {
    serde_json::from_str(&done(environment, arguments)).unwrap()
}

fn refused(environment: &Environment, arguments: &[&str], words: &str) {
    let output = run(environment, arguments);
    assert!(output.status.code() == Some(64) && text(&output).contains(words), "{arguments:?}: {}", text(&output));
}

fn temp_max(day: i64) -> f64 {
    10.0 + (day % 30) as f64 / 4.0
}

/// The series of the documentation.
async fn weather(fixture: &Fixture) {
    let sql = "insert into time_series_metadata (id, name, time_column, value_columns, labels)
               values ('seattle-weather', 'Seattle weather', 'date', '[\"temp_max\", \"temp_min\"]', '{\"site\": \"SEA\"}')";
    fixture.client.batch_execute(sql).await.unwrap();
    let (mut names, mut times, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for day in 0..DAYS {
        for (name, value) in [("temp_max", temp_max(day)), ("temp_min", temp_max(day) - 5.0)] {
            if name == "temp_max" || !MISSING.contains(&day) {
                names.push(name);
                times.push(FIRST_US + day * DAY_US);
                values.push(value);
            }
        }
    }
    let sql = "insert into time_series_data_points (time_series_id, column_name, \"timestamp\", value)
               select 'seattle-weather', name, 'epoch'::timestamptz + us * interval '1 microsecond', value
               from unnest($1::text[], $2::bigint[], $3::double precision[]) as t (name, us, value)";
    fixture.client.execute(sql, &[&names, &times, &values]).await.unwrap();
}

/// A question of docs/reading.md: its heading, and its examples with their languages.
struct Question {
    heading: String,
    examples: Vec<(String, String)>,
}

fn questions() -> Vec<Question> {
    let document = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reading.md")).unwrap();
    let part = document.split("\n## ").find(|part| part.starts_with("Ten questions")).unwrap();
    let questions = part.split("\n### ").skip(1).map(|text| {
        let heading = text.lines().next().unwrap().to_owned();
        let blocks = text.split("```").skip(1).step_by(2).map(|block| block.split_once('\n').unwrap());
        Question { heading, examples: blocks.map(|(kind, code)| (kind.to_owned(), code.to_owned())).collect() }
    });
    questions.collect()
}

/// Where the examples run: a folder with the program and psql in its path, and another database.
struct Desk {
    folder: tempfile::TempDir,
    environment: Environment,
    client: Client,
    other: Client,
}

impl Desk {
    async fn new(fixture: &Fixture) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(PROGRAM, folder.path().join("series-ingest")).unwrap();
        let psql = folder.path().join("psql");
        let stack = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/stack");
        fs::write(&psql, format!("#!/bin/sh\nexec '{}' postgres psql \"$@\"\n", stack.display())).unwrap();
        fs::set_permissions(&psql, fs::Permissions::from_mode(0o755)).unwrap();
        let other = fixture.new_database().await;
        let mut environment = fixture.environment();
        environment.push(("OTHER_DATABASE_URL".to_owned(), url_with(&fixture.url, &other, None)));
        let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
        environment.push(("PATH".to_owned(), path));
        let (client, other) = (connect(&fixture.url).await, fixture.connect_to_database(&other).await);
        Self { folder, environment, client, other }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn shell(&self, code: &str) -> Output {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", code]).current_dir(self.folder.path()).env_remove("DATABASE_URL");
        command.envs(self.environment.iter().map(|(name, value)| (name, value))).output().unwrap()
    }

    async fn rows(&self, sql: &str) -> Vec<BTreeMap<String, Option<String>>> {
        let answer = self.client.simple_query(sql).await.unwrap();
        let row = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => Some(
                row.columns()
                    .iter()
                    .enumerate()
                    .map(|(at, column)| (column.name().to_owned(), row.get(at).map(str::to_owned)))
                    .collect(),
            ),
            _ => None,
        };
        answer.iter().filter_map(row).collect()
    }

    async fn count(&self, sql: &str) -> i64 {
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }
}

/// The lines of a CSV text after its header.
fn lines(text: &str) -> Vec<Vec<&str>> {
    text.lines().skip(1).map(|line| line.split(',').collect()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ten_questions_of_the_documentation_are_answered_by_commands_and_by_sql() {
    let Some(fixture) = Fixture::new("questions", 1).await else { return };
    weather(&fixture).await;
    let desk = Desk::new(&fixture).await;
    let role = format!("{}_grafana", fixture.name);
    fixture.client.batch_execute(&format!("create role {role} login")).await.unwrap();
    let questions = questions();
    assert_eq!(questions.len(), 10);
    for question in &questions {
        let heading = question.heading.as_str();
        assert!(question.examples.len() > 1, "{heading}: a command, and SQL");
        let mut printed = Vec::new();
        for (kind, code) in &question.examples {
            let code = code.replace("--reader-role grafana", &format!("--reader-role {role}"));
            match kind.as_str() {
                "sh" if code.contains("psql") => moved_by_psql(&desk, &code).await,
                "sh" => {
                    let output = desk.shell(&code);
                    assert!(output.status.success(), "{heading}: {code}: {}", text(&output));
                    printed.push(String::from_utf8(output.stdout).unwrap());
                    after_command(heading, &desk).await;
                }
                "sql" => {
                    let macros = code.replace(
                        "$__timeFilter(date)",
                        "date between '2024-06-01T00:00:00Z' and '2024-06-30T23:59:59Z'",
                    );
                    let rows = desk.rows(&macros).await;
                    check(heading, &desk, &printed.concat(), &rows).await;
                }
                other => panic!("{heading}: an example in {other}"),
            }
        }
    }
    drop(desk);
    let admin = connect(&url_with(&fixture.url, "postgres", None)).await;
    admin.batch_execute(&format!("drop database {}_new with (force)", fixture.name)).await.unwrap();
    fixture.remove_with_role(&role).await;
}

/// What a command has changed, which is changed by SQL again afterwards.
async fn after_command(heading: &str, desk: &Desk) {
    match heading {
        "Correct a value" => {
            let out = desk.shell("series-ingest points export seattle-weather --from 2024-06-03 --until 2024-06-04");
            assert_eq!(String::from_utf8_lossy(&out.stdout).lines().nth(1), Some("2024-06-03T00:00:00Z,21.5,6.0"));
            let seen = desk.rows("select temp_max from series_seattle_weather where date = '2024-06-03 00:00Z'").await;
            assert_eq!(seen[0]["temp_max"].as_deref(), Some("21.5"));
        }
        "Delete points or series" => {
            let before = "select count(*) from time_series_data_points where \"timestamp\" < '2024-01-15 00:00Z'";
            assert_eq!(desk.count(before).await, 0);
            // So that the statement has something to delete.
            let again = "insert into time_series_data_points (time_series_id, column_name, \"timestamp\", value)
                         values ('seattle-weather', 'temp_max', '2024-01-14 00:00Z', 1)";
            desk.client.batch_execute(again).await.unwrap();
        }
        "Rename a series" => {
            assert_eq!(renamed(desk).await, 1);
            desk.client.batch_execute("update time_series_metadata set name = 'old'").await.unwrap();
        }
        "Move a series to another database" => {
            assert_eq!(copied(&desk.other).await, copied(&desk.client).await);
            desk.other.batch_execute("delete from time_series_metadata").await.unwrap();
        }
        _ => {}
    }
}

async fn renamed(desk: &Desk) -> i64 {
    desk.count("select count(*) from time_series_metadata where name = 'Seattle, daily'").await
}

/// The number of points that differ from each other, and a sum over all of them.
async fn copied(client: &Client) -> (i64, f64, i64) {
    let sql = "select count(distinct (column_name, \"timestamp\")), coalesce(sum(value), 0),
                      (select count(*) from time_series_metadata where value_columns like '%temp_max%')
               from (select distinct on (column_name, \"timestamp\") * from time_series_data_points
                     order by column_name, \"timestamp\", id desc) as point";
    let row = client.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1), row.get(2))
}

async fn moved_by_psql(desk: &Desk, code: &str) {
    let output = desk.shell(code);
    if output.status.code() == Some(77) {
        skip("questions", "there is no psql of the server's version next to it");
        return;
    }
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(copied(&desk.other).await, copied(&desk.client).await);
}

/// Compares what a question's command has printed with what its SQL returns.
async fn check(heading: &str, desk: &Desk, printed: &str, rows: &[BTreeMap<String, Option<String>>]) {
    let number =
        |row: &BTreeMap<String, Option<String>>, name: &str| -> f64 { row[name].as_deref().unwrap().parse().unwrap() };
    match heading {
        "A range" => {
            let lines = lines(printed);
            assert_eq!((lines.len(), rows.len()), (30, 30), "{printed}");
            for (line, row) in lines.iter().zip(rows) {
                assert_eq!(line[1].parse::<f64>().unwrap(), number(row, "value"));
            }
            assert_eq!(lines[0], ["2024-06-01T00:00:00Z", &format!("{:?}", temp_max(152))]);
        }
        "A table with a column for each value" => {
            assert!(desk.path("june.parquet").try_exists().unwrap());
            assert_eq!(rows.len(), 30);
            assert_eq!(
                (number(&rows[0], "temp_max"), number(&rows[0], "temp_min")),
                (temp_max(152), temp_max(152) - 5.0)
            );
            assert!(rows[0]["date"].is_some());
        }
        "The last value" => {
            let last = temp_max(DAYS - 1);
            assert_eq!((rows.len(), number(&rows[0], "value")), (2, last));
            let line = printed.lines().find(|line| line.starts_with("temp_max ")).unwrap();
            assert!(line.contains("2024-12-31T00:00:00Z") && line.ends_with(&format!(" {last}")), "{printed}");
        }
        "Averages of longer spans" => {
            assert!(printed.starts_with("date,temp_max_mean,temp_max_max,temp_min_mean,temp_min_max\n"), "{printed}");
            let lines = lines(printed);
            let of_max: Vec<_> = rows.iter().filter(|row| row["column_name"].as_deref() == Some("temp_max")).collect();
            assert!(lines.len() == of_max.len() && lines.len() == 53, "{printed}");
            for (line, row) in lines.iter().zip(of_max) {
                assert!((line[1].parse::<f64>().unwrap() - number(row, "mean")).abs() < 1e-9, "{line:?} {row:?}");
                assert_eq!(line[2].parse::<f64>().unwrap(), number(row, "max"));
            }
        }
        "Where points are missing" => {
            assert_eq!(printed, "temp_min  2024-02-29T00:00:00Z to 2024-03-05T00:00:00Z  432000 s\n");
            assert_eq!((rows.len(), rows[0]["column_name"].as_deref()), (1, Some("temp_min")));
        }
        "Correct a value" => {
            let sql = "select count(*) from time_series_data_points where \"timestamp\" = '2024-06-03 00:00Z' and value = 21.5";
            assert_eq!(desk.count(sql).await, 2, "the point that was imported, and the one that was updated");
        }
        "Delete points or series" => {
            let sql = "select count(*) from time_series_data_points where \"timestamp\" < '2024-01-15 00:00Z'";
            assert_eq!(desk.count(sql).await, 0);
        }
        "Rename a series" => assert_eq!(renamed(desk).await, 1),
        "Look at a series from Grafana" => {
            assert_eq!(rows.len(), 30);
            assert!(rows[0]["time"].is_some() && number(&rows[0], "temp_min") == temp_max(152) - 5.0, "{rows:?}");
        }
        other => panic!("nothing is known of {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn series_are_listed_and_shown() {
    let Some(fixture) = Fixture::new("listing", 1).await else { return };
    let environment = fixture.environment();
    assert_eq!(done(&environment, &["series", "list", "--json"]), "");
    weather(&fixture).await;
    let odd = "it's \"odd\"\n\u{1b}[31mred";
    let long = "x".repeat(1024);
    for id in [odd, &long] {
        let sql = "insert into time_series_metadata (id, value_columns) values ($1, '[\"a\"]')";
        fixture.client.execute(sql, &[&id]).await.unwrap();
    }
    fixture.client.batch_execute("analyze time_series_data_points").await.unwrap();
    let text = done(&environment, &["series", "list", "--json"]);
    let all: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ids: Vec<&str> = all.iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [odd, "seattle-weather", &long]);
    let weather = &all[1];
    assert_eq!(
        (&weather["first_time"], &weather["last_time"], &weather["value_columns"], &weather["labels"]),
        (
            &"2024-01-01T00:00:00Z".into(),
            &"2024-12-31T00:00:00Z".into(),
            &json!(["temp_max", "temp_min"]),
            &json!({"site": "SEA"})
        )
    );
    let points = weather["points_estimate"].as_i64().unwrap();
    assert!((400..1200).contains(&points), "{points}");
    assert_eq!((&all[0]["first_time"], &all[0]["points_estimate"]), (&Value::Null, &0.into()));
    // No name reaches a terminal as it is.
    let table = done(&environment, &["series", "list"]);
    assert!(table.lines().count() == 4 && !table.contains('\u{1b}'), "{table}");
    let one = done(&environment, &["series", "list", "--match", "seattle-*", "--label", "site=SEA", "--definitions"]);
    assert!(one.lines().count() == 2 && !one.contains("first_time"), "{one}");
    assert_eq!(done(&environment, &["series", "list", "--label", "site=PDX", "--json"]), "");
    let shown = document(&environment, &["series", "show", "seattle-weather", "--json"]);
    assert_eq!(shown["columns"][1]["name"], "temp_min");
    assert_eq!(shown["columns"][1]["last_value"], temp_max(DAYS - 1) - 5.0);
    assert_eq!(shown["name"], "Seattle weather");
    assert_eq!(document(&environment, &["series", "show", odd, "--json"])["columns"], json!([]));
    refused(&environment, &["series", "show", "none"], "there is no series none");
    refused(&environment, &["series", "list", "--match", "[a"], "not closed");
    refused(&environment, &["series", "gaps", "none", "--longer-than", "1d"], "there is no series none");
    refused(&environment, &["series", "gaps", odd, "--longer-than", "1d", "--column", "no"], "has no column");
    let gaps =
        done(&environment, &["series", "gaps", "seattle-weather", "--longer-than", "12h", "--limit", "3", "--json"]);
    assert_eq!(gaps.lines().count(), 6, "{gaps}");
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_has_a_column_for_each_of_any_names() {
    let Some(fixture) = Fixture::new("views", 1).await else { return };
    let environment = fixture.environment();
    let id = "it's \"odd\"\n é";
    let long = "c".repeat(1024);
    let names = ["a \"quoted\" one\n", "date", "it's", &long, ""];
    let sql = "insert into time_series_metadata (id, time_column, value_columns) values ($1, 'date', $2)";
    fixture.client.execute(sql, &[&id, &json!(names[..4]).to_string()]).await.unwrap();
    for (number, name) in names.iter().enumerate() {
        let sql = "insert into time_series_data_points (time_series_id, column_name, \"timestamp\", value)
                   values ($1, $2, '2024-01-01Z', $3), ($1, $2, '2024-01-01Z', $4), ($1, $2, '2024-01-02Z', null)";
        let (old, new) = (-1.0, number as f64);
        fixture.client.execute(sql, &[&id, name, &old, &new]).await.unwrap();
    }
    let view = document(&environment, &["view", "create", id, "--json"]);
    let name = view["name"].as_str().unwrap();
    assert_eq!(name, "series_it_s__odd____");
    let columns: Vec<&str> = view["columns"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!((columns[0], columns[1], columns[2], columns[3]), ("date", "a \"quoted\" one\n", "date_2", "it's"));
    let rows = fixture.client.query(&format!("select * from {name} order by date"), &[]).await.unwrap();
    assert_eq!(rows.len(), 2);
    let values: Vec<Option<f64>> = (1..columns.len()).map(|at| rows[0].get(at)).collect();
    assert_eq!(values, [Some(0.0), Some(1.0), Some(2.0), Some(3.0), Some(4.0)], "the one with the highest id");
    assert_eq!(rows[1].get::<_, Option<f64>>(1), None);
    // Again it has the columns of now, also if there are fewer.
    let fewer = document(&environment, &["view", "create", id, "--column", "it's", "--json"]);
    assert_eq!(fewer["columns"], json!(["date", "it's"]));
    let listed = document(&environment, &["view", "list", "--json"]);
    assert_eq!(listed["views"], json!([fewer]));
    refused(&environment, &["view", "create", "none"], "there is no series none");
    refused(&environment, &["view", "create", id, "--column", "none"], "has no column");
    refused(&environment, &["view", "create", id, "--name", "time_series_metadata"], "is not the view of the series");
    refused(&environment, &["view", "create", id, "--name", &"n".repeat(64)], "1 to 63 bytes");
    let dependent = format!("create view other as select * from {name}");
    fixture.client.batch_execute(&dependent).await.unwrap();
    refused(&environment, &["view", "create", id], "others depend on the view");
    refused(&environment, &["view", "drop", id], "others depend on the view");
    fixture.client.batch_execute("drop view other").await.unwrap();
    // A second one by another name; both are dropped.
    done(&environment, &["view", "create", id, "--name", "Second \"view\""]);
    assert!(done(&environment, &["view", "drop", id]).contains(name));
    assert_eq!(document(&environment, &["view", "list", "--json"])["views"], json!([]));
    refused(&environment, &["view", "drop", id], "there is no view");
    let wide: Vec<String> = (0..1600).map(|number| format!("c{number}")).collect();
    let sql = "insert into time_series_metadata (id, value_columns) values ('wide', $1)";
    fixture.client.execute(sql, &[&json!(wide).to_string()]).await.unwrap();
    refused(&environment, &["view", "create", "wide"], "choose some with --column");
    fixture
        .client
        .batch_execute("update time_series_metadata set value_columns = '[]' where id = 'wide'")
        .await
        .unwrap();
    assert_eq!(document(&environment, &["view", "create", "wide", "--json"])["columns"], json!(["timestamp"]));
    fixture.remove().await;
}

/// A connection with a role of this purpose, which has its rights.
async fn with_role(fixture: &Fixture, purpose: &str) -> (Client, Environment, String) {
    let role = format!("{}_{purpose}", fixture.name);
    fixture.client.batch_execute(&format!("create role {role} login")).await.unwrap();
    // What it had before is taken from it.
    fixture.client.batch_execute(&format!("grant all on ingest_progress, ingest_dead_letter to {role}")).await.unwrap();
    done(&fixture.environment(), &["migrate", &format!("--{purpose}-role"), &role]);
    let url = fixture.url.replacen("postgres@", &format!("{role}@"), 1);
    let mut environment = fixture.environment();
    environment.push(("DATABASE_URL".to_owned(), url.clone()));
    (connect(&url).await, environment, role)
}

async fn assert_forbidden(client: &Client, statements: &[&str]) {
    for statement in statements {
        let error = client.batch_execute(statement).await.expect_err(statement);
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{statement}: {error}");
    }
}

/// What neither a reader nor an editor may do.
const OF_NOBODY: [&str; 8] = [
    "truncate time_series_data_points",
    "drop table time_series_data_points",
    "create table mine (a int)",
    "update ingest_progress set next_offset = 0",
    "delete from ingest_progress",
    "delete from ingest_schema_history",
    "insert into ingest_source (pipeline, cluster_id, topic, topic_id) values ('', '', '', '')",
    "select ingest_cover(1, 0, 0, 1)",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_can_read_and_nothing_else() {
    let Some(fixture) = Fixture::new("reader", 1).await else { return };
    weather(&fixture).await;
    done(&fixture.environment(), &["view", "create", "seattle-weather", "--name", "before"]);
    let (client, environment, role) = with_role(&fixture, "reader").await;
    done(&fixture.environment(), &["view", "create", "seattle-weather", "--name", "after"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.parquet");
    for arguments in [
        &["series", "list"][..],
        &["series", "show", "seattle-weather"],
        &["series", "gaps", "seattle-weather", "--longer-than", "36h"],
        &["points", "export", "seattle-weather", "--out", path.to_str().unwrap()],
        &["view", "list"],
        &["progress", "show"],
        &["progress", "show", "--json"],
    ] {
        done(&environment, arguments);
    }
    // Who may read one view only can do so after it is created again.
    let only = format!("{}_only", fixture.name);
    fixture.client.batch_execute(&format!("create role {only} login; grant select on after to {only}")).await.unwrap();
    done(&fixture.environment(), &["view", "create", "seattle-weather", "--name", "after", "--column", "temp_max"]);
    let one = connect(&fixture.url.replacen("postgres@", &format!("{only}@"), 1)).await;
    assert_eq!(one.query("select temp_max from after", &[]).await.unwrap().len() as i64, DAYS);
    assert_forbidden(&one, &["select * from before", "select * from time_series_data_points"]).await;
    drop(one);
    fixture.client.batch_execute(&format!("drop owned by {only}; drop role {only}")).await.unwrap();
    for view in ["before", "after"] {
        let rows = client.query(&format!("select * from {view}"), &[]).await.unwrap();
        assert_eq!(rows.len() as i64, DAYS);
    }
    client.batch_execute("select next_offset from ingest_progress; select * from ingest_gap").await.unwrap();
    assert_forbidden(&client, &OF_NOBODY).await;
    let writes = [
        "select series_id from ingest_series",
        "select payload from ingest_dead_letter",
        "insert into time_series_metadata (id) values ('x')",
        "update time_series_metadata set name = 'x'",
        "delete from time_series_metadata",
        "insert into time_series_data_points (time_series_id, column_name, \"timestamp\") values ('s', 'c', now())",
        "update time_series_data_points set value = 0",
        "delete from time_series_data_points",
        "select ingest_delete_series(array['seattle-weather'], 'infinity', array[1])",
        "select ingest_source_key('p', 'c', 't', 'i')",
    ];
    assert_forbidden(&client, &writes).await;
    for arguments in [
        &["series", "delete", "seattle-weather", "--yes"][..],
        &["series", "update", "seattle-weather", "--name", "x"],
        &["points", "import", path.to_str().unwrap()],
        &["view", "create", "seattle-weather"],
        &["view", "drop", "seattle-weather"],
        &["dead-letter", "list"],
    ] {
        let output = run(&environment, arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {}", text(&output));
    }
    refused(&environment, &["dead-letter", "list"], "a reader's or an editor's role may not do this");
    let points = fixture.count_points().await;
    assert_eq!(points, 2 * DAYS - (MISSING.end - MISSING.start));
    refused(&fixture.environment(), &["migrate", "--reader-role", &role, "--worker-role", &role], "is named twice");
    drop(client);
    fixture.remove_with_role(&role).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_editor_reads_imports_changes_and_deletes() {
    let Some(fixture) = Fixture::new("editor", 1).await else { return };
    weather(&fixture).await;
    let (client, environment, role) = with_role(&fixture, "editor").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.parquet");
    let path = path.to_str().unwrap();
    done(&environment, &["points", "export", "seattle-weather", "--out", path]);
    done(&environment, &["points", "import", path, "--series", "copy"]);
    done(&environment, &["series", "create", "new", "--name", "New"]);
    done(&environment, &["series", "update", "copy", "--name", "Copy"]);
    done(&environment, &["series", "delete", "seattle-weather", "--yes"]);
    let ids: Vec<Value> = done(&environment, &["series", "list", "--json"])
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].clone())
        .collect();
    assert_eq!(ids, ["copy", "new"]);
    for statement in [
        "update time_series_data_points set value = 0 where column_name = 'temp_min'",
        "delete from time_series_data_points where column_name = 'temp_min'",
        "insert into time_series_data_points (time_series_id, column_name, \"timestamp\", value) values ('new', 'c', now(), 1)",
        "insert into time_series_metadata (id) values ('mine')",
        "update time_series_metadata set name = 'x' where id = 'mine'",
        "delete from time_series_metadata where id = 'mine'",
    ] {
        client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    assert_forbidden(&client, &OF_NOBODY).await;
    let bad = folder.path().join("bad.csv");
    fs::write(&bad, "time,a\n2024-01-01,1\n2024-01-02,x\n").unwrap();
    let output = run(&environment, &["points", "import", bad.to_str().unwrap(), "--series", "copy", "--columns", "a"]);
    assert_eq!(output.status.code(), Some(65), "{}", text(&output));
    assert!(done(&environment, &["dead-letter", "list"]).contains("bad.csv"));
    assert!(done(&environment, &["progress", "show"]).contains("bad.csv"));
    for command in [&["dead-letter", "redrive"][..], &["dead-letter", "purge", "--yes"]] {
        refused(&environment, command, "or an editor's role may not do this");
    }
    drop(client);
    fixture.remove_with_role(&role).await;
}
