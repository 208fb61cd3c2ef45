//! A batch of which the server refuses rows, in one transaction: it is copied piece by piece, with a savepoint before each,
//! and a piece that is refused is divided until the message is found.
//!
//! A constraint is checked row by row, and the server tells the row at which a COPY ended, so that its message is mostly
//! found at once: the piece is then copied again without it. That is only a hint, because a trigger may speak of another
//! row: a message becomes a dead letter when it was refused alone. Where the hint has been wrong, pieces are halved.

use tracing::debug;

use super::duplicates::Store;
use super::error::Error;
use super::session::Session;
use crate::batch::{Batch, Order};
use crate::message::Decoder;

/// How many pieces a batch is copied in: more of them waste less of what was copied before the refused row, and cost a few
/// round trips each.
const PIECES: usize = 200;

/// What of a batch was copied.
#[derive(Debug, Default)]
pub(super) struct Copied {
    /// The points of the messages that the server takes.
    pub(super) points: usize,
    /// How many of them were added or changed.
    pub(super) rows: usize,
    /// The messages that the server has refused, each as a dead letter.
    pub(super) refused: Vec<Batch>,
}

/// Copies the points of the batch but for those of messages that the server refuses, inside an open transaction.
///
/// # Errors
/// Those that refuse no row; the transaction is then to be given up.
pub(super) async fn copy(
    session: &mut Session,
    batch: &Batch,
    store: Store<'_>,
    decoder: &mut Decoder,
) -> Result<Copied, Error> {
    let mut copied = Copied::default();
    let mut pieces = batch.split_into(PIECES, decoder);
    // The first piece lies on top.
    pieces.reverse();
    let mut trusts_hints = true;
    // A message that the server has named, and that is tried alone now.
    let mut is_named = false;
    while let Some(piece) = pieces.pop() {
        let was_named = std::mem::take(&mut is_named);
        if piece.points().is_empty() {
            continue;
        }
        session.execute("set a savepoint", "savepoint piece").await?;
        let order = store.order(piece.points());
        let failure = match store.store(session, &piece, &order).await {
            Ok(rows) => {
                session.execute("release a savepoint", "release savepoint piece").await?;
                copied.points += piece.points().len();
                copied.rows += rows;
                trusts_hints &= !was_named;
                continue;
            }
            Err(failure) if failure.is_refused_row() => failure,
            Err(failure) => return Err(failure),
        };
        session.execute("go back to a savepoint", "rollback to savepoint piece; release savepoint piece").await?;
        let named = failure.row().filter(|_| trusts_hints).and_then(|row| message_of(&piece, &order, row));
        let divided = match named {
            Some(message) => piece.without_message(message, decoder),
            None => piece.split(decoder),
        };
        match divided {
            Some((rest, last)) if named.is_some() => {
                is_named = true;
                pieces.extend([rest, last]);
            }
            Some((first, last)) => pieces.extend([last, first]),
            None => {
                debug!(%failure, "a message was refused alone");
                copied.refused.push(piece.into_dead_letter(failure.refusal()));
            }
        }
    }
    Ok(copied)
}

/// The message that a row of the COPY came from; rows are counted from 1.
fn message_of(piece: &Batch, order: &Order, row: usize) -> Option<usize> {
    let point = order.indices().get(row.checked_sub(1)?)?;
    piece.message_of_point(*point as usize)
}
