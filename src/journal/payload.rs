//! Payloads: a topic as JSON, and the messages of one interval.

use std::collections::HashMap;
use std::io::{self, Cursor, Read};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zstd::bulk::Compressor;

use super::format::{ALIGNMENT, COMPRESSED, HEADER, MAX_PAYLOAD_BYTES, RecordHeader, record_bytes};
use crate::raw::Kind;
use crate::raw::{MessageSet, MessageSetBuilder, Partition, RawMessage, Source};

/// The time of messages that have none, and of records whose messages have none.
pub(super) const NO_TIME: i64 = -1;
/// The bytes before a message's parts: its offset, its time, and their lengths.
const MESSAGE_HEAD: usize = 28;
/// The length of a missing key or payload.
const NONE: i32 = -1;

/// How payloads are compressed, the slowest first. Readers need not know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Compression {
    /// To about a third, for JSON.
    Compact,
    /// To about two thirds, in less than half the time.
    Fast,
    /// Not at all.
    Off,
}

impl Compression {
    /// zstd's level, if it compresses.
    const fn level(self) -> Option<i32> {
        match self {
            Self::Compact => Some(1),
            Self::Fast => Some(-5),
            Self::Off => None,
        }
    }
}

/// A topic as it is stored.
#[derive(Serialize, Deserialize)]
struct StoredSource {
    kind: String,
    cluster_id: String,
    topic: String,
    topic_id: String,
}

/// The topic as JSON.
pub(super) fn encode_source(source: &Source) -> io::Result<Vec<u8>> {
    let stored = StoredSource {
        kind: source.kind.as_str().to_owned(),
        cluster_id: source.cluster_id.clone(),
        topic: source.topic.clone(),
        topic_id: source.topic_id.clone(),
    };
    Ok(serde_json::to_vec(&stored)?)
}

/// The topic, if the bytes are valid.
pub(super) fn decode_source(bytes: &[u8]) -> Option<Source> {
    let stored: StoredSource = serde_json::from_slice(bytes).ok()?;
    let kind = [Kind::Series, Kind::Points, Kind::Other].into_iter().find(|kind| kind.as_str() == stored.kind)?;
    Some(Source { kind, cluster_id: stored.cluster_id, topic: stored.topic, topic_id: stored.topic_id })
}

/// Maximum size of a record, in bytes of messages, unless a single set is larger.
const RECORD_BYTES: usize = 1 << 20;

/// The sets that become one record each: neighbours in their partition, in their order. Fewer records take less memory, and
/// messages compress better together. Sets that cover no position are skipped.
pub(super) fn runs(sets: impl IntoIterator<Item = MessageSet>) -> Vec<Vec<MessageSet>> {
    let mut runs: Vec<Vec<MessageSet>> = Vec::new();
    // Each partition's last run: its number, where it ends, and its bytes.
    let mut last: HashMap<Partition, (usize, i64, usize)> = HashMap::new();
    for set in sets {
        let interval = set.interval();
        if interval.from == interval.until {
            continue;
        }
        let bytes = set.bytes();
        let (run, until, run_bytes) = last.entry(interval.partition).or_insert((0, -1, RECORD_BYTES));
        if *until == interval.from && *run_bytes + bytes <= RECORD_BYTES {
            *run_bytes += bytes;
            runs[*run].push(set);
        } else {
            (*run, *run_bytes) = (runs.len(), bytes);
            runs.push(vec![set]);
        }
        *until = interval.until;
    }
    runs
}

/// An encoded record, with the fields of its header.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) source: Arc<Source>,
    /// The payload of the source's own record.
    pub(super) source_payload: Vec<u8>,
    pub(super) partition: i32,
    pub(super) from: i64,
    pub(super) until: i64,
    pub(super) messages: u32,
    pub(super) oldest_ms: i64,
    pub(super) flags: u16,
    pub(super) uncompressed_bytes: u32,
    pub(super) payload_bytes: u32,
    /// The payload's checksum, without a salt.
    pub(super) payload_crc: u32,
    /// The record as it is written: room for its header, the payload, and zeros up to where the next one begins.
    pub(super) record: Vec<u8>,
}

/// Encodes message sets, with buffers that are reused.
pub(super) struct Encoder {
    compressor: Compressor<'static>,
    effort: Compression,
    /// The payload before compression.
    plain: Vec<u8>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

impl Encoder {
    pub(super) fn new() -> io::Result<Self> {
        let mut encoder = Self { compressor: Compressor::default(), effort: Compression::Off, plain: Vec::new() };
        encoder.set_effort(Compression::Compact)?;
        Ok(encoder)
    }

    /// Sets how it compresses from now on; [`Compression::Compact`] at first.
    pub(super) fn set_effort(&mut self, effort: Compression) -> io::Result<()> {
        if self.effort != effort {
            if let Some(level) = effort.level() {
                self.compressor.set_compression_level(level)?;
            }
            self.effort = effort;
        }
        Ok(())
    }

    /// Encodes the sets of one run as one record. `record` is a buffer to reuse.
    ///
    /// # Errors
    /// `InvalidInput` if the run is empty, or larger than a record can be.
    pub(super) fn encode(&mut self, run: &[MessageSet], mut record: Vec<u8>) -> io::Result<Encoded> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let source_payload = encode_source(first.source())?;
        record.clear();
        record.resize(HEADER, 0);
        self.plain.clear();
        let is_compressed = self.effort != Compression::Off;
        let plain = if is_compressed { &mut self.plain } else { &mut record };
        let start = plain.len();
        // `MessageSet::bytes` counts the messages' parts, and for each message about as much as its head.
        plain.reserve(size_of::<u32>() + source_payload.len() + run.iter().map(MessageSet::bytes).sum::<usize>());
        plain.extend_from_slice(&length(source_payload.len())?.to_le_bytes());
        plain.extend_from_slice(&source_payload);
        let mut oldest_ms: Option<i64> = None;
        for message in run.iter().flat_map(MessageSet::messages) {
            put(plain, &message)?;
            oldest_ms = oldest_ms.into_iter().chain(message.time_ms).min();
        }
        let uncompressed_bytes = plain.len() - start;
        if uncompressed_bytes > MAX_PAYLOAD_BYTES {
            return Err(too_large(uncompressed_bytes));
        }
        let flags = if is_compressed { self.compress(&mut record) } else { 0 };
        let payload_bytes = record.len() - HEADER;
        let payload_crc = crc32c::crc32c(&record[HEADER..]);
        record.resize(record.len().next_multiple_of(ALIGNMENT as usize), 0);
        // The memory for one large set is not kept for the small ones that follow.
        self.plain.clear();
        self.plain.shrink_to(KEPT_BYTES);
        Ok(Encoded {
            source: Arc::clone(first.source()),
            source_payload,
            partition: first.partition().number,
            from: first.interval().from,
            until: last.interval().until,
            messages: length(run.iter().map(MessageSet::len).sum())?,
            oldest_ms: oldest_ms.unwrap_or(NO_TIME),
            flags,
            uncompressed_bytes: length(uncompressed_bytes)?,
            payload_bytes: length(payload_bytes)?,
            payload_crc,
            record,
        })
    }

    /// Puts `plain` after the space for the header, compressed if that makes it smaller. Returns the flags.
    fn compress(&mut self, record: &mut Vec<u8>) -> u16 {
        record.reserve(self.plain.len());
        let mut behind = Cursor::new(&mut *record);
        behind.set_position(HEADER as u64);
        match self.compressor.compress_to_buffer(&self.plain, &mut behind) {
            Ok(bytes) if bytes < self.plain.len() => COMPRESSED,
            // It does not fit, or is not smaller.
            _ => {
                record.truncate(HEADER);
                record.extend_from_slice(&self.plain);
                0
            }
        }
    }
}

impl Encoded {
    /// The record's bytes on disk.
    pub(super) fn record_bytes(&self) -> u64 {
        self.record.len() as u64
    }

    /// The record's payload.
    #[cfg(test)]
    pub(super) fn payload(&self) -> &[u8] {
        &self.record[HEADER..HEADER + self.payload_bytes as usize]
    }

    /// The bytes on disk of its source's record.
    pub(super) fn source_bytes(&self) -> u64 {
        record_bytes(self.source_payload.len() as u64)
    }
}

/// Maximum memory that a buffer keeps between two uses, in bytes.
pub(super) const KEPT_BYTES: usize = 4 << 20;

fn too_large(bytes: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{bytes} bytes are more than one record can hold"))
}

fn length(length: usize) -> io::Result<u32> {
    u32::try_from(length).map_err(|_| too_large(length))
}

fn put(plain: &mut Vec<u8>, message: &RawMessage<'_>) -> io::Result<()> {
    let stored = |part: Option<&[u8]>| match part {
        Some(part) => i32::try_from(part.len()).map_err(|_| too_large(part.len())),
        None => Ok(NONE),
    };
    let mut head = [0; MESSAGE_HEAD];
    head[..8].copy_from_slice(&message.offset.to_le_bytes());
    head[8..16].copy_from_slice(&message.time_ms.unwrap_or(NO_TIME).to_le_bytes());
    head[16..20].copy_from_slice(&stored(message.key)?.to_le_bytes());
    head[20..24].copy_from_slice(&stored(message.payload)?.to_le_bytes());
    head[24..].copy_from_slice(&stored(message.headers)?.to_le_bytes());
    plain.extend_from_slice(&head);
    for part in [message.key, message.payload, message.headers].into_iter().flatten() {
        plain.extend_from_slice(part);
    }
    Ok(())
}

/// The message set of a record; `None` if header and payload do not agree. No length is trusted before it is checked: the
/// bytes may be anything.
pub(super) fn decode(header: &RecordHeader, payload: &[u8]) -> Option<MessageSet> {
    let plain = uncompressed(header, payload)?;
    let mut rest = Rest(&plain);
    let source_bytes = usize::try_from(u32::from_le_bytes(rest.array()?)).ok()?;
    let source = Arc::new(decode_source(rest.read(source_bytes)?)?);
    if header.from > header.until {
        return None;
    }
    let mut builder = MessageSetBuilder::new(source, header.partition, header.from);
    for _ in 0..header.messages {
        let message = rest.message()?;
        // In order and inside the interval, as the builder requires, too.
        if message.offset < builder.until() || message.offset >= header.until {
            return None;
        }
        builder.push(&message);
    }
    builder.extend_to(header.until);
    rest.0.is_empty().then(|| builder.build(None))
}

fn uncompressed(header: &RecordHeader, payload: &[u8]) -> Option<Vec<u8>> {
    let expected = usize::try_from(header.uncompressed_bytes).ok().filter(|bytes| *bytes <= MAX_PAYLOAD_BYTES)?;
    let plain = match header.flags {
        0 => payload.to_vec(),
        COMPRESSED => {
            // As much as compression plausibly made of it; more is allocated only during decompression.
            let mut plain = Vec::with_capacity(expected.min(payload.len().saturating_mul(16)));
            let limit = u64::from(header.uncompressed_bytes) + 1;
            let decoder = zstd::stream::read::Decoder::with_buffer(payload).ok()?.single_frame();
            decoder.take(limit).read_to_end(&mut plain).ok()?;
            plain
        }
        _ => return None,
    };
    (plain.len() == expected).then_some(plain)
}

/// What is left to decode.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn read(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.read(N)?.try_into().ok()
    }

    /// The bytes of a part with such a length; the outer `None` is a fault, the inner one says that there is no part.
    fn part(&mut self, length: i32) -> Option<Option<&'a [u8]>> {
        if length == NONE {
            return Some(None);
        }
        Some(Some(self.read(usize::try_from(length).ok()?)?))
    }

    fn message(&mut self) -> Option<RawMessage<'a>> {
        let offset = i64::from_le_bytes(self.array()?);
        let time_ms = i64::from_le_bytes(self.array()?);
        let key_length = i32::from_le_bytes(self.array()?);
        let payload_length = i32::from_le_bytes(self.array()?);
        let headers_length = i32::from_le_bytes(self.array()?);
        Some(RawMessage {
            offset,
            time_ms: (time_ms != NO_TIME).then_some(time_ms),
            key: self.part(key_length)?,
            payload: self.part(payload_length)?,
            headers: self.part(headers_length)?,
        })
    }
}
