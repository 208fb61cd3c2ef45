//! Decodes one message into the points of a batch, with the plan of its topic.

use std::sync::Arc;

use super::around::{Around, Made};
use super::json::JsonScratch;
use super::native::NativeDecoder;
use super::rules::Rules;
use super::{Input, Inputs, Plan, influx};
use crate::message::json::Fault;
use crate::message::{Limits, Message, Points, Reason, Rejected};
use crate::raw::{Kind, RawMessage, Source, file_row};

/// Decodes messages. It reuses its buffers; a clone has the same inputs and rules, and empty buffers.
#[derive(Debug)]
pub struct Decoder {
    inputs: Inputs,
    native: NativeDecoder,
    json: JsonScratch,
    influx: influx::Scratch,
    selected: Option<Selected>,
}

/// The topic of the messages being decoded.
#[derive(Debug)]
struct Selected {
    source: Arc<Source>,
    /// The number of its input; `None` if no input reads it.
    input: Option<usize>,
    /// The groups that the input's regular expression matched in the topic's name; the first is the whole name.
    groups: Vec<String>,
}

impl Clone for Decoder {
    fn clone(&self) -> Self {
        Self::with_rules(self.native.rules.clone(), self.inputs.clone())
    }
}

impl Decoder {
    /// A decoder for these inputs, with these limits.
    pub fn new(limits: Limits, inputs: Inputs) -> Self {
        Self::with_rules(Rules::new(limits), inputs)
    }

    fn with_rules(rules: Rules, inputs: Inputs) -> Self {
        let native = NativeDecoder::with_rules(rules);
        Self { inputs, native, json: JsonScratch::default(), influx: influx::Scratch::default(), selected: None }
    }

    /// The inputs.
    pub fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    /// Rejects points of these series from now on, instead of those set before.
    pub fn reject_series(&mut self, ids: impl IntoIterator<Item = String>) {
        self.native.reject_series(ids);
    }

    /// Returns the number of unknown fields since the last call.
    pub fn take_unknown_fields(&mut self) -> usize {
        self.native.take_unknown_fields()
    }

    /// Decodes a message of a topic, and adds its points to `points`; nothing of a rejected message is added. A null payload is
    /// a tombstone in every format, and deletes a series in a topic of series if that is configured.
    ///
    /// # Errors
    /// If the message is not of its input's format, or contains what no point can hold: with the reason and the position.
    pub fn decode(
        &mut self,
        source: &Arc<Source>,
        message: &RawMessage<'_>,
        points: &mut Points,
    ) -> Result<Message, Rejected> {
        let Some(payload) = message.payload else { return self.tombstone(source, message) };
        self.native.rules.update_age(source.is_file());
        self.check_envelope(source, message.key, message.headers)?;
        if source.is_file()
            && let Some(why) = file_row::why_unreadable(payload)
        {
            return Err(Rejected::new(Reason::Schema, why));
        }
        if let Some(kind) = self.native_kind(source) {
            return self.native.decode(kind, Some(payload), points);
        }
        let Some(selected) = &self.selected else { return Err(of_no_input(source)) };
        let plan = selected.input.and_then(|number| self.inputs.all.get(number)).map(|input| &input.plan);
        let Some(plan) = plan else { return Err(of_no_input(source)) };
        let rules = &self.native.rules;
        let around = Around {
            key: message.key,
            headers: message.headers,
            time_ms: message.time_ms,
            topic: &source.topic,
            groups: &selected.groups,
        };
        let mark = points.begin_message();
        let before = points.len();
        let made = match plan {
            Plan::Json(plan) => rules
                .check_text(payload, "JSON", "JSON")
                .and_then(|_| self.json.decode(plan, payload, &around, rules, points).map_err(Fault::into)),
            Plan::Influx(plan) => rules
                .check_text(payload, "line protocol", "line protocol")
                .and_then(|text| self.influx.decode(plan, text, &around, rules, points).map_err(Fault::into)),
            Plan::Native(_) => Ok(Made::Nothing),
        };
        match made {
            Ok(Made::Points) => Ok(Message::PointBatch { points: points.len() - before }),
            Ok(Made::Skipped) => Ok(Message::Skipped),
            Ok(Made::Nothing) => Ok(Message::Empty),
            Err(rejected) => {
                points.cut_back(mark);
                Err(rejected)
            }
        }
    }

    /// A null payload: in a topic of series it deletes the series that the key names, if that is configured.
    fn tombstone(&mut self, source: &Arc<Source>, message: &RawMessage<'_>) -> Result<Message, Rejected> {
        if !self.native.rules.deletes_by_tombstone {
            return Ok(Message::Tombstone);
        }
        self.check_envelope(source, message.key, message.headers)?;
        if self.native_kind(source) != Some(Kind::Series) {
            return Ok(Message::Tombstone);
        }
        let rejected = |what: &str| Rejected::new(Reason::Schema, format!("the key of a null payload {what}"));
        let key = message.key.ok_or_else(|| rejected("is missing: expected the id of the series to delete"))?;
        let id =
            std::str::from_utf8(key).map_err(|_| rejected("is not UTF-8: expected the id of the series to delete"))?;
        let id = self.native.rules.name(id, 0);
        Ok(Message::SeriesDelete {
            id: id.map_err(|fault| rejected(&format!("is not an id: {}", fault.what)))?.to_owned(),
        })
    }

    /// Lets null payloads in topics of series delete the series that their keys name.
    pub fn deleting_by_tombstone(mut self, deletes: bool) -> Self {
        self.native.rules.deletes_by_tombstone = deletes;
        self
    }

    /// Rejects points that are older than this when they are decoded, in microseconds, except those of files: who imports a
    /// file means its times.
    pub fn with_max_age(mut self, max_age_us: Option<i64>) -> Self {
        self.native.rules.max_age_us = max_age_us;
        self
    }

    /// Checks the key and the headers of a message; `headers` are in the form of [`headers`](crate::raw::headers).
    ///
    /// # Errors
    /// If key or headers are too long or cannot be read, or a native message is of another version of the contract.
    pub fn check_envelope(
        &mut self,
        source: &Arc<Source>,
        key: Option<&[u8]>,
        headers: Option<&[u8]>,
    ) -> Result<(), Rejected> {
        self.select(source);
        if self.native_kind(source).is_some() {
            self.native.check_envelope(key, headers)
        } else {
            self.native.rules.check_envelope(key, headers)
        }
    }

    /// The plan of the selected topic; `None` if no input reads it.
    fn plan(&self) -> Option<&Plan> {
        let number = self.selected.as_ref()?.input?;
        self.inputs.all.get(number).map(|input| &input.plan)
    }

    /// The kind of the selected topic's messages if they do not name one, for a native topic.
    fn native_kind(&self, source: &Source) -> Option<Kind> {
        if source.is_file() {
            return Some(Kind::Points);
        }
        match self.plan() {
            Some(Plan::Native(kind)) => Some(*kind),
            // The journal records the kind of a native topic, even if the topic is no longer configured.
            None if source.kind != Kind::Other => Some(source.kind),
            _ => None,
        }
    }

    /// Selects the source of the messages to decode.
    fn select(&mut self, source: &Arc<Source>) {
        if self.selected.as_ref().is_some_and(|selected| Arc::ptr_eq(&selected.source, source)) {
            return;
        }
        let input = self.inputs.of_topic(&source.topic);
        let groups = input.map_or_else(Vec::new, |input| input.groups(&source.topic));
        let input = input.and_then(|input| self.inputs.iter().position(|one| std::ptr::eq(one, input)));
        self.selected = Some(Selected { source: Arc::clone(source), input, groups });
    }
}

impl Input {
    /// The groups that the first matching pattern has in a topic's name.
    fn groups(&self, topic: &str) -> Vec<String> {
        self.topics.iter().find_map(|pattern| pattern.groups(topic)).unwrap_or_default()
    }
}

fn of_no_input(source: &Source) -> Rejected {
    let detail =
        format!("no input names the topic {:?}: add it to an [[input]], then redrive this message", source.topic);
    Rejected::new(Reason::Schema, detail)
}
