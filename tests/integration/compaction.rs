//! Topics whose settings have Kafka remove messages before they are read.

use crate::support::bed::Bed;
use crate::support::until;
use crate::support::worker::{Worker, run, text};

fn check(bed: &Bed) -> (Option<i32>, String) {
    let output = run(&bed.environment(), &["check"]);
    (output.status.code(), text(&output))
}

fn condition(worker: &Worker) -> Option<String> {
    let (_, status) = worker.get("/status")?;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    Some(status["conditions"]["topic"]["reason"].as_str()?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_points_topic_that_is_compacted_is_a_problem_and_noticed_while_the_worker_runs() {
    let Some(bed) = Bed::new("compacted", 1).await else { return };
    // Of definitions the last one counts.
    bed.broker.alter(&bed.series_topic, &[("cleanup.policy", "compact")]).await;
    let (code, output) = check(&bed);
    assert_eq!(code, Some(0), "{output}");
    let worker = bed.worker(&[]);
    bed.send_point("s", 1);
    bed.producer.flush();
    until(60, "ready", async || worker.get("/readyz").is_some_and(|page| page.0 == 200)).await;
    bed.until_applied(60).await;
    assert_eq!(condition(&worker), None);

    for policy in ["compact", "compact,delete"] {
        bed.broker.alter(&bed.points_topic, &[("cleanup.policy", policy)]).await;
        until(60, "noticed", async || {
            condition(&worker).is_some_and(|reason| reason.contains(&format!("cleanup.policy={policy}")))
        })
        .await;
        let (code, page) = worker.get("/readyz").unwrap();
        assert_eq!(code, 503);
        assert!(page.contains(&bed.points_topic) && page.contains("set cleanup.policy=delete"), "{page}");
        let log = worker.log();
        let is_line = |line: &str| line.contains("ERROR") && line.contains("Kafka removes points before they are read");
        assert!(log.lines().any(is_line), "{log}");
        let (code, output) = check(&bed);
        assert_eq!(code, Some(64), "{output}");
        assert!(output.contains("kafka.points_topic") && output.contains("cleanup.policy"), "{output}");
        // What is there is read nevertheless.
        let before = bed.count_points().await;
        bed.send_point("s", 2);
        bed.producer.flush();
        until(30, "the next point", async || bed.count_points().await == before + 1).await;
    }

    bed.broker.alter(&bed.points_topic, &[("cleanup.policy", "delete")]).await;
    until(60, "ready again", async || worker.get("/readyz").is_some_and(|page| page.0 == 200)).await;
    assert!(worker.log().contains("the topic is not compacted any more"));
    drop(worker);
    bed.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_warns_of_settings_that_may_lose_messages() {
    let Some(bed) = Bed::new("risky", 1).await else { return };
    let settings = [
        ("retention.ms", "60000"),
        ("retention.bytes", "1000000"),
        ("unclean.leader.election.enable", "true"),
        ("max.message.bytes", "20000000"),
    ];
    bed.broker.alter(&bed.points_topic, &settings).await;
    let (code, output) = check(&bed);
    assert_eq!(code, Some(0), "a risk is no problem: {output}");
    for (name, value) in settings {
        let line = format!("topic {} has {name}={value}", bed.points_topic);
        assert!(
            output.lines().any(|found| found.starts_with("warning: ") && found.contains(&line)),
            "{name}: {output}"
        );
    }
    bed.remove().await;
}
