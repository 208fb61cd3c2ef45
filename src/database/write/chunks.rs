//! The chunks of the hypertable, made before points are copied into them: a transaction that makes one keeps other writers
//! waiting until it ends.

use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::info;

use crate::database::connection::session::Session;
use crate::database::connection::step::Step;
use crate::database::error::Error;
use crate::message::Points;
use crate::telemetry;

/// Maximum number of chunks that are remembered before all are forgotten.
const MAX_KNOWN: usize = 10_000;
/// Maximum number of chunks made before a batch is copied; further chunks, for old points, are made by its COPY.
const MAX_MADE: usize = 50;
/// Time in advance at which the next chunk is made, in microseconds, unless a tenth of a chunk's length is less.
const AHEAD_US: i64 = 3_600_000_000;

/// An interval of time, `[from, until)`, in microseconds since the Unix epoch.
type Interval = (i64, i64);

/// Intervals that have their chunk, in order.
#[derive(Debug, Default)]
pub(in crate::database) struct KnownChunks {
    intervals: Mutex<Vec<Interval>>,
}

impl KnownChunks {
    /// The interval around this time.
    fn around(&self, time_us: i64) -> Option<Interval> {
        let intervals = self.intervals.lock().unwrap_or_else(PoisonError::into_inner);
        let behind = intervals.partition_point(|(from, _)| *from <= time_us);
        intervals[..behind].last().copied().filter(|(_, until)| time_us < *until)
    }

    /// Remembers intervals, as many as there is room for.
    pub(in crate::database) fn remember(&self, new: impl IntoIterator<Item = Interval>) {
        let mut intervals = self.intervals.lock().unwrap_or_else(PoisonError::into_inner);
        for interval in new {
            if intervals.len() >= MAX_KNOWN {
                intervals.clear();
            }
            let at = intervals.partition_point(|known| *known < interval);
            intervals.insert(at, interval);
        }
    }

    fn into_intervals(self) -> Vec<Interval> {
        self.intervals.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets all: it may be another database.
    pub(in crate::database) fn forget(&self) {
        self.intervals.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Makes the chunks of these points, and the next one if it is nearly time for it. A chunk that the server does not make so is
/// left to the COPY. Returns the intervals that are known to have their chunk when the points are committed.
///
/// # Errors
/// If the server does not answer.
pub(in crate::database) async fn make(
    session: &mut Session,
    known: &KnownChunks,
    points: &Points,
) -> Result<Vec<Interval>, Error> {
    #[cfg(feature = "planted-bugs")]
    if crate::planted_bugs::is_on("chunks-not-made-ahead") {
        return Ok(Vec::new());
    }
    // Intervals whose chunk was not made now: it existed before, or could not be made.
    let asked = KnownChunks::default();
    let around = |time_us| known.around(time_us).or_else(|| asked.around(time_us));
    let mut questions = 0;
    let mut current: Interval = (0, 0);
    let now_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_micros() as i64);
    let mut is_live = false;
    for point in 0..points.len() {
        let time_us = points.time_of(point);
        if (current.0..current.1).contains(&time_us) {
            continue;
        }
        current = match around(time_us) {
            Some(interval) => interval,
            None if questions == MAX_MADE => break,
            None => {
                questions += 1;
                let (interval, made) = make_one(session, points.get(point).0, time_us).await?;
                if made { known } else { &asked }.remember([interval]);
                interval
            }
        };
        is_live |= (current.0..current.1).contains(&now_us);
    }
    if let Some(next) = around(now_us).filter(|_| is_live).and_then(|chunk| next(chunk, now_us))
        && around(next).is_none()
    {
        let (interval, made) = make_one(session, points.get(0).0, next).await?;
        known.remember(made.then_some(interval));
    }
    Ok(asked.into_intervals())
}

/// The time at which the next chunk begins, if this one is nearly over.
fn next((from, until): Interval, now_us: i64) -> Option<i64> {
    let length = until.checked_sub(from)?;
    (until - now_us < AHEAD_US.min(length / 10)).then_some(until)
}

/// The interval of the chunk around this time, and `true` if it was made now.
async fn make_one(session: &mut Session, series: &str, time_us: i64) -> Result<(Interval, bool), Error> {
    let sql = "select from_us, until_us, created from ingest_ensure_chunk($1, $2)";
    let rows = session.query(Step::Other("make a chunk"), sql, &[&series, &time_us]).await?;
    let row = rows.first().ok_or_else(|| Error::Unexpected("ingest_ensure_chunk answers nothing".to_owned()))?;
    let interval = (row.get(0), row.get(1));
    let made = row.get(2);
    if made {
        info!(from = telemetry::time_us(interval.0), until = telemetry::time_us(interval.1), "made a chunk");
    }
    Ok((interval, made))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_chunks_are_found_by_any_time_in_them() {
        let known = KnownChunks::default();
        known.remember([(20, 30), (0, 10), (10, 20), (-10, -5)]);
        let expected = [
            (-11, None),
            (-10, Some((-10, -5))),
            (-5, None),
            (-1, None),
            (0, Some((0, 10))),
            (9, Some((0, 10))),
            (10, Some((10, 20))),
            (29, Some((20, 30))),
            (30, None),
        ];
        for (time, interval) in expected {
            assert_eq!(known.around(time), interval, "{time}");
        }
        known.forget();
        assert_eq!(known.around(0), None);
        known.remember([(i64::MIN, i64::MAX)]);
        assert_eq!(known.around(0), Some((i64::MIN, i64::MAX)));
    }

    #[test]
    fn the_next_chunk_is_made_when_a_tenth_or_an_hour_is_left() {
        let hour = 3_600_000_000;
        assert_eq!([89, 91].map(|now| next((0, 100), now)), [None, Some(100)]);
        let week = 168 * hour;
        assert_eq!([2 * hour, hour - 1].map(|left| next((0, week), week - left)), [None, Some(week)]);
        assert_eq!(next((i64::MIN, i64::MAX), 5), None);
    }
}
