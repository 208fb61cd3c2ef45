//! `check`: the configuration, both servers, the journal, and the system's limits. Each part is a separate file, and calls what
//! `run` calls.

mod database;
mod journal;
mod kafka;
mod process;
mod replicas;

use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::{Failure, print_line};
use crate::config::Config;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print one JSON document, also if there are problems.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Arc<Config>, arguments: Arguments) -> Result<(), Failure> {
    config.require_database()?;
    let mut report = Report { json: arguments.json, ..Report::default() };
    report.say("configuration", "fine");
    for note in config.notes() {
        report.say("note", note);
    }
    process::check(config, &mut report);
    database::check(config, &mut report).await;
    replicas::check(config, &mut report).await;
    kafka::check(config, &mut report).await?;
    journal::check(&config.journal, &mut report);
    report.finish()
}

/// The results of the parts of `check`.
#[derive(Debug, Default)]
struct Report {
    json: bool,
    /// Facts for JSON, each with its subject.
    facts: Vec<Fact>,
    problems: Vec<Problem>,
}

/// A fact that is not a problem.
#[derive(Debug, Serialize)]
struct Fact {
    subject: String,
    text: String,
}

/// Something that `run` would refuse, or be affected by.
#[derive(Debug, Serialize)]
struct Problem {
    /// The key of the configuration that it concerns.
    key: String,
    /// The problem, and what to do.
    text: String,
    /// `true` if a server does not answer, or refuses this client, which has a different exit code.
    unreachable: bool,
}

impl Report {
    /// States a fact that is not a problem.
    fn say(&mut self, what: &str, text: impl std::fmt::Display) {
        if self.json {
            self.facts.push(Fact { subject: what.to_owned(), text: text.to_string() });
        } else {
            print_line(format_args!("{what}: {text}"));
        }
    }

    /// States what may become a problem, or has no effect yet.
    fn warn(&mut self, key: &str, text: impl std::fmt::Display) {
        self.say("warning", format_args!("{key}: {text}"));
    }

    fn problem(&mut self, key: impl Into<String>, text: impl std::fmt::Display) {
        self.problems.push(Problem { key: key.into(), text: text.to_string(), unreachable: false });
    }

    fn unreachable(&mut self, key: impl Into<String>, text: impl std::fmt::Display) {
        self.problems.push(Problem { key: key.into(), text: text.to_string(), unreachable: true });
    }

    /// Adds the failure that a command would have, so that the exit code is the same.
    fn failure(&mut self, key: &str, failure: &Failure) {
        let text = failure.to_string();
        // A failure that names its key needs no other subject.
        let text = text.strip_prefix(key).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&text);
        match failure {
            Failure::Unreachable(_) => self.unreachable(key, text),
            _ => self.problem(key, text),
        }
    }

    fn finish(self) -> Result<(), Failure> {
        if self.json {
            let Self { facts, problems, .. } = &self;
            print_line(json!({"ok": problems.is_empty(), "facts": facts, "problems": problems}));
        }
        let count = match self.problems.len() {
            0 => return Ok(()),
            1 => "1 problem".to_owned(),
            count => format!("{count} problems"),
        };
        let lines: Vec<String> =
            self.problems.iter().map(|problem| format!("{}: {}", problem.key, problem.text)).collect();
        let text = format!("{count}\n  {}", lines.join("\n  "));
        let unreachable = self.problems.iter().any(|problem| problem.unreachable);
        Err(if unreachable { Failure::Unreachable(text) } else { Failure::Usage(text) })
    }
}
