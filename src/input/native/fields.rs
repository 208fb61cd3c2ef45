//! The fields of a message's outermost object: the position of each one's value.

use crate::message::Reason;
use crate::message::faults::{missing, quoted};
use crate::message::json::{Cursor, Fault};
use crate::message::timestamp::Unit;
use crate::raw::Kind;

/// A field that means something; others are skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Type,
    TimeSeriesId,
    TimestampUnit,
    Timestamps,
    Columns,
    Points,
    Id,
    Name,
    Description,
    TimeColumn,
    ValueColumns,
    Labels,
}

impl Field {
    const ALL: [Self; 12] = [
        Self::Type,
        Self::TimeSeriesId,
        Self::TimestampUnit,
        Self::Timestamps,
        Self::Columns,
        Self::Points,
        Self::Id,
        Self::Name,
        Self::Description,
        Self::TimeColumn,
        Self::ValueColumns,
        Self::Labels,
    ];

    /// The field of this name.
    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.name() == name)
    }

    /// Its name in a message.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::TimeSeriesId => "time_series_id",
            Self::TimestampUnit => "timestamp_unit",
            Self::Timestamps => "timestamps",
            Self::Columns => "columns",
            Self::Points => "points",
            Self::Id => "id",
            Self::Name => "name",
            Self::Description => "description",
            Self::TimeColumn => "time_column",
            Self::ValueColumns => "value_columns",
            Self::Labels => "labels",
        }
    }
}

/// The type of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    SeriesCreate,
    SeriesDelete,
    PointBatch,
}

/// The position of each field's value in the message.
pub(super) struct Fields<'a> {
    message: &'a [u8],
    /// By a field's number.
    starts: [Option<usize>; Field::ALL.len()],
    /// The byte after the object.
    end: usize,
}

impl<'a> Fields<'a> {
    /// Finds the fields of a message; unknown ones are added to `unknown`, or rejected. A message that is not JSON is rejected
    /// for that reason, whatever else is wrong with it.
    pub(super) fn find(message: &'a [u8], deny: bool, unknown: &mut usize) -> Result<Self, Fault> {
        let mut starts = [None; Field::ALL.len()];
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
        let mut parse = |key: &str, at: usize, fault: &mut Option<Fault>| {
            let field = Field::parse(key);
            if field.is_none()
                && let Err(denied) = count_unknown(key, at, deny, unknown)
            {
                fault.get_or_insert(denied);
            }
            field
        };
        let mut at = cursor.next_quote();
        let mut next = cursor.first_key()?.map(|key| parse(key, at, &mut not_of_the_contract));
        while let Some(field) = next {
            let start = cursor.skip().map_err(|fault| match field {
                Some(field) => fault.under(field.name()),
                None => fault,
            })?;
            if let Some(field) = field
                && starts[field as usize].replace(start).is_some()
            {
                let fault = Fault::new(Reason::Schema, start, "the field is a duplicate").under(field.name());
                not_of_the_contract.get_or_insert(fault);
            }
            at = cursor.next_quote();
            next = cursor.next_key()?.map(|key| parse(key, at, &mut not_of_the_contract));
        }
        let end = cursor.position();
        cursor.finish()?;
        match not_of_the_contract {
            Some(fault) => Err(fault),
            None => Ok(Self { message, starts, end }),
        }
    }

    /// A cursor at a field's value; `None` if the message has no such field.
    pub(super) fn cursor(&self, field: Field) -> Option<Cursor<'a>> {
        Some(Cursor::at(self.message, self.starts[field as usize]?))
    }

    /// As [`Fields::cursor`], with null as if the field were missing: so do Java and Go write what is not set.
    pub(super) fn not_null(&self, field: Field) -> Option<Cursor<'a>> {
        self.cursor(field).filter(|cursor| !self.message[cursor.position()..].starts_with(b"null"))
    }

    /// As [`Fields::cursor`]; a fault if the message has no such field.
    pub(super) fn required(&self, field: Field) -> Result<Cursor<'a>, Fault> {
        self.cursor(field).ok_or_else(|| self.missing(field))
    }

    /// The end of the object, as the position of faults about missing fields.
    pub(super) fn end(&self) -> usize {
        self.end.saturating_sub(1)
    }

    /// The fault that a field is missing.
    pub(super) fn missing(&self, field: Field) -> Fault {
        missing(self.end(), field.name())
    }

    /// The type of the message: its `type`, or else that of its topic.
    pub(super) fn message_type(&self, of_topic: Kind) -> Result<Type, Fault> {
        let of_topic = match of_topic {
            Kind::Series => Type::SeriesCreate,
            Kind::Points | Kind::Other => Type::PointBatch,
        };
        let Some(mut cursor) = self.cursor(Field::Type) else { return Ok(of_topic) };
        let at = cursor.position();
        let Some(word) = cursor.optional_text().map_err(|fault| fault.under("type"))? else { return Ok(of_topic) };
        Ok(match word {
            "series-create" => Type::SeriesCreate,
            "series-delete" => Type::SeriesDelete,
            "point-batch" => Type::PointBatch,
            _ => {
                let what = "expected \"series-create\", \"series-delete\" or \"point-batch\"";
                return Err(Fault::new(Reason::UnknownType, at, what).under("type"));
            }
        })
    }

    /// The unit of its timestamps.
    pub(super) fn unit(&self) -> Result<Unit, Fault> {
        let Some(mut cursor) = self.cursor(Field::TimestampUnit) else { return Ok(Unit::default()) };
        let at = cursor.position();
        let word = cursor.optional_text().map_err(|fault| fault.under("timestamp_unit"))?;
        let Some(word) = word else { return Ok(Unit::default()) };
        Unit::from_word(word).ok_or_else(|| {
            Fault::new(Reason::Schema, at, "expected \"s\", \"ms\", \"us\" or \"ns\"").under("timestamp_unit")
        })
    }
}

/// Counts an unknown field, or rejects it.
pub(super) fn count_unknown(key: &str, at: usize, deny: bool, unknown: &mut usize) -> Result<(), Fault> {
    *unknown += 1;
    if deny {
        let what = format!("the field {} is unknown, and message.deny_unknown_fields allows none", quoted(key));
        return Err(Fault::new(Reason::Schema, at, what));
    }
    Ok(())
}
