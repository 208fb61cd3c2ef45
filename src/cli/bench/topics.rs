//! The benchmark's topics and groups, and the messages in them.

use super::arguments::{Arguments, series_id};
use crate::cli::interrupt::is_interrupted;
use crate::cli::{Failure, print_line, progress_bar};
use crate::config::Config;
use crate::kafka::publisher::Publisher;

/// Number of partitions of the topic of points.
pub(super) const PARTITIONS: i32 = 8;

/// The suffixes of the names of all topics that are created.
const TOPICS: [&str; 5] = ["many", "one", "wide", "live", "half"];

/// The benchmark with its own group: a killed worker remains a member of its group for a while, and the next one would wait for
/// that.
pub(super) fn with_own_group(bench: &Config, name: &str) -> Config {
    let mut bench = bench.clone();
    bench.kafka.group_id = format!("{}-{name}", bench.kafka.group_id);
    bench
}

/// The benchmark with topics of this name, and its own group.
pub(super) fn with_own_topics(bench: &Config, name: &str) -> Config {
    let mut bench = with_own_group(bench, name);
    bench.kafka.series_topic = format!("{}.series", bench.kafka.group_id);
    bench.kafka.points_topic = format!("{}.points", bench.kafka.group_id);
    bench
}

/// A publisher, after the benchmark's topics were created.
pub(super) async fn publisher_with_topics(bench: &Config) -> Result<Publisher, Failure> {
    let publisher = Publisher::new(&bench.kafka)?;
    let topics = [(bench.kafka.series_topic.as_str(), 1), (bench.kafka.points_topic.as_str(), PARTITIONS)];
    publisher.create_topics(&topics).await?;
    Ok(publisher)
}

/// Fills the topic of points with the messages.
pub(super) async fn publish(bench: &Config, arguments: &Arguments) -> Result<(), Failure> {
    let publisher = publisher_with_topics(bench).await?;
    let points_topic = bench.kafka.points_topic.clone();
    let messages = arguments.rounds() * arguments.series;
    print_line(format_args!("publishing {messages} messages with {} points", arguments.total()));
    let bar = progress_bar(messages, "messages");
    let arguments = arguments.clone();
    tokio::task::spawn_blocking(move || -> Result<(), Failure> {
        for message in 0..messages {
            if is_interrupted() {
                break;
            }
            let (round, series) = (message / arguments.series, message % arguments.series);
            publisher.send(&points_topic, None, &series_id(series), arguments.message(series, round).as_bytes())?;
            bar.inc(1);
        }
        publisher.flush()?;
        bar.finish_and_clear();
        Ok(())
    })
    .await
    .map_err(|error| Failure::Internal(error.to_string()))?
}

/// Deletes all topics that the benchmark may have created.
pub(super) async fn delete_topics(bench: &Config) -> Result<(), crate::kafka::Error> {
    let topics: Vec<String> = TOPICS
        .iter()
        .map(|name| with_own_topics(bench, name))
        .flat_map(|bench| [bench.kafka.series_topic, bench.kafka.points_topic])
        .collect();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    Publisher::new(&bench.kafka)?.delete_topics(&topics).await
}
