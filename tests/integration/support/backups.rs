//! Backups in tests: PostgreSQL's programs, a folder of backups, and copies of databases that are restored from them.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::data::{Published, bits};
use super::fixture::{Fixture, connect, url_with};
use super::worker::{command, text};
use super::{skip, until};

const DAY_US: i64 = 86_400_000_000;
/// 2025-01-01, in microseconds since the Unix epoch.
const FIRST_US: i64 = 1_735_689_600_000_000;

/// The folder of PostgreSQL's programs of this major version; `None`, loudly, if there are none.
pub fn programs(test: &str, major: &str) -> Option<PathBuf> {
    let stack = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/stack");
    let output = Command::new(stack).args(["programs", major]).stdin(Stdio::null()).output().unwrap();
    if output.status.code() == Some(77) {
        skip(test, String::from_utf8_lossy(&output.stderr).trim());
        return None;
    }
    assert!(output.status.success(), "{}", text(&output));
    Some(PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()))
}

/// A folder of backups, and the programs that make and restore them.
pub struct Backups {
    folder: tempfile::TempDir,
    pub pg_bin: PathBuf,
}

impl Backups {
    pub fn new(pg_bin: PathBuf) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), pg_bin }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("backups")
    }

    /// Runs `backup WORDS… --pg-bin …`, and returns the process's number as well.
    pub fn run(&self, environment: &[(String, String)], words: &[&str]) -> (Output, u32) {
        let child = command(environment)
            .arg("backup")
            .args(words)
            .arg("--pg-bin")
            .arg(&self.pg_bin)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let id = child.id();
        (child.wait_with_output().unwrap(), id)
    }

    /// The same, which must succeed; returns the document that it prints.
    pub fn document(&self, environment: &[(String, String)], words: &[&str]) -> Value {
        let (output, _) = self.run(environment, &[words, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", text(&output));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output)))
    }

    /// Makes a backup; returns its folder.
    pub fn create(&self, environment: &[(String, String)]) -> PathBuf {
        let made = self.document(environment, &["create", self.path().to_str().unwrap()]);
        PathBuf::from(made["path"].as_str().unwrap())
    }

    /// Verifies a backup, and asserts that nothing of it is left on the server.
    pub async fn verify(&self, fixture: &Fixture, backup: &Path) -> Output {
        let (output, id) = self.run(&fixture.environment(), &["verify", backup.to_str().unwrap()]);
        let left = "select count(*) from pg_database where datname like 'ingest\\_verify\\_%\\_' || $1::text";
        let left: i64 = fixture.client.query_one(left, &[&id.to_string()]).await.unwrap().get(0);
        assert_eq!(left, 0, "the database of the verification was dropped: {}", text(&output));
        output
    }

    /// A folder with these programs, one replaced by a shell script. `$REAL` in it is the folder of the real ones.
    pub fn with_script(&self, name: &str, script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for program in ["pg_dump", "pg_restore", "psql"] {
            std::os::unix::fs::symlink(self.pg_bin.join(program), folder.path().join(program)).unwrap();
        }
        let file = folder.path().join(name);
        std::fs::remove_file(&file).unwrap();
        let real = self.pg_bin.display();
        // Its version is asked for as well.
        let text = format!(
            "#!/bin/sh\nREAL='{real}'\nif [ \"$1\" = --version ]; then exec \"$REAL/{name}\" --version; fi\n{script}\n"
        );
        std::fs::File::create(&file).unwrap().write_all(text.as_bytes()).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { pg_bin: folder.path().to_owned(), folder }
    }
}

/// The manifest of a backup.
pub fn manifest(backup: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(backup.join("manifest.json")).unwrap()).unwrap()
}

/// Puts another dump in the place of a backup's, with its length and its hash in the manifest.
pub fn replace_dump(backup: &Path, dump: &[u8]) {
    let mut document = manifest(backup);
    let hash: String = Sha256::digest(dump).iter().map(|byte| format!("{byte:02x}")).collect();
    document["dump"]["sha256"] = json!(hash);
    document["dump"]["bytes"] = json!(dump.len());
    std::fs::write(backup.join("manifest.json"), document.to_string()).unwrap();
    std::fs::write(backup.join("database.dump"), dump).unwrap();
}

/// The environment of commands on another database.
pub fn on(fixture: &Fixture, url: &str) -> Vec<(String, String)> {
    let mut environment = fixture.environment();
    environment.push(("DATABASE_URL".to_owned(), url.to_owned()));
    environment
}

/// Publishes messages with points of five days.
pub fn publish_days(fixture: &Fixture, published: &mut Published, messages: usize) {
    let before = i64::try_from(published.rows.len()).unwrap();
    for number in 0..messages {
        let at = before + i64::try_from(number).unwrap();
        let times = (0..5).map(|day| FIRST_US + day * DAY_US + at * 1000).collect();
        let series = ["s", "t"][number % 2];
        let payload = published.batch_at(series, times);
        let partition = i32::try_from(number).unwrap() % fixture.partitions;
        fixture.producer.send(&fixture.points_topic, partition, series, Some(payload.as_bytes()));
    }
    fixture.producer.flush();
}

/// Writes messages with points of five days, and a dead letter, by a worker that has ended then.
pub async fn fill(fixture: &Fixture) -> Published {
    let mut published = Published::default();
    fixture.producer.send(&fixture.points_topic, 0, "s", Some(b"{"));
    publish_days(fixture, &mut published, 30);
    let mut worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    assert_eq!(worker.terminate(10), Some(0));
    published
}

/// A new, empty database on the server of this URL; returns its own URL.
pub async fn new_database(server_url: &str, name: &str) -> String {
    let admin = connect(&url_with(server_url, "postgres", None)).await;
    for sql in [format!("drop database if exists {name} with (force)"), format!("create database {name}")] {
        admin.batch_execute(&sql).await.unwrap();
    }
    url_with(server_url, name, None)
}

pub async fn drop_database(url: &str) {
    let name = url.rsplit('/').next().unwrap();
    let admin = connect(&url_with(url, "postgres", None)).await;
    admin.batch_execute(&format!("drop database {name} with (force)")).await.unwrap();
}

/// The points of the database of this URL.
pub async fn stored(url: &str) -> Vec<super::data::Row> {
    let sql = "select time_series_id, column_name, (extract(epoch from \"timestamp\") * 1000000)::bigint, value
               from time_series_data_points";
    let rows = connect(url).await.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), bits(row.get(3)))).collect()
}

/// Waits until the progress in the database of this URL has reached the ends of the points' log.
pub async fn until_applied(fixture: &Fixture, url: &str) {
    let ends = fixture.broker.ends(&fixture.points_topic, fixture.partitions);
    let client = connect(url).await;
    let sql = "select array(select next_offset from ingest_progress join ingest_source on ingest_source.id = source_id
                            where topic = $1 order by partition)";
    until(60, &format!("all of {ends:?} applied"), async || {
        client.query_one(sql, &[&fixture.points_topic]).await.unwrap().get::<_, Vec<i64>>(0) == ends
    })
    .await;
}
