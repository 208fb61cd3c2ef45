//! `dead-letter redrive`: writes letters into the database, each once.

mod edit;
mod message_fetcher;
mod report;

use std::collections::HashSet;
use std::sync::Arc;

use backon::ExponentialBuilder;
use clap::Args;
use indicatif::ProgressBar;
use tracing::Level;

use super::filter::{Filter, Letters};
use super::max_attempts;
use crate::cli::output::{complain, print_line};
use crate::cli::{Failure, progress_bar};
use crate::config::Config;
use crate::database::Database;
use crate::database::dead_letters::{Cut, Fate, Letter, Redrive as OneRedrive, RedriveMode};
use crate::input::{DECODED_NOW, Decoder, Inputs};
use crate::kafka::message_fetcher::FullMessage;
use crate::message::Rejected;
use message_fetcher::Wholes;
use report::{Again, Done};

/// Maximum number of letters in one transaction: more is faster, and less is lost when it is rolled back.
const MAX_LETTERS: usize = 500;
const MAX_BYTES: usize = 8 * 1024 * 1024;
/// Maximum number of rejected letters that are listed individually.
const MAX_NAMED: usize = 20;

#[derive(Debug, Args)]
pub(in crate::cli) struct Redrive {
    #[command(flatten)]
    filter: Filter,
    /// Also redrive parked dead letters.
    #[arg(long)]
    parked: bool,
    /// Decode the letters of --topic as messages of this input, such as `points` for those of a renamed kafka.points_topic.
    #[arg(long, value_name = "NAME", requires = "topic")]
    as_input: Option<String>,
    /// Repair each payload in $VISUAL or $EDITOR first.
    #[arg(long, conflicts_with = "dry_run")]
    edit: bool,
    /// Do everything except the COMMIT, and print what would be written; it does not count as an attempt.
    #[arg(long)]
    dry_run: bool,
    /// Print the result as one JSON document, with all that were rejected.
    #[arg(long, conflicts_with = "edit")]
    json: bool,
}

pub(super) async fn run(config: &Arc<Config>, database: &Database, arguments: &Redrive) -> Result<(), Failure> {
    let inputs = inputs_of(config, arguments)?;
    let mut letters = Letters::new(config, database, &arguments.filter);
    letters.inputs = inputs.clone();
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
        wholes: Wholes::new(config),
        decoder: Decoder::new(config.message.limits(), inputs).with_max_age(config.message.max_age_us()),
        defined: HashSet::new(),
        is_said: false,
        done: Done::default(),
        max_attempts: max_attempts(config),
        max_named: if arguments.json { usize::MAX } else { MAX_NAMED },
        mode: if arguments.dry_run { RedriveMode::Try } else { RedriveMode::Write },
        pauses: config.database.backoff(),
    };
    work.run(&mut letters, arguments.edit, &bar).await?;
    bar.finish_and_clear();
    if arguments.json {
        print_line(work.done.json(arguments.dry_run, parked, work.max_attempts));
    } else {
        work.done.report(arguments.dry_run, parked, work.max_attempts);
    }
    work.done.verdict(arguments.dry_run)
}

/// The inputs by which the letters are decoded.
fn inputs_of(config: &Config, arguments: &Redrive) -> Result<Inputs, Failure> {
    let inputs = config.inputs();
    let (Some(name), Some(topic)) = (&arguments.as_input, &arguments.filter.topic) else { return Ok(inputs) };
    let known = inputs.iter().map(|input| input.name.as_str()).collect::<Vec<_>>().join(", ");
    let unknown = || Failure::Usage(format!("--as-input {name}: there is no input of this name; there are: {known}"));
    inputs.reading_as(topic, name).ok_or_else(unknown)
}

struct Work<'a> {
    database: &'a Database,
    wholes: Wholes,
    decoder: Decoder,
    defined: HashSet<String>,
    /// `true` if it was reported that inputs decode with their present configuration.
    is_said: bool,
    done: Done,
    max_attempts: i32,
    /// Maximum number of rejected letters that are kept for the list.
    max_named: usize,
    mode: RedriveMode,
    pauses: ExponentialBuilder,
}

impl Work<'_> {
    /// Writes all letters, or edits them one by one.
    async fn run(&mut self, letters: &mut Letters<'_>, edit: bool, bar: &ProgressBar) -> Result<(), Failure> {
        'pages: while let Some((page, read)) = letters.next().await? {
            bar.inc((read - page.len()) as u64);
            let (mut waiting, mut bytes) = (Vec::new(), 0);
            for letter in page {
                // Nothing was tried, so it is not an attempt.
                if !self.decoder.inputs().can_decode(&letter.source) {
                    *self.done.of_no_input.entry(letter.source.topic.clone()).or_default() += 1;
                    bar.inc(1);
                    continue;
                }
                let Some((letter, payload)) = self.complete(letter).await else {
                    bar.inc(1);
                    continue;
                };
                if edit {
                    if !self.edit(&letter, payload).await? {
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
                    self.write(&waiting).await?;
                    bar.inc(waiting.len() as u64);
                    waiting.clear();
                    bytes = 0;
                }
            }
            self.write(&waiting).await?;
            bar.inc(waiting.len() as u64);
        }
        Ok(())
    }

    /// Returns the letter with its whole key and headers, and its whole payload, if these are available: key and headers are
    /// checked, too.
    async fn complete(&mut self, mut letter: Letter) -> Option<(Letter, Option<Vec<u8>>)> {
        let cut = letter.message.cut();
        if cut.is_empty() {
            let payload = letter.message.payload.take();
            return Some((letter, payload));
        }
        match self.wholes.read(&letter).await {
            Ok(FullMessage { key, headers, payload }) => {
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
        let inputs = self.decoder.inputs();
        if !self.is_said && letters.iter().any(|(letter, _)| inputs.is_configured(&letter.source)) {
            self.is_said = true;
            complain(Level::INFO, DECODED_NOW);
        }
        let asked: Vec<OneRedrive<'_>> =
            letters.iter().map(|(letter, payload)| OneRedrive { letter, payload: payload.as_deref() }).collect();
        let redriven = self.database.redrive(&asked, self.mode, &self.decoder, &mut self.defined, &self.pauses).await?;
        self.done.points += redriven.points;
        for ((letter, _), fate) in letters.iter().zip(&redriven.fates) {
            match fate {
                Fate::Written => self.done.written += 1,
                Fate::Rejected(rejected) => self.record_rejected(letter, rejected),
                Fate::Elsewhere => self.done.elsewhere += 1,
            }
        }
        Ok(())
    }

    fn record_rejected(&mut self, letter: &Letter, rejected: &Rejected) {
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
}
