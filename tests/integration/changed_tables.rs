//! Tables that were changed since `migrate` made them: what `run` cannot work with, `check` names before.

use series_ingest::database::schema;
use series_ingest::database::schema::profile::Profile;

use crate::support::fixture::{Fixture, url_with};
use crate::support::until;
use crate::support::worker::{run, text};

/// A change, what undoes it, and what `check` and `run` say of it.
const CHANGES: &[(&str, &str, &str)] = &[
    (
        "alter table time_series_data_points add column tenant text not null",
        "alter table time_series_data_points drop column tenant",
        "the column tenant of time_series_data_points is NOT NULL without a default",
    ),
    (
        "alter table time_series_metadata add column owner text not null",
        "alter table time_series_metadata drop column owner",
        "the column owner of time_series_metadata is NOT NULL without a default",
    ),
    (
        "alter table time_series_metadata alter column name set not null",
        "alter table time_series_metadata alter column name drop not null",
        "the column name of time_series_metadata is NOT NULL, and a series needs no name",
    ),
    (
        "alter table time_series_data_points alter column id drop identity",
        "alter table time_series_data_points alter column id add generated always as identity",
        "the column id of time_series_data_points is NOT NULL without a default",
    ),
    (
        "alter table time_series_metadata drop column labels",
        "alter table time_series_metadata add column labels jsonb",
        "the table time_series_metadata has no column labels",
    ),
    (
        "alter table time_series_data_points rename column value to reading",
        "alter table time_series_data_points rename column reading to value",
        "the table time_series_data_points has no column value",
    ),
    (
        "alter table time_series_data_points alter column value type numeric",
        "alter table time_series_data_points alter column value type double precision",
        "column value of time_series_data_points is of type numeric",
    ),
    (
        "alter table time_series_metadata drop column description;
         alter table time_series_metadata add column description text generated always as ('d') stored",
        "alter table time_series_metadata drop column description;
         alter table time_series_metadata add column description text",
        "the column description of time_series_metadata is generated",
    ),
    (
        "alter table ingest_progress drop constraint ingest_progress_pkey",
        "alter table ingest_progress add primary key (source_id, partition)",
        "the table ingest_progress has no unique index on (partition, source_id)",
    ),
    (
        "alter table ingest_series drop constraint ingest_series_pkey",
        "alter table ingest_series add primary key (series_id)",
        "the table ingest_series has no unique index on (series_id)",
    ),
    (
        "alter table time_series_metadata rename to series",
        "alter table series rename to time_series_metadata",
        "the table time_series_metadata is missing",
    ),
    (
        "alter table time_series_metadata rename to series; create view time_series_metadata as select * from series",
        "drop view time_series_metadata; alter table series rename to time_series_metadata",
        "time_series_metadata is a view",
    ),
    (
        "alter table ingest_dead_letter rename to letters",
        "alter table letters rename to ingest_dead_letter",
        "the table ingest_dead_letter is missing",
    ),
    (
        "alter table time_series_metadata enable row level security, force row level security",
        "alter table time_series_metadata disable row level security, no force row level security",
        "row level security is on for time_series_metadata",
    ),
    (
        "alter table ingest_progress enable row level security, force row level security",
        "alter table ingest_progress disable row level security, no force row level security",
        "row level security is on for ingest_progress",
    ),
    (
        "alter table time_series_metadata disable trigger ingest_series_deleted",
        "alter table time_series_metadata enable trigger ingest_series_deleted",
        "the trigger ingest_series_deleted of time_series_metadata is disabled",
    ),
    (
        "alter table time_series_metadata disable trigger all; alter table time_series_metadata enable trigger user",
        "alter table time_series_metadata enable trigger all",
        "a foreign key's trigger on time_series_metadata is disabled",
    ),
    (
        "create rule nothing as on insert to time_series_metadata do instead nothing",
        "drop rule nothing on time_series_metadata",
        "the rule nothing of time_series_metadata replaces what is written there",
    ),
    (
        "alter function ingest_record_gap rename to gap_gone",
        "alter function gap_gone rename to ingest_record_gap",
        "the function ingest_record_gap is missing",
    ),
    // One that only other functions call.
    (
        "alter function ingest_cover rename to cover_gone",
        "alter function cover_gone rename to ingest_cover",
        "the function ingest_cover is missing",
    ),
    (
        "alter table ingest_progress alter column next_offset type integer",
        "alter table ingest_progress alter column next_offset type bigint",
        "column next_offset of ingest_progress is of type integer, and the program needs bigint",
    ),
    (
        "alter table ingest_dead_letter drop column headers",
        "alter table ingest_dead_letter add column headers bytea",
        "the table ingest_dead_letter has no column headers",
    ),
    (
        "alter table time_series_metadata drop column labels, add column labels json",
        "alter table time_series_metadata drop column labels, add column labels jsonb",
        "column labels of time_series_metadata is of type json, and the program needs jsonb",
    ),
    // What no list has is met by doing it.
    (
        "create function refuse() returns trigger language plpgsql as 'begin raise exception ''no points today''; end';
         create trigger refuse before insert on time_series_data_points for each statement execute function refuse()",
        "drop trigger refuse on time_series_data_points; drop function refuse()",
        "no points today",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_run_refuses_check_names_with_the_same_exit_code() {
    let Some(fixture) = Fixture::with_profile("changed", 1, Profile::Standard).await else { return };
    for (change, back, problem) in CHANGES {
        fixture.client.batch_execute(change).await.unwrap_or_else(|error| panic!("{change}: {error:?}"));
        for command in ["check", "run"] {
            let output = run(&fixture.environment(), &[command]);
            assert_eq!(output.status.code(), Some(64), "{command}: {change}: {}", text(&output));
            assert!(text(&output).contains(problem), "{command}: {change}: {}", text(&output));
        }
        fixture.client.batch_execute(back).await.unwrap_or_else(|error| panic!("{back}: {error:?}"));
    }
    // All that is wrong is said at once.
    let (some, back): (Vec<_>, Vec<_>) =
        [0, 1, 13].map(|index: usize| (CHANGES[index].0, CHANGES[index].1)).into_iter().unzip();
    fixture.client.batch_execute(&some.join(";")).await.unwrap();
    let check = text(&run(&fixture.environment(), &["check"]));
    for index in [0, 1, 13] {
        assert!(check.contains(CHANGES[index].2), "{check}");
    }
    fixture.client.batch_execute(&back.join(";")).await.unwrap();

    // What a worker can live with: named, and no reason to refuse.
    fixture
        .client
        .batch_execute(
            "drop index idx_time_series_data_points_series_time;
             create function see() returns trigger language plpgsql as 'begin return null; end';
             create trigger see after insert on time_series_data_points for each statement execute function see()",
        )
        .await
        .unwrap();
    let output = run(&fixture.environment(), &["check"]);
    assert_eq!(output.status.code(), Some(64), "{}", text(&output));
    for words in [
        "schema: the trigger see of time_series_data_points is not this program's",
        "without idx_time_series_data_points_series_time",
        // It went with the column.
        "the index idx_time_series_metadata_labels is missing or incomplete",
        ": run `series-ingest schema set-profile` with the one that it should have",
    ] {
        assert!(text(&output).contains(words), "{}", text(&output));
    }
    assert!(schema::verify(&fixture.config(&[])).await.is_ok());
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_database_is_the_same_for_check_and_run() {
    let Some(fixture) = Fixture::unmigrated("no_database", 1).await else { return };
    let mut environment = fixture.environment();
    environment.push(("DATABASE_URL".to_owned(), url_with(&fixture.url, "there_is_no_such_database", None)));
    for command in ["check", "run", "migrate"] {
        let output = run(&environment, &[command]);
        assert_eq!(output.status.code(), Some(64), "{command}: {}", text(&output));
        assert!(text(&output).contains("database.url: "), "{command}: {}", text(&output));
        assert!(text(&output).contains("there_is_no_such_database\" does not exist"), "{command}: {}", text(&output));
    }
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_extension_that_migrate_adds_is_not_said_to_be_missing() {
    let Some(fixture) = Fixture::unmigrated("extension", 1).await else { return };
    let check = text(&run(&fixture.environment(), &["check"]));
    assert!(check.contains(" is installed, and `migrate` adds it to the database"), "{check}");
    assert!(!check.contains("no TimescaleDB") && !check.contains("plain PostgreSQL"), "{check}");
    fixture.migrate(&[]).await;
    let check = text(&run(&fixture.environment(), &["check"]));
    assert!(!check.contains("`migrate` adds it"), "{check}");
    fixture.remove().await;
}

/// A column that no message can fill is not the fault of a message: nothing becomes a dead letter, and all is written once it is fixed.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_appears_while_a_worker_runs_makes_no_dead_letters() {
    for (test, change, fixed) in [
        (
            "column_points",
            "alter table time_series_data_points add column tenant text not null",
            "alter table time_series_data_points drop column tenant",
        ),
        (
            "column_series",
            "alter table time_series_metadata add column owner text not null default 'x'; alter table time_series_metadata alter column owner drop default",
            "alter table time_series_metadata drop column owner",
        ),
        (
            "column_id",
            "alter table time_series_data_points alter column id drop identity",
            "alter table time_series_data_points alter column id add generated always as identity",
        ),
    ] {
        let Some(fixture) = Fixture::with_profile(test, 1, Profile::Standard).await else { return };
        let worker = fixture.worker(&[("SERIES_INGEST__DATABASE__RETRY_MAX_MS", "500")]);
        fixture.send_point("s", 0);
        fixture.producer.flush();
        fixture.until_applied(60).await;
        fixture.client.batch_execute("delete from time_series_data_points").await.unwrap();
        fixture.client.batch_execute(change).await.unwrap();
        for number in 0..10 {
            fixture.send_point(&format!("s{number}"), number);
        }
        fixture.producer.flush();
        until(60, "the worker is not ready", async || {
            worker.get("/readyz").is_some_and(|(code, _)| code == 503)
                && worker
                    .metric("series_ingest_database_errors_total{class=\"internal\"}")
                    .is_some_and(|count| count > 0.0)
        })
        .await;
        assert_eq!(fixture.count("select count(*) from ingest_dead_letter").await, 0, "{test}");
        fixture.client.batch_execute(fixed).await.unwrap();
        fixture.until_applied(60).await;
        assert_eq!(fixture.count_points().await, 10, "{test}");
        assert_eq!(fixture.count("select count(*) from ingest_dead_letter").await, 0, "{test}");
        drop(worker);
        fixture.remove().await;
    }
}
