//! TLS to PostgreSQL by rustls, with the modes of libpq's `sslmode`.

use std::error::Error as StdError;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::config::{Config as ConnectionConfig, Host, SslMode as DriverMode};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::{self, Authorities, SslMode};
use crate::database::error::Error;
use crate::tls as certificates;

/// Makes the TLS side of each connection. The files are read for each, so that a renewed certificate needs no restart.
#[derive(Debug, Clone)]
pub(in crate::database) struct Tls {
    settings: config::Tls,
    provider: Arc<CryptoProvider>,
    /// This system's CAs, if they are to be used.
    system: Option<Arc<RootCertStore>>,
}

impl Tls {
    /// The TLS side of connections by `connection`, in which it sets whether TLS is required.
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
        // So that a file that cannot be used is reported now.
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

/// Returns `true` if every host is this machine, by loopback or a Unix socket.
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

/// Accepts a certificate for any name: of these CAs, or any certificate if there are none. It is always checked that the
/// server has the certificate's key.
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
