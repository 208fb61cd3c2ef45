//! A source on trial, and the part of a set of its messages that is admitted.

use std::collections::HashMap;

use super::Guard;
use crate::batch::Tally;
use crate::message::{Message, Points, Rejected};
use crate::raw::{MessageSet, RawMessage};
use crate::telemetry::escaped;

/// Maximum number of bytes shown of a payload.
const SHOWN_BYTES: usize = 200;
/// The reason shown for a message that its input's configuration skips entirely.
const SKIPPED: &str = "skipped";

/// The part of a set that is admitted.
#[derive(Debug)]
pub(super) struct Admission {
    /// What may.
    pub(super) head: Option<MessageSet>,
    /// The number of its messages that can be decoded, if it is not known yet whether the database stores them.
    pub(super) on_trial: usize,
    /// `true` if nothing more of the partition is to be read for now.
    pub(super) is_held: bool,
    /// The time of the first message that may not go on.
    pub(super) oldest_ms: Option<i64>,
}

impl Admission {
    /// All of a set may.
    fn of_all(set: &MessageSet) -> Self {
        Self { head: Some(set.clone()), on_trial: 0, is_held: false, oldest_ms: None }
    }
}

/// The number of messages of a source on trial that may go on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// The number that may still be rejected; 0 if its partitions are to be paused.
    pub(super) rejections: u64,
    /// The same without those that are on their way to the database, which may refuse them.
    pub(super) messages: u64,
}

/// Why messages were not accepted: of each reason the number, and the last one's words.
pub(super) type Reasons = HashMap<&'static str, (u64, String)>;

/// A source on trial.
#[derive(Debug, Default)]
pub(super) struct Trial {
    /// The name of its input.
    pub(super) input: String,
    pub(super) is_accepted: bool,
    /// `true` if a message could be decoded.
    pub(super) has_decoded: bool,
    /// The messages that became dead letters, those of earlier processes among them.
    pub(super) rejected: u64,
    /// Those of them that the database had when it was last asked.
    pub(super) stored: u64,
    /// The messages that have no value to store, as the input is configured. No database has their number.
    pub(super) skipped: u64,
    /// The offset after the last message of each partition that is counted: one that is read again is not counted again.
    pub(super) counted: HashMap<i32, i64>,
    /// What this process has seen.
    pub(super) reasons: Reasons,
    /// The head of the last payload that was not accepted.
    pub(super) payload: Option<String>,
}

/// The result of a message on trial.
enum Verdict {
    /// It can be decoded.
    Decoded,
    /// It says nothing about the shape: it has no value by its nature.
    Neutral,
    /// All its values are skipped.
    Skipped,
    Rejected(&'static str, String),
}

impl Trial {
    /// The number of messages that count as rejected.
    pub(super) fn spent(&self) -> u64 {
        self.rejected + self.skipped
    }

    fn record_reason(&mut self, reason: &'static str, detail: String, count: u64) {
        let entry = self.reasons.entry(reason).or_default();
        *entry = (entry.0 + count, detail);
    }

    /// Takes over what became of messages that were written, if none was stored. Those that cannot be decoded were counted
    /// when they were read; of those from the journal (`is_replayed`) the database knows the number.
    pub(super) fn refuse(&mut self, tally: &Tally, is_replayed: bool) {
        let count = if is_replayed { tally.rejected } else { tally.refused } as u64;
        if let Some(Rejected { reason, detail }) = tally.last.clone().filter(|_| count > 0) {
            self.record_reason(reason.as_str(), detail, count);
        }
        if !is_replayed {
            self.rejected += count;
        }
    }

    /// Returns how much of a set may go on; `decode` tries a message.
    fn admit(&mut self, set: &MessageSet, room: Room, mut decode: impl FnMut(&RawMessage<'_>) -> Verdict) -> Admission {
        let number = set.partition().number;
        let counted = self.counted.get(&number).copied().unwrap_or_default();
        let (mut on_trial, mut rejected) = (0, 0);
        // The number of messages before the first one that may not go on, with the offset and the time of that one.
        let mut cut = None;
        for (at, message) in set.messages().enumerate() {
            let verdict = decode(&message);
            let is_counted = message.offset < counted;
            let has_room = on_trial + rejected < room.messages;
            let here = Some((at, message.offset, message.time_ms));
            match verdict {
                Verdict::Neutral => {}
                Verdict::Decoded => self.has_decoded = true,
                Verdict::Skipped => {
                    self.record_reason(SKIPPED, "no value to store, as the input is configured".into(), 1)
                }
                Verdict::Rejected(reason, ref detail) => self.record_reason(reason, detail.clone(), 1),
            }
            if matches!(verdict, Verdict::Skipped | Verdict::Rejected(..)) {
                self.payload = message.payload.map(head);
            }
            if cut.is_some() {
                continue;
            }
            match verdict {
                Verdict::Neutral => {}
                // The input may be another one now: one message shows whether the database stores it.
                Verdict::Decoded if room.rejections == 0 => {
                    on_trial += 1;
                    cut = Some((at + 1, message.offset + 1, None));
                }
                Verdict::Decoded if has_room => on_trial += 1,
                Verdict::Skipped | Verdict::Rejected(..) if is_counted => {}
                Verdict::Skipped if has_room => (self.skipped, rejected) = (self.skipped + 1, rejected + 1),
                Verdict::Rejected(..) if has_room => (self.rejected, rejected) = (self.rejected + 1, rejected + 1),
                Verdict::Decoded | Verdict::Skipped | Verdict::Rejected(..) => cut = here,
            }
        }
        let until = cut.map_or(set.interval().until, |(_, offset, _)| offset);
        self.counted.insert(number, counted.max(until));
        let head = match cut {
            Some((at, ..)) if at < set.len() => (at > 0).then(|| set.split_at(at).0),
            _ => Some(set.clone()),
        };
        let is_held = cut.is_some() || rejected > 0 && rejected == room.rejections;
        let on_trial = usize::try_from(on_trial).unwrap_or(usize::MAX);
        Admission { head, on_trial, is_held, oldest_ms: cut.and_then(|(.., time)| time) }
    }
}

/// The most frequent reason, its share of all, in percent, and its words.
pub(super) fn commonest(reasons: &Reasons) -> Option<(&'static str, u64, &str)> {
    let all: u64 = reasons.values().map(|(count, _)| count).sum();
    let (reason, (count, detail)) =
        reasons.iter().max_by_key(|(reason, (count, _))| (*count, std::cmp::Reverse(**reason)))?;
    Some((reason, count * 100 / all.max(1), detail))
}

/// The beginning of a payload, for people.
fn head(payload: &[u8]) -> String {
    let shown = &payload[..payload.len().min(SHOWN_BYTES)];
    let text = escaped(&String::from_utf8_lossy(shown)).to_string();
    if shown.len() < payload.len() { format!("{text}…") } else { text }
}

impl Guard {
    /// Returns how much of a set may go on, while `on_trial` messages that share its limit are on their way to the database.
    /// While they go to the journal (`is_journaling`) nobody can say whether the database stores them: they go on if one can be
    /// decoded.
    pub(super) fn admission(&mut self, set: &MessageSet, on_trial: u64, is_journaling: bool) -> Admission {
        let source = set.source();
        if self.limit == 0 || self.is_accepted(source) {
            return Admission::of_all(set);
        }
        self.add_trial(source);
        let rejections = if self.is_stopped(source) { 0 } else { self.limit - self.spent(source, Trial::spent) };
        let messages = if is_journaling { rejections } else { rejections.saturating_sub(on_trial) };
        let Some(trial) = self.trials.get_mut(source) else { return Admission::of_all(set) };
        let goes_on = |trial: &Trial| is_journaling && trial.has_decoded && rejections > 0;
        if goes_on(trial) {
            return Admission::of_all(set);
        }
        let decoder = &mut self.decoder;
        // Nothing of a rejected message stays in it.
        let mut points = Points::default();
        let decode = |message: &RawMessage<'_>| verdict(decoder.decode(source, message, &mut points));
        let admission = trial.admit(set, Room { rejections, messages }, decode);
        if goes_on(trial) { Admission::of_all(set) } else { admission }
    }
}

fn verdict(decoded: Result<Message, Rejected>) -> Verdict {
    match decoded {
        Ok(Message::PointBatch { .. } | Message::SeriesCreate(_) | Message::SeriesDelete { .. }) => Verdict::Decoded,
        Ok(Message::Tombstone | Message::Empty) => Verdict::Neutral,
        Ok(Message::Skipped) => Verdict::Skipped,
        Err(Rejected { reason, detail }) => Verdict::Rejected(reason.as_str(), detail),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::message::Reason;
    use crate::raw::{Kind, MessageSetBuilder, Source};

    /// A set of a partition: `.` is rejected, `s` skipped, `+` can be decoded, `-` is neutral.
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
            Some(b"s") => Verdict::Skipped,
            Some(b"-") => Verdict::Neutral,
            _ => Verdict::Decoded,
        }
    }

    const LIMIT: u64 = 5;

    /// The offset up to which a set goes on, how many of that are on trial, whether the partition is held then, and the time of
    /// the first message that does not go on; `waiting` messages are on their way.
    fn admitted(trial: &mut Trial, set: &MessageSet, waiting: u64) -> (i64, usize, bool, Option<i64>) {
        let rejections = LIMIT.saturating_sub(trial.spent());
        let room = Room { rejections, messages: rejections.saturating_sub(waiting) };
        let Admission { head, on_trial, is_held, oldest_ms } = trial.admit(set, room, decode);
        let from = set.interval().from;
        let until = head.map_or(from, |head| {
            assert_eq!(head.interval().from, from);
            head.interval().until
        });
        (until, on_trial, is_held, oldest_ms)
    }

    #[test]
    fn no_more_than_the_limit_can_be_rejected_before_one_is_stored() {
        type Row<'a> = (&'a str, (i32, i64, &'a str), u64, (i64, usize, bool, Option<i64>), u64);
        #[rustfmt::skip]
        let table: [Row<'_>; 11] = [
            // what                            set               waiting  goes on, on trial, held, time of the rest   rejected
            ("all have room",                  (0, 0, ".."),     0,       (2, 0, false, None),        2),
            ("those without a value by nature", (0, 2, "--."),   0,       (5, 0, false, None),        3),
            ("read again",                     (0, 0, "..--."),  0,       (5, 0, false, None),        3),
            ("the database may refuse them",   (0, 5, "+++"),    0,       (7, 2, true, Some(7)),      3),
            ("some are on their way",          (0, 7, "+"),      2,       (7, 0, true, Some(7)),      3),
            ("skipped is counted",             (1, 10, "-s..."), 0,       (13, 0, true, Some(13)),    5),
            ("there is no room",               (0, 7, ".."),     0,       (7, 0, true, Some(7)),      5),
            ("read again",                     (0, 4, ".-."),    0,       (7, 0, false, None),        5),
            ("what was stopped comes again",   (1, 13, ".."),    0,       (13, 0, true, Some(13)),    5),
            ("no message of it is rejected",   (1, 13, "--"),    0,       (15, 0, false, None),       5),
            ("one is tried",                   (1, 15, "-+++"),  0,       (17, 1, true, None),        5),
        ];
        let mut trial = Trial::default();
        for (what, (number, from, text), waiting, expected, spent) in table {
            assert_eq!(admitted(&mut trial, &set(number, from, text), waiting), expected, "{what}");
            assert_eq!(trial.spent(), spent, "{what}");
        }
        assert_eq!((trial.rejected, trial.skipped), (4, 1));
        assert_eq!(trial.payload.as_deref(), Some("."));
        assert_eq!(
            commonest(&trial.reasons).map(|(reason, _, words)| (reason, words)),
            Some(("schema", "expected /ts"))
        );
    }

    #[test]
    fn a_partition_is_held_as_soon_as_the_limit_is_reached() {
        let mut trial = Trial::default();
        assert_eq!(admitted(&mut trial, &set(0, 0, "....."), 0), (5, 0, true, None));
    }

    #[test]
    fn what_the_database_refuses_counts_as_rejected() {
        let mut trial = Trial::default();
        assert_eq!(admitted(&mut trial, &set(0, 0, ".++"), 0), (3, 2, false, None));
        let last = Some(Rejected::new(Reason::UnknownSeries, "no row"));
        let tally = Tally { rejected: 3, refused: 2, rejected_last: 3, last, ..Tally::default() };
        trial.refuse(&tally, false);
        assert_eq!(trial.rejected, 3);
        assert_eq!(commonest(&trial.reasons), Some(("unknown_series", 66, "no row")));
        // Of those from the journal the database has the number.
        trial.refuse(&tally, true);
        assert_eq!(trial.rejected, 3);
    }

    #[test]
    fn the_head_of_a_payload_is_shown_escaped() {
        assert_eq!(head(b"{\"x\":1}\n\x1b[31m\xff"), "{\"x\":1}\\n\\u{1b}[31m\u{fffd}");
        let long = head("é".repeat(SHOWN_BYTES).as_bytes());
        assert!(long.len() <= SHOWN_BYTES + "…".len() && long.ends_with('…'), "{long}");
    }
}
