//! The columns of a file, and what each may be.

use super::json::{is_null, is_number, is_value};
use crate::message::Limits;
use crate::message::timestamp;

/// A column of a file.
#[derive(Debug, Clone)]
pub(super) struct Field {
    pub(super) name: String,
    /// What it has, in a word or by its type.
    pub(super) kind: String,
    pub(super) as_time: AsTime,
    /// `true` if it may have the values of points.
    pub(super) is_value: bool,
    /// `true` if it may have the names of series or columns.
    pub(super) is_name: bool,
    /// One of its values, for a person.
    pub(super) example: Option<String>,
}

/// What a column's values are as times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AsTime {
    /// Times, by the column's type.
    Typed,
    /// Texts; some are times as a message may have them.
    Text,
    /// Texts; none is such a time.
    OtherText,
    /// Numbers; their unit is not known.
    Number,
    /// No value was seen.
    Unseen,
    /// They are no times.
    Never,
}

/// A window that has all times, to see whether a text is a time at all.
pub(super) const ANY_TIME: Limits = Limits {
    max_bytes: usize::MAX,
    max_points: usize::MAX,
    max_name_bytes: usize::MAX,
    min_us: i64::MIN,
    max_us: i64::MAX,
    deny_unknown_fields: false,
};

/// What was seen of a column whose values have no types.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen {
    values: usize,
    numbers: usize,
    times: usize,
    usable: usize,
    nested: usize,
    example: Option<String>,
    example_of_text: Option<String>,
}

impl Seen {
    /// A field of a CSV file.
    pub(super) fn add_text(&mut self, text: &str) {
        let text = text.trim_ascii();
        if is_null(text) {
            return;
        }
        self.add(text, is_value(text));
    }

    /// A text of JSON; only those for what is not finite are values.
    pub(super) fn add_string(&mut self, text: &str) {
        match text {
            "NaN" => {}
            "Infinity" | "-Infinity" => self.add_other(text),
            _ => self.add(text, false),
        }
    }

    fn add(&mut self, text: &str, is_usable: bool) {
        self.values += 1;
        let example = || text.chars().take(40).collect::<String>();
        self.example.get_or_insert_with(example);
        if is_number(text.as_bytes()) {
            self.numbers += 1;
        // Once it is known that there are times, it is known.
        } else if self.times == 0 && timestamp::of_text(text, 0, &ANY_TIME).is_ok() {
            self.times += 1;
        }
        if is_usable {
            self.usable += 1;
        } else {
            self.example_of_text.get_or_insert_with(example);
        }
    }

    /// A number of JSON.
    pub(super) fn add_number(&mut self, text: &str) {
        self.values += 1;
        self.numbers += 1;
        self.usable += 1;
        if self.example.is_none() {
            self.example = Some(text.to_owned());
        }
    }

    /// Another value of JSON that a point may have.
    pub(super) fn add_other(&mut self, text: &str) {
        self.values += 1;
        self.usable += 1;
        self.example.get_or_insert_with(|| text.to_owned());
    }

    /// An object or an array.
    pub(super) fn add_nested(&mut self) {
        self.values += 1;
        self.nested += 1;
        self.example_of_text.get_or_insert_with(|| "an object or an array".to_owned());
    }

    pub(super) fn into_field(self, name: String) -> Field {
        let is_value = self.values == 0 || self.usable > 0;
        let as_time = match self {
            Self { values: 0, .. } => AsTime::Unseen,
            Self { values, numbers, .. } if numbers == values => AsTime::Number,
            Self { times: 1.., .. } => AsTime::Text,
            Self { nested: 1.., .. } => AsTime::Never,
            _ => AsTime::OtherText,
        };
        let kind = if is_value { "numbers" } else { "text" }.to_owned();
        let example = if is_value { self.example } else { self.example_of_text };
        Field { name, kind, as_time, is_value, is_name: self.nested == 0, example }
    }
}
