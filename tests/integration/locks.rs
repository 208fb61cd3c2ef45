//! Locks of others: on whole tables, which everything waits for, and on rows, which only their own messages wait for.

use std::path::Path;

use tokio_postgres::Client;

use crate::support::data::{Difference, Published, Row};
use crate::support::fixture::{Fixture, connect};
use crate::support::fixture_with_proxy::FixtureWithProxy;
use crate::support::until;
use crate::support::worker::{Worker, run, text};

/// A forgotten session, with what it holds.
async fn forgotten(fixture: &Fixture, sql: &str) -> Client {
    let client = connect(&format!("{}?application_name=forgotten", fixture.url)).await;
    client.batch_execute(&format!("begin; {sql}")).await.unwrap();
    client
}

/// The locks that `/status` names.
fn locks(worker: &Worker) -> Vec<String> {
    let Some((_, body)) = worker.get("/status") else { return Vec::new() };
    let status: serde_json::Value = serde_json::from_str(&body).unwrap();
    status["database"]["locks"].as_array().unwrap().iter().map(|lock| lock.as_str().unwrap().to_owned()).collect()
}

async fn until_named(worker: &Worker, object: &str) {
    until(30, &format!("the lock on {object} is named"), async || {
        locks(worker).iter().any(|lock| {
            lock.contains(object)
                && lock.contains("is locked by process ")
                && lock.contains("forgotten")
                && lock.contains("idle in transaction")
                && lock.contains(" since 20")
        })
    })
    .await;
    let named = format!("{object} is locked by process ");
    let lines =
        worker.log().lines().filter(|line| line.contains("another session's lock") && line.contains(&named)).count();
    assert_eq!(lines, 1, "it is logged once: {}", worker.log());
}

/// Waits until the worker has read all that Kafka has, and holds little more of it than what it writes on trial.
async fn until_saved(away: &FixtureWithProxy, worker: &Worker) {
    let ends = away.fixture.broker.ends(&away.fixture.points_topic, away.fixture.partitions);
    until(30, "everything is journaled", async || {
        let Some((200, body)) = worker.get("/status") else { return false };
        let status: serde_json::Value = serde_json::from_str(&body).unwrap();
        let is_read = |number: usize, end: i64| {
            status["partitions"].as_array().unwrap().iter().any(|partition| {
                partition["topic"] == away.fixture.points_topic.as_str()
                    && partition["partition"] == number
                    && partition["position"] == end
            })
        };
        status["buffered_bytes"].as_i64().unwrap() < 100_000
            && ends.iter().enumerate().all(|(number, end)| is_read(number, *end))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_table_is_locked_messages_go_to_the_journal() {
    let Some(away) = FixtureWithProxy::new("locked_table", 2).await else { return };
    let mut published = Published::default();
    let worker = away.worker("journal", &[("SERIES_INGEST__DATABASE__LOCK_TIMEOUT_MS", "2000")]);
    for table in ["time_series_data_points", "ingest_progress", "time_series_metadata"] {
        away.publish(&mut published, 20);
        away.fixture.until_applied(60).await;
        worker.until_mode("streaming").await;
        let holder = forgotten(&away.fixture, &format!("lock table {table} in access exclusive mode")).await;
        away.publish(&mut published, 10);
        worker.until_mode("journaling").await;
        away.publish(&mut published, 400);
        until_saved(&away, &worker).await;
        until_named(&worker, &format!("the table {table}")).await;
        assert_eq!(worker.get("/readyz").unwrap().0, 200, "what is journaled moves");
        // What retention takes now is not lost.
        away.delete_records().await;
        away.publish(&mut published, 40);
        holder.batch_execute("rollback").await.unwrap();
        away.fixture.until_applied(60).await;
        away.fixture.assert_exact(&published).await;
        worker.until_mode("streaming").await;
        until(30, "the lock is over", async || {
            away.publish(&mut published, 1);
            locks(&worker).is_empty() && worker.log().contains("no lock keeps points from being written any more")
        })
        .await;
    }
    away.fixture.until_applied(60).await;
    away.fixture.assert_exact(&published).await;
    drop(worker);
    away.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_journal_a_locked_table_makes_the_worker_unready_and_is_named_there() {
    let Some(fixture) = Fixture::new("locked_table_off", 1).await else { return };
    let worker = fixture.worker(&[("SERIES_INGEST__DATABASE__OUTAGE_GRACE_MS", "300")]);
    fixture.send_point("s", 0);
    fixture.producer.flush();
    fixture.until_applied(60).await;
    let holder = forgotten(&fixture, "lock table time_series_data_points in access exclusive mode").await;
    fixture.send_point("s", 1);
    fixture.producer.flush();
    until(30, "unready, with the holder", async || {
        worker.get("/readyz").is_some_and(|(code, why)| {
            code == 503
                && why.contains("the table time_series_data_points is locked by process ")
                && why.contains("forgotten")
        })
    })
    .await;
    holder.batch_execute("rollback").await.unwrap();
    fixture.until_applied(60).await;
    until(30, "ready again", async || worker.get("/readyz").unwrap().0 == 200).await;
    assert_eq!(fixture.count_points().await, 2);
    drop(worker);
    fixture.remove().await;
}

/// Who holds a lock is said by whatever waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn commands_say_whose_lock_they_wait_for() {
    let Some(fixture) = Fixture::new("locked_commands", 1).await else { return };
    fixture.producer.send(&fixture.points_topic, 0, "s", Some(b"{"));
    fixture.send_point("s", 0);
    fixture.producer.flush();
    let mut worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    assert_eq!(worker.terminate(10), Some(0));
    let mut environment = fixture.environment();
    environment.push(("SERIES_INGEST__DATABASE__LOCK_TIMEOUT_MS".to_owned(), "8000".to_owned()));
    let run_all = |commands: &[&'static [&'static str]]| -> Vec<_> {
        let spawn = |command: &&'static [&'static str]| {
            let environment = environment.clone();
            let command = *command;
            tokio::task::spawn_blocking(move || (command, run(&environment, command)))
        };
        commands.iter().map(spawn).collect()
    };
    let is_said = |output: &str| {
        output.contains("waiting for a lock of process ")
            && output.contains("forgotten")
            && output.contains("idle in transaction")
    };

    // A timeout is not our fault, and may be over with the next attempt.
    for (table, commands) in [
        ("ingest_progress", &[&["progress", "show"][..], &["check"]][..]),
        ("ingest_schema_history", &[&["check"]]),
        ("time_series_data_points", &[&["check"]]),
        ("ingest_dead_letter", &[&["dead-letter", "list"]]),
    ] {
        let holder = forgotten(&fixture, &format!("lock table {table} in access exclusive mode")).await;
        for running in run_all(commands) {
            let (command, output) = running.await.unwrap();
            assert_eq!(output.status.code(), Some(69), "{table}: {command:?}: {}", text(&output));
            assert!(is_said(&text(&output)), "{table}: {command:?}: {}", text(&output));
        }
        drop(holder);
    }

    // This one tries again, until the lock is given back.
    let holder = forgotten(&fixture, "lock table time_series_data_points in access exclusive mode").await;
    fixture
        .client
        .batch_execute(
            r#"update ingest_dead_letter set payload = '{"time_series_id":"s","timestamps":[1],"columns":{"c":[1]}}'"#,
        )
        .await
        .unwrap();
    let running = run_all(&[&["dead-letter", "redrive"]]);
    tokio::time::sleep(std::time::Duration::from_secs(11)).await;
    holder.batch_execute("rollback").await.unwrap();
    for running in running {
        let (_, output) = running.await.unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        assert!(is_said(&text(&output)), "{}", text(&output));
    }
    assert_eq!(fixture.count_points().await, 2);
    fixture.remove().await;
}

/// A row that another session holds.
struct Held {
    /// What has to be there before.
    before: &'static str,
    /// How it is held.
    sql: &'static str,
    /// What is locked, as it is named.
    object: &'static str,
    /// A column more in the messages of the series, so that its row is to be changed.
    new_column: bool,
}

const HELD: [Held; 7] = [
    Held {
        before: "",
        sql: "select from time_series_metadata where id = 'held' for update",
        object: "a row of time_series_metadata",
        new_column: false,
    },
    Held {
        before: "",
        sql: "update time_series_metadata set description = 'edited' where id = 'held'",
        object: "a row",
        new_column: true,
    },
    Held {
        before: "",
        sql: "delete from time_series_data_points where time_series_id = 'held' and false;
              update time_series_metadata set id = id where id = 'held'",
        object: "a row",
        new_column: true,
    },
    Held {
        before: "",
        sql: "select from ingest_series where series_id = 'held' for update",
        object: "a row of ingest_series",
        new_column: true,
    },
    Held {
        before: "delete from time_series_data_points where time_series_id = 'held';
                 delete from time_series_metadata where id = 'held'",
        sql: "insert into time_series_metadata (id, name, time_column, value_columns) values ('held', 'h', 't', '[]')",
        object: "a row",
        new_column: true,
    },
    // Series that only get points do not need what is known of them besides.
    Held {
        before: "",
        sql: "lock table ingest_series in access exclusive mode",
        object: "the table ingest_series",
        new_column: true,
    },
    // The foreign key's trigger does what the worker does otherwise.
    Held {
        before: "create function nothing() returns trigger language plpgsql as 'begin return null; end';
                 create trigger nothing_more after insert on time_series_data_points
                 for each statement execute function nothing()",
        sql: "select from time_series_metadata where id = 'held' for update",
        object: "a row of time_series_metadata",
        new_column: false,
    },
];

fn points_of(published: &Published, series: impl Fn(&str) -> bool) -> i64 {
    published.rows.iter().filter(|row: &&Row| series(&row.0)).count() as i64
}

/// Publishes `messages` messages of several series in two partitions, one in five of the series `held`.
fn publish_held(fixture: &Fixture, published: &mut Published, messages: usize, new_column: bool) {
    for number in 0..messages {
        let series = if number % 5 == 0 { "held".to_owned() } else { format!("free{}", number % 5) };
        let mut payload = published.batch(&series, 3);
        if new_column && series == "held" {
            payload = payload.replace("\"b\":", "\"more\":");
            for row in published.rows.iter_mut().rev().take(6).filter(|row| row.1 == "b") {
                row.1 = "more".to_owned();
            }
        }
        fixture.producer.send(&fixture.points_topic, (number / 5) as i32 % 2, &series, Some(payload.as_bytes()));
    }
    fixture.producer.flush();
}

async fn only_its_own_messages_wait(test: &str, held: &Held, settings: &[(&str, &str)]) {
    let Some(fixture) = Fixture::new(test, 2).await else { return };
    let mut published = Published::default();
    let grace = [("SERIES_INGEST__DATABASE__OUTAGE_GRACE_MS", "300"), ("SERIES_INGEST__BATCH__LINGER_MS", "50")];
    let worker = fixture.worker(&[&grace[..], settings].concat());
    publish_held(&fixture, &mut published, 50, false);
    fixture.until_applied(60).await;
    if held.before.contains("delete") {
        published.rows.retain(|row| row.0 != "held");
    }
    if !held.before.is_empty() {
        // What the environment's trigger is made of may be there.
        let before = held.before.replace("create function", "create or replace function");
        fixture.client.batch_execute(&before).await.unwrap();
    }
    let before = points_of(&published, |series| series == "held");
    let holder = forgotten(&fixture, held.sql).await;
    let of = |what: &str| format!("select count(*) from time_series_data_points where time_series_id {what} 'held'");
    for round in 0..10 {
        publish_held(&fixture, &mut published, 40, held.new_column);
        let free = points_of(&published, |series| series != "held");
        until(30, &format!("all others of round {round}"), async || fixture.count(&of("<>")).await == free).await;
    }
    assert_eq!(fixture.count(&of("=")).await, before, "what is locked waits");
    until_named(&worker, held.object).await;
    assert_eq!(worker.get("/readyz").unwrap().0, 200, "{:?}", worker.get("/readyz"));
    release(&holder, fixture, worker, &published).await;
}

/// Ends the holder's transaction: what waited is written, exactly once, and nobody is named any more.
async fn release(holder: &Client, fixture: Fixture, worker: Worker, published: &Published) {
    holder.batch_execute("rollback").await.unwrap();
    fixture.until_applied(60).await;
    fixture.assert_exact(published).await;
    until(30, "the lock is over", async || locks(&worker).is_empty()).await;
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_row_keeps_only_its_own_messages_waiting() {
    for (number, held) in HELD.iter().enumerate() {
        only_its_own_messages_wait(&format!("locked_row_{number}"), held, &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_row_keeps_only_its_own_messages_waiting_in_the_journal() {
    let folder = tempfile::tempdir().unwrap();
    let settings = |folder: String| {
        [
            ("SERIES_INGEST__JOURNAL__ENABLED".to_owned(), "true".to_owned()),
            ("SERIES_INGEST__JOURNAL__DIRECTORY".to_owned(), folder),
            ("SERIES_INGEST__JOURNAL__MIN_FREE_BYTES".to_owned(), "0".to_owned()),
        ]
    };
    for number in [0, 1] {
        let settings = settings(folder.path().join(number.to_string()).to_str().unwrap().to_owned());
        let settings: Vec<(&str, &str)> =
            settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        only_its_own_messages_wait(&format!("locked_row_journal_{number}"), &HELD[number], &settings).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_whose_progress_is_locked_keeps_no_other_waiting() {
    let Some(fixture) = Fixture::new("locked_progress", 2).await else { return };
    let mut published = Published::default();
    let settings =
        [("SERIES_INGEST__DATABASE__OUTAGE_GRACE_MS", "300"), ("SERIES_INGEST__DATABASE__LOCK_TIMEOUT_MS", "1000")];
    let worker = fixture.worker(&settings);
    publish_held(&fixture, &mut published, 50, false);
    fixture.until_applied(60).await;
    let row = format!(
        "select from ingest_progress where partition = 0
         and source_id = (select id from ingest_source where topic = '{}') for update",
        fixture.points_topic
    );
    let holder = forgotten(&fixture, &row).await;
    for _ in 0..5 {
        publish_held(&fixture, &mut published, 40, false);
        let end = fixture.broker.end(&fixture.points_topic, 1);
        until(30, "the other partition", async || fixture.next_offsets().await[1] == end).await;
    }
    assert_eq!(fixture.next_offsets().await[0], 25);
    until_named(&worker, "a row of ingest_progress").await;
    holder.batch_execute("rollback").await.unwrap();
    fixture.until_applied(60).await;
    fixture.assert_exact(&published).await;
    drop(worker);
    fixture.remove().await;
}

/// More messages of a locked row in turn with others than a partition's progress can hold islands.
async fn more_holes_than_islands(test: &str, journal: bool) {
    let Some(away) = FixtureWithProxy::new(test, 2).await else { return };
    let mut published = Published::default();
    let worker = away.worker("journal", &[("SERIES_INGEST__JOURNAL__ENABLED", if journal { "true" } else { "false" })]);
    let send = |published: &mut Published, partition: i32, series: &str| {
        let payload = published.batch(series, 1);
        away.fixture.producer.send(&away.fixture.points_topic, partition, series, Some(payload.as_bytes()));
    };
    send(&mut published, 0, "held");
    send(&mut published, 1, "free");
    away.fixture.producer.flush();
    away.fixture.until_applied(60).await;
    let holder = forgotten(&away.fixture, "select from time_series_metadata where id = 'held' for update").await;
    for _ in 0..10 {
        for _ in 0..300 {
            send(&mut published, 0, "held");
            send(&mut published, 0, "free");
        }
        send(&mut published, 1, "free");
        away.fixture.producer.flush();
        let end = away.fixture.broker.end(&away.fixture.points_topic, 1);
        until(30, "the other partition", async || away.fixture.next_offsets().await[1] == end).await;
    }
    let islands = "select max((select count(*) from unnest(ahead))) from ingest_progress";
    until(30, "there are islands", async || away.fixture.count(islands).await > 0).await;
    holder.batch_execute("rollback").await.unwrap();
    away.fixture.until_applied(60).await;
    assert_eq!(away.fixture.difference(&published).await, Difference::default());
    away.fixture.assert_exact(&published).await;
    worker.until_mode("streaming").await;
    drop(worker);
    away.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_messages_of_a_locked_row_than_progress_holds_islands() {
    more_holes_than_islands("locked_islands", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_messages_of_a_locked_row_than_progress_holds_islands_without_a_journal() {
    more_holes_than_islands("locked_islands_off", false).await;
}

/// A worker with the program's own timeouts, and a journal if there is a folder for it.
fn worker(fixture: &Fixture, folder: Option<&Path>, extra: &[(&str, &str)]) -> Worker {
    let mut settings = vec![("SERIES_INGEST__BATCH__LINGER_MS", "50")];
    if let Some(folder) = folder {
        settings.extend([
            ("SERIES_INGEST__JOURNAL__ENABLED", "true"),
            ("SERIES_INGEST__JOURNAL__DIRECTORY", folder.to_str().unwrap()),
            ("SERIES_INGEST__JOURNAL__MIN_FREE_BYTES", "0"),
        ]);
    }
    settings.extend(extra);
    fixture.worker(&settings)
}

/// Midnights of two days, each in its own chunk, in microseconds.
const OLD_US: i64 = 1_704_067_200_000_000;
const LIVE_US: i64 = 1_735_689_600_000_000;

fn send_at(fixture: &Fixture, published: &mut Published, partition: i32, times_us: Vec<i64>) {
    let payload = published.batch_at("s", times_us);
    fixture.producer.send(&fixture.points_topic, partition, "s", Some(payload.as_bytes()));
}

/// The table's oldest chunk, as the server names it.
async fn oldest_chunk(fixture: &Fixture, table: &str) -> String {
    let sql = "select format('%I.%I', chunk_schema, chunk_name)::regclass::text from timescaledb_information.chunks
               where hypertable_name = $1 order by range_start limit 1";
    fixture.client.query_one(sql, &[&table]).await.unwrap().get(0)
}

fn live_points(published: &Published) -> i64 {
    published.rows.iter().filter(|row| row.2 >= LIVE_US).count() as i64
}

async fn until_live_is_there(fixture: &Fixture, published: &Published, what: &str) {
    let sql = "select count(*) from time_series_data_points where \"timestamp\" >= '2025-01-01+00'";
    let live = live_points(published);
    until(30, what, async || fixture.count(sql).await == live).await;
}

async fn a_locked_chunk(test: &str, folder: Option<&Path>, (table, mode): (&str, &str), extra: &[(&str, &str)]) {
    let Some(fixture) = Fixture::unmigrated(test, 2).await else { return };
    fixture.migrate(extra).await;
    let mut published = Published::default();
    let worker = worker(&fixture, folder, extra);
    send_at(&fixture, &mut published, 0, vec![OLD_US]);
    send_at(&fixture, &mut published, 1, vec![LIVE_US]);
    fixture.producer.flush();
    fixture.until_applied(60).await;
    let chunk = oldest_chunk(&fixture, table).await;
    let holder = forgotten(&fixture, &format!("lock table {chunk} in {mode} mode")).await;
    send_at(&fixture, &mut published, 0, vec![OLD_US + 1_000_000]);
    for round in 1..20 {
        send_at(&fixture, &mut published, round as i32 % 2, vec![LIVE_US + round * 1_000_000]);
        fixture.producer.flush();
        until_live_is_there(&fixture, &published, &format!("live points of round {round}")).await;
    }
    until_named(&worker, &format!("the table {chunk}")).await;
    assert_eq!(worker.get("/readyz").unwrap().0, 200, "{:?}", worker.get("/readyz"));
    assert!(!worker.log().contains("to=journaling"), "{}", worker.log());
    assert!(!worker.log().contains("data does not move"), "{}", worker.log());
    assert_eq!(fixture.next_offsets().await[0], 1, "the late point waits");
    release(&holder, fixture, worker, &published).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_chunk_keeps_only_its_own_points_waiting() {
    a_locked_chunk("locked_chunk", None, ("time_series_data_points", "access exclusive"), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_chunk_of_versions_keeps_only_its_own_points_waiting() {
    let replace = [("SERIES_INGEST__POINTS__ON_DUPLICATE", "replace")];
    a_locked_chunk("locked_versions", None, ("ingest_point_version", "exclusive"), &replace).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_chunk_keeps_only_its_own_points_waiting_in_the_journal() {
    let folder = tempfile::tempdir().unwrap();
    // As CREATE INDEX locks it.
    let lock = ("time_series_data_points", "share");
    a_locked_chunk("locked_chunk_journal", Some(&folder.path().join("journal")), lock, &[]).await;
}

/// After an outage one record is written on trial: the oldest ones wait for the lock, and are no sign of an outage that lasts.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_waits_for_a_locked_chunk_does_not_keep_the_mode_journaling() {
    let Some(away) = FixtureWithProxy::new("locked_trial", 2).await else { return };
    let mut published = Published::default();
    let worker = away.worker("journal", &[("SERIES_INGEST__DATABASE__LOCK_TIMEOUT_MS", "2000")]);
    send_at(&away.fixture, &mut published, 0, vec![OLD_US]);
    send_at(&away.fixture, &mut published, 1, vec![LIVE_US]);
    away.fixture.producer.flush();
    away.fixture.until_applied(60).await;
    let chunk = oldest_chunk(&away.fixture, "time_series_data_points").await;
    let holder = forgotten(&away.fixture, &format!("lock table {chunk} in access exclusive mode")).await;
    away.proxy.refuse(true);
    worker.until_mode("journaling").await;
    // Each is its own record.
    let journaled = async |number: f64| {
        until(30, "it is journaled", async || worker.metric("series_ingest_journal_records") >= Some(number)).await;
    };
    for number in 1..10 {
        send_at(&away.fixture, &mut published, 0, vec![OLD_US + number * 1_000_000]);
        away.fixture.producer.flush();
        journaled(number as f64).await;
    }
    send_at(&away.fixture, &mut published, 1, vec![LIVE_US + 1_000_000]);
    away.fixture.producer.flush();
    journaled(10.0).await;
    away.proxy.refuse(false);
    until_live_is_there(&away.fixture, &published, "the newest record").await;
    worker.until_mode("replaying").await;
    assert_eq!(worker.get("/readyz").unwrap().0, 200, "{:?}", worker.get("/readyz"));
    holder.batch_execute("rollback").await.unwrap();
    away.fixture.until_applied(60).await;
    away.fixture.assert_exact(&published).await;
    worker.until_mode("streaming").await;
    drop(worker);
    away.remove().await;
}

/// Messages that become dead letters, at once and only when the database refuses their points, among others.
async fn locked_letters(test: &str, folder: Option<&Path>, table: &str) {
    let Some(fixture) = Fixture::new(test, 1).await else { return };
    let constraint = "alter table time_series_data_points add constraint no check (column_name <> 'refused')";
    fixture.client.batch_execute(constraint).await.unwrap();
    let worker = worker(&fixture, folder, &[]);
    fixture.send_point("s", 0);
    fixture.producer.flush();
    fixture.until_applied(60).await;
    let holder = forgotten(&fixture, &format!("lock table {table} in access exclusive mode")).await;
    let mut expected = 1;
    for round in 1..6 {
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(b"no JSON"));
        fixture.send_point("s", 2 * round);
        let refused = r#"{"time_series_id":"s","timestamps":[0],"columns":{"refused":[1]}}"#;
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(refused.as_bytes()));
        fixture.send_point("s", 2 * round + 1);
        fixture.producer.flush();
        expected += 2;
        until(30, &format!("points of round {round}"), async || fixture.count_points().await == expected).await;
    }
    until_named(&worker, &format!("the table {table}")).await;
    assert_eq!(worker.get("/readyz").unwrap().0, 200, "{:?}", worker.get("/readyz"));
    assert!(!worker.log().contains("to=journaling"), "{}", worker.log());
    assert_eq!(fixture.next_offsets().await, [1], "letters wait");
    holder.batch_execute("rollback").await.unwrap();
    fixture.until_applied(60).await;
    assert_eq!(fixture.count_points().await, expected);
    assert_eq!(fixture.count("select count(*) from ingest_dead_letter").await, 10);
    until(30, "the lock is over", async || locks(&worker).is_empty()).await;
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn locked_dead_letters_keep_only_their_own_messages_waiting() {
    locked_letters("locked_letters", None, "ingest_dead_letter").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn locked_counts_of_dead_letters_keep_only_their_own_messages_waiting_in_the_journal() {
    let folder = tempfile::tempdir().unwrap();
    locked_letters("locked_counts", Some(&folder.path().join("journal")), "ingest_dead_letter_count").await;
}
