//! Line protocol of InfluxDB: `measurement,tag=value field=1.5,other=2i 1714521600000000000`, one line or many.
//!
//! - `reader`: the parts of a line.
//!
//! A line's names are read without their escapes; the series' id is then escaped like that of all formats of metrics. Nothing
//! is allocated for a line once the buffers have grown.

mod reader;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use super::around::{Around, Made};
use super::options::{Booleans, InputOptions, Strings};
use super::problems::Problems;
use super::rules::Rules;
use super::series_id::{Names, Tag};
use super::time::{of_kafka, parse_unit};
use crate::message::faults::{checked_name, too_many_points};
use crate::message::json::Fault;
use crate::message::timestamp::{self, Unit};
use crate::message::{KeyIndex, Points, Reason};
use reader::{Policies, Reader};

/// Compiled options for decoding lines into points.
#[derive(Debug)]
pub(super) struct InfluxPlan {
    unit: Unit,
    policies: Policies,
}

impl InfluxPlan {
    pub(super) fn compile(options: &InputOptions, problems: &mut Problems) -> Option<Self> {
        let unit = parse_unit(options.unit.as_deref().unwrap_or("ns"));
        let policies =
            Policies { strings: options.strings.unwrap_or_default(), booleans: options.booleans.unwrap_or_default() };
        Some(Self { unit: problems.take("unit", unit)?, policies })
    }
}

/// The names of the fields that an input with the defaults skips: those with strings, and those with booleans. Of what is not a line
/// protocol there are none after the fault.
pub(super) fn skipped_fields(payload: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut strings, mut booleans) = (BTreeSet::new(), BTreeSet::new());
    let mut scratch = Scratch::default();
    let mut reader = Reader::new(payload);
    let mut read = || -> Result<(), Fault> {
        while reader.next_line() {
            scratch.name_and_tags(&mut reader)?;
            loop {
                let name = reader.field_key(&mut scratch.unescaped)?.to_owned();
                let is_string = reader.is_at_string();
                let policies = Policies { strings: Strings::Skip, booleans: Booleans::Skip };
                if reader.value(policies, &mut scratch.string)?.is_none() {
                    if is_string {
                        strings.insert(name)
                    } else {
                        booleans.insert(name)
                    };
                }
                if !reader.take(b',') {
                    break;
                }
            }
            reader.timestamp()?;
        }
        Ok(())
    };
    // The trial says what is wrong with it.
    drop(read());
    (strings, booleans)
}

/// Buffers.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// The line's measurement, and then its tags.
    text: String,
    /// Length of the measurement at the beginning of `text`.
    measurement: usize,
    tags: Vec<Tag>,
    names: Names,
    /// The line's values, kept because the time follows them.
    values: Vec<(KeyIndex, f64)>,
    unescaped: String,
    string: String,
    /// Number of points of the message so far.
    count: usize,
}

impl Scratch {
    /// Adds the points of a message; if it fails, the caller removes the points that were added.
    pub(super) fn decode(
        &mut self,
        plan: &InfluxPlan,
        payload: &str,
        around: &Around<'_>,
        rules: &Rules,
        points: &mut Points,
    ) -> Result<Made, Fault> {
        self.lines(plan, payload, around, rules, points).map_err(|fault| {
            let before = &payload.as_bytes()[..fault.at];
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            fault.under(format_args!("line {line}"))
        })
    }

    fn lines(
        &mut self,
        plan: &InfluxPlan,
        payload: &str,
        around: &Around<'_>,
        rules: &Rules,
        points: &mut Points,
    ) -> Result<Made, Fault> {
        if let Some(at) = payload.find('\0') {
            return Err(Fault::nul(at));
        }
        let mut reader = Reader::new(payload);
        self.count = 0;
        let mut has_lines = false;
        while reader.next_line() {
            has_lines = true;
            self.line(plan, &mut reader, around, rules, points)?;
        }
        match (has_lines, self.count) {
            (false, _) => {
                let what = "expected a line, found none besides comments and spaces";
                Err(Fault::new(Reason::Schema, reader.position(), what))
            }
            (true, 0) => Ok(Made::Skipped),
            (true, _) => Ok(Made::Points),
        }
    }

    fn line(
        &mut self,
        plan: &InfluxPlan,
        reader: &mut Reader<'_>,
        around: &Around<'_>,
        rules: &Rules,
        points: &mut Points,
    ) -> Result<(), Fault> {
        let start = reader.position();
        self.name_and_tags(reader)?;
        points.begin_record();
        self.fields(plan, reader, start, rules, points)?;
        // A line whose values are all skipped is checked like any other.
        let time = match reader.timestamp()? {
            Some((text, at)) => timestamp::of_number(text.as_bytes(), plan.unit, at, &rules.limits, "unit")?,
            None => of_kafka(around, start, &rules.limits)?,
        };
        for (key, value) in &self.values {
            points.push(*key, time, *value);
        }
        Ok(())
    }

    /// Reads a line's measurement and its tags, and the spaces after them.
    fn name_and_tags(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        self.text.clear();
        self.tags.clear();
        reader.measurement(&mut self.text)?;
        self.measurement = self.text.len();
        while reader.take(b',') {
            let (at, start) = (reader.position(), self.text.len());
            reader.tag_key(&mut self.text)?;
            let middle = self.text.len();
            reader.tag_value(&mut self.text)?;
            self.tags.push(Tag { name: start..middle, value: middle..self.text.len(), at });
        }
        if !reader.take(b' ') {
            return Err(reader.expected("a space and a field after the measurement and its tags", reader.position()));
        }
        reader.skip_spaces();
        Ok(())
    }

    /// Reads the fields of the line that begins at `start`.
    fn fields(
        &mut self,
        plan: &InfluxPlan,
        reader: &mut Reader<'_>,
        start: usize,
        rules: &Rules,
        points: &mut Points,
    ) -> Result<(), Fault> {
        self.values.clear();
        let mut series = None;
        loop {
            let at = reader.position();
            let column = reader.field_key(&mut self.unescaped)?;
            if let Some(value) = reader.value(plan.policies, &mut self.string)? {
                self.count += 1;
                if self.count > rules.limits.max_points {
                    return Err(too_many_points(at, rules.limits.max_points));
                }
                let series = match series {
                    Some(series) => series,
                    // A line without a stored value adds no series either.
                    None => {
                        let measurement = &self.text[..self.measurement];
                        let found = self.names.metric(measurement, &mut self.tags, &self.text, start, rules, points)?;
                        *series.insert(found)
                    }
                };
                let column = checked_name(at, column, rules.limits.max_name_bytes)?;
                let key = points.key(series, column);
                if !points.is_first_in_message(key) {
                    return Err(Fault::new(Reason::Schema, at, "the field is a duplicate"));
                }
                self.values.push((key, value));
            }
            if !reader.take(b',') {
                return Ok(());
            }
        }
    }
}
