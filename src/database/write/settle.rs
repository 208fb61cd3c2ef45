//! Batches that a command writes until each of their messages is written or a dead letter. A worker continues with others
//! meanwhile, which is what `pipeline::writer` is for.

use std::time::{Duration, Instant};

use crate::batch::Batch;
use crate::database::error::{Class, Error};
use crate::database::verdict::{Attempts, Verdict};
use crate::database::{ClaimOrder, Database};

/// The pause after the database refused.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// What became of a batch.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// The messages of the batch.
    pub messages: usize,
    /// The points that were written now.
    pub points: usize,
    /// The messages that became dead letters now.
    pub dead_letters: usize,
    /// The points that were omitted, because their series was deleted after their messages were sent.
    pub deleted: usize,
}

impl Database {
    /// Writes a batch until it is settled. The locks on its partitions are held for the commit only, so that several batches
    /// are written at a time; after any failure the next attempt first asks what the database has. As in a worker, a message
    /// that the database refuses takes no other with it.
    ///
    /// `patience`: for how long an outage is waited for, counted from its first failure.
    ///
    /// # Errors
    /// If the database fails for another reason than a refused row, or longer than that. What is written stays written.
    pub async fn settle(&self, batch: Batch, order: ClaimOrder, patience: Duration) -> Result<Settled, Error> {
        let mut done = Settled::default();
        let mut outage_since: Option<Instant> = None;
        let untried = |piece: Batch, order| {
            let attempts = Attempts::new(&piece, order);
            (piece, order, attempts)
        };
        let mut pieces = vec![untried(batch, order)];
        while let Some((piece, order, mut attempts)) = pieces.pop() {
            let failure = match self.write(&piece, order).await {
                Ok(written) => {
                    outage_since = None;
                    done.messages += attempts.messages;
                    done.points += written.points;
                    done.dead_letters += written.dead_letters.len();
                    done.deleted += written.deleted;
                    continue;
                }
                Err(failure) => failure,
            };
            let order = order.claim_first();
            match attempts.after(&failure) {
                Verdict::ClaimFirst => pieces.push((piece, order, attempts)),
                Verdict::Split(parts) => {
                    let parts = piece.split_into(parts);
                    pieces.extend(parts.into_iter().rev().map(|part| untried(part, order)));
                }
                Verdict::Reject => pieces.push(untried(piece.into_dead_letter(failure.rejected()), order)),
                Verdict::SetAside => match self.oversized(&failure, &piece).await.pop() {
                    Some(oversized) => pieces.push(untried(piece.into_dead_letter(oversized.rejected), order)),
                    None => return Err(failure),
                },
                Verdict::Wait => {
                    let is_outage = failure.class() == Class::Outage;
                    if !is_outage || outage_since.get_or_insert_with(Instant::now).elapsed() >= patience {
                        return Err(failure);
                    }
                    pieces.push((piece, order, attempts));
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                Verdict::Retry | Verdict::TooManyIslands => {
                    pieces.push((piece, order, attempts));
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                // What is written stays written: the next run continues from there.
                Verdict::NoProgress => return Err(failure),
            }
        }
        Ok(done)
    }
}
