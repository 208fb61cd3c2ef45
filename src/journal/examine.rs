//! Problems that a journal in a directory would have, found by the calls that opening and appending make. Nothing is left
//! there.

use std::path::Path;

use super::directory::{self, Listing};
use super::error::OpenError;
use super::files::Files;
use super::journal::Options;
use super::place::is_gone;
use super::room::check_volume;
use super::stop::Stop;

/// The result of an examination.
#[derive(Debug, Default)]
pub struct Examination {
    /// `true` if the directory exists.
    pub exists: bool,
    /// `true` if a process uses it, such as a running worker.
    pub is_used: bool,
    /// Why a worker would not start, or its journal would accept nothing.
    pub problem: Option<String>,
    /// Problems that do not keep a worker from its work.
    pub warnings: Vec<String>,
}

/// Examines the directory of a journal. A missing directory is not created.
pub fn examine<F: Files>(files: &F, options: &Options) -> Examination {
    let mut found = Examination::default();
    found.problem = examine_place(files, options, &mut found).err();
    found
}

fn examine_place<F: Files>(files: &F, options: &Options, found: &mut Examination) -> Result<(), String> {
    let directory = options.directory.as_path();
    let failed = |action, error| directory::failed(files, action, directory, error).to_string();
    if let Err(error) = files.metadata(directory) {
        if !is_gone(&error) {
            return Err(failed("look at", error));
        }
        let parent = first_parent(files, directory);
        files.may_make_in(parent).map_err(|error| failed("make", error))?;
        found.warnings.extend(doubts(files, parent));
        return check_volume(files, parent, options, 0).map_err(|stop| words(stop, options));
    }
    found.exists = true;
    found.warnings.extend(doubts(files, directory));
    let lock = directory::lock_existing(files, directory);
    found.is_used = matches!(lock, Err(OpenError::Locked { .. }));
    if !found.is_used {
        lock.map_err(|error| error.to_string())?;
    }
    let listing = Listing::read(files, directory).map_err(|error| error.to_string())?;
    directory::identity(files, directory, &listing).map_err(|error| error.to_string())?;
    if !listing.foreign.is_empty() {
        let names = listing.foreign.join(", ");
        found.warnings.push(format!("{} has files that are not the journal's: {names}", directory.display()));
    }
    let length = |number| Some(files.metadata(&directory::segment_path(directory, number)).ok()?.bytes);
    let used_bytes = listing.segments.iter().filter_map(|number| length(*number)).sum();
    check_volume(files, directory, options, used_bytes).map_err(|stop| words(stop, options))?;
    // The process that uses it does this itself, with the same file name.
    if !found.is_used {
        directory::probe(files, directory).map_err(|error| failed("write to", error))?;
    }
    Ok(())
}

/// The nearest of the directory's parents that exists.
fn first_parent<'a, F: Files>(files: &F, directory: &'a Path) -> &'a Path {
    let parents = directory.ancestors().skip(1).map(|path| match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => path,
    });
    parents.into_iter().find(|path| files.metadata(path).is_ok()).unwrap_or(Path::new("/"))
}

fn words(stop: Stop, options: &Options) -> String {
    format!("{}: {}", options.directory.display(), stop.into_error())
}

/// Known problems of the file system at a place.
pub(super) fn doubts<F: Files>(files: &F, place: &Path) -> Option<String> {
    let why = files.doubt(place).ok().flatten()?;
    Some(format!("the file system at {} {why}", place.display()))
}
