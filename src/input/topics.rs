//! Which topics an input has: names, and regular expressions.

use regex::Regex;

use super::Input;
use super::options::Problem;

/// One of an input's topics, or many of one name's form.
#[derive(Debug, Clone)]
pub enum TopicPattern {
    /// A name.
    Name(String),
    /// A regular expression that begins with `^`; a topic's whole name has to match it.
    Regex(Regex),
}

impl TopicPattern {
    /// Reads a name or a regular expression.
    ///
    /// # Errors
    /// If it can be neither, with what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with('^') {
            // The whole name has to match: "^site" would else be every topic that begins so.
            let whole = format!("^(?:{text})$");
            return Regex::new(&whole)
                .map(Self::Regex)
                .map_err(|error| format!("is {text:?}, no regular expression: {}", last_line(&error.to_string())));
        }
        if is_topic_name(text) {
            Ok(Self::Name(text.to_owned()))
        } else {
            Err(format!(
                "is {text:?}, no name of a topic; use 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-', or a regular expression \
                 that begins with ^"
            ))
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

    /// Returns `true` if the topic is one of these.
    pub fn matches(&self, topic: &str) -> bool {
        match self {
            Self::Name(name) => name == topic,
            Self::Regex(regex) => regex.is_match(topic),
        }
    }

    /// What the groups are in a topic's name, the whole name first; `None` if it is not one of these.
    pub(super) fn groups(&self, topic: &str) -> Option<Vec<String>> {
        match self {
            Self::Name(name) => (name == topic).then(|| vec![topic.to_owned()]),
            Self::Regex(regex) => regex
                .captures(topic)
                .map(|found| found.iter().map(|group| group.map_or("", |group| group.as_str()).to_owned()).collect()),
        }
    }

    /// The number of groups that `{topic:N}` may name.
    pub(super) fn group_count(&self) -> usize {
        match self {
            Self::Name(_) => 0,
            Self::Regex(regex) => regex.captures_len() - 1,
        }
    }
}

/// Returns `true` if Kafka takes it as a topic's name.
pub fn is_topic_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=249).contains(&name.len()) && name.bytes().all(allowed) && name != "." && name != ".."
}

/// Topics that are named in two inputs. A name that another input's regular expression matches is the first one's; two
/// regular expressions can only be compared by the topics that there are.
pub(super) fn overlaps(inputs: &[Input]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (number, input) in inputs.iter().enumerate() {
        for name in input.topics.iter().filter_map(TopicPattern::name) {
            if let Some(other) = inputs[..number].iter().find(|other| other.topics.iter().any(|one| one.is_name(name)))
            {
                let text = format!("has {name:?}, which is a topic of the input {:?}, too; remove one", other.name);
                problems.push(Problem { key: format!("input {:?}.topics", input.name), text });
            }
        }
    }
    problems
}

/// The end of a regular expression's error: its head repeats the expression over several lines.
fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or(text).trim().trim_start_matches("error: ")
}
