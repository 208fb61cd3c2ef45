//! What CSV and JSON lines are read from: bytes, which may be compressed.

use std::io::{self, BufReader, Read};

use super::ReadError;
use super::content::{BLOCK_BYTES, Content};
use crate::files::Compression;

/// The text of a file, without a byte order mark.
pub(super) type Text = BufReader<Box<dyn Read + Send>>;

/// Why there is no next row of a text.
pub(super) enum Failure {
    Io(io::Error),
    TooLong,
}

impl Failure {
    /// The error after this row; `too_long` says which limit a longer one has.
    pub(super) fn after(self, content: &Content, row: i64, too_long: impl FnOnce() -> String) -> ReadError {
        match self {
            Self::Io(error) => ReadError::damaged(content.path(), row, why(&error)),
            Self::TooLong => ReadError::damaged(content.path(), row, too_long()),
        }
    }
}

/// Opens the text of a file from its beginning.
pub(super) fn open(content: &Content, compression: Compression) -> Result<Text, ReadError> {
    let stored = BufReader::with_capacity(BLOCK_BYTES, content.reader());
    let plain: Box<dyn Read + Send> = match compression {
        Compression::None => Box::new(stored),
        // Several members, one after the other, are one text.
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(stored)),
        Compression::Zstd => {
            Box::new(zstd::stream::read::Decoder::with_buffer(stored).map_err(|error| content.io(error))?)
        }
    };
    let mut text = BufReader::with_capacity(BLOCK_BYTES, plain);
    skip_mark(&mut text).map_err(|error| ReadError::damaged(content.path(), 0, error))?;
    Ok(text)
}

/// Skips a byte order mark.
fn skip_mark(text: &mut Text) -> io::Result<()> {
    let head = io::BufRead::fill_buf(text)?;
    if head.starts_with(b"\xef\xbb\xbf") {
        io::BufRead::consume(text, 3);
    }
    Ok(())
}

/// Why a text ends early, for a person.
pub(super) fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            "the compressed file ends in the middle: it was not written or copied as a whole".to_owned()
        }
        _ => error.to_string(),
    }
}
