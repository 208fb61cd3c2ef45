//! Where the journal is: a directory that is deleted, moved, replaced, closed or too small, before and while it is needed.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::data::Published;
use crate::support::fixture_with_proxy::{FixtureWithProxy, until_found};
use crate::support::worker::{PROGRAM, Worker, run, text};
use crate::support::{skip, until};

/// Of nobody, and not root's.
const USER: u32 = 65532;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What starts a program as another user than root, whom modes stop; nothing if the tests are not run by root.
fn as_user(groups: &'static str) -> Vec<&'static str> {
    match is_root() {
        true => vec!["setpriv", "--reuid=65532", "--regid=65532", groups],
        false => Vec::new(),
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A folder in which the other user may make directories.
fn open_folder(away: &FixtureWithProxy, name: &str) -> PathBuf {
    let folder = away.journal(name);
    set_mode(folder.parent().unwrap(), 0o755);
    fs::create_dir(&folder).unwrap();
    if is_root() {
        chown(&folder, Some(USER), Some(USER)).unwrap();
    }
    folder
}

async fn until_ready(worker: &Worker) {
    worker.until_ready().await;
    until(10, "the journal is up", async || worker.metric("series_ingest_journal_up") == Some(1.0)).await;
}

/// Waits until the worker says that its journal has a problem, while it is ready, and returns its message.
async fn until_warned(worker: &Worker) -> String {
    let mut why = String::new();
    until(60, "a warning of the journal", async || {
        let Some((200, status)) = worker.get("/status") else { return false };
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let condition = &status["conditions"]["journal"];
        why = condition["reason"].as_str().unwrap_or_default().to_owned();
        condition["warning"] == true
    })
    .await;
    assert_eq!(worker.metric("series_ingest_journal_up"), Some(0.0), "{why}");
    until(30, "ready all the same", async || worker.get("/readyz").is_some_and(|(code, _)| code == 200)).await;
    why
}

/// Waits until the worker is not ready because of its journal, and returns its message.
async fn until_unready(worker: &Worker) -> String {
    let mut why = String::new();
    until(60, "not ready because of the journal", async || {
        let Some((code, body)) = worker.get("/readyz") else { return false };
        why = body;
        code == 503 && why.contains("journal:")
    })
    .await;
    assert_eq!(worker.metric("series_ingest_journal_up"), Some(0.0), "{why}");
    assert_eq!(worker.get("/livez").unwrap().0, 200);
    why
}

/// Something is done to the files of a worker that journals. Afterwards all is in the journal that its path leads to: Kafka
/// loses it, the worker is killed, and another one writes all of it.
async fn lose(test: &str, loss: impl FnOnce(&Path)) {
    let Some(away) = FixtureWithProxy::new(test, 2).await else { return };
    let mut published = Published::default();
    let mut worker = away.worker("journal", &[]);
    let directory = away.journal("journal");
    away.begin_outage(&worker, &mut published, 20, 20).await;
    away.publish_large(&mut published, 40, 60_000);
    away.fixture.until_journaled(&worker).await;

    loss(&directory);
    away.publish(&mut published, 20);
    until_found(&away, &directory).await;
    until_ready(&worker).await;
    let lost = worker.metric("series_ingest_journal_lost_records_total").unwrap();
    assert!(lost > 0.0);
    let (_, status) = worker.get("/status").unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["journal"]["lost_records"].as_f64(), Some(lost));
    assert!(worker.log().contains("the journal has lost files"), "{}", worker.log());
    // Only the journal has it now.
    away.delete_records().await;
    worker.kill();
    away.proxy.refuse(false);
    let worker = away.worker("journal", &[]);
    away.fixture.until_applied(60).await;
    away.fixture.assert_exact(&published).await;
    assert_eq!(away.fixture.count("select count(*) from ingest_gap").await, 0);
    worker.until_mode("streaming").await;
    drop(worker);
    away.remove().await;
}

fn segments(directory: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == "segment")).collect();
    segments.sort();
    segments
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_deleted_while_journaling_is_made_again_and_filled_again() {
    lose("place_deleted", |directory| fs::remove_dir_all(directory).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_moved_away_while_journaling_is_made_again_and_filled_again() {
    lose("place_moved", |directory| fs::rename(directory, directory.with_extension("moved")).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_deleted_while_journaling_is_read_again() {
    lose("place_segment", |directory| {
        let segments = segments(directory);
        assert!(segments.len() > 1, "{segments:?}");
        fs::remove_file(segments.last().unwrap()).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_segment_deleted_while_journaling_is_read_again() {
    lose("place_oldest", |directory| fs::remove_file(&segments(directory)[0]).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_is_emptied_from_outside_while_journaling_is_read_again() {
    lose("place_emptied", |directory| {
        fs::File::options().write(true).open(&segments(directory)[0]).unwrap().set_len(0).unwrap();
    })
    .await;
}

/// What a lock is on is an inode: without its name, another process would lock another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_file_that_is_deleted_lets_no_second_worker_in() {
    let Some(away) = FixtureWithProxy::new("place_lock", 1).await else { return };
    let mut published = Published::default();
    let worker = away.worker("journal", &[]);
    away.publish(&mut published, 20);
    away.fixture.until_applied(60).await;
    let lock = away.journal("journal").join("LOCK");
    fs::remove_file(&lock).unwrap();
    until(30, "the lock is there again", async || lock.try_exists().unwrap()).await;
    let mut second = away.worker("journal", &[]);
    assert_eq!(second.exit_code(30), Some(64));
    assert!(second.log().contains("is used by another process"), "{}", second.log());
    until_ready(&worker).await;
    drop(worker);
    away.remove().await;
}

/// Not by the first outage: while the database is there, and data moves.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_lost_while_streaming_is_reported_or_made_again() {
    let Some(away) = FixtureWithProxy::new("place_streaming", 1).await else { return };
    let mut published = Published::default();
    let worker = away.worker("journal", &[]);
    away.publish(&mut published, 20);
    away.fixture.until_applied(60).await;
    until_ready(&worker).await;
    let directory = away.journal("journal");
    fs::remove_dir_all(&directory).unwrap();
    until(30, "it is made again", async || directory.join("JOURNAL").try_exists().unwrap()).await;
    until_ready(&worker).await;

    fs::remove_dir_all(&directory).unwrap();
    fs::write(&directory, "not a directory").unwrap();
    let why = until_warned(&worker).await;
    assert!(why.contains("not a directory"), "{why}");
    // Data moves nevertheless.
    away.publish(&mut published, 20);
    away.fixture.until_applied(60).await;
    fs::remove_file(&directory).unwrap();
    until_ready(&worker).await;
    assert!(directory.join("JOURNAL").try_exists().unwrap());
    assert_eq!(worker.log().matches("data moves nevertheless").count(), 1, "{}", worker.log());
    away.fixture.assert_exact(&published).await;
    drop(worker);
    away.remove().await;
}

/// What cannot be read is not drained.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_is_closed_when_the_database_is_back_is_not_drained() {
    let Some(away) = FixtureWithProxy::new("place_closed", 2).await else { return };
    let folder = open_folder(&away, "volume");
    let directory = folder.join("journal");
    let mut published = Published::default();
    let worker = away.worker_by(&as_user("--clear-groups"), &directory, &[]);
    away.begin_outage(&worker, &mut published, 20, 20).await;
    away.publish(&mut published, 400);
    until_found(&away, &directory).await;
    away.fixture.until_journaled(&worker).await;
    away.delete_records().await;
    set_mode(&directory, 0);
    let lines = || worker.log().lines().count();
    let (before, begun) = (lines(), Instant::now());
    away.proxy.refuse(false);
    worker.until_mode("replaying").await;
    let why = until_unready(&worker).await;
    assert!(why.contains("Permission denied"), "{why}");
    // New messages go on, and the mode does not change. It cannot be waited for that something does not happen.
    away.publish(&mut published, 20);
    while begun.elapsed() < Duration::from_secs(15) {
        assert!(!worker.is_mode("streaming"), "{}", worker.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until_unready(&worker).await;
    let written = lines() - before;
    assert!(written < 60, "{written} lines\n{}", worker.log());
    set_mode(&directory, 0o700);
    away.fixture.until_applied(90).await;
    away.fixture.assert_exact(&published).await;
    worker.until_mode("streaming").await;
    until_ready(&worker).await;
    drop(worker);
    away.remove().await;
}

/// One segment that cannot be read keeps no other from being written.
#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_is_closed_when_the_database_is_back_is_not_drained() {
    let Some(away) = FixtureWithProxy::new("place_closed_segment", 2).await else { return };
    let folder = open_folder(&away, "volume");
    let directory = folder.join("journal");
    let mut published = Published::default();
    let worker = away.worker_by(&as_user("--clear-groups"), &directory, &[]);
    away.begin_outage(&worker, &mut published, 20, 20).await;
    away.publish_large(&mut published, 60, 60_000);
    away.fixture.until_journaled(&worker).await;
    let closed = segments(&directory)[0].clone();
    set_mode(&closed, 0);
    away.delete_records().await;
    away.proxy.refuse(false);
    let why = until_unready(&worker).await;
    assert!(why.contains("cannot all be read") && why.contains("Permission denied"), "{why}");
    worker.until_mode("replaying").await;
    until_unready(&worker).await;
    set_mode(&closed, 0o600);
    away.fixture.until_applied(90).await;
    away.fixture.assert_exact(&published).await;
    worker.until_mode("streaming").await;
    until_ready(&worker).await;
    drop(worker);
    away.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_too_small_is_reported_at_the_start_and_by_check() {
    let Some(away) = FixtureWithProxy::new("place_small", 1).await else { return };
    let mut published = Published::default();
    let min_free = ("SERIES_INGEST__JOURNAL__MIN_FREE_BYTES", "1000000000000000000");
    let worker = away.worker("journal", &[min_free]);
    let why = until_warned(&worker).await;
    assert!(why.contains("no room for a journal") && why.contains("journal.min_free_bytes"), "{why}");
    assert!(worker.log().contains("the journal would take nothing in an outage"), "{}", worker.log());
    away.publish(&mut published, 20);
    away.fixture.until_applied(60).await;
    // In an outage nothing moves.
    away.proxy.refuse(true);
    away.publish(&mut published, 20);
    until_unready(&worker).await;
    away.proxy.refuse(false);
    away.fixture.until_applied(60).await;
    until_warned(&worker).await;
    drop(worker);
    for directory in ["journal", "not/yet"] {
        let (words, code) = check(&away, &[], &away.journal(directory), &[min_free]);
        assert_eq!(code, Some(64), "{words}");
        assert!(words.contains("journal.directory: ") && words.contains("no room for a journal"), "{words}");
    }
    away.remove().await;
}

/// What `check` says of a journal at this place, and its exit code.
fn check(
    away: &FixtureWithProxy,
    launcher: &[&str],
    directory: &Path,
    extra: &[(&str, &str)],
) -> (String, Option<i32>) {
    let mut environment = away.fixture.environment();
    let settings = [
        ("SERIES_INGEST__JOURNAL__ENABLED", "true"),
        ("SERIES_INGEST__JOURNAL__DIRECTORY", directory.to_str().unwrap()),
        ("SERIES_INGEST__JOURNAL__SEGMENT_BYTES", "1048576"),
        ("SERIES_INGEST__JOURNAL__MIN_FREE_BYTES", "0"),
    ];
    let settings = settings.iter().chain(extra);
    environment.extend(settings.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    if launcher.is_empty() {
        let output = run(&environment, &["check"]);
        return (text(&output), output.status.code());
    }
    let mut command = std::process::Command::new(launcher[0]);
    command.args(&launcher[1..]).args([PROGRAM, "check"]).env_clear().envs(environment);
    let output = command.output().unwrap();
    (text(&output), output.status.code())
}

/// `check` says of a journal's place what `run` would.
#[tokio::test(flavor = "multi_thread")]
async fn check_and_run_refuse_the_same_places() {
    let Some(away) = FixtureWithProxy::new("place_check", 1).await else { return };
    let folder = open_folder(&away, "volume");
    let user = as_user("--clear-groups");
    let make = |name: &str, mode: u32| {
        let path = folder.join(name);
        fs::create_dir(&path).unwrap();
        set_mode(&path, mode);
        path
    };
    fs::write(folder.join("file"), "x").unwrap();
    let everybodys = make("everybodys", 0o777);
    let closed = make("closed", 0o555);
    let linked = folder.join("linked");
    fs::create_dir(&linked).unwrap();
    std::os::unix::fs::symlink(folder.join("file"), linked.join("LOCK")).unwrap();
    set_mode(&linked, 0o700);
    if is_root() {
        for path in [&everybodys, &closed, &linked] {
            chown(path, Some(USER), Some(USER)).unwrap();
        }
    }
    for (directory, expected) in [
        (folder.join("file"), "not a directory"),
        (folder.join("file/journal"), "ot a directory"),
        (everybodys, "every user may write to it (mode 777)"),
        (closed.clone(), "Permission denied"),
        (closed.join("a/b"), "securityContext.fsGroup"),
        (linked, "symbolic link"),
    ] {
        let (words, code) = check(&away, &user, &directory, &[]);
        assert_eq!(code, Some(64), "{directory:?}: {words}");
        assert!(words.contains("journal.directory: ") && words.contains(expected), "{directory:?}: {words}");
        let mut worker = away.worker_by(&user, &directory, &[]);
        assert_eq!(worker.exit_code(30), Some(64), "{directory:?}");
        assert!(worker.log().contains(expected), "{directory:?}: {}", worker.log());
    }
    // None of it is left.
    let (words, code) = check(&away, &user, &folder.join("new/journal"), &[]);
    assert_eq!(code, Some(0), "{words}");
    assert!(words.contains("will be made") && !folder.join("new").try_exists().unwrap(), "{words}");
    let worker = away.worker_by(&user, &folder.join("new/journal"), &[]);
    until_ready(&worker).await;
    fs::write(folder.join("new/journal/notes.txt"), "x").unwrap();
    let (words, code) = check(&away, &user, &folder.join("new/journal"), &[]);
    assert_eq!(code, Some(0), "alongside a worker: {words}");
    assert!(words.contains("is used by a process") && words.contains("notes.txt"), "{words}");
    drop(worker);
    away.remove().await;
}

/// `fsGroup` gives the volume's folder to a group of the process, with 2775, and at each start what is in it with 2770.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_as_kubernetes_gives_it_is_taken() {
    const TEST: &str = "place_kubernetes";
    let Some(away) = FixtureWithProxy::new(TEST, 1).await else { return };
    if !is_root() {
        skip(TEST, "only root can give a directory to another user");
        return away.remove().await;
    }
    let volume = away.journal("volume");
    set_mode(volume.parent().unwrap(), 0o755);
    fs::create_dir(&volume).unwrap();
    // Without fsGroup it is root's: the error says what to set.
    set_mode(&volume, 0o755);
    for directory in [volume.clone(), volume.join("journal")] {
        let mut worker = away.worker_by(&as_user("--clear-groups"), &directory, &[]);
        assert_eq!(worker.exit_code(30), Some(64));
        let log = worker.log();
        assert!(
            log.contains("set securityContext.fsGroup of the pod") && log.contains("belongs to the user 0"),
            "{log}"
        );
    }
    chown(&volume, None, Some(2000)).unwrap();
    set_mode(&volume, 0o2775);
    let mut published = Published::default();
    for directory in [volume.join("journal"), volume.clone()] {
        for _ in 0..2 {
            let worker = away.worker_by(&as_user("--groups=2000"), &directory, &[]);
            away.publish(&mut published, 10);
            away.fixture.until_applied(60).await;
            until_ready(&worker).await;
            drop(worker);
            chown(&directory, None, Some(2000)).unwrap();
            set_mode(&directory, if directory == volume { 0o2775 } else { 0o2770 });
        }
    }
    // Another process, which is not in the group.
    let (words, code) = check(&away, &as_user("--clear-groups"), &volume.join("journal"), &[]);
    assert_eq!(code, Some(64), "{words}");
    assert!(
        words.contains("its group 2000 may write to it (mode 2770), and this process is not in that group"),
        "{words}"
    );
    away.fixture.assert_exact(&published).await;
    away.remove().await;
}
