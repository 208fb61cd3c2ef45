//! libpq's modes of TLS.

use serde::{Deserialize, Serialize};

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// As the URL says; without that `disable` for this machine's loopback and sockets, and `verify-full` for any other
    /// host, or if a file is named.
    Auto,
    /// In plaintext.
    Disable,
    /// Encrypted if the server can, without looking at its certificate; else in plaintext.
    Prefer,
    /// Encrypted, without looking at the server's certificate.
    Require,
    /// Encrypted, with a certificate of a known CA, whatever host it is for.
    VerifyCa,
    /// Encrypted, with a certificate of a known CA for the URL's host.
    VerifyFull,
}

impl SslMode {
    /// The mode as libpq spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        let all = [Self::Disable, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull];
        all.into_iter().find(|mode| mode.as_str() == name)
    }
}
