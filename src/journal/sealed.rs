//! Files with valid checksums and any other content: otherwise a fuzzer does not get past the checksums.

use std::path::{Path, PathBuf};

use super::directory::segment_path;
use super::format::{ALIGNMENT, HEADER_BYTES, JournalId, SegmentHeader, encode_journal, salt};

const HEADER: usize = HEADER_BYTES as usize;

/// The file `JOURNAL` of a journal with this id.
pub(crate) fn journal_file(directory: &Path, id: &JournalId) -> (PathBuf, Vec<u8>) {
    (directory.join("JOURNAL"), encode_journal(id).to_vec())
}

/// The path of a segment.
pub(crate) fn segment_file(directory: &Path, number: u64) -> PathBuf {
    segment_path(directory, number)
}

/// Makes the bytes a segment of this journal: required fields of headers are set, a payload's length is bounded by the file,
/// and all checksums are computed. All other bytes stay as they are.
pub(crate) fn seal(bytes: &mut [u8], id: &JournalId, number: u64) {
    let Some((header, _)) = bytes.split_at_mut_checked(HEADER) else { return };
    let field = |header: &[u8], at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap_or_default());
    let (previous, first_sequence) = (field(header, 24), field(header, 32));
    header.copy_from_slice(&SegmentHeader { number, previous, first_sequence, id: *id }.encode());
    let mut position = HEADER;
    while let Some((header, rest)) = bytes.get_mut(position..).and_then(|rest| rest.split_at_mut_checked(HEADER)) {
        if header.iter().all(|byte| *byte == 0) {
            return;
        }
        let salt = salt(id, number, position as u64);
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize % (rest.len() + 1);
        header[..4].copy_from_slice(&(length as u32).to_le_bytes());
        // A kind and the version of a record.
        let kind = 1 + (header[4] ^ 1) % 2;
        header[4..6].copy_from_slice(&[kind, 1]);
        let payload_crc = crc32c::crc32c(&rest[..length]) ^ salt;
        header[56..60].copy_from_slice(&payload_crc.to_le_bytes());
        let crc = crc32c::crc32c_append(salt, &header[..60]);
        header[60..].copy_from_slice(&crc.to_le_bytes());
        position += HEADER + length.next_multiple_of(ALIGNMENT as usize);
    }
}
