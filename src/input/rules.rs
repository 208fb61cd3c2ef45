//! The rules for messages of all formats.

use std::collections::HashSet;
use std::sync::Arc;

use crate::message::faults::checked_name;
use crate::message::json::Fault;
use crate::message::timestamp::YEAR_ONE_US;
use crate::message::{Limits, Points, Reason, Rejected, SeriesIndex};
use crate::raw::headers;

/// The limits of a message, and the series whose points are rejected.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) limits: Limits,
    /// The age from which points are rejected, in microseconds; `None` for the time in the limits.
    pub(super) max_age_us: Option<i64>,
    rejected_series: Arc<HashSet<String>>,
    /// `true` if a null payload in a topic of series deletes the series that its key names.
    pub(super) deletes_by_tombstone: bool,
}

impl Rules {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, max_age_us: None, rejected_series: Arc::default(), deletes_by_tombstone: false }
    }

    /// Sets the first accepted time from the age and the clock, if there is an age; `of_file`: all times are accepted.
    pub(super) fn update_age(&mut self, of_file: bool) {
        if let Some(age_us) = self.max_age_us {
            let now_us = || jiff::Timestamp::now().as_microsecond();
            self.limits.min_us = if of_file { YEAR_ONE_US } else { now_us().saturating_sub(age_us) };
        }
    }

    /// Rejects points of these series from now on, instead of those set before.
    pub(super) fn reject_series(&mut self, ids: impl IntoIterator<Item = String>) {
        self.rejected_series = Arc::new(ids.into_iter().collect());
    }

    /// Returns `true` if points of the series are rejected.
    pub(super) fn rejects(&self, id: &str) -> bool {
        !self.rejected_series.is_empty() && self.rejected_series.contains(id)
    }

    /// Returns the text, which begins at the byte `at`, if it is valid as a series' id or a column's name.
    pub(super) fn name<'a>(&self, text: &'a str, at: usize) -> Result<&'a str, Fault> {
        if text.as_bytes().contains(&0) {
            return Err(Fault::nul(at));
        }
        checked_name(at, text, self.limits.max_name_bytes)
    }

    /// Returns the index of a series named at the message's byte `at`, unless its points are rejected.
    pub(super) fn series(&self, id: &str, at: usize, points: &mut Points) -> Result<SeriesIndex, Fault> {
        let id = self.name(id, at)?;
        if self.rejects(id) {
            return Err(Fault::new(Reason::UnknownSeries, at, "no series-create has come for this series"));
        }
        Ok(points.series(id))
    }

    /// Checks the key and the headers of a message; `headers` are in the form of [`headers`].
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

    /// Returns the text of a payload, if it is not too large, and UTF-8 without a byte order mark; `expected` names its
    /// contents, in the syntax of this name.
    pub(super) fn check_text<'a>(&self, payload: &'a [u8], expected: &str, syntax: &str) -> Result<&'a str, Rejected> {
        if payload.is_empty() {
            return Err(Rejected::new(Reason::Empty, format!("the payload is empty: expected {expected}")));
        }
        if payload.len() > self.limits.max_bytes {
            let detail =
                format!("the message has {} bytes, more than the {} allowed", payload.len(), self.limits.max_bytes);
            return Err(Rejected::new(Reason::TooLarge, detail));
        }
        let text = std::str::from_utf8(payload).map_err(|error| {
            let detail = format!("the payload is not UTF-8 (byte {})", error.valid_up_to());
            Rejected::new(Reason::Encoding, detail)
        })?;
        if text.starts_with('\u{feff}') {
            let detail = format!("a byte order mark stands before the {syntax} (byte 0)");
            return Err(Rejected::new(Reason::Syntax, detail));
        }
        Ok(text)
    }
}
