//! The write transaction: points by COPY, claim, dead letters, COMMIT.

use std::sync::Arc;
use std::time::Instant;

use tracing::debug;

use super::duplicates::Store;
use super::error::{Class, Error};
use super::progress::{Applied, Claim, Resolved};
use super::session::Session;
use super::{Asked, Database, bisect, chunks, dead_letters, series};
use crate::batch::{Batch, DeadLetter, MessageAt, Source};
use crate::config::UnknownSeries;
use crate::message::{Decoder, Rejected};
use crate::telemetry::metrics;

/// Whether the server is known to refuse rows of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rows {
    /// One COPY takes them all.
    Together,
    /// They are copied in pieces, to find those that are refused.
    Apart,
}

/// Which way a batch is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// COPY first, claim last: the locks of partitions are held for the COMMIT only. Fails where anything of it is applied already.
    Fast,
    /// Claim first, and copy only what was missing: after any doubt.
    Slow,
    /// As [`Path::Fast`], for what comes from a journal.
    JournalFast,
    /// As [`Path::Slow`], for what comes from a journal: what lies in gaps counts as missing, and fills them.
    JournalSlow,
}

impl Path {
    /// Whether it fails where anything is applied already.
    pub fn is_fast(self) -> bool {
        matches!(self, Self::Fast | Self::JournalFast)
    }

    /// The way that is right when an attempt has failed, or for a part of a batch.
    pub fn after_doubt(self) -> Self {
        match self {
            Self::Fast | Self::Slow => Self::Slow,
            Self::JournalFast | Self::JournalSlow => Self::JournalSlow,
        }
    }
}

/// What a committed transaction has done.
#[derive(Debug)]
pub struct Written {
    /// Points written now.
    pub points: usize,
    /// Points of the batch that were applied already.
    pub skipped: usize,
    /// Points that change nothing, because of others of the same series, column and time.
    pub duplicates: usize,
    /// The messages that became dead letters now.
    pub dead_letters: Vec<(MessageAt, Rejected)>,
    /// How many of these are counted, and not stored.
    pub only_counted: u64,
    /// The next offset of each partition.
    pub applied: Vec<Applied>,
}

impl Database {
    /// Writes a batch in one transaction.
    ///
    /// # Errors
    /// [`Error::class`] says what is to be done. After any error but a refused row the batch is to be tried again on
    /// [`Path::Slow`]: it may be committed.
    pub async fn write(&self, batch: &Batch, path: Path, decoder: &mut Decoder) -> Result<Written, Error> {
        let start = Instant::now();
        let mut result = self.try_write(batch, path, Rows::Together, decoder).await;
        if let Err(refused) = &result
            && refused.is_refused_row()
        {
            debug!(%refused, messages = batch.message_count(), "the database refuses a row; looking for its message");
            result = self.try_write(batch, path.after_doubt(), Rows::Apart, decoder).await;
        }
        match &result {
            Ok(_) => {
                self.note_success(Asked::Write);
                metrics::transaction_took(start.elapsed());
            }
            Err(failure) => {
                self.note_failure(failure, Asked::Write);
                if failure.is_missing_series() {
                    self.known_series.forget();
                }
            }
        }
        result
    }

    async fn try_write(&self, batch: &Batch, path: Path, rows: Rows, decoder: &mut Decoder) -> Result<Written, Error> {
        let mut session = self.session().await?;
        let intervals = batch.intervals();
        let sources: Vec<&Arc<Source>> = intervals.iter().map(|interval| &interval.source).collect();
        let ids = self.sources.resolve(&mut session, &self.pipeline, &sources).await?;
        series::define(&mut session, &ids, batch.definitions()).await?;
        let without_unknown = self.without_unknown_series(&mut session, batch, decoder).await?;
        let batch = without_unknown.as_ref().unwrap_or(batch);
        series::see(&mut session, &self.known_series, batch.points()).await?;
        chunks::make(&mut session, &self.known_chunks, batch.points()).await?;

        session.begin().await?;
        match self.fill(&mut session, batch, &ids, (path, rows), decoder).await {
            Ok(written) => {
                session.commit().await?;
                Ok(written)
            }
            Err(failure) => {
                // The server has answered, so its transaction can be ended; after anything else the connection is dropped.
                if failure.from_server().is_some() && failure.class() != Class::Outage {
                    session.roll_back().await;
                }
                Err(failure)
            }
        }
    }

    /// Where points of an unknown series are to be dead letters: the batch decoded again, if it has any.
    async fn without_unknown_series(
        &self,
        session: &mut Session,
        batch: &Batch,
        decoder: &mut Decoder,
    ) -> Result<Option<Batch>, Error> {
        if self.unknown_series == UnknownSeries::Create {
            return Ok(None);
        }
        // What was unknown in an earlier attempt may have been created since.
        decoder.reject_series([]);
        let unknown = series::without_row(session, batch.points()).await?;
        if unknown.is_empty() {
            return Ok(None);
        }
        decoder.reject_series(unknown);
        Ok(Some(batch.decoded_again(decoder)))
    }

    async fn fill(
        &self,
        session: &mut Session,
        batch: &Batch,
        ids: &Resolved,
        (path, rows): (Path, Rows),
        decoder: &mut Decoder,
    ) -> Result<Written, Error> {
        let intervals = batch.intervals();
        let claim = Claim::new(&intervals, ids)?;
        let store = Store { on_duplicate: self.on_duplicate, ids };
        if path.is_fast() {
            let rows = self.copy(session, batch, store).await?;
            let applied = claim.all(session).await?;
            let mut written = written(batch, 0, applied);
            written.stored(rows, batch.points().len());
            written.only_counted = self.insert_dead_letters(session, ids, batch, &[]).await?;
            return Ok(written);
        }
        let missing = match path {
            Path::JournalFast | Path::JournalSlow => claim.journaled(session).await?,
            Path::Fast | Path::Slow => claim.missing(session).await?,
        };
        let applied = claim.next_offsets(session).await?;
        let part = (missing != intervals).then(|| batch.keep(&missing, decoder));
        if let Some(part) = &part {
            debug!(
                messages = part.message_count(),
                of = batch.message_count(),
                "a part of the batch was applied already"
            );
        }
        let part = part.as_ref().unwrap_or(batch);
        let mut written = written(part, batch.points().len() - part.points().len(), applied);
        match rows {
            Rows::Together => {
                let rows = self.copy(session, part, store).await?;
                written.stored(rows, part.points().len());
                written.only_counted = self.insert_dead_letters(session, ids, part, &[]).await?;
            }
            Rows::Apart => {
                let reference = series::lock(session, part.points()).await?;
                let copied = bisect::copy(session, part, store, decoder).await?;
                series::restore_triggers(session, reference).await?;
                written.only_counted = self.insert_dead_letters(session, ids, part, &copied.refused).await?;
                written.dead_letters.extend(copied.refused.iter().flat_map(letters));
                written.stored(copied.rows, copied.points);
            }
        }
        Ok(written)
    }

    /// The number of rows that were added or changed.
    async fn copy(&self, session: &mut Session, batch: &Batch, store: Store<'_>) -> Result<usize, Error> {
        let points = batch.points();
        if points.is_empty() {
            return Ok(0);
        }
        let reference = series::lock(session, points).await?;
        self.note_reference(reference);
        let start = Instant::now();
        let order = points.order();
        let rows = store.store(session, batch, &order).await?;
        metrics::copy_took(start.elapsed());
        series::restore_triggers(session, reference).await?;
        Ok(rows)
    }

    /// Stores the dead letters of a batch and of messages of it that the server has refused.
    async fn insert_dead_letters(
        &self,
        session: &mut Session,
        ids: &Resolved,
        batch: &Batch,
        refused: &[Batch],
    ) -> Result<u64, Error> {
        let letters: Vec<&DeadLetter> =
            batch.dead_letters().iter().chain(refused.iter().flat_map(Batch::dead_letters)).collect();
        dead_letters::insert(session, ids, &letters, self.letters).await
    }
}

impl Written {
    /// Notes that so many rows came of so many points.
    fn stored(&mut self, rows: usize, points: usize) {
        self.points = rows;
        self.duplicates = points.saturating_sub(rows);
    }
}

fn written(batch: &Batch, skipped: usize, applied: Vec<Applied>) -> Written {
    let dead_letters = letters(batch).collect();
    Written { points: batch.points().len(), skipped, duplicates: 0, dead_letters, only_counted: 0, applied }
}

fn letters(batch: &Batch) -> impl Iterator<Item = (MessageAt, Rejected)> {
    batch.dead_letters().iter().map(|letter| (letter.at.clone(), letter.rejected.clone()))
}
