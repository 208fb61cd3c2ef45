//! The points of a record: its series, its time, its values.

use super::JsonScratch;
use super::plan::{JsonPlan, RecordTime, SeriesName};
use super::walk::{Scalar, ScalarKind, Walk, value_of};
use crate::input::around::Around;
use crate::input::labels::{is_number_of_jsonb, quote};
use crate::input::rules::Rules;
use crate::input::template::{Lacks, Template};
use crate::input::time::of_kafka;
use crate::message::faults::{checked_name, too_many_points};
use crate::message::json::{Cursor, Fault};
use crate::message::{Points, Reason, SeriesIndex};

impl JsonScratch {
    /// Reads the record that the cursor is at, and adds its points.
    pub(super) fn record(
        &mut self,
        plan: &JsonPlan,
        cursor: &mut Cursor<'_>,
        around: &Around<'_>,
        rules: &Rules,
        points: &mut Points,
    ) -> Result<(), Fault> {
        self.records_read += 1;
        self.text.truncate(self.text_around);
        self.slots.clone_from(&self.slots_around);
        self.tags.clear();
        self.fields.clear();
        self.column.clear();
        self.base = 0;
        let start = cursor.position();
        cursor.require_object()?;
        let columns = plan.record.nodes[0].columns == Some(true);
        self.walk(Walk { plan, tree: &plan.record, rules }, columns, cursor)?;
        let long = self.long_value(plan, start, rules)?;
        let time = self.time(plan, start, around, rules)?;
        let mark = points.begin_record();
        let series = self.series(plan, start, around, rules, points)?;
        if self.fields.is_empty() && long.is_none() {
            // A series without a point is not added.
            points.cut_back(mark);
            return Ok(());
        }
        if let Some((value, at)) = long {
            let Some((column, _)) = &plan.long else { return Ok(()) };
            self.column_name.clear();
            self.write(plan, column, start, "column", around)?;
            let name = rules.name(&self.column_name, at)?;
            let key = points.key(series, name);
            points.push(key, time, value);
        }
        for field in &self.fields {
            let key = points.key(series, &self.text[field.name.clone()]);
            if !points.is_first_in_message(key) {
                let what = format!("the column {:?} is a duplicate in its record", points.column_name(key));
                return Err(Fault::new(Reason::Schema, field.at, what));
            }
            points.push(key, time, field.value);
        }
        Ok(())
    }

    /// The value of a record in the long form, and its position; `None` in the wide form, and if it is skipped.
    fn long_value(&mut self, plan: &JsonPlan, start: usize, rules: &Rules) -> Result<Option<(f64, usize)>, Fault> {
        let Some((_, slot)) = &plan.long else { return Ok(None) };
        let Some(scalar) = &self.slots[*slot] else { return Err(missing(plan, *slot, start)) };
        let at = scalar.at;
        let value = value_of(scalar, plan, &self.text).map_err(|fault| fault.at_token(&plan.slot_names[*slot][1..]))?;
        match value {
            Some(value) => {
                self.values += 1;
                if self.values > rules.limits.max_points {
                    return Err(too_many_points(at, rules.limits.max_points));
                }
                Ok(Some((value, at)))
            }
            None => {
                self.skipped += 1;
                Ok(None)
            }
        }
    }

    fn time(&self, plan: &JsonPlan, start: usize, around: &Around<'_>, rules: &Rules) -> Result<i64, Fault> {
        let RecordTime::Slot { slot, form, or_kafka } = &plan.time else {
            return of_kafka(around, start, &rules.limits);
        };
        let Some(scalar) = &self.slots[*slot] else {
            return if *or_kafka { of_kafka(around, start, &rules.limits) } else { Err(missing(plan, *slot, start)) };
        };
        let text = scalar.text(&self.text);
        let time = match scalar.kind {
            ScalarKind::Number => form.of_number(text, scalar.at, &rules.limits),
            ScalarKind::Text => form.of_text(text, scalar.at, &rules.limits),
            ScalarKind::Boolean | ScalarKind::Null => {
                Err(Fault::new(Reason::Schema, scalar.at, "expected a time, found a boolean"))
            }
        };
        time.map_err(|fault| if scalar.is_around { fault } else { fault.at_token(&plan.slot_names[*slot][1..]) })
    }

    fn series(
        &mut self,
        plan: &JsonPlan,
        start: usize,
        around: &Around<'_>,
        rules: &Rules,
        points: &mut Points,
    ) -> Result<SeriesIndex, Fault> {
        match &plan.series {
            SeriesName::Template(template) => {
                self.names.id.clear();
                std::mem::swap(&mut self.names.id, &mut self.column_name);
                let written = self.write(plan, template, start, "series", around);
                std::mem::swap(&mut self.names.id, &mut self.column_name);
                written?;
                let series = rules.series(&self.names.id, start, points)?;
                if !plan.labels.is_empty() {
                    self.names.labels.clear();
                    write_labels(&mut self.names.labels, &plan.labels, &self.slots, &self.text);
                    if self.names.labels != "{}" {
                        points.set_labels(series, &self.names.labels);
                    }
                }
                Ok(series)
            }
            SeriesName::Tags(slot) => {
                let Some(name) = &self.slots[*slot] else { return Err(missing(plan, *slot, start)) };
                let name = checked_name(name.at, name.text(&self.text), rules.limits.max_name_bytes)?;
                self.names.metric(name, &mut self.tags, &self.text, start, rules, points)
            }
        }
    }

    /// Writes a template's text to `column_name`.
    fn write(
        &mut self,
        plan: &JsonPlan,
        template: &Template<usize>,
        start: usize,
        what: &str,
        around: &Around<'_>,
    ) -> Result<(), Fault> {
        let (slots, text) = (&self.slots, &self.text);
        let slot = |number: usize| slots[number].as_ref().map(|scalar| scalar.text(text));
        template.write(&mut self.column_name, around, slot).map_err(|lacks| match lacks {
            Lacks::Slot(slot) => match &slots[slot] {
                None => missing(plan, slot, start),
                Some(empty) => {
                    let what = format!("{what}: expected a text in {}, found an empty one", plan.slot_names[slot]);
                    Fault::new(Reason::Schema, empty.at, what)
                }
            },
            Lacks::Key => Fault::new(
                Reason::Schema,
                start,
                format!("{what}: expected a key of the message, which is text; it has none"),
            ),
            Lacks::Header(name) => Fault::new(
                Reason::Schema,
                start,
                format!("{what}: expected the header {name:?}, which is text; it is missing"),
            ),
        })
    }
}

/// Writes the labels as a JSON object; missing ones are omitted.
fn write_labels(json: &mut String, labels: &[(String, usize)], slots: &[Option<Scalar>], text: &str) {
    json.push('{');
    for (name, scalar) in labels.iter().filter_map(|(name, slot)| Some((name, slots[*slot].as_ref()?))) {
        if json.len() > 1 {
            json.push(',');
        }
        quote(json, name);
        json.push(':');
        let value = scalar.text(text);
        match scalar.kind {
            ScalarKind::Number if is_number_of_jsonb(value) => json.push_str(value),
            ScalarKind::Boolean => json.push_str(value),
            _ => quote(json, value),
        }
    }
    json.push('}');
}

fn missing(plan: &JsonPlan, slot: usize, at: usize) -> Fault {
    Fault::new(Reason::Schema, at, format!("expected {}, which is missing", plan.slot_names[slot]))
}
