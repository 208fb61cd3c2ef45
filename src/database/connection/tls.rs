//! TLS to PostgreSQL by rustls, as libpq's `sslmode` means it, and what its failures mean for an operator.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::config::{Config as ConnectionConfig, Host, SslMode as DriverMode};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::{self, Authorities, SslMode};
use crate::database::error::Error;
use crate::tls::{self as certificates, Fault};

/// Makes the TLS side of each connection. The files are read for each, so that a renewed certificate needs no restart.
#[derive(Debug, Clone)]
pub(in crate::database) struct Tls {
    settings: config::Tls,
    provider: Arc<CryptoProvider>,
    /// This system's CAs, where they are the ones that count.
    system: Option<Arc<RootCertStore>>,
}

impl Tls {
    /// The TLS side of connections by `connection`, which learns whether it is to insist on TLS.
    pub(in crate::database) fn new(
        database: &config::Database,
        connection: &mut ConnectionConfig,
    ) -> Result<Self, Error> {
        let mut settings = database.tls().map_err(|(key, text)| Error::Tls(format!("{key} {text}")))?;
        if settings.mode == SslMode::Auto {
            settings.mode = if is_local(connection) { SslMode::Disable } else { SslMode::VerifyFull };
        }
        connection.ssl_mode(match settings.mode {
            SslMode::Disable => DriverMode::Disable,
            SslMode::Prefer => DriverMode::Prefer,
            SslMode::Auto | SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => DriverMode::Require,
        });
        let verifies = matches!(settings.mode, SslMode::VerifyCa | SslMode::VerifyFull);
        let system = (verifies && settings.authorities == Authorities::System).then(certificates::system_authorities);
        let system = system.transpose().map_err(|error| {
            Error::Tls(format!("{error}, or name the CA of the database's server in database.sslrootcert"))
        })?;
        let tls = Self {
            settings,
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            system: system.map(Arc::new),
        };
        // So that a file that cannot be used is told now.
        tls.client_config().map_err(Error::Tls)?;
        Ok(tls)
    }

    /// The mode in force.
    pub(in crate::database) fn mode(&self) -> SslMode {
        self.settings.mode
    }

    fn client_config(&self) -> Result<ClientConfig, String> {
        let name = |error: rustls::Error| error.to_string();
        let verifier: Arc<dyn ServerCertVerifier> = match self.settings.mode {
            SslMode::Auto | SslMode::VerifyFull => {
                let roots = self.roots()?;
                let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&self.provider)).build();
                verifier.map_err(|error| format!("database.sslrootcert: {error}"))?
            }
            SslMode::VerifyCa => Arc::new(AnyName { roots: Some(self.roots()?), provider: Arc::clone(&self.provider) }),
            SslMode::Disable | SslMode::Prefer | SslMode::Require => {
                Arc::new(AnyName { roots: None, provider: Arc::clone(&self.provider) })
            }
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(name)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let Some((certificate, key)) = &self.settings.client else {
            return Ok(builder.with_no_client_auth());
        };
        let certificates =
            certificates::certificates(certificate).map_err(|error| format!("database.sslcert: {error}"))?;
        let private_key = PrivateKeyDer::from_pem_file(key).map_err(|error| {
            format!("database.sslkey: {key:?} has no private key in PEM without a password: {error}")
        })?;
        builder
            .with_client_auth_cert(certificates, private_key)
            .map_err(|error| format!("database.sslkey: {key:?} does not fit database.sslcert: {error}"))
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, String> {
        if let Some(system) = &self.system {
            return Ok(Arc::clone(system));
        }
        let Authorities::File(file) = &self.settings.authorities else {
            return Err("this system's CAs were not read".to_owned());
        };
        let roots = certificates::authorities(file).map_err(|error| format!("database.sslrootcert: {error}"))?;
        Ok(Arc::new(roots))
    }
}

/// Whether every host is this machine, by its loopback or a socket of its file system.
pub(in crate::database) fn is_local(connection: &ConnectionConfig) -> bool {
    let by_name = connection.get_hosts().iter().all(|host| match host {
        Host::Tcp(name) => {
            let address = name.parse::<std::net::IpAddr>();
            name == "localhost" || address.is_ok_and(|address| address.is_loopback())
        }
        Host::Unix(_) => true,
    });
    by_name && connection.get_hostaddrs().iter().all(std::net::IpAddr::is_loopback)
}

impl<S> MakeTlsConnect<S> for Tls
where
    MakeRustlsConnect: MakeTlsConnect<S>,
    <MakeRustlsConnect as MakeTlsConnect<S>>::Error: StdError + Send + Sync + 'static,
{
    type Stream = <MakeRustlsConnect as MakeTlsConnect<S>>::Stream;
    type TlsConnect = <MakeRustlsConnect as MakeTlsConnect<S>>::TlsConnect;
    type Error = Box<dyn StdError + Send + Sync>;

    fn make_tls_connect(&mut self, hostname: &str) -> Result<Self::TlsConnect, Self::Error> {
        let config = self.client_config()?;
        Ok(MakeRustlsConnect::new(config).make_tls_connect(hostname)?)
    }
}

/// Takes a certificate for any name: of these CAs, or any at all where there are none. That the server has the
/// certificate's key is checked always.
#[derive(Debug)]
struct AnyName {
    roots: Option<Arc<RootCertStore>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What is wrong, and the key to change, where TLS is the reason.
pub(in crate::database) fn explain(error: &tokio_postgres::Error) -> Option<String> {
    if let Some(failure) = cause(error) {
        return Some(match failure {
            rustls::Error::InvalidCertificate(wrong) => explain_certificate(wrong),
            rustls::Error::AlertReceived(alert) => format!(
                "the database's server ended the TLS handshake ({}): it does not accept the certificate of \
                 database.sslcert, or asks for one",
                alert.as_str().unwrap_or("an alert that has no name")
            ),
            other => format!("the TLS handshake with the database's server failed: {other}"),
        });
    }
    // The driver has no other name for it.
    error.source().is_some_and(|cause| cause.to_string() == "server does not support TLS").then(|| {
        "the database's server offers no TLS, and database.sslmode asks for it (verify-full, where it is not set and the \
         server is on another host): set ssl = on there, or set database.sslmode to disable where the network is trusted"
            .to_owned()
    })
}

fn explain_certificate(wrong: &CertificateError) -> String {
    let (fault, words) = certificates::describe(wrong);
    let advice = match fault {
        Fault::Authority => {
            "name the file with the CA's certificate in database.sslrootcert; without one this system's CAs count"
        }
        Fault::Host => {
            "set database.url to a host that it is for, or database.sslmode to verify-ca where any host of this CA will do"
        }
        Fault::Expired => "renew it there",
        Fault::Early => "look at the clocks of both machines",
        Fault::Other => "it must be signed by a CA, and name its host as subject alternative name",
    };
    format!("the certificate of the database's server {words}: {advice}")
}

/// rustls' error among the causes; an `io::Error` hides its own from `source`.
fn cause(error: &tokio_postgres::Error) -> Option<&rustls::Error> {
    let mut next = error.source();
    while let Some(inner) = next {
        if let Some(found) = inner.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        if let Some(found) = inner.downcast_ref::<io::Error>().and_then(certificates::hidden) {
            return Some(found);
        }
        next = inner.source();
    }
    None
}

/// Objects on which commands need more than a worker's role has.
const OWNERS: [&str; 3] = ["table ingest_dead_letter", "table ingest_progress", "table ingest_gap"];

/// What a refusal by the server means for the keys; empty where nothing more is to be said.
pub(in crate::database) fn hint(answer: &tokio_postgres::error::DbError) -> &'static str {
    let message = answer.message();
    match answer.code().code() {
        "28P01" => ": check the user and the password of database.url, or database.password_file",
        // PgBouncer's words where its own login at the server is refused, and then where it refuses the client.
        "08P01" if message.contains("server login failed") && message.contains("authentication failed") => {
            ": the pooler's own password for this user is wrong; check its auth_file or auth_query"
        }
        "08P01" if message.contains("authentication failed") || message.contains("no such user") => {
            ": check the user and the password of database.url, or database.password_file"
        }
        "28000" if message.contains("no encryption") => {
            ": the server may take this user by TLS only: set database.sslmode to verify-full"
        }
        "28000" if message.contains("certificate") => ": set database.sslcert and database.sslkey",
        // What the worker's role has no right to on purpose: advice to give it one would not help.
        "42501" if OWNERS.iter().any(|object| message.contains(object)) => {
            ": a worker's role may not do this: set database.url to the role that owns the tables, which is the one that runs \
             `series-ingest migrate`"
        }
        "42501" => {
            ": the role of database.url lacks a right. `run` and `journal replay` take a worker's role, which gets its rights by \
             `series-ingest migrate --worker-role` with the owner's; the other commands take the owner's"
        }
        _ => "",
    }
}
