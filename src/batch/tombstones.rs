//! Deletions of series, and which points they apply to.

use std::collections::HashMap;

/// A deletion of a series, or of its points before a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeriesTombstone {
    /// The Kafka time up to which messages no longer count, in milliseconds since the Unix epoch.
    pub message_ms: i64,
    /// The time before which points are deleted, in microseconds since the Unix epoch; `None`: all of them.
    pub before_us: Option<i64>,
}

/// The deletions of some series.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeriesTombstones(HashMap<String, Vec<SeriesTombstone>>);

impl SeriesTombstones {
    /// Adds a deletion of a series.
    pub fn add(&mut self, series: String, tombstone: SeriesTombstone) {
        self.0.entry(series).or_default().push(tombstone);
    }

    /// Returns `true` if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each deletion with its series.
    pub fn iter(&self) -> impl Iterator<Item = (&str, SeriesTombstone)> {
        self.0.iter().flat_map(|(series, all)| all.iter().map(move |one| (series.as_str(), *one)))
    }

    /// Returns `true` if a point of a message no longer counts. A message without a time is older than any deletion.
    pub fn covers(&self, series: &str, message_ms: Option<i64>, time_us: i64) -> bool {
        let covers = |one: &SeriesTombstone| {
            message_ms.is_none_or(|sent| sent <= one.message_ms) && one.before_us.is_none_or(|before| time_us < before)
        };
        self.0.get(series).is_some_and(|all| all.iter().any(covers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deletion_applies_to_messages_that_are_not_newer_and_to_points_before_its_time() {
        let mut tombstones = SeriesTombstones::default();
        tombstones.add("whole".to_owned(), SeriesTombstone { message_ms: 10, before_us: None });
        tombstones.add("part".to_owned(), SeriesTombstone { message_ms: 10, before_us: Some(500) });
        for (series, message_ms, time_us, expected) in [
            ("whole", Some(9), i64::MAX, true),
            ("whole", Some(10), i64::MIN, true),
            ("whole", Some(11), 0, false),
            ("whole", None, 0, true),
            ("part", Some(10), 499, true),
            ("part", Some(10), 500, false),
            ("part", Some(11), 499, false),
            ("part", None, 499, true),
            ("other", Some(0), 0, false),
        ] {
            assert_eq!(tombstones.covers(series, message_ms, time_us), expected, "{series} {message_ms:?} {time_us}");
        }
    }
}
