//! What may change while a worker runs, and is asked again for each connection: secrets in files, hosts that answer, columns.

use std::path::Path;

use crate::support::data::Published;
use crate::support::fixture::{Fixture, connect};
use crate::support::server::Server;
use crate::support::until;
use crate::support::worker::{run, text};

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_in_files_are_read_again_for_each_connection() {
    let Some(server) = Server::start("rotation").await else { return };
    server.put("pg_hba.conf", "host all rotated 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n");
    server.reload(&["alter system set password_encryption = 'scram-sha-256'"]).await;
    let fixture = Fixture::on(&server, "rotation", 1).await;
    fixture.client.batch_execute("create role rotated superuser login password 'first'").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (password, url) = (folder.path().join("password"), folder.path().join("url"));
    let with = |user: &str| fixture.url.replace("postgres@", user);
    write(&password, "first\n");
    write(&url, &with("rotated:first@"));
    let by_password = [
        ("DATABASE_URL", with("rotated@")),
        ("SERIES_INGEST__DATABASE__PASSWORD_FILE", password.to_str().unwrap().to_owned()),
    ];
    let by_url =
        [("DATABASE_URL", String::new()), ("SERIES_INGEST__DATABASE__URL_FILE", url.to_str().unwrap().to_owned())];
    let rotate = async |to: &str, before: &dyn Fn(), after: &dyn Fn()| {
        before();
        fixture.client.batch_execute(&format!("alter role rotated password '{to}'")).await.unwrap();
        after();
        // As an age limit would: the worker needs new connections.
        fixture
            .client
            .batch_execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'rotated'")
            .await
            .unwrap();
    };
    let mut published = Published::default();
    for settings in [by_password, by_url] {
        let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let worker = fixture.worker(&settings);
        fixture.publish(&mut published, 10, 10);
        fixture.until_applied(60).await;
        rotate("second", &|| (), &|| {
            write(&password, "second\n");
            write(&url, &with("rotated:second@"));
        })
        .await;
        fixture.publish(&mut published, 10, 10);
        fixture.until_applied(60).await;
        // A file that is not there for a moment, as when it is replaced: what it said before is used, and that is said.
        std::fs::remove_file(&password).unwrap();
        std::fs::remove_file(&url).unwrap();
        rotate("second", &|| (), &|| ()).await;
        fixture.publish(&mut published, 10, 10);
        fixture.until_applied(60).await;
        assert!(worker.log().contains("a file of secrets cannot be read"), "{}", worker.log());
        rotate("first", &|| (), &|| {
            write(&password, "first\n");
            write(&url, &with("rotated:first@"));
        })
        .await;
        fixture.publish(&mut published, 10, 10);
        fixture.until_applied(60).await;
        fixture.assert_exact(&published).await;
        for secret in ["rotated:", "=first", "=second"] {
            assert!(!worker.log().contains(secret), "{secret}: {}", worker.log());
        }
        drop(worker);
    }
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_host_keeps_no_other_from_being_tried() {
    let Some(fixture) = Fixture::new("hosts_silent", 1).await else { return };
    // It takes connections, and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("127.0.0.1:{}", silent.local_addr().unwrap().port());
    let refused = "127.0.0.1:1";
    let url = |hosts: &str, query: &str| fixture.url.replace(&fixture.server(), hosts) + query;
    let server = fixture.server();
    let (_, port) = server.rsplit_once(':').unwrap();
    let mut published = Published::default();
    for (hosts, query) in [
        (format!("{silent},{server}"), "".to_owned()),
        (format!("{silent},{refused},{server}"), "?target_session_attrs=read-write".to_owned()),
        (format!("{refused},{server}"), "?load_balance_hosts=random".to_owned()),
        // With addresses alongside names.
        (format!("silent.example:{},there.example:{port}", &silent[10..]), "?hostaddr=127.0.0.1,127.0.0.1".to_owned()),
    ] {
        let url = url(&hosts, &query);
        let settings = [("DATABASE_URL", url.as_str()), ("SERIES_INGEST__DATABASE__CONNECT_TIMEOUT_MS", "1000")];
        let settings = [&settings[..], &[("SERIES_INGEST__DATABASE__SSLMODE", "disable")]].concat();
        let worker = fixture.worker(&settings);
        fixture.publish(&mut published, 10, 10);
        fixture.until_applied(60).await;
        drop(worker);
    }
    fixture.assert_exact(&published).await;
    // None answers: each is named.
    let mut environment = fixture.environment();
    environment.retain(|(name, _)| name != "DATABASE_URL");
    environment.push(("DATABASE_URL".to_owned(), url(&format!("{silent},{refused}"), "")));
    environment.push(("SERIES_INGEST__DATABASE__CONNECT_TIMEOUT_MS".to_owned(), "1000".to_owned()));
    for arguments in [&["progress", "show"][..], &["check"], &["migrate"]] {
        let output = run(&environment, arguments);
        let text = text(&output);
        assert_eq!(output.status.code(), Some(69), "{arguments:?}: {text}");
        for part in [&format!("{silent}: "), "no answer within 1000 ms", &format!("{refused}: "), "Connection refused"]
        {
            assert!(text.contains(part), "{arguments:?} {part}: {text}");
        }
    }
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_another_type_makes_the_worker_unready_and_is_named() {
    let Some(fixture) = Fixture::new("column_changed", 1).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut published = Published::default();
    let worker = fixture.worker(&[
        ("SERIES_INGEST__JOURNAL__ENABLED", "true"),
        ("SERIES_INGEST__JOURNAL__DIRECTORY", folder.path().join("journal").to_str().unwrap()),
        ("SERIES_INGEST__JOURNAL__MIN_FREE_BYTES", "0"),
    ]);
    // Four bytes instead of eight violate the protocol; eight bytes of another kind would be taken for what they are not.
    for (other, back) in [("real", "double precision"), ("bigint", "double precision")] {
        fixture.publish(&mut published, 10, 10);
        fixture.until_applied(60).await;
        worker.until_mode("streaming").await;
        fixture
            .client
            .batch_execute(&format!(
                "truncate time_series_data_points; alter table time_series_data_points alter value type {other}"
            ))
            .await
            .unwrap();
        published.rows.clear();
        fixture.publish(&mut published, 10, 10);
        until(30, "unready, with the column", async || {
            worker.get("/readyz").is_some_and(|(code, why)| {
                code == 503
                    && why.contains("(internal)")
                    && why.contains(&format!("column value of time_series_data_points is of type {other}"))
            })
        })
        .await;
        assert_eq!(fixture.count_points().await, 0);
        fixture
            .client
            .batch_execute(&format!("alter table time_series_data_points alter value type {back}"))
            .await
            .unwrap();
        fixture.until_applied(60).await;
        fixture.assert_exact(&published).await;
        until(30, "ready again", async || worker.get("/readyz").unwrap().0 == 200).await;
    }
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn timeouts_of_the_database_do_not_hold_for_the_workers_sessions() {
    let Some(fixture) = Fixture::new("time_outs", 1).await else { return };
    for setting in [
        "transaction_timeout = '200ms'",
        "idle_session_timeout = '200ms'",
        "statement_timeout = '200ms'",
        "lock_timeout = '200ms'",
        "idle_in_transaction_session_timeout = '200ms'",
    ] {
        fixture.client.batch_execute(&format!("alter database {} set {setting}", fixture.name)).await.unwrap();
    }
    let worker = fixture.worker(&[]);
    let mut published = Published::default();
    fixture.publish(&mut published, 50, 10);
    fixture.until_applied(60).await;
    // A transaction, and a wait for a lock, that take longer than any of these.
    let holder = connect(&fixture.url).await;
    holder
        .batch_execute(
            "set transaction_timeout = 0; set statement_timeout = 0; set idle_in_transaction_session_timeout = 0;
             begin; select from ingest_progress for update",
        )
        .await
        .unwrap();
    fixture.publish(&mut published, 50, 10);
    until(30, "the claim waits", async || fixture.waiting_for_locks().await == 1).await;
    holder.batch_execute("select pg_sleep(0.6); rollback").await.unwrap();
    fixture.until_applied(60).await;
    fixture.assert_exact(&published).await;
    for code in ["25P04", "57P05", "57014", "55P03"] {
        assert!(!worker.log().contains(code), "{code}: {}", worker.log());
    }
    drop(worker);
    fixture.remove().await;
}
