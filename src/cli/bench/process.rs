//! Processes of this program, and their resources from proc(5).

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::cli::Failure;
use crate::config::Config;
use crate::database::scratch::ScratchDatabase;

/// Interval between checks whether a process has ended.
const POLL: Duration = Duration::from_millis(5);

/// This program with the benchmark's servers and topics.
pub(super) fn program(bench: &Config, file: Option<&Path>, scratch: &ScratchDatabase) -> Result<Command, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .env("DATABASE_URL", scratch.url())
        .env("SERIES_INGEST__KAFKA__BROKERS", &bench.kafka.brokers)
        .env("SERIES_INGEST__KAFKA__GROUP_ID", &bench.kafka.group_id)
        .env("SERIES_INGEST__KAFKA__SERIES_TOPIC", &bench.kafka.series_topic)
        .env("SERIES_INGEST__KAFKA__POINTS_TOPIC", &bench.kafka.points_topic)
        .env("SERIES_INGEST__HTTP__LISTEN", "")
        .env("SERIES_INGEST__JOURNAL__ENABLED", "false")
        .env("SERIES_INGEST__POINTS__ON_DUPLICATE", bench.points.on_duplicate.as_str())
        .env("SERIES_INGEST__LOG__FILTER", "error")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if let Some(file) = file {
        command.arg("--config").arg(file);
    }
    Ok(command)
}

/// A process that is killed unless it was waited for.
pub(super) struct Running(Child);

impl Running {
    pub(super) fn new(child: Child) -> Self {
        Self(child)
    }

    /// Waits for its end.
    pub(super) async fn ended(mut self) -> Result<ExitStatus, Failure> {
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // If it has ended, there is nothing to kill.
        drop((self.0.kill(), self.0.wait()));
    }
}

/// The worker's process, and the address of its metrics.
pub(super) struct Worker {
    child: Child,
    address: SocketAddr,
}

impl Worker {
    pub(super) fn start(bench: &Config, file: Option<&Path>, scratch: &ScratchDatabase) -> Result<Self, Failure> {
        // A port that is free now, and that nothing else is given so soon.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut program = program(bench, file, scratch)?;
        let child = program.arg("run").env("SERIES_INGEST__HTTP__LISTEN", address.to_string()).spawn()?;
        Ok(Self { child, address })
    }

    /// The contents of `/metrics`.
    pub(super) async fn metrics(&self) -> Result<String, Failure> {
        let failed = |error: &dyn std::error::Error| Failure::Internal(format!("the worker's metrics: {error}"));
        let stream = TokioIo::new(TcpStream::connect(self.address).await?);
        let (mut sender, connection) = http1::handshake(stream).await.map_err(|error| failed(&error))?;
        let connection = tokio::spawn(connection);
        let request = Request::get("/metrics").header("host", self.address.to_string()).body(Empty::<Bytes>::new());
        let request = request.map_err(|error| failed(&error))?;
        let answer = sender.send_request(request).await.map_err(|error| failed(&error))?;
        let body = answer.into_body().collect().await.map_err(|error| failed(&error))?;
        connection.abort();
        Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
    }

    pub(super) fn has_ended(&mut self) -> Result<bool, Failure> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// The CPU time so far, and the maximum resident memory, in bytes.
    pub(super) fn usage(&self) -> Result<(Duration, u64), Failure> {
        let folder = PathBuf::from(format!("/proc/{}", self.child.id()));
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
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // If it was stopped, there is nothing left to stop.
        drop(self.stop());
    }
}

/// CPU time of a process: the first two of `counts` are its own, the next two those of its children that have ended.
fn cpu(stat: &str, counts: usize) -> Duration {
    // The second field, the program's name in brackets, may contain spaces; utime is the 14th.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(counts).filter_map(|field| field.parse::<u64>().ok()).sum();
    // Linux counts 100 ticks a second for user space on every architecture.
    Duration::from_millis(ticks * 10)
}

/// CPU time of all processes named `postgres` on this machine, and of their children; `None` if there are none.
pub(super) fn postgres_cpu() -> Option<Duration> {
    let stats = std::fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("stat")).ok());
    stats.filter(|stat| stat.contains("(postgres)")).map(|stat| cpu(&stat, 4)).reduce(|sum, next| sum + next)
}
