//! `/metrics`, `/livez`, `/readyz` and `/status` over HTTP/1.
//!
//! Anyone who can reach the port can send requests, so the resources of clients are limited: the number of connections, the
//! size of a request, the time for sending one, and the lifetime of a connection. A connection serves one request, and no
//! request's body is read. If the limit of connections is reached, a new one replaces the oldest, so that idle clients block no
//! others.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tracing::{debug, error, warn};

use super::health::Health;
use super::metrics::{self, Rendered};

/// Delay after a connection could not be accepted: most often there are no file descriptors left.
const ACCEPT_DELAY: Duration = Duration::from_millis(100);
/// Maximum number of bytes kept of a request.
const MAX_REQUEST_BYTES: usize = 16 * 1024;

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";
const INDEX: &str = concat!("series-ingest ", env!("CARGO_PKG_VERSION"), ": /metrics /livez /readyz /status\n");

/// The limits for clients.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Maximum number of connections at the same time.
    connections: usize,
    /// Timeout for sending a request.
    request: Duration,
    /// Maximum lifetime of a connection.
    connection: Duration,
}

const LIMITS: Limits =
    Limits { connections: MAX_CONNECTIONS, request: Duration::from_secs(5), connection: Duration::from_secs(60) };

/// Maximum number of clients' connections.
pub const MAX_CONNECTIONS: usize = 64;
/// Number of connections that are always allowed, however few file descriptors there are.
pub const MIN_CONNECTIONS: usize = 4;

/// Serves requests on `listener`, with up to `connections` at the same time, until `stopped` is ready; then open connections
/// are closed.
pub async fn serve(
    listener: TcpListener,
    connections: usize,
    health: Arc<Health>,
    rendered: Rendered,
    stopped: impl Future<Output = ()>,
) {
    serve_within(Limits { connections, ..LIMITS }, listener, health, rendered, stopped).await;
}

async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    health: Arc<Health>,
    rendered: Rendered,
    stopped: impl Future<Output = ()>,
) {
    let mut stopped = pin!(stopped);
    let mut connections = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    let mut failing = false;
    loop {
        tokio::select! {
            biased;
            () = &mut stopped => return,
            Some(ended) = connections.join_next() => log_end(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    failing = false;
                    oldest_first.retain(|connection| !connection.is_finished());
                    if oldest_first.len() >= limits.connections
                        && let Some(oldest) = oldest_first.pop_front()
                    {
                        oldest.abort();
                    }
                    // Its descriptor is free when its task has ended: until then no further connection is accepted.
                    while connections.len() >= limits.connections
                        && let Some(ended) = connections.join_next().await
                    {
                        log_end(ended);
                    }
                    let served = serve_connection(limits, stream, Arc::clone(&health), rendered.clone());
                    oldest_first.push_back(connections.spawn(served));
                }
                Err(failure) => {
                    warn_once(&mut failing, &failure);
                    tokio::time::sleep(ACCEPT_DELAY).await;
                }
            },
        }
    }
}

fn log_end(ended: Result<(), JoinError>) {
    if let Err(failure) = ended
        && !failure.is_cancelled()
    {
        error!(%failure, "an HTTP connection ended by an internal error");
    }
}

fn warn_once(failing: &mut bool, failure: &io::Error) {
    if !std::mem::replace(failing, true) {
        warn!(%failure, "HTTP connections cannot be accepted; trying on");
    }
}

async fn serve_connection(limits: Limits, stream: TcpStream, health: Arc<Health>, rendered: Rendered) {
    let service = service_fn(|request| {
        let response = answer(request.method(), request.uri().path(), &health, &rendered);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.request)
        .max_buf_size(MAX_REQUEST_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(limits.connection, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(failure)) => debug!(%failure, "an HTTP connection broke"),
        Err(_) => debug!("an HTTP connection took too long"),
    }
}

fn answer(method: &Method, path: &str, health: &Health, rendered: &Rendered) -> Response<Full<Bytes>> {
    if !matches!(path, "/" | "/metrics" | "/livez" | "/readyz" | "/status") {
        return response(StatusCode::NOT_FOUND, TEXT, "not found\n");
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/metrics" => {
            metrics::ready(health.not_ready().is_empty());
            response(StatusCode::OK, METRICS_TEXT, rendered.render())
        }
        "/livez" => verdict(&health.not_live()),
        "/readyz" => verdict(&health.not_ready()),
        "/status" => match serde_json::to_vec(&health.status()) {
            Ok(json) => response(StatusCode::OK, JSON, json),
            Err(failure) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{failure}\n")),
        },
        _ => response(StatusCode::OK, TEXT, INDEX),
    }
}

fn verdict(reasons: &[String]) -> Response<Full<Bytes>> {
    if reasons.is_empty() {
        response(StatusCode::OK, TEXT, "ok\n")
    } else {
        response(StatusCode::SERVICE_UNAVAILABLE, TEXT, reasons.join("\n") + "\n")
    }
}

fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpStream};
    use std::time::Instant;

    use tokio::runtime::Runtime;
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::telemetry::health::Component;
    use crate::telemetry::readiness::Facts;

    const TIMEOUT: Duration = Duration::from_secs(20);

    struct Server {
        runtime: Runtime,
        address: SocketAddr,
        health: Arc<Health>,
        task: JoinHandle<()>,
        stop: oneshot::Sender<()>,
    }

    impl Server {
        fn start(limits: Limits, watchdog: Duration) -> Self {
            let runtime = Runtime::new().unwrap();
            let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
            let address = listener.local_addr().unwrap();
            let health = Arc::new(Health::new("test", watchdog));
            health.update_facts(|facts| *facts = Facts::ready(Instant::now()));
            let (stop, stopped) = oneshot::channel::<()>();
            let stopped = async move { drop(stopped.await) };
            let served = serve_within(limits, listener, Arc::clone(&health), metrics::install(), stopped);
            let task = runtime.spawn(served);
            Self { runtime, address, health, task, stop }
        }

        fn connect(&self) -> TcpStream {
            let stream = TcpStream::connect(self.address).unwrap();
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            stream
        }

        fn ask(&self, request: &str) -> String {
            let mut stream = self.connect();
            stream.write_all(request.as_bytes()).unwrap();
            rest(&mut stream)
        }

        fn get(&self, path: &str) -> String {
            self.ask(&format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"))
        }
    }

    /// Returns what is received until the server closes, also if it resets the connection.
    fn rest(stream: &mut TcpStream) -> String {
        let mut bytes = Vec::new();
        if let Err(failure) = stream.read_to_end(&mut bytes) {
            assert_eq!(failure.kind(), io::ErrorKind::ConnectionReset, "{failure}");
        }
        String::from_utf8(bytes).unwrap()
    }

    fn body(answer: &str) -> &str {
        answer.split_once("\r\n\r\n").unwrap().1
    }

    #[test]
    fn each_path_answers() {
        let server = Server::start(LIMITS, TIMEOUT);
        let index = server.get("/");
        assert!(index.starts_with("HTTP/1.1 200 OK\r\n"), "{index}");
        assert_eq!(body(&index), INDEX);

        let metrics = server.get("/metrics?any=query");
        assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
        assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
        assert!(body(&metrics).contains("series_ingest_build_info{version="), "{metrics}");

        for path in ["/livez", "/readyz"] {
            let answer = server.get(path);
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert_eq!(body(&answer), "ok\n");
        }

        let status = server.get("/status");
        assert!(status.contains("content-type: application/json"), "{status}");
        let json: serde_json::Value = serde_json::from_str(body(&status)).unwrap();
        assert_eq!(json["pipeline"], "test");
    }

    #[test]
    fn what_is_not_served_is_refused() {
        let server = Server::start(LIMITS, TIMEOUT);
        assert!(server.get("/secret").starts_with("HTTP/1.1 404 "));
        assert!(server.get("/metrics/").starts_with("HTTP/1.1 404 "));
        for method in ["POST", "DELETE", "OPTIONS"] {
            let answer = server.ask(&format!("{method} /status HTTP/1.1\r\nHost: test\r\n\r\n"));
            assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
            assert!(answer.contains("allow: GET, HEAD\r\n"), "{answer}");
        }
        let head = server.ask("HEAD /livez HTTP/1.1\r\nHost: test\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert_eq!(body(&head), "");
        let long = server.get(&format!("/{}", "x".repeat(2 * MAX_REQUEST_BYTES)));
        assert!(!long.starts_with("HTTP/1.1 200 "), "{long}");
        let wide = format!("GET /livez HTTP/1.1\r\nHost: test\r\n{}\r\n", "X: y\r\n".repeat(200));
        assert!(server.ask(&wide).starts_with("HTTP/1.1 431 "), "{}", server.ask(&wide));
        let large = format!("GET /livez HTTP/1.1\r\nHost: test\r\nX: {}\r\n\r\n", "y".repeat(2 * MAX_REQUEST_BYTES));
        assert!(!server.ask(&large).starts_with("HTTP/1.1 200 "));
        assert!(server.ask("not http at all\r\n\r\n").starts_with("HTTP/1.1 400 "));
    }

    #[test]
    fn a_body_is_not_waited_for() {
        let server = Server::start(LIMITS, TIMEOUT);
        let answer = server.ask("GET /livez HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }

    #[test]
    fn unready_and_dead_are_503_with_the_reasons() {
        let server = Server::start(LIMITS, TIMEOUT);
        server.health.set_condition("database", Some("down for 3 s".to_owned()));
        let answer = server.get("/readyz");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert_eq!(body(&answer), "database: down for 3 s\n");
        assert!(server.get("/livez").starts_with("HTTP/1.1 200 "));

        let server = Server::start(LIMITS, Duration::ZERO);
        server.health.beat(Component::Pipeline);
        for path in ["/livez", "/readyz"] {
            let answer = server.get(path);
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
            assert!(body(&answer).contains("consumer: no sign of life for 0 s\n"), "{answer}");
        }
    }

    #[test]
    fn a_slow_request_is_cut() {
        let limits = Limits { request: Duration::from_millis(200), ..LIMITS };
        let server = Server::start(limits, TIMEOUT);
        let start = Instant::now();
        let mut silent = server.connect();
        let mut slow = server.connect();
        slow.write_all(b"GET /livez HTTP/1.1\r\nHo").unwrap();
        assert!(!rest(&mut silent).starts_with("HTTP/1.1 200 "));
        assert!(!rest(&mut slow).starts_with("HTTP/1.1 200 "));
        assert!(start.elapsed() < TIMEOUT);
    }

    #[test]
    fn a_connection_does_not_live_long() {
        let limits = Limits { connection: Duration::from_millis(200), ..LIMITS };
        let server = Server::start(limits, TIMEOUT);
        let start = Instant::now();
        assert_eq!(rest(&mut server.connect()), "");
        assert!(start.elapsed() < LIMITS.request, "{:?}", start.elapsed());
    }

    #[test]
    fn idle_clients_keep_nobody_out_and_have_no_more_connections_than_allowed() {
        let limits = Limits { request: TIMEOUT, connections: 4, ..LIMITS };
        let server = Server::start(limits, TIMEOUT);
        let start = Instant::now();
        let mut idle: Vec<_> = (0..20).map(|_| server.connect()).collect();
        let answer = server.get("/livez");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(start.elapsed() < limits.request, "{:?}", start.elapsed());
        // The oldest were closed; the three newest are still served.
        for stream in &mut idle[..17] {
            assert_eq!(rest(stream), "");
        }
        for stream in &mut idle[17..] {
            stream.write_all(b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
            assert!(rest(stream).starts_with("HTTP/1.1 200 OK\r\n"));
        }
    }

    #[test]
    fn it_stops_on_request() {
        let server = Server::start(LIMITS, TIMEOUT);
        let mut open = server.connect();
        assert!(server.get("/livez").starts_with("HTTP/1.1 200 OK\r\n"));
        server.stop.send(()).unwrap();
        server.runtime.block_on(server.task).unwrap();
        assert_eq!(rest(&mut open), "");
        assert!(TcpStream::connect(server.address).is_err());
    }
}
