//! JSON of any shape: `json`, and the formats that are `json` with defaults.
//!
//! - `plan`: the compiled form of an input; `compile`: its creation from the configuration.
//! - `walk`: reads a value along a tree of mapped keys.
//! - `record`: the points of a record.
//!
//! A message is read once, or twice if its records are nested in it: the values around them are read first, because they may
//! follow the records. Nothing is allocated for a record once the buffers have grown.

mod compile;
mod plan;
mod record;
#[cfg(test)]
mod tests;
mod walk;

use jiter::Peek;

pub(super) use plan::JsonPlan;

use super::around::{Around, Made};
use super::rules::Rules;
use super::series_id::{Names, Tag};
use super::template::header;
use crate::message::json::{Cursor, Fault};
use crate::message::{Points, Reason};
use plan::{Envelope, Layout};
use walk::{Field, Scalar, Walk};

/// The beginning of a batch from Telegraf.
const METRICS: &[u8] = b"{\"metrics\":[";

/// Buffers, and the values read of the message and of the record.
#[derive(Debug, Default)]
pub(super) struct JsonScratch {
    /// The texts of slots, tags and fields.
    text: String,
    /// The values of the slots.
    slots: Vec<Option<Scalar>>,
    /// The values of the slots around the records.
    slots_around: Vec<Option<Scalar>>,
    /// Length of the text around the records, at the beginning of `text`.
    text_around: usize,
    tags: Vec<Tag>,
    fields: Vec<Field>,
    /// The names of the keys around a value, from the outside to the inside; a column's name begins at `base`.
    column: String,
    base: usize,
    /// The position of the records, and their node; `None` until it is found.
    records: Option<(usize, usize)>,
    names: Names,
    column_name: String,
    /// Number of the message's values that are skipped, as the input is configured.
    skipped: usize,
    /// Number of the message's values that are points.
    values: usize,
    /// Number of records of the message.
    records_read: usize,
}

impl JsonScratch {
    /// Adds the points of a message; if it fails, the caller removes the points that were added.
    pub(super) fn decode(
        &mut self,
        plan: &JsonPlan,
        payload: &[u8],
        around: &Around<'_>,
        rules: &Rules,
        points: &mut Points,
    ) -> Result<Made, Fault> {
        (self.skipped, self.values, self.records_read) = (0, 0, 0);
        let mut made = Made::Nothing;
        // One value, or several one after the other, like in JSON Lines.
        let mut next = Some(0);
        while let Some(at) = next {
            let mut cursor = Cursor::at(payload, at);
            let one = self.message(plan, &mut cursor, payload, around, rules, points)?;
            if one == Made::Points {
                made = one;
            }
            next = cursor.next_value();
        }
        if made == Made::Points && self.values == 0 {
            made = if self.skipped > 0 { Made::Skipped } else { Made::Nothing };
            if self.skipped > 0 && !plan.skips_messages {
                let what = format!(
                    "expected a value to store: {} are skipped as strings, booleans, null or nested are set",
                    self.skipped
                );
                return Err(Fault::new(Reason::Schema, 0, what));
            }
            // An empty array has nothing to store; a record without a value is unexpected.
            if self.skipped == 0 && self.records_read > 0 {
                return Err(Fault::new(Reason::Schema, 0, "expected a value to store, found none"));
            }
        }
        Ok(made)
    }

    /// Reads one value of the payload, and adds its points.
    fn message(
        &mut self,
        plan: &JsonPlan,
        cursor: &mut Cursor<'_>,
        payload: &[u8],
        around: &Around<'_>,
        rules: &Rules,
        points: &mut Points,
    ) -> Result<Made, Fault> {
        self.text.clear();
        self.slots_around.clear();
        self.slots_around.resize(plan.slots, None);
        self.records = None;
        let mut layout = &plan.layout;
        if let Envelope::Event { attributes, binary } = &plan.layout.envelope
            && header(around.headers, "ce_specversion").is_some()
        {
            layout = binary;
            self.attributes(attributes, around);
        }
        let Some(tree) = &layout.around else {
            self.text_around = self.text.len();
            return self.records(plan, layout, cursor, around, rules, points);
        };
        let start = cursor.position();
        if payload[start..].starts_with(METRICS) && matches!(layout.envelope, Envelope::Metrics) {
            return self.metrics(plan, cursor, around, rules, points);
        }
        cursor.require_object()?;
        std::mem::swap(&mut self.slots, &mut self.slots_around);
        let walked = self.walk(Walk { plan, tree, rules }, false, cursor);
        std::mem::swap(&mut self.slots, &mut self.slots_around);
        walked?;
        self.text_around = self.text.len();
        self.slots_around.iter_mut().flatten().for_each(|scalar| scalar.is_around = true);
        if let Some(ended) = self.ended(plan, layout, start)? {
            return Ok(ended);
        }
        match self.records.take() {
            Some((at, node)) => {
                let mut records = Cursor::at(payload, at);
                let made = self.records(plan, layout, &mut records, around, rules, points);
                let place = tree.nodes[node].records.as_deref().unwrap_or_default();
                made.map_err(|fault| fault.at_token(place.trim_start_matches('/')))
            }
            // A single metric.
            None => {
                let mut record = Cursor::at(payload, start);
                self.record(plan, &mut record, around, rules, points)?;
                Ok(Made::Points)
            }
        }
    }

    /// Reads a message that begins with Telegraf's metrics: nothing around them has to be read first, so it is read once.
    fn metrics(
        &mut self,
        plan: &JsonPlan,
        cursor: &mut Cursor<'_>,
        around: &Around<'_>,
        rules: &Rules,
        points: &mut Points,
    ) -> Result<Made, Fault> {
        self.text_around = 0;
        cursor.first_key()?;
        let made = self.records(plan, &plan.layout, cursor, around, rules, points);
        made.map_err(|fault| fault.at_token("metrics"))?;
        while let Some(key) = cursor.next_key()? {
            let is_duplicate = key == "metrics";
            if cursor.peek()? != Peek::Null && is_duplicate {
                let fault = Fault::new(Reason::Schema, cursor.position(), "the field is a duplicate");
                return Err(fault.at_token("metrics"));
            }
            cursor.skip()?;
        }
        Ok(Made::Points)
    }

    /// Returns the result of a message without records, if its format allows that, or the fault that they are missing.
    fn ended(&self, plan: &JsonPlan, layout: &Layout, start: usize) -> Result<Option<Made>, Fault> {
        let missing = |what: &str| Err(Fault::new(Reason::Schema, start, format!("expected {what}, which is missing")));
        match &layout.envelope {
            Envelope::Metrics => Ok(None),
            Envelope::Change { operation } => {
                match self.slots_around[*operation].as_ref().map(|found| found.text(&self.text)) {
                    Some("c" | "u" | "r") if self.records.is_some() => Ok(None),
                    // A deleted row, a truncated table, and a message of the application have no row afterwards.
                    Some("d" | "t" | "m") => Ok(Some(Made::Nothing)),
                    Some("c" | "u" | "r") => missing("the row in after"),
                    Some(_) => Err(Fault::new(
                        Reason::Schema,
                        start,
                        "expected one of Debezium's operations in op: c, u, r, d, t or m",
                    )),
                    None => missing("op, as in a change of Debezium's"),
                }
            }
            _ if self.records.is_some() => Ok(None),
            Envelope::Event { .. } => missing("data, as in a CloudEvent"),
            Envelope::Plain => {
                let place =
                    plan.layout.around.iter().flat_map(|tree| &tree.nodes).find_map(|node| node.records.as_deref());
                missing(place.unwrap_or("the records"))
            }
        }
    }

    /// Reads the attributes of a CloudEvent from a message's headers.
    fn attributes(&mut self, attributes: &[(String, usize)], around: &Around<'_>) {
        for (name, slot) in attributes {
            if let Some(text) = header(around.headers, name).and_then(|bytes| std::str::from_utf8(bytes).ok()) {
                self.slots_around[*slot] = Some(Scalar::of_text(text, 0, &mut self.text));
            }
        }
        self.slots_around.iter_mut().flatten().for_each(|scalar| scalar.is_around = true);
    }

    /// Adds the points of the record, or of the array of records, that the cursor is at.
    fn records(
        &mut self,
        plan: &JsonPlan,
        layout: &Layout,
        cursor: &mut Cursor<'_>,
        around: &Around<'_>,
        rules: &Rules,
        points: &mut Points,
    ) -> Result<Made, Fault> {
        let peek = cursor.peek()?;
        if layout.is_array {
            let mut index = 0;
            let mut next = cursor.first_element()?;
            while next.is_some() {
                self.record(plan, cursor, around, rules, points).map_err(|fault| fault.at_token(index))?;
                index += 1;
                next = cursor.next_element()?;
            }
        } else if peek == Peek::Array {
            let what = "expected a record, found an array: set each to the pointer to it, \"\" for the whole message";
            return Err(Fault::new(Reason::Schema, cursor.position(), what));
        } else {
            self.record(plan, cursor, around, rules, points)?;
        }
        Ok(Made::Points)
    }
}
