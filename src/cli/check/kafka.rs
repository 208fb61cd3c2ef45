//! The brokers, the topics and the group.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::{Failure, Report};
use crate::cli::saying_waits;
use crate::config::Config;
use crate::database::Database;
use crate::kafka::lookup::Lookup;
use crate::kafka::member::Member;
use crate::kafka::partition::TopicPartition;
use crate::kafka::topic_settings::{Answer, Finding, TopicSettings};
use crate::pipeline;
use crate::raw::Kind;
use crate::raw::Source;

pub(super) async fn check(config: &Arc<Config>, report: &mut Report) -> Result<(), Failure> {
    let config = Arc::clone(config);
    let mut found = std::mem::take(report);
    // librdkafka's questions block.
    let asked = tokio::task::spawn_blocking(move || {
        ask(&config, &mut found);
        found
    });
    *report = asked.await.map_err(|error| Failure::Internal(error.to_string()))?;
    Ok(())
}

fn ask(config: &Config, report: &mut Report) {
    let lookup = match Lookup::new(&config.kafka) {
        Ok(lookup) => lookup,
        Err(error) => return report.problem("kafka.properties", format_args!("librdkafka refuses it: {error}")),
    };
    let Some(cluster) = lookup.cluster_id() else {
        return match lookup.refused() {
            Some(text) => report.unreachable("kafka.properties", text),
            None => report.unreachable(
                "kafka.brokers",
                format_args!(
                    "{} does not answer{}. Is the broker up, and are addresses and security settings right?",
                    config.kafka.brokers,
                    lookup.failure().map_or(String::new(), |failure| format!(" ({failure})")),
                ),
            ),
        };
    };
    report.say("kafka", format_args!("cluster {cluster}"));
    let answers = check_topics(config, &lookup, report);
    check_topic_settings(config, report);
    if answers {
        check_group(config, &lookup, report);
        check_cluster(config, &lookup, &cluster, report);
    }
}

/// Whether the pipeline has read these topics in another cluster only, so that a worker would not start in this one.
fn check_cluster(config: &Config, lookup: &Lookup, cluster_id: &str, report: &mut Report) {
    // A database that does not answer, or has no tables yet, is another problem.
    let Ok(database) = Database::new(config) else { return };
    let topics = [(Kind::Series, &config.kafka.series_topic), (Kind::Points, &config.kafka.points_topic)];
    for (kind, name) in topics {
        let Some(topic) = lookup.topics(&[name]).ok().and_then(|topics| topics.into_iter().next()) else { continue };
        let numbers: Vec<i32> = (0..i32::try_from(topic.partitions).unwrap_or(i32::MAX)).collect();
        let (cluster_id, topic_id) = (cluster_id.to_owned(), topic.id.unwrap_or_default());
        let source = Arc::new(Source { kind, cluster_id, topic: name.clone(), topic_id });
        let asked = saying_waits(&database, database.progress_elsewhere(&source, &numbers));
        let Ok(elsewhere) = Handle::current().block_on(asked) else { return };
        let partitions: Vec<_> = elsewhere.iter().map(|one| TopicPartition::new(name.clone(), one.partition)).collect();
        let Ok(committed) = lookup.committed(&partitions) else { return };
        let mut refused = elsewhere.iter().zip(&partitions).filter_map(|(one, partition)| {
            let why = pipeline::refused_move(config.kafka.new_cluster, one, committed.get(partition).copied())?;
            Some((one.partition, why))
        });
        if let Some((number, why)) = refused.next() {
            let others = match refused.count() {
                0 => String::new(),
                count => format!(" (and {count} other partitions)"),
            };
            report.problem(
                "kafka.new_cluster",
                format_args!("partition {number} of {name}{others} does not start: {why}"),
            );
        }
    }
}

/// Checks the topics; returns `false` if the brokers do not answer, and every further question would have to wait for that.
fn check_topics(config: &Config, lookup: &Lookup, report: &mut Report) -> bool {
    let topics = [
        ("kafka.series_topic", &config.kafka.series_topic),
        ("kafka.points_topic", &config.kafka.points_topic),
        ("kafka.dead_letter_topic", &config.kafka.dead_letter_topic),
    ];
    for (key, topic) in topics.into_iter().filter(|(_, topic)| !topic.is_empty()) {
        match lookup.topics(&[topic]) {
            Ok(topics) => {
                for topic in topics {
                    let id = topic
                        .id
                        .as_deref()
                        .unwrap_or("none: a topic recreated cannot be distinguished from the old one");
                    report.say(
                        &format!("topic {}", topic.name),
                        format_args!("{} partitions, id {id}", topic.partitions),
                    );
                    if !topic.leaderless.is_empty() {
                        let numbers: Vec<String> = topic.leaderless.iter().map(i32::to_string).collect();
                        report.unreachable(
                            key,
                            format_args!(
                                "topic {}: no broker leads partition {}: nothing of it is read or written until one of its \
                                 replicas is back",
                                topic.name,
                                numbers.join(", ")
                            ),
                        );
                    }
                    // The dead-letter topic is written only, and Kafka is not asked for that right.
                    if topic.may_read == Some(false) && key != "kafka.dead_letter_topic" {
                        report.problem(key, format_args!("topic {}: this user may not READ it: allow it", topic.name));
                    }
                }
            }
            Err(error) => {
                if let Some(silence) = lookup.silence(&error) {
                    let key = if lookup.refused().is_some() { "kafka.properties" } else { "kafka.brokers" };
                    report.unreachable(key, silence);
                    return false;
                }
                report.problem(key, format_args!("topic {topic}: {error}. Create it, or allow this user to read it"));
            }
        }
    }
    true
}

/// What the settings of the topics may do to messages before they are read.
fn check_topic_settings(config: &Config, report: &mut Report) {
    let settings = match TopicSettings::new(&config.kafka) {
        Ok(settings) => settings,
        Err(error) => return report.problem("kafka.properties", format_args!("librdkafka refuses it: {error}")),
    };
    let topics = [
        ("kafka.series_topic", &config.kafka.series_topic, false),
        ("kafka.points_topic", &config.kafka.points_topic, true),
    ];
    for (key, topic, has_points) in topics {
        match Handle::current().block_on(settings.ask(topic)) {
            Ok(Answer::Known(settings)) => {
                for finding in settings.findings(topic, has_points, &config.message) {
                    match finding {
                        Finding::Loss(text) => report.problem(key, text),
                        Finding::Risk(text) => report.say("warning", format_args!("{key}: {text}")),
                    }
                }
            }
            // A topic that is missing is a problem already.
            Ok(Answer::Missing) => {}
            Ok(Answer::Refused(reason)) => report.say("warning", format_args!("{key}: {reason}")),
            Err(error) => {
                report.say("warning", format_args!("{key}: the settings of topic {topic} are not known: {error}"));
            }
        }
    }
}

fn check_group(config: &Config, lookup: &Lookup, report: &mut Report) {
    let group = &config.kafka.group_id;
    if let Err(error) = lookup.committed(&[TopicPartition::new(config.kafka.points_topic.clone(), 0)])
        && let Some(text) = lookup.refusal(&error)
    {
        return report.problem("kafka.group_id", format_args!("group {group}: {text}"));
    }
    // A database that does not answer is another problem.
    let identity = Database::new(config).ok().and_then(|database| {
        let identity = Handle::current().block_on(database.identify()).ok().flatten();
        database.close();
        identity
    });
    for (key, text) in lookup.group_problems(&Member::new(&config.pipeline, identity)) {
        report.problem(key, text);
    }
}
