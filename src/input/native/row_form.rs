//! Points in the form of rows: an array of objects with a timestamp, a column and a value each.

use super::fields::count_unknown;
use crate::message::faults::{checked_name, missing, too_many_points};
use crate::message::json::{Cursor, Fault};
use crate::message::timestamp::{self, Unit};
use crate::message::{KeyIndex, Limits, Points, Reason, SeriesIndex};

/// Adds the point of each row. Unknown fields are added to `unknown`, or rejected.
pub(super) fn add_points(
    cursor: &mut Cursor<'_>,
    series: SeriesIndex,
    unit: Unit,
    limits: &Limits,
    unknown: &mut usize,
    points: &mut Points,
) -> Result<(), Fault> {
    let mut rows = Rows { series, unit, limits, unknown };
    let mut count = 0;
    let mut next = cursor.first_element()?;
    while next.is_some() {
        if count == limits.max_points {
            return Err(too_many_points(cursor.position(), limits.max_points));
        }
        rows.add_point(cursor, points).map_err(|fault| fault.in_element(count))?;
        count += 1;
        next = cursor.next_element()?;
    }
    Ok(())
}

/// The parts that all rows of a message share.
struct Rows<'a> {
    series: SeriesIndex,
    unit: Unit,
    limits: &'a Limits,
    unknown: &'a mut usize,
}

/// The values of a row.
#[derive(Default)]
struct Row {
    time: Option<i64>,
    column: Option<KeyIndex>,
    value: Option<f64>,
}

enum Field {
    Timestamp,
    Column,
    Value,
    Other,
}

impl Rows<'_> {
    fn add_point(&mut self, cursor: &mut Cursor<'_>, points: &mut Points) -> Result<(), Fault> {
        let start = cursor.position();
        let mut row = Row::default();
        let mut at_key = cursor.next_quote();
        let mut next = cursor.first_key()?.map(|key| self.field(key, at_key)).transpose()?;
        while let Some(field) = next {
            self.read(&field, cursor, &mut row, points)?;
            at_key = cursor.next_quote();
            next = cursor.next_key()?.map(|key| self.field(key, at_key)).transpose()?;
        }
        match row {
            Row { time: Some(time), column: Some(column), value: Some(value) } => {
                points.push(column, time, value);
                Ok(())
            }
            Row { time: None, .. } => Err(missing(start, "timestamp")),
            Row { column: None, .. } => Err(missing(start, "column_name")),
            Row { value: None, .. } => Err(missing(start, "value")),
        }
    }

    fn field(&mut self, key: &str, at: usize) -> Result<Field, Fault> {
        Ok(match key {
            "timestamp" => Field::Timestamp,
            "column_name" => Field::Column,
            "value" => Field::Value,
            other => {
                count_unknown(other, at, self.limits.deny_unknown_fields, self.unknown)?;
                Field::Other
            }
        })
    }

    /// Reads the value of a field into the row.
    fn read(&self, field: &Field, cursor: &mut Cursor<'_>, row: &mut Row, points: &mut Points) -> Result<(), Fault> {
        let peek = cursor.peek()?;
        let at = cursor.position();
        let twice = match field {
            Field::Timestamp => {
                let read = timestamp::read(cursor, peek, self.unit, self.limits);
                row.time.replace(read.map_err(|fault| fault.under("timestamp"))?).map(|_| "timestamp")
            }
            Field::Column => {
                let text = cursor.text().and_then(|text| checked_name(at, text, self.limits.max_name_bytes));
                let key = points.key(self.series, text.map_err(|fault| fault.under("column_name"))?);
                row.column.replace(key).map(|_| "column_name")
            }
            Field::Value => {
                row.value.replace(cursor.value(peek).map_err(|fault| fault.under("value"))?).map(|_| "value")
            }
            Field::Other => {
                cursor.skip()?;
                None
            }
        };
        match twice {
            Some(field) => Err(Fault::new(Reason::Schema, at, "the field is a duplicate").under(field)),
            None => Ok(()),
        }
    }
}
