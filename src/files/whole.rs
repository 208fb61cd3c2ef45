//! Files that appear whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::Error;

/// Two files of one process with one target have two temporary names.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// How the temporary names begin and end.
const UNFINISHED: (&str, &str) = (".series-ingest-", ".part");

/// Returns `true` if a name is one under which a file was being written.
pub fn is_unfinished(name: &str) -> bool {
    name.starts_with(UNFINISHED.0) && name.ends_with(UNFINISHED.1)
}

/// A file that is written under a temporary name in the folder of its target, and gets its name when it is whole. It is
/// removed if it is dropped before.
#[derive(Debug)]
pub struct WholeFile {
    target: PathBuf,
    temporary: PathBuf,
    file: File,
    overwrite: bool,
    is_named: bool,
}

impl WholeFile {
    /// Begins a file; its folder must be there.
    ///
    /// # Errors
    /// [`Error::Exists`] if the target is there and `overwrite` is `false`; [`Error::Write`] if the system refuses.
    pub fn create(target: &Path, overwrite: bool) -> Result<Self, Error> {
        refuse_existing(target, overwrite)?;
        // A link stays, and what it leads to is replaced.
        let target = &fs::canonicalize(target).unwrap_or_else(|_| target.to_owned());
        let (temporary, file) = loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            // Short whatever the target's name is: a name has at most 255 bytes.
            let name = format!("{}{}-{number}{}", UNFINISHED.0, std::process::id(), UNFINISHED.1);
            let temporary = folder(target).join(name);
            match OpenOptions::new().write(true).create_new(true).open(&temporary) {
                Ok(file) => break (temporary, file),
                // One that was killed had the same number of process, as all have in containers.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::Write { path: target.to_owned(), error }),
            }
        };
        Ok(Self { target: target.to_owned(), temporary, file, overwrite, is_named: false })
    }

    /// The name that it gets.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Makes the content durable, gives the file its name, and makes that durable.
    ///
    /// # Errors
    /// If one of the steps fails, or the target has come to be meanwhile. Then the target is as it was, unless only the last
    /// step has failed.
    pub fn finish(mut self) -> Result<(), Error> {
        let failed = |error| Error::Write { path: self.target.clone(), error };
        self.file.sync_all().map_err(failed)?;
        if self.overwrite {
            fs::rename(&self.temporary, &self.target).map_err(failed)?;
        } else {
            rename_new(&self.temporary, &self.target).map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => Error::Exists(self.target.clone()),
                _ => failed(error),
            })?;
        }
        self.is_named = true;
        File::open(folder(&self.target)).and_then(|folder| folder.sync_all()).map_err(failed)
    }
}

impl Write for WholeFile {
    #[expect(clippy::disallowed_methods, reason = "this is what write_all is made of")]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if !self.is_named {
            // What cannot be removed is seen by its name.
            drop(fs::remove_file(&self.temporary));
        }
    }
}

/// Refuses a target that is there, unless it may be replaced. Only regular files are replaced.
///
/// # Errors
/// [`Error::Exists`]; [`Error::NotAFile`]; or [`Error::Write`] if it cannot be looked for, is a folder, or is a link that leads to
/// nothing.
pub fn refuse_existing(target: &Path, overwrite: bool) -> Result<(), Error> {
    let failed = |error| Error::Write { path: target.to_owned(), error };
    match fs::metadata(target) {
        Ok(found) if found.is_dir() => Err(failed(io::ErrorKind::IsADirectory.into())),
        Ok(found) if !found.is_file() => Err(Error::NotAFile(target.to_owned())),
        Ok(_) if !overwrite => Err(Error::Exists(target.to_owned())),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::symlink_metadata(target) {
            Ok(_) if !overwrite => Err(Error::Exists(target.to_owned())),
            Ok(_) => Err(failed(error)),
            Err(_) => Ok(()),
        },
        Err(error) => Err(failed(error)),
    }
}

/// The folder of a file.
fn folder(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Renames a file to a name that must be free.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Not every file system has it.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        renamed => Ok(renamed?),
    }
}

/// The name of a file, with an ending.
pub fn with_ending(file: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(ending);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_of_the_same_number_left_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let next = NUMBER.load(Ordering::Relaxed);
        for number in next..next + 100 {
            let name = format!(".series-ingest-{}-{number}.part", std::process::id());
            fs::write(folder.path().join(name), "old").unwrap();
        }
        let target = folder.path().join("f");
        let mut file = WholeFile::create(&target, false).unwrap();
        file.write_all(b"new").unwrap();
        file.finish().unwrap();
        assert_eq!(fs::read(target).unwrap(), b"new");
    }

    fn names(folder: &Path) -> Vec<OsString> {
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_has_its_name_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a".repeat(255));
        let mut file = WholeFile::create(&target, false).unwrap();
        file.write_all(b"content").unwrap();
        assert!(!target.try_exists().unwrap());
        file.finish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"content");
        assert_eq!(names(folder.path()).len(), 1);
    }

    #[test]
    fn a_file_that_is_dropped_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = WholeFile::create(&folder.path().join("a"), false).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(names(folder.path()), [""; 0]);
    }

    #[test]
    fn a_link_stays_and_only_regular_files_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let write = |target: &Path| {
            let mut file = WholeFile::create(target, true)?;
            file.write_all(b"new").unwrap();
            file.finish()
        };
        fs::create_dir(path("other")).unwrap();
        fs::write(path("other/a"), "old").unwrap();
        std::os::unix::fs::symlink("other/a", path("link")).unwrap();
        assert!(matches!(WholeFile::create(&path("link"), false), Err(Error::Exists(_))));
        write(&path("link")).unwrap();
        assert!(fs::symlink_metadata(path("link")).unwrap().is_symlink());
        assert_eq!(fs::read(path("other/a")).unwrap(), b"new");
        std::os::unix::fs::symlink("nothing", path("dangling")).unwrap();
        assert!(matches!(WholeFile::create(&path("dangling"), false), Err(Error::Exists(_))));
        assert!(matches!(write(&path("dangling")), Err(Error::Write { .. })));
        // As root, a device would become a file.
        let socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        std::os::unix::fs::symlink("/dev/null", path("device")).unwrap();
        for name in ["socket", "device"] {
            for overwrite in [false, true] {
                let error = WholeFile::create(&path(name), overwrite).unwrap_err();
                assert!(error.to_string().contains("--out -"), "{error}");
            }
        }
        drop(socket);
        assert_eq!(names(folder.path()), ["dangling", "device", "link", "other", "socket"]);
    }

    #[test]
    fn a_target_is_replaced_only_if_it_was_said() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a");
        let late = WholeFile::create(&target, false).unwrap();
        fs::write(&target, "old").unwrap();
        assert!(matches!(WholeFile::create(&target, false), Err(Error::Exists(_))));
        assert!(matches!(late.finish(), Err(Error::Exists(_))));
        assert_eq!(fs::read(&target).unwrap(), b"old");
        let mut file = WholeFile::create(&target, true).unwrap();
        file.write_all(b"new").unwrap();
        file.finish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["a"]);
    }
}
