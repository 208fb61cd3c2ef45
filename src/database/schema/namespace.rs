//! The schema of the tables, and the check that its functions look for tables there.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::error::SchemaError;
use super::history::HISTORY;
use crate::config;
use crate::database::connection::settings::quoted_name;
use crate::database::connection::step::Step;
use crate::database::error::Error;

/// Creates the schema of the tables if it is missing.
pub(super) async fn ensure_schema(
    client: &Client,
    database: &config::Database,
    notes: &mut Vec<String>,
) -> Result<(), SchemaError> {
    let found = find_schema(client, database).await?;
    let (schema, role) = (quoted_name(&database.schema), quoted_name(&found.role));
    if found.exists {
        if found.may_use && (found.may_create || found.has_history) {
            return Ok(());
        }
        return Err(SchemaError::Role(format!(
            "the role {role} may not create tables in the schema {schema} of database.schema: as its owner, run  grant usage, \
             create on schema {schema} to {role}"
        )));
    }
    let step = Step::Other("create the schema");
    match client.batch_execute(&format!("create schema {schema}")).await {
        Ok(()) => {
            notes.push(format!("created the schema {schema}"));
            Ok(())
        }
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Err(SchemaError::Role(format!(
            "the schema {schema} of database.schema does not exist, and the role {role} may not create it: as an \
             administrator, run  create schema {schema} authorization {role}"
        ))),
        Err(source) => Err(Error::Server { step, source }.into()),
    }
}

/// Checks that the schema is there and may be used: the server skips one that may not, as if it were missing.
pub(super) async fn check_schema(client: &Client, database: &config::Database) -> Result<(), SchemaError> {
    let found = find_schema(client, database).await?;
    if !found.exists {
        return Err(SchemaError::NoSchema { schema: database.schema.clone() });
    }
    if !found.may_use {
        let role = &found.role;
        return Err(SchemaError::Role(format!(
            "the role {role:?} may not use the schema {:?} of database.schema: run `series-ingest migrate --worker-role \
             {role}` as the owner",
            database.schema
        )));
    }
    Ok(())
}

/// A schema, and what this session's role may do with it.
struct FoundSchema {
    exists: bool,
    may_use: bool,
    may_create: bool,
    has_history: bool,
    role: String,
}

async fn find_schema(client: &Client, database: &config::Database) -> Result<FoundSchema, Error> {
    let sql = "select named.oid is not null, coalesce(has_schema_privilege(named.oid, 'usage'), false),
                   coalesce(has_schema_privilege(named.oid, 'create'), false),
                   exists (select from pg_class where relnamespace = named.oid and relname = $2), current_user::text
               from (select (select oid from pg_namespace where nspname = $1) as oid) as named";
    let row = client
        .query_one(sql, &[&database.schema, &HISTORY])
        .await
        .map_err(|source| Error::Server { step: Step::Other("look for the schema"), source })?;
    Ok(FoundSchema {
        exists: row.get(0),
        may_use: row.get(1),
        may_create: row.get(2),
        has_history: row.get(3),
        role: row.get(4),
    })
}

/// The functions that run with their owner's rights and do not look for tables in this schema: it was renamed since they
/// were made.
const STRAYED: &str = "from pg_proc
    where pronamespace = quote_ident(current_schema())::regnamespace and proname like 'ingest\\_%' and prosecdef
        and format('search_path=%I, pg_temp', current_schema()) <> all (coalesce(proconfig, '{}'))";

pub(super) async fn check_paths(client: &Client) -> Result<(), SchemaError> {
    let step = Step::Other("look for the functions' schema");
    let found = client
        .query_opt(&format!("select proname::text {STRAYED} limit 1"), &[])
        .await
        .map_err(|source| Error::Server { step, source })?;
    found.map_or(Ok(()), |row| Err(SchemaError::Renamed { function: row.get(0) }))
}

/// Has the functions look for tables in the schema that they are in.
pub(super) async fn set_paths(client: &Client, notes: &mut Vec<String>) -> Result<(), Error> {
    let step = Step::Other("set the functions' schema");
    let sql = format!(
        "select format('alter function %s set search_path = %I, pg_temp', oid::regprocedure, current_schema()) {STRAYED}"
    );
    let rows = client.query(&sql, &[]).await.map_err(|source| Error::Server { step, source })?;
    for row in &rows {
        client.batch_execute(row.get(0)).await.map_err(|source| Error::Server { step, source })?;
    }
    if !rows.is_empty() {
        notes.push("the schema was renamed: its functions work with its tables again".to_owned());
    }
    Ok(())
}
