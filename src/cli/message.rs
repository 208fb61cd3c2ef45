//! `message check`: what becomes of messages, without a server.

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Subcommand;
use serde_json::{Value, json};

use super::Failure;
use super::output::print_line;
use super::topic::{point, time};
use crate::config::Config;
use crate::input::{Input, TopicPattern};
use crate::message::{Message, Points, Rejected};
use crate::raw::{RawMessage, Source};
use crate::telemetry::escaped;

/// Look at messages before they are published.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Decode messages as an input does, and print their points or why they would be rejected. Needs no server.
    #[command(after_help = "Examples:\n  \
        series-ingest message check message.json                 a native message\n  \
        series-ingest --config ingest.toml message check --input iot message.json\n  \
        kcat -C -t sensors -c 100 | series-ingest --config ingest.toml message check --topic sensors --lines -\n\n\
        Exit code: 65 if a message would be rejected.")]
    Check {
        /// The file, or - for standard input.
        file: PathBuf,
        /// The input whose format it is; the one of kafka.points_topic by default.
        #[arg(long, value_name = "NAME", conflicts_with = "topic")]
        input: Option<String>,
        /// A topic of the input; templates may use it.
        #[arg(long, value_name = "TOPIC")]
        topic: Option<String>,
        /// Each line is a message, instead of the whole file.
        #[arg(long)]
        lines: bool,
        /// The messages' key.
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
        /// A JSON object for each message.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(config: &Config, command: Command) -> Result<(), Failure> {
    let Command::Check { file, input, topic, lines, key, json } = command;
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
        None => inputs.by_name(crate::input::POINTS_INPUT).or_else(|| inputs.iter().next()),
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
            headers: None,
        };
        let decoded = self.decoder.decode(&self.source, &message, &mut points);
        self.checked += 1;
        self.rejected += usize::from(decoded.is_err());
        if self.json {
            print_line(document(line, &decoded, &points));
        } else {
            describe(line, &decoded, &points);
        }
    }
}

fn describe(line: usize, decoded: &Result<Message, Rejected>, points: &Points) {
    match decoded {
        Ok(Message::PointBatch { points: count }) => print_line(format_args!("message {line}: {count} points")),
        Ok(Message::SeriesCreate(series)) => {
            print_line(format_args!("message {line}: the definition of series {}", escaped(&series.id)));
        }
        Ok(Message::Tombstone | Message::Skipped) => {
            print_line(format_args!("message {line}: nothing to store, as the input is configured"));
        }
        Err(why) => {
            let (reason, detail) = (why.reason.as_str(), escaped(&why.detail));
            print_line(format_args!("message {line}: rejected, {reason}: {detail}"));
        }
    }
    for index in 0..points.len() {
        let (series, column, time_us, value) = points.get(index);
        print_line(format_args!("  {}  {}  {}  {value}", escaped(series), time(time_us), escaped(column)));
    }
    for (series, labels) in points.series_labels() {
        print_line(format_args!("  labels of {}: {}", escaped(series), escaped(labels)));
    }
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
                Message::Tombstone => "tombstone",
                Message::Skipped => "skipped",
            };
            json!({"message": line, "type": kind, "points": rows, "labels": labels})
        }
        Err(why) => {
            json!({"message": line, "type": "rejected", "reason": why.reason.as_str(), "detail": why.detail})
        }
    }
}
