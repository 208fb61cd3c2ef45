//! libpq's modes of TLS.

use serde::{Deserialize, Serialize};

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// As the URL says; otherwise `disable` for this machine's loopback and sockets, and `verify-full` for any other host, or
    /// if a file is named.
    Auto,
    /// In plaintext.
    Disable,
    /// Encrypted if the server supports it, without checking its certificate; otherwise in plaintext.
    Prefer,
    /// Encrypted, without checking the server's certificate.
    Require,
    /// Encrypted, with a certificate of a known CA, for any host.
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
