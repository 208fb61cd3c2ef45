//! The brokers, the topics and the group.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::{Failure, Report};
use crate::cli::saying_waits;
use crate::config::Config;
use crate::database::Database;
use crate::input::{Input, Inputs, TopicPattern};
use crate::kafka::lookup::{Lookup, is_missing_topic};
use crate::kafka::member::Member;
use crate::kafka::partition::TopicPartition;
use crate::kafka::topic_id::Topic;
use crate::kafka::topic_settings::{Answer, Finding, TopicSettings};
use crate::raw::{Kind, Source};
use crate::{kafka, pipeline, telemetry};

pub(super) async fn check(config: &Arc<Config>, report: &mut Report) -> Result<(), Failure> {
    let config = Arc::clone(config);
    let mut found = std::mem::take(report);
    // Requests of librdkafka block.
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
    let inputs = config.inputs();
    let Some(read) = topics_to_read(config, &inputs, &lookup, report) else { return };
    let answers = check_topics(config, &inputs, &read, &lookup, report);
    check_topic_settings(config, &inputs, &read, report);
    if answers {
        check_group(config, &read, &lookup, report);
        check_cluster(config, &inputs, &read, (&lookup, &cluster), report);
    }
}

/// The topics that a worker would read now; `None` if the brokers do not answer.
fn topics_to_read(config: &Config, inputs: &Inputs, lookup: &Lookup, report: &mut Report) -> Option<Vec<String>> {
    let existing = if inputs.has_patterns() {
        lookup.topic_names().map_err(|error| report_silence(lookup, &error, report)).ok()?
    } else {
        Vec::new()
    };
    let read = inputs.topics_to_read(existing.iter().map(String::as_str), &config.kafka.dead_letter_topic);
    for contested in &read.contested {
        report.problem(contested.key(), contested);
    }
    for input in inputs.iter() {
        let contested = read.contested.iter().map(|one| &one.topic);
        let there: Vec<&String> = read.topics.iter().chain(contested).collect();
        let matches = |pattern: &TopicPattern| there.iter().any(|topic| pattern.matches(topic));
        for pattern in input.topics.iter().filter(|pattern| !matches(pattern)) {
            let text = format_args!("no topic matches {:?}; one that is created later is read", pattern.text());
            report.warn(&input.key(), text);
        }
        if !input.is_built_in() {
            let topics: Vec<&str> =
                read.topics.iter().map(String::as_str).filter(|topic| is_of(inputs, topic, input)).collect();
            report.say(
                &format!("input {}", input.name),
                format_args!("format {}, {} topics: {}", input.format.as_str(), topics.len(), telemetry::list(topics)),
            );
        }
    }
    Some(read.topics)
}

fn is_of(inputs: &Inputs, topic: &str, input: &Input) -> bool {
    inputs.of_topic(topic).is_some_and(|one| one.name == input.name)
}

/// Reports that the brokers do not answer, if that is the error. Returns `true` if it is.
fn report_silence(lookup: &Lookup, error: &kafka::Error, report: &mut Report) -> bool {
    let Some(silence) = lookup.silence(error) else { return false };
    let key = if lookup.refused().is_some() { "kafka.properties" } else { "kafka.brokers" };
    report.unreachable(key, silence);
    true
}

/// Reports whether the pipeline has read these topics in another cluster only, so that a worker would not start in this one.
fn check_cluster(
    config: &Config,
    inputs: &Inputs,
    read: &[String],
    (lookup, cluster_id): (&Lookup, &str),
    report: &mut Report,
) {
    // A database that does not answer, or has no tables yet, is a separate problem.
    let Ok(database) = Database::new(config) else { return };
    let Ok(described) = lookup.topics(&read.iter().map(String::as_str).collect::<Vec<_>>()) else { return };
    for (name, topic) in described {
        let Ok(topic) = topic else { continue };
        let kind = inputs.kind_of(&name);
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

/// Checks the topics. Returns `false` if the brokers do not answer, because every further request would have to time out.
fn check_topics(config: &Config, inputs: &Inputs, read: &[String], lookup: &Lookup, report: &mut Report) -> bool {
    let copies = Some(config.kafka.dead_letter_topic.as_str()).filter(|topic| !topic.is_empty());
    let names: Vec<&str> = read.iter().map(String::as_str).chain(copies).collect();
    let described = match lookup.topics(&names) {
        Ok(described) => described,
        Err(error) => {
            if !report_silence(lookup, &error, report) {
                report.problem("kafka.brokers", format_args!("the topics cannot be described: {error}"));
            }
            return false;
        }
    };
    for (name, topic) in described {
        // A regular expression may match it, too, and it is never read.
        let input = inputs.of_topic(&name).filter(|_| name != config.kafka.dead_letter_topic);
        let key = input.map_or_else(|| "kafka.dead_letter_topic".to_owned(), Input::key);
        match (topic, input) {
            // The dead-letter topic is only written to, and Kafka cannot be asked for that right.
            (Ok(topic), _) => report_topic(&key, &topic, input.is_some(), report),
            (Err(error), Some(input)) if is_missing_topic(&error) && !input.is_built_in() => {
                let text = format_args!(
                    "topic {name} of input {:?} does not exist; it is read once it is created",
                    input.name
                );
                report.warn(&key, text);
            }
            (Err(error), _) => {
                report.problem(key, format_args!("topic {name}: {error}. Create it, or allow this user to read it"));
            }
        }
    }
    true
}

fn report_topic(key: &str, topic: &Topic, is_read: bool, report: &mut Report) {
    let id = topic.id.as_deref().unwrap_or("none: a topic recreated cannot be distinguished from the old one");
    report.say(&format!("topic {}", topic.name), format_args!("{} partitions, id {id}", topic.partitions));
    if !topic.leaderless.is_empty() {
        let numbers: Vec<String> = topic.leaderless.iter().map(i32::to_string).collect();
        report.unreachable(
            key,
            format_args!(
                "topic {}: no broker leads partition {}: nothing of it is read or written until one of its replicas is back",
                topic.name,
                numbers.join(", ")
            ),
        );
    }
    if topic.may_read == Some(false) && is_read {
        report.problem(key, format_args!("topic {}: this user may not READ it: allow it", topic.name));
    }
}

/// Reports the effect of the topics' settings on messages before they are read.
fn check_topic_settings(config: &Config, inputs: &Inputs, read: &[String], report: &mut Report) {
    let settings = match TopicSettings::new(&config.kafka) {
        Ok(settings) => settings,
        Err(error) => return report.problem("kafka.properties", format_args!("librdkafka refuses it: {error}")),
    };
    let answers = match Handle::current().block_on(settings.ask(read)) {
        Ok(answers) => answers,
        Err(error) => {
            return report.say("warning", format_args!("the settings of the topics are not known: {error}"));
        }
    };
    for (topic, answer) in answers {
        let Some(input) = inputs.of_topic(&topic) else { continue };
        match answer {
            Answer::Known(settings) => {
                for finding in settings.findings(&topic, input.kind() != Kind::Series, &config.message) {
                    match finding {
                        Finding::Loss(text) => report.problem(input.key(), text),
                        Finding::Risk(text) => report.warn(&input.key(), text),
                    }
                }
            }
            // A missing topic was reported already.
            Answer::Missing => {}
            Answer::Refused(reason) => report.warn(&input.key(), reason),
        }
    }
}

fn check_group(config: &Config, read: &[String], lookup: &Lookup, report: &mut Report) {
    let group = &config.kafka.group_id;
    let any = read.first().map(|topic| TopicPartition::new(topic.clone(), 0));
    if let Err(error) = lookup.committed(any.as_slice())
        && let Some(text) = lookup.refusal(&error)
    {
        return report.problem("kafka.group_id", format_args!("group {group}: {text}"));
    }
    // A database that does not answer is a separate problem.
    let identity = Database::new(config).ok().and_then(|database| {
        let identity = Handle::current().block_on(database.identify()).ok().flatten();
        database.close();
        identity
    });
    for (key, text) in lookup.group_problems(&Member::new(&config.pipeline, identity)) {
        report.problem(key, text);
    }
}
