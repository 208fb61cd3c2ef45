//! The files of a series: one, or one for each part of its times.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use jiff::Timestamp;
use tracing::Level;

use super::targets::Targets;
use crate::cli::output::complain;
use crate::files;
use crate::files::write::{Head, Writer};
use crate::repository::export::{Part, first_time, part_start};
use crate::telemetry::{list, shown};

/// The files of a series, one after the other.
pub(super) struct Parts<'a> {
    pub(super) head: Head,
    pub(super) folder: &'a Path,
    /// Where the part begins, its file, and its rows.
    pub(super) open: Option<(Option<i64>, PathBuf, Writer, u64)>,
    pub(super) done: Vec<(PathBuf, u64)>,
    /// The files that the command has written, by device and inode.
    pub(super) written: &'a mut HashSet<(u64, u64)>,
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

impl Parts<'_> {
    pub(super) fn begin(
        &mut self,
        targets: &Targets,
        series: &str,
        part: Option<(Part, i64)>,
    ) -> Result<(), files::Error> {
        let name = part.map(|(part, start)| part_name(part, start));
        let path = targets.path_in(self.folder, series, name.as_deref());
        // Of two names that a link or the file system makes the same.
        if identity(&path).is_some_and(|file| self.written.contains(&file)) {
            return Err(files::Error::Twice(path));
        }
        targets.refuse_existing(&path)?;
        let writer = targets.open_file(&path, &self.head)?;
        self.open = Some((part.map(|(_, start)| start), path, writer, 0));
        Ok(())
    }

    pub(super) fn write(
        &mut self,
        targets: &Targets,
        series: &str,
        part: Option<Part>,
        batch: &RecordBatch,
    ) -> Result<(), files::Error> {
        let start = part.and_then(|part| Some((part, part_start(part, first_time(batch)?))));
        let is_open = self.open.as_ref().is_some_and(|(open, ..)| *open == start.map(|(_, start)| start));
        if !is_open {
            self.end()?;
            self.begin(targets, series, start)?;
        }
        if let Some((_, _, writer, rows)) = &mut self.open {
            writer.write(batch)?;
            *rows += batch.num_rows() as u64;
        }
        Ok(())
    }

    pub(super) fn end(&mut self) -> Result<(), files::Error> {
        if let Some((_, path, writer, rows)) = self.open.take() {
            warn_of_ambiguous_columns(&path, &writer);
            writer.finish()?;
            self.written.extend(identity(&path));
            self.done.push((path, rows));
        }
        Ok(())
    }
}

/// Says which columns of a wide file an import does not restore as they were.
pub(super) fn warn_of_ambiguous_columns(path: &Path, writer: &Writer) {
    let columns = writer.ambiguous_columns();
    if !columns.is_empty() {
        let text = format!(
            "{}: null is both a point without a value and no point in {}: where this matters, export with --long",
            shown(path),
            list(columns.iter().map(String::as_str))
        );
        complain(Level::WARN, &text);
    }
}

fn part_name(part: Part, start_us: i64) -> String {
    let text = Timestamp::from_microsecond(start_us).map_or_else(|_| format!("{start_us}us"), |time| time.to_string());
    let digits = match part {
        Part::Day => "2025-01-01".len(),
        Part::Month => "2025-01".len(),
    };
    match text.find('T') {
        Some(end) => text[..end.min(digits)].to_owned(),
        None => text,
    }
}
