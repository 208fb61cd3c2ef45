//! Rules for documents: sizes, links, what they quote of the code, and their words.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::{code, read, root, sources};

/// Files of the repository with these endings, by their path, in order.
pub(super) fn files(folders: &[&str], endings: &[&str]) -> Vec<String> {
    fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            // Builds, and folders of tools; .github is a part of the repository.
            if name == "target" || name == "artifacts" || name.starts_with('.') && name != ".github" {
                continue;
            }
            if path.is_dir() { collect(&path, files) } else { files.push(path) }
        }
    }
    let mut found = Vec::new();
    folders.iter().for_each(|folder| collect(&root().join(folder), &mut found));
    let mut names: Vec<String> = found
        .iter()
        .filter(|path| path.extension().is_some_and(|ending| endings.iter().any(|known| ending == *known)))
        .map(|path| path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

/// All documents, each with its text.
fn documents() -> Vec<(String, String)> {
    let names = files(&["."], &["md"]);
    let found: Vec<(String, String)> = names.into_iter().map(|name| (name.clone(), read(&name))).collect();
    assert!(found.len() > 15, "the documents are found");
    found
}

/// The lines of a document, each with its number and whether it is in a fenced block.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str, bool)> {
    let mut is_fenced = false;
    (1..).zip(text.lines()).map(move |(number, line)| {
        let is_fence = line.trim_start().starts_with("```");
        let in_fence = is_fenced || is_fence;
        if is_fence {
            is_fenced = !is_fenced;
        }
        (number, line, in_fence)
    })
}

/// The code spans of a line, each with the text before it.
fn spans(line: &str) -> Vec<(&str, &str)> {
    let parts: Vec<&str> = line.split('`').collect();
    parts.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}

/// A line without its code spans.
fn prose(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<&str>>().join("` `")
}

#[test]
fn the_front_door_is_small() {
    for (name, most) in [("README.md", 12_000), ("ARCHITECTURE.md", 24_000)] {
        let length = read(name).len();
        assert!(length <= most, "{name} has {length} bytes, and at most {most} are allowed");
    }
}

/// A heading as the fragment of a link.
fn slug(heading: &str) -> String {
    let kept = heading.to_lowercase();
    kept.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// The fragments that a document has.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = lines(text).filter(|(_, line, in_fence)| !in_fence && line.starts_with('#'));
    headings.map(|(_, line, _)| slug(line.trim_start_matches('#').trim())).collect()
}

/// The path of a link's target, from the root.
fn resolve(document: &str, target: &str) -> PathBuf {
    let mut path = PathBuf::from(document);
    path.pop();
    for part in Path::new(target).components() {
        match part {
            Component::ParentDir => assert!(path.pop(), "{document}: {target} leaves the repository"),
            Component::CurDir => {}
            other => path.push(other),
        }
    }
    path
}

#[test]
fn every_link_inside_the_repository_resolves() {
    let mut broken = Vec::new();
    let mut links = 0;
    for (name, text) in documents() {
        for (number, line, in_fence) in lines(&text) {
            if in_fence {
                continue;
            }
            for rest in prose(line).split("](").skip(1) {
                let (target, _) = rest.split_once(')').expect("a link ends in its line");
                if target.starts_with("https://") {
                    continue;
                }
                links += 1;
                let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
                let path = if file.is_empty() { PathBuf::from(&name) } else { resolve(&name, file) };
                let is_there = root().join(&path).try_exists().unwrap();
                let has_fragment = || anchors(&read(path.to_str().unwrap())).contains(fragment);
                if !is_there || !fragment.is_empty() && !has_fragment() {
                    broken.push(format!("{name}:{number}: {target}"));
                }
            }
        }
    }
    assert!(links > 100, "the links are found");
    assert_eq!(broken, [""; 0]);
}

#[test]
fn documents_that_are_mentioned_exist() {
    let mut missing = Vec::new();
    let of_code = sources().into_iter().map(|(name, text)| (format!("src/{name}"), text));
    let others = files(&["config", "deploy", "scripts", "tests"], &["rs", "toml", "yml"]).into_iter();
    for (name, text) in documents().into_iter().chain(of_code).chain(others.map(|name| (name.clone(), read(&name)))) {
        for rest in text.split("docs/").skip(1) {
            let end = rest.find(|c: char| !c.is_ascii_lowercase() && !matches!(c, '-' | '.')).unwrap_or(rest.len());
            let file = rest[..end].trim_end_matches('.');
            if file.ends_with(".md") && !root().join("docs").join(file).try_exists().unwrap() {
                missing.push(format!("{name}: docs/{file}"));
            }
        }
    }
    assert_eq!(missing, [""; 0]);
}

/// What documents name and a clone does not have: patterns, what a run makes, and places that are reserved.
const NOT_IN_A_CLONE: &[&str] =
    &["fuzz/artifacts/", "src/files/", "src/input/", "src/repository/", "tests/corpus/GROUP/NAME.msg"];

#[test]
fn paths_that_documents_name_exist() {
    let folders = [
        "benches/",
        "config/",
        "deploy/",
        "docs/",
        "examples/",
        "fuzz/",
        "migrations/",
        "python/",
        "scripts/",
        "src/",
        "tests/",
    ];
    let mut missing = Vec::new();
    let mut paths = 0;
    for (name, text) in documents() {
        for (number, line, _) in lines(&text).filter(|(_, _, in_fence)| !in_fence) {
            for (_, span) in spans(line) {
                let is_path = span.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/'));
                if !is_path || !folders.iter().any(|folder| span.starts_with(folder)) {
                    continue;
                }
                paths += 1;
                if !NOT_IN_A_CLONE.contains(&span) && !root().join(span).try_exists().unwrap() {
                    missing.push(format!("{name}:{number}: {span}"));
                }
            }
        }
    }
    assert!(paths > 60, "the paths are found");
    assert_eq!(missing, [""; 0]);
}

/// The string literals of a source file, as they are at run time; `…` stands for each placeholder.
fn literals(text: &str, found: &mut Vec<String>) {
    let mut rest = text.chars().peekable();
    let mut before = ' ';
    while let Some(c) = rest.next() {
        match c {
            '/' if rest.peek() == Some(&'/') => {
                rest.by_ref().find(|c| *c == '\n');
            }
            // A character that could be taken for the begin of a string.
            '\'' if matches!(rest.peek(), Some('"' | '\\')) => {
                // After a backslash one more is skipped.
                let skipped = 1 + usize::from(rest.peek() == Some(&'\\'));
                rest.nth(skipped - 1);
            }
            '"' | '#' if before == 'r' => {
                let mut hashes = 0;
                let mut c = Some(c);
                while c == Some('#') {
                    hashes += 1;
                    c = rest.next();
                }
                if c == Some('"') {
                    let end = format!("\"{}", "#".repeat(hashes));
                    let mut literal = String::new();
                    while !literal.ends_with(&end) {
                        let Some(c) = rest.next() else { return };
                        literal.push(c);
                    }
                    found.push(literal[..literal.len() - end.len()].to_owned());
                }
            }
            '"' => {
                let mut literal = String::new();
                while let Some(c) = rest.next().filter(|c| *c != '"') {
                    match c {
                        '\\' => match rest.next() {
                            // A line that goes on in the next one.
                            Some('\n') => while rest.next_if(|c| c.is_whitespace()).is_some() {},
                            Some(escaped) => literal.push(escaped),
                            None => {}
                        },
                        '{' if rest.next_if(|c| *c == '{').is_none() => {
                            rest.by_ref().find(|c| *c == '}');
                            literal.push('…');
                        }
                        '}' => {
                            rest.next_if(|c| *c == '}');
                            literal.push('}');
                        }
                        c => literal.push(c),
                    }
                }
                found.push(literal);
            }
            _ => {}
        }
        before = c;
    }
}

/// The string literals of the program, without its tests.
fn strings() -> Vec<String> {
    let mut found = Vec::new();
    for (name, text) in sources() {
        if name.ends_with("tests.rs") || name.contains("tests/") {
            continue;
        }
        let program = text.split("\n#[cfg(test)]\nmod ").next().unwrap();
        literals(program, &mut found);
    }
    assert!(found.len() > 1000, "the strings are found");
    found
}

/// Whether the program has this text; `…` stands for anything.
fn is_said(quoted: &str, strings: &[String]) -> bool {
    let pieces: Vec<&str> = quoted.split('…').map(str::trim).filter(|piece| !piece.is_empty()).collect();
    strings.iter().any(|said| {
        let mut rest = said.as_str();
        let in_order = pieces.iter().all(|piece| match rest.split_once(piece) {
            Some((_, after)) => {
                rest = after;
                true
            }
            None => false,
        });
        in_order && (quoted.contains('…') || said == quoted)
    })
}

const LEVELS: [&str; 3] = ["INFO", "WARN", "ERROR"];
/// The heads of the columns that quote what the program says.
const QUOTING: [&str; 3] = ["Log line", "Message", "The condition says"];

/// What a document quotes of the log and of errors, each with its line's number: code spans after a level, lines of fenced
/// blocks that begin with one, and the code spans of the columns [`QUOTING`].
fn quotes(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut column = None;
    for (number, line, in_fence) in lines(text) {
        if in_fence {
            let words = line.split_once(' ').filter(|(first, _)| LEVELS.contains(first));
            if let Some((_, said)) = words {
                // Fields follow the message: `name=value`.
                let said: Vec<&str> = said.split(' ').take_while(|word| !word.contains('=')).collect();
                found.push((number, said.join(" ")));
            }
            continue;
        }
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        if !line.starts_with('|') {
            column = None;
        } else if let Some(at) = cells.iter().position(|cell| QUOTING.contains(cell)) {
            column = Some(at);
        } else if let Some(cell) = column.and_then(|at| cells.get(at)) {
            found.extend(spans(cell).into_iter().map(|(_, span)| (number, span.to_owned())));
            continue;
        }
        for (before, span) in spans(line) {
            if LEVELS.iter().any(|level| before.ends_with(&format!("{level} "))) {
                found.push((number, span.to_owned()));
            }
        }
    }
    found
}

#[test]
fn what_documents_quote_of_the_log_is_said() {
    let strings = strings();
    let mut count = 0;
    let mut unknown = Vec::new();
    for (name, text) in documents() {
        for (number, quoted) in quotes(&text) {
            count += 1;
            if !is_said(&quoted, &strings) {
                unknown.push(format!("{name}:{number}: {quoted}"));
            }
        }
    }
    assert!(count > 30, "the quoted lines are found");
    assert_eq!(unknown, [""; 0]);
}

#[test]
fn what_is_quoted_and_said_is_compared() {
    let mut strings = Vec::new();
    literals(
        r##"info!("mode"); warn!("a batch \
                 of {count} is {{large}}"); let c = '"'; let d = '\''; // "a comment"
            r#"raw "text""#; b'\\'; "the end""##,
        &mut strings,
    );
    assert_eq!(strings, ["mode", "a batch of … is {large}", "raw \"text\"", "the end"]);
    for said in ["mode", "a batch of …", "… is {large}", "a … of … is"] {
        assert!(is_said(said, &strings), "{said}");
    }
    for unsaid in ["mod", "a batch of", "… is large", "of … a batch"] {
        assert!(!is_said(unsaid, &strings), "{unsaid}");
    }
}

/// The functions of the program, methods also with their type before them; and the tests among them.
fn functions() -> (BTreeSet<String>, BTreeSet<String>) {
    let mut found = BTreeSet::new();
    let mut tests = BTreeSet::new();
    for name in files(&["src", "tests"], &["rs"]) {
        let text = read(&name);
        let mut of = String::new();
        let mut is_test = false;
        for (_, line) in code(&text) {
            if let Some(head) = line.strip_prefix("impl") {
                let head = head.split(" for ").last().unwrap();
                let head =
                    if head.starts_with('<') { head.split_once("> ").map_or(head, |(_, after)| after) } else { head };
                of = head.trim().chars().take_while(|c| c.is_alphanumeric()).collect();
            }
            is_test |= ["#[test]", "#[tokio::test"].iter().any(|attribute| line.trim_start().starts_with(attribute));
            let Some((_, rest)) = line.split_once("fn ") else { continue };
            let function: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if line.starts_with(' ') {
                found.insert(format!("{of}::{function}"));
            }
            if std::mem::take(&mut is_test) {
                tests.insert(function.clone());
            }
            found.insert(function);
        }
    }
    (found, tests)
}

#[test]
fn the_tests_that_architecture_names_exist() {
    let (_, tests) = functions();
    let text = read("ARCHITECTURE.md");
    let mut names = 0;
    for (number, line, _) in lines(&text).filter(|(_, line, _)| line.trim_start().starts_with("Test")) {
        for (_, name) in spans(line) {
            names += 1;
            assert!(tests.contains(name), "ARCHITECTURE.md:{number}: there is no test {name}");
        }
    }
    assert!(names > 30, "the tests are found");
}

#[test]
fn each_step_of_the_walk_names_a_function_that_exists() {
    let (functions, _) = functions();
    let text = read("ARCHITECTURE.md");
    let start = text.find("\n## One message").expect("the walk is there");
    let end = start + text[start..].find("\n## The few types").expect("the walk ends");
    let steps: Vec<&str> =
        text[start..end].lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).collect();
    assert!((8..=12).contains(&steps.len()), "{} steps", steps.len());
    for step in steps {
        let (_, first) = spans(step)[0];
        assert!(functions.contains(first), "there is no {first}: {step}");
    }
}

/// Words that a reader does not search for, and the field's own. In documents, their code left aside.
const TERMS: &[(&str, &str)] = &[
    ("a fault of ours", "an internal error"),
    ("all the same", "nevertheless"),
    ("anew", "again; recreated"),
    ("bad", "invalid; damaged"),
    ("behind", "after; under; lag"),
    ("beside", "alongside; next to; besides is another word"),
    ("but for", "except"),
    ("doubled", "duplicated"),
    ("farewell", "leave the group"),
    ("in clear", "in plaintext"),
    ("in vain", "unsuccessfully"),
    ("is no json", "is not JSON"),
    ("left out", "omitted; skipped; ignored"),
    ("leaves out", "omits; skips; ignores"),
    ("lets go", "releases"),
    ("looked at", "checked; examined"),
    ("mend", "fix"),
    ("mended", "fixed"),
    ("of its own", "its own"),
    ("packed", "compressed"),
    ("pass over", "skip; ignore"),
    ("passed over", "skipped; ignored"),
    ("passes over", "skips; ignores"),
    ("so many", "the number itself; as many as"),
    ("somebody", "an operator; another session; the passive"),
    ("takes away", "removes; deletes; revokes"),
    ("there twice", "a duplicate"),
    ("time-out", "timeout"),
    ("time-outs", "timeouts"),
    ("to be had", "available"),
    ("told", "reported"),
    ("tells", "reports; says"),
    ("unpack", "decompress"),
    ("unpacked", "decompressed"),
    ("unpacks", "decompresses"),
    ("well again", "healthy"),
    ("well-being", "health"),
    ("whoever", "the passive; a client, a program"),
    ("with no hands", "automatically"),
    ("without hands", "automatically"),
];

#[test]
fn documents_use_the_terms_of_the_field() {
    let is_word = |c: char| c.is_alphanumeric();
    let mut found = Vec::new();
    let others = files(&["config", "deploy", "examples", "python/series_ingest"], &["toml", "yml", "py"]);
    let others = others.into_iter().map(|name| (name.clone(), read(&name)));
    for (name, text) in documents().into_iter().chain(others) {
        for (number, line, in_fence) in lines(&text) {
            if in_fence {
                continue;
            }
            let line = prose(line).to_lowercase();
            for (word, better) in TERMS {
                let is_there = line
                    .match_indices(word)
                    .any(|(at, _)| !line[..at].ends_with(is_word) && !line[at + word.len()..].starts_with(is_word));
                if is_there {
                    found.push(format!("{name}:{number}: \"{word}\": {better}"));
                }
            }
        }
    }
    assert_eq!(found, [""; 0]);
}

#[test]
fn code_uses_the_terms_of_the_field() {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    let mut found = Vec::new();
    let mut compare = |name: &str, place: &str, text: &str| {
        let text = text.to_lowercase();
        for (word, better) in TERMS {
            let is_there = text
                .match_indices(word)
                .any(|(at, _)| !text[..at].ends_with(is_word) && !text[at + word.len()..].starts_with(is_word));
            if is_there {
                found.push(format!("{name}{place}: \"{word}\": {better}"));
            }
        }
    };
    for name in files(&["src", "tests", "benches"], &["rs"]) {
        if name.starts_with("tests/tidy") {
            continue;
        }
        let text = read(&name);
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| line.trim_start().starts_with("//")) {
            compare(&name, &format!(":{number}"), line);
        }
        // Tests have data of all kinds in their strings.
        let program = text.split("\n#[cfg(test)]\nmod ").next().unwrap();
        if name.starts_with("src/") && !name.ends_with("tests.rs") && !name.contains("tests/") {
            let mut strings = Vec::new();
            literals(program, &mut strings);
            strings.iter().for_each(|string| compare(&name, &format!(" says {string:?}"), string));
        }
    }
    assert_eq!(found, [""; 0]);
}
