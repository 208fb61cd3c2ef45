//! A message that cannot be written, as stored in the database and published to the dead-letter topic.

use crate::message::Rejected;
use crate::raw::{MessageAt, RawMessage};

/// Maximum length of a rejected message's key and of its payload in a dead letter, in bytes each.
pub const DEAD_LETTER_PAYLOAD_BYTES: usize = 64 * 1024;

/// A message that cannot be written, with the reason.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The message's position and time.
    pub at: MessageAt,
    /// The head of its key, at most [`DEAD_LETTER_PAYLOAD_BYTES`].
    pub key: Option<Vec<u8>>,
    /// The head of its payload, at most [`DEAD_LETTER_PAYLOAD_BYTES`].
    pub payload: Option<Vec<u8>>,
    /// The payload's full length, in bytes.
    pub payload_bytes: usize,
    /// The key's full length, in bytes.
    pub key_bytes: Option<usize>,
    /// Its headers, as [`headers`](crate::raw::headers) encodes them, as far as they fit into [`DEAD_LETTER_PAYLOAD_BYTES`].
    pub headers: Option<Vec<u8>>,
    /// The headers' full length in that form, in bytes.
    pub headers_bytes: Option<usize>,
    /// Why it was rejected.
    pub rejected: Rejected,
}

impl DeadLetter {
    /// The message as a dead letter, with the heads of its parts.
    pub(super) fn new(message: &RawMessage<'_>, at: MessageAt, rejected: Rejected) -> Self {
        let head = |bytes: &[u8]| bytes[..bytes.len().min(DEAD_LETTER_PAYLOAD_BYTES)].to_vec();
        Self {
            at,
            key: message.key.map(head),
            payload: message.payload.map(head),
            payload_bytes: message.payload.map_or(0, <[u8]>::len),
            key_bytes: message.key.map(<[u8]>::len),
            headers: message.headers.map(head),
            headers_bytes: message.headers.map(<[u8]>::len),
            rejected,
        }
    }

    /// The memory it uses, in bytes, including the copy in the statement that stores it.
    pub fn bytes(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let held = length(&self.key) + length(&self.payload) + length(&self.headers);
        2 * (size_of::<Self>() + held + self.rejected.detail.len())
    }
}
