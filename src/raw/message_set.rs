//! The raw messages of one interval of positions of one partition.

use std::ops::Range;
use std::sync::Arc;

use super::{Charge, Interval, Partition, Source};

/// One message as it came from Kafka.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RawMessage<'a> {
    /// Kafka's offset.
    pub offset: i64,
    /// Kafka's time, in milliseconds since the Unix epoch.
    pub time_ms: Option<i64>,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The payload; `None` is a tombstone.
    pub payload: Option<&'a [u8]>,
    /// The headers, as [`headers`](crate::raw::headers) encodes them; `None` if there are none.
    pub headers: Option<&'a [u8]>,
}

/// The raw messages of `[from, until)` of one partition, in the order of their offsets. A view: clones and parts share the
/// bytes.
#[derive(Debug, Clone)]
pub struct MessageSet {
    block: Arc<Block>,
    entries: Range<usize>,
    from: i64,
    until: i64,
}

#[derive(Debug)]
struct Block {
    partition: Partition,
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    _charge: Option<Charge>,
}

/// Key, payload and headers are stored one after the other in the block's bytes; a length of -1 means none, as in Kafka's
/// format.
#[derive(Debug)]
struct Entry {
    offset: i64,
    time_ms: i64,
    start: usize,
    key_len: i32,
    payload_len: i32,
    headers_len: i32,
}

impl Entry {
    fn bytes(&self) -> usize {
        [self.key_len, self.payload_len, self.headers_len].iter().filter_map(|len| usize::try_from(*len).ok()).sum()
    }
}

/// The time of a message that has none, as in Kafka's format.
const NO_TIME: i64 = -1;

/// The end of the year 9999, in milliseconds since the Unix epoch. A producer may set any time, and one in another unit than
/// milliseconds would be out of the database's range: such a message is treated as one without a time.
const MAX_TIME_MS: i64 = 253_402_300_799_999;

impl MessageSet {
    /// The partition's topic.
    pub fn source(&self) -> &Arc<Source> {
        &self.block.partition.source
    }

    /// The partition.
    pub fn partition(&self) -> &Partition {
        &self.block.partition
    }

    /// The positions it covers.
    pub fn interval(&self) -> Interval {
        Interval { partition: self.block.partition.clone(), from: self.from, until: self.until }
    }

    /// The number of messages; an interval may have none.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns `true` if the interval has no message.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The memory of the messages, in bytes; of a part, its share.
    pub fn bytes(&self) -> usize {
        let entries = &self.block.entries[self.entries.clone()];
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return 0 };
        last.start + last.bytes() - first.start + size_of_val(entries)
    }

    /// The messages in the order of their offsets.
    pub fn messages(&self) -> impl ExactSizeIterator<Item = RawMessage<'_>> {
        self.block.entries[self.entries.clone()].iter().map(|entry| {
            let mut rest = &self.block.bytes[entry.start..];
            let mut part = |len: i32| {
                let (part, behind) = rest.split_at(usize::try_from(len).ok()?);
                rest = behind;
                Some(part)
            };
            RawMessage {
                offset: entry.offset,
                time_ms: (entry.time_ms != NO_TIME).then_some(entry.time_ms),
                key: part(entry.key_len),
                payload: part(entry.payload_len),
                headers: part(entry.headers_len),
            }
        })
    }

    /// The part inside `[from, until)`; `None` if the two do not overlap.
    pub fn clip(&self, from: i64, until: i64) -> Option<Self> {
        let (from, until) = (from.max(self.from), until.min(self.until));
        if from >= until {
            return None;
        }
        let entries = &self.block.entries[self.entries.clone()];
        let start = self.entries.start + entries.partition_point(|e| e.offset < from);
        let end = self.entries.start + entries.partition_point(|e| e.offset < until);
        Some(Self { block: Arc::clone(&self.block), entries: start..end, from, until })
    }

    /// A copy with its own memory, for a part that outlives the rest of its block.
    pub fn detached(&self, budget: &crate::raw::Budget) -> Self {
        let mut copy = MessageSetBuilder::of(self.partition().clone(), self.from);
        for message in self.messages() {
            copy.push(&message);
        }
        copy.extend_to(self.until);
        copy.build(Some(budget))
    }

    /// The first `count` messages and the rest; the positions between the two belong to the first.
    ///
    /// # Panics
    /// If `count` is 0 or not below [`MessageSet::len`].
    pub fn split_at(&self, count: usize) -> (Self, Self) {
        assert!(count > 0 && count < self.len(), "both parts of a split have a message");
        let middle = self.block.entries[self.entries.start + count].offset;
        let part = |from, until| self.clip(from, until).expect("both parts hold a message");
        (part(self.from, middle), part(middle, self.until))
    }
}

/// Collects the messages of a partition, one after the other, into a [`MessageSet`].
#[derive(Debug)]
pub struct MessageSetBuilder {
    partition: Partition,
    from: i64,
    until: i64,
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

impl MessageSetBuilder {
    /// An empty set that begins at the position `from`.
    pub fn new(source: Arc<Source>, number: i32, from: i64) -> Self {
        Self::of(Partition::new(source, number), from)
    }

    /// The same for a partition.
    pub fn of(partition: Partition, from: i64) -> Self {
        Self { partition, from, until: from, bytes: Vec::new(), entries: Vec::new() }
    }

    /// Adds a copy of a message; the set then extends to the position after it.
    ///
    /// # Panics
    /// If the message's offset lies below the set's end: Kafka delivers a partition in order.
    pub fn push(&mut self, message: &RawMessage<'_>) {
        assert!(message.offset >= self.until, "offset {} delivered after {}", message.offset, self.until);
        let length =
            |bytes: Option<&[u8]>| bytes.map_or(-1, |b| i32::try_from(b.len()).expect("Kafka's lengths are int32"));
        self.entries.push(Entry {
            offset: message.offset,
            time_ms: message.time_ms.filter(|time| (0..=MAX_TIME_MS).contains(time)).unwrap_or(NO_TIME),
            start: self.bytes.len(),
            key_len: length(message.key),
            payload_len: length(message.payload),
            headers_len: length(message.headers),
        });
        for part in [message.key, message.payload, message.headers].into_iter().flatten() {
            self.bytes.extend_from_slice(part);
        }
        self.until = message.offset + 1;
    }

    /// Extends the set to `until`, if a continuous read has shown that no message lies before it.
    pub fn extend_to(&mut self, until: i64) {
        self.until = self.until.max(until);
    }

    /// The position after what was added.
    pub fn until(&self) -> i64 {
        self.until
    }

    /// The memory held, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    /// Returns `true` if it covers no position.
    pub fn is_empty(&self) -> bool {
        self.from == self.until
    }

    /// The finished set, its memory charged to `budget` until its last part is dropped.
    pub fn build(mut self, budget: Option<&crate::raw::Budget>) -> MessageSet {
        self.bytes.shrink_to_fit();
        self.entries.shrink_to_fit();
        let charge = budget.map(|budget| budget.charge(self.bytes()));
        let entries = 0..self.entries.len();
        MessageSet {
            block: Arc::new(Block {
                partition: self.partition,
                bytes: self.bytes,
                entries: self.entries,
                _charge: charge,
            }),
            entries,
            from: self.from,
            until: self.until,
        }
    }
}
