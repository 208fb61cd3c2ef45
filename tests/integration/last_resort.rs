//! The place of last resort: a dead letter that the database refuses is stored with less of it, down to its count, and
//! progress goes on.

use rand::Rng as _;

use crate::support::fixture::Fixture;
use crate::support::until;
use crate::support::worker::{run, text};

/// A message whose fault's place is not ASCII.
const BAD: &str = r#"{"time_series_id":"s","timestamps":[0],"columns":{"größe 東":["x"]}}"#;

/// What is stored: rows, those among them with a payload, messages that are only counted, and one of the details.
#[derive(Debug, PartialEq, Eq)]
struct Stored {
    rows: i64,
    with_payload: i64,
    only_counted: i64,
}

async fn stored(fixture: &Fixture) -> Stored {
    let sql =
        "select count(*), count(payload), (select coalesce(sum(only_counted), 0)::bigint from ingest_dead_letter_count)
               from ingest_dead_letter";
    let row = fixture.client.query_one(sql, &[]).await.unwrap();
    Stored { rows: row.get(0), with_payload: row.get(1), only_counted: row.get(2) }
}

/// Five messages, the second and the fourth of them invalid, on a table of dead letters with this obstacle.
async fn write_past(test: &str, obstacle: &str, payload: &[u8], extra: &[(&str, &str)]) -> Option<(Fixture, Stored)> {
    let fixture = Fixture::new(test, 1).await?;
    fixture.client.batch_execute(obstacle).await.unwrap();
    let worker = fixture.worker(extra);
    for number in 0..5 {
        if number % 2 == 1 {
            fixture.producer.send(&fixture.points_topic, 0, "key", Some(payload));
        } else {
            fixture.send_point("s", number);
        }
    }
    fixture.producer.flush();
    fixture.until_applied(60).await;
    assert_eq!(fixture.count_points().await, 3, "the points of the same batch are there once");
    drop(worker);
    let stored = stored(&fixture).await;
    Some((fixture, stored))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detail_that_is_refused_is_escaped() {
    let obstacle = "alter table ingest_dead_letter add constraint plain check (detail ~ '^[ -~]*$')";
    let Some((fixture, stored)) = write_past("letter_escaped", obstacle, BAD.as_bytes(), &[]).await else { return };
    assert_eq!(stored, Stored { rows: 2, with_payload: 2, only_counted: 0 });
    let detail: String =
        fixture.client.query_one("select detail from ingest_dead_letter limit 1", &[]).await.unwrap().get(0);
    assert!(detail.contains("gr\\u{f6}\\u{df}e \\u{6771}"), "{detail}");
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_is_refused_is_left_to_kafka() {
    let obstacle = "alter table ingest_dead_letter add constraint none check (payload is null and key is null)";
    let Some((fixture, stored)) = write_past("letter_bare", obstacle, BAD.as_bytes(), &[]).await else { return };
    assert_eq!(stored, Stored { rows: 2, with_payload: 0, only_counted: 0 });
    let id = fixture.count("select min(id) from ingest_dead_letter").await.to_string();
    let show = run(&fixture.environment(), &["dead-letter", "show", &id]);
    assert!(show.status.success() && text(&show).contains("payload"), "{}", text(&show));
    // Its lengths are known, so that it is read from Kafka for another try.
    let bytes =
        format!("select count(*) from ingest_dead_letter where payload_bytes = {} and key_bytes = 3", BAD.len());
    assert_eq!(fixture.count(&bytes).await, 2);
    let redrive = run(&fixture.environment(), &["dead-letter", "redrive"]);
    assert!(text(&redrive).contains("2 rejected again"), "{}", text(&redrive));
    let detail: String =
        fixture.client.query_one("select detail from ingest_dead_letter limit 1", &[]).await.unwrap().get(0);
    assert!(detail.contains("größe"), "it was decoded as it is in Kafka: {detail}");
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_cannot_be_stored_at_all_are_counted() {
    let trigger = "create function refuse() returns trigger language plpgsql as
                       $$ begin raise exception 'no letters' using errcode = 'MY001'; end $$;
                   create trigger refuse before insert on ingest_dead_letter for each row execute function refuse()";
    let column = "alter table ingest_dead_letter add column team text not null";
    for (test, obstacle) in [("letter_trigger", trigger), ("letter_column", column)] {
        let Some((fixture, stored)) = write_past(test, obstacle, BAD.as_bytes(), &[]).await else { return };
        assert_eq!(stored, Stored { rows: 0, with_payload: 0, only_counted: 2 }, "{test}");
        fixture.remove().await;
    }
}

/// What a trigger of an operator asks for may be missing, not allowed, not supported, in another state, or away.
#[tokio::test(flavor = "multi_thread")]
async fn letters_whose_trigger_is_broken_are_counted() {
    let missing = "create function refuse() returns trigger language plpgsql as
                       $$ begin insert into nowhere values (new.id); return new; end $$;
                   create trigger refuse before insert on ingest_dead_letter for each row execute function refuse()";
    let deferred = "create function refuse() returns trigger language plpgsql as
                        $$ begin insert into nowhere values (new.id); return new; end $$;
                    create constraint trigger refuse after insert on ingest_dead_letter deferrable initially deferred
                    for each row execute function refuse()";
    let raises = |code: &str| {
        format!(
            "create function refuse() returns trigger language plpgsql as
                 $$ begin raise exception 'broken' using errcode = '{code}'; end $$;
             create trigger refuse before insert on ingest_dead_letter for each row execute function refuse()"
        )
    };
    let mut obstacles = vec![missing.to_owned(), deferred.to_owned()];
    obstacles.extend(["42501", "0A000", "55000", "XX000", "HV000", "08001"].map(raises));
    for (number, obstacle) in obstacles.iter().enumerate() {
        let test = format!("letter_broken_{number}");
        let Some((fixture, stored)) = write_past(&test, obstacle, BAD.as_bytes(), &[]).await else { return };
        assert_eq!(stored, Stored { rows: 0, with_payload: 0, only_counted: 2 }, "{obstacle}");
        fixture.remove().await;
    }
}

/// Neither letters nor their counts are taken.
#[tokio::test(flavor = "multi_thread")]
async fn letters_that_cannot_even_be_counted_are_logged() {
    let constraints = "alter table ingest_dead_letter add constraint no check (reason = 'none');
                       alter table ingest_dead_letter_count add constraint no check (reason = 'none')";
    let trigger = "create function refuse() returns trigger language plpgsql as
                       $$ begin insert into nowhere values (1); return new; end $$;
                   create trigger refuse before insert on ingest_dead_letter_count for each row execute function refuse()";
    for (test, obstacle) in [("count_check", constraints), ("count_trigger", trigger)] {
        let Some(fixture) = Fixture::new(test, 1).await else { return };
        fixture.client.batch_execute(obstacle).await.unwrap();
        let worker = fixture.worker(&[]);
        for number in 0..50 {
            fixture.producer.send(&fixture.points_topic, 0, "key", Some(BAD.as_bytes()));
            fixture.send_point("s", number);
        }
        fixture.producer.flush();
        fixture.until_applied(60).await;
        assert_eq!(fixture.count_points().await, 50, "{test}");
        assert_eq!(stored(&fixture).await, Stored { rows: 0, with_payload: 0, only_counted: 0 }, "{test}");
        worker.until_metric("series_ingest_dead_letters_not_counted_total", 50.0).await;
        assert_eq!(worker.metric("series_ingest_dead_letters_only_counted_total").unwrap_or_default(), 0.0, "{test}");
        let lines = worker.log().lines().filter(|line| line.contains("a dead letter is refused; it is only")).count();
        assert!((1..20).contains(&lines), "{test}: it is said, and not with each letter: {}", worker.log());
        let uncounted = "dead letters are refused, and so is their count";
        assert!(worker.log().contains(uncounted), "{test}: {}", worker.log());
        until(10, "the condition is shown, and the worker ready", async || {
            worker.get("/readyz").is_some_and(|(code, _)| code == 200)
                && worker.get("/status").is_some_and(|(_, body)| {
                    let status: serde_json::Value = serde_json::from_str(&body).unwrap();
                    status["conditions"]["dead-letters"]["reason"].as_str().is_some_and(|why| why.contains(uncounted))
                })
        })
        .await;
        drop(worker);
        fixture.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_letters_only_those_that_are_refused_have_less() {
    let obstacle = "alter table ingest_dead_letter add constraint one check (\"offset\" <> 3)";
    let Some((fixture, stored)) = write_past("letter_one", obstacle, BAD.as_bytes(), &[]).await else { return };
    assert_eq!(stored, Stored { rows: 1, with_payload: 1, only_counted: 1 });
    let counted = "select count(*) from ingest_dead_letter_count where first_offset = 3 and last_offset = 3";
    assert_eq!(fixture.count(counted).await, 1);
    fixture.remove().await;
}

/// An index of an operator on what messages hold has a longest entry.
#[tokio::test(flavor = "multi_thread")]
async fn a_letter_too_large_for_an_index_is_stored_without_its_message() {
    let mut payload = vec![0; 60_000];
    rand::rng().fill_bytes(&mut payload);
    let obstacle = "create index payloads on ingest_dead_letter (payload)";
    let Some((fixture, stored)) = write_past("letter_index", obstacle, &payload, &[]).await else { return };
    assert_eq!(stored, Stored { rows: 2, with_payload: 0, only_counted: 0 });
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_takes_too_long_is_stored_without_its_message() {
    let obstacle = "create function wait() returns trigger language plpgsql as
                        $$ begin if new.payload is not null then perform pg_sleep(60); end if; return new; end $$;
                    create trigger wait before insert on ingest_dead_letter for each row execute function wait()";
    let extra = [("SERIES_INGEST__DATABASE__STATEMENT_TIMEOUT_MS", "1000")];
    let Some((fixture, stored)) = write_past("letter_slow", obstacle, BAD.as_bytes(), &extra).await else { return };
    assert_eq!(stored, Stored { rows: 2, with_payload: 0, only_counted: 0 });
    fixture.remove().await;
}
