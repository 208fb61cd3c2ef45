//! Rows that are points.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_array::builder::{Float64Builder, StringBuilder};

use super::BATCH_ROWS;
use super::decode::Points;
use super::plan::{Plan, times};
use crate::repository::Error;

/// The points of a window, column by column.
pub(super) fn rows(
    plan: &Plan,
    columns: &[Points],
    take: &mut impl FnMut(&RecordBatch) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut batch = Batch::default();
    for (name, points) in plan.columns.iter().zip(columns) {
        let mut from = 0;
        while from < points.times.len() {
            let until = points.times.len().min(from + BATCH_ROWS - batch.times.len());
            for _ in from..until {
                batch.series.append_value(&plan.definition.id);
                batch.names.append_value(name);
            }
            batch.times.extend_from_slice(&points.times[from..until]);
            batch.values.append_values(&points.values[from..until], &points.is_valid[from..until]);
            from = until;
            if batch.times.len() == BATCH_ROWS {
                take(&std::mem::take(&mut batch).finish(plan)?)?;
            }
        }
    }
    if batch.times.is_empty() { Ok(()) } else { take(&batch.finish(plan)?) }
}

#[derive(Default)]
struct Batch {
    series: StringBuilder,
    times: Vec<i64>,
    names: StringBuilder,
    values: Float64Builder,
}

impl Batch {
    fn finish(mut self, plan: &Plan) -> Result<RecordBatch, Error> {
        plan.batch(vec![
            Arc::new(self.series.finish()),
            times(self.times),
            Arc::new(self.names.finish()),
            Arc::new(self.values.finish()),
        ])
    }
}
