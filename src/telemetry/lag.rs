//! The lag of each partition of this worker. The metrics recorder cannot remove a gauge, and a partition that moved to another
//! worker must disappear, so the lag is stored and rendered here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

type Lags = BTreeMap<(String, i32), Lag>;

#[derive(Debug, Clone)]
struct Lag {
    /// The name of the partition's input.
    input: Arc<str>,
    messages: i64,
    seconds: f64,
    at: Instant,
    /// `true` if the partition was revoked only because the worker could not reach the brokers: what has arrived since is not
    /// known.
    lost: bool,
}

impl Lag {
    /// A waiting message ages even while nothing updates its lag.
    fn seconds_at(&self, now: Instant) -> f64 {
        if self.messages > 0 || self.lost {
            self.seconds + now.saturating_duration_since(self.at).as_secs_f64()
        } else {
            self.seconds
        }
    }
}

fn lags() -> MutexGuard<'static, Lags> {
    static LAGS: Mutex<Lags> = Mutex::new(Lags::new());
    LAGS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets a partition's lag: messages that are not in the database, and the age of the oldest of them in seconds.
pub fn set(input: &Arc<str>, topic: &str, partition: i32, messages: i64, seconds: f64) {
    let lag = Lag { input: Arc::clone(input), messages, seconds, at: Instant::now(), lost: false };
    lags().insert((topic.to_owned(), partition), lag);
}

/// Keeps a partition's lag after the membership in the group was lost: it stays, and ages, until the worker is a member again.
pub fn keep(topic: &str, partition: i32) {
    if let Some(lag) = lags().get_mut(&(topic.to_owned(), partition)) {
        lag.lost = true;
    }
}

/// Removes lost partitions when the worker is a member again: they belong to another worker, unless they are assigned to this
/// one.
pub fn forget_lost() {
    lags().retain(|_, lag| !lag.lost);
}

/// Removes a partition that belongs to another worker; its lag is no longer reported here.
pub fn forget(topic: &str, partition: i32) {
    lags().remove(&(topic.to_owned(), partition));
}

/// Appends both gauges, which have these names, to a text in Prometheus' format; `help` returns their help texts.
pub(super) fn render(text: &mut String, messages: &str, seconds: &str, help: impl Fn(&str) -> &'static str) {
    render_lags(text, &lags(), [(messages, help(messages)), (seconds, help(seconds))], Instant::now());
}

fn render_lags(text: &mut String, lags: &Lags, [messages, seconds]: [(&str, &str); 2], now: Instant) {
    render_gauge(text, messages, lags, |lag| lag.messages.to_string());
    render_gauge(text, seconds, lags, |lag| lag.seconds_at(now).to_string());
}

fn render_gauge(text: &mut String, (name, help): (&str, &str), lags: &Lags, value: impl Fn(&Lag) -> String) {
    if lags.is_empty() {
        return;
    }
    text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n"));
    for ((topic, partition), lag) in lags {
        let (input, topic) = (escape_label(&lag.input), escape_label(topic));
        text.push_str(&format!(
            "{name}{{input=\"{input}\",topic=\"{topic}\",partition=\"{partition}\"}} {}\n",
            value(lag)
        ));
    }
    text.push('\n');
}

fn escape_label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MESSAGES: (&str, &str) = ("messages", "Messages that wait");
    const SECONDS: (&str, &str) = ("seconds", "The age of the oldest");

    #[test]
    fn a_lag_nobody_looks_after_grows() {
        let at = Instant::now();
        let later = at + Duration::from_secs(10);
        let lag = |messages, seconds, lost| Lag { input: "i".into(), messages, seconds, at, lost };
        assert_eq!(lag(1, 2.5, false).seconds_at(later), 12.5);
        assert_eq!(lag(0, 0.0, false).seconds_at(later), 0.0);
        assert_eq!(lag(0, 0.0, true).seconds_at(later), 10.0);
    }

    #[test]
    fn lag_lines_are_in_the_exposition_format() {
        let at = Instant::now();
        let lag = Lag { input: "x\"y".into(), messages: 2, seconds: 0.25, at, lost: false };
        let lags = Lags::from([(("a\"b\\c\nd".to_owned(), 7), lag)]);
        let mut text = String::new();
        render_lags(&mut text, &lags, [MESSAGES, SECONDS], at);
        let expected = r#"# HELP messages Messages that wait
# TYPE messages gauge
messages{input="x\"y",topic="a\"b\\c\nd",partition="7"} 2

# HELP seconds The age of the oldest
# TYPE seconds gauge
seconds{input="x\"y",topic="a\"b\\c\nd",partition="7"} 0.25

"#;
        assert_eq!(text, expected);
        text.clear();
        render_lags(&mut text, &Lags::new(), [MESSAGES, SECONDS], at);
        assert_eq!(text, "");
    }
}
