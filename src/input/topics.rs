//! The topics of an input: names, and regular expressions.

use std::collections::BTreeSet;
use std::fmt;

use regex::Regex;

use super::problems::Problem;
use super::{Input, Inputs};

/// One of an input's topics, or a pattern of names.
#[derive(Debug, Clone)]
pub enum TopicPattern {
    /// A name.
    Name(String),
    /// A regular expression that begins with `^`; it must match a topic's whole name.
    Regex(Regex),
}

impl TopicPattern {
    /// Parses a name or a regular expression.
    ///
    /// # Errors
    /// If it is neither, with what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with('^') {
            // The whole name must match: "^site" would otherwise match every topic that begins with it.
            let whole = format!("{BEFORE}{text}{AFTER}");
            // By itself first: "^a)|(?:b" is one only with what stands around it, and would match parts of names.
            return Regex::new(text)
                .and_then(|_| Regex::new(&whole))
                .map(Self::Regex)
                .map_err(|error| format!("is {text:?}, not a regular expression: {}", last_line(&error.to_string())));
        }
        if is_topic_name(text) {
            Ok(Self::Name(text.to_owned()))
        } else {
            Err(format!(
                "is {text:?}, not the name of a topic; use 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-', or a regular expression \
                 that begins with ^"
            ))
        }
    }

    /// The text in the configuration.
    pub fn text(&self) -> &str {
        match self {
            Self::Name(name) => name,
            Self::Regex(regex) => {
                let whole = regex.as_str();
                whole.strip_prefix(BEFORE).and_then(|rest| rest.strip_suffix(AFTER)).unwrap_or(whole)
            }
        }
    }

    /// The name; `None` for a regular expression.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Regex(_) => None,
        }
    }

    pub(super) fn is_name(&self, topic: &str) -> bool {
        self.name() == Some(topic)
    }

    /// Returns `true` if it matches the topic.
    pub fn matches(&self, topic: &str) -> bool {
        match self {
            Self::Name(name) => name == topic,
            Self::Regex(regex) => regex.is_match(topic),
        }
    }

    /// The groups in a topic's name, the whole name first; `None` if it does not match.
    pub(super) fn groups(&self, topic: &str) -> Option<Vec<String>> {
        match self {
            Self::Name(name) => (name == topic).then(|| vec![topic.to_owned()]),
            Self::Regex(regex) => regex
                .captures(topic)
                .map(|found| found.iter().map(|group| group.map_or("", |group| group.as_str()).to_owned()).collect()),
        }
    }

    /// Number of groups that `{topic:N}` may name.
    pub(super) fn group_count(&self) -> usize {
        match self {
            Self::Name(_) => 0,
            Self::Regex(regex) => regex.captures_len() - 1,
        }
    }
}

/// Surrounds a regular expression, so that it must match the whole name.
const BEFORE: &str = "^(?:";
const AFTER: &str = ")$";

/// The prefix of Kafka's own topics, which no regular expression is meant to match.
const INTERNAL: &str = "__";

/// The topics that are read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicsRead {
    /// In the order of their names: those that an input names, and existing ones that a regular expression matches.
    pub topics: Vec<String>,
    /// Those that are not read.
    pub contested: Vec<Contested>,
}

/// A topic that regular expressions of several inputs match: the configuration does not say which input reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contested {
    /// The topic.
    pub topic: String,
    /// The inputs' names, in the order of the configuration.
    pub inputs: Vec<String>,
}

impl Contested {
    /// The key of the configuration to change: that of the last of the inputs.
    pub fn key(&self) -> String {
        format!("input {:?}.topics", self.inputs.last().map_or("", String::as_str))
    }
}

impl fmt::Display for Contested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inputs: Vec<String> = self.inputs.iter().map(|name| format!("{name:?}")).collect();
        write!(
            f,
            "the topic {:?} is matched by regular expressions of the inputs {}; name it in the one that is to read it",
            self.topic,
            inputs.join(" and ")
        )
    }
}

impl Inputs {
    /// The topics to read if these exist. Among those that regular expressions match, Kafka's own and `except` are omitted: the
    /// topic for copies of dead letters, which would return for ever.
    pub fn topics_to_read<'a>(&self, existing: impl IntoIterator<Item = &'a str>, except: &str) -> TopicsRead {
        let mut topics: BTreeSet<&str> = self.topic_names().collect();
        let mut contested = Vec::new();
        let candidates = existing.into_iter().filter(|topic| !topic.starts_with(INTERNAL) && *topic != except);
        let candidates: BTreeSet<&str> = candidates.filter(|topic| !topics.contains(topic)).collect();
        for topic in candidates {
            let inputs: Vec<String> = self.claiming(topic).map(|input| input.name.clone()).collect();
            match inputs.len() {
                0 => {}
                1 => drop(topics.insert(topic)),
                _ => contested.push(Contested { topic: topic.to_owned(), inputs }),
            }
        }
        TopicsRead { topics: topics.into_iter().map(str::to_owned).collect(), contested }
    }
}

/// Returns `true` if Kafka accepts it as a topic's name.
pub fn is_topic_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=249).contains(&name.len()) && name.bytes().all(allowed) && name != "." && name != ".."
}

/// Topics that are named in two inputs. A name takes precedence over another input's regular expression that matches it; two
/// regular expressions can only be compared by the existing topics.
pub(super) fn overlaps(inputs: &[Input]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (number, input) in inputs.iter().enumerate() {
        for name in input.topics.iter().filter_map(TopicPattern::name) {
            let other = inputs[..number].iter().find(|other| other.names(name));
            // `[kafka]` has the rule that the two native topics differ.
            if let Some(other) = other.filter(|other| !(other.is_built_in() && input.is_built_in())) {
                let text = format!("has {name:?}, which is a topic of the input {:?}, too; remove one", other.name);
                problems.push(Problem { key: input.key(), text });
            }
        }
    }
    problems
}

/// The last line of a regular expression's error: the lines before repeat the expression.
fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or(text).trim().trim_start_matches("error: ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::{Format, InputOptions};

    /// Inputs with these topics, besides the two native ones.
    fn inputs(all: &[(&str, &[&str])]) -> Inputs {
        let options = |(name, topics): &(&str, &[&str])| InputOptions {
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            ..InputOptions::of(name, "", Format::Native)
        };
        Inputs::compile("series", "points", &all.iter().map(options).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn what_is_a_regular_expression_only_with_what_stands_around_it_is_none() {
        for text in ["^a)|(?:b", "^(a", "^a)(b"] {
            assert!(TopicPattern::parse(text).is_err_and(|why| why.contains("not a regular expression")), "{text}");
        }
        let whole = TopicPattern::parse("^a|b").unwrap();
        assert_eq!(["a", "b", "ab", "xb"].map(|topic| whole.matches(topic)), [true, true, false, false]);
        assert_eq!(whole.text(), "^a|b");
    }

    #[test]
    fn of_the_topics_there_are_those_are_read_that_one_input_matches() {
        let inputs = inputs(&[
            ("iot", &["^site\\..+", "lab.1"]),
            ("lab", &["^lab\\..+", "site.named"]),
            ("all", &["^(site|deep)\\.both$", "^__.+"]),
        ]);
        let existing = [
            "site.b",
            "site.a",
            "site.dead",
            "other",
            "__offsets",
            "lab.1",
            "lab.2",
            "site.both",
            "a.site.b",
            "deep.both",
        ];
        let read = inputs.topics_to_read(existing, "site.dead");
        assert_eq!(
            read.topics,
            ["deep.both", "lab.1", "lab.2", "points", "series", "site.a", "site.b", "site.named"],
            "names are read before they exist"
        );
        let contested = Contested { topic: "site.both".into(), inputs: vec!["iot".into(), "all".into()] };
        assert_eq!(contested.key(), "input \"all\".topics");
        assert_eq!(
            contested.to_string(),
            "the topic \"site.both\" is matched by regular expressions of the inputs \"iot\" and \"all\"; name it in the one \
             that is to read it"
        );
        assert_eq!(read.contested, [contested]);
        let input_of = |topic| inputs.of_topic(topic).map(|input| input.name.as_str());
        // A name takes precedence over a regular expression that matches it.
        assert_eq!(input_of("lab.1"), Some("iot"));
        assert_eq!(input_of("site.named"), Some("lab"));
        assert_eq!(input_of("points"), Some("points"));
        assert_eq!(input_of("site.both"), None, "nobody can tell");
        assert_eq!(input_of("other"), None);
    }
}
