//! Adopting tables of series and points that another program has made, as an ORM does on plain PostgreSQL: differences are
//! reported, what is missing is added, and what cannot be used is refused by name. No type is changed; [`COMPLETE_METADATA`]
//! has the one change of columns and rows.

use std::collections::BTreeMap;

use refinery::Target;
use tokio_postgres::Client;

use crate::database::connection::step::Step;
use crate::database::error::Error;
use crate::database::schema::error::SchemaError;
use crate::database::schema::history::runner;

/// The migration that makes the two tables if they are missing.
const FIRST: &str = include_str!("../../../migrations/V1__series_and_points.sql");

const METADATA: &str = "time_series_metadata";
const POINTS: &str = "time_series_data_points";

const TEXT: &[&str] = &["text", "character varying"];
const TIME: &[&str] = &["timestamp with time zone", "timestamp without time zone"];

/// The columns that the program names, each with the types that its statements and its COPY work with; ours is the first.
const COLUMNS: [(&str, &str, &[&str]); 12] = [
    (METADATA, "id", TEXT),
    (METADATA, "name", TEXT),
    (METADATA, "description", TEXT),
    (METADATA, "time_column", TEXT),
    (METADATA, "value_columns", TEXT),
    (METADATA, "created_at", TIME),
    (METADATA, "updated_at", TIME),
    (POINTS, "id", &["bigint", "integer"]),
    (POINTS, "time_series_id", TEXT),
    (POINTS, "timestamp", TIME),
    (POINTS, "column_name", TEXT),
    (POINTS, "value", &["double precision"]),
];

/// What programs may rely on in a series' row: its name is optional, and its time column and list of columns are never
/// NULL. A text that is not a JSON array of names becomes an empty one, to which the columns of points are added.
const COMPLETE_METADATA: &str = "
    alter table time_series_metadata
        add column if not exists labels jsonb,
        alter column name drop not null,
        alter column time_column set default 'timestamp',
        alter column value_columns set default '[]';
    update time_series_metadata set
        time_column = coalesce(time_column, 'timestamp'),
        value_columns = coalesce(value_columns, '[]')
    where time_column is null or value_columns is null;
    do $$
    declare
        series record;
    begin
        for series in select id, value_columns from time_series_metadata loop
            begin
                perform json_array_elements_text(series.value_columns::json);
            exception when data_exception or program_limit_exceeded then
                update time_series_metadata set value_columns = '[]' where id = series.id;
            end;
        end loop;
    end $$;
    alter table time_series_metadata
        alter column time_column set not null,
        alter column value_columns set not null";

/// A column of an existing table.
struct Column {
    /// Without a length or a precision.
    base_type: String,
    whole_type: String,
    not_null: bool,
    /// `true` if a row that omits it gets a value: by a default or as an identity.
    is_filled: bool,
    is_generated: bool,
    /// `None` if it is the database's, or there is none.
    collation: Option<String>,
}

/// Adopts the two tables, if they exist and the first migration has not made them. The notes state the differences.
///
/// # Errors
/// If a table cannot be used, with all the reasons, or if the server refuses what is to be added.
pub(in crate::database) async fn adopt(
    client: &mut Client,
    history: &str,
    notes: &mut Vec<String>,
) -> Result<(), SchemaError> {
    let tables = tables(client, history).await?;
    if tables.is_empty() {
        return Ok(());
    }
    let columns = columns(client).await?;
    let mut problems = Vec::new();
    let mut differences = Vec::new();
    for (table, (kind, is_ours)) in &tables {
        if kind != "r" {
            problems.push(format!("{table} is not an ordinary table, but {}", kind_in_words(kind)));
        } else if !is_ours {
            problems.push(format!("{table} belongs to another role: run migrate as its owner"));
        } else {
            compare(table, &columns, &mut problems, &mut differences);
        }
    }
    if problems.is_empty() {
        check_keys(client, &tables, &mut problems, &mut differences).await?;
    }
    if !problems.is_empty() {
        return Err(SchemaError::NotAdopted { problems: problems.join("; ") });
    }
    let names: Vec<&str> = tables.keys().map(String::as_str).collect();
    notes.push(format!("adopted as they are, with their rows: {}", names.join(", ")));
    notes.extend(differences.into_iter().map(|difference| format!("differs from what migrate makes: {difference}")));
    complete(client, &tables, notes).await?;
    let runner = runner().set_target(Target::FakeVersion(1));
    runner.run_async(client).await.map_err(|error| SchemaError::Migration(error.to_string()))?;
    Ok(())
}

/// The tables of these names that the first migration has not made, each with its kind and `true` if this role owns it.
async fn tables(client: &Client, history: &str) -> Result<BTreeMap<String, (String, bool)>, Error> {
    let step = Step::Other("look for tables of another program");
    let row = client
        .query_one("select to_regclass($1) is not null", &[&history])
        .await
        .map_err(|source| Error::Server { step, source })?;
    let made =
        if row.get(0) { format!("exists (select from {history} where version = 1)") } else { "false".to_owned() };
    let sql = format!(
        "select relname::text, relkind::text, pg_has_role(relowner, 'usage') from pg_class
         where relnamespace = quote_ident(current_schema())::regnamespace and relname in ('{METADATA}', '{POINTS}')
             and not {made}"
    );
    let rows = client.query(&sql, &[]).await.map_err(|source| Error::Server { step, source })?;
    Ok(rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect())
}

fn kind_in_words(kind: &str) -> &'static str {
    match kind {
        "v" => "a view",
        "m" => "a materialized view",
        "p" => "a partitioned table",
        "f" => "a foreign table",
        _ => "something else",
    }
}

async fn columns(client: &Client) -> Result<BTreeMap<(String, String), Column>, Error> {
    let sql = format!(
        "select relname::text, attname::text, format_type(atttypid, null), format_type(atttypid, atttypmod), attnotnull,
             atthasdef or attidentity <> '', attgenerated <> '',
             case when attcollation not in (0, 'pg_catalog.\"default\"'::regcollation) then collname::text end
         from pg_attribute join pg_class on pg_class.oid = attrelid
         left join pg_collation on pg_collation.oid = attcollation
         where relnamespace = quote_ident(current_schema())::regnamespace and relname in ('{METADATA}', '{POINTS}')
             and attnum > 0 and not attisdropped"
    );
    let step = Step::Other("look at the columns of another program's tables");
    let rows = client.query(&sql, &[]).await.map_err(|source| Error::Server { step, source })?;
    let column = |row: &tokio_postgres::Row| Column {
        base_type: row.get(2),
        whole_type: row.get(3),
        not_null: row.get(4),
        is_filled: row.get(5),
        is_generated: row.get(6),
        collation: row.get(7),
    };
    Ok(rows.iter().map(|row| ((row.get(0), row.get(1)), column(row))).collect())
}

fn compare(
    table: &str,
    columns: &BTreeMap<(String, String), Column>,
    problems: &mut Vec<String>,
    differences: &mut Vec<String>,
) {
    for (_, name, types) in COLUMNS.iter().filter(|(of, ..)| *of == table) {
        let Some(column) = columns.get(&(table.to_owned(), (*name).to_owned())) else {
            problems.push(format!("{table} has no column {name} ({})", types[0]));
            continue;
        };
        let whole_type = &column.whole_type;
        if !types.contains(&column.base_type.as_str()) {
            problems.push(format!("column {table}.{name} is of type {whole_type}, not {}", types.join(" or ")));
        } else if column.is_generated {
            problems.push(format!("column {table}.{name} is generated, and cannot be written"));
        } else if let Some(collation) = column.collation.as_ref().filter(|name| *name != "C") {
            problems
                .push(format!("column {table}.{name} has the collation {collation:?}, not \"C\" or the database's"));
        } else if (table, *name) == (POINTS, "id") && column.not_null && !column.is_filled {
            problems.push(format!("column {table}.id has no default: add  generated by default as identity"));
        }
        if whole_type != types[0] {
            differences.push(format!(
                "column {table}.{name} is of type {whole_type}, not {}{}",
                types[0],
                note(column)
            ));
        }
        if *types == TEXT && column.collation.is_none() && ["id", "time_series_id", "column_name"].contains(name) {
            differences.push(format!("column {table}.{name} has the database's collation, not \"C\""));
        }
    }
    for ((of, name), column) in columns.iter().filter(|((of, _), _)| of == table) {
        if (of.as_str(), name.as_str()) == (METADATA, "labels") && column.base_type != "jsonb" {
            problems.push(format!("column {table}.labels is of type {}, not jsonb", column.whole_type));
        }
        if COLUMNS.iter().any(|(table, known, _)| table == of && known == name) || (of == METADATA && name == "labels")
        {
            continue;
        }
        if column.not_null && !column.is_filled && !column.is_generated {
            problems.push(format!("column {table}.{name} is not ours, NOT NULL and without a default"));
        } else {
            differences.push(format!("column {table}.{name} is not ours; it stays, and gets its default"));
        }
    }
}

/// The consequence of a type that is not ours.
fn note(column: &Column) -> &'static str {
    match column.base_type.as_str() {
        "timestamp without time zone" => ": times are stored in UTC",
        "integer" => ": there is room for 2147483647 points in all",
        _ if column.whole_type != column.base_type => ": what is longer becomes a dead letter",
        _ => "",
    }
}

async fn check_keys(
    client: &Client,
    tables: &BTreeMap<String, (String, bool)>,
    problems: &mut Vec<String>,
    differences: &mut Vec<String>,
) -> Result<(), Error> {
    let step = Step::Other("look at the keys of another program's tables");
    let sql = "select indrelid::regclass::text, indexrelid::regclass::text, indisprimary,
                   array(select attname::text from unnest(indkey::int2[]) with ordinality as key (number, place)
                         join pg_attribute on attrelid = indrelid and attnum = number order by place)
               from pg_index where indrelid = any (array[to_regclass($1), to_regclass($2)])
                   and indisunique and indisvalid and indpred is null and indexprs is null";
    let rows = client.query(sql, &[&METADATA, &POINTS]).await.map_err(|source| Error::Server { step, source })?;
    let keys: Vec<(String, String, bool, Vec<String>)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect();
    if tables.contains_key(METADATA) && !keys.iter().any(|(table, _, _, names)| table == METADATA && names == &["id"]) {
        problems.push(format!("{METADATA} has no primary key (id)"));
    }
    if tables.contains_key(POINTS) {
        let primary = keys.iter().find(|(table, _, is_primary, _)| table == POINTS && *is_primary);
        match primary.map(|(_, _, _, names)| names.join(", ")) {
            Some(names) if names == "id, timestamp" => {}
            Some(names) => {
                differences.push(format!("the primary key of {POINTS} is ({names}), not (id, \"timestamp\")"))
            }
            None => differences.push(format!("{POINTS} has no primary key (id, \"timestamp\")")),
        }
    }
    Ok(())
}

/// Adds what is missing: a table, indexes, defaults; and renames the foreign key to its usual name.
async fn complete(
    client: &Client,
    tables: &BTreeMap<String, (String, bool)>,
    notes: &mut Vec<String>,
) -> Result<(), SchemaError> {
    let mut statements = Vec::new();
    if tables.contains_key(METADATA) {
        // An index needs the column that this adds.
        statements.push((String::new(), COMPLETE_METADATA.to_owned()));
        notes.push(format!(
            "{METADATA}: name may be NULL, and time_column and value_columns have defaults and are never NULL"
        ));
    }
    for statement in FIRST.split_inclusive(";\n").map(str::trim) {
        let words: Vec<&str> =
            statement.lines().filter(|line| !line.starts_with("--")).flat_map(str::split_whitespace).collect();
        let ["create", kind, name, ..] = words.as_slice() else { continue };
        let is_missing = match *kind {
            "table" => !tables.contains_key(*name),
            "index" => !exists(client, name).await?,
            _ => false,
        };
        if is_missing {
            statements.push((format!("{kind} {name}"), statement.to_owned()));
        }
    }
    for (table, column) in [(METADATA, "created_at"), (METADATA, "updated_at")] {
        if tables.contains_key(table) && !has_default(client, table, column).await? {
            let sql = format!(
                "do $$ begin execute format('alter table {table} alter column {column} set default %s',
                     (select case when atttypid = 'timestamptz'::regtype then 'now()' else '(now() at time zone ''utc'')' end
                      from pg_attribute where attrelid = '{table}'::regclass and attname = '{column}')); end $$"
            );
            statements.push((format!("default of {table}.{column}"), sql));
        }
    }
    if tables.contains_key(POINTS) {
        statements.extend(other_name_of_the_foreign_key(client, notes).await?);
        // Fetching a number of the sequence for each row would add entries to the server's write-ahead log.
        let cache = format!(
            "do $$ begin
                 if (select atttypid from pg_attribute where attrelid = '{POINTS}'::regclass and attname = 'id')
                     = 'bigint'::regtype and pg_get_serial_sequence('{POINTS}', 'id') is not null then
                     execute format('alter sequence %s cache 10000', pg_get_serial_sequence('{POINTS}', 'id'));
                 end if;
             end $$"
        );
        statements.push((String::new(), cache));
    }
    for (what, sql) in statements {
        client
            .batch_execute(&sql)
            .await
            .map_err(|source| Error::Server { step: Step::Other("complete the tables of another program"), source })?;
        if !what.is_empty() {
            notes.push(format!("added: {what}"));
        }
    }
    Ok(())
}

async fn exists(client: &Client, name: &str) -> Result<bool, Error> {
    let sql = "select exists (select from pg_class
                              where relname = $1 and relnamespace = quote_ident(current_schema())::regnamespace)";
    let row = client
        .query_one(sql, &[&name])
        .await
        .map_err(|source| Error::Server { step: Step::Other("look for an index"), source })?;
    Ok(row.get(0))
}

async fn has_default(client: &Client, table: &str, column: &str) -> Result<bool, Error> {
    let sql = "select atthasdef from pg_attribute where attrelid = to_regclass($1) and attname = $2";
    let row = client
        .query_one(sql, &[&table, &column])
        .await
        .map_err(|source| Error::Server { step: Step::Other("look for a default"), source })?;
    Ok(row.get(0))
}

async fn other_name_of_the_foreign_key(
    client: &Client,
    notes: &mut Vec<String>,
) -> Result<Option<(String, String)>, Error> {
    const OURS: &str = "time_series_data_points_time_series_id_fkey";
    let sql = "select quote_ident(conname), conname = $3 from pg_constraint
               where conrelid = to_regclass($1) and confrelid = to_regclass($2) and contype = 'f' order by 2 desc limit 1";
    let row = client
        .query_opt(sql, &[&POINTS, &METADATA, &OURS])
        .await
        .map_err(|source| Error::Server { step: Step::Other("look for the foreign key"), source })?;
    Ok(match row.map(|row| (row.get::<_, String>(0), row.get(1))) {
        Some((_, true)) => None,
        Some((name, false)) => {
            let sql = format!("alter table {POINTS} rename constraint {name} to {OURS}");
            Some((format!("the name {OURS} of the foreign key, which was {name}"), sql))
        }
        None => {
            notes.push(format!(
                "differs from what migrate makes: {POINTS} has no foreign key to {METADATA}: `series-ingest schema set-profile \
                 standard` adds it"
            ));
            None
        }
    })
}
