//! Reports topics whose messages are rejected in `/readyz`, `/status`, the metrics and the log.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{error, info, warn};

use super::{Guard, Held, Run};
use crate::pipeline::Pipeline;
use crate::raw::Source;
use crate::telemetry::{escaped, metrics};

/// The condition while topics are not read, or are read and have all messages rejected.
const CONDITION: &str = "rejecting";

/// The reported state of a topic.
#[derive(Debug, PartialEq, Eq)]
struct Report {
    input: String,
    topic: String,
    /// `true` if it is not read.
    is_held: bool,
    /// A sentence for `/readyz`.
    sentence: String,
    /// The head of a payload.
    payload: Option<String>,
}

impl Guard {
    fn input_of(&self, source: &Source) -> String {
        self.decoder.inputs().label(source).to_owned()
    }

    /// The topics with partitions that are not read.
    fn held_topics(&self) -> Vec<Report> {
        let mut topics: BTreeMap<&str, (usize, &Held)> = BTreeMap::new();
        for held in self.held.values().filter(|held| !held.is_released) {
            topics.entry(&held.source.topic).or_insert((0, held)).0 += 1;
        }
        let report = |(topic, (partitions, held)): (&str, (usize, &Held))| {
            let (input, trial) = (self.input_of(&held.source), self.trials.get(&held.source));
            let rejected = trial.map_or(0, |trial| trial.rejected());
            let reason =
                trial.and_then(|trial| trial.commonest()).map_or_else(String::new, |(reason, share, detail)| {
                    format!("; the most frequent reason ({share} %): {reason}: {}", escaped(detail))
                });
            let sentence = format!(
                "the input {input:?} has rejected {rejected} messages of the topic {topic} and accepted none, so {partitions} of \
                 its partitions are paused{reason}. Run `series-ingest topic inspect {topic}`, correct the input, restart the \
                 worker, then run `series-ingest dead-letter redrive --topic {topic}`"
            );
            let payload = trial.and_then(|trial| trial.payload()).map(str::to_owned);
            Report { input, topic: topic.to_owned(), is_held: true, sentence, payload }
        };
        topics.into_iter().map(report).collect()
    }

    /// The topics that are read, and have a partition whose last messages were all rejected.
    fn rejecting_topics(&self) -> Vec<Report> {
        let mut topics: BTreeMap<&str, (i32, &Run)> = BTreeMap::new();
        for (partition, run) in self.runs.iter().filter(|(_, run)| run.length >= self.limit) {
            let longest = topics.entry(&run.source.topic).or_insert((partition.number, run));
            if run.length > longest.1.length {
                *longest = (partition.number, run);
            }
        }
        let report = |(topic, (number, run)): (&str, (i32, &Run))| {
            let input = self.input_of(&run.source);
            let reason = run.last.as_ref().map_or_else(String::new, |last| {
                format!("; the last reason: {}: {}", last.reason.as_str(), escaped(&last.detail))
            });
            let sentence = format!(
                "the input {input:?} has rejected the last {} messages of partition {number} of the topic {topic}; others of \
                 it were accepted before{reason}. Run `series-ingest topic inspect {topic}`",
                run.length
            );
            Report { input, topic: topic.to_owned(), is_held: false, sentence, payload: None }
        };
        topics.into_iter().map(report).collect()
    }

    /// All reports, each topic once.
    fn reports(&self) -> Vec<Report> {
        let mut reports = self.held_topics();
        let held: BTreeSet<String> = reports.iter().map(|report| report.topic.clone()).collect();
        reports.extend(self.rejecting_topics().into_iter().filter(|report| !held.contains(&report.topic)));
        reports
    }

    /// Updates the gauge of each topic, and logs the beginning, the continuation and the end of each state.
    fn log(&mut self, reports: &[Report]) {
        for Report { input, topic, is_held, sentence, payload } in reports {
            let is_new = self.reported.insert(topic.clone(), (input.clone(), true)).is_none_or(|(_, before)| !before);
            if is_new {
                metrics::input_rejecting(input, topic, true);
            }
            let key = format!("{CONDITION} {is_held} {topic}");
            // A change of the numbers in the sentence is not a new reason.
            let Some(repeated) = self.log.lasts(&key, sentence) else { continue };
            let seconds = repeated.seconds;
            if *is_held {
                let payload = payload.as_deref().unwrap_or_default();
                error!(
                    topic,
                    reason = sentence,
                    payload,
                    seconds,
                    "a topic is paused: none of its messages was accepted"
                );
            } else {
                warn!(topic, reason = sentence, seconds, "the last messages of a partition were all rejected");
            }
        }
        let lasting: BTreeSet<(&str, bool)> = reports.iter().map(|one| (one.topic.as_str(), one.is_held)).collect();
        for (topic, (input, is_rejecting)) in &mut self.reported {
            for is_held in [true, false].into_iter().filter(|held| !lasting.contains(&(topic.as_str(), *held))) {
                if let Some(ended) = self.log.ends(&format!("{CONDITION} {is_held} {topic}")) {
                    info!(topic, seconds = ended.seconds, "not all messages of the topic are rejected any more");
                }
            }
            let lasts = [true, false].iter().any(|held| lasting.contains(&(topic.as_str(), *held)));
            if *is_rejecting && !lasts {
                *is_rejecting = false;
                metrics::input_rejecting(input, topic, false);
            }
        }
    }
}

impl Pipeline {
    /// Reports the topics whose messages are all rejected.
    pub(super) fn report_rejecting(&mut self) {
        let reports = self.guard.reports();
        self.guard.log(&reports);
        let sentences: Vec<&str> = reports.iter().map(|report| report.sentence.as_str()).collect();
        let is_warning = reports.iter().all(|report| !report.is_held);
        let reason = (!sentences.is_empty()).then(|| sentences.join("; "));
        self.health.show_condition(CONDITION, reason.as_deref(), is_warning);
    }
}
