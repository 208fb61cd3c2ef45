//! A PgBouncer of one test's own, between a worker and its database. It ends with the test.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::{skip, until};

const STACK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/stack");

/// What `scripts/stack pgbouncer` says if there can be none.
const NOT_POSSIBLE: i32 = 77;

pub struct PgBouncer {
    child: Child,
    pub port: u16,
    _folder: tempfile::TempDir,
}

impl PgBouncer {
    /// One that leads to the server at `server` (host:port), in this mode, with further settings; `None`, loudly, if there can
    /// be none.
    pub async fn start(test: &str, server: &str, mode: &str, settings: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (host, server_port) = server.rsplit_once(':').unwrap();
        let users = folder.path().join("users.txt");
        std::fs::write(&users, "\"postgres\" \"\"\n").unwrap();
        let file = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host={host} port={server_port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             auth_type = trust\nauth_file = {}\npool_mode = {mode}\nunix_socket_dir =\n\
             ignore_startup_parameters = extra_float_digits\nmax_client_conn = 100\ndefault_pool_size = 20\n{settings}\n",
            users.display()
        );
        std::fs::write(&file, text).unwrap();
        let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-pgbouncer.log"));
        let child = Command::new(STACK)
            .args(["pgbouncer", file.to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut bouncer = Self { child, port, _folder: folder };
        let mut ended = None;
        // It may have to be installed.
        until(120, "PgBouncer listens", async || {
            ended = bouncer.child.try_wait().unwrap();
            ended.is_some() || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        })
        .await;
        let words = || std::fs::read_to_string(&log).unwrap_or_default();
        let Some(ended) = ended else { return Some(bouncer) };
        assert_eq!(ended.code(), Some(NOT_POSSIBLE), "PgBouncer ended: {}", words());
        assert!(
            std::env::var("SERIES_INGEST_TESTS").as_deref() != Ok("required"),
            "{test}: SERIES_INGEST_TESTS=required, and {}",
            words()
        );
        skip(test, words().trim());
        None
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
