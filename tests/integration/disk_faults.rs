//! The journal's disk is full, limited or broken in an outage: nothing is lost, and it goes on by itself.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::support::data::Published;
use crate::support::fixture_with_proxy::{FixtureWithProxy, until_found};
use crate::support::worker::Worker;
use crate::support::{skip, until};

const SEGMENT_BYTES: u64 = 1 << 20;
/// The number of messages of this length that need several segments.
const LARGE: (usize, usize) = (100, 60_000);

/// An outage begins, and the worker journals.
async fn begin(away: &FixtureWithProxy, worker: &Worker, published: &mut Published) {
    away.publish(published, 20);
    away.fixture.until_applied(60).await;
    away.proxy.refuse(true);
    away.publish(published, 20);
    worker.until_mode("journaling").await;
    away.fixture.until_journaled(worker).await;
    assert_eq!(worker.get("/readyz").unwrap().0, 200);
}

/// Waits until the worker says that its journal takes nothing, and returns its message.
async fn until_unready(worker: &Worker) -> String {
    let mut why = String::new();
    until(60, "the journal takes nothing, and the worker says so", async || {
        let Some((code, body)) = worker.get("/readyz") else { return false };
        why = body;
        code == 503 && why.contains("journal:")
    })
    .await;
    assert_eq!(worker.get("/livez").unwrap().0, 200);
    why
}

/// Waits until the worker has journaled all. From here on nobody else has it.
async fn until_safe(away: &FixtureWithProxy, worker: &mut Worker) {
    until(60, "ready again", async || worker.get("/readyz").is_some_and(|(code, _)| code == 200)).await;
    away.fixture.until_journaled(worker).await;
    away.delete_records().await;
    assert_eq!(worker.has_ended(), None);
}

/// The database comes back.
async fn end(away: FixtureWithProxy, mut worker: Worker, mut published: Published) {
    away.publish(&mut published, 20);
    away.proxy.refuse(false);
    away.fixture.until_applied(60).await;
    away.fixture.assert_exact(&published).await;
    worker.until_mode("streaming").await;
    assert_eq!(worker.has_ended(), None);
    assert!(!worker.log().contains("damage"), "a failed write leaves no damage\n{}", worker.log());
    drop(worker);
    away.remove().await;
}

/// A worker with its own small disk for its journal: a tmpfs in its own mount namespace, which goes with the process.
struct SmallDisk {
    worker: Worker,
    /// Where everybody else finds it.
    folder: PathBuf,
    /// Where the worker finds it.
    path: String,
    is_user_namespace: bool,
}

impl SmallDisk {
    /// `None` where this user may mount nothing.
    fn start(test: &str, away: &FixtureWithProxy) -> Option<Self> {
        const MOUNT: &str = r#"mount -t tmpfs -o size=16m,nr_inodes=64,mode=700 none "$0" && exec "$@""#;
        let folder = away.journal("disk");
        fs::create_dir(&folder).unwrap();
        let path = folder.to_str().unwrap();
        let is_allowed = |how: &&str| {
            let mut command = Command::new("unshare");
            command.args([how, "sh", "-c", MOUNT, path, "true"]).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        let Some(how) = ["-m", "-Urm"].into_iter().find(is_allowed) else {
            skip(test, "no tmpfs may be mounted here, neither as this user nor in a user namespace");
            return None;
        };
        let worker = away.worker_by(&["unshare", how, "sh", "-c", MOUNT, path], &folder.join("journal"), &[]);
        let is_user_namespace = how.contains('U');
        let seen = PathBuf::from(format!("/proc/{}/root{path}", worker.id()));
        Some(Self { worker, folder: seen, path: path.to_owned(), is_user_namespace })
    }

    /// Runs a command where the worker sees the disk.
    fn run(&self, words: &[&str]) {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.worker.id().to_string(), "--mount"]);
        if self.is_user_namespace {
            command.args(["--user", "--preserve-credentials"]);
        }
        assert!(command.args(words).status().unwrap().success(), "{words:?}");
    }

    /// Takes all bytes except this many.
    fn fill(&self, left: u64) {
        let file = File::create(self.folder.join("ballast")).unwrap();
        let free = rustix::fs::statvfs(&self.folder).unwrap();
        fallocate(&file, FallocateFlags::empty(), 0, free.f_bfree * free.f_frsize - left).unwrap();
    }

    /// Takes all names.
    fn take_names(&self) {
        for number in 0.. {
            match File::create(self.folder.join(format!("ballast-{number}"))) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Gives back what was taken.
    fn clear(&self) {
        for path in fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_file() {
                fs::remove_file(path).unwrap();
            }
        }
    }

    /// Takes the space away that the segment being written has on the disk and has not used, as a file system may that does
    /// not keep what it has promised.
    fn take_reserved(&self) {
        let path = newest_segment(&self.folder.join("journal"));
        let used = fs::read(&path).unwrap().iter().rposition(|byte| *byte != 0).unwrap() as u64;
        let from = used.next_multiple_of(4096);
        let file = File::options().write(true).open(path).unwrap();
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&file, flags, from, SEGMENT_BYTES - from).unwrap();
    }
}

fn newest_segment(journal: &Path) -> PathBuf {
    let paths = fs::read_dir(journal).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "segment")).max().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_space_for_the_next_segment_pauses_and_goes_on_by_itself() {
    let Some(away) = FixtureWithProxy::new("disk_space", 2).await else { return };
    let Some(mut disk) = SmallDisk::start("disk_space", &away) else { return away.remove().await };
    let mut published = Published::default();
    begin(&away, &disk.worker, &mut published).await;
    disk.fill(3 * SEGMENT_BYTES / 2);
    away.publish_large(&mut published, LARGE.0, LARGE.1);
    let why = until_unready(&disk.worker).await;
    assert!(why.contains("full"), "{why}");
    disk.clear();
    until_safe(&away, &mut disk.worker).await;
    end(away, disk.worker, published).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_a_name_for_the_next_segment_pauses_and_goes_on_by_itself() {
    let Some(away) = FixtureWithProxy::new("disk_names", 2).await else { return };
    let Some(mut disk) = SmallDisk::start("disk_names", &away) else { return away.remove().await };
    let mut published = Published::default();
    begin(&away, &disk.worker, &mut published).await;
    disk.take_names();
    away.publish_large(&mut published, LARGE.0, LARGE.1);
    let why = until_unready(&disk.worker).await;
    assert!(why.contains("no space is left on the disk"), "{why}");
    disk.clear();
    until_safe(&away, &mut disk.worker).await;
    end(away, disk.worker, published).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_becomes_read_only_pauses_and_goes_on_by_itself() {
    let Some(away) = FixtureWithProxy::new("disk_read_only", 2).await else { return };
    let Some(mut disk) = SmallDisk::start("disk_read_only", &away) else { return away.remove().await };
    let mut published = Published::default();
    begin(&away, &disk.worker, &mut published).await;
    // A file that is open for writing keeps a file system from becoming read-only; a bind mount can nevertheless.
    disk.run(&["mount", "--bind", &disk.path, &disk.path]);
    disk.run(&["mount", "-o", "remount,bind,ro", &disk.path]);
    away.publish(&mut published, 20);
    let why = until_unready(&disk.worker).await;
    assert!(why.contains("Read-only file system"), "{why}");
    disk.run(&["mount", "-o", "remount,bind,rw", &disk.path]);
    until_safe(&away, &mut disk.worker).await;
    end(away, disk.worker, published).await;
}

/// What is below a mount is not found by its path.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_mounted_over_the_journal_is_filled_again_and_so_is_the_one_below_it() {
    let Some(away) = FixtureWithProxy::new("disk_mounted_over", 2).await else { return };
    let Some(mut disk) = SmallDisk::start("disk_mounted_over", &away) else { return away.remove().await };
    let mut published = Published::default();
    begin(&away, &disk.worker, &mut published).await;
    let journal = format!("{}/journal", disk.path);
    let lost = || disk.worker.metric("series_ingest_journal_lost_records_total").unwrap();
    disk.run(&["mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "none", &journal]);
    until(60, "it is noticed", async || lost() > 0.0).await;
    away.publish(&mut published, 20);
    until_found(&away, &disk.folder.join("journal")).await;
    let before = lost();
    disk.run(&["umount", "--lazy", &journal]);
    until(60, "it is noticed", async || lost() > before).await;
    away.publish(&mut published, 20);
    until_found(&away, &disk.folder.join("journal")).await;
    until_safe(&away, &mut disk.worker).await;
    end(away, disk.worker, published).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_gets_full_in_the_middle_of_a_segment_costs_nothing() {
    let Some(away) = FixtureWithProxy::new("disk_middle", 2).await else { return };
    let Some(mut disk) = SmallDisk::start("disk_middle", &away) else { return away.remove().await };
    let mut published = Published::default();
    begin(&away, &disk.worker, &mut published).await;
    disk.take_reserved();
    disk.fill(16 * 1024);
    away.publish_large(&mut published, 4, LARGE.1);
    until_unready(&disk.worker).await;
    let log = disk.worker.log();
    assert!(log.contains("writing to a segment failed") && log.contains("No space left on device"), "{log}");
    disk.clear();
    until_safe(&away, &mut disk.worker).await;
    end(away, disk.worker, published).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_on_the_length_of_files_pauses_until_it_is_lifted() {
    let Some(away) = FixtureWithProxy::new("disk_limit", 2).await else { return };
    let mut published = Published::default();
    let mut worker = away.worker("journal", &[]);
    begin(&away, &worker, &mut published).await;
    // Less than a segment: that which is there fails in its middle, and no other one can be made.
    let limit = |bytes: Option<u64>| {
        let pid = Pid::from_raw(worker.id().cast_signed());
        let before = prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None });
        before.unwrap_or_else(|error| panic!("the limit on this machine cannot be moved: {error}"));
    };
    limit(Some(SEGMENT_BYTES / 2));
    away.publish_large(&mut published, LARGE.0, LARGE.1);
    let why = until_unready(&worker).await;
    assert!(why.contains("File too large"), "{why}");
    let log = worker.log();
    assert!(log.contains("writing to a segment failed"), "{log}");
    limit(None);
    until_safe(&away, &mut worker).await;
    // What it has acknowledged is on the disk, also for another process.
    worker.kill();
    let worker = away.worker("journal", &[]);
    end(away, worker, published).await;
}

/// The shim of `tests/shims`, compiled; its commands, and what it has done.
struct FailingDisk {
    library: PathBuf,
    control: PathBuf,
    log: PathBuf,
}

impl FailingDisk {
    fn new(test: &str, away: &FixtureWithProxy) -> Self {
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}.so", std::process::id()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shims/failing_disk.c");
        // The compiler that the program's own build needs.
        let output = Command::new("cc")
            .args(["-Wall", "-Werror", "-O1", "-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .arg("-ldl")
            .output()
            .expect("cc runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { library, control: away.journal("control"), log: away.journal("calls") }
    }

    fn worker(&self, away: &FixtureWithProxy) -> Worker {
        let path = |path: &PathBuf| path.to_str().unwrap().to_owned();
        let (library, control, log) = (path(&self.library), path(&self.control), path(&self.log));
        away.worker("journal", &[("LD_PRELOAD", &library), ("FAILING_DISK", &control), ("FAILING_DISK_LOG", &log)])
    }

    /// From now on every `every`-th call of this name fails; the worker reads this at each call.
    fn fail(&self, call: &str, every: u32) {
        self.tell(&format!("{call} {every}\n"));
    }

    fn heal(&self) {
        self.tell("");
    }

    fn tell(&self, words: &str) {
        let new = self.control.with_extension("new");
        File::create(&new).unwrap().write_all(words.as_bytes()).unwrap();
        fs::rename(new, &self.control).unwrap();
    }

    /// The calls so far: name, whether it failed, segment.
    fn calls(&self) -> Vec<(String, bool, String)> {
        let log = fs::read_to_string(&self.log).expect("the worker's calls go through the shim");
        log.lines()
            .map(|line| {
                let [call, result, segment] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
                (call.to_owned(), result == "failed", segment.to_owned())
            })
            .collect()
    }

    fn failures(&self) -> usize {
        self.calls().iter().filter(|(_, has_failed, _)| *has_failed).count()
    }

    /// That no segment was written or synced once one of these has failed on it.
    fn assert_failures_were_final(&self) {
        let mut failed = HashSet::new();
        for (call, has_failed, segment) in self.calls() {
            assert!(!failed.contains(&segment), "{call} of {segment} after a failure");
            if has_failed {
                failed.insert(segment);
            }
        }
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.library));
    }
}

/// Every third call of this name fails, then all of them, then none.
async fn outage_on_a_failing_disk(test: &str, call: &str) {
    let Some(away) = FixtureWithProxy::new(test, 2).await else { return };
    let disk = FailingDisk::new(test, &away);
    let mut published = Published::default();
    let mut worker = disk.worker(&away);
    begin(&away, &worker, &mut published).await;

    disk.fail(call, 3);
    let mut rounds = 0;
    until(60, "some calls fail, one here and one there", async || {
        away.publish_large(&mut published, 4, LARGE.1);
        away.fixture.until_journaled(&worker).await;
        rounds += 1;
        disk.failures() >= 3
    })
    .await;
    assert_eq!(worker.get("/readyz").unwrap().0, 200, "another segment takes what one has not");
    let log = worker.log();
    assert!(!log.contains("messages are not journaled"), "{rounds} rounds\n{log}");

    disk.fail(call, 1);
    away.publish_large(&mut published, 20, LARGE.1);
    let why = until_unready(&worker).await;
    assert!(why.contains("Input/output error"), "{why}");
    disk.heal();
    until_safe(&away, &mut worker).await;
    disk.assert_failures_were_final();
    // What it has acknowledged is on the disk, also for another process.
    worker.kill();
    let worker = away.worker("journal", &[]);
    end(away, worker, published).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_writes_cost_nothing() {
    outage_on_a_failing_disk("disk_writes", "pwrite").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_fdatasyncs_cost_nothing() {
    outage_on_a_failing_disk("disk_syncs", "fdatasync").await;
}

/// What waits for a slow fdatasync is written together at the next one, and the journal takes all.
#[tokio::test(flavor = "multi_thread")]
async fn slow_fdatasyncs_cost_nothing() {
    let Some(away) = FixtureWithProxy::new("disk_slow", 2).await else { return };
    let disk = FailingDisk::new("disk_slow", &away);
    let mut published = Published::default();
    let mut worker = disk.worker(&away);
    begin(&away, &worker, &mut published).await;

    disk.tell("slow 300\n");
    let syncs = || disk.calls().iter().filter(|(call, ..)| call == "fdatasync").count();
    let (before, started) = (syncs(), Instant::now());
    away.publish(&mut published, 2000);
    away.publish_large(&mut published, LARGE.0, LARGE.1);
    until_safe(&away, &mut worker).await;
    let (count, took) = (syncs() - before, started.elapsed());
    assert!(count > 0 && took >= Duration::from_millis(300) * count as u32, "{count} fdatasyncs in {took:?}");
    assert!(count < 200, "{count} fdatasyncs for 2100 messages");
    let log = worker.log();
    assert!(!log.contains("messages are not journaled"), "{log}");
    // What it has acknowledged is on the disk, also for another process.
    worker.kill();
    let worker = away.worker("journal", &[]);
    end(away, worker, published).await;
}
