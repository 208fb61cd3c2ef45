//! A PostgreSQL with TimescaleDB of one test's own, which may be killed, frozen, filled and set back. It ends with the test,
//! and its data goes.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use super::{servers, skip, until};

const STACK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/stack");

/// What `scripts/stack spare` says where there can be none.
const NOT_POSSIBLE: i32 = 77;

/// Timeout for its processes to end.
const GONE: Duration = Duration::from_secs(30);

pub struct Server {
    name: String,
    /// Its data folder, as this process sees it.
    data: PathBuf,
    port: u16,
    small_mib: Option<u32>,
    child: Option<Child>,
    log: PathBuf,
}

fn stack(arguments: &[&str]) -> Output {
    Command::new(STACK).arg("spare").args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

/// The running processes whose parent is this one.
fn children_of(parent: u32) -> Vec<u32> {
    let parent_of = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // After the name, which may contain anything: the state and the parent.
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(|pid| parent_of(*pid) == Some(parent))
        .collect()
}

fn signal(name: &str, pids: &[u32]) {
    let pids = pids.iter().map(u32::to_string);
    // One of them may have ended by itself.
    drop(Command::new("kill").arg(format!("-{name}")).args(pids).stderr(Stdio::null()).status());
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").args(["-a", "--reflink=auto"]).args([from, to]).status().unwrap();
    assert!(status.success(), "{} is copied", from.display());
}

impl Server {
    /// A new server that answers; `None`, loudly, where there can be none.
    pub async fn start(test: &str) -> Option<Self> {
        Self::start_with(test, None).await
    }

    /// One with a small disk alongside its data, for a tablespace: [`Server::small_disk`].
    pub async fn start_with_small_disk(test: &str, mib: u32) -> Option<Self> {
        Self::start_with(test, Some(mib)).await
    }

    /// A plain PostgreSQL of another major version, without TimescaleDB; `None`, loudly, where npm or pip do not bring it.
    #[allow(dead_code, reason = "tests/chaos does not use it")]
    pub async fn start_plain(test: &str, major: &str) -> Option<Self> {
        servers(test)?;
        let name = format!("{test}_{major}_{}", std::process::id());
        Self::start_made(test, &stack(&["make", &name, major]), name, None).await
    }

    async fn start_with(test: &str, small_mib: Option<u32>) -> Option<Self> {
        servers(test)?;
        let name = format!("{test}_{}", std::process::id());
        Self::start_made(test, &stack(&["make", &name]), name, small_mib).await
    }

    async fn start_made(test: &str, made: &Output, name: String, small_mib: Option<u32>) -> Option<Self> {
        if made.status.code() == Some(NOT_POSSIBLE) {
            skip(test, &words(made));
            return None;
        }
        let mut server = Self::of(name, made, small_mib);
        server.launch();
        if !server.answers_or_ends().await {
            let why = std::fs::read_to_string(&server.log).unwrap_or_default();
            let ended = server.child.take().unwrap().wait().unwrap();
            assert_eq!(ended.code(), Some(NOT_POSSIBLE), "the server ended at once: {why}");
            skip(test, why.trim());
            return None;
        }
        Some(server)
    }

    fn of(name: String, made: &Output, small_mib: Option<u32>) -> Self {
        assert!(made.status.success(), "{}", words(made));
        let answer = String::from_utf8(made.stdout.clone()).unwrap();
        let (data, port) = answer.trim().rsplit_once(' ').unwrap();
        let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-server.log"));
        File::create(&log).unwrap();
        Self { name, data: data.into(), port: port.parse().unwrap(), small_mib, child: None, log }
    }

    /// A streaming standby of this server, with all that it has now.
    pub async fn standby(&self) -> Self {
        let name = format!("{}_standby", self.name);
        let made = stack(&["standby", &name, &self.name]);
        let mut standby = Self::of(name, &made, None);
        standby.launch();
        standby.until_answers().await;
        standby
    }

    /// Starts it, and does not wait for it.
    pub fn launch(&mut self) {
        let log = File::options().append(true).open(&self.log).unwrap();
        let mut command = Command::new(STACK);
        command.args(["spare", "run", &self.name]).args(self.small_mib.map(|mib| mib.to_string()));
        self.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    /// Starts it after its end.
    pub async fn start_again(&mut self) {
        self.launch();
        self.until_answers().await;
    }

    async fn answers_or_ends(&mut self) -> bool {
        let url = self.url();
        let child = self.child.as_mut().unwrap();
        let mut answers = false;
        until(60, "the server answers", async || {
            answers = answers_once(&url).await.is_some();
            answers || child.try_wait().unwrap().is_some()
        })
        .await;
        answers
    }

    async fn until_answers(&mut self) {
        assert!(self.answers_or_ends().await, "the server ended: {}", self.log.display());
    }

    pub fn url(&self) -> String {
        format!("postgresql://postgres@{}/postgres", self.address())
    }

    /// Host and port.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    fn processes(&self) -> Vec<u32> {
        let mut all = vec![self.pid()];
        all.extend(children_of(self.pid()));
        all
    }

    /// Ends it by this signal, and waits until its children are gone, too: they hold its memory.
    fn end_by(&mut self, name: &str) {
        let processes = self.processes();
        signal(name, &processes[..1]);
        self.child.take().unwrap().wait().unwrap();
        let deadline = Instant::now() + GONE;
        while processes.iter().any(|pid| std::fs::metadata(format!("/proc/{pid}")).is_ok()) {
            if Instant::now() >= deadline {
                assert!(std::thread::panicking(), "the server's processes are gone within {GONE:?}");
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn kill_9(&mut self) {
        self.end_by("KILL");
    }

    /// Stops it as an administrator does: sessions are ended, all is written.
    pub fn stop_fast(&mut self) {
        self.end_by("INT");
    }

    /// Stops all of its processes where they are: it hangs, and refuses nothing.
    pub fn freeze(&self) {
        // The postmaster first: it makes no new ones then.
        signal("STOP", &[self.pid()]);
        signal("STOP", &children_of(self.pid()));
    }

    pub fn thaw(&self) {
        signal("CONT", &self.processes());
    }

    /// A folder on its own small disk, as the server sees it; the disk ends with the server's process.
    pub async fn small_disk(&self) -> String {
        assert!(self.small_mib.is_some(), "the server was started with a small disk");
        let client = super::fixture::connect(&self.url()).await;
        let data: String = client.query_one("select current_setting('data_directory')", &[]).await.unwrap().get(0);
        format!("{data}.small")
    }

    /// The file that fills the small disk. The disk is seen by the server's processes only, and so through one of them.
    async fn ballast(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}/ballast", self.pid(), self.small_disk().await))
    }

    pub async fn fill_small_disk(&self) {
        let mut file = File::create(self.ballast().await).unwrap();
        let zeros = vec![0; 64 * 1024];
        let full = loop {
            if let Err(error) = file.write_all(&zeros) {
                break error;
            }
        };
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    pub async fn free_small_disk(&self) {
        std::fs::remove_file(self.ballast().await).unwrap();
    }

    /// Writes a file of the server's into its data folder, readable by nobody else; [`Server::reload`] lets it be read.
    pub fn put(&self, name: &str, text: &str) {
        let file = self.data.join(name);
        std::fs::write(&file, text).unwrap();
        let owned = Command::new("chown").arg("--reference").args([&self.data, &file]).status().unwrap();
        let hidden = Command::new("chmod").arg("600").arg(&file).status().unwrap();
        assert!(owned.success() && hidden.success(), "{} is the server's", file.display());
    }

    /// Lets it read its settings again, after some statements; they hold for connections made a moment later.
    pub async fn reload(&self, statements: &[&str]) {
        let client = super::fixture::connect(&self.url()).await;
        for statement in statements.iter().chain(&["select pg_reload_conf()"]) {
            client.batch_execute(statement).await.unwrap();
        }
    }

    fn backup(&self) -> PathBuf {
        self.data.with_file_name(format!("{}.backup", self.name))
    }

    /// Copies the data of the server, which is stopped, to be set back to.
    pub fn back_up(&self) {
        assert!(self.child.is_none(), "the server is stopped");
        drop(std::fs::remove_dir_all(self.backup()));
        copy(&self.data, &self.backup());
    }

    /// Sets the server, which is stopped, back to the copy, which stays.
    pub fn restore(&self) {
        assert!(self.child.is_none(), "the server is stopped");
        std::fs::remove_dir_all(&self.data).unwrap();
        copy(&self.backup(), &self.data);
    }
}

/// Point-in-time recovery, as docs/keeping-backup.md describes it.
#[allow(dead_code, reason = "tests/chaos does not use it")]
impl Server {
    /// The folder next to its data as the server sees it.
    async fn backup_inside(&self) -> String {
        let client = super::fixture::connect(&self.url()).await;
        let data: String = client.query_one("select current_setting('data_directory')", &[]).await.unwrap().get(0);
        format!("{data}.backup")
    }

    /// Has it archive its WAL from its next start on, which this does.
    pub async fn begin_archiving(&mut self) {
        let inside = self.backup_inside().await;
        let wal = self.backup().join("wal");
        std::fs::create_dir_all(&wal).unwrap();
        for folder in [self.backup(), wal] {
            let owned = Command::new("chown").arg("--reference").args([&self.data, &folder]).status().unwrap();
            assert!(owned.success(), "{} is the server's", folder.display());
        }
        let settings = documented("archive_mode").replace(DOCUMENTED, &inside);
        let statements: Vec<String> = settings.lines().map(|line| format!("alter system set {line}")).collect();
        self.reload(&statements.iter().map(String::as_str).collect::<Vec<_>>()).await;
        self.stop_fast();
        self.start_again().await;
    }

    /// Takes a base backup while it runs; its WAL is in the archive only.
    pub async fn base_backup(&self) {
        let documented = documented("pg_basebackup").replace(DOCUMENTED, &self.backup_inside().await);
        let port = self.port.to_string();
        let server = ["-h", "127.0.0.1", "-p", &port, "-U", "postgres"];
        let output =
            Command::new(STACK).arg("postgres").args(documented.split_whitespace()).args(server).output().unwrap();
        assert!(output.status.success(), "{}", words(&output));
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until everything that was written until now is archived.
    pub async fn archive_all(&self) {
        let client = super::fixture::connect(&self.url()).await;
        let last = "select pg_walfile_name(pg_switch_wal())";
        let last: String = client.query_one(last, &[]).await.unwrap().get(0);
        let archived = "select coalesce(last_archived_wal >= $1, false) from pg_stat_archiver";
        until(60, "the WAL is archived", async || client.query_one(archived, &[&last]).await.unwrap().get(0)).await;
    }

    /// Puts the base backup in the place of its data, and recovers to a target, such as `time = '…'`; the server is stopped.
    pub async fn recover_to(&mut self, target: &str) {
        assert!(self.child.is_none(), "the server is stopped");
        // One of them is always there, with the port in its settings: no other server takes that.
        let partial = self.data.with_file_name(format!("{}.partial", self.name));
        copy(&self.backup().join("base"), &partial);
        std::fs::remove_dir_all(&self.data).unwrap();
        std::fs::rename(&partial, &self.data).unwrap();
        self.put("recovery.signal", "");
        let settings = self.data.join("postgresql.auto.conf");
        let mut text = std::fs::read_to_string(&settings).unwrap();
        let documented = documented("recovery_target_time");
        let (_, action) = documented.split_once('\n').unwrap();
        text += &format!("recovery_target_{target}\n{action}");
        self.put("postgresql.auto.conf", &text);
        self.start_again().await;
        let client = super::fixture::connect(&self.url()).await;
        let is_primary = "select not pg_is_in_recovery()";
        until(60, "the server is promoted", async || client.query_one(is_primary, &[]).await.unwrap().get(0)).await;
    }
}

/// The folder of the archive and of the base backup in docs/keeping-backup.md.
#[allow(dead_code, reason = "tests/chaos does not use it")]
const DOCUMENTED: &str = "/var/backups/postgresql";

/// The example of docs/keeping-backup.md that begins with this.
#[allow(dead_code, reason = "tests/chaos does not use it")]
fn documented(begin: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/keeping-backup.md");
    let text = std::fs::read_to_string(file).unwrap();
    let mut blocks = text.split("```").skip(1).step_by(2).filter_map(|block| block.split_once('\n'));
    blocks.find_map(|(_, block)| block.starts_with(begin).then(|| block.to_owned())).expect(begin)
}

/// A connection, where the server makes one at once.
async fn answers_once(url: &str) -> Option<Client> {
    let connecting = tokio::time::timeout(Duration::from_secs(1), tokio_postgres::connect(url, NoTls));
    let (client, connection) = connecting.await.ok()?.ok()?;
    tokio::spawn(async move { drop(connection.await) });
    Some(client)
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.thaw();
            self.end_by("QUIT");
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the end of {}", self.log.display());
            for line in &lines[lines.len().saturating_sub(15)..] {
                eprintln!("{line}");
            }
        }
        stack(&["remove", &self.name]);
    }
}
