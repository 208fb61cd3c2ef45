//! `dead-letter redrive --edit`: letters whose payloads an operator repairs one by one.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use super::Work;
use crate::cli::Failure;
use crate::cli::output::read_answer;
use crate::cli::output::{print, print_line};
use crate::database::dead_letters::{Fate, Letter, Redrive, RedriveMode};
use crate::message::{Points, Rejected};
use crate::raw::RawMessage;
use crate::telemetry::{escaped, one_line};

/// The result of writing an edited letter.
enum Edited {
    /// It needs nothing further.
    Finished,
    Rejected(Rejected),
}

impl Work<'_> {
    /// Edits a letter until it is written or skipped. Returns `false` if the operator stops.
    pub(super) async fn edit(&mut self, letter: &Letter, payload: Option<Vec<u8>>) -> Result<bool, Failure> {
        print_line(format_args!(
            "dead letter {}, {} partition {} offset {}: {}: {}",
            letter.message.id,
            one_line(&letter.source.topic),
            letter.message.partition,
            letter.message.offset,
            letter.message.reason,
            escaped(&letter.message.detail)
        ));
        if let Err(rejected) = self.decoder.check_envelope(
            &letter.source,
            letter.message.key.as_deref(),
            letter.message.headers.as_deref(),
        ) {
            print_line(format_args!("--edit changes the payload alone: {}", escaped(&rejected.detail)));
            self.done.skipped += 1;
            return Ok(true);
        }
        let mut text = payload.unwrap_or_default();
        loop {
            text = edited(letter.message.id, &text)?;
            let Edited::Rejected(rejected) = self.write_edited(letter, &text).await? else { return Ok(true) };
            match ask_again(&rejected) {
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

    /// Writes a letter with another payload.
    async fn write_edited(&mut self, letter: &Letter, text: &[u8]) -> Result<Edited, Failure> {
        // Only the database knows whether a series exists, each time.
        self.decoder.reject_series([]);
        let message = RawMessage {
            offset: letter.message.offset,
            time_ms: letter.message.time_ms,
            key: letter.message.key.as_deref(),
            payload: Some(text),
            headers: letter.message.headers.as_deref(),
        };
        if let Err(rejected) = self.decoder.decode(&letter.source, &message, &mut Points::default()) {
            return Ok(Edited::Rejected(rejected));
        }
        let asked = [Redrive { letter, payload: Some(text) }];
        // The row has the original message: an error in an edited text is not recorded in it.
        let mode = RedriveMode::WriteOnly;
        let redriven = self.database.redrive(&asked, mode, &self.decoder, &mut self.defined, &self.pauses).await?;
        match redriven.fates.into_iter().next() {
            Some(Fate::Rejected(rejected)) => return Ok(Edited::Rejected(rejected)),
            Some(Fate::Elsewhere) | None => {
                print_line("another command has written, changed or deleted it meanwhile");
                self.done.elsewhere += 1;
            }
            Some(Fate::Written) => {
                print_line(format_args!(
                    "dead letter {} is written, with {} points",
                    letter.message.id, redriven.points
                ));
                self.done.written += 1;
                self.done.points += redriven.points;
            }
        }
        Ok(Edited::Finished)
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
        match read_answer().as_deref() {
            Some("e" | "edit") => return Next::Again,
            Some("s" | "skip") => return Next::Skip,
            Some("q" | "quit") | None => return Next::Quit,
            Some(_) => {}
        }
    }
}

/// Returns the text as edited in the operator's editor, through a file that only this user may read.
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
    // As in other programs, the variable may contain arguments for the editor.
    let status = Command::new("sh").arg("-c").arg("$0 \"$1\"").arg(&editor).arg(&file.0).status()?;
    if !status.success() {
        return Err(Failure::Usage(format!("the editor ended with {status}: nothing was written of dead letter {id}")));
    }
    let mut text = std::fs::read(&file.0)?;
    // Editors end the last line; the line end is not part of the message.
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
