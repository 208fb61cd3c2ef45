//! What commands print reaches its reader, or the command fails: no write error is dropped.

use std::fs::{File, OpenOptions};
use std::process::{Output, Stdio};
use std::sync::Arc;

use series_ingest::journal::{Journal, Options, RealFiles};
use series_ingest::raw::Kind;
use series_ingest::raw::{MessageSetBuilder, RawMessage, Source};

use crate::support::fixture::Fixture;
use crate::support::worker::{PROGRAM, command, run, text};

/// Runs a command with its standard output at this file.
fn run_into(environment: &[(String, String)], arguments: &[&str], output: File) -> Output {
    command(environment)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::from(output))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap()
}

/// That a command ends with 74 where it cannot print: on a full disk, without a standard output, and with one that is only
/// read.
fn assert_not_lost(environment: &[(String, String)], arguments: &[&str]) {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let refused = run_into(environment, arguments, full);
    assert_eq!(refused.status.code(), Some(74), "{arguments:?} > /dev/full: {}", text(&refused));
    let words = "standard output cannot be written, what was printed is incomplete: No space left on device";
    assert!(text(&refused).contains(words), "{arguments:?}: {}", text(&refused));
    let mut shell = std::process::Command::new("sh");
    shell.env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
    let closed = shell.args(["-c", "exec \"$0\" \"$@\" >&-", PROGRAM]).args(arguments).output().unwrap();
    assert_eq!(closed.status.code(), Some(74), "{arguments:?} >&-: {}", text(&closed));
    assert!(text(&closed).contains("Bad file descriptor"), "{arguments:?}: {}", text(&closed));
    let read_only = run_into(environment, arguments, File::open("/dev/null").unwrap());
    assert_eq!(read_only.status.code(), Some(74), "{arguments:?} 1</dev/null: {}", text(&read_only));
}

/// That a command ends well, at once, where its reader has closed the pipe.
fn assert_closed_pipe_is_not_an_error(environment: &[(String, String)], arguments: &[&str]) {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ended = run_into(environment, arguments, File::from(std::os::fd::OwnedFd::from(writer)));
    assert_eq!(ended.status.code(), Some(0), "{arguments:?} | true: {}", text(&ended));
    assert_eq!(text(&ended), "", "{arguments:?}");
}

#[test]
fn commands_without_a_server_lose_no_output() {
    for arguments in [
        &["--help"][..],
        &["-h"],
        &["--version"],
        &["help", "journal"],
        &["journal", "--help"],
        &["dead-letter", "export", "--help"],
        &["bench", "--help"],
        &["config"],
        &["config", "--json"],
    ] {
        assert_not_lost(&[], arguments);
        assert_closed_pipe_is_not_an_error(&[], arguments);
    }
}

#[test]
fn a_journal_is_exported_or_the_command_fails() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("journal");
    let options =
        Options { directory: directory.clone(), segment_bytes: 1 << 20, max_bytes: u64::MAX, min_free_bytes: 0 };
    let source =
        Source { kind: Kind::Points, cluster_id: "c".to_owned(), topic: "t".to_owned(), topic_id: "i".to_owned() };
    let mut set = MessageSetBuilder::new(Arc::new(source), 0, 0);
    for offset in 0..200 {
        set.push(&RawMessage { offset, payload: Some(&[b'x'; 1000]), ..RawMessage::default() });
    }
    Journal::open(RealFiles, options).unwrap().append(&[set.build(None)]).unwrap();
    let directory = directory.to_str().unwrap();
    for arguments in [&["export"][..], &["status"], &["status", "--json"], &["verify"], &["verify", "--json"]] {
        let arguments = [&["journal"], arguments, &["--directory", directory]].concat();
        assert_not_lost(&[], &arguments);
        assert_closed_pipe_is_not_an_error(&[], &arguments);
    }
    let output = run(&[], &["journal", "export", "--directory", directory]);
    assert_eq!((output.status.code(), text(&output).lines().count()), (Some(0), 200));
}

#[test]
fn an_error_that_cannot_be_printed_keeps_its_exit_code() {
    for arguments in [&["ran"][..], &["run"]] {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let ended = command(&[]).args(arguments).stderr(Stdio::from(full)).output().unwrap();
        assert_eq!(ended.status.code(), Some(64), "{arguments:?}");
    }
}

#[test]
fn the_last_error_is_a_json_line_where_the_log_is_json() {
    let line = |environment: &[(&str, &str)], arguments: &[&str]| {
        let environment: Vec<_> = environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let output = run(&environment, arguments);
        let printed = String::from_utf8(output.stderr).unwrap();
        assert_eq!(printed.lines().count(), 1, "{printed}");
        let line: serde_json::Value =
            serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"));
        assert_eq!(line["level"], "ERROR");
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
        (output.status.code(), line["message"].as_str().unwrap().to_owned())
    };
    let json = ("SERIES_INGEST__LOG__FORMAT", "json");
    let away = ("DATABASE_URL", "postgres://u@127.0.0.1:1/d");
    let (code, message) = line(&[json], &["run"]);
    assert!(code == Some(64) && message.contains("database.url: is not set"), "{message}");
    let (code, message) = line(&[json, ("SERIES_INGEST__BATCH__LINGER_MS", "x"), ("SERIES_INGEST_X", "")], &["run"]);
    assert!(code == Some(64) && message.contains("2 problems") && message.contains("SERIES_INGEST_X"), "{message}");
    let (code, message) = line(&[json, away], &["progress", "show"]);
    assert!(code == Some(69) && message.contains("the database: "), "{message}");
    let (code, message) = line(&[json], &["journal", "status", "--directory", "/nowhere"]);
    assert!(code == Some(64) && message.contains("/nowhere"), "{message}");
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let environment = [(json.0.to_owned(), json.1.to_owned())];
    let printed = String::from_utf8(run_into(&environment, &["config"], full).stderr).unwrap();
    let document: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert!(document["message"].as_str().unwrap().contains("standard output cannot be written"), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_in_json_are_whole_and_go_with_the_exit_code() {
    let Some(fixture) = Fixture::new("json", 2).await else { return };
    fixture.send_point("s", 1);
    fixture.producer.flush();
    let mut worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    assert_eq!(worker.terminate(10), Some(0));
    let document = |environment: &[(String, String)], arguments: &[&str]| {
        let output = run(environment, arguments);
        let printed = String::from_utf8(output.stdout).unwrap();
        let document: serde_json::Value =
            serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {printed}"));
        (output.status.code(), document)
    };
    let environment = fixture.environment();
    let (code, progress) = document(&environment, &["progress", "show", "--json"]);
    assert_eq!(code, Some(0));
    let partition = progress["partitions"].as_array().unwrap().iter().find(|one| one["topic"] == fixture.points_topic);
    let partition = partition.unwrap();
    assert_eq!((&partition["partition"], &partition["next_offset"]), (&0.into(), &1.into()));
    let updated = partition["updated_at"].as_str().unwrap();
    assert!(updated.parse::<jiff::Timestamp>().is_ok(), "{updated}");
    let (code, check) = document(&environment, &["check", "--json"]);
    assert_eq!((code, &check["ok"], &check["problems"]), (Some(0), &true.into(), &serde_json::json!([])));
    assert!(check["facts"].as_array().unwrap().iter().any(|fact| fact["subject"] == "configuration"), "{check}");
    let mut wrong = environment.clone();
    wrong.push(("SERIES_INGEST__KAFKA__POINTS_TOPIC".to_owned(), "not.there".to_owned()));
    let (code, check) = document(&wrong, &["check", "--json"]);
    assert_eq!((code, &check["ok"]), (Some(64), &false.into()));
    assert!(check["problems"].as_array().unwrap().iter().any(|one| one["key"] == "kafka.points_topic"), "{check}");
    let (code, config) = document(&environment, &["config", "--json"]);
    assert_eq!(code, Some(0));
    assert_eq!(config["values"]["kafka"]["brokers"], fixture.brokers.as_str());
    assert_eq!(config["sources"]["kafka.brokers"], "KAFKA_BROKERS");
    assert_eq!(config["sources"]["batch.linger_ms"], "default");
    fixture.remove().await;
}

/// The logs of workers are for people and for collectors: no Rust in them.
#[tokio::test(flavor = "multi_thread")]
async fn log_lines_name_partitions_and_times_without_rusts_own_forms() {
    let Some(fixture) = Fixture::new("lines", 2).await else { return };
    fixture.send_point("s", 1_735_689_600);
    fixture.producer.send(&fixture.points_topic, 1, "s", Some(b"{"));
    fixture.producer.flush();
    let mut worker = fixture.worker(&[("SERIES_INGEST__LOG__FILTER", "debug")]);
    fixture.until_applied(60).await;
    assert_eq!(worker.terminate(10), Some(0));
    let log = worker.log();
    assert!(log.contains(&format!("{}[0]", fixture.points_topic)), "{log}");
    let own: Vec<&str> = log.lines().filter(|line| line.contains(" series_ingest::")).collect();
    assert!(own.len() > 5, "{log}");
    for form in ["[(\"", "Some(", "None", "from_us", "unlogged=0", "Err(", "Ok("] {
        assert!(!own.iter().any(|line| line.contains(form)), "{form}: {log}");
    }
    fixture.remove().await;
}

/// The same for collectors, which read numbers as numbers and take no text apart.
#[tokio::test(flavor = "multi_thread")]
async fn log_lines_in_json_name_partitions_and_times_without_rusts_own_forms() {
    let Some(fixture) = Fixture::new("json_lines", 2).await else { return };
    fixture.send_point("s", 1_735_689_600);
    fixture.producer.send(&fixture.points_topic, 1, "s", Some(b"{"));
    fixture.producer.flush();
    let mut worker = fixture.worker(&[("SERIES_INGEST__LOG__FORMAT", "json"), ("SERIES_INGEST__LOG__FILTER", "debug")]);
    fixture.until_applied(60).await;
    assert_eq!(worker.terminate(10), Some(0));
    let log = worker.log();
    let lines: Vec<serde_json::Map<String, serde_json::Value>> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    let is_own = |line: &&serde_json::Map<String, serde_json::Value>| {
        line["target"].as_str().is_some_and(|target| target.starts_with("series_ingest::"))
    };
    let own: Vec<_> = lines.iter().filter(is_own).collect();
    assert!(own.len() > 5, "{log}");
    let partition = format!("{}[0]", fixture.points_topic);
    let names_it = |value: &serde_json::Value| value.as_str().is_some_and(|text| text.contains(&partition));
    assert!(own.iter().any(|line| line.values().any(names_it)), "{log}");
    for line in own {
        for (key, value) in line {
            assert!(!key.ends_with("_us"), "{key}: a time is a text that says its zone: {line:?}");
            assert_ne!((key.as_str(), value.as_u64()), ("unlogged", Some(0)), "{line:?}");
            match value {
                serde_json::Value::String(text) => {
                    for form in ["[(\"", "{\"", "\\\"", "Some(", "None", "from_us", "Err(", "Ok("] {
                        assert!(!text.contains(form), "{form}: {line:?}");
                    }
                    assert!(!text.starts_with('"'), "a text in quotes of its own: {line:?}");
                    let is_quoted_number = key != "message" && text.parse::<f64>().is_ok();
                    assert!(!is_quoted_number && !["true", "false"].contains(&text.as_str()), "{key}: {line:?}");
                }
                serde_json::Value::Number(_) | serde_json::Value::Bool(_) => {}
                other => panic!("{key} is {other}: {line:?}"),
            }
        }
    }
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_on_both_servers_lose_no_output_and_letters_that_were_not_exported_stay() {
    let Some(fixture) = Fixture::new("output", 1).await else { return };
    // More than a pipe holds, so that a closed one is noticed in the middle.
    for number in 0..300 {
        let payload = format!("not json {number} {}", "x".repeat(1000));
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(payload.as_bytes()));
    }
    fixture.producer.flush();
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let journal = journal.to_str().unwrap();
    let mut worker =
        fixture.worker(&[("SERIES_INGEST__JOURNAL__ENABLED", "true"), ("SERIES_INGEST__JOURNAL__DIRECTORY", journal)]);
    fixture.until_applied(120).await;
    assert_eq!(worker.terminate(10), Some(0));
    let mut environment = fixture.environment();
    environment.retain(|(name, _)| name != "SERIES_INGEST__JOURNAL__ENABLED");
    environment.push(("SERIES_INGEST__JOURNAL__DIRECTORY".to_owned(), journal.to_owned()));
    let id = fixture.count("select min(id) from ingest_dead_letter").await.to_string();
    // A topic that the pipeline has read in another cluster only.
    let mirrored = format!("{}.mirrored", fixture.name);
    fixture.broker.create(&mirrored, 1, &[]).await;
    let source = format!(
        "with source as (
             insert into ingest_source (pipeline, cluster_id, topic, topic_id)
             select pipeline, 'elsewhere', '{mirrored}', 'elsewhere' from ingest_source limit 1 returning id),
         progress as (insert into ingest_progress (source_id, partition, next_offset) select id, 0, 5 from source)
         select id::bigint from source"
    );
    let elsewhere = fixture.count(&source).await.to_string();
    for arguments in [
        &["check"][..],
        &["check", "--json"],
        &["migrate"],
        &["schema", "set-profile", "standard", "--dry-run"],
        &["dead-letter", "list"],
        &["dead-letter", "list", "--json"],
        &["dead-letter", "show", &id],
        &["dead-letter", "show", &id, "--json"],
        &["dead-letter", "counts"],
        &["dead-letter", "counts", "--json"],
        &["dead-letter", "export"],
        &["dead-letter", "purge", "--dry-run"],
        &["dead-letter", "purge", "--yes", "--reason", "limits"],
        &["dead-letter", "redrive", "--reason", "limits"],
        &["journal", "status"],
        &["journal", "status", "--json"],
        &["journal", "verify"],
        &["journal", "verify", "--json"],
        &["journal", "replay"],
        &["progress", "show", "--json"],
        &["progress", "show"],
        &["progress", "reset", "--topic", &fixture.points_topic, "--next-offset", "300"],
        &["progress", "reset", "--topic", &fixture.points_topic, "--next-offset", "300", "--yes"],
        &["progress", "adopt", "--source", &elsewhere, "--offsets", "0=0"],
    ] {
        assert_not_lost(&environment, arguments);
        assert_closed_pipe_is_not_an_error(&environment, arguments);
    }
    assert_eq!(fixture.count("select count(*) from ingest_dead_letter").await, 300);
    fixture.broker.delete(&[&mirrored]).await;

    // As an operator would write it.
    let script = format!("\"{PROGRAM}\" dead-letter export > /dev/full && \"{PROGRAM}\" dead-letter purge --yes");
    let mut shell = std::process::Command::new("sh");
    shell.env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
    let ended = shell.args(["-c", &script]).output().unwrap();
    assert_eq!(ended.status.code(), Some(74), "{}", text(&ended));
    assert_eq!(fixture.count("select count(*) from ingest_dead_letter").await, 300, "none is deleted");
    let file = folder.path().join("letters");
    let exported = run_into(&environment, &["dead-letter", "export"], File::create(&file).unwrap());
    assert_eq!(exported.status.code(), Some(0), "{}", text(&exported));
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 300);
    let purged = run(&environment, &["dead-letter", "purge", "--yes"]);
    assert!(text(&purged).contains("300 dead letters deleted"), "{}", text(&purged));
    fixture.remove().await;
}

/// They go on to their end without an output: what they made is known to nobody else, and has to be removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_demo_and_a_benchmark_lose_no_output() {
    let Some(fixture) = Fixture::unmigrated("output_demo", 1).await else { return };
    let environment = fixture.environment();
    for arguments in [
        &["demo", "--points", "1"][..],
        &["bench", "--points", "1", "--series", "1", "--columns", "1", "--timestamps", "1", "--only", "replay"],
    ] {
        assert_not_lost(&environment, arguments);
        assert_closed_pipe_is_not_an_error(&environment, arguments);
    }
    fixture.remove().await;
}
