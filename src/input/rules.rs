//! What holds for messages of all formats.

use std::collections::HashSet;
use std::sync::Arc;

use crate::message::{Limits, Reason, Rejected};
use crate::raw::headers;

/// The limits of a message, and the series whose points are rejected.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) limits: Limits,
    rejected_series: Arc<HashSet<String>>,
}

impl Rules {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, rejected_series: Arc::default() }
    }

    /// From now on points of these series are rejected, instead of those named before.
    pub(super) fn reject_series(&mut self, ids: impl IntoIterator<Item = String>) {
        self.rejected_series = Arc::new(ids.into_iter().collect());
    }

    /// Returns `true` if points of the series are rejected.
    pub(super) fn rejects(&self, id: &str) -> bool {
        !self.rejected_series.is_empty() && self.rejected_series.contains(id)
    }

    /// Checks what stands alongside a payload; `headers` are in the form of [`headers`].
    pub(super) fn check_envelope(&self, key: Option<&[u8]>, headers: Option<&[u8]>) -> Result<(), Rejected> {
        for (what, bytes) in [("key has", key), ("headers have", headers)] {
            let (length, limit) = (bytes.map_or(0, <[u8]>::len), self.limits.max_bytes);
            if length > limit {
                let detail = format!("the {what} {length} bytes, more than the {limit} allowed");
                return Err(Rejected::new(Reason::TooLarge, detail));
            }
        }
        if headers == Some(headers::UNREADABLE.as_slice()) {
            let detail = "the headers cannot be read: expected at most 100000, each with a name";
            return Err(Rejected::new(Reason::Limits, detail));
        }
        Ok(())
    }

    /// Checks the size of a payload, and that it is UTF-8 without a byte order mark; `expected` is what it should hold, in the
    /// syntax of this name.
    pub(super) fn check_text(&self, payload: &[u8], expected: &str, syntax: &str) -> Result<(), Rejected> {
        if payload.is_empty() {
            return Err(Rejected::new(Reason::Empty, format!("the payload is empty: expected {expected}")));
        }
        if payload.len() > self.limits.max_bytes {
            let detail =
                format!("the message has {} bytes, more than the {} allowed", payload.len(), self.limits.max_bytes);
            return Err(Rejected::new(Reason::TooLarge, detail));
        }
        if let Err(error) = std::str::from_utf8(payload) {
            let detail = format!("the payload is not UTF-8 (byte {})", error.valid_up_to());
            return Err(Rejected::new(Reason::Encoding, detail));
        }
        if payload.starts_with("\u{feff}".as_bytes()) {
            let detail = format!("a byte order mark stands before the {syntax} (byte 0)");
            return Err(Rejected::new(Reason::Syntax, detail));
        }
        Ok(())
    }
}
