//! Diagnosis of failed connections to a broker. librdkafka has one message for all faults of a certificate, so after a failed
//! handshake rustls repeats it, which distinguishes them; and if a connection in plaintext was ended, rustls tries TLS. Only
//! the handshake is sent, and nothing depends on the answer.

use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::config::Kafka;
use crate::tls::{self, Fault};

/// Maximum age of a connection that a listener for SASL ends because the client has no credentials.
const SOON_MS: u64 = 2000;
/// Maximum number of addresses that are tried.
const MAX_ADVERTISED: usize = 5;
/// Timeout for each step of the handshake.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Describes the fault in the certificate of the broker that `reason` names; `None` if the certificate is not at fault.
pub(super) fn of_certificate(kafka: &Kafka, reason: &str) -> Option<String> {
    if !reason.contains("certificate verify failed") {
        return None;
    }
    let (_, address) = reason.split_once("ssl://")?;
    let address = address.split('/').next()?;
    let error = handshake(address, authorities(kafka)?)?;
    let rustls::Error::InvalidCertificate(wrong) = error else { return None };
    let (fault, words) = tls::describe(&wrong);
    let advice = match fault {
        Fault::Authority => "name the file with its CA's certificate in ssl.ca.location of kafka.properties",
        Fault::Host => "set kafka.brokers, and what the brokers advertise, to hosts that it is for",
        Fault::Expired => "renew it there",
        Fault::Early => "look at the clocks of both machines",
        Fault::Other => "it must be signed by a CA, and name its host as subject alternative name",
    };
    Some(format!("The certificate of broker {address} {words}: {advice}"))
}

/// Explains why a broker ends connections, if the protocol is the reason; `end` is librdkafka's line about the last one.
pub(super) fn of_end(kafka: &Kafka, end: &str) -> Option<String> {
    let protocol = property(kafka, "security.protocol").unwrap_or("PLAINTEXT").to_ascii_uppercase();
    let (name, _) = end.split_once(": Disconnected")?;
    let address = name.rsplit(' ').next()?.rsplit("//").next()?.split('/').next()?;
    // A server that presents a certificate speaks TLS, whatever the certificate.
    let answer = if protocol.ends_with("SSL") { None } else { handshake(address, RootCertStore::empty()) };
    if let Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)) = answer {
        return Some(format!(
            "Broker {address} takes TLS only, and security.protocol of kafka.properties is {protocol}: set it to SSL or \
             SASL_SSL"
        ));
    }
    // It has answered with its versions, and then received a request that requires authentication.
    (!protocol.starts_with("SASL") && ended_soon(end)).then(|| {
        format!(
            "Broker {address} ends connections when it is asked something, as listeners for SASL do, and security.protocol \
             of kafka.properties is {protocol}: see whether it must be SASL_SSL or SASL_PLAINTEXT"
        )
    })
}

/// Describes which of the addresses that the brokers advertise cannot be reached from here; `None` if all can.
pub(super) fn of_advertised(kafka: &Kafka, advertised: &[(String, u16)]) -> Option<String> {
    let unreachable: Vec<String> = advertised
        .iter()
        .take(MAX_ADVERTISED)
        .filter_map(|(host, port)| Some(format!("{host}:{port} ({})", unreachable(host, *port)?)))
        .collect();
    (!unreachable.is_empty()).then(|| {
        format!(
            "{} answers, but the brokers advertise {}, which cannot be reached from here: set their advertised.listeners to \
             addresses that this machine can resolve and connect to",
            kafka.brokers,
            unreachable.join(", ")
        )
    })
}

/// Returns the reason why no connection can be made; `None` if one can.
fn unreachable(host: &str, port: u16) -> Option<String> {
    let addresses = match (host.trim_matches(['[', ']']), port).to_socket_addrs() {
        Ok(addresses) => addresses,
        Err(error) => return Some(error.to_string()),
    };
    let mut reason = "the name has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(_) => return None,
            Err(error) => reason = error.to_string(),
        }
    }
    Some(reason)
}

/// Returns `true` if the connection was ended soon after it was established.
fn ended_soon(end: &str) -> bool {
    let age = end.rsplit_once("(after ").and_then(|(_, rest)| rest.split_once("ms in state UP"));
    age.and_then(|(ms, _)| ms.parse::<u64>().ok()).is_some_and(|ms| ms < SOON_MS)
}

fn property<'a>(kafka: &'a Kafka, wanted: &str) -> Option<&'a str> {
    kafka.properties().find(|(name, _)| *name == wanted).map(|(_, value)| value)
}

/// The CAs that librdkafka is configured with.
fn authorities(kafka: &Kafka) -> Option<RootCertStore> {
    if let Some(pem) = property(kafka, "ssl.ca.pem") {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem.as_bytes()).flatten());
        return Some(roots);
    }
    match property(kafka, "ssl.ca.location") {
        None | Some("probe") => tls::system_authorities().ok(),
        Some(file) => tls::authorities(file).ok(),
    }
}

/// Returns rustls' reason for ending the handshake; `None` if it does not, or the broker is not reachable.
fn handshake(address: &str, roots: RootCertStore) -> Option<rustls::Error> {
    let host = address.rsplit_once(':')?.0.trim_matches(['[', ']']);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .ok()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).ok()?;
    let mut connection = ClientConnection::new(Arc::new(config), name).ok()?;
    let mut stream = TcpStream::connect_timeout(&address.to_socket_addrs().ok()?.next()?, TIMEOUT).ok()?;
    stream.set_read_timeout(Some(TIMEOUT)).ok()?;
    stream.set_write_timeout(Some(TIMEOUT)).ok()?;
    while connection.is_handshaking() {
        if let Err(error) = connection.complete_io(&mut stream) {
            return tls::hidden(&error).cloned();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_was_of_use_is_not_a_sign_of_a_wrong_protocol() {
        let end =
            |age| format!("[thrd:a:1/1]: a:1/1: Disconnected: connection closed by peer (after {age} in state UP)");
        assert!(ended_soon(&end("3ms")));
        assert!(!ended_soon(&end("60000ms")));
        assert!(!ended_soon(
            "a:1/1: Disconnected (after 3ms in state APIVERSION_QUERY, 2 identical error(s) suppressed)"
        ));
    }
}
