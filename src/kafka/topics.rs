//! Requests about topics, each for all of them at once.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;
use std::time::Instant;

use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::auth::Refused;
use super::lookup::{Lookup, TIMEOUT, is_missing_topic, is_silence};
use super::topic_id::{self, Described, Topic};

impl Lookup {
    /// The topics as the brokers describe them, in one request; a name that is given twice is requested once.
    ///
    /// # Errors
    /// If the brokers do not answer.
    pub fn topics(&self, names: &[&str]) -> Result<Described, KafkaError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        // librdkafka refuses a list that contains a duplicate name.
        let mut seen = HashSet::new();
        let names: Vec<&str> = names.iter().copied().filter(|name| seen.insert(*name)).collect();
        let described = self.ask(Refused::Topic, |client| topic_id::describe(client.client(), &names, TIMEOUT));
        self.record_answer(described)
    }

    /// A topic as the brokers describe it.
    ///
    /// # Errors
    /// If the brokers do not answer, or the topic does not exist or may not be seen.
    pub fn topic(&self, name: &str) -> Result<Topic, KafkaError> {
        let described = self.topics(&[name])?.into_iter().next();
        described.map_or(Err(KafkaError::AdminOp(RDKafkaErrorCode::BadMessage)), |(_, topic)| topic)
    }

    /// The ids of topics in base 64, by name; those that do not exist, and those of brokers that give no ids, are omitted.
    ///
    /// # Errors
    /// If the brokers do not answer, or some topic may not be seen.
    pub fn topic_ids(&self, names: &[&str]) -> Result<HashMap<String, String>, KafkaError> {
        let mut ids = HashMap::new();
        for (name, topic) in self.topics(names)? {
            match topic {
                Ok(topic) => ids.extend(topic.id.map(|id| (name, id))),
                Err(error) if is_missing_topic(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ids)
    }

    /// The names of all topics that this client's user may see.
    ///
    /// # Errors
    /// If the brokers do not answer.
    pub fn topic_names(&self) -> Result<Vec<String>, KafkaError> {
        let metadata = self.record_answer(self.ask(Refused::Topic, |client| client.fetch_metadata(None, TIMEOUT)))?;
        let there = metadata.topics().iter().filter(|topic| topic.error().is_none());
        Ok(there.map(|topic| topic.name().to_owned()).collect())
    }

    /// Records that a broker has answered, unless the answer is silence.
    fn record_answer<T>(&self, answer: Result<T, KafkaError>) -> Result<T, KafkaError> {
        if answer.as_ref().err().is_none_or(|error| !is_silence(error)) {
            *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        answer
    }

    /// A topic to name in a request about no topic; `None`, which means all topics, if the configuration names none.
    pub(super) fn any_topic(&self) -> Option<&str> {
        [&self.kafka.points_topic, &self.kafka.series_topic]
            .into_iter()
            .find(|topic| !topic.is_empty())
            .map(String::as_str)
    }
}
