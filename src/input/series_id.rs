//! The ids of the series of metrics: a name and its tags, `cpu,host=a,region=eu`. The same from every format.

use super::labels::quote;

/// One tag: where its name and its value stand in a buffer of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) name: std::ops::Range<usize>,
    pub(super) value: std::ops::Range<usize>,
}

/// Writes the id to `id`: the tags sorted by their names, with the escapes of line protocol. Tags without a value are omitted,
/// as line protocol cannot say them.
pub(super) fn write(id: &mut String, name: &str, tags: &mut [Tag], text: &str) {
    escape(id, name, &[',', ' ']);
    tags.sort_unstable_by(|a, b| text[a.name.clone()].cmp(&text[b.name.clone()]));
    for tag in tags.iter().filter(|tag| !tag.value.is_empty()) {
        id.push(',');
        escape(id, &text[tag.name.clone()], &[',', '=', ' ']);
        id.push('=');
        escape(id, &text[tag.value.clone()], &[',', '=', ' ']);
    }
}

/// Writes the labels to `json` as an object: the tags as [`write`] has sorted them.
pub(super) fn write_labels(json: &mut String, tags: &[Tag], text: &str) {
    json.push('{');
    for tag in tags.iter().filter(|tag| !tag.value.is_empty()) {
        if json.len() > 1 {
            json.push(',');
        }
        quote(json, &text[tag.name.clone()]);
        json.push(':');
        quote(json, &text[tag.value.clone()]);
    }
    json.push('}');
}

fn escape(id: &mut String, text: &str, special: &[char]) {
    for c in text.chars() {
        if special.contains(&c) {
            id.push('\\');
        }
        id.push(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_sorted_and_escaped() {
        let text = "regioneuhosta b,c=dempty";
        let mut tags =
            [Tag { name: 0..6, value: 6..8 }, Tag { name: 8..12, value: 12..19 }, Tag { name: 19..24, value: 24..24 }];
        let (mut id, mut labels) = (String::new(), String::new());
        write(&mut id, "cpu load,1", &mut tags, text);
        assert_eq!(id, r"cpu\ load\,1,host=a\ b\,c\=d,region=eu");
        write_labels(&mut labels, &tags, text);
        assert_eq!(labels, r#"{"host":"a b,c=d","region":"eu"}"#);
    }
}
