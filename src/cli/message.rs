//! `message check`: decodes messages without a server.

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Subcommand;
use serde_json::{Value, json};

use super::output::{print, print_line};
use super::topic::{point, time};
use super::{Failure, name_and_value};
use crate::config::Config;
use crate::input::{Input, TopicPattern};
use crate::message::{Message, Points, Rejected};
use crate::raw::{RawMessage, Source, headers};
use crate::telemetry::escaped;

/// Examine messages before they are published.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Decode messages as an input does, and print their points, or why they would be rejected. Needs no server.
    #[command(after_help = "Examples:\n  \
        series-ingest message check message.json                 a native message\n  \
        series-ingest --config ingest.toml message check --input iot message.json\n  \
        series-ingest --config ingest.toml message check --header ce_specversion=1.0 --header ce_source=/a event.json\n  \
        kcat -C -t sensors -c 100 | series-ingest --config ingest.toml message check --topic sensors --lines -\n\n\
        Exit code: 65 if a message would be rejected.")]
    Check {
        /// The file, or - for standard input.
        file: PathBuf,
        /// The input whose format it has; by default the only [[input]], or else that of kafka.points_topic.
        #[arg(long, value_name = "NAME", conflicts_with = "topic")]
        input: Option<String>,
        /// A topic of the input, for templates that use it.
        #[arg(long, value_name = "TOPIC")]
        topic: Option<String>,
        /// Each line is a message, instead of the whole file.
        #[arg(long)]
        lines: bool,
        /// The messages' key.
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
        /// A header of the messages; may be given several times.
        #[arg(long, value_name = "NAME=VALUE", value_parser = name_and_value)]
        header: Vec<(String, String)>,
        /// A JSON object for each message.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(config: &Config, command: Command) -> Result<(), Failure> {
    let Command::Check { file, input, topic, lines, key, header, json } = command;
    let headers = header.iter().map(|(name, value)| (name.as_bytes(), Some(value.as_bytes())));
    let topic = topic_of(config, input.as_deref(), topic)?;
    let text = read(&file)?;
    let mut checker = Checker {
        decoder: config.decoder(),
        source: Arc::new(Source {
            kind: config.inputs().kind_of(&topic),
            cluster_id: String::new(),
            topic,
            topic_id: String::new(),
        }),
        key,
        headers: headers::encode(headers),
        json,
        rejected: 0,
        checked: 0,
    };
    if lines {
        let all = text.split(|byte| *byte == b'\n').enumerate();
        all.filter(|(_, line)| !line.trim_ascii().is_empty())
            .for_each(|(number, line)| checker.check(number + 1, line));
    } else {
        checker.check(1, &text);
    }
    match checker.rejected {
        0 => Ok(()),
        count => Err(Failure::Rejected(format!("{count} of {} messages would be rejected", checker.checked))),
    }
}

/// The topic whose messages these are to be.
fn topic_of(config: &Config, input: Option<&str>, topic: Option<String>) -> Result<String, Failure> {
    let inputs = config.inputs();
    if let Some(topic) = topic {
        return match inputs.of_topic(&topic) {
            Some(_) => Ok(topic),
            None => Err(Failure::Usage(format!(
                "--topic {topic}: no input has this topic; `series-ingest config` prints them"
            ))),
        };
    }
    let found = match input {
        Some(name) => inputs.by_name(name),
        // A file with one input is meant for that one.
        None => match config.input.as_slice() {
            [only] => inputs.by_name(&only.name),
            _ => inputs.by_name(crate::input::POINTS_INPUT).or_else(|| inputs.iter().next()),
        },
    };
    let known = || inputs.iter().map(|input| input.name.as_str()).collect::<Vec<_>>().join(", ");
    let found = found.ok_or_else(|| {
        Failure::Usage(format!(
            "--input {}: there is none of this name; there are: {}",
            input.unwrap_or_default(),
            known()
        ))
    })?;
    let name = |input: &Input| input.topics.iter().find_map(TopicPattern::name).map(str::to_owned);
    name(found).ok_or_else(|| {
        Failure::Usage(format!(
            "the input {:?} has topics by a regular expression only: name one with --topic",
            found.name
        ))
    })
}

fn read(file: &PathBuf) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let read = if file.as_os_str() == "-" {
        std::io::stdin().lock().read_to_end(&mut text)
    } else {
        std::fs::File::open(file).and_then(|mut file| file.read_to_end(&mut text))
    };
    read.map_err(|error| Failure::Usage(format!("{}: cannot be read: {error}", file.display())))?;
    Ok(text)
}

struct Checker {
    decoder: crate::input::Decoder,
    source: Arc<Source>,
    key: Option<String>,
    /// As [`headers`] encodes them.
    headers: Option<Vec<u8>>,
    json: bool,
    rejected: usize,
    checked: usize,
}

impl Checker {
    fn check(&mut self, line: usize, payload: &[u8]) {
        let mut points = Points::default();
        let message = RawMessage {
            offset: 0,
            time_ms: Some(jiff::Timestamp::now().as_millisecond()),
            key: self.key.as_deref().map(str::as_bytes),
            payload: Some(payload),
            headers: self.headers.as_deref(),
        };
        let decoded = self.decoder.decode(&self.source, &message, &mut points);
        self.checked += 1;
        self.rejected += usize::from(decoded.is_err());
        if self.json {
            print_line(document(line, &decoded, &points));
        } else {
            print(&described(line, &decoded, &points));
        }
    }
}

/// The result for a message, and its points, one per line.
fn described(line: usize, decoded: &Result<Message, Rejected>, points: &Points) -> String {
    let what = match decoded {
        Ok(Message::PointBatch { points: 1 }) => "1 point".to_owned(),
        Ok(Message::PointBatch { points: count }) => format!("{count} points"),
        Ok(Message::SeriesCreate(series)) => format!("the definition of series {}", escaped(&series.id)),
        Ok(Message::SeriesDelete { id }) => format!("the deletion of series {}", escaped(id)),
        Ok(Message::Tombstone | Message::Empty) => "nothing to store".to_owned(),
        Ok(Message::Skipped) => "nothing to store, as the input is configured".to_owned(),
        Err(why) => format!("rejected, {}: {}", why.reason.as_str(), escaped(&why.detail)),
    };
    let mut lines = format!("message {line}: {what}\n");
    for index in 0..points.len() {
        let (series, column, time_us, value) = points.get(index);
        lines.push_str(&format!("  {}  {}  {}  {value}\n", escaped(series), time(time_us), escaped(column)));
    }
    for (series, labels) in points.series_labels() {
        lines.push_str(&format!("  labels of {}: {}\n", escaped(series), escaped(labels)));
    }
    lines
}

fn document(line: usize, decoded: &Result<Message, Rejected>, points: &Points) -> Value {
    let rows: Vec<Value> = (0..points.len())
        .map(|index| {
            let (series, column, time_us, value) = points.get(index);
            point(series, column, time_us, value)
        })
        .collect();
    let labels: serde_json::Map<String, Value> = points
        .series_labels()
        .map(|(series, labels)| (series.to_owned(), serde_json::from_str(labels).unwrap_or_default()))
        .collect();
    match decoded {
        Ok(message) => {
            let kind = match message {
                Message::PointBatch { .. } => "point-batch",
                Message::SeriesCreate(_) => "series-create",
                Message::SeriesDelete { .. } => "series-delete",
                Message::Tombstone => "tombstone",
                Message::Skipped | Message::Empty => "skipped",
            };
            json!({"message": line, "type": kind, "points": rows, "labels": labels})
        }
        Err(why) => {
            json!({"message": line, "type": "rejected", "reason": why.reason.as_str(), "detail": why.detail})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fenced blocks of a document, each with its language.
    fn blocks(text: &str) -> Vec<(&str, String)> {
        let mut blocks: Vec<(&str, String)> = Vec::new();
        let mut is_inside = false;
        for line in text.lines() {
            match line.strip_prefix("```") {
                Some(language) if !is_inside => {
                    blocks.push((language, String::new()));
                    is_inside = true;
                }
                Some(_) => is_inside = false,
                None if is_inside => blocks.last_mut().unwrap().1.push_str(&format!("{line}\n")),
                None => {}
            }
        }
        blocks
    }

    #[test]
    fn the_examples_of_the_document_are_what_the_program_does() {
        let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/inputs.md")).unwrap();
        let blocks = blocks(&document);
        let examples: Vec<_> = blocks
            .windows(3)
            .filter(|three| three[0].0 == "toml" && ["json", "influx"].contains(&three[1].0) && three[2].0 == "text")
            .collect();
        assert_eq!(examples.len(), 9, "each format has an example, and json has three");
        for three in examples {
            let [(_, input), (_, message), (_, expected)] = three else { unreachable!("three blocks") };
            let config = Config::from_text(input, []).unwrap();
            let topic = topic_of(&config, Some(&config.input[0].name), None).unwrap();
            let source = Source {
                kind: config.inputs().kind_of(&topic),
                cluster_id: String::new(),
                topic,
                topic_id: String::new(),
            };
            let mut points = Points::default();
            let raw = RawMessage { payload: Some(message.as_bytes()), ..RawMessage::default() };
            let decoded = config.decoder().decode(&Arc::new(source), &raw, &mut points);
            assert_eq!(described(1, &decoded, &points), *expected, "{input}");
        }
    }
}
