//! The database by TLS.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use series_ingest::database::schema::roles;

use super::{ROOT, SSL_MODE, expect, until_not_ready, with};
use crate::support::certificates::Authority;
use crate::support::data::Published;
use crate::support::fixture::Fixture;
use crate::support::server::Server;
use crate::support::until;
use crate::support::worker::{run, text};

/// Who may come to the server, and how.
const WHO: &str = "host all postgres 127.0.0.1/32 trust
hostssl all certified 127.0.0.1/32 cert
hostssl all all 127.0.0.1/32 scram-sha-256
";

#[tokio::test(flavor = "multi_thread")]
async fn the_database_is_reached_by_tls_as_sslmode_says_or_not_at_all() {
    let Some(server) = Server::start("tls").await else { return };
    let fixture = Fixture::on(&server, "tls", 1).await;
    let (authority, stranger) = (Authority::new("Test CA"), Authority::new("Another CA"));
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (ca, other_ca) = (file("ca.pem", &authority.certificate), file("other.pem", &stranger.certificate));
    let user = authority.client("certified");
    let (certificate, key) = (file("user.pem", &user.certificate), file("user.key", &user.key));
    let good = authority.server(&["db.example"]);
    server.put("tls.crt", &good.certificate);
    server.put("tls.key", &good.key);
    server.put("tls-ca.crt", &authority.certificate);
    server.put("pg_hba.conf", WHO);
    server
        .reload(&[
            "create role tls_worker login password 'right-password'",
            "create role certified login",
            "create role no_rights login password 'right-password'",
            "create role no_insert login password 'right-password'",
            "alter system set ssl_cert_file = 'tls.crt'",
            "alter system set ssl_key_file = 'tls.key'",
            "alter system set ssl_ca_file = 'tls-ca.crt'",
            "alter system set ssl = on",
        ])
        .await;
    for role in ["tls_worker", "certified", "no_insert"] {
        roles::grant(&fixture.config(&[]), role, roles::Purpose::Worker).await.unwrap();
    }
    fixture.client.batch_execute("revoke insert on time_series_data_points from no_insert").await.unwrap();
    let port = server.address().rsplit_once(':').unwrap().1.to_owned();
    // The name that the certificate is for, without a name server that knows it.
    let by_name = |user: &str, query: &str| {
        let name = &fixture.name;
        format!("postgresql://{user}@db.example:{port}/{name}?hostaddr=127.0.0.1{query}")
    };
    let by_address = |query: &str| {
        format!("postgresql://tls_worker:right-password@127.0.0.1:{port}/{}?connect_timeout=5{query}", fixture.name)
    };
    let worker = "tls_worker:right-password";
    let environment = fixture.environment();
    let show = |url: &str, code: i32, says: &[&str]| {
        expect(&with(&environment, &[("DATABASE_URL", url)]), &["progress", "show"], code, says);
    };
    let trusted = format!("&sslrootcert={ca}");
    let ready = with(&environment, &[("DATABASE_URL", &by_name(worker, &trusted))]);
    until(30, "the server has its new settings", async || run(&ready, &["progress", "show"]).status.success()).await;

    // The right ones connect. A user of `hostssl` cannot have come in plaintext.
    for query in ["&sslmode=verify-full", "&sslmode=verify-ca", "&sslmode=require", ""] {
        show(&by_name(worker, &format!("{trusted}{query}")), 0, &["no partition"]);
    }
    for query in ["&sslmode=require", "&sslmode=prefer", "&sslmode=verify-ca&sslrootcert="] {
        let query = if query.ends_with('=') { format!("{query}{ca}") } else { query.to_owned() };
        show(&by_address(&query), 0, &["no partition"]);
    }
    let by_keys = [("DATABASE_URL", &*by_name(worker, "")), (SSL_MODE, "verify-full"), (ROOT, &ca)];
    expect(&with(&environment, &by_keys), &["progress", "show"], 0, &["no partition"]);
    let with_key = format!("{trusted}&sslcert={certificate}&sslkey={key}");
    show(&by_name("certified", &with_key), 0, &["no partition"]);
    show(&by_name(worker, &format!("{trusted}&channel_binding=require")), 0, &["no partition"]);

    // The wrong ones say what is wrong, and which key to change.
    let unknown = ["is of a CA that is not known", "database.sslrootcert"];
    show(&by_name(worker, ""), 69, &unknown);
    show(&by_name(worker, &format!("&sslrootcert={other_ca}")), 69, &unknown);
    show(&by_name(worker, &format!("&sslmode=verify-ca&sslrootcert={other_ca}")), 69, &unknown);
    let foreign = ["is for another host", "127.0.0.1", "db.example", "verify-ca"];
    show(&by_address(&format!("&sslmode=verify-full&sslrootcert={ca}")), 69, &foreign);
    show(&by_name("tls_worker:wrong", &trusted), 69, &["28P01", "database.password_file"]);
    show(&by_name("certified", &trusted), 69, &["28000", "database.sslcert"]);
    show(&by_address("&sslmode=disable"), 69, &["no encryption", "database.sslmode"]);
    show(&by_address(""), 69, &["no encryption", "database.sslmode"]);
    show(&by_name(worker, "&sslrootcert=/nowhere/ca.pem"), 64, &["database.sslrootcert", "/nowhere/ca.pem"]);
    let half = format!("{trusted}&sslcert={certificate}&sslkey={ca}");
    show(&by_name("certified", &half), 64, &["database.sslkey", "no private key"]);
    let check = with(&environment, &[("DATABASE_URL", &by_name(worker, ""))]);
    expect(&check, &["check"], 69, &["database.url: ", "is of a CA that is not known"]);

    // A worker waits, and says why.
    let mut published = Published::default();
    fixture.publish(&mut published, 20, 25);
    let start = |url: &str| fixture.worker(&[("DATABASE_URL", url)]);
    let wrong_password = by_name("tls_worker:wrong-password", &trusted);
    let refused = [
        (start(&by_name(worker, "")), "schema", vec!["is of a CA that is not known", "database.sslrootcert"]),
        (
            start(&by_address(&format!("&sslmode=verify-full&sslrootcert={ca}"))),
            "schema",
            vec!["is for another host", "db.example"],
        ),
        (start(&wrong_password), "schema", vec!["28P01", "database.password_file"]),
        (start(&by_name("certified", &trusted)), "schema", vec!["28000", "database.sslcert"]),
        (start(&by_name(worker, "&sslmode=disable")), "schema", vec!["28000", "no encryption", "database.sslmode"]),
    ];
    for (worker, condition, why) in &refused {
        until_not_ready(worker, &format!("{condition}: ")).await;
        for part in why {
            until_not_ready(worker, part).await;
            assert!(worker.log().contains(part), "{part:?} is not logged: {}", worker.log());
        }
        assert!(!worker.log().contains("right-password") && !worker.log().contains("wrong-password"));
    }
    drop(refused);
    assert_eq!(fixture.count_points().await, 0);
    // Waiting does not help without any right.
    let no_rights = by_name("no_rights:right-password", &trusted);
    let check = with(&environment, &[("DATABASE_URL", &no_rights)]);
    expect(&check, &["check"], 64, &["database.url: ", "42501", "migrate --worker-role"]);
    let mut without = start(&no_rights);
    assert_eq!(without.exit_code(60), Some(64));
    for part in ["42501", "ingest_schema_history", "migrate --worker-role"] {
        assert!(without.log().contains(part), "{part:?} is not logged: {}", without.log());
    }
    let mut without_one = start(&by_name("no_insert:right-password", &trusted));
    assert_eq!(without_one.exit_code(60), Some(64));
    assert!(without_one.log().contains("lacks INSERT on time_series_data_points"), "{}", without_one.log());
    // A journal keeps messages moving, and makes no secret of a refusal that an operator has to fix.
    let journal = tempfile::tempdir().unwrap();
    let journaling = fixture.worker(&[
        ("DATABASE_URL", &wrong_password),
        ("SERIES_INGEST__JOURNAL__ENABLED", "true"),
        ("SERIES_INGEST__JOURNAL__DIRECTORY", journal.path().to_str().unwrap()),
        ("SERIES_INGEST__JOURNAL__MIN_FREE_BYTES", "0"),
    ]);
    journaling.until_mode("journaling").await;
    until_not_ready(&journaling, "database: ").await;
    until_not_ready(&journaling, "28P01").await;
    drop(journaling);

    // It works when it may.
    let allowed = fixture.worker(&[("DATABASE_URL", &by_name(worker, &trusted))]);
    fixture.until_applied(60).await;
    allowed.until_ready().await;
    let in_clear = "select count(*) from pg_stat_ssl join pg_stat_activity using (pid)
                    where usename = 'tls_worker' and not ssl";
    assert_eq!(fixture.count(in_clear).await, 0);
    fixture.assert_exact(&published).await;
    drop(allowed);

    // A renewed certificate is taken without a new start of anything; an expired one only by who looks at none.
    let expired = authority.expired_server(&["db.example"]);
    server.put("tls.crt", &expired.certificate);
    server.put("tls.key", &expired.key);
    server.reload(&[]).await;
    until(30, "the server has its expired certificate", async || {
        text(&run(&ready, &["progress", "show"])).contains("has expired")
    })
    .await;
    show(&by_name(worker, &trusted), 69, &["certificate of the database's server has expired", "renew it"]);
    show(&by_name(worker, &format!("&sslmode=verify-ca{trusted}")), 69, &["has expired"]);
    show(&by_name(worker, "&sslmode=require"), 0, &[&fixture.points_topic]);
    let refused = start(&by_name(worker, &trusted));
    until_not_ready(&refused, "certificate of the database's server has expired").await;
    drop(refused);

    server.reload(&["alter system set ssl = off"]).await;
    until(30, "the server has no TLS", async || text(&run(&ready, &["progress", "show"])).contains("offers no TLS"))
        .await;
    show(&by_name(worker, &trusted), 69, &["the database's server offers no TLS", "database.sslmode"]);
    show(&by_name(worker, "&sslmode=require"), 69, &["the database's server offers no TLS"]);
    let refused = start(&by_name(worker, &trusted));
    until_not_ready(&refused, "the database's server offers no TLS").await;
    drop(refused);
    fixture.remove().await;
}

#[test]
fn a_server_without_tls_gets_nothing_but_the_question_for_it() {
    for query in ["", "&sslmode=require", "&sslmode=verify-ca", "&sslmode=verify-full"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let mut question = [0; 8];
            stream.read_exact(&mut question).unwrap();
            stream.write_all(b"N").unwrap();
            let mut rest = Vec::new();
            drop(stream.read_to_end(&mut rest));
            (question, rest)
        });
        let url = format!("postgresql://worker:s3cret@db.example:{port}/d?hostaddr=127.0.0.1{query}");
        let environment = with(&[], &[("DATABASE_URL", &url)]);
        expect(&environment, &["progress", "show"], 69, &["offers no TLS", "database.sslmode"]);
        let (question, rest) = server.join().unwrap();
        assert_eq!(question, [0, 0, 0, 8, 4, 210, 22, 47], "an SSLRequest");
        assert_eq!(rest, b"", "{query}: not a byte more in plaintext");
    }
}
