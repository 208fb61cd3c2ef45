//! Rows that only the server can refuse: their messages become dead letters, and all others are written.

use crate::support::data::{Difference, Published};
use crate::support::fixture::Fixture;
use crate::support::until;
use crate::support::worker::{run, text};

/// A message with a row that [`REFUSE`] refuses.
const REFUSED: &[u8] = br#"{"time_series_id":"s","timestamps":[0,1],"columns":{"c":[1,-7]}}"#;
const REFUSE: &str = "alter table time_series_data_points add constraint no_sevens check (value <> -7)";
/// The same by a trigger that runs after the rows were taken in, so that the row at which the COPY ends is another one.
const REFUSE_LATE: &str = "
    create function refuse() returns trigger language plpgsql as $$
    begin
        if new.value = -7 then
            raise exception 'no sevens' using errcode = 'check_violation', constraint = 'no_sevens';
        end if;
        return null;
    end $$;
    create trigger refuse after insert on time_series_data_points for each row execute function refuse()";

/// Publishes `messages` good ones of 100 points, and a refused one before each of those at `refused`; the offsets of the
/// refused.
fn publish_with_refused(fixture: &Fixture, published: &mut Published, messages: usize, refused: &[usize]) -> Vec<i64> {
    let mut offsets = Vec::new();
    for number in 0..messages {
        if refused.contains(&number) {
            offsets.push((number + offsets.len()) as i64);
            fixture.producer.send(&fixture.points_topic, 0, "s", Some(REFUSED));
        }
        let good = published.batch("s", 50);
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(good.as_bytes()));
    }
    fixture.producer.flush();
    offsets
}

/// That the table is exact, and the dead letters are of just these offsets, each with the server's reason and no row.
async fn assert_refused(fixture: &Fixture, published: &Published, offsets: &[i64]) {
    let letters = fixture
        .client
        .query("select \"offset\", reason, detail from ingest_dead_letter order by 1", &[])
        .await
        .unwrap();
    assert_eq!(letters.iter().map(|row| row.get(0)).collect::<Vec<i64>>(), offsets);
    for letter in letters {
        assert_eq!(letter.get::<_, &str>(1), "rejected_by_database");
        let detail: &str = letter.get(2);
        assert!(
            detail.contains("23514") && detail.contains("no_sevens") || detail.contains("P0001: no sevens"),
            "{detail}"
        );
        assert!(!detail.contains("-7"), "no row is quoted: {detail}");
    }
    assert_eq!(fixture.difference(published).await, Difference::default());
}

async fn transactions(fixture: &Fixture, worker: &crate::support::worker::Worker) -> (f64, i64) {
    fixture.client.batch_execute("select pg_stat_clear_snapshot()").await.unwrap();
    let committed = worker.metric("series_ingest_transaction_seconds_count").unwrap_or(0.0);
    let given_up = "select xact_rollback from pg_stat_database where datname = current_database()";
    (committed, fixture.count(given_up).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_refused_rows_among_a_hundred_thousand_take_no_good_one_with_them() {
    let Some(fixture) = Fixture::new("refused", 1).await else { return };
    fixture.client.batch_execute(REFUSE).await.unwrap();
    let mut published = Published::default();
    let offsets = publish_with_refused(&fixture, &mut published, 1000, &[23, 24, 870]);
    assert_eq!(published.rows.len(), 100_000);
    let worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    assert_refused(&fixture, &published, &offsets).await;
    let (committed, given_up) = transactions(&fixture, &worker).await;
    assert!(committed + given_up as f64 <= 60.0, "{committed} transactions committed, {given_up} given up");
    assert_eq!(
        worker.metric("series_ingest_dead_letters_total{input=\"points\",reason=\"rejected_by_database\"}"),
        Some(3.0)
    );
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_speaks_late_leads_to_the_same_messages() {
    let Some(fixture) = Fixture::new("refused_late", 1).await else { return };
    fixture.client.batch_execute(REFUSE_LATE).await.unwrap();
    let mut published = Published::default();
    let offsets = publish_with_refused(&fixture, &mut published, 300, &[0, 77, 78, 299]);
    let worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    assert_refused(&fixture, &published, &offsets).await;
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_trigger_raises_without_a_code_refuses_a_row_too() {
    let Some(fixture) = Fixture::new("refused_raise", 1).await else { return };
    let (before, after) =
        REFUSE_LATE.split_once(" using errcode = 'check_violation', constraint = 'no_sevens'").unwrap();
    fixture.client.batch_execute(&format!("{before}{after}")).await.unwrap();
    let mut published = Published::default();
    let offsets = publish_with_refused(&fixture, &mut published, 20, &[7]);
    let worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    assert_refused(&fixture, &published, &offsets).await;
    drop(worker);
    fixture.remove().await;
}

/// A batch after one with refused rows is copied in pieces from the start, and after some valid ones none is.
#[tokio::test(flavor = "multi_thread")]
async fn where_rows_are_refused_often_no_transaction_is_given_up_for_it() {
    let Some(fixture) = Fixture::new("refused_often", 1).await else { return };
    fixture.client.batch_execute(REFUSE).await.unwrap();
    let mut published = Published::default();
    let worker = fixture.worker(&[("SERIES_INGEST__LOG__FILTER", "series_ingest::database=debug")]);
    let mut offsets = Vec::new();
    let mut send = async |published: &mut Published, refused: bool| {
        let next = offsets.len() as i64 + published.rows.len() as i64 / 100;
        if refused {
            offsets.push(next);
        }
        publish_with_refused(&fixture, published, 1, if refused { &[0] } else { &[] });
        fixture.until_applied(60).await;
        worker.log().matches("looking for its message").count()
    };
    assert_eq!((send(&mut published, false).await, send(&mut published, true).await), (0, 1), "the first one");
    let mut often = Vec::new();
    for refused in [true, true, false, true] {
        often.push(send(&mut published, refused).await);
    }
    assert_eq!(often, [1; 4], "transactions given up");
    for _ in 0..4 {
        send(&mut published, false).await;
    }
    assert_eq!(send(&mut published, true).await, 2, "they were seldom again");
    assert_refused(&fixture, &published, &offsets).await;
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_trigger_raises_with_its_own_code_refuses_just_its_row() {
    const CODES: [&str; 5] = ["MY001", "45000", "38000", "2F002", "P0002"];
    let Some(fixture) = Fixture::new("refused_own_code", 1).await else { return };
    let branches: Vec<String> = CODES
        .iter()
        .enumerate()
        .map(|(number, code)| {
            format!("if new.value = -{} then raise exception using errcode = '{code}', message = repeat('ä', 100000); end if;", number + 1)
        })
        .collect();
    let trigger = format!(
        "create function refuse() returns trigger language plpgsql as $$ begin {} return new; end $$;
         create trigger refuse before insert on time_series_data_points for each row execute function refuse()",
        branches.join(" ")
    );
    fixture.client.batch_execute(&trigger).await.unwrap();
    let mut published = Published::default();
    for number in 1..=CODES.len() {
        for value in [format!("-{number}"), published.batch("s", 20)] {
            let refused = format!(r#"{{"time_series_id":"s","timestamps":[0,1],"columns":{{"c":[1,{value}]}}}}"#);
            let payload = if value.starts_with('-') { refused } else { value };
            fixture.producer.send(&fixture.points_topic, 0, "s", Some(payload.as_bytes()));
        }
    }
    fixture.producer.flush();
    let worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    assert_eq!(fixture.difference(&published).await, Difference::default());
    let letters = details(&fixture, &fixture.points_topic).await;
    assert_eq!(letters.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [0, 2, 4, 6, 8]);
    for ((_, detail), code) in letters.iter().zip(CODES) {
        let expected = format!("rejected_by_database: SQLSTATE {code}: {}…", "ä".repeat(512));
        assert!(*detail == expected, "{detail:.2000}");
    }
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_refused_messages_keeps_moving() {
    let Some(fixture) = Fixture::new("refused_storm", 1).await else { return };
    fixture.client.batch_execute(REFUSE).await.unwrap();
    let mut published = Published::default();
    let all: Vec<usize> = (0..500).collect();
    for _ in 0..500 {
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(REFUSED));
    }
    let mut offsets: Vec<i64> = (0..500).collect();
    let last = publish_with_refused(&fixture, &mut published, 500, &all);
    offsets.extend(last.into_iter().map(|offset| offset + 500));
    let worker = fixture.worker(&[]);
    fixture.until_applied(90).await;
    assert_refused(&fixture, &published, &offsets).await;
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_refused_messages_alone_ends_in_many_transactions() {
    let Some(fixture) = Fixture::new("refused_batch", 1).await else { return };
    fixture.client.batch_execute(REFUSE).await.unwrap();
    let mut published = Published::default();
    const MESSAGES: i64 = 10_000;
    for _ in 0..MESSAGES {
        let one_row = br#"{"time_series_id":"s","timestamps":[0],"columns":{"c":[-7]}}"#;
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(one_row));
    }
    publish_with_refused(&fixture, &mut published, 10, &[]);
    // A topic without an accepted message would be paused.
    let settings =
        [("SERIES_INGEST__BATCH__LINGER_MS", "10000"), ("SERIES_INGEST__MESSAGE__REJECTIONS_BEFORE_PAUSE", "0")];
    let worker = fixture.worker(&settings);
    // With another trigger each message takes 10 ms.
    fixture.until_applied(300).await;
    assert_refused(&fixture, &published, &(0..MESSAGES).collect::<Vec<_>>()).await;
    let letters = "select max(count) from (select count(*) from ingest_dead_letter group by xmin::text) as transaction";
    let most = fixture.count(letters).await;
    assert!((100..=1000).contains(&most), "{most} dead letters in a transaction");
    let of_reason = "series_ingest_dead_letters_total{input=\"points\",reason=\"rejected_by_database\"}";
    worker.until_metric(of_reason, MESSAGES as f64).await;
    drop(worker);
    fixture.remove().await;
}

/// A trigger that takes longer than a statement may is not a refusal: every message would become a dead letter on a slow server.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_takes_too_long_keeps_no_other_waiting_and_is_named() {
    let Some(fixture) = Fixture::new("refused_slow", 1).await else { return };
    let slow = REFUSE_LATE.replace(
        "raise exception 'no sevens' using errcode = 'check_violation', constraint = 'no_sevens'",
        "perform pg_sleep(60)",
    );
    assert_ne!(slow, REFUSE_LATE);
    fixture.client.batch_execute(&slow).await.unwrap();
    let mut published = Published::default();
    let offsets = publish_with_refused(&fixture, &mut published, 20, &[7, 12]);
    let folder = tempfile::tempdir().unwrap();
    let worker = fixture.worker(&[
        ("SERIES_INGEST__DATABASE__STATEMENT_TIMEOUT_MS", "500"),
        // Where the server is taken for one that is away, all messages go there.
        ("SERIES_INGEST__JOURNAL__ENABLED", "true"),
        ("SERIES_INGEST__JOURNAL__DIRECTORY", folder.path().to_str().unwrap()),
        ("SERIES_INGEST__JOURNAL__MIN_FREE_BYTES", "0"),
        ("SERIES_INGEST__DATABASE__OUTAGE_GRACE_MS", "0"),
    ]);
    until(60, "all others are written", async || fixture.count_points().await == published.rows.len() as i64).await;
    until(60, "the messages are named", async || {
        let named = |offset: &i64| {
            let named = format!("{} 0 {offset}", fixture.points_topic);
            worker.log().lines().any(|line| line.contains("ERROR") && line.contains(&named))
        };
        offsets.iter().all(named)
    })
    .await;
    assert_eq!(fixture.next_offsets().await, [offsets[0]]);
    assert_eq!(fixture.count("select count(*) from ingest_dead_letter").await, 0);
    publish_with_refused(&fixture, &mut published, 20, &[]);
    until(60, "what comes later is written", async || fixture.count_points().await == published.rows.len() as i64)
        .await;
    assert_eq!(worker.metric("series_ingest_mode{mode=\"journaling\"}"), Some(0.0), "{}", worker.log());
    assert_eq!(worker.metric("series_ingest_journal_records"), Some(0.0));
    fixture.client.batch_execute("drop trigger refuse on time_series_data_points").await.unwrap();
    fixture.until_applied(60).await;
    assert_eq!(
        fixture.difference(&published).await,
        Difference { invented: 4, ..Difference::default() },
        "its own points"
    );
    drop(worker);
    fixture.remove().await;
}

/// A trigger that gives its transaction 600 ms; each row takes 10 ms of it. A setting of the session's own would not do: the
/// worker turns `transaction_timeout` off in each.
const LIMIT_TRANSACTION: &str = "
    create function limit_transaction() returns trigger language plpgsql as $$
    begin
        perform set_config('transaction_timeout', '600ms', true);
        perform pg_sleep(0.01);
        return null;
    end $$;
    create trigger limit_transaction after insert on time_series_data_points
        for each row execute function limit_transaction()";

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_transaction_takes_too_long_is_halved_until_it_is_written() {
    let Some(fixture) = Fixture::new("refused_transaction", 1).await else { return };
    fixture.client.batch_execute(LIMIT_TRANSACTION).await.unwrap();
    let mut published = Published::default();
    // Ten rows each: one message takes 100 ms, and all of them take 1.6 s.
    for _ in 0..16 {
        let payload = published.batch("s", 5);
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(payload.as_bytes()));
    }
    fixture.producer.flush();
    let worker = fixture.worker(&[("SERIES_INGEST__BATCH__LINGER_MS", "1000")]);
    until(60, "a batch is halved", async || {
        worker.log().lines().any(|line| line.contains("trying its halves") && line.contains("SQLSTATE 25P04"))
    })
    .await;
    fixture.until_applied(60).await;
    fixture.assert_exact(&published).await;
    assert!(!worker.log().contains("does not write one message"), "{}", worker.log());
    drop(worker);
    fixture.remove().await;
}

/// The reasons and details of the dead letters of a topic, by their offsets.
async fn details(fixture: &Fixture, topic: &str) -> Vec<(i64, String)> {
    let sql = "select letter.\"offset\", letter.reason || ': ' || letter.detail
               from ingest_dead_letter as letter join ingest_source as source on source.id = letter.source_id
               where source.topic = $1 order by 1";
    fixture.client.query(sql, &[&topic]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// A constraint of every kind, and what its letters name.
const CONSTRAINTS: [(&str, &str, &[u8], &[&str]); 4] = [
    (
        "not_null",
        "alter table time_series_data_points alter column value set not null",
        br#"{"time_series_id":"s","timestamps":[0,1],"columns":{"c":[1,null]}}"#,
        &["SQLSTATE 23502", "column value"],
    ),
    (
        "domain",
        "create domain no_sevens as double precision constraint not_that check (value <> -7);
         alter table time_series_data_points alter column value type no_sevens",
        REFUSED,
        &["SQLSTATE 23514", "domain no_sevens", "constraint not_that"],
    ),
    (
        "deferred",
        "create function refuse() returns trigger language plpgsql as $$
         begin
             if new.value = -7 then
                 raise exception 'none' using errcode = 'check_violation', constraint = 'no_sevens';
             end if;
             return null;
         end $$;
         create constraint trigger refuse after insert on time_series_data_points deferrable initially deferred
             for each row execute function refuse()",
        REFUSED,
        &["SQLSTATE 23514", "constraint no_sevens"],
    ),
    (
        "deferred_raise",
        "create function refuse() returns trigger language plpgsql as $$
         begin
             if new.value = -7 then raise exception 'no sevens'; end if;
             return null;
         end $$;
         create constraint trigger refuse after insert on time_series_data_points deferrable initially deferred
             for each row execute function refuse()",
        REFUSED,
        &["SQLSTATE P0001: no sevens"],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn constraints_of_every_kind_refuse_just_their_messages() {
    for (name, constraint, refused, parts) in CONSTRAINTS {
        let Some(fixture) = Fixture::new(&format!("refused_by_{name}"), 1).await else { return };
        fixture.client.batch_execute(constraint).await.unwrap();
        let mut published = Published::default();
        for number in 0..64 {
            let good = published.batch("s", 5);
            let payload = if [20, 21, 63].contains(&number) { refused } else { good.as_bytes() };
            fixture.producer.send(&fixture.points_topic, 0, "s", Some(payload));
            if payload == refused {
                published.rows.truncate(published.rows.len() - 10);
            }
        }
        fixture.producer.flush();
        let mut worker = fixture.worker(&[]);
        fixture.until_applied(60).await;
        assert_eq!(fixture.difference(&published).await, Difference::default(), "{name}");
        let letters = details(&fixture, &fixture.points_topic).await;
        assert_eq!(letters.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [20, 21, 63], "{name}");
        for (_, detail) in &letters {
            assert!(detail.starts_with("rejected_by_database: SQLSTATE"), "{name}: {detail}");
            assert!(parts.iter().all(|part| detail.contains(part)), "{name}: {parts:?} is not all in {detail}");
            assert!(!detail.contains("-7"), "{name}: no row is quoted: {detail}");
        }
        let (committed, given_up) = transactions(&fixture, &worker).await;
        assert!(committed + given_up as f64 <= 60.0, "{name}: {committed} committed, {given_up} given up");
        assert_eq!(worker.terminate(10), Some(0));
        // Where it fails at the COMMIT, sending it again finds just these, too.
        let output = run(&fixture.environment(), &["dead-letter", "redrive"]);
        let printed = text(&output);
        assert!(printed.contains("0 dead letters with 0 points written; 3 rejected again"), "{name}: {printed}");
        assert_eq!(fixture.difference(&published).await, Difference::default(), "{name}");
        fixture.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_that_is_refused_takes_no_other_and_no_point_with_it() {
    const BY_CHECK: &str =
        "alter table time_series_metadata add constraint no_bad check (name <> 'bad' and id <> 'bad')";
    const BY_TRIGGER: &str = "create function refuse() returns trigger language plpgsql as $$
        begin
            if new.name = 'bad' or new.id = 'bad' then raise exception 'nothing bad'; end if;
            return null;
        end $$;
        create constraint trigger refuse after insert or update on time_series_metadata deferrable initially deferred
            for each row execute function refuse()";
    for (name, constraint, part) in
        [("check", BY_CHECK, "SQLSTATE 23514"), ("trigger", BY_TRIGGER, "SQLSTATE P0001: nothing bad")]
    {
        let Some(fixture) = Fixture::new(&format!("refused_series_{name}"), 1).await else { return };
        fixture.client.batch_execute(constraint).await.unwrap();
        for (id, name) in
            [("first", "good"), ("second", "bad"), ("third", "good"), ("first", "bad"), ("fourth", "good")]
        {
            let definition = format!(r#"{{"id":"{id}","name":"{name}"}}"#);
            fixture.producer.send(&fixture.series_topic, 0, id, Some(definition.as_bytes()));
        }
        let mut published = Published::default();
        // The points of one series would make a placeholder that is refused as well.
        for series in ["first", "bad", "second"] {
            let payload = published.batch(series, 3);
            fixture.producer.send(&fixture.points_topic, 0, series, Some(payload.as_bytes()));
        }
        published.rows.retain(|row| row.0 != "bad");
        fixture.producer.flush();
        let worker = fixture.worker(&[]);
        fixture.until_applied(60).await;
        let applied = "select count(*) from ingest_progress as p join ingest_source as s on s.id = p.source_id
                       where s.topic like '%.series' and p.next_offset = 5";
        until(60, "all definitions are applied", async || fixture.count(applied).await == 1).await;
        assert_eq!(fixture.difference(&published).await, Difference::default(), "{name}");
        for (topic, offsets) in [(&fixture.series_topic, &[1, 3][..]), (&fixture.points_topic, &[1])] {
            let letters = details(&fixture, topic).await;
            assert_eq!(letters.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), offsets, "{name}");
            assert!(letters.iter().all(|(_, detail)| detail.contains(part)), "{name}: {letters:?}");
        }
        let rows = fixture
            .client
            .query("select concat_ws(' ', id, name) from time_series_metadata order by 1", &[])
            .await
            .unwrap();
        let rows: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(rows, ["first good", "fourth good", "second", "third good"], "{name}");
        drop(worker);
        fixture.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_another_type_refuses_no_message() {
    let Some(fixture) = Fixture::new("refused_type", 1).await else { return };
    let alter = |to: &str| format!("alter table time_series_data_points alter column value type {to}");
    let mut published = Published::default();
    let send = |published: &mut Published| {
        let payload = published.batch("s", 5);
        fixture.producer.send(&fixture.points_topic, 0, "s", Some(payload.as_bytes()));
        fixture.producer.flush();
    };
    send(&mut published);
    let worker = fixture.worker(&[]);
    fixture.until_applied(60).await;
    fixture.client.batch_execute(&alter("real")).await.unwrap();
    send(&mut published);
    let errors = "series_ingest_database_errors_total{class=\"internal\"}";
    until(60, "it is refused", async || worker.metric(errors) >= Some(2.0)).await;
    let told = run(&fixture.environment(), &["check"]);
    assert_eq!(told.status.code(), Some(64), "{}", text(&told));
    assert!(text(&told).contains("column value of time_series_data_points is of type real"), "{}", text(&told));
    assert_eq!(fixture.count("select count(*) from ingest_dead_letter").await, 0, "that is no message's fault");
    fixture.client.batch_execute(&alter("double precision")).await.unwrap();
    fixture.until_applied(60).await;
    fixture.assert_exact(&published).await;
    drop(worker);
    fixture.remove().await;
}
