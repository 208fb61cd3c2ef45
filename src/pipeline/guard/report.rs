//! Reports topics whose messages are rejected in `/readyz`, `/status`, the metrics and the log.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use tracing::{error, info, warn};

use super::trial::{Reasons, Trial, commonest};
use super::{Guard, Run};
use crate::kafka::partition::TopicPartition;
use crate::pipeline::Pipeline;
use crate::raw::Source;
use crate::telemetry::{self, escaped, metrics};

/// The condition while topics are not read, or are read and have all messages rejected.
const CONDITION: &str = "rejecting";

/// What is reported of an input.
#[derive(Debug)]
pub(super) struct Report {
    input: String,
    topics: BTreeSet<String>,
    /// `true` if they are not read.
    is_stopped: bool,
    /// The reason of the last or of most messages, for people; empty if it is not known.
    reason: String,
    /// A sentence for `/readyz`.
    pub(super) sentence: String,
    /// The head of a payload.
    payload: Option<String>,
}

/// How a command begins that uses the same configuration as the worker.
pub(super) fn program(file: Option<&Path>) -> String {
    let Some(file) = file.map(|file| file.display().to_string()) else { return "series-ingest".to_owned() };
    let is_plain = file.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+@:,".contains(&byte));
    let file = if is_plain { file } else { format!("'{}'", file.replace('\'', r"'\''")) };
    format!("series-ingest --config {}", telemetry::one_line(&file))
}

fn plural<'a>(count: usize, one: &'a str, several: &'a str) -> &'a str {
    if count == 1 { one } else { several }
}

impl Guard {
    fn input_of(&self, source: &Source) -> String {
        self.decoder.inputs().label(source).to_owned()
    }

    /// The inputs with topics that are not read, or with records that stay in the journal.
    pub(super) fn stopped(&self) -> Vec<Report> {
        let mut inputs: BTreeMap<String, BTreeSet<&Arc<Source>>> = BTreeMap::new();
        let held = self.held.values().map(|held| &held.source);
        let sources: BTreeSet<&Arc<Source>> = held.chain(self.unwritten.keys()).collect();
        for source in sources.into_iter().filter(|source| self.is_stopped(source)) {
            inputs.entry(self.input_of(source)).or_default().insert(source);
        }
        inputs.into_iter().filter_map(|(input, sources)| self.report_stopped(input, &sources)).collect()
    }

    /// Reports the sources of an input that are stopped; `None` if this process has seen no rejection yet.
    fn report_stopped(&self, input: String, sources: &BTreeSet<&Arc<Source>>) -> Option<Report> {
        let shares = !self.accepted_inputs.contains(&input);
        let is_meant = |source: &Arc<Source>, trial: &Trial| sources.contains(source) || shares && trial.input == input;
        let trials: Vec<&Trial> =
            self.trials.iter().filter(|(source, trial)| is_meant(source, trial)).map(|(_, trial)| trial).collect();
        let mut reasons = Reasons::new();
        for (reason, (count, detail)) in trials.iter().flat_map(|trial| &trial.reasons) {
            let entry = reasons.entry(reason).or_insert_with(|| (0, detail.clone()));
            entry.0 += count;
        }
        let reason = commonest(&reasons);
        let reason = reason.map(|(word, share, detail)| format!("({share} %): {word}: {}", escaped(detail)))?;
        let topics: BTreeSet<&str> = sources.iter().map(|source| source.topic.as_str()).collect();
        let first = *topics.first()?;
        let partitions = self.held.values().filter(|held| sources.contains(&held.source)).count();
        let (rejected, skipped) = trials.iter().fold((0, 0), |(r, s), trial| (r + trial.rejected, s + trial.skipped));
        let records: usize = sources.iter().filter_map(|source| self.unwritten.get(*source)).sum();
        let mut sentence = format!("the input {input:?} has rejected {rejected} messages ");
        if skipped > 0 {
            sentence.push_str(&format!("and found no value to store in {skipped} messages "));
        }
        sentence.push_str(&format!(
            "of the {} {} and accepted none, so {partitions} of its partitions are paused",
            plural(topics.len(), "topic", "topics"),
            telemetry::list(topics.iter().copied())
        ));
        if records > 0 {
            sentence.push_str(&format!(", and {records} records stay in the journal"));
        }
        if self.letters_are_full {
            sentence.push_str("; dead_letter.max_rows is reached, so that no more dead letters are stored");
        }
        let program = &self.program;
        sentence.push_str(&format!(
            "; the most frequent reason {reason}. Run `{program} topic inspect {first}`, correct the input, restart the \
             worker, then run `{program} dead-letter redrive --topic {first}`{}",
            plural(topics.len(), "", ", and the same for the other topics")
        ));
        if skipped > 0 {
            sentence.push_str(&format!(
                "; what has no value to store is not a dead letter, and only `{program} progress reset` brings it again"
            ));
        }
        let payload = trials.iter().find_map(|trial| trial.payload.clone());
        let topics = topics.into_iter().map(str::to_owned).collect();
        Some(Report { input, topics, is_stopped: true, reason, sentence, payload })
    }

    /// The inputs that are read, and have a partition whose last messages were all rejected.
    pub(super) fn rejecting(&self) -> Vec<Report> {
        let mut inputs: BTreeMap<String, Vec<(&TopicPartition, &Run)>> = BTreeMap::new();
        // Of a source on trial none was accepted before.
        let is_meant = |run: &Run| run.length >= self.limit && self.is_accepted(&run.source);
        for (partition, run) in self.runs.iter().filter(|(_, run)| is_meant(run)) {
            inputs.entry(self.input_of(&run.source)).or_default().push((partition, run));
        }
        let report = |(input, mut runs): (String, Vec<(&TopicPartition, &Run)>)| {
            runs.sort_by_key(|(partition, run)| (std::cmp::Reverse(run.length), *partition));
            let (TopicPartition { topic, number }, run) = *runs.first()?;
            let reason = run.last.as_ref().map_or_else(String::new, |last| {
                format!("; the last reason: {}: {}", last.reason.as_str(), escaped(&last.detail))
            });
            let others = match runs.len() - 1 {
                0 => String::new(),
                others => format!(" (and of {others} other partitions)"),
            };
            let sentence = format!(
                "the input {input:?} has rejected the last {} messages of partition {number} of the topic {topic}{others}; \
                 other messages were accepted before{reason}. Run `{} topic inspect {topic}`",
                run.length, self.program
            );
            let topics = runs.iter().map(|(partition, _)| partition.topic.clone()).collect();
            Some(Report { input, topics, is_stopped: false, reason, sentence, payload: None })
        };
        inputs.into_iter().filter_map(report).collect()
    }

    /// Updates the gauge of each topic, and logs what begins, lasts and ends.
    fn show(&mut self, reports: &[Report]) {
        for Report { input, is_stopped, reason, sentence, payload, .. } in reports {
            // What is counted in the sentence is not another reason, and neither are topics that follow.
            let Some(repeated) = self.log.lasts(&key(input, *is_stopped), reason) else { continue };
            let seconds = repeated.seconds;
            if *is_stopped {
                let payload = payload.as_deref().unwrap_or_default();
                error!(
                    input,
                    reason = sentence,
                    payload,
                    seconds,
                    "topics are paused: none of their messages was accepted"
                );
            } else {
                warn!(input, reason = sentence, seconds, "the last messages of a partition were all rejected");
            }
        }
        let lasting: BTreeSet<(String, bool)> = reports.iter().map(|one| (one.input.clone(), one.is_stopped)).collect();
        for (input, is_stopped) in self.reported.difference(&lasting) {
            if let Some(ended) = self.log.ends(&key(input, *is_stopped)) {
                info!(input, seconds = ended.seconds, "not all messages of the input's topics are rejected any more");
            }
        }
        self.reported = lasting;
        let labels = |report: &Report| -> Vec<(String, String)> {
            report.topics.iter().map(|topic| (report.input.clone(), metrics::topic_label(topic))).collect()
        };
        let gauges: BTreeSet<(String, String)> = reports.iter().flat_map(labels).collect();
        for (input, topic) in gauges.symmetric_difference(&self.gauges) {
            let is_rejecting = gauges.contains(&(input.clone(), topic.clone()));
            metrics::input_rejecting(input, topic, is_rejecting);
        }
        self.gauges = gauges;
    }
}

/// The state of an input in the log.
fn key(input: &str, is_stopped: bool) -> String {
    format!("{CONDITION} {is_stopped} {input}")
}

impl Pipeline {
    /// Reports the topics whose messages are all rejected.
    pub(super) fn report_rejecting(&mut self) {
        let mut reports = self.guard.stopped();
        reports.extend(self.guard.rejecting());
        self.guard.show(&reports);
        let sentences: Vec<&str> = reports.iter().map(|report| report.sentence.as_str()).collect();
        let is_warning = reports.iter().all(|report| !report.is_stopped);
        let reason = (!sentences.is_empty()).then(|| sentences.join("; "));
        self.health.show_condition(CONDITION, reason.as_deref(), is_warning);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_use_the_file_of_the_worker() {
        for (file, expected) in [
            (None, "series-ingest"),
            (Some("ingest.toml"), "series-ingest --config ingest.toml"),
            (Some("a b/it's.toml"), r"series-ingest --config 'a b/it'\''s.toml'"),
        ] {
            assert_eq!(program(file.map(Path::new)), expected);
        }
    }
}
