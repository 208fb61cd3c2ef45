//! Files in memory that never fail.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::journal::{Access, Files, Seen};

/// An open file, and the file itself.
type File = Arc<Mutex<Vec<u8>>>;

/// The file system; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct MemoryFiles(Arc<Mutex<BTreeMap<PathBuf, File>>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn content(file: &File) -> MutexGuard<'_, Vec<u8>> {
    lock(file)
}

/// A position or length as an index of memory.
fn index(bytes: u64) -> io::Result<usize> {
    usize::try_from(bytes).map_err(io::Error::other)
}

impl MemoryFiles {
    pub(super) fn put(&self, path: PathBuf, bytes: Vec<u8>) {
        lock(&self.0).insert(path, Arc::new(Mutex::new(bytes)));
    }

    /// All files by their paths.
    pub(super) fn contents(&self) -> Vec<(PathBuf, Vec<u8>)> {
        lock(&self.0).iter().map(|(path, file)| (path.clone(), content(file).clone())).collect()
    }

    fn get(&self, path: &Path) -> io::Result<File> {
        lock(&self.0).get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Files for MemoryFiles {
    type File = File;

    fn make_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn check_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<File> {
        Ok(Arc::clone(lock(&self.0).entry(path.to_owned()).or_default()))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let files = lock(&self.0);
        let inside = files.keys().filter(|path| path.parent() == Some(directory));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        match lock(&self.0).entry(path.to_owned()) {
            std::collections::btree_map::Entry::Occupied(_) => Err(io::ErrorKind::AlreadyExists.into()),
            std::collections::btree_map::Entry::Vacant(entry) => Ok(Arc::clone(entry.insert(File::default()))),
        }
    }

    fn open(&self, path: &Path, _: Access) -> io::Result<File> {
        self.get(path)
    }

    fn length(&self, file: &File) -> io::Result<u64> {
        Ok(content(file).len() as u64)
    }

    fn allocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        let (mut content, bytes) = (content(file), index(bytes)?);
        let longer = content.len().max(bytes);
        content.resize(longer, 0);
        Ok(())
    }

    fn read_at(&self, file: &File, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let content = content(file);
        let rest = content.get(index(position)?..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, file: &File, bytes: &[u8], position: u64) -> io::Result<()> {
        let (mut content, start) = (content(file), index(position)?);
        let end = start + bytes.len();
        let longer = content.len().max(end);
        content.resize(longer, 0);
        content[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn truncate(&self, file: &File, length: u64) -> io::Result<()> {
        content(file).resize(index(length)?, 0);
        Ok(())
    }

    fn sync_data(&self, _: &File) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = lock(&self.0);
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        lock(&self.0).remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn metadata(&self, path: &Path) -> io::Result<Seen> {
        if let Ok(file) = self.get(path) {
            return self.metadata_of(&file);
        }
        let is_directory = lock(&self.0).keys().any(|file| file.parent() == Some(path));
        if is_directory {
            Ok(Seen { device: 0, inode: 0, bytes: 0, changed: (0, 0) })
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    fn metadata_of(&self, file: &File) -> io::Result<Seen> {
        let bytes = content(file).len() as u64;
        Ok(Seen { device: 0, inode: Arc::as_ptr(file).addr() as u64, bytes, changed: (0, 0) })
    }

    fn may_make_in(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn rights(&self, _: &Path) -> Option<String> {
        None
    }

    fn doubt(&self, _: &Path) -> io::Result<Option<&'static str>> {
        Ok(None)
    }
}
