//! A source on trial, and the part of a set of its messages that is admitted.

use std::collections::HashMap;
use std::sync::Arc;

use super::Guard;
use crate::database::Acceptance;
use crate::message::{Message, Points, Rejected};
use crate::raw::{MessageSet, RawMessage};
use crate::telemetry::escaped;

/// Maximum number of bytes shown of a payload.
const SHOWN_BYTES: usize = 200;
/// The reason shown for a message that its input's configuration skips entirely.
const SKIPPED: &str = "skipped";

/// The part of a set that is admitted.
#[derive(Debug)]
pub(super) enum Admission {
    /// All of it.
    All,
    /// All of it, including the first message of its source that is accepted.
    Accepted,
    /// Its head, if any.
    Part {
        head: Option<MessageSet>,
        /// The time of the first message that is not admitted.
        oldest_ms: Option<i64>,
    },
}

/// A source on trial.
#[derive(Debug, Default)]
pub(super) struct Trial {
    is_accepted: bool,
    /// Number of messages that were not accepted, including those of earlier processes.
    rejected: u64,
    /// For each partition, the offset after the last message that is counted: a message that is read again is not counted
    /// again.
    counted: HashMap<i32, i64>,
    /// Number of messages by reason, and the details of the last one.
    reasons: HashMap<&'static str, (u64, String)>,
    /// The head of the last payload that was rejected.
    payload: Option<String>,
}

/// The result of a message on trial.
enum Verdict {
    Accepted,
    /// A record without a value, which says nothing about the shape.
    Neutral,
    Rejected(&'static str, String),
}

impl Trial {
    pub(super) fn is_accepted(&self) -> bool {
        self.is_accepted
    }

    pub(super) fn rejected(&self) -> u64 {
        self.rejected
    }

    pub(super) fn payload(&self) -> Option<&str> {
        self.payload.as_deref()
    }

    /// Records the acceptance in the database. Its dead letters may be those that were counted here.
    pub(super) fn learn(&mut self, acceptance: Acceptance) {
        self.is_accepted |= acceptance.is_accepted;
        #[cfg(feature = "planted-bugs")]
        if crate::planted_bugs::is_on("guard-forgets-dead-letters") {
            return;
        }
        self.rejected = self.rejected.max(acceptance.dead_letters);
    }

    /// The most frequent reason, its share of all messages seen, in percent, and its details.
    pub(super) fn commonest(&self) -> Option<(&'static str, u64, &str)> {
        let all: u64 = self.reasons.values().map(|(count, _)| count).sum();
        let (reason, (count, detail)) =
            self.reasons.iter().max_by_key(|(reason, (count, _))| (*count, std::cmp::Reverse(**reason)))?;
        Some((reason, count * 100 / all.max(1), detail))
    }

    /// Returns the part of a set that is admitted; `decode` decodes a message on trial.
    fn admit(&mut self, set: &MessageSet, limit: u64, mut decode: impl FnMut(&RawMessage<'_>) -> Verdict) -> Admission {
        let number = set.partition().number;
        let counted = self.counted.get(&number).copied().unwrap_or_default();
        let room = limit.saturating_sub(self.rejected);
        let mut fresh = 0;
        // The first message that exceeds the limit, with its index.
        let mut cut = None;
        for (at, message) in set.messages().enumerate() {
            match decode(&message) {
                Verdict::Accepted => {
                    *self = Self { is_accepted: true, ..Self::default() };
                    return Admission::Accepted;
                }
                Verdict::Neutral => {}
                Verdict::Rejected(reason, detail) => {
                    let entry = self.reasons.entry(reason).or_default();
                    *entry = (entry.0 + 1, detail);
                    self.payload = message.payload.map(head);
                    if message.offset < counted {
                        continue;
                    }
                    if fresh == room && cut.is_none() {
                        cut = Some((at, message.offset, message.time_ms));
                    }
                    fresh += 1;
                }
            }
        }
        let until = cut.map_or(set.interval().until, |(_, offset, _)| offset);
        self.counted.insert(number, counted.max(until));
        self.rejected += fresh.min(room);
        match cut {
            None => Admission::All,
            Some((at, _, oldest_ms)) => Admission::Part { head: (at > 0).then(|| set.split_at(at).0), oldest_ms },
        }
    }
}

/// The readable beginning of a payload.
fn head(payload: &[u8]) -> String {
    let shown = &payload[..payload.len().min(SHOWN_BYTES)];
    let text = escaped(&String::from_utf8_lossy(shown)).to_string();
    if shown.len() < payload.len() { format!("{text}…") } else { text }
}

impl Guard {
    /// Returns the part of a set that is admitted.
    pub(super) fn admission(&mut self, set: &MessageSet) -> Admission {
        if self.limit == 0 {
            return Admission::All;
        }
        let trial = self.trials.entry(Arc::clone(set.source())).or_default();
        if trial.is_accepted {
            return Admission::All;
        }
        let (decoder, source) = (&mut self.decoder, set.source());
        // No points of a rejected message remain in it.
        let mut points = Points::default();
        trial.admit(set, self.limit, |message| verdict(decoder.decode(source, message, &mut points)))
    }
}

fn verdict(decoded: Result<Message, Rejected>) -> Verdict {
    match decoded {
        Ok(Message::PointBatch { .. } | Message::SeriesCreate(_)) => Verdict::Accepted,
        Ok(Message::Tombstone) => Verdict::Neutral,
        Ok(Message::Skipped) => {
            Verdict::Rejected(SKIPPED, "nothing of it is stored, as its input is configured".into())
        }
        Err(Rejected { reason, detail }) => Verdict::Rejected(reason.as_str(), detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::{Kind, MessageSetBuilder, Source};

    /// A set of a partition: `.` is rejected, `+` accepted, `-` neutral.
    fn set(number: i32, from: i64, text: &str) -> MessageSet {
        let source = Source { kind: Kind::Other, cluster_id: "c".into(), topic: "t".into(), topic_id: "i".into() };
        let mut set = MessageSetBuilder::new(Arc::new(source), number, from);
        for (offset, word) in (from..).zip(text.as_bytes().chunks(1)) {
            let message = RawMessage { offset, time_ms: Some(offset), payload: Some(word), ..RawMessage::default() };
            set.push(&message);
        }
        set.build(None)
    }

    fn decode(message: &RawMessage<'_>) -> Verdict {
        match message.payload {
            Some(b".") => Verdict::Rejected("schema", "expected /ts".to_owned()),
            Some(b"-") => Verdict::Neutral,
            _ => Verdict::Accepted,
        }
    }

    /// The offsets that are admitted, and where the rest begins; `None` if there is no rest.
    fn admitted(trial: &mut Trial, set: &MessageSet, limit: u64) -> ((i64, i64), Option<i64>) {
        let interval = set.interval();
        match trial.admit(set, limit, decode) {
            Admission::All | Admission::Accepted => ((interval.from, interval.until), None),
            Admission::Part { head, oldest_ms } => {
                let head = head.map(|head| head.interval());
                let head = head.map_or((interval.from, interval.from), |head| (head.from, head.until));
                (head, oldest_ms)
            }
        }
    }

    #[test]
    fn at_most_as_many_as_the_limit_are_rejected_until_one_is_accepted() {
        const LIMIT: u64 = 5;
        let mut trial = Trial::default();
        for (what, (number, from, text), expected, rejected) in [
            ("all have room", (0, 0, ".."), ((0, 2), None), 2),
            ("records without a value do not count", (0, 2, "--."), ((2, 5), None), 3),
            ("read again", (0, 0, "..--."), ((0, 5), None), 3),
            ("of another partition, and one more", (1, 10, "-...."), ((10, 13), Some(13)), 5),
            ("there is no room", (0, 5, ".."), ((5, 5), Some(5)), 5),
            ("read again, with one more", (0, 4, ".-."), ((4, 6), Some(6)), 5),
            ("what was stopped comes again", (1, 13, ".."), ((13, 13), Some(13)), 5),
            ("no message of it is rejected", (1, 13, "--"), ((13, 15), None), 5),
        ] {
            assert_eq!(admitted(&mut trial, &set(number, from, text), LIMIT), expected, "{what}");
            assert_eq!(trial.rejected(), rejected, "{what}");
        }
        assert_eq!(trial.commonest(), Some(("schema", 100, "expected /ts")));
        assert_eq!(trial.payload(), Some("."));
        // A message is accepted after those that exceed the limit.
        assert_eq!(admitted(&mut trial, &set(0, 5, "....+."), LIMIT), ((5, 11), None));
        assert!(trial.is_accepted());
    }

    #[test]
    fn the_count_begins_with_the_dead_letters_of_the_database() {
        let mut trial = Trial::default();
        let learn = |trial: &mut Trial, dead_letters, is_accepted| {
            trial.learn(Acceptance { is_accepted, dead_letters });
        };
        learn(&mut trial, 3, false);
        assert_eq!(admitted(&mut trial, &set(0, 0, "...."), 5), ((0, 2), Some(2)));
        // They are now counted among those of the database.
        learn(&mut trial, 5, false);
        assert_eq!(trial.rejected(), 5);
        learn(&mut trial, 4, true);
        assert!(trial.is_accepted());
    }

    #[test]
    fn the_head_of_a_payload_is_shown_escaped() {
        assert_eq!(head(b"{\"x\":1}\n\x1b[31m\xff"), "{\"x\":1}\\n\\u{1b}[31m\u{fffd}");
        let long = head("é".repeat(SHOWN_BYTES).as_bytes());
        assert!(long.len() <= SHOWN_BYTES + "…".len() && long.ends_with('…'), "{long}");
    }
}
