//! The privileges of this session's role, and the functions of the migrations: checks that a worker may do all that it does.
//! The worker runs them before it starts and now and then, and `check` runs the same.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use tokio_postgres::{Client, Row};

use super::columns;
use super::history::runner;
use super::roles::{TABLES, rights_of};
use crate::config::OnDuplicate;
use crate::database::connection::session::Session;
use crate::database::connection::step::Step;
use crate::database::error::Error;

const STEP: Step = Step::Other("look for the role's rights");

/// One row for each thing that is missing: what kind of thing, its name, the privilege or the owner, and this session's role.
///
/// A role that may use the privileges of a function's owner needs no function that runs with them.
const SQL: &str = "
    with mine as (
        select name, \"right\", to_regclass(quote_ident(name))::oid as oid
        from unnest($1::text[], $2::text[]) as wanted (name, \"right\") where \"right\" <> ''
    ), functions as (
        select name, count(oid) > 0 as is_there, bool_or(has_function_privilege(oid, 'execute')) as is_allowed,
            bool_or(prosecdef or pg_has_role(proowner, 'usage')) as is_able,
            min(proowner::regrole::text) filter (where prosecdef and exists (
                select from pg_class
                where relnamespace = pronamespace and relkind = 'r' and relname = any ($1) and relname like 'ingest\\_%'
                    and relname <> 'ingest_schema_history'
                    and not (has_table_privilege(proowner, pg_class.oid, 'select')
                        and has_table_privilege(proowner, pg_class.oid, 'insert')
                        and has_table_privilege(proowner, pg_class.oid, 'update')))) as poor_owner
        from unnest($3::text[]) as name
        left join pg_proc on proname = name and pronamespace = quote_ident(current_schema())::regnamespace
        group by name
    ), missing as (
        select 'right' as kind, name, upper(\"right\") as detail from mine
        where not case \"right\"
            when 'insert' then (
                select bool_and(has_column_privilege(mine.oid, attnum, 'insert')) from pg_attribute
                where attrelid = mine.oid and attname = any ($4) and not attisdropped)
            else has_table_privilege(oid, \"right\") end
        union all select 'function', name, '' from functions where not is_there
        union all select 'call', name, '' from functions where not is_allowed and name = any ($5)
        union all select 'invoker', name, '' from functions where is_allowed and not is_able and name = any ($5)
        union all select 'owner', name, poor_owner from functions where poor_owner is not null
    )
    select kind, name, detail, current_user::text from missing order by kind, name";

/// The parameters of the query.
struct Wanted {
    tables: Vec<&'static str>,
    rights: Vec<&'static str>,
    functions: Vec<String>,
    columns: Vec<&'static str>,
    called: Vec<&'static str>,
}

impl Wanted {
    fn by(rule: OnDuplicate) -> Self {
        let (tables, rights) = TABLES.into_iter().unzip();
        let called = rights_of(rule);
        let mut functions = MADE.clone();
        functions.extend(called.iter().map(|name| (*name).to_owned()));
        Self {
            tables,
            rights,
            functions: functions.into_iter().collect(),
            columns: columns::WRITTEN.map(|(column, _)| column).to_vec(),
            called,
        }
    }
}

/// What is missing, in sentences.
pub(in crate::database) async fn missing(client: &Client, rule: OnDuplicate) -> Result<Vec<String>, Error> {
    let Wanted { tables, rights, functions, columns, called } = Wanted::by(rule);
    let rows = client.query(SQL, &[&tables, &rights, &functions, &columns, &called]).await;
    Ok(sentences(&rows.map_err(|source| Error::Server { step: STEP, source })?))
}

/// The same by a session of the pool.
pub(in crate::database) async fn missing_in(session: &mut Session, rule: OnDuplicate) -> Result<Vec<String>, Error> {
    let Wanted { tables, rights, functions, columns, called } = Wanted::by(rule);
    Ok(sentences(&session.query(STEP, SQL, &[&tables, &rights, &functions, &columns, &called]).await?))
}

fn sentences(rows: &[Row]) -> Vec<String> {
    rows.iter().map(|row| sentence(row.get(0), row.get(1), row.get(2), row.get(3))).collect()
}

fn sentence(kind: &str, name: &str, detail: &str, role: &str) -> String {
    let grant = format!("run `series-ingest migrate --worker-role {role}` as the owner, with this configuration");
    match kind {
        "right" => format!("the role {role:?} lacks {detail} on {name}: {grant}"),
        "call" => format!("the role {role:?} may not call {name}: {grant}"),
        "invoker" => format!(
            "the function {name} runs with the rights of its caller, and the role {role:?} lacks those of its owner: alter \
             function {name} security definer"
        ),
        "owner" => format!(
            "the function {name} runs with the rights of {detail}, who lacks some on the tables: alter function {name} owner \
             to the tables' owner"
        ),
        _ => format!(
            "the function {name} is missing, although its migration was applied: it was dropped or renamed, or is in another \
             schema. Restore it"
        ),
    }
}

/// The functions that exist after all migrations.
static MADE: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let mut migrations = runner().get_migrations().clone();
    migrations.sort_by_key(refinery::Migration::version);
    let mut made = BTreeSet::new();
    for sql in migrations.iter().filter_map(refinery::Migration::sql) {
        follow(sql, &mut made);
    }
    made
});

/// Tracks what a migration's lines make and drop.
fn follow(sql: &str, made: &mut BTreeSet<String>) {
    for line in sql.lines() {
        let line = line.trim_start().to_ascii_lowercase();
        let after = |words: &str| {
            let name = line.strip_prefix(words)?.trim_start().split('(').next()?.trim();
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_').then(|| name.to_owned())
        };
        if let Some(name) = after("create function ").or_else(|| after("create or replace function ")) {
            made.insert(name);
        } else if let Some(name) = after("drop function ").or_else(|| after("drop function if exists ")) {
            made.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::schema::roles::FUNCTIONS;

    #[test]
    fn what_is_made_and_dropped_is_followed() {
        let mut made = BTreeSet::new();
        follow("create function a(x int) returns void\ncreate or replace function b() returns void", &mut made);
        follow("drop function a(int);\n    create function c(\n    x int)\n-- create function d()", &mut made);
        assert_eq!(made.into_iter().collect::<Vec<_>>(), ["b", "c"]);
    }

    #[test]
    fn the_migrations_make_all_that_the_worker_calls() {
        for name in FUNCTIONS {
            assert!(MADE.contains(name), "{name}");
        }
        assert!(MADE.contains("ingest_cover") && !MADE.contains("ingest_source_id"));
    }
}
