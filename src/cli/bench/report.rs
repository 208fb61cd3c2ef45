//! What the benchmark has found, as a table and as JSON.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Failure, print_line};

/// Figures in the order in which they are printed.
#[derive(Debug, Default)]
pub(super) struct Report {
    lines: Vec<(String, String)>,
    values: Map<String, Value>,
}

impl Report {
    /// A figure with its words, by a name for people and a key for programs.
    pub(super) fn add(&mut self, name: &str, key: &str, text: String, value: impl Into<Value>) {
        self.lines.push((name.to_owned(), text));
        self.values.insert(key.to_owned(), value.into());
    }

    /// A rate, and what it is to others.
    pub(super) fn rate(&mut self, name: &str, key: &str, points_a_second: f64, beside: &[(&str, &str, f64)]) {
        let mut text = format!("{points_a_second:>8.0} points/s");
        for (words, to, other) in beside {
            let ratio = points_a_second / other;
            text += &format!(", {ratio:.2} of {words}");
            self.values.insert(format!("{key}_to_{to}"), json!(rounded(ratio)));
        }
        self.add(name, &format!("{key}_points_per_s"), text, points_a_second.round());
    }

    /// Prints the table, and writes the JSON where it is asked for.
    pub(super) fn finish(self, file: Option<&Path>) -> Result<(), Failure> {
        print_line("");
        let width = self.lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, text) in &self.lines {
            print_line(format_args!("  {name:<width$}  {text}"));
        }
        if let Some(file) = file {
            std::fs::write(file, format!("{:#}\n", Value::Object(self.values)))?;
        }
        Ok(())
    }
}

/// Three digits behind the point are more than a benchmark knows.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
