//! The guard against an input of the wrong shape: it must not turn a whole topic into dead letters.
//!
//! Of a source of which nothing was ever accepted, each message that comes is decoded on trial, until one is accepted; from then
//! on everything flows without it. If `message.rejections_before_pause` were rejected before that, its partitions are not read
//! any more, and it is a reason why the worker is not ready. A source that was accepted is never stopped: it is only reported
//! if the last messages of a partition were all rejected.
//!
//! The number of rejections begins with that of the dead letters in the database, so that it holds across restarts. Several
//! workers do not know of each other's: each lets as many through.
//!
//! - `trial`: what is known of a source, and how much of a set may go on.
//! - `report`: what `/readyz`, `/status`, the metrics and the log say.

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

/// How often it is asked whether another worker, or one before this, has had a message accepted of a source that is stopped.
const ASK_INTERVAL: Duration = Duration::from_secs(5);

/// Which sources may be read, and which are stopped.
pub(super) struct Guard {
    /// The number of rejections; 0 if nothing is ever stopped.
    limit: u64,
    decoder: Decoder,
    trials: HashMap<Arc<Source>, Trial>,
    held: HashMap<TopicPartition, Held>,
    /// Partitions whose last messages were all rejected.
    runs: HashMap<TopicPartition, Run>,
    asked: Instant,
    questions: JoinSet<(Arc<Source>, Result<Acceptance, database::Error>)>,
    /// The topics that have a gauge, with their inputs, and whether they are rejecting.
    reported: HashMap<String, (String, bool)>,
    log: LogLimit,
}

/// A partition that is not read.
#[derive(Debug)]
struct Held {
    epoch: u64,
    source: Arc<Source>,
    /// Whether the consumer was asked to start it again.
    is_released: bool,
}

/// Messages of a partition that were rejected one after the other.
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

    /// Takes over what the database knows of a source; returns the partitions that can be read again.
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

    /// Returns `true` if nothing is stopped, and nothing of this source would be.
    fn is_idle(&self, source: &Arc<Source>) -> bool {
        self.held.is_empty() && (self.limit == 0 || self.trials.get(source).is_some_and(Trial::is_accepted))
    }

    /// Returns `true` if this assignment of a partition is not read.
    pub(super) fn holds(&self, assigned: &Assigned) -> bool {
        self.held.get(&assigned.partition).is_some_and(|held| assigned.epoch <= held.epoch)
    }

    /// A partition is assigned again, or is no longer ours.
    pub(super) fn forget(&mut self, partition: &TopicPartition) {
        self.held.remove(partition);
        self.runs.remove(partition);
    }

    /// Records what the messages of a set were.
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

    /// Asks for the sources that are stopped, if it is time. In an outage it may not even be known that they were accepted.
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
    /// Returns what may go on of a set that has come; nothing of the rest is kept, because it is read again.
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
                // Of an earlier assignment, the rest is read again anyway.
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

    /// Takes over what was found of the sources of partitions that start, and returns those that may.
    pub(super) fn admit_starts(&mut self, starts: Vec<Start>, known: Vec<(Arc<Source>, Acceptance)>) -> Vec<Start> {
        for (source, acceptance) in known {
            let again = self.guard.learn(&source, acceptance);
            self.read_again(again);
        }
        starts.into_iter().filter(|start| !self.guard.holds(&start.assigned)).collect()
    }

    /// Has stopped partitions read again if there is a reason to, and reports the others.
    pub(super) fn tick_guard(&mut self) {
        self.guard.ask(self.starts.database());
        let again = self.guard.answers();
        self.read_again(again);
        self.report_rejecting();
    }
}
