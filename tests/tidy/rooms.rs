//! Who may import whom, that no files import each other in a circle, and how large a file and a function may be.

use std::collections::{BTreeMap, BTreeSet};

use super::sources;

/// The rooms, from the lowest to the highest: a room imports only from those before it.
const ROOMS: [&str; 14] = [
    "raw",
    "message",
    "input",
    "batch",
    "config",
    "tls",
    "files",
    "telemetry",
    "journal",
    "kafka",
    "database",
    "repository",
    "pipeline",
    "cli",
];
/// Rooms of the same height, which do not know each other.
const APART: [&str; 3] = ["journal", "kafka", "database"];
/// What any room may use: switches for tests.
const ANYWHERE: &str = "planted_bugs";
const MAX_FILE: usize = 400;
const MAX_FUNCTION: usize = 60;
/// Files, or functions of them, that are larger, each with the reason.
const LARGER: [(&str, &str); 0] = [];

/// The code of each file without comments and without the tests at its end; files of tests are left out.
fn code_of_files() -> BTreeMap<String, String> {
    let is_test = |name: &str| {
        name.contains("tests")
            || name.ends_with("corpus.rs")
            || ["fuzzing/", "planted_bugs", "main.rs"].iter().any(|part| name.starts_with(part))
    };
    let without_comments =
        |text: &str| text.lines().map(|line| line.split("//").next().unwrap_or(line)).collect::<Vec<_>>().join("\n");
    let without_tests = |text: String| text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
    sources()
        .into_iter()
        .filter(|(name, _)| !is_test(name))
        .map(|(name, text)| (name, without_comments(&without_tests(text))))
        .collect()
}

/// `database/write/mod.rs` is the module `database::write`.
pub(super) fn module_of(file: &str) -> Vec<String> {
    let path = file.trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if path == "lib" { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
}

/// The paths of a tree of `use`, such as `a::{b, c::d}`.
fn paths(prefix: &[String], tree: &str, found: &mut Vec<Vec<String>>) {
    let tree = tree.trim();
    if let Some((before, inner)) = tree.split_once('{') {
        let mut prefix = prefix.to_vec();
        prefix.extend(before.split("::").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned));
        let inner = inner.trim_end().trim_end_matches('}');
        let (mut depth, mut start) = (0, 0);
        for (at, letter) in inner.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    paths(&prefix, &inner[start..at], found);
                    start = at + 1;
                }
                _ => {}
            }
        }
        paths(&prefix, &inner[start..], found);
    } else if !tree.is_empty() {
        let name = tree.split(" as ").next().unwrap_or(tree);
        found.push(prefix.iter().cloned().chain(name.split("::").map(|part| part.trim().to_owned())).collect());
    }
}

/// All paths that a file names: those of its `use`, each with whether it is exported again, and those in its code.
fn named(code: &str) -> Vec<(Vec<String>, bool)> {
    let mut found = Vec::new();
    for statement in code.split(';') {
        let Some(at) = statement.find("use ") else { continue };
        let before = statement[..at].rsplit(['\n', '}']).next().unwrap_or_default().trim();
        if before.is_empty() || before.starts_with("pub") {
            let mut all = Vec::new();
            paths(&[], &statement[at + 4..], &mut all);
            found.extend(all.into_iter().map(|path| (path, before.starts_with("pub"))));
        }
    }
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let end = code[at..].find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(0);
            found.push((code[at..at + end].split("::").map(str::to_owned).collect(), false));
        }
    }
    found
}

/// The imports of each file, by file; what a module exports again counts for the file that defines it.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let files = code_of_files();
    let modules: BTreeMap<Vec<String>, &str> = files.keys().map(|file| (module_of(file), file.as_str())).collect();
    let absolute = |module: &[String], path: &[String]| -> Option<Vec<String>> {
        let (mut base, mut rest) = (module.to_vec(), path);
        match path.first()?.as_str() {
            "crate" => return Some(path[1..].to_vec()),
            "self" => rest = &path[1..],
            "super" => {
                while let Some(("super", after)) = rest.split_first().map(|(first, after)| (first.as_str(), after)) {
                    base.pop();
                    rest = after;
                }
            }
            first => {
                base.push(first.to_owned());
                if !modules.contains_key(&base) {
                    return None;
                }
                rest = &path[1..];
            }
        }
        base.extend(rest.iter().cloned());
        Some(base)
    };
    let mut exports: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
    for (file, code) in &files {
        let module = module_of(file);
        for (path, _) in named(code).iter().filter(|(_, is_exported)| *is_exported) {
            if let Some(target) = absolute(&module, path) {
                exports.insert([&module[..], &target[target.len() - 1..]].concat(), target);
            }
        }
    }
    let owner = |mut path: Vec<String>| {
        // A name may be exported again and again; one that is exported from a module of its own name stays.
        for _ in 0..4 {
            let is_exported = |end: usize| exports.get(&path[..end]).filter(|_| !modules.contains_key(&path[..end]));
            let Some((end, target)) = (1..=path.len()).find_map(|end| Some((end, is_exported(end)?))) else { break };
            path = [target, &path[end..]].concat();
        }
        (1..=path.len()).rev().find_map(|end| modules.get(&path[..end])).map(|file| (*file).to_owned())
    };
    files
        .iter()
        .map(|(file, code)| {
            let module = module_of(file);
            let all = named(code);
            let targets = all.iter().filter(|(_, is_exported)| !is_exported);
            let targets = targets.filter_map(|(path, _)| owner(absolute(&module, path)?)).filter(|other| other != file);
            (file.clone(), targets.collect())
        })
        .collect()
}

fn room(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap_or(file)
}

#[test]
fn a_room_imports_only_from_lower_ones() {
    let height = |room: &str| ROOMS.iter().position(|one| *one == room);
    let mut wrong = Vec::new();
    for (file, others) in imports() {
        for other in others.iter().filter(|other| room(other) != room(&file) && room(other) != ANYWHERE) {
            let (from, to) = (room(&file), room(other));
            let is_up = height(from).is_some() && height(to) >= height(from);
            if is_up || APART.contains(&from) && APART.contains(&to) {
                wrong.push(format!("{file} imports {other}"));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    // A folder's mod.rs is its face: what is in the folder may use it.
    let imports = imports();
    let next = |file: &str| imports[file].iter().filter(|other| !other.ends_with("mod.rs") && *other != "lib.rs");
    let mut circles = BTreeSet::new();
    for start in imports.keys().filter(|file| !file.ends_with("mod.rs")) {
        let mut reached: BTreeSet<&str> = BTreeSet::new();
        let mut open: Vec<&str> = next(start).map(String::as_str).collect();
        while let Some(file) = open.pop() {
            if reached.insert(file) {
                open.extend(next(file).map(String::as_str));
            }
        }
        if reached.contains(start.as_str()) {
            circles.insert(start.clone());
        }
    }
    assert_eq!(circles, BTreeSet::new(), "files in a circle");
}

#[test]
fn files_and_functions_are_small() {
    let is_function = |line: &str| {
        let words = ["pub ", "pub(super) ", "pub(crate) ", "const ", "async ", "unsafe "];
        let mut rest = line.trim_start();
        while let Some(after) = words.iter().find_map(|word| rest.strip_prefix(word)) {
            rest = after;
        }
        rest.starts_with("fn ")
    };
    let (mut large, mut known) = (Vec::new(), BTreeSet::new());
    let mut add = |file: &str, what: String| match LARGER.iter().find(|(name, _)| *name == file) {
        Some((name, _)) => drop(known.insert(*name)),
        None => large.push(what),
    };
    for (file, text) in sources() {
        if file.contains("tests") || file.ends_with("corpus.rs") || file.starts_with("fuzzing/") {
            continue;
        }
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() > MAX_FILE {
            add(&file, format!("{file} has {} lines", lines.len()));
        }
        for (start, line) in lines.iter().enumerate().filter(|(_, line)| is_function(line)) {
            let indent = line.len() - line.trim_start().len();
            let end = |line: &str| line.trim_end() == format!("{}}}", " ".repeat(indent));
            // One without a body, in a trait, ends at once.
            let length =
                if line.ends_with(';') { 1 } else { lines[start..].iter().position(|line| end(line)).unwrap_or(0) + 1 };
            if length > MAX_FUNCTION {
                add(&file, format!("{file}:{} is a function of {length} lines", start + 1));
            }
        }
    }
    assert_eq!(large, [""; 0]);
    let unused: Vec<&str> = LARGER.iter().map(|(name, _)| *name).filter(|name| !known.contains(name)).collect();
    assert_eq!(unused, [""; 0], "these are no longer large");
}
