//! Inputs: the topics that are read, and the conversion of their messages into points. Pure, no I/O.
//!
//! An [`Input`] is a name, topics, and a plan that is compiled from its configuration once, at start. A plan reads the bytes of
//! a message in place, and adds points to [`Points`](crate::message::Points): everything after it is independent of the format.
//!
//! - [`Inputs`]: all inputs, and the one that reads a topic.
//! - [`Decoder`]: decodes one message into the points of a batch, with the plan of its topic.
//! - `options`: the keys of an input, and `compile`, which compiles them into a plan; `topics`, `template`, `time`, `pointer`:
//!   the keys that have a syntax.
//! - `native`, `json`, `influx`: a folder or a file for each kind of plan; the formats of docs/inputs.md are these, or `json`
//!   with defaults.
//! - [`inspect`]: the contents of a topic, and the input that would read it.
//! - `rules`: the rules for messages of all formats; `values`, `series_id`: what several formats read and write.

mod around;
mod compile;
#[cfg(test)]
mod corpus;
mod decoder;
mod influx;
pub mod inspect;
mod json;
mod labels;
pub mod native;
mod options;
mod pointer;
mod problems;
mod rules;
mod series_id;
mod template;
#[cfg(test)]
mod tests;
mod time;
mod topics;
mod values;

use std::sync::Arc;

pub use decoder::Decoder;
pub use native::VERSION_HEADER;
pub use options::{Booleans, Columns, Format, InputOptions, Nested, Strings, Time};
pub use topics::{Contested, TopicPattern, TopicsRead, is_topic_name};

use crate::raw::{Kind, Source};
use influx::InfluxPlan;
use json::JsonPlan;
pub use problems::Problem;
pub(crate) use time::TimeForm;

/// The report before messages are decoded that were read some time ago, possibly with another configuration.
pub const DECODED_NOW: &str = "messages of [[input]] topics are decoded by the inputs as they are configured now";

/// The name of the input for `kafka.series_topic`.
pub const SERIES_INPUT: &str = "series";
/// The name of the input for `kafka.points_topic`.
pub const POINTS_INPUT: &str = "points";

/// Topics whose messages have one format.
#[derive(Debug)]
pub struct Input {
    /// Its name: a label of metrics, and the input that dead letters name.
    pub name: String,
    /// Its topics.
    pub topics: Vec<TopicPattern>,
    /// The format's name.
    pub format: Format,
    plan: Plan,
}

impl Input {
    /// Returns `true` if it is one of the two native topics of `[kafka]`, which must exist.
    pub fn is_built_in(&self) -> bool {
        [SERIES_INPUT, POINTS_INPUT].contains(&self.name.as_str())
    }

    /// Returns `true` if it lists the topic by name.
    pub fn names(&self, topic: &str) -> bool {
        self.topics.iter().any(|pattern| pattern.is_name(topic))
    }

    /// The key of the configuration that sets its topics.
    pub fn key(&self) -> String {
        match self.name.as_str() {
            SERIES_INPUT => "kafka.series_topic".to_owned(),
            POINTS_INPUT => "kafka.points_topic".to_owned(),
            name => format!("input {name:?}.topics"),
        }
    }

    /// The kind of its messages if they do not name one: [`Kind::Other`] unless its format is native.
    pub fn kind(&self) -> Kind {
        match self.plan {
            Plan::Native(kind) => kind,
            Plan::Json(_) | Plan::Influx(_) => Kind::Other,
        }
    }
}

/// The compiled plan of an input.
#[derive(Debug)]
enum Plan {
    Native(Kind),
    Json(Box<JsonPlan>),
    Influx(InfluxPlan),
}

/// All inputs. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    all: Arc<[Input]>,
    /// A topic that is one of the input with this number, whatever the configuration says.
    read_as: Option<(String, usize)>,
}

impl Inputs {
    /// Compiles inputs from the configuration: the two native topics, each unless it is empty, and the configured ones.
    ///
    /// # Errors
    /// If any of them has problems: all of them, each with its key below `input`, such as `input "iot".series`.
    pub fn compile(series_topic: &str, points_topic: &str, options: &[InputOptions]) -> Result<Self, Vec<Problem>> {
        let native = [(SERIES_INPUT, series_topic, Kind::Series), (POINTS_INPUT, points_topic, Kind::Points)];
        let native = native.into_iter().filter(|(_, topic, _)| !topic.is_empty()).map(|(name, topic, kind)| Input {
            name: name.to_owned(),
            topics: vec![TopicPattern::Name(topic.to_owned())],
            format: Format::Native,
            plan: Plan::Native(kind),
        });
        let mut inputs: Vec<Input> = native.collect();
        let mut problems = Vec::new();
        for (number, one) in options.iter().enumerate() {
            match compile::compile(number, one) {
                Ok(input) => inputs.push(input),
                Err(found) => problems.extend(found),
            }
        }
        problems.extend(topics::overlaps(&inputs));
        problems.extend(compile::same_names(options));
        if problems.is_empty() { Ok(Self { all: inputs.into(), read_as: None }) } else { Err(problems) }
    }

    /// The inputs, in the order of the configuration.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Input> {
        self.all.iter()
    }

    /// The input that reads a topic; `None` if there is none, or if the regular expressions of several match it.
    pub fn of_topic(&self, topic: &str) -> Option<&Input> {
        let mut claiming = self.claiming(topic);
        claiming.next().filter(|_| claiming.next().is_none())
    }

    /// The inputs that may read a topic: the one that names it, or else those with a regular expression that matches it.
    fn claiming(&self, topic: &str) -> impl Iterator<Item = &Input> {
        let read_as = self.read_as.as_ref().filter(|(other, _)| other == topic);
        let named = match read_as {
            Some((_, number)) => self.all.get(*number),
            None => self.iter().find(|input| input.names(topic)),
        };
        let is_named = named.is_some();
        let matching = move |input: &&Input| !is_named && input.topics.iter().any(|one| one.matches(topic));
        named.into_iter().chain(self.iter().filter(matching))
    }

    /// Returns `true` if the source's messages can be decoded: an input reads its topic, or it was a native one.
    pub fn can_decode(&self, source: &Source) -> bool {
        source.is_file() || source.kind != Kind::Other || self.of_topic(&source.topic).is_some()
    }

    /// Returns `true` if the decoding of a source's messages depends on the configuration.
    pub fn is_configured(&self, source: &Source) -> bool {
        !source.is_file() && self.of_topic(&source.topic).is_some_and(|input| input.kind() == Kind::Other)
    }

    /// The name of the input of a source's messages, as in metrics. The journal records the kind of a native topic, even if the
    /// topic is no longer configured.
    pub fn label(&self, source: &Source) -> &str {
        match (self.of_topic(&source.topic), source.kind) {
            (Some(input), _) => &input.name,
            (None, Kind::Series) => SERIES_INPUT,
            (None, Kind::Points) => POINTS_INPUT,
            (None, Kind::Other) => "",
        }
    }

    /// The same inputs, with the topic as one of the input of this name; `None` if there is none.
    pub fn reading_as(mut self, topic: &str, name: &str) -> Option<Self> {
        let number = self.iter().position(|input| input.name == name)?;
        self.read_as = Some((topic.to_owned(), number));
        Some(self)
    }

    /// The input of this name.
    pub fn by_name(&self, name: &str) -> Option<&Input> {
        self.iter().find(|input| input.name == name)
    }

    /// The topics that are given by name.
    pub fn topic_names(&self) -> impl Iterator<Item = &str> {
        self.iter().flat_map(|input| &input.topics).filter_map(TopicPattern::name)
    }

    /// Returns `true` if the messages of a topic are native.
    pub fn are_native(&self, topic: &str) -> bool {
        matches!(self.of_topic(topic).map(|input| &input.plan), Some(Plan::Native(_)))
    }

    /// Returns `true` if some topics are given by a regular expression.
    pub fn has_patterns(&self) -> bool {
        self.iter().flat_map(|input| &input.topics).any(|pattern| pattern.name().is_none())
    }

    /// The kind of a topic's messages if they do not name one.
    pub fn kind_of(&self, topic: &str) -> Kind {
        self.of_topic(topic).map_or(Kind::Other, Input::kind)
    }
}
