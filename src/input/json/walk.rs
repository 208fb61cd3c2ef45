//! Reads a value along a tree of keys: values with a slot are kept as text, columns as numbers.

use std::ops::Range;

use jiter::Peek;

use super::JsonScratch;
use super::plan::{JsonPlan, Node, Tree};
use crate::input::pointer::escape;
use crate::input::rules::Rules;
use crate::input::series_id::Tag;
use crate::input::values::{number_of_boolean, number_of_text};
use crate::input::{Nested, Strings};
use crate::message::Reason;
use crate::message::faults::{checked_name, too_many_points};
use crate::message::json::{Cursor, Fault};

/// Maximum depth of objects and arrays that are flattened into columns.
const MAX_DEPTH: usize = 16;
/// The label that Prometheus keeps a metric's name in; the name is not one of its tags.
const NAME_LABEL: &str = "__name__";

/// A value that is kept in a slot.
#[derive(Debug, Clone)]
pub(super) struct Scalar {
    pub(super) kind: ScalarKind,
    text: Range<usize>,
    /// Its position in the message.
    pub(super) at: usize,
    /// `true` if it is outside the record, so that a value inside the record replaces it.
    pub(super) is_around: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScalarKind {
    Text,
    Number,
    Boolean,
    Null,
}

impl Scalar {
    pub(super) fn of_text(text: &str, at: usize, buffer: &mut String) -> Self {
        Self::new(ScalarKind::Text, text, at, buffer)
    }

    fn new(kind: ScalarKind, text: &str, at: usize, buffer: &mut String) -> Self {
        let start = buffer.len();
        buffer.push_str(text);
        Self { kind, text: start..buffer.len(), at, is_around: false }
    }

    pub(super) fn text<'a>(&self, buffer: &'a str) -> &'a str {
        &buffer[self.text.clone()]
    }
}

/// A value of a column.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: Range<usize>,
    pub(super) value: f64,
    /// Its position in the message.
    pub(super) at: usize,
}

/// The parameters of a walk, which do not change on the way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk<'a> {
    pub(super) plan: &'a JsonPlan,
    pub(super) tree: &'a Tree,
    pub(super) rules: &'a Rules,
}

/// The state before a key was entered.
struct Outer {
    len: usize,
    base: usize,
}

impl JsonScratch {
    /// Reads a value along the whole tree. `columns` says whether its members are columns, unless the tree says otherwise.
    pub(super) fn walk(&mut self, walk: Walk<'_>, columns: bool, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
        self.nested(walk, Some(0), (columns, 0), cursor)
    }

    fn nested(
        &mut self,
        walk: Walk<'_>,
        node: Option<usize>,
        (columns, depth): (bool, usize),
        cursor: &mut Cursor<'_>,
    ) -> Result<(), Fault> {
        let peek = cursor.peek()?;
        let known = node.map(|node| &walk.tree.nodes[node]);
        if let (Some(number), true) = (node, known.is_some_and(|node| node.records.is_some())) {
            // Null counts as missing.
            if peek != Peek::Null {
                if self.records.is_some() {
                    return Err(Fault::new(Reason::Schema, cursor.position(), "the field is a duplicate"));
                }
                self.records = Some((cursor.position(), number));
            }
            return cursor.skip().map(drop);
        }
        if peek != Peek::Object && peek != Peek::Array {
            return self.scalar(walk, known, columns, peek, cursor);
        }
        if known.is_some_and(|node| node.tags) {
            return self.tags(cursor, peek);
        }
        if known.is_some_and(|node| node.slot.is_some()) {
            return Err(cursor.unexpected("a string, a number or a boolean", peek));
        }
        // The record itself is not a nested value.
        let is_outermost = depth == 0 || known.is_some_and(|node| node.columns == Some(true));
        let is_flattened = columns && (walk.plan.nested == Nested::Flatten || is_outermost);
        if !is_flattened && !walk.tree.has_children(node) {
            self.skipped += usize::from(columns);
            return cursor.skip().map(drop);
        }
        if is_flattened && depth > MAX_DEPTH {
            let what = format!("the nesting is too deep for columns: expected at most {MAX_DEPTH} levels");
            return Err(Fault::new(Reason::Limits, cursor.position(), what));
        }
        let within = (is_flattened, depth + 1);
        if peek == Peek::Object {
            self.object(walk, node, within, cursor)
        } else {
            self.array(walk, node, within, cursor)
        }
    }

    fn object(
        &mut self,
        walk: Walk<'_>,
        node: Option<usize>,
        (columns, depth): (bool, usize),
        cursor: &mut Cursor<'_>,
    ) -> Result<(), Fault> {
        let mut at = cursor.next_quote();
        let mut next = cursor.first_key()?.map(|key| self.enter(walk.tree, node, columns, key, at)).transpose()?;
        while let Some((child, inner, outer)) = next {
            self.nested(walk, child, (inner, depth), cursor)
                .map_err(|fault| fault.at_token(escape(&cursor.key_at(at))))?;
            self.leave(&outer);
            at = cursor.next_quote();
            next = cursor.next_key()?.map(|key| self.enter(walk.tree, node, columns, key, at)).transpose()?;
        }
        Ok(())
    }

    fn array(
        &mut self,
        walk: Walk<'_>,
        node: Option<usize>,
        (columns, depth): (bool, usize),
        cursor: &mut Cursor<'_>,
    ) -> Result<(), Fault> {
        let (mut index, mut buffer) = (0_usize, [0; MAX_DIGITS]);
        let mut next = cursor.first_element()?;
        while next.is_some() {
            let key = digits(index, &mut buffer);
            let (child, inner, outer) = self.enter(walk.tree, node, columns, key, cursor.position())?;
            let read = self.nested(walk, child, (inner, depth), cursor);
            read.map_err(|fault| fault.at_token(index))?;
            self.leave(&outer);
            index += 1;
            next = cursor.next_element()?;
        }
        Ok(())
    }

    /// Moves to the value of a key. Returns its node, and `true` if it is columns.
    fn enter(
        &mut self,
        tree: &Tree,
        node: Option<usize>,
        columns: bool,
        key: &str,
        at: usize,
    ) -> Result<(Option<usize>, bool, Outer), Fault> {
        let outer = Outer { len: self.column.len(), base: self.base };
        let child = tree.child(node, key);
        let known = child.map(|child| &tree.nodes[child]);
        let columns = known.and_then(|node| node.columns).unwrap_or(columns);
        if columns {
            match known.and_then(|node| node.name.as_deref()) {
                Some(name) => {
                    self.base = self.column.len();
                    self.column.push_str(name);
                }
                None => {
                    if key.as_bytes().contains(&0) {
                        return Err(Fault::nul(at));
                    }
                    if self.column.len() > self.base {
                        self.column.push('.');
                    }
                    self.column.push_str(key);
                }
            }
        }
        Ok((child, columns, outer))
    }

    fn leave(&mut self, outer: &Outer) {
        self.column.truncate(outer.len);
        self.base = outer.base;
    }

    fn scalar(
        &mut self,
        Walk { plan, rules, .. }: Walk<'_>,
        node: Option<&Node>,
        columns: bool,
        peek: Peek,
        cursor: &mut Cursor<'_>,
    ) -> Result<(), Fault> {
        let at = cursor.position();
        if let Some(slot) = node.and_then(|node| node.slot) {
            let scalar = read_scalar(cursor, peek, &mut self.text)?;
            if self.slots[slot].as_ref().is_some_and(|known| !known.is_around) {
                return Err(Fault::new(Reason::Schema, at, "the field is a duplicate"));
            }
            // Null counts as missing, and hides the value around the record; only a value may be null.
            let is_value = plan.long.as_ref().is_some_and(|(_, value)| *value == slot);
            let is_column = node.is_some_and(|node| node.columns == Some(true));
            let value = if is_column { value_of(&scalar, plan, &self.text)? } else { None };
            self.slots[slot] = (scalar.kind != ScalarKind::Null || is_value).then_some(scalar);
            return match value {
                Some(value) => self.add_field(value, at, rules),
                None => Ok(()),
            };
        }
        if !columns {
            return cursor.skip().map(drop);
        }
        let value = match peek {
            // A skipped value may contain anything.
            Peek::String if plan.strings == Strings::Skip => {
                cursor.skip()?;
                None
            }
            Peek::String => number_of_text(cursor.known_text()?, plan.strings, at)?,
            Peek::True | Peek::False => number_of_boolean(cursor.boolean(peek)?, plan.booleans, at)?,
            // If the configuration names the column, its value may be unknown; otherwise null may stand for anything.
            Peek::Null => {
                cursor.skip()?;
                node.is_some_and(|node| node.columns == Some(true)).then_some(f64::NAN)
            }
            peek => Some(cursor.value(peek)?),
        };
        match value {
            Some(value) => self.add_field(value, at, rules),
            None => {
                self.skipped += 1;
                Ok(())
            }
        }
    }

    fn add_field(&mut self, value: f64, at: usize, rules: &Rules) -> Result<(), Fault> {
        self.values += 1;
        if self.values > rules.limits.max_points {
            return Err(too_many_points(at, rules.limits.max_points));
        }
        let name = checked_name(at, &self.column[self.base..], rules.limits.max_name_bytes)?;
        let start = self.text.len();
        self.text.push_str(name);
        self.fields.push(Field { name: start..self.text.len(), value, at });
        Ok(())
    }

    /// Reads an object whose members are tags: strings as they are, and other scalars as written.
    fn tags(&mut self, cursor: &mut Cursor<'_>, peek: Peek) -> Result<(), Fault> {
        if peek != Peek::Object {
            return Err(cursor.unexpected("an object of tags", peek));
        }
        let mut at = cursor.next_quote();
        let mut next = cursor.first_key()?.map(|key| push(&mut self.text, key));
        while let Some(name) = next {
            let peek = cursor.peek()?;
            let read = read_scalar(cursor, peek, &mut self.text);
            let scalar = read.map_err(|fault| fault.at_token(escape(&cursor.key_at(at))))?;
            if scalar.kind != ScalarKind::Null && self.text[name.clone()] != *NAME_LABEL {
                self.tags.push(Tag { name, value: scalar.text, at });
            }
            at = cursor.next_quote();
            next = cursor.next_key()?.map(|key| push(&mut self.text, key));
        }
        Ok(())
    }
}

/// The value of a column that is kept in a slot as well; `None` if it is skipped.
pub(super) fn value_of(scalar: &Scalar, plan: &JsonPlan, buffer: &str) -> Result<Option<f64>, Fault> {
    let (text, at) = (scalar.text(buffer), scalar.at);
    match scalar.kind {
        ScalarKind::Null => Ok(Some(f64::NAN)),
        ScalarKind::Boolean => number_of_boolean(text == "true", plan.booleans, at),
        ScalarKind::Text => number_of_text(text, plan.strings, at),
        ScalarKind::Number => number(text, at).map(Some),
    }
}

/// Parses a JSON number, or one of Python's words.
fn number(text: &str, at: usize) -> Result<f64, Fault> {
    let value = match text {
        "NaN" => f64::NAN,
        "Infinity" => f64::INFINITY,
        "-Infinity" => f64::NEG_INFINITY,
        _ => match text.parse::<f64>() {
            Ok(value) if value.is_finite() => value,
            _ => return Err(Fault::new(Reason::Limits, at, "the number is beyond the range of a double")),
        },
    };
    Ok(value)
}

/// Maximum number of digits of an index.
const MAX_DIGITS: usize = 20;

/// The index of an element, as a key.
fn digits(mut number: usize, buffer: &mut [u8; MAX_DIGITS]) -> &str {
    let mut start = MAX_DIGITS;
    loop {
        start -= 1;
        // The remainder is one digit.
        buffer[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 || start == 0 {
            break;
        }
    }
    std::str::from_utf8(&buffer[start..]).unwrap_or_default()
}

fn push(buffer: &mut String, text: &str) -> Range<usize> {
    let start = buffer.len();
    buffer.push_str(text);
    start..buffer.len()
}

fn read_scalar(cursor: &mut Cursor<'_>, peek: Peek, buffer: &mut String) -> Result<Scalar, Fault> {
    let at = cursor.position();
    Ok(match peek {
        Peek::String => Scalar::new(ScalarKind::Text, cursor.known_text()?, at, buffer),
        Peek::True | Peek::False => {
            let text = if cursor.boolean(peek)? { "true" } else { "false" };
            Scalar::new(ScalarKind::Boolean, text, at, buffer)
        }
        Peek::Null => {
            cursor.skip()?;
            Scalar::new(ScalarKind::Null, "", at, buffer)
        }
        peek if peek.is_num() => {
            // A JSON number consists of ASCII characters.
            let text = std::str::from_utf8(cursor.number(peek)?).unwrap_or_default();
            Scalar::new(ScalarKind::Number, text, at, buffer)
        }
        peek => return Err(cursor.unexpected("a string, a number or a boolean", peek)),
    })
}
