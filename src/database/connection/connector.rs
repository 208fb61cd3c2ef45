//! Making a connection: the URL, the files of secrets and the names of hosts are read again for each, and each address of each
//! host has its own timeout, so that an unresponsive one keeps no other from being tried.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use deadpool_postgres::Connect;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;
use tokio_postgres::config::{Config as ConnectionConfig, Host, LoadBalanceHosts};
use tokio_postgres::{Client, NoTls};
use tracing::warn;

use super::options::connection_config;
use super::tls::Tls;
use crate::config;
use crate::database::error::describe;

/// Time for which an address that did not answer is tried after the others.
const LAST_FOR: Duration = Duration::from_secs(60);

/// Makes connections. Clones share the state of hosts.
#[derive(Debug, Clone)]
pub(in crate::database) struct Connector {
    settings: Arc<config::Database>,
    limit: Duration,
    known: Arc<Mutex<Known>>,
    made: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Known {
    /// When an address failed last.
    failed: HashMap<String, Instant>,
    /// What was tried unsuccessfully last, and how it ended.
    tried: String,
    /// Why a file of secrets cannot be read; its former content is used.
    unreadable: Option<String>,
    /// The settings with the secrets as they were read last.
    secrets: Option<config::Database>,
}

/// One address of a host.
struct Address {
    host: Option<Host>,
    ip: Option<IpAddr>,
    port: u16,
}

/// A connection that was not made.
#[derive(Debug)]
pub(in crate::database) struct Failed {
    /// The most informative error.
    pub(in crate::database) source: tokio_postgres::Error,
    /// Each address, and how it ended.
    pub(in crate::database) tried: String,
}

/// A connection that was made.
#[derive(Debug)]
pub(in crate::database) struct Made {
    pub(in crate::database) client: Client,
    /// The task that drives it.
    task: JoinHandle<()>,
    /// The host with its port and address.
    pub(in crate::database) place: String,
    /// Each address that was tried unsuccessfully before, with how it ended.
    pub(in crate::database) tried: Vec<String>,
}

impl Connector {
    pub(in crate::database) fn new(settings: &config::Database) -> Self {
        Self {
            settings: Arc::new(settings.clone()),
            limit: Duration::from_millis(settings.connect_timeout_ms),
            known: Arc::default(),
            made: Arc::default(),
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was tried unsuccessfully last.
    pub(in crate::database) fn tried(&self) -> String {
        self.known().tried.clone()
    }

    /// The settings with the current content of the files of secrets. A file that cannot be read is usually being replaced:
    /// its former content is used.
    fn settings(&self) -> config::Database {
        match self.settings.with_secrets_read_again() {
            Ok(settings) => {
                let mut known = self.known();
                known.unreadable = None;
                known.secrets = Some(settings.clone());
                settings
            }
            Err(problem) => {
                let mut known = self.known();
                if known.unreadable.as_ref() != Some(&problem) {
                    warn!(%problem, "a file of secrets cannot be read; what it said before is used");
                    known.unreadable = Some(problem);
                }
                known.secrets.clone().unwrap_or_else(|| self.settings.as_ref().clone())
            }
        }
    }

    /// Makes a connection to the first address that accepts one.
    pub(in crate::database) async fn connect(&self) -> Result<(Client, JoinHandle<()>), Failed> {
        self.connect_to_one(None).await.map(|made| (made.client, made.task))
    }

    /// The same, with the address; if one is given, to that one only.
    pub(in crate::database) async fn connect_to_one(&self, only: Option<&str>) -> Result<Made, Failed> {
        let connecting = match connection_config(&self.settings()) {
            Ok((config, tls)) => self.connect_to(&config, &tls, only).await,
            Err(failure) => Err(Failed { tried: failure.to_string(), source: failed(failure).await }),
        };
        if let Err(failure) = &connecting {
            self.known().tried.clone_from(&failure.tried);
        }
        connecting
    }

    /// Tries each address of each host, and returns all results, with the error's text where there is no connection.
    pub(in crate::database) async fn connect_to_each(&self) -> Vec<(String, Result<Client, String>)> {
        let (config, tls) = match connection_config(&self.settings()) {
            Ok(options) => options,
            Err(failure) => return vec![(self.settings.url_key().to_owned(), Err(failure.to_string()))],
        };
        let mut results = Vec::new();
        for (host, port) in hosts(&config) {
            let addresses = match addresses_of(&host, port, self.limit).await {
                Ok(addresses) => addresses,
                Err(failure) => {
                    results.push((host.text(port), Err(failure.to_string())));
                    continue;
                }
            };
            for address in addresses {
                let made = self.connect_to_address(&address, &config, &tls).await;
                results.push((address.text(), made.map(|made| made.client).map_err(|failure| describe(&failure))));
            }
        }
        results
    }

    /// Has this address tried after the others for a while: its server answers, and cannot be used.
    pub(in crate::database) fn put_last(&self, place: &str) {
        self.known().failed.insert(place.to_owned(), Instant::now());
    }

    async fn connect_to(&self, config: &ConnectionConfig, tls: &Tls, only: Option<&str>) -> Result<Made, Failed> {
        let mut tried = Vec::new();
        let mut source: Option<tokio_postgres::Error> = None;
        let mut addresses = Vec::new();
        for (host, port) in hosts(config) {
            match addresses_of(&host, port, self.limit).await {
                Ok(found) => addresses.extend(found),
                Err(failure) => {
                    tried.push(format!("{}: {failure}", host.text(port)));
                    source = Some(failed(failure).await);
                }
            }
        }
        addresses.retain(|address| only.is_none_or(|only| only == address.text()));
        if config.get_load_balance_hosts() == LoadBalanceHosts::Random && !addresses.is_empty() {
            let first = self.made.fetch_add(1, Ordering::Relaxed) % addresses.len();
            addresses.rotate_left(first);
        }
        {
            let mut known = self.known();
            known.failed.retain(|_, at| at.elapsed() < LAST_FOR);
            // The one that failed first is the first to be tried again.
            addresses.sort_by_key(|address| known.failed.get(&address.text()).copied());
        }
        for address in addresses {
            let place = address.text();
            let failure = match self.connect_to_address(&address, config, tls).await {
                Ok(made) => return Ok(Made { tried, ..made }),
                Err(failure) => failure,
            };
            self.known().failed.insert(place.clone(), Instant::now());
            tried.push(format!("{place}: {}", describe(&failure)));
            // A server's error says more than a timeout.
            if source.as_ref().is_none_or(|known| known.as_db_error().is_none()) {
                source = Some(failure);
            }
        }
        let source = match source {
            Some(source) => source,
            None => failed(io::Error::new(io::ErrorKind::InvalidInput, "the URL names no host")).await,
        };
        let tried = if tried.is_empty() { describe(&source) } else { tried.join("; ") };
        Err(Failed { source, tried })
    }

    async fn connect_to_address(
        &self,
        address: &Address,
        config: &ConnectionConfig,
        tls: &Tls,
    ) -> Result<Made, tokio_postgres::Error> {
        let place = address.text();
        let config = address.config(config);
        match tokio::time::timeout(self.limit, config.connect(tls.clone())).await {
            Ok(Ok((client, connection))) => {
                self.known().failed.remove(&place);
                let task = tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(error = %describe(&error), "a connection to the database ended");
                    }
                });
                Ok(Made { client, task, place, tried: Vec::new() })
            }
            Ok(Err(failure)) => Err(failure),
            Err(_) => {
                let words = format!("no answer within {} ms", self.limit.as_millis());
                Err(failed(io::Error::new(io::ErrorKind::TimedOut, words)).await)
            }
        }
    }
}

impl Connect for Connector {
    fn connect(&self, _: &ConnectionConfig) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), tokio_postgres::Error>> {
        Self::connect(self).map(|made| made.map_err(|failure| failure.source)).boxed()
    }
}

/// A host of the URL, by name, by address, or both.
struct Named {
    host: Option<Host>,
    ip: Option<IpAddr>,
}

impl Named {
    fn text(&self, port: u16) -> String {
        place(self.host.as_ref(), self.ip, port)
    }
}

fn place(host: Option<&Host>, ip: Option<IpAddr>, port: u16) -> String {
    match (host, ip) {
        (Some(Host::Unix(path)), _) => format!("{}/.s.PGSQL.{port}", path.display()),
        (Some(Host::Tcp(name)), Some(ip)) if *name != ip.to_string() => format!("{name}:{port} ({ip})"),
        (Some(Host::Tcp(name)), _) => format!("{name}:{port}"),
        (None, Some(ip)) => format!("{ip}:{port}"),
        (None, None) => String::new(),
    }
}

/// The hosts of the URL with their ports, as the driver pairs them.
fn hosts(config: &ConnectionConfig) -> Vec<(Named, u16)> {
    let (hosts, ips, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let port = |at: usize| ports.get(at).or(ports.first()).copied().unwrap_or(5432);
    (0..hosts.len().max(ips.len()))
        .map(|at| (Named { host: hosts.get(at).cloned(), ip: ips.get(at).copied() }, port(at)))
        .collect()
}

/// The addresses of a host; its name is looked up now.
async fn addresses_of(named: &Named, port: u16, limit: Duration) -> io::Result<Vec<Address>> {
    let one = |ip| Address { host: named.host.clone(), ip, port };
    let (Some(Host::Tcp(name)), None) = (&named.host, named.ip) else { return Ok(vec![one(named.ip)]) };
    let looking = tokio::time::timeout(limit, tokio::net::lookup_host((name.as_str(), port)));
    let found =
        looking.await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the name server does not answer"))??;
    let mut ips: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    ips.dedup();
    if ips.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(ips.into_iter().map(|ip| one(Some(ip))).collect())
}

impl Address {
    fn text(&self) -> String {
        place(self.host.as_ref(), self.ip, self.port)
    }

    /// The driver's configuration with this address as its only one.
    fn config(&self, all: &ConnectionConfig) -> ConnectionConfig {
        let mut one = ConnectionConfig::new();
        match &self.host {
            Some(Host::Tcp(name)) => drop(one.host(name)),
            Some(Host::Unix(path)) => drop(one.host_path(path)),
            None => {}
        }
        self.ip.map(|ip| one.hostaddr(ip));
        one.port(self.port)
            .ssl_mode(all.get_ssl_mode())
            .ssl_negotiation(all.get_ssl_negotiation())
            .channel_binding(all.get_channel_binding())
            .target_session_attrs(all.get_target_session_attrs())
            .keepalives(all.get_keepalives())
            .keepalives_idle(all.get_keepalives_idle());
        all.get_user().map(|user| one.user(user));
        all.get_password().map(|password| one.password(password));
        all.get_dbname().map(|name| one.dbname(name));
        all.get_options().map(|options| one.options(options));
        all.get_application_name().map(|name| one.application_name(name));
        all.get_connect_timeout().map(|limit| one.connect_timeout(*limit));
        all.get_tcp_user_timeout().map(|limit| one.tcp_user_timeout(*limit));
        all.get_keepalives_interval().map(|interval| one.keepalives_interval(interval));
        all.get_keepalives_retries().map(|retries| one.keepalives_retries(retries));
        one
    }
}

/// Makes an error of the driver's type, which has no public constructor, by a stream that has failed already.
async fn failed(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> tokio_postgres::Error {
    let why = why.into();
    let kind = why.downcast_ref::<io::Error>().map_or(io::ErrorKind::Other, io::Error::kind);
    let stream = Broken(Some(io::Error::new(kind, why)));
    let mut config = ConnectionConfig::new();
    match config.user("nobody").connect_raw(stream, NoTls).await {
        Err(error) => error,
        Ok(_) => unreachable!("nothing can be written to it"),
    }
}

/// A stream that has failed.
struct Broken(Option<io::Error>);

impl Broken {
    fn error(&mut self) -> io::Error {
        self.0.take().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl AsyncRead for Broken {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(self.error()))
    }
}

impl AsyncWrite for Broken {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(self.error()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(self.error()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
