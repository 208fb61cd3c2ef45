//! The file journal, which stores Kafka's messages while the database is unavailable.
//!
//! One process owns a journal: a directory of segments, files of numbered records. A record holds the raw messages of one
//! interval of positions of one partition. What is drained is not recorded here: the database's progress says so, and a
//! segment that it covers is removed.
//!
//! - [`Journal`]: open, append, read, remove. [`JournalHandle`]: the same on its own thread, with group commit; payloads
//!   are compressed before they reach that thread.
//! - [`Inspection`]: the same files, read-only, without the lock.
//! - [`Files`]: the file system that it uses.
//! - `journal`: the state of an open journal; `opening`, `append`, `segments`, `room`, `probe`: its operations.
//! - `recovery`, `scan`, `tail`: building the index of the records from the files.
//!
//! # Invariants
//! 1. *Acknowledged means durable*: [`Journal::append`] returns `Ok` after an fdatasync of all its bytes, in a segment whose
//!    header was synced and whose name was synced with the directory, and after a check of the directory: it is the one whose
//!    `LOCK` is locked, and all segments are in it.
//! 2. *A failure is final*: after a failed write or fdatasync nothing more is written to that file and it is not synced
//!    again. What was not acknowledged is written once more, to a new segment; after two failures in a row the append fails,
//!    and the next one tries again.
//! 3. *Bounded*: a new segment is made only if [`Options::max_bytes`] and [`Options::min_free_bytes`] hold with its whole
//!    length, and it takes that length from the disk before its first record. A full journal returns an error; it drops
//!    nothing but segments in quarantine, the oldest first: they count, too, but are only there to be examined.
//! 4. *Nothing is invented*: a record is what was written there, or damage. A checksum belongs to one place of one journal.
//! 5. *Nothing is lost silently*: a damaged place is reported by segment and positions, and the records on both sides stay.
//!    Only the end of the last segment may be torn, which is what a crash leaves of a write that was not acknowledged.
//!    If the directory or a file in it is deleted, moved or truncated while the journal is open, the directory is
//!    opened again, recreated if it is missing, and what is lost is returned by [`Journal::take_lost`]. Until that succeeds,
//!    nothing is acknowledged.
//! 6. *Numbers grow*, and segments are removed in the order of their numbers: a missing one between two segments is damage.
//! 7. *Opening twice gives the same*, also if the first was interrupted. An older segment is never appended to.
//! 8. *Memory for the index alone*: opening reads the headers of records, and payloads only in the last segment.
//!
//! # The directory
//! Mode 0700, files 0600. It is refused if it belongs to another user than this one and root, or if others than this user
//! and one of this process's groups may write to it; symbolic links in it are not followed.
//!
//! | name | |
//! |---|---|
//! | `LOCK` | empty; locked with flock by the process that owns the journal |
//! | `JOURNAL` | the journal's header; created as `JOURNAL.new`, synced, renamed |
//! | `PROBE` | created, synced and deleted again by [`Journal::probe`]; never read |
//! | `00000000000000000001.segment` | a segment; 20 digits, from 1 on |
//! | `00000000000000000001.quarantine` | a damaged, drained segment; never read again, and deleted if its space is needed |
//!
//! # Headers
//! All numbers are little-endian. All headers are 64 bytes and end with a CRC32C of the 60 bytes before. Bytes that are not
//! listed are zero.
//!
//! | `JOURNAL` | | segment | | record | |
//! |---|---|---|---|---|---|
//! | 0 | `SI-JRNL\n` | 0 | `SI-SEGM\n` | 0 | payload length, u32 |
//! | 8 | version 1, u32 | 8 | version 1, u32 | 4 | kind, u8: 1 source, 2 messages |
//! | 16 | journal id, 128 random bits | 16 | segment number, u64 | 5 | version 1, u8 |
//! | 60 | CRC | 24 | previous segment, u64 | 6 | flags, u16: 1 zstd |
//! | | | 32 | first sequence number, u64 | 8 | sequence number, u64 |
//! | | | 40 | journal id | 16 | from, i64 |
//! | | | 60 | CRC | 24 | until, i64 |
//! | | | | | 32 | source, u32 |
//! | | | | | 36 | partition, i32 |
//! | | | | | 40 | messages, u32 |
//! | | | | | 44 | uncompressed length, u32 |
//! | | | | | 48 | oldest time in ms, i64; -1 none |
//! | | | | | 56 | CRC of the payload |
//! | | | | | 60 | CRC |
//!
//! A record is its header, its payload, and zeros up to a multiple of 8 bytes. The records of a segment follow each other
//! without a gap from position 64 on; none spans two segments. The salt of a place is the CRC32C of the journal's id, the
//! segment's number and the record's position (16 + 8 + 8 bytes). The CRC of a record's header begins with it, and that of the
//! payload is combined with it by exclusive or: a stale block, a misplaced write or another journal's record does not pass.
//!
//! # Payloads
//! *Source* (never compressed): JSON, `{"kind","cluster_id","topic","topic_id"}`. Its header's `source` is the number that
//! stands for it in this segment; it comes before the first record that uses the number, so that every segment stands alone.
//!
//! *Messages*: the length of the source's JSON, u32, and that JSON once more, so that a record stands alone if its source
//! record is damaged; then for each message offset i64, time in ms i64 (-1 none), the lengths of key, payload and headers as
//! i32 each (-1 none; a payload of none is a tombstone), and these three, the headers as [`crate::raw::headers`] encodes them.
//! Compressed with zstd if that is smaller: at level 1, and at level -5 while more than 64 MiB/s is appended. While more than
//! 192 MiB/s is appended, they are not compressed, until the journal is half full. Message sets of one append that follow each
//! other in their partition share a record, up to 1 MiB of messages.
//!
//! # Opening
//! The *sequence number* increases by one from record to record, sources too, across segments. A segment's header has its own
//! first one: all below were acknowledged, in the segment named as the previous one and those before it; none from it on was.
//! Therefore, in all segments but the last:
//! - records from the successor's first sequence number on, and all bytes after them, are remainders of a failed write;
//! - records that are missing below it are damage;
//! - a segment that its successor does not name as previous, and that is not older than that one, never had an acknowledged
//!   record.
//!
//! In the last segment the payloads are read, too. After its last intact record there may be damaged places; they are a *torn
//! end* if each has a 512-byte sector that was never written (zero, or after the file's end), and are cut off. Anything
//! else is damage; then as many sequence numbers are skipped as records may have stood there, so that they are missed again
//! by the rule above.
//!
//! After a damaged place the next record is searched for at every multiple of 8 bytes.

mod append;
mod current;
mod directory;
mod encoders;
mod error;
mod examine;
mod files;
mod format;
mod handle;
mod index;
mod inspect;
#[expect(clippy::module_inception, reason = "the file of the type that the module is named after")]
mod journal;
mod opening;
mod payload;
mod place;
mod planted;
mod probe;
mod reader;
mod recovery;
mod room;
mod scan;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod sealed;
mod segments;
mod stop;
mod tail;
#[cfg(test)]
mod tests;

pub use error::{AppendError, Damage, DamageKind, Limit, OpenError, ReadError};
pub use examine::{Examination, examine};
pub use files::{Access, Files, RealFiles, Seen};
pub use handle::JournalHandle;
pub use index::{Record, SegmentInfo};
pub use inspect::Inspection;
pub use journal::{Journal, Options, Usage};
