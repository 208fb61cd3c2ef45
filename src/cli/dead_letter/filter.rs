//! The filter of dead letters for a command, which are read page by page.

use clap::Args;
use jiff::Timestamp;

use crate::cli::Failure;
use crate::config::Config;
use crate::database::Database;
use crate::database::dead_letters::{Letter, LetterFilter};
use crate::input::Inputs;
use crate::message::series_of;

/// Number of letters that are read at once, and held in memory.
pub(super) const PAGE: usize = 500;

#[derive(Debug, Args)]
pub(in crate::cli) struct Filter {
    /// Only this dead letter; may be repeated.
    #[arg(long, value_name = "ID")]
    id: Vec<i64>,
    /// Only this reason, such as `schema`.
    #[arg(long)]
    reason: Option<String>,
    /// Only this topic, or file.
    #[arg(long, allow_hyphen_values = true)]
    pub(super) topic: Option<String>,
    /// Only this partition.
    #[arg(long)]
    partition: Option<i32>,
    /// Only this series, if the payloads name it.
    #[arg(long, value_name = "ID")]
    pub(super) series: Option<String>,
    /// Only from this offset on.
    #[arg(long)]
    from_offset: Option<i64>,
    /// Only below this offset.
    #[arg(long)]
    until_offset: Option<i64>,
    /// Only messages that were produced at this time or later, such as 2026-01-31T12:00:00Z.
    #[arg(long)]
    from_time: Option<Timestamp>,
    /// Only messages that were produced before this time.
    #[arg(long)]
    until_time: Option<Timestamp>,
    /// Only messages that became dead letters at this time or later.
    #[arg(long)]
    created_from: Option<Timestamp>,
    /// Only messages that became dead letters before this time.
    #[arg(long)]
    created_until: Option<Timestamp>,
}

impl Filter {
    /// Returns the filter for the database; the series is looked for in what it returns.
    pub(super) fn in_database(&self) -> LetterFilter {
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

/// Returns the series that the payload names, if it can be read.
pub(super) fn series_of_letter(letter: &Letter) -> Option<String> {
    letter.message.payload.as_deref().and_then(series_of)
}

/// The dead letters of a filter, page by page in the order of their ids.
pub(super) struct Letters<'a> {
    pub(super) inputs: Inputs,
    database: &'a Database,
    filter: &'a Filter,
    pub(super) asked: LetterFilter,
    above: i64,
    pub(super) page: usize,
}

impl<'a> Letters<'a> {
    pub(super) fn new(config: &'a Config, database: &'a Database, filter: &'a Filter) -> Self {
        Self { inputs: config.inputs(), database, filter, asked: filter.in_database(), above: i64::MIN, page: PAGE }
    }

    /// Returns the next page without the letters of other series, and the number of letters that the database returned; `None`
    /// after the last page.
    pub(super) async fn next(&mut self) -> Result<Option<(Vec<Letter>, usize)>, Failure> {
        let kind_of = |topic: &str| self.inputs.kind_of(topic);
        let mut page = self.database.letters(&self.asked, self.above, self.page, kind_of).await?;
        let Some(last) = page.last() else { return Ok(None) };
        self.above = last.message.id;
        let count = page.len();
        page.retain(|letter| self.filter.takes(letter));
        Ok(Some((page, count)))
    }
}
