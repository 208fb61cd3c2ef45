//! The check that the journal is still where its path leads: what is written to files that cannot be found again is not
//! durable.
//!
//! A directory's change time shows whether a name in it was created, deleted or replaced. So mostly one call for the directory
//! is enough: it is the same one, and nothing has changed in it. File systems count that time in steps, of up to 2 s; until
//! the last known change is older than that, the names are checked as well.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::current::Current;
use super::directory::{self, Listing, lock_path, segment_path};
use super::error::OpenError;
use super::files::{Files, Seen};
use super::index::Index;

/// Time after which a directory with the same change time has not changed.
const SETTLED: Duration = Duration::from_secs(3);
/// Maximum number of attempts to take the lock if its file is replaced meanwhile.
const ATTEMPTS: u32 = 3;

/// The directory that this process has locked.
#[derive(Debug)]
pub(super) struct Place<F: Files> {
    /// Holds the lock.
    _lock: F::File,
    locked: Seen,
    directory: Seen,
    /// When `directory` was read.
    since: Instant,
    /// `true` if the names were checked when any later change must have another change time.
    is_settled: bool,
}

/// What is wrong with a place.
#[derive(Debug)]
pub(super) enum Lost {
    /// Files of the journal are missing, replaced or truncated, as the text says.
    Gone(String),
    /// It cannot be checked now.
    Unknown(io::Error),
}

/// Returns `true` if the error says that the path leads nowhere.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The metadata of a path that existed before.
fn metadata<F: Files>(files: &F, path: &Path) -> Result<Seen, Lost> {
    files.metadata(path).map_err(|error| match is_gone(&error) {
        true => Lost::Gone(format!("{} is not there any more", path.display())),
        false => Lost::Unknown(error),
    })
}

impl<F: Files> Place<F> {
    /// Creates the directory if it is missing, and locks it.
    pub(super) fn acquire(files: &F, directory: &Path) -> Result<Self, OpenError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let lock = directory::lock(files, directory)?;
            let failed = |error| directory::failed(files, "look at", directory, error);
            let locked = files.metadata_of(&lock).map_err(failed)?;
            let seen = files.metadata(directory).map_err(failed)?;
            match files.metadata(&lock_path(directory)) {
                Ok(named) if named.is(&locked) => {
                    return Ok(Self { _lock: lock, locked, directory: seen, since: Instant::now(), is_settled: false });
                }
                Ok(_) => {}
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(failed(error)),
            }
            if attempts == ATTEMPTS {
                return Err(failed(io::Error::other("its file LOCK is deleted again and again")));
            }
        }
    }

    /// Acts as if the directory had not changed for long.
    #[cfg(test)]
    pub(super) fn settle(&mut self) {
        self.is_settled = true;
    }

    /// Returns `true` if the lock's file is still the one that the path leads to.
    pub(super) fn has_lock(&self, files: &F, directory: &Path) -> Result<bool, Lost> {
        match files.metadata(&lock_path(directory)) {
            Ok(seen) => Ok(seen.is(&self.locked)),
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(Lost::Unknown(error)),
        }
    }

    /// Returns `true` if the path leads nowhere, or to something else than the directory that was locked.
    pub(super) fn is_elsewhere(&self, files: &F, directory: &Path) -> bool {
        match files.metadata(directory) {
            Ok(seen) => !seen.is(&self.directory),
            Err(error) => is_gone(&error),
        }
    }

    /// Records the directory's present state as known.
    pub(super) fn renew(&mut self, files: &F, directory: &Path) -> Result<(), Lost> {
        self.directory = metadata(files, directory)?;
        (self.since, self.is_settled) = (Instant::now(), false);
        Ok(())
    }

    /// Checks that the directory is still the one that is locked, with all segments: one call if nothing has changed.
    pub(super) fn check(
        &mut self,
        files: &F,
        directory: &Path,
        index: &Index,
        current: Option<&Current<F>>,
    ) -> Result<(), Lost> {
        let seen = metadata(files, directory)?;
        let is_same = seen.is(&self.directory) && seen.changed == self.directory.changed;
        if is_same && self.is_settled {
            return Ok(());
        }
        if !seen.is(&self.directory) {
            return Err(Lost::Gone(format!("another directory is at {} now", directory.display())));
        }
        if !self.has_lock(files, directory)? {
            let what = "the file LOCK was deleted or replaced, so that another process could lock the journal";
            return Err(Lost::Gone(what.to_owned()));
        }
        if let Some(current) = current
            && !metadata(files, &segment_path(directory, current.number))?.is(&current.seen)
        {
            return Err(Lost::Gone(format!("segment {} was replaced", current.number)));
        }
        let is_old = self.since.elapsed() >= SETTLED;
        if !is_same || is_old {
            let listing = Listing::read(files, directory).map_err(|error| Lost::Unknown(io::Error::other(error)))?;
            if let Some(missing) = index.segments.keys().find(|number| !listing.segments.contains(number)) {
                return Err(Lost::Gone(format!("segment {missing} was deleted")));
            }
        }
        if is_same {
            self.is_settled = is_old;
        } else {
            (self.directory, self.since, self.is_settled) = (seen, Instant::now(), false);
        }
        Ok(())
    }
}

/// Checks that no segment is shorter than its acknowledged records.
pub(super) fn check_lengths<F: Files>(files: &F, directory: &Path, index: &Index) -> Result<(), Lost> {
    for (number, segment) in &index.segments {
        let Some(end) = segment.records.last().map(|record| record.position + record.bytes()) else { continue };
        if metadata(files, &segment_path(directory, *number))?.bytes < end {
            return Err(Lost::Gone(format!("the end of segment {number} was cut off")));
        }
    }
    Ok(())
}
