//! A file as the disk has it, compared with its manifest.

use std::fs::File;
use std::path::Path;

use rustix::fs::{Advice, fadvise};
use tracing::debug;

use super::contents::Contents;
use super::{ArchiveError, Manifest};
use crate::files::read::content::Content;
use crate::files::read::points::PointFile;

/// Reads a file, and checks that it has the bytes and the points that were written.
///
/// # Errors
/// [`ArchiveError::Damaged`] if it has others.
pub(super) fn verify(path: &Path, manifest: &Manifest) -> Result<(), ArchiveError> {
    #[cfg(feature = "planted-bugs")]
    if crate::planted_bugs::is_on("archive-file-not-verified") {
        return Ok(());
    }
    let damaged = |what: &str| {
        ArchiveError::Damaged(format!(
            "{}: {what}. Its points are still in the table, and nothing of them was dropped: move the file away, and run the \
             command again for another one",
            path.display()
        ))
    };
    forget_cached(path);
    let content = Content::open(path)?;
    if content.length() != manifest.bytes || content.hash()? != manifest.sha256 {
        return Err(damaged("the file is damaged: its bytes are not those that were written"));
    }
    let contents = contents(&content).map_err(|error| damaged(&error.to_string()))?;
    if contents.rows != manifest.rows || contents.hash() != manifest.content_sha256 {
        return Err(damaged("the file does not have the points that were read from the table"));
    }
    content.check_unchanged().map_err(|error| damaged(&error.to_string()))
}

fn contents(content: &Content) -> Result<Contents, crate::files::read::ReadError> {
    let mut points = PointFile::open(content)?;
    let mut contents = Contents::default();
    while points.advance()? {
        if let Some(point) = points.point() {
            contents.add(&point);
        }
    }
    Ok(contents)
}

/// Lets the system read the file from the disk, and not from its memory. It was synced before; where this is not possible, the
/// memory is compared.
fn forget_cached(path: &Path) {
    if let Ok(file) = File::open(path)
        && let Err(error) = fadvise(&file, 0, None, Advice::DontNeed)
    {
        debug!(%error, "a file may be read from the system's memory");
    }
}
