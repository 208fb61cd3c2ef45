//! The tests of the Python package in `python/`: against the broker, a worker and the database, with pandas 2 and with pandas 3.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::fixture::Fixture;
use crate::support::skip;
use crate::support::worker::{PROGRAM, text};

/// What `scripts/stack` returns if this machine has no Python that a list of packages is for.
const NOT_POSSIBLE: i32 = 77;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Python that has the packages of this list; `None`, loudly, if there is none.
pub(crate) fn python(test: &str, list: &str) -> Option<PathBuf> {
    let list = root().join("python/tests").join(list);
    let made =
        Command::new(root().join("scripts/stack")).arg("python").arg(list).stdin(Stdio::null()).output().unwrap();
    if made.status.success() {
        return Some(PathBuf::from(String::from_utf8(made.stdout).unwrap().trim()));
    }
    let why = text(&made);
    // An older Python is not a fault of the machine: the other versions of pandas are tested there.
    let is_required = std::env::var("SERIES_INGEST_TESTS").as_deref() == Ok("required");
    assert!(!is_required || made.status.code() == Some(NOT_POSSIBLE), "{test}: no Python: {why}");
    skip(test, &format!("no Python with the packages: {why}"));
    None
}

/// Runs these tests by pytest with just the environment that they read.
pub(crate) fn pytest(python: &Path, fixture: &Fixture, tests: &str, extra: &[(&str, &str)]) -> Output {
    let home = std::env::var_os("HOME").unwrap_or_default();
    Command::new(python)
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", tests])
        .current_dir(root().join("python"))
        .env_clear()
        .env("HOME", home)
        .env("LANG", "C.UTF-8")
        // What it leaves next to its sources would be in a checkout that others read.
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONPATH", root().join("python"))
        .env("SERIES_INGEST_TESTS", "required")
        .env("SERIES_INGEST_PROGRAM", PROGRAM)
        .env("DATABASE_URL", &fixture.url)
        .env("KAFKA_BROKERS", &fixture.brokers)
        .env("SERIES_INGEST__KAFKA__SERIES_TOPIC", &fixture.series_topic)
        .env("SERIES_INGEST__KAFKA__POINTS_TOPIC", &fixture.points_topic)
        .envs(extra.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

async fn test_with(name: &str, list: &str) {
    let Some(python) = python(name, list) else { return };
    let Some(fixture) = Fixture::unmigrated(name, 1).await else { return };
    // The series of README.md have four years of days, and a chunk for each would take most of the time.
    fixture.migrate(&[("SERIES_INGEST__DATABASE__CHUNK_INTERVAL_S", "31536000")]).await;
    let mut worker = fixture.worker(&[("SERIES_INGEST__BATCH__LINGER_MS", "50")]);
    let (output, fixture) =
        tokio::task::spawn_blocking(move || (pytest(&python, &fixture, "tests", &[]), fixture)).await.unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains(" passed"), "pytest has run tests: {said}");
    assert_eq!(fixture.count("select count(*) from ingest_dead_letter").await, 0, "nothing of it was rejected");
    assert_eq!(worker.terminate(10), Some(0));
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_package_works_with_pandas_2() {
    test_with("python_pandas_2", "requirements-pandas-2.txt").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_package_works_with_pandas_3() {
    test_with("python_pandas_3", "requirements-pandas-3.txt").await;
}
