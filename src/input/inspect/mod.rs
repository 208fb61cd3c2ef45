//! The contents of a topic, and the input that would read it: for `topic inspect`. Performance does not matter here.
//!
//! - `shape`: the format of a message.
//! - `leaves`: the values of many records, by their places.
//! - `names`: the meaning of a value, from the name of its key.
//! - `records`: the records of messages.
//! - `omitted`: what of the values is not stored.
//! - `choose`: which values are the time and the columns, and `series`, what series are named by.
//! - `trial`: the proposed input, tried on the sample.

mod choose;
mod leaves;
mod names;
mod omitted;
mod records;
mod series;
mod shape;
#[cfg(test)]
mod tests;
mod trial;

use std::collections::BTreeMap;

use super::{Format, InputOptions};
use crate::message::Limits;
use shape::Shape;

/// A message of a topic.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Kafka's time, in milliseconds since the Unix epoch.
    pub time_ms: Option<i64>,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The payload; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// The headers, as [`headers`](crate::raw::headers) encodes them.
    pub headers: Option<Vec<u8>>,
}

/// The results of inspecting a sample of a topic.
#[derive(Debug)]
pub struct Inspection {
    /// Descriptions of the messages, each with their number, the most frequent first.
    pub shapes: Vec<(String, usize)>,
    /// The input that would read most of them; `None` if there is none.
    pub proposal: Option<Proposal>,
}

/// An input, and its results on the sample.
#[derive(Debug)]
pub struct Proposal {
    /// The input.
    pub options: InputOptions,
    /// The input as a section of the configuration.
    pub text: String,
    /// Number of messages whose points would be stored.
    pub stored: usize,
    /// Number of those points.
    pub points: usize,
    /// Number of messages that would be skipped entirely, as the input is configured: deletes, tombstones, only strings.
    pub skipped: usize,
    /// The reasons why messages would be rejected, each with their number and the head of one of them, the most frequent first.
    pub rejected: Vec<(String, usize, String)>,
    /// The parts of the stored messages that would be omitted, a sentence each.
    pub omitted: Vec<String>,
    /// Signs that the proposal is wrong, a sentence each.
    pub warnings: Vec<String>,
    /// Some messages, each with its points.
    pub examples: Vec<Example>,
}

/// A message and its points.
#[derive(Debug)]
pub struct Example {
    /// The head of the message.
    pub message: String,
    /// Its points: series, column, time in microseconds since the Unix epoch, value.
    pub points: Vec<(String, String, i64, f64)>,
}

/// Examines a sample of a topic, and proposes an input.
pub fn inspect(topic: &str, limits: &Limits, samples: &[Sample]) -> Inspection {
    let shapes: Vec<Shape> = samples.iter().map(|sample| shape::of(limits, sample)).collect();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for shape in &shapes {
        *counts.entry(shape.describe()).or_default() += 1;
    }
    let mut described: Vec<(String, usize)> = counts.into_iter().collect();
    described.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let mut formats: Vec<(Format, usize)> = Vec::new();
    for format in Format::ALL {
        let count = shapes.iter().filter(|shape| shape.format() == Some(format)).count();
        formats.push((format, count));
    }
    let most = formats.into_iter().filter(|(_, count)| *count > 0).max_by_key(|(_, count)| *count);
    let proposal = most.and_then(|(format, _)| {
        let of_format: Vec<&Sample> = samples
            .iter()
            .zip(&shapes)
            .filter(|(_, shape)| shape.format() == Some(format))
            .map(|(one, _)| one)
            .collect();
        let (options, omitted) = choose::options(topic, format, limits, &of_format);
        trial::run(options, omitted, topic, limits, samples)
    });
    Inspection { shapes: described, proposal }
}
