//! What protects the tables, and is not this program's: triggers, rules, constraints, a restore in progress. Nothing of it
//! is skipped together with the foreign key's trigger, and points land in the hypertable's chunks or nowhere.

use tokio_postgres::error::SqlState;

use crate::support::fixture::{Fixture, connect};
use crate::support::until;
use crate::support::worker::{Worker, run, text};

const IN_ROOT: &str = "select count(*) from only time_series_data_points";

/// Runs a statement on its own connection: these functions change their session as well.
async fn apart(fixture: &Fixture, sql: &str) {
    connect(&fixture.url).await.batch_execute(sql).await.unwrap();
}

async fn end_workers_sessions(fixture: &Fixture) {
    let sql = "select pg_terminate_backend(pid) from pg_stat_activity
               where datname = current_database() and application_name = 'series-ingest'";
    fixture.client.query(sql, &[]).await.unwrap();
}

/// Waits until the worker is not ready, by a fault of class *ours* whose text has these words.
async fn until_refused(worker: &Worker, words: &str) {
    until(30, &format!("unready: {words}"), async || {
        let errors = worker.metric("series_ingest_database_errors_total{class=\"internal\"}");
        let Some((503, body)) = worker.get("/readyz") else { return false };
        errors >= Some(1.0) && body.contains(words)
    })
    .await;
}

fn with_role(fixture: &Fixture, role: &str) -> String {
    format!("postgresql://{role}@{}/{}", fixture.server(), fixture.name)
}

/// A role with the worker's rights only.
async fn make_role(fixture: &Fixture) -> String {
    let role = format!("{}_worker", fixture.name);
    fixture.client.batch_execute(&format!("create role {role} login")).await.unwrap();
    let granted = run(&fixture.environment(), &["migrate", "--worker-role", &role]);
    assert!(granted.status.success(), "{}", text(&granted));
    role
}

async fn drop_role(fixture: &Fixture, role: &str) {
    fixture.client.batch_execute(&format!("drop owned by {role}; drop role {role}")).await.unwrap();
}

/// A restore begins and ends while a worker runs; with `new_sessions` all its sessions are opened meanwhile.
async fn restore(fixture: &Fixture, worker: &Worker, new_sessions: bool) {
    let (before, points) = (fixture.next_offsets().await, fixture.count_points().await);
    apart(fixture, "select timescaledb_pre_restore()").await;
    if new_sessions {
        end_workers_sessions(fixture).await;
    }
    for number in 0..10 {
        fixture.send_point("s", 1000 + number);
    }
    fixture.producer.send(&fixture.points_topic, 0, "s", Some(b"no JSON"));
    fixture.producer.flush();
    until_refused(worker, "a restore of the database").await;
    assert_eq!((fixture.next_offsets().await, fixture.count_points().await), (before, points), "nothing moves");
    assert_eq!(fixture.count(IN_ROOT).await, 0);
    apart(fixture, "select timescaledb_post_restore()").await;
    fixture.until_applied(30).await;
    assert_eq!((fixture.count_points().await, fixture.count(IN_ROOT).await), (points + 10, 0));
    until(30, "ready", async || worker.get("/readyz").is_some_and(|(code, _)| code == 200)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_in_a_restore_and_all_of_it_afterwards() {
    let Some(fixture) = Fixture::new("restore_superuser", 1).await else { return };
    let worker = fixture.worker(&[]);
    fixture.send_point("s", 0);
    fixture.producer.flush();
    fixture.until_applied(60).await;
    for new_sessions in [false, true] {
        restore(&fixture, &worker, new_sessions).await;
    }
    drop(worker);
    // One that starts meanwhile waits.
    apart(&fixture, "select timescaledb_pre_restore()").await;
    let check = run(&fixture.environment(), &["check"]);
    assert!(!check.status.success() && text(&check).contains("a restore of the database"), "{}", text(&check));
    let worker = fixture.worker(&[]);
    fixture.send_point("s", 1);
    fixture.producer.flush();
    until(30, "it says what it waits for", async || {
        worker.get("/readyz").is_some_and(|(code, body)| code == 503 && body.contains("a restore of the database"))
    })
    .await;
    apart(&fixture, "select timescaledb_post_restore()").await;
    fixture.until_applied(60).await;
    assert_eq!((fixture.count_points().await, fixture.count(IN_ROOT).await), (22, 0));
    drop(worker);
    fixture.remove().await;
}

/// What is in the tables and how many chunks there are, so that it can be compared.
async fn contents(fixture: &Fixture) -> Vec<String> {
    let tables = [
        "time_series_metadata",
        "time_series_data_points",
        "ingest_series",
        "ingest_source",
        "ingest_progress",
        "ingest_gap",
        "ingest_dead_letter",
        "ingest_dead_letter_count",
        "ingest_point_version",
        "_timescaledb_catalog.chunk",
    ];
    let mut all = Vec::new();
    for table in tables {
        let sql = format!("select coalesce(string_agg(t::text, '; ' order by t::text), '') from {table} as t");
        let rows: String = fixture.client.query_one(&sql, &[]).await.unwrap().get(0);
        all.push(format!("{table}: {rows}"));
    }
    all
}

/// A row that the worker adds in a restore is one that the restore adds as well, and fails on.
#[tokio::test(flavor = "multi_thread")]
async fn no_series_source_or_progress_is_added_in_a_restore() {
    let Some(mut fixture) = Fixture::new("restore_new", 1).await else { return };
    let journal = tempfile::tempdir().unwrap();
    let directory = journal.path().join("journal").to_str().unwrap().to_owned();
    let settings = [
        ("SERIES_INGEST__JOURNAL__ENABLED", "true"),
        ("SERIES_INGEST__JOURNAL__DIRECTORY", &directory),
        ("SERIES_INGEST__JOURNAL__MIN_FREE_BYTES", "0"),
    ];
    for extra in [&[][..], &settings[..]] {
        let mut worker = fixture.worker(extra);
        fixture.send_point("s", 0);
        fixture.producer.flush();
        fixture.until_applied(60).await;
        let points = fixture.count_points().await;
        apart(&fixture, "select timescaledb_pre_restore()").await;
        let before = contents(&fixture).await;
        let (new, defined) = (format!("new{points}"), format!("defined{points}"));
        // In a chunk that is not there.
        fixture.send_point(&new, 1_000_000_000 + points * 100_000_000);
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(b"no JSON"));
        let definition = format!(r#"{{"type":"series-create","id":"{defined}","name":"d"}}"#);
        fixture.producer.send(&fixture.series_topic, 0, &defined, Some(definition.as_bytes()));
        fixture.producer.flush();
        fixture.partitions += 1;
        fixture.broker.add_partitions(&fixture.points_topic, fixture.partitions as usize).await;
        until_refused(&worker, "a restore of the database").await;
        let refused =
            async || worker.metric("series_ingest_database_errors_total{class=\"internal\"}").unwrap_or_default();
        let first = refused().await;
        until(30, "it has tried again and again", async || refused().await >= first + 20.0).await;
        assert_eq!(contents(&fixture).await, before, "nothing is written");
        apart(&fixture, "select timescaledb_post_restore()").await;
        fixture.until_applied(60).await;
        assert_eq!(fixture.count_points().await, points + 1);
        let sql = format!("select count(*) from time_series_metadata where id in ('{new}', '{defined}')");
        until(30, "both series", async || fixture.count(&sql).await == 2).await;
        assert_eq!(worker.terminate(10), Some(0));
    }
    fixture.remove().await;
}

/// The sessions that were opened in the restore do not outlive it.
#[tokio::test(flavor = "multi_thread")]
async fn a_restricted_role_goes_on_after_a_restore() {
    let Some(fixture) = Fixture::new("restore_role", 1).await else { return };
    let role = make_role(&fixture).await;
    let worker = fixture.worker(&[("DATABASE_URL", &with_role(&fixture, &role))]);
    fixture.send_point("s", 0);
    fixture.producer.flush();
    fixture.until_applied(60).await;
    for new_sessions in [true, false] {
        restore(&fixture, &worker, new_sessions).await;
    }
    drop(worker);
    drop_role(&fixture, &role).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_whose_sessions_are_replicas_gets_no_point_without_its_series() {
    let Some(fixture) = Fixture::new("replica", 1).await else { return };
    let role = make_role(&fixture).await;
    let set = format!("alter database {} set session_replication_role = replica", fixture.name);
    let reset = format!("alter database {} reset session_replication_role", fixture.name);
    fixture.client.batch_execute(&set).await.unwrap();
    // Who may set it back does.
    let mut worker = fixture.worker(&[]);
    fixture.send_point("s", 0);
    fixture.producer.send(&fixture.points_topic, 0, "s", Some(b"no JSON"));
    fixture.producer.flush();
    fixture.until_applied(60).await;
    assert_eq!(
        (fixture.count_points().await, fixture.count("select count(*) from time_series_metadata").await),
        (1, 1)
    );
    // The program's own triggers count, too.
    assert_eq!(fixture.count("select sum(kept)::bigint from ingest_dead_letter_count").await, 1);
    assert_eq!(worker.terminate(10), Some(0));

    // Who may not is refused, by name.
    let url = with_role(&fixture, &role);
    let mut environment = fixture.environment();
    environment.push(("DATABASE_URL".to_owned(), url.clone()));
    for command in ["check", "run"] {
        let refused = run(&environment, &[command]);
        assert_eq!(refused.status.code(), Some(64), "{command}: {}", text(&refused));
        assert!(text(&refused).contains("reset session_replication_role"), "{command}: {}", text(&refused));
    }
    fixture.client.batch_execute(&reset).await.unwrap();
    let worker = fixture.worker(&[("DATABASE_URL", &url)]);
    fixture.send_point("t", 1);
    fixture.producer.flush();
    fixture.until_applied(60).await;
    // While it runs.
    fixture.client.batch_execute(&set).await.unwrap();
    end_workers_sessions(&fixture).await;
    fixture.send_point("u", 2);
    fixture.producer.flush();
    until_refused(&worker, "session_replication_role is replica").await;
    assert_eq!(fixture.count_points().await, 2);
    fixture.client.batch_execute(&reset).await.unwrap();
    fixture.until_applied(30).await;
    assert_eq!(
        (fixture.count_points().await, fixture.count("select count(*) from time_series_metadata").await),
        (3, 3)
    );
    drop(worker);
    drop_role(&fixture, &role).await;
    fixture.remove().await;
}

/// What session_replication_role skips besides the foreign key's trigger, how it is made and how it is dropped.
const GUARDS: [(&str, &str, &str); 15] = [
    (
        "a trigger",
        "create trigger g after insert on time_series_data_points for each row execute function nothing()",
        "drop trigger g on time_series_data_points",
    ),
    (
        "a trigger that fires always, whose function's tables have others",
        "create trigger g after insert on ingest_point_version for each row execute function nothing();
      alter table ingest_point_version enable always trigger g",
        "drop trigger g on ingest_point_version",
    ),
    (
        "a trigger for replicas",
        "create trigger g after insert on ingest_point_version for each row execute function nothing();
      alter table ingest_point_version enable replica trigger g",
        "drop trigger g on ingest_point_version",
    ),
    (
        "a trigger of one chunk",
        "do $$ begin execute format('create trigger g after insert on %s for each row execute function nothing()',
          (select inhrelid::regclass from pg_inherits where inhparent = 'time_series_data_points'::regclass)); end $$",
        "do $$ begin execute format('drop trigger g on %s',
          (select inhrelid::regclass from pg_inherits where inhparent = 'time_series_data_points'::regclass)); end $$",
    ),
    (
        "a trigger with the name of TimescaleDB's",
        "create trigger ts_insert_blocker before insert on ingest_point_version for each row execute function nothing()",
        "drop trigger ts_insert_blocker on ingest_point_version",
    ),
    (
        "a trigger on versions of points",
        "create trigger g after insert on ingest_point_version for each row execute function nothing()",
        "drop trigger g on ingest_point_version",
    ),
    (
        "a rule",
        "create rule g as on insert to ingest_point_version do also notify g",
        "drop rule g on ingest_point_version",
    ),
    (
        "a constraint trigger",
        "create constraint trigger g after insert on ingest_point_version deferrable for each row execute function nothing()",
        "drop trigger g on ingest_point_version",
    ),
    (
        "a deferrable constraint",
        "alter table ingest_point_version add constraint g unique (time_series_id, column_name, \"timestamp\") deferrable",
        "alter table ingest_point_version drop constraint g",
    ),
    (
        "another foreign key",
        "create table g (name text primary key); insert into g values ('c');
      alter table time_series_data_points add constraint g foreign key (column_name) references g",
        "alter table time_series_data_points drop constraint g; drop table g",
    ),
    (
        "a foreign key of another table",
        "create table g (series text, name text, at timestamptz,
          foreign key (series, name, at) references ingest_point_version (time_series_id, column_name, \"timestamp\"))",
        "drop table g",
    ),
    (
        "an event trigger",
        "create event trigger g on ddl_command_end execute function nothing_of_events()",
        "drop event trigger g",
    ),
    (
        "a function in a constraint",
        "alter table time_series_data_points add constraint g check (is_fine(value))",
        "alter table time_series_data_points drop constraint g",
    ),
    (
        "a function in a default",
        "alter table time_series_data_points add column g boolean default is_fine(1)",
        "alter table time_series_data_points drop column g",
    ),
    (
        "row-level security",
        "alter table ingest_point_version enable row level security",
        "alter table ingest_point_version disable row level security",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_the_foreign_keys_trigger_is_skipped() {
    let Some(fixture) =
        Fixture::with_profile("guards", 1, series_ingest::database::schema::profile::Profile::Standard).await
    else {
        return;
    };
    fixture.client
        .batch_execute(
            "insert into time_series_metadata (id, name) values ('s', '');
             insert into time_series_data_points (time_series_id, \"timestamp\", column_name) values ('s', now(), 'c');
             create function nothing() returns trigger language plpgsql as 'begin return new; end';
             create function nothing_of_events() returns event_trigger language plpgsql as 'begin end';
             create function is_fine(double precision) returns boolean language plpgsql immutable as 'begin return true; end'",
        )
        .await
        .unwrap();
    let reference = async || -> String {
        fixture.client.query_one("select ingest_lock_series(array['s'])", &[]).await.unwrap().get(0)
    };
    assert_eq!(reference().await, "locked");
    for (name, make, unmake) in GUARDS {
        fixture.client.batch_execute(make).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(reference().await, "trigger", "{name}");
        fixture.client.batch_execute(unmake).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(reference().await, "locked", "without {name}");
    }
    // What never fires guards nothing, and the foreign key is the same whatever it does with a deleted series.
    fixture
        .client
        .batch_execute(
            "create trigger g after insert on ingest_point_version for each row execute function nothing();
             alter table ingest_point_version disable trigger g;
             alter table time_series_data_points drop constraint time_series_data_points_time_series_id_fkey;
             alter table time_series_data_points add constraint other_name foreign key (time_series_id)
                 references time_series_metadata (id) on delete cascade",
        )
        .await
        .unwrap();
    assert_eq!(reference().await, "locked");
    fixture.remove().await;
}

/// A session in which TimescaleDB is not at work, and whose guard was skipped.
#[tokio::test(flavor = "multi_thread")]
async fn points_that_miss_the_chunks_are_not_committed() {
    let Some(fixture) = Fixture::new("landing", 1).await else { return };
    let client = connect(&fixture.url).await;
    let code = async |sql: &str| -> Option<SqlState> {
        let answer = client.batch_execute(sql).await;
        client.batch_execute("rollback").await.unwrap();
        answer.err().map(|error| error.code().unwrap().clone())
    };
    let write = "insert into time_series_metadata (id, name) values ('s', '');
                 insert into time_series_data_points (time_series_id, \"timestamp\", column_name) values ('s', now(), 'c');
                 select ingest_check_root_tables();";
    assert_eq!(code(&format!("begin; {write}")).await, None);
    let missing = "set local session_replication_role = replica; set local timescaledb.restoring = on;";
    assert_eq!(code(&format!("begin; {missing} {write}")).await.unwrap().code(), "IC010");
    assert_eq!(code(&format!("begin; {missing} savepoint a; {write}")).await.unwrap().code(), "IC010");
    fixture.remove().await;
}

/// A constraint may refuse the row by which a chunk is made; a fault of the database is raised.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_cannot_be_made_is_left_to_the_copy_for_a_fault_of_its_row_only() {
    let Some(fixture) = Fixture::new("chunk_fault", 1).await else { return };
    fixture.client.batch_execute("insert into time_series_metadata (id, name) values ('s', '')").await.unwrap();
    let made = async || -> Result<bool, String> {
        let answer = fixture.client.query_one("select created from ingest_ensure_chunk('s', 0)", &[]).await;
        answer.map(|row| row.get(0)).map_err(|error| error.code().unwrap().code().to_owned())
    };
    for (code, expected) in [
        ("23514", Ok(false)),
        ("P0001", Ok(false)),
        ("MY001", Ok(false)),
        ("22012", Ok(false)),
        ("0A000", Err("0A000")),
        ("42501", Err("42501")),
        ("XX000", Err("XX000")),
    ] {
        let sql = format!(
            "create or replace function refuse(text) returns boolean language plpgsql as
                 $$ begin raise exception 'refused' using errcode = '{code}'; end $$;
             alter table time_series_data_points drop constraint if exists refuse;
             alter table time_series_data_points add constraint refuse check (refuse(column_name))"
        );
        fixture.client.batch_execute(&sql).await.unwrap();
        assert_eq!(made().await, expected.map_err(str::to_owned), "{code}");
    }
    fixture.client.batch_execute("alter table time_series_data_points drop constraint refuse").await.unwrap();
    assert_eq!(made().await, Ok(true));
    assert_eq!(fixture.count_points().await, 0);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_trigger_says_begins_no_log_line() {
    let Some(fixture) = Fixture::new("forged", 1).await else { return };
    fixture
        .client
        .batch_execute(
            "create function speak() returns trigger language plpgsql as $$
                 begin
                     raise notice E'noted\\n2026-01-01T00:00:00.000000Z ERROR series_ingest: forged';
                     raise warning E'warned\\n2026-01-01T00:00:00.000000Z ERROR series_ingest: forged';
                     if new.id like 'bad%' then
                         raise exception E'refused\\n2026-01-01T00:00:00.000000Z ERROR series_ingest: forged';
                     end if;
                     return new;
                 end $$;
             create trigger speak before insert on time_series_metadata for each row execute function speak()",
        )
        .await
        .unwrap();
    let mut worker = fixture.worker(&[("SERIES_INGEST__LOG__FILTER", "debug")]);
    for series in ["good", "bad", "better"] {
        fixture.send_point(series, 0);
    }
    fixture.producer.flush();
    fixture.until_applied(60).await;
    assert_eq!(worker.terminate(10), Some(0));
    let log = worker.log();
    let forged: Vec<&str> = log.lines().filter(|line| line.starts_with("2026-01-01T00:00:00.000000Z")).collect();
    assert_eq!(forged, Vec::<&str>::new());
    assert!(log.contains("refused\\n"), "it is said, on one line");
    let list = run(&fixture.environment(), &["dead-letter", "list"]);
    assert!(text(&list).lines().all(|line| !line.starts_with("2026-01-01T00:00:00.000000Z")), "{}", text(&list));
    fixture.remove().await;
}
