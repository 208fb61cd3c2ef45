//! Spans of time in which a column has no point.

use super::{Error, Snapshot};
use crate::database::Step;

/// A span of time between two points of a column that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeGap {
    /// The time of the point before it, in microseconds since the Unix epoch.
    pub after_us: i64,
    /// The time of the point that ends it.
    pub until_us: i64,
}

const SQL: &str = r#"
select (extract(epoch from previous) * 1000000)::bigint, (extract(epoch from at) * 1000000)::bigint
from (
    select "timestamp" as at, lag("timestamp") over (order by "timestamp") as previous
    from time_series_data_points
    where time_series_id = $1 and column_name = $2 and isfinite("timestamp")
        and ($3::bigint is null or "timestamp" >= 'epoch'::timestamptz + $3 * interval '1 microsecond')
        and ($4::bigint is null or "timestamp" < 'epoch'::timestamptz + $4 * interval '1 microsecond')
) as point
where at - previous > $5::bigint * interval '1 microsecond'
order by at limit $6"#;

impl Snapshot {
    /// The spans longer than `longer_than_us` microseconds between points of a column from `from_us` to before `until_us`, at
    /// most `limit` of them, the earliest first.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn time_gaps(
        &self,
        series: &str,
        column: &str,
        (from_us, until_us): (Option<i64>, Option<i64>),
        longer_than_us: i64,
        limit: i64,
    ) -> Result<Vec<TimeGap>, Error> {
        let step = Step::Other("look for spans without points");
        let rows = self.query(step, SQL, &[&series, &column, &from_us, &until_us, &longer_than_us, &limit]).await?;
        Ok(rows.iter().map(|row| TimeGap { after_us: row.get(0), until_us: row.get(1) }).collect())
    }
}
