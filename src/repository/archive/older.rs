//! Files of a unit that a newer one makes redundant: their points were not dropped, or were imported back, and the newer file
//! has them again. Importing both would store them twice.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use super::ArchiveError;
use super::folder::Known;
use crate::files::read::ReadError;
use crate::files::read::content::Content;
use crate::files::read::points::PointFile;

/// What became of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Older {
    /// It was removed: the newer file has all of its points.
    Removed(PathBuf),
    /// It has points that neither the newer file nor the table has: it was renamed.
    SetAside(PathBuf),
}

/// Removes a file if a newer one, which was verified, has all of its points; renames it otherwise.
///
/// # Errors
/// [`ArchiveError::Usage`] if it is to be renamed and has no manifest: that may have been lost, and the points were dropped.
pub(super) fn settle(older: &Known, newer: &Path) -> Result<Older, ArchiveError> {
    // What cannot be read is kept.
    if has_all(newer, &older.path).unwrap_or(false) {
        older.remove()?;
        return Ok(Older::Removed(older.path.clone()));
    }
    if older.manifest.is_none() {
        return Err(ArchiveError::Usage(format!(
            "{}: the file has no manifest, and points that the table does not have. Nothing of its time was dropped now. If its \
             manifest was lost, restore it, or move the file to another folder; if an archive that was killed has left it, remove it",
            older.path.display()
        )));
    }
    Ok(Older::SetAside(older.set_aside()?))
}

/// Returns `true` if a file has all points of another one, each as often. Both are in the order of points.
fn has_all(file: &Path, other: &Path) -> Result<bool, ReadError> {
    let mut file = PointFile::open(&Content::open(file)?)?;
    let mut wanted = PointFile::open(&Content::open(other)?)?;
    while wanted.advance()? {
        loop {
            if !file.advance()? {
                return Ok(false);
            }
            let (Some(point), Some(wanted)) = (file.point(), wanted.point()) else { return Ok(false) };
            match point.order(&wanted) {
                Ordering::Less => {}
                Ordering::Equal => break,
                Ordering::Greater => return Ok(false),
            }
        }
    }
    Ok(true)
}
