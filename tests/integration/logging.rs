//! Log lines never hold data up, whatever standard error is.

use std::fs::OpenOptions;
use std::io::{PipeReader, Read as _, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::data::Published;
use crate::support::fixture::Fixture;
use crate::support::until;
use crate::support::worker::{Worker, command};

/// Have librdkafka log more than a pipe takes, within seconds.
const NOISY: (&str, &str) = ("SERIES_INGEST__LOG__FILTER", "trace");
const NOISY_CLIENTS: (&str, &str) = ("SERIES_INGEST__KAFKA__PROPERTIES__DEBUG", "all");
const DROPPED: &str = "series_ingest_log_lines_dropped_total";
/// What a pipe takes on Linux before a write blocks.
const PIPE_BYTES: usize = 65536;

#[tokio::test(flavor = "multi_thread")]
async fn a_stderr_that_nobody_reads_holds_nothing_up() {
    let Some(fixture) = Fixture::new("unread", 2).await else { return };
    let mut published = Published::default();
    for format in ["human", "json"] {
        let (unread, stderr) = std::io::pipe().unwrap();
        let settings = [NOISY, NOISY_CLIENTS, ("SERIES_INGEST__LOG__FORMAT", format)];
        let mut worker = Worker::start_with_stderr(stderr.into(), &fixture.environment(), &settings);
        until(60, "lines are dropped", async || worker.metric(DROPPED).is_some_and(|count| count > 0.0)).await;
        fixture.publish(&mut published, 20, 25);
        fixture.until_applied(60).await;
        fixture.assert_exact(&published).await;
        worker.until_ready().await;
        assert_eq!(worker.terminate(10), Some(0));
        drop(unread);
    }
    fixture.remove().await;
}

/// Reads until `text` comes, and returns all that was read.
fn read_until(pipe: &mut PipeReader, text: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    let (mut read, mut buffer) = (Vec::new(), [0; PIPE_BYTES]);
    while !read.windows(text.len()).any(|window| window == text.as_bytes()) {
        assert!(Instant::now() < deadline, "{text:?} does not come");
        #[expect(clippy::disallowed_methods, reason = "what is there is enough")]
        let count = pipe.read(&mut buffer).unwrap();
        assert!(count > 0, "the pipe ended without {text:?}");
        read.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8(read).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_dropped_lines_is_logged_when_lines_are_written_again() {
    let Some(fixture) = Fixture::new("flows", 2).await else { return };
    let (mut pipe, stderr) = std::io::pipe().unwrap();
    let settings = [NOISY, NOISY_CLIENTS, ("SERIES_INGEST__LOG__FORMAT", "json")];
    let mut worker = Worker::start_with_stderr(stderr.into(), &fixture.environment(), &settings);
    until(60, "lines are dropped", async || worker.metric(DROPPED).is_some_and(|count| count > 0.0)).await;
    let reading = std::thread::spawn(move || {
        let text = read_until(&mut pipe, "log lines were dropped");
        // So that the worker's end does not wait for a pipe again.
        (text, std::thread::spawn(move || std::io::copy(&mut pipe, &mut std::io::sink())))
    });
    until(60, "the lines are read", async || reading.is_finished()).await;
    let (text, rest) = reading.join().unwrap();
    let line = text.lines().find(|line| line.contains("log lines were dropped")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["level"], "ERROR");
    let logged = line["dropped"].as_u64().unwrap();
    assert!(logged > 0 && logged as f64 <= worker.metric(DROPPED).unwrap(), "{line}");
    assert_eq!(worker.terminate(10), Some(0));
    rest.join().unwrap().unwrap();
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_stderr_and_a_full_disk_hold_nothing_up() {
    let Some(fixture) = Fixture::new("closed", 2).await else { return };
    let mut published = Published::default();
    let settings = [NOISY, NOISY_CLIENTS];
    let full = || Stdio::from(OpenOptions::new().write(true).open("/dev/full").unwrap());
    let (unread, broken) = std::io::pipe().unwrap();
    drop(unread);
    let closed: &[&str] = &["sh", "-c", "exec \"$@\" 2>&-", "sh"];
    let workers = [
        ("closed", Worker::start_by(closed, "closed", &fixture.environment(), &settings), false),
        ("full", Worker::start_with_stderr(full(), &fixture.environment(), &settings), true),
        ("broken", Worker::start_with_stderr(broken.into(), &fixture.environment(), &settings), true),
    ];
    for (name, mut worker, drops) in workers {
        fixture.publish(&mut published, 20, 25);
        fixture.until_applied(60).await;
        worker.until_ready().await;
        let dropped = worker.metric(DROPPED).unwrap();
        assert_eq!(dropped > 0.0, drops, "{name}: {dropped}");
        assert_eq!(worker.terminate(10), Some(0), "{name}");
    }
    fixture.assert_exact(&published).await;
    fixture.remove().await;
}

#[test]
fn an_error_at_the_end_does_not_wait_for_stderr() {
    // The other end is never read, and the pipe is full before the program begins. Standard output may be the same one.
    let (unread, mut pipe) = std::io::pipe().unwrap();
    pipe.write_all(&[b'.'; PIPE_BYTES]).unwrap();
    let mut command = command(&[]);
    command.args(["check"]).stdin(Stdio::null());
    command.stdout(pipe.try_clone().unwrap()).stderr(pipe);
    let mut child = command.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let code = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status.code();
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it waits for stderr");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(code, Some(64));
    drop(unread);
}
