//! Rows that are times with the values of all columns.

use std::sync::Arc;

use arrow_array::builder::Float64Builder;
use arrow_array::{ArrayRef, RecordBatch};

use super::BATCH_ROWS;
use super::decode::Points;
use super::plan::{Plan, times};
use crate::files::write::NO_POINT;
use crate::repository::Error;

/// Maximum number of cells of a batch.
const BATCH_CELLS: usize = 1 << 20;

/// Merges the columns of a window by time, batch by batch.
pub(super) fn rows(
    plan: &Plan,
    columns: &[Points],
    take: &mut impl FnMut(&RecordBatch) -> Result<(), Error>,
) -> Result<(), Error> {
    let all = all_times(columns);
    let most = (BATCH_CELLS / (columns.len() + 1)).clamp(1, BATCH_ROWS);
    let mut places = vec![0; columns.len()];
    for part in all.chunks(most) {
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(columns.len() + 1);
        arrays.push(times(part.to_vec()));
        for (points, place) in columns.iter().zip(&mut places) {
            arrays.push(Arc::new(values(points, place, part)));
        }
        take(&plan.batch(arrays)?)?;
    }
    Ok(())
}

/// The values of a column at these times; `place` is the first point that is not before them. Beneath a null is what
/// [`files::write::NO_POINT`](crate::files::write::NO_POINT) says.
fn values(points: &Points, place: &mut usize, times: &[i64]) -> arrow_array::Float64Array {
    let mut builder = Float64Builder::with_capacity(times.len());
    let (from, until) = (*place, *place + times.len());
    if points.times.get(from..until) == Some(times) {
        builder.append_values(&points.values[from..until], &points.is_valid[from..until]);
        *place = until;
        return builder.finish();
    }
    for time in times {
        if points.times.get(*place) == Some(time) {
            builder.append_values(&points.values[*place..=*place], &points.is_valid[*place..=*place]);
            *place += 1;
        } else {
            builder.append_values(&[NO_POINT], &[false]);
        }
    }
    builder.finish()
}

/// All times of the columns, sorted, each once. Columns are merged by twos, so that those with the same times, as most have,
/// take no more than one comparison of each.
fn all_times(columns: &[Points]) -> Vec<i64> {
    match columns {
        [] => Vec::new(),
        [only] => only.times.clone(),
        several => {
            let (left, right) = several.split_at(several.len() / 2);
            union(all_times(left), all_times(right))
        }
    }
}

fn union(left: Vec<i64>, right: Vec<i64>) -> Vec<i64> {
    if right.is_empty() || left == right {
        return left;
    }
    if left.is_empty() {
        return right;
    }
    let mut all = Vec::with_capacity(left.len().max(right.len()));
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    while let (Some(one), Some(other)) = (left.peek().copied(), right.peek().copied()) {
        if one <= other {
            left.next();
        }
        if other <= one {
            right.next();
        }
        all.push(one.min(other));
    }
    all.extend(left);
    all.extend(right);
    all
}
