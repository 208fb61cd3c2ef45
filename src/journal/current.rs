//! The segment that is written.

use std::collections::HashMap;
use std::sync::Arc;

use super::files::{Files, Seen};
use super::payload::Encoded;
use crate::raw::Source;

/// The segment that is written.
#[derive(Debug)]
pub(super) struct Current<F: Files> {
    pub(super) number: u64,
    pub(super) file: F::File,
    pub(super) seen: Seen,
    /// Where the next record begins.
    pub(super) position: u64,
    /// Its length, in bytes.
    pub(super) bytes: u64,
    /// `true` if its space on the disk is allocated.
    pub(super) is_allocated: bool,
    /// The sources that have a record in it, with their numbers.
    pub(super) sources: HashMap<Arc<Source>, u32>,
}

impl<F: Files> Current<F> {
    /// Returns `true` if the set's record fits into the segment, with its source's if that is not there yet.
    pub(super) fn fits(&self, next: &Encoded) -> bool {
        let source = if self.sources.contains_key(&next.source) { 0 } else { next.source_bytes() };
        self.position + source + next.record_bytes() <= self.bytes
    }
}
