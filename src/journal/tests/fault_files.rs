//! A file system in memory that forgets whatever was not made durable.
//!
//! The crash model: each 512-byte piece of each write since the last fdatasync, each change of a file's length, and each
//! change of a name since the last directory sync survives or not, independently of all others. A failed sync makes some of
//! it durable and forgets the rest, and later syncs of the same file succeed without it, as Linux has it.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::journal::files::{Access, Files, Seen};

const SECTOR: usize = 512;

/// The kinds of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Call {
    Create,
    Open,
    Allocate,
    Read,
    Write,
    Truncate,
    Sync,
    Rename,
    Unlink,
    SyncDirectory,
    List,
    Free,
    Look,
}

/// All that can be made to fail by an injected error while writing.
pub(super) const WRITING: [Call; 8] = [
    Call::Create,
    Call::Allocate,
    Call::Write,
    Call::Truncate,
    Call::Sync,
    Call::Unlink,
    Call::SyncDirectory,
    Call::Look,
];

#[derive(Debug, Clone)]
enum Change {
    Piece(usize, Vec<u8>),
    Grow(usize),
    Length(usize),
}

#[derive(Debug, Clone, Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
    /// `true` if a write or sync has failed.
    failed: bool,
}

fn apply(data: &mut Vec<u8>, changes: impl IntoIterator<Item = Change>) {
    // Pieces beyond the length are kept until the lengths are known.
    let mut length = data.len();
    for change in changes {
        match change {
            Change::Piece(at, bytes) => {
                let end = at + bytes.len();
                if data.len() < end {
                    data.resize(end, 0);
                }
                data[at..end].copy_from_slice(&bytes);
            }
            Change::Grow(to) => length = length.max(to),
            Change::Length(to) => {
                if to < data.len() {
                    data[to..].fill(0);
                }
                length = to;
            }
        }
    }
    data.resize(length, 0);
}

#[derive(Debug, Clone)]
enum NameChange {
    Set(String, usize),
    Remove(String),
    Rename(String, String, usize),
}

fn apply_names(names: &mut BTreeMap<String, usize>, changes: impl IntoIterator<Item = NameChange>) {
    for change in changes {
        match change {
            NameChange::Set(name, inode) => drop(names.insert(name, inode)),
            NameChange::Remove(name) => drop(names.remove(&name)),
            NameChange::Rename(from, to, inode) => {
                names.remove(&from);
                names.insert(to, inode);
            }
        }
    }
}

/// Errors to inject: the `nth` call of a kind (from 0 on) and the `times - 1` after it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    pub(super) call: Call,
    pub(super) nth: u64,
    pub(super) times: u64,
    /// As the operating system numbers it.
    pub(super) errno: i32,
}

#[derive(Debug)]
struct State {
    rng: StdRng,
    inodes: Vec<Inode>,
    /// The directory that the path leads to; `None` if it leads nowhere.
    directory: Option<u64>,
    directories: u64,
    /// The directory's change time.
    changed: i64,
    /// `true` if that time stands still, as between two steps of a file system's clock.
    is_clock_stopped: bool,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending_names: Vec<NameChange>,
    lock: Weak<()>,
    calls: u64,
    crash_at: u64,
    counts: HashMap<Call, u64>,
    faults: Vec<Fault>,
    free: u64,
    can_allocate: bool,
    denied: Option<String>,
    bytes_read: u64,
    violations: Vec<String>,
}

/// The file system; clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct FaultFiles(Arc<Mutex<State>>);

#[derive(Debug)]
pub(super) struct FaultFile {
    inode: usize,
    _lock: Option<Arc<()>>,
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

enum Go {
    Do,
    /// The process ends here; the call may still have its effect.
    Die,
    Fail(io::Error),
}

fn dead() -> io::Error {
    io::Error::other("the process is dead")
}

impl State {
    fn call(&mut self, call: Call) -> Go {
        let count = self.counts.entry(call).or_default();
        let nth = *count;
        *count += 1;
        self.calls += 1;
        if self.calls > self.crash_at {
            return Go::Fail(dead());
        }
        if self.calls == self.crash_at {
            return Go::Die;
        }
        let hit = self.faults.iter().find(|f| f.call == call && (f.nth..f.nth.saturating_add(f.times)).contains(&nth));
        match hit {
            Some(fault) => Go::Fail(io::Error::from_raw_os_error(fault.errno)),
            None => Go::Do,
        }
    }

    /// Makes a change in the file as it looks now.
    fn change(&mut self, inode: usize, changes: Vec<Change>) {
        let inode = &mut self.inodes[inode];
        apply(&mut inode.now, changes.iter().cloned());
        inode.pending.extend(changes);
    }

    fn touch(&mut self, inode: usize, what: &str) {
        if self.inodes[inode].failed {
            self.violations.push(format!("{what} of a file after its write or sync failed"));
        }
    }

    fn touch_directory(&mut self) {
        self.changed += i64::from(!self.is_clock_stopped);
    }

    fn change_name(&mut self, change: NameChange) {
        self.touch_directory();
        apply_names(&mut self.names, [change.clone()]);
        self.pending_names.push(change);
    }

    /// Some of the changes.
    fn some<T>(rng: &mut StdRng, changes: Vec<T>) -> Vec<T> {
        // All, none and in between: a fair coin alone would hardly ever keep or lose a whole write.
        let keep = [0.0, 0.1, 0.5, 0.9, 1.0][rng.random_range(0..5)];
        changes.into_iter().filter(|_| rng.random_bool(keep)).collect()
    }

    /// A call that changes things, by `change`.
    fn write_call(&mut self, call: Call, change: impl FnOnce(&mut Self)) -> io::Result<()> {
        match self.call(call) {
            Go::Do => {
                change(self);
                Ok(())
            }
            Go::Die => {
                if self.rng.random_bool(0.5) {
                    change(self);
                }
                Err(dead())
            }
            Go::Fail(error) => Err(error),
        }
    }
}

fn pieces(bytes: &[u8], position: usize) -> Vec<Change> {
    let mut changes = vec![Change::Grow(position + bytes.len())];
    let mut at = position;
    while at < position + bytes.len() {
        let end = ((at / SECTOR + 1) * SECTOR).min(position + bytes.len());
        changes.push(Change::Piece(at, bytes[at - position..end - position].to_vec()));
        at = end;
    }
    changes
}

impl FaultFiles {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            rng: StdRng::seed_from_u64(seed),
            inodes: Vec::new(),
            directory: Some(0),
            directories: 1,
            changed: 0,
            is_clock_stopped: false,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            lock: Weak::new(),
            calls: 0,
            crash_at: u64::MAX,
            counts: HashMap::new(),
            faults: Vec::new(),
            free: u64::MAX / 2,
            can_allocate: true,
            denied: None,
            bytes_read: 0,
            violations: Vec::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// A process that ends in the n-th call from now on.
    pub(super) fn crash_in(&self, calls: u64) {
        let mut state = self.state();
        state.crash_at = state.calls + calls;
    }

    /// The calls so far.
    pub(super) fn calls(&self) -> u64 {
        self.state().calls
    }

    pub(super) fn count(&self, call: Call) -> u64 {
        self.state().counts.get(&call).copied().unwrap_or(0)
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.state().bytes_read
    }

    pub(super) fn fail(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    pub(super) fn heal(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.denied = None;
    }

    /// A file that this user may not open.
    pub(super) fn deny(&self, name: &str) {
        self.state().denied = Some(name.to_owned());
    }

    pub(super) fn set_free(&self, bytes: u64) {
        self.state().free = bytes;
    }

    pub(super) fn without_allocate(self) -> Self {
        self.state().can_allocate = false;
        self
    }

    /// Writes or syncs of files that had failed before.
    pub(super) fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// The process ended without a power failure: the next one sees all that was written, and opens its files again.
    pub(super) fn restart(&self) {
        let mut state = self.state();
        state.crash_at = u64::MAX;
        state.inodes.iter_mut().for_each(|inode| inode.failed = false);
    }

    /// The power fails: returns what a disk may have then.
    pub(super) fn after_crash(&self, seed: u64) -> Self {
        let after = Self::new(seed);
        {
            let (before, mut state) = (self.state(), after.state());
            let pending = State::some(&mut state.rng, before.pending_names.clone());
            let mut names = before.durable_names.clone();
            apply_names(&mut names, pending);
            for (name, inode) in names {
                let inode = &before.inodes[inode];
                let mut data = inode.durable.clone();
                let pending = State::some(&mut state.rng, inode.pending.clone());
                apply(&mut data, pending);
                let number = state.inodes.len();
                state.inodes.push(Inode { now: data.clone(), durable: data, ..Inode::default() });
                state.names.insert(name, number);
            }
            state.durable_names = state.names.clone();
            (state.can_allocate, state.free) = (before.can_allocate, before.free);
        }
        after
    }

    /// All files as they look now, durable in another file system.
    pub(super) fn copy(&self) -> Self {
        let copy = Self::new(0);
        for (name, data) in self.contents() {
            copy.put(&name, data);
        }
        copy
    }

    pub(super) fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        state.names.iter().map(|(name, inode)| (name.clone(), state.inodes[*inode].now.clone())).collect()
    }

    /// Puts a file there, durable.
    pub(super) fn put(&self, name: &str, data: Vec<u8>) {
        let mut state = self.state();
        let inode = state.inodes.len();
        state.inodes.push(Inode { now: data.clone(), durable: data, ..Inode::default() });
        state.names.insert(name.to_owned(), inode);
        state.durable_names.insert(name.to_owned(), inode);
        state.touch_directory();
    }

    /// Removes the directory, with all files in it.
    pub(super) fn remove_directory(&self) {
        let mut state = self.state();
        state.directory = None;
        state.names.clear();
        state.durable_names.clear();
        state.pending_names.clear();
    }

    /// Creates another, empty directory.
    pub(super) fn make_other(&self) {
        self.make_directory(Path::new("/journal")).unwrap();
    }

    /// Truncates a file.
    pub(super) fn cut(&self, name: &str, length: usize) {
        let mut state = self.state();
        let inode = state.names[name];
        state.inodes[inode].now.truncate(length);
        state.inodes[inode].durable.truncate(length);
    }

    /// From now on the directory's change time stays as it is.
    pub(super) fn stop_clock(&self) {
        self.state().is_clock_stopped = true;
    }

    pub(super) fn remove(&self, name: &str) {
        let mut state = self.state();
        state.names.remove(name);
        state.durable_names.remove(name);
        state.touch_directory();
    }
}

impl Files for FaultFiles {
    type File = FaultFile;

    fn make_directory(&self, _: &Path) -> io::Result<()> {
        let mut state = self.state();
        if state.directory.is_none() {
            state.directory = Some(state.directories);
            state.directories += 1;
        }
        Ok(())
    }

    fn check_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<FaultFile> {
        let mut state = self.state();
        let known = state.names.get(&name(path)).copied();
        // A lock is of a file, not of its name.
        if state.lock.strong_count() > 0 && known.is_some() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let lock = Arc::new(());
        state.lock = Arc::downgrade(&lock);
        let inode = known.unwrap_or_else(|| {
            state.inodes.push(Inode::default());
            let inode = state.inodes.len() - 1;
            state.change_name(NameChange::Set(name(path), inode));
            inode
        });
        Ok(FaultFile { inode, _lock: Some(lock) })
    }

    fn list(&self, _: &Path) -> io::Result<Vec<String>> {
        let mut state = self.state();
        match state.call(Call::List) {
            Go::Do => Ok(state.names.keys().cloned().collect()),
            Go::Die => Err(dead()),
            Go::Fail(error) => Err(error),
        }
    }

    fn create(&self, path: &Path) -> io::Result<FaultFile> {
        let mut state = self.state();
        let name = name(path);
        if state.names.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if state.directory.is_none() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.write_call(Call::Create, |state| state.change_name(NameChange::Set(name, inode)))?;
        Ok(FaultFile { inode, _lock: None })
    }

    fn open(&self, path: &Path, _: Access) -> io::Result<FaultFile> {
        let mut state = self.state();
        match state.call(Call::Open) {
            Go::Do if state.denied.as_deref() == Some(&name(path)) => Err(io::ErrorKind::PermissionDenied.into()),
            Go::Do => {
                let inode = state.names.get(&name(path)).copied().ok_or(io::ErrorKind::NotFound)?;
                Ok(FaultFile { inode, _lock: None })
            }
            Go::Die => Err(dead()),
            Go::Fail(error) => Err(error),
        }
    }

    fn length(&self, file: &FaultFile) -> io::Result<u64> {
        Ok(self.state().inodes[file.inode].now.len() as u64)
    }

    fn allocate(&self, file: &FaultFile, bytes: u64) -> io::Result<()> {
        let mut state = self.state();
        if !state.can_allocate {
            return Err(io::ErrorKind::Unsupported.into());
        }
        if bytes > state.free {
            return Err(io::Error::from_raw_os_error(28));
        }
        state.write_call(Call::Allocate, |state| state.change(file.inode, vec![Change::Grow(bytes as usize)]))
    }

    fn read_at(&self, file: &FaultFile, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut state = self.state();
        match state.call(Call::Read) {
            Go::Do => {}
            Go::Die => return Err(dead()),
            Go::Fail(error) => return Err(error),
        }
        let data = &state.inodes[file.inode].now;
        let rest = data.get(position as usize..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        state.bytes_read += read as u64;
        Ok(read)
    }

    fn write_at(&self, file: &FaultFile, bytes: &[u8], position: u64) -> io::Result<()> {
        let mut state = self.state();
        state.touch(file.inode, "write");
        let changes = pieces(bytes, position as usize);
        match state.call(Call::Write) {
            Go::Do => {
                state.change(file.inode, changes);
                Ok(())
            }
            Go::Die => {
                state.change(file.inode, changes);
                Err(dead())
            }
            Go::Fail(error) => {
                let some = State::some(&mut state.rng, changes);
                state.change(file.inode, some);
                state.inodes[file.inode].failed = true;
                Err(error)
            }
        }
    }

    fn truncate(&self, file: &FaultFile, length: u64) -> io::Result<()> {
        let mut state = self.state();
        state.touch(file.inode, "truncate");
        state.write_call(Call::Truncate, |state| state.change(file.inode, vec![Change::Length(length as usize)]))
    }

    fn sync_data(&self, file: &FaultFile) -> io::Result<()> {
        let mut state = self.state();
        state.touch(file.inode, "sync");
        let go = state.call(Call::Sync);
        let state = &mut *state;
        let inode = &mut state.inodes[file.inode];
        match go {
            Go::Do => {
                apply(&mut inode.durable, std::mem::take(&mut inode.pending));
                Ok(())
            }
            // What is pending survives or not, which is all that a sync cut short can do.
            Go::Die => Err(dead()),
            Go::Fail(error) => {
                let pending = std::mem::take(&mut inode.pending);
                apply(&mut inode.durable, State::some(&mut state.rng, pending));
                inode.failed = true;
                Err(error)
            }
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let inode = state.names.get(&name(from)).copied().ok_or(io::ErrorKind::NotFound)?;
        let change = NameChange::Rename(name(from), name(to), inode);
        state.write_call(Call::Rename, |state| state.change_name(change))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if !state.names.contains_key(&name(path)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.write_call(Call::Unlink, |state| state.change_name(NameChange::Remove(name(path))))
    }

    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        let mut state = self.state();
        let go = state.call(Call::SyncDirectory);
        let state = &mut *state;
        match go {
            Go::Do => {
                apply_names(&mut state.durable_names, std::mem::take(&mut state.pending_names));
                Ok(())
            }
            Go::Die => Err(dead()),
            Go::Fail(error) => {
                let pending = std::mem::take(&mut state.pending_names);
                apply_names(&mut state.durable_names, State::some(&mut state.rng, pending));
                Err(error)
            }
        }
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        let mut state = self.state();
        match state.call(Call::Free) {
            Go::Do => Ok(state.free),
            Go::Die => Err(dead()),
            Go::Fail(error) => Err(error),
        }
    }

    fn metadata(&self, path: &Path) -> io::Result<Seen> {
        let mut state = self.state();
        match state.call(Call::Look) {
            Go::Do => {}
            Go::Die => return Err(dead()),
            Go::Fail(error) => return Err(error),
        }
        if path == Path::new("/journal") {
            let directory = state.directory.ok_or(io::ErrorKind::NotFound)?;
            return Ok(Seen { device: 1, inode: u64::MAX - directory, bytes: 0, changed: (state.changed, 0) });
        }
        let inode = state.names.get(&name(path)).copied().ok_or(io::ErrorKind::NotFound)?;
        Ok(Seen { device: 1, inode: inode as u64, bytes: state.inodes[inode].now.len() as u64, changed: (0, 0) })
    }

    fn metadata_of(&self, file: &FaultFile) -> io::Result<Seen> {
        let bytes = self.state().inodes[file.inode].now.len() as u64;
        Ok(Seen { device: 1, inode: file.inode as u64, bytes, changed: (0, 0) })
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
