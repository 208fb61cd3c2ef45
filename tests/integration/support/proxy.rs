//! A proxy before PostgreSQL that knows its messages, and cuts or holds a connection at its COMMIT.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// What happens at a COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtCommit {
    Pass,
    /// The connection is cut, and the server never sees the COMMIT.
    CutBefore,
    /// The server sees it, and the connection is cut before its answer.
    CutAfter,
    /// The server never sees it, and the connection stays: nothing passes any more.
    Hold,
}

#[derive(Debug)]
struct Shared {
    server: Mutex<String>,
    at_commit: Mutex<(AtCommit, usize)>,
    commits: AtomicUsize,
    hits: AtomicUsize,
    /// Messages that came on a connection after it was held.
    after_hold: AtomicUsize,
    refusing: AtomicBool,
    frozen: AtomicBool,
    cut_all: Notify,
}

pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Listens on a free port and passes on to `server`, `host:port`.
    pub async fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            server: Mutex::new(server.to_owned()),
            at_commit: Mutex::new((AtCommit::Pass, 1)),
            commits: AtomicUsize::new(0),
            hits: AtomicUsize::new(0),
            after_hold: AtomicUsize::new(0),
            refusing: AtomicBool::new(false),
            frozen: AtomicBool::new(false),
            cut_all: Notify::new(),
        });
        let accepting = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if !accepting.refusing.load(Ordering::SeqCst) {
                    tokio::spawn(connection(client, Arc::clone(&accepting)));
                }
            }
        });
        Self { port, shared }
    }

    /// From now on this happens at every `every`-th COMMIT.
    pub fn at_commit(&self, what: AtCommit, every: usize) {
        *self.shared.at_commit.lock().unwrap() = (what, every);
    }

    /// How often it has happened.
    pub fn hits(&self) -> usize {
        self.shared.hits.load(Ordering::SeqCst)
    }

    /// Returns the number of messages that came on held connections after their COMMIT.
    pub fn messages_after_hold(&self) -> usize {
        self.shared.after_hold.load(Ordering::SeqCst)
    }

    /// If `true`, new connections are closed at once, and open ones are cut.
    pub fn refuse(&self, refuse: bool) {
        self.shared.refusing.store(refuse, Ordering::SeqCst);
        if refuse {
            self.shared.cut_all.notify_waiters();
        }
    }
}

impl Proxy {
    /// Passes on to another server from now on, and cuts the connections to the old one.
    pub fn point_to(&self, server: &str) {
        server.clone_into(&mut self.shared.server.lock().unwrap());
        self.shared.cut_all.notify_waiters();
    }

    /// If `true`, nothing passes any more while all connections stay: a server that hangs does not refuse.
    pub fn freeze(&self, freeze: bool) {
        self.shared.frozen.store(freeze, Ordering::SeqCst);
    }
}

impl Shared {
    async fn thawed(&self) {
        while self.frozen.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn connection(client: TcpStream, shared: Arc<Shared>) {
    let server = shared.server.lock().unwrap().clone();
    let Ok(server) = TcpStream::connect(server).await else { return };
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let drop_answer = AtomicBool::new(false);
    tokio::select! {
        () = requests(from_client, to_server, &shared, &drop_answer) => {}
        () = answers(from_server, to_client, &shared, &drop_answer) => {}
        () = shared.cut_all.notified() => {}
    }
}

async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared, drop_answer: &AtomicBool) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) if drop_answer.load(Ordering::SeqCst) => return,
            Ok(n) => {
                shared.thawed().await;
                if to.write_all(&buffer[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The messages of the protocol: a length (int32, itself included) after a type byte, which the first message lacks.
async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared, drop_answer: &AtomicBool) {
    let mut has_type = false;
    let mut held = false;
    loop {
        let mut message = vec![0; if has_type { 5 } else { 4 }];
        if from.read_exact(&mut message).await.is_err() {
            return;
        }
        let head = message.len();
        let length = u32::from_be_bytes(message[head - 4..].try_into().unwrap()) as usize - 4;
        message.resize(head + length, 0);
        if from.read_exact(&mut message[head..]).await.is_err() {
            return;
        }
        if held {
            // 'X' only says leaving.
            if message[0] != b'X' {
                shared.after_hold.fetch_add(1, Ordering::SeqCst);
            }
            continue;
        }
        has_type = true;
        if message.starts_with(b"Q") && message[5..].eq_ignore_ascii_case(b"commit\0") {
            let (what, every) = *shared.at_commit.lock().unwrap();
            let number = shared.commits.fetch_add(1, Ordering::SeqCst) + 1;
            if what != AtCommit::Pass && number.is_multiple_of(every) {
                shared.hits.fetch_add(1, Ordering::SeqCst);
                match what {
                    AtCommit::CutBefore => return,
                    AtCommit::CutAfter => drop_answer.store(true, Ordering::SeqCst),
                    AtCommit::Hold => {
                        held = true;
                        continue;
                    }
                    AtCommit::Pass => {}
                }
            }
        }
        shared.thawed().await;
        if to.write_all(&message).await.is_err() {
            return;
        }
    }
}
