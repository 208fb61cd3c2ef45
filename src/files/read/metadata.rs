//! What a file says of its series: definitions, as `points export` writes them, and the index of pandas.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::ReadError;
use super::json::put_text;
use crate::files::definition::{ABSENT_KEY, BESIDE, PANDAS_KEY, SERIES_KEY};

/// More than the definitions of a million series is none.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// A definition as a file has it: what of it is said, and each value as its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FoundDefinition {
    pub(super) id: String,
    pub(super) time_column: Option<String>,
    fields: BTreeMap<String, Box<str>>,
}

impl FoundDefinition {
    /// The message `series-create`, of this id.
    pub(super) fn message(&self, id: &str) -> Vec<u8> {
        let mut message = b"{\"type\":\"series-create\",\"id\":".to_vec();
        put_text(id, &mut message);
        for (name, value) in self.fields.iter().filter(|(name, _)| !["type", "id", ABSENT_KEY].contains(&name.as_str()))
        {
            message.push(b',');
            put_text(name, &mut message);
            message.push(b':');
            message.extend_from_slice(value.as_bytes());
        }
        message.push(b'}');
        message
    }
}

/// What a file says of its series.
#[derive(Debug, Clone, Default)]
pub(super) struct Metadata {
    pub(super) definitions: Vec<FoundDefinition>,
    /// The column that is pandas' index.
    pub(super) index: Option<String>,
    /// The columns in which null means that there is no point; a file that says so is wide.
    pub(super) absent: Option<Vec<String>>,
}

impl Metadata {
    /// Reads a file's metadata; `value` has the value of a key.
    pub(super) fn of_keys<'a>(path: &Path, value: impl Fn(&str) -> Option<&'a str>) -> Result<Self, ReadError> {
        let mut metadata = match value(SERIES_KEY) {
            Some(text) => Self::of_series(path, text, value(ABSENT_KEY))?,
            None => Self::next_to(path)?,
        };
        // What pandas writes is a hint.
        let index = value(PANDAS_KEY).and_then(|text| serde_json::from_str::<Pandas>(text).ok());
        metadata.index = index.and_then(Pandas::index);
        Ok(metadata)
    }

    fn of_series(path: &Path, text: &str, absent: Option<&str>) -> Result<Self, ReadError> {
        let definitions = definitions(text).map_err(|why| {
            let text = format!("its metadata {SERIES_KEY} is not a JSON array of definitions of series: {why}");
            ReadError::unclear(path, text)
        })?;
        let absent = absent.map(serde_json::from_str).transpose();
        let absent = absent.map_err(|error| {
            ReadError::unclear(path, format!("its metadata {ABSENT_KEY} is not a JSON array of names: {error}"))
        })?;
        Ok(Self { definitions, index: None, absent })
    }

    /// Reads what is next to a file that has no metadata.
    pub(super) fn next_to(path: &Path) -> Result<Self, ReadError> {
        let definitions = definitions_next_to(path)?;
        let absent = match definitions.as_slice() {
            [only] => only.fields.get(ABSENT_KEY).map(|text| serde_json::from_str(text)).transpose(),
            _ => Ok(None),
        };
        let absent = absent.map_err(|error| {
            ReadError::unclear(path, format!("{ABSENT_KEY} of its definition is not an array of names: {error}"))
        })?;
        Ok(Self { definitions, index: None, absent })
    }

    /// Returns `true` if `points export` has written the file, with a row for each time.
    pub(super) fn is_wide_export(&self) -> bool {
        self.absent.is_some()
    }

    /// The columns of a file without rows.
    pub(super) fn columns(&self) -> Vec<String> {
        match self.definitions.as_slice() {
            [only] if self.is_wide_export() => {
                let columns = only.fields.get("value_columns").map(|text| serde_json::from_str::<Vec<String>>(text));
                let columns = columns.and_then(Result::ok).unwrap_or_default();
                only.time_column.iter().cloned().chain(columns).collect()
            }
            [] => Vec::new(),
            _ => ["series", "timestamp", "column", "value"].map(str::to_owned).to_vec(),
        }
    }
}

fn definitions_next_to(path: &Path) -> Result<Vec<FoundDefinition>, ReadError> {
    let mut name = path.as_os_str().to_owned();
    name.push(BESIDE);
    let path = PathBuf::from(name);
    let io = |error| ReadError::Io { path: path.clone(), error };
    match std::fs::metadata(&path) {
        Ok(found) if found.len() > MAX_BYTES => {
            return Err(ReadError::unclear(
                &path,
                format!("has {} bytes, more than the {MAX_BYTES} allowed", found.len()),
            ));
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io(error)),
    }
    let text = std::fs::read_to_string(&path).map_err(io)?;
    definitions(&text)
        .map_err(|why| ReadError::unclear(&path, format!("is not a JSON array of definitions of series: {why}")))
}

fn definitions(text: &str) -> Result<Vec<FoundDefinition>, String> {
    let objects: Vec<BTreeMap<String, &RawValue>> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    objects
        .into_iter()
        .map(|fields| {
            let text = |name: &str| -> Result<Option<String>, String> {
                let Some(raw) = fields.get(name) else { return Ok(None) };
                serde_json::from_str(raw.get()).map_err(|error| format!("{name}: {error}"))
            };
            let id = text("id")?.ok_or("one of them has no id")?;
            let time_column = text("time_column")?;
            let fields = fields.into_iter().map(|(name, value)| (name, value.get().into())).collect();
            Ok(FoundDefinition { id, time_column, fields })
        })
        .collect()
}

/// The part of pandas' metadata that names the index; one without a column is described instead of named.
#[derive(Deserialize)]
struct Pandas {
    index_columns: Vec<Index>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Index {
    Column(String),
    Other(serde::de::IgnoredAny),
}

impl Pandas {
    fn index(self) -> Option<String> {
        match <[Index; 1]>::try_from(self.index_columns) {
            Ok([Index::Column(name)]) => Some(name),
            Ok([Index::Other(_)]) | Err(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_become_messages_with_every_digit_they_had() {
        let text = r#"[{"id": "a\"b", "name": null, "labels": {"x": 1.10, "y": 123456789012345678901}, "type": "series-create"},
                       {"id": "c", "time_column": "date", "value_columns": ["v"]}]"#;
        let all = definitions(text).unwrap();
        let message = |one: &FoundDefinition, id: &str| String::from_utf8(one.message(id)).unwrap();
        assert_eq!(
            message(&all[0], &all[0].id),
            r#"{"type":"series-create","id":"a\"b","labels":{"x": 1.10, "y": 123456789012345678901},"name":null}"#
        );
        assert_eq!(
            message(&all[1], "other"),
            r#"{"type":"series-create","id":"other","time_column":"date","value_columns":["v"]}"#
        );
        assert_eq!(all[1].time_column.as_deref(), Some("date"));
        for none in ["", "{}", r#"[{"name":"x"}]"#, r#"[{"id":7}]"#, "[1]"] {
            assert!(definitions(none).is_err(), "{none}");
        }
    }

    #[test]
    fn the_index_of_pandas_is_a_column_or_none() {
        let index = |text: &str| {
            let value = |key: &str| Some(if key == SERIES_KEY { "[]" } else { text }).filter(|_| key != ABSENT_KEY);
            Metadata::of_keys(Path::new("/nowhere"), value).unwrap().index
        };
        assert_eq!(index(r#"{"index_columns": ["date"], "columns": []}"#).as_deref(), Some("date"));
        assert_eq!(index(r#"{"index_columns": [{"kind": "range", "start": 0}]}"#), None);
        assert_eq!(index(r#"{"index_columns": ["a", "b"]}"#), None);
        assert_eq!(index("nothing"), None);
    }
}
