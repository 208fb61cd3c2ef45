//! The rights of the worker's role.

use series_ingest::database::schema::roles;
use tokio_postgres::error::SqlState;

use super::{expect, until_not_ready, with};
use crate::support::data::Published;
use crate::support::fixture::{Fixture, connect, url_with};
use crate::support::proxy::Proxy;
use crate::support::until;
use crate::support::worker::{Worker, run, text};

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
        "ingest_chunks_before",
        "ingest_is_hypertable",
        "ingest_maintain_dead_letter_count",
        "ingest_check_session",
        "ingest_columns_changed",
        "ingest_parse_columns",
        "ingest_parse_definitions",
        "ingest_payload_series",
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
async fn an_owner_that_is_not_a_superuser_migrates_and_redrives_and_its_worker_replaces_points() {
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
            &["42501", "an editor's role may not do this: set database.url to the role that owns"],
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
