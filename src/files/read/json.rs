//! The parts of a message as JSON.

use std::io::Write as _;

/// A text in quotes.
pub(super) fn put_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | ..0x20)) {
        let (plain, from) = rest.split_at(at);
        out.extend_from_slice(plain);
        match from[0] {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            byte => put(format_args!("\\u{byte:04x}"), out),
        }
        rest = &from[1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// What a format prints.
pub(super) fn put(text: std::fmt::Arguments<'_>, out: &mut Vec<u8>) {
    // A vector takes all.
    drop(out.write_fmt(text));
}

/// A value: the shortest decimal that is this double, or the word for what is not finite; NaN is null.
pub(super) fn put_double(value: f64, out: &mut Vec<u8>) {
    if value.is_finite() {
        // With a fraction or an exponent, so that the sign of zero stays.
        put(format_args!("{value:?}"), out);
    } else if value.is_nan() {
        out.extend_from_slice(b"null");
    } else {
        out.extend_from_slice(if value > 0.0 { b"\"Infinity\"" } else { b"\"-Infinity\"" });
    }
}

/// A value that is written as text: a number as it stands, the words for what is not a number, and a boolean as 1 or 0. Another
/// text is put in quotes, as which the message is rejected.
pub(super) fn put_value_of_text(text: &str, out: &mut Vec<u8>) {
    let text = text.trim_ascii();
    if is_number(text.as_bytes()) {
        // As an integer it would lose its sign.
        out.extend_from_slice(if text == "-0" { b"-0.0" } else { text.as_bytes() });
        return;
    }
    match word(text) {
        Some(Word::Null) => out.extend_from_slice(b"null"),
        Some(Word::Number(value)) => put_double(value, out),
        None => put_text(text, out),
    }
}

/// Returns `true` if a text is a value, or says that there is none.
pub(super) fn is_value(text: &str) -> bool {
    let text = text.trim_ascii();
    is_number(text.as_bytes()) || word(text).is_some()
}

/// Returns `true` if a text says that there is no value.
pub(super) fn is_null(text: &str) -> bool {
    matches!(word(text.trim_ascii()), Some(Word::Null))
}

enum Word {
    Null,
    Number(f64),
}

/// The meaning of a text that is not a number as JSON writes it.
fn word(text: &str) -> Option<Word> {
    let is = |word: &str| text.eq_ignore_ascii_case(word);
    if text.is_empty() || ["null", "nan", "na", "n/a", "none", "\\N"].into_iter().any(is) {
        return Some(Word::Null);
    }
    if is("true") || is("false") {
        return Some(Word::Number(f64::from(u8::from(is("true")))));
    }
    // With a sign, without a digit before the point or after it, and the words for infinity. What is beyond a double's range
    // is none of them.
    let value: f64 = text.parse().ok()?;
    let is_named = text.trim_start_matches(['+', '-']).starts_with(|c: char| c.is_ascii_alphabetic());
    (value.is_finite() || is_named).then_some(Word::Number(value))
}

/// Returns `true` for a number as JSON writes it.
pub(super) fn is_number(text: &[u8]) -> bool {
    let digits = |rest: &[u8]| rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut rest = text.strip_prefix(b"-").unwrap_or(text);
    let whole = digits(rest);
    if whole == 0 || whole > 1 && rest[0] == b'0' {
        return false;
    }
    rest = &rest[whole..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let count = digits(fraction);
        if count == 0 {
            return false;
        }
        rest = &fraction[count..];
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = exponent.strip_prefix(b"-").or_else(|| exponent.strip_prefix(b"+")).unwrap_or(exponent);
        let count = digits(exponent);
        return count > 0 && count == exponent.len();
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(put: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        put(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_of_texts_are_numbers_null_or_what_is_rejected() {
        let cases = [
            ("1.5", "1.5"),
            (" -2e-3 ", "-2e-3"),
            ("-0", "-0.0"),
            ("", "null"),
            ("NaN", "null"),
            ("NA", "null"),
            ("\\N", "null"),
            ("Infinity", "\"Infinity\""),
            ("-inf", "\"-Infinity\""),
            ("+1.5", "1.5"),
            (".5", "0.5"),
            ("1.", "1.0"),
            ("007", "7.0"),
            ("True", "1.0"),
            ("false", "0.0"),
            ("1e999", "1e999"),
            ("+1e999", "\"+1e999\""),
            ("1,5", "\"1,5\""),
            ("0x10", "\"0x10\""),
            ("a\"b", "\"a\\\"b\""),
        ];
        for (text, json) in cases {
            assert_eq!(of(|out| put_value_of_text(text, out)), json, "{text}");
        }
    }

    #[test]
    fn numbers_are_those_of_json() {
        for text in ["0", "-0", "10", "1.25", "1e5", "1E+5", "-1.5e-300", "0.1"] {
            assert!(is_number(text.as_bytes()), "{text}");
            assert!(serde_json::from_str::<f64>(text).is_ok(), "{text}");
        }
        for text in ["", "-", "01", "1.", ".5", "+1", "1e", "1e+", "1.5x", "NaN", " 1", "1_000", "--1", "1.e5"] {
            assert!(!is_number(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn texts_come_back() {
        for text in ["", "plain", "\"\\\n\t\u{1f}\u{0}é😀", "a\u{7f}b"] {
            let json = of(|out| put_text(text, out));
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
    }

    #[test]
    fn doubles_come_back_to_the_bit() {
        for value in [0.0, -0.0, 1.0, 1e16, 0.1, f64::MIN_POSITIVE, 5e-324, f64::MAX, f64::MIN, 123_456_789.123_456_78]
        {
            let json = of(|out| put_double(value, out));
            assert_eq!(json.parse::<f64>().unwrap().to_bits(), value.to_bits(), "{json}");
            assert!(is_number(json.as_bytes()), "{json}");
        }
        assert_eq!(of(|out| put_double(f64::NAN, out)), "null");
        assert_eq!(of(|out| put_double(f64::NEG_INFINITY, out)), "\"-Infinity\"");
    }
}
