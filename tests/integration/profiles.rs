//! The profiles of the table of points: set both ways, on any state, and written to by workers that are killed.

use std::process::Stdio;

use serde_json::Value;
use series_ingest::database::schema;
use series_ingest::database::schema::profile::Profile;
use series_ingest::database::schema::roles;

use crate::support::data::{Difference, Published};
use crate::support::fixture::{Fixture, connect};
use crate::support::proxy::{AtCommit, Proxy};
use crate::support::until;
use crate::support::worker::{Worker, command, run, text};

/// Everything that a profile decides, of the table and its chunks, with what is not usable.
const CATALOG: &str = "
    with tables as (
        select 'time_series_data_points'::regclass as oid
        union all select inhrelid from pg_inherits where inhparent = 'time_series_data_points'::regclass
    )
    select string_agg(line, E'\\n' order by line) from (
        select indrelid::regclass || ' ' || regexp_replace(pg_get_indexdef(indexrelid), '^.* USING ', '')
            || case when indisunique then ' unique' else '' end || case when indisvalid then '' else ' INVALID' end as line
        from pg_index where indrelid in (select oid from tables)
        union all
        select conrelid::regclass || ' ' || pg_get_constraintdef(oid) from pg_constraint
        where conrelid in (select oid from tables) and contype in ('p', 'f')
    ) as part";

async fn catalog(fixture: &Fixture) -> String {
    fixture.client.query_one(CATALOG, &[]).await.unwrap().get(0)
}

/// The table's own indexes and constraints.
async fn names(fixture: &Fixture) -> Vec<String> {
    let sql = "select indexrelid::regclass::text from pg_index where indrelid = 'time_series_data_points'::regclass
               union all
               select conname::text from pg_constraint
               where conrelid = 'time_series_data_points'::regclass and contype = 'f' order by 1";
    fixture.client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

const STANDARD: [&str; 6] = [
    "idx_time_series_data_points_series_column",
    "idx_time_series_data_points_series_column_time",
    "idx_time_series_data_points_series_time",
    "idx_time_series_data_points_timestamp",
    "time_series_data_points_pkey",
    "time_series_data_points_time_series_id_fkey",
];

const THROUGHPUT: [&str; 2] =
    ["idx_time_series_data_points_series_column_time", "idx_time_series_data_points_timestamp"];

/// Ten series with points on three days.
async fn fill(fixture: &Fixture) {
    let sql = "select ingest_ensure_series(array_agg('s' || s), array_agg('c'::text)) from generate_series(0, 9) as s;
               insert into time_series_data_points (time_series_id, \"timestamp\", column_name, value)
               select 's' || s, timestamptz '2025-01-01' + hour * interval '1 hour', 'c', hour
               from generate_series(0, 9) as s, generate_series(0, 71) as hour";
    fixture.client.batch_execute(sql).await.unwrap();
}

/// `schema set-profile` with these arguments; it must end with this code.
fn set_profile(fixture: &Fixture, arguments: &[&str], code: i32) -> String {
    let output = run(&fixture.environment(), &[&["schema", "set-profile"], arguments].concat());
    assert_eq!(output.status.code(), Some(code), "{}", text(&output));
    text(&output)
}

#[track_caller]
fn assert_says(said: &str, words: &str) {
    assert!(said.contains(words), "{words:?} is not in: {said}");
}

async fn assert_set_both_ways(fixture: &Fixture) {
    fill(fixture).await;
    let standard = catalog(fixture).await;
    assert_eq!(names(fixture).await, STANDARD);
    let said = set_profile(fixture, &["throughput", "--dry-run"], 0);
    for words in ["the profile of the table of points is standard", "drop constraint", "ACCESS EXCLUSIVE", "--dry-run"]
    {
        assert_says(&said, words);
    }
    assert_eq!(catalog(fixture).await, standard, "a dry run changes nothing");
    assert_says(&set_profile(fixture, &["standard"], 0), "there is nothing to do");

    assert_says(&set_profile(fixture, &["throughput"], 0), "the profile is throughput now");
    let throughput = catalog(fixture).await;
    assert_eq!(names(fixture).await, THROUGHPUT);
    for gone in ["(id, ", "FOREIGN KEY", "(time_series_id, \"timestamp\")", "(time_series_id, column_name)"] {
        assert!(!throughput.contains(gone), "{gone} is still in a chunk: {throughput}");
    }
    assert_says(&set_profile(fixture, &["throughput"], 0), "there is nothing to do");
    schema::migrate(&fixture.config(&[])).await.unwrap();
    assert_eq!(catalog(fixture).await, throughput, "migrate leaves the profile alone");
    let said = set_profile(fixture, &["standard", "--dry-run"], 0);
    assert_says(&said, "primary key (id, \"timestamp\")");
    assert_eq!(catalog(fixture).await, throughput);

    assert_says(&set_profile(fixture, &["standard"], 0), "the profile is standard now");
    assert_eq!(catalog(fixture).await, standard);
    assert_says(&set_profile(fixture, &["standard"], 0), "there is nothing to do");
    assert_eq!(fixture.count_points().await, 720);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_is_set_both_ways_on_a_hypertable() {
    let Some(fixture) = Fixture::with_profile("profile_both_ways", 1, Profile::Standard).await else { return };
    assert_set_both_ways(&fixture).await;
    // From a state between the two, without an index of both.
    fixture
        .client
        .batch_execute(
            "alter table time_series_data_points drop constraint time_series_data_points_pkey;
             drop index idx_time_series_data_points_timestamp",
        )
        .await
        .unwrap();
    let check = text(&run(&fixture.environment(), &["check"]));
    assert_says(
        &check,
        "database.url: points: profile neither standard nor throughput, without idx_time_series_data_points_timestamp",
    );
    set_profile(&fixture, &["throughput"], 0);
    assert_eq!(names(&fixture).await, THROUGHPUT);
    assert_says(&text(&run(&fixture.environment(), &["check"])), "points: profile throughput; direct compress off: ");
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_is_set_both_ways_on_a_plain_table() {
    let Some(fixture) = Fixture::without_extension("profile_plain", 1).await else { return };
    schema::migrate(&fixture.config(&[])).await.unwrap();
    assert_set_both_ways(&fixture).await;
    assert_says(&text(&run(&fixture.environment(), &["check"])), "direct compress off: there is no TimescaleDB");
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn back_to_standard_points_without_a_series_get_a_placeholder() {
    let Some(fixture) = Fixture::with_profile("profile_orphans", 1, Profile::Standard).await else { return };
    fill(&fixture).await;
    let standard = catalog(&fixture).await;
    set_profile(&fixture, &["throughput"], 0);
    let orphan = "alter table time_series_metadata disable trigger user;
                  delete from time_series_metadata where id in ('s3', 's7');
                  alter table time_series_metadata enable trigger user";
    fixture.client.batch_execute(orphan).await.unwrap();
    for arguments in [&["standard", "--dry-run"][..], &["standard"]] {
        assert_says(
            &set_profile(&fixture, arguments, 0),
            "2 series with points have no row in time_series_metadata, for instance \"s3\"",
        );
    }
    assert_eq!(catalog(&fixture).await, standard);
    let adopted = "select count(*) from time_series_metadata where id in ('s3', 's7') and name is null and value_columns = '[\"c\"]'";
    assert_eq!(fixture.count(adopted).await, 2);
    assert_eq!(fixture.count_points().await, 720);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_not_available_is_given_up_and_its_holder_named() {
    let Some(fixture) = Fixture::with_profile("profile_lock", 1, Profile::Standard).await else { return };
    fill(&fixture).await;
    let holder = connect(&fixture.url).await;
    holder
        .batch_execute("set application_name = 'a report'; begin; select count(*) from time_series_data_points")
        .await
        .unwrap();
    let said = set_profile(&fixture, &["throughput"], 69);
    assert_says(&said, "a lock was not available within 5 s");
    assert_says(&said, "(a report) has used the table for");
    assert_eq!(names(&fixture).await, STANDARD);
    holder.batch_execute("rollback").await.unwrap();
    set_profile(&fixture, &["throughput"], 0);
    assert_eq!(names(&fixture).await, THROUGHPUT);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_killed_is_finished_by_the_next() {
    let Some(fixture) = Fixture::with_profile("profile_killed", 1, Profile::Standard).await else { return };
    fill(&fixture).await;
    let standard = catalog(&fixture).await;
    for (profile, kept) in [("throughput", &THROUGHPUT[..]), ("standard", &STANDARD)] {
        // The last chunk is in use: what is done chunk by chunk has begun when it stops there.
        let holder = connect(&fixture.url).await;
        let chunk = "select show_chunks('time_series_data_points')::text order by 1 desc limit 1";
        let chunk: String = holder.query_one(chunk, &[]).await.unwrap().get(0);
        holder.batch_execute(&format!("begin; lock table {chunk} in row exclusive mode")).await.unwrap();
        let mut process = command(&fixture.environment())
            .args(["schema", "set-profile", profile])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let waiting = format!(
            "select count(*) from pg_stat_activity where datname = '{}' and application_name = 'series-ingest' and wait_event_type = 'Lock'",
            fixture.name
        );
        until(30, "it waits for the lock", async || fixture.count(&waiting).await == 1).await;
        process.kill().unwrap();
        process.wait().unwrap();
        let backends = waiting.replace(" and wait_event_type = 'Lock'", "");
        until(30, "its connection is gone", async || fixture.count(&backends).await == 0).await;
        holder.batch_execute("rollback").await.unwrap();
        if profile == "standard" {
            assert_says(&catalog(&fixture).await, "INVALID");
        }
        set_profile(&fixture, &[profile], 0);
        assert_eq!(names(&fixture).await, kept);
    }
    assert_eq!(catalog(&fixture).await, standard);
    fixture.remove().await;
}

/// Publishes messages of this many timestamps and two columns, each message of one of three days.
fn publish_three_days(fixture: &Fixture, published: &mut Published, messages: usize, timestamps: usize) {
    publish_of(fixture, published, &[0, 1, 2], messages, timestamps);
}

/// The same, of these days.
fn publish_of(fixture: &Fixture, published: &mut Published, days: &[i64], messages: usize, timestamps: usize) {
    const FIRST_US: i64 = 1_735_689_600_000_000;
    const DAY_US: i64 = 86_400_000_000;
    for number in 0..messages {
        let series = format!("s{}", number % 5);
        let first = FIRST_US + (published.rows.len() as i64) * 1_000 + days[number % days.len()] * DAY_US;
        let payload = published.batch_at(&series, (first..).step_by(1_000).take(timestamps).collect());
        fixture.producer.send(
            &fixture.points_topic,
            number as i32 % fixture.partitions,
            &series,
            Some(payload.as_bytes()),
        );
    }
    fixture.producer.flush();
}

/// Kills a worker again and again, and compares.
async fn kill_workers(fixture: &Fixture, rounds: usize, messages: usize) -> (Published, Worker) {
    const SMALL: &[(&str, &str)] =
        &[("SERIES_INGEST__BATCH__MAX_POINTS", "4000"), ("SERIES_INGEST__BATCH__LINGER_MS", "50")];
    let mut published = Published::default();
    let mut killed_at_work = 0;
    for _ in 0..rounds {
        let before = fixture.count_points().await;
        publish_three_days(fixture, &mut published, messages, 100);
        let mut worker = fixture.worker(SMALL);
        until(60, "some points", async || fixture.count_points().await > before).await;
        worker.kill();
        killed_at_work += usize::from((fixture.count_points().await as usize) < published.rows.len());
    }
    assert!(killed_at_work > 0, "a worker was killed while there was work to do");
    let worker = fixture.worker(SMALL);
    fixture.until_applied(120).await;
    fixture.assert_exact(&published).await;
    (published, worker)
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_killed_on_the_profile_throughput_lose_and_duplicate_nothing() {
    let Some(fixture) = Fixture::with_profile("profile_killed_workers", 4, Profile::Throughput).await else { return };
    let (_, worker) = kill_workers(&fixture, 4, 800).await;
    let status = |worker: &Worker| -> Value { serde_json::from_str(&worker.get("/status").unwrap().1).unwrap() };
    until(10, "the profile is shown", async || status(&worker)["database"]["profile"] == "throughput").await;
    let off = status(&worker)["database"]["direct_compress"].as_str().unwrap().to_owned();
    assert_says(&off, "off: ");
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_lost_on_the_profile_throughput_duplicate_nothing() {
    let Some(fixture) = Fixture::with_profile("profile_lost_commits", 2, Profile::Throughput).await else { return };
    let proxy = Proxy::start(&fixture.server()).await;
    proxy.at_commit(AtCommit::CutAfter, 3);
    let mut published = Published::default();
    let url = fixture.url_by(proxy.port);
    let worker = fixture.worker(&[("DATABASE_URL", &url), ("SERIES_INGEST__BATCH__LINGER_MS", "10")]);
    until(60, "three COMMITs are lost", async || {
        publish_three_days(&fixture, &mut published, 2, 50);
        proxy.hits() >= 3
    })
    .await;
    fixture.until_applied(60).await;
    assert_eq!(fixture.difference(&published).await, Difference::default());
    drop(worker);
    fixture.remove().await;
}

/// The rows of the chunks that are not compressed.
async fn uncompressed(fixture: &Fixture) -> i64 {
    let sql = "select coalesce(sum((xpath('/row/n/text()', query_to_xml(format(
                   'select count(*) as n from only %I.%I', chunk_schema, chunk_name), false, true, '')))[1]::text::bigint), 0)::bigint
               from timescaledb_information.chunks where hypertable_name = 'time_series_data_points'";
    // TimescaleDB reads a compressed chunk's rows as its own.
    fixture.client.batch_execute("set timescaledb.enable_transparent_decompression = off").await.unwrap();
    let rows = fixture.count(sql).await;
    fixture.client.batch_execute("reset timescaledb.enable_transparent_decompression").await.unwrap();
    rows
}

const GAUGE: &str = "series_ingest_direct_compress";

#[tokio::test(flavor = "multi_thread")]
async fn on_the_community_edition_points_are_compressed_as_they_come() {
    let Some(fixture) = Fixture::on_community("direct_compress", 4, Profile::Throughput).await else { return };
    assert_says(&text(&run(&fixture.environment(), &["check"])), "points: profile throughput; direct compress on");
    let (mut published, worker) = kill_workers(&fixture, 4, 800).await;
    assert_eq!(worker.metric(GAUGE), Some(1.0), "{}", worker.log());
    let compressed = "select count(*) from timescaledb_information.chunks
                      where hypertable_name = 'time_series_data_points' and is_compressed";
    assert_eq!(fixture.count(compressed).await, 3);
    let all = fixture.count_points().await;
    let left = uncompressed(&fixture).await;
    assert!(left * 10 < all, "{left} of {all} rows are not compressed");

    // Values of every kind, among enough others.
    let values: Vec<Value> = (0..40)
        .map(|n| {
            [Value::from(f64::from(n) / 8.0), Value::Null, "NaN".into(), "Infinity".into()][n as usize % 4].clone()
        })
        .collect();
    let times: Vec<i64> = (0..40).map(|n| 1_700_000_000 + n).collect();
    let message = serde_json::json!({"type": "point-batch", "time_series_id": "odd", "timestamps": times, "columns": {"v": values}});
    fixture.producer.send(&fixture.points_topic, 0, "odd", Some(message.to_string().as_bytes()));
    fixture.producer.flush();
    fixture.until_applied(60).await;
    for n in 0..40_i64 {
        let value = match n % 4 {
            0 => n as f64 / 8.0,
            3 => f64::INFINITY,
            _ => f64::NAN,
        };
        published.rows.push(("odd".to_owned(), "v".to_owned(), (1_700_000_000 + n) * 1_000_000, value.to_bits()));
    }
    fixture.assert_exact(&published).await;

    // What keeps the server from it is reported with the next batch, which is written nevertheless.
    fixture
        .client
        .batch_execute("create unique index by_hand on time_series_data_points (id, \"timestamp\")")
        .await
        .unwrap();
    publish_three_days(&fixture, &mut published, 1, 100);
    fixture.until_applied(60).await;
    assert_eq!(worker.metric(GAUGE), Some(0.0), "{}", worker.log());
    assert_says(&worker.log(), "unique indexes (by_hand)");
    until(10, "the status says so", async || worker.get("/status").unwrap().1.contains("(by_hand)")).await;
    fixture.client.batch_execute("drop index by_hand").await.unwrap();
    publish_three_days(&fixture, &mut published, 20, 100);
    fixture.until_applied(60).await;
    assert_eq!(worker.metric(GAUGE), Some(1.0));
    fixture.assert_exact(&published).await;
    drop(worker);

    // Back, with compressed chunks, and a series that was deleted.
    fixture.client.batch_execute("delete from time_series_metadata where id = 'odd'").await.unwrap();
    assert_says(&set_profile(&fixture, &["standard"], 0), "for instance \"odd\"");
    assert_eq!(names(&fixture).await, STANDARD);
    let check = text(&run(&fixture.environment(), &["check"]));
    assert_says(
        &check,
        "points: profile standard; direct compress off: the table has unique indexes (time_series_data_points_pkey)",
    );
    let worker = fixture.worker(&[]);
    publish_three_days(&fixture, &mut published, 20, 100);
    fixture.until_applied(60).await;
    fixture.assert_exact(&published).await;
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_community_edition_points_that_come_one_by_one_are_not_compressed_alone() {
    let Some(fixture) = Fixture::on_community("direct_compress_live", 1, Profile::Throughput).await else { return };
    let worker = fixture.worker(&[("SERIES_INGEST__BATCH__LINGER_MS", "10")]);
    let mut published = Published::default();
    for _ in 0..20 {
        publish_three_days(&fixture, &mut published, 1, 2);
        fixture.until_applied(60).await;
    }
    assert_eq!(worker.metric(GAUGE), Some(1.0));
    assert_eq!(uncompressed(&fixture).await, fixture.count_points().await);
    fixture.assert_exact(&published).await;
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_community_edition_a_role_that_owns_nothing_compresses_too() {
    let Some(fixture) = Fixture::on_community("direct_compress_role", 1, Profile::Throughput).await else { return };
    let role = fixture.name.clone();
    fixture.client.batch_execute(&format!("create role {role} login")).await.unwrap();
    roles::grant(&fixture.config(&[]), &role, roles::Purpose::Worker).await.unwrap();
    let url = format!("postgresql://{role}@{}/{}", fixture.server(), fixture.name);
    let worker = fixture.worker(&[("DATABASE_URL", &url)]);
    let mut published = Published::default();
    publish_three_days(&fixture, &mut published, 100, 100);
    fixture.until_applied(60).await;
    assert_eq!(worker.metric(GAUGE), Some(1.0), "{}", worker.log());
    assert_eq!(uncompressed(&fixture).await, 0);
    fixture.assert_exact(&published).await;
    drop(worker);
    fixture.client.batch_execute(&format!("drop owned by {role}; drop role {role}")).await.unwrap();
    fixture.remove().await;
}

/// One session compresses a chunk and keeps its locks; a worker writes points of the other days meanwhile, and those of the
/// chunk when it may.
async fn assert_written_alongside_a_compression(test: &str, profile: Profile) {
    let Some(fixture) = Fixture::on_community(test, 4, profile).await else { return };
    let worker = fixture.worker(&[
        ("SERIES_INGEST__BATCH__LINGER_MS", "10"),
        // So that the chunk's points are tried again and again.
        ("SERIES_INGEST__DATABASE__LOCK_TIMEOUT_MS", "500"),
    ]);
    let mut published = Published::default();
    // So few that they are not compressed as they come.
    publish_three_days(&fixture, &mut published, 3, 5);
    fixture.until_applied(60).await;
    let chunk = "select show_chunks('time_series_data_points')::text order by 1 limit 1";
    let chunk: String = fixture.client.query_one(chunk, &[]).await.unwrap().get(0);
    let compressed = format!(
        "select count(*) from timescaledb_information.chunks
         where is_compressed and format('%I.%I', chunk_schema, chunk_name)::regclass = '{chunk}'::regclass"
    );
    assert_eq!(fixture.count(&compressed).await, 0);
    let holder = connect(&fixture.url).await;
    holder.batch_execute(&format!("begin; select compress_chunk('{chunk}')")).await.unwrap();

    for _ in 0..5 {
        publish_of(&fixture, &mut published, &[1, 2], 4, 50);
        fixture.until_applied(20).await;
    }
    let of_others = async || {
        fixture.count("select count(*) from time_series_data_points where \"timestamp\" >= '2025-01-02 00:00Z'").await
    };
    let before = of_others().await;
    publish_of(&fixture, &mut published, &[0], 1, 50);
    let refused = || worker.metric("series_ingest_database_errors_total{class=\"retry\"}").unwrap_or(0.0);
    until(30, "the chunk's points are tried again", async || refused() >= 2.0).await;
    // To the other partitions, too.
    publish_of(&fixture, &mut published, &[1, 2], 4, 50);
    // Two columns each; those of the partition of the chunk's points wait with them.
    until(20, "points of other days are written", async || of_others().await >= before + 300).await;
    assert!(worker.is_mode("streaming"), "a lock is no outage");
    holder.batch_execute("commit").await.unwrap();
    fixture.until_applied(60).await;
    fixture.assert_exact(&published).await;
    assert_eq!(fixture.count(&compressed).await, 1);
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_community_edition_points_are_written_alongside_a_compression() {
    assert_written_alongside_a_compression("compression_standard", Profile::Standard).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_community_edition_points_are_written_alongside_a_compression_on_the_profile_throughput() {
    assert_written_alongside_a_compression("compression_throughput", Profile::Throughput).await;
}
