//! The system's limits for the worker, and its port.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use super::Report;
use crate::cli::limits::{self, Limits};
use crate::config::Config;

/// Timeout for the program that uses the port to identify itself.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn check(config: &Config, report: &mut Report) {
    limits::raise_descriptors();
    for found in Limits::read().too_low(config) {
        report.problem(found.key, found.text);
    }
    if !config.http.listen.is_empty() {
        check_port(&config.http.listen, report);
    }
}

fn check_port(listen: &str, report: &mut Report) {
    match TcpListener::bind(listen) {
        Ok(_) => report.say("http", format_args!("{listen} is free")),
        // `check` may run alongside the worker that it checks.
        Err(error) if error.kind() == ErrorKind::AddrInUse && is_worker(listen) => {
            report.say("http", format_args!("a worker serves {listen} already"));
        }
        Err(error) => report.problem(
            "http.listen",
            format_args!("{listen}: {error}. Choose an address of this machine with a free port, or \"\" for none"),
        ),
    }
}

/// Returns `true` if one of this program's workers answers there.
fn is_worker(listen: &str) -> bool {
    let ask = |address: SocketAddr| {
        let mut stream = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(4096).read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer.contains("\r\n\r\nseries-ingest "))
    };
    listen.to_socket_addrs().is_ok_and(|mut addresses| addresses.any(|address| ask(address).unwrap_or(false)))
}
