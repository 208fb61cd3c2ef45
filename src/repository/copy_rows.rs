//! The parts of the binary format of COPY that all who decode it share.
//!
//! Source: PostgreSQL's documentation, COPY, "Binary Format".

use super::Error;
use crate::database::{self, POSTGRES_EPOCH_US};

/// Length of the header, in bytes.
pub(super) const HEADER_BYTES: usize = 19;

/// An answer that is not of this format.
pub(super) fn unexpected(what: &str) -> Error {
    database::Error::Unexpected(format!("the answer of COPY cannot be read: {what}")).into()
}

/// The first bytes of a slice, which then has the rest.
pub(super) fn array<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*first)
}

/// A time of the format in microseconds since the Unix epoch.
///
/// # Errors
/// If it is infinite, or does not fit into 64 bits.
pub(super) fn time_us(time: i64, series: &str) -> Result<i64, Error> {
    let time_us = time.checked_add(POSTGRES_EPOCH_US).filter(|_| time != i64::MIN && time != i64::MAX);
    time_us.ok_or_else(|| Error::Time { series: series.to_owned() })
}
