//! Backups: `backup create`, `verify`, `list` and `restore`, on the servers that there are.

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::backups::{
    Backups, drop_database, fill, manifest, new_database, on, programs, publish_days, replace_dump, stored,
    until_applied,
};
use crate::support::data::{Difference, Published};
use crate::support::fixture::{Fixture, connect, url_with};
use crate::support::server::Server;
use crate::support::until;
use crate::support::worker::{command, run, text};

/// A dump of the fixture's database, by pg_dump with further arguments.
fn dump(backups: &Backups, fixture: &Fixture, arguments: &[&str]) -> Vec<u8> {
    let output = std::process::Command::new(backups.pg_bin.join("pg_dump"))
        .args(["-Fc", "-d", &fixture.url])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    output.stdout
}

fn assert_fails(output: &std::process::Output, code: i32, words: &str) {
    assert_eq!(output.status.code(), Some(code), "{words}: {}", text(output));
    assert!(text(output).contains(words), "{words}: {}", text(output));
}

/// pg_dump after a transaction that came between the moment of the manifest and it: one more point, and one more offset.
const LATE: &str = "\"$REAL/psql\" -q -v ON_ERROR_STOP=1 -c \"begin;
    insert into time_series_data_points (time_series_id, \\\"timestamp\\\", column_name, value) values ('s', '2025-01-01 23:00Z', 'a', 1);
    update ingest_progress set next_offset = next_offset + 1; commit\" >&2 || exit 1\nexec \"$REAL/pg_dump\" \"$@\"";

async fn backed_up_between_two_commits(test: &str, bug: Option<&str>) -> Option<std::process::Output> {
    let pg_bin = programs(test, "17")?;
    let fixture = Fixture::new(test, 1).await?;
    fill(&fixture).await;
    let backups = Backups::new(pg_bin);
    let late = backups.with_script("pg_dump", LATE);
    let mut environment = fixture.environment();
    environment.extend(bug.map(|bug| ("SERIES_INGEST_PLANTED_BUGS".to_owned(), bug.to_owned())));
    let backup = late.create(&environment);
    let output = backups.verify(&fixture, &backup).await;
    fixture.remove().await;
    Some(output)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dump_and_its_manifest_are_of_one_moment() {
    let Some(output) = backed_up_between_two_commits("backup_moment", None).await else { return };
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn planted_bug_a_backup_without_a_snapshot() {
    if !cfg!(feature = "planted-bugs") {
        return;
    }
    let bug = Some("backup-without-snapshot");
    let Some(output) = backed_up_between_two_commits("backup_no_snapshot", bug).await else { return };
    assert_fails(&output, 65, "ahead of the points");
    assert_fails(&output, 65, "_hyper_");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_is_verified_listed_and_remembered() {
    let Some(pg_bin) = programs("backup_load", "17") else { return };
    let Some(fixture) = Fixture::new("backup_load", 2).await else { return };
    let mut published = Published::default();
    let worker = fixture.worker(&[]);
    let backups = Backups::new(pg_bin);
    publish_days(&fixture, &mut published, 20);
    fixture.until_applied(60).await;
    until(30, "no backup is known", async || {
        worker.metric("series_ingest_backup_age_seconds").is_some_and(f64::is_nan)
    })
    .await;
    publish_days(&fixture, &mut published, 400);
    let environment = fixture.environment();
    let path = backups.path();
    let backup = backups.create(&environment);
    let output = backups.verify(&fixture, &backup).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));

    let listed: Value =
        serde_json::from_slice(&run(&[], &["backup", "list", path.to_str().unwrap(), "--json"]).stdout).unwrap();
    let one = &listed["backups"][0];
    assert_eq!(one["path"], json!(backup.to_str().unwrap()));
    assert!(one["verified_at"].is_string() && one["points"].as_i64() > Some(0), "{listed}");
    let table = text(&run(&[], &["backup", "list", path.to_str().unwrap()]));
    assert!(table.contains("verified") && table.contains(backup.file_name().unwrap().to_str().unwrap()), "{table}");

    let row = "select points, bytes, location, verified_at is not null from ingest_backup";
    let row = fixture.client.query_one(row, &[]).await.unwrap();
    assert_eq!(Some(row.get::<_, i64>(0)), one["points"].as_i64());
    assert_eq!(Some(row.get::<_, i64>(1)), one["bytes"].as_i64());
    assert!(row.get::<_, String>(2).ends_with(backup.to_str().unwrap()) && row.get(3));
    for metric in ["series_ingest_backup_age_seconds", "series_ingest_backup_verified_age_seconds"] {
        until(40, metric, async || worker.metric(metric).is_some_and(|age| (0.0..600.0).contains(&age))).await;
    }
    fixture.until_applied(60).await;
    fixture.assert_exact(&published).await;
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_what_a_dump_lacks_and_what_it_has_too_much() {
    let Some(pg_bin) = programs("backup_damage", "17") else { return };
    let Some(fixture) = Fixture::new("backup_damage", 2).await else { return };
    fill(&fixture).await;
    let backups = Backups::new(pg_bin);
    let backup = backups.create(&fixture.environment());
    let manifest = manifest(&backup);
    let chunk = manifest["contents"]["windows"][2]["table"].as_str().unwrap().to_owned();
    let value =
        "value = value + 1 where time_series_id = 's' and \"timestamp\" < '2025-01-02 00:00Z' and column_name = 'a'";
    let another = "insert into time_series_data_points (time_series_id, \"timestamp\", column_name, value)
                   values ('s', '2025-01-20 00:00Z', 'a', 1)";
    for (change, undo, arguments, words) in [
        ("", "", vec![format!("--exclude-table-data={chunk}")], chunk.as_str()),
        (
            "update ingest_progress set next_offset = next_offset + 5 where partition = 1",
            "update ingest_progress set next_offset = next_offset - 5 where partition = 1",
            vec![],
            "ahead of the points",
        ),
        (
            "update ingest_progress set ahead = '{[1000,1001)}' where partition = 1",
            "update ingest_progress set ahead = '{}' where partition = 1",
            vec![],
            "applied ahead of partition 1",
        ),
        (
            &format!("update time_series_data_points set {value}"),
            &format!("update time_series_data_points set {}", value.replace('+', "-")),
            vec![],
            "with other contents",
        ),
        (
            another,
            "delete from time_series_data_points where \"timestamp\" > '2025-01-10 00:00Z'",
            vec![],
            "the manifest says none",
        ),
        (
            "update time_series_metadata set description = 'changed' where id = 's'",
            "update time_series_metadata set description = null where id = 's'",
            vec![],
            "rows of time_series_metadata are different",
        ),
        ("", "", vec!["--exclude-table-data=ingest_dead_letter".to_owned()], "ingest_dead_letter has 0 rows"),
    ] {
        fixture.client.batch_execute(change).await.unwrap();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        replace_dump(&backup, &dump(&backups, &fixture, &arguments));
        fixture.client.batch_execute(undo).await.unwrap();
        assert_fails(&backups.verify(&fixture, &backup).await, 65, words);
    }
    assert_eq!(fixture.count("select count(*) from ingest_backup where verified_at is not null").await, 0);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_as_it_was_written_is_found_before_anything_is_restored() {
    let Some(pg_bin) = programs("backup_bytes", "17") else { return };
    let Some(fixture) = Fixture::new("backup_bytes", 1).await else { return };
    fill(&fixture).await;
    let backups = Backups::new(pg_bin);
    let backup = backups.create(&fixture.environment());
    let file = backup.join("database.dump");
    let whole = std::fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for (content, words) in [(&flipped[..], "the hash of"), (&whole[..whole.len() - 1], "bytes, and")] {
        std::fs::write(&file, content).unwrap();
        assert_fails(&backups.verify(&fixture, &backup).await, 65, words);
        let url = new_database(&fixture.url, &format!("{}_restored", fixture.name)).await;
        let (output, _) = backups.run(&on(&fixture, &url), &["restore", backup.to_str().unwrap()]);
        assert_fails(&output, 65, words);
        let tables = "select count(*) from pg_class where relname like 'ingest\\_%'";
        assert_eq!(connect(&url).await.query_one(tables, &[]).await.unwrap().get::<_, i64>(0), 0);
        drop_database(&url).await;
    }
    std::fs::remove_file(&file).unwrap();
    assert_fails(&backups.verify(&fixture, &backup).await, 65, "cannot be read");
    std::fs::write(backup.join("manifest.json"), "{").unwrap();
    assert_fails(&run(&[], &["backup", "list", backups.path().to_str().unwrap()]), 65, "manifest.json");
    fixture.remove().await;
}

/// Waits until a script of [`Backups::with_script`] has made its file.
async fn until_made(file: &Path) {
    until(30, "the program runs", async || file.try_exists().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_interrupted_leaves_nothing() {
    let Some(pg_bin) = programs("backup_stop", "17") else { return };
    let Some(fixture) = Fixture::new("backup_stop", 1).await else { return };
    fill(&fixture).await;
    let backups = Backups::new(pg_bin);
    let backup = backups.create(&fixture.environment());
    let (signs, path) = (tempfile::tempdir().unwrap(), backups.path());
    let is_gone = |sign: &Path| {
        let pid = std::fs::read_to_string(sign).unwrap();
        !Path::new(&format!("/proc/{}", pid.trim())).try_exists().unwrap()
    };
    for (signal, code, name, words) in [
        ("INT", Some(130), "pg_restore", ["verify", backup.to_str().unwrap()]),
        ("TERM", Some(143), "pg_dump", ["create", path.to_str().unwrap()]),
        ("KILL", None, "pg_dump", ["create", path.to_str().unwrap()]),
    ] {
        let sign = signs.path().join(format!("{signal}.pid"));
        let script =
            format!("echo half\necho $$ > {sign}.new\nmv {sign}.new {sign}\nexec sleep 600", sign = sign.display());
        let hanging = backups.with_script(name, &script);
        let mut child = command(&fixture.environment())
            .arg("backup")
            .args(words)
            .arg("--pg-bin")
            .arg(&hanging.pg_bin)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until_made(&sign).await;
        let sent = std::process::Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status();
        assert!(sent.unwrap().success());
        assert_eq!(child.wait().unwrap().code(), code, "{words:?}");
        let left =
            format!("select count(*) from pg_database where datname like 'ingest\\_verify\\_%\\_{}'", child.id());
        assert_eq!(fixture.count(&left).await, 0, "{words:?}");
        if signal == "KILL" {
            let pid = std::fs::read_to_string(&sign).unwrap();
            std::process::Command::new("kill").args(["-KILL", pid.trim()]).status().unwrap();
        } else {
            assert!(is_gone(&sign), "{name} was ended");
        }
        let names = std::fs::read_dir(&path).unwrap().filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with('.')
        });
        assert_eq!(names.count(), usize::from(signal == "KILL"), "what a killed process left is hidden");
    }
    backups.create(&fixture.environment());
    let listed = std::fs::read_dir(&path).unwrap().count();
    assert_eq!(listed, 2, "what a killed process left was deleted by the next one");
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn older_backups_of_the_same_database_are_deleted() {
    let Some(pg_bin) = programs("backup_keep", "17") else { return };
    let Some(fixture) = Fixture::new("backup_keep", 1).await else { return };
    let Some(other) = Fixture::new("backup_keep_other", 1).await else { return };
    let backups = Backups::new(pg_bin);
    let path = backups.path();
    let of_other = backups.create(&other.environment());
    let made: Vec<Value> = (0..3)
        .map(|_| backups.document(&fixture.environment(), &["create", path.to_str().unwrap(), "--keep", "2"]))
        .collect();
    assert_eq!(made[2]["removed"], json!([made[0]["path"]]));
    let listed: Value =
        serde_json::from_slice(&run(&[], &["backup", "list", path.to_str().unwrap(), "--json"]).stdout).unwrap();
    let left: Vec<&Value> = listed["backups"].as_array().unwrap().iter().map(|one| &one["path"]).collect();
    assert_eq!(left, [&json!(of_other.to_str().unwrap()), &made[1]["path"], &made[2]["path"]]);
    assert_eq!(fixture.count("select count(*) from ingest_backup").await, 2);
    assert_eq!(other.count("select count(*) from ingest_backup").await, 1);
    fixture.remove().await;
    other.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_not_on_a_command_line_and_programs_that_do_not_fit_are_refused() {
    let Some(pg_bin) = programs("backup_programs", "17") else { return };
    let Some(fixture) = Fixture::new("backup_programs", 1).await else { return };
    let backups = Backups::new(pg_bin);
    let seen = tempfile::tempdir().unwrap();
    let at = seen.path().display();
    let script = format!("echo \"$@\" > {at}/arguments\nenv > {at}/environment\nexec \"$REAL/pg_dump\" \"$@\"");
    let watching = backups.with_script("pg_dump", &script);
    let url = fixture.url.replacen("postgres@", "postgres:s3cret@", 1);
    watching.create(&on(&fixture, &url));
    let read = |name: &str| std::fs::read_to_string(seen.path().join(name)).unwrap();
    assert!(!read("arguments").contains("s3cret") && read("environment").contains("PGPASSWORD=s3cret"));

    let old = backups.with_script("pg_dump", "");
    std::fs::write(old.pg_bin.join("pg_dump"), "#!/bin/sh\necho 'pg_dump (PostgreSQL) 13.4'\n").unwrap();
    let folder = backups.path();
    let arguments = ["create", folder.to_str().unwrap()];
    assert_fails(&old.run(&fixture.environment(), &arguments).0, 64, "is version 13.4");
    let none = Backups::new(seen.path().to_owned());
    assert_fails(&none.run(&fixture.environment(), &arguments).0, 64, "has no pg_dump that runs");
    let failing = backups.with_script("pg_dump", "echo 'it went wrong' >&2; exit 3");
    assert_fails(&failing.run(&fixture.environment(), &arguments).0, 69, "it went wrong");
    // Found in PATH.
    let mut environment = fixture.environment();
    environment.push(("PATH".to_owned(), backups.pg_bin.display().to_string()));
    let output = run(&environment, &["backup", "create", folder.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    fixture.remove().await;
}

/// Restores into this database, goes on with a worker there, and compares.
async fn restored_goes_on(
    fixture: &Fixture,
    backups: &Backups,
    backup: &Path,
    url: &str,
    published: &mut Published,
) -> Value {
    let document = backups.document(&on(fixture, url), &["restore", backup.to_str().unwrap()]);
    let offsets: Vec<i64> =
        document["partitions"].as_array().unwrap().iter().map(|one| one["next_offset"].as_i64().unwrap()).collect();
    assert!(!offsets.is_empty() && document["ok"] == json!(true), "{document}");
    let check = run(&on(fixture, url), &["check"]);
    assert!(check.status.success() && text(&check).contains("schema: up to date"), "{}", text(&check));
    publish_days(fixture, published, 7);
    let mut worker = fixture.worker(&[("DATABASE_URL", url)]);
    until_applied(fixture, url).await;
    assert_eq!(worker.terminate(10), Some(0));
    assert_eq!(Difference::between(published.rows.clone(), stored(url).await), Difference::default());
    let client = connect(url).await;
    let letters: i64 = client.query_one("select count(*) from ingest_dead_letter", &[]).await.unwrap().get(0);
    let counted: i64 =
        client.query_one("select sum(kept)::bigint from ingest_dead_letter_count", &[]).await.unwrap().get(0);
    assert_eq!((letters, counted), (1, 1));
    document
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_says_from_where_it_goes_on_and_goes_on_exactly() {
    let Some(pg_bin) = programs("backup_restore", "17") else { return };
    let Some(fixture) = Fixture::new("backup_restore", 1).await else { return };
    let mut published = fill(&fixture).await;
    let backups = Backups::new(pg_bin);
    let backup = backups.create(&fixture.environment());
    let naming = ["restore", backup.to_str().unwrap()];
    let (output, _) = backups.run(&fixture.environment(), &naming);
    assert_fails(&output, 64, "is not empty");
    let missing = url_with(&fixture.url, &format!("{}_missing", fixture.name), None);
    assert_fails(&backups.run(&on(&fixture, &missing), &naming).0, 64, "does not exist");
    let (output, _) = backups.run(&fixture.environment(), &["restore", backups.path().to_str().unwrap()]);
    assert_fails(&output, 64, "is not a backup");

    let url = new_database(&fixture.url, &format!("{}_restored", fixture.name)).await;
    let document = restored_goes_on(&fixture, &backups, &backup, &url, &mut published).await;
    let points =
        document["partitions"].as_array().unwrap().iter().find(|one| one["topic"] == json!(fixture.points_topic));
    let points = points.unwrap();
    assert_eq!((&points["next_offset"], &points["log_start"], &points["deleted"]), (&json!(31), &json!(0), &json!(0)));
    assert_eq!(document["row_by_row"], json!(false));

    // Kafka no longer has all that the backup lacks.
    fixture.broker.delete_records(&fixture.points_topic, 0, 35).await;
    let again = new_database(&fixture.url, &format!("{}_again", fixture.name)).await;
    let (output, _) = backups.run(&on(&fixture, &again), &naming);
    assert!(text(&output).contains("is read again from 31; Kafka has 35 to 38: it has deleted 4"), "{}", text(&output));
    let silent = new_database(&fixture.url, &format!("{}_again", fixture.name)).await;
    let (output, _) = backups.run(&on(&fixture, &silent), &[naming[0], naming[1], "--no-kafka"]);
    assert!(text(&output).contains("is read again from 31; Kafka was not asked"), "{}", text(&output));
    for url in [url, again] {
        drop_database(&url).await;
    }
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_naive_restore_of_a_backup_is_noticed() {
    let Some(pg_bin) = programs("backup_naive", "17") else { return };
    let Some(fixture) = Fixture::new("backup_naive", 1).await else { return };
    fill(&fixture).await;
    let backups = Backups::new(pg_bin);
    let backup = backups.create(&fixture.environment());
    let file = backup.join("database.dump");
    for (how, arguments) in [("in several jobs", &["-j", "3"][..]), ("the schema alone", &["-n", "public"][..])] {
        let url = new_database(&fixture.url, &format!("{}_naive", fixture.name)).await;
        let mut restore = std::process::Command::new(backups.pg_bin.join("pg_restore"));
        restore.args(["-d", &url]).args(arguments).arg(&file).output().unwrap();
        let points = connect(&url).await.query_one("select count(*) from time_series_data_points", &[]).await;
        // The catalog may be so that no query is planned.
        let left = points.ok().map(|row| row.get::<_, i64>(0));
        assert!(matches!(left, None | Some(0)), "{how}: {left:?}");
        let check = run(&on(&fixture, &url), &["check"]);
        assert_eq!(check.status.code(), Some(64), "{how}: {}", text(&check));
        drop_database(&url).await;
    }
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn privileges_are_restored_or_their_roles_are_asked_for() {
    let Some(pg_bin) = programs("backup_roles", "17") else { return };
    let Some(fixture) = Fixture::new("backup_roles", 1).await else { return };
    let mut published = fill(&fixture).await;
    let (role, _) = fixture.worker_role("").await;
    let backups = Backups::new(pg_bin);
    let backup = backups.create(&fixture.environment());
    let url = new_database(&fixture.url, &format!("{}_restored", fixture.name)).await;
    let document = backups.document(&on(&fixture, &url), &["restore", backup.to_str().unwrap()]);
    assert_eq!(document["ok"], json!(true));
    let theirs = url.replacen("postgres@", &format!("{role}@"), 1);
    publish_days(&fixture, &mut published, 5);
    let mut worker = fixture.worker(&[("DATABASE_URL", &theirs)]);
    until_applied(&fixture, &url).await;
    assert_eq!(worker.terminate(10), Some(0));
    assert_eq!(Difference::between(published.rows.clone(), stored(&url).await), Difference::default());
    drop_database(&url).await;

    let mut changed = manifest(&backup);
    changed["origin"]["roles"] = json!(["no_such_role"]);
    std::fs::write(backup.join("manifest.json"), changed.to_string()).unwrap();
    let url = new_database(&fixture.url, &format!("{}_restored", fixture.name)).await;
    let (output, _) = backups.run(&on(&fixture, &url), &["restore", backup.to_str().unwrap()]);
    assert_fails(&output, 64, "no_such_role");
    backups.document(&on(&fixture, &url), &["restore", backup.to_str().unwrap(), "--no-privileges"]);
    drop_database(&url).await;
    fixture.remove_with_role(&role).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_schema_of_the_tables_is_backed_up_whatever_its_name() {
    let Some(pg_bin) = programs("backup_schema", "17") else { return };
    let Some(fixture) = Fixture::unmigrated("backup_schema", 1).await else { return };
    let named = |mut environment: Vec<(String, String)>, name: &str| {
        environment.push(("SERIES_INGEST__DATABASE__SCHEMA".to_owned(), name.to_owned()));
        environment
    };
    let schema = "My \"own\" Series";
    let migrated = run(&named(fixture.environment(), schema), &["migrate"]);
    assert!(migrated.status.success(), "{}", text(&migrated));
    let others = "create table public.of_another (a int); create schema others; create table others.t (a int)";
    fixture.client.batch_execute(others).await.unwrap();
    let path = "set search_path = \"My \"\"own\"\" Series\"";
    let point = "insert into time_series_metadata (id, time_column, value_columns) values ('s', 'timestamp', '[]');
                 insert into time_series_data_points (time_series_id, \"timestamp\", column_name, value)
                 values ('s', '2025-01-01 00:00Z', 'a', 1)";
    fixture.client.batch_execute(&format!("{path}; {point}")).await.unwrap();
    let backups = Backups::new(pg_bin);
    let backup = backups.create(&named(fixture.environment(), schema));
    let output = backups.verify(&fixture, &backup).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    for (wanted, row_by_row) in [(schema, false), ("elsewhere", true)] {
        let url = new_database(&fixture.url, &format!("{}_restored", fixture.name)).await;
        let restore = ["restore", backup.to_str().unwrap(), "--no-kafka"];
        let document = backups.document(&named(on(&fixture, &url), wanted), &restore);
        assert_eq!((&document["ok"], &document["row_by_row"]), (&json!(true), &json!(row_by_row)));
        let client = connect(&url).await;
        let found = "select array(select relname::text from pg_class where relname in ('of_another', 't'))";
        assert_eq!(client.query_one(found, &[]).await.unwrap().get::<_, Vec<String>>(0), [""; 0]);
        drop_database(&url).await;
    }

    // A hypertable of others is in the catalog of the same extension: then it has to be the whole database.
    let hypertable = "create table others.h (t timestamptz not null); select public.create_hypertable('others.h', 't');
                      insert into others.h values ('2025-01-01 00:00Z')";
    fixture.client.batch_execute(hypertable).await.unwrap();
    let backup = backups.create(&named(fixture.environment(), schema));
    assert_eq!(manifest(&backup)["origin"]["is_whole_database"], json!(true));
    let url = new_database(&fixture.url, &format!("{}_restored", fixture.name)).await;
    let restore = ["restore", backup.to_str().unwrap(), "--no-kafka"];
    backups.document(&named(on(&fixture, &url), schema), &restore);
    let client = connect(&url).await;
    assert_eq!(client.query_one("select count(*) from others.h", &[]).await.unwrap().get::<_, i64>(0), 1);
    drop(client);
    drop_database(&url).await;
    fixture.remove().await;
}

/// A backup of a plain PostgreSQL of one version is restored on others, on its own, and on one with TimescaleDB.
async fn of_version(major: &'static str) {
    let test = format!("backup_of_{major}");
    let Some(newest) = programs(&test, "18") else { return };
    let Some(server) = Server::start_plain(&test, major).await else { return };
    let fixture = Fixture::on(&server, &test, 2).await;
    let mut published = fill(&fixture).await;
    let mut backups = Backups::new(newest.clone());
    if major == "17" {
        // A pg_dump of another version may not know all that the catalog of this one has.
        let Some(same) = programs(&test, major) else { return };
        backups.pg_bin = same;
    }
    let backup = backups.create(&fixture.environment());
    let output = backups.verify(&fixture, &backup).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    backups.pg_bin = newest;
    let name = format!("{}_restored", fixture.name);
    let hypertables = std::env::var("DATABASE_URL").unwrap();
    let mut others = Vec::new();
    for other in ["14", "16", "17", "18"].into_iter().filter(|other| *other != major) {
        others.extend(Server::start_plain(&format!("{test}_on_{other}"), other).await.map(|server| (other, server)));
    }
    let urls = others.iter().map(|(other, server)| (*other, server.url()));
    for (target, server_url) in urls.chain([(major, fixture.url.clone()), ("TimescaleDB", hypertables)]) {
        let url = new_database(&server_url, &name).await;
        let document = restored_goes_on(&fixture, &backups, &backup, &url, &mut published).await;
        // pg_restore 18 knows a setting that servers before 17 do not.
        let is_whole = target != "TimescaleDB" && target >= major && target >= "17";
        assert_eq!(document["row_by_row"], json!(!is_whole), "{major} on {target}: {document}");
        drop_database(&url).await;
    }
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_postgresql_14_goes_on_exactly_on_every_other() {
    of_version("14").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_postgresql_16_goes_on_exactly_on_every_other() {
    of_version("16").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_postgresql_17_goes_on_exactly_on_every_other() {
    of_version("17").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_postgresql_18_goes_on_exactly_on_every_other() {
    of_version("18").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_hypertables_goes_on_exactly_on_plain_postgresql() {
    let test = "backup_to_plain";
    let Some(pg_bin) = programs(test, "18") else { return };
    let Some(fixture) = Fixture::new(test, 2).await else { return };
    let mut published = fill(&fixture).await;
    let backups = Backups::new(pg_bin);
    let backup = backups.create(&fixture.environment());
    for major in ["14", "18"] {
        let Some(server) = Server::start_plain(test, major).await else { continue };
        let url = new_database(&server.url(), &format!("{}_restored", fixture.name)).await;
        let document = restored_goes_on(&fixture, &backups, &backup, &url, &mut published).await;
        assert_eq!(document["row_by_row"], json!(true));
    }
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_the_community_edition_keeps_its_compressed_chunks() {
    use series_ingest::database::schema::profile::Profile;
    let test = "backup_community";
    let Some(pg_bin) = programs(test, "17") else { return };
    let Some(fixture) = Fixture::on_community(test, 2, Profile::Standard).await else { return };
    let mut published = fill(&fixture).await;
    let compress = "select count(compress_chunk(c)) from show_chunks('time_series_data_points', older_than => timestamptz '2025-01-04') as c";
    assert!(fixture.count(compress).await > 1);
    let backups = Backups::new(pg_bin);
    let backup = backups.create(&fixture.environment());
    let output = backups.verify(&fixture, &backup).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let url = new_database(&fixture.url, &format!("{}_restored", fixture.name)).await;
    restored_goes_on(&fixture, &backups, &backup, &url, &mut published).await;
    let sql = "select count(*) from timescaledb_information.chunks where is_compressed";
    assert!(connect(&url).await.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 1);
    // The Apache edition cannot read them.
    let apache = new_database(&std::env::var("DATABASE_URL").unwrap(), &format!("{}_apache", fixture.name)).await;
    let (output, _) = backups.run(&on(&fixture, &apache), &["restore", backup.to_str().unwrap()]);
    assert_fails(&output, 64, "are compressed");
    for url in [url, apache] {
        drop_database(&url).await;
    }
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_does_not_start_on_a_restore_that_has_not_ended() {
    let Some(pg_bin) = programs("backup_unfinished", "17") else { return };
    let Some(fixture) = Fixture::new("backup_unfinished", 1).await else { return };
    fill(&fixture).await;
    let backups = Backups::new(pg_bin);
    let backup = backups.create(&fixture.environment());
    let url = new_database(&fixture.url, &format!("{}_restored", fixture.name)).await;
    // It fails after the points, before the progress.
    let failing = backups.with_script(
        "pg_restore",
        "case \"$*\" in *ingest_progress*) echo 'it went wrong' >&2; exit 1;; esac\nexec \"$REAL/pg_restore\" \"$@\"",
    );
    let (output, _) = failing.run(&on(&fixture, &url), &["restore", backup.to_str().unwrap(), "--rows", "--no-kafka"]);
    assert_fails(&output, 69, "it went wrong");
    let mut worker = fixture.worker(&[("DATABASE_URL", &url)]);
    assert_eq!(worker.exit_code(30), Some(64), "{}", worker.log());
    for command in ["check", "migrate"] {
        let output = run(&on(&fixture, &url), &[command]);
        assert_fails(&output, 64, "a restore into this database has not ended");
    }
    let (output, _) = backups.run(&on(&fixture, &url), &["restore", backup.to_str().unwrap()]);
    assert_fails(&output, 64, "is not empty");
    drop_database(&url).await;
    fixture.remove().await;
}
