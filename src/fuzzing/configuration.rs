//! Any text as a configuration file, with any variables applied over it.

use std::ffi::OsString;

use crate::config::Config;

/// Placed where secrets are; it must not be shown.
const SECRET: &str = "x7Qk2v9Zsecret";

/// The input is a file's text and variables as `NAME=value`, each after a NUL.
///
/// # Panics
/// If a secret is shown, or the printed effective configuration is not valid.
pub fn configuration(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    // The keys of files with secrets: a fuzzer would read any file of the machine.
    if text.to_ascii_lowercase().contains("_file") || text.contains(SECRET) {
        return;
    }
    let mut parts = text.split('\0');
    let file = parts.next().unwrap_or_default();
    let variables = parts.filter_map(|part| part.split_once('='));
    let secrets = [
        ("POSTGRES_USER", "user"),
        ("POSTGRES_PASSWORD", SECRET),
        ("SERIES_INGEST__KAFKA__PROPERTIES__SASL_PASSWORD", SECRET),
    ];
    let environment = secrets.into_iter().chain(variables).map(|(name, value)| (name.into(), value.into()));
    let config = match Config::from_text(file, environment) {
        Ok(config) => config,
        Err(problems) => {
            let report = format!("{problems}{problems:?}");
            assert!(!report.contains(SECRET), "{report}");
            return;
        }
    };
    let rendered = config.render();
    let shown = format!("{rendered}{config:?}");
    assert!(!shown.contains(SECRET), "{shown}");
    let table: toml::Table = rendered.parse().unwrap_or_else(|error| panic!("{error}\n{rendered}"));
    let nothing: [(OsString, OsString); 0] = [];
    let again = Config::from_text(&rendered, nothing).unwrap_or_else(|problems| panic!("{problems}\n{rendered}"));
    assert_eq!(again.render().parse::<toml::Table>().as_ref(), Ok(&table));
}
