//! A file as it is stored: opened once, so that its name may come to mean another one, and read at places.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};

use super::ReadError;
use crate::files::hex;

/// How much is read at a time.
pub(super) const BLOCK_BYTES: usize = 256 * 1024;

/// What changes with a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self { length: metadata.len(), modified: (metadata.mtime(), metadata.mtime_nsec()) }
    }
}

/// An open file. Clones share it, and each reads from its own place.
#[derive(Debug, Clone)]
pub struct Content {
    path: PathBuf,
    file: Arc<File>,
    stamp: Stamp,
    bytes_read: Arc<AtomicU64>,
}

impl Content {
    /// Opens a file.
    ///
    /// # Errors
    /// If it cannot be opened, or is not a file: what is not stored cannot be read twice, once for its hash and once for its rows.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let io = |error| ReadError::Io { path: path.to_owned(), error };
        if path.as_os_str() == "-" {
            let text = "standard input has no content that could be known again after an interruption: save it to a file first";
            return Err(ReadError::unclear(path, text));
        }
        // A pipe without a writer would keep the command waiting.
        let metadata = std::fs::metadata(path).map_err(io)?;
        if !metadata.is_file() {
            let what =
                if metadata.is_dir() { "a directory: name the files in it" } else { "no file: save it to one first" };
            return Err(ReadError::unclear(path, format!("is {what}")));
        }
        let file = File::open(path).map_err(io)?;
        let stamp = Stamp::of(&file.metadata().map_err(io)?);
        Ok(Self { path: path.to_owned(), file: Arc::new(file), stamp, bytes_read: Arc::default() })
    }

    /// Its path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length, in bytes.
    pub fn length(&self) -> u64 {
        self.stamp.length
    }

    /// The bytes that were read of it so far by all readers, other than for its hash.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// Begins to count them again.
    pub fn forget_bytes_read(&self) {
        self.bytes_read.store(0, Ordering::Relaxed);
    }

    /// The SHA-256 of its bytes in hexadecimal, as `sha256sum` prints it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn hash(&self) -> Result<String, ReadError> {
        let mut hasher = Sha256::new();
        let mut block = vec![0; BLOCK_BYTES];
        let mut at = 0;
        loop {
            let read = read_at(&self.file, &mut block, at).map_err(|error| self.io(error))?;
            if read == 0 {
                break;
            }
            hasher.update(&block[..read]);
            at += read as u64;
        }
        self.check_unchanged()?;
        Ok(hex(&hasher.finalize()))
    }

    /// Checks that the file still has the content with which it was opened, as far as its length and its time tell.
    ///
    /// # Errors
    /// If it has another one.
    pub fn check_unchanged(&self) -> Result<(), ReadError> {
        #[cfg(feature = "planted-bugs")]
        if crate::planted_bugs::is_on("import-changed-unseen") {
            return Ok(());
        }
        let metadata = self.file.metadata().map_err(|error| self.io(error))?;
        if Stamp::of(&metadata) == self.stamp { Ok(()) } else { Err(ReadError::Changed(self.path.clone())) }
    }

    /// Its first bytes, as many as there are of these.
    pub(super) fn head(&self, length: usize) -> Result<Vec<u8>, ReadError> {
        let mut head = Vec::new();
        let reader = Place { at: 0, content: self.clone() };
        reader.take(length as u64).read_to_end(&mut head).map_err(|error| self.io(error))?;
        Ok(head)
    }

    /// A reader from its beginning.
    pub(super) fn reader(&self) -> Place {
        Place { at: 0, content: self.clone() }
    }

    /// A reader from a byte on.
    pub(super) fn reader_at(&self, at: u64) -> Place {
        Place { at, content: self.clone() }
    }

    pub(super) fn io(&self, error: io::Error) -> ReadError {
        ReadError::Io { path: self.path.clone(), error }
    }
}

/// Reads a file from its own place.
#[derive(Debug)]
pub struct Place {
    at: u64,
    content: Content,
}

impl Read for Place {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = read_at(&self.content.file, buffer, self.at)?;
        self.at += read as u64;
        self.content.bytes_read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

impl Seek for Place {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (from, by) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::End(by) => (self.content.length(), by),
            SeekFrom::Current(by) => (self.at, by),
        };
        let place = from.checked_add_signed(by);
        self.at =
            place.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a place before the file's first byte"))?;
        Ok(self.at)
    }
}

/// Reads at a byte, again if a signal came between.
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}
