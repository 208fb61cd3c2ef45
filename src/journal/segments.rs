//! The segments: created, sealed, fenced and removed.

use std::collections::HashMap;
use std::io;

use super::current::Current;
use super::directory::{quarantine_path, segment_path};
use super::files::Files;
use super::format::{HEADER_BYTES, SegmentHeader};
use super::index::Segment;
use super::journal::Journal;
use super::planted::{self, Bug};
use super::stop::{Stop, is_out_of_space};

impl<F: Files> Journal<F> {
    /// Creates the segment that is written from now on, complete and durable before its first record: a full disk is detected
    /// here.
    pub(super) fn make_segment(&mut self, bytes: u64) -> Result<Current<F>, Stop> {
        self.check_room(bytes)?;
        let number = self.next_number;
        let path = segment_path(&self.options.directory, number);
        let header = SegmentHeader { number, previous: self.previous, first_sequence: self.next_sequence, id: self.id };
        // Even if that fails: a file of that name may be left.
        self.next_number += 1;
        let make = || {
            let file = self.files.create(&path)?;
            let is_allocated = match self.files.allocate(&file, bytes) {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::Unsupported => false,
                Err(error) => return Err(error),
            };
            self.files.write_at(&file, &header.encode(), 0)?;
            self.files.sync_data(&file)?;
            if !planted::is_on(Bug::NoDirectorySync) {
                self.files.sync_directory(&self.options.directory)?;
            }
            let seen = self.files.metadata_of(&file)?;
            Ok((file, seen, is_allocated))
        };
        let (file, seen, is_allocated) = match make() {
            Ok(made) => made,
            Err(error) => {
                // It may not exist. If it stays, the next opening recognizes it as an orphan: no segment names it.
                let _ = self.files.unlink(&path);
                if !is_out_of_space(&error) {
                    return Err(error.into());
                }
                return if self.delete_quarantined() {
                    self.make_segment(bytes)
                } else {
                    Err(self.disk_is_full(bytes))
                };
            }
        };
        self.index.segments.insert(number, Segment { bytes, ..Segment::default() });
        Ok(Current { number, file, seen, position: HEADER_BYTES, bytes, is_allocated, sources: HashMap::new() })
    }

    /// Ends the segment that is written, and releases the space that it does not use.
    pub(super) fn seal(&mut self) {
        let Some(current) = self.current.take() else { return };
        if self.drop_unused(current.number) {
            return;
        }
        let Some(segment) = self.index.segments.get_mut(&current.number) else { return };
        segment.sealed = true;
        if !current.is_allocated {
            segment.bytes = current.position;
        } else if current.position < current.bytes {
            // Not synced: after a crash the zeros are there again, and cut off again.
            match self.files.truncate(&current.file, current.position) {
                Ok(()) => segment.bytes = current.position,
                Err(error) => tracing::warn!(segment = current.number, %error, "a segment keeps its unused space"),
            }
        }
    }

    /// Ends a segment whose write or fdatasync failed. It is not known what of that write is on the disk, and a second
    /// fdatasync would report all of it: so there is none, and no other write either. Acknowledged records in it stay
    /// readable.
    pub(super) fn fence(&mut self, number: u64, error: &io::Error) {
        tracing::warn!(segment = number, %error, "writing to a segment failed, it is not written any more");
        if self.drop_unused(number) {
            return;
        }
        if let Some(segment) = self.index.segments.get_mut(&number) {
            segment.sealed = true;
            segment.fenced = true;
        }
    }

    /// Removes a segment in which nothing was acknowledged: a disk that fails for hours must not fill with them. No other
    /// segment will name it as the one before, so it will not be reported as missing.
    fn drop_unused(&mut self, number: u64) -> bool {
        let is_unused = self.previous != number;
        let has_gone = is_unused && self.files.unlink(&segment_path(&self.options.directory, number)).is_ok();
        if has_gone {
            self.index.forget(number);
        }
        has_gone
    }

    /// Removes a segment whose records are no longer needed; a damaged one is kept under another name, to be examined, until
    /// its space is needed. Segments are removed in the order of their numbers, so that a missing number always means damage:
    /// one that is not the oldest loses its records at once, and its file when all older ones are removed. If the process ends
    /// before, its records are there again. A number that the journal does not have is not an error.
    ///
    /// # Errors
    /// Those of the file system. The segment then stays, or comes back after a crash: try again.
    pub fn remove_segment(&mut self, number: u64) -> io::Result<()> {
        if self.gone.is_some() {
            // The files in the directory may now be another process's.
            return Ok(());
        }
        if self.current.as_ref().is_some_and(|current| current.number == number) {
            self.seal();
        }
        match self.index.segments.get_mut(&number) {
            Some(segment) => segment.leaving = true,
            None => return Ok(()),
        }
        while let Some((oldest, segment)) = self.index.segments.first_key_value()
            && segment.leaving
        {
            let oldest = *oldest;
            self.remove_oldest(oldest)?;
        }
        Ok(())
    }

    fn remove_oldest(&mut self, number: u64) -> io::Result<()> {
        let directory = &self.options.directory;
        let path = segment_path(directory, number);
        let is_damaged = self.index.is_damaged(number);
        let result = match is_damaged {
            true => self.files.rename(&path, &quarantine_path(directory, number)),
            false => self.files.unlink(&path),
        };
        match &result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return result,
            _ => {}
        }
        if self.reading.as_ref().is_some_and(|(reading, _)| *reading == number) {
            self.reading = None;
        }
        let bytes = self.index.segments.get(&number).map_or(0, |segment| segment.bytes);
        if is_damaged && result.is_ok() {
            self.quarantined.insert(number, bytes);
            self.quarantined_ever += 1;
        }
        self.index.forget(number);
        // Before the next one is removed: after a crash no older segment may be back while a newer one is missing.
        self.files.sync_directory(directory)
    }
}
