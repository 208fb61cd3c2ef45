//! Collects messages into the sets of their partitions, and sends these to the pipeline.

use rdkafka::message::{BorrowedMessage, Message as _};
use tokio::sync::mpsc::UnboundedSender;
use tracing::debug;

use crate::kafka::assignment::{Assignment, Reader};
use crate::kafka::events::Messages;
use crate::kafka::headers;
use crate::raw::{Budget, RawMessage};

/// Sends message sets to the pipeline, charged to the budget.
pub(super) struct SetSender {
    budget: Budget,
    messages: UnboundedSender<Messages>,
    sent: u64,
}

impl SetSender {
    pub(super) fn new(budget: Budget, messages: UnboundedSender<Messages>) -> Self {
        Self { budget, messages, sent: 0 }
    }

    /// The budget that the sets are charged to.
    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The number of sets sent so far.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Sends the reader's set, unless it is empty.
    pub(super) fn hand_on(&mut self, reader: &mut Reader, epoch: u64) {
        let Some(set) = reader.take_set(&self.budget) else { return };
        self.sent += 1;
        // The pipeline ends only with the process, when the set no longer matters.
        if self.messages.send(Messages { set, epoch }).is_err() {
            debug!("the pipeline has ended already");
        }
    }
}

/// Adds a message to its partition's set. Returns the reader if the set is now full.
pub(super) fn add_message<'a>(
    assignment: &'a mut Assignment,
    message: &BorrowedMessage<'_>,
) -> Option<(&'a mut Reader, u64)> {
    let owned = assignment.get(message.topic(), message.partition())?;
    let epoch = owned.epoch;
    let reader = owned.reader.as_mut()?;
    let headers = headers::encode_of(message);
    let raw = RawMessage {
        offset: message.offset(),
        time_ms: message.timestamp().to_millis(),
        key: message.key(),
        payload: message.payload(),
        headers: headers.as_deref(),
    };
    match reader.push(&raw) {
        None => {
            debug!(topic = message.topic(), partition = message.partition(), offset = raw.offset, "read twice");
            None
        }
        Some(false) => None,
        Some(true) => Some((reader, epoch)),
    }
}
