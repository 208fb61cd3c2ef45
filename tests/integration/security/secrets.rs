//! No secret is seen anywhere.

use super::{properties, with};
use crate::support::data::Published;
use crate::support::fixture::Fixture;
use crate::support::until;
use crate::support::worker::{Worker, run, text};

/// What stands in every place for a secret.
const MARKER: &str = "QxSecretMarkerxQ";

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_seen_anywhere() {
    let Some(fixture) = Fixture::new("secrets", 1).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, format!("{MARKER}\n")).unwrap();
    let secret = secret.to_str().unwrap();
    let url = fixture.url.replacen("postgres@", &format!("postgres:{MARKER}@"), 1);
    assert!(url.contains(MARKER), "{url}");
    let marked = with(&fixture.environment(), &[("DATABASE_URL", &url), ("SERIES_INGEST__LOG__FILTER", "trace")]);
    // In plaintext to the broker, which then checks none of them.
    let mut with_properties = marked.clone();
    with_properties.extend(properties(&[
        ("sasl.username", "someone"),
        ("sasl.password", MARKER),
        ("ssl.key.password", MARKER),
    ]));
    let mut refused = marked.clone();
    refused.extend(properties(&[
        ("security.protocol", "SSL"),
        ("ssl.key.pem", MARKER),
        ("ssl.certificate.pem", MARKER),
    ]));
    let files = "SERIES_INGEST__KAFKA__PROPERTIES_FILES__";
    let mut from_files =
        with(&marked, &[("DATABASE_URL", &fixture.url), ("SERIES_INGEST__DATABASE__PASSWORD_FILE", secret)]);
    from_files.extend([
        (format!("{files}SASL_PASSWORD"), secret.to_owned()),
        (format!("{files}SASL_OAUTHBEARER_CLIENT_SECRET"), secret.to_owned()),
    ]);
    let mut by_token = marked.clone();
    by_token.extend(properties(&[("security.protocol", "SASL_PLAINTEXT"), ("sasl.mechanism", "OAUTHBEARER")]));
    by_token.push(("SERIES_INGEST__KAFKA__OAUTH_TOKEN_FILE".to_owned(), secret.to_owned()));
    let mut unknown = marked.clone();
    unknown.extend(properties(&[("no.such.property", MARKER), ("sasl.kerberos.keytab", MARKER)]));
    let nowhere = with(&marked, &[("DATABASE_URL", &format!("postgresql://u:{MARKER}@127.0.0.1:1/d"))]);
    let malformed =
        with(&marked, &[("DATABASE_URL", &format!("postgresql://u:{MARKER}@h:port/d?no=x&password={MARKER}"))]);

    let hidden = |what: &str, text: &str| {
        let at = text.find(MARKER);
        assert_eq!(at, None, "{what}: {}", at.map_or("", |at| &text[at.saturating_sub(200)..at]));
    };
    for (name, environment) in [
        ("with properties", &with_properties),
        ("refused", &refused),
        ("from files", &from_files),
        ("by token", &by_token),
        ("unknown", &unknown),
        ("nowhere", &nowhere),
        ("malformed", &malformed),
    ] {
        for command in [&["config"][..], &["check"], &["progress", "show"], &["migrate"], &["demo", "--points", "x"]] {
            hidden(&format!("{name}: {command:?}"), &text(&run(environment, command)));
        }
    }
    let mut published = Published::default();
    fixture.publish(&mut published, 5, 25);
    let worker = Worker::start(&fixture.name, &with_properties, &[]);
    fixture.until_applied(60).await;
    for (name, environment) in
        [("refused", &refused), ("by token", &by_token), ("unknown", &unknown), ("nowhere", &nowhere)]
    {
        let other = Worker::start(&fixture.name, environment, &[]);
        until(30, "it has something to say", async || other.log().lines().count() > 3).await;
        for page in ["/status", "/readyz", "/metrics"] {
            hidden(&format!("{name}: {page}"), &other.get(page).map(|(_, body)| body).unwrap_or_default());
        }
        hidden(name, &other.log());
    }
    for page in ["/", "/status", "/readyz", "/livez", "/metrics"] {
        hidden(page, &worker.get(page).unwrap().1);
    }
    assert!(worker.log().lines().count() > 50, "everything is logged");
    hidden("the log", &worker.log());
    drop(worker);
    fixture.remove().await;
}
