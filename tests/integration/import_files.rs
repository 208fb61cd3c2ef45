//! `points import` of files that other programs, other people and failing disks have made: damage, names, definitions.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, RecordBatch, TimestampMicrosecondArray};
use serde_json::Value;

use crate::support::fixture::Fixture;
use crate::support::folder::Folder;
use crate::support::worker::{PROGRAM, run, text};

type Environment = Vec<(String, String)>;

fn import(environment: &Environment, arguments: &[&str]) -> Output {
    run(environment, &[&["points", "import"], arguments].concat())
}

fn batch(rows: i64) -> RecordBatch {
    let times = TimestampMicrosecondArray::from_iter_values((0..rows).map(|row| 1_735_689_600_000_000 + row));
    let values = Float64Array::from_iter_values((0..rows).map(|row| row as f64));
    let columns: Vec<(&str, ArrayRef)> = vec![("time", Arc::new(times)), ("v", Arc::new(values))];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// An Arrow file with two batches. The second one has a buffer longer than the file.
fn damaged_arrow() -> Vec<u8> {
    let mut writer = arrow_ipc::writer::FileWriter::try_new(Vec::new(), &batch(1).schema()).unwrap();
    writer.write(&batch(100)).unwrap();
    writer.write(&batch(333)).unwrap();
    writer.finish().unwrap();
    let mut bytes = writer.into_inner().unwrap();
    // The length of a buffer of the second batch, in its message.
    let length = (333_i64 * 8).to_le_bytes();
    let at = (0..bytes.len() - 8).find(|at| bytes[*at..*at + 8] == length).unwrap();
    bytes[at + 3] = 0x7f;
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_arrow_file_is_read_up_to_its_damage_and_other_files_are_imported() {
    let Some(fixture) = Fixture::new("import_arrow", 1).await else { return };
    let environment = fixture.environment();
    let folder = Folder::new();
    let bad = folder.file("bad.arrow", damaged_arrow());
    let good = folder.file("good.csv", "time,v\n2024-01-01,1\n");
    let output = import(&environment, &["--series", "s", "--dry-run", &bad]);
    assert_eq!(output.status.code(), Some(65), "{}", text(&output));
    assert!(text(&output).contains("after row 100: "), "{}", text(&output));
    let output = import(&environment, &["--series", "s", &bad, &good]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(65), "{said}");
    assert!(said.contains("after row 100: ") && !said.contains("panicked"), "{said}");
    assert_eq!(fixture.count_points().await, 101);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compression_that_is_not_known_is_refused_before_anything_is_written() {
    let Some(fixture) = Fixture::new("import_brotli", 1).await else { return };
    let folder = Folder::new();
    let properties = parquet::file::properties::WriterProperties::builder()
        .set_compression(parquet::basic::Compression::GZIP(parquet::basic::GzipLevel::default()))
        .build();
    let mut bytes = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, batch(1).schema(), Some(properties)).unwrap();
    writer.write(&batch(100)).unwrap();
    writer.close().unwrap();
    // In the footer each column says GZIP, which is 2, after its path; Brotli is 4.
    let footer = u32::from_le_bytes(bytes[bytes.len() - 8..bytes.len() - 4].try_into().unwrap()) as usize;
    let place = |bytes: &[u8], name: u8| {
        let start = bytes.len() - 8 - footer;
        let mark = [0x18, 1, name, 0x15, 4];
        start + bytes[start..].windows(5).position(|five| five == mark).unwrap() + 4
    };
    let at = place(&bytes, b'v');
    bytes[at] = 8;
    let bad = folder.file("brotli.parquet", bytes);
    let good = folder.file("good.csv", "time,v\n2024-01-01,1\n");
    let output = import(&fixture.environment(), &["--series", "s", &good, &bad]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(said.contains("is compressed by Brotli, which cannot be read"), "{said}");
    assert_eq!(fixture.count_points().await, 0);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_files_move_no_cursor_and_are_words_of_the_shell() {
    let Some(fixture) = Fixture::new("import_names", 1).await else { return };
    let mut environment = fixture.environment();
    let folder = Folder::new();
    let bin = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(PROGRAM, bin.path().join("series-ingest")).unwrap();
    environment.push(("PATH".to_owned(), format!("{}:{}", bin.path().display(), std::env::var("PATH").unwrap())));
    let names = ["-b 'q'\n.csv", "\u{1b}[31m\"x\"$(id).csv", "back\\slash `id`.csv", "plain.csv"];
    let is_clean = |output: &Output| {
        let said = text(output);
        assert!(!said.contains(|c: char| c.is_control() && c != '\n'), "{said:?}");
        assert!(!said.lines().any(|line| line.starts_with(".csv")), "{said}");
        said
    };
    for (number, name) in names.into_iter().enumerate() {
        let path = folder.file(name, format!("time,v\n2024-01-01,1\n2024-01-02,{}x\n", "y".repeat(number)));
        is_clean(&import(&environment, &["--series", "s", "--dry-run", &path]));
        let output = import(&environment, &["--series", "s", &path]);
        assert_eq!(output.status.code(), Some(65), "{}", text(&output));
        let said = is_clean(&output);
        // The hint as it stands.
        let hint = said.split_once("numbers of the rows: `").unwrap().1.split("` says why").next().unwrap();
        let mut shell = Command::new("bash");
        let shown = shell.args(["-c", hint]).env_clear().envs(environment.iter().cloned()).output().unwrap();
        assert!(shown.status.success(), "{hint}: {}", text(&shown));
        assert!(is_clean(&shown).contains("1 of 1 dead letters shown"), "{hint}: {}", text(&shown));
        is_clean(&import(&environment, &["--series", "other", &path]));
    }
    for arguments in [
        &["dead-letter", "list"][..],
        &["dead-letter", "counts"],
        &["dead-letter", "show", "1"],
        &["dead-letter", "redrive", "--topic", names[0]],
        &["progress", "show"],
        &["progress", "show", "--topic", names[0]],
        &["progress", "reset", "--source", "1", "--next-offset", "1", "--yes"],
        &["points", "export", "s", "--out", "/nowhere/\u{1b}[31m\n.csv"],
        &["points", "import", "--series", "s", "/nowhere/\u{1b}[31m\n.csv"],
    ] {
        is_clean(&run(&environment, arguments));
    }
    let editor = folder.file("edit", "#!/bin/sh\n");
    fs::set_permissions(&editor, fs::Permissions::from_mode(0o755)).unwrap();
    environment.push(("EDITOR".to_owned(), editor));
    is_clean(&run(&environment, &["dead-letter", "redrive", "--edit", "--topic", names[0]]));
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_with_a_column_twice_is_exported_so_that_it_is_imported() {
    let Some(fixture) = Fixture::new("import_twice_named", 1).await else { return };
    let environment = fixture.environment();
    let sql = "insert into time_series_metadata (id, name, time_column, value_columns) values ('s', 'S', 'date', '[\"v\", \"w\", \"v\"]');
               insert into time_series_data_points (time_series_id, column_name, \"timestamp\", value) values ('s', 'v', '2024-01-01', 1)";
    fixture.client.batch_execute(sql).await.unwrap();
    let folder = Folder::new();
    for name in ["s.parquet", "s.arrow", "s.csv", "s.jsonl"] {
        let path = folder.path(name);
        let path = path.to_str().unwrap();
        let output = run(&environment, &["points", "export", "s", "--out", path]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        let output = import(&environment, &["--series", name, path]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        let shown = run(&environment, &["series", "show", name, "--json"]);
        let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
        assert_eq!((&shown["name"], shown["time_column"].as_str()), (&"S".into(), Some("date")), "{shown}");
        let sql = format!(
            "select count(*) from time_series_metadata where id = '{name}' and value_columns::jsonb = '[\"v\", \"w\"]'"
        );
        assert_eq!(fixture.count(&sql).await, 1, "{shown}");
    }
    assert_eq!(fixture.count("select count(*) from ingest_dead_letter").await, 0);
    fixture.remove().await;
}
