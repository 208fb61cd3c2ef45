//! The effective configuration as text, with secrets masked.

use std::collections::BTreeMap;

use serde::Serializer;
use toml::{Table, Value};

use super::Config;
use super::properties::is_shown;
use super::secret::{MASK, Secret};
use super::sources::Sources;
use super::url::mask_url;

/// The configuration as TOML: each value followed by its source.
pub(super) fn render(config: &Config, sources: &Sources) -> String {
    match Table::try_from(config) {
        Ok(table) => section("", &table, sources),
        // A number above TOML's maximum, which no file could have set.
        Err(error) => format!("# {error}\n"),
    }
}

/// The configuration as a JSON document.
pub(super) fn json(config: &Config, sources: &Sources) -> serde_json::Value {
    fn add(
        path: &str,
        value: &serde_json::Value,
        sources: &Sources,
        named: &mut serde_json::Map<String, serde_json::Value>,
    ) {
        for (key, value) in value.as_object().into_iter().flatten() {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            if value.is_object() {
                add(&path, value, sources, named);
            } else {
                let source = sources.get(&path).to_string();
                named.insert(path, source.into());
            }
        }
    }
    // This cannot fail: all keys are strings.
    let values = serde_json::to_value(config).unwrap_or_default();
    let mut named = serde_json::Map::new();
    add("", &values, sources, &mut named);
    serde_json::json!({"values": values, "sources": named, "notes": config.notes()})
}

fn section(name: &str, table: &Table, sources: &Sources) -> String {
    let mut lines = String::new();
    let mut sections = String::new();
    for (key, value) in table {
        let path = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
        match value {
            Value::Table(inner) => sections.push_str(&format!("\n[{path}]\n{}", section(&path, inner, sources))),
            value => {
                let bare =
                    key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)) && !key.is_empty();
                let key = if bare { key.clone() } else { Value::String(key.clone()).to_string() };
                lines.push_str(&format!("{key} = {value}  # {}\n", sources.get(&path)));
            }
        }
    }
    lines + &sections
}

/// Serializes a URL with its password masked.
pub(super) fn url<S: Serializer>(url: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&mask_url(url.expose()))
}

/// Serializes librdkafka's properties, all masked except those known to be harmless.
pub(super) fn properties<S: Serializer>(values: &BTreeMap<String, Secret>, serializer: S) -> Result<S::Ok, S::Error> {
    let shown = |name: &str, value: &Secret| if is_shown(name) { value.expose().to_owned() } else { MASK.to_owned() };
    serializer.collect_map(values.iter().map(|(name, value)| (name, shown(name, value))))
}
