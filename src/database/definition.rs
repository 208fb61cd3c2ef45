//! Definitions of series by commands: they count like a message `series-create` that is sent now, so that of a command and a
//! message the later one holds.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::connection::session::Session;
use super::connection::step::Step;
use super::{Database, Error};

/// The cluster and the topic of the source by which definitions of commands are stored.
const SOURCE: (&str, &str) = ("command", "series");

/// The name of the times of a series whose definition has none.
const TIME_COLUMN: &str = "timestamp";

/// Changes to a series' definition; what is `None` stays as it is.
#[derive(Debug, Clone, Default)]
pub struct SeriesEdit {
    /// The id of the series.
    pub id: String,
    /// The name; an empty one removes it.
    pub name: Option<String>,
    /// The description; an empty one removes it.
    pub description: Option<String>,
    /// The name of the times.
    pub time_column: Option<String>,
    /// The columns, in their order; those that only points have follow them.
    pub value_columns: Option<Vec<String>>,
    /// Labels to set, or to remove if they are `None`.
    pub labels: BTreeMap<String, Option<Box<RawValue>>>,
}

impl SeriesEdit {
    /// Returns `true` if all stays as it is.
    pub fn changes_nothing(&self) -> bool {
        let Self { id: _, name, description, time_column, value_columns, labels } = self;
        let texts = [name, description, time_column];
        texts.iter().all(|text| text.is_none()) && value_columns.is_none() && labels.is_empty()
    }
}

/// The result of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Defined {
    /// The series was created, or a placeholder was completed.
    Created,
    /// Its definition was changed, or is as it was asked for.
    Updated,
    /// There is no such series, and it was to exist.
    Missing,
    /// It is defined already, and was to be created.
    Exists,
    /// This label was to be removed, and does not come from a definition.
    NotDefined(String),
    /// One of its columns would have the name of its times, by what is changed.
    TimeIsColumn(String),
}

/// The definition as it is stored.
struct Stored {
    name: Option<String>,
    description: Option<String>,
    time_column: String,
    /// Those that are defined; of a series without a definition those of its row.
    columns: Option<Vec<String>>,
    labels: BTreeMap<String, Box<RawValue>>,
    /// The labels of its row, which may come with points.
    all_labels: BTreeMap<String, Box<RawValue>>,
    message_ms: Option<i64>,
}

impl Database {
    /// Creates a series, or changes the definition of one; `creates` says which.
    ///
    /// # Errors
    /// If the database does not answer, or this role may not do it.
    pub async fn define(&self, edit: &SeriesEdit, creates: bool) -> Result<Defined, Error> {
        let mut session = self.session().await?;
        let source = {
            let sql = "select source_key from ingest_source_key($1, $2, $3, '')";
            let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
                [&self.pipeline.as_ref(), &SOURCE.0, &SOURCE.1];
            let rows = session.query(Step::Other("find the source of commands"), sql, &parameters).await?;
            rows.first().map(|row| row.get::<_, Uuid>(0))
        };
        let source = source.ok_or_else(|| Error::Unexpected("no source was returned".to_owned()))?;
        session.begin().await?;
        // A series that does not exist yet has no row to lock.
        let lock = "select pg_advisory_xact_lock(hashtextextended('series-ingest definition ' || $1, 0))";
        session.query(Step::Other("lock a definition"), lock, &[&edit.id]).await?;
        let stored = stored(&mut session, &edit.id).await?;
        let is_defined = stored.as_ref().is_some_and(|stored| stored.message_ms.is_some() || stored.name.is_some());
        let refused = match (creates, &stored) {
            (true, Some(_)) if is_defined => Some(Defined::Exists),
            (false, None) => Some(Defined::Missing),
            (_, Some(stored)) => not_defined(edit, stored).map(Defined::NotDefined),
            _ => None,
        };
        let refused = refused.or_else(|| time_is_column(edit, stored.as_ref()).map(Defined::TimeIsColumn));
        if let Some(refused) = refused {
            session.roll_back().await;
            return Ok(refused);
        }
        write(&mut session, edit, stored, source).await?;
        session.commit().await?;
        Ok(if creates { Defined::Created } else { Defined::Updated })
    }
}

/// Reads the definition of a series, and locks its row.
async fn stored(session: &mut Session, id: &str) -> Result<Option<Stored>, Error> {
    let sql = "select series.name, series.description, series.time_column, stored.defined_columns::text[],
                   stored.defined_labels::text, series.labels::text, series.value_columns::text, (extract(epoch from stored.message_time) * 1000)::bigint
               from time_series_metadata as series left join ingest_series as stored on stored.series_id = series.id
               where series.id = $1 for update of series";
    let rows = session.query(Step::Other("read the definition of a series"), sql, &[&id]).await?;
    Ok(rows.first().map(|row| {
        let of_row: &str = row.get(6);
        Stored {
            name: row.get(0),
            description: row.get(1),
            time_column: row.get(2),
            columns: row.get::<_, Option<Vec<String>>>(3).or_else(|| serde_json::from_str(of_row).ok()),
            labels: object(row.get(4)),
            all_labels: object(row.get(5)),
            message_ms: row.get(7),
        }
    }))
}

/// The members of a JSON object, each as it is written; none of what is not an object.
fn object(text: Option<&str>) -> BTreeMap<String, Box<RawValue>> {
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// A label that is to be removed, and that no definition has set.
fn not_defined(edit: &SeriesEdit, stored: &Stored) -> Option<String> {
    let removed = edit.labels.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| name);
    removed
        .into_iter()
        .find(|name| !stored.labels.contains_key(*name) && stored.all_labels.contains_key(*name))
        .cloned()
}

/// The name that the times and a column would have by the changes; what was so before stays so.
fn time_is_column(edit: &SeriesEdit, stored: Option<&Stored>) -> Option<String> {
    if edit.time_column.is_none() && edit.value_columns.is_none() {
        return None;
    }
    let time = edit.time_column.as_deref().or(stored.map(|stored| stored.time_column.as_str())).unwrap_or(TIME_COLUMN);
    let columns = edit.value_columns.as_ref().or(stored.and_then(|stored| stored.columns.as_ref()))?;
    columns.iter().find(|column| *column == time).cloned()
}

/// Writes the definition that the changes make of the stored one. It is later than that and than a deletion, also if the
/// producer's clock is ahead.
async fn write(session: &mut Session, edit: &SeriesEdit, stored: Option<Stored>, source: Uuid) -> Result<(), Error> {
    let changed = |new: &Option<String>, old: Option<String>| match new {
        Some(new) => Some(new.clone()).filter(|text| !text.is_empty()),
        None => old,
    };
    let earlier_ms = stored.as_ref().and_then(|stored| stored.message_ms);
    let (old_name, old_description, old_time_column, old_columns, old_labels) = match stored {
        Some(old) => (old.name, old.description, Some(old.time_column), old.columns, old.labels),
        None => (None, None, None, None, BTreeMap::new()),
    };
    let columns = edit.value_columns.clone().or(old_columns).unwrap_or_default();
    let labels = labels(edit, old_labels);
    let sql = "select ingest_define_series(array[$1], array[$2], array[$3], array[$4], array[$5],
                   array[greatest(floor(extract(epoch from clock_timestamp()) * 1000)::bigint, $6::bigint + 1,
                       (select max(message_ms) + 1 from ingest_series_tombstone
                        where series_id = $1 and not isfinite(before_time)))],
                   array[$7::uuid], array[0], array[0::bigint], array[$8])";
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 8] = [
        &edit.id,
        &changed(&edit.name, old_name),
        &changed(&edit.description, old_description),
        &changed(&edit.time_column, old_time_column),
        &Value::from(columns).to_string(),
        &earlier_ms,
        &source,
        &labels,
    ];
    session.query(Step::DefineSeries, sql, &parameters).await.map(drop)
}

/// The labels of the definition as JSON; `None` if they stay.
fn labels(edit: &SeriesEdit, mut all: BTreeMap<String, Box<RawValue>>) -> Option<String> {
    if edit.labels.is_empty() {
        return None;
    }
    for (name, value) in &edit.labels {
        match value {
            Some(value) => all.insert(name.clone(), value.clone()),
            None => all.remove(name),
        };
    }
    serde_json::to_string(&all).ok()
}
