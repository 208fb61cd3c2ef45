//! TLS, credentials and rights against real servers, with certificates and users made in the test; and what must not be seen.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use series_ingest::database::schema::roles;
use tokio_postgres::error::SqlState;

use crate::support::certificates::Authority;
use crate::support::data::Published;
use crate::support::fixture::{Fixture, connect, url_with};
use crate::support::proxy::Proxy;
use crate::support::recording_proxy::{contains, is_tls};
use crate::support::secure_broker::{PASSWORD, SecureBroker, USER};
use crate::support::server::Server;
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
        roles::grant_worker(&fixture.config(&[]), role).await.unwrap();
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

#[tokio::test(flavor = "multi_thread")]
async fn the_workers_role_does_all_of_its_work_and_can_do_nothing_else() {
    let Some(fixture) = Fixture::new("roles", 1).await else { return };
    let role = format!("{}_worker", fixture.name);
    fixture.client.batch_execute(&format!("create role {role} login")).await.unwrap();
    expect(
        &fixture.environment(),
        &["migrate", "--worker-role", "no_such_role"],
        64,
        &["there is no role \"no_such_role\""],
    );
    expect(&fixture.environment(), &["migrate", "--worker-role", "postgres"], 64, &["superuser"]);
    // What it had before is taken from it.
    let all = format!("grant all on time_series_data_points, ingest_progress to {role}");
    fixture.client.batch_execute(&all).await.unwrap();
    expect(&fixture.environment(), &["migrate", "--worker-role", &role], 0, &["has the worker's rights"]);

    let proxy = Proxy::start(&fixture.server()).await;
    let url = format!("postgresql://{role}@127.0.0.1:{}/{}", proxy.port, fixture.name);
    let journal = tempfile::tempdir().unwrap();
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("SERIES_INGEST__JOURNAL__ENABLED", "true"),
        ("SERIES_INGEST__JOURNAL__DIRECTORY", journal.path().to_str().unwrap()),
        ("SERIES_INGEST__JOURNAL__MIN_FREE_BYTES", "0"),
        ("SERIES_INGEST__DATABASE__OUTAGE_GRACE_MS", "300"),
    ];
    let mut published = Published::default();
    let series = r#"{"type":"series-create","id":"s","name":"a series"}"#;
    fixture.producer.send(&fixture.series_topic, 0, "s", Some(series.as_bytes()));
    fixture.publish(&mut published, 20, 25);
    fixture.producer.send(&fixture.points_topic, 0, "s", Some(b"{"));
    fixture.producer.flush();
    let mut worker = fixture.worker(&settings);
    fixture.until_applied(60).await;
    worker.until_ready().await;
    until(30, "the series has its name", async || {
        fixture.count("select count(*) from time_series_metadata where name = 'a series'").await == 1
    })
    .await;
    assert_eq!(fixture.count("select count(*) from ingest_dead_letter").await, 1);

    // An outage, the journal, and back.
    proxy.refuse(true);
    fixture.publish(&mut published, 20, 25);
    until(30, "journaling", async || worker.metric("series_ingest_mode{mode=\"journaling\"}") == Some(1.0)).await;
    fixture.publish(&mut published, 20, 25);
    proxy.refuse(false);
    fixture.until_applied(60).await;
    assert_eq!(fixture.difference(&published).await, Default::default());
    assert_eq!(worker.terminate(10), Some(0));

    // A gap; and the same dead letter again, in the place of the old one.
    let mut lost = Published::default();
    fixture.publish(&mut lost, 5, 25);
    fixture.broker.delete_records(&fixture.points_topic, 0, fixture.broker.end(&fixture.points_topic, 0)).await;
    fixture.publish(&mut published, 5, 25);
    let mut worker = fixture.worker(&settings);
    fixture.until_applied(60).await;
    until(30, "a gap", async || fixture.count("select count(*) from ingest_gap").await == 1).await;
    assert_eq!(worker.terminate(10), Some(0));
    assert!(!worker.log().contains("permission denied"), "{}", worker.log());
    let environment = with(&fixture.environment(), &settings);
    expect(&environment, &["progress", "show"], 0, &[&fixture.points_topic]);
    expect(&environment, &["check"], 0, &["schema: up to date"]);
    expect(&environment, &["journal", "replay"], 0, &[]);

    // And nothing else.
    let client =
        connect(&url_with(&fixture.url.replacen("postgres@", &format!("{role}@"), 1), &fixture.name, None)).await;
    assert_eq!(client.query_one("select current_user::text", &[]).await.unwrap().get::<_, String>(0), role);
    for statement in [
        "truncate time_series_data_points",
        "delete from time_series_data_points",
        "update time_series_data_points set value = 0",
        "select value from time_series_data_points",
        "drop table time_series_data_points",
        "create table mine (a int)",
        "insert into time_series_metadata (id, name) values ('x', 'x')",
        "delete from time_series_metadata",
        "select series_id from ingest_series",
        "truncate ingest_progress",
        "delete from ingest_progress",
        "update ingest_progress set next_offset = 0",
        "insert into ingest_progress (source_id, partition, next_offset) values (1, 99, 0)",
        "insert into ingest_source (pipeline, cluster_id, topic, topic_id) values ('', '', '', '')",
        "delete from ingest_gap",
        "delete from ingest_dead_letter",
        "truncate ingest_dead_letter",
        "select ingest_cover(1, 0, 0, 1)",
        "delete from ingest_schema_history",
        "alter function ingest_claim(uuid[], integer[], bigint[], bigint[]) security invoker",
    ] {
        let error = client.batch_execute(statement).await.expect_err(statement);
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{statement}: {error}");
    }
    // Functions with their owner's rights are checked one by one: each is the worker's, or is meant not to be.
    let owners = [
        "ingest_cover",
        "ingest_maintain_dead_letter_count",
        "ingest_check_session",
        "ingest_columns_changed",
        "ingest_parse_columns",
        "ingest_lock_or_create_series",
        "ingest_series_removed",
        "ingest_series_truncated",
    ];
    let rows = fixture
        .client
        .query("select proname::text, proconfig::text from pg_proc where prosecdef and proname like 'ingest%'", &[])
        .await
        .unwrap();
    for row in rows {
        let (name, settings): (String, Option<String>) = (row.get(0), row.get(1));
        assert!(settings.is_some_and(|settings| settings.contains("search_path=")), "{name} has a fixed search_path");
        assert!(roles::FUNCTIONS.contains(&&*name) || owners.contains(&&*name), "whose is {name}?");
    }
    drop((client, worker));
    let admin = connect(&url_with(&fixture.url, "postgres", None)).await;
    fixture.remove().await;
    admin.batch_execute(&format!("drop role {role}")).await.unwrap();
}

/// A change to the rights of the role ROLE, what undoes it, and what `check` and `run` say of it.
const RIGHTS: [(&str, &str, &str); 6] = [
    (
        "revoke insert on time_series_data_points from ROLE",
        "grant insert on time_series_data_points to ROLE",
        "lacks INSERT on time_series_data_points",
    ),
    (
        "revoke select on ingest_progress from ROLE",
        "grant select on ingest_progress to ROLE",
        "lacks SELECT on ingest_progress",
    ),
    (
        "revoke execute on function ingest_claim from ROLE",
        "grant execute on function ingest_claim to ROLE",
        "may not call ingest_claim",
    ),
    (
        "revoke execute on function ingest_lock_series from ROLE",
        "grant execute on function ingest_lock_series to ROLE",
        "may not call ingest_lock_series",
    ),
    (
        "alter function ingest_claim security invoker",
        "alter function ingest_claim security definer",
        "the function ingest_claim runs with the rights of its caller",
    ),
    (
        "alter function ingest_claim owner to ROLE",
        "alter function ingest_claim owner to postgres; grant execute on function ingest_claim to ROLE",
        "the function ingest_claim runs with the rights of",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_a_worker_lacks_are_named_by_check_and_run_and_by_a_worker_that_is_idle() {
    let Some(fixture) = Fixture::new("lacking", 1).await else { return };
    let (role, url) = fixture.worker_role("").await;
    let environment = with(&fixture.environment(), &[("DATABASE_URL", &url)]);
    expect(&environment, &["check"], 0, &["schema: up to date"]);
    for (change, back, problem) in RIGHTS {
        let (change, back) = (change.replace("ROLE", &role), back.replace("ROLE", &role));
        fixture.client.batch_execute(&change).await.unwrap_or_else(|error| panic!("{change}: {error:?}"));
        for command in ["check", "run"] {
            expect(&environment, &[command], 64, &[problem]);
        }
        fixture.client.batch_execute(&back).await.unwrap_or_else(|error| panic!("{back}: {error:?}"));
        expect(&environment, &["check"], 0, &["schema: up to date"]);
    }

    // Nothing comes, and so nothing is refused.
    let worker = fixture.worker(&[("DATABASE_URL", &url)]);
    worker.until_ready().await;
    for (change, back, problem) in [RIGHTS[0], RIGHTS[2], RIGHTS[4]] {
        fixture.client.batch_execute(&change.replace("ROLE", &role)).await.unwrap();
        until_not_ready(&worker, problem).await;
        fixture.client.batch_execute(&back.replace("ROLE", &role)).await.unwrap();
        worker.until_ready().await;
    }
    drop(worker);
    fixture.remove_with_role(&role).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_takes_no_writes_is_the_same_for_every_role_and_for_check_and_run() {
    let Some(fixture) = Fixture::new("read_only", 1).await else { return };
    let (role, url) = fixture.worker_role("").await;
    let setting = format!("alter database {}", fixture.name);
    fixture.client.batch_execute(&format!("{setting} set default_transaction_read_only = on")).await.unwrap();
    for url in [&fixture.url, &url] {
        let environment = with(&fixture.environment(), &[("DATABASE_URL", url)]);
        expect(&environment, &["check"], 69, &["read-only transaction"]);
    }
    // It is waited for, as any outage.
    let worker = fixture.worker(&[("DATABASE_URL", &url)]);
    until_not_ready(&worker, "read-only transaction").await;
    fixture.client.batch_execute(&format!("{setting} reset default_transaction_read_only")).await.unwrap();
    worker.until_ready().await;
    drop(worker);
    fixture.remove_with_role(&role).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_is_no_superuser_migrates_and_redrives_and_its_worker_replaces_points() {
    let Some(fixture) = Fixture::unmigrated("owner", 1).await else { return };
    let (owner, role) = (format!("{}_owner", fixture.name), format!("{}_worker", fixture.name));
    let database = &fixture.name;
    fixture
        .client
        .batch_execute(&format!(
            "create role {owner} login; create role {role} login; alter database {database} owner to {owner}"
        ))
        .await
        .unwrap();
    let by = |user: &str| {
        let url = fixture.url.replacen("postgres@", &format!("{user}@"), 1);
        let replace = ("SERIES_INGEST__POINTS__ON_DUPLICATE", "replace");
        with(&fixture.environment(), &[("DATABASE_URL", &url), replace])
    };
    let (as_owner, as_worker) = (by(&owner), by(&role));
    expect(&as_owner, &["migrate", "--worker-role", &role], 0, &["applied V1", "has the worker's rights"]);
    expect(&as_owner, &["migrate", "--worker-role", &role], 0, &["applied already", "has the worker's rights"]);
    let others = format!(
        "select count(*) from pg_class where relnamespace = 'public'::regnamespace and relowner <> '{owner}'::regrole"
    );
    assert_eq!(fixture.count(&others).await, 0);
    // The extension is trusted: a database's owner may add it.
    let hypertables = "select count(*) from timescaledb_information.hypertables";
    assert_eq!(fixture.count(hypertables).await, 2, "the points and their versions");
    let lifted = "select count(*) from pg_proc where array_to_string(proconfig, ' ') like
                  '%search_path=%max_tuples_decompressed_per_dml_transaction=0%'";
    assert_eq!(fixture.count(lifted).await, 2);
    expect(&as_worker, &["check"], 0, &["schema: up to date"]);
    expect(&as_worker, &["migrate"], 70, &["permission denied for schema public"]);

    let point = |series: &str, value: i32| {
        let points = format!("[{{\"timestamp\": 1325376000, \"column_name\": \"c\", \"value\": {value}}}]");
        let message = format!("{{\"type\": \"point-batch\", \"time_series_id\": \"{series}\", \"points\": {points}}}");
        fixture.producer.send(&fixture.points_topic, 0, series, Some(message.as_bytes()));
        fixture.producer.flush();
    };
    let series = r#"{"type":"series-create","id":"s"}"#;
    fixture.producer.send(&fixture.series_topic, 0, "s", Some(series.as_bytes()));
    fixture.producer.flush();
    let strict = ("SERIES_INGEST__POINTS__UNKNOWN_SERIES", "dead-letter");
    let mut worker = Worker::start(&fixture.name, &as_worker, &[strict]);
    until(60, "the series is there", async || fixture.count("select count(*) from time_series_metadata").await == 1)
        .await;
    for value in [1, 2] {
        point("s", value);
        fixture.until_applied(60).await;
    }
    point("unknown", 3);
    fixture.until_applied(60).await;
    worker.until_ready().await;
    assert_eq!(fixture.count("select sum(value)::bigint from time_series_data_points").await, 2, "the later one, once");
    assert_eq!(worker.terminate(10), Some(0));
    assert!(!worker.log().contains("permission denied"), "{}", worker.log());

    // A worker's role may not touch what was refused before.
    for command in [&["dead-letter", "list"][..], &["dead-letter", "redrive"], &["dead-letter", "purge", "--yes"]] {
        expect(
            &as_worker,
            command,
            64,
            &["42501", "a worker's role may not do this: set database.url to the role that owns"],
        );
        let printed = text(&run(&as_worker, command));
        assert!(!printed.contains("--worker-role"), "it would not help: {printed}");
    }
    expect(&as_owner, &["dead-letter", "list"], 0, &["unknown_series"]);
    expect(&as_owner, &["dead-letter", "redrive"], 0, &["1 dead letters with 1 points written"]);
    assert_eq!(fixture.count("select sum(value)::bigint from time_series_data_points").await, 5);
    drop(worker);
    let admin = connect(&url_with(&fixture.url, "postgres", None)).await;
    fixture.remove().await;
    admin.batch_execute(&format!("drop role {role}; drop role {owner}")).await.unwrap();
}

const PROPERTIES: &str = "SERIES_INGEST__KAFKA__PROPERTIES__";

/// Settings of librdkafka as variables of the environment.
fn properties(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    let variable = |name: &str| format!("{PROPERTIES}{}", name.to_uppercase().replace('.', "_"));
    settings.iter().map(|(name, value)| (variable(name), (*value).to_owned())).collect()
}

/// A token that the broker takes without a signature.
fn bearer_token(user: &str, seconds: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed();
    let claims = serde_json::json!({"sub": user, "iat": now - 1, "exp": now + seconds});
    let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
    format!("{}.{}.", part(r#"{"alg":"none"}"#), part(&claims.to_string()))
}

/// A broker with TLS and users, a fixture on it, and the ways to come to it.
struct Secured {
    authority: Authority,
    broker: SecureBroker,
    fixture: Fixture,
    ca: String,
}

/// A client that the broker refuses: what is wrong with it, its environment, the key of the problem, and the message that it gets.
struct Refused {
    what: &'static str,
    environment: Vec<(String, String)>,
    key: &'static str,
    says: Vec<&'static str>,
}

/// A topic that the user has no right on.
const SECRET_TOPIC: &str = "secret.points";

impl Secured {
    async fn start(test: &str) -> Option<Self> {
        let authority = Authority::new("Test CA");
        let broker = SecureBroker::start(test, &authority).await?;
        let fixture = Fixture::on_broker(&broker.plain, test, 1).await;
        broker.allow(&[&fixture.series_topic, &fixture.points_topic], &fixture.group);
        fixture.broker.create(SECRET_TOPIC, 1, &[]).await;
        let ca = broker.file("ca.pem", &authority.certificate);
        Some(Self { authority, broker, fixture, ca })
    }

    fn by(&self, brokers: &str, protocol: &str, extra: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut environment = with(&self.fixture.environment(), &[("KAFKA_BROKERS", brokers)]);
        environment.extend(properties(&[("security.protocol", protocol), ("ssl.ca.location", &self.ca)]));
        let extra = properties(extra);
        with(&environment, &extra.iter().map(|(name, value)| (&**name, &**value)).collect::<Vec<_>>())
    }

    fn sasl(&self, mechanism: &str, user: &str, password: &str) -> Vec<(String, String)> {
        let names = [("sasl.mechanism", mechanism), ("sasl.username", user), ("sasl.password", password)];
        self.by(&self.broker.sasl, "SASL_SSL", &names)
    }

    fn bearer(&self, token: &str, name: &str) -> Vec<(String, String)> {
        let mut environment = self.by(&self.broker.sasl, "SASL_SSL", &[("sasl.mechanism", "OAUTHBEARER")]);
        environment.push(("SERIES_INGEST__KAFKA__OAUTH_TOKEN_FILE".to_owned(), self.broker.file(name, token)));
        environment
    }

    /// By the user's certificate, of this CA.
    fn certified(&self, authority: &Authority, name: &str) -> Vec<(String, String)> {
        let own = authority.client(USER);
        let certificate = self.broker.file(&format!("{name}.pem"), &own.certificate);
        let key = self.broker.file(&format!("{name}.key"), &own.key);
        self.by(&self.broker.mutual, "SSL", &[("ssl.certificate.location", &certificate), ("ssl.key.location", &key)])
    }

    fn refused(&self) -> Vec<Refused> {
        let stranger = Authority::new("Another CA");
        let other_ca = self.broker.file("other.pem", &stranger.certificate);
        let scram = self.sasl("SCRAM-SHA-512", USER, PASSWORD);
        let topic = |key: &str| with(&scram, &[(key, SECRET_TOPIC)]);
        let case =
            |what, environment, key, says: &[&'static str]| Refused { what, environment, key, says: says.to_vec() };
        let properties = "kafka.properties";
        let mut cases = vec![
            case(
                "wrong CA",
                self.by(&self.broker.encrypted, "SSL", &[("ssl.ca.location", &other_ca)]),
                properties,
                &["is of a CA that is not known", "ssl.ca.location"],
            ),
            case("expired", self.by(&self.broker.expired, "SSL", &[]), properties, &["has expired", "renew it"]),
            case(
                "wrong host name",
                self.by(&self.broker.foreign, "SSL", &[]),
                properties,
                &["is for another host", "elsewhere.example"],
            ),
            case(
                "expired token",
                self.bearer(&bearer_token(USER, -10), "old"),
                properties,
                &["has expired", "oauth_token"],
            ),
            case("no certificate", self.by(&self.broker.mutual, "SSL", &[]), properties, &[CERTIFICATE]),
            case("certificate of another CA", self.certified(&stranger, "stranger"), properties, &[CERTIFICATE]),
            case("no credentials", self.by(&self.broker.sasl, "SSL", &[]), properties, &["SASL", "security.protocol"]),
            case(
                "no right on the topic",
                topic("SERIES_INGEST__KAFKA__POINTS_TOPIC"),
                "kafka.points_topic",
                &[SECRET_TOPIC, "uthoriz"],
            ),
            case(
                "no right on the topic of series",
                topic("SERIES_INGEST__KAFKA__SERIES_TOPIC"),
                "kafka.series_topic",
                &[SECRET_TOPIC, "uthoriz"],
            ),
            case(
                "no right on the group",
                with(&scram, &[("SERIES_INGEST__KAFKA__GROUP_ID", "another-group")]),
                "kafka.group_id",
                &["READ the group"],
            ),
        ];
        for mechanism in ["SCRAM-SHA-512", "PLAIN"] {
            let environment = self.sasl(mechanism, USER, "wrong-password");
            cases.push(case("wrong password", environment, properties, &["refuses this client's credentials"]));
        }
        cases
    }

    /// What says that TLS is where it must not be, or is not where it must be.
    fn wrong_protocol(&self) -> Vec<Refused> {
        let properties = "kafka.properties";
        let case = |what, environment, says: &[&'static str]| Refused {
            what,
            environment,
            key: properties,
            says: says.to_vec(),
        };
        let sasl = [("sasl.mechanism", "PLAIN"), ("sasl.username", USER), ("sasl.password", PASSWORD)];
        vec![
            case(
                "in plaintext",
                self.by(&self.broker.encrypted, "PLAINTEXT", &[]),
                &["takes TLS only", "set it to SSL or SASL_SSL", "security.protocol"],
            ),
            case(
                "credentials in plaintext",
                self.by(&self.broker.sasl, "SASL_PLAINTEXT", &sasl),
                &["takes TLS only", "set it to SSL or SASL_SSL", "security.protocol"],
            ),
            case(
                "TLS to a listener without it",
                self.by(&self.broker.plain, "SSL", &[]),
                &["no TLS", "security.protocol"],
            ),
        ]
    }

    /// That none of these clients has sent anything but TLS, nor anything that the test would know.
    fn assert_only_tls(&self, sent: &[Vec<u8>]) {
        assert!(sent.iter().any(|sent| !sent.is_empty()), "the clients came by the taps");
        let plain = format!("\0{USER}\0{PASSWORD}");
        for sent in sent {
            let at = &sent[..sent.len().min(64)];
            assert!(is_tls(sent), "{} bytes that begin with {at:?}", sent.len());
            for part in [
                &plain,
                USER,
                PASSWORD,
                "wrong-password",
                &self.fixture.points_topic,
                SECRET_TOPIC,
                &self.fixture.group,
                IN_CLEAR,
            ] {
                assert!(!contains(sent, part), "{part:?} is seen");
            }
        }
    }
}

/// What each client of this program says first in its first request.
const IN_CLEAR: &str = "series-ingest";

const CERTIFICATE: &str = "does not accept this client's certificate, or asks for one";

/// Runs `check` for all of them at once.
async fn check_all(cases: Vec<Refused>, code_of: impl Fn(&Refused) -> i32) {
    let checks: Vec<_> = cases
        .into_iter()
        .map(|case| {
            let code = code_of(&case);
            tokio::task::spawn_blocking(move || (run(&case.environment, &["check"]), case, code))
        })
        .collect();
    let mut wrong = Vec::new();
    for check in checks {
        let (output, Refused { what, key, says, .. }, code) = check.await.unwrap();
        let printed = text(&output);
        let is_said = printed.contains(&format!("{key}: ")) && says.iter().all(|part| printed.contains(part));
        if output.status.code() != Some(code) || !is_said {
            wrong.push(format!("{what}: {:?}, {key}, {says:?}\n{printed}", output.status.code()));
        }
        assert!(!printed.contains(PASSWORD) && !printed.contains("wrong-password"), "{what}: {printed}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_is_reached_by_tls_and_sasl_or_each_refusal_says_what_is_wrong() {
    let Some(secured) = Secured::start("sasl").await else { return };
    let fine = |what, environment| Refused { what, environment, key: "kafka", says: vec!["kafka: cluster", "id "] };
    let right = vec![
        fine("SCRAM-SHA-512", secured.sasl("SCRAM-SHA-512", USER, PASSWORD)),
        fine("SCRAM-SHA-256", secured.sasl("SCRAM-SHA-256", USER, PASSWORD)),
        fine("PLAIN", secured.sasl("PLAIN", USER, PASSWORD)),
        fine("OAUTHBEARER", secured.bearer(&bearer_token(USER, 3600), "token")),
        fine("TLS", secured.by(&secured.broker.encrypted, "SSL", &[])),
        fine("client certificate", secured.certified(&secured.authority, "user")),
    ];
    check_all(right, |_| 0).await;
    check_all(secured.refused(), |case| if case.key == "kafka.properties" { 69 } else { 64 }).await;
    secured.assert_only_tls(&secured.broker.sent());

    // A client that is configured to speak in plaintext is recorded by the proxies, sends no credentials, and learns what to change.
    check_all(secured.wrong_protocol(), |_| 69).await;
    let sent = secured.broker.sent();
    assert!(sent.iter().any(|sent| !is_tls(sent) && contains(sent, IN_CLEAR)), "what is in plaintext is seen");
    assert!(!sent.iter().any(|sent| contains(sent, PASSWORD)), "credentials are seen");
    secured.fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_kafka_refuses_says_why_and_is_not_ready_and_sends_nothing_in_clear() {
    let Some(secured) = Secured::start("refused").await else { return };
    let Secured { broker, fixture, .. } = &secured;
    let start = |environment: &[(String, String)]| Worker::start(&fixture.name, environment, &[]);
    let cases: Vec<(Refused, Worker)> = secured
        .refused()
        .into_iter()
        .map(|case| {
            let worker = start(&case.environment);
            (case, worker)
        })
        .collect();
    // One that is not refused works meanwhile.
    let mut published = Published::default();
    fixture.publish(&mut published, 20, 25);
    let meanwhile = start(&secured.bearer(&bearer_token(USER, 3600), "meanwhile"));
    for (case, worker) in &cases {
        for part in &case.says {
            until_not_ready(worker, part).await;
        }
        // A refusal of the group is reported by the group's own sign first.
        until_not_ready(worker, "kafka: ").await;
        until(30, case.what, async || case.says.iter().all(|part| worker.log().contains(part))).await;
        assert!(!worker.log().contains("wrong-password") && !worker.log().contains(PASSWORD));
    }
    drop(cases);
    fixture.until_applied(60).await;
    meanwhile.until_ready().await;
    drop(meanwhile);
    let token = broker.file("short-token", &bearer_token(USER, 15));
    let worker = start(&with(&secured.bearer("", "x"), &[("SERIES_INGEST__KAFKA__OAUTH_TOKEN_FILE", &token)]));
    worker.until_ready().await;
    // Its token soon expires: the file has a new one, which new connections need.
    broker.file("short-token", &bearer_token(USER, 3600));
    tokio::time::sleep(Duration::from_secs(16)).await;
    fixture.publish(&mut published, 20, 25);
    fixture.until_applied(60).await;
    fixture.assert_exact(&published).await;
    worker.until_ready().await;
    drop(worker);
    let by_certificate = start(&secured.certified(&secured.authority, "user"));
    fixture.publish(&mut published, 20, 25);
    fixture.until_applied(60).await;
    fixture.assert_exact(&published).await;
    by_certificate.until_ready().await;
    drop(by_certificate);
    secured.assert_only_tls(&broker.sent());

    let cases = secured.wrong_protocol();
    let workers: Vec<Worker> = cases.iter().map(|case| start(&case.environment)).collect();
    for (case, worker) in cases.iter().zip(&workers) {
        for part in &case.says {
            until_not_ready(worker, part).await;
        }
    }
    drop(workers);
    secured.fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_may_not_see_a_topics_settings_is_told_what_to_allow_and_works() {
    let Some(secured) = Secured::start("settings").await else { return };
    let Secured { broker, fixture, .. } = &secured;
    let environment = secured.sasl("SCRAM-SHA-512", USER, PASSWORD);
    let topics = [("kafka.series_topic", &fixture.series_topic), ("kafka.points_topic", &fixture.points_topic)];
    let output = run(&environment, &["check"]);
    let printed = text(&output);
    assert_eq!(output.status.code(), Some(0), "{printed}");
    for (key, topic) in topics {
        let begin = format!("warning: {key}: this client's user may not ask for the settings of topic {topic}: ");
        let line = printed.lines().find(|line| line.starts_with(&begin)).unwrap_or_default();
        assert!(line.contains("allow it to DESCRIBE_CONFIGS the topic"), "{key}: {printed}");
    }

    let mut published = Published::default();
    fixture.publish(&mut published, 20, 25);
    let worker = Worker::start(&fixture.name, &environment, &[]);
    fixture.until_applied(60).await;
    worker.until_ready().await;
    // The first time was for `check`.
    let asked = |topic: &str| broker.denied("DESCRIBE_CONFIGS", topic) - 1;
    until(120, "it has asked three times", async || topics.iter().all(|(_, topic)| asked(topic) >= 3)).await;
    for (_, topic) in topics {
        let said = [" WARN ", "the settings of a topic are not known", topic, "DESCRIBE_CONFIGS"];
        let is_said = |line: &&str| said.iter().all(|part| line.contains(part));
        assert_eq!(worker.log().lines().filter(is_said).count(), 1, "{topic}: {}", worker.log());
    }
    assert_eq!(worker.get("/readyz").unwrap().0, 200);
    fixture.assert_exact(&published).await;
    drop(worker);
    secured.fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_reads_with_a_password_by_each_mechanism() {
    let Some(secured) = Secured::start("password").await else { return };
    let Secured { fixture, .. } = &secured;
    let mut published = Published::default();
    for mechanism in ["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] {
        fixture.publish(&mut published, 20, 25);
        let mut worker = Worker::start(&fixture.name, &secured.sasl(mechanism, USER, PASSWORD), &[]);
        fixture.until_applied(60).await;
        worker.until_ready().await;
        assert_eq!(worker.terminate(10), Some(0));
    }
    fixture.assert_exact(&published).await;
    secured.fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_dead_letters_take_a_right_and_a_token_and_wait_for_both() {
    let Some(secured) = Secured::start("copies").await else { return };
    let Secured { broker, fixture, .. } = &secured;
    fixture.broker.create("dead.letters", 1, &[]).await;
    fixture.producer.send(&fixture.points_topic, 0, "s", Some(b"{"));
    let mut published = Published::default();
    fixture.publish(&mut published, 20, 25);
    let environment = secured.bearer(&bearer_token(USER, 3600), "token");
    let topic = [("SERIES_INGEST__KAFKA__DEAD_LETTER_TOPIC", "dead.letters")];
    let worker = Worker::start(&fixture.name, &environment, &topic);
    let problem = || {
        let status: serde_json::Value = serde_json::from_str(&worker.get("/status").unwrap().1).unwrap();
        assert_eq!(status["dead_letter_topic"]["name"], "dead.letters");
        status["dead_letter_topic"]["problem"]["reason"].as_str().map(str::to_owned)
    };
    fixture.until_applied(60).await;
    until(60, "it says what it lacks", async || problem().is_some_and(|why| why.contains("WRITE and DESCRIBE"))).await;
    assert!(worker.log().contains("copies of dead letters were not published"), "{}", worker.log());
    let failed = worker.metric("series_ingest_dead_letters_published_total{outcome=\"failed\"}");
    assert!(failed.is_some_and(|count| count >= 1.0), "{failed:?}");
    assert_eq!(fixture.difference(&published).await, Default::default());
    // Nothing waits for copies.
    worker.until_ready().await;
    broker.allow_to_write("dead.letters");
    until(60, "the copy is there", async || fixture.broker.offsets("dead.letters", 0).len() == 1).await;
    until(60, "the problem is over", async || problem().is_none()).await;
    worker.until_ready().await;
    drop(worker);
    secured.assert_only_tls(&broker.sent());
    secured.fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_of_kafka_that_is_rotated_in_its_file_needs_no_restart() {
    let Some(secured) = Secured::start("rotated").await else { return };
    let Secured { broker, fixture, .. } = &secured;
    fixture.broker.create("rotated.letters", 1, &[]).await;
    broker.allow_to_write("rotated.letters");
    let mut published = Published::default();
    fixture.publish(&mut published, 20, 25);
    fixture.producer.send(&fixture.points_topic, 0, "s", Some(b"{"));
    fixture.producer.flush();
    let password = broker.file("password", "of-yesterday\n");
    let scram = [("sasl.mechanism", "SCRAM-SHA-512"), ("sasl.username", USER)];
    let mut environment = secured.by(&broker.sasl, "SASL_SSL", &scram);
    environment.push(("SERIES_INGEST__KAFKA__PROPERTIES_FILES__SASL_PASSWORD".to_owned(), password.clone()));
    environment.push(("SERIES_INGEST__KAFKA__DEAD_LETTER_TOPIC".to_owned(), "rotated.letters".to_owned()));
    let worker = Worker::start(&fixture.name, &environment, &[]);
    until_not_ready(&worker, "sasl.password").await;
    // A file that is replaced may be missing for a moment.
    std::fs::remove_file(&password).unwrap();
    until(30, "it is said", async || worker.log().contains("cannot be read again; the earlier ones are used")).await;
    broker.file("password", PASSWORD);
    worker.until_ready().await;
    fixture.until_applied(60).await;
    assert_eq!(fixture.difference(&published).await, Default::default());
    // The producer of copies is another client, which was refused as well.
    until(60, "the copy is there", async || fixture.broker.offsets("rotated.letters", 0).len() == 1).await;
    let log = worker.log();
    assert!(log.contains("the credentials of Kafka have changed in their files"), "{log}");
    assert!(!log.contains(PASSWORD) && !log.contains("of-yesterday"), "{log}");
    drop(worker);
    secured.fixture.remove().await;
}

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
