//! The program as a process: what it prints goes to a file, and it is ended with the test.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::until;
/// Names the planted bugs that are on.
const PLANTED_BUGS: &str = "SERIES_INGEST_PLANTED_BUGS";

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_series-ingest");

static NUMBER: AtomicUsize = AtomicUsize::new(0);

/// A running worker.
pub struct Worker {
    child: Child,
    log: PathBuf,
    pub http: String,
}

/// A name in the environment of a test's commands for the file that they get by `--config`.
pub const CONFIG_FILE: &str = "CONFIG_FILE";

/// The arguments that the environment stands for, and the rest of it.
fn divide(environment: &[(String, String)]) -> (Vec<String>, Vec<(String, String)>) {
    let (file, rest): (Vec<_>, Vec<_>) = environment.iter().cloned().partition(|(name, _)| name == CONFIG_FILE);
    (file.into_iter().flat_map(|(_, path)| ["--config".to_owned(), path]).collect(), rest)
}

/// A command of the program with just this environment.
pub fn command(environment: &[(String, String)]) -> Command {
    let (arguments, environment) = divide(environment);
    let mut command = Command::new(PROGRAM);
    command.env_clear();
    // So that any test can be seen to fail with a planted bug.
    command.envs(std::env::var(PLANTED_BUGS).ok().map(|names| (PLANTED_BUGS, names)));
    command.envs(environment).args(arguments);
    command
}

/// Runs a command of the program to its end.
pub fn run(environment: &[(String, String)], arguments: &[&str]) -> Output {
    command(environment).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// The most memory that a running process ever had resident, in bytes.
pub fn peak_resident(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

/// Runs a command of the program to its end, and returns the most memory that it had resident, in bytes.
pub fn run_measured(environment: &[(String, String)], arguments: &[&str]) -> (Output, u64) {
    let mut command = command(environment);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        most = most.max(peak_resident(child.id()).unwrap_or(0));
        std::thread::sleep(Duration::from_millis(5));
    }
    (child.wait_with_output().unwrap(), most)
}

/// Both streams as text.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

impl Worker {
    pub fn start(name: &str, environment: &[(String, String)], extra: &[(&str, &str)]) -> Self {
        Self::start_by(&[], name, environment, extra)
    }

    /// The same by another program, which replaces itself by the one that its arguments name.
    pub fn start_by(launcher: &[&str], name: &str, environment: &[(String, String)], extra: &[(&str, &str)]) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{number}.log"));
        let file = File::create(&log).unwrap();
        Self::spawn(launcher, log, file.into(), environment, extra)
    }

    /// The same with another standard error, which [`Self::log`] does not have.
    pub fn start_with_stderr(stderr: Stdio, environment: &[(String, String)], extra: &[(&str, &str)]) -> Self {
        Self::spawn(&[], PathBuf::from("/dev/null"), stderr, environment, extra)
    }

    fn spawn(
        launcher: &[&str],
        log: PathBuf,
        stderr: Stdio,
        environment: &[(String, String)],
        extra: &[(&str, &str)],
    ) -> Self {
        // A port that was free a moment ago; two tests that get the same one would see the second worker refuse to start.
        let http = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let words = [launcher, &[PROGRAM, "run"]].concat();
        let (arguments, environment) = divide(environment);
        let child = Command::new(words[0])
            .args(&words[1..])
            .args(arguments)
            .env_clear()
            .envs(environment)
            .env("SERIES_INGEST__HTTP__LISTEN", &http)
            // So that any test can be seen to fail with a planted bug.
            .envs(std::env::var(PLANTED_BUGS).ok().map(|names| (PLANTED_BUGS, names)))
            .envs(extra.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        Self { child, log, http }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// SIGTERM, and its exit code; fails where it does not end within `seconds`.
    pub fn terminate(&mut self, seconds: u64) -> Option<i32> {
        self.signal("TERM");
        self.exit_code(seconds)
    }

    pub fn exit_code(&mut self, seconds: u64) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(status) = self.has_ended() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the worker did not end within {seconds} s\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The most memory that it ever had resident.
    pub fn most_resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kib * 1024
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The status code and the body of a page; `None` where it does not answer.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(&self.http).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let code = answer.split_whitespace().nth(1)?.parse().ok()?;
        Some((code, answer.split_once("\r\n\r\n")?.1.to_owned()))
    }

    pub fn is_mode(&self, mode: &str) -> bool {
        self.metric(&format!("series_ingest_mode{{mode=\"{mode}\"}}")) == Some(1.0)
    }

    pub async fn until_mode(&self, mode: &str) {
        until(60, &format!("mode {mode}"), async || self.is_mode(mode)).await;
    }

    /// Waits until a metric has a value: what a transaction did is counted after its COMMIT.
    pub async fn until_metric(&self, name: &str, value: f64) {
        until(10, &format!("{name} is {value}"), async || self.metric(name) == Some(value)).await;
    }

    pub async fn until_ready(&self) {
        until(60, "ready", async || self.get("/readyz").is_some_and(|(code, _)| code == 200)).await;
    }

    /// The value of a metric's line that begins with `name`, labels included.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let (_, body) = self.get("/metrics")?;
        body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // A frozen process is ended by this, too.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(25).collect();
            eprintln!("--- the end of {}", self.log.display());
            for line in tail.into_iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}
