//! Checks that the tables were not changed since they were made: a role that may change them can keep a worker from writing,
//! or divert what it writes. The worker runs them before it starts, and `check` runs the same.

use tokio_postgres::{Client, Row};

use crate::database::connection::step::Step;
use crate::database::error::Error;
use crate::database::schema::SchemaError;

/// A remark about the tables, for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// A sentence.
    pub text: String,
    /// `true` if it is probably not intended.
    pub is_problem: bool,
}

/// The tables, each with the columns that the program fills and the columns of the unique index that its statements need.
const TABLES: [(&str, &str, &str); 9] = [
    ("time_series_metadata", "id,name,description,time_column,value_columns,labels,created_at,updated_at", "id"),
    ("time_series_data_points", "time_series_id,timestamp,column_name,value", ""),
    ("ingest_source", "", "cluster_id,pipeline,topic,topic_id"),
    ("ingest_progress", "", "partition,source_id"),
    ("ingest_gap", "", "from_offset,partition,source_id"),
    ("ingest_dead_letter", "", "offset,partition,source_id"),
    ("ingest_dead_letter_count", "", "partition,reason,source_id"),
    ("ingest_series", "", "series_id"),
    ("ingest_point_version", "", "column_name,time_series_id,timestamp"),
];

/// The columns of our own tables with their types, which the functions and the statements rely on; of the table of series,
/// which another program may have made, only our own column.
const TYPES: [(&str, &str); 9] = [
    ("ingest_database", "id uuid"),
    (
        "ingest_dead_letter",
        "id bigint,source_id integer,partition integer,offset bigint,message_time timestamp with time zone,key bytea,\
         payload bytea,payload_bytes bigint,reason text,detail text,created_at timestamp with time zone,headers bytea,\
         attempts integer,attempted_at timestamp with time zone,is_sample boolean,to_publish boolean,key_bytes bigint,\
         headers_bytes bigint",
    ),
    (
        "ingest_dead_letter_count",
        "source_id integer,partition integer,reason text,kept bigint,only_counted bigint,first_offset bigint,\
         last_offset bigint,redriven bigint",
    ),
    (
        "ingest_gap",
        "source_id integer,partition integer,from_offset bigint,until_offset bigint,reason text,\
         detected_at timestamp with time zone,filled_at timestamp with time zone",
    ),
    (
        "ingest_point_version",
        "time_series_id text,column_name text,timestamp timestamp with time zone,message_ms bigint,offset bigint,\
         partition integer,source_id integer",
    ),
    (
        "ingest_progress",
        "source_id integer,partition integer,next_offset bigint,ahead int8multirange,updated_at timestamp with time zone",
    ),
    (
        "ingest_series",
        "series_id text,defined_columns text[],defined_labels jsonb,seen_columns text[],message_time timestamp with time zone,source_id integer,\
         partition integer,offset bigint",
    ),
    (
        "ingest_source",
        "id integer,pipeline text,cluster_id text,topic text,topic_id text,key uuid,accepted_at timestamp with time zone",
    ),
    ("time_series_metadata", "labels jsonb"),
];

/// Without it series are still found by their labels, by reading all of them.
const LABELS_INDEX: &str = "idx_time_series_metadata_labels";

/// The triggers that track what other programs do with series.
const TRIGGERS: [&str; 4] =
    ["ingest_series_deleted", "ingest_series_renamed", "ingest_series_truncated", "ingest_columns_changed"];

/// Checks all tables of the migrations: `faults` are what a worker cannot work with, `remarks` what it can.
pub(in crate::database) async fn tables(
    client: &Client,
    faults: &mut Vec<SchemaError>,
    remarks: &mut Vec<Remark>,
) -> Result<(), Error> {
    let mut found = Vec::new();
    kinds(client, &mut found).await?;
    if found.is_empty() {
        columns(client, &mut found).await?;
        types(client, &mut found).await?;
        keys(client, &mut found).await?;
        index_of_labels(client, remarks).await?;
        policies(client, &mut found).await?;
        triggers(client, &mut found, remarks).await?;
        restored(client, &mut found).await?;
    }
    if found.is_empty() {
        emptied(client, remarks).await?;
    }
    faults.extend(found.into_iter().map(SchemaError::Table));
    Ok(())
}

async fn ask(client: &Client, step: Step, sql: &str) -> Result<Vec<Row>, Error> {
    let names: Vec<&str> = TABLES.iter().map(|(name, ..)| *name).collect();
    client.query(sql, &[&names]).await.map_err(|source| Error::Server { step, source })
}

/// A table may be dropped, or be renamed and have a view in its place.
async fn kinds(client: &Client, faults: &mut Vec<String>) -> Result<(), Error> {
    let sql = "select name, (select relkind::text from pg_class where oid = to_regclass(quote_ident(name)))
               from unnest($1::text[]) as name";
    for row in ask(client, Step::Other("look at the tables"), sql).await? {
        let name: &str = row.get(0);
        match row.get::<_, Option<&str>>(1) {
            Some("r") => {}
            None => faults.push(format!(
                "the table {name} is missing, although its migration was applied: it was dropped or renamed, or is in another \
                 schema. Restore it"
            )),
            Some(kind) => {
                let kind = match kind {
                    "v" => "a view",
                    "m" => "a materialized view",
                    "p" => "a partitioned table",
                    "f" => "a foreign table",
                    _ => "no table",
                };
                faults.push(format!("{name} is {kind}, and the program works with the table that `migrate` makes"));
            }
        }
    }
    Ok(())
}

async fn columns(client: &Client, faults: &mut Vec<String>) -> Result<(), Error> {
    let sql = "select relname::text, attname::text,
                   attnotnull and not atthasdef and attidentity = '', attgenerated <> ''
               from pg_attribute join pg_class on pg_class.oid = attrelid
               where attrelid in (select to_regclass(quote_ident(name)) from unnest($1::text[]) as name)
                   and attnum > 0 and not attisdropped
               order by 1, attnum";
    let rows = ask(client, Step::Other("look at the columns"), sql).await?;
    for (table, filled, _) in TABLES.iter().filter(|(_, filled, _)| !filled.is_empty()) {
        let of_table = || rows.iter().filter(|row| row.get::<_, &str>(0) == *table);
        for name in filled.split(',') {
            match of_table().find(|row| row.get::<_, &str>(1) == name) {
                None => faults.push(format!("the table {table} has no column {name}: add it again")),
                Some(row) if row.get(3) => faults.push(format!(
                    "the column {name} of {table} is generated, and the program cannot write it: alter it back"
                )),
                Some(_) => {}
            }
        }
        for row in of_table().filter(|row| row.get(2)) {
            let name: &str = row.get(1);
            if !filled.split(',').any(|known| known == name) {
                faults.push(format!(
                    "the column {name} of {table} is NOT NULL without a default, and the program leaves it out, so that no row \
                     can be written: give it a default, or drop NOT NULL"
                ));
            }
        }
        if *table == "time_series_metadata" && of_table().any(|row| row.get::<_, &str>(1) == "name" && row.get(2)) {
            faults.push(format!("the column name of {table} is NOT NULL, and a series needs no name: drop NOT NULL"));
        }
    }
    Ok(())
}

/// A column of another type may take small values only, and fail later.
async fn types(client: &Client, faults: &mut Vec<String>) -> Result<(), Error> {
    let step = Step::Other("look at the types of columns");
    let sql = "select relname::text, attname::text, format_type(atttypid, null) from pg_attribute
               join pg_class on pg_class.oid = attrelid
               where attrelid in (select to_regclass(quote_ident(name)) from unnest($1::text[]) as name)
                   and attnum > 0 and not attisdropped";
    let names = TYPES.map(|(table, _)| table);
    let rows = client.query(sql, &[&names.as_slice()]).await.map_err(|source| Error::Server { step, source })?;
    for (table, columns) in TYPES {
        for (column, expected) in columns.split(',').filter_map(|column| column.split_once(' ')) {
            let is_it = |row: &&Row| row.get::<_, &str>(0) == table && row.get::<_, &str>(1) == column;
            match rows.iter().find(is_it).map(|row| row.get::<_, &str>(2)) {
                Some(found) if found == expected => {}
                Some(found) => faults.push(format!(
                    "column {column} of {table} is of type {found}, and the program needs {expected}: alter it back"
                )),
                None => {
                    let text = format!("the table {table} has no column {column}: add it again");
                    if !faults.contains(&text) {
                        faults.push(text);
                    }
                }
            }
        }
    }
    Ok(())
}

/// Statements that skip existing rows need the unique indexes.
async fn keys(client: &Client, faults: &mut Vec<String>) -> Result<(), Error> {
    let sql = "select relname::text,
                   (select string_agg(attname::text, ',' order by attname) from pg_attribute
                    where attrelid = indrelid and attnum = any ((indkey::int2[])[0:indnkeyatts - 1]))
               from pg_index join pg_class on pg_class.oid = indrelid
               where indrelid in (select to_regclass(quote_ident(name)) from unnest($1::text[]) as name)
                   and indisunique and indisvalid and indimmediate and indpred is null and indexprs is null";
    let rows = ask(client, Step::Other("look at the keys"), sql).await?;
    for (table, _, key) in TABLES.iter().filter(|(.., key)| !key.is_empty()) {
        if !rows.iter().any(|row| row.get::<_, &str>(0) == *table && row.get::<_, Option<&str>>(1) == Some(*key)) {
            let columns = key.replace("offset", "\"offset\"").replace("timestamp", "\"timestamp\"").replace(',', ", ");
            let columns = columns.replace("from_\"offset\"", "from_offset");
            faults.push(format!("the table {table} has no unique index on ({columns}): add its primary key again"));
        }
    }
    Ok(())
}

async fn index_of_labels(client: &Client, remarks: &mut Vec<Remark>) -> Result<(), Error> {
    let sql = "select exists (select from pg_index where indexrelid = to_regclass($1::text) and indisvalid)";
    let step = Step::Other("look for the index on labels");
    let row = client.query_one(sql, &[&LABELS_INDEX]).await.map_err(|source| Error::Server { step, source })?;
    if !row.get::<_, bool>(0) {
        let text = format!(
            "the index {LABELS_INDEX} is missing or incomplete, so that a search by labels reads all series: create index \
             {LABELS_INDEX} on time_series_metadata using gin (labels jsonb_path_ops)"
        );
        remarks.push(Remark { text, is_problem: false });
    }
    Ok(())
}

/// A policy hides rows from this role, or refuses them.
async fn policies(client: &Client, faults: &mut Vec<String>) -> Result<(), Error> {
    let sql = "select relname::text, current_user::text from pg_class
               where oid in (select to_regclass(quote_ident(name)) from unnest($1::text[]) as name)
                   and relrowsecurity and (row_security_active(oid) or relforcerowsecurity)
               order by 1";
    for row in ask(client, Step::Other("look for row security"), sql).await? {
        let (table, role): (&str, &str) = (row.get(0), row.get(1));
        faults.push(format!(
            "row level security is on for {table}, and holds for the role {role:?} or the owner of the functions, so that rows \
             are hidden or refused: disable it there, or give these roles BYPASSRLS"
        ));
    }
    Ok(())
}

async fn triggers(client: &Client, faults: &mut Vec<String>, remarks: &mut Vec<Remark>) -> Result<(), Error> {
    let sql = "select relname::text, tgname::text, tgenabled::text, tgisinternal,
                   exists (select from pg_constraint where pg_constraint.oid = tgconstraint and contype = 'f'),
                   exists (select from pg_proc where pg_proc.oid = tgfoid and proname like 'ingest\\_%'
                               and pronamespace = quote_ident(current_schema())::regnamespace)
               from pg_trigger join pg_class on pg_class.oid = tgrelid
               where tgrelid in (select to_regclass(quote_ident(name)) from unnest($1::text[]) as name)
                   and tgname <> 'ts_insert_blocker'
               order by 1, 2";
    let rows = ask(client, Step::Other("look for triggers"), sql).await?;
    let is_ours = |row: &Row| row.get::<_, &str>(0) == "time_series_metadata" && TRIGGERS.contains(&row.get(1));
    for name in TRIGGERS {
        match rows.iter().find(|row| is_ours(row) && row.get::<_, &str>(1) == name).map(|row| row.get::<_, &str>(2)) {
            Some("O" | "A") => {}
            Some(_) => faults.push(format!(
                "the trigger {name} of time_series_metadata is disabled, so that nothing follows when a series is deleted or \
                 changed: alter table time_series_metadata enable trigger {name}"
            )),
            None => faults.push(format!(
                "the trigger {name} of time_series_metadata is missing, so that nothing follows when a series is deleted or \
                 changed: restore it"
            )),
        }
    }
    for row in rows.iter().filter(|row| row.get(4) && matches!(row.get(2), "D" | "R")) {
        let table: &str = row.get(0);
        let text = format!(
            "a foreign key's trigger on {table} is disabled, so that rows may refer to nothing: alter table {table} enable \
             trigger all"
        );
        if !faults.contains(&text) {
            faults.push(text);
        }
    }
    for row in
        rows.iter().filter(|row| !row.get::<_, bool>(3) && !row.get::<_, bool>(5) && row.get::<_, &str>(2) != "D")
    {
        let (table, name): (&str, &str) = (row.get(0), row.get(1));
        let text = format!("the trigger {name} of {table} is not this program's");
        remarks.push(Remark { text, is_problem: false });
    }
    let sql = "select relname::text, rulename::text from pg_rewrite join pg_class on pg_class.oid = ev_class
               where ev_class in (select to_regclass(quote_ident(name)) from unnest($1::text[]) as name) and ev_enabled <> 'D'
               order by 1, 2";
    for row in ask(client, Step::Other("look for rules"), sql).await? {
        let (table, name): (&str, &str) = (row.get(0), row.get(1));
        faults.push(format!("the rule {name} of {table} replaces what is written there: drop it, or use a trigger"));
    }
    Ok(())
}

/// A dump of a hypertable that was restored without TimescaleDB's two functions leaves its catalog and its tables apart:
/// rows are in chunks that no query finds, or in the root table.
async fn restored(client: &Client, faults: &mut Vec<String>) -> Result<(), Error> {
    let sql = "select name, exists (select from pg_inherits where inhparent = to_regclass(quote_ident(name)))
                   or exists (select from pg_trigger
                              where tgrelid = to_regclass(quote_ident(name)) and tgname = 'ts_insert_blocker'),
                   to_regclass('_timescaledb_catalog.hypertable') is not null
               from unnest($1::text[]) as name where name in ('time_series_data_points', 'ingest_point_version')";
    for row in ask(client, Step::Other("look for chunks"), sql).await? {
        let (name, looks_like_one, has_catalog): (&str, bool, bool) = (row.get(0), row.get(1), row.get(2));
        let consistent = if has_catalog { is_consistent(client, name).await? } else { !looks_like_one };
        if !consistent {
            faults.push(format!(
                "TimescaleDB's catalog and the table {name} do not agree on its chunks, so that rows are missing or no query finds \
                 them: a dump was restored in part, or without timescaledb_pre_restore() and timescaledb_post_restore(). Restore \
                 a dump of the whole database once more, into an empty one, as docs/schema.md says"
            ));
        }
    }
    Ok(())
}

/// Returns `true` if a table's chunks are those of the catalog, and no row is in the root table of a hypertable.
async fn is_consistent(client: &Client, table: &str) -> Result<bool, Error> {
    let sql = "select
            not exists (
                select from pg_inherits join pg_class on pg_class.oid = inhrelid join pg_namespace on pg_namespace.oid = relnamespace
                where inhparent = to_regclass(quote_ident($1::text)) and not exists (
                    select from _timescaledb_catalog.chunk join _timescaledb_catalog.hypertable on hypertable.id = hypertable_id
                    where chunk.schema_name = nspname and chunk.table_name = relname and hypertable.table_name = $1
                        and hypertable.schema_name = current_schema()))
            and not exists (
                select from _timescaledb_catalog.chunk join _timescaledb_catalog.hypertable on hypertable.id = hypertable_id
                where hypertable.table_name = $1 and hypertable.schema_name = current_schema() and not chunk.dropped
                    and (to_regclass(format('%I.%I', chunk.schema_name, chunk.table_name)) is null
                        or not exists (
                            select from _timescaledb_catalog.chunk_constraint
                            join _timescaledb_catalog.dimension_slice on dimension_slice.id = dimension_slice_id
                            where chunk_id = chunk.id))),
            exists (select from _timescaledb_catalog.hypertable
                    where table_name = $1 and schema_name = current_schema()),
            exists (select from pg_trigger
                    where tgrelid = to_regclass(quote_ident($1::text)) and tgname = 'ts_insert_blocker')";
    let step = Step::Other("compare the chunks with TimescaleDB's catalog");
    let row = client.query_one(sql, &[&table]).await.map_err(|source| Error::Server { step, source })?;
    if !row.get::<_, bool>(0) {
        return Ok(false);
    }
    let (is_hypertable, is_blocked): (bool, bool) = (row.get(1), row.get(2));
    if !is_hypertable {
        // Versions up to 2.20 keep rows out of the root table by a trigger, which a dump of the schema alone includes.
        return Ok(!is_blocked);
    }
    // The worker's role may not read the points, but any role may read the size of the root table.
    let sql = "select pg_relation_size(to_regclass(quote_ident($1::text))) = 0";
    let row = client.query_one(sql, &[&table]).await.map_err(|source| Error::Server { step, source })?;
    Ok(row.get(0))
}

/// Points were stored, and there is none: a dump without the chunks, of the schema alone, has everything but the points.
async fn emptied(client: &Client, remarks: &mut Vec<Remark>) -> Result<(), Error> {
    let step = Step::Other("look whether there are points");
    let sql = "select exists (select from time_series_metadata where value_columns <> '[]')
                   and exists (select from ingest_progress where next_offset > 0)
                   and pg_relation_size('time_series_data_points') = 0
                   and not exists (select from pg_inherits
                                   where inhparent = 'time_series_data_points'::regclass and pg_relation_size(inhrelid) > 0),
                   to_regclass('_timescaledb_catalog.chunk') is not null";
    let row = client.query_one(sql, &[]).await.map_err(|source| Error::Server { step, source })?;
    if !row.get::<_, bool>(0) {
        return Ok(());
    }
    if row.get(1) {
        let sql = "select exists (select from _timescaledb_catalog.chunk where compressed_chunk_id is not null)";
        let row = client.query_one(sql, &[]).await.map_err(|source| Error::Server { step, source })?;
        if row.get(0) {
            return Ok(());
        }
    }
    let text = "offsets are applied and series have columns, and there is not one point: the points were deleted, or a dump was \
                restored without the chunks, which are in another schema. What is applied is not read again: see docs/schema.md"
        .to_owned();
    remarks.push(Remark { text, is_problem: true });
    Ok(())
}
