//! The labels of a `series-create`.

use std::collections::BTreeMap;

use jiter::Peek;

use crate::input::labels::{is_number_of_jsonb, quote};
use crate::message::faults::checked_name;
use crate::message::json::{Cursor, Fault};
use crate::message::{Limits, Reason};

/// Maximum number of labels in one message.
const MAX_LABELS: usize = 100;

/// Reads an object of labels, and writes it with sorted keys and without white space; null is an empty object.
pub(super) fn read(cursor: &mut Cursor<'_>, limits: &Limits) -> Result<String, Fault> {
    let mut labels: BTreeMap<String, String> = BTreeMap::new();
    if cursor.peek()? != Peek::Null {
        let mut at = cursor.next_quote();
        let mut next = cursor.first_key()?.map(str::to_owned);
        while let Some(key) = next {
            check_key(at, &key, limits)?;
            let value = value(cursor, limits).map_err(|fault| fault.under(&key))?;
            if labels.insert(key, value).is_some() {
                return Err(Fault::new(Reason::Schema, at, "the label is a duplicate"));
            }
            if labels.len() > MAX_LABELS {
                return Err(Fault::new(Reason::Limits, at, format!("there are more than the {MAX_LABELS} allowed")));
            }
            at = cursor.next_quote();
            next = cursor.next_key()?.map(str::to_owned);
        }
    }
    let mut json = String::from("{");
    for (key, value) in &labels {
        if json.len() > 1 {
            json.push(',');
        }
        quote(&mut json, key);
        json.push(':');
        json.push_str(value);
    }
    json.push('}');
    Ok(json)
}

fn check_key(at: usize, key: &str, limits: &Limits) -> Result<(), Fault> {
    if key.as_bytes().contains(&0) {
        return Err(Fault::nul(at));
    }
    checked_name(at, key, limits.max_name_bytes).map(drop)
}

/// A label's value as JSON.
fn value(cursor: &mut Cursor<'_>, limits: &Limits) -> Result<String, Fault> {
    const EXPECTED: &str = "a string, a number or a boolean";
    let (peek, at) = (cursor.peek()?, cursor.position());
    let (length, json) = match peek {
        Peek::True | Peek::False => (0, cursor.boolean(peek)?.to_string()),
        Peek::String => {
            let (text, mut json) = (cursor.known_text()?, String::new());
            quote(&mut json, text);
            (text.len(), json)
        }
        number if number.is_num() => {
            let text = String::from_utf8_lossy(cursor.number(peek)?).into_owned();
            if !is_number_of_jsonb(&text) {
                return Err(Fault::new(Reason::Limits, at, "the number is beyond the range of a double"));
            }
            (text.len(), text)
        }
        _ => return Err(cursor.unexpected(EXPECTED, peek)),
    };
    if length > limits.max_name_bytes {
        let what = format!("the label has {length} bytes, more than the {} allowed", limits.max_name_bytes);
        return Err(Fault::new(Reason::Limits, at, what));
    }
    Ok(json)
}
