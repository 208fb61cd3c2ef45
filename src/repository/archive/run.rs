//! One unit after the other: into a file, compared, dropped.

use std::path::{Path, PathBuf};

use super::export::{content_hash, export};
use super::folder::{Folder, Known};
use super::older::{Older, settle};
use super::origin::Origin;
use super::remove::{drop_empty, remove};
use super::session::Session;
use super::summary::Summary;
use super::units::{Storage, units};
use super::verify::verify;
use super::{ANSWER_TIMEOUT, ArchiveError, POINTS, Unit};
use crate::config;
use crate::database::Step;
use crate::raw::FILE_CLUSTER;
use crate::repository::Snapshot;
use crate::telemetry;

/// Number of times that a unit is exported again because points came meanwhile.
const MAX_ROUNDS: usize = 20;

/// What an archive is to do.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The age of the points, in microseconds, from which on they are archived.
    pub older_than_us: i64,
    /// Changes nothing.
    pub dry_run: bool,
    /// Writes and verifies files, and drops nothing.
    pub keep: bool,
}

/// What was done with a unit, or would be done.
#[derive(Debug, Clone)]
pub struct Archived {
    /// The unit.
    pub unit: Unit,
    /// The number of its points.
    pub rows: u64,
    /// The number of their series, if it is known.
    pub series: Option<u64>,
    /// The file with them.
    pub file: Option<PathBuf>,
    /// Its length in bytes, and its SHA-256.
    pub stored: Option<(u64, String)>,
    /// `true` if the file was written now; `false` if it was there, and has been verified again.
    pub is_new: bool,
    /// `true` if the points were dropped.
    pub is_dropped: bool,
    /// Older files that were removed, because this one has all of their points, which were still in the table, or there again.
    pub removed: Vec<PathBuf>,
    /// Older files that were renamed, because they have points that the table no longer has.
    pub set_aside: Vec<PathBuf>,
    /// `true` if an empty chunk is left, because other sessions were in the way.
    pub is_chunk_left: bool,
}

impl Archived {
    fn new(unit: Unit) -> Self {
        Self {
            unit,
            rows: 0,
            series: None,
            file: None,
            stored: None,
            is_new: false,
            is_dropped: false,
            removed: Vec::new(),
            set_aside: Vec::new(),
            is_chunk_left: false,
        }
    }
}

/// An archive of old points.
#[derive(Debug)]
pub struct Archive {
    config: config::Database,
    session: Session,
    folder: Folder,
    origin: Origin,
    storage: Storage,
    units: Vec<Unit>,
    options: Options,
}

/// How much of a file the database has imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Import {
    No,
    Partly,
    Whole,
}

impl Archive {
    /// Finds out what is to be archived. Unless it is a dry run, the database and the folder are locked against other archives.
    ///
    /// # Errors
    /// If the server does not answer, another archive is at work, or this role may not drop points.
    pub async fn open(config: &config::Database, path: &Path, options: Options) -> Result<Self, ArchiveError> {
        let session = Session::open(config).await?;
        let folder = if options.dry_run {
            Folder::at(path)
        } else {
            session.lock().await?;
            session.check_rights().await?;
            Folder::open(path)?
        };
        let origin = session.origin().await?;
        let cutoff_us = session.now_us().await?.saturating_sub(options.older_than_us);
        let (storage, units) = units(&session, cutoff_us).await?;
        Ok(Self { config: config.clone(), session, folder, origin, storage, units, options })
    }

    /// What is archived, the oldest first.
    pub fn units(&self) -> &[Unit] {
        &self.units
    }

    /// Archives a unit. `total` gets its number of points, each time that they are exported, and `progress` numbers of points that
    /// were exported.
    ///
    /// # Errors
    /// If a step fails; then its points are in the table, or were dropped and are in a file that was verified.
    pub async fn archive(
        &self,
        unit: &Unit,
        total: &(impl Fn(u64) + Sync),
        progress: &(impl Fn(u64) + Sync),
    ) -> Result<Archived, ArchiveError> {
        let mut archived = Archived::new(*unit);
        for _ in 0..MAX_ROUNDS {
            let (known, next) = self.folder.files_of(unit)?;
            let imports = self.imports(&known).await?;
            let snapshot = Snapshot::open(&self.config).await?.with_limit(ANSWER_TIMEOUT);
            let summary = Summary::of_snapshot(&snapshot, unit).await?;
            if summary.rows == 0 {
                drop(snapshot);
                self.drop_empty(&mut archived).await?;
                return Ok(archived);
            }
            archived.rows = summary.rows.unsigned_abs();
            let chosen = self.existing(&snapshot, unit, &known, &summary).await?;
            archived.is_new |= chosen.is_none();
            if self.options.dry_run {
                archived.file = chosen.map(|chosen| chosen.path);
                return Ok(archived);
            }
            let chosen = if let Some(chosen) = chosen {
                chosen
            } else {
                total(archived.rows);
                let path = self.folder.new_file(unit, next)?;
                export(&snapshot, unit, (&path, next), (&self.origin, summary.clone()), progress).await?
            };
            // An old snapshot keeps the server from removing dead rows.
            drop(snapshot);
            self.verify(&chosen, &mut archived).await?;
            self.settle(unit, (&known, &imports), &chosen, &mut archived).await?;
            if self.options.keep {
                return Ok(archived);
            }
            // An import that went on meanwhile has stored points in the unit, or will.
            if self.imports(&known).await? != imports {
                continue;
            }
            let is_imported =
                known.iter().zip(&imports).any(|(one, import)| one.path == chosen.path && *import == Import::Whole);
            let hash = chosen.manifest.as_ref().map(|manifest| manifest.sha256.as_str()).filter(|_| is_imported);
            if remove(&self.session, (self.storage, unit), &summary, hash).await? {
                archived.is_dropped = true;
                self.drop_empty(&mut archived).await?;
                return Ok(archived);
            }
        }
        Err(ArchiveError::Busy(format!(
            "points of {} keep coming: they were exported {MAX_ROUNDS} times, and nothing was dropped. Run the command again later",
            unit.text()
        )))
    }

    async fn drop_empty(&self, archived: &mut Archived) -> Result<(), ArchiveError> {
        if self.storage == Storage::Chunks && !self.options.keep && !self.options.dry_run {
            archived.is_chunk_left = !drop_empty(&self.session, &archived.unit).await?;
        }
        Ok(())
    }

    /// How much of each file the database has imported back.
    ///
    /// # Errors
    /// [`ArchiveError::Usage`] if one was imported partly, or is of another database.
    async fn imports(&self, known: &[Known]) -> Result<Vec<Import>, ArchiveError> {
        let mut imports = Vec::new();
        for one in known {
            let Some(manifest) = &one.manifest else {
                imports.push(Import::No);
                continue;
            };
            if manifest.origin.database_id != self.origin.database_id {
                return Err(ArchiveError::Usage(format!(
                    "{} has points of another database, {:?}: choose another folder",
                    one.path.display(),
                    manifest.origin.database
                )));
            }
            let import = self.import_of(&manifest.sha256, manifest.rows).await?;
            if import == Import::Partly {
                return Err(ArchiveError::Usage(format!(
                    "{} was imported partly: run `series-ingest points import` for it to its end, and then archive again",
                    one.path.display()
                )));
            }
            imports.push(import);
        }
        Ok(imports)
    }

    async fn import_of(&self, hash: &str, rows: u64) -> Result<Import, ArchiveError> {
        let sql = "select next_offset, ahead = '{}' from ingest_progress
                   where partition = 0 and source_id in (
                       select id from ingest_source where cluster_id = $1 and starts_with(topic_id, $2))";
        let found = self.session.query(Step::Other("look for imports"), sql, &[&FILE_CLUSTER, &hash]).await?;
        let mut import = Import::No;
        for row in &found {
            let (next, has_no_islands): (i64, bool) = (row.get(0), row.get(1));
            if has_no_islands && next > i64::try_from(rows).unwrap_or(i64::MAX) {
                import = if import == Import::Partly { import } else { Import::Whole };
            } else if !has_no_islands || next > crate::files::read::FIRST_ROW {
                import = Import::Partly;
            }
        }
        Ok(import)
    }

    /// A file that has the points of a unit as they are now: of just these rows, or of rows with the same content.
    async fn existing(
        &self,
        snapshot: &Snapshot,
        unit: &Unit,
        known: &[Known],
        summary: &Summary,
    ) -> Result<Option<Known>, ArchiveError> {
        let described = || known.iter().rev().filter_map(|one| one.manifest.as_ref().map(|manifest| (one, manifest)));
        if let Some((found, _)) = described().find(|(_, manifest)| manifest.table_summary == *summary) {
            return Ok(Some(found.clone()));
        }
        if !described().any(|(_, manifest)| manifest.table_summary.rows == summary.rows) {
            return Ok(None);
        }
        let hash = content_hash(snapshot, unit).await?;
        let found = described().find(|(_, manifest)| manifest.content_sha256 == hash);
        Ok(found.map(|(found, _)| found.clone()))
    }

    async fn verify(&self, chosen: &Known, archived: &mut Archived) -> Result<(), ArchiveError> {
        let (path, manifest) = (chosen.path.clone(), chosen.manifest.clone());
        let manifest = manifest.ok_or_else(|| ArchiveError::Internal("a file has no manifest".to_owned()))?;
        archived.series = Some(manifest.series);
        archived.file = Some(path.clone());
        archived.stored = Some((manifest.bytes, manifest.sha256.clone()));
        let verified = tokio::task::spawn_blocking(move || verify(&path, &manifest)).await;
        verified.map_err(|error| ArchiveError::Internal(error.to_string()))?.map_err(|why| {
            ArchiveError::Damaged(format!(
                "{why}. Its points are still in the table, and nothing of them was dropped: move the file away, and run the \
                 command again for another one"
            ))
        })
    }

    /// Removes or renames the other files whose points were not dropped, or are back.
    async fn settle(
        &self,
        unit: &Unit,
        (known, imports): (&[Known], &[Import]),
        chosen: &Known,
        archived: &mut Archived,
    ) -> Result<(), ArchiveError> {
        #[cfg(feature = "planted-bugs")]
        if crate::planted_bugs::is_on("archive-keeps-older-files") {
            return Ok(());
        }
        for (one, import) in known.iter().zip(imports).filter(|(one, _)| one.path != chosen.path) {
            let is_redundant = match &one.manifest {
                None => true,
                Some(_) if *import == Import::Whole => true,
                Some(manifest) => self.has_any(unit, &manifest.sample_ids).await?,
            };
            if !is_redundant {
                continue;
            }
            let (older, newer) = (one.clone(), chosen.path.clone());
            let settled = tokio::task::spawn_blocking(move || settle(&older, &newer)).await;
            match settled.map_err(|error| ArchiveError::Internal(error.to_string()))?? {
                Older::Removed(path) => archived.removed.push(path),
                Older::SetAside(path) => archived.set_aside.push(path),
            }
        }
        Ok(())
    }

    /// Returns `true` if a unit has a row with one of these ids.
    async fn has_any(&self, unit: &Unit, ids: &[i64]) -> Result<bool, ArchiveError> {
        let sql = format!("select exists (select from {POINTS} where id = any ($1) and {})", unit.condition());
        let rows = self.session.query(Step::Other("look for points of a file"), &sql, &[&ids]).await?;
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }
}

impl Unit {
    /// It as a text, for people.
    pub(super) fn text(&self) -> String {
        format!("{} to {}", telemetry::time_us(self.from_us), telemetry::time_us(self.until_us))
    }
}
