//! What depends on the server's TimescaleDB, which may be added or change after the tables were made: hypertables and
//! compression.

use tokio_postgres::Client;
use tracing::info;

use super::quoted_text;
use super::server::{Edition, server};
use crate::config;
use crate::database::connection::settings::quoted_name;
use crate::database::connection::step::Step;
use crate::database::error::{Error, describe};

/// Makes the points a hypertable and sets its chunks, as far as the server can; returns `true` if it can be compressed.
pub(super) async fn apply_extension(
    client: &Client,
    database: &config::Database,
    notes: &mut Vec<String>,
) -> Result<bool, Error> {
    if !create_extension(client, notes).await? {
        notes.push("TimescaleDB is not there: the points are in a plain table, and everything else works".to_owned());
        return Ok(false);
    }
    if !make_hypertable(client, database, notes).await? {
        return Ok(false);
    }
    lift_limit(client).await?;
    if server(client).await?.edition != Edition::Community {
        notes.push(
            "TimescaleDB is the Apache edition: compression and its policy are omitted; a later `migrate` adds them \
             once the community edition is there"
                .to_owned(),
        );
        return Ok(false);
    }
    Ok(true)
}

/// Adds the extension if possible; returns `true` if it is there. A server that has its files but did not preload it would end
/// the session at the attempt; if its settings are known, it is preloaded.
async fn create_extension(client: &Client, notes: &mut Vec<String>) -> Result<bool, Error> {
    let step = Step::Other("look for TimescaleDB");
    let row = client
        .query_one(
            "select exists (select from pg_extension where extname = 'timescaledb'),
                    exists (select from pg_available_extensions where name = 'timescaledb')
                        and exists (select from pg_settings where name like 'timescaledb%' or name like 'timescaledb.%')",
            &[],
        )
        .await
        .map_err(|source| Error::Server { step, source })?;
    if row.get(0) {
        return Ok(true);
    }
    if !row.get::<_, bool>(1) {
        return Ok(false);
    }
    // By default it would go to the first schema of the search_path, which is this program's own.
    let sql = "do $$ begin
            if to_regnamespace('public') is not null then
                create extension if not exists timescaledb schema public;
            else
                create extension if not exists timescaledb;
            end if;
        end $$";
    match client.batch_execute(sql).await {
        Ok(()) => Ok(true),
        Err(error) if error.as_db_error().is_some() => {
            notes.push(format!("the extension timescaledb could not be created: {}", describe(&error)));
            Ok(false)
        }
        Err(source) => Err(Error::Server { step: Step::Other("create the extension"), source }),
    }
}

/// The schema of TimescaleDB's functions, quoted; the extension may be in any.
pub(super) async fn extension_schema(client: &Client) -> Result<String, Error> {
    let sql = "select nspname::text from pg_extension join pg_namespace on pg_namespace.oid = extnamespace
               where extname = 'timescaledb'";
    let row = client
        .query_one(sql, &[])
        .await
        .map_err(|source| Error::Server { step: Step::Other("look for TimescaleDB's schema"), source })?;
    Ok(quoted_name(row.get(0)))
}

/// Makes the points a hypertable if possible; returns `true` if they are one.
async fn make_hypertable(client: &Client, database: &config::Database, notes: &mut Vec<String>) -> Result<bool, Error> {
    let step = Step::Other("make the hypertable");
    let interval = format!("interval '{} seconds'", database.chunk_interval_s);
    let row = client
        .query_one(
            "select exists (select from timescaledb_information.hypertables
                            where hypertable_schema = current_schema() and hypertable_name = 'time_series_data_points'),
                    exists (select from time_series_data_points)",
            &[],
        )
        .await
        .map_err(|source| Error::Server { step, source })?;
    let (is_hypertable, has_points): (bool, bool) = (row.get(0), row.get(1));
    let timescaledb = extension_schema(client).await?;
    if is_hypertable {
        let changed = run(
            client,
            Step::Other("set the chunk interval"),
            &format!(
                "select {timescaledb}.set_chunk_time_interval('time_series_data_points', {interval})
                 from timescaledb_information.dimensions
                 where hypertable_schema = current_schema() and hypertable_name = 'time_series_data_points'
                     and column_name = 'timestamp' and time_interval is distinct from {interval}"
            ),
        )
        .await?;
        if changed > 0 {
            notes.push(format!("new chunks are {} s long", database.chunk_interval_s));
        }
        return Ok(true);
    }
    if let Some(index) = unique_without_time(client).await? {
        notes.push(format!(
            "the points stay a plain table: {index} is unique without \"timestamp\", and the unique indexes of a hypertable \
             have it. With a primary key (id, \"timestamp\") instead, a later `migrate` makes a hypertable of an empty table"
        ));
        return Ok(false);
    }
    let create = format!(
        "select {timescaledb}.create_hypertable({table}, 'timestamp', chunk_time_interval => {interval}, \
         create_default_indexes => false",
        // It may be run by hand, with another search_path.
        table = quoted_text(&format!("{}.time_series_data_points", quoted_name(&database.schema)))
    );
    if has_points {
        notes.push(format!(
            "the points are a plain table with rows in it; making it a hypertable locks it while its rows move: when \
             that is convenient, run  {create}, migrate_data => true);"
        ));
        return Ok(false);
    }
    run(client, step, &format!("{create})")).await?;
    notes.push(format!("the points are a hypertable with chunks of {} s", database.chunk_interval_s));
    Ok(true)
}

/// A unique index that no hypertable can have.
async fn unique_without_time(client: &Client) -> Result<Option<String>, Error> {
    let sql = "select indexrelid::regclass::text from pg_index
               where indrelid = 'time_series_data_points'::regclass and indisunique
                   and not (select attnum from pg_attribute where attrelid = indrelid and attname = 'timestamp')
                       = any ((indkey::int2[])[0:indnkeyatts - 1])
               limit 1";
    let step = Step::Other("look for unique indexes");
    let found = client.query_opt(sql, &[]).await.map_err(|source| Error::Server { step, source })?;
    Ok(found.map(|row| row.get(0)))
}

/// Lifts TimescaleDB's limit on what a transaction decompresses for the functions of `points.on_duplicate`: late points may
/// conflict with any compressed row of their time, and a transaction that the limit ends would be ended again and again. Only
/// a superuser may set it while the extension is absent, so no migration does it.
async fn lift_limit(client: &Client) -> Result<(), Error> {
    let sql = "do $$
        declare
            name constant text := 'timescaledb.max_tuples_decompressed_per_dml_transaction';
            points_function regprocedure;
        begin
            for points_function in
                select oid from pg_proc
                where pronamespace = quote_ident(current_schema())::regnamespace
                    and proname in ('ingest_add_points', 'ingest_replace_points')
                    and current_setting(name, true) is not null
            loop
                execute format('alter function %s set %s = 0', points_function, name);
            end loop;
        end $$";
    run(client, Step::Other("lift the limit on decompression"), sql).await?;
    Ok(())
}

/// Makes the points' versions a hypertable as well, if the points are one: old chunks of both can be dropped.
pub(super) async fn make_versions_hypertable(
    client: &Client,
    database: &config::Database,
    notes: &mut Vec<String>,
) -> Result<(), Error> {
    let step = Step::Other("make the versions a hypertable");
    let row = client
        .query_one(
            "select exists (select from pg_extension where extname = 'timescaledb')
                    and not exists (select from ingest_point_version)",
            &[],
        )
        .await
        .map_err(|source| Error::Server { step, source })?;
    if !row.get::<_, bool>(0) {
        return Ok(());
    }
    let timescaledb = extension_schema(client).await?;
    let made = run(
        client,
        step,
        &format!(
            "select {timescaledb}.create_hypertable('ingest_point_version', 'timestamp',
                                      chunk_time_interval => interval '{} seconds', create_default_indexes => false)
             where exists (select from timescaledb_information.hypertables
                           where hypertable_schema = current_schema() and hypertable_name = 'time_series_data_points')
                 and not exists (select from timescaledb_information.hypertables
                                 where hypertable_schema = current_schema() and hypertable_name = 'ingest_point_version')",
            database.chunk_interval_s
        ),
    )
    .await?;
    if made > 0 {
        notes.push(format!("ingest_point_version is a hypertable with chunks of {} s", database.chunk_interval_s));
    }
    Ok(())
}

pub(super) async fn compress(
    client: &Client,
    database: &config::Database,
    notes: &mut Vec<String>,
) -> Result<(), Error> {
    let enabled = client
        .query_one(
            "select compression_enabled from timescaledb_information.hypertables
             where hypertable_schema = current_schema() and hypertable_name = 'time_series_data_points'",
            &[],
        )
        .await
        .map_err(|source| Error::Server { step: Step::Other("look for compression"), source })?;
    if !enabled.get::<_, bool>(0) {
        let sql = "alter table time_series_data_points set (timescaledb.compress, \
                   timescaledb.compress_segmentby = 'time_series_id, column_name', \
                   timescaledb.compress_orderby = '\"timestamp\"')";
        client
            .batch_execute(sql)
            .await
            .map_err(|source| Error::Server { step: Step::Other("set compression"), source })?;
        notes.push("compression is set".to_owned());
    }
    let timescaledb = extension_schema(client).await?;
    let after = format!("interval '{} seconds'", database.compress_after_s);
    let removed = run(
        client,
        Step::Other("remove the old compression policy"),
        &format!(
            "select {timescaledb}.remove_compression_policy('time_series_data_points') from timescaledb_information.jobs
             where hypertable_schema = current_schema() and hypertable_name = 'time_series_data_points'
                 and proc_name = 'policy_compression' and (config ->> 'compress_after')::interval <> {after}"
        ),
    )
    .await?;
    let added = run(
        client,
        Step::Other("add the compression policy"),
        &format!(
            "select {timescaledb}.add_compression_policy('time_series_data_points', compress_after => {after})
             where not exists (
                 select from timescaledb_information.jobs
                 where hypertable_schema = current_schema() and hypertable_name = 'time_series_data_points'
                     and proc_name = 'policy_compression')"
        ),
    )
    .await?;
    if removed + added > 0 {
        notes.push(format!("chunks older than {} s are compressed", database.compress_after_s));
    }
    Ok(())
}

/// Runs one statement and returns its number of rows.
pub(super) async fn run(client: &Client, step: Step, sql: &str) -> Result<usize, Error> {
    info!(step = step.as_str(), "schema");
    let rows = client.query(sql, &[]).await.map_err(|source| Error::Server { step, source })?;
    Ok(rows.len())
}
