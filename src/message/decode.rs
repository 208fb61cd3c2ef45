//! One message into the columns of a batch.
//!
//! JSON objects have no order, but the unit must be known before the timestamps, and these before the columns. So a message
//! is read twice: first its fields are found, and passed over, then they are decoded in the order in which they are needed.

use std::collections::HashSet;

use super::json::{Cursor, Fault};
use super::timestamp::{self, Unit};
use super::{Limits, Message, Reason, Rejected, SeriesCreate, VERSION, VERSION_HEADER};
use crate::message::{KeyIndex, Points, SeriesIndex};
use crate::raw::Kind;
use crate::raw::headers;

/// Decodes messages. It keeps its buffers from message to message.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    rejected_series: HashSet<String>,
    times: Vec<i64>,
    unknown_fields: usize,
}

/// The names of the fields that mean something; others are passed over.
const FIELDS: [&str; 11] = [
    "type",
    "time_series_id",
    "timestamp_unit",
    "timestamps",
    "columns",
    "points",
    "id",
    "name",
    "description",
    "time_column",
    "value_columns",
];

/// Where each field's value begins in the message.
struct Fields<'a> {
    message: &'a [u8],
    starts: [Option<usize>; FIELDS.len()],
    /// The byte after the object.
    end: usize,
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

    /// Looks at what stands beside a payload; `headers` are in the form of [`headers`].
    ///
    /// # Errors
    /// Where key or headers are too long or cannot be read, or the message is of another version than this program's.
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
    /// message is where it does not say; `None` is Kafka's null payload.
    ///
    /// # Errors
    /// Where the message is not of the contract, with the reason and the place.
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
        let id = id.text().and_then(|text| name(at, text, limit)).map_err(|fault| fault.under("id"))?.to_owned();
        let text = |field: &str| -> Result<Option<String>, Fault> {
            let Some(mut cursor) = fields.cursor(field) else { return Ok(None) };
            let text = cursor.optional_text().map_err(|fault| fault.under(field))?;
            Ok(text.map(str::to_owned))
        };
        let time_column = text("time_column")?;
        if let (Some(column), Some(cursor)) = (&time_column, fields.cursor("time_column")) {
            name(cursor.position(), column, limit).map_err(|fault| fault.under("time_column"))?;
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
            let column = cursor.text().and_then(|text| name(at, text, self.limits.max_name_bytes));
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
        let id = id.text().and_then(|text| name(at, text, self.limits.max_name_bytes));
        let id = id.map_err(|fault| fault.under("time_series_id"))?;
        if self.rejected_series.contains(id) {
            let what = "no series-create has come for this series";
            return Err(Fault::new(Reason::UnknownSeries, at, what).under("time_series_id"));
        }
        let series = points.series(id);
        match (fields.not_null("points"), fields.not_null("timestamps"), fields.not_null("columns")) {
            (Some(mut rows), None, None) => {
                self.rows(&mut rows, series, unit, points).map_err(|fault| fault.under("points"))?;
            }
            (None, Some(mut times), Some(mut columns)) => {
                self.timestamps(&mut times, unit).map_err(|fault| fault.under("timestamps"))?;
                self.columns(&mut columns, series, points).map_err(|fault| fault.under("columns"))?;
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
                return Err(Fault::new(Reason::Schema, fields.end.saturating_sub(1), what));
            }
        }
        Ok(points.len() - before)
    }

    fn timestamps(&mut self, cursor: &mut Cursor<'_>, unit: Unit) -> Result<(), Fault> {
        self.times.clear();
        let mut next = cursor.first_element()?;
        while let Some(peek) = next {
            let index = self.times.len();
            if index == self.limits.max_points {
                return Err(too_many(cursor.position(), self.limits.max_points));
            }
            let time = timestamp::read(cursor, peek, unit, &self.limits).map_err(|fault| fault.in_element(index))?;
            self.times.push(time);
            next = cursor.next_element()?;
        }
        Ok(())
    }

    fn columns(&self, cursor: &mut Cursor<'_>, series: SeriesIndex, points: &mut Points) -> Result<(), Fault> {
        let mut columns = 0;
        let mut at = cursor.next_quote();
        let mut next = column(cursor.first_key()?, at, series, points, &self.limits)?;
        while let Some(key) = next {
            columns += 1;
            let wrapped = |fault: Fault, points: &Points| fault.under(points.column_name(key));
            if !points.is_first_in_message(key) {
                return Err(wrapped(Fault::new(Reason::Schema, at, "the column is there twice"), points));
            }
            if columns * self.times.len() > self.limits.max_points {
                return Err(too_many(cursor.position(), self.limits.max_points));
            }
            // Without timestamps there are no points to be counted, but each name is held and looked up.
            if columns > self.limits.max_points {
                let mut count = columns;
                cursor.skip()?;
                while cursor.next_key()?.is_some() {
                    cursor.skip()?;
                    count += 1;
                }
                return Err(too_many_columns(at, count, self.limits.max_points));
            }
            self.values(cursor, key, points).map_err(|fault| wrapped(fault, points))?;
            at = cursor.next_quote();
            next = column(cursor.next_key()?, at, series, points, &self.limits)?;
        }
        Ok(())
    }

    fn values(&self, cursor: &mut Cursor<'_>, key: KeyIndex, points: &mut Points) -> Result<(), Fault> {
        points.reserve(self.times.len());
        let mut times = self.times.iter();
        let mut next = cursor.first_element()?;
        while let Some(peek) = next {
            let index = self.times.len() - times.len();
            let Some(time) = times.next() else {
                let what = format!("more values than the {} timestamps", self.times.len());
                return Err(Fault::new(Reason::Schema, cursor.position(), what));
            };
            let value = cursor.value(peek).map_err(|fault| fault.in_element(index))?;
            points.push(key, *time, value);
            next = cursor.next_element()?;
        }
        if times.len() > 0 {
            let what = format!("{} values for {} timestamps", self.times.len() - times.len(), self.times.len());
            return Err(Fault::new(Reason::Schema, cursor.position(), what));
        }
        Ok(())
    }

    fn rows(
        &mut self,
        cursor: &mut Cursor<'_>,
        series: SeriesIndex,
        unit: Unit,
        points: &mut Points,
    ) -> Result<(), Fault> {
        let mut count = 0;
        let mut next = cursor.first_element()?;
        while next.is_some() {
            if count == self.limits.max_points {
                return Err(too_many(cursor.position(), self.limits.max_points));
            }
            self.row(cursor, series, unit, points).map_err(|fault| fault.in_element(count))?;
            count += 1;
            next = cursor.next_element()?;
        }
        Ok(())
    }

    fn row(
        &mut self,
        cursor: &mut Cursor<'_>,
        series: SeriesIndex,
        unit: Unit,
        points: &mut Points,
    ) -> Result<(), Fault> {
        enum Field {
            Timestamp,
            Column,
            Value,
            Other,
        }
        let start = cursor.position();
        let (mut time, mut column, mut value) = (None, None, None);
        let (deny, unknown) = (self.limits.deny_unknown_fields, &mut self.unknown_fields);
        let mut field = |key: &str, at: usize| {
            Ok(match key {
                "timestamp" => Field::Timestamp,
                "column_name" => Field::Column,
                "value" => Field::Value,
                other => {
                    pass_over(other, at, deny, unknown)?;
                    Field::Other
                }
            })
        };
        let mut at_key = cursor.next_quote();
        let mut next = cursor.first_key()?.map(|key| field(key, at_key)).transpose()?;
        while let Some(found) = next {
            let peek = cursor.peek()?;
            let at = cursor.position();
            let twice = match found {
                Field::Timestamp => {
                    let read =
                        timestamp::read(cursor, peek, unit, &self.limits).map_err(|fault| fault.under("timestamp"))?;
                    time.replace(read).map(|_| "timestamp")
                }
                Field::Column => {
                    let text = cursor.text().and_then(|text| name(at, text, self.limits.max_name_bytes));
                    let key = points.key(series, text.map_err(|fault| fault.under("column_name"))?);
                    column.replace(key).map(|_| "column_name")
                }
                Field::Value => {
                    value.replace(cursor.value(peek).map_err(|fault| fault.under("value"))?).map(|_| "value")
                }
                Field::Other => {
                    cursor.skip()?;
                    None
                }
            };
            if let Some(field) = twice {
                return Err(Fault::new(Reason::Schema, at, "the field is there twice").under(field));
            }
            at_key = cursor.next_quote();
            next = cursor.next_key()?.map(|key| field(key, at_key)).transpose()?;
        }
        match (time, column, value) {
            (Some(time), Some(column), Some(value)) => {
                points.push(column, time, value);
                Ok(())
            }
            (None, ..) => Err(missing(start, "timestamp")),
            (_, None, _) => Err(missing(start, "column_name")),
            (.., None) => Err(missing(start, "value")),
        }
    }
}

impl<'a> Fields<'a> {
    /// Finds the fields of a message; those that mean nothing are added to `unknown`, or denied. A message that is not JSON is
    /// rejected for that, whatever else is wrong with it.
    fn find(message: &'a [u8], deny: bool, unknown: &mut usize) -> Result<Self, Fault> {
        let mut starts = [None; FIELDS.len()];
        let mut cursor = Cursor::at(message, 0);
        let peek = cursor.peek()?;
        if peek != jiter::Peek::Object {
            // By its first byte alone, "not json" would be null.
            let fault = cursor.unexpected("an object", peek);
            cursor.skip()?;
            cursor.finish()?;
            return Err(fault);
        }
        let mut not_of_the_contract = None;
        let mut index = |key: &str, at: usize, fault: &mut Option<Fault>| {
            let index = FIELDS.iter().position(|field| *field == key);
            if index.is_none()
                && let Err(denied) = pass_over(key, at, deny, unknown)
            {
                fault.get_or_insert(denied);
            }
            index
        };
        let mut at = cursor.next_quote();
        let mut next = cursor.first_key()?.map(|key| index(key, at, &mut not_of_the_contract));
        while let Some(field) = next {
            let start = cursor.skip().map_err(|fault| match field {
                Some(field) => fault.under(FIELDS[field]),
                None => fault,
            })?;
            if let Some(field) = field
                && starts[field].replace(start).is_some()
            {
                let fault = Fault::new(Reason::Schema, start, "the field is there twice").under(FIELDS[field]);
                not_of_the_contract.get_or_insert(fault);
            }
            at = cursor.next_quote();
            next = cursor.next_key()?.map(|key| index(key, at, &mut not_of_the_contract));
        }
        let end = cursor.position();
        cursor.finish()?;
        match not_of_the_contract {
            Some(fault) => Err(fault),
            None => Ok(Self { message, starts, end }),
        }
    }

    /// A cursor at a field's value; `None` where the message has no such field.
    fn cursor(&self, field: &str) -> Option<Cursor<'a>> {
        let start = FIELDS.iter().zip(self.starts).find_map(|(name, start)| (*name == field).then_some(start)?)?;
        Some(Cursor::at(self.message, start))
    }

    /// As [`Fields::cursor`], with null as if the field were missing: so do Java and Go write what is not set.
    fn not_null(&self, field: &str) -> Option<Cursor<'a>> {
        self.cursor(field).filter(|cursor| !self.message[cursor.position()..].starts_with(b"null"))
    }

    fn required(&self, field: &str) -> Result<Cursor<'a>, Fault> {
        self.cursor(field).ok_or_else(|| self.missing(field))
    }

    fn missing(&self, field: &str) -> Fault {
        missing(self.end.saturating_sub(1), field)
    }

    fn kind(&self, of_topic: Kind) -> Result<Kind, Fault> {
        let Some(mut cursor) = self.cursor("type") else { return Ok(of_topic) };
        let at = cursor.position();
        let Some(word) = cursor.optional_text().map_err(|fault| fault.under("type"))? else { return Ok(of_topic) };
        Kind::from_word(word).ok_or_else(|| {
            Fault::new(Reason::UnknownType, at, "expected \"series-create\" or \"point-batch\"").under("type")
        })
    }

    fn unit(&self) -> Result<Unit, Fault> {
        let Some(mut cursor) = self.cursor("timestamp_unit") else { return Ok(Unit::default()) };
        let at = cursor.position();
        let word = cursor.optional_text().map_err(|fault| fault.under("timestamp_unit"))?;
        let Some(word) = word else { return Ok(Unit::default()) };
        Unit::from_word(word).ok_or_else(|| {
            Fault::new(Reason::Schema, at, "expected \"s\", \"ms\", \"us\" or \"ns\"").under("timestamp_unit")
        })
    }
}

/// The key of a column that is named next in a message.
fn column(
    name_found: Option<&str>,
    at: usize,
    series: SeriesIndex,
    points: &mut Points,
    limits: &Limits,
) -> Result<Option<KeyIndex>, Fault> {
    let Some(found) = name_found else { return Ok(None) };
    if found.as_bytes().contains(&0) {
        return Err(Fault::new(Reason::Encoding, at, "PostgreSQL's text cannot hold the character U+0000"));
    }
    Ok(Some(points.key(series, name(at, found, limits.max_name_bytes)?)))
}

/// A series' id or a column's name, if it is one.
fn name(at: usize, text: &str, max_bytes: usize) -> Result<&str, Fault> {
    if text.is_empty() {
        return Err(Fault::new(Reason::Schema, at, "expected a name, found an empty string"));
    }
    if text.len() > max_bytes {
        let what = format!("the name has {} bytes, more than the {max_bytes} allowed", text.len());
        return Err(Fault::new(Reason::Limits, at, what));
    }
    Ok(text)
}

/// Counts a field that means nothing, or refuses it.
fn pass_over(key: &str, at: usize, deny: bool, unknown: &mut usize) -> Result<(), Fault> {
    *unknown += 1;
    if deny {
        let what = format!("the field {} is unknown, and message.deny_unknown_fields allows none", quoted(key));
        return Err(Fault::new(Reason::Schema, at, what));
    }
    Ok(())
}

/// The head of a text that may be anything.
fn quoted(text: &str) -> String {
    const SHOWN: usize = 100;
    let head: String = text.chars().take(SHOWN).collect();
    format!("{head:?}{}", if head.len() < text.len() { "…" } else { "" })
}

fn missing(at: usize, field: &str) -> Fault {
    Fault::new(Reason::Schema, at, format!("expected {field}, which is missing"))
}

fn too_many_columns(at: usize, count: usize, limit: usize) -> Fault {
    Fault::new(Reason::Limits, at, format!("{count} columns, more than the {limit} allowed, as of points"))
}

fn too_many(at: usize, limit: usize) -> Fault {
    Fault::new(Reason::TooLarge, at, format!("the message has more than the {limit} points allowed"))
}
