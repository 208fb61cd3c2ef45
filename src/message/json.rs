//! A message's JSON, read in place. A [`Cursor`] reads one value of the message; a fault has its byte offset.
//!
//! jiter reads JSON without building a tree, accepts the bare `NaN` and `Infinity` that Python writes, and limits the nesting
//! of skipped values.

use jiter::{Jiter, JiterError, JiterErrorType, JsonErrorType, Peek};

use super::{Reason, Rejected};

/// What is wrong with a message, and where.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) reason: Reason,
    /// What was found or expected, without its position.
    pub(crate) what: String,
    /// The byte offset in the message.
    pub(crate) at: usize,
    /// The path of the value, such as `columns.temp_max[3]`; built from the innermost step outwards.
    path: String,
}

impl Fault {
    pub(crate) fn new(reason: Reason, at: usize, what: impl Into<String>) -> Self {
        Self { reason, what: what.into(), at, path: String::new() }
    }

    /// The fault that the text at byte `at` has the character U+0000, which PostgreSQL cannot store.
    pub(crate) fn nul(at: usize) -> Self {
        Self::new(Reason::Encoding, at, "PostgreSQL's text cannot hold the character U+0000")
    }

    /// The fault with `step` prepended to its path.
    pub(crate) fn under(mut self, step: impl std::fmt::Display) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{step}{dot}{}", self.path);
        self
    }

    pub(crate) fn in_element(self, index: usize) -> Self {
        self.under(format_args!("[{index}]"))
    }

    /// The fault with `token` prepended to its path, as in a JSON Pointer; `token` is a key, the number of an element, or a
    /// pointer without its first slash.
    pub(crate) fn at_token(mut self, token: impl std::fmt::Display) -> Self {
        self.path = format!("/{token}{}", self.path);
        self
    }
}

impl From<Fault> for Rejected {
    fn from(fault: Fault) -> Self {
        let path = if fault.path.is_empty() { String::new() } else { format!("{}: ", fault.path) };
        Self::new(fault.reason, format!("{path}{} (byte {})", fault.what, fault.at))
    }
}

/// Reads one value of a message.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    json: Jiter<'a>,
    message: &'a [u8],
    /// Where the value begins in the message.
    base: usize,
}

impl<'a> Cursor<'a> {
    /// A cursor at the byte `base` of the message.
    pub(crate) fn at(message: &'a [u8], base: usize) -> Self {
        Self { json: Jiter::new(&message[base..]).with_allow_inf_nan(), message, base }
    }

    /// The byte offset in the message of what is read next.
    pub(crate) fn position(&self) -> usize {
        self.base + self.json.current_index()
    }

    /// The byte offset of the next key, before it is read.
    pub(crate) fn next_quote(&self) -> usize {
        let at = self.position();
        at + self.message[at..].iter().position(|byte| *byte == b'"').unwrap_or(0)
    }

    pub(crate) fn peek(&mut self) -> Result<Peek, Fault> {
        self.json.peek().map_err(|error| fault(self.base, error))
    }

    /// Checks that an object comes next. Another value is skipped first: by its first byte alone, "not json" would be taken
    /// for null.
    pub(crate) fn require_object(&mut self) -> Result<(), Fault> {
        let peek = self.peek()?;
        if peek == Peek::Object {
            return Ok(());
        }
        let fault = self.unexpected("an object", peek);
        self.skip()?;
        Err(fault)
    }

    /// Skips one value; returns where it begins.
    pub(crate) fn skip(&mut self) -> Result<usize, Fault> {
        let peek = self.peek()?;
        let start = self.position();
        self.json.known_skip(peek).map_err(|error| fault(self.base, error))?;
        Ok(start)
    }

    /// The key that begins at byte `at` of the message, for a detail: its first characters, without U+0000.
    pub(crate) fn key_at(&self, at: usize) -> String {
        const SHOWN: usize = 100;
        let mut json = Jiter::new(self.message.get(at..).unwrap_or_default());
        let Ok(key) = json.next_str() else { return String::new() };
        let mut head: String = key.chars().take(SHOWN).collect();
        if head.len() < key.len() {
            head.push('…');
        }
        head.replace('\0', "\\u0000")
    }

    /// Returns the byte at which another value begins after this one; `None` if nothing but white space follows.
    pub(crate) fn next_value(&self) -> Option<usize> {
        let at = self.position();
        let space = self.message[at..].iter().position(|byte| !b" \t\r\n".contains(byte))?;
        Some(at + space)
    }

    pub(crate) fn finish(&mut self) -> Result<(), Fault> {
        self.json.finish().map_err(|error| fault(self.base, error))
    }

    pub(crate) fn first_key(&mut self) -> Result<Option<&str>, Fault> {
        let base = self.base;
        let peek = self.peek()?;
        if peek != Peek::Object {
            return Err(self.unexpected("an object", peek));
        }
        self.json.known_object().map_err(|error| fault(base, error))
    }

    pub(crate) fn next_key(&mut self) -> Result<Option<&str>, Fault> {
        let base = self.base;
        self.json.next_key().map_err(|error| fault(base, error))
    }

    pub(crate) fn first_element(&mut self) -> Result<Option<Peek>, Fault> {
        let peek = self.peek()?;
        if peek != Peek::Array {
            return Err(self.unexpected("an array", peek));
        }
        self.json.known_array().map_err(|error| fault(self.base, error))
    }

    pub(crate) fn next_element(&mut self) -> Result<Option<Peek>, Fault> {
        self.json.array_step().map_err(|error| fault(self.base, error))
    }

    /// A string; `None` for null.
    pub(crate) fn optional_text(&mut self) -> Result<Option<&str>, Fault> {
        if self.peek()? == Peek::Null {
            self.json.known_null().map_err(|error| fault(self.base, error))?;
            return Ok(None);
        }
        self.text().map(Some)
    }

    pub(crate) fn text(&mut self) -> Result<&str, Fault> {
        let peek = self.peek()?;
        if peek != Peek::String {
            return Err(self.unexpected("a string", peek));
        }
        self.known_text()
    }

    pub(crate) fn known_text(&mut self) -> Result<&str, Fault> {
        let base = self.base;
        let start = self.position();
        let text = self.json.known_str().map_err(|error| fault(base, error))?;
        if text.as_bytes().contains(&0) {
            return Err(Fault::nul(start));
        }
        Ok(text)
    }

    /// A point's value: a number, or one of the strings for values that are not finite. Null and NaN are both NaN.
    pub(crate) fn value(&mut self, peek: Peek) -> Result<f64, Fault> {
        let start = self.position();
        if peek.is_num() {
            let value = self.json.known_float(peek).map_err(|error| fault(self.base, error))?;
            if value.is_infinite() && !self.message[start..self.position()].contains(&b'I') {
                return Err(Fault::new(Reason::Limits, start, "the number is beyond the range of a double"));
            }
            return Ok(value);
        }
        match peek {
            Peek::Null => {
                self.json.known_null().map_err(|error| fault(self.base, error))?;
                Ok(f64::NAN)
            }
            Peek::String => match self.known_text()? {
                "NaN" => Ok(f64::NAN),
                "Infinity" => Ok(f64::INFINITY),
                "-Infinity" => Ok(f64::NEG_INFINITY),
                other => {
                    let is_number = other.parse().is_ok_and(f64::is_finite);
                    let found = if is_number { "a number in quotes" } else { "another string" };
                    Err(Fault::new(Reason::Schema, start, format!("{VALUE}, found {found}")))
                }
            },
            _ => Err(self.unexpected_here(VALUE, peek)),
        }
    }

    /// A boolean.
    pub(crate) fn boolean(&mut self, peek: Peek) -> Result<bool, Fault> {
        self.json.known_bool(peek).map_err(|error| fault(self.base, error))
    }

    /// A number as it is written; `-Infinity` is a number, too.
    pub(crate) fn number(&mut self, peek: Peek) -> Result<&[u8], Fault> {
        let base = self.base;
        self.json.known_number_bytes(peek).map_err(|error| fault(base, error))
    }

    pub(crate) fn unexpected(&self, expected: &str, found: Peek) -> Fault {
        self.unexpected_here(&format!("expected {expected}"), found)
    }

    fn unexpected_here(&self, expected: &str, found: Peek) -> Fault {
        let found = match found {
            Peek::Null => "null",
            Peek::True | Peek::False => "a boolean",
            Peek::String => "a string",
            Peek::Array => "an array",
            Peek::Object => "an object",
            number if number.is_num() => "a number",
            _ => return Fault::new(Reason::Syntax, self.position(), "expected a JSON value"),
        };
        Fault::new(Reason::Schema, self.position(), format!("{expected}, found {found}"))
    }
}

const VALUE: &str = "expected a number, null, \"NaN\", \"Infinity\" or \"-Infinity\"";

fn fault(base: usize, error: JiterError) -> Fault {
    let at = base + error.index;
    match error.error_type {
        JiterErrorType::JsonError(JsonErrorType::RecursionLimitExceeded) => {
            Fault::new(Reason::Limits, at, "the nesting is too deep: expected at most 201 levels in a field")
        }
        JiterErrorType::JsonError(JsonErrorType::NumberOutOfRange) => {
            Fault::new(Reason::Limits, at, "the number is too long: expected at most 4300 digits")
        }
        JiterErrorType::JsonError(kind) => Fault::new(Reason::Syntax, at, syntax(&kind)),
        JiterErrorType::WrongType { expected, actual } => {
            Fault::new(Reason::Schema, at, format!("expected {expected}, found {actual}"))
        }
    }
}

/// What was found and expected, for a producer.
fn syntax(kind: &JsonErrorType) -> String {
    match kind {
        JsonErrorType::EofWhileParsingList => "the payload ends inside an array".to_owned(),
        JsonErrorType::EofWhileParsingObject => "the payload ends inside an object".to_owned(),
        JsonErrorType::EofWhileParsingString => "the payload ends inside a string".to_owned(),
        JsonErrorType::EofWhileParsingValue => "the payload ends where a JSON value was expected".to_owned(),
        JsonErrorType::ExpectedSomeIdent => "expected null, true, false, NaN or Infinity".to_owned(),
        JsonErrorType::ExpectedSomeValue => "expected a JSON value".to_owned(),
        JsonErrorType::InvalidNumber => "invalid number: expected a number as JSON writes it".to_owned(),
        JsonErrorType::InvalidEscape => {
            "invalid escape: after a backslash expected one of \" \\ / b f n r t, or u and four hex digits".to_owned()
        }
        JsonErrorType::ControlCharacterWhileParsingString => {
            "a control character stands in a string: expected it as an escape, such as \\n or \\u001b".to_owned()
        }
        JsonErrorType::KeyMustBeAString => "expected a key in double quotes".to_owned(),
        JsonErrorType::TrailingComma => "trailing comma: expected another value".to_owned(),
        JsonErrorType::TrailingCharacters => "trailing characters: expected nothing after the JSON value".to_owned(),
        JsonErrorType::LoneLeadingSurrogateInHexEscape | JsonErrorType::UnexpectedEndOfHexEscape => {
            "half a surrogate pair in a hex escape: expected both halves, each \\u and four hex digits".to_owned()
        }
        other => other.to_string(),
    }
}
