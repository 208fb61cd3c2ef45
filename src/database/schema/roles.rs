//! The roles: the privileges that the worker, a reader and an editor need on the tables and functions of the migrations, and no
//! other. The role that runs `migrate` owns them.

use tokio_postgres::Client;

use crate::config::{self, OnDuplicate};
use crate::database::connection::step::Step;
use crate::database::error::Error;
use crate::database::schema::{SchemaError, connect};

/// How the comment of a view begins that `view create` has made; its series' id follows.
pub const VIEW_COMMENT: &str = "series-ingest view of the series ";

/// Which relations of `pg_class` are such views; the first parameter is [`VIEW_COMMENT`].
pub const IS_VIEW: &str = "relnamespace = quote_ident(current_schema())::regnamespace and relkind = 'v'
    and starts_with(obj_description(pg_class.oid, 'pg_class'), $1)";

/// The tables, each with the worker's privileges on it.
///
/// Points can be added, but not even read. Progress and dead letters are changed by functions only.
pub const TABLES: [(&str, &str); 14] = [
    ("time_series_data_points", "insert"),
    ("time_series_metadata", "select"),
    ("ingest_source", "select"),
    ("ingest_progress", "select"),
    ("ingest_gap", "select"),
    ("ingest_series", ""),
    ("ingest_series_tombstone", "select"),
    ("ingest_retention", "select"),
    ("ingest_point_version", ""),
    ("ingest_dead_letter", ""),
    ("ingest_dead_letter_count", ""),
    ("ingest_backup", "select"),
    ("ingest_database", "select"),
    ("ingest_schema_history", "select"),
];

/// The functions that the worker may call; they run with the privileges of their owner. Those of `points.on_duplicate` it may
/// call with that setting only.
pub const FUNCTIONS: [&str; 38] = [
    "ingest_source_key",
    "ingest_source_number",
    "ingest_accept_sources",
    "ingest_acceptance",
    "ingest_start",
    "ingest_probe",
    "ingest_next_offsets",
    "ingest_claim",
    "ingest_claim_missing",
    "ingest_claim_journaled",
    "ingest_record_gap",
    "ingest_define_series",
    "ingest_ensure_series",
    "ingest_lock_series",
    "ingest_check_root_tables",
    "ingest_series_changes",
    "ingest_locked_series",
    "ingest_locked_partitions",
    "ingest_lock_waits",
    "ingest_ensure_chunk",
    "ingest_add_points",
    "ingest_replace_points",
    "ingest_dead_letter_capacity",
    "ingest_add_dead_letters",
    "ingest_count_dead_letters",
    "ingest_dead_letters_to_publish",
    "ingest_mark_dead_letters_published",
    "ingest_series_tombstones",
    "ingest_check_deleted",
    "ingest_delete_series",
    "ingest_writers",
    "ingest_chunk_windows",
    "ingest_delete_points",
    "ingest_delete_dead_letters",
    "ingest_finish_deletion",
    "ingest_retention_state",
    "ingest_oldest_point",
    "ingest_drop_expired",
];

/// Who a role is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The worker, and `journal replay`.
    Worker,
    /// Analysts and Grafana: reads series, points, views of series, and how far they are applied.
    Reader,
    /// Analysts who change data: a reader who may also do what the worker does, and change series and points by SQL.
    Editor,
}

/// What readers may read.
const READ: [&str; 7] = [
    "time_series_data_points",
    "time_series_metadata",
    "ingest_source",
    "ingest_progress",
    "ingest_gap",
    "ingest_retention",
    // It identifies the database, which `progress show` asks for when it connects.
    "ingest_database",
];

impl Purpose {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Reader => "reader",
            Self::Editor => "editor",
        }
    }

    /// Its privileges on a table; the worker has `workers`.
    fn privileges(self, table: &str, workers: &'static str) -> &'static str {
        let is_shared = ["time_series_data_points", "time_series_metadata"].contains(&table);
        match self {
            Self::Worker => workers,
            Self::Reader if READ.contains(&table) => "select",
            Self::Reader => "",
            Self::Editor if is_shared => "select, insert, update, delete",
            // Also its own dead letters, and what is defined.
            Self::Editor => "select",
        }
    }
}

/// Grants `role` the privileges of its purpose in the schema of the migrations, and revokes all others on the same objects.
///
/// # Errors
/// If the server does not answer, there is no such role, or it has all privileges anyway.
pub async fn grant(config: &config::Config, role: &str, purpose: Purpose) -> Result<(), SchemaError> {
    let client = connect(&config.database).await?;
    let (role, schema) = names(&client, role).await?;
    let mut sql = format!("begin; grant usage on schema {schema} to {role};");
    let step = Step::Other("list the tables");
    let tables = TABLES.map(|(table, _)| table);
    let rows = client
        .query(
            "select relname::text from pg_class where relnamespace = quote_ident(current_schema())::regnamespace and relname = any ($1)",
            &[&tables.as_slice()],
        )
        .await
        .map_err(|source| Error::Server { step, source })?;
    let present: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    // A schema that is not migrated yet does not have all of them.
    for (table, workers) in TABLES.into_iter().filter(|(table, _)| present.iter().any(|name| name == table)) {
        sql += &format!("revoke all on {schema}.{table} from {role};");
        let privileges = purpose.privileges(table, workers);
        if !privileges.is_empty() {
            sql += &format!("grant {privileges} on {schema}.{table} to {role};");
        }
    }
    let called = if purpose == Purpose::Reader { Vec::new() } else { rights_of(config.points.on_duplicate) };
    for (function, theirs) in functions(&client, &called).await? {
        let change = if theirs { "grant execute on" } else { "revoke all on" };
        let whom = if theirs { "to" } else { "from" };
        sql += &format!("{change} function {function} {whom} {role};");
    }
    let change = if purpose == Purpose::Worker { "revoke all on" } else { "grant select on" };
    let whom = if purpose == Purpose::Worker { "from" } else { "to" };
    for view in views(&client).await? {
        sql += &format!("{change} {schema}.{view} {whom} {role};");
    }
    sql += "commit";
    client
        .batch_execute(&sql)
        .await
        .map_err(|source| Error::Server { step: Step::Other("grant the rights"), source })?;
    Ok(())
}

/// The role and the schema as identifiers, if the role can be given privileges.
async fn names(client: &Client, role: &str) -> Result<(String, String), SchemaError> {
    let step = Step::Other("look for the role");
    let found = client
        .query_opt(
            "select rolsuper or pg_has_role(oid, (select relowner from pg_class
                                                  where oid = 'ingest_progress'::regclass), 'member'),
                    quote_ident(rolname), quote_ident(current_schema())
             from pg_roles where rolname = $1",
            &[&role],
        )
        .await
        .map_err(|source| Error::Server { step, source })?;
    let Some(found) = found else {
        return Err(SchemaError::Role(format!("there is no role {role:?}: make it, create role … login password …")));
    };
    if found.get(0) {
        return Err(SchemaError::Role(format!(
            "role {role:?} is a superuser, or a member of the role that owns the tables, and so has every right: name \
             another one"
        )));
    }
    Ok((found.get(1), found.get(2)))
}

/// The views of series, as identifiers.
async fn views(client: &Client) -> Result<Vec<String>, Error> {
    let sql = format!("select quote_ident(relname) from pg_class where {IS_VIEW}");
    let rows = client.query(&sql, &[&VIEW_COMMENT]).await;
    let rows = rows.map_err(|source| Error::Server { step: Step::Other("list the views"), source })?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The functions that a worker calls with this setting.
pub(super) fn rights_of(on_duplicate: OnDuplicate) -> Vec<&'static str> {
    let is_needed = |function: &&str| match *function {
        "ingest_add_points" => on_duplicate == OnDuplicate::Ignore,
        "ingest_replace_points" => on_duplicate == OnDuplicate::Replace,
        _ => true,
    };
    FUNCTIONS.into_iter().filter(is_needed).collect()
}

/// The migrations' functions with their parameters, each with `true` if the worker may call it.
async fn functions(client: &Client, theirs: &[&str]) -> Result<Vec<(String, bool)>, Error> {
    let rows = client
        .query(
            "select oid::regprocedure::text, proname = any ($1::text[]) from pg_proc
             where pronamespace = quote_ident(current_schema())::regnamespace and proname like 'ingest\\_%' and prosecdef",
            &[&theirs],
        )
        .await
        .map_err(|source| Error::Server { step: Step::Other("list the functions"), source })?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
