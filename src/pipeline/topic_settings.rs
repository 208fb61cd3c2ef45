//! The settings of the topics that are read, checked periodically: if a topic of points is compacted, Kafka removes points
//! before they are read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tracing::{debug, error, info, warn};

use super::subscription::Topics;
use crate::batch::Counts;
use crate::config::Config;
use crate::input::Inputs;
use crate::kafka::topic_settings::{Answer, Finding, TopicSettings};
use crate::raw::{Kind, Source};
use crate::telemetry;
use crate::telemetry::health::Health;
use crate::telemetry::log_limit::LogLimit;

/// Interval between checks of the settings.
const CHECK_INTERVAL: Duration = Duration::from_secs(20);
/// The condition while a topic loses messages.
const CONDITION: &str = "topic";

/// `true` once points were read from the topic of series, with a notification of it. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct PointsInSeries(Arc<(AtomicBool, Notify)>);

impl PointsInSeries {
    /// Records the kinds of a set's messages, which were read from this source.
    pub(super) fn record(&self, source: &Source, counts: Counts) {
        if source.kind == Kind::Series && counts.point_batches > 0 && !self.0.0.swap(true, Ordering::Relaxed) {
            self.0.1.notify_one();
        }
    }

    fn is_known(&self) -> bool {
        self.0.0.load(Ordering::Relaxed)
    }

    /// Becomes ready when there is news, or when it is time for the next check.
    async fn changed(&self) {
        drop(tokio::time::timeout(CHECK_INTERVAL, self.0.1.notified()).await);
    }
}

/// Checks periodically until dropped, and reports the result.
pub(super) async fn watch(
    config: Arc<Config>,
    (inputs, topics, settings): (Inputs, Topics, TopicSettings),
    points_in_series: PointsInSeries,
    health: Arc<Health>,
) {
    let log = LogLimit::default();
    let mut is_refusal_logged = false;
    loop {
        let read = Arc::clone(&topics.borrow());
        let mut found = Found::default();
        match settings.ask(&read).await {
            Ok(answers) => {
                for (topic, answer) in answers {
                    // A topic of series contains points only if some were read there.
                    let has_points = inputs.kind_of(&topic) != Kind::Series || points_in_series.is_known();
                    found.add(&config, &topic, has_points, answer);
                }
            }
            Err(failure) => {
                debug!(%failure, "the settings of the topics are not known now");
                found.is_partial = true;
            }
        }
        let Found { losses, refusals, is_partial } = found;
        if let Some((_, reason)) = refusals.first().filter(|_| !is_refusal_logged) {
            is_refusal_logged = true;
            let topics = telemetry::list(refusals.iter().map(|(topic, _)| topic.as_str()));
            warn!(reason, topics, "the settings of a topic are not known");
        }
        if !losses.is_empty() {
            let reason = losses.join("; ");
            if let Some(repeated) = log.lasts(CONDITION, &reason) {
                error!(reason, seconds = repeated.seconds, "Kafka removes points before they are read");
            }
            health.set_condition(CONDITION, Some(reason));
        } else if !is_partial {
            if let Some(ended) = log.ends(CONDITION) {
                info!(seconds = ended.seconds, "the topic is not compacted any more");
            }
            health.set_condition(CONDITION, None);
        }
        points_in_series.changed().await;
    }
}

/// The result of a check.
#[derive(Debug, Default)]
struct Found {
    losses: Vec<String>,
    /// The topics whose settings are not available, each with the reason.
    refusals: Vec<(String, String)>,
    /// `true` if the settings of some topic of points are not available: its last known settings still count.
    is_partial: bool,
}

impl Found {
    fn add(&mut self, config: &Config, topic: &str, has_points: bool, answer: Answer) {
        match answer {
            Answer::Known(settings) => {
                for finding in settings.findings(topic, has_points, &config.message) {
                    match finding {
                        Finding::Loss(text) => self.losses.push(text),
                        Finding::Risk(text) => debug!(text, "a topic's settings; `series-ingest check` lists them"),
                    }
                }
            }
            Answer::Missing => {}
            Answer::Refused(reason) => {
                self.refusals.push((topic.to_owned(), reason));
                self.is_partial |= has_points;
            }
        }
    }
}
