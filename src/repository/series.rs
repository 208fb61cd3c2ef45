//! Series, their columns, and their first and last times.

use super::{Error, Glob, Snapshot};
use crate::database::Step;
use crate::files::Definition;

/// Which series.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// These, in this order; if there are none, those that the rest says.
    pub ids: Vec<String>,
    /// Those whose id is of this pattern.
    pub pattern: Option<Glob>,
    /// Those that have all of these labels, pairs of name and value; a number or a boolean has the text that JSON gives it.
    pub labels: Vec<(String, String)>,
}

/// A column of a series, and when its points are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnSpan {
    /// Its name.
    pub name: String,
    /// The time of its first point, in microseconds since the Unix epoch; `i64::MIN` is PostgreSQL's `-infinity`.
    pub first_us: i64,
    /// The time of its last point; `i64::MAX` is `infinity`.
    pub last_us: i64,
}

const SERIES: &str = "select id::text, name::text, description::text, time_column::text, value_columns::text, labels::text \
                      from time_series_metadata";

/// The columns are found one after the other, and their first and last times, each by one step down an index: the number of
/// points does not count. A time beyond what 64 bits count is the nearest that they do.
const COLUMNS: &str = r#"
with recursive found as (
    (select column_name from time_series_data_points where time_series_id = $1 order by column_name limit 1)
    union all
    select (select point.column_name from time_series_data_points as point
            where point.time_series_id = $1 and point.column_name > found.column_name
            order by point.column_name limit 1)
    from found where found.column_name is not null
),
span as (
    select found.column_name,
        (select point."timestamp" from time_series_data_points as point
         where point.time_series_id = $1 and point.column_name = found.column_name
         order by point."timestamp" limit 1) as first,
        (select point."timestamp" from time_series_data_points as point
         where point.time_series_id = $1 and point.column_name = found.column_name
         order by point."timestamp" desc limit 1) as last
    from found where found.column_name is not null
)
select column_name::text,
    case when isfinite(first) then least(extract(epoch from first) * 1000000, 9223372036854775807)::bigint
         when first < 'epoch' then -9223372036854775808 else 9223372036854775807 end,
    case when isfinite(last) then least(extract(epoch from last) * 1000000, 9223372036854775807)::bigint
         when last < 'epoch' then -9223372036854775808 else 9223372036854775807 end
from span"#;

impl Snapshot {
    /// The definitions of series, in the order of the selection's ids, or else of all ids.
    ///
    /// # Errors
    /// If the server does not answer, or one of the ids is unknown.
    pub async fn series(&self, selection: &Selection) -> Result<Vec<Definition>, Error> {
        let step = Step::Other("look for series");
        if selection.ids.is_empty() {
            return self.matching_series(selection).await;
        }
        let sql = format!("{SERIES} where id = any($1::text[])");
        let rows = self.query(step, &sql, &[&selection.ids]).await?;
        let mut found: std::collections::HashMap<String, Definition> =
            rows.iter().map(|row| (row.get(0), definition(row))).collect();
        let mut unknown = Vec::new();
        let mut series = Vec::new();
        for (at, id) in selection.ids.iter().enumerate() {
            match found.remove(id) {
                Some(definition) => series.push(definition),
                // One that was asked for again.
                None if selection.ids[..at].contains(id) => {}
                None => unknown.push(id.clone()),
            }
        }
        if unknown.is_empty() { Ok(series) } else { Err(Error::UnknownSeries(unknown)) }
    }

    async fn matching_series(&self, selection: &Selection) -> Result<Vec<Definition>, Error> {
        let mut texts: Vec<[String; 2]> = Vec::new();
        for (name, value) in &selection.labels {
            let name = serde_json::Value::from(name.as_str());
            let text = format!("{{{name}:{}}}", serde_json::Value::from(value.as_str()));
            // A number or a boolean as well, if it is one.
            let is_other = serde_json::from_str(value).is_ok_and(|value: serde_json::Value| !value.is_string());
            let other = if is_other { format!("{{{name}:{value}}}") } else { text.clone() };
            texts.push([text, other]);
        }
        let mut sql = format!("{SERIES} where true");
        let mut parameters: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> = Vec::new();
        for [text, other] in &texts {
            let number = parameters.len();
            sql +=
                &format!(" and (labels @> (${}::text)::jsonb or labels @> (${}::text)::jsonb)", number + 1, number + 2);
            parameters.push(text);
            parameters.push(other);
        }
        sql += " order by id collate \"C\"";
        let rows = self.query(Step::Other("look for series"), &sql, &parameters).await?;
        let is_it = |row: &&tokio_postgres::Row| {
            selection.pattern.as_ref().is_none_or(|pattern| pattern.matches(row.get::<_, &str>(0)))
        };
        Ok(rows.iter().filter(is_it).map(definition).collect())
    }

    /// The columns that a series has points of, sorted, with their first and last times. It takes some steps down an index for
    /// each column, however many points there are.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn columns(&self, series: &str) -> Result<Vec<ColumnSpan>, Error> {
        let rows = self.query(Step::Other("look for the columns of a series"), COLUMNS, &[&series]).await?;
        Ok(rows.iter().map(|row| ColumnSpan { name: row.get(0), first_us: row.get(1), last_us: row.get(2) }).collect())
    }
}

fn definition(row: &tokio_postgres::Row) -> Definition {
    let columns: &str = row.get(4);
    Definition {
        id: row.get(0),
        name: row.get(1),
        description: row.get(2),
        time_column: row.get(3),
        // A text that is not an array lists nothing.
        value_columns: serde_json::from_str(columns).unwrap_or_default(),
        labels: row.get(5),
    }
}
