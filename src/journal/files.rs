//! The file system as the journal uses it: the one place with its calls, so that tests can put a faulty one behind it.

use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, FlockOperation, OFlags};

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading alone.
    Read,
    /// Reading and writing.
    Write,
}

/// The calls that the journal makes. Nothing is durable before [`Files::sync_data`], and no name of a file before
/// [`Files::sync_directory`]. All errors are those of the operating system.
pub trait Files: Debug + Send + 'static {
    /// An open file; closed on drop, which also releases its lock.
    type File: Debug + Send + 'static;

    /// Makes the directory and its parents where they are missing, durably, for this user alone.
    fn make_directory(&self, directory: &Path) -> io::Result<()>;
    /// Fails with `PermissionDenied` where somebody else owns the directory or may write to it.
    fn check_directory(&self, directory: &Path) -> io::Result<()>;
    /// Opens and locks a file, made where it is missing; `WouldBlock` where another process has it locked.
    fn lock(&self, path: &Path) -> io::Result<Self::File>;
    /// The names in a directory, in no order; names that are not UTF-8 are left out.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;
    /// Makes a file, for this user alone; `AlreadyExists` where the name is taken.
    fn create(&self, path: &Path) -> io::Result<Self::File>;
    /// Opens a file. A symbolic link, or what is no regular file, is an error.
    fn open(&self, path: &Path, access: Access) -> io::Result<Self::File>;
    /// The file's length, in bytes.
    fn length(&self, file: &Self::File) -> io::Result<u64>;
    /// Makes the file `bytes` long, with the space for it; `Unsupported` where the file system cannot.
    fn allocate(&self, file: &Self::File, bytes: u64) -> io::Result<()>;
    /// Reads from `position` on until `buffer` is full or the file ends; gives the bytes read.
    fn read_at(&self, file: &Self::File, buffer: &mut [u8], position: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `position`.
    fn write_at(&self, file: &Self::File, bytes: &[u8], position: u64) -> io::Result<()>;
    /// Cuts the file off at `length` bytes.
    fn truncate(&self, file: &Self::File, length: u64) -> io::Result<()>;
    /// Makes the file's bytes and its length durable.
    fn sync_data(&self, file: &Self::File) -> io::Result<()>;
    /// Gives a file another name, in one step.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Takes a file's name away.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
    /// The bytes that this user may still use where the directory lies.
    fn free_bytes(&self, directory: &Path) -> io::Result<u64>;
}

/// The operating system's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealFiles;

/// Who else may write to a directory can put files into it that are no journal of ours.
const OTHERS_MAY_WRITE: u32 = 0o022;

impl Files for RealFiles {
    type File = File;

    fn make_directory(&self, directory: &Path) -> io::Result<()> {
        if directory.try_exists()? {
            return Ok(());
        }
        let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        self.make_directory(parent)?;
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
            Ok(()) => self.sync_directory(parent),
        }
    }

    fn check_directory(&self, directory: &Path) -> io::Result<()> {
        let found = fs::metadata(directory)?;
        let refuse = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        if !found.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        if found.mode() & OTHERS_MAY_WRITE != 0 {
            return refuse(format!("others may write to it (mode {:o}, 700 is needed)", found.mode() & 0o777));
        }
        let user = rustix::process::geteuid().as_raw();
        if found.uid() != user && user != 0 {
            return refuse(format!("it belongs to the user {}, this is the user {user}", found.uid()));
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<File> {
        let file = options(Access::Write).create(true).open(path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(file)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let names = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        options(Access::Write).create_new(true).open(path)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<File> {
        let file = options(access).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no regular file"));
        }
        Ok(file)
    }

    fn length(&self, file: &File) -> io::Result<u64> {
        Ok(file.metadata()?.len())
    }

    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes)?)
    }

    fn read_at(&self, file: &File, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read_at(&mut buffer[filled..], position + filled as u64) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, file: &File, bytes: &[u8], position: u64) -> io::Result<()> {
        file.write_all_at(bytes, position)
    }

    fn truncate(&self, file: &File, length: u64) -> io::Result<()> {
        file.set_len(length)
    }

    fn sync_data(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }

    fn free_bytes(&self, directory: &Path) -> io::Result<u64> {
        let found = rustix::fs::statvfs(directory)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

/// A link is not followed, and a pipe that somebody put there does not hang the worker.
fn options(access: Access) -> OpenOptions {
    let mut options = OpenOptions::new();
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    options.read(true).write(access == Access::Write).mode(0o600).custom_flags(flags.cast_signed());
    options
}
