//! A drain with each point stored once.

use std::path::Path;

use super::arguments::Arguments;
use super::drain::{Drain, check_points, drain};
use super::topics::with_own_group;
use crate::cli::Failure;
use crate::config::{Config, OnDuplicate};
use crate::database::schema;
use crate::database::scratch::ScratchDatabase;

/// Drains the topic again, with each point stored once: there are no duplicates, so that this is the cost of looking for them.
pub(super) async fn drain_once_each(
    bench: &Config,
    file: Option<&Path>,
    arguments: &Arguments,
    scratch: &ScratchDatabase,
    on_duplicate: OnDuplicate,
) -> Result<Drain, Failure> {
    let mut bench = with_own_group(bench, on_duplicate.as_str());
    bench.points.on_duplicate = on_duplicate;
    scratch.empty_tables().await?;
    schema::migrate(&bench).await?;
    let drain = drain(&bench, file, arguments, scratch).await?;
    check_points(scratch, arguments).await?;
    Ok(drain)
}
