//! The format of a file as an argument.

use clap::ValueEnum;

use crate::files::Format;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum FormatArgument {
    Parquet,
    Arrow,
    Csv,
    Jsonl,
}

impl From<FormatArgument> for Format {
    fn from(argument: FormatArgument) -> Self {
        match argument {
            FormatArgument::Parquet => Self::Parquet,
            FormatArgument::Arrow => Self::Arrow,
            FormatArgument::Csv => Self::Csv,
            FormatArgument::Jsonl => Self::JsonLines,
        }
    }
}
