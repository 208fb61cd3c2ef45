//! PostgreSQL's own programs: finding pg_dump and pg_restore, and running them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::error::Error;
use crate::config;
use crate::database::libpq_environment;

/// Interval between checks that a program has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Maximum length of what is kept of a program's standard error.
const MAX_COMPLAINT: usize = 4000;
/// Folders whose subfolders are versions of PostgreSQL, as Debian, and as Red Hat and SUSE have them.
const FOLDERS: [(&str, &str); 4] = [
    ("/usr/lib/postgresql", ""),
    ("/usr", "pgsql-"),
    ("/usr/lib", "postgresql1"),
    ("/opt/homebrew/opt", "postgresql@"),
];

/// A program of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    /// Its name, such as `pg_dump`.
    pub(super) name: &'static str,
    /// Its file.
    pub(super) path: PathBuf,
    /// Its version, such as `17.2`.
    pub(super) version: String,
    /// Its major version.
    pub(super) major: u32,
}

/// Finds a program: in the folder that was given, or else in PATH and the usual folders. One of the needed major version is
/// preferred; otherwise it is the newest one that is not older.
///
/// # Errors
/// If there is none that is new enough.
pub(super) fn find(name: &'static str, given: Option<&Path>, needed: u32) -> Result<Program, Error> {
    if let Some(folder) = given {
        let path = folder.join(name);
        let found = program(name, &path).ok_or_else(|| {
            let folder = folder.display();
            Error::Programs(format!(
                "--pg-bin {folder} has no {name} that runs: name a folder of PostgreSQL's programs"
            ))
        })?;
        if found.major < needed {
            return Err(Error::Programs(format!(
                "{} is version {}, and {needed} or later is needed: name a folder with a newer one in --pg-bin",
                path.display(),
                found.version
            )));
        }
        return Ok(found);
    }
    let found: Vec<Program> = folders().iter().filter_map(|folder| program(name, &folder.join(name))).collect();
    choose(&found, needed).ok_or_else(|| {
        let versions: Vec<String> =
            found.iter().map(|one| format!("{} is version {}", one.path.display(), one.version)).collect();
        let found = if versions.is_empty() { "there is none".to_owned() } else { versions.join(", ") };
        Error::Programs(format!(
            "{name} of version {needed} or later is needed, and in PATH and the usual folders {found}: install PostgreSQL's client \
             programs of version {needed} (Debian: postgresql-client-{needed}), or name their folder in --pg-bin"
        ))
    })
}

fn choose(found: &[Program], needed: u32) -> Option<Program> {
    let same = found.iter().find(|one| one.major == needed);
    let newer = || found.iter().filter(|one| one.major > needed).max_by_key(|one| one.major);
    same.or_else(newer).cloned()
}

fn folders() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    for (parent, prefix) in FOLDERS {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_version = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
            if name.strip_prefix(prefix).is_some_and(is_version) {
                folders.push(entry.path().join("bin"));
            }
        }
    }
    folders
}

/// The program in this file, if it runs.
fn program(name: &'static str, path: &Path) -> Option<Program> {
    if !path.is_file() {
        return None;
    }
    let output = Command::new(path).arg("--version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (version, major) = version_of(&text)?;
    Some(Program { name, path: path.to_owned(), version, major })
}

/// The version in `pg_dump (PostgreSQL) 17.2 (Debian 17.2-1)`, and its major version.
fn version_of(text: &str) -> Option<(String, u32)> {
    let version = text.split_once("(PostgreSQL) ")?.1.split_whitespace().next()?;
    let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((version.to_owned(), digits.parse().ok()?))
}

/// The major version in a version of a program.
pub(super) fn major_of(version: &str) -> u32 {
    version.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

impl Program {
    /// The command, connected as the configuration says. Its messages are in English.
    pub(super) fn command(&self, database: &config::Database) -> Result<Command, Error> {
        let mut command = Command::new(&self.path);
        for (name, value) in libpq_environment(database)? {
            command.env(name, value.expose());
        }
        command.env("LC_ALL", "C").env_remove("LANGUAGE").env_remove("PGCLIENTENCODING").stdin(Stdio::null());
        Ok(command)
    }

    /// Runs the command to its end; dropping the future ends it. Returns what it has written to standard error.
    ///
    /// # Errors
    /// If it cannot be started, or fails.
    pub(super) async fn run(&self, command: &mut Command) -> Result<String, Error> {
        let (status, text) = self.run_anyway(command.stdout(Stdio::null())).await?;
        if status.success() { Ok(text) } else { Err(self.failure(status, text)) }
    }

    /// The same, whatever its exit code is.
    pub(super) async fn run_anyway(&self, command: &mut Command) -> Result<(ExitStatus, String), Error> {
        let (mut running, complaint) = self.start(command)?;
        let status = running.end().await?;
        Ok((status, complaint.recv().unwrap_or_default()))
    }

    pub(super) fn failure(&self, status: ExitStatus, text: String) -> Error {
        Error::Program { program: self.name, status: status.to_string(), text }
    }

    /// Starts the command. What it writes to standard error comes when it has closed that.
    pub(super) fn start(&self, command: &mut Command) -> Result<(Running, mpsc::Receiver<String>), Error> {
        let started = command.stderr(Stdio::piped()).spawn();
        let mut child =
            started.map_err(|error| Error::Programs(format!("{} cannot be run: {error}", self.path.display())))?;
        let (sender, receiver) = mpsc::channel();
        if let Some(stderr) = child.stderr.take() {
            // Nobody waits for it if the command was dropped.
            std::thread::spawn(move || drop(sender.send(end_of(stderr))));
        }
        Ok((Running { child, program: self.name }, receiver))
    }
}

/// The last lines of a stream.
fn end_of(stream: impl Read) -> String {
    let mut kept = String::new();
    let mut lines = BufReader::new(stream);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        kept += &String::from_utf8_lossy(&line);
        line.clear();
        if let Some(over) = kept.len().checked_sub(MAX_COMPLAINT).filter(|over| *over > 0) {
            let start = (over..kept.len()).find(|at| kept.is_char_boundary(*at)).unwrap_or(kept.len());
            kept.drain(..start);
        }
    }
    kept.trim().to_owned()
}

/// A running program, which ends with this.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) child: Child,
    program: &'static str,
}

impl Running {
    /// Waits until it has ended.
    pub(super) async fn end(&mut self) -> Result<ExitStatus, Error> {
        loop {
            let ended = self.child.try_wait();
            let failed = |error| Error::Programs(format!("{} cannot be waited for: {error}", self.program));
            match ended.map_err(failed)? {
                Some(status) => return Ok(status),
                None => tokio::time::sleep(POLL_INTERVAL).await,
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        if matches!(self.child.try_wait(), Ok(None)) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// A file as a program's input or output.
pub(super) fn stdio(file: File) -> Stdio {
    Stdio::from(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        for (text, expected) in [
            ("pg_dump (PostgreSQL) 17.2 (Debian 17.2-1.pgdg)", Some(("17.2", 17))),
            ("pg_restore (PostgreSQL) 18beta1\n", Some(("18beta1", 18))),
            ("pg_dump", None),
            ("", None),
        ] {
            let found = version_of(text);
            assert_eq!(found.as_ref().map(|(version, major)| (version.as_str(), *major)), expected, "{text}");
        }
    }

    #[test]
    fn a_program_of_the_servers_version_is_preferred_and_an_older_one_is_not_taken() {
        let of = |major: u32| Program {
            name: "pg_dump",
            path: format!("/{major}").into(),
            version: major.to_string(),
            major,
        };
        let found = [of(15), of(18), of(17), of(16)];
        for (server, expected) in [(14, Some(18)), (16, Some(16)), (17, Some(17)), (18, Some(18)), (19, None)] {
            assert_eq!(choose(&found, server).map(|one| one.major), expected, "{server}");
        }
    }

    #[test]
    fn of_a_long_complaint_the_end_is_kept() {
        let text = "ä".repeat(3000) + "\nlast line\n";
        let kept = end_of(text.as_bytes());
        assert!(kept.len() <= MAX_COMPLAINT && kept.ends_with("last line"), "{}", kept.len());
    }
}
