//! Processes as Linux sees them, by proc(5).

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use super::{Config, Failure, Scratch, program};

/// The worker's process.
pub(super) struct Worker(Child);

impl Worker {
    pub(super) fn start(bench: &Config, file: Option<&Path>, scratch: &Scratch) -> Result<Self, Failure> {
        Ok(Self(program(bench, file, scratch)?.arg("run").spawn()?))
    }

    pub(super) fn has_ended(&mut self) -> Result<bool, Failure> {
        Ok(self.0.try_wait()?.is_some())
    }

    /// The processor time so far, and the most memory that was resident, in bytes.
    pub(super) fn usage(&self) -> Result<(Duration, u64), Failure> {
        let folder = PathBuf::from(format!("/proc/{}", self.0.id()));
        let stat = std::fs::read_to_string(folder.join("stat"))?;
        let status = std::fs::read_to_string(folder.join("status"))?;
        let peak_kib: u64 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
            .ok_or_else(|| Failure::Internal("/proc has no VmHWM of the worker".to_owned()))?;
        Ok((cpu(&stat, 2), peak_kib * 1024))
    }

    pub(super) fn stop(&mut self) -> Result<(), Failure> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // After a stop there is nothing left to end.
        drop(self.stop());
    }
}

/// Processor time of a process: the first two of `counts` are its own, the next two those of its children that have ended.
fn cpu(stat: &str, counts: usize) -> Duration {
    // The second field, the program's name in brackets, may hold spaces; utime is the 14th.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(counts).filter_map(|field| field.parse::<u64>().ok()).sum();
    // Linux counts 100 ticks a second for user space on every architecture.
    Duration::from_millis(ticks * 10)
}

/// Processor time of all processes named `postgres` on this machine, and of their children; `None` where there are none.
pub(super) fn postgres_cpu() -> Option<Duration> {
    let stats = std::fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("stat")).ok());
    stats.filter(|stat| stat.contains("(postgres)")).map(|stat| cpu(&stat, 4)).reduce(|sum, next| sum + next)
}
