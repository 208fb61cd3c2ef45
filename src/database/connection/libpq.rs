//! The same connection for PostgreSQL's own programs: the environment that libpq reads.

use std::path::Path;

use tokio_postgres::config::{Host, TargetSessionAttrs};

use super::options::connection_config;
use crate::config::{self, Authorities, Secret, SslMode};
use crate::database::error::Error;

/// Bundles of this system's CAs; libpq knows `system` from version 16 on.
const BUNDLES: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// The variables of libpq's environment for the configured connection. Nothing of it stands on a command line, and the values
/// are not shown. What the configuration does not say stays as this process has it, such as PGPASSFILE.
///
/// # Errors
/// If the URL or the TLS settings cannot be read.
pub(crate) fn libpq_environment(database: &config::Database) -> Result<Vec<(&'static str, Secret)>, Error> {
    let (connection, tls) = connection_config(database)?;
    let mut variables: Vec<(&'static str, String)> = Vec::new();
    let hosts = connection.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(folder) => folder.display().to_string(),
    });
    variables.push(("PGHOST", hosts.collect::<Vec<_>>().join(",")));
    let addresses = connection.get_hostaddrs().iter().map(ToString::to_string);
    variables.push(("PGHOSTADDR", addresses.collect::<Vec<_>>().join(",")));
    let ports = connection.get_ports().iter().map(ToString::to_string);
    variables.push(("PGPORT", ports.collect::<Vec<_>>().join(",")));
    variables.push(("PGUSER", connection.get_user().unwrap_or_default().to_owned()));
    variables.push(("PGDATABASE", connection.get_dbname().unwrap_or_default().to_owned()));
    variables.push(("PGOPTIONS", connection.get_options().unwrap_or_default().to_owned()));
    let password = connection.get_password().map(|password| String::from_utf8_lossy(password).into_owned());
    variables.push(("PGPASSWORD", password.unwrap_or_default()));
    let attributes = match connection.get_target_session_attrs() {
        TargetSessionAttrs::ReadWrite => "read-write",
        TargetSessionAttrs::ReadOnly => "read-only",
        _ => "",
    };
    variables.push(("PGTARGETSESSIONATTRS", attributes.to_owned()));
    let seconds = database.connect_timeout_ms.div_ceil(1000).max(2);
    variables.push(("PGCONNECT_TIMEOUT", seconds.to_string()));
    variables.push(("PGAPPNAME", "series-ingest backup".to_owned()));
    let settings = database.tls().map_err(|(key, text)| Error::Tls(format!("{key} {text}")))?;
    variables.extend(tls_variables(tls.mode(), &settings));
    let variables = variables.into_iter().filter(|(_, value)| !value.is_empty());
    Ok(variables.map(|(name, value)| (name, Secret::new(value))).collect())
}

fn tls_variables(mode: SslMode, settings: &config::Tls) -> Vec<(&'static str, String)> {
    let verifies = matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull);
    let mut variables = vec![("PGSSLMODE", mode.as_str().to_owned())];
    let authorities = match &settings.authorities {
        Authorities::File(file) => file.clone(),
        Authorities::System if verifies => {
            let named = std::env::var("SSL_CERT_FILE").ok();
            let bundle = || BUNDLES.iter().find(|file| Path::new(file).is_file()).map(|file| (*file).to_owned());
            named.or_else(bundle).unwrap_or_else(|| "system".to_owned())
        }
        Authorities::System => String::new(),
    };
    variables.push(("PGSSLROOTCERT", authorities));
    if let Some((certificate, key)) = &settings.client {
        variables.push(("PGSSLCERT", certificate.clone()));
        variables.push(("PGSSLKEY", key.clone()));
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn environment(url: &str, more: &[(&str, &str)]) -> Vec<(&'static str, String)> {
        let all = [("DATABASE_URL", url)].into_iter().chain(more.iter().copied());
        let config = Config::load(None, all.map(|(name, value)| (name.into(), value.into()))).unwrap();
        let variables = libpq_environment(&config.database).unwrap();
        assert!(!format!("{variables:?}").contains("s3cret"));
        variables.into_iter().map(|(name, value)| (name, value.expose().to_owned())).collect()
    }

    fn value<'a>(variables: &'a [(&'static str, String)], name: &str) -> Option<&'a str> {
        variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn the_url_becomes_libpqs_environment() {
        let found = environment("postgresql://me:s3cret%21@127.0.0.1:5433/d%20b?options=-c%20work_mem%3D1MB", &[]);
        for (name, expected) in [
            ("PGHOST", "127.0.0.1"),
            ("PGPORT", "5433"),
            ("PGUSER", "me"),
            ("PGPASSWORD", "s3cret!"),
            ("PGDATABASE", "d b"),
            ("PGOPTIONS", "-c work_mem=1MB"),
            ("PGSSLMODE", "disable"),
        ] {
            assert_eq!(value(&found, name), Some(expected), "{name}");
        }
        assert_eq!(value(&found, "PGSSLROOTCERT"), None);
    }

    #[test]
    fn several_hosts_and_their_ports_stay_in_order() {
        let found = environment("postgresql://u@127.0.0.1:1,127.0.0.2:2/d?target_session_attrs=read-write", &[]);
        assert_eq!(value(&found, "PGHOST"), Some("127.0.0.1,127.0.0.2"));
        assert_eq!(value(&found, "PGPORT"), Some("1,2"));
        assert_eq!(value(&found, "PGTARGETSESSIONATTRS"), Some("read-write"));
    }

    #[test]
    fn the_protection_is_never_weaker_than_the_programs_own() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["h".to_owned()]).unwrap().self_signed(&key).unwrap();
        std::fs::write(file.path(), certificate.pem()).unwrap();
        let path = file.path().to_str().unwrap();
        let found = environment("postgresql://u@db.example/d", &[("SERIES_INGEST__DATABASE__SSLROOTCERT", path)]);
        assert_eq!(value(&found, "PGSSLMODE"), Some("verify-full"));
        assert_eq!(value(&found, "PGSSLROOTCERT"), Some(path));
    }
}
