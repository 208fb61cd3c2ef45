//! The question for points.

use std::ops::Range;

use super::options::{Bucket, Duplicates, Options};
use super::plan::Plan;
use crate::database::quoted_text;
use crate::repository::literal::time;

/// The rows of points of these times, without an order: column, time, value and id.
pub(super) fn points(plan: &Plan, range: &Range<i64>) -> String {
    let columns = if plan.is_chosen {
        let names: Vec<String> = plan.sources.iter().map(|name| quoted_text(name)).collect();
        format!(" and column_name in ({})", names.join(", "))
    } else {
        String::new()
    };
    format!(
        "select column_name::text as name, \"timestamp\" as time, value, id::bigint as id from time_series_data_points \
         where time_series_id = {}{columns} and \"timestamp\" >= {} and \"timestamp\" < {}",
        quoted_text(&plan.definition.id),
        time(range.start),
        time(range.end)
    )
}

/// The same in the order of columns and times, at most `limit` of them.
pub(super) fn window(plan: &Plan, options: &Options, range: &Range<i64>, limit: Option<usize>) -> String {
    let points = points(plan, range);
    let limit = limit.map_or_else(String::new, |limit| format!(" limit {limit}"));
    match &options.bucket {
        Some(bucket) => format!("{}{limit}", aggregates(&points, bucket, options.duplicates)),
        // The other policies need the ids of those only that are at the same time, and compare them when they come.
        None if options.duplicates == Duplicates::All => {
            format!("{points} order by column_name, \"timestamp\", id{limit}")
        }
        None => format!("{points} order by column_name, \"timestamp\"{limit}"),
    }
}

fn aggregates(points: &str, bucket: &Bucket, duplicates: Duplicates) -> String {
    let once = |direction: &str| {
        format!(
            "select distinct on (name, time) name, time, value from ({points}) as point order by name, time, id {direction}"
        )
    };
    let points = match duplicates {
        Duplicates::Last => once("desc"),
        Duplicates::First => once("asc"),
        Duplicates::All | Duplicates::Fail => points.to_owned(),
    };
    let number = |at: usize| format!("a{at}");
    let computed: Vec<String> = bucket
        .aggregates
        .iter()
        .enumerate()
        .map(|(at, aggregate)| format!("{} as {}", aggregate.sql(), number(at)))
        .collect();
    let rows: Vec<String> = bucket
        .aggregates
        .iter()
        .enumerate()
        .map(|(at, aggregate)| format!("('_{}', {})", aggregate.as_str(), number(at)))
        .collect();
    format!(
        "select span.name || row.suffix, span.time, row.value, 0::bigint from (
             select name, date_bin(interval '{} microseconds', time, 'epoch') as time, {} from ({points}) as point
             group by 1, 2
         ) as span cross join lateral (values {}) as row (suffix, value) order by 1, 2",
        bucket.length_us,
        computed.join(", "),
        rows.join(", ")
    )
}

/// The first time of the plan's columns from a time on.
pub(super) fn next_time(plan: &Plan, from: i64) -> String {
    let names: Vec<String> = plan.sources.iter().map(|name| format!("({})", quoted_text(name))).collect();
    format!(
        "select (extract(epoch from min(first.time)) * 1000000)::bigint from (values {}) as wanted (name) cross join lateral (
             select \"timestamp\" as time from time_series_data_points
             where time_series_id = {} and column_name = wanted.name and \"timestamp\" >= {} and \"timestamp\" < {}
             order by \"timestamp\" limit 1) as first",
        names.join(", "),
        quoted_text(&plan.definition.id),
        time(from),
        time(plan.range.end)
    )
}
