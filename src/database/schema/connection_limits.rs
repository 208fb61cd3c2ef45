//! The server's limits of connections, compared with the number that this worker may open.

use tokio_postgres::Client;

use crate::config;
use crate::database::connection::step::Step;
use crate::database::error::Error;

/// Number of connections outside the pool: the first check of the schema takes two, as does a command alongside the worker.
const OUTSIDE_POOL: i64 = 2;

/// The limits that hold for this session's role, each with where it is set; -1 is none. Superusers have only the last.
const SQL: &str = "
    select rolname::text, datname::text, rolsuper, rolconnlimit, datconnlimit,
        current_setting('max_connections')::integer, current_setting('superuser_reserved_connections')::integer,
        coalesce(nullif(current_setting('reserved_connections', true), '')::integer, 0)
    from pg_roles, pg_database where rolname = session_user and datname = current_database()";

/// A limit below the worker's maximum, as a sentence; of several the lowest.
pub(super) async fn too_low(client: &Client, database: &config::Database) -> Result<Option<String>, Error> {
    let step = Step::Other("look for limits of connections");
    let row = client.query_one(SQL, &[]).await.map_err(|source| Error::Server { step, source })?;
    let (role, name): (&str, &str) = (row.get(0), row.get(1));
    let (is_superuser, of_role, of_database): (bool, i32, i32) = (row.get(2), row.get(3), row.get(4));
    let (all, reserved, kept): (i32, i32, i32) = (row.get(5), row.get(6), row.get(7));
    let of_server = if is_superuser {
        (all, format!("the server takes {all} connections (max_connections)"))
    } else {
        let left = all - reserved - kept;
        let without = format!("{all} - superuser_reserved_connections = {reserved} - reserved_connections = {kept}");
        (left, format!("the server takes {left} connections (max_connections = {without})"))
    };
    let mut limits = vec![of_server];
    if !is_superuser && of_role >= 0 {
        let fix = format!("alter role {role} connection limit");
        limits.push((of_role, format!("the role {role:?} may have {of_role} connections (rolconnlimit: {fix} …)")));
    }
    if !is_superuser && of_database >= 0 {
        let fix = format!("alter database {name} connection limit");
        limits.push((
            of_database,
            format!("the database {name:?} takes {of_database} connections (datconnlimit: {fix} …)"),
        ));
    }
    let lowest = limits.into_iter().min_by_key(|(limit, _)| *limit);
    Ok(lowest.filter(|(limit, _)| i64::from(*limit) < wanted(database)).map(|(_, text)| sentence(&text, database)))
}

fn wanted(database: &config::Database) -> i64 {
    i64::try_from(database.pool_size + database.max_overflow).unwrap_or(i64::MAX).saturating_add(OUTSIDE_POOL)
}

fn sentence(limit: &str, database: &config::Database) -> String {
    format!(
        "{limit}, and this worker may take {}: database.pool_size = {}, database.max_overflow = {}, and {OUTSIDE_POOL} outside the pool. \
         Raise the limit, or lower these keys; every other worker and program of the same role, database and server counts, too",
        wanted(database),
        database.pool_size,
        database.max_overflow
    )
}
