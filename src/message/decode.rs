//! One message into the columns of a batch.
//!
//! JSON objects have no order, but the unit must be known before the timestamps, and these before the columns. So a message
//! is read twice: first its fields are found, and skipped, then they are decoded in the order in which they are needed.

use std::collections::HashSet;

use super::faults::{checked_name, quoted, too_many_columns};
use super::fields::Fields;
use super::json::Fault;
use super::{Limits, Message, Points, Reason, Rejected, SeriesCreate, VERSION, VERSION_HEADER};
use super::{column_form, row_form};
use crate::raw::Kind;
use crate::raw::headers;

/// Decodes messages. It keeps its buffers from message to message; a clone has the same rules.
#[derive(Debug, Clone)]
pub struct Decoder {
    limits: Limits,
    rejected_series: HashSet<String>,
    times: Vec<i64>,
    unknown_fields: usize,
}

impl Decoder {
    /// A decoder with these limits.
    pub fn new(limits: Limits) -> Self {
        Self { limits, rejected_series: HashSet::new(), times: Vec::new(), unknown_fields: 0 }
    }

    /// From now on points of these series are rejected, instead of those named before.
    pub fn reject_series(&mut self, ids: impl IntoIterator<Item = String>) {
        self.rejected_series = ids.into_iter().collect();
    }

    /// How many fields that mean nothing there were since this was last asked.
    pub fn take_unknown_fields(&mut self) -> usize {
        std::mem::take(&mut self.unknown_fields)
    }

    /// Looks at what stands alongside a payload; `headers` are in the form of [`headers`].
    ///
    /// # Errors
    /// If key or headers are too long or cannot be read, or the message is of another version than this program's.
    pub fn check_envelope(&self, key: Option<&[u8]>, headers: Option<&[u8]>) -> Result<(), Rejected> {
        for (what, bytes) in [("key has", key), ("headers have", headers)] {
            let (length, limit) = (bytes.map_or(0, <[u8]>::len), self.limits.max_bytes);
            if length > limit {
                let detail = format!("the {what} {length} bytes, more than the {limit} allowed");
                return Err(Rejected::new(Reason::TooLarge, detail));
            }
        }
        if headers == Some(headers::UNREADABLE.as_slice()) {
            let detail = "the headers cannot be read: expected at most 100000, each with a name";
            return Err(Rejected::new(Reason::Limits, detail));
        }
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

    /// Decodes a payload, and adds its points to `points`; nothing of a rejected message is added. `kind` is what the
    /// message is if it does not say; `None` is Kafka's null payload.
    ///
    /// # Errors
    /// If the message is not of the contract, with the reason and the place.
    pub fn decode(&mut self, kind: Kind, payload: Option<&[u8]>, points: &mut Points) -> Result<Message, Rejected> {
        let Some(payload) = payload else { return Ok(Message::Tombstone) };
        let mark = points.begin_message();
        self.message(kind, payload, points).inspect_err(|_| points.cut_back(mark))
    }

    fn message(&mut self, kind: Kind, payload: &[u8], points: &mut Points) -> Result<Message, Rejected> {
        if payload.is_empty() {
            return Err(Rejected::new(Reason::Empty, "the payload is empty: expected a JSON object"));
        }
        if payload.len() > self.limits.max_bytes {
            let detail =
                format!("the message has {} bytes, more than the {} allowed", payload.len(), self.limits.max_bytes);
            return Err(Rejected::new(Reason::TooLarge, detail));
        }
        if let Err(error) = std::str::from_utf8(payload) {
            let detail = format!("the payload is not UTF-8 (byte {})", error.valid_up_to());
            return Err(Rejected::new(Reason::Encoding, detail));
        }
        if payload.starts_with("\u{feff}".as_bytes()) {
            return Err(Rejected::new(Reason::Syntax, "a byte order mark stands before the JSON (byte 0)"));
        }
        let fields = Fields::find(payload, self.limits.deny_unknown_fields, &mut self.unknown_fields)?;
        Ok(match fields.kind(kind)? {
            Kind::Series => Message::SeriesCreate(self.series_create(&fields)?),
            Kind::Points => Message::PointBatch { points: self.point_batch(&fields, points)? },
        })
    }

    fn series_create(&self, fields: &Fields<'_>) -> Result<SeriesCreate, Fault> {
        let limit = self.limits.max_name_bytes;
        let mut id = fields.required("id")?;
        let at = id.position();
        let id =
            id.text().and_then(|text| checked_name(at, text, limit)).map_err(|fault| fault.under("id"))?.to_owned();
        let text = |field: &str| -> Result<Option<String>, Fault> {
            let Some(mut cursor) = fields.cursor(field) else { return Ok(None) };
            let text = cursor.optional_text().map_err(|fault| fault.under(field))?;
            Ok(text.map(str::to_owned))
        };
        let time_column = text("time_column")?;
        if let (Some(column), Some(cursor)) = (&time_column, fields.cursor("time_column")) {
            checked_name(cursor.position(), column, limit).map_err(|fault| fault.under("time_column"))?;
        }
        Ok(SeriesCreate {
            name: text("name")?,
            description: text("description")?,
            time_column,
            value_columns: self.value_columns(fields).map_err(|fault| fault.under("value_columns"))?,
            id,
        })
    }

    fn value_columns(&self, fields: &Fields<'_>) -> Result<Vec<String>, Fault> {
        let mut columns: Vec<String> = Vec::new();
        let mut seen = HashSet::new();
        let Some(mut cursor) = fields.cursor("value_columns") else { return Ok(columns) };
        if cursor.peek()? == jiter::Peek::Null {
            return Ok(columns);
        }
        let mut next = cursor.first_element()?;
        while next.is_some() {
            let (at, index) = (cursor.position(), columns.len());
            if index == self.limits.max_points {
                let mut count = index;
                while next.is_some() {
                    cursor.skip()?;
                    count += 1;
                    next = cursor.next_element()?;
                }
                return Err(too_many_columns(at, count, self.limits.max_points));
            }
            let column = cursor.text().and_then(|text| checked_name(at, text, self.limits.max_name_bytes));
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
        let mut id = fields.required("time_series_id")?;
        let at = id.position();
        let id = id.text().and_then(|text| checked_name(at, text, self.limits.max_name_bytes));
        let id = id.map_err(|fault| fault.under("time_series_id"))?;
        if self.rejected_series.contains(id) {
            let what = "no series-create has come for this series";
            return Err(Fault::new(Reason::UnknownSeries, at, what).under("time_series_id"));
        }
        let series = points.series(id);
        match (fields.not_null("points"), fields.not_null("timestamps"), fields.not_null("columns")) {
            (Some(mut rows), None, None) => {
                let (limits, unknown) = (&self.limits, &mut self.unknown_fields);
                let added = row_form::add_points(&mut rows, series, unit, limits, unknown, points);
                added.map_err(|fault| fault.under("points"))?;
            }
            (None, Some(mut times), Some(mut columns)) => {
                let read = column_form::read_timestamps(&mut times, unit, &self.limits, &mut self.times);
                read.map_err(|fault| fault.under("timestamps"))?;
                let added = column_form::add_points(&mut columns, series, &self.times, &self.limits, points);
                added.map_err(|fault| fault.under("columns"))?;
            }
            (Some(rows), ..) => {
                return Err(Fault::new(
                    Reason::Schema,
                    rows.position(),
                    "expected points, or timestamps and columns, not both",
                ));
            }
            (None, None, Some(_)) => return Err(fields.missing("timestamps")),
            (None, Some(_), None) => return Err(fields.missing("columns")),
            (None, None, None) => {
                let what = "expected timestamps and columns, or points: all are missing";
                return Err(Fault::new(Reason::Schema, fields.end(), what));
            }
        }
        Ok(points.len() - before)
    }
}
