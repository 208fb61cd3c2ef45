//! Chunks are made before points are copied into them.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::bed::{Bed, connect};
use crate::support::until;

const CHUNKS: &str =
    "select count(*) from timescaledb_information.chunks where hypertable_name = 'time_series_data_points'";

async fn has_timescaledb(bed: &Bed) -> bool {
    bed.count("select count(*) from pg_extension where extname = 'timescaledb'").await == 1
}

/// A transaction has copied points into a chunk that was not there, and has not committed yet. Whether somebody else can add a
/// series meanwhile; `None` where there are no servers.
async fn others_write_beside_a_new_chunk(test: &str, extra: &[(&str, &str)]) -> Option<bool> {
    let bed = Bed::new(test, 1).await?;
    assert!(has_timescaledb(&bed).await, "the stack has TimescaleDB");
    let worker = bed.worker(extra);
    bed.send_point("s", 0);
    bed.producer.flush();
    bed.until_applied(60).await;
    assert_eq!(bed.count(CHUNKS).await, 1);

    let blocker = connect(&bed.url).await;
    blocker.batch_execute("begin; select from ingest_progress for update").await.unwrap();
    bed.send_point("s", 1_000_000_000);
    bed.producer.flush();
    until(30, "the claim waits behind the points", async || bed.waiting_for_locks().await == 1).await;
    // Whoever works on an old chunk, as compression does, keeps no writer waiting.
    let locked = "select count(*) from pg_locks join pg_class on pg_class.oid = pg_locks.relation
                  where relname like '\\_hyper\\_%\\_chunk' and mode = 'RowExclusiveLock'
                      and database = (select oid from pg_database where datname = current_database())";
    let of_the_copy = if extra.is_empty() { 1 } else { 0 };
    assert_eq!(bed.count(locked).await, of_the_copy, "the chunk of the points alone");
    // A chunk that is not committed yet is not seen.
    let adding = connect(&bed.url).await;
    adding.batch_execute("set lock_timeout = 500").await.unwrap();
    let added = adding.execute("insert into time_series_metadata (id, name) values ('other', '')", &[]).await;
    blocker.batch_execute("rollback").await.unwrap();
    bed.until_applied(60).await;
    assert_eq!((bed.count(CHUNKS).await, bed.count_points().await), (2, 2));
    drop(worker);
    bed.remove().await;
    Some(added.is_ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_chunk_keeps_nobody_waiting() {
    let Some(is_free) = others_write_beside_a_new_chunk("new_chunk", &[]).await else { return };
    assert!(is_free);
}

#[cfg(feature = "planted-bugs")]
#[tokio::test(flavor = "multi_thread")]
async fn planted_bug_a_chunk_is_made_by_the_copy() {
    let bug = [("SERIES_INGEST_PLANTED_BUGS", "chunks-not-made-ahead")];
    let Some(is_free) = others_write_beside_a_new_chunk("chunk_by_copy", &bug).await else { return };
    assert!(!is_free, "the bug is caught");
}

/// A chunk's length by which one that has begun is over in the last twentieth of it.
fn length_that_is_nearly_over(now_s: u64) -> u64 {
    (1_000..100_000).find(|length| now_s % length * 20 > length * 19 && now_s % length + 30 < *length).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_chunk_is_there_before_its_time() {
    let Some(bed) = Bed::unmigrated("next_chunk", 1).await else { return };
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let length = length_that_is_nearly_over(now_s).to_string();
    let extra = [("SERIES_INGEST__DATABASE__CHUNK_INTERVAL_S", length.as_str())];
    let settings: Vec<(&str, &str)> = extra.into();
    series_ingest::database::schema::migrate(&bed.config(&settings)).await.unwrap();
    assert!(has_timescaledb(&bed).await, "the stack has TimescaleDB");
    let worker = bed.worker(&extra);
    // History does not tell that anything is live.
    bed.send_point("s", 0);
    bed.producer.flush();
    bed.until_applied(60).await;
    assert_eq!(bed.count(CHUNKS).await, 1);
    bed.send_point("s", now_s as i64);
    bed.producer.flush();
    bed.until_applied(60).await;
    until(30, "this chunk and the next", async || bed.count(CHUNKS).await == 3).await;
    let next = "select count(*) from timescaledb_information.chunks where range_start > now()";
    assert_eq!(bed.count(next).await, 1);
    drop(worker);
    bed.remove().await;
}

/// Somebody's trigger sees points and nothing else; chunks of another length are what they are.
#[tokio::test(flavor = "multi_thread")]
async fn where_no_chunk_can_be_made_ahead_the_copy_makes_it() {
    let Some(bed) = Bed::new("chunk_of_its_own", 1).await else { return };
    assert!(has_timescaledb(&bed).await, "the stack has TimescaleDB");
    let worker = bed.worker(&[]);
    for seconds in [0, 100 * 86_400] {
        bed.send_point("s", seconds);
    }
    bed.producer.flush();
    bed.until_applied(60).await;
    assert_eq!(bed.count(CHUNKS).await, 2);
    // Thirty days: an interval of this length around most days hits a chunk that is there.
    bed.client
        .batch_execute(
            "select set_chunk_time_interval('time_series_data_points', interval '30 days');
             create table seen (at timestamptz);
             create function see() returns trigger language plpgsql as
                 $$ begin insert into seen values (new.\"timestamp\"); return new; end $$",
        )
        .await
        .unwrap();
    for day in [-40, -5, 1, 5, 99, 101, 300] {
        bed.send_point("s", day * 86_400);
    }
    bed.producer.flush();
    bed.until_applied(60).await;
    assert_eq!(bed.count_points().await, 9);
    bed.client
        .batch_execute("create trigger see after insert on time_series_data_points for each row execute function see()")
        .await
        .unwrap();
    for day in [1000, 2000] {
        bed.send_point("s", day * 86_400);
    }
    bed.producer.flush();
    bed.until_applied(60).await;
    assert_eq!((bed.count_points().await, bed.count("select count(*) from seen").await), (11, 2));
    assert_eq!(bed.count("select count(*) from ingest_dead_letter").await, 0);
    drop(worker);
    bed.remove().await;
}
