//! The names in a journal's directory, and its file `JOURNAL`.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::error::OpenError;
use super::files::{Access, Files};
use super::format::{HEADER_BYTES, JournalFault, JournalId, SegmentHeader, decode_journal, encode_journal};

const LOCK: &str = "LOCK";
const JOURNAL: &str = "JOURNAL";
/// `JOURNAL` before it is complete.
const NEW_JOURNAL: &str = "JOURNAL.new";
/// A file that is created and deleted again to check that the disk can be written.
const PROBE: &str = "PROBE";
/// A directory that the root of a volume may have.
const LOST_AND_FOUND: &str = "lost+found";
const SEGMENT: &str = ".segment";
const QUARANTINE: &str = ".quarantine";
/// Number of digits in the name of a segment.
const DIGITS: usize = 20;

/// The file that is locked.
pub(super) fn lock_path(directory: &Path) -> PathBuf {
    directory.join(LOCK)
}

/// A segment's file.
pub(super) fn segment_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:020}{SEGMENT}"))
}

/// A damaged segment's file, once its intact records are drained.
pub(super) fn quarantine_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:020}{QUARANTINE}"))
}

/// The segment's number, if the name is one that [`segment_path`] returns.
fn number(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    (digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// The segments of a directory.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Numbers of segments.
    pub(super) segments: BTreeSet<u64>,
    /// Numbers of segments in quarantine.
    pub(super) quarantined: BTreeSet<u64>,
    /// Other names than the journal's.
    pub(super) foreign: Vec<String>,
}

impl Listing {
    pub(super) fn read<F: Files>(files: &F, directory: &Path) -> Result<Self, OpenError> {
        let names = files.list(directory).map_err(|source| failed(files, "list", directory, source))?;
        // No segment is created with the number 0, nor with the last one, which has no successor.
        let is_ours = |number: &u64| (1..u64::MAX).contains(number);
        let with = |suffix| names.iter().filter_map(|name| number(name, suffix)).filter(is_ours).collect();
        let known = [LOCK, JOURNAL, NEW_JOURNAL, PROBE, LOST_AND_FOUND];
        let is_foreign = |name: &&String| {
            !known.contains(&name.as_str()) && number(name, SEGMENT).or(number(name, QUARANTINE)).is_none()
        };
        let mut foreign: Vec<String> = names.iter().filter(is_foreign).cloned().collect();
        foreign.sort_unstable();
        Ok(Self { segments: with(SEGMENT), quarantined: with(QUARANTINE), foreign })
    }
}

/// The error of a call of the file system.
pub(super) fn failed<F: Files>(files: &F, action: &'static str, path: &Path, source: io::Error) -> OpenError {
    let denied = source.kind() == io::ErrorKind::PermissionDenied;
    match files.rights(path).filter(|_| denied) {
        Some(advice) => OpenError::Denied { action, path: path.to_owned(), source, advice },
        None => OpenError::Io { action, path: path.to_owned(), source },
    }
}

/// Creates the directory if it is missing, and locks it until the returned value is dropped.
pub(super) fn lock<F: Files>(files: &F, directory: &Path) -> Result<F::File, OpenError> {
    files.make_directory(directory).map_err(|error| failed(files, "make", directory, error))?;
    lock_existing(files, directory)
}

/// Locks the directory until the returned value is dropped.
pub(super) fn lock_existing<F: Files>(files: &F, directory: &Path) -> Result<F::File, OpenError> {
    files.check_directory(directory).map_err(|why| OpenError::Refused { directory: directory.to_owned(), why })?;
    let path = lock_path(directory);
    files.lock(&path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked { directory: directory.to_owned() },
        _ => failed(files, "lock", &path, error),
    })
}

/// Creates a small file, makes its bytes durable and deletes it, with the calls of an append.
pub(super) fn probe<F: Files>(files: &F, directory: &Path) -> io::Result<()> {
    let path = directory.join(PROBE);
    match files.unlink(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = files.create(&path)?;
    let written = files.write_at(&file, &[0; HEADER_BYTES as usize], 0).and_then(|()| files.sync_data(&file));
    let unlinked = files.unlink(&path);
    written.and(unlinked)
}

/// Where a journal's id came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Identity {
    /// From the file `JOURNAL`.
    Known(JournalId),
    /// From a segment, because `JOURNAL` is damaged or missing.
    Recovered(JournalId),
    /// There is none.
    None,
}

/// Finds the journal's id.
pub(super) fn identity<F: Files>(files: &F, directory: &Path, listing: &Listing) -> Result<Identity, OpenError> {
    let path = directory.join(JOURNAL);
    match header(files, &path).as_ref().map(decode_journal) {
        Ok(Ok(id)) => return Ok(Identity::Known(id)),
        Ok(Err(JournalFault::Version(version))) => {
            return Err(OpenError::Version { directory: directory.to_owned(), version });
        }
        Ok(Err(JournalFault::Damaged)) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        // It is not a journal's file, or cannot be read: another id must not replace it.
        Err(error) => return Err(failed(files, "read", &path, io::Error::new(error.kind(), error.to_string()))),
    }
    let ids = listing.segments.iter().filter_map(|number| {
        let header = header(files, &segment_path(directory, *number)).ok()?;
        SegmentHeader::decode(&header).filter(|header| header.number == *number).map(|header| header.id)
    });
    Ok(ids.last().map_or(Identity::None, Identity::Recovered))
}

/// The first 64 bytes of a file, zeros if it is shorter: a partial header is not valid, whatever the missing bytes were.
fn header<F: Files>(files: &F, path: &Path) -> io::Result<[u8; HEADER_BYTES as usize]> {
    let file = files.open(path, Access::Read)?;
    let mut bytes = [0; HEADER_BYTES as usize];
    let is_whole = files.read_at(&file, &mut bytes, 0)? == bytes.len();
    Ok(if is_whole { bytes } else { [0; HEADER_BYTES as usize] })
}

/// A new journal's id.
pub(super) fn random_id(directory: &Path) -> Result<JournalId, OpenError> {
    let mut id = JournalId::default();
    getrandom::fill(&mut id).map_err(|error| OpenError::Io {
        action: "make an id for",
        path: directory.to_owned(),
        source: io::Error::other(error.to_string()),
    })?;
    Ok(id)
}

/// Writes the file `JOURNAL` atomically: it is complete and durable, or missing.
pub(super) fn write_identity<F: Files>(files: &F, directory: &Path, id: &JournalId) -> Result<(), OpenError> {
    let (path, new) = (directory.join(JOURNAL), directory.join(NEW_JOURNAL));
    let write = || {
        match files.unlink(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = files.create(&new)?;
        files.write_at(&file, &encode_journal(id), 0)?;
        files.sync_data(&file)?;
        files.rename(&new, &path)?;
        files.sync_directory(directory)
    };
    write().map_err(|error| failed(files, "write", &path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_segments_are_segments() {
        assert_eq!(number("00000000000000000001.segment", SEGMENT), Some(1));
        assert_eq!(number("18446744073709551615.segment", SEGMENT), Some(u64::MAX));
        for name in [
            "1.segment",
            "+0000000000000000001.segment",
            "00000000000000000001.quarantine",
            "00000000000000000001.segment.new",
            "99999999999999999999.segment",
            "０0000000000000000001.segment",
            ".segment",
        ] {
            assert_eq!(number(name, SEGMENT), None, "{name}");
        }
    }
}
