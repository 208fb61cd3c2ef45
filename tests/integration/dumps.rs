//! A dump of the database by pg_dump, restored as the documentation says, and in ways that lose the points.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::data::{Difference, Published, bits};
use crate::support::fixture::{Fixture, connect, url_with};
use crate::support::worker::{run, text};
use crate::support::{skip, until};

/// Runs one of PostgreSQL's programs of the server's own version; `None` if there is none.
fn program(arguments: &[&str], input: &[u8]) -> Option<Output> {
    let mut child = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/stack"))
        .arg("postgres")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // It may end before it has read all of it.
    let writing = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap();
    (output.status.code() != Some(77)).then_some(output)
}

/// A dump of the fixture's database.
fn dump(fixture: &Fixture, test: &str, extra: &[&str]) -> Option<Vec<u8>> {
    let Some(output) = program(&[&["pg_dump", "-Fc", "-d", &fixture.url], extra].concat(), b"") else {
        skip(test, "there is no pg_dump of the server's version next to it");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(output.stdout)
}

async fn new_database(fixture: &Fixture, name: &str) -> String {
    let sql = [format!("drop database if exists {name} with (force)"), format!("create database {name}")];
    let admin = connect(&url_with(&fixture.url, "postgres", None)).await;
    for sql in sql {
        admin.batch_execute(&sql).await.unwrap();
    }
    url_with(&fixture.url, name, None)
}

async fn drop_database(fixture: &Fixture, name: &str) {
    let admin = connect(&url_with(&fixture.url, "postgres", None)).await;
    admin.batch_execute(&format!("drop database {name} with (force)")).await.unwrap();
}

/// The environment of commands on another database.
fn on(fixture: &Fixture, url: &str) -> Vec<(String, String)> {
    let mut environment = fixture.environment();
    environment.push(("DATABASE_URL".to_owned(), url.to_owned()));
    environment
}

/// A fixture with points of several days, applied and no longer written.
async fn filled(test: &str) -> Option<(Fixture, Published)> {
    let fixture = Fixture::new(test, 1).await?;
    let mut published = Published::default();
    for number in 0..30 {
        let payload = published.batch(["s", "t"][number % 2], 50);
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(payload.as_bytes()));
    }
    fixture.producer.flush();
    let mut worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    assert_eq!(worker.terminate(10), Some(0));
    Some((fixture, published))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_is_restored_between_timescaledbs_two_functions_goes_on_exactly() {
    let Some((fixture, mut published)) = filled("dump").await else { return };
    let Some(dump) = dump(&fixture, "dump", &[]) else { return };
    let name = format!("{}_restored", fixture.name);
    let url = new_database(&fixture, &name).await;
    // TimescaleDB is loaded by the extension: another session has its settings.
    for sql in ["create extension timescaledb", "select timescaledb_pre_restore()"] {
        connect(&url).await.batch_execute(sql).await.unwrap();
    }
    let restored = program(&["pg_restore", "--exit-on-error", "-d", &url], &dump).unwrap();
    assert!(restored.status.success(), "{}", text(&restored));
    connect(&url).await.batch_execute("select timescaledb_post_restore()").await.unwrap();
    let check = run(&on(&fixture, &url), &["check"]);
    assert!(check.status.success() && text(&check).contains("schema: up to date"), "{}", text(&check));

    for _ in 0..10 {
        let payload = published.batch("s", 50);
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(payload.as_bytes()));
    }
    fixture.producer.flush();
    let worker = fixture.worker(&[("DATABASE_URL", &url)]);
    let client = connect(&url).await;
    let next = "select coalesce(max(next_offset), 0) from ingest_progress";
    until(60, "the rest is applied", async || client.query_one(next, &[]).await.unwrap().get::<_, i64>(0) == 40).await;
    let sql = "select time_series_id, column_name, (extract(epoch from \"timestamp\") * 1000000)::bigint, value
               from time_series_data_points";
    let rows = client.query(sql, &[]).await.unwrap();
    let stored = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), bits(row.get(3)))).collect();
    assert_eq!(Difference::between(published.rows.clone(), stored), Difference::default());
    drop(worker);
    drop_database(&fixture, &name).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_was_restored_without_its_points_is_noticed() {
    let Some((fixture, _)) = filled("dump_naive").await else { return };
    let name = format!("{}_restored", fixture.name);
    let apart = "do not agree on its chunks";
    for (how, dumped, with_extension, restored, problem, refused) in [
        // Several jobs restore the catalog's tables after the chunks, or before: TimescaleDB is in the way.
        ("in several jobs", &[][..], false, &["-j", "3"][..], apart, true),
        ("the schema alone", &["-n", "public"], true, &[], apart, true),
        ("the schema alone, without TimescaleDB", &["-n", "public"], false, &[], "there is not one point", false),
        ("the tables alone", &["-t", "time_series_*", "-t", "ingest_*"], true, &[], "", true),
    ] {
        let Some(dump) = dump(&fixture, "dump_naive", dumped) else { return };
        let url = new_database(&fixture, &name).await;
        if with_extension {
            connect(&url).await.batch_execute("create extension timescaledb").await.unwrap();
        }
        let output = program(&[&["pg_restore", "-d", &url], restored].concat(), &dump).unwrap();
        let points = "select count(*) from time_series_data_points";
        // The catalog may be so that no query is planned.
        let left: Option<i64> = connect(&url).await.query_one(points, &[]).await.ok().map(|row| row.get(0));
        assert!(matches!(left, None | Some(0)), "{how}: {left:?}: {}", text(&output));
        let check = run(&on(&fixture, &url), &["check"]);
        assert_eq!(check.status.code(), Some(64), "{how}: {}", text(&check));
        assert!(text(&check).contains(problem), "{how}: {}", text(&check));
        if refused {
            let worker = run(&on(&fixture, &url), &["run"]);
            assert_eq!(worker.status.code(), Some(64), "{how}: {}", text(&worker));
        } else {
            let mut worker = fixture.worker(&[("DATABASE_URL", &url)]);
            until(30, "the log tells", async || worker.log().contains(problem)).await;
            assert_eq!(worker.terminate(10), Some(0));
        }
    }
    drop_database(&fixture, &name).await;
    fixture.remove().await;
}
