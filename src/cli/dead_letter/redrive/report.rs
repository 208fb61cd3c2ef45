//! The result of a redrive, for an operator and as JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::cli::Failure;
use crate::cli::output::print_line;
use crate::cli::shell_word::shell_word;
use crate::message::Rejected;
use crate::telemetry::{self, escaped, one_line};

/// The result of a redrive, or of a dry run.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) written: usize,
    pub(super) points: usize,
    pub(super) rejected: usize,
    /// Number of those by reason.
    pub(super) reasons: BTreeMap<&'static str, usize>,
    /// The first of them, or all for JSON.
    pub(super) named: Vec<Again>,
    /// Number of those whose attempts are used up now.
    pub(super) parked: usize,
    pub(super) elsewhere: usize,
    pub(super) cut: usize,
    pub(super) skipped: usize,
    /// Those of topics that no input reads, by topic.
    pub(super) of_no_input: BTreeMap<String, usize>,
}

/// A letter that was rejected again.
#[derive(Debug)]
pub(super) struct Again {
    pub(super) id: i64,
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) rejected: Rejected,
    /// Including this attempt, unless it was a dry run.
    pub(super) attempts: i32,
}

impl Done {
    pub(super) fn report(&self, dry_run: bool, parked: u64, max_attempts: i32) {
        let verb = if dry_run { "would be written" } else { "written" };
        print_line(format_args!(
            "{} dead letters with {} points {verb}; {} rejected again",
            self.written, self.points, self.rejected
        ));
        for Again { id, topic, partition, offset, rejected, attempts } in &self.named {
            print_line(format_args!(
                "  dead letter {id}, {} partition {partition} offset {offset}: {}: {} (attempt {attempts} of {max_attempts})",
                one_line(topic),
                rejected.reason.as_str(),
                escaped(&rejected.detail)
            ));
        }
        if self.rejected > self.named.len() {
            let reasons: Vec<String> = self.reasons.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
            print_line(format_args!(
                "  … and {} more; by reason, of all: {}. `--json` names each",
                self.rejected - self.named.len(),
                reasons.join(", ")
            ));
        }
        if self.parked > 0 {
            print_line(format_args!(
                "{} of them are parked now, after {max_attempts} attempts (dead_letter.max_attempts): redrive skips them, \
                 `redrive --parked` takes them too, and `list --parked` names them",
                self.parked
            ));
        }
        if self.cut > 0 {
            print_line(format_args!(
                "{} left alone: the database has only the head of the message, and Kafka no longer has it, or does not answer. Ask \
                 the producer to send it again, then purge it",
                self.cut
            ));
        }
        if self.elsewhere > 0 {
            print_line(format_args!("{} left to another command that has them now", self.elsewhere));
        }
        if self.skipped > 0 {
            print_line(format_args!("{} skipped", self.skipped));
        }
        if parked > 0 {
            print_line(format_args!("{parked} are parked because of their attempts; --parked takes them too"));
        }
    }

    pub(super) fn json(&self, dry_run: bool, parked: u64, max_attempts: i32) -> Value {
        let again = self.named.iter().map(|again| {
            json!({
                "id": again.id,
                "topic": again.topic,
                "partition": again.partition,
                "offset": again.offset,
                "reason": again.rejected.reason.as_str(),
                "detail": again.rejected.detail,
                "attempts": again.attempts,
                "parked": again.attempts >= max_attempts,
            })
        });
        json!({
            "dry_run": dry_run,
            "written": self.written,
            "points": self.points,
            "rejected": again.collect::<Vec<_>>(),
            "parked_now": self.parked,
            "parked_before": parked,
            "cut": self.cut,
            "elsewhere": self.elsewhere,
            "of_no_input": self.of_no_input,
        })
    }

    /// Returns an error if this command has tried to write letters that are left.
    pub(super) fn verdict(&self, dry_run: bool) -> Result<(), Failure> {
        let verb = if dry_run { "would be" } else { "were" };
        if let Some(topic) = self.of_no_input.keys().next() {
            let topics = telemetry::list(self.of_no_input.keys().map(String::as_str));
            let count: usize = self.of_no_input.values().sum();
            return Err(Failure::Usage(format!(
                "{count} dead letters {verb} left alone: no input reads their topics {topics}. Use the configuration of the \
                 workers (--config FILE), add the topics to an [[input]], or name its input: --topic {} --as-input NAME",
                shell_word(topic)
            )));
        }
        match (self.rejected, self.cut) {
            (0, 0) => Ok(()),
            (rejected, 0) => Err(Failure::Rejected(format!("{rejected} dead letters {verb} rejected again"))),
            (rejected, cut) => {
                Err(Failure::Rejected(format!("{rejected} dead letters {verb} rejected again, {cut} are not whole")))
            }
        }
    }
}
