//! The settings of the topics, asked for again and again: whoever has a topic of points compacted has Kafka remove points
//! before they are read.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, error, info, warn};

use crate::config::Config;
use crate::kafka::topic_settings::{Answer, Finding, TopicSettings};
use crate::telemetry::health::Health;
use crate::telemetry::log_limit::LogLimit;

/// How often the settings are asked for.
const INTERVAL: Duration = Duration::from_secs(20);
/// The condition while a topic loses messages.
const CONDITION: &str = "topic";

/// Asks until it is dropped, and reports what was found.
pub(super) async fn watch(config: Arc<Config>, settings: TopicSettings, health: Arc<Health>) {
    let kafka = &config.kafka;
    let log = LogLimit::default();
    let mut refused_logged = Vec::new();
    loop {
        let mut losses = Vec::new();
        let mut silent = false;
        for (topic, has_points) in [(&kafka.series_topic, false), (&kafka.points_topic, true)] {
            match settings.ask(topic).await {
                Ok(Answer::Known(settings)) => {
                    for finding in settings.findings(topic, has_points, &config.message) {
                        match finding {
                            Finding::Loss(text) => losses.push(text),
                            Finding::Risk(text) => debug!(text, "a topic's settings; `series-ingest check` lists them"),
                        }
                    }
                }
                Ok(Answer::Missing) => {}
                Ok(Answer::Refused(reason)) => {
                    if !refused_logged.contains(&topic) {
                        refused_logged.push(topic);
                        warn!(reason, "the settings of a topic are not known");
                    }
                    // What they were is the last that is known.
                    silent |= has_points;
                }
                Err(failure) => {
                    debug!(%failure, topic, "the settings of the topic are not known now");
                    silent = true;
                }
            }
        }
        if !losses.is_empty() {
            let reason = losses.join("; ");
            if let Some(repeated) = log.lasts(CONDITION, &reason) {
                error!(reason, seconds = repeated.seconds, "Kafka removes points before they are read");
            }
            health.set_condition(CONDITION, Some(reason));
        } else if !silent {
            if let Some(ended) = log.ends(CONDITION) {
                info!(seconds = ended.seconds, "the topic is not compacted any more");
            }
            health.set_condition(CONDITION, None);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
