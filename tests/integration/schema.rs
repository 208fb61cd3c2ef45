//! The tables, on what kinds of server there are.

use refinery::Target;
use series_ingest::database::schema::roles;
use series_ingest::database::schema::{self, SchemaError};

use crate::support::data::{Difference, Published};
use crate::support::fixture::{Fixture, connect};
use crate::support::worker::{run, text};

mod embedded {
    refinery::embed_migrations!("migrations");
}

async fn lines(fixture: &Fixture, sql: &str) -> Vec<String> {
    fixture.client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

const COLUMNS: &str = "select attrelid::regclass || '.' || attname || ' ' || format_type(atttypid, atttypmod)
        || case when attnotnull then ' not null' else '' end
        || case when attcollation = '\"C\"'::regcollation then ' C' else '' end
        || case when attidentity <> '' then ' identity' else '' end
    from pg_attribute
    where attrelid in ('time_series_metadata'::regclass, 'time_series_data_points'::regclass) and attnum > 0
    order by attrelid, attnum";

const INDEXES: &str = "select indexname || substring(indexdef from ' USING .*') from pg_indexes
    where schemaname = 'public' and tablename in ('time_series_metadata', 'time_series_data_points') order by 1";

async fn assert_tables(fixture: &Fixture) {
    assert_eq!(
        lines(fixture, COLUMNS).await,
        [
            "time_series_metadata.id text not null C",
            "time_series_metadata.name text",
            "time_series_metadata.description text",
            "time_series_metadata.time_column text not null",
            "time_series_metadata.value_columns text not null",
            "time_series_metadata.labels jsonb",
            "time_series_metadata.created_at timestamp with time zone not null",
            "time_series_metadata.updated_at timestamp with time zone not null",
            "time_series_data_points.id bigint not null identity",
            "time_series_data_points.time_series_id text not null C",
            "time_series_data_points.\"timestamp\" timestamp with time zone not null".replace('"', "").as_str(),
            "time_series_data_points.column_name text not null C",
            "time_series_data_points.value double precision",
        ]
    );
    let key = "select pg_get_constraintdef(oid) || ' ' || convalidated from pg_constraint
               where conrelid = 'time_series_data_points'::regclass and contype = 'f'";
    let expected = "FOREIGN KEY (time_series_id) REFERENCES time_series_metadata(id) ON DELETE CASCADE true";
    assert_eq!(lines(fixture, key).await, [expected]);
    assert_eq!(
        lines(fixture, INDEXES).await,
        [
            "idx_time_series_data_points_series_column USING btree (time_series_id, column_name)",
            "idx_time_series_data_points_series_column_time USING btree (time_series_id, column_name, \"timestamp\")",
            "idx_time_series_data_points_series_time USING btree (time_series_id, \"timestamp\")",
            "idx_time_series_data_points_timestamp USING btree (\"timestamp\")",
            "idx_time_series_metadata_created_at USING btree (created_at)",
            "idx_time_series_metadata_labels USING gin (labels jsonb_path_ops)",
            "idx_time_series_metadata_time_column USING btree (time_column)",
            "time_series_data_points_pkey USING btree (id, \"timestamp\")",
            "time_series_metadata_pkey USING btree (id)",
        ]
    );
}

/// The number of migrations there are.
fn migrations() -> usize {
    std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tables_are_those_of_the_contract() {
    let Some(fixture) = Fixture::unmigrated("tables", 1).await else { return };
    let error = schema::verify(&fixture.config(&[])).await.unwrap_err();
    assert!(matches!(error, SchemaError::NotMigrated { .. }), "{error}");
    let report = schema::migrate(&fixture.config(&[])).await.unwrap();
    assert_eq!(report.applied.len(), migrations());
    assert_tables(&fixture).await;
    let chunk = "select extract(epoch from time_interval)::bigint from timescaledb_information.dimensions
                 where hypertable_name = 'time_series_data_points' and column_name = 'timestamp'";
    assert_eq!(fixture.count(chunk).await, 86_400);
    let cache = "select seqcache from pg_sequence where seqrelid = pg_get_serial_sequence('time_series_data_points', 'id')::regclass";
    assert!(fixture.count(cache).await >= 1000);

    // Again: nothing is left to do, but a changed setting holds from now on.
    let report =
        schema::migrate(&fixture.config(&[("SERIES_INGEST__DATABASE__CHUNK_INTERVAL_S", "3600")])).await.unwrap();
    assert!(report.applied.is_empty());
    assert_eq!(fixture.count(chunk).await, 3600);
    let server = schema::verify(&fixture.config(&[])).await.unwrap();
    assert!(server.timescaledb.is_some());

    fixture.client
        .batch_execute("insert into ingest_schema_history select 99, 'later', applied_on, checksum from ingest_schema_history limit 1")
        .await
        .unwrap();
    let error = schema::verify(&fixture.config(&[])).await.unwrap_err();
    assert!(matches!(error, SchemaError::TooNew { version: 99 }), "{error}");
    fixture.remove().await;
}

/// A migration that was stopped half-way, with what the tables hold by then and a role of the worker's that has its rights
/// on them.
#[tokio::test(flavor = "multi_thread")]
async fn an_incomplete_schema_is_completed_with_what_it_holds_and_the_workers_role() {
    const FIRST: i32 = 5;
    let Some(fixture) = Fixture::unmigrated("upgrade", 1).await else { return };
    let mut client = connect(&fixture.url).await;
    let mut first = embedded::migrations::runner().set_target(Target::Version(FIRST));
    first.set_migration_table_name("ingest_schema_history");
    first.run_async(&mut client).await.unwrap();
    let role = format!("{}_worker", fixture.name);
    fixture.client.batch_execute(&format!("create role {role} login")).await.unwrap();
    roles::grant(&fixture.config(&[]), &role, roles::Purpose::Worker).await.unwrap();
    let held = "insert into ingest_source (pipeline, cluster_id, topic, topic_id) values ('default', 'c', 'TOPIC', 'i');
        insert into ingest_dead_letter (source_id, partition, \"offset\", payload, payload_bytes, reason)
            select id, 0, 7, payload, length(payload), 'unknown_series'
            from ingest_source, convert_to('{\"time_series_id\":\"s\",\"timestamps\":[0],\"columns\":{\"c\":[1]}}', 'UTF8') as payload";
    fixture.client.batch_execute(&held.replace("TOPIC", &fixture.points_topic)).await.unwrap();
    // A series with points in many chunks, and a foreign key that refuses to delete it.
    let series = "insert into time_series_metadata (id, name, time_column, value_columns) values ('other', 'Other', 'date', '[\"c\"]');
        alter table time_series_data_points drop constraint time_series_data_points_time_series_id_fkey,
            add constraint time_series_data_points_time_series_id_fkey
                foreign key (time_series_id) references time_series_metadata (id);
        select create_hypertable('time_series_data_points', 'timestamp', create_default_indexes => false);
        insert into time_series_data_points (time_series_id, \"timestamp\", column_name)
            select 'other', timestamptz '2024-01-01' + day * interval '1 day', 'c' from generate_series(0, 20) as day";
    fixture.client.batch_execute("create extension if not exists timescaledb").await.unwrap();
    fixture.client.batch_execute(series).await.unwrap();

    let report = schema::migrate(&fixture.config(&[])).await.unwrap();
    assert_eq!(report.applied.len(), migrations() - FIRST as usize);
    assert_tables(&fixture).await;
    let kept = "select id || ' ' || name || ' ' || time_column || ' ' || value_columns from time_series_metadata";
    assert_eq!(lines(&fixture, kept).await, ["other Other date [\"c\"]"]);
    fixture.client.batch_execute("delete from time_series_metadata").await.unwrap();
    assert_eq!(fixture.count_points().await, 0, "the foreign key of all chunks takes the points with the series");
    let allowed = format!(
        "select count(*) from pg_proc where has_function_privilege('{role}', oid, 'execute')
             and proname in ('ingest_define_series', 'ingest_lock_series', 'ingest_ensure_chunk')"
    );
    assert_eq!(fixture.count(&allowed).await, 0, "what is new is granted by name only");
    let granted = run(&fixture.environment(), &["migrate", "--worker-role", &role]);
    assert!(granted.status.success(), "{}", text(&granted));
    assert_eq!(fixture.count(&allowed).await, 3);

    let mut published = Published::default();
    let payload = published.batch("s", 20);
    fixture.producer.send(&fixture.points_topic, 0, "s", Some(payload.as_bytes()));
    fixture.producer.send(&fixture.points_topic, 0, "s", Some(b"{"));
    fixture.producer.flush();
    let url = format!("postgresql://{role}@{}/{}", fixture.server(), fixture.name);
    let mut worker = fixture.worker(&[("DATABASE_URL", &url)]);
    fixture.until_applied(60).await;
    assert_eq!(fixture.difference(&published).await, Difference::default());
    assert_eq!(worker.terminate(10), Some(0));
    assert!(!worker.log().contains("permission denied"), "{}", worker.log());
    assert_eq!(fixture.count("select sum(kept)::bigint from ingest_dead_letter_count").await, 2);
    let redriven = run(&fixture.environment(), &["dead-letter", "redrive", "--reason", "unknown_series"]);
    assert!(text(&redriven).contains("1 dead letters with 1 points written"), "{}", text(&redriven));
    fixture.client.batch_execute(&format!("drop owned by {role}; drop role {role}")).await.unwrap();
    fixture.remove().await;
}

/// Tables that other migrations have made, as those of the versions before the first release did.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_of_other_migrations_is_refused_by_name_and_with_what_to_do() {
    let Some(fixture) = Fixture::new("other_migrations", 1).await else { return };
    fixture.send_point("s", 0);
    fixture.producer.flush();
    let other = "update ingest_schema_history set name = 'progress', checksum = '1' where version = 2";
    fixture.client.batch_execute(other).await.unwrap();
    let error = schema::verify(&fixture.config(&[])).await.unwrap_err();
    assert!(matches!(&error, SchemaError::Different { name } if name == "V2__sources_and_progress"), "{error}");
    let error = schema::migrate(&fixture.config(&[])).await.unwrap_err();
    assert!(matches!(&error, SchemaError::Different { name } if name == "V2__sources_and_progress"), "{error}");
    for command in ["migrate", "check", "run"] {
        let refused = run(&fixture.environment(), &[command]);
        let printed = text(&refused);
        assert_eq!(refused.status.code(), Some(64), "{command}: {printed}");
        for part in ["V2__sources_and_progress", "another content", "an empty schema or database", "database.schema"] {
            assert!(printed.contains(part), "{command}: {part} is not in {printed}");
        }
    }
    assert_eq!(fixture.count_points().await, 0);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_migrations_at_once_do_not_meet() {
    let Some(fixture) = Fixture::unmigrated("migrations", 1).await else { return };
    let config = fixture.config(&[]);
    let (a, b) = tokio::join!(schema::migrate(&config), schema::migrate(&config));
    assert_eq!(a.unwrap().applied.len() + b.unwrap().applied.len(), migrations());
    assert_tables(&fixture).await;
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_extension_the_points_are_in_a_plain_table_and_all_else_works() {
    let Some(fixture) = Fixture::without_extension("plain", 2).await else { return };
    let report = schema::migrate(&fixture.config(&[])).await.unwrap();
    assert!(report.notes.iter().any(|note| note.contains("plain table")), "{:?}", report.notes);
    assert_tables(&fixture).await;
    let mut published = Published::default();
    for number in 0..20 {
        let payload = published.batch("s", 20);
        fixture.producer.send(&fixture.points_topic, number % 2, "s", Some(payload.as_bytes()));
    }
    fixture.producer.flush();
    let worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    fixture.assert_exact(&published).await;

    // Once it can be, an empty table becomes a hypertable, and one with points is left to its owner.
    fixture.client.batch_execute("drop schema _timescaledb_catalog").await.unwrap();
    let report = schema::migrate(&fixture.config(&[])).await.unwrap();
    assert!(report.notes.iter().any(|note| note.contains("migrate_data => true")), "{:?}", report.notes);
    drop(worker);
    fixture.client.batch_execute("truncate time_series_data_points").await.unwrap();
    schema::migrate(&fixture.config(&[])).await.unwrap();
    assert_eq!(fixture.count("select count(*) from timescaledb_information.hypertables").await, 1);
    assert_tables(&fixture).await;
    fixture.remove().await;
}

/// What the Apache edition refuses is tested where TEST_DATABASE_URL_COMMUNITY names a community server.
#[tokio::test(flavor = "multi_thread")]
async fn on_the_community_edition_old_chunks_are_compressed() {
    let Some(fixture) = Fixture::unmigrated("community", 1).await else { return };
    let Ok(url) = std::env::var("TEST_DATABASE_URL_COMMUNITY") else {
        use std::io::Write as _;
        let line =
            "SKIPPED on_the_community_edition_old_chunks_are_compressed: TEST_DATABASE_URL_COMMUNITY is not set\n";
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        return fixture.remove().await;
    };
    let admin = connect(&url).await;
    admin.batch_execute(&format!("create database {}", fixture.name)).await.unwrap();
    let database_url = crate::support::fixture::url_with(&url, &fixture.name, None);
    let settings = [("DATABASE_URL", database_url.as_str())];
    // Again and again: policies are added once, and follow the configuration.
    for after in ["86400", "86400", "7200"] {
        let mut settings = settings.to_vec();
        settings.push(("SERIES_INGEST__DATABASE__COMPRESS_AFTER_S", after));
        schema::migrate(&fixture.config(&settings)).await.unwrap();
        let client = connect(&database_url).await;
        let sql = "select extract(epoch from (config ->> 'compress_after')::interval)::bigint from timescaledb_information.jobs
                   where hypertable_name = 'time_series_data_points' and proc_name in ('policy_compression', 'policy_columnstore')";
        let rows = client.query(sql, &[]).await.unwrap();
        assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<i64>>(), [after.parse::<i64>().unwrap()]);
        let sql = "select string_agg(attname || ':' || coalesce(segmentby_column_index, 0) || ':' || coalesce(orderby_column_index, 0), ',' order by attname)
                   from timescaledb_information.compression_settings where hypertable_name = 'time_series_data_points'
                       and (segmentby_column_index is not null or orderby_column_index is not null)";
        let settings: String = client.query_one(sql, &[]).await.unwrap().get(0);
        assert_eq!(settings, "column_name:2:0,time_series_id:1:0,timestamp:0:1");
    }
    admin.batch_execute(&format!("drop database {} with (force)", fixture.name)).await.unwrap();
    fixture.remove().await;
}
