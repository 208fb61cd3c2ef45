//! The commands as an operator meets them: what they print, and their exit codes.

use std::time::Duration;

use crate::support::data::Published;
use crate::support::fixture::Fixture;
use crate::support::proxy::Proxy;
use crate::support::until;
use crate::support::worker::{run, text};

fn pairs(environment: &[(&str, &str)]) -> Vec<(String, String)> {
    environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn invalid_usage_and_invalid_configuration_have_different_exit_codes() {
    let output = run(&[], &["--help"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output).contains("Examples:"), "{}", text(&output));
    assert_eq!(run(&[], &["ran"]).status.code(), Some(64));
    let output = run(
        &pairs(&[("SERIES_INGEST__BATCH__LINGER", "1"), ("SERIES_INGEST__BATCH__MAX_POINTS", "many")]),
        &["config"],
    );
    assert_eq!(output.status.code(), Some(64));
    for part in ["2 problems", "SERIES_INGEST__BATCH__LINGER", "SERIES_INGEST__BATCH__MAX_POINTS"] {
        assert!(text(&output).contains(part), "{}", text(&output));
    }
    for command in [["run"], ["migrate"], ["check"], ["demo"]] {
        let output = run(&[], &command);
        assert_eq!(output.status.code(), Some(64), "{command:?}");
        assert!(text(&output).contains("database.url"), "{command:?}: {}", text(&output));
    }
}

#[test]
fn the_help_of_analysts_commands_has_examples() {
    for command in [
        "archive",
        "advise",
        "migrate",
        "backup create",
        "backup verify",
        "backup list",
        "backup restore",
        "points export",
        "points import",
        "series list",
        "series show",
        "series gaps",
        "series create",
        "series update",
        "series delete",
        "view create",
        "view drop",
        "view list",
        "retention show",
        "retention apply",
    ] {
        let arguments: Vec<&str> = command.split(' ').chain(["-h"]).collect();
        let output = run(&[], &arguments);
        let example = format!("series-ingest {command}");
        let help = text(&output);
        let after = help.split_once("Example").map(|(_, after)| after);
        assert!(after.is_some_and(|after| after.contains(&example)), "{command}: {help}");
    }
}

#[test]
fn the_effective_configuration_is_printed_without_secrets() {
    let environment = pairs(&[
        ("DATABASE_URL", "postgresql+asyncpg://user:s3cret@localhost/db"),
        ("SERIES_INGEST__KAFKA__PROPERTIES__SASL_PASSWORD", "s3cret"),
    ]);
    let output = run(&environment, &["config"]);
    assert_eq!(output.status.code(), Some(0));
    let printed = text(&output);
    assert!(!printed.contains("s3cret"), "{printed}");
    assert!(printed.contains("postgresql://user:***@localhost/db") && printed.contains("DATABASE_URL"), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn run_refuses_a_schema_that_is_not_migrated_unless_it_may_migrate() {
    let Some(fixture) = Fixture::unmigrated("refuses", 1).await else { return };
    let mut worker = fixture.worker(&[]);
    assert_eq!(worker.exit_code(20), Some(64));
    assert!(worker.log().contains("series-ingest migrate"), "{}", worker.log());
    let mut published = Published::default();
    let payload = published.batch("s", 10);
    fixture.producer.send(&fixture.points_topic, 0, "s", Some(payload.as_bytes()));
    fixture.producer.flush();
    let worker = fixture.worker(&[("SERIES_INGEST__DATABASE__MIGRATE_ON_START", "true")]);
    until(60, "the worker is ready", async || worker.get("/readyz").is_some_and(|(code, _)| code == 200)).await;
    until(60, "the tables are there", async || {
        fixture.count("select count(*) from pg_class where relname = 'ingest_progress'").await == 1
    })
    .await;
    fixture.until_applied(60).await;
    fixture.assert_exact(&published).await;
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_each_problem_with_its_key() {
    let Some(fixture) = Fixture::unmigrated("check", 1).await else { return };
    let mut environment = fixture.environment();
    let output = run(&environment, &["check"]);
    assert_eq!(output.status.code(), Some(64), "{}", text(&output));
    assert!(text(&output).contains("database.url: the schema is not migrated"), "{}", text(&output));
    let output = run(&environment, &["migrate"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("applied V1__series_and_points"), "{}", text(&output));
    let output = run(&environment, &["migrate"]);
    assert!(text(&output).contains("applied already"), "{}", text(&output));
    let output = run(&environment, &["check"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains(&fixture.points_topic), "{}", text(&output));

    environment.push(("SERIES_INGEST__KAFKA__POINTS_TOPIC".into(), "not.there".into()));
    environment.push(("DATABASE_URL".into(), fixture.url_by(1)));
    let output = run(&environment, &["check"]);
    assert_eq!(output.status.code(), Some(69), "{}", text(&output));
    for part in ["2 problems", "kafka.points_topic", "database.url"] {
        assert!(text(&output).contains(part), "{part}: {}", text(&output));
    }
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_shown_and_set() {
    let Some(fixture) = Fixture::new("progress", 2).await else { return };
    let mut published = Published::default();
    for number in 0..10 {
        let payload = if number == 9 { "{".to_owned() } else { published.batch("s", 10) };
        fixture.producer.send(&fixture.points_topic, number % 2, "s", Some(payload.as_bytes()));
    }
    fixture.producer.flush();
    let mut worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    let dead_letters = "select count(*) from ingest_dead_letter";
    assert_eq!(fixture.count(dead_letters).await, 1);
    assert_eq!(worker.terminate(10), Some(0));
    let environment = fixture.environment();
    let output = run(&environment, &["progress", "show", "--topic", &fixture.points_topic]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(
        text(&output).lines().filter(|line| line.contains(&fixture.points_topic)).count(),
        2,
        "{}",
        text(&output)
    );
    let source = fixture.count("select id::bigint from ingest_source where topic like '%points'").await.to_string();
    let reset = ["progress", "reset", "--source", &source, "--partition", "1", "--next-offset", "2"];
    let output = run(&environment, &reset);
    assert!(text(&output).contains("nothing was changed"), "{}", text(&output));
    assert_eq!(fixture.next_offsets().await, [5, 5]);
    let output = run(&environment, &[&reset[..], &["--yes"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(fixture.next_offsets().await, [5, 2]);
    let worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    assert_eq!(
        fixture.difference(&published).await.duplicated,
        2 * 20,
        "what is asked to be written again is written again"
    );
    assert_eq!(fixture.count(dead_letters).await, 1, "a dead letter that comes again takes the place of the old one");
    let output = run(&environment, &["progress", "reset", "--source", "12345", "--next-offset", "2"]);
    assert_eq!(output.status.code(), Some(64), "{}", text(&output));
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_true_while_the_database_is_unavailable() {
    let Some(fixture) = Fixture::new("health", 1).await else { return };
    let proxy = Proxy::start(&fixture.server()).await;
    let url = fixture.url_by(proxy.port);
    let worker = fixture.worker(&[("DATABASE_URL", &url), ("SERIES_INGEST__HTTP__STALL_MS", "2000")]);
    let mut published = Published::default();
    let publish = |published: &mut Published| {
        let payload = published.batch("s", 10);
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(payload.as_bytes()));
        fixture.producer.flush();
    };
    publish(&mut published);
    fixture.until_applied(60).await;
    until(20, "ready", async || worker.get("/readyz").unwrap().0 == 200).await;
    assert_eq!(worker.metric("series_ingest_database_up"), Some(1.0));

    proxy.refuse(true);
    publish(&mut published);
    until(20, "not ready", async || worker.get("/readyz").unwrap().0 == 503).await;
    until(20, "database_up 0", async || worker.metric("series_ingest_database_up") == Some(0.0)).await;
    let lag = format!(
        "series_ingest_kafka_lag_seconds{{input=\"points\",topic=\"{}\",partition=\"0\"}}",
        fixture.points_topic
    );
    let first = worker.metric(&lag).unwrap();
    until(20, "the lag grows", async || worker.metric(&lag).unwrap() > first + 1.0).await;
    assert_eq!(worker.get("/livez").unwrap().0, 200, "a worker that waits is alive");
    let (code, status) = worker.get("/status").unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(code, 200);
    assert_eq!(status["database"]["up"], false);
    assert!(status["conditions"]["database"]["reason"].is_string(), "{status}");
    assert!(worker.metric("series_ingest_database_errors_total{class=\"outage\"}").unwrap() >= 1.0);

    proxy.refuse(false);
    fixture.until_applied(60).await;
    until(20, "ready again", async || worker.get("/readyz").unwrap().0 == 200).await;
    until(20, "no lag", async || worker.metric(&lag) == Some(0.0)).await;
    fixture.assert_exact(&published).await;
    assert_eq!(worker.get("/nowhere").unwrap().0, 404);
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_waits_for_servers_that_are_away_when_it_starts() {
    let Some(fixture) = Fixture::new("waits", 1).await else { return };
    let proxy = Proxy::start(&fixture.server()).await;
    proxy.refuse(true);
    let url = fixture.url_by(proxy.port);
    let mut published = Published::default();
    let payload = published.batch("s", 10);
    fixture.producer.send(&fixture.points_topic, 0, "s", Some(payload.as_bytes()));
    fixture.producer.flush();
    let mut worker = fixture.worker(&[("DATABASE_URL", &url)]);
    until(20, "the worker says why", async || {
        worker.get("/readyz").is_some_and(|(code, why)| code == 503 && why.contains("schema"))
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(worker.has_ended().is_none());
    proxy.refuse(false);
    fixture.until_applied(60).await;
    fixture.assert_exact(&published).await;
    // It stops as well as it waits.
    proxy.refuse(true);
    assert_eq!(worker.terminate(10), Some(0), "{}", worker.log());
    let mut waiting = fixture.worker(&[("DATABASE_URL", &url)]);
    until(20, "it waits", async || waiting.get("/readyz").is_some_and(|(code, _)| code == 503)).await;
    assert_eq!(waiting.terminate(10), Some(0));
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_shows_that_all_of_it_arrives_through_an_outage() {
    let Some(fixture) = Fixture::unmigrated("demo", 1).await else { return };
    // With its own Kafka, and with the real one.
    for brokers in [None, Some(fixture.brokers.as_str())] {
        let mut environment = pairs(&[("DATABASE_URL", fixture.url.as_str())]);
        environment.extend(brokers.map(|brokers| ("KAFKA_BROKERS".to_owned(), brokers.to_owned())));
        let output = run(&environment, &["demo", "--points", "20000"]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        let printed = text(&output);
        for (name, value) in
            [("published", "25844"), ("written", "25844"), ("dead letters", "0"), ("lost", "0"), ("duplicated", "0")]
        {
            let end = format!("  {value}");
            assert!(
                printed.lines().any(|line| line.trim_start().starts_with(name) && line.ends_with(&end)),
                "{printed}"
            );
        }
        assert!(printed.contains("points per second") && printed.contains("psql"), "{printed}");
        let mut rest = printed.as_str();
        let outage = ["cut off", "\njournaling: ", "\njournaling: ", "is back", "\nstreaming: 0 messages in 0 records"];
        for part in outage {
            let at = rest.find(part).unwrap_or_else(|| panic!("{part}, in this order: {printed}"));
            rest = &rest[at + part.len()..];
        }
        let journaled: Vec<usize> = printed
            .lines()
            .filter_map(|line| line.strip_prefix("journaling: ")?.split(' ').next()?.parse().ok())
            .collect();
        assert!(journaled.is_sorted_by(|before, after| before < after) && journaled[0] > 0, "it grows: {printed}");
        let name = printed.split_whitespace().find(|word| word.starts_with("series_ingest_demo_")).unwrap();
        let sql = format!("select count(*) from pg_database where datname = '{name}'");
        assert_eq!(fixture.count(&sql).await, 0, "it cleans up");
        let journal = std::env::temp_dir().join(name.replace('_', "-"));
        assert!(!journal.try_exists().unwrap(), "{} is left over", journal.display());
    }
    fixture.remove().await;
}

/// Starts a command, waits for a line that it prints, sends a signal to it, and returns its exit code and all that it printed.
fn interrupted(
    environment: &[(String, String)],
    arguments: &[&str],
    line: &str,
    signal: &str,
) -> (Option<i32>, String) {
    use std::io::{BufRead as _, BufReader, Read as _};
    use std::process::Stdio;
    let mut child = crate::support::worker::command(environment)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut printed = String::new();
    while !printed.contains(line) {
        assert!(output.read_line(&mut printed).unwrap() > 0, "{line:?} is never printed: {printed}");
    }
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args([signal, &id]).status().unwrap().success());
    output.read_to_string(&mut printed).unwrap();
    let ended = child.wait_with_output().unwrap();
    printed += &String::from_utf8_lossy(&ended.stderr);
    (ended.status.code(), printed)
}

/// The name of the database that a command has made, in its own words.
fn database_of(printed: &str, prefix: &str) -> String {
    printed.split_whitespace().find(|word| word.starts_with(prefix)).unwrap_or_else(|| panic!("{printed}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_demo_removes_what_it_has_made() {
    let Some(fixture) = Fixture::unmigrated("demo_interrupted", 1).await else { return };
    let own = pairs(&[("DATABASE_URL", fixture.url.as_str())]);
    let real = pairs(&[("DATABASE_URL", fixture.url.as_str()), ("KAFKA_BROKERS", fixture.brokers.as_str())]);
    for (environment, line, signal, code) in [
        (&own, "database series_ingest_demo_", "-INT", 130),
        (&real, "streaming: ", "-TERM", 143),
        (&own, "the database is cut off", "-HUP", 129),
    ] {
        let (ended, printed) = interrupted(environment, &["demo", "--points", "50000"], line, signal);
        assert_eq!(ended, Some(code), "{printed}");
        let words = ["interrupted by SIG", "still there", "does not hold"].map(|words| printed.contains(words));
        assert_eq!(words, [true, false, false], "{printed}");
        let name = database_of(&printed, "series_ingest_demo_");
        let sql = format!("select count(*) from pg_database where datname = '{name}'");
        assert_eq!(fixture.count(&sql).await, 0, "{name} is gone: {printed}");
        let journal = std::env::temp_dir().join(name.replace('_', "-"));
        assert!(!journal.try_exists().unwrap(), "{} is gone", journal.display());
    }
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_are_empty_are_not_set_and_wrong_ones_are_named() {
    let Some(fixture) = Fixture::unmigrated("demo_brokers", 1).await else { return };
    let empty = pairs(&[("DATABASE_URL", fixture.url.as_str()), ("KAFKA_BROKERS", "")]);
    let demo = run(&empty, &["demo", "--points", "2000"]);
    assert_eq!(demo.status.code(), Some(0), "{}", text(&demo));
    assert!(text(&demo).contains("Kafka embedded in the demo"), "{}", text(&demo));
    let bench = run(&empty, &["bench"]);
    assert_eq!(bench.status.code(), Some(64));
    assert!(text(&bench).contains("give --brokers, or set KAFKA_BROKERS"), "{}", text(&bench));
    for command in ["demo", "bench"] {
        for brokers in ["kafka://h:1", "h", "", "h:1,"] {
            let output = run(&empty, &[command, "--brokers", brokers]);
            assert_eq!(output.status.code(), Some(64), "{command} {brokers:?}: {}", text(&output));
            assert!(text(&output).contains("--brokers "), "{command} {brokers:?}: {}", text(&output));
        }
    }
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_benchmark_keeps_what_it_has_measured_when_it_is_interrupted() {
    let Some(fixture) = Fixture::unmigrated("bench_interrupted", 1).await else { return };
    let environment = pairs(&[("DATABASE_URL", fixture.url.as_str()), ("KAFKA_BROKERS", fixture.brokers.as_str())]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bench.json");
    let json = || -> serde_json::Value { serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap() };
    let size = ["bench", "--points", "20000", "--series", "10", "--json", file.to_str().unwrap()];
    // The first part is measured, and the second one begins.
    let arguments = [&size[..], &["--only", "one-point", "--only", "live"]].concat();
    let (code, printed) = interrupted(&environment, &arguments, "live, 20000 points/s", "-INT");
    assert_eq!(code, Some(130), "{printed}");
    assert!(printed.contains("drain, 1 point a message") && printed.contains("interrupted by SIGINT"), "{printed}");
    assert!(!printed.contains("still there"), "{printed}");
    let kept = json();
    assert_eq!((&kept["parts"], &kept["complete"]), (&serde_json::json!(["one-point"]), &false.into()));
    assert!(kept["one_point_points_per_s"].as_f64().unwrap() > 0.0, "{kept}");
    let name = database_of(&printed, "series_ingest_bench_");
    let sql = format!("select count(*) from pg_database where datname = '{name}'");
    assert_eq!(fixture.count(&sql).await, 0, "{name} is gone: {printed}");
    // Whole, with two parts; what they do not measure is not there.
    let output = run(&environment, &[&size[..], &["--only", "drain,replay"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let whole = json();
    assert_eq!((&whole["parts"], &whole["complete"]), (&serde_json::json!(["drain", "replay"]), &true.into()));
    assert!(whole["drain_points_per_s"].is_f64() && whole["replay_to_drain"].is_f64(), "{whole}");
    assert!(whole["throughput_drain_points_per_s"].is_null(), "{whole}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no part of a file is left");
    let wrong = run(&environment, &["bench", "--only", "drains"]);
    assert_eq!(wrong.status.code(), Some(64));
    assert!(text(&wrong).contains("'drain'") && text(&wrong).contains("once-each"), "{}", text(&wrong));
    let nowhere = run(&environment, &["bench", "--json", "/nowhere/bench.json"]);
    assert_eq!(nowhere.status.code(), Some(74));
    assert!(text(&nowhere).contains("/nowhere/bench.json cannot be written"), "{}", text(&nowhere));
    let full = run(&environment, &["bench", "--json", "/dev/full"]);
    assert_eq!(full.status.code(), Some(74), "{}", text(&full));
    fixture.remove().await;
}
