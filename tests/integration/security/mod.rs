//! TLS, credentials and rights against real servers, with certificates and users made in the test; and what must not be seen.

mod database;
mod kafka;
mod rights;
mod secrets;

use crate::support::until;
use crate::support::worker::{Worker, run, text};

const SSL_MODE: &str = "SERIES_INGEST__DATABASE__SSLMODE";

const ROOT: &str = "SERIES_INGEST__DATABASE__SSLROOTCERT";

/// The environment of a fixture with other settings over it.
fn with(environment: &[(String, String)], extra: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut all = environment.to_vec();
    all.retain(|(name, _)| !extra.iter().any(|(other, _)| other == name));
    all.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    all
}

/// Runs a command of the program, and checks how it ends and what it says.
fn expect(environment: &[(String, String)], command: &[&str], code: i32, says: &[&str]) {
    let output = run(environment, command);
    let printed = text(&output);
    assert_eq!(output.status.code(), Some(code), "{environment:?}: {printed}");
    for part in says {
        assert!(printed.contains(part), "{part:?} is not said, with {environment:?}: {printed}");
    }
}

async fn until_not_ready(worker: &Worker, why: &str) {
    until(60, &format!("not ready: {why}"), async || {
        worker.get("/readyz").is_some_and(|(code, reasons)| code == 503 && reasons.contains(why))
    })
    .await;
}

const PROPERTIES: &str = "SERIES_INGEST__KAFKA__PROPERTIES__";

/// Settings of librdkafka as variables of the environment.
fn properties(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    let variable = |name: &str| format!("{PROPERTIES}{}", name.to_uppercase().replace('.', "_"));
    settings.iter().map(|(name, value)| (variable(name), (*value).to_owned())).collect()
}
