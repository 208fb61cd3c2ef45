//! The benchmark's results, as a table and as JSON, which grow from part to part.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::cli::{Failure, output, print_line};

/// The width of names, so that lines that are printed one by one form columns.
const WIDTH: usize = 62;

/// Figures in the order in which they are measured.
#[derive(Debug)]
pub(super) struct Report {
    lines: Vec<(String, String)>,
    values: Map<String, Value>,
    parts: Vec<String>,
    file: Option<PathBuf>,
}

impl Report {
    /// An empty report, which is also written to the file.
    pub(super) fn new(file: Option<PathBuf>) -> Result<Self, Failure> {
        let report = Self { lines: Vec::new(), values: Map::new(), parts: Vec::new(), file };
        report.write(false)?;
        Ok(report)
    }

    /// Adds a figure and its text, under a name for people and a key for programs; it is printed at once.
    pub(super) fn add(&mut self, name: &str, key: &str, text: String, value: impl Into<Value>) {
        print_line(format_args!("  {name:<WIDTH$}  {text}"));
        self.lines.push((name.to_owned(), text));
        self.values.insert(key.to_owned(), value.into());
    }

    /// Adds a rate, and its ratios to others.
    pub(super) fn rate(&mut self, name: &str, key: &str, points_a_second: f64, beside: &[(&str, &str, f64)]) {
        let mut text = format!("{points_a_second:>8.0} points/s");
        for (words, to, other) in beside {
            let ratio = points_a_second / other;
            text += &format!(", {ratio:.2} of {words}");
            self.values.insert(format!("{key}_to_{to}"), json!(rounded(ratio)));
        }
        self.add(name, &format!("{key}_points_per_s"), text, points_a_second.round());
    }

    /// Writes the figures so far to the file, when a part is measured.
    pub(super) fn done(&mut self, part: &str) -> Result<(), Failure> {
        self.parts.push(part.to_owned());
        self.write(false)
    }

    /// Prints all figures together.
    pub(super) fn print(&self) {
        print_line("");
        for (name, text) in &self.lines {
            print_line(format_args!("  {name:<WIDTH$}  {text}"));
        }
    }

    /// Writes to the file that all parts were measured.
    pub(super) fn complete(&self) -> Result<(), Failure> {
        self.write(true)
    }

    fn write(&self, is_complete: bool) -> Result<(), Failure> {
        let Some(file) = &self.file else { return Ok(()) };
        let mut values = self.values.clone();
        values.insert("parts".to_owned(), json!(self.parts));
        values.insert("complete".to_owned(), is_complete.into());
        output::write_file(file, &format!("{:#}\n", Value::Object(values)))
    }
}

/// Further decimals are below the accuracy of a benchmark.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
