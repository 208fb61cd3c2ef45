//! The analyzer's own class, through SQLAlchemy 2 and asyncpg, on tables that a worker writes; and tables that its
//! migration made.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use series_ingest::database::schema::profile::Profile;
use series_ingest::database::schema::{self, SchemaError};
use tokio::task::JoinHandle;

use crate::support::data::{Difference, Published};
use crate::support::fixture::{Fixture, connect};
use crate::support::skip;
use crate::support::worker::{run, text};

const ORPHANS: &str = "select count(*) from time_series_data_points as point
    where not exists (select from time_series_metadata as series where series.id = point.time_series_id)";

/// What differs in the tables that `analyzer.py create` makes.
const NAIVE: (&str, &str) = ("ANALYZER_NAIVE", "1");

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/analyzer"))
}

/// The Python that has what the analyzer needs; `None`, loudly, if there is none.
fn python(test: &str) -> Option<PathBuf> {
    let stack = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/stack");
    let made = Command::new(stack).arg("python").stdin(Stdio::null()).output().unwrap();
    if made.status.success() {
        return Some(PathBuf::from(String::from_utf8(made.stdout).unwrap().trim()));
    }
    let why = text(&made);
    assert!(std::env::var("SERIES_INGEST_TESTS").as_deref() != Ok("required"), "{test}: no Python: {why}");
    skip(test, &format!("no Python with SQLAlchemy: {why}"));
    None
}

fn analyze(python: &Path, url: &str, command: &str, extra: &[(&str, &str)]) -> Output {
    Command::new(python)
        .args(["-W", "error", "analyzer.py", command])
        .current_dir(folder())
        .env_clear()
        .env("DATABASE_URL", url)
        .envs(extra.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// The analyzer uses its class while a worker writes points of the series "busy".
async fn use_alongside_a_worker(fixture: &Fixture, python: &Path, extra: &'static [(&'static str, &'static str)]) {
    let worker = fixture.worker(&[("SERIES_INGEST__BATCH__LINGER_MS", "1")]);
    let placed = br#"{"time_series_id":"placed","timestamps":[0,60],"columns":{"b":[1,1],"a":[1,1]}}"#;
    fixture.producer.send(&fixture.points_topic, 0, "placed", Some(placed));
    fixture.send_point("gone", 0);
    fixture.producer.flush();
    fixture.until_applied(60).await;

    let (python, url) = (python.to_owned(), fixture.url.clone());
    let analyzing: JoinHandle<Output> = tokio::task::spawn_blocking(move || analyze(&python, &url, "use", extra));
    let mut seconds = 0;
    while !analyzing.is_finished() {
        for _ in 0..20 {
            fixture.send_point("busy", seconds);
            seconds += 1;
        }
        fixture.producer.flush();
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let output = analyzing.await.unwrap();
    assert!(output.status.success(), "{}", text(&output));
    // What the analyzer has deleted is made again by points that come later, and has nothing of before.
    fixture.send_point("gone", 7);
    fixture.send_point("busy", seconds);
    fixture.producer.flush();
    fixture.until_applied(60).await;
    assert_eq!(fixture.count(ORPHANS).await, 0);
    assert_eq!(fixture.count("select count(*) from ingest_dead_letter").await, 0);
    assert_eq!(fixture.count("select count(*) from time_series_data_points where time_series_id = 'gone'").await, 1);
    let sql = "select name, time_column, value_columns from time_series_metadata where id = $1";
    for (series, expected) in [
        ("gone", (None, "timestamp", r#"["c"]"#)),
        // What the analyzer has saved last is still its own, and lists the column of the points that came since.
        ("busy", (Some("Busy"), "when", r#"["own","c"]"#)),
    ] {
        let row = fixture.client.query_one(sql, &[&series]).await.unwrap();
        assert_eq!((row.get(0), row.get(1), row.get(2)), expected, "{series}");
    }
    drop(worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_analyzers_class_works_alongside_a_worker() {
    let Some(fixture) = Fixture::with_profile("analyzer", 1, Profile::Standard).await else { return };
    let Some(python) = python("analyzer") else { return };
    use_alongside_a_worker(&fixture, &python, &[]).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_analyzers_class_works_alongside_a_worker_on_the_profile_throughput() {
    let Some(fixture) = Fixture::with_profile("analyzer_fast", 1, Profile::Throughput).await else { return };
    let Some(python) = python("analyzer_fast") else { return };
    use_alongside_a_worker(&fixture, &python, &[]).await;
    fixture.remove().await;
}

/// The tables that SQLAlchemy makes: integer ids from a sequence, texts without a collation, times without a zone, defaults of
/// Python's, a primary key that no hypertable can have.
#[tokio::test(flavor = "multi_thread")]
async fn tables_of_the_analyzers_migration_are_adopted() {
    let Some(fixture) = Fixture::unmigrated("adopted", 1).await else { return };
    let Some(python) = python("adopted") else { return };
    let created = analyze(&python, &fixture.url, "create", &[NAIVE]);
    assert!(created.status.success(), "{}", text(&created));

    let migrated = run(&fixture.environment(), &["migrate"]);
    let said = text(&migrated);
    assert!(migrated.status.success(), "{said}");
    for line in [
        "adopted as they are, with their rows: time_series_data_points, time_series_metadata",
        "differs from what migrate makes: column time_series_metadata.id is of type character varying, not text",
        "differs from what migrate makes: column time_series_metadata.id has the database's collation, not \"C\"",
        "differs from what migrate makes: column time_series_data_points.id is of type integer, not bigint: there is room for \
         2147483647 points in all",
        "differs from what migrate makes: column time_series_data_points.timestamp is of type timestamp without time zone, not \
         timestamp with time zone: times are stored in UTC",
        "differs from what migrate makes: the primary key of time_series_data_points is (id), not (id, \"timestamp\")",
        "added: index idx_time_series_data_points_series_column_time",
        "added: default of time_series_metadata.created_at",
        "the points stay a plain table: time_series_data_points_pkey is unique without \"timestamp\"",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    let again = run(&fixture.environment(), &["migrate"]);
    assert!(again.status.success() && !text(&again).contains("adopted"), "{}", text(&again));
    let check = run(&fixture.environment(), &["check"]);
    assert!(check.status.success() && text(&check).contains("profile standard"), "{}", text(&check));

    let mut published = Published::default();
    for number in 0..10 {
        let payload = published.batch(["s", "before-1"][number % 2], 20);
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(payload.as_bytes()));
    }
    fixture.producer.flush();
    let mut worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    assert_eq!(worker.terminate(10), Some(0));
    let sql = "delete from time_series_data_points where column_name = 'x' and time_series_id like 'before-%'";
    assert_eq!(fixture.client.execute(sql, &[]).await.unwrap(), 6, "the analyzer's own points are still there");
    let stored: Vec<_> = {
        let sql = "select time_series_id, column_name, (extract(epoch from \"timestamp\") * 1000000)::bigint, value
                   from time_series_data_points";
        let rows = fixture.client.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), crate::support::data::bits(row.get(3)))).collect()
    };
    assert_eq!(Difference::between(published.rows.clone(), stored), Difference::default());
    let sql = "select value_columns from time_series_metadata where id = 'before-1'";
    let columns: String = fixture.client.query_one(sql, &[]).await.unwrap().get(0);
    assert!(columns.starts_with(r#"["x","#), "its own columns stay first: {columns}");

    use_alongside_a_worker(&fixture, &python, &[NAIVE]).await;
    fixture.remove().await;
}

/// Tables of the analyzer's in other ways that people write them, and what becomes of them.
#[tokio::test(flavor = "multi_thread")]
async fn tables_of_another_program_are_adopted_if_they_can_serve_and_refused_by_name_otherwise() {
    const METADATA: &str = "create table time_series_metadata (id varchar(64) primary key, name varchar(64), description text, \
        time_column varchar not null, value_columns text not null, created_at timestamptz not null default now(), \
        updated_at timestamptz not null default now())";
    const POINTS: &str = "create table time_series_data_points (id bigserial, time_series_id varchar(64) not null \
        constraint fk_points references time_series_metadata (id), \"timestamp\" timestamptz not null, \
        column_name text not null, value double precision, primary key (id, \"timestamp\"))";
    let Some(fixture) = Fixture::unmigrated("adoption", 1).await else { return };
    let config = fixture.config(&[]);
    let clear = "drop schema public cascade; create schema public; drop extension if exists timescaledb cascade";
    for (made, refused) in [
        (
            METADATA.replace("value_columns text", "columns text"),
            "time_series_metadata has no column value_columns (text)",
        ),
        (
            METADATA.replace("id varchar(64) primary key", "id varchar(64)"),
            "time_series_metadata has no primary key (id)",
        ),
        (METADATA.replace("id varchar(64)", "id uuid"), "column time_series_metadata.id is of type uuid, not text or"),
        (METADATA.replace("value_columns text", "value_columns jsonb"), "value_columns is of type jsonb"),
        (METADATA.replace("value_columns", "labels text, value_columns"), "labels is of type text, not jsonb"),
        (METADATA.replace("description text", "description text, owner text not null"), "owner is not ours, NOT NULL"),
        (
            format!("{METADATA}; {}", POINTS.replace("double precision", "real")),
            "value is of type real, not double precision",
        ),
        (
            format!("{METADATA}; {}", POINTS.replace("double precision", "numeric(10,2)")),
            "value is of type numeric(10,2)",
        ),
        (
            format!("{METADATA}; {}", POINTS.replace("bigserial", "bigint not null")),
            "time_series_data_points.id has no default",
        ),
        (format!("{METADATA}; {}", POINTS.replace("id bigserial", "id smallserial")), "id is of type smallint"),
        (
            format!("{METADATA}; {} partition by range (\"timestamp\")", POINTS),
            "is not an ordinary table, but a partitioned table",
        ),
        ("create view time_series_metadata as select 1 as id".to_owned(), "is not an ordinary table, but a view"),
        (
            METADATA.replace("description text", "description text generated always as ('d') stored"),
            "column time_series_metadata.description is generated",
        ),
    ] {
        fixture.client.batch_execute(&made).await.unwrap();
        let error = schema::migrate(&config).await.unwrap_err();
        assert!(matches!(error, SchemaError::NotAdopted { .. }), "{made}: {error}");
        assert!(error.to_string().contains(refused), "{refused}: {error}");
        let migrate = run(&fixture.environment(), &["migrate"]);
        assert_eq!(migrate.status.code(), Some(64), "{}", text(&migrate));
        fixture.client.batch_execute("drop schema public cascade; create schema public").await.unwrap();
    }

    // One of the two, both with other names and without what is optional, with rows that lack what is ours.
    for (made, notes, rows) in [
        (
            METADATA.to_owned(),
            &["adopted as they are, with their rows: time_series_metadata", "added: table time_series_data_points"][..],
            &[][..],
        ),
        (
            format!(
                "{METADATA}; {POINTS}; insert into time_series_metadata (id, time_column, value_columns) values ('s', 't', 'x')"
            ),
            &[
                "character varying(64), not text: what is longer becomes a dead letter",
                "of the foreign key, which was fk_points",
                "a series that is deleted takes its points with it",
                "the points are a hypertable",
            ][..],
            &["s - t []"][..],
        ),
        (
            format!(
                "{}; {}; insert into time_series_metadata (id, name, time_column, value_columns) values
                     ('defined', 'defined', null, null), ('list', 'List', 'date', '[\"b\"]'),
                     ('object', 'Object', 'date', '{{}}'), ('other', 'Other', 'date', 'no list')",
                METADATA.replace("not null", "").replace("default now()", ""),
                POINTS
                    .replace("constraint fk_points references time_series_metadata (id)", "")
                    .replace("bigserial", "int generated by default as identity")
            ),
            &[
                "has no foreign key to time_series_metadata: `series-ingest schema set-profile standard` adds it",
                "time_column and value_columns have defaults and are never NULL",
            ][..],
            &["defined defined timestamp []", "list List date [\"b\"]", "object Object date []", "other Other date []"]
                [..],
        ),
    ] {
        let client = connect(&fixture.url).await;
        client.batch_execute(clear).await.unwrap();
        drop(client);
        let client = connect(&fixture.url).await;
        client.batch_execute(&made).await.unwrap();
        let report = schema::migrate(&config).await.unwrap();
        for note in notes {
            assert!(report.notes.iter().any(|said| said.contains(note)), "{note}: {:?}", report.notes);
        }
        let examination = schema::examine(&config).await.unwrap();
        assert!(examination.faults.is_empty(), "{:?}", examination.faults);
        let remarks = format!("{:?}", examination.remarks);
        assert!(!remarks.contains("labels"), "{remarks}");
        let repaired = "select id || ' ' || coalesce(name, '-') || ' ' || time_column || ' ' || value_columns
                        from time_series_metadata order by 1";
        let found = client.query(repaired, &[]).await.unwrap();
        assert_eq!(found.iter().map(|row| row.get(0)).collect::<Vec<&str>>(), rows);
        client.batch_execute("delete from time_series_metadata where id <> 's'").await.unwrap();
        let sql = "select ingest_ensure_series('{s,t}', '{a,b}');
                   insert into time_series_data_points (time_series_id, \"timestamp\", column_name, value)
                       select id, now(), 'a', 1 from time_series_metadata;
                   delete from time_series_metadata where id = 's'";
        client.batch_execute(sql).await.unwrap();
        let left: i64 = client.query_one("select count(*) from time_series_data_points", &[]).await.unwrap().get(0);
        assert_eq!(left, 1, "{made}");
    }
    fixture.remove().await;
}
