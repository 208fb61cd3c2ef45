//! Errors by operation, and damage of files.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a journal cannot be opened. Damage is not a reason: a damaged journal opens.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses it.
    #[error("the journal {directory} is used by another process")]
    Locked {
        /// The journal's directory.
        directory: PathBuf,
    },
    /// The directory is not safe: it belongs to another user, or others may write to it.
    #[error("the journal's directory {directory} is refused: {why}")]
    Refused {
        /// The journal's directory.
        directory: PathBuf,
        /// What is wrong with it.
        why: io::Error,
    },
    /// Written by a newer program.
    #[error("the journal {directory} has the format version {version}, which this program does not know")]
    Version {
        /// The journal's directory.
        directory: PathBuf,
        /// Its version.
        version: u32,
    },
    /// This user lacks a permission.
    #[error("cannot {action} {path}: {source}. {advice}")]
    Denied {
        /// The action that failed.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
        /// The owner, and what to do.
        advice: String,
    },
    /// The file system returned an error.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// The action that failed.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
}

/// Why nothing was acknowledged. Each of these errors may pass by itself: append the sets again later.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// There is no room. Nothing was dropped.
    #[error("the journal is full: {limit}, {used_bytes} bytes used, {needed_bytes} bytes more needed")]
    Full {
        /// The limit that was reached.
        limit: Limit,
        /// The size of the journal's segments, in bytes.
        used_bytes: u64,
        /// The additional space that is needed, in bytes.
        needed_bytes: u64,
    },
    /// Writing failed on two segments, one after the other. Some of the sets may be in the journal nevertheless.
    #[error("the journal cannot be written: {0}")]
    Unavailable(#[source] io::Error),
    /// The directory is not the one that was opened, or lacks files that were written to it, and cannot be opened again now.
    #[error("the journal is lost: {what}, and {why}")]
    Lost {
        /// What is missing.
        what: String,
        /// Why the directory cannot be opened again.
        why: String,
    },
    /// The volume has no room for a segment, and would have none even if the journal were empty.
    #[error(
        "no room for a journal: its volume has {free_bytes} bytes free, and {needed_bytes} bytes are needed, a segment and \
         journal.min_free_bytes: use a larger volume, or lower journal.min_free_bytes or journal.segment_bytes"
    )]
    NoRoom {
        /// The free space, including the space that the journal itself uses, in bytes.
        free_bytes: u64,
        /// The minimum space that is needed, in bytes.
        needed_bytes: u64,
    },
}

impl AppendError {
    /// The same error for another caller of the same write.
    pub(super) fn again(&self) -> Self {
        match self {
            Self::Full { limit, used_bytes, needed_bytes } => {
                Self::Full { limit: *limit, used_bytes: *used_bytes, needed_bytes: *needed_bytes }
            }
            Self::Unavailable(error) => Self::Unavailable(match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(error.kind(), error.to_string()),
            }),
            Self::Lost { what, why } => Self::Lost { what: what.clone(), why: why.clone() },
            Self::NoRoom { free_bytes, needed_bytes } => {
                Self::NoRoom { free_bytes: *free_bytes, needed_bytes: *needed_bytes }
            }
        }
    }
}

/// The limit that a full journal has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// `journal.max_bytes`.
    MaxBytes,
    /// `journal.min_free_bytes`.
    MinFreeBytes,
    /// The disk, or the user's quota.
    Disk,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MaxBytes => "journal.max_bytes is reached",
            Self::MinFreeBytes => "journal.min_free_bytes is reached",
            Self::Disk => "no space is left on the disk",
        })
    }
}

/// Why a record was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Its bytes are not those that were written. It is no longer a record of the journal.
    #[error("a record is damaged: {0}")]
    Damaged(Damage),
    /// The journal has no such record: its segment was removed, or it was found damaged before.
    #[error("segment {segment} has no record at position {position}")]
    Gone {
        /// The segment's number.
        segment: u64,
        /// The record's position, in bytes.
        position: u64,
    },
    /// The file cannot be opened now. The record stays; try again.
    #[error("segment {segment} cannot be opened: {source}")]
    Io {
        /// The segment's number.
        segment: u64,
        /// The operating system's error.
        source: io::Error,
    },
}

/// A place whose bytes are not those that were written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Damage {
    /// The segment's number; 0 for the file `JOURNAL`.
    pub segment: u64,
    /// The first damaged position, in bytes from the file's beginning.
    pub from: u64,
    /// The position after the last damaged one.
    pub until: u64,
    /// What is damaged.
    pub what: DamageKind,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {}, bytes {} to {}: {}", self.segment, self.from, self.until, self.what)
    }
}

/// The kind of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DamageKind {
    /// The file `JOURNAL`; the id was found in a segment.
    JournalFile,
    /// The whole segment is missing.
    SegmentMissing,
    /// The segment's header.
    SegmentHeader,
    /// No record's header in a place that must have one, up to the next record.
    NoRecord,
    /// Records are missing at the segment's end.
    EndMissing,
    /// A record whose payload is not what was written.
    Payload,
    /// The disk cannot read it.
    Unreadable,
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::JournalFile => "the file JOURNAL is damaged",
            Self::SegmentMissing => "the segment is missing",
            Self::SegmentHeader => "the segment's header is damaged",
            Self::NoRecord => "no record",
            Self::EndMissing => "records are missing at the end",
            Self::Payload => "a record's payload is damaged",
            Self::Unreadable => "unreadable",
        })
    }
}
