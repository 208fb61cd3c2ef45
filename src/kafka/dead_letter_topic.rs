//! Copies of dead letters in a topic, with the headers that Kafka Connect's `DeadLetterQueueReporter` adds, so that tools for
//! its topics can read them. Key, payload, time and all other headers are those of the message.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};

use tracing::{debug, warn};

use super::auth::{AuthContext, Refused};
use super::settings;
use crate::config::Kafka;
use crate::telemetry::log_limit::LogLimit;

/// Timeout for librdkafka to deliver a copy. A copy that is not delivered is retried later.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(20);
/// Further timeout for librdkafka's delivery report.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Kafka Connect's failed stage of messages that could not be decoded; that of all others is `WRITING`.
const BEFORE_WRITING: &str = "VALUE_CONVERTER";
const WRITING: &str = "TASK_PUT";

/// The prefix of Kafka Connect's header names.
const PREFIX: &str = "__connect.errors.";

/// A message, and the reason why it became a dead letter.
#[derive(Debug)]
pub struct Letter {
    /// Its topic.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// Kafka's offset.
    pub offset: i64,
    /// Kafka's time, in milliseconds since the Unix epoch.
    pub time_ms: Option<i64>,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// Its own headers.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// The payload.
    pub payload: Option<Vec<u8>>,
    /// The parts that are truncated, `key`, `headers` or `payload`, each with its full length.
    pub cut_from: Vec<(&'static str, i64)>,
    /// `true` if it could not be decoded, `false` if the database refused it.
    pub undecodable: bool,
    /// A word of the closed list.
    pub reason: String,
    /// The details of the error.
    pub detail: String,
}

/// The result of publishing a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// The broker has it.
    Delivered,
    /// It is retried later.
    Failed,
    /// The broker refuses it, and always will.
    Refused,
}

struct Deliveries {
    login: AuthContext,
    log: LogLimit,
    outcomes: Mutex<Vec<(usize, Result<(), KafkaError>)>>,
}

impl ClientContext for Deliveries {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.login.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match self.login.record_error(&error, reason) {
            Some(refusal) => {
                if let Some(repeated) = self.log.lasts("refusal", &refusal) {
                    let (seconds, unlogged) = (repeated.seconds, repeated.unlogged);
                    warn!(refusal, seconds, unlogged, "Kafka does not let copies of dead letters be published");
                }
            }
            None => debug!(%error, reason, "librdkafka reports an error of the dead-letter topic's producer"),
        }
    }

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.login.generate_oauth_token(config)
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, index: usize) {
        let outcome = result.as_ref().map(drop).map_err(|(error, _)| error.clone());
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).push((index, outcome));
    }
}

/// Classifies the error of a copy.
fn classify(error: &KafkaError) -> Published {
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::InvalidRecord
            | RDKafkaErrorCode::InvalidMessage
            | RDKafkaErrorCode::InvalidTimestamp,
        ) => Published::Refused,
        _ => Published::Failed,
    }
}

/// Publishes copies of dead letters.
pub struct DeadLetterTopic {
    producer: BaseProducer<Deliveries>,
    topic: String,
    pipeline: String,
}

impl std::fmt::Debug for DeadLetterTopic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadLetterTopic").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl DeadLetterTopic {
    /// A publisher for the configured topic, in the name of a pipeline.
    ///
    /// # Errors
    /// If librdkafka refuses a property.
    pub fn new(kafka: &Kafka, pipeline: &str) -> Result<Self, KafkaError> {
        let mut properties = settings::client(kafka);
        properties.set("message.timeout.ms", DELIVERY_TIMEOUT.as_millis().to_string());
        // The broker decides which sizes it accepts.
        properties.set("message.max.bytes", "100000000");
        let deliveries =
            Deliveries { login: AuthContext::new(kafka), log: LogLimit::default(), outcomes: Mutex::default() };
        let producer = properties.create_with_context(deliveries).map_err(settings::without_value)?;
        Ok(Self { producer, topic: kafka.dead_letter_topic.clone(), pipeline: pipeline.to_owned() })
    }

    /// Publishes letters, and waits for the result of each. Returns the results, and the reason why one must be retried.
    /// Blocks, for less than half a minute.
    pub fn publish(&self, letters: &[Letter]) -> (Vec<Published>, Option<String>) {
        let mut outcomes = vec![Published::Failed; letters.len()];
        let mut why = None;
        self.producer.context().login.renew(self.producer.client());
        // Delivery reports of an earlier call that was given up.
        self.deliveries().clear();
        let mut waiting = 0;
        for (index, letter) in letters.iter().enumerate() {
            let mut record: BaseRecord<'_, [u8], [u8], usize> =
                BaseRecord::with_opaque_to(&self.topic, index).headers(headers(letter, &self.pipeline));
            record.key = letter.key.as_deref();
            record.payload = letter.payload.as_deref();
            record.timestamp = letter.time_ms;
            match self.producer.send(record) {
                Ok(()) => waiting += 1,
                Err((error, _)) => self.record_failure(&error, &mut outcomes[index], &mut why),
            }
        }
        let deadline = Instant::now() + DELIVERY_TIMEOUT + ANSWER_TIMEOUT;
        while waiting > 0 && Instant::now() < deadline {
            self.producer.poll(Duration::from_millis(100));
            for (index, outcome) in self.deliveries().drain(..) {
                match outcome {
                    Ok(()) => {
                        outcomes[index] = Published::Delivered;
                        self.producer.context().login.record_success(Refused::Connection);
                    }
                    Err(error) => self.record_failure(&error, &mut outcomes[index], &mut why),
                }
                waiting -= 1;
            }
        }
        if waiting > 0 {
            // Their delivery reports must not arrive in a later call.
            self.producer.purge(rdkafka::producer::PurgeConfig::default().queue().inflight());
            self.producer.poll(Duration::ZERO);
            why.get_or_insert_with(|| "Kafka does not say what became of copies".to_owned());
        }
        (outcomes, why)
    }

    /// Records why a copy was not published.
    fn record_failure(&self, error: &KafkaError, outcome: &mut Published, why: &mut Option<String>) {
        debug!(%error, "a copy of a dead letter was not published");
        *outcome = classify(error);
        if *outcome == Published::Failed {
            *why = Some(self.explain(error));
        }
    }

    fn explain(&self, error: &KafkaError) -> String {
        let topic = &self.topic;
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => format!(
                "Kafka refuses topic {topic}; allow this client's user to WRITE and DESCRIBE the topic of \
                 kafka.dead_letter_topic: {error}"
            ),
            Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition) => {
                format!("there is no topic {topic}; create the topic of kafka.dead_letter_topic: {error}")
            }
            _ => self.producer.context().login.refused().unwrap_or_else(|| error.to_string()),
        }
    }

    fn deliveries(&self) -> std::sync::MutexGuard<'_, Vec<(usize, Result<(), KafkaError>)>> {
        self.producer.context().outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The message's own headers, followed by those of Kafka Connect. Kafka Connect leaves the headers of an earlier copy before
/// its own, for readers that take the last of a name; here they are omitted, because not all readers do, and not all names are
/// repeated.
fn headers(letter: &Letter, pipeline: &str) -> OwnedHeaders {
    let stage = if letter.undecodable { BEFORE_WRITING } else { WRITING };
    let class =
        if letter.undecodable { "series_ingest::message::Decoder" } else { "series_ingest::database::Database" };
    let mut ours = vec![
        ("topic", letter.topic.clone()),
        ("partition", letter.partition.to_string()),
        ("offset", letter.offset.to_string()),
        ("connector.name", pipeline.to_owned()),
        ("task.id", "0".to_owned()),
        ("stage", stage.to_owned()),
        ("class.name", class.to_owned()),
        ("exception.class.name", letter.reason.clone()),
        ("exception.message", letter.detail.clone()),
        ("exception.stacktrace", format!("{}: {}", letter.reason, letter.detail)),
    ];
    for (part, bytes) in &letter.cut_from {
        let name = match *part {
            "key" => "key.bytes",
            "headers" => "headers.bytes",
            _ => "payload.bytes",
        };
        ours.push((name, bytes.to_string()));
    }
    let own = letter.headers.iter().filter(|(name, _)| !name.starts_with(PREFIX));
    let mut all = OwnedHeaders::new_with_capacity(letter.headers.len() + ours.len());
    for (key, value) in own {
        all = all.insert(Header { key, value: value.as_deref() });
    }
    for (name, value) in ours {
        all = all.insert(Header { key: &format!("{PREFIX}{name}"), value: Some(&value) });
    }
    all
}

#[cfg(test)]
mod tests {
    use rdkafka::message::Headers as _;

    use super::*;

    #[test]
    fn headers_of_an_earlier_copy_are_omitted() {
        let of_message = [
            ("trace", Some("1")),
            ("__connect.errors.topic", Some("of an earlier copy")),
            ("__connect.errors.payload.bytes", Some("9")),
            ("trace", None),
        ];
        let letter = Letter {
            topic: "t".to_owned(),
            partition: 3,
            offset: 4,
            time_ms: None,
            key: None,
            headers: of_message
                .map(|(name, value)| (name.to_owned(), value.map(|text| text.as_bytes().to_vec())))
                .into(),
            payload: None,
            cut_from: vec![("key", 70_000)],
            undecodable: true,
            reason: "schema".to_owned(),
            detail: "why".to_owned(),
        };
        let headers = headers(&letter, "p");
        let all: Vec<(&str, Option<&str>)> =
            headers.iter().map(|one| (one.key, one.value.map(|value| str::from_utf8(value).unwrap()))).collect();
        assert_eq!(all[..3], [("trace", Some("1")), ("trace", None), ("__connect.errors.topic", Some("t"))]);
        let mut names: Vec<&str> = all[2..].iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len() - 2, "each of ours is there once");
        assert_eq!(all.last(), Some(&("__connect.errors.key.bytes", Some("70000"))));
    }
}
