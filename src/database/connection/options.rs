//! The options of a connection, from the configuration.

use std::time::Duration;

use tokio_postgres::Config as ConnectionConfig;

use super::tls::Tls;
use crate::config;
use crate::database::error::{Error, describe};

/// The options of a connection: from the URL, with our timeouts, and its TLS.
pub(in crate::database) fn connection_config(database: &config::Database) -> Result<(ConnectionConfig, Tls), Error> {
    let url = database.url_without_tls();
    let mut connection: ConnectionConfig = url
        .expose()
        .parse()
        .map_err(|error| Error::Unexpected(format!("{} cannot be read: {}", database.url_key(), describe(&error))))?;
    if connection.get_application_name().is_none() {
        connection.application_name("series-ingest");
    }
    connection
        .connect_timeout(Duration::from_millis(database.connect_timeout_ms))
        .keepalives(true)
        .keepalives_idle(Duration::from_millis(database.keepalive_idle_ms))
        .keepalives_interval(Duration::from_millis(database.keepalive_idle_ms))
        .keepalives_retries(3)
        .tcp_user_timeout(Duration::from_millis(database.tcp_user_timeout_ms));
    let tls = Tls::new(database, &mut connection)?;
    Ok((connection, tls))
}
