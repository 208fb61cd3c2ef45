//! The write transaction: points by COPY, claim, dead letters, COMMIT.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use tracing::debug;

use super::bisect::Copied;
use super::error::Error;
use super::progress::{Applied, Claim, Resolved};
use super::session::Session;
use super::{Asked, Database, bisect, chunks, dead_letters, series};
use crate::batch::{Batch, DeadLetter, MessageAt, Source};
use crate::config::UnknownSeries;
use crate::message::{Decoder, Rejected};
use crate::telemetry::metrics::{self, Step};

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

/// In how many chunks a message's points lie at least, where it and not the server is at fault when their locks find no room.
/// PostgreSQL's default is room for 64 locks a transaction, and a chunk takes several.
const MANY_CHUNKS: usize = 100;

impl Database {
    /// Why a batch of a single message is a dead letter, where the server has no room for the locks of its chunks.
    pub fn rejected_for_chunks(&self, failure: &Error, batch: &Batch) -> Option<Rejected> {
        if !failure.is_out_of_room() || batch.message_count() != 1 {
            return None;
        }
        let (chunks, _) = self.widest_message(batch)?;
        let Rejected { reason, detail } = failure.rejected();
        let detail = format!(
            "{detail}; its points lie in {chunks} chunks, for whose locks a transaction has no room: send less time in a \
             message, or raise the server's max_locks_per_transaction"
        );
        Some(Rejected { reason, detail })
    }

    /// The message whose points lie in many chunks, and in at least half of those of the batch: their number, and its own.
    pub fn widest_message(&self, batch: &Batch) -> Option<(usize, usize)> {
        let (mut all, mut of_message) = (HashSet::new(), HashSet::new());
        let (mut last, mut widest) = (None, (0, 0));
        for point in 0..batch.points().len() {
            let message = batch.message_of_point(point)?;
            if last.replace(message) != Some(message) {
                of_message.clear();
            }
            let chunk = batch.points().time_of(point).div_euclid(self.chunk_us);
            all.insert(chunk);
            of_message.insert(chunk);
            widest = widest.max((of_message.len(), message));
        }
        (widest.0 >= MANY_CHUNKS && widest.0 * 2 >= all.len()).then_some(widest)
    }

    /// Writes a batch in one transaction.
    ///
    /// # Errors
    /// [`Error::class`] says what is to be done. After any error but a refused row the batch is to be tried again on
    /// [`Path::Slow`]: it may be committed.
    pub async fn write(&self, batch: &Batch, path: Path, decoder: &mut Decoder) -> Result<Written, Error> {
        let start = Instant::now();
        let rows = if self.expects_refusals() { Rows::Apart } else { Rows::Together };
        let mut result = self.try_write(batch, path, rows, decoder).await;
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
        let begun = Instant::now();
        let intervals = batch.intervals();
        let sources: Vec<&Arc<Source>> = intervals.iter().map(|interval| &interval.source).collect();
        let ids = self.sources.resolve(&mut session, &self.pipeline, &sources).await?;
        series::define(&mut session, &ids, batch.definitions()).await?;
        let without_unknown = self.without_unknown_series(&mut session, batch, decoder).await?;
        let batch = without_unknown.as_ref().unwrap_or(batch);
        series::see(&mut session, &self.known_series, batch.points()).await?;
        let left_to_copy = chunks::make(&mut session, &self.known_chunks, batch.points()).await?;
        metrics::step_took(Step::Prepare, begun.elapsed());

        session.begin().await?;
        match self.fill(&mut session, batch, &ids, (path, rows), decoder).await {
            Ok(written) => {
                let begun = Instant::now();
                session.commit().await?;
                metrics::step_took(Step::Commit, begun.elapsed());
                self.known_chunks.remember(left_to_copy);
                Ok(written)
            }
            Err(failure) => {
                // After anything else the connection is dropped.
                if failure.leaves_the_connection() {
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
        if path.is_fast() {
            let copied = self.copy(session, batch, ids, rows).await?;
            let begun = Instant::now();
            let applied = claim.all(session).await?;
            metrics::step_took(Step::Claim, begun.elapsed());
            return self.finish(session, ids, batch, &copied, (0, applied)).await;
        }
        let begun = Instant::now();
        let missing = match path {
            Path::JournalFast | Path::JournalSlow => claim.journaled(session).await?,
            Path::Fast | Path::Slow => claim.missing(session).await?,
        };
        let applied = claim.next_offsets(session).await?;
        metrics::step_took(Step::Claim, begun.elapsed());
        let part = (missing != intervals).then(|| batch.keep(&missing, decoder));
        if let Some(part) = &part {
            debug!(
                messages = part.message_count(),
                of = batch.message_count(),
                "a part of the batch was applied already"
            );
        }
        let part = part.as_ref().unwrap_or(batch);
        let copied = self.copy(session, part, ids, rows).await?;
        let skipped = batch.points().len() - part.points().len();
        self.finish(session, ids, part, &copied, (skipped, applied)).await
    }

    /// Copies the points of the batch; of [`Rows::Apart`], those of messages that the server refuses are left out.
    async fn copy(&self, session: &mut Session, batch: &Batch, ids: &Resolved, rows: Rows) -> Result<Copied, Error> {
        let points = batch.points();
        if points.is_empty() {
            return Ok(Copied::default());
        }
        let begun = Instant::now();
        let store = self.store(session, batch, ids).await?;
        let reference = series::lock(session, points).await?;
        metrics::step_took(Step::Prepare, begun.elapsed());
        self.note_reference(reference);
        let copied = match rows {
            Rows::Together => {
                let start = Instant::now();
                let rows = store.store(session, &store.order()).await?;
                metrics::copy_took(start.elapsed());
                Copied { points: points.len(), rows, ..Copied::default() }
            }
            Rows::Apart => {
                let copied = bisect::copy(session, &store).await?;
                self.note_refused(copied.refused.len());
                copied
            }
        };
        series::restore_triggers(session, reference).await?;
        Ok(copied)
    }

    /// Stores the dead letters of a batch whose points are copied, with those of messages that the server has refused. Tells
    /// what the transaction has done, if it commits.
    async fn finish(
        &self,
        session: &mut Session,
        ids: &Resolved,
        batch: &Batch,
        copied: &Copied,
        (skipped, applied): (usize, Vec<Applied>),
    ) -> Result<Written, Error> {
        let letters: Vec<&DeadLetter> = batch.dead_letters().iter().chain(&copied.refused).collect();
        let only_counted = dead_letters::insert(session, ids, &letters, self.letters).await?;
        Ok(Written {
            points: copied.rows,
            skipped,
            duplicates: copied.points.saturating_sub(copied.rows),
            dead_letters: letters.into_iter().map(|letter| (letter.at.clone(), letter.rejected.clone())).collect(),
            only_counted,
            applied,
        })
    }
}
