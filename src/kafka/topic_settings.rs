//! The settings of a topic that decide which of its messages still exist when they are read.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, OwnedResourceSpecifier, ResourceSpecifier};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::auth::AuthContext;
use super::{settings, topic_id};
use crate::config::{Kafka, MessageRules};

/// Timeout for the answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A shorter retention may be exceeded by an outage, or by a stop over an unattended weekend.
const SHORT_RETENTION_MS: i64 = 24 * 60 * 60 * 1000;
/// Maximum overhead that Kafka adds to a message and counts towards `max.message.bytes`.
const OVERHEAD_BYTES: i64 = 1024;

/// Requests the settings of topics, with its own client.
pub struct TopicSettings {
    admin: Arc<AdminClient<AuthContext>>,
}

impl std::fmt::Debug for TopicSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TopicSettings").finish_non_exhaustive()
    }
}

/// The effect of a topic's settings on messages before they are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Messages are removed while they are still needed: nothing can be exact.
    Loss(String),
    /// Messages may be removed or refused in some case.
    Risk(String),
}

/// The answer to a request for a topic's settings.
#[derive(Debug, Clone)]
pub enum Answer {
    /// The settings by name.
    Known(Settings),
    /// This client's user may not request them, with the reason.
    Refused(String),
    /// There is no such topic.
    Missing,
}

/// A topic's settings by name.
#[derive(Debug, Clone, Default)]
pub struct Settings(HashMap<String, String>);

impl TopicSettings {
    /// A client for the configured brokers; it connects at the first request.
    ///
    /// # Errors
    /// If librdkafka refuses a property.
    pub fn new(kafka: &Kafka) -> Result<Self, KafkaError> {
        let admin =
            settings::client(kafka).create_with_context(AuthContext::new(kafka)).map_err(settings::without_value)?;
        Ok(Self { admin: Arc::new(admin) })
    }

    /// Requests the settings of topics, all in one request; the answers have the topics' order.
    ///
    /// # Errors
    /// If the brokers do not answer.
    pub async fn ask(&self, topics: &[String]) -> Result<Vec<(String, Answer)>, KafkaError> {
        if topics.is_empty() {
            return Ok(Vec::new());
        }
        let options = AdminOptions::new().request_timeout(Some(TIMEOUT));
        let client = self.admin.inner();
        client.context().renew(client);
        let resources: Vec<ResourceSpecifier<'_>> = topics.iter().map(|one| ResourceSpecifier::Topic(one)).collect();
        let mut known: HashMap<String, Settings> = HashMap::new();
        for resource in self.admin.describe_configs(&resources, &options).await?.into_iter().flatten() {
            let OwnedResourceSpecifier::Topic(topic) = resource.specifier else { continue };
            if !resource.entries.is_empty() {
                let entries = resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?)));
                known.insert(topic, Settings(entries.collect()));
            }
        }
        let unknown = topics.iter().filter(|topic| !known.contains_key(*topic)).cloned().collect();
        let mut answers = self.why_none(unknown).await?;
        answers.extend(known.into_iter().map(|(topic, settings)| (topic, Answer::Known(settings))));
        Ok(topics.iter().filter_map(|topic| Some((topic.clone(), answers.remove(topic)?))).collect())
    }

    /// Determines why the brokers returned no settings of topics: rdkafka drops their answer, and returns none.
    async fn why_none(&self, topics: Vec<String>) -> Result<HashMap<String, Answer>, KafkaError> {
        if topics.is_empty() {
            return Ok(HashMap::new());
        }
        let admin = Arc::clone(&self.admin);
        let described = tokio::task::spawn_blocking(move || {
            let names: Vec<&str> = topics.iter().map(String::as_str).collect();
            topic_id::describe(admin.inner(), &names, TIMEOUT)
        });
        let described = described.await.map_err(|_| KafkaError::Canceled)??;
        let answers = described.into_iter().map(|(topic, described)| {
            let answer = match described {
                Err(KafkaError::AdminOp(RDKafkaErrorCode::UnknownTopicOrPartition)) => Answer::Missing,
                Ok(_) | Err(KafkaError::AdminOp(RDKafkaErrorCode::TopicAuthorizationFailed)) => {
                    Answer::Refused(format!(
                        "this client's user may not ask for the settings of topic {topic}: allow it to DESCRIBE_CONFIGS the \
                         topic. Until then nobody notices if the topic is compacted"
                    ))
                }
                Err(error) => return Err(error),
            };
            Ok((topic, answer))
        });
        answers.collect()
    }
}

impl Settings {
    /// The effects on messages. Compaction keeps the last message of each key, which for definitions of series is the one that
    /// counts, and for points is one of many.
    pub fn findings(&self, topic: &str, has_points: bool, rules: &MessageRules) -> Vec<Finding> {
        let mut findings = Vec::new();
        let policy = self.text("cleanup.policy");
        let is_compacted = policy.split(',').any(|one| one.trim() == "compact");
        if is_compacted && has_points {
            findings.push(Finding::Loss(format!(
                "topic {topic} has cleanup.policy={policy}: Kafka removes points before they are read, all of a key but the last, \
                 and nobody can tell which; set cleanup.policy=delete for this topic, or publish no points to it"
            )));
        } else if is_compacted {
            findings.push(Finding::Risk(format!(
                "topic {topic} has cleanup.policy={policy}, which is right for definitions of series; of points in this topic Kafka \
                 would remove all of a key but the last"
            )));
        }
        let mut risk = |text: String| findings.push(Finding::Risk(format!("topic {topic} has {text}")));
        if let Some(ms) = self.number("retention.ms").filter(|ms| (0..SHORT_RETENTION_MS).contains(ms)) {
            risk(format!(
                "retention.ms={ms}: messages that are not read within {} become gaps; set it to more than the longest time for \
                 which the workers may be stopped",
                duration(ms)
            ));
        }
        if let Some(bytes) = self.number("retention.bytes").filter(|bytes| *bytes >= 0) {
            risk(format!(
                "retention.bytes={bytes}: messages become gaps if more than that comes to a partition while the workers are \
                 stopped"
            ));
        }
        if self.is("unclean.leader.election.enable", |value| value == "true") {
            risk(
                "unclean.leader.election.enable=true: a leader that lags may lose messages that Kafka has acknowledged, and \
                 give their offsets to others; set it to false"
                    .to_owned(),
            );
        }
        let largest = i64::try_from(rules.max_bytes).unwrap_or(i64::MAX);
        if let Some(bytes) =
            self.number("max.message.bytes").filter(|bytes| *bytes > largest.saturating_add(OVERHEAD_BYTES))
        {
            risk(format!(
                "max.message.bytes={bytes}, more than message.max_bytes = {largest}: a message in between becomes a dead letter"
            ));
        }
        findings
    }

    fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    fn is(&self, name: &str, test: impl FnOnce(&str) -> bool) -> bool {
        self.0.get(name).is_some_and(|value| test(value))
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.0.get(name)?.parse().ok()
    }
}

fn duration(ms: i64) -> String {
    match ms {
        ..1000 => format!("{ms} ms"),
        1000..120_000 => format!("{} s", ms / 1000),
        120_000..7_200_000 => format!("{} minutes", ms / 60_000),
        _ => format!("{} hours", ms / 3_600_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(settings: &[(&str, &str)], has_points: bool) -> Vec<String> {
        let map = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let rules = crate::config::Config::load(None, Vec::<(std::ffi::OsString, std::ffi::OsString)>::new()).unwrap();
        let text = |finding| match finding {
            Finding::Loss(text) => format!("loss: {text}"),
            Finding::Risk(text) => format!("risk: {text}"),
        };
        Settings(map).findings("t", has_points, &rules.message).into_iter().map(text).collect()
    }

    #[test]
    fn brokers_defaults_are_fine() {
        let defaults = [
            ("cleanup.policy", "delete"),
            ("retention.ms", "604800000"),
            ("retention.bytes", "-1"),
            ("unclean.leader.election.enable", "false"),
            ("max.message.bytes", "1048588"),
        ];
        assert_eq!(of(&defaults, true), [""; 0]);
        assert_eq!(of(&[("retention.ms", "-1")], true), [""; 0]);
    }

    #[test]
    fn compaction_of_points_is_a_loss_and_of_series_a_risk() {
        for policy in ["compact", "compact,delete", "delete, compact"] {
            let found = of(&[("cleanup.policy", policy)], true);
            assert!(found[0].starts_with(&format!("loss: topic t has cleanup.policy={policy}: ")), "{found:?}");
            let found = of(&[("cleanup.policy", policy)], false);
            assert!(found.len() == 1 && found[0].starts_with("risk: topic t has cleanup.policy="), "{found:?}");
        }
    }

    #[test]
    fn what_may_lose_messages_is_a_risk() {
        for (name, value) in [
            ("retention.ms", "60000"),
            ("retention.ms", "0"),
            ("retention.bytes", "1073741824"),
            ("unclean.leader.election.enable", "true"),
            ("max.message.bytes", "10485760"),
        ] {
            let found = of(&[(name, value)], true);
            assert!(
                found.len() == 1 && found[0].starts_with(&format!("risk: topic t has {name}={value}")),
                "{found:?}"
            );
        }
        assert!(of(&[("retention.ms", "3600000")], true)[0].contains("within 60 minutes"));
    }
}
