//! A batch with rows that the server refuses, in one transaction: it is copied piece by piece, with a savepoint before each,
//! and a piece that is refused is divided until the message is found.
//!
//! A piece has whole messages, and is cut out of the batch's order, so that pieces are copied one after the other about as
//! the whole would be: each touches its own index pages.
//!
//! A constraint is checked row by row, and the server reports the row at which a COPY ended, so that its message is mostly
//! found at once: the piece is then copied again without it. That is only a hint, because a trigger may report another row: a
//! message becomes a dead letter when it was refused alone. If the hint has been wrong, pieces are halved.

use tracing::debug;

use super::insert::Store;
use crate::batch::{Batch, DeadLetter};
use crate::database::connection::session::Session;
use crate::database::connection::step::Step;
use crate::database::error::Error;
use crate::message::Order;
use crate::raw::Charge;

/// Maximum number of pieces of a batch: more of them waste less of what was copied before the refused row, and cost a few
/// round trips each.
const PIECES: usize = 200;
/// Maximum number of messages that one transaction refuses, so that it ends soon.
const MAX_REFUSED: usize = 1000;
/// Maximum memory of their letters, in bytes.
const MAX_REFUSED_BYTES: usize = 4 << 20;
/// Minimum number of points of a piece, except the last one.
const PIECE_POINTS: usize = 500;

/// The part of a batch that was copied.
#[derive(Debug, Default)]
pub(in crate::database) struct Copied {
    /// The points of the messages that the server takes.
    pub(in crate::database) points: usize,
    /// Number of points that were added or changed.
    pub(in crate::database) rows: usize,
    /// The messages that the server has refused, in the batch's order.
    pub(in crate::database) refused: Vec<DeadLetter>,
    /// Their charge to the batch's budget.
    pub(in crate::database) charge: Option<Charge>,
}

/// Copies the points of the batch except those of messages that the server refuses, inside an open transaction.
///
/// # Errors
/// Those that refuse no row, and [`Error::TooManyRefused`]; the transaction must then be rolled back.
pub(in crate::database) async fn copy(session: &mut Session, store: &Store<'_>) -> Result<Copied, Error> {
    let batch = store.batch();
    let messages = Messages::new(batch, store.order());
    let mut copied = Copied { charge: batch.another_charge(), ..Copied::default() };
    // Each with its number in the batch.
    let mut refused: Vec<(usize, DeadLetter)> = Vec::new();
    let mut refused_bytes = 0;
    let mut pieces = messages.pieces();
    // The first piece lies on top.
    pieces.reverse();
    let mut trusts_hints = true;
    // A message that the server has named, and that is tried alone now.
    let mut is_named = false;
    session.execute(Step::Other("set a savepoint"), "savepoint piece").await?;
    while let Some(piece) = pieces.pop() {
        let was_named = std::mem::take(&mut is_named);
        let failure = match store.insert_rows(session, &piece).await {
            Ok(rows) => {
                session
                    .execute(Step::Other("set the next savepoint"), "release savepoint piece; savepoint piece")
                    .await?;
                copied.points += piece.indices().len();
                copied.rows += rows;
                trusts_hints &= !was_named;
                continue;
            }
            Err(failure) if failure.is_refused_row() => failure,
            Err(failure) => return Err(failure),
        };
        session.execute(Step::Other("go back to a savepoint"), "rollback to savepoint piece").await?;
        let numbers = messages.of_piece(&piece);
        if let [number] = numbers[..] {
            debug!(%failure, "a message was refused alone");
            let letter = batch.dead_letter_of(number, failure.rejected()).expect("a piece's messages are the batch's");
            refused_bytes += letter.bytes();
            if let Some(charge) = &mut copied.charge {
                charge.resize(refused_bytes);
            }
            refused.push((number, letter));
            if refused.len() > 1 && (refused.len() > MAX_REFUSED || refused_bytes > MAX_REFUSED_BYTES) {
                let untried: usize = pieces.iter().map(|piece| messages.of_piece(piece).len()).sum();
                return Err(Error::TooManyRefused { refused: refused.len(), of: messages.points.len() - untried });
            }
            continue;
        }
        let named = failure.row().filter(|_| trusts_hints).and_then(|row| piece.indices().get(row.checked_sub(1)?));
        is_named = named.is_some();
        let on_top = match named.map(|point| messages.of_point(*point)) {
            Some(named) => vec![named],
            None => numbers[..numbers.len() / 2].to_vec(),
        };
        pieces.extend(piece.divide(2, |point| usize::from(on_top.contains(&messages.of_point(point)))));
    }
    session.execute(Step::Other("release a savepoint"), "release savepoint piece").await?;
    refused.sort_by_key(|(number, _)| *number);
    copied.refused = refused.into_iter().map(|(_, letter)| letter).collect();
    Ok(copied)
}

/// The batch's messages that have points.
struct Messages<'a> {
    batch: &'a Batch,
    order: Order,
    /// By a message's number, its place among those that have points, as their first points are ordered.
    places: Vec<usize>,
    /// Number of points of each, by its place.
    points: Vec<usize>,
}

impl<'a> Messages<'a> {
    fn new(batch: &'a Batch, order: Order) -> Self {
        let mut messages = Self { batch, order, places: vec![usize::MAX; batch.message_count()], points: Vec::new() };
        for point in messages.order.indices() {
            let place = &mut messages.places[batch.message_of_point(*point as usize).unwrap_or(0)];
            if *place == usize::MAX {
                *place = messages.points.len();
                messages.points.push(0);
            }
            messages.points[*place] += 1;
        }
        messages
    }

    /// The number of the message that the point came from.
    fn of_point(&self, point: u32) -> usize {
        self.batch.message_of_point(point as usize).expect("a batch's points are of its messages")
    }

    /// The numbers of the messages of the piece, in their order.
    fn of_piece(&self, piece: &Order) -> Vec<usize> {
        let mut numbers: Vec<usize> = piece.indices().iter().map(|point| self.of_point(*point)).collect();
        numbers.sort_unstable_by_key(|number| self.places[*number]);
        numbers.dedup();
        numbers
    }

    /// Pieces of about as many points each, one after the other in the batch's order.
    fn pieces(&self) -> Vec<Order> {
        let size = self.order.indices().len().div_ceil(PIECES).max(PIECE_POINTS);
        let mut before = 0;
        let piece_of: Vec<usize> = self
            .points
            .iter()
            .map(|points| {
                let piece = before / size;
                before += points;
                piece
            })
            .collect();
        // A message that is larger than a piece leaves empty ones after it.
        let count = before.div_ceil(size);
        let mut pieces = self.order.divide(count, |point| piece_of[self.places[self.of_point(point)]]);
        pieces.retain(|piece| !piece.indices().is_empty());
        pieces
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::input::{Decoder, Inputs};
    use crate::message::Limits;
    use crate::raw::Kind;
    use crate::raw::{MessageSetBuilder, RawMessage, Source};

    #[test]
    fn pieces_are_whole_messages_one_after_the_other_in_the_order() {
        let source =
            Source { kind: Kind::Points, cluster_id: String::new(), topic: "t".into(), topic_id: String::new() };
        let mut builder = MessageSetBuilder::new(Arc::new(source), 0, 0);
        // 400 messages of 7 series in turn, two of them large, and some without a point.
        for offset in 0..400_i64 {
            let count = [3, 0, 3, 2 * PIECE_POINTS as i64][if offset % 150 == 70 { 3 } else { offset as usize % 3 }];
            let times: Vec<i64> = (0..count).map(|n| offset * 10_000 + n).collect();
            let payload = serde_json::json!({
                "time_series_id": format!("s{}", offset % 7), "timestamp_unit": "us", "timestamps": times,
                "columns": {"b": vec![1; times.len()], "a": vec![2; times.len()]},
            });
            let payload = payload.to_string();
            builder.push(&RawMessage { offset, payload: Some(payload.as_bytes()), ..RawMessage::default() });
        }
        let (max_bytes, max_points, max_name_bytes, min_us, max_us) = (1 << 20, 1 << 20, 100, i64::MIN, i64::MAX);
        let limits = Limits { max_bytes, max_points, max_name_bytes, min_us, max_us, deny_unknown_fields: false };
        let mut batch = Batch::new(Decoder::new(limits, Inputs::default()));
        batch.push(builder.build(None));

        let messages = Messages::new(&batch, batch.points().order());
        let pieces = messages.pieces();
        assert!(pieces.len() > 3, "{}", pieces.len());
        let mut seen = vec![false; 400];
        let mut series = Vec::new();
        for piece in &pieces {
            let keys: Vec<_> = piece.indices().iter().map(|point| batch.points().get(*point as usize)).collect();
            assert!(keys.is_sorted_by_key(|(series, column, time, _)| (*series, *column, *time)));
            for number in messages.of_piece(piece) {
                assert!(!std::mem::replace(&mut seen[number], true), "message {number} is in one piece");
                series.push(number % 7);
            }
        }
        assert!(series.is_sorted(), "pieces go from one series to the next");
        let points: usize = pieces.iter().map(|piece| piece.indices().len()).sum();
        assert_eq!(points, batch.points().len());
    }
}
