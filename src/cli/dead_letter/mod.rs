//! `dead-letter list|show|redrive|purge|export`: messages that could not be stored, until they are written or given up.

mod redrive;

use std::io::IsTerminal as _;
use std::sync::Arc;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::output::{self, print, print_line};
use super::{Failure, journal, progress_bar};
use crate::config::Config;
use crate::database::Database;
use crate::database::dead_letters::{Cut, Letter, LetterFilter};
use crate::message::series_of;
use crate::raw::Kind;
use crate::raw::headers;
use crate::telemetry::escaped;

/// How many letters are read at once, and so held in memory.
const PAGE: usize = 500;
/// How much of a detail the table shows, in characters.
const SHOWN_DETAIL: usize = 100;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print a line for each dead letter, and what was only counted.
    List {
        #[command(flatten)]
        filter: Filter,
        /// Only those that are parked: their attempts to be sent again are used up.
        #[arg(long)]
        parked: bool,
        /// As JSON lines, without the payloads.
        #[arg(long)]
        json: bool,
        /// At most so many; 0 for all.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Print one dead letter with its payload.
    Show {
        /// Its id, as `list` prints it.
        id: i64,
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Print the numbers of dead letters by partition and reason: stored, only counted, and written since by `redrive`.
    Counts {
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Decode dead letters again and write them, exactly once; safe to stop, to repeat, and to run twice at a time.
    Redrive(redrive::Redrive),
    /// Delete dead letters.
    Purge {
        #[command(flatten)]
        filter: Filter,
        /// Also forget the numbers of those that were only counted; of the filter, the reason, the topic and the partition count.
        #[arg(long)]
        counts: bool,
        /// Only say how many it would be.
        #[arg(long)]
        dry_run: bool,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Print dead letters as JSON lines, with their payloads.
    Export {
        #[command(flatten)]
        filter: Filter,
    },
}

#[derive(Debug, Args)]
pub(super) struct Filter {
    /// Only this one; may be given several times.
    #[arg(long, value_name = "ID")]
    id: Vec<i64>,
    /// Only this reason, such as `schema`.
    #[arg(long)]
    reason: Option<String>,
    /// Only this topic.
    #[arg(long)]
    topic: Option<String>,
    /// Only this partition.
    #[arg(long)]
    partition: Option<i32>,
    /// Only this series, as far as the payloads tell.
    #[arg(long, value_name = "ID")]
    series: Option<String>,
    /// Only from this offset on.
    #[arg(long)]
    from_offset: Option<i64>,
    /// Only below this offset.
    #[arg(long)]
    until_offset: Option<i64>,
    /// Only messages that were made at this time or later, such as 2026-01-31T12:00:00Z.
    #[arg(long)]
    from_time: Option<Timestamp>,
    /// Only messages that were made before this time.
    #[arg(long)]
    until_time: Option<Timestamp>,
    /// Only what became a dead letter at this time or later.
    #[arg(long)]
    created_from: Option<Timestamp>,
    /// Only what became a dead letter before this time.
    #[arg(long)]
    created_until: Option<Timestamp>,
}

impl Filter {
    /// What the database is asked for; the series is looked for in what it answers.
    fn in_database(&self) -> LetterFilter {
        LetterFilter {
            ids: self.id.clone(),
            reason: self.reason.clone(),
            topic: self.topic.clone(),
            partition: self.partition,
            from_offset: self.from_offset,
            until_offset: self.until_offset,
            from_ms: self.from_time.map(Timestamp::as_millisecond),
            until_ms: self.until_time.map(Timestamp::as_millisecond),
            created_from_ms: self.created_from.map(Timestamp::as_millisecond),
            created_until_ms: self.created_until.map(Timestamp::as_millisecond),
            from_attempts: None,
            until_attempts: None,
        }
    }

    fn takes(&self, letter: &Letter) -> bool {
        self.series.as_ref().is_none_or(|series| series_of_letter(letter).is_some_and(|found| found == *series))
    }
}

fn series_of_letter(letter: &Letter) -> Option<String> {
    letter.message.payload.as_deref().and_then(series_of)
}

/// The dead letters of a filter, page by page in the order of their ids.
struct Letters<'a> {
    config: &'a Config,
    database: &'a Database,
    filter: &'a Filter,
    asked: LetterFilter,
    above: i64,
    page: usize,
}

impl<'a> Letters<'a> {
    fn new(config: &'a Config, database: &'a Database, filter: &'a Filter) -> Self {
        Self { config, database, filter, asked: filter.in_database(), above: i64::MIN, page: PAGE }
    }

    /// The next page, without those of another series, and how many the database had; `None` behind the last one.
    async fn next(&mut self) -> Result<Option<(Vec<Letter>, usize)>, Failure> {
        let series_topic = &self.config.kafka.series_topic;
        let kind_of = |topic: &str| if topic == series_topic { Kind::Series } else { Kind::Points };
        let mut page = self.database.letters(&self.asked, self.above, self.page, kind_of).await?;
        let Some(last) = page.last() else { return Ok(None) };
        self.above = last.message.id;
        let count = page.len();
        page.retain(|letter| self.filter.takes(letter));
        Ok(Some((page, count)))
    }
}

pub(super) async fn run(config: Arc<Config>, command: Command) -> Result<(), Failure> {
    config.require_database()?;
    let database = Database::new(&config)?;
    match command {
        Command::List { filter, parked, json, limit } => list(&config, &database, &filter, parked, json, limit).await,
        Command::Show { id, json } => show(&config, &database, id, json).await,
        Command::Counts { json } => counts(&database, json).await,
        Command::Redrive(arguments) => redrive::run(&config, &database, &arguments).await,
        Command::Purge { filter, counts, dry_run, yes } => {
            purge(&config, &database, &filter, Purge { counts, dry_run, yes }).await
        }
        Command::Export { filter } => export(&config, &database, &filter).await,
    }
}

async fn list(
    config: &Config,
    database: &Database,
    filter: &Filter,
    parked: bool,
    json: bool,
    limit: usize,
) -> Result<(), Failure> {
    let mut letters = Letters::new(config, database, filter);
    let max_attempts = max_attempts(config);
    letters.asked.from_attempts = parked.then_some(max_attempts);
    if limit > 0 {
        letters.page = limit.min(PAGE);
    }
    let total = database.count_letters(&letters.asked).await?;
    let mut shown = 0;
    'pages: while let Some((page, _)) = letters.next().await? {
        for letter in &page {
            if limit > 0 && shown == limit || !output::is_open() {
                break 'pages;
            }
            if json {
                print(&format!("{}\n", Value::Object(described(letter, max_attempts))));
            } else {
                if shown == 0 {
                    print_line(format_args!(
                        "{:>8}  {:<20}  {:<28}  {:>9}  {:>12}  {:<20}  {:>8}  {:<20}  detail",
                        "id", "created_at", "topic", "partition", "offset", "reason", "attempts", "series"
                    ));
                }
                print_row(letter, max_attempts);
            }
            shown += 1;
        }
    }
    if json {
        return Ok(());
    }
    let more = if filter.series.is_some() { " of this series".to_owned() } else { format!(" of {total}") };
    print_line(format_args!("{shown}{more} dead letters shown"));
    for known in database.letter_counts().await? {
        if let Some((first, last)) = known.counted_between.filter(|_| known.only_counted > 0) {
            print_line(format_args!(
                "{} more of {} partition {} were only counted, reason {}, offsets {first} to {last}: dead_letter.max_rows",
                known.only_counted, known.topic, known.partition, known.reason
            ));
        }
    }
    Ok(())
}

fn print_row(letter: &Letter, max_attempts: i32) {
    let mut detail: String = letter.message.detail.chars().take(SHOWN_DETAIL).collect();
    if detail.len() < letter.message.detail.len() {
        detail.push('…');
    }
    let series = series_of_letter(letter).map_or_else(|| "-".to_owned(), |series| series.chars().take(20).collect());
    let attempts = format!("{}{}", letter.attempts, if letter.attempts >= max_attempts { " parked" } else { "" });
    let sample = if letter.is_sample { " (the newest of those that were only counted)" } else { "" };
    print_line(format_args!(
        "{:>8}  {:<20}  {:<28}  {:>9}  {:>12}  {:<20}  {:>8}  {:<20}  {}{sample}",
        letter.message.id,
        time(letter.created_ms / 1000 * 1000),
        letter.source.topic,
        letter.message.partition,
        letter.message.offset,
        letter.message.reason,
        attempts,
        escaped(&series).to_string(),
        escaped(&detail),
    ));
}

/// The attempts from which on a letter is parked, as the database counts them.
fn max_attempts(config: &Config) -> i32 {
    i32::try_from(config.dead_letter.max_attempts).unwrap_or(i32::MAX)
}

fn time(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |time| time.to_string())
}

/// Where the message stands, as `journal export` has it, and what is known of the letter.
fn described(letter: &Letter, max_attempts: i32) -> Map<String, Value> {
    let mut line = Map::new();
    let mut set = |name: &str, value: Value| line.insert(name.to_owned(), value);
    set("id", letter.message.id.into());
    set("topic", letter.source.topic.as_str().into());
    set("partition", letter.message.partition.into());
    set("offset", letter.message.offset.into());
    set("time_ms", letter.message.time_ms.into());
    set("reason", letter.message.reason.as_str().into());
    set("detail", letter.message.detail.as_str().into());
    set("created_at", time(letter.created_ms).into());
    set("attempts", letter.attempts.into());
    set("attempted_at", letter.attempted_ms.map(time).into());
    set("parked", (letter.attempts >= max_attempts).into());
    set("sample", letter.is_sample.into());
    set("series", series_of_letter(letter).into());
    set("key_bytes", letter.message.key_bytes.into());
    set("headers_bytes", letter.message.headers_bytes.into());
    set("payload_bytes", letter.message.payload_bytes.into());
    // Of these only the head is there.
    set("cut", letter.message.cut().iter().map(|cut| cut.part).collect());
    line
}

/// The same with key, headers and payload.
fn with_payload(letter: &Letter, max_attempts: i32) -> Value {
    let mut line = described(letter, max_attempts);
    journal::insert(&mut line, "key", letter.message.key.as_deref());
    let named = headers::decode(letter.message.headers.as_deref().unwrap_or_default());
    let named = named.into_iter().map(|(name, value)| {
        let mut header = Map::new();
        header.insert("name".to_owned(), name.into());
        journal::insert(&mut header, "value", value);
        Value::Object(header)
    });
    line.insert("headers".to_owned(), named.collect());
    journal::insert(&mut line, "payload", letter.message.payload.as_deref());
    Value::Object(line)
}

async fn counts(database: &Database, json: bool) -> Result<(), Failure> {
    let counts = database.letter_counts().await?;
    if json {
        print_line(json!({"counts": counts}));
        return Ok(());
    }
    if counts.is_empty() {
        print_line("this pipeline has had no dead letter");
    }
    for known in counts {
        let between = known.counted_between.filter(|_| known.only_counted > 0);
        let between = between.map_or_else(String::new, |(first, last)| format!(" (offsets {first} to {last})"));
        print_line(format_args!(
            "{} partition {}: {}: {} stored, {} only counted{between}, {} written again",
            known.topic, known.partition, known.reason, known.kept, known.only_counted, known.redriven
        ));
    }
    Ok(())
}

async fn show(config: &Config, database: &Database, id: i64, json: bool) -> Result<(), Failure> {
    let asked = LetterFilter { ids: vec![id], ..LetterFilter::default() };
    let letters = database.letters(&asked, i64::MIN, 1, |_| Kind::Points).await?;
    let letter = letters.first().ok_or_else(|| {
        Failure::Usage(format!("this pipeline has no dead letter {id}: it was written again or deleted, or never was"))
    })?;
    if json {
        print_line(with_payload(letter, max_attempts(config)));
        return Ok(());
    }
    let Value::Object(fields) = with_payload(letter, max_attempts(config)) else {
        unreachable!("a letter is an object")
    };
    for (name, value) in fields.iter().filter(|(name, _)| !name.starts_with("payload")) {
        let text = value.as_str().map_or_else(|| value.to_string(), for_terminal);
        print_line(format_args!("{name:<14} {text}"));
    }
    print_line(format_args!("{:<14} {}", "payload_bytes", letter.message.payload_bytes));
    for Cut { part, kept, .. } in letter.message.cut() {
        print_line(format_args!("only the first {kept} bytes of the {part} are here; Kafka may still have all of it"));
    }
    print_line("");
    match fields.get("payload").or_else(|| fields.get("payload_base64")) {
        Some(Value::String(text)) => print_line(for_terminal(text)),
        _ => print_line("no payload"),
    }
    Ok(())
}

/// A text in full, without what would make the terminal do something.
fn for_terminal(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

async fn export(config: &Config, database: &Database, filter: &Filter) -> Result<(), Failure> {
    let mut letters = Letters::new(config, database, filter);
    while let Some((page, _)) = letters.next().await? {
        for letter in &page {
            print(&format!("{}\n", with_payload(letter, max_attempts(config))));
        }
        if !output::is_open() {
            break;
        }
    }
    output::sync();
    Ok(())
}

struct Purge {
    counts: bool,
    dry_run: bool,
    yes: bool,
}

async fn purge(config: &Config, database: &Database, filter: &Filter, purge: Purge) -> Result<(), Failure> {
    let mut letters = Letters::new(config, database, filter);
    let mut ids = Vec::new();
    while let Some((page, _)) = letters.next().await? {
        ids.extend(page.iter().map(Letter::identity));
    }
    if purge.dry_run {
        print_line(format_args!("{} dead letters would be deleted", ids.len()));
        return Ok(());
    }
    if !purge.yes {
        if !std::io::stdin().is_terminal() {
            return Err(Failure::Usage(format!("{} dead letters: add --yes to delete them", ids.len())));
        }
        print(&format!("Delete {} dead letters? Their messages are then nowhere but in Kafka. [y/N] ", ids.len()));
        if !matches!(answer().as_deref(), Some("y" | "yes")) {
            print_line("nothing was deleted");
            return Ok(());
        }
    }
    let bar = progress_bar(ids.len(), "letters");
    let mut deleted = 0;
    for part in ids.chunks(PAGE) {
        deleted += database.purge_letters(part).await?;
        bar.inc(part.len() as u64);
    }
    bar.finish_and_clear();
    print_line(format_args!("{deleted} dead letters deleted"));
    if purge.counts {
        let forgotten = database.purge_letter_counts(&filter.in_database()).await?;
        print_line(format_args!("{forgotten} that were only counted are forgotten"));
    }
    Ok(())
}

/// A line from standard input, without its end and in lower case; `None` at its end.
fn answer() -> Option<String> {
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line).ok()?;
    (read > 0).then(|| line.trim().to_ascii_lowercase())
}
