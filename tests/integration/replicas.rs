//! Reading from a streaming standby: frozen, lagging, promoted, gone, and interrupted by what it has to apply.

use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;
use tokio_postgres::Client;

use crate::python::{pytest, python};
use crate::support::data::Published;
use crate::support::fixture::{Fixture, connect, url_with};
use crate::support::server::Server;
use crate::support::shell::{Shell, examples};
use crate::support::until;
use crate::support::worker::{command, run, text};

type Environment = Vec<(String, String)>;

const READ_URL: &str = "SERIES_INGEST__DATABASE__READ_URL";
const FALLBACK: &str = "SERIES_INGEST__DATABASE__READ_FALLBACK";
const MAX_LAG: &str = "SERIES_INGEST__DATABASE__READ_MAX_LAG_S";
/// Windows of 20 points instead of a million and a half.
const SMALL_WINDOWS: (&str, &str) = ("SERIES_INGEST_PLANTED_BUGS", "export-windows-are-small");

/// A database, and a standby of its server.
struct Pair {
    primary: Server,
    standby: Server,
    fixture: Fixture,
}

impl Pair {
    async fn new(test: &str) -> Option<Self> {
        let primary = Server::start(test).await?;
        let fixture = Fixture::on(&primary, test, 1).await;
        let standby = primary.standby().await;
        let pair = Self { primary, standby, fixture };
        pair.insert("s", 3).await;
        pair.until_replicated().await;
        Some(pair)
    }

    /// A series with this many points, one a minute, each with another value.
    async fn insert(&self, series: &str, points: i32) {
        let client = &self.fixture.client;
        let sql = "insert into time_series_metadata (id, time_column, value_columns) values ($1, 't', '[\"a\"]')";
        client.execute(sql, &[&series]).await.unwrap();
        let sql = "insert into time_series_data_points (time_series_id, column_name, \"timestamp\", value)
                   select $1, 'a', '2024-01-01Z'::timestamptz + n * interval '1 minute', n from generate_series(1, $2::int) as n";
        client.execute(sql, &[&series, &points]).await.unwrap();
    }

    fn standby_url(&self) -> String {
        url_with(&self.standby.url(), &self.fixture.name, None)
    }

    async fn on_standby(&self) -> Client {
        connect(&self.standby_url()).await
    }

    async fn until_replicated(&self) {
        let sql = "select pg_current_wal_lsn()::text";
        let lsn: String = self.fixture.client.query_one(sql, &[]).await.unwrap().get(0);
        let standby = self.on_standby().await;
        let sql = format!("select coalesce(pg_last_wal_replay_lsn() >= '{lsn}'::pg_lsn, true)");
        until(60, "the standby has all", async || standby.query_one(&sql, &[]).await.unwrap().get(0)).await;
    }

    async fn pause(&self) {
        let standby = self.on_standby().await;
        standby.batch_execute("select pg_wal_replay_pause()").await.unwrap();
        let sql = "select pg_get_wal_replay_pause_state() = 'paused'";
        until(60, "it is paused", async || standby.query_one(sql, &[]).await.unwrap().get(0)).await;
    }

    async fn resume(&self) {
        self.on_standby().await.batch_execute("select pg_wal_replay_resume()").await.unwrap();
    }

    /// The environment of a command that reads from these hosts.
    fn environment(&self, read_url: &str, extra: &[(&str, &str)]) -> Environment {
        let mut environment = self.fixture.environment();
        environment.push((READ_URL.to_owned(), read_url.to_owned()));
        environment.push(("SERIES_INGEST__DATABASE__CONNECT_TIMEOUT_MS".to_owned(), "2000".to_owned()));
        environment.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        // So that these tests can be seen to fail with a planted bug.
        if let Ok(planted) = std::env::var(SMALL_WINDOWS.0) {
            let bugs: Vec<String> = environment
                .extract_if(.., |(name, _)| name == SMALL_WINDOWS.0)
                .map(|(_, bugs)| bugs)
                .chain([planted])
                .collect();
            environment.push((SMALL_WINDOWS.0.to_owned(), bugs.join(",")));
        }
        environment
    }

    /// The URL with the standby and then the primary as its hosts.
    fn both(&self) -> String {
        let (standby, primary) = (self.standby.address(), self.primary.address());
        self.standby_url().replace(&standby, &format!("{standby},{primary}"))
    }

    async fn remove(self) {
        drop(self.standby);
        self.fixture.remove().await;
    }
}

fn done(environment: &Environment, arguments: &[&str]) -> Output {
    let output = run(environment, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output));
    output
}

fn unreachable(environment: &Environment, arguments: &[&str], words: &str) {
    let output = run(environment, arguments);
    assert!(output.status.code() == Some(69) && text(&output).contains(words), "{arguments:?}: {}", text(&output));
}

/// Exports a series into a file of a new folder; returns what `--json` prints, and the values by their order.
fn exported(environment: &Environment, series: &str, extra: &[&str]) -> (Value, Vec<f64>, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("points.csv");
    let arguments = ["points", "export", series, "--long", "--json", "--out", file.to_str().unwrap()];
    let output = done(environment, &[&arguments[..], extra].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (serde_json::from_slice(&output.stdout).unwrap(), values(&file), said)
}

fn values(file: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().skip(1).map(|line| line.rsplit(',').next().unwrap().parse().unwrap()).collect()
}

fn all(points: i32) -> Vec<f64> {
    (1..=points).map(f64::from).collect()
}

/// Nothing is left of a file that was not written as a whole.
fn assert_empty(folder: &Path) {
    let left: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_read_read_the_standby_and_changes_go_to_the_primary() {
    let Some(pair) = Pair::new("replica_reads").await else { return };
    let environment = pair.environment(&pair.standby_url(), &[]);
    done(&pair.fixture.environment(), &["view", "create", "s"]);
    pair.until_replicated().await;
    let (document, points, _) = exported(&environment, "s", &[]);
    assert_eq!((document["moments"].as_u64(), points), (Some(1), all(3)));
    assert!(document["read_from"][0].as_str().unwrap().contains(&pair.standby.address()), "{document}");
    pair.pause().await;
    pair.insert("later", 2).await;
    done(&environment, &["series", "create", "by-command"]);
    done(&environment, &["view", "create", "later"]);
    assert_eq!(pair.fixture.count("select count(*) from time_series_metadata where id = 'by-command'").await, 1);
    for arguments in [&["series", "list"][..], &["view", "list"]] {
        let said = text(&done(&environment, arguments));
        assert!(said.contains('s') && !said.contains("later"), "{arguments:?}: {said}");
        assert!(text(&done(&pair.fixture.environment(), arguments)).contains("later"), "the primary has it");
    }
    for arguments in [&["series", "show", "later"][..], &["series", "gaps", "later", "--longer-than", "1s"]] {
        assert_eq!(run(&environment, arguments).status.code(), Some(64), "{arguments:?}");
        done(&pair.fixture.environment(), arguments);
    }
    // A reader needs no other database.
    let only: Environment = environment.iter().filter(|(name, _)| name != "DATABASE_URL").cloned().collect();
    done(&only, &["series", "show", "s"]);
    let refused = run(&only, &["series", "create", "x"]);
    assert!(refused.status.code() == Some(64) && text(&refused).contains("DATABASE_URL"), "{}", text(&refused));
    pair.resume().await;
    pair.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_what_each_host_is_and_its_lag() {
    let Some(pair) = Pair::new("replica_check").await else { return };
    let environment = pair.environment(&pair.both(), &[]);
    let said = text(&run(&environment, &["check"]));
    assert!(said.contains(&format!("replica: {}: a standby, ", pair.standby.address())), "{said}");
    assert!(said.contains(&format!("replica: {}: not a standby", pair.primary.address())), "{said}");
    assert!(!said.contains("problem"), "{said}");
    let other = pair.fixture.new_database().await;
    let wrong = url_with(&pair.primary.url(), &other, None);
    let said = text(&run(&pair.environment(&wrong, &[]), &["check"]));
    assert!(said.contains("database.read_url") && said.contains("is another database"), "{said}");
    let gone = pair.standby_url().replace('@', "@127.0.0.1:1,");
    unreachable(&pair.environment(&gone, &[]), &["check"], "database.read_url: 127.0.0.1:1: ");
    pair.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_lags_hangs_or_is_gone_is_not_read() {
    let Some(mut pair) = Pair::new("replica_away").await else { return };
    let reading = ["points", "export", "s"];
    // It lags: something newer has come, and is not applied.
    pair.pause().await;
    pair.insert("later", 1).await;
    let standby = pair.on_standby().await;
    let behind = "select pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()
                  and clock_timestamp() - pg_last_xact_replay_timestamp() > interval '1 second'";
    until(60, "the standby lags", async || standby.query_one(behind, &[]).await.unwrap().get(0)).await;
    let lag = (MAX_LAG, "1");
    done(&pair.environment(&pair.standby_url(), &[]), &reading);
    unreachable(&pair.environment(&pair.standby_url(), &[lag]), &reading, " s, and database.read_max_lag_s is 1");
    let (document, ..) = exported(&pair.environment(&pair.both(), &[lag]), "s", &[]);
    assert!(document["read_from"][0].as_str().unwrap().contains(&pair.primary.address()), "{document}");
    drop(standby);
    pair.resume().await;
    // It hangs.
    pair.standby.freeze();
    elsewhere(&pair, &reading);
    pair.standby.thaw();
    done(&pair.environment(&pair.standby_url(), &[]), &reading);
    pair.standby.kill_9();
    elsewhere(&pair, &reading);
    pair.remove().await;
}

/// The standby cannot be read: the next host is, or the primary if that is allowed, which is said; otherwise it is an error.
fn elsewhere(pair: &Pair, reading: &[&str]) {
    let alone = pair.standby_url();
    unreachable(&pair.environment(&alone, &[]), reading, "database.read_url: no host can be read: ");
    let (document, points, said) = exported(&pair.environment(&pair.both(), &[]), "s", &[]);
    assert!(document["read_from"][0].as_str().unwrap().contains(&pair.primary.address()), "{document}");
    assert!(points == all(3) && said.is_empty(), "{said}");
    let (_, points, said) = exported(&pair.environment(&alone, &[(FALLBACK, "true")]), "s", &[]);
    assert_eq!(points, all(3));
    assert!(said.contains("the primary is read instead") && said.contains(&pair.standby.address()), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_is_read_unless_the_url_asks_for_a_standby() {
    let Some(pair) = Pair::new("replica_promoted").await else { return };
    pair.on_standby().await.batch_execute("select pg_promote()").await.unwrap();
    let standby = pair.on_standby().await;
    let sql = "select not pg_is_in_recovery()";
    until(60, "it is promoted", async || standby.query_one(sql, &[]).await.unwrap().get(0)).await;
    pair.insert("later", 1).await;
    let (document, points, _) = exported(&pair.environment(&pair.standby_url(), &[]), "s", &[]);
    assert!(document["read_from"][0].as_str().unwrap().contains(&pair.standby.address()) && points == all(3));
    let said = text(&run(&pair.environment(&pair.standby_url(), &[]), &["check"]));
    assert!(said.contains(&format!("replica: {}: not a standby", pair.standby.address())), "{said}");
    // It follows the primary no longer: what is waited for never comes.
    let message = format!("{}:0:0", pair.fixture.points_topic);
    let fresh = ["series", "list", "--fresh-as-of", &message, "--fresh-within", "1s"];
    unreachable(&pair.environment(&pair.standby_url(), &[]), &fresh, "has no progress");
    let only_standbys = format!("{}?target_session_attrs=read-only", pair.standby_url());
    unreachable(&pair.environment(&only_standbys, &[]), &["points", "export", "s"], "no host can be read");
    let (_, _, said) = exported(&pair.environment(&only_standbys, &[(FALLBACK, "true")]), "s", &[]);
    assert!(said.contains("the primary is read instead"), "{said}");
    pair.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fresh_as_of_sees_its_own_write_or_gives_up() {
    let Some(pair) = Pair::new("replica_fresh").await else { return };
    let fixture = &pair.fixture;
    let mut worker = fixture.worker(&[("SERIES_INGEST__BATCH__LINGER_MS", "20")]);
    let environment = pair.environment(&pair.standby_url(), &[]);
    let mut published = Published::default();
    let message = |offset: i64| format!("{}:0:{offset}", fixture.points_topic);
    for offset in 0..10 {
        let payload = published.batch("own", 7);
        fixture.producer.send(&fixture.points_topic, 0, "own", Some(payload.as_bytes()));
        fixture.producer.flush();
        let (_, points, _) = exported(&environment, "own", &["--fresh-as-of", &message(offset)]);
        assert_eq!(points.len(), published.rows.len(), "after offset {offset}");
    }
    pair.pause().await;
    let payload = published.batch("own", 7);
    fixture.producer.send(&fixture.points_topic, 0, "own", Some(payload.as_bytes()));
    fixture.producer.flush();
    fixture.until_applied(60).await;
    let last = message(10);
    let fresh = ["points", "export", "own", "--long", "--fresh-as-of", &last];
    let words = format!("{}:0 is applied up to offset 10, 1 before the end of message 10", fixture.points_topic);
    unreachable(&environment, &[&fresh[..], &["--fresh-within", "1s"]].concat(), &words);
    // The next host has it, and so has the primary.
    for (url, extra) in [(pair.both(), None), (pair.standby_url(), Some((FALLBACK, "true")))] {
        let environment = pair.environment(&url, extra.as_slice());
        let arguments = ["--fresh-as-of", &last, "--fresh-within", "3s"];
        let (document, points, _) = exported(&environment, "own", &arguments);
        assert_eq!(points.len(), published.rows.len());
        assert!(document["read_from"][0].as_str().unwrap().contains(&pair.primary.address()), "{document}");
    }
    // It waits, and sees it as soon as it is there.
    let waiting = command(&environment).args(fresh).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let standby = pair.on_standby().await;
    let sql = "select exists (select from pg_stat_activity where query like '%ahead @>%' and pid <> pg_backend_pid())";
    until(60, "it waits", async || standby.query_one(sql, &[]).await.unwrap().get(0)).await;
    pair.resume().await;
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(text(&output).lines().count(), published.rows.len() + 1);
    let unknown = ["series", "list", "--fresh-as-of", "nothing:0:0", "--fresh-within", "1s"];
    unreachable(&fixture.environment(), &unknown, "the pipeline \"default\" has no progress of nothing:0");
    assert_eq!(worker.terminate(10), Some(0));
    pair.remove().await;
}

/// The points of a series that takes a while to export in small windows.
const MANY: i32 = 60_000;
/// The points of one that takes longer than it takes to notice that it has begun.
const MOST: i32 = 150_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_recovery_interrupts_is_read_again_and_each_row_is_there_once() {
    let Some(pair) = Pair::new("replica_conflict").await else { return };
    pair.insert("many", MANY).await;
    pair.standby.reload(&["alter system set max_standby_streaming_delay = 0"]).await;
    pair.fixture.client.batch_execute("create table junk as select 1 as a").await.unwrap();
    pair.until_replicated().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("points.csv");
    let environment = pair.environment(&pair.standby_url(), &[SMALL_WINDOWS]);
    let mut export = command(&environment)
        .args(["points", "export", "many", "--long", "--json", "--out", file.to_str().unwrap()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Rows that the export's snapshot still sees are removed, and a column comes that it has not begun with.
    let standby = pair.on_standby().await;
    let (mut number, mut session) = (0, String::new());
    until(120, "the export has ended", async || {
        // Not before it reads again: it has to make progress.
        let sql = "select xact_start::text from pg_stat_activity
                   where application_name = 'series-ingest' and query like 'copy (%' and xact_start::text <> $1";
        let Ok(Some(row)) = standby.query_opt(sql, &[&session]).await else {
            return export.try_wait().unwrap().is_some();
        };
        session = row.get(0);
        number += 1;
        let client = &pair.fixture.client;
        client.batch_execute("update junk set a = a + 1").await.unwrap();
        client.batch_execute("vacuum junk").await.unwrap();
        let sql = "insert into time_series_data_points (time_series_id, column_name, \"timestamp\", value)
                   select 'many', 'b', '2024-01-01Z'::timestamptz + n * interval '1 minute', -1
                   from generate_series($1::int, $2::int, 1000) as n";
        client.execute(sql, &[&number, &MANY]).await.unwrap();
        export.try_wait().unwrap().is_some()
    })
    .await;
    let output = export.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(document["moments"].as_u64().unwrap() > 1, "{number} vacuums interrupted it: {document}");
    assert!(said.contains("is read as of a later moment") && said.contains("the export is as of"), "{said}");
    assert_eq!(document["files"][0]["rows"], MANY);
    assert!(values(&file) == all(MANY), "each point is there once");
    pair.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_goes_on_if_its_session_ends_and_is_whole_or_absent_if_the_standby_dies() {
    let Some(mut pair) = Pair::new("replica_dies").await else { return };
    pair.insert("most", MOST).await;
    pair.until_replicated().await;
    for (what, extra) in [("session", None), ("hang", Some((FALLBACK, "true"))), ("server", None), ("both", None)] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("points.csv");
        let timeout = ("SERIES_INGEST__DATABASE__STATEMENT_TIMEOUT_MS", "1000");
        let url = if what == "server" { pair.both() } else { pair.standby_url() };
        let settings = [&[SMALL_WINDOWS, timeout][..], extra.as_slice()].concat();
        let mut export = command(&pair.environment(&url, &settings))
            .args(["points", "export", "most", "--long", "--json", "--out", file.to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let has_begun = || std::fs::read_dir(folder.path()).unwrap().any(|f| f.unwrap().metadata().unwrap().len() > 0);
        until(60, "the export has begun", async || has_begun()).await;
        if export.try_wait().unwrap().is_some() || file.try_exists().unwrap() {
            panic!("{what}: it has ended too soon: {}", text(&export.wait_with_output().unwrap()));
        }
        match what {
            "session" => {
                let sql =
                    "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'series-ingest'";
                pair.on_standby().await.batch_execute(sql).await.unwrap();
            }
            "hang" => pair.standby.freeze(),
            _ => pair.standby.kill_9(),
        }
        let output = tokio::task::spawn_blocking(|| export.wait_with_output().unwrap()).await.unwrap();
        if what == "both" {
            assert!(
                output.status.code() == Some(69) && text(&output).contains("no host can be read"),
                "{}",
                text(&output)
            );
            assert_empty(folder.path());
            continue;
        }
        assert_eq!(output.status.code(), Some(0), "{what}: {}", text(&output));
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["moments"].as_u64(), Some(2), "{what}: {document}");
        assert!(values(&file) == all(MOST), "{what}: each point is there once");
        match what {
            "hang" => pair.standby.thaw(),
            "server" => {
                pair.standby.start_again().await;
                // It answers as soon as it is consistent, with less than it had applied before.
                pair.until_replicated().await;
            }
            _ => {}
        }
    }
    pair.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_lines_of_keeping_replicas_run() {
    let Some(pair) = Pair::new("replica_document").await else { return };
    pair.insert("seattle-weather", 10).await;
    let mut worker = pair.fixture.worker(&[]);
    pair.fixture.send_point("s", 1_704_067_200);
    pair.fixture.producer.flush();
    pair.fixture.until_applied(60).await;
    let mut environment = pair.fixture.environment();
    environment.push(("STANDBY_URL".to_owned(), pair.standby_url()));
    environment.push(("POINTS_TOPIC".to_owned(), pair.fixture.points_topic.clone()));
    let shell = Shell::new(environment);
    let examples = examples("docs/keeping-replicas.md", "sh");
    assert!(examples.len() >= 4);
    let output = shell.run(&examples.concat());
    let said = text(&output);
    assert!(output.status.success() && said.contains(": a standby, ") && said.contains("streaming"), "{said}");
    assert!(
        shell.folder.path().join("weather.parquet").try_exists().unwrap()
            && shell.folder.path().join("fresh.parquet").try_exists().unwrap()
    );
    assert_eq!(worker.terminate(10), Some(0));
    pair.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_package_reads_from_a_standby() {
    let Some(python) = python("replica_python", "requirements-pandas-3.txt") else { return };
    let Some(pair) = Pair::new("replica_python").await else { return };
    pair.standby.reload(&["alter system set max_standby_streaming_delay = 0"]).await;
    let mut worker = pair.fixture.worker(&[("SERIES_INGEST__BATCH__LINGER_MS", "20")]);
    let standby = pair.standby_url();
    let work = move || (pytest(&python, &pair.fixture, "tests/test_replicas.py", &[("STANDBY_URL", &standby)]), pair);
    let (output, pair) = tokio::task::spawn_blocking(work).await.unwrap();
    let said = text(&output);
    assert!(output.status.success() && !said.contains("skipped") && said.contains(" passed"), "{said}");
    assert_eq!(worker.terminate(10), Some(0));
    pair.remove().await;
}
