//! TLS for both sides of the program: certificates from files, this system's CAs, and descriptions of errors in a server's
//! certificate.

use std::io;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, RootCertStore};

/// The error in a server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It was issued by an unknown CA.
    Authority,
    /// It is for another host.
    Host,
    /// It has expired.
    Expired,
    /// It is not valid yet.
    Early,
    /// It is not a server certificate, or is damaged.
    Other,
}

/// The error, and its description, which follows "the certificate".
pub(crate) fn describe(wrong: &CertificateError) -> (Fault, String) {
    match wrong {
        CertificateError::UnknownIssuer => (Fault::Authority, "is of a CA that is not known".to_owned()),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            (Fault::Host, format!("is for another host ({wrong})"))
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            (Fault::Expired, format!("has expired ({wrong})"))
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            (Fault::Early, format!("is not valid yet ({wrong})"))
        }
        other => (Fault::Other, format!("cannot be used ({other})")),
    }
}

/// rustls' error inside an I/O error, whose `source` skips it.
pub(crate) fn hidden(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// The certificates of a PEM file, at least one.
pub(crate) fn certificates(file: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| format!("{file:?} cannot be read: {error}"))?;
    if certificates.is_empty() { Err(format!("{file:?} has no certificate in PEM")) } else { Ok(certificates) }
}

/// The CAs of a PEM file.
pub(crate) fn authorities(file: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| format!("a certificate of {file:?} cannot be used: {error}"))?;
    }
    Ok(roots)
}

/// This system's CAs, at least one.
pub(crate) fn system_authorities() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if !roots.is_empty() {
        return Ok(roots);
    }
    let why: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
    Err(format!("this system has no CA certificates ({}): install its package ca-certificates", why.join("; ")))
}
