//! librdkafka's properties: ours, which the guarantee rests on, and the operator's.

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;

use crate::config::Kafka;

/// What librdkafka may hold of messages fetched ahead, in KiB. Its default is 64 MiB for each consumer.
const FETCHED_AHEAD_KIB: usize = 16 * 1024;

/// The bytes that librdkafka may hold of messages fetched ahead.
pub const FETCHED_AHEAD_BYTES: usize = FETCHED_AHEAD_KIB * 1024;

/// How the group divides its partitions: a rebalance takes only those from a worker that another one gets.
pub(super) const ASSIGNOR: &str = "cooperative-sticky";

/// What librdkafka asks a broker for at a time. All of an answer is decompressed at once, whatever waits already: of compressed
/// messages it may be a hundred times as much in memory. Its default is 50 MiB.
const ANSWER_BYTES: usize = 1024 * 1024;

/// How long librdkafka waits, while it holds as much as it may, before it looks again. Its default of a second is long against
/// the time in which so few bytes are written.
const FETCHED_AHEAD_BACKOFF_MS: usize = 10;

/// What librdkafka takes of one answer, and up to which it decompresses what is compressed by zstd. Of the other codecs it knows no
/// limit but the broker's, on what is compressed.
const UNPACKED_BYTES: usize = 100_000_000;

/// How long a broker waits for messages before it answers with none.
const FETCH_WAIT_MS: usize = 100;

/// How often a client asks for the topics and their partitions: so soon it reads a partition that was added, and a topic that
/// was created after its start. librdkafka's default is 5 minutes.
const METADATA_REFRESH_MS: usize = 10_000;

/// The properties of every client of this program: the brokers and the operator's own.
pub fn client(kafka: &Kafka) -> ClientConfig {
    let mut properties = ClientConfig::new();
    properties.set("bootstrap.servers", &kafka.brokers);
    properties.set("client.id", "series-ingest");
    properties.set("enable.metrics.push", "false");
    properties.set("topic.metadata.refresh.interval.ms", METADATA_REFRESH_MS.to_string());
    // librdkafka forgets what it knows of a topic after this time; its documentation advises three refreshes.
    properties.set("metadata.max.age.ms", (3 * METADATA_REFRESH_MS).to_string());
    properties.set_log_level(RDKafkaLogLevel::Notice);
    // A client that is made later than the others has the secrets that are valid then.
    let read_again = kafka.with_secrets_read_again().ok();
    for (name, value) in read_again.as_ref().unwrap_or(kafka).properties() {
        properties.set(name, value);
    }
    properties
}

/// The properties of the consumer. Those set last cannot be changed by the operator: the guarantee rests on them.
pub fn consumer(kafka: &Kafka) -> ClientConfig {
    let mut properties = client(kafka);
    // What the other clients log as well, this one logs for all of them.
    properties.log_level = ClientConfig::new().log_level;
    let ours = [
        ("queued.max.messages.kbytes", FETCHED_AHEAD_KIB),
        ("fetch.queue.backoff.ms", FETCHED_AHEAD_BACKOFF_MS),
        ("fetch.max.bytes", ANSWER_BYTES),
        ("receive.message.max.bytes", UNPACKED_BYTES),
        ("fetch.wait.max.ms", FETCH_WAIT_MS),
    ];
    for (name, value) in ours {
        if properties.get(name).is_none() {
            properties.set(name, value.to_string());
        }
    }
    // librdkafka refuses a smaller one.
    let bytes_of = |name| properties.get(name).and_then(|value| value.parse::<usize>().ok()).unwrap_or(0);
    let largest_message = bytes_of("message.max.bytes");
    if bytes_of("fetch.max.bytes") < largest_message {
        properties.set("fetch.max.bytes", largest_message.to_string());
    }
    properties.set("group.id", &kafka.group_id);
    properties.set("session.timeout.ms", kafka.session_timeout_ms.to_string());
    properties.set("heartbeat.interval.ms", (kafka.session_timeout_ms / 10).clamp(200, 3000).to_string());
    properties.set("partition.assignment.strategy", ASSIGNOR);
    properties.set("enable.auto.commit", "false");
    properties.set("enable.auto.offset.store", "false");
    properties.set("auto.offset.reset", "error");
    properties.set("isolation.level", "read_committed");
    properties.set("check.crcs", "true");
    properties.set("enable.partition.eof", "false");
    properties.set("statistics.interval.ms", "0");
    properties
}

/// librdkafka names the value of a property that it refuses, and that may be a secret.
pub(super) fn without_value(error: KafkaError) -> KafkaError {
    match error {
        KafkaError::ClientConfig(result, description, name, _) => {
            KafkaError::ClientConfig(result, description, name, "***".to_owned())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_consumer_has_all_of_the_operators_properties() {
        let own = [
            ("sasl.username", "worker"),
            ("sasl.password", "secret"),
            ("ssl.key.password", "secret"),
            ("ssl.keystore.password", "secret"),
            ("sasl.oauthbearer.client.secret", "secret"),
            ("fetch.max.bytes", "2000000"),
        ];
        let variable =
            |name: &str| format!("SERIES_INGEST__KAFKA__PROPERTIES__{}", name.to_uppercase().replace('.', "_"));
        let environment = own.map(|(name, value)| (variable(name).into(), value.into()));
        let kafka = Config::load(None, environment).unwrap().kafka;
        let consumer = consumer(&kafka);
        for (name, value) in own {
            assert_eq!(consumer.get(name), Some(value), "{name}");
        }
        assert_eq!(consumer.get("receive.message.max.bytes"), Some(UNPACKED_BYTES.to_string().as_str()));
    }
}
