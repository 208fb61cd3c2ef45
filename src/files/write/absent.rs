//! What null means in the columns of a wide file: a point without a value, or no point.

use arrow_array::cast::AsArray as _;
use arrow_array::types::Float64Type;
use arrow_array::{Array as _, RecordBatch};
use arrow_schema::SchemaRef;

/// The number beneath a null where there is no point. Arrow gives it no meaning; it is for this writer.
pub const NO_POINT: f64 = 0.0;
/// The number beneath a null that is a point without a value.
pub const NULL_POINT: f64 = 1.0;

/// What was written of each column of values.
#[derive(Debug)]
pub(super) struct Absent {
    schema: SchemaRef,
    columns: Vec<Nulls>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Nulls {
    has_null_points: bool,
    has_no_points: bool,
}

impl Absent {
    pub(super) fn new(schema: SchemaRef) -> Self {
        let columns = vec![Nulls::default(); schema.fields().len()];
        Self { schema, columns }
    }

    pub(super) fn add(&mut self, batch: &RecordBatch) {
        for (column, nulls) in batch.columns().iter().zip(&mut self.columns) {
            let Some(values) = column.as_primitive_opt::<Float64Type>().filter(|values| values.null_count() > 0) else {
                continue;
            };
            for row in (0..values.len()).filter(|row| values.is_null(*row)) {
                let is_point = values.values()[row] == NULL_POINT;
                nulls.has_null_points |= is_point;
                nulls.has_no_points |= !is_point;
            }
        }
    }

    fn names(&self, is_it: impl Fn(&Nulls) -> bool) -> Vec<String> {
        let fields = self.schema.fields().iter().zip(&self.columns);
        fields.filter(|(_, nulls)| is_it(nulls)).map(|(field, _)| field.name().clone()).collect()
    }

    /// The columns in which null means that there is no point.
    pub(super) fn columns(&self) -> Vec<String> {
        self.names(|nulls| nulls.has_no_points && !nulls.has_null_points)
    }

    /// The columns in which null may be either.
    pub(super) fn ambiguous(&self) -> Vec<String> {
        self.names(|nulls| nulls.has_no_points && nulls.has_null_points)
    }
}
