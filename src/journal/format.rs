//! The three headers, 64 bytes each, little-endian, as specified in the module's documentation.

/// The length of each header, in bytes.
pub(super) const HEADER_BYTES: u64 = 64;
/// The same as an array's length.
pub(super) const HEADER: usize = HEADER_BYTES as usize;
/// The version of the whole format.
const VERSION: u32 = 1;
const RECORD_VERSION: u8 = 1;
/// Records begin at multiples of this number of bytes.
pub(super) const ALIGNMENT: u64 = 8;
/// Maximum length of a payload, in bytes, before and after compression: it bounds what a reader allocates.
pub(super) const MAX_PAYLOAD_BYTES: usize = 1 << 30;
/// Maximum sequence number in a header: no worker appends that many records, and counting on from any number that is read does
/// not overflow. Appended records do not exceed it either, because they would not be read.
pub(super) const MAX_SEQUENCE: u64 = u64::MAX / 2;
/// `flags`: the payload is compressed with zstd.
pub(super) const COMPRESSED: u16 = 1;

const JOURNAL_MAGIC: [u8; 8] = *b"SI-JRNL\n";
const SEGMENT_MAGIC: [u8; 8] = *b"SI-SEGM\n";

/// What distinguishes one journal from another.
pub(super) type JournalId = [u8; 16];

/// Bytes of a header.
pub(super) type HeaderBytes = [u8; HEADER];

/// Writes fields one after the other.
struct Fields {
    bytes: HeaderBytes,
    at: usize,
}

impl Fields {
    fn new() -> Self {
        Self { bytes: [0; HEADER], at: 0 }
    }

    fn put(mut self, field: &[u8]) -> Self {
        self.bytes[self.at..self.at + field.len()].copy_from_slice(field);
        self.at += field.len();
        self
    }

    /// Puts the checksum of all bytes before into the last four.
    fn sealed(mut self, salt: u32) -> HeaderBytes {
        let crc = crc32c::crc32c_append(salt, &self.bytes[..HEADER - 4]);
        self.bytes[HEADER - 4..].copy_from_slice(&crc.to_le_bytes());
        self.bytes
    }
}

fn is_sealed(bytes: &HeaderBytes, salt: u32) -> bool {
    field::<4>(bytes, HEADER - 4) == crc32c::crc32c_append(salt, &bytes[..HEADER - 4]).to_le_bytes()
}

fn field<const N: usize>(bytes: &HeaderBytes, at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

/// Why the file `JOURNAL` is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JournalFault {
    /// Its bytes are not what was written.
    Damaged,
    /// A format that this program does not know.
    Version(u32),
}

/// The bytes of the file `JOURNAL`.
pub(super) fn encode_journal(id: &JournalId) -> HeaderBytes {
    Fields::new().put(&JOURNAL_MAGIC).put(&VERSION.to_le_bytes()).put(&[0; 4]).put(id).sealed(0)
}

/// The journal's id.
pub(super) fn decode_journal(bytes: &HeaderBytes) -> Result<JournalId, JournalFault> {
    if field(bytes, 0) != JOURNAL_MAGIC || !is_sealed(bytes, 0) {
        return Err(JournalFault::Damaged);
    }
    match u32::from_le_bytes(field(bytes, 8)) {
        VERSION => Ok(field(bytes, 16)),
        other => Err(JournalFault::Version(other)),
    }
}

/// The header of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// The segment's number, as in its name.
    pub(super) number: u64,
    /// The segment before it that has acknowledged records; 0 for none.
    pub(super) previous: u64,
    /// The sequence number of its first record: all below were acknowledged in older segments, none from it on.
    pub(super) first_sequence: u64,
    /// The journal's id.
    pub(super) id: JournalId,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> HeaderBytes {
        Fields::new()
            .put(&SEGMENT_MAGIC)
            .put(&VERSION.to_le_bytes())
            .put(&[0; 4])
            .put(&self.number.to_le_bytes())
            .put(&self.previous.to_le_bytes())
            .put(&self.first_sequence.to_le_bytes())
            .put(&self.id)
            .sealed(0)
    }

    /// The header, if the bytes are valid.
    pub(super) fn decode(bytes: &HeaderBytes) -> Option<Self> {
        let known = field(bytes, 0) == SEGMENT_MAGIC && u32::from_le_bytes(field(bytes, 8)) == VERSION;
        let header = (known && is_sealed(bytes, 0)).then(|| Self {
            number: u64::from_le_bytes(field(bytes, 16)),
            previous: u64::from_le_bytes(field(bytes, 24)),
            first_sequence: u64::from_le_bytes(field(bytes, 32)),
            id: field(bytes, 40),
        });
        header.filter(|header| header.first_sequence <= MAX_SEQUENCE)
    }
}

/// The kind of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordKind {
    /// A topic, and the number that stands for it in this segment.
    Source,
    /// Messages.
    Messages,
}

/// The header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) payload_bytes: u32,
    pub(super) kind: RecordKind,
    pub(super) flags: u16,
    pub(super) sequence: u64,
    pub(super) from: i64,
    pub(super) until: i64,
    pub(super) source: u32,
    pub(super) partition: i32,
    pub(super) messages: u32,
    pub(super) uncompressed_bytes: u32,
    pub(super) oldest_ms: i64,
    pub(super) payload_crc: u32,
}

/// The salt of a place: a record at another place, in another segment or of another journal has another salt.
pub(super) fn salt(id: &JournalId, segment: u64, position: u64) -> u32 {
    if super::planted::is_on(super::planted::Bug::NoSalt) {
        return 0;
    }
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(id);
    bytes[16..24].copy_from_slice(&segment.to_le_bytes());
    bytes[24..].copy_from_slice(&position.to_le_bytes());
    crc32c::crc32c(&bytes)
}

impl RecordHeader {
    pub(super) fn encode(&self, salt: u32) -> HeaderBytes {
        let kind: u8 = match self.kind {
            RecordKind::Source => 1,
            RecordKind::Messages => 2,
        };
        Fields::new()
            .put(&self.payload_bytes.to_le_bytes())
            .put(&[kind, RECORD_VERSION])
            .put(&self.flags.to_le_bytes())
            .put(&self.sequence.to_le_bytes())
            .put(&self.from.to_le_bytes())
            .put(&self.until.to_le_bytes())
            .put(&self.source.to_le_bytes())
            .put(&self.partition.to_le_bytes())
            .put(&self.messages.to_le_bytes())
            .put(&self.uncompressed_bytes.to_le_bytes())
            .put(&self.oldest_ms.to_le_bytes())
            .put(&self.payload_crc.to_le_bytes())
            .sealed(salt)
    }

    /// The header, if the bytes are one that was written at this place. Most other bytes are rejected by their kind and
    /// version alone, so that searching for headers is fast.
    pub(super) fn decode(bytes: &HeaderBytes, salt: impl FnOnce() -> u32) -> Option<Self> {
        let kind = match (bytes[4], bytes[5]) {
            (1, RECORD_VERSION) => RecordKind::Source,
            (2, RECORD_VERSION) => RecordKind::Messages,
            _ => return None,
        };
        let header = is_sealed(bytes, salt()).then(|| Self {
            payload_bytes: u32::from_le_bytes(field(bytes, 0)),
            kind,
            flags: u16::from_le_bytes(field(bytes, 6)),
            sequence: u64::from_le_bytes(field(bytes, 8)),
            from: i64::from_le_bytes(field(bytes, 16)),
            until: i64::from_le_bytes(field(bytes, 24)),
            source: u32::from_le_bytes(field(bytes, 32)),
            partition: i32::from_le_bytes(field(bytes, 36)),
            messages: u32::from_le_bytes(field(bytes, 40)),
            uncompressed_bytes: u32::from_le_bytes(field(bytes, 44)),
            oldest_ms: i64::from_le_bytes(field(bytes, 48)),
            payload_crc: u32::from_le_bytes(field(bytes, 56)),
        });
        header.filter(|header| header.sequence <= MAX_SEQUENCE)
    }

    /// The record's bytes on disk, with header and padding.
    pub(super) fn record_bytes(&self) -> u64 {
        record_bytes(u64::from(self.payload_bytes))
    }
}

/// Number of bytes on disk of a record with a payload of this length.
pub(super) fn record_bytes(payload_bytes: u64) -> u64 {
    HEADER_BYTES + payload_bytes.next_multiple_of(ALIGNMENT)
}
