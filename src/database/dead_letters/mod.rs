//! The rows of `ingest_dead_letter`.
//!
//! - `store`: stores them in the transaction of their claim.
//! - `find`, `purge`: list, count and delete them.
//! - `redrive`: decodes and writes them again.
//! - `publish`: reads those whose copies are to be published.
//!
//! A letter's row is the claim on redriving it: one transaction locks and deletes the row, and writes the points. While the row
//! exists its points do not, so that a kill at any time neither loses nor duplicates them, and two concurrent commands skip
//! each other's rows.

mod find;
mod publish;
mod purge;
mod redrive;
mod store;

use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use super::progress::SourceId;
use crate::message::Rejected;
use crate::raw::Source;

pub(super) use store::{NotStored, OnRefusal, Refusals, StoragePolicy, insert};

/// Selects dead letters of the pipeline. Intervals are half-open.
#[derive(Debug, Clone, Default)]
pub struct LetterFilter {
    /// Only these; all if it is empty.
    pub ids: Vec<i64>,
    /// Of this reason.
    pub reason: Option<String>,
    /// Of this topic.
    pub topic: Option<String>,
    /// Of this partition.
    pub partition: Option<i32>,
    /// At this offset or above.
    pub from_offset: Option<i64>,
    /// Below this offset.
    pub until_offset: Option<i64>,
    /// Whose message was created at this time or later, in milliseconds since the Unix epoch.
    pub from_ms: Option<i64>,
    /// Whose message was created before this time.
    pub until_ms: Option<i64>,
    /// That became dead letters at this time or later.
    pub created_from_ms: Option<i64>,
    /// That became dead letters before this time.
    pub created_until_ms: Option<i64>,
    /// With at least this number of attempts.
    pub from_attempts: Option<i32>,
    /// With fewer than this number of attempts.
    pub until_attempts: Option<i32>,
}

/// A message as stored in `ingest_dead_letter`, with the reason.
#[derive(Debug, Clone)]
pub struct StoredMessage {
    /// The row's id.
    pub id: i64,
    /// The partition's number.
    pub partition: i32,
    /// Kafka's offset.
    pub offset: i64,
    /// Kafka's time, in milliseconds since the Unix epoch; `None` if the message has none.
    pub time_ms: Option<i64>,
    /// The head of the key.
    pub key: Option<Vec<u8>>,
    /// The key's full length, in bytes; `None` if the message has no key.
    pub key_bytes: Option<i64>,
    /// The head of the headers, in the form of [`headers`](crate::raw::headers).
    pub headers: Option<Vec<u8>>,
    /// The headers' full length in that form, in bytes; `None` if the message has no headers.
    pub headers_bytes: Option<i64>,
    /// The head of the payload.
    pub payload: Option<Vec<u8>>,
    /// The payload's full length, in bytes.
    pub payload_bytes: i64,
    /// A word of the closed list.
    pub reason: String,
    /// Where the fault is.
    pub detail: String,
}

impl StoredMessage {
    /// Returns the truncated parts of the message: only their head is stored.
    pub fn cut(&self) -> Vec<Cut> {
        let parts = [
            ("key", self.key.as_deref(), self.key_bytes),
            ("headers", self.headers.as_deref(), self.headers_bytes),
            ("payload", self.payload.as_deref(), Some(self.payload_bytes)),
        ];
        let cut = |(part, head, bytes): (&'static str, Option<&[u8]>, Option<i64>)| {
            // A part that is not stored at all may have been refused with the letter.
            let (kept, bytes) = (head.map_or(0, <[u8]>::len), bytes?);
            ((kept as i64) < bytes).then_some(Cut { part, kept, bytes })
        };
        parts.into_iter().filter_map(cut).collect()
    }
}

/// A truncated part of a message: only its head is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// `key`, `headers` or `payload`.
    pub part: &'static str,
    /// The number of bytes that are stored.
    pub kept: usize,
    /// Its full length, in bytes.
    pub bytes: i64,
}

/// A row of `ingest_dead_letter`.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Its message.
    pub message: StoredMessage,
    /// The message's source.
    pub source: Arc<Source>,
    /// When the row was stored, in milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// The number of unsuccessful attempts to redrive it.
    pub attempts: i32,
    /// When the last of these attempts was, in milliseconds since the Unix epoch.
    pub attempted_ms: Option<i64>,
    /// `true` if it was stored as a sample, beyond the bound.
    pub is_sample: bool,
    source_id: SourceId,
    version: i64,
}

/// Identifies a dead letter. Another database may have another letter under the same id.
#[derive(Debug, Clone, Copy)]
pub struct LetterId {
    id: i64,
    source_key: Uuid,
    partition: i32,
    offset: i64,
}

impl Letter {
    /// Returns what [`Database::purge_letters`](super::Database::purge_letters) identifies it by.
    pub fn identity(&self) -> LetterId {
        let StoredMessage { id, partition, offset, .. } = self.message;
        LetterId { id, source_key: self.source_id.key, partition, offset }
    }
}

/// The numbers of dead letters of one reason and one partition.
#[derive(Debug, Clone, Serialize)]
pub struct LetterCount {
    /// The topic's name.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// A word of the closed list.
    pub reason: String,
    /// Those that are stored.
    pub kept: i64,
    /// Those that were only counted.
    pub only_counted: i64,
    /// The lowest and the highest offset of those.
    pub counted_between: Option<(i64, i64)>,
    /// Those that were written by a redrive.
    pub redriven: i64,
}

/// A letter to be decoded and written again.
#[derive(Debug)]
pub struct Redrive<'a> {
    /// Its row.
    pub letter: &'a Letter,
    /// The whole payload.
    pub payload: Option<&'a [u8]>,
}

/// The result of redriving one letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is written, and its row is deleted.
    Written,
    /// It cannot be written, and its row remains.
    Rejected(Rejected),
    /// Its row is deleted, changed, or locked by another command.
    Elsewhere,
}

/// The result of redriving several letters.
#[derive(Debug, Default)]
pub struct Redriven {
    /// One for each letter, in their order.
    pub fates: Vec<Fate>,
    /// The number of points that were written.
    pub points: usize,
}

/// The mode of a redrive: letters are written or only tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedriveMode {
    /// They are written; those that are rejected get one more attempt and the new reason.
    Write,
    /// They are written; those that are rejected remain unchanged.
    WriteOnly,
    /// Everything is done except the COMMIT.
    Try,
}

/// A dead letter whose copy is to be published.
#[derive(Debug)]
pub struct LetterToPublish {
    /// Its message.
    pub message: StoredMessage,
    /// The cluster of its topic.
    pub cluster_id: String,
    /// The topic's name.
    pub topic: String,
    /// The topic's id.
    pub topic_id: String,
}
