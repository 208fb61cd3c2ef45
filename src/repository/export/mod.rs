//! Points as batches of Arrow.
//!
//! - `options`: what is asked for; [`Plan`]: what a series has of it.
//! - `windows`: the points of one span of time after the other.
//! - `sql`: the question for them; `decode`: its answer.
//! - `wide`, `long`: their rows.

mod decode;
mod long;
mod options;
mod plan;
mod sql;
mod wide;
mod windows;

use crate::files::Definition;
use crate::repository::{Error, Snapshot};

/// Maximum number of rows of a batch.
pub(in crate::repository) const BATCH_ROWS: usize = 1 << 16;

pub use options::{Aggregate, Bucket, Duplicates, Options, Part};
pub use plan::Plan;
pub(in crate::repository) use plan::{long_schema, times};
pub use windows::{Read, first_time, part_start, read};

/// Finds out what a series has of what is asked for, and how many points the server expects.
///
/// # Errors
/// If the server does not answer; if the series has none of the columns; if a column has the name of the time column; if the
/// times cannot be in a file.
pub async fn plan(snapshot: &Snapshot, definition: Definition, options: &Options) -> Result<Plan, Error> {
    let mut plan = Plan::new(snapshot, definition, options).await?;
    if !plan.range.is_empty() {
        plan.expected_points = snapshot.estimate(&sql::points(&plan, &plan.range)).await?;
    }
    Ok(plan)
}
