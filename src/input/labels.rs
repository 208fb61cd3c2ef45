//! The labels of a series as a JSON object.

/// Maximum exponent of a number, positive or negative. Larger ones are beyond a double, and jsonb does not accept all of them.
const MAX_EXPONENT: u32 = 400;

/// Returns `true` if jsonb accepts a number as it is written.
pub(super) fn is_number_of_jsonb(text: &str) -> bool {
    let exponent = text.rsplit_once(['e', 'E']).map_or("0", |(_, exponent)| exponent.trim_start_matches(['+', '-']));
    // Leading zeros do not count.
    let exponent = exponent.trim_start_matches('0');
    let is_near = exponent.is_empty() || exponent.parse().is_ok_and(|exponent: u32| exponent <= MAX_EXPONENT);
    is_near && text.parse().is_ok_and(f64::is_finite)
}

/// Writes a text as a JSON string.
pub(super) fn quote(json: &mut String, text: &str) {
    json.push('"');
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            c if c < ' ' => json.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => json.push(c),
        }
    }
    json.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_quoted_as_json() {
        let mut quoted = String::new();
        quote(&mut quoted, "a\"\\\n\u{1}é");
        assert_eq!(serde_json::from_str::<String>(&quoted).unwrap(), "a\"\\\n\u{1}é");
    }

    #[test]
    fn a_number_that_jsonb_does_not_take_is_none() {
        for number in ["0", "-1.50", "1e308", "1E+0000000003", "5e-324", "1e-400"] {
            assert!(is_number_of_jsonb(number), "{number}");
        }
        for other in ["NaN", "-Infinity", "1e309", "1e-401", "0e999999", "0e99999999999999999999", "1e", ""] {
            assert!(!is_number_of_jsonb(other), "{other}");
        }
    }
}
