//! Room for segments: within [`Options::max_bytes`], and on the disk.

use std::collections::HashSet;
use std::path::Path;

use super::directory::quarantine_path;
use super::error::{AppendError, Limit};
use super::files::Files;
use super::format::HEADER_BYTES;
use super::journal::{Journal, Options};
use super::payload::Encoded;
use super::stop::Stop;

impl<F: Files> Journal<F> {
    /// The size of all its segments on the disk, in bytes.
    pub(super) fn used_bytes(&self) -> u64 {
        self.index.bytes() + self.quarantined.values().sum::<u64>()
    }

    /// The length of a segment that begins with this set.
    pub(super) fn segment_bytes(&self, first: &Encoded) -> u64 {
        self.options.segment_bytes.max(HEADER_BYTES + first.source_bytes() + first.record_bytes())
    }

    /// The size of the new segments for these sets, in bytes.
    pub(super) fn needed(&self, encoded: &[Encoded]) -> u64 {
        let (mut left, mut known) = match &self.current {
            Some(current) => (current.bytes - current.position, current.sources.keys().collect()),
            None => (0, HashSet::new()),
        };
        let mut needed = 0;
        for next in encoded {
            let with_source = |is_known: bool| next.record_bytes() + if is_known { 0 } else { next.source_bytes() };
            if with_source(known.contains(&next.source)) > left {
                let bytes = self.segment_bytes(next);
                needed += bytes;
                left = bytes - HEADER_BYTES;
                known.clear();
            }
            left -= with_source(!known.insert(&next.source));
        }
        needed
    }

    /// Fails if there is no room for new segments of this size; segments in quarantine are deleted to make room, the oldest
    /// first.
    pub(super) fn check_room(&mut self, needed_bytes: u64) -> Result<(), Stop> {
        let is_reserved = self.current.as_ref().is_none_or(|current| current.is_allocated);
        if needed_bytes == 0 && is_reserved {
            return Ok(());
        }
        loop {
            let used_bytes = self.used_bytes();
            let free = || self.files.free_bytes(&self.options.directory);
            let limit = if needed_bytes > 0 && used_bytes.saturating_add(needed_bytes) > self.options.max_bytes {
                Limit::MaxBytes
            } else if free()? < needed_bytes.saturating_add(self.options.min_free_bytes) {
                Limit::MinFreeBytes
            } else {
                return Ok(());
            };
            if !self.delete_quarantined() {
                return Err(Stop::Full(AppendError::Full { limit, used_bytes, needed_bytes }));
            }
        }
    }

    /// Deletes the oldest segment in quarantine, if there is one.
    pub(super) fn delete_quarantined(&mut self) -> bool {
        let Some((number, bytes)) = self.quarantined.pop_first() else { return false };
        match self.files.unlink(&quarantine_path(&self.options.directory, number)) {
            Ok(()) => {
                tracing::warn!(segment = number, bytes, "a segment in quarantine was deleted, its space is needed")
            }
            Err(error) => tracing::warn!(segment = number, %error, "a segment in quarantine was not deleted"),
        }
        true
    }

    /// The disk has no room for these bytes.
    pub(super) fn disk_is_full(&self, needed_bytes: u64) -> Stop {
        Stop::Full(AppendError::Full { limit: Limit::Disk, used_bytes: self.used_bytes(), needed_bytes })
    }
}

/// Fails if the volume at a place would have no room for a segment even if the used bytes were free.
pub(super) fn check_volume<F: Files>(files: &F, place: &Path, options: &Options, used_bytes: u64) -> Result<(), Stop> {
    let free_bytes = files.free_bytes(place)?.saturating_add(used_bytes);
    let needed_bytes = options.segment_bytes.saturating_add(options.min_free_bytes);
    if free_bytes < needed_bytes {
        return Err(Stop::Full(AppendError::NoRoom { free_bytes, needed_bytes }));
    }
    Ok(())
}
