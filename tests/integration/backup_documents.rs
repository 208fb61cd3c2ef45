//! docs/keeping-backup.md and the files of deploy/ for it, as they stand.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::backups::{drop_database, fill, programs};
use crate::support::fixture::{Fixture, url_with};
use crate::support::skip;
use crate::support::worker::{PROGRAM, text};

const FOLDER: &str = "/var/backups/series";

fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The examples of the page in these languages, in order.
fn examples(languages: &[&str]) -> Vec<(String, String)> {
    let page = file("docs/keeping-backup.md");
    let blocks = page.split("```").skip(1).step_by(2).map(|block| block.split_once('\n').unwrap());
    let wanted = blocks.filter(|(language, _)| languages.contains(language));
    wanted.map(|(language, code)| (language.to_owned(), code.to_owned())).collect()
}

/// A folder with the program and PostgreSQL's programs in its path.
struct Desk {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl Desk {
    fn new(fixture: &Fixture, pg_bin: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(PROGRAM, folder.path().join("series-ingest")).unwrap();
        let mut environment = fixture.environment();
        let path = format!("{}:{}:/usr/bin:/bin", folder.path().display(), pg_bin.display());
        let server = fixture.server();
        let (host, port) = server.split_once(':').unwrap();
        for (name, value) in [("PATH", path.as_str()), ("PGHOST", host), ("PGPORT", port), ("PGUSER", "postgres")] {
            environment.push((name.to_owned(), value.to_owned()));
        }
        Self { folder, environment }
    }

    fn backups(&self) -> PathBuf {
        self.folder.path().join("backups")
    }

    fn shell(&self, code: &str) -> Output {
        let code = code.replace(FOLDER, self.backups().to_str().unwrap());
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &code]).env_clear().current_dir(self.folder.path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value))).output().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_the_page_on_backups_work() {
    let Some(pg_bin) = programs("backup_page", "17") else { return };
    let Some(fixture) = Fixture::new("backup_page", 1).await else { return };
    fill(&fixture).await;
    let desk = Desk::new(&fixture, &pg_bin);
    let restored = format!("{}_restored", fixture.name);
    let url = url_with(&fixture.url, &restored, None);
    let mut commands = 0;
    for (language, code) in examples(&["sh", "sql"]) {
        // tests/integration/pitr.rs takes this one.
        if code.starts_with("pg_basebackup") {
            continue;
        }
        if language == "sql" {
            fixture.client.batch_execute(&code).await.unwrap();
            continue;
        }
        let newest = std::fs::read_dir(desk.backups()).into_iter().flatten();
        let newest = newest.map(|entry| entry.unwrap().file_name().into_string().unwrap()).max().unwrap_or_default();
        let code = code
            .replace("backup-20260131T020000Z", &newest)
            .replace("createdb restored", &format!("createdb {restored}"))
            .replace("postgresql://postgres@host/restored", &url);
        let output = desk.shell(&code);
        assert!(output.status.success(), "{code}: {}", text(&output));
        commands += code.lines().count();
    }
    assert!(commands >= 10, "the examples are found: {commands}");
    drop_database(&url).await;
    fixture.remove().await;
}

/// The command lines of the files of deploy/: of units of systemd, and of the CronJobs.
fn scheduled() -> Vec<(&'static str, Vec<String>)> {
    let units = ["deploy/backup.service", "deploy/backup-verify.service"].map(|name| {
        let text = file(name);
        let line = text.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/series-ingest ")).unwrap();
        (name, line.split(' ').map(str::to_owned).collect())
    });
    let jobs = file("deploy/backup-cronjob.yaml");
    let jobs = jobs
        .lines()
        .filter_map(|line| line.trim().strip_prefix("args: "))
        .map(|arguments| ("deploy/backup-cronjob.yaml", serde_json::from_str(arguments).unwrap()));
    let mut all: Vec<_> = jobs.collect();
    assert_eq!(all.len(), 2);
    all.extend(units);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_scheduled_makes_a_backup_and_verifies_it() {
    let Some(pg_bin) = programs("backup_schedule", "17") else { return };
    let Some(fixture) = Fixture::new("backup_schedule", 1).await else { return };
    fill(&fixture).await;
    let desk = Desk::new(&fixture, &pg_bin);
    for verb in ["create", "verify"] {
        for (name, words) in scheduled().into_iter().filter(|(_, words)| words[1] == verb) {
            let output = desk.shell(&format!("series-ingest {}", words.join(" ")));
            assert!(output.status.success(), "{name}: {}", text(&output));
        }
    }
    assert_eq!(fixture.count("select count(*) from ingest_backup where verified_at is not null").await, 1);
    assert_eq!(fixture.count("select count(*) from ingest_backup").await, 2);
    fixture.remove().await;
}

#[test]
fn the_units_of_systemd_are_valid() {
    let folder = tempfile::tempdir().unwrap();
    let mut units = Vec::new();
    for name in ["backup.service", "backup.timer", "backup-verify.service", "backup-verify.timer"] {
        let at = folder.path().join(name);
        // It demands that the program is there.
        std::fs::write(&at, file(&format!("deploy/{name}")).replace("/usr/local/bin/series-ingest", PROGRAM)).unwrap();
        units.push(at);
    }
    let checked = Command::new("systemd-analyze").arg("verify").args(&units).output();
    match checked {
        Err(error) => skip("the_units_of_systemd_are_valid", &format!("systemd-analyze: {error}")),
        Ok(output) => assert!(output.status.success() && !text(&output).contains("backup"), "{}", text(&output)),
    }
}
