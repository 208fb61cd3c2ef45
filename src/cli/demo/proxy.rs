//! A proxy in front of the database, with which the demo cuts it off.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::database::scratch::Address;

/// Forwards all connections until it is cut. It ends, with its connections, when dropped.
#[derive(Debug)]
pub(super) struct Proxy {
    port: u16,
    open: watch::Sender<bool>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    /// Listens on a free port of loopback, and forwards to the first of these addresses that answers.
    pub(super) async fn start(servers: Vec<Address>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let (open, is_open) = watch::channel(true);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, servers.into(), is_open));
        Ok(Self { port, open, _accepting: accepting })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Closes all connections, and each new one immediately.
    pub(super) fn cut(&self) {
        self.open.send_replace(false);
    }

    /// Forwards connections again.
    pub(super) fn fix(&self) {
        self.open.send_replace(true);
    }
}

async fn accept(listener: TcpListener, servers: Arc<[Address]>, open: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        if *open.borrow() {
            let (servers, mut open) = (Arc::clone(&servers), open.clone());
            connections.spawn(async move {
                tokio::select! {
                    _ = open.wait_for(|open| !open) => {}
                    () = connect(client, &servers) => {}
                }
            });
        }
    }
}

async fn connect(client: TcpStream, servers: &[Address]) {
    for server in servers {
        match server {
            Address::Tcp(host, port) => {
                if let Ok(server) = TcpStream::connect((host.as_str(), *port)).await {
                    // The worker's requests are small, and it waits for their answers.
                    drop((client.set_nodelay(true), server.set_nodelay(true)));
                    return pass(client, server).await;
                }
            }
            Address::Unix(socket) => {
                if let Ok(server) = UnixStream::connect(socket).await {
                    return pass(client, server).await;
                }
            }
        }
    }
}

async fn pass(mut client: TcpStream, mut server: impl AsyncRead + AsyncWrite + Unpin) {
    // Either end may close at any time; the other one then sees that.
    drop(copy_bidirectional(&mut client, &mut server).await);
}
