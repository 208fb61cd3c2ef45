//! The environment as a source of the configuration: this program's variables, and variables that resemble them.

use std::collections::BTreeMap;
use std::ffi::OsString;

use toml::Value;

use super::files::without_line_ends;
use super::layers::{Layers, is_open};
use super::properties::from_variable;
use super::sections::Database;
use super::similar::{similar, similar_key};
use super::sources::{Source, Sources};
use super::url;

const PREFIX: &str = "SERIES_INGEST__";
/// The names that the analyzer sets, with their keys.
const NAMES: [(&str, &str); 5] = [
    ("DATABASE_URL", "database.url"),
    ("DATABASE_POOL_SIZE", "database.pool_size"),
    ("DATABASE_MAX_OVERFLOW", "database.max_overflow"),
    ("DATABASE_POOL_RECYCLE", "database.pool_recycle_s"),
    ("KAFKA_BROKERS", "kafka.brokers"),
];
/// The suffixes of the analyzer's `POSTGRES_…` variables: the parts of `database.url`.
const PARTS: [&str; 5] = ["USER", "PASSWORD", "DB", "HOST", "PORT"];
/// Variables of this project that are not its configuration: those of its tests, and of `scripts/stack`.
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
/// Other programs' variables, each with this program's variable for the same value.
const ALIASES: [(&str, &str); 6] = [
    ("KAFKA_BOOTSTRAP_SERVERS", "KAFKA_BROKERS"),
    ("KAFKA_BOOTSTRAP_SERVER", "KAFKA_BROKERS"),
    ("KAFKA_BROKER_LIST", "KAFKA_BROKERS"),
    ("POSTGRES_URL", "DATABASE_URL"),
    ("POSTGRES_DATABASE", "POSTGRES_DB"),
    ("POSTGRES_USERNAME", "POSTGRES_USER"),
];

impl Layers {
    /// Puts the environment over the present values. Returns its parts of a URL, and sentences about variables that are
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
                // A password may begin or end with spaces; nothing else does.
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

    /// The URL made of `POSTGRES_…`, if these name a database.
    fn url_of_parts(&mut self, variables: &BTreeMap<String, String>) -> Option<String> {
        let of = |part: &str| variables.get(&format!("POSTGRES_{part}")).map_or("", String::as_str);
        let (user, database, host, port) = (of("USER"), of("DB"), of("HOST"), of("PORT"));
        let others = ["DATABASE_URL", "SERIES_INGEST__DATABASE__URL", "SERIES_INGEST__DATABASE__URL_FILE"];
        let stronger = others.iter().any(|name| variables.get(*name).is_some_and(|text| !text.is_empty()));
        if stronger || [user, database, host].iter().all(|part| part.is_empty()) {
            return None;
        }
        if !port.is_empty() && port.parse::<u16>().is_err() {
            self.problems.push("POSTGRES_PORT", "is not a port; set a number from 1 to 65535");
            return None;
        }
        let is_host = host.starts_with('/') || host.parse::<std::net::Ipv6Addr>().is_ok();
        if !is_host && host.contains([':', '/', '@', ' ']) {
            self.problems
                .push("POSTGRES_HOST", "is not a host; set a name or an address alone, and POSTGRES_PORT for the port");
            return None;
        }
        Some(url::from_parts(user, of("PASSWORD"), database, host, port))
    }

    fn set_variable(&mut self, name: &str, parts: &str, text: &str) {
        let mut path: Vec<String> = parts.split("__").map(str::to_ascii_lowercase).collect();
        let known: Vec<&str> = path.iter().map(String::as_str).collect();
        if known == ["input"] {
            self.problems
                .push(name, "cannot be set here; write each input as a section [[input]] of the file of --config");
            return;
        }
        if let [section @ .., property] = known.as_slice()
            && is_open(section)
        {
            let property = from_variable(property);
            path.truncate(2);
            path.push(property);
        } else if !self.has_key(&known) || parts != parts.to_uppercase() {
            let text = self.unknown_variable(name);
            self.problems.push(name, text);
            return;
        }
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        self.set_text(&path, text, &Source::Variable(name.to_owned()));
    }

    fn unknown_variable(&self, name: &str) -> String {
        let text = "is not a key of this program; remove it, or correct it to SERIES_INGEST__SECTION__KEY";
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
        // Compared by its key, if it is one, which also finds a name in another section.
        let path = name.get(PREFIX.len()..).filter(|_| name.to_ascii_uppercase().starts_with(PREFIX));
        let by_key = path.and_then(|path| similar_key(&path.to_ascii_lowercase().replace("__", "."), &keys));
        match by_key.map(variable_of).or_else(|| similar(name, variables.iter().map(String::as_str)).map(str::to_owned))
        {
            Some(variable) => format!("{text}; did you mean {variable}?"),
            None => text.to_owned(),
        }
    }
}

/// The environment's `POSTGRES_…`, in the order of [`PARTS`].
#[derive(Debug)]
pub(super) struct UrlParts([String; 5]);

/// Describes which of these parts are ignored because another URL is in force, and contains a different one.
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

/// Returns `true` for a variable that is meant for this program, which does not have it.
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

/// The variable of the analyzer that another program's or a mistyped one resembles.
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
