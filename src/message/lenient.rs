//! What can be reported of a message that cannot be read.

use jiter::Jiter;

/// The series that a payload names, as far as it can be read: the text of `time_series_id`, or else of `id`, in the outermost
/// object. Text after a fault, or in a truncated value, may be found or not.
pub fn series_of(payload: &[u8]) -> Option<String> {
    let mut id = None;
    let (mut depth, mut at) = (0_usize, 0);
    while at < payload.len() {
        match payload[at] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                let end = end_of_text(payload, at)?;
                let name = &payload[at + 1..end];
                at = end;
                let colon = skip_space(payload, end + 1);
                let value = skip_space(payload, colon + 1);
                if depth == 1
                    && (name == b"time_series_id" || name == b"id")
                    && payload.get(colon) == Some(&b':')
                    && payload.get(value) == Some(&b'"')
                {
                    let end = end_of_text(payload, value)?;
                    let text = text(&payload[value..=end]);
                    if name == b"time_series_id" {
                        return Some(text);
                    }
                    id.get_or_insert(text);
                    at = end;
                }
            }
            _ => {}
        }
        at += 1;
    }
    id
}

/// The closing quote of the text that begins at `start`.
fn end_of_text(payload: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    while let Some(byte) = payload.get(at) {
        match byte {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    None
}

fn skip_space(payload: &[u8], start: usize) -> usize {
    let space = payload.get(start..).unwrap_or_default().iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    start + space
}

/// Decodes a quoted text, as JSON if it is valid.
fn text(quoted: &[u8]) -> String {
    match Jiter::new(quoted).next_str() {
        Ok(text) => text.to_owned(),
        Err(_) => String::from_utf8_lossy(&quoted[1..quoted.len() - 1]).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_is_found_in_what_cannot_be_read() {
        let found = |payload: &str| series_of(payload.as_bytes());
        let s = Some("s".to_owned());
        assert_eq!(found(r#"{"time_series_id": "s", "timestamps": [0"#), s);
        assert_eq!(found(r#"{"columns": {"id": "no"}, "time_series_id"  :  "s"}"#), s);
        assert_eq!(found(r#"{"id": "no", "time_series_id": "s"}"#), s);
        assert_eq!(found(r#"{"type": "series-create", "id": "s"}"#), s);
        assert_eq!(found(r#"{"a": "\"time_series_id\": \"no\"", "id": "s", }"#), s);
        assert_eq!(found(r#"{"time_series_id": "a\"b\u00e9"}"#), Some("a\"bé".to_owned()));
        assert_eq!(series_of(b"{\"id\": \"a\xff\"}"), Some("a\u{fffd}".to_owned()));
        for none in
            ["", "{", "id", r#""id": "x""#, r#"["id", "x"]"#, r#"{"id": 7}"#, r#"{"id": "cut"#, r#"{"id\"#, r#"{"id""#]
        {
            assert_eq!(found(none), None, "{none}");
        }
    }
}
