//! The folder of a backup: it has its name when it is whole.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::error::Error;
use super::manifest::{FORM, Manifest};
use crate::files::whole::WholeFile;

/// The file of the manifest.
const MANIFEST: &str = "manifest.json";
/// The file that says when the backup was last verified.
const VERIFIED: &str = "verified.json";
/// How the names of folders begin that are not whole.
const PARTIAL: &str = ".series-ingest-backup-";
/// The file in such a folder that its process has locked.
const LOCK: &str = "LOCK";
/// The file of the dump, in PostgreSQL's custom format.
pub(super) const DUMP: &str = "database.dump";

/// A backup in its folder.
#[derive(Debug, Clone)]
pub struct Backup {
    /// The folder.
    pub path: PathBuf,
    /// What it has.
    pub manifest: Manifest,
    /// The last successful verification.
    pub verified: Option<Verification>,
}

/// A successful verification.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Verification {
    /// The backup's id.
    pub id: String,
    /// When it ended, by RFC 3339.
    pub at: String,
    /// The server on which the backup was restored: its version.
    pub postgresql: String,
}

impl Backup {
    /// Reads a backup's manifest.
    ///
    /// # Errors
    /// If the folder is not a backup of this program's form.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let damaged = |why: String| Error::Damaged { path: path.to_owned(), why };
        let file = path.join(MANIFEST);
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Target(format!(
                    "{} is not a backup: it has no {MANIFEST}. `series-ingest backup list` lists those of a folder",
                    path.display()
                )));
            }
            Err(error) => return Err(Error::read(&file)(error)),
        };
        let document: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| damaged(format!("{MANIFEST}: {error}")))?;
        let form = document["form"].as_u64().unwrap_or(0);
        if form > u64::from(FORM) {
            return Err(Error::Target(format!(
                "{} was made by a newer version of series-ingest: use that one",
                path.display()
            )));
        }
        let manifest: Manifest =
            serde_json::from_value(document).map_err(|error| damaged(format!("{MANIFEST}: {error}")))?;
        let verified = fs::read_to_string(path.join(VERIFIED)).ok();
        let verified = verified.and_then(|text| serde_json::from_str(&text).ok());
        let verified = verified.filter(|verification: &Verification| verification.id == manifest.id);
        Ok(Self { path: path.to_owned(), manifest, verified })
    }

    /// The backups of a folder, the oldest first; each damaged one is an error.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn list(folder: &Path) -> Result<(Vec<Self>, Vec<Error>), Error> {
        let (mut found, mut damaged) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(folder).map_err(Error::read(folder))? {
            let path = entry.map_err(Error::read(folder))?.path();
            let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            if is_hidden || !path.join(MANIFEST).is_file() {
                continue;
            }
            match Self::open(&path) {
                Ok(backup) => found.push(backup),
                Err(error) => damaged.push(error),
            }
        }
        found.sort_by(|a, b| (&a.manifest.created_at, &a.path).cmp(&(&b.manifest.created_at, &b.path)));
        Ok((found, damaged))
    }

    /// The dump's file.
    pub fn dump(&self) -> PathBuf {
        self.path.join(&self.manifest.dump.file)
    }

    /// Compares the dump's length and hash with the manifest.
    ///
    /// # Errors
    /// If they differ, or the file cannot be read.
    pub(super) async fn check_hash(&self, tick: impl Fn(u64) + Send + 'static) -> Result<(), Error> {
        let (path, expected) = (self.dump(), &self.manifest.dump);
        let damaged = |why: String| Error::Damaged { path: self.path.clone(), why };
        // Its name is not a way out of the folder.
        if Path::new(&expected.file).components().count() != 1 {
            return Err(damaged(format!("{MANIFEST} names the dump {:?}", expected.file)));
        }
        let length = fs::metadata(&path).map_err(Error::read(&path))?.len();
        if length != expected.bytes {
            let bytes = expected.bytes;
            return Err(damaged(format!("{} has {length} bytes, and {bytes} were written", expected.file)));
        }
        if sha256(&path, tick).await? != expected.sha256 {
            return Err(damaged(format!("the hash of {} is not that of what was written", expected.file)));
        }
        Ok(())
    }

    /// Records that the backup was verified.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn record_verification(&self, verification: &Verification) -> Result<(), Error> {
        write_json(&self.path.join(VERIFIED), verification)
    }

    /// Deletes the backup: first under a hidden name, so that half of it is never taken for a backup.
    ///
    /// # Errors
    /// If it cannot be deleted.
    pub(super) fn remove(&self) -> Result<(), Error> {
        let hidden = self.path.with_file_name(partial_name());
        fs::rename(&self.path, &hidden).map_err(Error::write(&self.path))?;
        fs::remove_dir_all(&hidden).map_err(Error::write(&hidden))
    }
}

fn write_json(path: &Path, document: &impl Serialize) -> Result<(), Error> {
    use std::io::Write as _;
    let mut file = WholeFile::create(path, true)?;
    let text = serde_json::to_vec_pretty(document).map_err(|error| Error::write(path)(error.into()))?;
    file.write_all(&text).and_then(|()| file.write_all(b"\n")).map_err(Error::write(path))?;
    Ok(file.finish()?)
}

/// The SHA-256 of a file, in hexadecimal digits; `tick` gets the number of bytes read.
pub(super) async fn sha256(path: &Path, tick: impl Fn(u64) + Send + 'static) -> Result<String, Error> {
    let path = path.to_owned();
    let hashing = tokio::task::spawn_blocking(move || {
        let mut file = File::open(&path).map_err(Error::read(&path))?;
        let (mut hash, mut read) = (Sha256::new(), 0);
        let mut block = Vec::new();
        loop {
            block.clear();
            let length = (&mut file).take(1 << 20).read_to_end(&mut block).map_err(Error::read(&path))?;
            if length == 0 {
                return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
            }
            hash.update(&block);
            read += length as u64;
            tick(read);
        }
    });
    hashing.await.map_err(|error| Error::Programs(format!("the hash was not computed: {error}")))?
}

fn partial_name() -> OsString {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let moment = jiff::Timestamp::now().as_nanosecond();
    format!("{PARTIAL}{moment}-{}-{number}", std::process::id()).into()
}

/// The folder of a backup that is being made. It is deleted if it is dropped before it is whole.
#[derive(Debug)]
pub(super) struct PartialBackup {
    path: PathBuf,
    is_whole: bool,
    /// Locked as long as the process lives.
    _lock: File,
}

impl PartialBackup {
    /// Makes it in this folder, which is created if it is missing, and deletes what killed processes have left there.
    pub(super) fn create(folder: &Path) -> Result<Self, Error> {
        let private = |recursive| {
            let mut builder = DirBuilder::new();
            builder.recursive(recursive).mode(0o700);
            builder
        };
        private(true).create(folder).map_err(Error::write(folder))?;
        remove_abandoned(folder);
        let path = folder.join(partial_name());
        private(false).create(&path).map_err(Error::write(&path))?;
        let file = path.join(LOCK);
        let lock =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file).map_err(Error::write(&file))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| Error::write(&file)(error.into()))?;
        Ok(Self { path, is_whole: false, _lock: lock })
    }

    /// The file for the dump, readable by nobody else.
    pub(super) fn create_dump(&self) -> Result<(PathBuf, File), Error> {
        let path = self.path.join(DUMP);
        let file = OpenOptions::new().write(true).read(true).create_new(true).mode(0o600).open(&path);
        Ok((path.clone(), file.map_err(Error::write(&path))?))
    }

    /// Writes the manifest, makes everything durable, and then names the folder.
    pub(super) fn finish(mut self, manifest: Manifest) -> Result<Backup, Error> {
        write_json(&self.path.join(MANIFEST), &manifest)?;
        let file = self.path.join(LOCK);
        fs::remove_file(&file).map_err(Error::write(&file))?;
        let sync = |path: &Path| File::open(path).and_then(|file| file.sync_all()).map_err(Error::write(path));
        sync(&self.path)?;
        let parent = self.path.parent().unwrap_or(Path::new(".")).to_owned();
        let base: String = manifest.created_at.chars().filter(char::is_ascii_alphanumeric).collect();
        for number in 1.. {
            let name = if number == 1 { format!("backup-{base}") } else { format!("backup-{base}-{number}") };
            let target = parent.join(name);
            match rename_new(&self.path, &target) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::write(&target)(error)),
                Ok(()) => {
                    self.is_whole = true;
                    sync(&parent)?;
                    return Ok(Backup { path: target, manifest, verified: None });
                }
            }
        }
        unreachable!("numbers do not end")
    }
}

impl Drop for PartialBackup {
    fn drop(&mut self) {
        if !self.is_whole {
            // The next backup deletes what is left.
            drop(fs::remove_dir_all(&self.path));
        }
    }
}

/// Renames a folder to a name that must be free.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Not every file system has it.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => {
            if to.try_exists()? {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            fs::rename(from, to)
        }
        renamed => Ok(renamed?),
    }
}

/// Deletes folders that are not whole and whose process has ended: nothing has locked them.
fn remove_abandoned(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PARTIAL) {
            continue;
        }
        let is_abandoned = match File::open(entry.path().join(LOCK)) {
            Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
            // It was about to be deleted, or to get its lock.
            Err(_) => entry
                .metadata()
                .is_ok_and(|found| found.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age.as_secs() > 3600))),
        };
        if is_abandoned {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::backup::manifest::{Contents, DumpFile, Origin};

    fn manifest(created_at: &str) -> Manifest {
        Manifest {
            form: FORM,
            id: created_at.to_owned(),
            created_at: created_at.to_owned(),
            program: String::new(),
            pg_dump: String::new(),
            origin: Origin {
                database: String::new(),
                id: String::new(),
                postgresql: String::new(),
                server_version: 0,
                timescaledb: None,
                timescaledb_schema: None,
                edition: String::new(),
                schema: String::new(),
                schema_version: 0,
                is_whole_database: false,
                roles: Vec::new(),
            },
            dump: DumpFile { file: DUMP.to_owned(), bytes: 3, sha256: String::new() },
            contents: Contents::default(),
        }
    }

    #[test]
    fn a_backup_has_its_name_when_it_is_whole_and_its_name_is_its_own() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let partial = PartialBackup::create(folder.path()).unwrap();
            assert_eq!(Backup::list(folder.path()).unwrap().0.iter().filter(|one| one.path == partial.path).count(), 0);
            partial.finish(manifest("2026-01-02T03:04:05Z")).unwrap();
        }
        let (found, damaged) = Backup::list(folder.path()).unwrap();
        assert!(damaged.is_empty());
        let names: Vec<_> = found.iter().map(|one| one.path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["backup-20260102T030405Z", "backup-20260102T030405Z-2"]);
    }

    #[test]
    fn what_a_killed_process_left_is_deleted_and_what_a_running_one_makes_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let running = PartialBackup::create(folder.path()).unwrap();
        let killed = folder.path().join(format!("{PARTIAL}1-1-1"));
        fs::create_dir(&killed).unwrap();
        fs::write(killed.join(LOCK), "").unwrap();
        fs::write(killed.join(DUMP), "half").unwrap();
        remove_abandoned(folder.path());
        assert!(!killed.try_exists().unwrap());
        assert!(running.path.try_exists().unwrap());
        let path = running.path.clone();
        drop(running);
        assert!(!path.try_exists().unwrap());
    }

    #[tokio::test]
    async fn a_dump_of_another_length_or_another_hash_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(DUMP);
        fs::write(&file, "abc").unwrap();
        let mut right = manifest("a");
        right.dump.sha256 = sha256(&file, |_| {}).await.unwrap();
        assert_eq!(right.dump.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let backup = Backup { path: folder.path().to_owned(), manifest: right, verified: None };
        backup.check_hash(|_| {}).await.unwrap();
        for (content, words) in [("abd", "hash"), ("ab", "has 2 bytes")] {
            fs::write(&file, content).unwrap();
            let error = backup.check_hash(|_| {}).await.unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
