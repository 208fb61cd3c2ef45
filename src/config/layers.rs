//! The sources of a configuration, applied key by key: the defaults, a file, the environment.
//!
//! The table of defaults has every key, with a value of its type. So a key that is missing from it is unknown, and a value is
//! valid if the defaults with this value in place of one still form a configuration.

use std::path::Path;

use toml::{Table, Value};

use super::Config;
use super::problems::Problems;
use super::similar::{did_you_mean, similar_key};
use super::sources::{Source, Sources};
use crate::input::InputOptions;

const DEFAULTS: &str = include_str!("../../config/default.toml");
/// The key of the `[[input]]` sections.
const INPUTS: &str = "input";
/// The tables that take any name; their values become strings.
const PROPERTIES: [&str; 2] = ["kafka", "properties"];
const PROPERTIES_FILES: [&str; 2] = ["kafka", "properties_files"];

/// Texts in which a line end or a space at either end is never intended.
const TRIMMED: [[&str; 2]; 3] = [["database", "url"], ["database", "read_url"], ["kafka", "brokers"]];

/// The values so far, and the problems with others.
#[derive(Debug)]
pub(super) struct Layers {
    defaults: Table,
    values: Table,
    sources: Sources,
    pub(super) problems: Problems,
}

impl Layers {
    /// The defaults.
    pub(super) fn new() -> Result<Self, Problems> {
        let mut problems = Problems::default();
        match DEFAULTS.parse::<Table>() {
            Ok(defaults) => Ok(Self { values: defaults.clone(), defaults, sources: Sources::default(), problems }),
            Err(error) => {
                problems.push("config/default.toml", error.message());
                Err(problems)
            }
        }
    }

    /// Puts a file over the present values.
    pub(super) fn add_file(&mut self, path: &Path) {
        let source = Source::File(path.to_owned());
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                let text = format!("cannot be read: {error}; name a TOML file that this user can read");
                self.problems.push(format!("--config ({source})"), text);
                return;
            }
        };
        self.add_text(&text, &source);
    }

    /// Puts a file's text over the present values.
    pub(super) fn add_text(&mut self, text: &str, source: &Source) {
        match text.parse::<Table>() {
            Ok(table) => self.add_table(&[], table, source),
            Err(error) => {
                // The error's own text quotes the line, which may contain a password.
                let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
                let line = before.matches('\n').count() + 1;
                self.problems
                    .push(format!("--config ({source})"), format!("line {line} is not TOML: {}", error.message()));
            }
        }
    }

    fn add_table(&mut self, path: &[&str], table: Table, source: &Source) {
        for (name, value) in table {
            let path = [path, &[name.as_str()]].concat();
            match (get(&self.defaults, &path), value) {
                (Some(Value::Table(_)), Value::Table(inner)) if is_open(&path) => {
                    self.add_properties(&path, "", inner, source);
                }
                (Some(Value::Table(_)), Value::Table(inner)) => self.add_table(&path, inner, source),
                (Some(Value::Table(_)), other) => {
                    self.refuse(&path, source, format!("is {}; it must be a section", kind(&other)));
                }
                (_, value) => self.set(&path, value, source),
            }
        }
    }

    /// Adds properties; TOML reads an unquoted `sasl.username` as a table `sasl`, so tables are names with dots.
    fn add_properties(&mut self, path: &[&str], prefix: &str, table: Table, source: &Source) {
        for (name, value) in table {
            let name = format!("{prefix}{name}");
            match value {
                Value::Table(inner) => self.add_properties(path, &format!("{name}."), inner, source),
                value => {
                    let path = [path, &[name.as_str()]].concat();
                    if self.sources.get(&path.join(".")) == source {
                        self.refuse(&path, source, "is set twice; remove one".to_owned());
                    }
                    self.set(&path, value, source);
                }
            }
        }
    }

    /// The keys of all values, with their sections, separated by dots.
    pub(super) fn keys(&self) -> Vec<String> {
        fn add(prefix: &str, table: &Table, keys: &mut Vec<String>) {
            for (name, value) in table {
                match value {
                    Value::Table(inner) => add(&format!("{prefix}{name}."), inner, keys),
                    _ => keys.push(format!("{prefix}{name}")),
                }
            }
        }
        let mut keys = Vec::new();
        add("", &self.defaults, &mut keys);
        keys
    }

    /// Returns `true` if there is a value, not a section, of this key.
    pub(super) fn has_key(&self, path: &[&str]) -> bool {
        get(&self.defaults, path).is_some_and(|value| !value.is_table())
    }

    /// Sets a value given as text, which is parsed as the type of the default.
    pub(super) fn set_text(&mut self, path: &[&str], text: &str, source: &Source) {
        let value = match get(&self.defaults, path) {
            Some(Value::Integer(_)) => text
                .trim()
                .parse()
                .map(Value::Integer)
                .map_err(|_| "is not an integer; set one, digits only".to_owned()),
            Some(Value::Boolean(_)) => text.trim().parse().map(Value::Boolean).map_err(|_| boolean_meant_by(text)),
            _ => Ok(Value::String(text.to_owned())),
        };
        match value {
            Ok(value) => self.set(path, value, source),
            Err(text) => self.refuse(path, source, text),
        }
    }

    pub(super) fn set(&mut self, path: &[&str], value: Value, source: &Source) {
        let value = match value {
            Value::String(text) if TRIMMED.iter().any(|trimmed| path == *trimmed) => {
                Value::String(text.trim().to_owned())
            }
            value => value,
        };
        if path == [INPUTS] {
            match inputs(value) {
                Ok(value) => {
                    insert(&mut self.values, path, value);
                    self.sources.set(INPUTS.to_owned(), source.clone());
                }
                Err(problems) => {
                    problems.into_iter().for_each(|(key, text)| self.problems.push(format!("{key} ({source})"), text));
                }
            }
            return;
        }
        let checked = if path.split_last().is_some_and(|(_, section)| is_open(section)) {
            self.property(path, value)
        } else {
            self.check(path, value)
        };
        match checked {
            Ok(value) => {
                self.displace(path, &value, source);
                insert(&mut self.values, path, value);
                self.sources.set(path.join("."), source.clone());
            }
            Err(text) => self.refuse(path, source, text),
        }
    }

    /// Returns the value, if it is valid for this key.
    fn check(&self, path: &[&str], value: Value) -> Result<Value, String> {
        let Some(default) = get(&self.defaults, path) else {
            return Err(self.unknown_key(path));
        };
        if let (Value::Boolean(_), Value::String(text)) = (default, &value) {
            return Err(boolean_meant_by(text));
        }
        if !default.same_type(&value) {
            return Err(format!("is {}; it must be {}", kind(&value), kind(default)));
        }
        if value.as_integer().is_some_and(|integer| integer < 0) {
            return Err("is negative; set a value from 0 up".to_owned());
        }
        let mut trial = self.defaults.clone();
        insert(&mut trial, path, value.clone());
        match trial.try_into::<Config>() {
            Ok(_) => Ok(value),
            Err(error) => {
                let message = error.message();
                let words: Vec<&str> = message.split('`').skip(3).step_by(2).collect();
                let meant = did_you_mean(value.as_str().unwrap_or_default(), words);
                Err(format!("{message}; set for instance {default}{meant}"))
            }
        }
    }

    fn unknown_key(&self, path: &[&str]) -> String {
        let text = "is an unknown key; remove it, or correct it: config/default.toml has every key";
        let mut keys = self.keys();
        keys.extend(self.defaults.iter().filter(|(_, value)| value.is_table()).map(|(section, _)| section.clone()));
        match similar_key(&path.join("."), &keys) {
            Some(key) => format!("{text}; did you mean {key}?"),
            None => text.to_owned(),
        }
    }

    /// A property's value as a string.
    fn property(&self, path: &[&str], value: Value) -> Result<Value, String> {
        match value {
            Value::String(_) => Ok(value),
            Value::Integer(_) | Value::Boolean(_) if path.starts_with(&PROPERTIES) => {
                Ok(Value::String(value.to_string()))
            }
            other if path.starts_with(&PROPERTIES) => {
                Err(format!("is {}; it must be a string, an integer or a boolean", kind(&other)))
            }
            other => Err(format!("is {}; it must be the path of a file, a string", kind(&other))),
        }
    }

    /// Removes a setting that a stronger source replaces under another key: a URL and a file with a URL are one setting, and so
    /// are a property and a file with its value.
    fn displace(&mut self, path: &[&str], value: &Value, source: &Source) {
        if value.as_str().is_some_and(str::is_empty) {
            return;
        }
        let (other, empty) = match path {
            ["database", "url"] => (vec!["database", "url_file"], Some(Value::String(String::new()))),
            ["database", "url_file"] => (vec!["database", "url"], Some(Value::String(String::new()))),
            ["database", "read_url"] => (vec!["database", "read_url_file"], Some(Value::String(String::new()))),
            ["database", "read_url_file"] => (vec!["database", "read_url"], Some(Value::String(String::new()))),
            ["kafka", "properties", name] => (vec!["kafka", "properties_files", name], None),
            ["kafka", "properties_files", name] => (vec!["kafka", "properties", name], None),
            _ => return,
        };
        let key = other.join(".");
        if source.is_above(self.sources.get(&key)) {
            self.sources.forget(&key);
            match empty {
                Some(empty) => insert(&mut self.values, &other, empty),
                None => remove(&mut self.values, &other),
            }
        }
    }

    fn refuse(&mut self, path: &[&str], source: &Source, text: String) {
        self.problems.push(format!("{} ({source})", path.join(".")), text);
    }

    /// Returns the configuration that the sources form, and all problems in them.
    pub(super) fn finish(self) -> Result<(Config, Sources, Problems), Problems> {
        let Self { values, sources, mut problems, .. } = self;
        match values.try_into::<Config>() {
            Ok(config) => Ok((config, sources, problems)),
            Err(error) => {
                problems.push("configuration", error.message());
                Err(problems)
            }
        }
    }
}

/// Returns the value, if it is an array of inputs, and otherwise all problems, each with its key.
fn inputs(value: Value) -> Result<Value, Vec<(String, String)>> {
    let Value::Array(all) = value else {
        let text = format!("is {}; write each input as a section [[{INPUTS}]]", kind(&value));
        return Err(vec![(INPUTS.to_owned(), text)]);
    };
    let problems: Vec<(String, String)> =
        all.iter().enumerate().flat_map(|(number, one)| problems_of_input(number, one)).collect();
    if problems.is_empty() { Ok(Value::Array(all)) } else { Err(problems) }
}

/// The problems of one input's keys. Each key is tried alone, so that all of them are reported at once.
fn problems_of_input(number: usize, input: &Value) -> Vec<(String, String)> {
    let name = input.get("name").and_then(Value::as_str);
    let label = name.map_or_else(|| format!("input[{number}]"), |name| format!("input {name:?}"));
    let Some(table) = input.as_table() else {
        return vec![(label, format!("is {}; write each input as a section [[{INPUTS}]]", kind(input)))];
    };
    let required = "name = \"\"\ntopics = []\nformat = \"json\"";
    let Ok(complete) = required.parse::<Table>() else { return Vec::new() };
    let mut problems = Vec::new();
    for missing in complete.keys().filter(|key| !table.contains_key(*key)) {
        problems.push((format!("{label}.{missing}"), "is missing; set it".to_owned()));
    }
    for (key, value) in table {
        let mut trial = complete.clone();
        trial.insert(key.clone(), value.clone());
        let Err(error) = trial.try_into::<InputOptions>() else { continue };
        let message = error.message().trim();
        let mut words = message.split('`').skip(1).step_by(2);
        let given = words.next().unwrap_or_default();
        let meant = did_you_mean(given, words);
        let text = if message.starts_with("unknown field") && given == key {
            format!("is an unknown key; docs/inputs.md has the keys of an input{meant}")
        } else {
            format!("is {}, which it cannot be: {message}{meant}; docs/inputs.md has the keys of an input", kind(value))
        };
        problems.push((format!("{label}.{key}"), text));
    }
    problems
}

fn boolean_meant_by(text: &str) -> String {
    let meant = match text.trim().to_ascii_lowercase().as_str() {
        "yes" | "y" | "on" | "1" | "true" | "enabled" => "; did you mean true?",
        "no" | "n" | "off" | "0" | "false" | "disabled" => "; did you mean false?",
        _ => "",
    };
    format!("is not a boolean; set true or false{meant}")
}

/// Returns `true` for a table that takes any name.
pub(super) fn is_open(path: &[&str]) -> bool {
    path == PROPERTIES || path == PROPERTIES_FILES
}

fn get<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let value = table.get(*first)?;
    if rest.is_empty() { Some(value) } else { get(value.as_table()?, rest) }
}

fn insert(table: &mut Table, path: &[&str], value: Value) {
    match path {
        [key] => drop(table.insert((*key).to_owned(), value)),
        [section, rest @ ..] => {
            if let Some(Value::Table(inner)) = table.get_mut(*section) {
                insert(inner, rest, value);
            }
        }
        [] => {}
    }
}

fn remove(table: &mut Table, path: &[&str]) {
    match path {
        [key] => drop(table.remove(*key)),
        [section, rest @ ..] => {
            if let Some(Value::Table(inner)) = table.get_mut(*section) {
                remove(inner, rest);
            }
        }
        [] => {}
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "an integer",
        Value::Float(_) => "a float",
        Value::Boolean(_) => "a boolean",
        Value::Datetime(_) => "a date without quotes",
        Value::Array(_) => "an array",
        Value::Table(_) => "a section",
    }
}
