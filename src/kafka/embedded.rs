//! A Kafka broker inside this process: librdkafka's mock cluster. Real protocol over loopback, no persistence: for the demo
//! and for tests of single faults, never the only proof of anything.

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

/// The running broker; it ends when dropped.
pub struct EmbeddedKafka {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl std::fmt::Debug for EmbeddedKafka {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedKafka").field("brokers", &self.brokers()).finish()
    }
}

impl EmbeddedKafka {
    /// Starts one broker on a free port of loopback.
    ///
    /// # Errors
    /// If librdkafka cannot start it.
    pub fn start() -> Result<Self, KafkaError> {
        Ok(Self { cluster: MockCluster::new(1)? })
    }

    /// Its address, `host:port`.
    pub fn brokers(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// If librdkafka refuses it.
    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<(), KafkaError> {
        self.cluster.create_topic(name, partitions, 1)
    }

    /// The properties of a client of this broker.
    pub fn client(&self) -> ClientConfig {
        let mut properties = ClientConfig::new();
        properties.set("bootstrap.servers", self.brokers());
        properties
    }
}
