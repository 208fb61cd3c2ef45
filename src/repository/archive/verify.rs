//! A file as the disk has it, compared with its manifest.

use std::fs::File;
use std::path::Path;

use rustix::fs::{Advice, fadvise};
use tracing::debug;

use super::Manifest;
use super::contents::Contents;
use crate::files::read::ReadError;
use crate::files::read::content::Content;
use crate::files::read::points::PointFile;

/// Reads a file, and checks that it has the bytes and the points that were written.
///
/// # Errors
/// What is wrong with it.
pub(super) fn verify(path: &Path, manifest: &Manifest) -> Result<(), String> {
    #[cfg(feature = "planted-bugs")]
    if crate::planted_bugs::is_on("archive-file-not-verified") {
        return Ok(());
    }
    let failed = |error: ReadError| error.to_string();
    let damaged = |what: &str| format!("{}: the file is damaged: {what}", path.display());
    forget_cached(path);
    let content = Content::open(path).map_err(failed)?;
    if content.length() != manifest.bytes || content.hash().map_err(failed)? != manifest.sha256 {
        return Err(damaged("its bytes are not those that were written"));
    }
    let contents = contents(&content).map_err(failed)?;
    if contents.rows != manifest.rows || contents.hash() != manifest.content_sha256 {
        return Err(damaged("its points are not those that were read from the table"));
    }
    content.check_unchanged().map_err(failed)
}

fn contents(content: &Content) -> Result<Contents, ReadError> {
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
