//! Templates of names, such as `{/site}/{/sensor}`: text, and in braces parts of a message, its key, its headers or its topic.

use super::around::Around;
use super::pointer::Pointer;
use crate::raw::headers;

/// A template. `P` is the compiled form of a pointer into the payload: itself, or the number of the slot that holds its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template<P>(Vec<Part<P>>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part<P> {
    Text(String),
    Pointer(P),
    Key,
    /// The topic's name, or a group of the regular expression that matched it.
    Topic(usize),
    Header(String),
}

impl Template<Pointer> {
    /// Parses a template; `{{` and `}}` are braces.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            if rest[at + 1..].starts_with(brace) {
                literal.push_str(brace);
                rest = &rest[at + 2..];
                continue;
            }
            let Some((inside, after)) = rest[at + 1..].split_once('}').filter(|_| brace == "{") else {
                return Err(format!(
                    "is {text:?}, with a brace alone; write {{{{ or }}}} for a brace that stands for itself"
                ));
            };
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(part(text, inside)?);
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        if parts.is_empty() {
            return Err("is empty; set a name, or a template such as \"{/site}/{/sensor}\"".to_owned());
        }
        Ok(Self(parts))
    }

    /// Returns `true` if it yields the same text for every message.
    pub(super) fn is_constant(&self) -> bool {
        self.0.iter().all(|part| matches!(part, Part::Text(_)))
    }

    /// The highest number of a group of the topic's expression; 0 if it has none.
    pub(super) fn most_groups(&self) -> usize {
        self.0.iter().map(|part| if let Part::Topic(group) = part { *group } else { 0 }).max().unwrap_or(0)
    }

    /// The same template, with `slot` applied to each pointer.
    pub(super) fn map<P>(self, mut slot: impl FnMut(Pointer) -> P) -> Template<P> {
        let part = |part| match part {
            Part::Pointer(pointer) => Part::Pointer(slot(pointer)),
            Part::Text(text) => Part::Text(text),
            Part::Key => Part::Key,
            Part::Topic(group) => Part::Topic(group),
            Part::Header(name) => Part::Header(name),
        };
        Template(self.0.into_iter().map(part).collect())
    }
}

fn part(template: &str, inside: &str) -> Result<Part<Pointer>, String> {
    let known = "{/pointer}, {key}, {topic}, {topic:1} or {header:name}";
    match inside.split_once(':') {
        None if inside == "key" => Ok(Part::Key),
        None if inside == "topic" => Ok(Part::Topic(0)),
        Some(("topic", group)) => match group.parse() {
            Ok(group) => Ok(Part::Topic(group)),
            Err(_) => Err(format!("is {template:?}; {group:?} is not the number of a group")),
        },
        Some(("header", name)) if !name.is_empty() => Ok(Part::Header(name.to_owned())),
        _ if inside.starts_with('/') => {
            Pointer::parse(inside).map(Part::Pointer).map_err(|why| format!("is {template:?}; {{{inside}}} {why}"))
        }
        _ => Err(format!("is {template:?}; {{{inside}}} is unknown, use {known}")),
    }
}

/// A part that a template needs and a message does not have.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lacks<'a> {
    /// A value in the payload, by its slot.
    Slot(usize),
    /// Its key, which is missing or not text.
    Key,
    /// A header, which is missing or not text.
    Header(&'a str),
}

impl Template<usize> {
    /// A template that consists of one slot.
    pub(super) fn slot(slot: usize) -> Self {
        Self(vec![Part::Pointer(slot)])
    }

    /// A template that consists of this text.
    pub(super) fn text(text: &str) -> Self {
        Self(vec![Part::Text(text.to_owned())])
    }

    /// Writes the text to `out`; `slot` returns a slot's text, `None` if the message has none. An empty part counts as missing:
    /// it would name other series than it seems to.
    pub(super) fn write<'s>(
        &self,
        out: &mut String,
        around: &Around<'_>,
        slot: impl Fn(usize) -> Option<&'s str>,
    ) -> Result<(), Lacks<'_>> {
        let text = |bytes: Option<&[u8]>, out: &mut String| {
            let text = bytes.and_then(|bytes| std::str::from_utf8(bytes).ok()).filter(|text| !text.is_empty());
            text.map(|text| out.push_str(text))
        };
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Pointer(number) => {
                    out.push_str(slot(*number).filter(|text| !text.is_empty()).ok_or(Lacks::Slot(*number))?);
                }
                Part::Key => text(around.key, out).ok_or(Lacks::Key)?,
                Part::Topic(0) => out.push_str(around.topic),
                Part::Topic(group) => out.push_str(around.groups.get(*group).map_or("", String::as_str)),
                Part::Header(name) => text(header(around.headers, name), out).ok_or(Lacks::Header(name))?,
            }
        }
        Ok(())
    }
}

/// The last value of a header; `headers` are in the form of [`headers`].
pub(super) fn header<'a>(headers: Option<&'a [u8]>, name: &str) -> Option<&'a [u8]> {
    headers::iterate(headers.unwrap_or_default()).filter(|(found, _)| *found == name.as_bytes()).last()?.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_text_and_what_the_message_says() {
        let written = |template: &str| {
            let headers = headers::encode([(&b"x"[..], Some(&b"1"[..])), (&b"x"[..], Some(&b"2"[..]))]);
            let groups = ["site.a".to_owned(), "a".to_owned()];
            let around = Around {
                key: Some(b"k"),
                headers: headers.as_deref(),
                time_ms: None,
                topic: "site.a",
                groups: &groups,
            };
            let mut slots = Vec::new();
            let template = Template::parse(template).unwrap().map(|pointer| {
                slots.push(pointer.to_string());
                slots.len() - 1
            });
            let mut out = String::new();
            let slot = |number: usize| slots.get(number).map(String::as_str);
            template.write(&mut out, &around, slot).map(|()| out).map_err(|lacks| format!("{lacks:?}"))
        };
        assert_eq!(written("{/site}/{/a~1b}"), Ok("/site//a~1b".to_owned()));
        assert_eq!(written("plain"), Ok("plain".to_owned()));
        assert_eq!(written("{{{key}}}-{topic}-{topic:1}-{header:x}"), Ok("{k}-site.a-a-2".to_owned()));
        assert_eq!(written("{header:y}"), Err("Header(\"y\")".to_owned()));
        for (wrong, part) in [
            ("", "is empty"),
            ("{", "brace alone"),
            ("a}", "brace alone"),
            ("{site}", "{site} is unknown"),
            ("{/a~}", "JSON Pointer"),
            ("{topic:x}", "not the number of a group"),
            ("{header:}", "is unknown"),
        ] {
            assert!(Template::parse(wrong).unwrap_err().contains(part), "{wrong}");
        }
    }
}
