//! Points in the form of columns: an array of timestamps, and an object of columns with a value for each of them.

use crate::message::faults::{checked_name, too_many_columns, too_many_points};
use crate::message::json::{Cursor, Fault};
use crate::message::timestamp::{self, Unit};
use crate::message::{KeyIndex, Limits, Points, Reason, SeriesIndex};

/// Reads the timestamps into `times`, and removes those that are there.
pub(super) fn read_timestamps(
    cursor: &mut Cursor<'_>,
    unit: Unit,
    limits: &Limits,
    times: &mut Vec<i64>,
) -> Result<(), Fault> {
    times.clear();
    let mut next = cursor.first_element()?;
    while let Some(peek) = next {
        let index = times.len();
        if index == limits.max_points {
            return Err(too_many_points(cursor.position(), limits.max_points));
        }
        let time = timestamp::read(cursor, peek, unit, limits).map_err(|fault| fault.in_element(index))?;
        times.push(time);
        next = cursor.next_element()?;
    }
    Ok(())
}

/// Adds the points of all columns: each has one value, or null, for each of the timestamps. `values` is a buffer.
pub(super) fn add_points(
    cursor: &mut Cursor<'_>,
    series: SeriesIndex,
    times: &[i64],
    values: &mut Vec<f64>,
    limits: &Limits,
    points: &mut Points,
) -> Result<(), Fault> {
    let mut columns = 0;
    let mut at = cursor.next_quote();
    let mut next = column(cursor.first_key()?, at, series, points, limits)?;
    while let Some(key) = next {
        columns += 1;
        let wrapped = |fault: Fault, points: &Points| fault.under(points.column_name(key));
        if !points.is_first_in_message(key) {
            return Err(wrapped(Fault::new(Reason::Schema, at, "the column is a duplicate"), points));
        }
        if columns * times.len() > limits.max_points {
            return Err(too_many_points(cursor.position(), limits.max_points));
        }
        // Without timestamps there are no points to be counted, but each name is kept and looked up.
        if columns > limits.max_points {
            let mut count = columns;
            cursor.skip()?;
            while cursor.next_key()?.is_some() {
                cursor.skip()?;
                count += 1;
            }
            return Err(too_many_columns(at, count, limits.max_points));
        }
        read_values(cursor, times.len(), values).map_err(|fault| wrapped(fault, points))?;
        points.push_column(key, times, values);
        at = cursor.next_quote();
        next = column(cursor.next_key()?, at, series, points, limits)?;
    }
    Ok(())
}

/// Reads the values of a column into `values`, and removes those that are there.
fn read_values(cursor: &mut Cursor<'_>, timestamps: usize, values: &mut Vec<f64>) -> Result<(), Fault> {
    values.clear();
    let mut next = cursor.first_element()?;
    while let Some(peek) = next {
        let index = values.len();
        if index == timestamps {
            let what = format!("more values than the {timestamps} timestamps");
            return Err(Fault::new(Reason::Schema, cursor.position(), what));
        }
        values.push(cursor.value(peek).map_err(|fault| fault.in_element(index))?);
        next = cursor.next_element()?;
    }
    if values.len() < timestamps {
        let what = format!("{} values for {timestamps} timestamps", values.len());
        return Err(Fault::new(Reason::Schema, cursor.position(), what));
    }
    Ok(())
}

/// The key of the next column of a message.
fn column(
    name_found: Option<&str>,
    at: usize,
    series: SeriesIndex,
    points: &mut Points,
    limits: &Limits,
) -> Result<Option<KeyIndex>, Fault> {
    let Some(found) = name_found else { return Ok(None) };
    if found.as_bytes().contains(&0) {
        return Err(Fault::nul(at));
    }
    Ok(Some(points.key(series, checked_name(at, found, limits.max_name_bytes)?)))
}
