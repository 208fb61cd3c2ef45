//! Rules that the compiler does not keep: who may use what, and that the documents say what the code has.
#![allow(missing_docs, reason = "nobody uses a test's items from outside")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use series_ingest::telemetry::metrics::METRICS;

#[path = "tidy/documents.rs"]
mod documents;
#[path = "tidy/log_filters.rs"]
mod log_filters;
#[path = "tidy/rooms.rs"]
mod rooms;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All source files, by their path below `src/`.
fn sources() -> BTreeMap<String, String> {
    fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let base = root().join("src");
    let mut files = Vec::new();
    collect(&base, &mut files);
    assert!(files.len() > 20, "the sources are found");
    files
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&base).unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(&path).unwrap())
        })
        .collect()
}

/// The lines of code, without comments.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines()).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Lines outside `allowed` folders or files that contain one of the words.
fn offenders(words: &[&str], allowed: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (name, text) in sources() {
        if allowed.iter().any(|place| name.starts_with(place)) {
            continue;
        }
        for (number, line) in code(&text) {
            if words.iter().any(|word| line.contains(word)) {
                found.push(format!("src/{name}:{number}: {}", line.trim()));
            }
        }
    }
    found
}

#[test]
fn kafkas_library_is_used_in_one_place() {
    assert_eq!(offenders(&["rdkafka::", "rdkafka_sys"], &["kafka/"]), [""; 0]);
}

#[test]
fn the_databases_libraries_are_used_in_one_place() {
    assert_eq!(offenders(&["tokio_postgres"], &["database/", "repository/"]), [""; 0]);
    assert_eq!(offenders(&["deadpool", "refinery"], &["database/"]), [""; 0]);
}

#[test]
fn kafka_the_database_and_the_journal_do_not_know_each_other() {
    let mut found = Vec::new();
    for (name, text) in sources() {
        let forbidden: &[&str] = match name.split('/').next() {
            Some("kafka") => &["crate::database", "crate::journal"],
            Some("database") => &["crate::kafka", "crate::journal"],
            Some("journal") => &["crate::kafka", "crate::database"],
            _ => continue,
        };
        let names = |line: &str| forbidden.iter().any(|module| line.contains(module));
        found.extend(code(&text).filter(|(_, line)| names(line)).map(|(n, _)| format!("src/{name}:{n}")));
    }
    assert_eq!(found, [""; 0]);
}

#[test]
fn the_journal_calls_the_file_system_in_one_file() {
    let words = ["std::fs", "std::os", "rustix", "File::open", "tokio::fs"];
    let found: Vec<String> = offenders(&words, &["journal/files.rs", "journal/tests/"])
        .into_iter()
        .filter(|line| line.starts_with("src/journal/"))
        .collect();
    assert_eq!(found, [""; 0]);
}

#[test]
fn raw_messages_decoding_and_batches_do_no_input_or_output() {
    let words = ["std::fs", "std::net", "tokio", "std::time", "std::env", "std::thread", "tracing"];
    let found: Vec<String> = sources()
        .into_iter()
        .filter(|(name, _)| ["raw/", "message/", "input/", "batch/"].iter().any(|room| name.starts_with(room)))
        // Tests of the corpus read its files.
        .filter(|(name, _)| !name.ends_with("tests.rs") && !name.ends_with("corpus.rs"))
        .flat_map(|(name, text)| {
            code(&text)
                .filter(|(_, line)| words.iter().any(|word| line.contains(word)))
                .map(|(number, line)| format!("src/{name}:{number}: {line}"))
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(found, [""; 0]);
}

#[test]
fn messages_are_decoded_without_a_tree_of_values() {
    let found: Vec<String> = sources()
        .into_iter()
        .filter(|(name, _)| name.starts_with("message/") || name.starts_with("input/"))
        // A command that proposes an input may build one.
        .filter(|(name, _)| !name.starts_with("input/inspect/"))
        .filter(|(name, _)| !name.ends_with("tests.rs") && !name.ends_with("corpus.rs"))
        .map(|(name, text)| (name, text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned()))
        .filter(|(_, text)| text.contains("serde_json") || text.contains("JsonValue"))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(found, [""; 0]);
}

#[test]
fn unsafe_code_is_in_five_files() {
    let allowed =
        ["allocator.rs", "standard_output.rs", "kafka/topic_id.rs", "kafka/headers.rs", "kafka/credentials.rs"];
    assert_eq!(offenders(&["unsafe ", "allow(unsafe_code)"], &allowed), [""; 0]);
}

#[test]
fn metrics_are_named_in_one_file() {
    let words = [
        "metrics::counter",
        "metrics::gauge",
        "metrics::histogram",
        "counter!",
        "gauge!",
        "histogram!",
        "series_ingest_",
    ];
    let found: Vec<String> = offenders(&words, &["telemetry/", "cli/demo/", "cli/bench/"]);
    assert_eq!(found, [""; 0]);
}

#[test]
fn commands_print_by_functions_that_lose_no_error() {
    let words = ["print!(", "println!(", "io::stdout()", "io::stderr()"];
    let allowed = ["cli/output.rs", "standard_output.rs", "telemetry/logging.rs", "input/native/corpus.rs"];
    let found: Vec<String> =
        offenders(&words, &allowed).into_iter().filter(|line| !line.contains("is_terminal()")).collect();
    let found: Vec<String> = found.into_iter().filter(|line| !line.starts_with("src/journal/tests/")).collect();
    assert_eq!(found, [""; 0]);
}

/// The cells of the table between a marker and the end marker, without its head.
fn table(document: &str, marker: &str) -> Vec<Vec<String>> {
    let start = document.find(marker).unwrap_or_else(|| panic!("no {marker}"));
    let rest = &document[start..];
    let rest = &rest[..rest.find("<!-- end -->").expect("the table ends")];
    rest.lines()
        .filter(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            line.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('|').trim().to_owned()).collect()
        })
        .collect()
}

fn flatten(prefix: &str, value: &toml::Table, rows: &mut Vec<(String, String)>) {
    for (key, value) in value {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            toml::Value::Table(inner) if !inner.is_empty() => flatten(&name, inner, rows),
            toml::Value::Table(_) => rows.push((name, "{}".to_owned())),
            other => rows.push((name, other.to_string())),
        }
    }
}

#[test]
fn the_documented_configuration_is_the_codes() {
    let mut expected = Vec::new();
    flatten("", &read("config/default.toml").parse().unwrap(), &mut expected);
    let mut documented: Vec<(String, String)> = table(&read("docs/configuration.md"), "<!-- configuration table")
        .into_iter()
        .map(|row| {
            assert_eq!(row.len(), 3, "{row:?}");
            assert!(!row[2].is_empty(), "{row:?}");
            (row[0].trim_matches('`').to_owned(), row[1].trim_matches('`').to_owned())
        })
        .collect();
    expected.sort();
    documented.sort();
    assert_eq!(documented, expected);
}

#[test]
fn the_documented_metrics_are_the_codes() {
    let expected: Vec<[String; 3]> = METRICS
        .iter()
        .map(|metric| {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            [format!("`{}`", metric.name), metric.kind.as_str().to_owned(), labels.join(", ")]
        })
        .collect();
    let documented: Vec<[String; 3]> = table(&read("docs/monitoring.md"), "<!-- metrics table")
        .into_iter()
        .map(|row| {
            assert_eq!(row.len(), 4, "{row:?}");
            [row[0].clone(), row[1].clone(), row[2].clone()]
        })
        .collect();
    assert_eq!(documented, expected);
}

#[test]
fn alerts_ask_for_metrics_that_exist() {
    let alerts = read("deploy/alerts.yml");
    let mut names = 0;
    for word in alerts.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        if word.starts_with("series_ingest_") {
            names += 1;
            let known = METRICS.iter().any(|metric| word == metric.name);
            assert!(known, "deploy/alerts.yml asks for {word}");
        }
    }
    assert!(names > 5);
}

/// The alerts, each with its text.
fn alerts() -> Vec<(String, String)> {
    let text = read("deploy/alerts.yml");
    let mut parts = text.split("- alert: ");
    parts.next();
    parts.map(|part| (part.lines().next().unwrap().trim().to_owned(), part.to_owned())).collect()
}

#[test]
fn every_alert_waits_for_a_while_and_is_documented() {
    let document = read("docs/monitoring.md");
    for (name, text) in alerts() {
        assert!(text.contains("\n        for: "), "{name} has no `for`");
        assert!(document.contains(&format!("| `{name}` |")), "{name} is not in docs/monitoring.md");
    }
}

#[test]
fn every_state_in_which_a_worker_is_not_ready_for_long_has_an_alert() {
    let asks = |metric: &str| alerts().iter().any(|(_, text)| text.contains(&format!("expr: {metric} == 0")));
    for metric in
        ["series_ingest_ready", "series_ingest_kafka_up", "series_ingest_database_up", "series_ingest_journal_up"]
    {
        assert!(asks(metric), "no alert asks for {metric}");
    }
}

#[test]
fn every_place_that_names_the_oldest_compiler_names_the_same() {
    let manifest = read("Cargo.toml");
    let (_, rest) = manifest.split_once("\nrust-version = \"").expect("the oldest compiler is declared");
    let expected = format!("Rust {} or later", rest.split('"').next().unwrap());
    for name in ["README.md", "docs/development.md", "scripts/stack"] {
        assert!(read(name).contains(&expected), "{name} does not say \"{expected}\"");
    }
}

#[test]
fn migrations_have_numbers() {
    let names: Vec<String> = std::fs::read_dir(root().join("migrations"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for name in names {
        let number =
            name.strip_prefix('V').and_then(|rest| rest.split_once("__")).map(|(number, _)| number.parse::<u32>());
        assert!(matches!(number, Some(Ok(_))) && name.ends_with(".sql"), "{name} is no name of a migration");
    }
}
