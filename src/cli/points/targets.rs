//! Where an export goes: a file, a folder, or standard output.

use std::fs;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::cli::{Failure, output};
use crate::files::whole::{WholeFile, refuse_existing, with_ending};
use crate::files::write::{Head, Sink, Writer};
use crate::files::{self, Compression, Format, hex};
use crate::telemetry::shown;

/// What stands between the name of a series' files and the part of its times.
const PART: char = '@';
/// What the name of a file may have at most before its ending, of the 255 bytes of a file system.
const MAX_STEM_BYTES: usize = 180;

/// Where an export goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Output,
    File(PathBuf),
    Folder(PathBuf),
}

/// How files are written.
#[derive(Debug, Clone)]
pub(super) struct Targets {
    pub(super) target: Target,
    pub(super) format: Format,
    pub(super) compression: Compression,
    pub(super) overwrite: bool,
}

impl Targets {
    /// From the arguments. What is not said is as the file's name ends; else it is Parquet for a folder, and CSV for standard
    /// output.
    pub(super) fn new(
        out: Option<&Path>,
        format: Option<Format>,
        compression: Option<Compression>,
        overwrite: bool,
    ) -> Result<Self, Failure> {
        let target = match out {
            None => Target::Output,
            Some(path) if path == Path::new(Sink::OUTPUT) => Target::Output,
            Some(path) if path.as_os_str().as_encoded_bytes().ends_with(b"/") || path.is_dir() => {
                Target::Folder(path.to_owned())
            }
            Some(path) => Target::File(path.to_owned()),
        };
        let name = match &target {
            Target::File(path) => path.file_name().map(|name| name.to_string_lossy().to_lowercase()),
            Target::Output | Target::Folder(_) => None,
        };
        let (of_name, compression_of_name) = name.as_deref().map_or((None, None), by_ending);
        let format = match (format.or(of_name), &target) {
            (Some(format), _) => format,
            (None, Target::Output) => Format::Csv,
            (None, Target::Folder(_)) => Format::Parquet,
            (None, Target::File(path)) => {
                return Err(Failure::Usage(format!(
                    "{}: the name does not say the format: say it, --format parquet, arrow, csv or jsonl",
                    shown(path)
                )));
            }
        };
        let compression = compression.or(compression_of_name).unwrap_or(match format {
            Format::Parquet => Compression::Zstd,
            Format::Arrow | Format::Csv | Format::JsonLines => Compression::None,
        });
        let is_text = !format.has_metadata() && compression == Compression::None;
        if target == Target::Output && !is_text && std::io::stdout().is_terminal() {
            return Err(Failure::Usage(
                "this is not for a terminal: name a file with --out, or choose --format csv".to_owned(),
            ));
        }
        Ok(Self { target, format, compression, overwrite })
    }

    /// The path of the file of a series in the folder; `part` is the part of its times, if there are several.
    pub(super) fn path_in(&self, folder: &Path, series: &str, part: Option<&str>) -> PathBuf {
        let mut name = stem(series);
        if let Some(part) = part {
            // No id has this character in the name of its files.
            name = format!("{name}{PART}{part}");
        }
        let compression = if self.format.has_metadata() { "" } else { self.compression.ending() };
        folder.join(format!("{name}.{}{compression}", self.format.as_str()))
    }

    /// Refuses a file that is there, before anything is read for it.
    pub(super) fn refuse_existing(&self, path: &Path) -> Result<(), files::Error> {
        refuse_existing(path, self.overwrite)?;
        if !self.format.has_metadata() {
            refuse_existing(&definitions_of(path), self.overwrite)?;
        }
        Ok(())
    }

    /// Begins a file.
    pub(super) fn open_file(&self, path: &Path, head: &Head) -> Result<Writer, files::Error> {
        if let Target::Folder(folder) = &self.target {
            let failed = |error| files::Error::Write { path: folder.clone(), error };
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let file = WholeFile::create(path, self.overwrite)?;
        let definitions = !self.format.has_metadata();
        let definitions = definitions.then(|| WholeFile::create(&definitions_of(path), self.overwrite)).transpose()?;
        Writer::new(Sink::Whole(file), definitions, self.format, self.compression, head)
    }

    /// Begins what goes to standard output.
    pub(super) fn open_output(&self, head: &Head) -> Result<Writer, Failure> {
        Ok(Writer::new(Sink::Output(output::file()?), None, self.format, self.compression, head)?)
    }
}

fn definitions_of(path: &Path) -> PathBuf {
    with_ending(path, files::BESIDE)
}

fn by_ending(name: &str) -> (Option<Format>, Option<Compression>) {
    let (name, compression) = if let Some(name) = name.strip_suffix(".gz") {
        (name, Some(Compression::Gzip))
    } else if let Some(name) = name.strip_suffix(".zst") {
        (name, Some(Compression::Zstd))
    } else {
        (name, None)
    };
    let format = match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("parquet" | "pq") => Some(Format::Parquet),
        Some("arrow" | "feather" | "ipc") => Some(Format::Arrow),
        Some("csv") => Some(Format::Csv),
        Some("jsonl" | "ndjson") => Some(Format::JsonLines),
        _ => None,
    };
    // What is compressed inside of such a format is not said by its name.
    let is_text = matches!(format, Some(Format::Csv | Format::JsonLines));
    (format.filter(|_| is_text || compression.is_none()), compression)
}

/// The name of the files of a series: its id, in which all but letters and digits of ASCII, `-`, `_` and dots after the first
/// character are escaped as in URLs. A long one ends in `~` and a hash, so that no two ids have the same name.
fn stem(id: &str) -> String {
    let mut name = String::new();
    for (at, byte) in id.bytes().enumerate() {
        let is_plain = byte.is_ascii_alphanumeric() || b"-_".contains(&byte) || (byte == b'.' && at > 0);
        if is_plain { name.push(char::from(byte)) } else { name.push_str(&format!("%{byte:02X}")) }
    }
    if name.len() > MAX_STEM_BYTES {
        let hash = hex(&Sha256::digest(id.as_bytes())[..16]);
        name.truncate(MAX_STEM_BYTES - hash.len() - 1);
        name = format!("{name}~{hash}");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_those_of_one_id() {
        for (id, name) in
            [("a", "a"), ("a/b", "a%2Fb"), ("..", "%2E."), ("%2F", "%252F"), ("a\nü'", "a%0A%C3%BC%27"), ("~", "%7E")]
        {
            assert_eq!(stem(id), name);
        }
        // Nor has a series with another one's part in its id.
        let targets = Targets::new(Some(Path::new("d/")), None, None, false).unwrap();
        let path = |id: &str, part| targets.path_in(Path::new("d"), id, part);
        assert_eq!(path("a", Some("2024-01-01")), Path::new("d/a@2024-01-01.parquet"));
        for id in ["a.2024-01-01", "a@2024-01-01", "a~2024-01-01"] {
            assert_ne!(path("a", Some("2024-01-01")), path(id, None), "{id}");
        }
        let (one, other) = (stem(&"/".repeat(1024)), stem(&"/".repeat(1023)));
        assert!(one != other && one.len() <= MAX_STEM_BYTES && other.len() <= MAX_STEM_BYTES);
    }

    #[test]
    fn a_name_says_the_format() {
        let all = |name: &str| {
            let targets = Targets::new(Some(Path::new(name)), None, None, false).unwrap();
            (targets.format, targets.compression)
        };
        assert_eq!(all("a.parquet"), (Format::Parquet, Compression::Zstd));
        assert_eq!(all("a.CSV.gz"), (Format::Csv, Compression::Gzip));
        assert_eq!(all("a.b.jsonl.zst"), (Format::JsonLines, Compression::Zstd));
        assert_eq!(all("/nowhere/"), (Format::Parquet, Compression::Zstd));
        for name in ["a", "a.txt", "a.parquet.gz"] {
            assert!(Targets::new(Some(Path::new(name)), None, None, false).is_err(), "{name}");
        }
    }
}
