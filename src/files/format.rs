//! The formats of files, their compression, and what a row of one is.

/// The format of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Apache Parquet.
    Parquet,
    /// Apache Arrow's IPC file, which is Feather 2 as well. Its stream is read, too.
    Arrow,
    /// Comma-separated values with a header.
    Csv,
    /// A JSON object in each line.
    JsonLines,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Parquet, Self::Arrow, Self::Csv, Self::JsonLines];

    /// The word for it on the command line, with which names of such files end.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Arrow => "arrow",
            Self::Csv => "csv",
            Self::JsonLines => "jsonl",
        }
    }

    /// Returns `true` if a file of it has a place for definitions.
    pub fn has_metadata(self) -> bool {
        matches!(self, Self::Parquet | Self::Arrow)
    }
}

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// Gzip; not in Arrow.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// How names of text files that are compressed so end.
    pub fn ending(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => ".gz",
            Self::Zstd => ".zst",
        }
    }

    /// The compression of a text file with these first bytes.
    pub(super) fn of_first_bytes(bytes: &[u8]) -> Self {
        match bytes {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// What a row of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A time, and a value for each column.
    Wide,
    /// A point: its series, its time, the name of its column, its value.
    Long,
}

impl Form {
    /// The word for it on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wide => "wide",
            Self::Long => "long",
        }
    }
}
