//! The sources of a configuration, put over each other key by key: the defaults, a file, the environment.
//!
//! The table of defaults has every key, with a value of its type. So a key that it does not have is unknown, and a
//! value is right where the defaults with this one value instead still make a configuration.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use toml::{Table, Value};

use super::files::without_line_ends;
use super::problems::Problems;
use super::properties::from_variable;
use super::similar::{did_you_mean, similar, similar_key};
use super::sources::{Source, Sources};
use super::{Config, Database, url};

const DEFAULTS: &str = include_str!("../../config/default.toml");
const PREFIX: &str = "SERIES_INGEST__";
/// The names that the analyzer sets, with their keys.
const NAMES: [(&str, &str); 5] = [
    ("DATABASE_URL", "database.url"),
    ("DATABASE_POOL_SIZE", "database.pool_size"),
    ("DATABASE_MAX_OVERFLOW", "database.max_overflow"),
    ("DATABASE_POOL_RECYCLE", "database.pool_recycle_s"),
    ("KAFKA_BROKERS", "kafka.brokers"),
];
/// What the analyzer's `POSTGRES_…` name: the parts of `database.url`.
const PARTS: [&str; 5] = ["USER", "PASSWORD", "DB", "HOST", "PORT"];
/// Variables of this project's that are not its configuration: of its tests, and of `scripts/stack`.
const OTHERS: [&str; 7] = [
    "SERIES_INGEST_TESTS",
    "SERIES_INGEST_PLANTED_BUGS",
    "SERIES_INGEST_CACHE",
    "SERIES_INGEST_DEBIAN_MIRROR",
    "SERIES_INGEST_KAFKA_PORT",
    "SERIES_INGEST_POSTGRES_PORT",
    "SERIES_INGEST_BENCH_OPEN",
];
const OTHERS_PREFIX: &str = "SERIES_INGEST_TEST_";
/// Names that other programs have for what this one takes under the second name.
const ALIASES: [(&str, &str); 6] = [
    ("KAFKA_BOOTSTRAP_SERVERS", "KAFKA_BROKERS"),
    ("KAFKA_BOOTSTRAP_SERVER", "KAFKA_BROKERS"),
    ("KAFKA_BROKER_LIST", "KAFKA_BROKERS"),
    ("POSTGRES_URL", "DATABASE_URL"),
    ("POSTGRES_DATABASE", "POSTGRES_DB"),
    ("POSTGRES_USERNAME", "POSTGRES_USER"),
];
/// The tables that take any name; their values become strings.
const PROPERTIES: [&str; 2] = ["kafka", "properties"];
const PROPERTIES_FILES: [&str; 2] = ["kafka", "properties_files"];

/// The values so far, and what was wrong with the others.
#[derive(Debug)]
pub(super) struct Layers {
    defaults: Table,
    values: Table,
    sources: Sources,
    problems: Problems,
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

    /// Puts a file over what is there.
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

    /// Puts a file's text over what is there.
    pub(super) fn add_text(&mut self, text: &str, source: &Source) {
        match text.parse::<Table>() {
            Ok(table) => self.add_table(&[], table, source),
            Err(error) => {
                // The error's own text quotes the line, which may hold a password.
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

    /// Puts the environment over what is there. Returns the parts of a URL that it has, and sentences on variables that are
    /// ignored.
    pub(super) fn add_environment(
        &mut self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> (UrlParts, Vec<String>) {
        let mut variables = BTreeMap::new();
        let mut near = BTreeMap::new();
        for (name, value) in environment {
            let name = name.to_string_lossy().into_owned();
            let is_part = name.strip_prefix("POSTGRES_").is_some_and(|part| PARTS.contains(&part));
            let is_name = NAMES.iter().any(|(variable, _)| *variable == name);
            if !name.starts_with(PREFIX) && !is_part && !is_name {
                let value = value.to_string_lossy();
                if is_mistaken(&name, &value) {
                    let text = self.unknown_variable(&name);
                    self.problems.push(name, text);
                } else if let Some(meant) = meant_by(&name).filter(|_| !value.trim().is_empty()) {
                    near.insert(name, meant);
                }
                continue;
            }
            match value.into_string() {
                // A password may begin or end with spaces, and nothing else does.
                Ok(value) if is_name || is_part && name != "POSTGRES_PASSWORD" => {
                    drop(variables.insert(name, value.trim().to_owned()));
                }
                Ok(value) => drop(variables.insert(name, without_line_ends(&value).to_owned())),
                Err(_) => self.problems.push(name, "is not UTF-8; set it to a text in UTF-8"),
            }
        }
        let is_set = |name: &str| variables.get(name).is_some_and(|text| !text.is_empty());
        let notes = near
            .iter()
            .filter(|(_, meant)| !is_set(meant))
            .map(|(name, meant)| format!("{name} is set, and this program does not take it; did you mean {meant}?"))
            .collect();
        let part = |name: &str| variables.get(&format!("POSTGRES_{name}")).cloned().unwrap_or_default();
        let parts = UrlParts(PARTS.map(part));
        if let Some(url) = self.url_of_parts(&variables) {
            self.set(&["database", "url"], Value::String(url), &Source::Name("POSTGRES_*".to_owned()));
        }
        for (name, key) in NAMES {
            if let Some(text) = variables.get(name).filter(|text| !text.is_empty()) {
                let path: Vec<&str> = key.split('.').collect();
                self.set_text(&path, text, &Source::Name(name.to_owned()));
            }
        }
        for (name, text) in &variables {
            if let Some(parts) = name.strip_prefix(PREFIX) {
                self.set_variable(name, parts, text);
            }
        }
        (parts, notes)
    }

    /// The URL made of `POSTGRES_…`, if these say which database.
    fn url_of_parts(&mut self, variables: &BTreeMap<String, String>) -> Option<String> {
        let of = |part: &str| variables.get(&format!("POSTGRES_{part}")).map_or("", String::as_str);
        let (user, database, host, port) = (of("USER"), of("DB"), of("HOST"), of("PORT"));
        let others = ["DATABASE_URL", "SERIES_INGEST__DATABASE__URL", "SERIES_INGEST__DATABASE__URL_FILE"];
        let stronger = others.iter().any(|name| variables.get(*name).is_some_and(|text| !text.is_empty()));
        if stronger || [user, database, host].iter().all(|part| part.is_empty()) {
            return None;
        }
        if !port.is_empty() && port.parse::<u16>().is_err() {
            self.problems.push("POSTGRES_PORT", "is no port; set a number from 1 to 65535");
            return None;
        }
        let is_host = host.starts_with('/') || host.parse::<std::net::Ipv6Addr>().is_ok();
        if !is_host && host.contains([':', '/', '@', ' ']) {
            self.problems
                .push("POSTGRES_HOST", "is no host; set a name or an address alone, and POSTGRES_PORT for the port");
            return None;
        }
        Some(url::from_parts(user, of("PASSWORD"), database, host, port))
    }

    fn set_variable(&mut self, name: &str, parts: &str, text: &str) {
        let mut path: Vec<String> = parts.split("__").map(str::to_ascii_lowercase).collect();
        let known: Vec<&str> = path.iter().map(String::as_str).collect();
        if let [section @ .., property] = known.as_slice()
            && is_open(section)
        {
            let property = from_variable(property);
            path.truncate(2);
            path.push(property);
        } else if !matches!(get(&self.defaults, &known), Some(value) if !value.is_table())
            || parts != parts.to_uppercase()
        {
            let text = self.unknown_variable(name);
            self.problems.push(name, text);
            return;
        }
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        self.set_text(&path, text, &Source::Variable(name.to_owned()));
    }

    fn unknown_variable(&self, name: &str) -> String {
        let text = "is no key of this program; remove it, or correct it to SERIES_INGEST__SECTION__KEY";
        let plain = name
            .to_ascii_uppercase()
            .split(['_', '-', '.'])
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("_");
        for (section, variable) in [("PROPERTIES_FILES", "PROPERTIES_FILES"), ("PROPERTIES", "PROPERTIES")] {
            if let Some(property) = plain.strip_prefix(&format!("SERIES_INGEST_KAFKA_{section}_")) {
                return format!("{text}; did you mean {PREFIX}KAFKA__{variable}__{property}?");
            }
        }
        let keys = self.keys();
        let variables: Vec<String> = keys.iter().map(|key| variable_of(key)).collect();
        // By its key, if it is one: a name in another section is found that way, too.
        let path = name.get(PREFIX.len()..).filter(|_| name.to_ascii_uppercase().starts_with(PREFIX));
        let by_key = path.and_then(|path| similar_key(&path.to_ascii_lowercase().replace("__", "."), &keys));
        match by_key.map(variable_of).or_else(|| similar(name, variables.iter().map(String::as_str)).map(str::to_owned))
        {
            Some(variable) => format!("{text}; did you mean {variable}?"),
            None => text.to_owned(),
        }
    }

    /// The keys of all values, with dots.
    fn keys(&self) -> Vec<String> {
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

    /// Sets a value given as text, which is read as the type of the default.
    fn set_text(&mut self, path: &[&str], text: &str, source: &Source) {
        let value = match get(&self.defaults, path) {
            Some(Value::Integer(_)) => {
                text.trim().parse().map(Value::Integer).map_err(|_| "is no integer; set one, digits only".to_owned())
            }
            Some(Value::Boolean(_)) => text.trim().parse().map(Value::Boolean).map_err(|_| boolean_meant_by(text)),
            _ => Ok(Value::String(text.to_owned())),
        };
        match value {
            Ok(value) => self.set(path, value, source),
            Err(text) => self.refuse(path, source, text),
        }
    }

    fn set(&mut self, path: &[&str], value: Value, source: &Source) {
        let value = match value {
            // Where a line end or a space at an end is never meant.
            Value::String(text) if path == ["database", "url"] || path == ["kafka", "brokers"] => {
                Value::String(text.trim().to_owned())
            }
            value => value,
        };
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

    /// The value, where it is one of this key.
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

    /// Takes away what a stronger source replaces under another key: a URL and a file with a URL are one setting, and
    /// so are a property and a file with its value.
    fn displace(&mut self, path: &[&str], value: &Value, source: &Source) {
        if value.as_str().is_some_and(str::is_empty) {
            return;
        }
        let (other, empty) = match path {
            ["database", "url"] => (vec!["database", "url_file"], Some(Value::String(String::new()))),
            ["database", "url_file"] => (vec!["database", "url"], Some(Value::String(String::new()))),
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

    /// What the sources make together, with everything that was wrong in them.
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

/// The environment's `POSTGRES_…`, in the order of [`PARTS`].
#[derive(Debug)]
pub(super) struct UrlParts([String; 5]);

/// Says which of these parts are ignored because another URL is in force, and another one in it.
pub(super) fn ignored_parts(database: &Database, sources: &Sources, parts: &UrlParts) -> Option<String> {
    let key = if database.url_file.is_empty() { "database.url" } else { "database.url_file" };
    let source = sources.get(key);
    if *source == Source::Name("POSTGRES_*".to_owned()) || database.url.is_empty() {
        return None;
    }
    let own = url::parts(database.url.expose());
    let or = |text: String, default: &str| if text.is_empty() { default.to_owned() } else { text };
    let own = [own.user, own.password, own.database, own.host, or(own.port, "5432")];
    let others = PARTS.iter().zip(&parts.0).zip(&own).filter(|((_, part), own)| !part.is_empty() && part != own);
    let names: Vec<String> = others.map(|((name, _), _)| format!("POSTGRES_{name}")).collect();
    let verb = if names.len() == 1 { "says something else and is" } else { "say something else and are" };
    (!names.is_empty()).then(|| {
        format!(
            "the database is the one of {key} ({source}); {} {verb} ignored: make them agree, or remove one",
            names.join(", ")
        )
    })
}

/// The variable of a key.
fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_uppercase())
}

/// Returns `true` for a variable that is meant for this program, and that it does not have.
fn is_mistaken(name: &str, value: &str) -> bool {
    const OWN: &str = "SERIES_INGEST";
    let upper = name.to_ascii_uppercase();
    if OTHERS.contains(&name) || name.starts_with(OTHERS_PREFIX) || is_of_kubernetes(name, value) {
        return false;
    }
    let squeezed: String = upper.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    squeezed.starts_with("SERIESINGEST")
        || upper.split_once("__").is_some_and(|(prefix, _)| strsim::damerau_levenshtein(prefix, OWN) <= 2)
}

/// Returns `true` for a variable that Kubernetes sets in every container for a service: `<NAME>_SERVICE_HOST`,
/// `<NAME>_SERVICE_PORT[_<PORT>]`, `<NAME>_PORT` and `<NAME>_PORT_<number>_<protocol>[_PORT|_PROTO|_ADDR]`.
/// <https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables>
fn is_of_kubernetes(name: &str, value: &str) -> bool {
    let is_protocol = |text: &str| ["TCP", "UDP", "SCTP"].contains(&text);
    let of_port = |rest: &str| {
        let mut words = rest.split('_');
        words.next().is_some_and(|port| port.parse::<u16>().is_ok()) && words.next().is_some_and(is_protocol)
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.ends_with("_PORT") && ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme))
        || name.split("_PORT_").skip(1).any(of_port)
}

/// The variable of the analyzer's that another program's or a mistyped one is like.
fn meant_by(name: &str) -> Option<&'static str> {
    if let Some((_, meant)) = ALIASES.iter().find(|(alias, _)| *alias == name) {
        return Some(meant);
    }
    const PARTS: [&str; 5] = ["POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB", "POSTGRES_HOST", "POSTGRES_PORT"];
    let known = NAMES.iter().map(|(variable, _)| *variable).chain(PARTS);
    known.into_iter().find(|known| {
        strsim::damerau_levenshtein(&name.to_ascii_uppercase(), known) == 1 || name.to_ascii_uppercase() == **known
    })
}

fn boolean_meant_by(text: &str) -> String {
    let meant = match text.trim().to_ascii_lowercase().as_str() {
        "yes" | "y" | "on" | "1" | "true" | "enabled" => "; did you mean true?",
        "no" | "n" | "off" | "0" | "false" | "disabled" => "; did you mean false?",
        _ => "",
    };
    format!("is no boolean; set true or false{meant}")
}

fn is_open(path: &[&str]) -> bool {
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
