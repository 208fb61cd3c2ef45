//! The folder of an archive: `DIR/day=2025-01-01/20250101T000000Z_20250108T000000Z.1.parquet`, and next to each file its manifest,
//! whose name begins with `_`, so that programs that read a folder of Parquet skip it.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rustix::fs::{FlockOperation, flock};

use super::manifest::{FORMAT_VERSION, Manifest};
use super::verify::verify;
use super::{ArchiveError, Unit};
use crate::files;
use crate::files::read::ReadError;
use crate::files::whole::{WholeFile, with_ending};

const FILE: &str = ".parquet";
const MANIFEST: &str = ".json";
/// How the names of files end that are kept, but are no longer part of the archive.
const SET_ASIDE: &str = ".superseded";

/// The folder of an archive, for as long as this is kept locked.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Holds the lock.
    _lock: Option<File>,
}

/// A file of a unit.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) number: u32,
    pub(super) path: PathBuf,
    /// `None`: a command was killed before it wrote one.
    pub(super) manifest: Option<Manifest>,
}

fn cannot_write(path: &Path) -> impl Fn(io::Error) -> ArchiveError {
    move |error| files::Error::Write { path: path.to_owned(), error }.into()
}

fn cannot_read(path: &Path) -> impl Fn(io::Error) -> ArchiveError {
    move |error| ReadError::Io { path: path.to_owned(), error }.into()
}

/// Makes a folder and those above it durably.
fn make_folder(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && parent != path => {
            make_folder(parent)?;
            fs::create_dir(path)?;
        }
        Err(_) if path.is_dir() => {}
        made => made?,
    }
    File::open(parent)?.sync_all()
}

impl Folder {
    /// Opens a folder to change it, and makes it if it is missing. What commands that were killed have left unfinished is removed.
    ///
    /// # Errors
    /// If it cannot be written, or another archive works in it.
    pub fn open(path: &Path) -> Result<Self, ArchiveError> {
        make_folder(path).map_err(cannot_write(path))?;
        let lock = File::open(path).map_err(cannot_write(path))?;
        // Not every file system has locks; that of the database holds as well.
        if flock(&lock, FlockOperation::NonBlockingLockExclusive) == Err(rustix::io::Errno::WOULDBLOCK) {
            return Err(ArchiveError::Busy(format!("{}: another archive is at work in this folder", path.display())));
        }
        let folder = Self { path: path.to_owned(), _lock: Some(lock) };
        folder.remove_unfinished()?;
        Ok(folder)
    }

    /// A folder that is only read, and need not be there.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), _lock: None }
    }

    /// Reads all files that have a manifest, without a database; `each` gets a file's path and number of points, or what is wrong
    /// with it.
    ///
    /// # Errors
    /// If the folder or a manifest cannot be read.
    pub fn verify(&self, mut each: impl FnMut(&Path, Result<u64, String>)) -> Result<(), ArchiveError> {
        for name in sorted_names(&self.path)?.iter().filter(|name| name.starts_with("day=")) {
            let day = self.path.join(name);
            for name in sorted_names(&day)? {
                let stem = name.strip_prefix('_').and_then(|name| name.strip_suffix(MANIFEST));
                let Some(path) = stem.map(|stem| day.join(format!("{stem}{FILE}"))) else { continue };
                let Some(manifest) = read_manifest(&path)? else { continue };
                each(&path, verify(&path, &manifest).map(|()| manifest.rows));
            }
        }
        Ok(())
    }

    fn remove_unfinished(&self) -> Result<(), ArchiveError> {
        for name in names(&self.path)?.iter().filter(|name| name.starts_with("day=")) {
            let day = self.path.join(name);
            for name in names(&day)?.iter().filter(|name| files::whole::is_unfinished(name)) {
                let path = day.join(name);
                fs::remove_file(&path).map_err(cannot_write(&path))?;
            }
        }
        Ok(())
    }

    /// The path of a unit's file with this number; its folder is made.
    pub(super) fn new_file(&self, unit: &Unit, number: u32) -> Result<PathBuf, ArchiveError> {
        let day = self.path.join(day(unit)?);
        make_folder(&day).map_err(cannot_write(&day))?;
        Ok(day.join(format!("{}{number}{FILE}", stem(unit)?)))
    }

    /// The files of a unit, by their numbers, and a number that none has had.
    pub(super) fn files_of(&self, unit: &Unit) -> Result<(Vec<Known>, u32), ArchiveError> {
        let (day, stem) = (self.path.join(day(unit)?), stem(unit)?);
        let (mut known, mut last) = (Vec::new(), 0);
        for name in names(&day)? {
            let Some(rest) = name.strip_prefix('_').unwrap_or(&name).strip_prefix(&stem) else { continue };
            let Some((number, ending)) = rest.split_once('.') else { continue };
            let Ok(number) = number.parse::<u32>() else { continue };
            last = last.max(number);
            if !name.starts_with('_') && format!(".{ending}") == FILE {
                let path = day.join(&name);
                known.push(Known { number, manifest: read_manifest(&path)?, path });
            }
        }
        known.sort_by_key(|known| known.number);
        Ok((known, last + 1))
    }
}

/// The path of the manifest of a file.
fn manifest_of(file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!("_{}{MANIFEST}", name.strip_suffix(FILE).unwrap_or(&name)))
}

/// Writes the manifest of a file, durably and as a whole.
pub(super) fn write_manifest(file: &Path, manifest: &Manifest) -> Result<(), ArchiveError> {
    let path = manifest_of(file);
    let mut text = serde_json::to_string_pretty(manifest).map_err(|error| ArchiveError::Internal(error.to_string()))?;
    text.push('\n');
    let mut whole = WholeFile::create(&path, false)?;
    whole.write_all(text.as_bytes()).map_err(cannot_write(&path))?;
    Ok(whole.finish()?)
}

fn read_manifest(file: &Path) -> Result<Option<Manifest>, ArchiveError> {
    let path = manifest_of(file);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => String::new(),
        text => text.map_err(cannot_read(&path))?,
    };
    let manifest: Manifest = serde_json::from_str(&text).map_err(|error| {
        ArchiveError::Damaged(format!(
            "{}: the manifest cannot be read: {error}. Nothing of its time was dropped now; repair it, or move it and its file away",
            path.display()
        ))
    })?;
    if manifest.format_version > FORMAT_VERSION {
        return Err(ArchiveError::Usage(format!(
            "{}: the manifest has the version {}, and this program knows {FORMAT_VERSION}: use a newer series-ingest",
            path.display(),
            manifest.format_version
        )));
    }
    Ok(Some(manifest))
}

impl Known {
    /// Removes the file and its manifest. The manifest first: a file without one is never a reason to drop points.
    pub(super) fn remove(&self) -> Result<(), ArchiveError> {
        for path in [manifest_of(&self.path), self.path.clone()] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(cannot_write(&path))?,
            }
            sync_folder(&path)?;
        }
        Ok(())
    }

    /// Gives the file and its manifest names that are no longer part of the archive; returns that of the file.
    pub(super) fn set_aside(&self) -> Result<PathBuf, ArchiveError> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let target = self.path.with_file_name(format!("_{name}{SET_ASIDE}"));
        let manifest = manifest_of(&self.path);
        for (from, to) in [(&manifest, &with_ending(&manifest, SET_ASIDE)), (&self.path, &target)] {
            match fs::rename(from, to) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                renamed => renamed.map_err(cannot_write(from))?,
            }
        }
        sync_folder(&self.path)?;
        Ok(target)
    }
}

fn sync_folder(file: &Path) -> Result<(), ArchiveError> {
    let folder = file.parent().unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(cannot_write(folder))
}

fn sorted_names(folder: &Path) -> Result<Vec<String>, ArchiveError> {
    let mut names = names(folder)?;
    names.sort();
    Ok(names)
}

/// The names in a folder, which may be missing.
fn names(folder: &Path) -> Result<Vec<String>, ArchiveError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(cannot_read(folder))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        // Other names are not ours.
        names.extend(entry.map_err(cannot_read(folder))?.file_name().into_string().ok());
    }
    Ok(names)
}

fn time(us: i64) -> Result<Timestamp, ArchiveError> {
    Timestamp::from_microsecond(us)
        .map_err(|_| ArchiveError::Usage(format!("a chunk begins or ends at {us} us, which is beyond the calendar")))
}

fn day(unit: &Unit) -> Result<String, ArchiveError> {
    Ok(format!("day={}", TimeZone::UTC.to_datetime(time(unit.from_us)?).date()))
}

/// The beginning of the names of a unit's files: its range.
fn stem(unit: &Unit) -> Result<String, ArchiveError> {
    let part = |us: i64| -> Result<String, ArchiveError> {
        let time = time(us)?;
        let fraction = us.rem_euclid(1_000_000);
        let fraction = if fraction == 0 { String::new() } else { format!("-{fraction:06}") };
        Ok(format!("{}{fraction}Z", time.strftime("%Y%m%dT%H%M%S")))
    };
    Ok(format!("{}_{}.", part(unit.from_us)?, part(unit.until_us)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_its_unit_and_number() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(&root.path().join("a/b")).unwrap();
        let unit = Unit { from_us: 1_735_689_600_000_000, until_us: 1_735_776_000_000_000 };
        let path = folder.new_file(&unit, 1).unwrap();
        assert!(path.ends_with("a/b/day=2025-01-01/20250101T000000Z_20250102T000000Z.1.parquet"), "{path:?}");
        assert_eq!(folder.files_of(&unit).unwrap().1, 1);
        for number in [10, 9] {
            fs::write(folder.new_file(&unit, number).unwrap(), "").unwrap();
        }
        let (known, next) = folder.files_of(&unit).unwrap();
        assert_eq!((known.iter().map(|known| known.number).collect::<Vec<_>>(), next), (vec![9, 10], 11));
        known[1].set_aside().unwrap();
        let (known, next) = folder.files_of(&unit).unwrap();
        assert_eq!((known.len(), next), (1, 11), "a number is not given again");
        known[0].remove().unwrap();
        assert!(folder.files_of(&unit).unwrap().0.is_empty());
        let other = Unit { until_us: unit.until_us + 1, ..unit };
        let path = folder.new_file(&other, 1).unwrap();
        assert!(path.ends_with("20250101T000000Z_20250102T000000-000001Z.1.parquet"), "{path:?}");
    }

    #[test]
    fn a_folder_has_one_archive_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let first = Folder::open(root.path()).unwrap();
        assert!(matches!(Folder::open(root.path()), Err(ArchiveError::Busy(_))));
        drop(first);
        Folder::open(root.path()).unwrap();
    }
}
