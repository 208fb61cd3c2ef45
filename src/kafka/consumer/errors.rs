//! Error handling of the consumer.

use std::sync::Arc;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tracing::{debug, error, warn};

use super::ConsumerThread;
use crate::kafka::auth;
use crate::kafka::events::{Assigned, Event, ReadPosition};

impl ConsumerThread {
    /// Handles an error of the consumer. Returns `true` if the consumer must be replaced.
    pub(super) fn on_error(&mut self, error: &KafkaError) -> bool {
        match error {
            KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset) => {
                let reading = self
                    .assignment
                    .readers()
                    .map(|(epoch, reader)| {
                        let assigned = Assigned { partition: reader.partition(), epoch };
                        ReadPosition { assigned, source: Arc::clone(reader.source()), offset: reader.position() }
                    })
                    .collect();
                self.send_event(Event::OffsetsLost(reading));
            }
            KafkaError::MessageConsumptionFatal(code) => {
                if let Some(unlogged) = self.log.happened("failed", 1) {
                    error!(%code, unlogged, "the consumer has failed for good; it is recreated");
                }
                self.record_refusal(*code);
                return true;
            }
            // The reason is logged once, when it begins: librdkafka repeats the error at each attempt to join.
            KafkaError::MessageConsumption(code) if self.record_refusal(*code) => {}
            KafkaError::MessageConsumption(RDKafkaErrorCode::PollExceeded) => {
                warn!("this worker did not poll Kafka for max.poll.interval.ms and has left its group; it joins again");
                self.send_event(Event::Revoked { partitions: Vec::new(), lost: true });
            }
            // librdkafka does not name the partition. It stays at its position, and the others continue.
            KafkaError::MessageConsumption(
                code @ (RDKafkaErrorCode::BadMessage
                | RDKafkaErrorCode::BadCompression
                | RDKafkaErrorCode::NotImplemented),
            ) => {
                if let Some(unlogged) = self.log.happened("damaged", 1) {
                    error!(
                        %code,
                        unlogged,
                        "a message in Kafka's log is damaged, or decompresses to more than receive.message.max.bytes; its partition cannot \
                         be read past it"
                    )
                }
            }
            // Brokers come and go; librdkafka reconnects by itself, and lag shows whether it matters. The reason was logged by
            // the context, which gets more details.
            other => debug!(error = %other, "reading from Kafka is disturbed"),
        }
        false
    }

    /// Records why the group does not let this worker join. Returns `true` if that is what the error says.
    fn record_refusal(&self, code: RDKafkaErrorCode) -> bool {
        let Some(reason) = auth::group_refusal(code, &self.kafka) else { return false };
        // This one is not only about joining: librdkafka reports it of the request for the coordinator as well, and the member
        // keeps its partitions. If it loses them, a revocation follows.
        if code != RDKafkaErrorCode::GroupAuthorizationFailed || self.assignment.owned().is_empty() {
            self.health.update_facts(|facts| facts.group.refuse(reason));
        }
        true
    }
}
