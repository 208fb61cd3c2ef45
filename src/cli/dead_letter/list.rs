//! `dead-letter list` and `dead-letter counts`.

use serde_json::{Value, json};

use super::filter::{Filter, Letters, PAGE, series_of_letter};
use super::max_attempts;
use super::show::{described, time};
use crate::cli::Failure;
use crate::cli::output::{self, print, print_line};
use crate::config::Config;
use crate::database::Database;
use crate::database::dead_letters::Letter;
use crate::telemetry::{escaped, one_line};

/// Maximum length of a detail in the table, in characters.
const SHOWN_DETAIL: usize = 100;

pub(super) async fn list(
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
                known.only_counted,
                one_line(&known.topic),
                known.partition,
                known.reason
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
        one_line(&letter.source.topic),
        letter.message.partition,
        letter.message.offset,
        letter.message.reason,
        attempts,
        escaped(&series).to_string(),
        escaped(&detail),
    ));
}

pub(super) async fn counts(database: &Database, json: bool) -> Result<(), Failure> {
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
            one_line(&known.topic),
            known.partition,
            known.reason,
            known.kept,
            known.only_counted,
            known.redriven
        ));
    }
    Ok(())
}
