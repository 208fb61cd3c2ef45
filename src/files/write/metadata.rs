//! What a file says of its series, and for pandas.

use arrow_schema::DataType;
use serde_json::{Value, json};

use super::Head;
use crate::files::definition::{self, PANDAS_KEY, SERIES_KEY};

/// A key and its value.
pub(super) type Pair = (&'static str, String);

/// The pairs of a file's metadata.
///
/// # Errors
/// Those of [`definition::array`].
pub(super) fn pairs(head: &Head) -> Result<Vec<Pair>, serde_json::Error> {
    let mut pairs = vec![(SERIES_KEY, definition::array(&head.definitions, None)?)];
    if let Some(index) = &head.index {
        pairs.push((PANDAS_KEY, pandas(head, index).to_string()));
    }
    Ok(pairs)
}

fn pandas(head: &Head, index: &str) -> Value {
    let columns: Vec<Value> = head
        .schema
        .fields()
        .iter()
        .map(|field| {
            let (of_pandas, of_numpy, metadata) = match field.data_type() {
                DataType::Timestamp(..) => ("datetimetz", "datetime64[us]", json!({"timezone": "UTC"})),
                DataType::Float64 => ("float64", "float64", Value::Null),
                _ => ("unicode", "object", Value::Null),
            };
            json!({
                "name": field.name(),
                "field_name": field.name(),
                "pandas_type": of_pandas,
                "numpy_type": of_numpy,
                "metadata": metadata,
            })
        })
        .collect();
    json!({
        "index_columns": [index],
        "column_indexes": [{
            "name": null,
            "field_name": null,
            "pandas_type": "unicode",
            "numpy_type": "object",
            "metadata": {"encoding": "UTF-8"},
        }],
        "columns": columns,
        "creator": {"library": "series-ingest", "version": env!("CARGO_PKG_VERSION")},
        "pandas_version": "2.2.0",
    })
}
