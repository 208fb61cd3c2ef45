//! The worker's health: signs of life, conditions, and the contents of `/status`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;
use tracing::{info, warn};

use super::log_limit::LogLimit;
use super::readiness::{self, BROKERS, Facts, Sign};
use super::{escaped, metrics};

/// A part of the worker that must report signs of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// The loop between Kafka and the database.
    Pipeline,
    /// The thread that polls Kafka.
    Consumer,
}

impl Component {
    /// All components.
    pub const ALL: [Self; 2] = [Self::Pipeline, Self::Consumer];

    /// The component's name in a reason.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pipeline => "pipeline",
            Self::Consumer => "consumer",
        }
    }
}

/// The contents of `/status`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Status {
    /// The pipeline's name.
    pub pipeline: String,
    /// The program's version.
    pub version: String,
    /// When the program started, in RFC 3339.
    pub started_at: String,
    /// Time since the program started, in seconds.
    pub uptime_seconds: u64,
    /// The database.
    pub database: DatabaseStatus,
    /// Size of messages and points in memory, in bytes.
    pub buffered_bytes: u64,
    /// The memory limit, in bytes.
    pub memory_limit_bytes: u64,
    /// Number of batches being written.
    pub in_flight_batches: u64,
    /// Number of batches that may be written at the same time.
    pub writers: u64,
    /// The journal; `null` if it is off.
    pub journal: Option<JournalStatus>,
    /// The topic for copies of dead letters; `null` if there is none.
    pub dead_letter_topic: Option<DeadLetterTopicStatus>,
    /// The partitions this worker owns.
    pub partitions: Vec<PartitionStatus>,
    /// The signs that readiness needs, by name, each with its age.
    pub signs: BTreeMap<&'static str, Sign>,
    /// The reasons why the worker is not ready, or will not be in an outage, by name; empty while there are none.
    pub conditions: BTreeMap<&'static str, Condition>,
}

/// The database's state.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DatabaseStatus {
    /// `true` if the last write or probe succeeded.
    pub up: bool,
    /// PostgreSQL's version.
    pub server_version: Option<String>,
    /// TimescaleDB's version, if it is installed.
    pub timescaledb: Option<String>,
    /// TimescaleDB's edition.
    pub edition: Option<String>,
    /// The mechanism that keeps points from naming a series without a row: `locked`, `trigger` or `absent`.
    pub reference: Option<&'static str>,
    /// The profile of the table of points; `null` until it was read.
    pub profile: Option<String>,
    /// The server's direct compression of copied points: `on`, or `off` with the reason; `null` until it was read.
    pub direct_compress: Option<String>,
    /// Other sessions' locks that keep points from being written, each as a sentence: what is locked, by which session, since
    /// when.
    pub locks: Vec<String>,
    /// The last failure; `null` once the database is available again.
    pub last_error: Option<String>,
    /// When it happened, in RFC 3339.
    pub last_error_at: Option<String>,
}

/// The journal and the mode.
#[derive(Debug, Clone, Default, Serialize)]
pub struct JournalStatus {
    /// `streaming`: messages go to the database. `journaling`: to the journal, because the database is not available.
    /// `replaying`: to the database, and journaled messages are written as well.
    pub mode: &'static str,
    /// Time in this mode, in seconds.
    pub mode_seconds: u64,
    /// Its disk usage, in bytes.
    pub bytes: u64,
    /// Maximum disk usage, in bytes.
    pub limit_bytes: u64,
    /// Number of its records, written or not; they are deleted with their segment.
    pub records: u64,
    /// Number of segments that were set aside because of damage.
    pub quarantined_segments: u64,
    /// Number of journaled records that have been lost since the start; the database has them, or they were read from Kafka
    /// again.
    pub lost_records: u64,
}

/// The topic for copies of dead letters.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DeadLetterTopicStatus {
    /// Its name.
    pub name: String,
    /// The reason why copies are not published now; `null` while they are. They are retried, and no data waits for them.
    pub problem: Option<Condition>,
}

/// A partition's progress.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PartitionStatus {
    /// The name of its input.
    pub input: String,
    /// The topic.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// Every offset below it is in the database.
    pub next_offset: Option<i64>,
    /// The next offset to read.
    pub position: Option<i64>,
    /// The offset that the next message in Kafka gets.
    pub log_end_offset: Option<i64>,
    /// Number of messages that are not in the database yet.
    pub lag_messages: Option<i64>,
    /// Age of the oldest of them, in seconds.
    pub lag_seconds: f64,
}

/// The reason why data does not move, or will not move in an outage.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Condition {
    /// The reason as text.
    pub reason: String,
    /// The beginning of the condition, in RFC 3339.
    pub since: String,
    /// `true` if data moves nevertheless, so that the worker stays ready.
    pub warning: bool,
}

/// The worker's health; its parts report to it, and [`http`](super::http) reads it.
#[derive(Debug)]
pub struct Health {
    watchdog: Duration,
    started: Instant,
    state: Mutex<State>,
    log: LogLimit,
}

#[derive(Debug)]
struct State {
    /// The last sign of life of each component, in the order of [`Component::ALL`].
    beats: [Instant; Component::ALL.len()],
    status: Status,
    facts: Facts,
    /// The signs that are missing, each with the time since which it is.
    missing: BTreeMap<&'static str, String>,
    /// `true` if all signs were present once.
    was_ready: bool,
}

/// Time in which a starting worker is expected to become ready: until then, missing signs are not logged.
const QUIET_START: Duration = Duration::from_secs(2);

impl Health {
    /// The health of a worker that starts now. Each component must report a sign of life within `watchdog`, from now on.
    pub fn new(pipeline: &str, watchdog: Duration) -> Self {
        let started = Instant::now();
        let status = Status {
            pipeline: pipeline.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: now(),
            ..Status::default()
        };
        let beats = [started; Component::ALL.len()];
        let facts = Facts::new(started);
        let state = State { beats, status, facts, missing: BTreeMap::new(), was_ready: false };
        Self { watchdog, started, state: Mutex::new(state), log: LogLimit::default() }
    }

    /// Changes the facts from which readiness is derived.
    pub fn update_facts(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.lock().facts);
    }

    /// Returns `true` if the brokers answer.
    pub fn brokers_answer(&self) -> bool {
        let state = self.lock();
        readiness::signs(&state.facts, Instant::now()).iter().any(|sign| sign.name == BROKERS && sign.ok)
    }

    /// Logs the signs of readiness that are missing, as often as [`LogLimit`] allows, and those that have returned.
    pub fn review(&self) {
        let now_at = Instant::now();
        let (missing, over, was_ready) = {
            let mut guard = self.lock();
            let state = &mut *guard;
            let signs = readiness::signs(&state.facts, now_at);
            metrics::kafka_up(signs.iter().any(|sign| sign.name == BROKERS && sign.ok));
            let is_ready = signs.iter().all(|sign| sign.ok);
            if !state.was_ready && !is_ready && now_at.saturating_duration_since(state.facts.started) < QUIET_START {
                return;
            }
            let reasons: BTreeMap<&'static str, &str> = readiness::reasons(&signs).collect();
            let mut over = Vec::new();
            state.missing.retain(|name, _| {
                let stays = reasons.contains_key(name);
                if !stays {
                    over.push(*name);
                }
                stays
            });
            let mut missing = Vec::new();
            for (name, reason) in reasons {
                state.missing.entry(name).or_insert_with(now);
                // A condition of the same name says more, and is logged when it is set.
                if !state.status.conditions.contains_key(name) {
                    missing.push((name, reason.to_owned()));
                }
            }
            let was_ready = state.was_ready;
            state.was_ready |= is_ready;
            (missing, over, was_ready)
        };
        // Logging waits for stderr, so it is done without the lock.
        for (condition, reason) in missing {
            if let Some(repeated) = self.log.lasts(&sign_key(condition), &reason) {
                let seconds = repeated.seconds;
                if was_ready {
                    warn!(condition, reason = %escaped(&reason), seconds, "data does not move");
                } else {
                    info!(condition, reason = %escaped(&reason), seconds, "waiting");
                }
            }
        }
        for condition in over {
            if let Some(ended) = self.log.ends(&sign_key(condition)) {
                info!(condition, seconds = ended.seconds, "the condition is over");
            }
        }
    }

    /// Records a sign of life.
    pub fn beat(&self, component: Component) {
        self.lock().beats[component as usize] = Instant::now();
    }

    /// Sets or, with `None`, clears a reason why data does not move. The worker is not ready while there is one.
    pub fn set_condition(&self, name: &'static str, reason: Option<String>) {
        self.set(name, reason, false);
    }

    /// Sets or, with `None`, clears a problem despite which data moves: a condition that leaves the worker ready.
    pub fn set_warning(&self, name: &'static str, reason: Option<String>) {
        self.set(name, reason, true);
    }

    /// Sets or, with `None`, clears a condition that the caller logs in more detail than `/readyz` shows it; a warning leaves
    /// the worker ready.
    pub fn show_condition(&self, name: &'static str, reason: Option<&str>, warning: bool) {
        self.put_condition(name, reason, warning);
    }

    /// Called repeatedly while a condition lasts: [`LogLimit`] decides what is logged.
    fn set(&self, name: &'static str, reason: Option<String>, warning: bool) {
        self.put_condition(name, reason.as_deref(), warning);
        let what = if warning { "something is wrong, and data moves nevertheless" } else { "data does not move" };
        // Logging waits for stderr, so it is done without the lock.
        match reason {
            Some(reason) => {
                if let Some(repeated) = self.log.lasts(name, &format!("{what}: {reason}")) {
                    let seconds = repeated.seconds;
                    warn!(condition = name, reason = %escaped(&reason), seconds, "{what}");
                }
            }
            None => {
                if let Some(ended) = self.log.ends(name) {
                    info!(condition = name, seconds = ended.seconds, "the condition is over");
                }
            }
        }
    }

    fn put_condition(&self, name: &'static str, reason: Option<&str>, warning: bool) {
        let conditions = &mut self.lock().status.conditions;
        let Some(reason) = reason else {
            conditions.remove(name);
            return;
        };
        let condition =
            conditions.entry(name).or_insert_with(|| Condition { reason: String::new(), since: now(), warning });
        reason.clone_into(&mut condition.reason);
        condition.warning = warning;
    }

    /// Records the reason why copies of dead letters are not published to their topic, or that they are. The worker stays
    /// ready.
    pub fn set_copies_problem(&self, topic: &str, problem: Option<String>) {
        let status = &mut self.lock().status.dead_letter_topic;
        let known = status.take().and_then(|status| status.problem);
        let since = known.map_or_else(now, |known| known.since);
        let problem = problem.map(|reason| Condition { reason, since, warning: true });
        *status = Some(DeadLetterTopicStatus { name: topic.to_owned(), problem });
    }

    /// Changes the contents of `/status`.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.lock().status);
    }

    /// The present contents of `/status`.
    pub fn status(&self) -> Status {
        let state = self.lock();
        let mut status = state.status.clone();
        status.uptime_seconds = self.started.elapsed().as_secs();
        let signs = readiness::signs(&state.facts, Instant::now());
        for (name, reason) in readiness::reasons(&signs) {
            let since = state.missing.get(name).unwrap_or(&status.started_at).clone();
            status.conditions.entry(name).or_insert_with(|| Condition {
                reason: reason.to_owned(),
                since,
                warning: false,
            });
        }
        status.signs = signs.into_iter().map(|sign| (sign.name, sign)).collect();
        status
    }

    /// The components without a sign of life within the watchdog's time, each as a readable line; empty while the worker is
    /// alive.
    pub fn not_live(&self) -> Vec<String> {
        self.not_live_at(Instant::now())
    }

    fn not_live_at(&self, now: Instant) -> Vec<String> {
        let beats = self.lock().beats;
        Component::ALL
            .into_iter()
            .zip(beats)
            .map(|(component, beat)| (component, now.saturating_duration_since(beat)))
            .filter(|(_, silent)| *silent > self.watchdog)
            .map(|(component, silent)| format!("{}: no sign of life for {} s", component.as_str(), silent.as_secs()))
            .collect()
    }

    /// The reasons why the worker is not ready, each as a readable line; empty while it is ready.
    pub fn not_ready(&self) -> Vec<String> {
        self.not_ready_at(Instant::now())
    }

    fn not_ready_at(&self, now: Instant) -> Vec<String> {
        let mut lines = self.not_live_at(now);
        let state = self.lock();
        let signs = readiness::signs(&state.facts, now);
        let mut reasons: BTreeMap<&str, &str> = readiness::reasons(&signs).collect();
        let conditions = state.status.conditions.iter().filter(|(_, condition)| !condition.warning);
        reasons.extend(conditions.map(|(name, condition)| (*name, condition.reason.as_str())));
        lines.extend(reasons.into_iter().map(|(name, reason)| format!("{name}: {reason}")));
        lines
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The log key of a sign, because a condition may have the same name.
fn sign_key(name: &str) -> String {
    format!("sign {name}")
}

fn now() -> String {
    format!("{:.3}", Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WATCHDOG: Duration = Duration::from_secs(30);

    /// The health of a worker that has seen all signs.
    fn ready(watchdog: Duration) -> Health {
        let health = Health::new("p", watchdog);
        health.update_facts(|facts| *facts = Facts::ready(Instant::now()));
        health
    }

    #[test]
    fn a_component_that_never_beats_counts_from_the_start() {
        let health = ready(WATCHDOG);
        assert_eq!(health.not_live_at(health.started + WATCHDOG), Vec::<String>::new());
        let late = health.started + WATCHDOG + Duration::from_millis(1);
        assert_eq!(
            health.not_live_at(late),
            ["pipeline: no sign of life for 30 s", "consumer: no sign of life for 30 s"]
        );
    }

    #[test]
    fn every_component_has_to_beat() {
        for (beating, silent) in
            [(Component::Pipeline, Component::Consumer), (Component::Consumer, Component::Pipeline)]
        {
            let health = ready(WATCHDOG);
            // As if the worker had started long ago.
            health.lock().beats = [health.started; 2];
            let later = health.started + 2 * WATCHDOG;
            health.lock().beats[beating as usize] = later;
            health.update_facts(|facts| *facts = Facts::ready(later));
            let reasons = health.not_live_at(later);
            assert_eq!(reasons, [format!("{}: no sign of life for 60 s", silent.as_str())]);
            assert_eq!(health.not_ready_at(later), reasons);
        }
    }

    #[test]
    fn a_beat_revives() {
        let health = ready(Duration::ZERO);
        assert_eq!(health.not_live_at(Instant::now() + Duration::from_secs(1)).len(), 2);
        for component in Component::ALL {
            health.beat(component);
        }
        let last = *health.lock().beats.iter().min().unwrap();
        assert!(health.not_live_at(last).is_empty());
    }

    #[test]
    fn conditions_make_unready_but_not_dead() {
        let health = ready(WATCHDOG);
        assert!(health.not_ready().is_empty());
        health.set_condition("stalled", Some("nothing for 3 s".to_owned()));
        health.set_condition("database", Some("down".to_owned()));
        assert_eq!(health.not_ready(), ["database: down", "stalled: nothing for 3 s"]);
        assert!(health.not_live().is_empty());
        health.set_condition("database", None);
        assert_eq!(health.not_ready(), ["stalled: nothing for 3 s"]);
        health.set_condition("stalled", None);
        assert!(health.not_ready().is_empty());
    }

    #[test]
    fn a_warning_is_a_condition_that_leaves_the_worker_ready() {
        let health = ready(WATCHDOG);
        health.set_warning("journal", Some("no room".to_owned()));
        assert!(health.not_ready().is_empty());
        assert_eq!(health.status().conditions["journal"].reason, "no room");
        // It prevents readiness now, and later no longer.
        health.set_condition("journal", Some("no room".to_owned()));
        assert_eq!(health.not_ready(), ["journal: no room"]);
        health.set_warning("journal", Some("no room".to_owned()));
        assert!(health.not_ready().is_empty() && health.status().conditions["journal"].warning);
        health.set_warning("journal", None);
        assert!(health.status().conditions.is_empty());
    }

    #[test]
    fn without_any_sign_a_worker_is_not_ready_and_says_what_it_waits_for() {
        let health = Health::new("p", WATCHDOG);
        health.update_facts(|facts| facts.brokers.addresses = "b:9092".to_owned());
        assert_eq!(
            health.not_ready(),
            ["brokers: waits for the brokers b:9092 for 0 s", "database: waits for its first answer for 0 s"]
        );
        let status = health.status();
        assert_eq!(status.conditions.keys().copied().collect::<Vec<_>>(), ["brokers", "database"]);
        assert!(!status.signs["group"].ok);
        health.update_facts(|facts| *facts = Facts::ready(Instant::now()));
        assert!(health.not_ready().is_empty());
        let json = serde_json::to_value(health.status()).unwrap();
        assert_eq!(json["signs"]["group"], serde_json::json!({"ok": true, "age_seconds": 0, "reason": null}));
    }

    #[test]
    fn a_condition_of_the_same_name_says_more_than_a_sign() {
        let health = Health::new("p", WATCHDOG);
        health.update_facts(|facts| *facts = Facts::ready(Instant::now()));
        health.update_facts(|facts| facts.group.joined = None);
        health.set_condition("group", Some("two members".to_owned()));
        assert_eq!(health.not_ready(), ["group: two members"]);
        assert_eq!(health.status().conditions["group"].reason, "two members");
    }

    #[test]
    fn a_condition_keeps_its_time_while_its_reason_changes() {
        let health = ready(WATCHDOG);
        health.set_condition("database", Some("down for 1 s (outage): refused".to_owned()));
        let since = health.status().conditions["database"].since.clone();
        health.set_condition("database", Some("down for 13 s (internal): no such table".to_owned()));
        let condition = health.status().conditions["database"].clone();
        assert_eq!(condition.reason, "down for 13 s (internal): no such table");
        assert_eq!(condition.since, since);
        health.set_condition("database", None);
        assert!(health.status().conditions.is_empty());
    }

    #[test]
    fn what_keeps_copies_from_their_topic_is_shown_and_makes_not_unready() {
        let health = ready(WATCHDOG);
        assert!(serde_json::to_value(health.status()).unwrap()["dead_letter_topic"].is_null());
        health.set_copies_problem("dead", Some("no such topic".to_owned()));
        let since = health.status().dead_letter_topic.unwrap().problem.unwrap().since;
        health.set_copies_problem("dead", Some("refused".to_owned()));
        let problem = health.status().dead_letter_topic.unwrap().problem.unwrap();
        assert_eq!((problem.reason.as_str(), problem.since), ("refused", since));
        assert!(health.not_ready().is_empty());
        health.set_copies_problem("dead", None);
        assert!(serde_json::to_value(health.status()).unwrap()["dead_letter_topic"]["problem"].is_null());
    }

    #[test]
    fn the_status_is_what_was_put_in() {
        let health = Health::new("weather", WATCHDOG);
        health.update(|status| {
            status.database.up = true;
            status.buffered_bytes = 7;
            status.partitions =
                vec![PartitionStatus { topic: "t".to_owned(), partition: 1, lag_seconds: 0.5, ..Default::default() }];
        });
        health.set_condition("start", Some("waits".to_owned()));
        let json = serde_json::to_value(health.status()).unwrap();
        assert_eq!(json["pipeline"], "weather");
        assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(json["database"]["up"], true);
        assert_eq!(json["buffered_bytes"], 7);
        assert_eq!(json["partitions"][0]["lag_seconds"], 0.5);
        assert!(json["partitions"][0]["lag_messages"].is_null());
        assert_eq!(json["conditions"]["start"]["reason"], "waits");
        let started: Timestamp = json["started_at"].as_str().unwrap().parse().unwrap();
        assert!(started <= Timestamp::now());
    }

    #[test]
    fn a_panic_under_the_lock_does_not_end_health() {
        let health = ready(WATCHDOG);
        let panicked =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| health.update(|_| panic!("on purpose"))));
        assert!(panicked.is_err());
        health.beat(Component::Pipeline);
        assert!(health.not_ready().is_empty());
    }
}
