//! Line protocol of InfluxDB.

use super::decoder::{Around, Made};
use super::options::{InputOptions, Problems};
use super::rules::Rules;
use crate::message::Points;
use crate::message::json::Fault;
use crate::message::timestamp::Unit;

/// How lines become points.
#[derive(Debug)]
pub(super) struct InfluxPlan {
    unit: Unit,
}

/// Buffers.
#[derive(Debug, Default)]
pub(super) struct Scratch;

impl InfluxPlan {
    pub(super) fn compile(options: &InputOptions, problems: &mut Problems) -> Option<Self> {
        let unit = options.unit.as_deref().unwrap_or("ns");
        let unit = Unit::from_word(unit).ok_or_else(|| format!("is {unit:?}; set \"s\", \"ms\", \"us\" or \"ns\""));
        Some(Self { unit: problems.take("unit", unit)? })
    }
}

impl Scratch {
    pub(super) fn decode(
        &mut self,
        _plan: &InfluxPlan,
        _payload: &[u8],
        _around: &Around<'_>,
        _rules: &Rules,
        _points: &mut Points,
    ) -> Result<Made, Fault> {
        Ok(Made::Nothing)
    }
}
