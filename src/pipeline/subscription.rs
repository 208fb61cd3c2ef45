//! The topics that are read: those that inputs name, and existing ones that match their regular expressions.
//!
//! This program lists Kafka's topics itself, because librdkafka's regular expressions differ: a topic must match here exactly
//! if the decoder finds its input.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tracing::{debug, info, warn};

use crate::input::{Contested, Inputs};
use crate::kafka;
use crate::kafka::events::Command;
use crate::kafka::lookup::Lookup;
use crate::pipeline::Pipeline;
use crate::telemetry;
use crate::telemetry::log_limit::LogLimit;

/// Interval between lists of the topics. A new topic is read after this time, and after the group has assigned its partitions.
const LIST_INTERVAL: Duration = Duration::from_secs(10);
/// The condition while a topic is not read because several inputs match it.
const CONTESTED: &str = "contested_topics";
/// The condition while there is no topic to read.
const NO_TOPIC: &str = "no_topic";

/// The list of topics, as other tasks see it.
pub(super) type Topics = watch::Receiver<Arc<[String]>>;

/// Keeps the list of the topics to read.
pub(super) struct Subscription {
    inputs: Inputs,
    dead_letter_topic: String,
    lookup: Arc<Lookup>,
    topics: watch::Sender<Arc<[String]>>,
    /// Topics that were missing from the last list of Kafka's topics.
    missed: HashSet<String>,
    /// `true` if the topics were ever listed.
    is_listed: bool,
    asked: Option<Instant>,
    questions: JoinSet<Result<Vec<String>, kafka::Error>>,
    log: LogLimit,
}

/// The changes in a list of Kafka's topics.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// Topics to read from now on.
    added: Vec<String>,
    /// Topics that no longer exist.
    removed: Vec<String>,
    /// Topics that are not read because several inputs match them.
    contested: Vec<Contested>,
    /// `true` if it is the first list since the start.
    is_first: bool,
}

impl Subscription {
    pub(super) fn new(inputs: Inputs, dead_letter_topic: &str, lookup: Arc<Lookup>) -> Self {
        let named = inputs.topics_to_read([], dead_letter_topic).topics;
        Self {
            inputs,
            dead_letter_topic: dead_letter_topic.to_owned(),
            lookup,
            topics: watch::Sender::new(named.into()),
            missed: HashSet::new(),
            is_listed: false,
            asked: None,
            questions: JoinSet::new(),
            log: LogLimit::default(),
        }
    }

    /// The inputs that select the topics.
    pub(super) fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    /// The topics to read, in the order of their names.
    pub(super) fn topics(&self) -> Arc<[String]> {
        Arc::clone(&self.topics.borrow())
    }

    /// The same, for a task that follows them.
    pub(super) fn follow(&self) -> Topics {
        self.topics.subscribe()
    }

    /// Lists Kafka's topics, if it is time, and if some inputs have a regular expression.
    pub(super) fn tick(&mut self) {
        let is_due = self.asked.is_none_or(|asked| asked.elapsed() >= LIST_INTERVAL);
        if !is_due || !self.questions.is_empty() || !self.inputs.has_patterns() {
            return;
        }
        self.asked = Some(Instant::now());
        let lookup = Arc::clone(&self.lookup);
        self.questions.spawn_blocking(move || lookup.topic_names());
    }

    /// Returns the changes in the next list; never ready while none is requested.
    pub(super) async fn next(&mut self) -> Change {
        loop {
            match self.questions.join_next().await {
                Some(listed) => {
                    if let Some(existing) = self.listed(listed) {
                        return self.update(&existing);
                    }
                }
                None => std::future::pending().await,
            }
        }
    }

    fn listed(&self, listed: Result<Result<Vec<String>, kafka::Error>, JoinError>) -> Option<Vec<String>> {
        match listed {
            Ok(Ok(existing)) => return Some(existing),
            // Silent brokers are reported by `watch`, which asks them more often.
            Ok(Err(failure)) => debug!(%failure, "the topics cannot be listed"),
            Err(failure) => debug!(%failure, "the question for the topics ended early"),
        }
        None
    }

    /// Updates the topics from the names of Kafka's topics.
    fn update(&mut self, existing: &[String]) -> Change {
        let read = self.inputs.topics_to_read(existing.iter().map(String::as_str), &self.dead_letter_topic);
        let known: HashSet<String> = self.topics.borrow().iter().cloned().collect();
        let found: HashSet<String> = read.topics.into_iter().collect();
        let added: Vec<String> = found.difference(&known).cloned().collect();
        // A broker that has just started may not know all topics yet: a topic is removed only if it is missing from two lists.
        let missing: HashSet<String> = known.difference(&found).cloned().collect();
        let removed: Vec<String> = missing.intersection(&self.missed).cloned().collect();
        self.missed = missing.into_iter().filter(|topic| !removed.contains(topic)).collect();
        let mut change = Change { added, removed, contested: read.contested, is_first: !self.is_listed };
        self.is_listed = true;
        if !change.added.is_empty() || !change.removed.is_empty() {
            let mut topics: Vec<String> = found.union(&self.missed).cloned().collect();
            topics.sort_unstable();
            self.topics.send_replace(topics.into());
        }
        change.added.sort_unstable();
        change.removed.sort_unstable();
        change
    }

    fn log(&self, change: &Change) {
        let named = |topics: &[String]| telemetry::list(topics.iter().map(String::as_str));
        if !change.added.is_empty() && self.log.happened("added", 1).is_some() {
            let (count, topics) = (change.added.len(), named(&change.added));
            info!(count, topics, "topics match a regular expression of an input: they are read");
        }
        if !change.removed.is_empty() && self.log.happened("removed", 1).is_some() {
            let (count, topics) = (change.removed.len(), named(&change.removed));
            info!(count, topics, "topics no longer exist: they are not read any more");
        }
        if change.is_first && self.topics().is_empty() {
            warn!("no topic matches a regular expression of an input: nothing is read until one is created");
        }
    }
}

impl Pipeline {
    /// Applies the changes in a list of Kafka's topics. Returns the topics that prevent the worker from starting.
    pub(super) fn on_topics(&mut self, change: Change) -> Result<(), Vec<Contested>> {
        // At the start an operator can correct it; later the other topics are still read.
        if change.is_first && !change.contested.is_empty() {
            return Err(change.contested);
        }
        let contested: Vec<String> = change.contested.iter().map(ToString::to_string).collect();
        self.subscription.log(&change);
        self.guard.forget_topics(&change.removed);
        self.starts.database().forget_accepted(&change.removed);
        self.health.set_condition(CONTESTED, (!contested.is_empty()).then(|| contested.join("; ")));
        self.read_topics();
        Ok(())
    }

    /// Has the consumer read the present topics.
    fn read_topics(&self) {
        let topics = self.subscription.topics();
        let has_none = topics.is_empty();
        self.health.update_facts(|facts| facts.group.has_nothing_to_read = has_none);
        let reason = "no topic matches a regular expression of an input; one that is created is read";
        self.health.set_warning(NO_TOPIC, (has_none && self.subscription.is_listed).then(|| reason.to_owned()));
        self.consumer.send(Command::Subscribe(topics.to_vec()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn subscription() -> Subscription {
        let text = "[kafka]\nseries_topic = ''\npoints_topic = 'points'\n[[input]]\nname = 'a'\ntopics = ['^a.+', '^.+both']\n\
                    format = 'influx'\n[[input]]\nname = 'b'\ntopics = ['^b.+']\nformat = 'influx'";
        let config = Config::from_text(text, []).unwrap();
        let lookup = Lookup::new(&config.kafka).unwrap();
        Subscription::new(config.inputs(), "a.dead", Arc::new(lookup))
    }

    #[test]
    fn topics_come_with_one_list_and_go_with_two() {
        type Row<'a> = (&'a [&'a str], &'a [&'a str], &'a [&'a str], &'a [&'a str]);
        #[rustfmt::skip]
        let table: [Row<'_>; 8] = [
            // there are                 added            removed    read
            (&["x", "a1"],               &["a1"],         &[],       &["a1", "points"]),
            (&["a1", "b1", "a.dead"],    &["b1"],         &[],       &["a1", "b1", "points"]),
            (&["b1"],                    &[],             &[],       &["a1", "b1", "points"]),
            (&["a1", "b1"],              &[],             &[],       &["a1", "b1", "points"]),
            (&["b1"],                    &[],             &[],       &["a1", "b1", "points"]),
            (&["b1", "b2"],              &["b2"],         &["a1"],   &["b1", "b2", "points"]),
            (&["b2"],                    &[],             &[],       &["b1", "b2", "points"]),
            (&["a1", "b2"],              &["a1"],         &["b1"],   &["a1", "b2", "points"]),
        ];
        let mut subscription = subscription();
        let followed = subscription.follow();
        assert_eq!(*subscription.topics(), ["points"]);
        for (number, (existing, added, removed, read)) in table.into_iter().enumerate() {
            let existing: Vec<String> = existing.iter().map(|topic| (*topic).to_owned()).collect();
            let change = subscription.update(&existing);
            assert_eq!((&change.added[..], &change.removed[..]), (&owned(added)[..], &owned(removed)[..]), "{number}");
            assert_eq!(change.is_first, number == 0);
            assert_eq!(*subscription.topics(), *owned(read), "{number}");
            assert_eq!(**followed.borrow(), *owned(read), "{number}");
        }
    }

    #[test]
    fn a_topic_of_two_inputs_is_not_read() {
        let mut subscription = subscription();
        let change = subscription.update(&owned(&["both", "b.both", "a.both"]));
        assert_eq!(change.added, ["a.both", "both"]);
        let contested: Vec<&str> = change.contested.iter().map(|one| one.topic.as_str()).collect();
        assert_eq!(contested, ["b.both"]);
    }

    fn owned(topics: &[&str]) -> Vec<String> {
        topics.iter().map(|topic| (*topic).to_owned()).collect()
    }
}
