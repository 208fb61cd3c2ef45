//! The values of many records, by their places.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;

use crate::input::pointer::escape;

/// Maximum number of distinct values counted for one place.
pub(super) const MAX_DISTINCT: usize = 2000;
/// Maximum depth, and maximum number of an array's elements, that are examined.
const MAX_DEPTH: usize = 8;
const MAX_ELEMENTS: usize = 16;

/// The values at one place of many records.
#[derive(Debug, Default)]
pub(super) struct Leaf {
    /// Number of records that have a value there.
    pub(super) seen: usize,
    pub(super) numbers: usize,
    pub(super) integers: usize,
    pub(super) strings: usize,
    /// Strings that are numbers.
    pub(super) numeric_strings: usize,
    pub(super) booleans: usize,
    pub(super) nulls: usize,
    /// The distinct strings and integers.
    pub(super) distinct: HashSet<String>,
    /// The place's position in the order of their first appearance.
    pub(super) place: usize,
}

/// All places of the records, by their pointers.
#[derive(Debug, Default)]
pub(super) struct Leaves {
    pub(super) records: usize,
    pub(super) all: BTreeMap<String, Leaf>,
}

impl Leaves {
    pub(super) fn of<'a>(records: impl Iterator<Item = &'a Value>) -> Self {
        let mut leaves = Self::default();
        for record in records {
            leaves.records += 1;
            leaves.add("", record, 0);
        }
        leaves
    }

    fn add(&mut self, place: &str, value: &Value, depth: usize) {
        if depth > MAX_DEPTH {
            return;
        }
        match value {
            Value::Object(members) => {
                members.iter().for_each(|(key, value)| self.add(&format!("{place}/{}", escape(key)), value, depth + 1));
            }
            Value::Array(elements) => {
                let first = elements.iter().take(MAX_ELEMENTS).enumerate();
                first.for_each(|(index, value)| self.add(&format!("{place}/{index}"), value, depth + 1));
            }
            scalar => {
                let next = self.all.len();
                let new = || Leaf { place: next, ..Leaf::default() };
                self.all.entry(place.to_owned()).or_insert_with(new).add(scalar);
            }
        }
    }

    /// Returns `true` if the place has a value in nearly all records.
    pub(super) fn is_always_there(&self, leaf: &Leaf) -> bool {
        (leaf.seen - leaf.nulls) * 100 >= self.records * 99
    }
}

impl Leaf {
    fn add(&mut self, value: &Value) {
        self.seen += 1;
        let distinct = match value {
            Value::Number(number) => {
                self.numbers += 1;
                self.integers += usize::from(number.is_i64() || number.is_u64());
                number.to_string()
            }
            Value::String(text) => {
                self.strings += 1;
                self.numeric_strings += usize::from(is_number(text));
                text.clone()
            }
            Value::Bool(_) => {
                self.booleans += 1;
                return;
            }
            _ => {
                self.nulls += 1;
                return;
            }
        };
        if self.distinct.len() < MAX_DISTINCT {
            self.distinct.insert(distinct);
        }
    }

    /// Returns `true` if all its values are numbers, except null.
    pub(super) fn is_number(&self) -> bool {
        self.numbers > 0 && self.numbers + self.nulls == self.seen
    }

    /// Returns `true` if all its values are strings, except null.
    pub(super) fn is_string(&self) -> bool {
        self.strings > 0 && self.strings + self.nulls == self.seen
    }

    /// Returns `true` if all its values are strings that are numbers, except null.
    pub(super) fn is_numeric_string(&self) -> bool {
        self.is_string() && self.numeric_strings == self.strings
    }

    /// Returns `true` if it may be a name: strings or integers.
    pub(super) fn may_be_name(&self) -> bool {
        self.is_string() || self.numbers > 0 && self.integers == self.seen
    }
}

/// Returns `true` if a string is a number, and not a code that consists of digits, such as `00120`.
fn is_number(text: &str) -> bool {
    let digits = text.trim_start_matches(['-', '+']);
    let is_code = digits.len() > 1 && digits.starts_with('0') && digits.as_bytes()[1].is_ascii_digit();
    !is_code && text.parse().is_ok_and(f64::is_finite)
}

/// The value at a pointer, as text.
pub(super) fn text_at(value: &Value, pointer: &str) -> Option<String> {
    match value.pointer(pointer)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}
