//! A drain into a table that rejects some rows.

use std::path::Path;

use super::arguments::Arguments;
use super::drain::{Drain, drain};
use super::topics::with_own_group;
use crate::cli::{Failure, print_line};
use crate::config::Config;
use crate::database::scratch::ScratchDatabase;

/// A condition for every 10,000th row, in an order unrelated to the worker's.
const EVERY_10000TH: &str =
    "abs(hashtext(time_series_id || column_name)::bigint + extract(epoch from \"timestamp\")::bigint * 7919) % 10000";

/// Drains the topic again into a table that rejects those of 10,000 rows that have this number.
pub(super) async fn drain_with_check(
    bench: &Config,
    file: Option<&Path>,
    arguments: &Arguments,
    scratch: &ScratchDatabase,
    refused: &str,
) -> Result<Drain, Failure> {
    scratch.empty_tables().await?;
    let check = format!(
        "alter table time_series_data_points drop constraint if exists bench;
         alter table time_series_data_points add constraint bench check ({EVERY_10000TH} <> {refused})"
    );
    scratch.execute("add a constraint", &check).await?;
    let drain = drain(&with_own_group(bench, &format!("check{refused}")), file, arguments, scratch).await?;
    let summary = scratch.summary().await?;
    if summary.points + summary.dead_letters * arguments.points_a_message() != arguments.total() {
        return Err(Failure::Internal(format!(
            "the table has {} points and {} dead letters",
            summary.points, summary.dead_letters
        )));
    }
    print_line(format_args!(
        "{} messages of {} were refused",
        summary.dead_letters,
        arguments.total() / arguments.points_a_message()
    ));
    Ok(drain)
}
