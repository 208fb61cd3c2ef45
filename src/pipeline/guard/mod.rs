//! The guard against an input of the wrong shape: it must not turn a whole topic into dead letters.
//!
//! A source without a stored message is on trial. Each of its messages is decoded before it goes on, and
//! `message.rejections_before_pause` of them may be rejected: by their input, or by the database, so that no more than these
//! may be on their way to it. Then its partitions are not read any more, and it is a reason why the worker is not ready. As
//! soon as the database has stored one of its messages, everything flows without this. A source that was accepted is never
//! stopped: it is only reported if the last messages of a partition were all rejected.
//!
//! An input none of whose sources was accepted has one limit for all of them: a wrong mapping of two hundred topics must not
//! fill the table of dead letters.
//!
//! The number of rejections begins with the number of dead letters in the database, so that it holds across restarts. Several
//! workers do not know each other's numbers: each accepts the full number.
//!
//! - `trial`: the state of a source on trial, and the part of a set that is admitted.
//! - `report`: the state in `/readyz`, `/status`, the metrics and the log.

mod report;
mod trial;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tracing::debug;

use super::Pipeline;
use super::survey::Survey;
use super::writer::Outcome;
use crate::batch::Tally;
use crate::config::Config;
use crate::database::{self, Acceptance, Database};
use crate::input::Decoder;
use crate::journal::Record;
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
    /// The inputs with an accepted source: each other source of them has its own limit.
    accepted_inputs: HashSet<String>,
    /// `true` if dead letters are not stored any more but only counted, so that none could be written again later.
    letters_are_full: bool,
    held: HashMap<TopicPartition, Held>,
    /// The number of the journal's records that are not written, because their sources are stopped.
    unwritten: HashMap<Arc<Source>, usize>,
    /// Partitions whose last messages were all rejected.
    runs: HashMap<TopicPartition, Run>,
    asked: Instant,
    questions: JoinSet<(Arc<Source>, Result<Acceptance, database::Error>)>,
    /// The inputs that were last reported, and whether they are stopped.
    reported: BTreeSet<(String, bool)>,
    /// The gauges that are 1: input and topic.
    gauges: BTreeSet<(String, String)>,
    /// How the commands begin that an operator is to run.
    program: String,
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
            accepted_inputs: HashSet::new(),
            letters_are_full: false,
            held: HashMap::new(),
            unwritten: HashMap::new(),
            runs: HashMap::new(),
            asked: Instant::now(),
            questions: JoinSet::new(),
            reported: BTreeSet::new(),
            gauges: BTreeSet::new(),
            program: report::program(config.file()),
            log: LogLimit::default(),
        }
    }

    /// Adds a source, if it is new, in place of one of a topic that was deleted.
    fn add_trial(&mut self, source: &Arc<Source>) {
        if self.trials.contains_key(source) {
            return;
        }
        let Self { trials, unwritten, decoder, .. } = self;
        trials.retain(|known, _| known.topic != source.topic || unwritten.contains_key(known));
        let input = decoder.inputs().label(source).to_owned();
        trials.insert(Arc::clone(source), Trial { input, ..Trial::default() });
    }

    /// Takes over what the database knows of a source. Its dead letters may be those that were counted here.
    pub(super) fn learn(&mut self, source: &Arc<Source>, acceptance: Acceptance) {
        self.letters_are_full = !acceptance.has_room;
        if acceptance.is_accepted {
            return self.accept(source);
        }
        self.add_trial(source);
        #[cfg(feature = "planted-bugs")]
        if crate::planted_bugs::is_on("guard-forgets-dead-letters") {
            return;
        }
        if let Some(trial) = self.trials.get_mut(source) {
            trial.stored = acceptance.dead_letters;
            trial.rejected = trial.rejected.max(acceptance.dead_letters);
        }
    }

    /// Ends the trial of a source: the database has stored a message of it.
    fn accept(&mut self, source: &Arc<Source>) {
        self.add_trial(source);
        let Some(trial) = self.trials.get_mut(source).filter(|trial| !trial.is_accepted) else { return };
        *trial = Trial { input: std::mem::take(&mut trial.input), is_accepted: true, ..Trial::default() };
        self.accepted_inputs.insert(trial.input.clone());
    }

    fn is_accepted(&self, source: &Source) -> bool {
        self.trials.get(source).is_some_and(|trial| trial.is_accepted)
    }

    /// Returns `true` if nothing of the source was stored yet, so that it may be stopped.
    pub(super) fn is_on_trial(&self, source: &Source) -> bool {
        self.limit > 0 && !self.is_accepted(source)
    }

    /// Returns `true` if the two have one limit.
    fn share_limit(&self, one: &Source, other: &Source) -> bool {
        let input = |source| self.trials.get(source).map(|trial: &Trial| &trial.input);
        let is_same = || input(one).is_some_and(|of| !self.accepted_inputs.contains(of) && input(other) == Some(of));
        one == other || is_same()
    }

    /// How much of its limit is used up, as `of` counts it.
    fn spent(&self, source: &Source, of: impl Fn(&Trial) -> u64) -> u64 {
        let Some(trial) = self.trials.get(source) else { return 0 };
        if self.accepted_inputs.contains(&trial.input) {
            return of(trial);
        }
        self.trials.values().filter(|other| other.input == trial.input).map(of).sum()
    }

    /// Returns `true` if the source is not to be read.
    fn is_stopped(&self, source: &Source) -> bool {
        self.is_on_trial(source) && (self.letters_are_full || self.spent(source, Trial::spent) >= self.limit)
    }

    /// Returns `true` if records of the source stay in the journal: the database has as many of its dead letters as there may be,
    /// not counting what was let through to the journal. The input may be another one than that of the process before, so that
    /// some records are written first.
    pub(super) fn stops_replay(&self, source: &Source) -> bool {
        let has_rejected = self.trials.get(source).is_some_and(|trial| !trial.reasons.is_empty());
        has_rejected && self.is_stopped(source) && self.spent(source, |trial| trial.stored) >= self.limit
    }

    /// Moves what is to stay in the journal from the records that the database lacks.
    pub(super) fn withhold(&mut self, survey: &mut Survey) {
        let is_written = |record: &Record| !self.stops_replay(&record.partition.source);
        (survey.missing, survey.withheld) = std::mem::take(&mut survey.missing).into_iter().partition(is_written);
        self.unwritten.clear();
        for record in &survey.withheld {
            *self.unwritten.entry(Arc::clone(&record.partition.source)).or_default() += 1;
        }
    }

    /// Returns `true` if nothing is stopped, and nothing of this source would be.
    fn is_idle(&self, source: &Source) -> bool {
        self.held.is_empty() && !self.is_on_trial(source)
    }

    /// Returns `true` if this assignment of a partition is not read.
    fn holds(&self, assigned: &Assigned) -> bool {
        self.held.get(&assigned.partition).is_some_and(|held| assigned.epoch <= held.epoch)
    }

    /// A partition is read from now on. It stays reported if messages of it would be rejected as before.
    fn on_start(&mut self, start: &Start) {
        let is_other = |held: &mut Held| held.source != start.source;
        if !self.is_stopped(&start.source) || self.held.get_mut(&start.assigned.partition).is_some_and(is_other) {
            self.held.remove(&start.assigned.partition);
        }
    }

    /// A partition is no longer ours.
    pub(super) fn on_revoked(&mut self, partition: &TopicPartition) {
        self.held.remove(partition);
        self.runs.remove(partition);
    }

    /// These topics are not read any more.
    pub(super) fn forget_topics(&mut self, topics: &[String]) {
        self.trials.retain(|source, _| !topics.contains(&source.topic) || self.unwritten.contains_key(source));
    }

    /// Takes over what became of messages that were written; `is_ours`: whether a partition is still read by this worker.
    pub(super) fn judge(&mut self, outcome: &Outcome, is_ours: impl Fn(&TopicPartition) -> bool) {
        if self.limit == 0 {
            return;
        }
        self.letters_are_full |= outcome.only_counted > 0;
        for (partition, tally) in &outcome.tallies {
            if tally.accepted > 0 {
                self.accept(&partition.source);
            } else if !self.is_accepted(&partition.source) {
                self.add_trial(&partition.source);
                let trial = self.trials.get_mut(&partition.source);
                trial.into_iter().for_each(|trial| trial.refuse(tally, outcome.replayed));
            }
            if !outcome.replayed && is_ours(&TopicPartition::from(partition)) {
                self.record(partition, tally);
            }
        }
        for (source, acceptance) in &outcome.acceptance {
            self.learn(source, *acceptance);
        }
    }

    /// Records how many messages of a partition were rejected last.
    fn record(&mut self, of: &Partition, tally: &Tally) {
        let partition = TopicPartition::from(of);
        let before = self.runs.remove(&partition).filter(|run| run.source == of.source && tally.accepted == 0);
        let (length, last) = before.map_or((0, None), |run| (run.length, run.last));
        let (length, last) = (length + tally.rejected_last as u64, tally.last.clone().or(last));
        if length > 0 {
            self.runs.insert(partition, Run { source: Arc::clone(&of.source), length, last });
        }
    }

    /// Requests the acceptance of the sources that are stopped, if it is time. In an outage it may not even be known that they
    /// were accepted.
    fn ask(&mut self, database: &Database) {
        let is_due = self.asked.elapsed() >= ASK_INTERVAL && self.questions.is_empty();
        if !is_due || !database.state().answers {
            return;
        }
        let stopped = self.held.values().map(|held| &held.source).chain(self.unwritten.keys());
        let sources: BTreeSet<Arc<Source>> = stopped.filter(|source| self.is_on_trial(source)).cloned().collect();
        self.asked = Instant::now();
        for source in sources {
            let database = database.clone();
            self.questions.spawn(async move {
                let acceptance = database.acceptance(&source).await;
                (source, acceptance)
            });
        }
    }

    fn take_answers(&mut self) {
        while let Some(answered) = self.questions.try_join_next() {
            match answered {
                Ok((source, Ok(acceptance))) => self.learn(&source, acceptance),
                Ok((_, Err(failure))) => debug!(%failure, "it is not known whether a source was accepted"),
                Err(failure) => debug!(%failure, "the question for a source ended early"),
            }
        }
    }

    /// Returns the partitions that can be read again; `may_go_on` says so of a source that is not stopped.
    fn release(&mut self, may_go_on: impl Fn(&Self, &Source) -> bool) -> Vec<Assigned> {
        let may = |held: &Held| {
            !held.is_released
                && !self.is_stopped(&held.source)
                && (!self.is_on_trial(&held.source) || may_go_on(self, &held.source))
        };
        let due: Vec<TopicPartition> =
            self.held.iter().filter(|(_, held)| may(held)).map(|(partition, _)| partition.clone()).collect();
        let mut again = Vec::new();
        for partition in due {
            let Some(held) = self.held.get_mut(&partition) else { continue };
            held.is_released = true;
            again.push(Assigned { partition, epoch: held.epoch });
        }
        again
    }
}

impl Pipeline {
    /// Returns what may go on of a set that has come, and how many of its messages are on trial; nothing of the rest is kept,
    /// because it is read again.
    pub(super) fn admit(&mut self, set: MessageSet, epoch: u64) -> Option<(MessageSet, usize)> {
        if self.guard.is_idle(set.source()) {
            return Some((set, 0));
        }
        let partition = TopicPartition::from(set.partition());
        if self.guard.holds(&Assigned { partition: partition.clone(), epoch }) {
            return None;
        }
        let Some(assigned) = self.partitions.current(&partition) else { return Some((set, 0)) };
        let on_trial = self.partitions.on_trial(|other| self.guard.share_limit(set.source(), other));
        let Admission { head, on_trial, is_held, oldest_ms } =
            self.guard.admission(&set, on_trial, self.is_journaling());
        // Of an earlier assignment, the rest is read again anyway.
        if assigned.epoch == epoch {
            self.guard.held.remove(&partition);
            if is_held {
                let source = Arc::clone(set.source());
                self.guard.held.insert(partition, Held { epoch, source, is_released: false });
                self.partitions.hold(&assigned, oldest_ms);
                self.consumer.send(Command::Hold(vec![assigned]));
            }
        }
        head.map(|head| (head, on_trial))
    }

    /// Records the acceptance of the sources of partitions that start, and returns the partitions that may start.
    pub(super) fn admit_starts(&mut self, starts: Vec<Start>, known: Vec<(Arc<Source>, Acceptance)>) -> Vec<Start> {
        for (source, acceptance) in known {
            self.guard.learn(&source, acceptance);
        }
        let starts: Vec<Start> = starts.into_iter().filter(|start| !self.guard.holds(&start.assigned)).collect();
        starts.iter().for_each(|start| self.guard.on_start(start));
        starts
    }

    /// Restarts stopped partitions if there is a reason to, and reports the others.
    pub(super) fn tick_guard(&mut self) {
        self.guard.ask(self.starts.database());
        self.guard.take_answers();
        let is_journaling = self.is_journaling();
        let partitions = &self.partitions;
        // What waits for the database's word goes on with that, and to the journal at once.
        let again = self.guard.release(|guard, source| {
            let goes_on = is_journaling && guard.trials.get(source).is_some_and(|trial| trial.has_decoded);
            goes_on || partitions.on_trial(|other| guard.share_limit(source, other)) == 0
        });
        if !again.is_empty() {
            self.consumer.send(Command::Restart(again));
        }
        self.report_rejecting();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::Applied;
    use crate::message::Reason;
    use crate::raw::{Kind, MessageSetBuilder, RawMessage};

    const LIMIT: u64 = 10;

    fn guard() -> Guard {
        let text = "[message]\nrejections_before_pause = 10\n[[input]]\nname = 'iot'\ntopics = ['^iot.*']\n\
                    format = 'influx'\n[[input]]\nname = 'plc'\ntopics = ['plc']\nformat = 'influx'\n";
        Guard::new(&Config::from_text(text, []).unwrap())
    }

    fn source(topic: &str, id: &str) -> Arc<Source> {
        let (topic, topic_id) = (topic.to_owned(), id.to_owned());
        Arc::new(Source { kind: Kind::Other, cluster_id: "c".to_owned(), topic, topic_id })
    }

    /// A set of `count` messages from an offset.
    fn set(source: &Arc<Source>, from: i64, count: i64, payload: &[u8]) -> MessageSet {
        let mut set = MessageSetBuilder::new(Arc::clone(source), 0, from);
        for offset in from..from + count {
            set.push(&RawMessage { offset, time_ms: Some(1), payload: Some(payload), ..RawMessage::default() });
        }
        set.build(None)
    }

    const BAD: &[u8] = b"{}";
    const GOOD: &[u8] = b"m v=1 1714521600000000000";

    /// Returns the number of messages that go on, and `true` if the partition is held then.
    fn admitted(guard: &mut Guard, set: &MessageSet, on_trial: u64, is_journaling: bool) -> (usize, bool) {
        let admission = guard.admission(set, on_trial, is_journaling);
        (admission.head.map_or(0, |head| head.len()), admission.is_held)
    }

    fn outcome(source: &Arc<Source>, accepted: usize, rejected: usize, refused: usize) -> Outcome {
        let last = (rejected > 0).then(|| Rejected::new(Reason::Schema, "why"));
        let rejected_last = if accepted == 0 { rejected } else { 0 };
        let tally = Tally { accepted, rejected, refused, rejected_last, last };
        let partition = Partition::new(Arc::clone(source), 0);
        let applied = vec![Applied { partition: partition.clone(), next_offset: 1 }];
        Outcome { tallies: [(partition, tally)].into(), applied, ..Outcome::default() }
    }

    #[test]
    fn topics_of_an_input_share_its_limit_until_one_is_accepted() {
        let (mut guard, one, two, plc) = (guard(), source("iot.1", "a"), source("iot.2", "b"), source("plc", "c"));
        assert_eq!(admitted(&mut guard, &set(&one, 0, 8, BAD), 0, false), (8, false));
        assert_eq!(admitted(&mut guard, &set(&two, 0, 8, BAD), 0, false), (2, true));
        assert!(guard.is_stopped(&one) && guard.is_stopped(&two) && !guard.is_stopped(&plc));
        assert_eq!(admitted(&mut guard, &set(&plc, 0, 8, BAD), 0, false), (8, false));
        // One that is decoded is tried, and no other.
        assert_eq!(admitted(&mut guard, &set(&one, 8, 3, GOOD), 0, false), (1, true));
        guard.judge(&outcome(&one, 1, 0, 0), |_| true);
        assert!(!guard.is_on_trial(&one) && !guard.is_stopped(&two));
        assert_eq!(admitted(&mut guard, &set(&two, 2, 9, BAD), 0, false), (8, true));
        assert_eq!(admitted(&mut guard, &set(&one, 9, 99, BAD), 0, false), (99, false));
    }

    #[test]
    fn what_the_database_refuses_or_has_no_room_for_stops_a_topic() {
        let (mut guard, one) = (guard(), source("plc", "a"));
        assert_eq!(admitted(&mut guard, &set(&one, 0, 12, GOOD), 0, false), (10, true));
        assert_eq!(admitted(&mut guard, &set(&one, 10, 2, GOOD), 10, false), (0, true), "all of it is on its way");
        assert!(!guard.is_stopped(&one));
        guard.judge(&outcome(&one, 0, 10, 10), |_| true);
        assert!(guard.is_stopped(&one));
        let (mut guard, one) = (self::guard(), source("plc", "a"));
        guard.learn(&one, Acceptance { is_accepted: false, dead_letters: 0, has_room: false });
        assert_eq!(admitted(&mut guard, &set(&one, 0, 2, BAD), 0, false), (0, true));
        guard.learn(&one, Acceptance { is_accepted: false, dead_letters: 3, has_room: true });
        assert_eq!(admitted(&mut guard, &set(&one, 0, 9, BAD), 0, false), (7, true));
    }

    #[test]
    fn to_the_journal_goes_what_can_be_decoded_and_from_it_no_more_than_may_be_rejected() {
        let (mut guard, one) = (guard(), source("plc", "a"));
        assert_eq!(admitted(&mut guard, &set(&one, 0, 99, GOOD), 0, true), (99, false));
        assert_eq!(admitted(&mut guard, &set(&one, 99, 99, BAD), 0, true), (99, false));
        assert!(!guard.stops_replay(&one));
        let known = Acceptance { is_accepted: false, dead_letters: LIMIT, has_room: true };
        let replayed =
            Outcome { replayed: true, acceptance: vec![(Arc::clone(&one), known)], ..outcome(&one, 0, 12, 0) };
        guard.judge(&replayed, |_| true);
        assert!(guard.stops_replay(&one));
        guard.judge(&Outcome { replayed: true, ..outcome(&one, 1, 0, 0) }, |_| true);
        assert!(!guard.stops_replay(&one));
        // After a restart one record shows whether the input is another one now.
        let mut guard = self::guard();
        guard.learn(&one, known);
        assert!(guard.is_stopped(&one) && !guard.stops_replay(&one));
    }

    #[test]
    fn a_stopped_partition_stays_reported_until_it_is_read_or_is_another_ones() {
        let (mut guard, one) = (guard(), source("plc", "a"));
        let partition = TopicPartition::new("plc", 0);
        let start = |source: &Arc<Source>, epoch| Start {
            assigned: Assigned { partition: partition.clone(), epoch },
            source: Arc::clone(source),
            offset: 0,
            next_offset: 0,
        };
        admitted(&mut guard, &set(&one, 0, 12, BAD), 0, false);
        let hold = |guard: &mut Guard| {
            guard.held.insert(partition.clone(), Held { epoch: 1, source: Arc::clone(&one), is_released: false });
        };
        hold(&mut guard);
        let sentences =
            |guard: &Guard| guard.stopped().iter().map(|report| report.sentence.clone()).collect::<Vec<_>>();
        assert!(
            sentences(&guard)[0]
                .starts_with("the input \"plc\" has rejected 10 messages of the topic plc and accepted none")
        );
        assert!(guard.release(|_, _| true).is_empty() && guard.holds(&start(&one, 1).assigned));
        // A partition that is started again for another reason.
        guard.on_start(&start(&one, 2));
        assert!(sentences(&guard).len() == 1 && !guard.holds(&start(&one, 2).assigned));
        guard.on_start(&start(&source("plc", "b"), 3));
        assert!(sentences(&guard).is_empty(), "the topic was recreated");
        hold(&mut guard);
        guard.accept(&one);
        assert!(sentences(&guard).is_empty());
        assert_eq!(guard.release(|_, _| false), [start(&one, 1).assigned]);
        assert!(guard.release(|_, _| true).is_empty(), "it is asked for once");
    }

    #[test]
    fn the_last_messages_of_an_accepted_topic_are_reported_and_neutral_ones_change_nothing() {
        let (mut guard, one) = (guard(), source("plc", "a"));
        let lengths = |guard: &Guard| guard.runs.values().map(|run| run.length).collect::<Vec<_>>();
        guard.judge(&outcome(&one, 1, 0, 0), |_| true);
        guard.judge(&outcome(&one, 0, 6, 2), |_| true);
        guard.judge(&outcome(&one, 0, 0, 0), |_| true);
        assert_eq!((lengths(&guard), guard.rejecting().len()), (vec![6], 0));
        guard.judge(&outcome(&one, 0, 4, 0), |_| true);
        let reports = guard.rejecting();
        assert!(reports[0].sentence.contains("the last 10 messages of partition 0 of the topic plc"), "{reports:?}");
        guard.judge(&outcome(&one, 2, 3, 0), |_| true);
        assert!(guard.runs.is_empty());
        guard.judge(&outcome(&one, 0, 12, 0), |_| false);
        assert!(guard.runs.is_empty(), "it is no longer ours");
        // Of one on trial nothing was accepted before.
        let other = source("iot", "b");
        guard.judge(&outcome(&other, 0, 20, 20), |_| true);
        assert!(guard.rejecting().is_empty());
    }

    #[test]
    fn topics_that_go_are_forgotten() {
        let mut guard = guard();
        for (topic, id) in [("iot.1", "a"), ("iot.2", "b"), ("iot.1", "c")] {
            guard.learn(&source(topic, id), Acceptance { is_accepted: true, dead_letters: 0, has_room: true });
        }
        assert_eq!(guard.trials.len(), 2, "a topic that is recreated takes the place of the old one");
        guard.forget_topics(&["iot.1".to_owned(), "iot.2".to_owned()]);
        assert!(guard.trials.is_empty() && guard.accepted_inputs.contains("iot"));
    }
}
