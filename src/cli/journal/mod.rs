//! `journal status|verify|export|replay`: the journal's contents. All except `replay` only read, alongside a running worker and
//! on damaged files.

mod export;
mod replay;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::json;
use tracing::Level;

use super::output::{complain, print_line};
use super::{Failure, progress_bar};
use crate::config::Config;
use crate::input::Inputs;
use crate::journal::{Inspection, RealFiles, Record};
use crate::raw::{MessageSet, Partition, RawMessage};

pub(super) use export::insert;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print what is in the journal, by source and partition.
    Status {
        #[command(flatten)]
        at: Where,
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Read the whole journal, and report exact damage; exit code 65 if there is any.
    Verify {
        #[command(flatten)]
        at: Where,
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Print the journal's messages as JSON lines.
    Export {
        #[command(flatten)]
        at: Where,
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        times: Times,
    },
    /// Write into the database what it lacks of the journal; safe to stop, to repeat, and to run alongside workers.
    Replay {
        #[command(flatten)]
        at: Where,
        #[command(flatten)]
        filter: Filter,
        /// Only count what would be written.
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct Where {
    /// The journal's directory, such as a copy from another host; the configured one by default.
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Filter {
    /// Only this topic.
    #[arg(long)]
    topic: Option<String>,
    /// Only this partition.
    #[arg(long)]
    partition: Option<i32>,
    /// Only from this offset on.
    #[arg(long)]
    from_offset: Option<i64>,
    /// Only below this offset.
    #[arg(long)]
    until_offset: Option<i64>,
}

/// Only `export` accepts these: progress is kept by offsets, so a replay of a time range would leave holes in it.
#[derive(Debug, Args)]
pub(super) struct Times {
    /// Only messages from this time on, such as 2026-01-31T12:00:00Z.
    #[arg(long)]
    from_time: Option<Timestamp>,
    /// Only messages before this time.
    #[arg(long)]
    until_time: Option<Timestamp>,
}

impl Filter {
    fn takes(&self, record: &Record) -> bool {
        self.topic.as_ref().is_none_or(|topic| *topic == record.partition.source.topic)
            && self.partition.is_none_or(|partition| partition == record.partition.number)
            && self.from_offset.is_none_or(|from| from < record.until)
            && self.until_offset.is_none_or(|until| record.from < until)
    }

    /// The part of a set with the requested offsets.
    fn clip(&self, set: &MessageSet) -> Option<MessageSet> {
        set.clip(self.from_offset.unwrap_or(i64::MIN), self.until_offset.unwrap_or(i64::MAX))
    }
}

impl Times {
    fn include(&self, message: &RawMessage<'_>) -> bool {
        let time = message.time_ms;
        self.from_time.is_none_or(|from| time.is_some_and(|time| time >= from.as_millisecond()))
            && self.until_time.is_none_or(|until| time.is_some_and(|time| time < until.as_millisecond()))
    }
}

pub(super) async fn run(config: Arc<Config>, command: Command) -> Result<(), Failure> {
    match command {
        Command::Status { at, json } => status(&open(&config, &at)?, at.directory(&config), json),
        Command::Verify { at, json } => verify(&open(&config, &at)?, json),
        Command::Export { at, filter, times } => export::export(&mut open(&config, &at)?, &filter, &times),
        Command::Replay { at, filter, dry_run } => {
            config.require_database()?;
            replay::replay(&config, &mut open(&config, &at)?, &filter, dry_run).await
        }
    }
}

impl Where {
    fn directory<'a>(&'a self, config: &'a Config) -> &'a Path {
        self.directory.as_deref().unwrap_or_else(|| Path::new(&config.journal.directory))
    }
}

/// Refuses records that no input decodes: their messages would all become dead letters.
///
/// # Errors
/// If there are any, with their topics and what to do.
pub(super) fn refuse_undecodable<'a>(
    inputs: &Inputs,
    records: impl IntoIterator<Item = &'a Record>,
) -> Result<(), Failure> {
    let sources = records.into_iter().map(|record| &record.partition.source);
    let topics: BTreeSet<&str> =
        sources.filter(|source| !inputs.can_decode(source)).map(|source| source.topic.as_str()).collect();
    let Some(first) = topics.first() else { return Ok(()) };
    let named: Vec<String> = topics.iter().map(|topic| format!("{topic:?}")).collect();
    Err(Failure::Usage(format!(
        "input: the journal has messages of the topic {}, which no input reads, and the database lacks them: add it to the \
         topics of an [[input]] again, or keep them with `series-ingest journal export --topic {first}` and set another \
         journal.directory",
        named.join(", ")
    )))
}

fn open(config: &Config, at: &Where) -> Result<Inspection, Failure> {
    let directory = at.directory(config);
    Inspection::open(RealFiles, directory)
        .map_err(|failure| Failure::Usage(format!("the journal {}: {failure}", directory.display())))
}

#[derive(Default)]
struct Sum {
    intervals: Vec<(i64, i64)>,
    messages: u64,
    bytes: u64,
    oldest_ms: Option<i64>,
}

fn status(journal: &Inspection, directory: &Path, json: bool) -> Result<(), Failure> {
    let mut sums: BTreeMap<Partition, Sum> = BTreeMap::new();
    for record in journal.records() {
        let sum = sums.entry(record.partition.clone()).or_default();
        match sum.intervals.last_mut() {
            Some((_, until)) if *until == record.from => *until = record.until,
            _ => sum.intervals.push((record.from, record.until)),
        }
        sum.messages += u64::from(record.messages);
        sum.bytes += record.bytes();
        sum.oldest_ms = sum.oldest_ms.into_iter().chain(record.oldest_ms).min();
    }
    let records = journal.records().count();
    if json {
        let partitions = sums.iter().map(|(Partition { source, number }, sum)| {
            json!({
                "cluster_id": source.cluster_id,
                "topic": source.topic,
                "topic_id": source.topic_id,
                "partition": number,
                "messages": sum.messages,
                "bytes": sum.bytes,
                "oldest": sum.oldest_ms.and_then(|ms| Timestamp::from_millisecond(ms).ok()).map(|time| time.to_string()),
                "offsets": sum.intervals.iter().map(|(from, until)| json!({"from": from, "until": until})).collect::<Vec<_>>(),
            })
        });
        print_line(json!({
            "directory": directory.display().to_string(),
            "records": records,
            "segments": journal.segments().len(),
            "bytes": journal.bytes(),
            "quarantined_segments": journal.quarantined(),
            "damage": journal.damage().iter().map(ToString::to_string).collect::<Vec<_>>(),
            "partitions": partitions.collect::<Vec<_>>(),
        }));
        return Ok(());
    }
    print_line(format_args!("{records} records in {} segments", journal.segments().len()));
    for (Partition { source, number }, sum) in sums {
        let shown: Vec<String> = sum.intervals.iter().map(|(from, until)| format!("[{from}, {until})")).collect();
        let oldest = sum.oldest_ms.and_then(|ms| Timestamp::from_millisecond(ms).ok());
        print_line(format_args!(
            "{} partition {number}: {} messages, {} bytes, oldest {}, offsets {} (topic id {})",
            source.topic,
            sum.messages,
            sum.bytes,
            oldest.map_or("unknown".to_owned(), |time| time.to_string()),
            shown.join(" "),
            source.topic_id,
        ));
    }
    if journal.quarantined() > 0 {
        print_line(format_args!("{} segments are in quarantine", journal.quarantined()));
    }
    for damage in journal.damage() {
        print_line(format_args!("damaged: {damage}"));
    }
    Ok(())
}

fn verify(journal: &Inspection, json: bool) -> Result<(), Failure> {
    let bar = progress_bar(usize::try_from(journal.bytes()).unwrap_or(usize::MAX), "bytes");
    let damage = journal.verify(|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    if json {
        print_line(json!({
            "records": journal.records().count(),
            "bytes": journal.bytes(),
            "damage": damage.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }));
    } else if damage.is_empty() {
        print_line(format_args!("{} records, {} bytes: no damage", journal.records().count(), journal.bytes()));
    } else {
        for damage in &damage {
            print_line(format_args!("damaged: {damage}"));
        }
    }
    if damage.is_empty() {
        return Ok(());
    }
    Err(Failure::Damaged(format!("the journal is damaged in {} places", damage.len())))
}

/// Reports the damage that was found when the journal was opened. Returns the number of damaged places.
fn known_damage(journal: &Inspection) -> usize {
    for damage in journal.damage() {
        complain(Level::WARN, &format!("damaged: {damage}"));
    }
    journal.damage().len()
}

fn damaged_records_skipped(damaged: usize) -> Failure {
    Failure::Damaged(format!("the journal is damaged in {damaged} places, what was there is omitted"))
}
