//! The write transaction: points by COPY, claim, dead letters, COMMIT.

pub mod copy;
pub mod locks;

pub(super) mod bisect;
pub(super) mod chunks;
pub(super) mod insert;
mod oversized;
pub(super) mod series;
pub(super) mod settle;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::debug;

use super::dead_letters::{NotStored, OnRefusal};
use super::error::Error;
use super::progress::{Applied, Claim, ResolvedSources};
use super::{Database, Operation, dead_letters};
use crate::batch::{Batch, DeadLetter, Tally};
use crate::config::UnknownSeries;
use crate::database::connection::session::Session;
use crate::message::Rejected;
use crate::raw::{MessageAt, Partition, Source};
use crate::telemetry::metrics;
use bisect::Copied;
pub use oversized::Oversized;

/// How the rows of a batch are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CopyStrategy {
    /// In one COPY.
    Whole,
    /// In pieces, to find the rows that the server refuses.
    Piecewise,
}

/// The order of claim and COPY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimOrder {
    /// COPY first, claim last: the locks of partitions are held for the COMMIT only. Fails if anything of it is applied
    /// already.
    CopyFirst,
    /// Claim first, and copy only what was missing: for a batch that may be applied already.
    ClaimFirst,
    /// As [`ClaimOrder::CopyFirst`], for what comes from a journal.
    CopyFirstFillingGaps,
    /// As [`ClaimOrder::ClaimFirst`], for what comes from a journal: what lies in gaps counts as missing, and fills them.
    ClaimFirstFillingGaps,
}

impl ClaimOrder {
    /// Returns `true` if an offset that is applied already makes it fail.
    pub fn copies_first(self) -> bool {
        matches!(self, Self::CopyFirst | Self::CopyFirstFillingGaps)
    }

    /// The order to use after a failed attempt, or for a part of a batch.
    pub fn claim_first(self) -> Self {
        match self {
            Self::CopyFirst | Self::ClaimFirst => Self::ClaimFirst,
            Self::CopyFirstFillingGaps | Self::ClaimFirstFillingGaps => Self::ClaimFirstFillingGaps,
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
    /// Points omitted because their series was deleted after their messages were sent.
    pub deleted: usize,
    /// Points that change nothing, because of others of the same series, column and time.
    pub duplicates: usize,
    /// What became of the messages of each partition that has stored or rejected ones.
    pub tallies: Vec<(Partition, Tally)>,
    /// The messages that became dead letters now.
    pub dead_letters: Vec<(MessageAt, Rejected)>,
    /// Number of these that are counted, and not stored.
    pub only_counted: u64,
    /// Number of these that are neither stored nor counted.
    pub not_counted: u64,
    /// The next offset of each partition.
    pub applied: Vec<Applied>,
}

/// Interval between checks whose locks a slow transaction waits for.
const LOOK_FOR_LOCKS: Duration = Duration::from_secs(2);

impl Database {
    /// Writes a batch in one transaction.
    ///
    /// # Errors
    /// [`Error::class`] says what to do. After any error except a refused row, the batch must be tried again with
    /// [`ClaimOrder::ClaimFirst`]: it may be committed.
    pub async fn write(&self, batch: &Batch, order: ClaimOrder) -> Result<Written, Error> {
        let start = Instant::now();
        let mut rows = if self.expects_refusals() { CopyStrategy::Piecewise } else { CopyStrategy::Whole };
        let mut letters = OnRefusal::Fail;
        let mut order = order;
        let mut rest: Option<Batch> = None;
        let attempt = async {
            loop {
                let result = self.try_write(rest.as_ref().unwrap_or(batch), order, (rows, letters)).await;
                match &result {
                    Err(deleted) if deleted.is_series_deleted() => match self.without_deleted(batch).await {
                        Ok(part) => rest = Some(part),
                        Err(failure) => break Err(failure),
                    },
                    Err(refused) if refused.is_refused_row() && rows == CopyStrategy::Whole => {
                        debug!(%refused, messages = batch.message_count(), "the database refuses a row; looking for its message");
                        rows = CopyStrategy::Piecewise;
                    }
                    Err(refused)
                        if letters == OnRefusal::Fail
                            && (refused.is_refused_letter()
                                || refused.may_be_refused_letter() && self.may_have_letters(batch, rows)) =>
                    {
                        debug!(%refused, "the database refuses a dead letter; storing less of it");
                        letters = OnRefusal::StoreLess;
                    }
                    _ => break result,
                }
                order = order.claim_first();
            }
        };
        let result = self.watched(attempt).await;
        match &result {
            Ok(written) => {
                self.record_success(Operation::Write);
                self.forget_lock_holders();
                metrics::transaction_took(start.elapsed());
                self.record_accepted(written).await;
            }
            // The caller finds out whether another session's lock is in the way of all writes.
            Err(failure) if failure.is_lock_timeout() => metrics::database_error(failure.class().as_str()),
            Err(failure) => {
                self.record_failure(failure, Operation::Write);
                if failure.is_missing_series() {
                    self.known_series.forget();
                }
            }
        }
        result
    }

    /// Returns the batch without the points that deletions of their series apply to.
    async fn without_deleted(&self, batch: &Batch) -> Result<Batch, Error> {
        let tombstones = series::tombstones(&mut self.session().await?, batch.points()).await?;
        debug!(series = tombstones.iter().count(), "series were deleted after messages of the batch were sent");
        Ok(batch.without_deleted(tombstones))
    }

    /// Returns `true` if the transaction of the batch may have stored dead letters.
    fn may_have_letters(&self, batch: &Batch, rows: CopyStrategy) -> bool {
        !batch.dead_letters().is_empty()
            || rows == CopyStrategy::Piecewise
            || self.unknown_series != UnknownSeries::Create
    }

    /// Runs an attempt, and if it takes long, reports whose locks it waits for.
    async fn watched<T>(&self, attempt: impl Future<Output = T>) -> T {
        let mut attempt = pin!(attempt);
        if let Ok(done) = tokio::time::timeout(self.row_wait / 2, &mut attempt).await {
            return done;
        }
        let look = async {
            loop {
                self.look_for_lock_holders().await;
                tokio::time::sleep(LOOK_FOR_LOCKS).await;
            }
        };
        tokio::select! {
            done = attempt => done,
            () = look => unreachable!("it looks for as long as it may"),
        }
    }

    async fn try_write(
        &self,
        batch: &Batch,
        order: ClaimOrder,
        how: (CopyStrategy, OnRefusal),
    ) -> Result<Written, Error> {
        let mut session = self.session().await?;
        let begun = Instant::now();
        let intervals = batch.intervals();
        let sources: Vec<&Arc<Source>> = intervals.iter().map(|interval| &interval.partition.source).collect();
        let ids = self.sources.resolve(&mut session, &self.pipeline, &sources).await?;
        series::delete(&mut session, batch.deletions()).await?;
        series::define(&mut session, &ids, batch.definitions()).await?;
        let without_unknown = self.without_unknown_series(&mut session, batch).await?;
        let batch = without_unknown.as_ref().unwrap_or(batch);
        series::ensure_series(&mut session, &self.known_series, batch).await?;
        let left_to_copy = chunks::make(&mut session, &self.known_chunks, batch.points()).await?;
        metrics::step_took(metrics::Step::Prepare, begun.elapsed());

        session.begin().await?;
        match self.write_rows(&mut session, batch, &ids, (order, how)).await {
            Ok(written) => {
                let begun = Instant::now();
                session.commit().await?;
                metrics::step_took(metrics::Step::Commit, begun.elapsed());
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

    /// Returns the batch decoded again without points of unknown series, if these are to be dead letters and there are any.
    async fn without_unknown_series(&self, session: &mut Session, batch: &Batch) -> Result<Option<Batch>, Error> {
        if self.unknown_series == UnknownSeries::Create {
            return Ok(None);
        }
        let unknown = series::without_row(session, batch.points()).await?;
        Ok((!unknown.is_empty()).then(|| batch.without_series(unknown)))
    }

    async fn write_rows(
        &self,
        session: &mut Session,
        batch: &Batch,
        ids: &ResolvedSources,
        (order, (rows, letters)): (ClaimOrder, (CopyStrategy, OnRefusal)),
    ) -> Result<Written, Error> {
        let intervals = batch.intervals();
        let claim = Claim::new(&intervals, ids)?;
        if order.copies_first() {
            let copied = self.copy(session, batch, ids, rows).await?;
            let begun = Instant::now();
            let applied = claim.all(session).await?;
            metrics::step_took(metrics::Step::Claim, begun.elapsed());
            return self.finish(session, ids, batch, &copied, (0, applied), letters).await;
        }
        let begun = Instant::now();
        let missing = match order {
            ClaimOrder::CopyFirstFillingGaps | ClaimOrder::ClaimFirstFillingGaps => claim.journaled(session).await?,
            ClaimOrder::CopyFirst | ClaimOrder::ClaimFirst => claim.missing(session).await?,
        };
        let applied = claim.next_offsets(session).await?;
        metrics::step_took(metrics::Step::Claim, begun.elapsed());
        let part = (missing != intervals).then(|| batch.keep(&missing));
        if let Some(part) = &part {
            debug!(
                messages = part.message_count(),
                of = batch.message_count(),
                "a part of the batch was applied already"
            );
        }
        let part = part.as_ref().unwrap_or(batch);
        let copied = self.copy(session, part, ids, rows).await?;
        let skipped = batch.points().len().saturating_sub(part.points().len());
        self.finish(session, ids, part, &copied, (skipped, applied), letters).await
    }

    /// Copies the points of the batch; of [`CopyStrategy::Piecewise`], those of messages that the server refuses are omitted.
    async fn copy(
        &self,
        session: &mut Session,
        batch: &Batch,
        ids: &ResolvedSources,
        rows: CopyStrategy,
    ) -> Result<Copied, Error> {
        let points = batch.points();
        if points.is_empty() {
            // The transaction's other rows must not be written in a restore either.
            series::reference(session).await?;
            return Ok(Copied::default());
        }
        let begun = Instant::now();
        let reference = series::lock(session, &self.known_series, batch).await?;
        // After the lock, so that the table stays as it is read.
        let store = self.prepare_store(session, batch, ids).await?;
        metrics::step_took(metrics::Step::Prepare, begun.elapsed());
        self.record_reference(reference);
        let copied = match rows {
            CopyStrategy::Whole => {
                let start = Instant::now();
                let rows = store.insert_rows(session, &store.order()).await?;
                metrics::copy_took(start.elapsed());
                Copied { points: points.len(), rows, ..Copied::default() }
            }
            CopyStrategy::Piecewise => {
                let copied = bisect::copy(session, &store).await?;
                self.record_refused_messages(copied.refused.len());
                copied
            }
        };
        series::check_landing(session, reference).await?;
        Ok(copied)
    }

    /// Stores the dead letters of a batch whose points are copied, with those of messages that the server has refused. Returns
    /// what the transaction has done, if it commits.
    async fn finish(
        &self,
        session: &mut Session,
        ids: &ResolvedSources,
        batch: &Batch,
        copied: &Copied,
        (skipped, applied): (usize, Vec<Applied>),
        on_refusal: OnRefusal,
    ) -> Result<Written, Error> {
        let letters: Vec<&DeadLetter> = batch.dead_letters().iter().chain(&copied.refused).collect();
        let how = (on_refusal, self.letter_refusals.as_ref());
        let not_stored = dead_letters::insert(session, ids, &letters, self.letters, how).await;
        let NotStored { only_counted, not_counted } = not_stored.map_err(|failure| failure.of_letters(&letters))?;
        let mut tallies = batch.tallies().to_vec();
        for letter in &copied.refused {
            let tally = tallies.iter_mut().find(|(partition, _)| *partition == letter.at.partition);
            tally.into_iter().for_each(|(_, tally)| tally.refuse(&letter.rejected));
        }
        Ok(Written {
            tallies,
            points: copied.rows,
            skipped,
            deleted: batch.deleted_points(),
            duplicates: copied.points.saturating_sub(copied.rows),
            dead_letters: letters.into_iter().map(|letter| (letter.at.clone(), letter.rejected.clone())).collect(),
            only_counted,
            not_counted,
            applied,
        })
    }
}
