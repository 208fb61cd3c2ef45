//! A proxy that passes everything on, and keeps what its clients send.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

type Sent = Arc<Mutex<Vec<u8>>>;

pub struct RecordingProxy {
    pub port: u16,
    connections: Arc<Mutex<Vec<Sent>>>,
}

impl RecordingProxy {
    /// Listens on a free port and passes on to this one.
    pub async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections: Arc<Mutex<Vec<Sent>>> = Arc::default();
        let kept = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let sent = Sent::default();
                kept.lock().unwrap().push(Arc::clone(&sent));
                tokio::spawn(pass_on(client, server, sent));
            }
        });
        Self { port, connections }
    }

    /// What was sent on each connection so far.
    pub fn sent(&self) -> Vec<Vec<u8>> {
        self.connections.lock().unwrap().iter().map(|sent| sent.lock().unwrap().clone()).collect()
    }
}

async fn pass_on(client: TcpStream, server: u16, sent: Sent) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
    }
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let requests = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            sent.lock().unwrap().extend_from_slice(&buffer[..length]);
            if to_server.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
    };
    // What the server still has to say is passed on when the client has ended, and the other way round.
    let answers = async {
        let copied = tokio::io::copy(&mut from_server, &mut to_client).await;
        drop(to_client.shutdown().await);
        copied
    };
    drop(tokio::join!(requests, answers));
}

/// Returns `true` if these bytes of a client are TLS and nothing else: records, the first with a
/// ClientHello and the last need not be whole.
pub fn is_tls(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(&kind) = rest.first() {
        let has_version = rest.iter().skip(1).zip([3..=3, 1..=3]).all(|(byte, known)| known.contains(byte));
        if !(20..=23).contains(&kind) || !has_version {
            return false;
        }
        let Some(length) = rest.get(3..5) else { break };
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        rest = rest.get(5 + length..).unwrap_or_default();
    }
    let is_handshake = bytes.first().is_none_or(|kind| *kind == 22);
    is_handshake && bytes.get(5).is_none_or(|message| *message == 1)
}

/// Returns `true` if `bytes` contain `part` somewhere.
pub fn contains(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

#[test]
fn plaintext_is_distinguished_from_tls() {
    let hello = [&[22, 3, 1, 0, 4, 1, 0, 0, 0][..], &[23, 3, 3, 0, 1, 7]].concat();
    for length in 0..=hello.len() {
        assert!(is_tls(&hello[..length]), "{length} bytes");
    }
    assert!(!is_tls(&[&hello[..], b"in plaintext"].concat()));
    assert!(!is_tls(b"\0\0\0\x2d\0\x12\0\x03"), "a request of Kafka's");
    assert!(!is_tls(&hello[9..]), "it begins without a ClientHello");
}
