//! The unique index that `points.on_duplicate` needs.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::error::SchemaError;
use super::timescaledb::{make_versions_hypertable, run};
use crate::config::{self, OnDuplicate};
use crate::database::connection::step::Step;
use crate::database::error::{Error, describe};

/// The name of a unique index on the points' series, column and time, if there is one.
pub(super) async fn unique_index(client: &Client) -> Result<Option<String>, Error> {
    let found = client
        .query_opt(
            "select indexrelid::regclass::text from pg_index
             where indrelid = 'time_series_data_points'::regclass and indisunique and indisvalid and indimmediate
                 and indpred is null and indexprs is null and indnkeyatts = 3
                 and (select array_agg(attname::text order by attname) from pg_attribute
                      where attrelid = indrelid and attnum = any ((indkey::int2[])[0:2]))
                     = array['column_name', 'time_series_id', 'timestamp']
             limit 1",
            &[],
        )
        .await
        .map_err(|source| Error::Server { step: Step::Other("look for a unique index"), source })?;
    Ok(found.map(|row| row.get(0)))
}

/// Makes the unique index that `points.on_duplicate` needs. The table takes no writes until it is done: hypertables have no
/// `create index concurrently` for unique indexes.
pub(super) async fn make_unique(
    client: &Client,
    config: &config::Config,
    notes: &mut Vec<String>,
) -> Result<(), SchemaError> {
    let rule = config.points.on_duplicate;
    if unique_index(client).await?.is_none() {
        let sql = "create unique index idx_time_series_data_points_unique \
                   on time_series_data_points (time_series_id, column_name, \"timestamp\")";
        match run(client, Step::Other("make the unique index"), sql).await {
            Ok(_) => {
                notes.push(format!("the points have a unique index, for points.on_duplicate = {:?}", rule.as_str()))
            }
            Err(Error::Server { source, .. }) if source.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
                return Err(SchemaError::Duplicates { rule: rule.as_str(), example: describe(&source) });
            }
            Err(failure) => return Err(failure.into()),
        }
    }
    if rule == OnDuplicate::Replace {
        make_versions_hypertable(client, &config.database, notes).await?;
    }
    Ok(())
}
