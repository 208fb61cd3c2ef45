//! Points and the rows of their series: no point without its series, with the foreign key's trigger and without it.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use series_ingest::database::schema::profile::Profile;

use crate::support::fixture::{Fixture, connect};
use crate::support::worker::{Worker, run, text};
use crate::support::{seed, until};

const ORPHANS: &str = "select count(*) from time_series_data_points as point
    where not exists (select from time_series_metadata as series where series.id = point.time_series_id)";

/// What `/status` says that looks after the series.
fn reference(worker: &Worker) -> Option<String> {
    let (_, body) = worker.get("/status")?;
    let status: serde_json::Value = serde_json::from_str(&body).unwrap();
    status["database"]["reference"].as_str().map(str::to_owned)
}

/// With an operator's trigger on the points, the foreign key's trigger fires as well.
async fn add_trigger(fixture: &Fixture) {
    fixture
        .client
        .batch_execute(
            "create table seen (at timestamptz);
             create function see() returns trigger language plpgsql as
                 $$ begin insert into seen values (new.\"timestamp\"); return new; end $$;
             create trigger see after insert on time_series_data_points for each row execute function see()",
        )
        .await
        .unwrap();
}

/// A series is deleted while a transaction with points of it has not committed yet. Returns how many points are left then,
/// and how many of them have no series.
async fn delete_before_the_commit(
    test: &str,
    profile: Profile,
    extra: &[(&str, &str)],
    with_trigger: bool,
) -> Option<(i64, i64)> {
    let fixture = Fixture::with_profile(test, 1, profile).await?;
    if with_trigger {
        add_trigger(&fixture).await;
    }
    let worker = fixture.worker(extra);
    fixture.send_point("s", 0);
    fixture.producer.flush();
    fixture.until_applied(60).await;
    let expected = match (profile, with_trigger) {
        (Profile::Throughput, _) => "absent",
        (_, true) => "trigger",
        (_, false) => "locked",
    };
    until(30, "the status", async || reference(&worker).as_deref() == Some(expected)).await;
    fixture.client.batch_execute("delete from time_series_data_points").await.unwrap();

    let blocker = connect(&fixture.url).await;
    blocker.batch_execute("begin; select from ingest_progress for update").await.unwrap();
    fixture.send_point("s", 1);
    fixture.producer.flush();
    until(30, "the claim waits behind the points", async || fixture.waiting_for_locks().await == 1).await;
    let deleting = connect(&fixture.url).await;
    let deletion = tokio::spawn(async move {
        let deleted = deleting.execute("delete from time_series_metadata where id = 's'", &[]).await;
        deleted.err().map(|error| error.to_string())
    });
    until(30, "the deletion waits, or is done", async || {
        deletion.is_finished() || fixture.waiting_for_locks().await == 2
    })
    .await;
    blocker.batch_execute("rollback").await.unwrap();
    assert_eq!(deletion.await.unwrap(), None, "the deletion waits, and is not refused");
    fixture.until_applied(60).await;
    let found = (fixture.count_points().await, fixture.count(ORPHANS).await);
    drop(worker);
    fixture.remove().await;
    Some(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_that_is_deleted_takes_points_with_it_that_are_being_written() {
    let Some(found) = delete_before_the_commit("series_gone", Profile::Standard, &[], false).await else { return };
    assert_eq!(found, (0, 0));
    assert_eq!(delete_before_the_commit("series_gone_trigger", Profile::Standard, &[], true).await, Some((0, 0)));
    assert_eq!(delete_before_the_commit("series_gone_fast", Profile::Throughput, &[], false).await, Some((0, 0)));
}

#[cfg(feature = "planted-bugs")]
#[tokio::test(flavor = "multi_thread")]
async fn planted_bug_the_rows_of_series_are_not_locked() {
    let bug = [("SERIES_INGEST_PLANTED_BUGS", "series-not-locked")];
    let Some(found) = delete_before_the_commit("series_not_locked", Profile::Standard, &bug, false).await else {
        return;
    };
    assert_eq!(found, (1, 1), "the bug is caught");
}

/// Series are deleted with all their points while more points of them come.
#[tokio::test(flavor = "multi_thread")]
async fn series_that_are_deleted_while_points_come_leave_no_point() {
    let Some(fixture) = Fixture::new("series_deleted_often", 1).await else { return };
    let mut random = StdRng::seed_from_u64(seed("series_deleted_often"));
    let settings = [("SERIES_INGEST__BATCH__LINGER_MS", "1"), ("SERIES_INGEST__BATCH__MAX_POINTS", "20")];
    let worker = fixture.worker(&settings);
    let (mut deleted, mut refused) = (0, 0);
    for round in 0..300 {
        for number in 0..5 {
            fixture.send_point(&format!("s{}", random.random_range(0..5)), round * 5 + number);
        }
        let series = format!("s{}", random.random_range(0..5));
        let sql = format!(
            "begin; delete from time_series_data_points where time_series_id = '{series}';
             delete from time_series_metadata where id = '{series}'; commit"
        );
        match fixture.client.batch_execute(&sql).await {
            Ok(()) => deleted += 1,
            Err(error) => {
                // Points came between the two, or the worker waits for this one's locks and has others.
                assert!(["23503", "40P01"].contains(&error.code().unwrap().code()), "{error:?}");
                fixture.client.batch_execute("rollback").await.unwrap();
                refused += 1;
            }
        }
    }
    fixture.producer.flush();
    fixture.until_applied(60).await;
    println!("{deleted} deleted, {refused} refused");
    assert_eq!(fixture.count(ORPHANS).await, 0);
    assert_eq!(fixture.count("select count(*) from ingest_dead_letter").await, 0);
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_made_while_the_worker_runs_misses_no_point() {
    let Some(fixture) = Fixture::new("trigger_made", 1).await else { return };
    let worker = fixture.worker(&[]);
    fixture.send_point("s", 0);
    fixture.producer.flush();
    fixture.until_applied(60).await;
    until(30, "locks alone", async || reference(&worker).as_deref() == Some("locked")).await;
    assert_eq!(worker.metric("series_ingest_foreign_key_trigger"), Some(0.0));
    add_trigger(&fixture).await;
    fixture.send_point("s", 1);
    fixture.producer.flush();
    fixture.until_applied(60).await;
    assert_eq!(fixture.count("select count(*) from seen").await, 1);
    until(30, "the trigger", async || reference(&worker).as_deref() == Some("trigger")).await;
    assert_eq!(worker.metric("series_ingest_foreign_key_trigger"), Some(1.0));
    // Other tables' triggers fire, whatever looks after the points.
    fixture
        .client
        .batch_execute(
            "drop trigger see on time_series_data_points; truncate seen;
             create function see_letter() returns trigger language plpgsql as
                 $$ begin insert into seen values (now()); return new; end $$;
             create trigger see after insert on ingest_dead_letter for each row execute function see_letter()",
        )
        .await
        .unwrap();
    fixture.send_point("s", 2);
    fixture.producer.send(&fixture.points_topic, 0, "s", Some(b"no JSON"));
    fixture.producer.flush();
    fixture.until_applied(60).await;
    until(30, "locks alone again", async || reference(&worker).as_deref() == Some("locked")).await;
    assert_eq!((fixture.count("select count(*) from seen").await, fixture.count_points().await), (1, 3));
    drop(worker);
    fixture.remove().await;
}

/// What a role may do decides: without the right to the setting, the trigger fires.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_the_right_to_the_setting_leaves_the_trigger_on() {
    let Some(fixture) = Fixture::new("reference_role", 1).await else { return };
    let role = format!("{}_worker", fixture.name);
    fixture.client.batch_execute(&format!("create role {role} login")).await.unwrap();
    let granted = run(&fixture.environment(), &["migrate", "--worker-role", &role]);
    assert!(granted.status.success(), "{}", text(&granted));
    let url = format!("postgresql://{role}@{}/{}", fixture.server(), fixture.name);
    let mut environment = fixture.environment();
    environment.push(("DATABASE_URL".to_owned(), url.clone()));
    for (right, expected) in [("revoke set", "trigger"), ("grant set", "locked")] {
        let whom = if expected == "locked" { "to" } else { "from" };
        let sql = format!("{right} on parameter session_replication_role {whom} {role}");
        fixture.client.batch_execute(&sql).await.unwrap();
        let check = run(&environment, &["check"]);
        let words = if expected == "locked" { "trigger is skipped" } else { "trigger fires for each point" };
        assert!(check.status.success() && text(&check).contains(words), "{}", text(&check));
        let worker = fixture.worker(&[("DATABASE_URL", &url)]);
        fixture.send_point("s", 0);
        fixture.producer.flush();
        fixture.until_applied(60).await;
        until(30, expected, async || reference(&worker).as_deref() == Some(expected)).await;
    }
    assert_eq!(fixture.count_points().await, 2);
    fixture.client.batch_execute(&format!("drop owned by {role}; drop role {role}")).await.unwrap();
    fixture.remove().await;
}

/// Where a connection takes another role than it logs in with, that role's right counts.
#[tokio::test(flavor = "multi_thread")]
async fn the_right_of_a_role_that_is_set_counts() {
    let Some(fixture) = Fixture::new("reference_set_role", 1).await else { return };
    let role = format!("{}_worker", fixture.name);
    fixture.client.batch_execute(&format!("create role {role}")).await.unwrap();
    let granted = run(&fixture.environment(), &["migrate", "--worker-role", &role]);
    assert!(granted.status.success(), "{}", text(&granted));
    let url = format!("{}?options=-c%20role%3D{role}", fixture.url);
    for (right, expected) in [("revoke set", "trigger"), ("grant set", "locked")] {
        let whom = if expected == "locked" { "to" } else { "from" };
        let sql = format!("{right} on parameter session_replication_role {whom} {role}");
        fixture.client.batch_execute(&sql).await.unwrap();
        let worker = fixture.worker(&[("DATABASE_URL", &url)]);
        fixture.send_point("s", 0);
        fixture.producer.flush();
        fixture.until_applied(60).await;
        until(30, expected, async || reference(&worker).as_deref() == Some(expected)).await;
    }
    fixture.client.batch_execute(&format!("drop owned by {role}; drop role {role}")).await.unwrap();
    fixture.remove().await;
}
