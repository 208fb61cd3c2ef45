//! What is wrong with a broker's certificate. librdkafka has one sentence for all faults, so after a failed handshake the
//! same is tried once more by rustls, which tells them apart. Nothing is sent, and nothing rests on the answer.

use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::config::Kafka;
use crate::tls::{self, Fault};

/// How long each step of the handshake may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The fault of the certificate of the broker that `reason` names; `None` where its certificate is not what is wrong.
pub(super) fn of_certificate(kafka: &Kafka, reason: &str) -> Option<String> {
    if !reason.contains("certificate verify failed") {
        return None;
    }
    let (_, address) = reason.split_once("ssl://")?;
    let address = address.split('/').next()?;
    let host = address.rsplit_once(':')?.0.trim_matches(['[', ']']);
    let error = handshake(address, host, authorities(kafka)?)?;
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

/// The CAs that librdkafka is told to take.
fn authorities(kafka: &Kafka) -> Option<RootCertStore> {
    let property = |wanted: &str| kafka.properties().find(|(name, _)| *name == wanted).map(|(_, value)| value);
    if let Some(pem) = property("ssl.ca.pem") {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem.as_bytes()).flatten());
        return Some(roots);
    }
    match property("ssl.ca.location") {
        None | Some("probe") => tls::system_authorities().ok(),
        Some(file) => tls::authorities(file).ok(),
    }
}

/// rustls' reason for ending the handshake; `None` where it does not, or the broker is not there.
fn handshake(address: &str, host: &str, roots: RootCertStore) -> Option<rustls::Error> {
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
