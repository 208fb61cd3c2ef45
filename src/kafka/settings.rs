//! librdkafka's properties: those that the guarantee depends on, and the operator's.

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;

use crate::config::Kafka;

/// Maximum size of the messages that librdkafka fetches ahead, in KiB. Its default is 64 MiB for each consumer.
const FETCHED_AHEAD_KIB: usize = 16 * 1024;

/// Maximum size of the messages that librdkafka fetches ahead, in bytes.
pub const FETCHED_AHEAD_BYTES: usize = FETCHED_AHEAD_KIB * 1024;

/// The group's partition assignor: a rebalance takes from a worker only the partitions that another one gets.
pub(super) const ASSIGNOR: &str = "cooperative-sticky";

/// Maximum size of one fetch. An answer is decompressed at once, whatever is waiting already: compressed messages may take a
/// hundred times as much memory. librdkafka's default is 50 MiB.
const ANSWER_BYTES: usize = 1024 * 1024;

/// Time that librdkafka waits while its fetch queue is full. Its default of a second is long compared with the time in which so
/// little data is written.
const FETCHED_AHEAD_BACKOFF_MS: usize = 10;

/// Maximum size of one answer, and of its decompressed contents if they are compressed with zstd. For the other codecs
/// librdkafka has no limit except the broker's, on the compressed size.
const UNPACKED_BYTES: usize = 100_000_000;

/// Time for which a broker waits for messages before it returns an empty answer.
const FETCH_WAIT_MS: usize = 100;

/// Interval between a client's requests for the topics and their partitions, after which it reads a partition that was added,
/// or a topic that was created after its start. librdkafka's default is 5 minutes.
const METADATA_REFRESH_MS: usize = 10_000;

/// The properties of every client of this program: the brokers and the operator's own.
pub fn client(kafka: &Kafka) -> ClientConfig {
    let mut properties = ClientConfig::new();
    properties.set("bootstrap.servers", &kafka.brokers);
    properties.set("client.id", "series-ingest");
    properties.set("enable.metrics.push", "false");
    properties.set("topic.metadata.refresh.interval.ms", METADATA_REFRESH_MS.to_string());
    // librdkafka forgets the metadata of a topic after this time; its documentation advises three refreshes.
    properties.set("metadata.max.age.ms", (3 * METADATA_REFRESH_MS).to_string());
    properties.set_log_level(RDKafkaLogLevel::Notice);
    // A client that is created later gets the secrets that are valid then.
    let read_again = kafka.with_secrets_read_again().ok();
    for (name, value) in read_again.as_ref().unwrap_or(kafka).properties() {
        properties.set(name, value);
    }
    properties
}

/// The properties of the consumer. Those set last cannot be changed by the operator, because the guarantee depends on them.
pub fn consumer(kafka: &Kafka) -> ClientConfig {
    let mut properties = client(kafka);
    // The consumer logs at the configured level, for all clients.
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
    // librdkafka refuses a smaller value.
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

/// Hides the value of a property that librdkafka refuses, because its error contains the value, which may be a secret.
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
