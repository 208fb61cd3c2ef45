//! `topic inspect`: the contents of a topic, and the input that would read it.

use clap::Subcommand;
use serde_json::{Value, json};

use super::Failure;
use super::output::{print, print_line};
use crate::config::Config;
use crate::input::inspect::{self, Inspection, Proposal};
use crate::kafka::sampler;
use crate::telemetry::escaped;

/// Examine topics before they are read.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Read a sample of a topic, print what is in it, and propose an [[input]] that can be pasted. Moves no offset.
    #[command(after_help = "Examples:\n  \
        series-ingest topic inspect sensors.temperature\n  \
        series-ingest topic inspect sensors.temperature --limit 100 --json\n\n\
        The proposed section goes into the file of --config. Check it with: series-ingest message check, and: series-ingest check")]
    Inspect {
        /// The topic.
        topic: String,
        /// Number of newest messages to read.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        limit: u32,
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(config: &Config, command: Command) -> Result<(), Failure> {
    let Command::Inspect { topic, limit, json } = command;
    let (kafka, name) = (config.kafka.clone(), topic.clone());
    let sampled = tokio::task::spawn_blocking(move || sampler::sample(&kafka, &name, limit as usize));
    let sampled = sampled.await.map_err(|failure| Failure::Internal(failure.to_string()))??;
    let Some(samples) = sampled else {
        return Err(Failure::Usage(format!("there is no topic {topic}, or this client may not see it")));
    };
    let inspection = inspect::inspect(&topic, &config.message.limits(), &samples);
    if json {
        print_line(document(&topic, samples.len(), &inspection));
    } else {
        describe(&topic, samples.len(), &inspection);
    }
    Ok(())
}

fn describe(topic: &str, count: usize, inspection: &Inspection) {
    print_line(format_args!("{topic}: {count} messages were read"));
    for (shape, number) in &inspection.shapes {
        print_line(format_args!("  {:>5.1} %  {}", 100.0 * *number as f64 / count as f64, escaped(shape)));
    }
    let Some(proposal) = &inspection.proposal else {
        print_line(if count == 0 {
            "there is nothing in it to propose an input from"
        } else {
            "no format reads these messages: docs/inputs.md has those that there are"
        });
        return;
    };
    print_line(format_args!("\nThis section of the configuration file would read it:\n"));
    print(&proposal.text);
    print_line(format_args!(
        "\nOf these messages it would store {} with {} points; {} have nothing to store, and {} would be rejected.",
        proposal.stored,
        proposal.points,
        proposal.skipped,
        count - proposal.stored - proposal.skipped
    ));
    for (why, number, head) in &proposal.rejected {
        print_line(format_args!("  {number} rejected: {}\n      {}", escaped(why), escaped(head)));
    }
    for sentence in &proposal.omitted {
        print_line(format_args!("  omitted: {}", escaped(sentence)));
    }
    for sentence in &proposal.warnings {
        print_line(format_args!("  warning: {}", escaped(sentence)));
    }
    if !proposal.examples.is_empty() {
        print_line("\nFor example:");
    }
    for example in &proposal.examples {
        print_line(format_args!("  {}", escaped(&example.message)));
        for (series, column, time_us, value) in &example.points {
            print_line(format_args!("      {}  {}  {}  {value}", escaped(series), time(*time_us), escaped(column)));
        }
    }
}

pub(super) fn time(time_us: i64) -> String {
    jiff::Timestamp::from_microsecond(time_us).map_or_else(|_| format!("{time_us} us"), |time| time.to_string())
}

fn document(topic: &str, count: usize, inspection: &Inspection) -> Value {
    let shapes: Vec<Value> =
        inspection.shapes.iter().map(|(shape, number)| json!({"shape": shape, "messages": number})).collect();
    json!({
        "topic": topic,
        "messages": count,
        "shapes": shapes,
        "proposal": inspection.proposal.as_ref().map(proposed),
    })
}

fn proposed(proposal: &Proposal) -> Value {
    let rejected: Vec<Value> = proposal
        .rejected
        .iter()
        .map(|(why, number, head)| json!({"detail": why, "messages": number, "message": head}))
        .collect();
    let examples: Vec<Value> = proposal
        .examples
        .iter()
        .map(|example| {
            let points: Vec<Value> = example
                .points
                .iter()
                .map(|(series, column, time_us, value)| point(series, column, *time_us, *value))
                .collect();
            json!({"message": example.message, "points": points})
        })
        .collect();
    json!({
        "input": proposal.text,
        "stored": proposal.stored,
        "points": proposal.points,
        "skipped": proposal.skipped,
        "rejected": rejected,
        "omitted": proposal.omitted,
        "warnings": proposal.warnings,
        "examples": examples,
    })
}

/// A point as an object; a value that is not finite is a string, as in native messages.
pub(super) fn point(series: &str, column: &str, time_us: i64, value: f64) -> Value {
    let value = if value.is_nan() {
        Value::Null
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity" } else { "-Infinity" }.into()
    } else {
        value.into()
    };
    json!({"time_series_id": series, "timestamp": time(time_us), "column_name": column, "value": value})
}
