//! The worker's readiness, derived from facts, with the reasons.
//!
//! Readiness requires positive signs, each with an age. A sign that is missing, or too old, is the reason why the
//! worker is not ready, so an unforeseen fault makes the worker unready as well. Pure: the time is an argument.

use std::time::{Duration, Instant};

use serde::Serialize;

/// The brokers are asked every 2 s, and a request has a timeout of 10 s: an older answer does not count.
pub const BROKERS_TIMEOUT: Duration = Duration::from_secs(12);
/// The ends of the logs are requested in the same round as other facts. If some broker does not answer, the round lasts until
/// all requests have timed out.
pub const LOGS_TIMEOUT: Duration = Duration::from_secs(40);
/// While the journal replaces the database, it is probed every 5 s, and an append that hangs is a problem itself after 10 s: an
/// older success does not count.
pub const JOURNAL_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for which partitions may be without a start offset after a rebalance until that is a reason.
pub const PARTITIONS_TIMEOUT: Duration = Duration::from_secs(5);

/// The facts that the parts of the worker have reported.
#[derive(Debug, Clone)]
pub struct Facts {
    /// When the worker began to wait for the signs.
    pub started: Instant,
    /// The brokers.
    pub brokers: Brokers,
    /// The consumer group.
    pub group: Group,
    /// The partitions of this worker.
    pub partitions: Partitions,
    /// The ends of their logs.
    pub logs: Logs,
    /// The database, and the journal that replaces it in an outage.
    pub database: Database,
}

/// Facts about the brokers.
#[derive(Debug, Clone, Default)]
pub struct Brokers {
    /// The configured addresses.
    pub addresses: String,
    /// When a broker last answered a request.
    pub answered: Option<Instant>,
    /// The reason why the last request was not answered.
    pub problem: Option<String>,
}

/// Facts about the consumer group.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// The group's name.
    pub name: String,
    /// The time after which the group removes a silent member.
    pub session_timeout: Duration,
    /// When this worker began to wait for the group, first or after losing its membership; `None` before that.
    pub asked: Option<Instant>,
    /// When the group last assigned partitions to this worker, possibly none; `None` while it is not a member.
    pub joined: Option<Instant>,
    /// The reason why the group does not let this worker join.
    pub problem: Option<String>,
    /// `true` if there is no topic to read, so that the worker does not join the group.
    pub has_nothing_to_read: bool,
}

/// Facts about the partitions of this worker.
#[derive(Debug, Clone, Default)]
pub struct Partitions {
    /// The number of assigned partitions.
    pub assigned: usize,
    /// The number of those being read.
    pub reading: usize,
    /// When all assigned partitions were last being read.
    pub complete: Option<Instant>,
    /// The reason why some of them cannot be read yet.
    pub problem: Option<String>,
    /// Configured topics that do not exist.
    pub missing_topics: Vec<String>,
}

/// Facts about the ends of the logs of this worker's partitions.
#[derive(Debug, Clone, Default)]
pub struct Logs {
    /// The partition whose log's end has been unknown for the longest time, the beginning of that time, and whether it was
    /// known before; `None` if the worker has no partition.
    pub oldest: Option<(String, Instant, bool)>,
}

/// Facts about the database.
#[derive(Debug, Clone, Default)]
pub struct Database {
    /// When it last answered.
    pub answered: Option<Instant>,
    /// Maximum time for which a healthy server may be silent: that of its longest statement.
    pub timeout: Duration,
    /// The beginning of its failure, and the reason.
    pub failure: Option<(Instant, String)>,
    /// Set while messages go to the journal instead, with the time of the journal's last append. A journal that accepts nothing
    /// is a separate condition.
    pub journal: Option<Option<Instant>>,
}

impl Group {
    /// Records that the worker has begun to wait for the group.
    pub fn ask(&mut self) {
        self.asked.get_or_insert_with(Instant::now);
    }

    /// Records that the group has assigned partitions to this worker.
    pub fn join(&mut self) {
        self.problem = None;
        self.joined = Some(Instant::now());
    }

    /// Records that the worker is no longer a member, and waits for the group again.
    pub fn leave(&mut self) {
        if self.joined.take().is_some() {
            self.asked = Some(Instant::now());
        }
    }

    /// Records that the group does not let this worker join.
    pub fn refuse(&mut self, reason: String) {
        self.leave();
        self.problem = Some(reason);
    }
}

impl Facts {
    /// No facts have been reported yet.
    pub fn new(started: Instant) -> Self {
        Self {
            started,
            brokers: Brokers::default(),
            group: Group::default(),
            partitions: Partitions::default(),
            logs: Logs::default(),
            database: Database::default(),
        }
    }
}

#[cfg(test)]
impl Facts {
    /// All signs are present.
    pub(crate) fn ready(now: Instant) -> Self {
        let mut facts = Self::new(now);
        facts.brokers.answered = Some(now);
        facts.group.joined = Some(now);
        facts.database.answered = Some(now);
        facts.database.timeout = Duration::from_secs(65);
        facts
    }
}

/// A sign that readiness requires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sign {
    /// Its name, as in `/readyz`.
    #[serde(skip)]
    pub name: &'static str,
    /// `true` if it is present.
    pub ok: bool,
    /// Seconds since it was last seen; for the group, since this worker joined it. `null` if it was never seen.
    pub age_seconds: Option<u64>,
    /// The reason why it is missing.
    pub reason: Option<String>,
}

/// The name of the brokers' sign.
pub const BROKERS: &str = "brokers";
/// The name of the group's sign.
pub const GROUP: &str = "group";
/// The name of the partitions' sign.
pub const PARTITIONS: &str = "partitions";
/// The name of the sign that the ends of the logs are known.
pub const LOGS: &str = "logs";
/// The name of the database's sign.
pub const DATABASE: &str = "database";

/// All signs, each with its age or the reason why it is missing.
pub fn signs(facts: &Facts, now: Instant) -> [Sign; 5] {
    [brokers(facts, now), group(facts, now), partitions(facts, now), logs(facts, now), database(facts, now)]
}

/// The reasons to show: among signs that depend on one another only the first missing one, because the others follow from it.
pub fn reasons(signs: &[Sign]) -> impl Iterator<Item = (&'static str, &str)> {
    let missing = |name: &str| signs.iter().any(|sign| sign.name == name && !sign.ok);
    let (no_brokers, no_group) = (missing(BROKERS), missing(GROUP));
    signs
        .iter()
        .filter(move |sign| match sign.name {
            GROUP => !no_brokers,
            PARTITIONS | LOGS => !no_brokers && !no_group,
            _ => true,
        })
        .filter_map(|sign| Some((sign.name, sign.reason.as_deref()?)))
}

fn sign(name: &'static str, seen: Option<Instant>, now: Instant, reason: Option<String>) -> Sign {
    let age_seconds = seen.map(|seen| seconds(now, seen));
    Sign { name, ok: reason.is_none(), age_seconds, reason }
}

fn seconds(now: Instant, since: Instant) -> u64 {
    now.saturating_duration_since(since).as_secs()
}

fn with_problem(text: String, problem: Option<&String>) -> String {
    problem.map_or(text.clone(), |problem| format!("{text}: {problem}"))
}

fn brokers(facts: &Facts, now: Instant) -> Sign {
    let Brokers { addresses, answered, problem } = &facts.brokers;
    let reason = match answered {
        Some(answered) if now.saturating_duration_since(*answered) <= BROKERS_TIMEOUT => None,
        Some(answered) => Some(format!("the brokers {addresses} have not answered for {} s", seconds(now, *answered))),
        None => Some(format!("waits for the brokers {addresses} for {} s", seconds(now, facts.started))),
    };
    sign(BROKERS, *answered, now, reason.map(|reason| with_problem(reason, problem.as_ref())))
}

fn group(facts: &Facts, now: Instant) -> Sign {
    let Group { name, session_timeout, asked, joined, problem, has_nothing_to_read } = &facts.group;
    let reason = match (joined, asked) {
        (Some(_), _) => None,
        _ if *has_nothing_to_read => None,
        (None, None) => Some(format!("the worker does not ask to join the group {name} yet")),
        (None, Some(asked)) => {
            let waiting = format!("waits for the group {name} for {} s", seconds(now, *asked));
            Some(match problem {
                Some(problem) => format!("{waiting}: {problem}"),
                None => format!(
                    "{waiting}: a member that ended without leaving it keeps its place for up to {} s",
                    session_timeout.as_secs()
                ),
            })
        }
    };
    sign(GROUP, *joined, now, reason)
}

fn partitions(facts: &Facts, now: Instant) -> Sign {
    let Partitions { assigned, reading, complete, problem, missing_topics } = &facts.partitions;
    let waiting = assigned.saturating_sub(*reading);
    let is_recent = complete.is_some_and(|at| now.saturating_duration_since(at) <= PARTITIONS_TIMEOUT);
    let reason = if !missing_topics.is_empty() {
        Some(format!("topics that do not exist: {}. Create them", missing_topics.join(", ")))
    } else if waiting > 0 && (problem.is_some() || !is_recent) {
        let text = format!(
            "{waiting} of {assigned} have not started for {} s",
            seconds(now, complete.or(facts.group.joined).unwrap_or(facts.started))
        );
        Some(with_problem(text, problem.as_ref()))
    } else {
        None
    };
    sign(PARTITIONS, *complete, now, reason)
}

fn logs(facts: &Facts, now: Instant) -> Sign {
    let Some((partition, since, known)) = &facts.logs.oldest else {
        return sign(LOGS, None, now, None);
    };
    let timeout = if *known { LOGS_TIMEOUT } else { PARTITIONS_TIMEOUT };
    let is_missing = now.saturating_duration_since(*since) > timeout;
    let reason = is_missing.then(|| {
        format!("the end of {partition} has not been known for {} s: its leader does not answer", seconds(now, *since))
    });
    sign(LOGS, known.then_some(*since), now, reason)
}

fn database(facts: &Facts, now: Instant) -> Sign {
    let Database { answered, timeout, failure, journal } = &facts.database;
    let seen = journal.flatten().max(*answered);
    if let Some(took) = journal {
        let since = took.unwrap_or(facts.started);
        let is_missing = now.saturating_duration_since(since) > JOURNAL_TIMEOUT;
        let reason =
            is_missing.then(|| format!("is away, and the journal has taken nothing for {} s", seconds(now, since)));
        return sign(DATABASE, seen, now, reason);
    }
    let reason = match (failure, answered) {
        (Some((since, problem)), _) => Some(format!("down for {} s {problem}", seconds(now, *since))),
        (None, None) => Some(format!("waits for its first answer for {} s", seconds(now, facts.started))),
        (None, Some(answered)) if now.saturating_duration_since(*answered) > *timeout => {
            Some(format!("has not answered for {} s", seconds(now, *answered)))
        }
        (None, Some(_)) => None,
    };
    sign(DATABASE, seen, now, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All signs are present; `now` is an hour after the start.
    fn ready() -> (Facts, Instant) {
        let started = Instant::now();
        let now = started + Duration::from_secs(3600);
        let ago = |seconds| now.checked_sub(Duration::from_secs(seconds));
        let mut facts = Facts::new(started);
        facts.brokers = Brokers { addresses: "b:9092".into(), answered: ago(2), problem: None };
        facts.group = Group {
            name: "g".into(),
            session_timeout: Duration::from_secs(10),
            asked: ago(30),
            joined: ago(20),
            problem: None,
            has_nothing_to_read: false,
        };
        facts.partitions = Partitions { assigned: 3, reading: 3, complete: Some(now), ..Partitions::default() };
        facts.logs.oldest = ago(2).map(|at| ("t/0".into(), at, true));
        facts.database.answered = ago(1);
        facts.database.timeout = Duration::from_secs(65);
        (facts, now)
    }

    type Case = (&'static str, fn(&mut Facts, Instant), &'static [&'static str]);

    /// A change in the facts of a ready worker, and the resulting reasons.
    const CASES: &[Case] = &[
        ("nothing", |_, _| (), &[]),
        ("brokers silent within their time", |f, now| f.brokers.answered = before(now, 12), &[]),
        (
            "brokers silent",
            |f, now| f.brokers.answered = before(now, 13),
            &["brokers: the brokers b:9092 have not answered for 13 s"],
        ),
        (
            "brokers silent, and the reason is known",
            |f, now| {
                f.brokers.answered = before(now, 90);
                f.brokers.problem = Some("Connection refused".into());
            },
            &["brokers: the brokers b:9092 have not answered for 90 s: Connection refused"],
        ),
        (
            "brokers never answered: what follows from it is no reason",
            |f, now| {
                *f = Facts {
                    brokers: Brokers { addresses: "b:1".into(), ..Brokers::default() },
                    ..Facts::new(f.started)
                };
                f.database.answered = Some(now);
                f.database.timeout = Duration::from_secs(65);
            },
            &["brokers: waits for the brokers b:1 for 3600 s"],
        ),
        (
            "both servers away",
            |f, now| {
                f.brokers.answered = before(now, 20);
                f.group.joined = None;
                f.logs.oldest = before(now, 60).map(|at| ("t/0".into(), at, true));
                f.database.failure = before(now, 15).map(|at| (at, "(outage): refused".into()));
            },
            &["brokers: the brokers b:9092 have not answered for 20 s", "database: down for 15 s (outage): refused"],
        ),
        (
            "no group yet",
            |f, _| f.group.joined = None,
            &["group: waits for the group g for 30 s: a member that ended without leaving it keeps its place for \
               up to 10 s"],
        ),
        ("there is no topic to read", |f, _| (f.group.joined, f.group.has_nothing_to_read) = (None, true), &[]),
        (
            "the group is not asked yet",
            |f, _| (f.group.joined, f.group.asked) = (None, None),
            &["group: the worker does not ask to join the group g yet"],
        ),
        (
            "the group refuses",
            |f, _| (f.group.joined, f.group.problem) = (None, Some("another assignor".into())),
            &["group: waits for the group g for 30 s: another assignor"],
        ),
        (
            "more members than partitions",
            |f, _| {
                f.partitions = Partitions::default();
                f.logs = Logs::default();
            },
            &[],
        ),
        (
            "a topic does not exist",
            |f, _| f.partitions.missing_topics = vec!["t".into(), "u".into()],
            &["partitions: topics that do not exist: t, u. Create them"],
        ),
        ("a rebalance", |f, now| (f.partitions.reading, f.partitions.complete) = (1, before(now, 5)), &[]),
        (
            "partitions do not start",
            |f, now| (f.partitions.reading, f.partitions.complete) = (1, before(now, 6)),
            &["partitions: 2 of 3 have not started for 6 s"],
        ),
        (
            "partitions never started",
            |f, _| (f.partitions.reading, f.partitions.complete) = (0, None),
            &["partitions: 3 of 3 have not started for 20 s"],
        ),
        (
            "partitions cannot start",
            |f, now| {
                f.partitions = Partitions { assigned: 1, complete: Some(now), ..Partitions::default() };
                f.partitions.problem = Some("no leader".into());
            },
            &["partitions: 1 of 1 have not started for 0 s: no leader"],
        ),
        ("a log's end is old", |f, now| f.logs.oldest = before(now, 40).map(|at| ("t/1".into(), at, true)), &[]),
        (
            "a log's end is too old",
            |f, now| f.logs.oldest = before(now, 41).map(|at| ("t/1".into(), at, true)),
            &["logs: the end of t/1 has not been known for 41 s: its leader does not answer"],
        ),
        (
            "a log's end was never known",
            |f, now| f.logs.oldest = before(now, 6).map(|at| ("t/1".into(), at, false)),
            &["logs: the end of t/1 has not been known for 6 s: its leader does not answer"],
        ),
        (
            "the database never answered",
            |f, _| f.database.answered = None,
            &["database: waits for its first answer for 3600 s"],
        ),
        ("the database is slow", |f, now| f.database.answered = before(now, 65), &[]),
        (
            "the database is silent",
            |f, now| f.database.answered = before(now, 66),
            &["database: has not answered for 66 s"],
        ),
        (
            "the database is away",
            |f, now| f.database.failure = Some((now, "(outage): refused".into())),
            &["database: down for 0 s (outage): refused"],
        ),
        (
            "the database is away, and the journal takes its place",
            |f, now| {
                f.database.failure = Some((now, "(outage): refused".into()));
                f.database.journal = Some(before(now, 30));
            },
            &[],
        ),
        (
            "the database is away, and the journal takes nothing",
            |f, now| {
                f.database.failure = Some((now, "(outage): refused".into()));
                f.database.journal = Some(before(now, 31));
            },
            &["database: is away, and the journal has taken nothing for 31 s"],
        ),
        (
            "a worker that starts in an outage journals",
            |f, now| (f.started, f.database.answered, f.database.journal) = (now, None, Some(None)),
            &[],
        ),
    ];

    fn before(now: Instant, seconds: u64) -> Option<Instant> {
        now.checked_sub(Duration::from_secs(seconds))
    }

    #[test]
    fn what_is_missing_is_the_reason() {
        for (what, change, expected) in CASES {
            let (mut facts, now) = ready();
            change(&mut facts, now);
            let signs = signs(&facts, now);
            let reasons: Vec<String> = reasons(&signs).map(|(name, reason)| format!("{name}: {reason}")).collect();
            assert_eq!(reasons, *expected, "{what}");
            assert_eq!(signs.iter().all(|sign| sign.ok), expected.is_empty(), "{what}");
        }
    }

    #[test]
    fn before_anything_was_seen_every_sign_is_missing_but_those_that_need_partitions() {
        let now = Instant::now();
        let signs = signs(&Facts::new(now), now);
        let missing: Vec<&str> = signs.iter().filter(|sign| !sign.ok).map(|sign| sign.name).collect();
        assert_eq!(missing, [BROKERS, GROUP, DATABASE]);
        assert!(signs.iter().all(|sign| sign.age_seconds.is_none()));
    }

    #[test]
    fn each_sign_has_its_age() {
        let (mut facts, now) = ready();
        let ages = |facts: &Facts| signs(facts, now).map(|sign| sign.age_seconds);
        assert_eq!(ages(&facts), [Some(2), Some(20), Some(0), Some(2), Some(1)]);
        facts.database.answered = before(now, 50);
        facts.database.journal = Some(before(now, 4));
        assert_eq!(ages(&facts)[4], Some(4), "the journal's, which is younger");
    }
}
