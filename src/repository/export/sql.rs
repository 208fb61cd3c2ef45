//! The question for points.

use std::ops::Range;

use super::options::{Aggregate, Bucket, Duplicates, Options};
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
    let rows: Vec<String> = bucket
        .aggregates
        .iter()
        .map(|aggregate| format!("('_{}', {})", aggregate.as_str(), aggregated(*aggregate)))
        .collect();
    format!(
        "select span.name || row.suffix, span.time, row.value, 0::bigint from (
             select name, date_bin(interval '{} microseconds', time, 'epoch') as time, count(value)::double precision as n,
                 min(value) as lowest, max(value) as highest, sum(value) filter (where not {IS_LARGE}) as small,
                 sum(value / {SCALE}) filter (where {IS_LARGE}) as large
             from ({points}) as point group by 1, 2
         ) as span cross join lateral (
             select span.large + case when abs(span.small) > 1e-200 then span.small / {SCALE} else 0 end as scaled
         ) as both_parts cross join lateral (values {}) as row (suffix, value) order by 1, 2",
        bucket.length_us,
        rows.join(", ")
    )
}

/// What large values are divided by: 2 to the power of 60, by which the server divides and multiplies them without rounding.
const SCALE: f64 = 1_152_921_504_606_846_976.0;
/// A value so large that a sum may be beyond what a double has. The server makes an error of that, and so large values have
/// their own sum, which is divided by [`SCALE`]. The server takes NaN for larger than infinity.
const IS_LARGE: &str = "(abs(value) >= 1e290 and abs(value) < 'Infinity')";

/// An aggregate of a span, from what is computed of all values. `avg` is not used: it computes squares as well, which are
/// beyond what a double has where the mean is not.
fn aggregated(aggregate: Aggregate) -> String {
    let limit = f64::MAX / SCALE;
    match aggregate {
        Aggregate::Min => "span.lowest".to_owned(),
        Aggregate::Max => "span.highest".to_owned(),
        Aggregate::Count => "span.n".to_owned(),
        // Infinite, if it is beyond what a double has.
        Aggregate::Sum => format!(
            "case when span.large is null then span.small
                 when abs(span.large) < 1e270 then span.large * {SCALE} + coalesce(span.small, 0)
                 when abs(scaled) <= {limit:e} then scaled * {SCALE}
                 when scaled = 'NaN' then scaled else sign(scaled) * 'Infinity' end"
        ),
        Aggregate::Mean => format!(
            "case when span.large is null then {small}
                 else greatest(-{limit:e}, least({limit:e}, span.large / span.n)) * {SCALE} + coalesce({small}, 0) end",
            small = mean_of_small()
        ),
    }
}

/// The part of the small values of a mean. The server makes an error of a quotient that a double has only as zero.
fn mean_of_small() -> String {
    // 2 to the power of -1075, half of the smallest number.
    let zero = f64::MIN_POSITIVE * (SCALE / 2_f64.powi(53));
    format!(
        "case when abs(span.small) < 1e-290 and abs(span.small) * {SCALE} / span.n <= {zero:e} then 0 else span.small / span.n end"
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
