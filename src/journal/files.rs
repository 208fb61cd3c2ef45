//! The file system as the journal uses it. All of its calls are here, so that tests can replace it with a faulty one.

use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, FlockOperation, OFlags};

/// The access for which a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only reading.
    Read,
    /// Reading and writing.
    Write,
}

/// The metadata of a name or of an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The file system's number.
    pub device: u64,
    /// The file's number there.
    pub inode: u64,
    /// Its length, in bytes.
    pub bytes: u64,
    /// When its content, its names or its permissions were last changed: seconds since the Unix epoch, and nanoseconds.
    pub changed: (i64, i64),
}

impl Seen {
    /// Returns `true` if both are the same file.
    pub fn is(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// The calls that the journal makes. Nothing is durable before [`Files::sync_data`], and no name of a file before
/// [`Files::sync_directory`]. All errors are those of the operating system.
pub trait Files: Debug + Send + 'static {
    /// An open file; closed on drop, which also releases its lock.
    type File: Debug + Send + 'static;

    /// Creates the directory and its parents if they are missing, durably, for this user alone.
    fn make_directory(&self, directory: &Path) -> io::Result<()>;
    /// Fails with `PermissionDenied` if the directory belongs to another user than this one and root, or if others than this
    /// user and one of this process's groups may write to it.
    fn check_directory(&self, directory: &Path) -> io::Result<()>;
    /// Opens and locks a file, created if it is missing; `WouldBlock` if another process has it locked.
    fn lock(&self, path: &Path) -> io::Result<Self::File>;
    /// The names in a directory, in no order; names that are not UTF-8 are omitted.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;
    /// Creates a file, for this user alone; `AlreadyExists` if the name is taken.
    fn create(&self, path: &Path) -> io::Result<Self::File>;
    /// Opens a file. A symbolic link, or anything but a regular file, is an error.
    fn open(&self, path: &Path, access: Access) -> io::Result<Self::File>;
    /// The file's length, in bytes.
    fn length(&self, file: &Self::File) -> io::Result<u64>;
    /// Makes the file `bytes` long, with the space for it; `Unsupported` if the file system cannot.
    fn allocate(&self, file: &Self::File, bytes: u64) -> io::Result<()>;
    /// Reads from `position` on until `buffer` is full or the file ends; returns the number of bytes read.
    fn read_at(&self, file: &Self::File, buffer: &mut [u8], position: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `position`.
    fn write_at(&self, file: &Self::File, bytes: &[u8], position: u64) -> io::Result<()>;
    /// Cuts the file off at `length` bytes.
    fn truncate(&self, file: &Self::File, length: u64) -> io::Result<()>;
    /// Makes the file's bytes and its length durable.
    fn sync_data(&self, file: &Self::File) -> io::Result<()>;
    /// Renames a file, atomically.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
    /// The bytes that this user may still use where the directory lies.
    fn free_bytes(&self, directory: &Path) -> io::Result<u64>;
    /// The metadata of what the path leads to.
    fn metadata(&self, path: &Path) -> io::Result<Seen>;
    /// The same for an open file.
    fn metadata_of(&self, file: &Self::File) -> io::Result<Seen>;
    /// Fails if this user may not create files in the directory; none is created.
    fn may_make_in(&self, directory: &Path) -> io::Result<()>;
    /// The owner of the path, or of the first of its parents that exists, and what to do if this user may not write to it; for
    /// an error message.
    fn rights(&self, path: &Path) -> Option<String>;
    /// Why a file system does not keep data, or does not keep it safe, if that is known of its type.
    fn doubt(&self, directory: &Path) -> io::Result<Option<&'static str>>;
}

/// The operating system's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealFiles;

// Other users who may write to a directory can put foreign files into it.
const GROUP_MAY_WRITE: u32 = 0o020;
const OTHERS_MAY_WRITE: u32 = 0o002;

/// File system types by their number (statfs(2)), and what is wrong with them.
const DOUBTFUL: [(u64, &str); 8] = [
    (0x0102_1994, "is a tmpfs: it is in memory, and gone after a restart of the machine"),
    (0x8584_58f6, "is a ramfs: it is in memory, and gone after a restart of the machine"),
    (0x794c_7630, "is an overlay, as in a container without a volume: it goes with the container"),
    (0x6969, "is NFS: locks and synced data depend on its server"),
    (0xff53_4d42, "is CIFS: locks and synced data depend on its server"),
    (0xfe53_4d42, "is SMB: locks and synced data depend on its server"),
    (0x0102_1997, "is 9p: locks and synced data depend on its server"),
    (0x00c3_6400, "is Ceph: locks and synced data depend on its servers"),
];

fn seen(found: &fs::Metadata) -> Seen {
    let changed = (found.ctime(), found.ctime_nsec());
    Seen { device: found.dev(), inode: found.ino(), bytes: found.len(), changed }
}

/// Returns `true` if the group is one of this process's.
fn is_our_group(group: u32) -> bool {
    let others = rustix::process::getgroups().unwrap_or_default();
    rustix::process::getegid().as_raw() == group || others.iter().any(|other| other.as_raw() == group)
}

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
        let (mode, group) = (found.mode() & 0o7777, found.gid());
        if mode & OTHERS_MAY_WRITE != 0 {
            return refuse(format!(
                "every user may write to it (mode {mode:o}): chmod 700 it, or set journal.directory to a folder in it"
            ));
        }
        if mode & GROUP_MAY_WRITE != 0 && !is_our_group(group) {
            return refuse(format!(
                "its group {group} may write to it (mode {mode:o}), and this process is not in that group: chmod 700 it"
            ));
        }
        let user = rustix::process::geteuid().as_raw();
        // Root may do all anyway; in Kubernetes a volume's directory belongs to root, and its group is fsGroup.
        if ![user, 0].contains(&found.uid()) && user != 0 {
            return refuse(format!(
                "it belongs to the user {}, and this process is the user {user}: run it as that user, or chown the directory \
                 and its files",
                found.uid()
            ));
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

    fn metadata(&self, path: &Path) -> io::Result<Seen> {
        Ok(seen(&fs::metadata(path)?))
    }

    fn metadata_of(&self, file: &File) -> io::Result<Seen> {
        Ok(seen(&file.metadata()?))
    }

    fn may_make_in(&self, directory: &Path) -> io::Result<()> {
        if !fs::metadata(directory)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        Ok(rustix::fs::accessat(rustix::fs::CWD, directory, access, rustix::fs::AtFlags::EACCESS)?)
    }

    fn rights(&self, path: &Path) -> Option<String> {
        let (path, found) = path.ancestors().find_map(|path| {
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            Some((path, fs::metadata(path).ok()?))
        })?;
        let user = rustix::process::geteuid().as_raw();
        let group = rustix::process::getegid().as_raw();
        Some(format!(
            "{} belongs to the user {} and the group {} (mode {:o}), and this process is the user {user} in the group {group}. \
             In Kubernetes set securityContext.fsGroup of the pod, such as to {group}; elsewhere chown {user}:{group} it",
            path.display(),
            found.uid(),
            found.gid(),
            found.mode() & 0o7777,
        ))
    }

    fn doubt(&self, directory: &Path) -> io::Result<Option<&'static str>> {
        let kind = rustix::fs::statfs(directory)?.f_type;
        // The numbers have 32 bits; the field is signed on some machines.
        let kind = u64::try_from(kind).unwrap_or_default() & 0xffff_ffff;
        Ok(DOUBTFUL.iter().find(|(number, _)| *number == kind).map(|(_, why)| *why))
    }
}

/// Symbolic links are not followed, and a pipe in a file's place does not block the worker.
fn options(access: Access) -> OpenOptions {
    let mut options = OpenOptions::new();
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    options.read(true).write(access == Access::Write).mode(0o600).custom_flags(flags.cast_signed());
    options
}
