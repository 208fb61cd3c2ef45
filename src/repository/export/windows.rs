//! The points of one span of time after the other.

use std::ops::Range;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray as _;
use arrow_array::types::TimestampMicrosecondType;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::decode::Decoder;
use super::options::{Options, Part};
use super::plan::Plan;
use super::{long, sql, wide};
use crate::database::Step;
use crate::files::Form;
use crate::repository::{Error, Snapshot};

const HOUR_US: i64 = 3_600_000_000;
const DAY_US: i64 = 24 * HOUR_US;
/// The parts of the most points of a window that the next one is expected to have, so that few have to be read again.
const AIM: f64 = 0.7;
/// How much longer than the last one a window is at most.
const MAX_GROWTH: f64 = 8.0;
/// Of how many windows of points the server may compute aggregates in one statement: however few they are, all points are read.
const MAX_AGGREGATED: f64 = 4.0;

/// What was read.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// The rows that were made.
    pub rows: u64,
    /// The points that were read, with duplicates that were omitted; with aggregates, their number.
    pub points: u64,
}

/// Reads the points of a series, and makes batches of rows of them. Windows are in the order of time; the rows of a window are
/// by time if they are wide, and by column and time if they are long.
///
/// `take` gets each batch; `progress` gets the number of points after each window. A window that the server interrupts is read
/// again as a whole, as of a later moment, before anything of it is taken: what was not changed meanwhile is there once.
///
/// # Errors
/// If the server does not answer, points are duplicates that are not allowed, a time cannot be in a file, or `take` fails.
pub async fn read(
    snapshot: &Snapshot,
    plan: &Plan,
    options: &Options,
    take: &mut impl FnMut(&RecordBatch) -> Result<(), Error>,
    progress: &(impl Fn(u64) + Sync),
) -> Result<Read, Error> {
    let mut done = Read::default();
    let mut windows = Windows::new(snapshot, plan, options).await?;
    let mut decoder = Decoder::new(&plan.definition.id, &plan.columns, options.duplicates);
    let of_later = plan.of_later_moment();
    while let Some((window, is_smallest)) = windows.next() {
        let limit = (!is_smallest).then_some(options.window_points + 1);
        decoder.clear();
        let plan = if snapshot.is_of_several_moments() { &of_later } else { plan };
        let question = sql::window(plan, options, &window, limit);
        if let Err(error) = snapshot.copy(&question, |piece| decoder.take(piece)).await {
            snapshot.go_on_after(error).await?;
            #[cfg(feature = "planted-bugs")]
            if crate::planted_bugs::is_on("interrupted-window-is-skipped") {
                windows.advance(&window, 1);
            }
            continue;
        }
        if !is_smallest && decoder.rows > options.window_points {
            windows.shrink(&window);
            continue;
        }
        decoder.end()?;
        let mut count = |batch: &RecordBatch| {
            done.rows += batch.num_rows() as u64;
            take(batch)
        };
        match options.form {
            Form::Wide => wide::rows(plan, &decoder.columns, &mut count)?,
            Form::Long => long::rows(plan, &decoder.columns, &mut count)?,
        }
        done.points += decoder.rows as u64;
        progress(done.points);
        windows.advance(&window, decoder.rows);
        if decoder.rows == 0 && window.end < plan.range.end {
            let next = next_time(snapshot, plan, window.end).await?;
            windows.skip_to(next.unwrap_or(plan.range.end));
        }
    }
    Ok(done)
}

/// The next time that has a point.
async fn next_time(snapshot: &Snapshot, plan: &Plan, from: i64) -> Result<Option<i64>, Error> {
    let rows = snapshot.query(Step::Other("look for the next point"), &sql::next_time(plan, from), &[]).await?;
    Ok(rows.first().and_then(|row| row.get(0)))
}

/// Chooses windows with about as many points as fit.
struct Windows<'a> {
    next: i64,
    end: i64,
    /// Length of the next window.
    length: i64,
    /// Maximum length of a window.
    longest: i64,
    /// Where chunks begin and end: a window that ends there reads no chunk for nothing.
    bounds: Vec<i64>,
    /// Windows begin and end at multiples of this.
    unit: i64,
    options: &'a Options,
}

impl<'a> Windows<'a> {
    async fn new(snapshot: &Snapshot, plan: &Plan, options: &'a Options) -> Result<Self, Error> {
        let Range { start, end } = plan.range;
        let mut bounds = Vec::new();
        let mut length = end.saturating_sub(start).max(1);
        let mut longest = i64::MAX;
        if start < end {
            bounds = snapshot.chunk_bounds(start, end).await?;
            // The estimate may be far off: windows that have too many points are read again.
            let part = AIM * options.window_points as f64 / plan.expected_points.max(1) as f64;
            if options.bucket.is_some() && part * MAX_AGGREGATED < 1.0 {
                longest = scaled(length, part * MAX_AGGREGATED).max(1);
            }
            if part < 1.0 {
                length = scaled(length, part);
            }
        }
        let unit = options.bucket.as_ref().map_or(1, |bucket| bucket.length_us);
        Ok(Self { next: start, end, length, longest, bounds, unit, options })
    }

    /// The next window, and whether there is no smaller one.
    fn next(&self) -> Option<(Range<i64>, bool)> {
        if self.next >= self.end {
            return None;
        }
        let smallest = self.aligned_after(self.next).min(self.end);
        let wished = self.next.saturating_add(self.length.max(1)).min(self.end);
        let mut until = if wished == self.end { wished } else { self.aligned_after(wished - 1).min(self.end) };
        // To the last bound that is within it, if it is not too near.
        let middle = self.next + (until - self.next) / 2;
        let bound = self.bounds.partition_point(|bound| *bound <= until);
        if let Some(bound) = bound.checked_sub(1).map(|at| self.bounds[at]).filter(|bound| *bound > middle) {
            let aligned = self.aligned_after(bound - 1);
            until = until.min(aligned);
        }
        if let Some(part) = self.options.part {
            // Aggregates of a span that has two parts are of that where it begins.
            let aligned = self.aligned_after(part_end(part, self.next) - 1);
            until = until.min(aligned);
        }
        let until = until.max(smallest);
        Some((self.next..until, until == smallest))
    }

    /// The first multiple of the unit after a time.
    fn aligned_after(&self, time: i64) -> i64 {
        time.div_euclid(self.unit).saturating_add(1).saturating_mul(self.unit)
    }

    /// The window had too many points.
    fn shrink(&mut self, window: &Range<i64>) {
        self.length = ((window.end - window.start) / 4).max(1);
    }

    /// The window was read, and had this many points.
    fn advance(&mut self, window: &Range<i64>, rows: usize) {
        self.next = window.end;
        let growth = AIM * self.options.window_points as f64 / rows.max(1) as f64;
        self.length = scaled(window.end - window.start, growth.min(MAX_GROWTH)).clamp(1, self.longest);
    }

    fn skip_to(&mut self, time: i64) {
        // To where its unit begins: the windows stay aligned.
        self.next = self.next.max(time.div_euclid(self.unit).saturating_mul(self.unit));
    }
}

#[expect(clippy::cast_possible_truncation, reason = "what is too large becomes the largest")]
fn scaled(length: i64, by: f64) -> i64 {
    (length as f64 * by) as i64
}

/// The time of the first row of a batch, in microseconds since the Unix epoch.
pub fn first_time(batch: &RecordBatch) -> Option<i64> {
    let times = batch.columns().iter().find_map(|column| column.as_primitive_opt::<TimestampMicrosecondType>())?;
    times.values().first().copied()
}

/// Where the part begins that has this time, both in microseconds since the Unix epoch.
pub fn part_start(part: Part, time_us: i64) -> i64 {
    let day = time_us.div_euclid(DAY_US) * DAY_US;
    match part {
        Part::Day => day,
        // Beyond the calendar's end, days.
        Part::Month => month(day, 0).unwrap_or(day),
    }
}

fn part_end(part: Part, time_us: i64) -> i64 {
    let start = part_start(part, time_us);
    let day_after = start.saturating_add(DAY_US);
    match part {
        Part::Day => day_after,
        Part::Month => month(start, 1).unwrap_or(day_after),
    }
}

/// Where a month begins: the one that is `after` months after the one of this time.
fn month(time_us: i64, after: i32) -> Option<i64> {
    let date = TimeZone::UTC.to_datetime(Timestamp::from_microsecond(time_us).ok()?).date().first_of_month();
    let date = date.checked_add(jiff::Span::new().months(after)).ok()?;
    Some(TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0)).ok()?.as_microsecond())
}
