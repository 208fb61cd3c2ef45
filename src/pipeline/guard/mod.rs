//! The guard against an input of the wrong shape: it must not turn a whole topic into dead letters.
//!
//! Each message of a source without an accepted message is decoded on trial, until one is accepted; from then on
//! messages skip the trial. If `message.rejections_before_pause` messages were rejected before that, the source's partitions
//! are no longer read, and the worker is not ready for that reason. A source that was accepted is never stopped: it is only
//! reported if the last messages of a partition were all rejected.
//!
//! The number of rejections begins with the number of dead letters in the database, so that it holds across restarts. Several
//! workers do not know each other's numbers: each accepts the full number.
//!
//! - `trial`: the state of a source on trial, and the part of a set that is admitted.
//! - `report`: the state in `/readyz`, `/status`, the metrics and the log.

mod report;
mod trial;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tracing::debug;

use super::Pipeline;
use crate::batch::Counts;
use crate::config::Config;
use crate::database::{self, Acceptance, Database};
use crate::input::Decoder;
use crate::kafka::events::{Assigned, Command, Start};
use crate::kafka::partition::TopicPartition;
use crate::message::Rejected;
use crate::raw::{MessageSet, Partition, Source};
use crate::telemetry::log_limit::LogLimit;
use trial::{Admission, Trial};

/// Interval between checks whether another worker, or an earlier one, has had a message of a stopped source accepted.
const ASK_INTERVAL: Duration = Duration::from_secs(5);

/// Decides which sources are read, and which are stopped.
pub(super) struct Guard {
    /// Maximum number of rejections; 0 if nothing is ever stopped.
    limit: u64,
    decoder: Decoder,
    trials: HashMap<Arc<Source>, Trial>,
    held: HashMap<TopicPartition, Held>,
    /// Partitions whose last messages were all rejected.
    runs: HashMap<TopicPartition, Run>,
    asked: Instant,
    questions: JoinSet<(Arc<Source>, Result<Acceptance, database::Error>)>,
    /// The topics that have a gauge, with their inputs; `true` if the topic is rejecting.
    reported: HashMap<String, (String, bool)>,
    log: LogLimit,
}

/// A partition that is not read.
#[derive(Debug)]
struct Held {
    epoch: u64,
    source: Arc<Source>,
    /// `true` if the consumer was asked to start it again.
    is_released: bool,
}

/// Consecutive rejected messages of a partition.
#[derive(Debug)]
struct Run {
    source: Arc<Source>,
    length: u64,
    last: Option<Rejected>,
}

impl Guard {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            limit: config.message.rejections_before_pause,
            decoder: config.decoder(),
            trials: HashMap::new(),
            held: HashMap::new(),
            runs: HashMap::new(),
            asked: Instant::now(),
            questions: JoinSet::new(),
            reported: HashMap::new(),
            log: LogLimit::default(),
        }
    }

    /// Records a source's acceptance in the database. Returns the partitions that can be read again.
    pub(super) fn learn(&mut self, source: &Arc<Source>, acceptance: Acceptance) -> Vec<Assigned> {
        let trial = self.trials.entry(Arc::clone(source)).or_default();
        trial.learn(acceptance);
        if trial.is_accepted() { self.release(source) } else { Vec::new() }
    }

    /// Returns the partitions of a source that are not read, which are to be started again.
    fn release(&mut self, source: &Source) -> Vec<Assigned> {
        let held = self.held.iter_mut().filter(|(_, held)| *held.source == *source && !held.is_released);
        held.map(|(partition, held)| {
            held.is_released = true;
            Assigned { partition: partition.clone(), epoch: held.epoch }
        })
        .collect()
    }

    /// Returns `true` if nothing is stopped, and nothing of this source could be.
    fn is_idle(&self, source: &Arc<Source>) -> bool {
        self.held.is_empty() && (self.limit == 0 || self.trials.get(source).is_some_and(Trial::is_accepted))
    }

    /// Returns `true` if this assignment of a partition is not read.
    pub(super) fn holds(&self, assigned: &Assigned) -> bool {
        self.held.get(&assigned.partition).is_some_and(|held| assigned.epoch <= held.epoch)
    }

    /// Forgets a partition that is assigned again, or is no longer owned.
    pub(super) fn forget(&mut self, partition: &TopicPartition) {
        self.held.remove(partition);
        self.runs.remove(partition);
    }

    /// Records the results of a set's messages.
    pub(super) fn record(&mut self, of: &Partition, counts: Counts, last: Option<&Rejected>) {
        if self.limit == 0 || (counts.rejected_last == 0 && self.runs.is_empty()) {
            return;
        }
        let (partition, source) = (TopicPartition::from(of), &of.source);
        if counts.rejected_last == 0 {
            self.runs.remove(&partition);
            return;
        }
        let is_all = counts.by_type().iter().map(|(_, count)| count).sum::<usize>() == counts.rejected_last;
        let run =
            self.runs.entry(partition).or_insert_with(|| Run { source: Arc::clone(source), length: 0, last: None });
        let before = if is_all { run.length } else { 0 };
        run.length = before + counts.rejected_last as u64;
        run.last = last.cloned();
    }

    /// Requests the acceptance of the sources that are stopped, if it is time. In an outage it may not even be known that they
    /// were accepted.
    fn ask(&mut self, database: &Database) {
        let is_due = self.asked.elapsed() >= ASK_INTERVAL && self.questions.is_empty();
        if self.held.is_empty() || !is_due || !database.state().answers {
            return;
        }
        self.asked = Instant::now();
        let mut sources: Vec<Arc<Source>> = self.held.values().map(|held| Arc::clone(&held.source)).collect();
        sources.sort_unstable();
        sources.dedup();
        for source in sources {
            let database = database.clone();
            self.questions.spawn(async move {
                let acceptance = database.acceptance(&source).await;
                (source, acceptance)
            });
        }
    }

    fn answers(&mut self) -> Vec<Assigned> {
        let mut again = Vec::new();
        while let Some(answered) = self.questions.try_join_next() {
            match answered {
                Ok((source, Ok(acceptance))) => again.extend(self.learn(&source, acceptance)),
                Ok((_, Err(failure))) => debug!(%failure, "it is not known whether a source was accepted"),
                Err(failure) => debug!(%failure, "the question for a source ended early"),
            }
        }
        again
    }
}

impl Pipeline {
    /// Returns the part of a new set that is admitted; the rest is dropped, because it is read again.
    pub(super) fn admit(&mut self, set: MessageSet, epoch: u64) -> Option<MessageSet> {
        if self.guard.is_idle(set.source()) {
            return Some(set);
        }
        let partition = TopicPartition::from(set.partition());
        if self.guard.holds(&Assigned { partition: partition.clone(), epoch }) {
            return None;
        }
        let Some(assigned) = self.partitions.current(&partition) else { return Some(set) };
        match self.guard.admission(&set) {
            Admission::All => Some(set),
            Admission::Accepted => {
                let again = self.guard.release(set.source());
                self.read_again(again);
                Some(set)
            }
            Admission::Part { head, oldest_ms } => {
                // The rest of an earlier assignment's set is read again anyway.
                if assigned.epoch == epoch {
                    let source = Arc::clone(set.source());
                    self.guard.held.insert(partition, Held { epoch, source, is_released: false });
                    self.partitions.hold(&assigned, oldest_ms);
                    self.consumer.send(Command::Hold(vec![assigned]));
                }
                head
            }
        }
    }

    fn read_again(&self, again: Vec<Assigned>) {
        if !again.is_empty() {
            self.consumer.send(Command::Restart(again));
        }
    }

    /// Records the acceptance of the sources of partitions that start, and returns the partitions that may start.
    pub(super) fn admit_starts(&mut self, starts: Vec<Start>, known: Vec<(Arc<Source>, Acceptance)>) -> Vec<Start> {
        for (source, acceptance) in known {
            let again = self.guard.learn(&source, acceptance);
            self.read_again(again);
        }
        starts.into_iter().filter(|start| !self.guard.holds(&start.assigned)).collect()
    }

    /// Restarts stopped partitions if there is a reason to, and reports the others.
    pub(super) fn tick_guard(&mut self) {
        self.guard.ask(self.starts.database());
        let again = self.guard.answers();
        self.read_again(again);
        self.report_rejecting();
    }
}
