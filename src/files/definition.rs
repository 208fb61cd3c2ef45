//! What is known of a series.

use serde_json::{Map, Value};

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

impl Definition {
    /// It as a JSON object with the fields of the message `series-create`; what it has not is omitted.
    pub fn json(&self) -> Value {
        let mut object = Map::new();
        object.insert("id".to_owned(), self.id.as_str().into());
        for (name, value) in [("name", &self.name), ("description", &self.description)] {
            if let Some(value) = value {
                object.insert(name.to_owned(), value.as_str().into());
            }
        }
        object.insert("time_column".to_owned(), self.time_column.as_str().into());
        object.insert("value_columns".to_owned(), self.value_columns.clone().into());
        // Other programs may store what is not an object, which defines nothing.
        let labels = self.labels.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok());
        if let Some(labels @ Value::Object(_)) = labels {
            object.insert("labels".to_owned(), labels);
        }
        Value::Object(object)
    }
}

/// Definitions as the text of a JSON array, which `points import` reads.
pub(super) fn array(definitions: &[Definition]) -> String {
    Value::Array(definitions.iter().map(Definition::json).collect()).to_string()
}
