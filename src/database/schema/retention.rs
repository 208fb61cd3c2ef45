//! The age from which points are deleted: stored in the database for all workers, and as a policy where TimescaleDB has one.

use tokio_postgres::Client;

use super::timescaledb::{extension_schema, run};
use crate::config;
use crate::database::connection::step::Step;
use crate::database::error::Error;

/// The hypertables that have a policy.
const TABLES: [&str; 2] = ["time_series_data_points", "ingest_point_version"];

/// Stores the age, or deletes it if points are kept. `has_policies`: the server has the community edition. A policy that was
/// added by hand is left alone while no age is configured.
pub(super) async fn apply(
    client: &Client,
    retention: &config::Retention,
    has_policies: bool,
    notes: &mut Vec<String>,
) -> Result<(), Error> {
    let step = Step::Other("store the retention");
    let after = retention.drop_after_s;
    if after == 0 {
        let deleted = run(client, step, "delete from ingest_retention returning 1").await?;
        if deleted > 0 {
            if has_policies {
                for table in TABLES {
                    remove_policy(client, table, None).await?;
                }
            }
            notes.push("points are kept, whatever their age".to_owned());
        }
        return Ok(());
    }
    let stored = run(
        client,
        step,
        &format!(
            "insert into ingest_retention as stored (table_name, drop_after)
             values ('time_series_data_points', interval '{after} seconds')
             on conflict (table_name) do update set drop_after = excluded.drop_after, set_at = now()
             where stored.drop_after <> excluded.drop_after returning 1"
        ),
    )
    .await?;
    let mut added = 0;
    if has_policies {
        for table in TABLES {
            remove_policy(client, table, Some(after)).await?;
            added += add_policy(client, table, after).await?;
        }
    }
    if stored + added > 0 {
        let whom = if has_policies { "by a policy of TimescaleDB" } else { "by a worker" };
        notes.push(format!("points older than {after} s are deleted {whom}"));
    }
    Ok(())
}

/// Removes a table's policy, unless it has this age.
async fn remove_policy(client: &Client, table: &str, keep: Option<u64>) -> Result<(), Error> {
    let timescaledb = extension_schema(client).await?;
    let kept = keep.map_or_else(String::new, |after| {
        format!("and (config ->> 'drop_after')::interval is distinct from interval '{after} seconds'")
    });
    let sql = format!(
        "select {timescaledb}.remove_retention_policy('{table}') from timescaledb_information.jobs
         where hypertable_schema = current_schema() and hypertable_name = '{table}' and proc_name = 'policy_retention' {kept}"
    );
    run(client, Step::Other("remove the old retention policy"), &sql).await.map(drop)
}

/// Adds a table's policy if it has none; returns the number of policies added.
async fn add_policy(client: &Client, table: &str, after: u64) -> Result<usize, Error> {
    let timescaledb = extension_schema(client).await?;
    let sql = format!(
        "select {timescaledb}.add_retention_policy('{table}', drop_after => interval '{after} seconds')
         from timescaledb_information.hypertables
         where hypertable_schema = current_schema() and hypertable_name = '{table}' and not exists (
             select from timescaledb_information.jobs
             where hypertable_schema = current_schema() and hypertable_name = '{table}' and proc_name = 'policy_retention')"
    );
    run(client, Step::Other("add the retention policy"), &sql).await
}
