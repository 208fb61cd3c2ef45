//! A proposed input, tried on the sample.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::{Example, Proposal, Sample};
use crate::input::options::{Booleans, InputOptions, Nested, Strings, Time};
use crate::input::{Decoder, Inputs};
use crate::message::{Limits, Message, Points};
use crate::raw::{Kind, RawMessage, Source};

/// Maximum number of messages that are shown with their points, and of points of each.
const EXAMPLES: usize = 5;
const EXAMPLE_POINTS: usize = 10;
/// Maximum number of characters that are shown of a message.
const SHOWN: usize = 200;

/// Decodes the sample with the input.
pub(super) fn run(
    options: InputOptions,
    omitted: Vec<String>,
    topic: &str,
    limits: &Limits,
    samples: &[Sample],
) -> Option<Proposal> {
    // Keys that no template can name make an input that cannot be compiled: there is none to propose.
    let inputs = Inputs::compile("", "", std::slice::from_ref(&options)).ok()?;
    let mut decoder = Decoder::new(limits.clone(), inputs);
    let source = Arc::new(Source {
        kind: Kind::Other,
        cluster_id: String::new(),
        topic: topic.to_owned(),
        topic_id: String::new(),
    });
    let mut proposal = untried(options, omitted);
    let mut collisions = Collisions::default();
    let mut rejected: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for sample in samples {
        let mut points = Points::default();
        let message = RawMessage {
            offset: sample.offset,
            time_ms: sample.time_ms,
            key: sample.key.as_deref(),
            payload: sample.payload.as_deref(),
            headers: sample.headers.as_deref(),
        };
        match decoder.decode(&source, &message, &mut points) {
            Ok(Message::PointBatch { .. } | Message::SeriesCreate(_) | Message::SeriesDelete { .. }) => {
                proposal.stored += 1;
                proposal.points += points.len();
                collisions.add(&points);
                if proposal.examples.len() < EXAMPLES {
                    proposal.examples.push(example(sample, &points));
                }
            }
            Ok(Message::Tombstone | Message::Skipped | Message::Empty) => proposal.skipped += 1,
            Err(why) => {
                let entry = rejected.entry(general(&why.detail)).or_insert_with(|| (0, head(sample)));
                entry.0 += 1;
            }
        }
    }
    proposal.rejected = rejected.into_iter().map(|(why, (count, head))| (why, count, head)).collect();
    proposal.rejected.sort_by_key(|(_, count, _)| std::cmp::Reverse(*count));
    proposal.warnings = collisions.warnings(&proposal);
    Some(proposal)
}

/// A proposal before it is tried.
fn untried(options: InputOptions, omitted: Vec<String>) -> Proposal {
    Proposal {
        text: text(&options),
        options,
        stored: 0,
        points: 0,
        skipped: 0,
        rejected: Vec::new(),
        omitted,
        warnings: Vec::new(),
        examples: Vec::new(),
    }
}

/// A detail without the position in one message.
fn general(detail: &str) -> String {
    detail.split(" (byte ").next().unwrap_or(detail).to_owned()
}

fn head(sample: &Sample) -> String {
    let text = String::from_utf8_lossy(sample.payload.as_deref().unwrap_or_default()).into_owned();
    let head: String = text.chars().take(SHOWN).collect();
    if head.len() < text.len() { format!("{head}…") } else { head }
}

fn example(sample: &Sample, points: &Points) -> Example {
    let owned = |index| {
        let (series, column, time, value) = points.get(index);
        (series.to_owned(), column.to_owned(), time, value)
    };
    Example { message: head(sample), points: (0..points.len().min(EXAMPLE_POINTS)).map(owned).collect() }
}

/// The input as a section of the configuration.
fn text(options: &InputOptions) -> String {
    let list = |all: &[String]| format!("[{}]", all.iter().map(|one| quoted(one)).collect::<Vec<_>>().join(", "));
    let mut lines = vec![
        "[[input]]".to_owned(),
        format!("name = {}", quoted(&options.name)),
        format!("topics = {}", list(&options.topics)),
        format!("format = {}", quoted(options.format.as_str())),
    ];
    let texts = [
        ("each", &options.each),
        ("series", &options.series),
        ("column", &options.column),
        ("value", &options.value),
        ("unit", &options.unit),
    ];
    for (key, text) in texts.into_iter().filter_map(|(key, text)| Some((key, text.as_ref()?))) {
        lines.push(format!("{key} = {}", quoted(text)));
    }
    match &options.time {
        None => {}
        Some(Time::Kafka) => lines.push("time = \"kafka\"".to_owned()),
        Some(Time::At { at, unit, format }) => {
            let more =
                [("unit", unit), ("format", format)].into_iter().filter_map(|(key, text)| Some((key, text.as_ref()?)));
            let more: String = more.map(|(key, text)| format!(", {key} = {}", quoted(text))).collect();
            lines.push(format!("time = {{ at = {}{more} }}", quoted(at)));
        }
    }
    if let Some(columns) = options.columns.as_ref().filter(|columns| !columns.except.is_empty()) {
        lines.push(format!("columns = {{ except = {} }}", list(&columns.except)));
    }
    if !options.labels.is_empty() {
        lines.push(format!("labels = {}", list(&options.labels)));
    }
    match options.strings {
        Some(Strings::Number) => lines.push("strings = \"number\"".to_owned()),
        Some(Strings::Reject) => lines.push("strings = \"reject\"".to_owned()),
        Some(Strings::Skip) | None => {}
    }
    if options.booleans == Some(Booleans::ZeroOne) {
        lines.push("booleans = \"0-1\"".to_owned());
    }
    if options.nested == Some(Nested::Skip) {
        lines.push("nested = \"skip\"".to_owned());
    }
    lines.join("\n") + "\n"
}

/// A text in TOML's form, on one line, without characters that control the terminal.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control()
                || matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                quoted.push_str(&format!("\\u{:04X}", u32::from(c)));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Points of the sample that have the same series, column and time as another one, and its series.
#[derive(Default)]
struct Collisions {
    places: HashSet<(String, String, i64)>,
    series: HashSet<String>,
    count: usize,
}

impl Collisions {
    fn add(&mut self, points: &Points) {
        for index in 0..points.len() {
            let (series, column, time, _) = points.get(index);
            self.count += usize::from(!self.places.insert((series.to_owned(), column.to_owned(), time)));
            if !self.series.contains(series) {
                self.series.insert(series.to_owned());
            }
        }
    }

    /// The signs that the proposal is wrong.
    fn warnings(&self, proposal: &Proposal) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.count * 100 > proposal.points {
            warnings.push(format!(
                "{} of {} points have the series, the column and the time of another one: are series, column and time right?",
                self.count, proposal.points
            ));
        }
        if proposal.stored > 20 && self.series.len() * 10 >= proposal.stored * 9 {
            warnings.push(format!("{} messages make {} series: is series right?", proposal.stored, self.series.len()));
        }
        if self.series.len() == 1 && proposal.options.series.as_deref() == Some("{topic}") {
            warnings.push(
                "all messages make one series, of the topic's name: nothing in them names what sends them".to_owned(),
            );
        }
        warnings
    }
}
