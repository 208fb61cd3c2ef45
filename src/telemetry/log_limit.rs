//! Limits repeated log lines: a state is logged when it begins, when it changes, every few minutes while it lasts, and when it
//! ends; an event a few times a minute.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Interval at which a lasting state is logged again.
const REPEAT: Duration = Duration::from_secs(300);
/// Time after which a state that was not reported again counts as ended.
const FORGET: Duration = Duration::from_secs(60);
/// Time within which at most [`BURST`] lines are logged for a key, because a state may begin and end repeatedly.
const WINDOW: Duration = Duration::from_secs(60);
/// Maximum number of lines for a key within [`WINDOW`], not counting the ends of states.
const BURST: u32 = 5;
/// Maximum number of keys. Above it, those that were silent for longest are dropped.
const MAX_KEYS: usize = 1000;

/// The lines that were logged recently, by key. Clones share them. Keys are from bounded sets: names of this program, topics,
/// brokers.
#[derive(Debug, Clone, Default)]
pub struct LogLimit(Arc<Mutex<HashMap<String, Entry>>>);

/// The repetitions since the last line, for the next line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeated {
    /// Number of reports without a line since the last line, not counting this one; `None` if there were none.
    pub unlogged: Option<u64>,
    /// Duration of the state, in seconds.
    pub seconds: u64,
}

#[derive(Debug)]
struct Entry {
    since: Instant,
    reported: Instant,
    /// When a line was last logged; `None` if the state's beginning was not.
    logged: Option<Instant>,
    unlogged: u64,
    /// The reasons that were logged since the state began, without their digits.
    reasons: Vec<String>,
    window: Instant,
    lines: u32,
}

impl Entry {
    fn new(now: Instant) -> Self {
        Self { since: now, reported: now, logged: None, unlogged: 0, reasons: Vec::new(), window: now, lines: 0 }
    }

    /// Returns `true` and counts a line if one more may be logged in this window.
    fn take_line(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.window) >= WINDOW {
            (self.window, self.lines) = (now, 0);
        }
        if self.lines >= BURST {
            return false;
        }
        self.lines += 1;
        true
    }

    fn begin(&mut self, now: Instant) {
        self.since = now;
        self.logged = None;
        self.reasons.clear();
    }
}

impl LogLimit {
    /// Reports that the state `key` lasts, for this reason. Returns `Some` if a line is due: the state begins, its reason has
    /// changed (ignoring numbers), or the last line is `REPEAT` old.
    pub fn lasts(&self, key: &str, reason: &str) -> Option<Repeated> {
        self.lasts_at(key, reason, Instant::now())
    }

    fn lasts_at(&self, key: &str, reason: &str, now: Instant) -> Option<Repeated> {
        let mut entries = self.lock();
        let entry = entry(&mut entries, key, now);
        if now.saturating_duration_since(entry.reported) >= FORGET {
            entry.begin(now);
        }
        entry.reported = now;
        let reason = without_digits(reason);
        let is_due = match entry.logged {
            None => true,
            Some(logged) => now.saturating_duration_since(logged) >= REPEAT || !entry.reasons.contains(&reason),
        };
        if !is_due || !entry.take_line(now) {
            entry.unlogged += 1;
            return None;
        }
        entry.logged = Some(now);
        if !entry.reasons.contains(&reason) {
            entry.reasons.push(reason);
        }
        Some(entry.repeated(now))
    }

    /// Reports that the state `key` has ended. Returns `Some` if its beginning was logged.
    pub fn ends(&self, key: &str) -> Option<Repeated> {
        self.ends_at(key, Instant::now())
    }

    fn ends_at(&self, key: &str, now: Instant) -> Option<Repeated> {
        let mut entries = self.lock();
        let entry = entries.get_mut(key)?;
        let was_logged = entry.logged.is_some();
        let repeated = was_logged.then(|| entry.repeated(now));
        entry.begin(now);
        // The next report begins another state, however soon it follows.
        entry.reported = now;
        repeated
    }

    /// Reports `count` events of the kind `key`. If a line is due for one of them, returns the number of events without a line
    /// since the last one; the inner `None` if there were none.
    pub fn happened(&self, key: &str, count: u64) -> Option<Option<u64>> {
        self.happened_at(key, count, Instant::now())
    }

    fn happened_at(&self, key: &str, count: u64, now: Instant) -> Option<Option<u64>> {
        let mut entries = self.lock();
        let entry = entry(&mut entries, key, now);
        entry.reported = now;
        if !entry.take_line(now) {
            entry.unlogged += count;
            return None;
        }
        Some(counted(std::mem::take(&mut entry.unlogged) + count.saturating_sub(1)))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn repeated(&mut self, now: Instant) -> Repeated {
        let seconds = now.saturating_duration_since(self.since).as_secs();
        Repeated { unlogged: counted(std::mem::take(&mut self.unlogged)), seconds }
    }
}

/// A count for a line; 0 is omitted.
fn counted(count: u64) -> Option<u64> {
    (count > 0).then_some(count)
}

fn entry<'a>(entries: &'a mut HashMap<String, Entry>, key: &str, now: Instant) -> &'a mut Entry {
    if entries.len() >= MAX_KEYS && !entries.contains_key(key) {
        entries.retain(|_, entry| now.saturating_duration_since(entry.reported) < FORGET);
        // Even a flood of keys takes a limited amount of memory.
        if entries.len() >= MAX_KEYS {
            entries.clear();
        }
    }
    entries.entry(key.to_owned()).or_insert_with(|| Entry::new(now))
}

/// A text in the form in which reasons are compared: without its numbers, such as durations and offsets.
fn without_digits(text: &str) -> String {
    text.chars().filter(|character| !character.is_ascii_digit()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_logged_when_it_begins_changes_and_ends_and_once_in_a_while() {
        let (limit, start) = (LogLimit::default(), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut lines = Vec::new();
        // An hour of one attempt a second; its reason is another one for a minute.
        for second in 0..3600 {
            let reason = if (600..660).contains(&second) { "no route" } else { "refused" };
            if limit.lasts_at("database", &format!("{reason} for {second} s"), at(second)).is_some() {
                lines.push(second);
            }
        }
        assert_eq!(lines[..4], [0, 300, 600, 900], "its change at 600 was a line, too");
        assert_eq!(lines.len(), 12);
        let end = limit.ends_at("database", at(3600)).unwrap();
        assert_eq!(end, Repeated { unlogged: Some(299), seconds: 3600 });
        assert_eq!(limit.ends_at("database", at(3600)), None, "it ends once");
        assert_eq!(limit.ends_at("other", at(3600)), None, "what never began does not end");
    }

    #[test]
    fn a_state_that_begins_again_and_again_has_few_lines() {
        let (limit, start) = (LogLimit::default(), Instant::now());
        let mut lines = 0;
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            lines += u32::from(limit.lasts_at("database", "refused", now).is_some());
            lines += u32::from(limit.ends_at("database", now).is_some());
        }
        assert_eq!(lines, 10 * 2 * BURST);
    }

    #[test]
    fn a_state_that_is_not_reported_any_more_begins_again() {
        let (limit, start) = (LogLimit::default(), Instant::now());
        assert!(limit.lasts_at("broker", "refused", start).is_some());
        assert!(limit.lasts_at("broker", "refused", start + FORGET / 2).is_none());
        let again = limit.lasts_at("broker", "refused", start + FORGET * 2).unwrap();
        assert_eq!(again, Repeated { unlogged: Some(1), seconds: 0 });
    }

    #[test]
    fn reasons_that_alternate_are_logged_once_each() {
        let (limit, start) = (LogLimit::default(), Instant::now());
        let lines = (0..50).filter(|attempt: &u64| {
            let reason = if attempt.is_multiple_of(2) { "refused" } else { "timed out" };
            limit.lasts_at("database", reason, start + Duration::from_secs(*attempt)).is_some()
        });
        assert_eq!(lines.count(), 2);
    }

    #[test]
    fn of_events_a_few_a_minute_are_logged_and_all_are_counted() {
        let (limit, start) = (LogLimit::default(), Instant::now());
        let mut logged = 0;
        for tenth in 0..1200 {
            let now = start + Duration::from_millis(100 * tenth);
            logged += limit.happened_at("syntax", 10, now).map_or(0, |unlogged| unlogged.unwrap_or(0) + 1);
            assert!(limit.happened_at("schema", 1, start).is_some() || tenth >= u64::from(BURST), "keys are apart");
        }
        assert_eq!(
            logged,
            (600 + u64::from(BURST)) * 10,
            "the second minute's first line has counted the first minute"
        );
    }

    #[test]
    fn keys_are_bounded() {
        let limit = LogLimit::default();
        for number in 0..10 * MAX_KEYS {
            limit.lasts(&number.to_string(), "refused");
        }
        assert!(limit.lock().len() <= MAX_KEYS);
    }
}
