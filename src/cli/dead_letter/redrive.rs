//! `dead-letter redrive`: letters into the database, each once.

use std::collections::{BTreeMap, HashSet};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use backon::ExponentialBuilder;
use clap::Args;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use tracing::Level;

use super::{Filter, Letters, answer, max_attempts};
use crate::cli::output::{complain, print, print_line};
use crate::cli::{Failure, progress_bar};
use crate::config::Config;
use crate::database::Database;
use crate::database::dead_letters::{Cut, Fate, Letter, Redrive as OneRedrive, RedriveMode};
use crate::kafka::reread::{Rereader, Whole};
use crate::message::Points;
use crate::message::{Decoder, Rejected};
use crate::telemetry::escaped;

/// What one transaction takes: more is faster, and less is held when it is given up.
const MAX_LETTERS: usize = 500;
const MAX_BYTES: usize = 8 * 1024 * 1024;

#[derive(Debug, Args)]
pub(in crate::cli) struct Redrive {
    #[command(flatten)]
    filter: Filter,
    /// Also those that are parked.
    #[arg(long)]
    parked: bool,
    /// Repair each payload in $VISUAL or $EDITOR first.
    #[arg(long, conflicts_with = "dry_run")]
    edit: bool,
    /// Do all of it but the COMMIT, and say what would be written; it is no attempt.
    #[arg(long)]
    dry_run: bool,
    /// Print what was done as one JSON document, with all that were rejected.
    #[arg(long, conflicts_with = "edit")]
    json: bool,
}

/// The rejected letters that are named one by one.
const MAX_NAMED: usize = 20;

/// What was done, or would be.
#[derive(Debug, Default)]
struct Done {
    written: usize,
    points: usize,
    rejected: usize,
    /// The numbers of those by reason.
    reasons: BTreeMap<&'static str, usize>,
    /// The first of them, or all for JSON.
    named: Vec<Again>,
    /// Those whose attempts were used up by this.
    parked: usize,
    elsewhere: usize,
    cut: usize,
    skipped: usize,
}

/// A letter that was rejected again.
#[derive(Debug)]
struct Again {
    id: i64,
    topic: String,
    partition: i32,
    offset: i64,
    rejected: Rejected,
    /// With this one, unless it was only tried.
    attempts: i32,
}

pub(super) async fn run(config: &Arc<Config>, database: &Database, arguments: &Redrive) -> Result<(), Failure> {
    let mut letters = Letters::new(config, database, &arguments.filter);
    let parked = if arguments.parked {
        0
    } else {
        let mut asked = arguments.filter.in_database();
        asked.from_attempts = Some(max_attempts(config));
        letters.asked.until_attempts = Some(max_attempts(config));
        database.count_letters(&asked).await?
    };
    let count = usize::try_from(database.count_letters(&letters.asked).await?).unwrap_or(usize::MAX);
    let bar = if arguments.edit { ProgressBar::hidden() } else { progress_bar(count, "letters") };
    let mut work = Work {
        database,
        wholes: Wholes { config: Arc::clone(config), rereader: None, unreachable: false },
        decoder: Decoder::new(config.message.limits()),
        defined: HashSet::new(),
        done: Done::default(),
        max_attempts: max_attempts(config),
        max_named: if arguments.json { usize::MAX } else { MAX_NAMED },
        mode: if arguments.dry_run { RedriveMode::Try } else { RedriveMode::Write },
        pauses: config.database.backoff(),
    };
    'pages: while let Some((page, read)) = letters.next().await? {
        bar.inc((read - page.len()) as u64);
        let (mut waiting, mut bytes) = (Vec::new(), 0);
        for letter in page {
            let Some((letter, payload)) = work.whole(letter).await else {
                bar.inc(1);
                continue;
            };
            if arguments.edit {
                if !work.edit(&letter, payload).await? {
                    break 'pages;
                }
                continue;
            }
            bytes += [&payload, &letter.message.key, &letter.message.headers]
                .into_iter()
                .flatten()
                .map(Vec::len)
                .sum::<usize>();
            waiting.push((letter, payload));
            if waiting.len() == MAX_LETTERS || bytes >= MAX_BYTES {
                work.write(&waiting).await?;
                bar.inc(waiting.len() as u64);
                waiting.clear();
                bytes = 0;
            }
        }
        work.write(&waiting).await?;
        bar.inc(waiting.len() as u64);
    }
    bar.finish_and_clear();
    if arguments.json {
        print_line(work.done.json(arguments.dry_run, parked, work.max_attempts));
    } else {
        work.done.report(arguments.dry_run, parked, work.max_attempts);
    }
    work.done.verdict(arguments.dry_run)
}

impl Done {
    fn report(&self, dry_run: bool, parked: u64, max_attempts: i32) {
        let verb = if dry_run { "would be written" } else { "written" };
        print_line(format_args!(
            "{} dead letters with {} points {verb}; {} rejected again",
            self.written, self.points, self.rejected
        ));
        for Again { id, topic, partition, offset, rejected, attempts } in &self.named {
            print_line(format_args!(
                "  dead letter {id}, {topic} partition {partition} offset {offset}: {}: {} (attempt {attempts} of {max_attempts})",
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
            print_line(format_args!("{parked} are parked after so many attempts; --parked takes them too"));
        }
    }
}

impl Done {
    fn json(&self, dry_run: bool, parked: u64, max_attempts: i32) -> Value {
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
        })
    }

    /// Returns an error if letters are left that this command has tried to write.
    fn verdict(&self, dry_run: bool) -> Result<(), Failure> {
        let verb = if dry_run { "would be" } else { "were" };
        match (self.rejected, self.cut) {
            (0, 0) => Ok(()),
            (rejected, 0) => Err(Failure::Rejected(format!("{rejected} dead letters {verb} rejected again"))),
            (rejected, cut) => {
                Err(Failure::Rejected(format!("{rejected} dead letters {verb} rejected again, {cut} are not whole")))
            }
        }
    }
}

struct Work<'a> {
    database: &'a Database,
    wholes: Wholes,
    decoder: Decoder,
    defined: HashSet<String>,
    done: Done,
    max_attempts: i32,
    /// The rejected letters that are kept to be named.
    max_named: usize,
    mode: RedriveMode,
    pauses: ExponentialBuilder,
}

impl Work<'_> {
    /// The letter with its whole key and headers, and its whole payload, where these can be had: what stands beside the payload
    /// is looked at, too.
    async fn whole(&mut self, mut letter: Letter) -> Option<(Letter, Option<Vec<u8>>)> {
        let cut = letter.message.cut();
        if cut.is_empty() {
            let payload = letter.message.payload.take();
            return Some((letter, payload));
        }
        match self.wholes.read(&letter).await {
            Ok(Whole { key, headers, payload }) => {
                (letter.message.key, letter.message.headers) = (key, headers);
                Some((letter, payload))
            }
            Err(why) => {
                for Cut { part, kept, bytes } in cut {
                    complain(
                        Level::WARN,
                        &format!("dead letter {} has {kept} of {bytes} bytes of its {part}: {why}", letter.message.id),
                    );
                }
                self.done.cut += 1;
                None
            }
        }
    }

    async fn write(&mut self, letters: &[(Letter, Option<Vec<u8>>)]) -> Result<(), Failure> {
        if letters.is_empty() {
            return Ok(());
        }
        let asked: Vec<OneRedrive<'_>> =
            letters.iter().map(|(letter, payload)| OneRedrive { letter, payload: payload.as_deref() }).collect();
        let redriven =
            self.database.redrive(&asked, self.mode, &mut self.decoder, &mut self.defined, &self.pauses).await?;
        self.done.points += redriven.points;
        for ((letter, _), fate) in letters.iter().zip(&redriven.fates) {
            match fate {
                Fate::Written => self.done.written += 1,
                Fate::Rejected(rejected) => self.note_rejected(letter, rejected),
                Fate::Elsewhere => self.done.elsewhere += 1,
            }
        }
        Ok(())
    }

    fn note_rejected(&mut self, letter: &Letter, rejected: &Rejected) {
        let attempts = letter.attempts + i32::from(self.mode == RedriveMode::Write);
        self.done.rejected += 1;
        *self.done.reasons.entry(rejected.reason.as_str()).or_default() += 1;
        self.done.parked += usize::from(letter.attempts < self.max_attempts && attempts >= self.max_attempts);
        if self.done.named.len() < self.max_named {
            self.done.named.push(Again {
                id: letter.message.id,
                topic: letter.source.topic.clone(),
                partition: letter.message.partition,
                offset: letter.message.offset,
                rejected: rejected.clone(),
                attempts,
            });
        }
    }

    /// Edits a letter until it is written or given up; whether to go on to the next.
    async fn edit(&mut self, letter: &Letter, payload: Option<Vec<u8>>) -> Result<bool, Failure> {
        print_line(format_args!(
            "dead letter {}, {} partition {} offset {}: {}: {}",
            letter.message.id,
            letter.source.topic,
            letter.message.partition,
            letter.message.offset,
            letter.message.reason,
            escaped(&letter.message.detail)
        ));
        if let Err(rejected) =
            self.decoder.check_envelope(letter.message.key.as_deref(), letter.message.headers.as_deref())
        {
            print_line(format_args!("--edit changes the payload alone: {}", escaped(&rejected.detail)));
            self.done.skipped += 1;
            return Ok(true);
        }
        let mut text = payload.unwrap_or_default();
        loop {
            text = edited(letter.message.id, &text)?;
            // Whether there is a series is for the database to say, each time.
            self.decoder.reject_series([]);
            let failure = match self.decoder.decode(letter.source.kind, Some(&text), &mut Points::default()) {
                Err(rejected) => rejected,
                Ok(_) => {
                    let asked = [OneRedrive { letter, payload: Some(&text) }];
                    // The row has the message as it came: what is wrong with another text is not its fault.
                    let mode = RedriveMode::WriteOnly;
                    let redriven =
                        self.database.redrive(&asked, mode, &mut self.decoder, &mut self.defined, &self.pauses).await?;
                    match redriven.fates.into_iter().next() {
                        Some(Fate::Rejected(rejected)) => rejected,
                        Some(Fate::Elsewhere) | None => {
                            print_line("another command has written, changed or deleted it meanwhile");
                            self.done.elsewhere += 1;
                            return Ok(true);
                        }
                        Some(Fate::Written) => {
                            print_line(format_args!(
                                "dead letter {} is written, with {} points",
                                letter.message.id, redriven.points
                            ));
                            self.done.written += 1;
                            self.done.points += redriven.points;
                            return Ok(true);
                        }
                    }
                }
            };
            match ask_again(&failure) {
                Next::Again => {}
                Next::Skip => {
                    self.done.skipped += 1;
                    return Ok(true);
                }
                Next::Quit => {
                    self.done.skipped += 1;
                    return Ok(false);
                }
            }
        }
    }
}

enum Next {
    Again,
    Skip,
    Quit,
}

fn ask_again(rejected: &Rejected) -> Next {
    print_line(format_args!("not written: {}: {}", rejected.reason.as_str(), escaped(&rejected.detail)));
    loop {
        print("[e]dit again, [s]kip it, [q]uit? ");
        match answer().as_deref() {
            Some("e" | "edit") => return Next::Again,
            Some("s" | "skip") => return Next::Skip,
            Some("q" | "quit") | None => return Next::Quit,
            Some(_) => {}
        }
    }
}

/// The text as the operator's editor leaves it, by a file that only this user may read.
fn edited(id: i64, text: &[u8]) -> Result<Vec<u8>, Failure> {
    let editor = ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var_os(name).filter(|value| !value.is_empty()));
    let editor =
        editor.ok_or_else(|| Failure::Usage("--edit needs an editor: set EDITOR, such as EDITOR=vi".to_owned()))?;
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|failure| Failure::Internal(failure.to_string()))?;
    let name = format!("series-ingest-dead-letter-{id}-{:016x}.json", u64::from_le_bytes(random));
    let file = Removed(std::env::temp_dir().join(name));
    let mut writer = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file.0)?;
    writer.write_all(text)?;
    drop(writer);
    // As other programs do: an editor may be given with arguments.
    let status = Command::new("sh").arg("-c").arg("$0 \"$1\"").arg(&editor).arg(&file.0).status()?;
    if !status.success() {
        return Err(Failure::Usage(format!("the editor ended with {status}: nothing was written of dead letter {id}")));
    }
    let mut text = std::fs::read(&file.0)?;
    // Editors end the last line; that is no part of the message.
    if text.ends_with(b"\n") {
        text.pop();
    }
    Ok(text)
}

/// A file that is removed at the end of its scope.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

/// Reads messages from Kafka of which the database has only the head.
struct Wholes {
    config: Arc<Config>,
    rereader: Option<Arc<Rereader>>,
    /// Whether the brokers did not answer: they are asked once, because each question takes its time-out.
    unreachable: bool,
}

impl Wholes {
    async fn read(&mut self, letter: &Letter) -> Result<Whole, String> {
        if self.unreachable {
            return Err("Kafka does not answer".to_owned());
        }
        let rereader = match &self.rereader {
            Some(rereader) => Arc::clone(rereader),
            None => {
                let new = Rereader::new(&self.config.kafka).map_err(|failure| failure.to_string())?;
                Arc::clone(self.rereader.insert(Arc::new(new)))
            }
        };
        let (source, partition, offset) = (Arc::clone(&letter.source), letter.message.partition, letter.message.offset);
        let read = tokio::task::spawn_blocking(move || rereader.read(&source, partition, offset)).await;
        match read.map_err(|failure| failure.to_string())? {
            Ok(Some(whole)) => Ok(whole),
            Ok(None) => Err("Kafka no longer has the message, or its topic or cluster is another one now".to_owned()),
            Err(failure) => {
                self.unreachable = true;
                Err(failure.to_string())
            }
        }
    }
}
