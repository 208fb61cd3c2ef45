//! What is known of a series.

use std::collections::HashSet;

use serde::Serialize;
use serde_json::value::RawValue;

/// A series, as the message `series-create` defines it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Definition {
    /// Its id.
    pub id: String,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its description, if it has one.
    pub description: Option<String>,
    /// The name that its times had in their origin.
    pub time_column: String,
    /// Its columns in their order.
    pub value_columns: Vec<String>,
    /// Its labels as the text of a JSON object, if it has any.
    pub labels: Option<String>,
}

/// The key of definitions in the metadata of Parquet and Arrow: a JSON array of objects with the fields of the message
/// `series-create`.
pub(super) const SERIES_KEY: &str = "series_ingest.series";

/// The key of the columns of a wide file in which null means that there is no point, and not a point without a value: a JSON array of names. Next
/// to a text it is a field of the only definition. A file that has it is wide.
pub(super) const ABSENT_KEY: &str = "series_ingest.absent_columns";

/// How the name of the file ends that has the definitions of another one, which has no place for them.
pub const BESIDE: &str = ".series.json";

/// The key of what pandas writes into the metadata of Parquet and Arrow; its form is in the developer documentation of pandas,
/// "Storing pandas DataFrame objects in Apache Parquet format".
pub(super) const PANDAS_KEY: &str = "pandas";

/// The fields of the message `series-create`; what a series has not is omitted.
#[derive(Serialize)]
struct Fields<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    time_column: &'a str,
    value_columns: Vec<&'a str>,
    /// As the database prints them: a number keeps all of its digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<&'a RawValue>,
    /// Not of the message: [`ABSENT_KEY`].
    #[serde(rename = "series_ingest.absent_columns", skip_serializing_if = "Option::is_none")]
    absent_columns: Option<&'a [String]>,
}

impl Definition {
    fn fields(&self) -> Fields<'_> {
        let mut known = HashSet::new();
        let labels = self.labels.as_deref().and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
        Fields {
            id: &self.id,
            name: self.name.as_deref(),
            description: self.description.as_deref(),
            time_column: &self.time_column,
            // Other programs may store a name twice, which a message may not have.
            value_columns: self.value_columns.iter().map(String::as_str).filter(|name| known.insert(*name)).collect(),
            // Other programs may store what is not an object, which defines nothing.
            labels: labels.filter(|labels| labels.get().starts_with('{')),
            absent_columns: None,
        }
    }
}

/// Definitions as the text of a JSON array, which `points import` reads; `absent_columns` are those of a wide file next to it.
///
/// # Errors
/// If serde refuses, which it has no reason for: texts and JSON are written.
pub(super) fn array(
    definitions: &[Definition],
    absent_columns: Option<&[String]>,
) -> Result<String, serde_json::Error> {
    let fields = definitions.iter().map(|definition| Fields { absent_columns, ..definition.fields() });
    let fields: Vec<Fields<'_>> = fields.collect();
    serde_json::to_string(&fields)
}
