//! The format `native`: messages that were written for this program. It is described in docs/messages.md.
//!
//! - `fields`: the fields of a message.
//! - `column_form`, `row_form`: its points, in either form.
//! - `labels`: the labels of a series.
//!
//! JSON objects have no order, but the unit must be known before the timestamps, and these before the columns. So a message is
//! read twice: first its fields are found, and skipped, then they are decoded in the required order.

mod column_form;
mod fields;
mod labels;
mod row_form;

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use super::rules::Rules;
use crate::message::faults::{checked_name, quoted, too_many_columns};
use crate::message::json::Fault;
use crate::message::{Limits, Message, Points, Reason, Rejected, SeriesCreate};
use crate::raw::{Kind, headers};
use fields::{Field, Fields, Type};

/// The header by which a producer may state the version of the contract.
pub const VERSION_HEADER: &str = "series-ingest-version";
/// The only version.
const VERSION: &str = "1";

/// Decodes native messages. It reuses its buffers.
#[derive(Debug)]
pub struct NativeDecoder {
    pub(super) rules: Rules,
    times: Vec<i64>,
    values: Vec<f64>,
    unknown_fields: usize,
}

impl NativeDecoder {
    /// A decoder with these limits.
    pub fn new(limits: Limits) -> Self {
        Self::with_rules(Rules::new(limits))
    }

    pub(super) fn with_rules(rules: Rules) -> Self {
        Self { rules, times: Vec::new(), values: Vec::new(), unknown_fields: 0 }
    }

    /// Rejects points of these series from now on, instead of those set before.
    pub fn reject_series(&mut self, ids: impl IntoIterator<Item = String>) {
        self.rules.reject_series(ids);
    }

    /// Returns the number of unknown fields since the last call.
    pub fn take_unknown_fields(&mut self) -> usize {
        std::mem::take(&mut self.unknown_fields)
    }

    /// Checks the key and the headers of a message; `headers` are in the form of [`headers`].
    ///
    /// # Errors
    /// If key or headers are too long or cannot be read, or the message has a version of the contract other than this
    /// program's.
    pub fn check_envelope(&self, key: Option<&[u8]>, headers: Option<&[u8]>) -> Result<(), Rejected> {
        self.rules.check_envelope(key, headers)?;
        for (_, value) in
            headers::iterate(headers.unwrap_or_default()).filter(|(name, _)| *name == VERSION_HEADER.as_bytes())
        {
            if value != Some(VERSION.as_bytes()) {
                let found =
                    value.map_or_else(|| "no value".to_owned(), |value| quoted(&String::from_utf8_lossy(value)));
                let detail = format!("header {VERSION_HEADER}: expected {VERSION:?}, found {found}");
                return Err(Rejected::new(Reason::Schema, detail));
            }
        }
        Ok(())
    }

    /// Decodes a payload, and adds its points to `points`; nothing of a rejected message is added. `kind` is the kind of the
    /// message if it does not name one; `None` is Kafka's null payload.
    ///
    /// # Errors
    /// If the message violates the contract, with the reason and the position.
    pub fn decode(&mut self, kind: Kind, payload: Option<&[u8]>, points: &mut Points) -> Result<Message, Rejected> {
        let Some(payload) = payload else { return Ok(Message::Tombstone) };
        let mark = points.begin_message();
        self.message(kind, payload, points).inspect_err(|_| points.cut_back(mark))
    }

    fn message(&mut self, kind: Kind, payload: &[u8], points: &mut Points) -> Result<Message, Rejected> {
        self.rules.check_text(payload, "a JSON object", "JSON")?;
        let fields = Fields::find(payload, self.rules.limits.deny_unknown_fields, &mut self.unknown_fields)?;
        Ok(match fields.message_type(kind)? {
            Type::SeriesCreate => Message::SeriesCreate(self.series_create(&fields)?),
            Type::SeriesDelete => Message::SeriesDelete { id: self.series_id(&fields)? },
            Type::PointBatch => Message::PointBatch { points: self.point_batch(&fields, points)? },
        })
    }

    /// The id of the series that is created or deleted.
    fn series_id(&self, fields: &Fields<'_>) -> Result<String, Fault> {
        let mut id = fields.required(Field::Id)?;
        let at = id.position();
        let id = id.text().and_then(|text| checked_name(at, text, self.rules.limits.max_name_bytes));
        Ok(id.map_err(|fault| fault.under("id"))?.to_owned())
    }

    fn series_create(&self, fields: &Fields<'_>) -> Result<SeriesCreate, Fault> {
        let limit = self.rules.limits.max_name_bytes;
        let id = self.series_id(fields)?;
        let text = |field: Field| -> Result<Option<String>, Fault> {
            let Some(mut cursor) = fields.cursor(field) else { return Ok(None) };
            let text = cursor.optional_text().map_err(|fault| fault.under(field.name()))?;
            Ok(text.map(str::to_owned))
        };
        let time_column = text(Field::TimeColumn)?;
        if let (Some(column), Some(cursor)) = (&time_column, fields.cursor(Field::TimeColumn)) {
            checked_name(cursor.position(), column, limit).map_err(|fault| fault.under("time_column"))?;
        }
        Ok(SeriesCreate {
            name: text(Field::Name)?,
            description: text(Field::Description)?,
            time_column,
            value_columns: self.value_columns(fields).map_err(|fault| fault.under("value_columns"))?,
            labels: match fields.cursor(Field::Labels) {
                Some(mut cursor) => {
                    let labels = labels::read(&mut cursor, &self.rules.limits);
                    Some(labels.map_err(|fault| fault.under("labels"))?)
                }
                None => None,
            },
            id,
        })
    }

    fn value_columns(&self, fields: &Fields<'_>) -> Result<Vec<String>, Fault> {
        let mut columns: Vec<String> = Vec::new();
        let mut seen = HashSet::new();
        let Some(mut cursor) = fields.cursor(Field::ValueColumns) else { return Ok(columns) };
        if cursor.peek()? == jiter::Peek::Null {
            return Ok(columns);
        }
        let mut next = cursor.first_element()?;
        while next.is_some() {
            let (at, index) = (cursor.position(), columns.len());
            if index == self.rules.limits.max_points {
                let mut count = index;
                while next.is_some() {
                    cursor.skip()?;
                    count += 1;
                    next = cursor.next_element()?;
                }
                return Err(too_many_columns(at, count, self.rules.limits.max_points));
            }
            let column = cursor.text().and_then(|text| checked_name(at, text, self.rules.limits.max_name_bytes));
            let column = column.map_err(|fault| fault.in_element(index))?.to_owned();
            if !seen.insert(column.clone()) {
                return Err(Fault::new(Reason::Schema, at, "the column is named twice").in_element(index));
            }
            columns.push(column);
            next = cursor.next_element()?;
        }
        Ok(columns)
    }

    fn point_batch(&mut self, fields: &Fields<'_>, points: &mut Points) -> Result<usize, Fault> {
        let before = points.len();
        let unit = fields.unit()?;
        let mut id = fields.required(Field::TimeSeriesId)?;
        let at = id.position();
        let id = id.text().and_then(|text| checked_name(at, text, self.rules.limits.max_name_bytes));
        let id = id.map_err(|fault| fault.under("time_series_id"))?;
        if self.rules.rejects(id) {
            let what = "no series-create has come for this series";
            return Err(Fault::new(Reason::UnknownSeries, at, what).under("time_series_id"));
        }
        let series = points.series(id);
        match (fields.not_null(Field::Points), fields.not_null(Field::Timestamps), fields.not_null(Field::Columns)) {
            (Some(mut rows), None, None) => {
                let (limits, unknown) = (&self.rules.limits, &mut self.unknown_fields);
                let added = row_form::add_points(&mut rows, series, unit, limits, unknown, points);
                added.map_err(|fault| fault.under("points"))?;
            }
            (None, Some(mut times), Some(mut columns)) => {
                let read = column_form::read_timestamps(&mut times, unit, &self.rules.limits, &mut self.times);
                read.map_err(|fault| fault.under("timestamps"))?;
                let (times, values, limits) = (&self.times, &mut self.values, &self.rules.limits);
                let added = column_form::add_points(&mut columns, series, times, values, limits, points);
                added.map_err(|fault| fault.under("columns"))?;
            }
            (Some(rows), ..) => {
                return Err(Fault::new(
                    Reason::Schema,
                    rows.position(),
                    "expected points, or timestamps and columns, not both",
                ));
            }
            (None, None, Some(_)) => return Err(fields.missing(Field::Timestamps)),
            (None, Some(_), None) => return Err(fields.missing(Field::Columns)),
            (None, None, None) => {
                let what = "expected timestamps and columns, or points: all are missing";
                return Err(Fault::new(Reason::Schema, fields.end(), what));
            }
        }
        Ok(points.len() - before)
    }
}
