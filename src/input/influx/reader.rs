//! The parts of a line, read in place. Only ASCII ends a part, so that each part is valid text.

use crate::input::values::{number_of_boolean, number_of_text};
use crate::input::{Booleans, Strings};
use crate::message::Reason;
use crate::message::json::Fault;

/// The bytes that end a measurement; a backslash before a comma or a space is an escape.
const MEASUREMENT: u8 = 1;
/// The bytes that end a key, or a tag's value; a backslash before a comma, a space or an equals sign is an escape.
const KEY: u8 = 2;
/// The bytes that end a value without quotes.
const BARE: u8 = 4;
/// The bytes at which reading a string stops.
const STRING: u8 = 8;

/// For each byte, the parts that it ends.
const ENDS: [u8; 256] = {
    let mut ends = [0; 256];
    ends[b',' as usize] = MEASUREMENT | KEY | BARE;
    ends[b' ' as usize] = MEASUREMENT | KEY | BARE;
    ends[b'\n' as usize] = MEASUREMENT | KEY | BARE;
    ends[b'\\' as usize] = MEASUREMENT | KEY | STRING;
    ends[b'=' as usize] = KEY;
    ends[b'\r' as usize] = BARE;
    ends[b'"' as usize] = STRING;
    ends
};

/// The input's policies for strings and booleans.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policies {
    pub(super) strings: Strings,
    pub(super) booleans: Booleans,
}

/// Reads lines.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The position of the next byte.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Moves to the start of the next line that is not empty; `false` if there is none. Comments count as empty.
    pub(super) fn next_line(&mut self) -> bool {
        loop {
            let is_space = |byte: &u8| b" \t\r\n".contains(byte);
            let rest = &self.text.as_bytes()[self.at..];
            self.at += rest.iter().position(|byte| !is_space(byte)).unwrap_or(rest.len());
            match self.byte() {
                None => return false,
                Some(b'#') => self.at = self.text[self.at..].find('\n').map_or(self.text.len(), |end| self.at + end),
                Some(_) => return true,
            }
        }
    }

    /// Reads a measurement, and adds it to `out`.
    pub(super) fn measurement(&mut self, out: &mut String) -> Result<(), Fault> {
        self.name(MEASUREMENT, "a measurement", out)
    }

    /// Reads a tag's key and the equals sign after it, and adds the key to `out`.
    pub(super) fn tag_key(&mut self, out: &mut String) -> Result<(), Fault> {
        self.name(KEY, "the key of a tag", out)?;
        self.equals("an equals sign and the value of the tag")
    }

    /// Reads a tag's value, and adds it to `out`.
    pub(super) fn tag_value(&mut self, out: &mut String) -> Result<(), Fault> {
        self.name(KEY, "the value of the tag", out)?;
        if self.byte() == Some(b'=') {
            let what = "expected a backslash before an equals sign in the value of a tag";
            return Err(Fault::new(Reason::Syntax, self.at, what));
        }
        Ok(())
    }

    /// Reads a field's key and the equals sign after it. Returns the key in place, or in `unescaped`.
    pub(super) fn field_key<'b>(&mut self, unescaped: &'b mut String) -> Result<&'b str, Fault>
    where
        'a: 'b,
    {
        let start = self.at;
        let end = self.end_of(KEY);
        let key = if self.text.as_bytes().get(end) == Some(&b'\\') {
            unescaped.clear();
            self.unescape(KEY, unescaped);
            unescaped
        } else {
            self.at = end;
            &self.text[start..end]
        };
        if key.is_empty() {
            return Err(self.expected("the key of a field", start));
        }
        self.equals("an equals sign and the value of the field")?;
        Ok(key)
    }

    /// Returns `true` if a string in quotes is read next.
    pub(super) fn is_at_string(&self) -> bool {
        self.byte() == Some(b'"')
    }

    /// Reads a field's value as a number; `None` if it is skipped. `unescaped` is a buffer.
    pub(super) fn value(&mut self, policies: Policies, unescaped: &mut String) -> Result<Option<f64>, Fault> {
        let start = self.at;
        if self.byte() == Some(b'"') {
            let text = self.string(unescaped)?;
            return number_of_text(text, policies.strings, start);
        }
        self.at = self.end_of(BARE);
        let word = &self.text[start..self.at];
        match word {
            "t" | "T" | "true" | "True" | "TRUE" => number_of_boolean(true, policies.booleans, start),
            "f" | "F" | "false" | "False" | "FALSE" => number_of_boolean(false, policies.booleans, start),
            "" => Err(self.expected("the value of the field", start)),
            _ => number(word, start).map(Some),
        }
    }

    /// Reads the rest of a line after the fields: spaces, and an integer if there is one.
    pub(super) fn timestamp(&mut self) -> Result<Option<(&'a str, usize)>, Fault> {
        if self.is_at_end() {
            return Ok(None);
        }
        if self.byte() != Some(b' ') {
            return Err(self.expected("a comma, a space or the end of the line after the field", self.at));
        }
        self.skip_spaces();
        if self.is_at_end() {
            return Ok(None);
        }
        let start = self.at;
        self.at = self.end_of(BARE);
        let text = &self.text[start..self.at];
        let digits = text.strip_prefix('-').unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(self.expected("a timestamp, which is an integer, or the end of the line", start));
        }
        self.skip_spaces();
        if !self.is_at_end() {
            return Err(self.expected("the end of the line after the timestamp", self.at));
        }
        Ok(Some((text, start)))
    }

    /// Consumes a byte, if it is the next one.
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let is_next = self.byte() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    /// Skips the spaces between the parts of a line.
    pub(super) fn skip_spaces(&mut self) {
        while self.take(b' ') {}
    }

    /// The fault of a part at `at` that is not the expected one.
    pub(super) fn expected(&self, what: &str, at: usize) -> Fault {
        let found = match self.text[at..].chars().next() {
            None => "the end of the payload".to_owned(),
            Some('\n') => "the end of the line".to_owned(),
            Some(' ') => "a space".to_owned(),
            Some(c) => format!("{c:?}"),
        };
        Fault::new(Reason::Syntax, at, format!("expected {what}, found {found}"))
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The end of the part being read.
    fn end_of(&self, part: u8) -> usize {
        let rest = &self.text.as_bytes()[self.at..];
        self.at + rest.iter().position(|byte| ENDS[usize::from(*byte)] & part != 0).unwrap_or(rest.len())
    }

    /// Returns `true` at the end of a line.
    fn is_at_end(&self) -> bool {
        matches!(self.text.as_bytes()[self.at..], [] | [b'\n', ..] | [b'\r'] | [b'\r', b'\n', ..])
    }

    fn name(&mut self, part: u8, what: &str, out: &mut String) -> Result<(), Fault> {
        let (start, len) = (self.at, out.len());
        self.unescape(part, out);
        if out.len() == len { Err(self.expected(what, start)) } else { Ok(()) }
    }

    /// Adds the text up to the end of the part to `out`, without escapes. A backslash that escapes nothing is text.
    fn unescape(&mut self, part: u8, out: &mut String) {
        loop {
            let end = self.end_of(part);
            out.push_str(&self.text[self.at..end]);
            self.at = end;
            if !self.take(b'\\') {
                return;
            }
            match self.byte() {
                Some(next @ (b',' | b' ' | b'=')) if ENDS[usize::from(next)] & part != 0 => {
                    out.push(char::from(next));
                    self.at += 1;
                }
                _ => out.push('\\'),
            }
        }
    }

    fn equals(&mut self, what: &str) -> Result<(), Fault> {
        if self.take(b'=') { Ok(()) } else { Err(self.expected(what, self.at)) }
    }

    /// Reads a string in quotes. Returns it in place, or in `unescaped`.
    fn string<'b>(&mut self, unescaped: &'b mut String) -> Result<&'b str, Fault>
    where
        'a: 'b,
    {
        let quote = self.at;
        self.at += 1;
        unescaped.clear();
        loop {
            let (start, end) = (self.at, self.end_of(STRING));
            self.at = end;
            let piece = &self.text[start..end];
            if self.take(b'"') {
                if unescaped.is_empty() {
                    return Ok(piece);
                }
                unescaped.push_str(piece);
                return Ok(unescaped);
            }
            unescaped.push_str(piece);
            if !self.take(b'\\') {
                return Err(Fault::new(Reason::Syntax, quote, "the payload ends inside a string"));
            }
            let escaped = self.byte().filter(|next| matches!(next, b'"' | b'\\'));
            self.at += usize::from(escaped.is_some());
            unescaped.push(escaped.map_or('\\', char::from));
        }
    }
}

/// A number: an integer with `i` or `u` after it, or a float.
fn number(word: &str, at: usize) -> Result<f64, Fault> {
    let expected = || {
        let what = "expected a number, an integer such as 1i or 1u, a boolean, or a string in double quotes";
        Fault::new(Reason::Syntax, at, what)
    };
    // Without this, words such as "inf" would be floats.
    let is_number = word.trim_start_matches(['+', '-']).starts_with(|c: char| c.is_ascii_digit() || c == '.');
    if !is_number {
        return Err(expected());
    }
    let integer = |error: std::num::ParseIntError| match error.kind() {
        std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => {
            Fault::new(Reason::Limits, at, "the integer is beyond the range of 64 bits")
        }
        _ => expected(),
    };
    if let Some(digits) = word.strip_suffix('i') {
        return digits.parse::<i64>().map(|value| value as f64).map_err(integer);
    }
    if let Some(digits) = word.strip_suffix('u') {
        return digits.parse::<u64>().map(|value| value as f64).map_err(integer);
    }
    match word.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        Ok(_) => Err(Fault::new(Reason::Limits, at, "the number is beyond the range of a double")),
        Err(_) => Err(expected()),
    }
}
