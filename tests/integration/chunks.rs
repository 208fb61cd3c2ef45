//! Chunks are made before points are copied into them.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::data::{Difference, Published};
use crate::support::fixture::{Fixture, connect};
use crate::support::server::Server;
use crate::support::until;
use crate::support::worker::{run, text};

const CHUNKS: &str =
    "select count(*) from timescaledb_information.chunks where hypertable_name = 'time_series_data_points'";

async fn has_timescaledb(fixture: &Fixture) -> bool {
    fixture.count("select count(*) from pg_extension where extname = 'timescaledb'").await == 1
}

/// A transaction has copied points into a chunk that was not there, and has not committed yet. Whether another session can add a
/// series meanwhile; `None` where there are no servers.
async fn others_write_alongside_a_new_chunk(test: &str, extra: &[(&str, &str)]) -> Option<bool> {
    let fixture = Fixture::new(test, 1).await?;
    assert!(has_timescaledb(&fixture).await, "the stack has TimescaleDB");
    let worker = fixture.worker(extra);
    fixture.send_point("s", 0);
    fixture.producer.flush();
    fixture.until_applied(60).await;
    assert_eq!(fixture.count(CHUNKS).await, 1);

    let blocker = connect(&fixture.url).await;
    blocker.batch_execute("begin; select from ingest_progress for update").await.unwrap();
    fixture.send_point("s", 1_000_000_000);
    fixture.producer.flush();
    until(30, "the claim waits behind the points", async || fixture.waiting_for_locks().await == 1).await;
    // Work on an old chunk, such as compression, keeps no writer waiting.
    let locked = "select count(*) from pg_locks join pg_class on pg_class.oid = pg_locks.relation
                  where relname like '\\_hyper\\_%\\_chunk' and mode = 'RowExclusiveLock'
                      and database = (select oid from pg_database where datname = current_database())";
    let of_the_copy = if extra.is_empty() { 1 } else { 0 };
    assert_eq!(fixture.count(locked).await, of_the_copy, "the chunk of the points alone");
    // A chunk that is not committed yet is not seen.
    let adding = connect(&fixture.url).await;
    adding.batch_execute("set lock_timeout = 500").await.unwrap();
    let added = adding.execute("insert into time_series_metadata (id, name) values ('other', '')", &[]).await;
    blocker.batch_execute("rollback").await.unwrap();
    fixture.until_applied(60).await;
    assert_eq!((fixture.count(CHUNKS).await, fixture.count_points().await), (2, 2));
    drop(worker);
    fixture.remove().await;
    Some(added.is_ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_chunk_keeps_nobody_waiting() {
    let Some(is_free) = others_write_alongside_a_new_chunk("new_chunk", &[]).await else { return };
    assert!(is_free);
}

#[cfg(feature = "planted-bugs")]
#[tokio::test(flavor = "multi_thread")]
async fn planted_bug_a_chunk_is_made_by_the_copy() {
    let bug = [("SERIES_INGEST_PLANTED_BUGS", "chunks-not-made-ahead")];
    let Some(is_free) = others_write_alongside_a_new_chunk("chunk_by_copy", &bug).await else { return };
    assert!(!is_free, "the bug is caught");
}

/// A chunk's length by which one that has begun is over in the last twentieth of it.
fn length_that_is_nearly_over(now_s: u64) -> u64 {
    (1_000..100_000).find(|length| now_s % length * 20 > length * 19 && now_s % length + 30 < *length).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_chunk_is_there_before_its_time() {
    let Some(fixture) = Fixture::unmigrated("next_chunk", 1).await else { return };
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let length = length_that_is_nearly_over(now_s).to_string();
    let extra = [("SERIES_INGEST__DATABASE__CHUNK_INTERVAL_S", length.as_str())];
    let settings: Vec<(&str, &str)> = extra.into();
    series_ingest::database::schema::migrate(&fixture.config(&settings)).await.unwrap();
    assert!(has_timescaledb(&fixture).await, "the stack has TimescaleDB");
    let worker = fixture.worker(&extra);
    // History does not tell that anything is live.
    fixture.send_point("s", 0);
    fixture.producer.flush();
    fixture.until_applied(60).await;
    assert_eq!(fixture.count(CHUNKS).await, 1);
    fixture.send_point("s", now_s as i64);
    fixture.producer.flush();
    fixture.until_applied(60).await;
    until(30, "this chunk and the next", async || fixture.count(CHUNKS).await == 3).await;
    let next = "select count(*) from timescaledb_information.chunks where range_start > now()";
    assert_eq!(fixture.count(next).await, 1);
    drop(worker);
    fixture.remove().await;
}

/// An operator's trigger sees points and nothing else; chunks of another length are what they are.
#[tokio::test(flavor = "multi_thread")]
async fn where_no_chunk_can_be_made_ahead_the_copy_makes_it() {
    let Some(fixture) = Fixture::new("chunk_of_its_own", 1).await else { return };
    assert!(has_timescaledb(&fixture).await, "the stack has TimescaleDB");
    let worker = fixture.worker(&[]);
    for seconds in [0, 100 * 86_400] {
        fixture.send_point("s", seconds);
    }
    fixture.producer.flush();
    fixture.until_applied(60).await;
    assert_eq!(fixture.count(CHUNKS).await, 2);
    // Thirty days: an interval of this length around most days hits a chunk that is there.
    fixture
        .client
        .batch_execute(
            "select set_chunk_time_interval('time_series_data_points', interval '30 days');
             create table seen (at timestamptz);
             create function see() returns trigger language plpgsql as
                 $$ begin insert into seen values (new.\"timestamp\"); return new; end $$",
        )
        .await
        .unwrap();
    for day in [-40, -5, 1, 5, 99, 101, 300] {
        fixture.send_point("s", day * 86_400);
    }
    fixture.producer.flush();
    fixture.until_applied(60).await;
    assert_eq!(fixture.count_points().await, 9);
    fixture
        .client
        .batch_execute("create trigger see after insert on time_series_data_points for each row execute function see()")
        .await
        .unwrap();
    for day in [1000, 2000] {
        fixture.send_point("s", day * 86_400);
    }
    fixture.producer.flush();
    fixture.until_applied(60).await;
    assert_eq!((fixture.count_points().await, fixture.count("select count(*) from seen").await), (11, 2));
    assert_eq!(fixture.count("select count(*) from ingest_dead_letter").await, 0);
    drop(worker);
    fixture.remove().await;
}

/// While another session keeps the chunk from being made, nothing of it is remembered.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_could_not_be_made_ahead_is_asked_for_again() {
    let Some(fixture) = Fixture::new("chunk_locked", 1).await else { return };
    assert!(has_timescaledb(&fixture).await, "the stack has TimescaleDB");
    let worker = fixture.worker(&[("SERIES_INGEST__DATABASE__LOCK_TIMEOUT_MS", "200")]);
    fixture.send_point("s", 0);
    fixture.producer.flush();
    fixture.until_applied(60).await;
    let made = || worker.log().matches("made a chunk").count();
    assert_eq!(made(), 1);
    let blocker = connect(&fixture.url).await;
    blocker.batch_execute("begin; lock table time_series_metadata in share mode").await.unwrap();
    fixture.send_point("s", 1_000_000_000);
    fixture.producer.flush();
    let errors = "series_ingest_database_errors_total{class=\"retry\"}";
    until(30, "the COPY cannot make it either", async || worker.metric(errors) >= Some(1.0)).await;
    blocker.batch_execute("rollback").await.unwrap();
    fixture.until_applied(60).await;
    assert_eq!((fixture.count(CHUNKS).await, made()), (2, 2));
    drop(worker);
    fixture.remove().await;
}

/// A server with PostgreSQL's own default of locks, and points in more chunks than a transaction can lock.
#[tokio::test(flavor = "multi_thread")]
async fn points_in_thousands_of_chunks_are_written_in_parts_and_a_message_of_as_many_is_a_dead_letter() {
    const DAYS: i64 = 2000;
    const DAY_US: i64 = 86_400_000_000;
    let Some(mut server) = Server::start("chunks_locks").await else { return };
    server.reload(&["alter system set max_locks_per_transaction = 64"]).await;
    server.stop_fast();
    server.start_again().await;
    let mut fixture = Fixture::on(&server, "chunks_locks", 1).await;
    let mut published = Published::default();
    let mut send = |days: Vec<i64>| {
        let payload = published.batch_at("s", days.into_iter().map(|day| day * DAY_US).collect());
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(payload.as_bytes()));
    };
    (0..DAYS).for_each(|day| send(vec![day]));
    send((DAYS..2 * DAYS).collect());
    send(vec![3, 4, 5]);
    fixture.producer.flush();
    let without_letter = (published.rows.len() as i64 - 2 * DAYS) as f64;
    let worker = fixture.worker(&[("SERIES_INGEST__BATCH__LINGER_MS", "2000")]);
    // Meanwhile the server has no room for a question either.
    let written = |name: &str| worker.metric(&format!("series_ingest_{name}"));
    until(300, "all is written", async || {
        written("points_written_total") == Some(without_letter)
            && written("dead_letters_total{input=\"points\",reason=\"rejected_by_database\"}") == Some(1.0)
    })
    .await;
    fixture.until_applied(60).await;
    let letters = fixture.client.query("select \"offset\", reason, detail from ingest_dead_letter", &[]).await.unwrap();
    assert_eq!(letters.iter().map(|row| row.get(0)).collect::<Vec<i64>>(), [DAYS]);
    let (reason, detail): (&str, &str) = (letters[0].get(1), letters[0].get(2));
    assert_eq!(reason, "rejected_by_database");
    assert!(detail.contains("SQLSTATE 53200") && detail.contains("in 2000 chunks"), "{detail}");
    drop(worker);
    // Two thousand chunks in one statement take a loaded machine longer than the default timeout.
    let patient = ("SERIES_INGEST__DATABASE__STATEMENT_TIMEOUT_MS".to_owned(), "300000".to_owned());
    let redrive = |fixture: &Fixture| {
        let environment = [fixture.environment(), vec![patient.clone()]].concat();
        text(&run(&environment, &["dead-letter", "redrive"]))
    };
    let printed = redrive(&fixture);
    assert!(printed.contains("1 rejected again"), "{printed}");
    // With more locks it is written, and the table can be read as a whole.
    server.reload(&["alter system set max_locks_per_transaction = 2048"]).await;
    server.stop_fast();
    server.start_again().await;
    fixture.connect_to(&server).await;
    assert_eq!(fixture.difference(&published).await, Difference { lost: 2 * DAYS as usize, ..Difference::default() });
    let printed = redrive(&fixture);
    assert!(printed.contains("4000 points written; 0 rejected again"), "{printed}");
    assert_eq!(fixture.difference(&published).await, Difference::default());
    fixture.remove().await;
}
