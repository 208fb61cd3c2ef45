//! Series, their columns, and their first and last times.

use std::collections::HashSet;

use super::literal::time;
use super::{Error, Glob, Snapshot};
use crate::database::{Step, quoted_text};
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

/// A series as the tables have it.
#[derive(Debug, Clone)]
pub struct Series {
    /// Its definition.
    pub definition: Definition,
    /// When it was created, in microseconds since the Unix epoch.
    pub created_us: i64,
    /// When its definition was changed last, in microseconds since the Unix epoch.
    pub updated_us: i64,
}

/// A column of a series, and when its points are.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnSpan {
    /// Its name.
    pub name: String,
    /// The time of its first point, in microseconds since the Unix epoch; `i64::MIN` is PostgreSQL's `-infinity`.
    pub first_us: i64,
    /// The time of its last point; `i64::MAX` is `infinity`.
    pub last_us: i64,
    /// The value of its last point; of several at that time the one with the highest id.
    pub last_value: Option<f64>,
}

const SERIES: &str = "select id::text, name::text, description::text, time_column::text, value_columns::text, labels::text, \
                      (extract(epoch from created_at) * 1000000)::bigint, (extract(epoch from updated_at) * 1000000)::bigint \
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
        last.at as last, last.value
    from found cross join lateral (
        select point."timestamp" as at, point.value from time_series_data_points as point
        where point.time_series_id = $1 and point.column_name = found.column_name
        order by point."timestamp" desc, point.id desc limit 1) as last
    where found.column_name is not null
)
select column_name::text,
    case when isfinite(first) then least(extract(epoch from first) * 1000000, 9223372036854775807)::bigint
         when first < 'epoch' then -9223372036854775808 else 9223372036854775807 end,
    case when isfinite(last) then least(extract(epoch from last) * 1000000, 9223372036854775807)::bigint
         when last < 'epoch' then -9223372036854775808 else 9223372036854775807 end,
    value
from span"#;

impl Snapshot {
    /// Series, in the order of the selection's ids, or else of all ids.
    ///
    /// # Errors
    /// If the server does not answer, or one of the ids is unknown.
    pub async fn series(&self, selection: &Selection) -> Result<Vec<Series>, Error> {
        let step = Step::Other("look for series");
        if selection.ids.is_empty() {
            return self.matching_series(selection).await;
        }
        let sql = format!("{SERIES} where id = any($1::text[])");
        let rows = self.query(step, &sql, &[&selection.ids]).await?;
        let mut found: std::collections::HashMap<String, Series> =
            rows.iter().map(|row| (row.get(0), stored(row))).collect();
        let mut unknown = Vec::new();
        let mut series = Vec::new();
        for (at, id) in selection.ids.iter().enumerate() {
            match found.remove(id) {
                Some(one) => series.push(one),
                // One that was asked for again.
                None if selection.ids[..at].contains(id) => {}
                None => unknown.push(id.clone()),
            }
        }
        if unknown.is_empty() { Ok(series) } else { Err(Error::UnknownSeries(unknown)) }
    }

    /// One series.
    ///
    /// # Errors
    /// If the server does not answer, or there is no such series.
    pub async fn one_series(&self, id: &str) -> Result<Series, Error> {
        let selection = Selection { ids: vec![id.to_owned()], ..Selection::default() };
        self.series(&selection).await?.pop().ok_or_else(|| Error::UnknownSeries(vec![id.to_owned()]))
    }

    /// The definitions of the series that have points in this span of time, in microseconds since the Unix epoch, in the order
    /// of their ids. A point without a row of its series has none.
    ///
    /// # Errors
    /// If the server does not answer.
    pub(super) async fn definitions_within(&self, from_us: i64, until_us: i64) -> Result<Vec<Definition>, Error> {
        let sql = format!(
            "{SERIES} where id in (select time_series_id from time_series_data_points where \"timestamp\" >= {} and \"timestamp\" < {})
             order by id collate \"C\"",
            time(from_us),
            time(until_us)
        );
        let rows = self.query(Step::Other("look for series"), &sql, &[]).await?;
        Ok(rows.iter().map(|row| stored(row).definition).collect())
    }

    async fn matching_series(&self, selection: &Selection) -> Result<Vec<Series>, Error> {
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
        Ok(rows.iter().filter(is_it).map(stored).collect())
    }

    /// The columns that a series has points of, sorted, with their first and last times. It takes some steps down an index for
    /// each column, however many points there are.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn columns(&self, series: &str) -> Result<Vec<ColumnSpan>, Error> {
        let rows = self.query(Step::Other("look for the columns of a series"), COLUMNS, &[&series]).await?;
        Ok(rows.iter().map(span).collect())
    }

    /// The number of points of a series, or of one of its columns, as the server's statistics have it.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn expected_points(&self, series: &str, column: Option<&str>) -> Result<u64, Error> {
        let column = column.map_or_else(String::new, |name| format!(" and column_name = {}", quoted_text(name)));
        let sql = format!("select from time_series_data_points where time_series_id = {}{column}", quoted_text(series));
        self.estimate(&sql).await
    }
}

/// The columns that are listed, in their order, and then those that only points have.
pub(super) fn columns_in_order(definition: &Definition, spans: &[ColumnSpan]) -> Vec<String> {
    let points = spans.iter().map(|span| span.name.clone());
    unique(definition.value_columns.iter().cloned().chain(points))
}

/// The columns that were asked for, each once; all that are known if none was.
///
/// # Errors
/// [`Error::UnknownColumn`] if one of them is not known.
pub fn chosen_columns(series: &str, known: Vec<String>, asked: &[String]) -> Result<Vec<String>, Error> {
    if asked.is_empty() {
        return Ok(known);
    }
    let there: HashSet<&String> = known.iter().collect();
    if let Some(column) = asked.iter().find(|name| !there.contains(name)) {
        return Err(Error::UnknownColumn { series: series.to_owned(), column: column.clone(), known });
    }
    Ok(unique(asked.iter().cloned()))
}

/// Each name once, at its first place.
fn unique(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut seen = HashSet::new();
    names.into_iter().filter(|name| seen.insert(name.clone())).collect()
}

fn span(row: &tokio_postgres::Row) -> ColumnSpan {
    ColumnSpan { name: row.get(0), first_us: row.get(1), last_us: row.get(2), last_value: row.get(3) }
}

fn stored(row: &tokio_postgres::Row) -> Series {
    let columns: &str = row.get(4);
    let definition = Definition {
        id: row.get(0),
        name: row.get(1),
        description: row.get(2),
        time_column: row.get(3),
        // A text that is not an array lists nothing.
        value_columns: serde_json::from_str(columns).unwrap_or_default(),
        labels: row.get(5),
    };
    Series { definition, created_us: row.get(6), updated_us: row.get(7) }
}
