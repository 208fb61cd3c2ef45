//! Where the bytes of a file go.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use crate::files::whole::WholeFile;
use crate::files::{Error, hex};

/// What was written of a file so far; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Written(Arc<Mutex<(Sha256, u64)>>);

impl Written {
    fn add(&self, bytes: &[u8]) {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        written.0.update(bytes);
        written.1 += bytes.len() as u64;
    }

    /// The SHA-256 of the bytes in hexadecimal, and their number.
    pub fn hash_and_length(&self) -> (String, u64) {
        let written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (hex(&written.0.clone().finalize()), written.1)
    }
}

/// Where the bytes go.
#[derive(Debug)]
pub enum Sink {
    /// Into a file that appears when it is whole.
    Whole(WholeFile),
    /// The same, with a hash of what was written.
    Hashed(WholeFile, Written),
    /// To standard output.
    Output(File),
}

impl Sink {
    /// The path of standard output.
    pub const OUTPUT: &'static str = "-";

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Whole(file) | Self::Hashed(file, _) => file.target(),
            Self::Output(_) => Path::new(Self::OUTPUT),
        }
    }

    pub(super) fn finish(self) -> Result<(), Error> {
        match self {
            Self::Whole(file) | Self::Hashed(file, _) => file.finish(),
            Self::Output(mut file) => file.flush().map_err(|error| Error::Write { path: Self::OUTPUT.into(), error }),
        }
    }
}

impl Write for Sink {
    #[expect(clippy::disallowed_methods, reason = "this is what write_all is made of")]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Whole(file) => file.write(bytes),
            Self::Hashed(file, written) => {
                let length = file.write(bytes)?;
                written.add(&bytes[..length]);
                Ok(length)
            }
            Self::Output(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Whole(file) | Self::Hashed(file, _) => file.flush(),
            Self::Output(file) => file.flush(),
        }
    }
}
