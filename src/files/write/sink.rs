//! Where the bytes of a file go.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use crate::files::Error;
use crate::files::whole::WholeFile;

/// Where the bytes go.
#[derive(Debug)]
pub enum Sink {
    /// Into a file that appears when it is whole.
    Whole(WholeFile),
    /// To standard output.
    Output(File),
}

impl Sink {
    /// The path of standard output.
    pub const OUTPUT: &'static str = "-";

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Whole(file) => file.target(),
            Self::Output(_) => Path::new(Self::OUTPUT),
        }
    }

    pub(super) fn finish(self) -> Result<(), Error> {
        match self {
            Self::Whole(file) => file.finish(),
            Self::Output(mut file) => file.flush().map_err(|error| Error::Write { path: Self::OUTPUT.into(), error }),
        }
    }
}

impl Write for Sink {
    #[expect(clippy::disallowed_methods, reason = "this is what write_all is made of")]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Whole(file) => file.write(bytes),
            Self::Output(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Whole(file) => file.flush(),
            Self::Output(file) => file.flush(),
        }
    }
}
