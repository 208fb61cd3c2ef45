//! `journal status|verify|export|replay`: what the journal holds. All but `replay` only read, beside a running worker and on
//! damaged files.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;
use tracing::Level;

use super::output::{self, complain, print, print_line};
use super::{Failure, progress_bar, saying_waits};
use crate::batch::Batch;
use crate::config::Config;
use crate::database::verdict::{Attempts, Failed, Verdict, verdict};
use crate::database::{Class, Coverage, Database, Path as WritePath};
use crate::journal::{Inspection, ReadError, RealFiles, Record};
use crate::message::Decoder;
use crate::raw::{Interval, MessageSet, Partition, RawMessage, headers};

/// How long to wait after the database refused.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// What is in it, by source and partition.
    Status {
        #[command(flatten)]
        at: Where,
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Read all of it, and report exact damage; exit code 65 if there is any.
    Verify {
        #[command(flatten)]
        at: Where,
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Print its messages as JSON lines.
    Export {
        #[command(flatten)]
        at: Where,
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        times: Times,
    },
    /// Write what the database lacks of it; safe to stop, to repeat, and to run beside workers.
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

/// Only `export` takes these: progress is kept by offsets, so a replay of some times would leave holes in it.
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

    /// The part of a set with the offsets that are asked for.
    fn clip(&self, set: &MessageSet) -> Option<MessageSet> {
        set.clip(self.from_offset.unwrap_or(i64::MIN), self.until_offset.unwrap_or(i64::MAX))
    }
}

impl Times {
    fn take(&self, message: &RawMessage<'_>) -> bool {
        let time = message.time_ms;
        self.from_time.is_none_or(|from| time.is_some_and(|time| time >= from.as_millisecond()))
            && self.until_time.is_none_or(|until| time.is_some_and(|time| time < until.as_millisecond()))
    }
}

pub(super) async fn run(config: Arc<Config>, command: Command) -> Result<(), Failure> {
    match command {
        Command::Status { at, json } => status(&open(&config, &at)?, at.of(&config), json),
        Command::Verify { at, json } => verify(&open(&config, &at)?, json),
        Command::Export { at, filter, times } => export(&mut open(&config, &at)?, &filter, &times),
        Command::Replay { at, filter, dry_run } => {
            config.require_database()?;
            replay(&config, &mut open(&config, &at)?, &filter, dry_run).await
        }
    }
}

impl Where {
    fn of<'a>(&'a self, config: &'a Config) -> &'a Path {
        self.directory.as_deref().unwrap_or_else(|| Path::new(&config.journal.directory))
    }
}

fn open(config: &Config, at: &Where) -> Result<Inspection, Failure> {
    let directory = at.of(config);
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

fn export(journal: &mut Inspection, filter: &Filter, times: &Times) -> Result<(), Failure> {
    let mut damaged = known_damage(journal);
    let records: Vec<Record> = journal.records().filter(|record| filter.takes(record)).cloned().collect();
    for record in records {
        let set = match journal.read(&record) {
            Ok(set) => set,
            // The worker has removed it: the database has it.
            Err(ReadError::Gone { .. }) => continue,
            Err(failure) => {
                complain(Level::WARN, &failure.to_string());
                damaged += 1;
                continue;
            }
        };
        let Some(set) = filter.clip(&set) else { continue };
        for message in set.messages().filter(|message| times.take(message)) {
            let mut line = Map::new();
            line.insert("topic".to_owned(), set.source().topic.as_str().into());
            line.insert("partition".to_owned(), set.partition().number.into());
            line.insert("offset".to_owned(), message.offset.into());
            line.insert("time_ms".to_owned(), message.time_ms.into());
            insert(&mut line, "key", message.key);
            insert(&mut line, "payload", message.payload);
            if let Some(encoded) = message.headers {
                // An array, because a name may come more than once.
                let of = |(name, value): (String, Option<&[u8]>)| {
                    let mut header = Map::new();
                    header.insert("name".to_owned(), name.into());
                    insert(&mut header, "value", value);
                    Value::Object(header)
                };
                line.insert("headers".to_owned(), headers::decode(encoded).into_iter().map(of).collect());
            }
            print(&format!("{}\n", Value::Object(line)));
        }
        if !output::is_open() {
            break;
        }
    }
    output::sync();
    if damaged > 0 {
        return Err(left_out(damaged));
    }
    Ok(())
}

/// Names what was found damaged when the journal was opened; gives the number of places.
fn known_damage(journal: &Inspection) -> usize {
    for damage in journal.damage() {
        complain(Level::WARN, &format!("damaged: {damage}"));
    }
    journal.damage().len()
}

fn left_out(damaged: usize) -> Failure {
    Failure::Damaged(format!("the journal is damaged in {damaged} places, what was there is left out"))
}

/// Bytes as text, or in base 64 where they are no UTF-8.
pub(super) fn insert(line: &mut Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    match bytes.map(std::str::from_utf8) {
        None => line.insert(name.to_owned(), Value::Null),
        Some(Ok(text)) => line.insert(name.to_owned(), text.into()),
        Some(Err(_)) => line.insert(format!("{name}_base64"), BASE64.encode(bytes.unwrap_or_default()).into()),
    };
}

/// What a replay has done, or would do.
#[derive(Debug, Default)]
struct Done {
    messages: usize,
    points: usize,
    dead_letters: usize,
    damaged: usize,
}

impl Done {
    /// Adds what the next writer to end has done.
    async fn add_one_of(&mut self, writers: &mut JoinSet<Result<Self, Failure>>) -> Result<(), Failure> {
        let Some(ended) = writers.join_next().await else { return Ok(()) };
        let done = ended.map_err(|failure| Failure::Internal(failure.to_string()))??;
        self.messages += done.messages;
        self.points += done.points;
        self.dead_letters += done.dead_letters;
        Ok(())
    }
}

async fn replay(config: &Config, journal: &mut Inspection, filter: &Filter, dry_run: bool) -> Result<(), Failure> {
    let database = Database::new(config)?;
    saying_waits(&database, replay_into(&database, config, journal, filter, dry_run)).await
}

async fn replay_into(
    database: &Database,
    config: &Config,
    journal: &mut Inspection,
    filter: &Filter,
    dry_run: bool,
) -> Result<(), Failure> {
    let records: Vec<Record> = journal.records().filter(|record| filter.takes(record)).cloned().collect();
    let mut firsts: HashMap<Partition, i64> = HashMap::new();
    for record in &records {
        let first = firsts.entry(record.partition.clone()).or_insert(record.from);
        *first = record.from.min(*first);
    }
    let mut coverage: HashMap<Partition, Coverage> = HashMap::new();
    for (partition, first) in firsts {
        let Partition { source, number } = &partition;
        let known = database.coverage(source, &[*number]).await?.remove(number);
        // To begin its progress here would pass over what Kafka has before the journal's first message.
        let known = known.ok_or_else(|| {
            Failure::Usage(format!(
                "partition {number} of {} was never read by this pipeline: run a worker first, or leave it out (first offset {first})",
                source.topic
            ))
        })?;
        coverage.insert(partition, known);
    }
    let bar = progress_bar(records.len(), "records");
    let mut decoder = Decoder::new(config.message.limits());
    let mut done = Done { damaged: known_damage(journal), ..Done::default() };
    let (mut batch, mut writers) = (Batch::default(), JoinSet::new());
    let most_writers = *config.database.writer_range().end();
    for record in &records {
        bar.inc(1);
        match journal.read(record) {
            Ok(set) => {
                let known = &coverage[&record.partition.clone()];
                for part in filter.clip(&set).into_iter().flat_map(|set| missing_parts(&set, known)) {
                    batch.push(part, &mut decoder);
                }
            }
            Err(ReadError::Gone { .. }) => {}
            Err(failure) => {
                complain(Level::WARN, &failure.to_string());
                done.damaged += 1;
            }
        }
        // As large as a worker's batches, so that their points are sorted as far.
        if batch.points().len() >= config.batch.max_points || batch.message_bytes() >= config.batch.max_bytes {
            if writers.len() >= most_writers {
                done.add_one_of(&mut writers).await?;
            }
            let decoder = Decoder::new(config.message.limits());
            writers.spawn(finish(database.clone(), std::mem::take(&mut batch), dry_run, decoder));
        }
    }
    writers.spawn(finish(database.clone(), batch, dry_run, decoder));
    while !writers.is_empty() {
        done.add_one_of(&mut writers).await?;
    }
    bar.finish_and_clear();
    let verb = if dry_run { "would be written" } else { "written" };
    print_line(format_args!(
        "{} messages with {} points {verb}, {} dead letters; the database had the rest",
        done.messages, done.points, done.dead_letters
    ));
    if done.damaged > 0 {
        return Err(left_out(done.damaged));
    }
    Ok(())
}

fn missing_parts(set: &MessageSet, coverage: &Coverage) -> Vec<MessageSet> {
    let Interval { from, until, .. } = set.interval();
    coverage.missing(from, until).into_iter().filter_map(|(from, until)| set.clip(from, until)).collect()
}

/// Writes a batch. The locks on its partitions are held for the commit only, so that several are written at a time; whatever
/// went wrong, the next attempt asks first what the database has.
async fn finish(database: Database, batch: Batch, dry_run: bool, mut decoder: Decoder) -> Result<Done, Failure> {
    let mut done = Done::default();
    if batch.is_empty() {
        return Ok(done);
    }
    if dry_run {
        done.messages = batch.message_count();
        done.points = batch.points().len();
        done.dead_letters = batch.dead_letters().len();
        return Ok(done);
    }
    // As in a worker, a message that the database refuses takes no other with it.
    let mut pieces = vec![(batch, WritePath::JournalFast, 0)];
    while let Some((piece, path, missing_series)) = pieces.pop() {
        let messages = piece.message_count();
        let failure = match database.write(&piece, path, &mut decoder).await {
            Ok(written) => {
                done.messages += messages;
                done.points += written.points;
                done.dead_letters += written.dead_letters.len();
                continue;
            }
            Err(failure) => failure,
        };
        let attempts = Attempts {
            messages,
            can_be_refused: !piece.has_nothing_to_refuse(),
            copied_first: path.is_fast(),
            missing_series: missing_series + u32::from(failure.is_missing_series()),
            canceled: 0,
        };
        let path = path.after_doubt();
        match verdict(Failed::new(&failure, messages), attempts) {
            Verdict::ClaimFirst => pieces.push((piece, path, attempts.missing_series)),
            Verdict::Split(parts) => {
                let parts = piece.split_into(parts, &mut decoder);
                pieces.extend(parts.into_iter().rev().map(|part| (part, path, 0)));
            }
            Verdict::Reject => pieces.push((piece.into_dead_letter(failure.rejected()), path, 0)),
            Verdict::SetAside => match database.oversized(&failure, &piece).await.pop() {
                Some(oversized) => pieces.push((piece.into_dead_letter(oversized.rejected), path, 0)),
                None => return Err(failure.into()),
            },
            Verdict::Retry | Verdict::TooManyIslands if failure.class() == Class::Retry => {
                pieces.push((piece, path, attempts.missing_series));
                tokio::time::sleep(RETRY).await;
            }
            // What is written stays written: the next run goes on from there.
            Verdict::Retry | Verdict::TooManyIslands | Verdict::NoProgress => return Err(failure.into()),
        }
    }
    Ok(done)
}
