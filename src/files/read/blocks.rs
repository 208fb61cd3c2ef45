//! The messages of an Arrow file, checked before a library reads them: it allocates what they say, and those of a damaged file
//! may say anything.
//!
//! Source: the Arrow columnar format, "Serialization and interprocess communication".

use std::io::{self, Read as _};

use arrow_ipc::{Block, RecordBatch, root_as_footer, root_as_message};

use super::content::Content;

/// What a buffer may have when it is decompressed, in bytes.
const MAX_BUFFER_BYTES: i64 = 1 << 31;
/// What stands before the head of a message since version 0.15 of the format: these bytes, and the length of the head.
const CONTINUES: [u8; 4] = [0xff; 4];
const WORD_BYTES: u64 = 4;
/// At the end of a file: the length of the footer, and the mark.
const TRAILER_BYTES: u64 = 10;

/// The messages of a file.
#[derive(Debug)]
pub(super) struct Blocks {
    content: Content,
    next: Next,
}

#[derive(Debug)]
enum Next {
    /// Of a file: where batches begin, in the order of the footer.
    OfFooter(std::vec::IntoIter<i64>),
    /// Of a stream: where the next message begins.
    At(u64),
}

fn damaged(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn unsigned(number: i64) -> io::Result<u64> {
    u64::try_from(number).map_err(|_| damaged("it has a negative length"))
}

impl Blocks {
    /// Of a file, whose dictionaries are checked, as its reader reads them when it begins; or of a stream.
    pub(super) fn open(content: &Content, is_stream: bool) -> io::Result<Self> {
        let mut blocks = Self { content: content.clone(), next: Next::At(0) };
        if is_stream {
            return Ok(blocks);
        }
        let end = content.length().checked_sub(TRAILER_BYTES).ok_or_else(|| damaged("it has no footer"))?;
        let length = blocks.word(end)?;
        let start = end.checked_sub(u64::from(length)).ok_or_else(|| damaged("its footer is longer than the file"))?;
        let footer = blocks.bytes(start, u64::from(length))?;
        let footer =
            root_as_footer(&footer).map_err(|error| damaged(&format!("its footer cannot be read: {error}")))?;
        for block in footer.dictionaries().into_iter().flatten() {
            blocks.check_at(block)?;
        }
        let batches: Vec<i64> = footer.recordBatches().into_iter().flatten().map(Block::offset).collect();
        blocks.next = Next::OfFooter(batches.into_iter());
        Ok(blocks)
    }

    /// Checks what the reader reads for its next batch.
    pub(super) fn check_next(&mut self) -> io::Result<()> {
        match &mut self.next {
            Next::OfFooter(batches) => match batches.next() {
                Some(at) => self.check(unsigned(at)?).map(|_| ()),
                None => Ok(()),
            },
            Next::At(at) => {
                let mut at = *at;
                // Dictionaries may be before it.
                while let Some((end, is_batch)) = self.check(at)? {
                    at = end;
                    if is_batch {
                        break;
                    }
                }
                self.next = Next::At(at);
                Ok(())
            }
        }
    }

    fn check_at(&self, block: &Block) -> io::Result<()> {
        self.check(unsigned(block.offset())?).map(|_| ())
    }

    /// Checks the message at a byte; returns where it ends, and whether it is a batch, or `None` at the end.
    fn check(&self, at: u64) -> io::Result<Option<(u64, bool)>> {
        if at >= self.content.length() {
            return Ok(None);
        }
        let (head_at, length) = if self.bytes(at, WORD_BYTES)? == CONTINUES {
            (at + 2 * WORD_BYTES, self.word(at + WORD_BYTES)?)
        } else {
            (at + WORD_BYTES, self.word(at)?)
        };
        if length == 0 {
            return Ok(None);
        }
        let body_at = head_at + u64::from(length);
        let head = self.bytes(head_at, u64::from(length))?;
        let head = root_as_message(&head).map_err(|error| damaged(&format!("a message cannot be read: {error}")))?;
        let end = body_at.saturating_add(unsigned(head.bodyLength())?);
        if end > self.content.length() {
            return Err(damaged("a message is longer than the file"));
        }
        let batch = head.header_as_record_batch();
        let of_dictionary = || head.header_as_dictionary_batch().and_then(|dictionary| dictionary.data());
        if let Some(batch) = batch.or_else(of_dictionary) {
            self.check_buffers(batch, body_at, end)?;
        }
        Ok(Some((end, batch.is_some())))
    }

    fn check_buffers(&self, batch: RecordBatch<'_>, body_at: u64, end: u64) -> io::Result<()> {
        for buffer in batch.buffers().into_iter().flatten() {
            let (at, length) = (body_at.saturating_add(unsigned(buffer.offset())?), unsigned(buffer.length())?);
            if at.saturating_add(length) > end {
                return Err(damaged("a buffer is longer than its message"));
            }
            if batch.compression().is_some() && length > 0 {
                let size = self.bytes(at, size_of::<i64>() as u64)?.try_into().map_or(0, i64::from_le_bytes);
                if size > MAX_BUFFER_BYTES {
                    return Err(damaged(&format!(
                        "a buffer of {size} bytes is longer than the {MAX_BUFFER_BYTES} allowed"
                    )));
                }
            }
        }
        Ok(())
    }

    fn word(&self, at: u64) -> io::Result<u32> {
        Ok(self.bytes(at, WORD_BYTES)?.try_into().map_or(0, u32::from_le_bytes))
    }

    fn bytes(&self, at: u64, length: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.content.reader_at(at).take(length).read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < length { Err(damaged("it ends in the middle of a message")) } else { Ok(bytes) }
    }
}
