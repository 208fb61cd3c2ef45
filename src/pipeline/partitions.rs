//! Each partition's state: what is read, what is applied, and what is in flight.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{NextOffsets, is_plausible};
use crate::database::Applied;
use crate::journal::Record;
use crate::kafka::events::{Assigned, ReadPosition, Start};
use crate::kafka::partition::{LogRange, TopicPartition};
use crate::raw::{Interval, MessageSet, Partition, Source};
use crate::telemetry::readiness::LOGS_TIMEOUT;

/// All owned partitions, and what is in flight of any partition.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    owned: HashMap<TopicPartition, Owned>,
    in_flight: HashMap<Partition, BTreeMap<i64, InFlight>>,
}

#[derive(Debug)]
struct Owned {
    epoch: u64,
    /// The name of its input.
    input: Arc<str>,
    assigned_at: Instant,
    reading: Option<Reading>,
    log: Option<LogRange>,
    /// When the log's range was last read; when the partition was assigned if it never was.
    log_at: Instant,
    /// The group's offset in Kafka, used until the database has been asked.
    committed: Option<i64>,
    /// Time since which some of what it has is not applied.
    behind_since: Option<Instant>,
    /// When progress was last made.
    applied_at: Instant,
}

#[derive(Debug)]
struct Reading {
    source: Arc<Source>,
    position: i64,
    next_offset: i64,
    /// When reading started, or messages last came.
    moved_at: Instant,
    /// `true` if no more of it is read until it is restarted.
    is_held: bool,
    /// The time of the first message that is then not read.
    held_ms: Option<i64>,
}

#[derive(Debug)]
struct InFlight {
    until: i64,
    oldest_ms: Option<i64>,
    /// `true` if the journal has it, so that a writer's failure cannot lose it.
    is_journaled: bool,
    /// The number of its messages that can be decoded, if nothing of their source was ever stored.
    on_trial: usize,
}

/// Intervals `[from, until)` that were read or journaled and are not applied, by partition, in ascending order.
pub(super) type InFlightPartitions = HashMap<Partition, Vec<(i64, i64)>>;

/// Returns the first offset from `next` on that is in none of the intervals.
pub(super) fn first_beyond(next: i64, intervals: Option<&Vec<(i64, i64)>>) -> i64 {
    intervals
        .into_iter()
        .flatten()
        .fold(next, |next, (from, until)| if *from <= next { next.max(*until) } else { next })
}

/// A partition's lag.
#[derive(Debug, Clone)]
pub(super) struct Lag {
    pub(super) partition: TopicPartition,
    /// The name of the partition's input.
    pub(super) input: Arc<str>,
    pub(super) next_offset: Option<i64>,
    pub(super) position: Option<i64>,
    pub(super) log_end: Option<i64>,
    /// Messages that are not applied; `None` until the log's end is known.
    pub(super) messages: Option<i64>,
    /// Age of the oldest of them.
    pub(super) seconds: f64,
}

impl Partitions {
    /// Records the assignment of a partition, with the name of its input.
    pub(super) fn assign(&mut self, assigned: &Assigned, input: &str) {
        let now = Instant::now();
        let partition = self.owned.entry(assigned.partition.clone()).or_insert_with(|| Owned {
            epoch: assigned.epoch,
            input: input.into(),
            assigned_at: now,
            reading: None,
            log: None,
            log_at: now,
            committed: None,
            behind_since: None,
            applied_at: now,
        });
        // A restarted partition has had a lag all the time.
        partition.epoch = assigned.epoch;
        partition.reading = None;
    }

    pub(super) fn revoke(&mut self, partition: &TopicPartition) {
        self.owned.remove(partition);
    }

    pub(super) fn start(&mut self, start: &Start) {
        if let Some(partition) = self.current_mut(&start.assigned) {
            let next_offset = partition.reading.as_ref().map_or(start.next_offset, |reading| reading.next_offset);
            partition.reading = Some(Reading {
                source: Arc::clone(&start.source),
                position: start.offset,
                next_offset,
                moved_at: Instant::now(),
                is_held: false,
                held_ms: None,
            });
        }
    }

    /// Records that no more of a partition is read until it is restarted; the first message not read has this time.
    pub(super) fn hold(&mut self, assigned: &Assigned, oldest_ms: Option<i64>) {
        if let Some(reading) = self.current_mut(assigned).and_then(|owned| owned.reading.as_mut()) {
            (reading.is_held, reading.held_ms) = (true, oldest_ms);
        }
    }

    /// Records messages that came, with `on_trial` of them on trial. Returns `true` if their partition is owned. Those of an earlier
    /// assignment of it are as good as any: what is read twice is applied once.
    pub(super) fn mark_read(&mut self, set: &MessageSet, epoch: u64, now_ms: i64, on_trial: usize) -> bool {
        let interval = set.interval();
        let Some(owned) = self.owned.get_mut(&TopicPartition::from(&interval.partition)) else { return false };
        if let Some(reading) = owned.reading.as_mut().filter(|_| owned.epoch == epoch) {
            reading.position = interval.until;
            reading.moved_at = Instant::now();
        }
        // An implausible time has no age: the time since the message was read is used instead.
        let time_ms = set.messages().next().and_then(|first| first.time_ms);
        let oldest_ms = Some(time_ms.filter(|time_ms| is_plausible(*time_ms, now_ms)).unwrap_or(now_ms));
        self.put(interval, oldest_ms, false, on_trial);
        true
    }

    fn put(&mut self, of: Interval, oldest_ms: Option<i64>, is_journaled: bool, on_trial: usize) {
        let set = InFlight { until: of.until, oldest_ms, is_journaled, on_trial };
        self.in_flight.entry(of.partition).or_default().insert(of.from, set);
    }

    /// Records an interval that the journal has.
    pub(super) fn mark_journaled(&mut self, record: &Record) {
        let new = InFlight { until: record.until, oldest_ms: record.oldest_ms, is_journaled: true, on_trial: 0 };
        let sets = self.in_flight.entry(record.partition.clone()).or_default();
        sets.entry(record.from).or_insert(new).is_journaled = true;
    }

    /// Forgets journaled intervals that are no longer in the journal: a record was damaged, or its segment was deleted.
    pub(super) fn keep_journaled(&mut self, journaled: &InFlightPartitions) {
        for (key, sets) in &mut self.in_flight {
            let mut spans = journaled.get(key).cloned().unwrap_or_default();
            spans.sort_unstable();
            let mut spans = spans.into_iter().peekable();
            let mut reached = i64::MIN;
            // Both are ascending: a set lies in one record, or in several adjacent ones.
            sets.retain(|from, set| {
                while let Some((start, end)) = spans.next_if(|(start, _)| *start <= *from) {
                    reached = if start <= reached { reached.max(end) } else { end };
                }
                !set.is_journaled || set.until <= reached
            });
        }
        self.in_flight.retain(|_, sets| !sets.is_empty());
    }

    /// Records an in-flight set that has to wait for another session's lock; `is_journaled` says whether the journal has it.
    pub(super) fn mark_waiting(&mut self, set: &MessageSet, is_journaled: bool) {
        self.put(set.interval(), set.messages().next().and_then(|first| first.time_ms), is_journaled, 0);
    }

    /// Records that what was read of these intervals is in the journal.
    pub(super) fn mark_saved(&mut self, intervals: &[Interval]) {
        for interval in intervals {
            let sets = self.in_flight.get_mut(&interval.partition);
            if let Some(set) = sets.and_then(|sets| sets.get_mut(&interval.from)) {
                set.is_journaled |= set.until <= interval.until;
            }
        }
    }

    /// Records that these intervals are no longer in flight.
    pub(super) fn mark_done(&mut self, intervals: &[Interval]) {
        for interval in intervals {
            if let Some(sets) = self.in_flight.get_mut(&interval.partition) {
                sets.retain(|from, set| *from < interval.from || set.until > interval.until);
                if sets.is_empty() {
                    self.in_flight.remove(&interval.partition);
                }
            }
        }
    }

    /// Records a partition's progress. Returns its assignment, if it is owned and still reads this source.
    pub(super) fn mark_applied(&mut self, applied: &Applied) -> Option<Assigned> {
        let key = TopicPartition::from(&applied.partition);
        let owned = self.owned.get_mut(&key)?;
        let reading = owned.reading.as_mut().filter(|reading| reading.source == applied.partition.source)?;
        reading.next_offset = reading.next_offset.max(applied.next_offset);
        // Islands above the next offset are progress, too.
        owned.applied_at = Instant::now();
        Some(Assigned { partition: key, epoch: owned.epoch })
    }

    pub(super) fn set_log_ranges(&mut self, ranges: &HashMap<TopicPartition, LogRange>) {
        for (key, range) in ranges {
            if let Some(partition) = self.owned.get_mut(key) {
                partition.log = Some(*range);
                partition.log_at = Instant::now();
            }
        }
    }

    pub(super) fn set_committed_offsets(&mut self, offsets: &HashMap<TopicPartition, i64>) {
        for (key, offset) in offsets {
            if let Some(partition) = self.owned.get_mut(key) {
                partition.committed = Some(*offset);
            }
        }
    }

    /// Forgets what is in flight, except what is in the journal.
    pub(super) fn forget_in_flight(&mut self) {
        for sets in self.in_flight.values_mut() {
            sets.retain(|_, set| set.is_journaled);
        }
        self.in_flight.retain(|_, sets| !sets.is_empty());
    }

    pub(super) fn in_flight(&self) -> InFlightPartitions {
        let spans = |sets: &BTreeMap<i64, InFlight>| sets.iter().map(|(from, set)| (*from, set.until)).collect();
        self.in_flight.iter().map(|(key, sets)| (key.clone(), spans(sets))).collect()
    }

    /// The number of messages on trial that are on their way, of the sources for which `is_meant` says so.
    pub(super) fn on_trial(&self, is_meant: impl Fn(&Source) -> bool) -> u64 {
        let of_sources = self.in_flight.iter().filter(|(partition, _)| is_meant(&partition.source));
        of_sources.flat_map(|(_, sets)| sets.values()).map(|set| set.on_trial as u64).sum()
    }

    pub(super) fn current(&self, partition: &TopicPartition) -> Option<Assigned> {
        self.owned.get(partition).map(|owned| Assigned { partition: partition.clone(), epoch: owned.epoch })
    }

    /// Returns the assignment of an interval's partition, if it still reads this source.
    pub(super) fn reading(&self, interval: &Interval) -> Option<Assigned> {
        let partition = TopicPartition::from(&interval.partition);
        let reading = self.owned.get(&partition)?.reading.as_ref()?;
        (reading.source == interval.partition.source).then(|| self.current(&partition))?
    }

    fn current_mut(&mut self, assigned: &Assigned) -> Option<&mut Owned> {
        self.owned.get_mut(&assigned.partition).filter(|owned| owned.epoch == assigned.epoch)
    }

    pub(super) fn assigned(&self) -> Vec<Assigned> {
        self.owned.keys().filter_map(|partition| self.current(partition)).collect()
    }

    pub(super) fn owned(&self) -> Vec<TopicPartition> {
        self.owned.keys().cloned().collect()
    }

    /// The partitions that are read, with their source and position.
    pub(super) fn positions(&self) -> Vec<ReadPosition> {
        self.owned
            .iter()
            .filter_map(|(key, owned)| {
                let reading = owned.reading.as_ref()?;
                let assigned = Assigned { partition: key.clone(), epoch: owned.epoch };
                Some(ReadPosition { assigned, source: Arc::clone(&reading.source), offset: reading.position })
            })
            .collect()
    }

    /// The partitions from which nothing was read for this long although their logs contain more.
    pub(super) fn stuck(&mut self, after: Duration) -> Vec<Assigned> {
        let mut stuck = Vec::new();
        for (key, owned) in &mut self.owned {
            let Some(reading) = owned.reading.as_mut().filter(|reading| !reading.is_held) else { continue };
            if owned.log.is_some_and(|log| log.end > reading.position) && reading.moved_at.elapsed() >= after {
                reading.moved_at = Instant::now();
                stuck.push(Assigned { partition: key.clone(), epoch: owned.epoch });
            }
        }
        stuck
    }

    /// The partitions being read whose topic now has another id.
    pub(super) fn of_changed_topics(&self, topic_ids: &HashMap<String, String>) -> Vec<Assigned> {
        self.positions()
            .into_iter()
            .filter(|read| read.source.was_recreated(topic_ids.get(&read.assigned.partition.topic).map(String::as_str)))
            .map(|read| read.assigned)
            .collect()
    }

    pub(super) fn next_offsets(&self, intervals: &[Interval]) -> NextOffsets {
        intervals
            .iter()
            .filter_map(|interval| {
                let key = TopicPartition::from(&interval.partition);
                let reading = self.owned.get(&key)?.reading.as_ref()?;
                (reading.source == interval.partition.source).then_some((key, reading.next_offset))
            })
            .collect()
    }

    /// The number of partitions, and of those being read.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.owned.len(), self.owned.values().filter(|partition| partition.reading.is_some()).count())
    }

    /// The partition whose log end was read the longest ago, the time of that, and whether it was ever read.
    pub(super) fn oldest_log(&self) -> Option<(String, Instant, bool)> {
        let (key, partition) =
            self.owned.iter().min_by_key(|(_, partition)| (partition.log.is_some(), partition.log_at))?;
        Some((format!("{}/{}", key.topic, key.number), partition.log_at, partition.log.is_some()))
    }

    /// The longest time for which a partition had something to apply and made no progress, although data could move since
    /// `movable_since`.
    pub(super) fn stalled_for(&self, movable_since: Instant) -> Option<Duration> {
        let since = self.owned.values().filter_map(|partition| {
            let behind = match (&partition.reading, partition.log) {
                // That the rest of it is not read is a separate condition.
                (Some(reading), Some(_)) if reading.is_held => reading.position > reading.next_offset,
                (Some(reading), Some(log)) => log.end > reading.next_offset,
                (None, _) => true,
                (Some(_), None) => false,
            };
            let since = partition.behind_since.unwrap_or(partition.assigned_at);
            behind.then_some(since.max(partition.applied_at).max(movable_since))
        });
        Some(since.min()?.elapsed())
    }

    /// Each partition's lag. While the ends of the logs are not available, the age is at least the time since they were known:
    /// what has arrived since may be as old.
    pub(super) fn lags(&mut self, now_ms: i64, brokers_answer: bool) -> Vec<Lag> {
        let mut lags: Vec<Lag> = Vec::with_capacity(self.owned.len());
        for (key, partition) in &mut self.owned {
            let reading = partition.reading.as_ref();
            let in_flight = reading.and_then(|reading| {
                let sets = self.in_flight.get(&Partition::new(Arc::clone(&reading.source), key.number))?;
                sets.values().find_map(|set| set.oldest_ms.filter(|time_ms| is_plausible(*time_ms, now_ms)))
            });
            let held_ms = reading.and_then(|reading| reading.held_ms).filter(|time_ms| is_plausible(*time_ms, now_ms));
            // If the log's end is older than what was read since, the position is the better end. Before the database was
            // asked, the group's offset in Kafka is used: it is never above the database's progress.
            let messages = partition.log.map(|log| match reading {
                Some(reading) => log.end.max(reading.position) - reading.next_offset,
                None => log.end - partition.committed.unwrap_or(log.start).max(log.start),
            });
            let messages = messages.map(|messages| messages.max(0));
            let behind = messages.is_some_and(|messages| messages > 0);
            if !behind {
                partition.behind_since = None;
            } else if partition.behind_since.is_none() {
                partition.behind_since = Some(Instant::now());
            }
            let seconds = match (behind, in_flight.or(held_ms)) {
                (false, _) => 0.0,
                (true, Some(oldest_ms)) => (now_ms - oldest_ms).max(0) as f64 / 1000.0,
                (true, None) => partition.behind_since.map_or(0.0, |since| since.elapsed().as_secs_f64()),
            };
            let unknown_for = partition.log_at.elapsed();
            let is_unknown = partition.log.is_some() && (!brokers_answer || unknown_for > LOGS_TIMEOUT);
            let seconds = if is_unknown { seconds.max(unknown_for.as_secs_f64()) } else { seconds };
            lags.push(Lag {
                partition: key.clone(),
                input: Arc::clone(&partition.input),
                next_offset: reading.map(|reading| reading.next_offset),
                position: reading.map(|reading| reading.position),
                log_end: partition.log.map(|log| log.end),
                messages,
                seconds,
            });
        }
        lags.sort_by(|a, b| a.partition.cmp(&b.partition));
        lags
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::{Kind, MessageSetBuilder, RawMessage};

    const NOW_MS: i64 = 1_800_000_000_000;

    fn source(topic_id: &str) -> Arc<Source> {
        let source =
            Source { kind: Kind::Points, cluster_id: "c".into(), topic: "t".into(), topic_id: topic_id.into() };
        Arc::new(source)
    }

    fn assigned(epoch: u64) -> Assigned {
        Assigned { partition: TopicPartition::new("t", 0), epoch }
    }

    /// Offsets of the only partition.
    fn interval(from: i64, until: i64) -> Interval {
        Interval { partition: Partition::new(source("id"), 0), from, until }
    }

    fn set(from: i64, until: i64) -> MessageSet {
        let mut set = MessageSetBuilder::of(interval(from, until).partition, from);
        set.push(&RawMessage { offset: from, time_ms: Some(NOW_MS - 1000), key: None, payload: None, headers: None });
        set.extend_to(until);
        set.build(None)
    }

    /// An event of the partition. Returns `true` if it was taken into account.
    type Step = Box<dyn Fn(&mut Partitions) -> bool>;

    fn always(step: impl Fn(&mut Partitions) + 'static) -> Step {
        Box::new(move |partitions| {
            step(partitions);
            true
        })
    }

    fn assign(epoch: u64) -> Step {
        always(move |partitions| partitions.assign(&assigned(epoch), "i"))
    }

    fn revoke() -> Step {
        always(|partitions| partitions.revoke(&assigned(0).partition))
    }

    fn log(start: i64, end: i64) -> Step {
        let ranges = HashMap::from([(assigned(0).partition, LogRange { start, end })]);
        always(move |partitions| partitions.set_log_ranges(&ranges))
    }

    fn group(offset: i64) -> Step {
        let offsets = HashMap::from([(assigned(0).partition, offset)]);
        always(move |partitions| partitions.set_committed_offsets(&offsets))
    }

    fn start(epoch: u64, offset: i64, next_offset: i64) -> Step {
        let start = Start { assigned: assigned(epoch), source: source("id"), offset, next_offset };
        always(move |partitions| partitions.start(&start))
    }

    fn read(epoch: u64, from: i64, until: i64) -> Step {
        Box::new(move |partitions| partitions.mark_read(&set(from, until), epoch, NOW_MS, 3))
    }

    fn record(from: i64, until: i64) -> Step {
        always(move |partitions| partitions.mark_journaled(&Record::of(interval(from, until))))
    }

    fn saved(from: i64, until: i64) -> Step {
        always(move |partitions| partitions.mark_saved(&[interval(from, until)]))
    }

    fn done(from: i64, until: i64) -> Step {
        always(move |partitions| partitions.mark_done(&[interval(from, until)]))
    }

    fn waits(from: i64, until: i64, is_journaled: bool) -> Step {
        always(move |partitions| partitions.mark_waiting(&set(from, until), is_journaled))
    }

    fn hold(epoch: u64) -> Step {
        always(move |partitions| partitions.hold(&assigned(epoch), Some(NOW_MS - 5000)))
    }

    fn applied(topic_id: &str, next_offset: i64) -> Step {
        let applied = Applied { partition: Partition::new(source(topic_id), 0), next_offset };
        Box::new(move |partitions| partitions.mark_applied(&applied).is_some())
    }

    fn journal(records: &[(i64, i64)]) -> Step {
        let journaled = HashMap::from([(interval(0, 0).partition, records.to_vec())]);
        always(move |partitions| partitions.keep_journaled(&journaled))
    }

    fn forget() -> Step {
        always(Partitions::forget_in_flight)
    }

    /// The intervals in flight, with `j` after journaled ones; position, next offset and lag.
    type State = (String, [Option<i64>; 3]);

    fn state(partitions: &mut Partitions) -> State {
        let mark = |set: &InFlight| if set.is_journaled { "j" } else { "" };
        let in_flight = partitions.in_flight.values().flatten();
        let in_flight: Vec<String> =
            in_flight.map(|(from, set)| format!("{from}-{}{}", set.until, mark(set))).collect();
        let lag = partitions.lags(NOW_MS, true).pop();
        (in_flight.join(" "), lag.map_or([None; 3], |lag| [lag.position, lag.next_offset, lag.messages]))
    }

    #[test]
    fn what_is_in_flight_and_the_lag_follow_each_step() {
        const NO: i64 = -1;
        type Row = (&'static str, Step, bool, &'static str, i64, i64, i64);
        #[rustfmt::skip]
        let table: [Row; 24] = [
            // what happens                     how                          taken  in flight              position  next  lag
            ("read, and is not ours",           read(1, 0, 5),               false, "",                    NO,       NO,   NO),
            ("in the journal from before",      record(40, 50),              true,  "40-50j",              NO,       NO,   NO),
            ("assigned",                        assign(1),                   true,  "40-50j",              NO,       NO,   NO),
            ("the log is known",                log(10, 100),                true,  "40-50j",              NO,       NO,   90),
            ("the group's offset, too",         group(40),                   true,  "40-50j",              NO,       NO,   60),
            ("start of an older assignment",    start(0, 10, 10),            true,  "40-50j",              NO,       NO,   60),
            ("start after what is journaled",   start(1, 50, 40),            true,  "40-50j",              50,       40,   60),
            ("read",                            read(1, 50, 60),             true,  "40-50j 50-60",        60,       40,   60),
            ("read by an older assignment",     read(0, 45, 48),             true,  "40-50j 45-48 50-60",  60,       40,   60),
            ("an append had less",              saved(50, 55),               true,  "40-50j 45-48 50-60",  60,       40,   60),
            ("an append had it",                saved(50, 60),               true,  "40-50j 45-48 50-60j", 60,       40,   60),
            ("a writer has ended",              done(40, 50),                true,  "50-60j",              60,       40,   60),
            ("its progress",                    applied("id", 50),           true,  "50-60j",              60,       50,   50),
            ("an older progress",               applied("id", 45),           true,  "50-60j",              60,       50,   50),
            ("progress of a deleted topic",     applied("old", 70),          false, "50-60j",              60,       50,   50),
            ("read beyond the log's known end", read(1, 60, 120),            true,  "50-60j 60-120",       120,      50,   70),
            ("a writer has ended",              done(50, 120),               true,  "",                    120,      50,   70),
            ("a message of it waits for a lock", waits(70, 80, false),       true,  "70-80",               120,      50,   70),
            ("so does a journaled one",         waits(90, 95, true),         true,  "70-80 90-95j",        120,      50,   70),
            ("the journal still has it",        journal(&[(85, 92), (80, 99)]), true, "70-80 90-95j",      120,      50,   70),
            ("a writer was lost",               forget(),                    true,  "90-95j",              120,      50,   70),
            ("the journal has lost a part",     journal(&[(85, 94)]),        true,  "",                    120,      50,   70),
            ("assigned again",                  assign(2),                   true,  "",                    NO,       NO,   60),
            ("revoked",                         revoke(),                    true,  "",                    NO,       NO,   NO),
        ];
        let mut partitions = Partitions::default();
        for (what, step, is_taken, in_flight, position, next_offset, lag) in table {
            assert_eq!(step(&mut partitions), is_taken, "{what}");
            let numbers = [position, next_offset, lag].map(|number| Some(number).filter(|number| *number != NO));
            assert_eq!(state(&mut partitions), (in_flight.to_owned(), numbers), "{what}");
        }
        assert!(partitions.in_flight().is_empty(), "the partition is idle");
    }

    #[test]
    fn a_partition_that_is_held_has_the_lag_of_what_is_not_read_and_is_not_stalled() {
        let mut partitions = Partitions::default();
        for step in [assign(1), log(0, 100), start(1, 0, 0), hold(1), read(1, 0, 10)] {
            step(&mut partitions);
        }
        let lag = |partitions: &mut Partitions| {
            let lag = partitions.lags(NOW_MS, true).remove(0);
            (lag.position, lag.messages, lag.seconds)
        };
        assert_eq!(lag(&mut partitions), (Some(10), Some(100), 1.0));
        let ago = Instant::now().checked_sub(Duration::from_secs(9)).unwrap();
        assert!(partitions.stalled_for(ago).is_some(), "what was read before is to be written");
        done(0, 10)(&mut partitions);
        applied("id", 10)(&mut partitions);
        assert_eq!(lag(&mut partitions), (Some(10), Some(90), 5.0));
        assert_eq!(partitions.stalled_for(ago), None);
        start(1, 10, 10)(&mut partitions);
        assert!(partitions.stalled_for(ago).is_some(), "it is read again");
    }

    #[test]
    fn a_start_is_after_all_that_touches_it() {
        type Row<'a> = (i64, &'a [(i64, i64)], i64);
        #[rustfmt::skip]
        let table: [Row<'_>; 7] = [
            // next  in flight               first offset beyond
            (10,     &[],                    10),
            (10,     &[(10, 20)],            20),
            (10,     &[(5, 20), (20, 30)],   30),
            (10,     &[(0, 5), (5, 10)],     10),
            (10,     &[(11, 20)],            10),
            (10,     &[(10, 20), (21, 30)],  20),
            (10,     &[(0, 40), (10, 20)],   40),
        ];
        for (next, intervals, expected) in table {
            assert_eq!(first_beyond(next, Some(&intervals.to_vec())), expected, "{next} {intervals:?}");
        }
        assert_eq!(first_beyond(10, None), 10);
    }

    #[test]
    fn a_partition_is_stuck_if_its_log_has_more_and_nothing_comes() {
        let (now, later) = (Duration::ZERO, Duration::from_secs(3600));
        let mut partitions = Partitions::default();
        for (what, step, after, is_stuck) in [
            ("assigned", assign(1), now, false),
            ("its log has messages, but it was not started", log(0, 50), now, false),
            ("started at the log's end", start(1, 50, 50), now, false),
            ("a message came to the log, and the start is recent", log(0, 51), later, false),
            ("nothing comes", log(0, 51), now, true),
            ("it was restarted lately", log(0, 51), later, false),
            ("an older assignment is held", hold(0), now, true),
            ("it is held", hold(1), now, false),
            ("it is read again", start(1, 50, 50), now, true),
        ] {
            step(&mut partitions);
            assert_eq!(partitions.stuck(after) == [assigned(1)], is_stuck, "{what}");
        }
    }
}
