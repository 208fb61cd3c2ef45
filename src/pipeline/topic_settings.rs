//! The settings of the topics, asked for again and again: if a topic of points is compacted, Kafka removes points
//! before they are read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tracing::{debug, error, info, warn};

use crate::batch::Counts;
use crate::config::Config;
use crate::kafka::topic_settings::{Answer, Finding, TopicSettings};
use crate::raw::{Kind, Source};
use crate::telemetry::health::Health;
use crate::telemetry::log_limit::LogLimit;

/// How often the settings are asked for.
const CHECK_INTERVAL: Duration = Duration::from_secs(20);
/// The condition while a topic loses messages.
const CONDITION: &str = "topic";

/// Whether points were read from the topic of series. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct PointsInSeries(Arc<(AtomicBool, Notify)>);

impl PointsInSeries {
    /// Records what the messages of a set were that was read from this source.
    pub(super) fn record(&self, source: &Source, counts: Counts) {
        if source.kind == Kind::Series && counts.point_batches > 0 && !self.0.0.swap(true, Ordering::Relaxed) {
            self.0.1.notify_one();
        }
    }

    fn is_known(&self) -> bool {
        self.0.0.load(Ordering::Relaxed)
    }

    /// Ready when there is news, or it is time to ask again.
    async fn changed(&self) {
        drop(tokio::time::timeout(CHECK_INTERVAL, self.0.1.notified()).await);
    }
}

/// Asks until it is dropped, and reports what was found.
pub(super) async fn watch(
    config: Arc<Config>,
    settings: TopicSettings,
    points_in_series: PointsInSeries,
    health: Arc<Health>,
) {
    let kafka = &config.kafka;
    let log = LogLimit::default();
    let mut refused_logged = Vec::new();
    loop {
        let mut losses = Vec::new();
        let mut silent = false;
        for (topic, has_points) in [(&kafka.series_topic, points_in_series.is_known()), (&kafka.points_topic, true)] {
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
        points_in_series.changed().await;
    }
}
