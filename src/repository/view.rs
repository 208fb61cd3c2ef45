//! Views of one series in the form in which a table of it would be: a row for each time, a column for each value column. They
//! are for people who write SQL, and for Grafana.

use std::collections::HashSet;

use sha2::{Digest as _, Sha256};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::series::{chosen_columns, columns_in_order};
use super::{Error, Snapshot};
use crate::config;
use crate::database::schema::roles::{IS_VIEW, VIEW_COMMENT};
use crate::database::{self, Step, quoted_name, quoted_text};
use crate::files::hex;

/// The columns of a view at most, with the time (PostgreSQL, "Limits").
const MAX_COLUMNS: usize = 1600;
/// An identifier of PostgreSQL has at most this many bytes.
const MAX_NAME_BYTES: usize = 63;
/// With how many digits of its hash a longer name ends.
const HASH_DIGITS: usize = 8;
/// How the names begin that are made of ids.
const PREFIX: &str = "series_";

/// A view of a series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Its name, in the schema of the tables.
    pub name: String,
    /// The id of its series.
    pub series: String,
    /// Its columns: that of the times, then those of the values.
    pub columns: Vec<String>,
}

/// What a view is to have.
#[derive(Debug, Clone, Default)]
pub struct ViewOptions {
    /// Its name, instead of one that is made of the id.
    pub name: Option<String>,
    /// Only these columns, in this order; if there are none, all.
    pub columns: Vec<String>,
}

/// Creates the view of a series, or recreates it with the columns that the series has now. Who may read the points may read it.
///
/// # Errors
/// If the server refuses, the series is unknown, it has too many columns, or another relation has the name.
pub async fn create(config: &config::Database, series: &str, options: &ViewOptions) -> Result<View, Error> {
    let snapshot = Snapshot::open(config).await?;
    let found = snapshot.one_series(series).await?;
    let known = columns_in_order(&found.definition, &snapshot.columns(series).await?);
    let columns = chosen_columns(series, known, &options.columns)?;
    if columns.len() >= MAX_COLUMNS {
        return Err(Error::View(format!(
            "the series {series:?} has {} columns, and a view at most {MAX_COLUMNS} with the time: choose some with --column",
            columns.len()
        )));
    }
    let time_column = found.definition.time_column;
    let names = identifiers(std::iter::once(&time_column).chain(&columns));
    let name = options.name.clone().unwrap_or_else(|| name_of(series));
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(Error::View(format!("{name:?} is not a name of a view: it must have 1 to {MAX_NAME_BYTES} bytes")));
    }
    let view = View { name, series: series.to_owned(), columns: names };
    replace(&database::connect(config).await?, &view, &columns).await?;
    Ok(view)
}

/// Drops the views of a series, and returns their names.
///
/// # Errors
/// If the server refuses, for instance because others depend on them, or there is none.
pub async fn drop(config: &config::Database, series: &str) -> Result<Vec<String>, Error> {
    let client = database::connect(config).await?;
    let rows = query(&client, "look for views", &find(), &[&VIEW_COMMENT]).await?;
    let mut views: Vec<View> = rows.iter().map(view).collect();
    views.retain(|view| view.series == series);
    if views.is_empty() {
        return Err(Error::View(format!("there is no view of the series {series:?}")));
    }
    let names: Vec<String> = views.into_iter().map(|view| view.name).collect();
    let quoted: Vec<String> = names.iter().map(|name| quoted_name(name)).collect();
    let sql = format!("drop view {}", quoted.join(", "));
    client.batch_execute(&sql).await.map_err(|source| failed("drop a view", source))?;
    Ok(names)
}

/// The views of series in the schema of the tables, by name.
///
/// # Errors
/// If the server does not answer.
pub async fn list(snapshot: &Snapshot) -> Result<Vec<View>, Error> {
    let rows = snapshot.query(Step::Other("look for views"), &find(), &[&VIEW_COMMENT]).await?;
    Ok(rows.iter().map(view).collect())
}

fn find() -> String {
    format!(
        "select relname::text, obj_description(pg_class.oid, 'pg_class'),
             array(select attname::text from pg_attribute where attrelid = pg_class.oid and attnum > 0 order by attnum)
         from pg_class where {IS_VIEW} order by relname"
    )
}

fn view(row: &Row) -> View {
    let comment: String = row.get(1);
    let series = comment.strip_prefix(VIEW_COMMENT).unwrap_or_default().to_owned();
    View { name: row.get(0), series, columns: row.get(2) }
}

/// Creates a view in the place of an older one of the same series, with the rights of those who may read the points.
async fn replace(client: &Client, view: &View, columns: &[String]) -> Result<(), Error> {
    let step = "create a view";
    let name = quoted_name(&view.name);
    let sql = "select relkind::text, coalesce(obj_description(oid, 'pg_class'), '') from pg_class
               where relnamespace = quote_ident(current_schema())::regnamespace and relname = $1";
    let found = query(client, step, sql, &[&view.name]).await?;
    let comment = format!("{VIEW_COMMENT}{}", view.series);
    if let Some(row) = found.first()
        && (row.get::<_, &str>(0), row.get::<_, &str>(1)) != ("v", comment.as_str())
    {
        return Err(Error::View(format!(
            "{:?} exists, and is not the view of the series {:?}: choose another name with --name",
            view.name, view.series
        )));
    }
    // Also who may read the view that it replaces.
    let sql = "select distinct case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end
               from pg_class, aclexplode(coalesce(relacl, acldefault('r', relowner)))
               where relnamespace = quote_ident(current_schema())::regnamespace
                   and relname in ('time_series_data_points', $1) and privilege_type = 'SELECT'";
    let readers = query(client, step, sql, &[&view.name]).await?;
    let readers: Vec<String> = readers.iter().map(|row| row.get(0)).collect();
    let mut sql = format!("begin; drop view if exists {name}; create view {name} as {};", select(view, columns));
    sql += &format!("comment on view {name} is {};", quoted_text(&comment));
    if !readers.is_empty() {
        sql += &format!("grant select on {name} to {};", readers.join(", "));
    }
    sql += "commit";
    client.batch_execute(&sql).await.map_err(|source| failed(step, source))
}

/// Of several points at the same time the one with the highest id is used, as in exports.
fn select(view: &View, columns: &[String]) -> String {
    let mut names = view.columns.iter().map(|name| quoted_name(name));
    let time = names.next().unwrap_or_default();
    let values = names.zip(columns).map(|(name, column)| {
        format!(
            ", (array_agg(value order by id desc) filter (where column_name = {}))[1] as {name}",
            quoted_text(column)
        )
    });
    format!(
        "select \"timestamp\" as {time}{} from time_series_data_points where time_series_id = {} group by \"timestamp\"",
        values.collect::<String>(),
        quoted_text(&view.series)
    )
}

async fn query(
    client: &Client,
    step: &'static str,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, Error> {
    client.query(sql, parameters).await.map_err(|source| failed(step, source))
}

fn failed(step: &'static str, source: tokio_postgres::Error) -> Error {
    match source.code() {
        Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) => {
            let detail = source.as_db_error().and_then(|error| error.detail()).unwrap_or_default().to_owned();
            Error::View(format!("others depend on the view, drop them first: {detail}"))
        }
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Error::View(
            "this role may not create views in the schema of the tables, or the view is another role's: use the role that \
             runs `migrate`, or grant create on the schema"
                .to_owned(),
        ),
        _ => database::Error::Server { step: Step::Other(step), source }.into(),
    }
}

/// The name of a series' view: its id in lower case, with `_` for all that would need quotes.
fn name_of(series: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    shortened(&format!("{PREFIX}{}", series.chars().map(plain).collect::<String>()), series)
}

/// A name that is short enough; one that is cut ends in a hash of `whole`.
fn shortened(name: &str, whole: &str) -> String {
    if name.len() <= MAX_NAME_BYTES {
        return name.to_owned();
    }
    let hash = hex(&Sha256::digest(whole));
    let end = name.floor_char_boundary(MAX_NAME_BYTES - HASH_DIGITS - 1);
    format!("{}_{}", &name[..end], &hash[..HASH_DIGITS])
}

/// Names as identifiers, each another one.
fn identifiers<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut used = HashSet::new();
    let mut identifiers = Vec::new();
    for name in names {
        let base = if name.is_empty() { "_" } else { name };
        let mut identifier = shortened(base, name);
        let mut number = 1;
        while !used.insert(identifier.clone()) {
            number += 1;
            identifier = shortened(&format!("{base}_{number}"), &format!("{name}_{number}"));
        }
        identifiers.push(identifier);
    }
    identifiers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_views_need_no_quotes_and_are_short_enough() {
        assert_eq!(name_of("Seattle-Weather"), "series_seattle_weather");
        let (a, b) = (name_of(&"x".repeat(80)), name_of(&"x".repeat(81)));
        assert!(a != b && a.len() == MAX_NAME_BYTES && b.len() == MAX_NAME_BYTES, "{a} {b}");
    }

    #[test]
    fn columns_have_identifiers_of_their_own() {
        let long = "ü".repeat(600);
        let names: Vec<String> = ["date", "a", "date", "", &long, &format!("{long}b")].map(str::to_owned).to_vec();
        let found = identifiers(names.iter());
        assert_eq!(&found[..4], ["date", "a", "date_2", "_"]);
        assert!(found[4] != found[5] && found.iter().all(|name| name.len() <= MAX_NAME_BYTES), "{found:?}");
    }
}
