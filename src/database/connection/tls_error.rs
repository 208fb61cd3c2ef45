//! Advice on the keys of the configuration after a failure of TLS or a refusal by the server.

use std::error::Error as StdError;
use std::io;

use rustls::CertificateError;

use crate::tls::{self as certificates, Fault};

/// What is wrong, and the key to change, if TLS is the cause.
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
    // The driver has no other way to identify it.
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

/// Objects on which commands need more privileges than any role has but the owner's.
const OWNERS: [&str; 3] = ["table ingest_dead_letter", "table ingest_progress", "table ingest_gap"];

/// Advice on the keys of the configuration after a refusal by the server; empty if there is none.
pub(in crate::database) fn hint(answer: &tokio_postgres::error::DbError) -> &'static str {
    let message = answer.message();
    match answer.code().code() {
        "28P01" => ": check the user and the password of database.url, or database.password_file",
        // PgBouncer's message when its own login at the server is refused, and then when it refuses the client.
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
        // What these roles have no privilege for on purpose: advice to grant one would not help.
        "42501" if OWNERS.iter().any(|object| message.contains(object)) => {
            ": a worker's, a reader's or an editor's role may not do this: set database.url to the role that owns the tables, which is the one that runs \
             `series-ingest migrate`"
        }
        "42501" => {
            ": the role of database.url lacks a right. `run` and `journal replay` take a worker's role, which gets its rights by \
             `series-ingest migrate --worker-role` with the owner's; what reads series and points takes a reader's \
             (`--reader-role`), what changes them an editor's (`--editor-role`), and the other commands the owner's"
        }
        _ => "",
    }
}
