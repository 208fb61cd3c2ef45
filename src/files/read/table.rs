//! A file that is understood: what it has, its rows, and what of it makes it another source.

use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::content::Content;
use super::csv::{self, Csv};
use super::encode::{Emitter, Encoder};
use super::fields::Field;
use super::ipc::Ipc;
use super::layout::{CellTime, Layout, SeriesOf, Shape};
use super::lines::Lines;
use super::metadata::{FoundDefinition, Metadata};
use super::options::ReadOptions;
use super::parquet::Parquet;
use super::text;
use super::{ReadError, Rows, arrow};
use crate::files::{Compression, Form, Format, hex};

/// How much of a file is examined for its format, in bytes.
const HEAD_BYTES: usize = 4096;

/// A file, and how its rows become messages.
#[derive(Debug, Clone)]
pub struct Table {
    content: Content,
    stored: Stored,
    fields: Vec<Field>,
    definitions: Vec<FoundDefinition>,
    encoder: Encoder,
}

#[derive(Debug, Clone)]
enum Stored {
    Parquet(Parquet),
    Ipc(Ipc),
    Csv(Csv),
    Lines(Lines),
}

/// What a file begins with.
enum Head {
    Parquet,
    ArrowFile,
    ArrowStream,
    Text(Compression),
}

impl Table {
    /// Opens a file, and finds what is not said of it.
    ///
    /// # Errors
    /// If it cannot be read, or it is not clear what it means.
    pub fn open(path: &Path, options: &ReadOptions) -> Result<Self, ReadError> {
        let content = Content::open(path)?;
        let (stored, fields, metadata) = open(&content, options)?;
        let layout = Layout::find(options, &fields, &metadata).map_err(|text| ReadError::unclear(path, text))?;
        let unit = match &stored {
            Stored::Parquet(file) => arrow::unit_of(file.schema(), layout.time, &layout.time_form),
            Stored::Ipc(file) => arrow::unit_of(file.schema(), layout.time, &layout.time_form),
            Stored::Csv(_) | Stored::Lines(_) => csv::unit_of(&layout.time_form),
        };
        let encoder =
            Encoder::new(layout, &fields, unit.word(), options, metadata.absent.as_deref().unwrap_or_default());
        Ok(Self { content, stored, fields, definitions: metadata.definitions, encoder })
    }

    /// The file as it is stored.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// Its format.
    pub fn format(&self) -> Format {
        match self.stored {
            Stored::Parquet(_) => Format::Parquet,
            Stored::Ipc(_) => Format::Arrow,
            Stored::Csv(_) => Format::Csv,
            Stored::Lines(_) => Format::JsonLines,
        }
    }

    /// What its rows are.
    pub fn form(&self) -> Form {
        self.encoder.layout().form()
    }

    /// The name of the column with the times.
    pub fn time_column(&self) -> &str {
        &self.fields[self.encoder.layout().time].name
    }

    /// The series of all rows; or else the name of the column that has them.
    pub fn series(&self) -> Result<&str, &str> {
        match &self.encoder.layout().series {
            SeriesOf::Fixed(id) => Ok(id),
            SeriesOf::Column(column) => Err(&self.fields[*column].name),
        }
    }

    /// The names of the columns with values, if a row has several.
    pub fn columns(&self) -> Vec<&str> {
        match &self.encoder.layout().shape {
            Shape::Wide(columns) => columns.iter().map(|column| self.fields[*column].name.as_str()).collect(),
            Shape::Long { .. } => Vec::new(),
        }
    }

    /// What a person may not expect, in sentences.
    pub fn notes(&self) -> &[String] {
        &self.encoder.layout().notes
    }

    /// The number of messages of a row: their partitions are those of the groups below it.
    pub fn groups(&self) -> usize {
        self.encoder.groups()
    }

    /// The definitions of its series, as messages.
    pub fn definitions(&self) -> Vec<Vec<u8>> {
        match (self.definitions.as_slice(), &self.encoder.layout().series) {
            // One that is written under another id is defined under that.
            ([only], SeriesOf::Fixed(id)) => vec![only.message(id)],
            (all, _) => all.iter().map(|definition| definition.message(&definition.id)).collect(),
        }
    }

    /// Returns `true` if the file's definition says which series its rows are of. Another file may have the same content.
    pub fn names_its_series(&self) -> bool {
        let only = if let [only] = self.definitions.as_slice() { Some(only.id.as_str()) } else { None };
        only.is_some() && only == self.series().ok()
    }

    /// What makes another source of the same content: the series, as short as [`Self::meaning`].
    pub fn series_digest(&self) -> String {
        let parts = match self.series() {
            Ok(id) => ["all", id],
            Err(column) => ["by column", column],
        };
        digest(&parts)
    }

    /// What makes another source of the same content: which cell is which point. It is short, and the same for the same
    /// content and the same options.
    pub fn meaning(&self) -> String {
        let layout = self.encoder.layout();
        let mut parts: Vec<&str> = Vec::new();
        let sizes: Vec<String> = self.encoder.group_sizes().map(|size| size.to_string()).collect();
        let delimiter: String;
        let mut add = |text| parts.push(text);
        add(self.time_column());
        match &layout.time_form {
            CellTime::Typed => add("typed"),
            CellTime::Text => add("text"),
            CellTime::Number(unit) => add(unit.word()),
            CellTime::Pattern(pattern, _) => add(pattern),
        }
        match &layout.shape {
            Shape::Long { column, value } => {
                ["long", &self.fields[*column].name, &self.fields[*value].name].into_iter().for_each(&mut add);
            }
            Shape::Wide(columns) => {
                add("wide");
                for column in columns {
                    add(&self.fields[*column].name);
                    add(if self.encoder.skips_nulls(*column) { "without nulls" } else { "with nulls" });
                }
            }
        }
        if let Stored::Csv(file) = &self.stored {
            delimiter = char::from(file.delimiter).to_string();
            add(&delimiter);
        }
        // The offsets of rows are those of all their messages.
        sizes.iter().for_each(|size| add(size));
        digest(&parts)
    }

    /// Gives all rows, in their order; of Parquet, all rows of each group of columns, one group after the other.
    ///
    /// # Errors
    /// If the file ends early or is damaged: all rows before that were given. Or if no more rows are wanted.
    pub fn read(&self, rows: &mut dyn Rows) -> Result<(), ReadError> {
        let groups = 0..self.groups();
        let (content, encoder) = (&self.content, &self.encoder);
        match &self.stored {
            Stored::Parquet(file) => {
                for group in groups {
                    let first = rows.first_wanted(group..group + 1);
                    let mut emitter = Emitter::new(encoder, rows, group..group + 1, 0);
                    file.read(content, (encoder, group), first, &mut emitter)?;
                    emitter.end()?;
                }
                Ok(())
            }
            Stored::Ipc(file) => {
                let first = rows.first_wanted(groups.clone());
                let mut emitter = Emitter::new(encoder, rows, groups, 0);
                file.read(content, first, &mut emitter)?;
                emitter.end()
            }
            Stored::Csv(file) => {
                let mut emitter = Emitter::new(encoder, rows, groups, 0);
                file.read(content, &mut emitter)?;
                emitter.end()
            }
            Stored::Lines(file) => {
                let mut emitter = Emitter::new(encoder, rows, groups, 0);
                file.read(content, &mut emitter)?;
                emitter.end()
            }
        }
    }
}

/// A short hash of texts.
fn digest(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hex(&hasher.finalize()[..4])
}

fn open(content: &Content, options: &ReadOptions) -> Result<(Stored, Vec<Field>, Metadata), ReadError> {
    let head = look(content)?;
    let said = options.format;
    let found = match head {
        Head::Parquet => Format::Parquet,
        Head::ArrowFile | Head::ArrowStream => Format::Arrow,
        Head::Text(compression) => match said {
            Some(said @ (Format::Csv | Format::JsonLines)) => said,
            _ => text_format(content, compression)?,
        },
    };
    if let Some(said) = said.filter(|said| *said != found) {
        let text = format!("--format {}: by its first bytes the file is {}", said.as_str(), found.as_str());
        return Err(ReadError::unclear(content.path(), text));
    }
    if options.delimiter.is_some() && found != Format::Csv {
        return Err(ReadError::unclear(
            content.path(),
            format!("--delimiter: the file is {}, and no CSV", found.as_str()),
        ));
    }
    Ok(match (head, found) {
        (Head::Parquet, _) => {
            let (file, metadata) = Parquet::open(content)?;
            let fields = arrow::fields_of(file.schema());
            (Stored::Parquet(file), fields, metadata)
        }
        (Head::Text(compression), Format::JsonLines) => {
            let metadata = Metadata::next_to(content.path())?;
            let file = Lines::open(content, compression, &metadata.columns())?;
            let fields = file.fields.clone();
            (Stored::Lines(file), fields, metadata)
        }
        (Head::Text(compression), _) => {
            let metadata = Metadata::next_to(content.path())?;
            // That of `points export`: a header without rows shows too little.
            let exported = (!metadata.definitions.is_empty()).then_some(b',');
            let file = Csv::open(content, compression, options.delimiter.or(exported))?;
            let fields = file.fields.clone();
            (Stored::Csv(file), fields, metadata)
        }
        (head, _) => {
            let (file, metadata) = Ipc::open(content, matches!(head, Head::ArrowStream))?;
            let fields = arrow::fields_of(file.schema());
            (Stored::Ipc(file), fields, metadata)
        }
    })
}

/// What the file is by its first bytes.
fn look(content: &Content) -> Result<Head, ReadError> {
    let head = content.head(HEAD_BYTES)?;
    let refused = |text: &str| Err(ReadError::unclear(content.path(), text));
    match head.as_slice() {
        // So is a file of no rows, whose columns its definition has.
        [] if !Metadata::next_to(content.path())?.definitions.is_empty() => Ok(Head::Text(Compression::None)),
        [] => refused("is empty"),
        [b'P', b'A', b'R', b'1', ..] => Ok(Head::Parquet),
        [b'A', b'R', b'R', b'O', b'W', b'1', ..] => Ok(Head::ArrowFile),
        [0xff, 0xff, 0xff, 0xff, ..] => Ok(Head::ArrowStream),
        [b'P', b'A', b'R', b'E', ..] => refused("is an encrypted Parquet file, which cannot be read"),
        [b'P', b'K', 3, 4, ..] => refused("is a ZIP archive or a spreadsheet: extract its files, or save it as CSV"),
        [b'B', b'Z', b'h', ..] | [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            refused("is compressed by bzip2 or xz: decompress it first; gzip and zstd can be read as they are")
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => refused("is UTF-16: convert it, iconv -f utf-16 -t utf-8"),
        head => Ok(Head::Text(Compression::of_first_bytes(head))),
    }
}

/// Returns the format of a text: CSV or JSON lines.
fn text_format(content: &Content, compression: Compression) -> Result<Format, ReadError> {
    use std::io::Read as _;
    let mut head = Vec::new();
    let read = text::open(content, compression)?.take(HEAD_BYTES as u64).read_to_end(&mut head);
    if let (Err(error), true) = (&read, head.is_empty()) {
        return Err(ReadError::damaged(content.path(), 0, text::why(error)));
    }
    let refused = |text: &str| Err(ReadError::unclear(content.path(), text));
    if head.starts_with(b"PAR1") || head.starts_with(b"ARROW1") {
        return refused("is a compressed Parquet or Arrow file: decompress it first");
    }
    match head.trim_ascii_start().first() {
        None if !Metadata::next_to(content.path())?.definitions.is_empty() => Ok(Format::JsonLines),
        None => refused("is empty"),
        Some(b'{') => Ok(Format::JsonLines),
        Some(b'[') => refused("is a JSON array: write an object a line, jq -c '.[]'"),
        Some(0) => refused("is neither CSV nor JSON lines, nor Parquet nor Arrow"),
        Some(_) => Ok(Format::Csv),
    }
}
