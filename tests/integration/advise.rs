//! `advise`: databases with one planted fault each, and one without.

use std::collections::BTreeSet;

use serde_json::Value;
use series_ingest::database::schema::profile::Profile;
use series_ingest::database::schema::roles;

use crate::support::fixture::{Fixture, url_with};
use crate::support::server::Server;
use crate::support::shell::{Shell, examples};
use crate::support::worker::{run, text};

/// What `advise --json` prints.
fn advice(environment: &[(String, String)]) -> Value {
    let output = run(environment, &["advise", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn rules(advice: &Value, list: &str) -> BTreeSet<String> {
    advice[list].as_array().unwrap().iter().map(|one| one["rule"].as_str().unwrap().to_owned()).collect()
}

/// A server whose autovacuum does nothing during a test, and which records statements.
async fn server(test: &str) -> Option<Server> {
    let mut server = Server::start(test).await?;
    server
        .reload(&[
            "alter system set autovacuum_naptime = '12h'",
            "alter system set shared_buffers = '64MB'",
            "alter system set shared_preload_libraries = timescaledb, pg_stat_statements",
        ])
        .await;
    server.stop_fast();
    server.start_again().await;
    Some(server)
}

/// A database with this many points, one a second, and up-to-date statistics.
async fn database(server: &Server, test: &str, profile: Profile, points: i32) -> Fixture {
    let fixture = Fixture::on(server, test, 1).await;
    fixture.set_profile(profile).await;
    sql(&fixture, "create extension pg_stat_statements").await;
    insert(&fixture, points).await;
    sql(&fixture, "vacuum analyze").await;
    fixture
}

async fn insert(fixture: &Fixture, points: i32) {
    sql(
        fixture,
        &format!(
            "insert into time_series_metadata (id, time_column, value_columns) values ('s', 't', '[]');
             insert into time_series_data_points (time_series_id, column_name, \"timestamp\", value)
             select 's', 'c' || n % 5, '2024-01-01Z'::timestamptz + n * interval '0.5 s', n from generate_series(1, {points}) as n"
        ),
    )
    .await;
}

/// Runs statements, and has their statistics counted at once.
async fn sql(fixture: &Fixture, statements: &str) {
    fixture.client.batch_execute(statements).await.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    fixture.client.batch_execute("select pg_stat_force_next_flush()").await.unwrap();
}

/// Runs a query again and again.
async fn read(fixture: &Fixture, query: &str, times: usize) {
    let statement = fixture.client.prepare(query).await.unwrap();
    for _ in 0..times {
        fixture.client.query(&statement, &[]).await.unwrap();
    }
    sql(fixture, "select").await;
}

/// Of all rules just this one has a finding, whose statement shows it to anybody, and whose change is meant for it.
async fn assert_found(fixture: Fixture, rule: &str, change: &str) {
    let mut last = advice(&fixture.environment());
    // The statistics of a statement are counted a moment after it.
    for _ in 0..20 {
        if rules(&last, "findings").contains(rule) {
            break;
        }
        last = advice(&fixture.environment());
    }
    let finding = &last["findings"][0];
    let found = rules(&last, "findings");
    assert!(found.len() == 1 && found.contains(rule), "{rule}: {last:#}");
    assert!(finding["change"].as_str().unwrap().contains(change), "{rule}: {last:#}");
    assert!(!finding["what"].as_str().unwrap().is_empty() && !finding["figures"].as_object().unwrap().is_empty());
    assert_eq!(rules(&last, "not_examined"), BTreeSet::new(), "{last:#}");
    fixture.client.batch_execute("set search_path = ''").await.unwrap();
    let shown = fixture.client.query(finding["sql"].as_str().unwrap(), &[]).await.unwrap();
    assert!(!shown.is_empty(), "{rule}: its statement shows it");
    fixture.client.batch_execute("reset search_path").await.unwrap();
    println!("{rule}: {} -> {}", finding["what"], finding["change"]);
    fixture.remove().await;
}

const LATEST: &str = "select value from time_series_data_points where time_series_id = 's' and column_name = 'c1'
                      order by \"timestamp\" desc limit 1";

#[tokio::test(flavor = "multi_thread")]
async fn each_planted_fault_is_found_and_nothing_else() {
    use Profile::{Standard, Throughput};
    let Some(mut server) = server("advise_faults").await else { return };

    let fixture = database(&server, "advise_large", Standard, 250_000).await;
    assert_found(fixture, "chunks-too-large", "database.chunk_interval_s = ").await;

    let fixture = database(&server, "advise_small", Standard, 10).await;
    let days = "insert into time_series_data_points (time_series_id, column_name, \"timestamp\", value)
                select 's', 'c', '2023-01-01Z'::timestamptz + n * interval '1 day', n from generate_series(1, 210) as n;";
    sql(&fixture, days).await;
    sql(&fixture, "vacuum analyze").await;
    assert_found(fixture, "chunks-too-small", "database.chunk_interval_s = ").await;

    let fixture = database(&server, "advise_unused", Throughput, 50_000).await;
    sql(&fixture, "create index of_mine on time_series_data_points (value)").await;
    read(&fixture, LATEST, 1100).await;
    assert_found(fixture, "unused-index", "drop index of_mine").await;

    let fixture = database(&server, "advise_bloat", Throughput, 180_000).await;
    sql(&fixture, "delete from time_series_data_points where value::int % 40 <> 0").await;
    sql(&fixture, "vacuum analyze").await;
    assert_found(fixture, "bloated-index", "reindex index concurrently ").await;

    let fixture = database(&server, "advise_profile", Standard, 50_000).await;
    read(&fixture, LATEST, 1100).await;
    assert_found(fixture, "profile", "set-profile throughput").await;

    let fixture = database(&server, "advise_scans", Throughput, 110_000).await;
    sql(&fixture, "set enable_indexonlyscan = off").await;
    read(&fixture, "select 1 from time_series_data_points limit 1", 1000).await;
    read(&fixture, "select count(value) from time_series_data_points where id > 0", 110).await;
    assert_found(fixture, "profile-reads", "set-profile standard").await;

    let fixture = database(&server, "advise_vacuum", Standard, 40_000).await;
    let name: String =
        fixture.client.query_one("select show_chunks('time_series_data_points')::text", &[]).await.unwrap().get(0);
    sql(&fixture, &format!("alter table {name} set (autovacuum_enabled = false)")).await;
    sql(&fixture, "delete from time_series_data_points where value > 5000").await;
    assert_found(fixture, "vacuum", "reset (autovacuum_enabled)").await;

    let fixture = database(&server, "advise_age", Standard, 1000).await;
    sql(
        &fixture,
        "set allow_system_table_mods = on;
         update pg_class set relfrozenxid = (4294967296 - 250000000)::text::xid
         where oid = any (select show_chunks('time_series_data_points'))",
    )
    .await;
    assert_found(fixture, "wraparound", "vacuum (freeze) ").await;

    let fixture = database(&server, "advise_statistics", Standard, 1).await;
    sql(&fixture, "delete from time_series_metadata").await;
    insert(&fixture, 40_000).await;
    sql(&fixture, "delete from pg_statistic where starelid = any (select show_chunks('time_series_data_points'))")
        .await;
    assert_found(fixture, "statistics", "analyze time_series_data_points").await;

    let fixture = database(&server, "advise_identity", Standard, 1000).await;
    let sequence = "select setval(pg_get_serial_sequence('time_series_data_points', 'id'), 8000000000000000000)";
    sql(&fixture, sequence).await;
    assert_found(fixture, "identity", "restart").await;

    let fixture = database(&server, "advise_slow", Standard, 1000).await;
    read(&fixture, "select count(*), pg_sleep(1.1) from time_series_data_points", 5).await;
    assert_found(fixture, "slow-statements", "explain").await;

    // The catalog as late points leave it: only the community edition compresses.
    for (first, change) in
        [("'2023-01-01Z'", "import points"), ("(now() - interval '9 days')", "database.compress_after_s = ")]
    {
        let fixture = database(&server, "advise_late", Standard, 0).await;
        sql(&fixture, &days.replace("210", "5").replace("'2023-01-01Z'", first)).await;
        sql(&fixture, "vacuum analyze").await;
        sql(&fixture, "update _timescaledb_catalog.chunk set status = 9, compressed_chunk_id = id").await;
        assert_found(fixture, "late-points", change).await;
    }

    server.reload(&["alter system set max_connections = 20", "alter system set max_locks_per_transaction = 16"]).await;
    server.stop_fast();
    server.start_again().await;
    let fixture = database(&server, "advise_locks", Standard, 1000).await;
    sql(&fixture, &days.replace("210", "40")).await;
    sql(&fixture, "vacuum analyze").await;
    assert_found(fixture, "locks", "max_locks_per_transaction = 64").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_healthy_database_there_is_nothing_to_say_and_what_a_role_may_not_see_is_said() {
    let Some(server) = server("advise_healthy").await else { return };
    let fixture = database(&server, "advise_fine", Profile::Standard, 20_000).await;
    read(&fixture, LATEST, 100).await;
    let all = advice(&fixture.environment());
    assert_eq!((&all["findings"], &all["not_examined"]), (&Value::Array(vec![]), &Value::Array(vec![])), "{all:#}");
    assert_eq!(all["examined"], 13);
    let said = text(&run(&fixture.environment(), &["advise"]));
    assert!(said.ends_with("13 rules, nothing to say\n"), "{said}");
    // A reader, and tables without TimescaleDB's.
    sql(&fixture, "create role advise_reader login").await;
    roles::grant(&fixture.config(&[]), "advise_reader", roles::Purpose::Reader).await.unwrap();
    let url = url_with(&server.url(), &fixture.name, None).replace("postgres@", "advise_reader@");
    let mut environment = fixture.environment();
    environment.retain(|(name, _)| name != "DATABASE_URL");
    environment.push(("DATABASE_URL".to_owned(), url));
    let all = advice(&environment);
    assert_eq!(all["findings"], Value::Array(vec![]), "{all:#}");
    let unseen: BTreeSet<String> = ["identity", "slow-statements"].map(str::to_owned).into();
    assert_eq!(rules(&all, "not_examined"), unseen, "{all:#}");
    sql(&fixture, "drop extension pg_stat_statements").await;
    let said = text(&run(&fixture.environment(), &["advise"]));
    assert!(
        said.contains("12 rules, nothing to say") && said.contains("not examined: slow-statements: the extension"),
        "{said}"
    );
    let shell = Shell::new(fixture.environment());
    let examples = examples("docs/keeping-advise.md", "sh");
    assert!(examples.len() >= 2);
    let output = shell.run(&examples.concat());
    assert!(output.status.success(), "{}", text(&output));
    fixture.remove().await;
}

/// Points that come into chunks that TimescaleDB has compressed, and a plain table: the two kinds of server that others are.
#[tokio::test(flavor = "multi_thread")]
async fn late_points_are_found_where_chunks_are_compressed() {
    let Some(fixture) = Fixture::on_community("advise_community", 1, Profile::Standard).await else { return };
    let days = "insert into time_series_data_points (time_series_id, column_name, \"timestamp\", value)
                select 's', 'c', '2023-01-01Z'::timestamptz + n * interval '1 day', n from generate_series(1, 5) as n;";
    sql(&fixture, "insert into time_series_metadata (id, time_column, value_columns) values ('s', 't', '[]')").await;
    sql(&fixture, days).await;
    sql(&fixture, "select compress_chunk(chunk) from show_chunks('time_series_data_points') as chunk").await;
    assert_eq!(rules(&advice(&fixture.environment()), "findings"), BTreeSet::new());
    sql(&fixture, days).await;
    let found = rules(&advice(&fixture.environment()), "findings");
    assert!(found.contains("late-points"), "{found:?}");
    fixture.remove().await;
}
