//! The ids of the series of metrics: a name and its tags, `cpu,host=a,region=eu`. All formats produce the same ids.

use super::labels::quote;
use super::rules::Rules;
use crate::message::json::Fault;
use crate::message::{Points, Reason, SeriesIndex};

/// One tag: the positions of its name and its value in a text buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) name: std::ops::Range<usize>,
    pub(super) value: std::ops::Range<usize>,
    /// Its position in the message.
    pub(super) at: usize,
}

/// The id and the labels of a series; the buffers are reused.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) id: String,
    pub(super) labels: String,
}

impl Names {
    /// Returns the index of the series of a metric at the message's byte `at`. Its tags become its labels, unless the batch has
    /// some.
    pub(super) fn metric(
        &mut self,
        name: &str,
        tags: &mut [Tag],
        text: &str,
        at: usize,
        rules: &Rules,
        points: &mut Points,
    ) -> Result<SeriesIndex, Fault> {
        if let Some(tag) = tags.iter().find(|tag| tag.name.is_empty() && !tag.value.is_empty()) {
            return Err(Fault::new(Reason::Schema, tag.at, "the tag has no name"));
        }
        self.id.clear();
        write(&mut self.id, name, tags, text);
        if let Some(pair) = tags.windows(2).find(|pair| text[pair[0].name.clone()] == text[pair[1].name.clone()]) {
            let second = pair[0].at.max(pair[1].at);
            return Err(Fault::new(Reason::Schema, second, "the tag is a duplicate"));
        }
        let series = rules.series(&self.id, at, points)?;
        if tags.iter().any(|tag| !tag.value.is_empty()) && points.labels(series).is_none() {
            self.labels.clear();
            write_labels(&mut self.labels, tags, text);
            points.set_labels(series, &self.labels);
        }
        Ok(series)
    }
}

/// Writes the id to `id`: the tags sorted by their names, with the escapes of line protocol. Tags without a value are omitted,
/// because line protocol cannot express them.
fn write(id: &mut String, name: &str, tags: &mut [Tag], text: &str) {
    escape(id, name, &[',', ' ']);
    let name_of = |tag: &Tag| &text[tag.name.clone()];
    // Most programs write them sorted.
    if !tags.is_sorted_by(|a, b| name_of(a) <= name_of(b)) {
        tags.sort_unstable_by(|a, b| name_of(a).cmp(name_of(b)));
    }
    for tag in tags.iter().filter(|tag| !tag.value.is_empty()) {
        id.push(',');
        escape(id, &text[tag.name.clone()], &[',', '=', ' ']);
        id.push('=');
        escape(id, &text[tag.value.clone()], &[',', '=', ' ']);
    }
}

/// Writes the labels to `json` as an object: the tags in the order of [`write`].
fn write_labels(json: &mut String, tags: &[Tag], text: &str) {
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
    if !text.bytes().any(|byte| matches!(byte, b',' | b'=' | b' ' | b'\\')) {
        id.push_str(text);
        return;
    }
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        // Before these, or at the end, backslashes would be read as escapes, and would merge two series into one.
        let after = || rest.clone().find(|next| *next != '\\');
        let is_escape = c == '\\' && after().is_none_or(|next| special.contains(&next));
        if special.contains(&c) || is_escape {
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
            [(0..6, 6..8), (8..12, 12..19), (19..24, 24..24)].map(|(name, value)| Tag { name, value, at: 0 });
        let (mut id, mut labels) = (String::new(), String::new());
        write(&mut id, "cpu load,1", &mut tags, text);
        assert_eq!(id, r"cpu\ load\,1,host=a\ b\,c\=d,region=eu");
        write_labels(&mut labels, &tags, text);
        assert_eq!(labels, r#"{"host":"a b,c=d","region":"eu"}"#);
        let id_of = |name: &str, text: &str| {
            let mut id = String::new();
            write(&mut id, name, &mut [Tag { name: 0..1, value: 1..text.len(), at: 0 }], text);
            id
        };
        let ids =
            [id_of(r"m\", "ab"), id_of(r"m\\", "ab"), id_of(r"m\,a=b", "c"), id_of(r"m", r"ab\"), id_of(r"m\x", "ab")];
        assert_eq!(ids, [r"m\\,a=b", r"m\\\\,a=b", r"m\\\,a=b", r"m,a=b\\", r"m\x,a=b"]);
    }
}
