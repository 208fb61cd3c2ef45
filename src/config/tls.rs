//! The protection of the connection to PostgreSQL: the keys `database.sslmode` and its files, and the same as parameters of the
//! URL, as libpq spells them. The combination is never weaker than either.

use super::Database;
use super::ssl_mode::SslMode;
use super::url;

/// The CAs that are trusted for the server's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authorities {
    /// Those of this system.
    System,
    /// Those in a PEM file.
    File(String),
}

/// The combined settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The mode; [`SslMode::Auto`] if the host decides.
    pub mode: SslMode,
    /// The trusted CAs, if the mode checks them.
    pub authorities: Authorities,
    /// The files of the client's certificate and of its key.
    pub client: Option<(String, String)>,
}

/// The URL's parameters for TLS: the mode and the three files.
pub(super) const PARAMETERS: [&str; 4] = ["sslmode", "sslrootcert", "sslcert", "sslkey"];

impl Database {
    /// Returns the protection of its connections.
    ///
    /// # Errors
    /// If a setting is invalid, with its key and the reason.
    pub fn tls(&self) -> Result<Tls, (&'static str, String)> {
        let [mode, root, certificate, key] = self.tls_settings()?;
        let mode = match mode.as_str() {
            "" if [&root, &certificate, &key].iter().all(|file| file.is_empty()) => SslMode::Auto,
            "" => SslMode::VerifyFull,
            "allow" => {
                let text =
                    "allow, in plaintext wherever the server lets us, is not offered; set disable or verify-full";
                return Err(("database.sslmode", text.to_owned()));
            }
            name => SslMode::named(name).ok_or_else(|| {
                let text = format!("is {name:?}; set disable, prefer, require, verify-ca or verify-full");
                ("database.sslmode", text)
            })?,
        };
        let (mode, authorities) = match (mode, root.as_str()) {
            (mode, "") => (mode, Authorities::System),
            (SslMode::Disable | SslMode::Prefer, _) => return Err(without_effect("database.sslrootcert", mode)),
            (SslMode::VerifyFull, "system") => (mode, Authorities::System),
            // Anyone can get a certificate from such a CA, for their own host.
            (_, "system") => {
                let text = format!("is system, and sslmode is {}; set sslmode to verify-full", mode.as_str());
                return Err(("database.sslrootcert", text));
            }
            // Like libpq: a CA that is named is meant to be checked.
            (SslMode::Require, file) => (SslMode::VerifyCa, Authorities::File(file.to_owned())),
            (mode, file) => (mode, Authorities::File(file.to_owned())),
        };
        let client = match (certificate.is_empty(), key.is_empty()) {
            (true, true) => None,
            (false, false) if mode == SslMode::Disable => return Err(without_effect("database.sslcert", mode)),
            (false, false) => Some((certificate, key)),
            (false, true) => {
                return Err(("database.sslkey", "is not set, and database.sslcert is; set both".to_owned()));
            }
            (true, false) => {
                return Err(("database.sslcert", "is not set, and database.sslkey is; set both".to_owned()));
            }
        };
        Ok(Tls { mode, authorities, client })
    }

    /// The URL in the driver's form: without the parameters for TLS.
    pub fn url_without_tls(&self) -> super::Secret {
        super::Secret::new(url::without_parameters(self.url.expose(), &PARAMETERS))
    }

    /// The mode and the three files; empty if they are not set.
    fn tls_settings(&self) -> Result<[String; 4], (&'static str, String)> {
        let mode = if self.sslmode == SslMode::Auto { "" } else { self.sslmode.as_str() };
        let keys = [
            ("database.sslmode", mode),
            ("database.sslrootcert", &self.sslrootcert),
            ("database.sslcert", &self.sslcert),
            ("database.sslkey", &self.sslkey),
        ];
        let mut settings = [const { String::new() }; 4];
        for ((setting, (key, own)), parameter) in settings.iter_mut().zip(keys).zip(PARAMETERS) {
            let in_url = url::parameters(self.url.expose(), parameter);
            let mut values = in_url.iter().map(String::as_str).chain([own]).filter(|value| !value.is_empty());
            let first = values.next().unwrap_or_default();
            if let Some(other) = values.find(|value| *value != first) {
                // It is not known which one is intended.
                return Err((key, format!("is both {first:?} (the URL's {parameter}) and {other:?}; set one of them")));
            }
            *setting = first.to_owned();
        }
        Ok(settings)
    }
}

fn without_effect(key: &'static str, mode: SslMode) -> (&'static str, String) {
    let text =
        format!("has no effect with sslmode {}; set database.sslmode to verify-full, or remove it", mode.as_str());
    (key, text)
}
