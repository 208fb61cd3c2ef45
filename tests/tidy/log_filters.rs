//! Filters of the log name modules that exist: one that names another module is valid, and logs nothing.

use std::collections::BTreeSet;

use super::documents::files;
use super::rooms::module_of;
use super::{read, sources};

/// The modules that a text sets a level for, each without the crate's name: of `series_ingest::kafka=debug`, `kafka`.
fn filtered_modules(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (start, prefix) in text.match_indices("series_ingest::") {
        let path = &text[start + prefix.len()..];
        let end = path.find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | ':')).unwrap_or(path.len());
        let level = path[end..].strip_prefix('=').unwrap_or_default();
        if ["trace", "debug", "info", "warn", "error", "off"].iter().any(|known| level.starts_with(known)) {
            found.push(path[..end].to_owned());
        }
    }
    found
}

#[test]
fn log_filters_name_modules_that_exist() {
    let modules: BTreeSet<String> = sources().keys().map(|file| module_of(file).join("::")).collect();
    let folders = ["config", "deploy", "docs", "examples", "scripts", "src", "tests"];
    let mut names = files(&folders, &["md", "py", "rs", "sh", "toml", "yml"]);
    names.extend(["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(str::to_owned));
    let (mut filters, mut unknown) = (0, Vec::new());
    for name in names.iter().filter(|name| *name != "tests/tidy/log_filters.rs") {
        for module in filtered_modules(&read(name)) {
            filters += 1;
            if !modules.contains(&module) {
                unknown.push(format!("{name}: series_ingest::{module}"));
            }
        }
    }
    assert!(filters >= 5, "the filters are found");
    assert_eq!(unknown, [""; 0]);
}

#[test]
fn a_filter_is_a_path_with_a_level() {
    let text = "\"info,series_ingest::kafka::auth=debug\" let x = series_ingest::raw::Source; series_ingest::cli=off";
    assert_eq!(filtered_modules(text), ["kafka::auth", "cli"]);
}
