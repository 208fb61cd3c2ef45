//! Topics whose settings have Kafka remove messages before they are read.

use crate::support::fixture::Fixture;
use crate::support::until;
use crate::support::worker::{Worker, run, text};

fn check(fixture: &Fixture) -> (Option<i32>, String) {
    let output = run(&fixture.environment(), &["check"]);
    (output.status.code(), text(&output))
}

fn condition(worker: &Worker) -> Option<String> {
    let (_, status) = worker.get("/status")?;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    Some(status["conditions"]["topic"]["reason"].as_str()?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_points_topic_that_is_compacted_is_a_problem_and_noticed_while_the_worker_runs() {
    let Some(fixture) = Fixture::new("compacted", 1).await else { return };
    // Of definitions the last one counts.
    fixture.broker.alter(&fixture.series_topic, &[("cleanup.policy", "compact")]).await;
    let (code, output) = check(&fixture);
    assert_eq!(code, Some(0), "{output}");
    let worker = fixture.worker(&[]);
    fixture.send_point("s", 1);
    fixture.producer.flush();
    until(60, "ready", async || worker.get("/readyz").is_some_and(|page| page.0 == 200)).await;
    fixture.until_applied(60).await;
    assert_eq!(condition(&worker), None);

    for policy in ["compact", "compact,delete"] {
        fixture.broker.alter(&fixture.points_topic, &[("cleanup.policy", policy)]).await;
        until(60, "noticed", async || {
            condition(&worker).is_some_and(|reason| reason.contains(&format!("cleanup.policy={policy}")))
        })
        .await;
        let (code, page) = worker.get("/readyz").unwrap();
        assert_eq!(code, 503);
        assert!(page.contains(&fixture.points_topic) && page.contains("set cleanup.policy=delete"), "{page}");
        let log = worker.log();
        let is_line = |line: &str| line.contains("ERROR") && line.contains("Kafka removes points before they are read");
        assert!(log.lines().any(is_line), "{log}");
        let (code, output) = check(&fixture);
        assert_eq!(code, Some(64), "{output}");
        assert!(output.contains("kafka.points_topic") && output.contains("cleanup.policy"), "{output}");
        // What is there is read nevertheless.
        let before = fixture.count_points().await;
        fixture.send_point("s", 2);
        fixture.producer.flush();
        until(30, "the next point", async || fixture.count_points().await == before + 1).await;
    }

    fixture.broker.alter(&fixture.points_topic, &[("cleanup.policy", "delete")]).await;
    until(60, "ready again", async || worker.get("/readyz").is_some_and(|page| page.0 == 200)).await;
    assert!(worker.log().contains("the topic is not compacted any more"));
    drop(worker);
    fixture.remove().await;
}

/// Either type may stand in either topic, but not points in one that is compacted.
#[tokio::test(flavor = "multi_thread")]
async fn points_in_a_compacted_topic_of_series_are_noticed_as_soon_as_one_is_read() {
    let Some(fixture) = Fixture::new("compacted_series", 1).await else { return };
    fixture.broker.alter(&fixture.series_topic, &[("cleanup.policy", "compact")]).await;
    let (code, output) = check(&fixture);
    assert_eq!(code, Some(0), "{output}");
    let warns = |line: &str| line.starts_with("warning: kafka.series_topic") && line.contains("cleanup.policy=compact");
    assert!(output.lines().any(warns), "{output}");

    let worker = fixture.worker(&[]);
    let send = |payload: &[u8]| {
        fixture.producer.send(&fixture.series_topic, 0, "s", Some(payload));
        fixture.producer.flush();
    };
    send(br#"{"type":"series-create","id":"s","name":"a series"}"#);
    until(60, "ready", async || worker.get("/readyz").is_some_and(|page| page.0 == 200)).await;
    until(30, "the series", async || fixture.count("select count(*) from time_series_metadata").await == 1).await;
    assert_eq!(condition(&worker), None);
    send(br#"{"type":"point-batch","time_series_id":"s","timestamps":[0],"columns":{"c":[1]}}"#);
    until(10, "noticed", async || {
        condition(&worker)
            .is_some_and(|why| why.contains(&fixture.series_topic) && why.contains("cleanup.policy=compact"))
    })
    .await;
    assert_eq!(worker.get("/readyz").unwrap().0, 503);
    let is_line = |line: &str| line.contains("ERROR") && line.contains("Kafka removes points before they are read");
    assert!(worker.log().lines().any(is_line), "{}", worker.log());
    until(30, "the point", async || fixture.count_points().await == 1).await;
    fixture.broker.alter(&fixture.series_topic, &[("cleanup.policy", "delete")]).await;
    until(60, "ready again", async || worker.get("/readyz").is_some_and(|page| page.0 == 200)).await;
    drop(worker);
    fixture.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_warns_of_settings_that_may_lose_messages() {
    let Some(fixture) = Fixture::new("risky", 1).await else { return };
    let settings = [
        ("retention.ms", "60000"),
        ("retention.bytes", "1000000"),
        ("unclean.leader.election.enable", "true"),
        ("max.message.bytes", "20000000"),
    ];
    fixture.broker.alter(&fixture.points_topic, &settings).await;
    let (code, output) = check(&fixture);
    assert_eq!(code, Some(0), "a risk is no problem: {output}");
    for (name, value) in settings {
        let line = format!("topic {} has {name}={value}", fixture.points_topic);
        assert!(
            output.lines().any(|found| found.starts_with("warning: ") && found.contains(&line)),
            "{name}: {output}"
        );
    }
    fixture.remove().await;
}
