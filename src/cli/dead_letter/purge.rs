//! `dead-letter purge`.

use std::io::IsTerminal as _;

use super::filter::{Filter, Letters, PAGE};
use crate::cli::output::{print, print_line, read_answer};
use crate::cli::{Failure, progress_bar};
use crate::config::Config;
use crate::database::Database;
use crate::database::dead_letters::Letter;

pub(super) struct Purge {
    pub(super) counts: bool,
    pub(super) dry_run: bool,
    pub(super) yes: bool,
}

pub(super) async fn run(config: &Config, database: &Database, filter: &Filter, purge: Purge) -> Result<(), Failure> {
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
        if !matches!(read_answer().as_deref(), Some("y" | "yes")) {
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
