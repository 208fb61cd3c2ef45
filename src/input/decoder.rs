//! One message into the points of a batch, by the plan of its topic.

use std::sync::Arc;

use super::around::{Around, Made};
use super::json::JsonScratch;
use super::native::NativeDecoder;
use super::rules::Rules;
use super::{Input, Inputs, Plan, influx};
use crate::message::json::Fault;
use crate::message::{Limits, Message, Points, Reason, Rejected};
use crate::raw::{Kind, RawMessage, Source};

/// Decodes messages. It keeps its buffers from message to message; a clone has the same inputs and rules, and empty buffers.
#[derive(Debug)]
pub struct Decoder {
    inputs: Inputs,
    native: NativeDecoder,
    json: JsonScratch,
    influx: influx::Scratch,
    selected: Option<Selected>,
}

/// The topic of the messages that are decoded.
#[derive(Debug)]
struct Selected {
    source: Arc<Source>,
    /// The number of its input; `None` if it is of none.
    input: Option<usize>,
    /// What the groups of the input's regular expression are in the topic's name; the first is all of it.
    groups: Vec<String>,
}

impl Clone for Decoder {
    fn clone(&self) -> Self {
        Self::with_rules(self.native.rules.clone(), self.inputs.clone())
    }
}

impl Decoder {
    /// A decoder of these inputs, with these limits.
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

    /// From now on points of these series are rejected, instead of those named before.
    pub fn reject_series(&mut self, ids: impl IntoIterator<Item = String>) {
        self.native.reject_series(ids);
    }

    /// How many fields that mean nothing there were since this was last asked.
    pub fn take_unknown_fields(&mut self) -> usize {
        self.native.take_unknown_fields()
    }

    /// Decodes a message of a topic, and adds its points to `points`; nothing of a rejected message is added. A null payload is
    /// a tombstone in every format.
    ///
    /// # Errors
    /// If the message is not of its input's format, or has what no point can hold: with the reason and the place.
    pub fn decode(
        &mut self,
        source: &Arc<Source>,
        message: &RawMessage<'_>,
        points: &mut Points,
    ) -> Result<Message, Rejected> {
        let Some(payload) = message.payload else { return Ok(Message::Tombstone) };
        self.check_envelope(source, message.key, message.headers)?;
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

    /// Checks what stands alongside a payload; `headers` are in the form of [`headers`](crate::raw::headers).
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

    /// The plan of the selected topic; `None` if it is of no input.
    fn plan(&self) -> Option<&Plan> {
        let number = self.selected.as_ref()?.input?;
        self.inputs.all.get(number).map(|input| &input.plan)
    }

    /// What the messages of the selected topic are where they do not say, if they are native.
    fn native_kind(&self, source: &Source) -> Option<Kind> {
        match self.plan() {
            Some(Plan::Native(kind)) => Some(*kind),
            // The journal knows what a native topic was, also if it is configured no longer.
            None if source.kind != Kind::Other => Some(source.kind),
            _ => None,
        }
    }

    /// Makes the source the one whose messages are decoded.
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
    /// What the groups of the first pattern that matches are in a topic's name.
    fn groups(&self, topic: &str) -> Vec<String> {
        self.topics.iter().find_map(|pattern| pattern.groups(topic)).unwrap_or_default()
    }
}

fn of_no_input(source: &Source) -> Rejected {
    let detail =
        format!("no input names the topic {:?}: add it to an [[input]], then redrive this message", source.topic);
    Rejected::new(Reason::Schema, detail)
}
