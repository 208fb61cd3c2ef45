//! Restoring a backup into an empty database, and comparing what is there with the manifest.

use std::fs::File;
use std::path::PathBuf;

use tokio_postgres::Client;

use super::contents::{self, Windows};
use super::error::Error;
use super::folder::{Backup, Verification};
use super::manifest::{Manifest, differences};
use super::programs::{self, Program, major_of, stdio};
use super::rows;
use super::target::{self, Target, Way};
use super::{Report, Stage};
use crate::config::{self, Config};
use crate::database::{self, quoted_name, quoted_text};
use crate::telemetry::list;

/// How to restore.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The folder of PostgreSQL's programs.
    pub pg_bin: Option<PathBuf>,
    /// Grant nothing.
    pub no_privileges: bool,
    /// Row by row, although it is not necessary.
    pub rows: bool,
}

/// A restored backup.
#[derive(Debug, Clone)]
pub struct Restored {
    /// The way it was restored.
    pub way: Way,
    /// The server's version.
    pub postgresql: String,
    /// How the restored tables differ from the manifest, in sentences; empty if they are equal.
    pub differences: Vec<String>,
    /// What an operator should know, in sentences.
    pub notes: Vec<String>,
}

impl Restored {
    /// The record of a successful verification.
    pub fn verification(&self, backup: &Backup) -> Verification {
        Verification {
            id: backup.manifest.id.clone(),
            at: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            postgresql: self.postgresql.clone(),
        }
    }
}

/// Restores a backup into the configured database, which is there and has none of our tables, and compares it with the manifest.
///
/// # Errors
/// If the backup is damaged, or cannot be restored there, or a step fails; the database is then to be dropped.
pub async fn restore(config: &Config, backup: &Backup, options: &Options, report: Report) -> Result<Restored, Error> {
    let database = &config.database;
    let hashed = report.clone();
    backup.check_hash(move |read| hashed(Stage::Hash, read)).await?;
    let client = database::connect(database).await?;
    let target = target::examine(&client, database).await?;
    let manifest = &backup.manifest;
    // An older one cannot read the dump.
    let program =
        programs::find("pg_restore", options.pg_bin.as_deref(), target.major.max(major_of(&manifest.pg_dump)))?;
    let way = target.way(manifest, database, &program, options.rows)?;
    if !options.no_privileges && way == Way::Whole {
        refuse_missing_roles(&client, manifest).await?;
    }
    let mut notes = Vec::new();
    match &way {
        Way::Whole => whole(&client, database, backup, &target, &program, options).await?,
        Way::Rows(_) => {
            rows::restore(config, backup, &program, &report).await?;
            notes.push(
                "the tables were made by this program: indexes, triggers, views and privileges of your own are not among them. \
                 Grant roles their privileges with `series-ingest migrate --worker-role NAME`"
                    .to_owned(),
            );
        }
    }
    drop(client);
    let differences = compare(database, manifest, &way, &report).await?;
    if manifest.origin.schema_version < database::schema::newest_version() {
        notes.push("the backup is from an older version of this program: run `series-ingest migrate`".to_owned());
    }
    Ok(Restored { way, postgresql: target.postgresql, differences, notes })
}

async fn compare(
    database: &config::Database,
    manifest: &Manifest,
    way: &Way,
    report: &Report,
) -> Result<Vec<String>, Error> {
    let client = database::connect(database).await?;
    let begin = "begin isolation level repeatable read read only";
    client.batch_execute(begin).await.map_err(Error::server("begin to read"))?;
    let windows = if *way == Way::Whole { Windows::Own } else { Windows::Of(&manifest.contents) };
    let found = contents::read(&client, windows, |points| report(Stage::Compare, points)).await?;
    Ok(differences(&manifest.contents, &found))
}

/// Refuses a server that lacks a role to which the dump grants something.
async fn refuse_missing_roles(client: &Client, manifest: &Manifest) -> Result<(), Error> {
    let sql = "select name from unnest($1::text[]) as name where name not in (select rolname from pg_roles) order by 1";
    let rows = client.query(sql, &[&manifest.origin.roles]).await.map_err(Error::server("look for roles"))?;
    if rows.is_empty() {
        return Ok(());
    }
    let missing: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    Err(Error::Target(format!(
        "the backup grants privileges to roles that this server does not have: {}. Create them (create role NAME login), or \
         restore with --no-privileges and grant them later with `series-ingest migrate --worker-role NAME`",
        list(missing.iter().map(String::as_str))
    )))
}

/// Restores by pg_restore, between TimescaleDB's two functions if the backup is from TimescaleDB.
async fn whole(
    client: &Client,
    database: &config::Database,
    backup: &Backup,
    target: &Target,
    program: &Program,
    options: &Options,
) -> Result<(), Error> {
    let origin = &backup.manifest.origin;
    drop_empty_schema(client, database).await?;
    let path = backup.dump();
    let mut command = program.command(database)?;
    command.args(["--no-owner", "--no-password", "--dbname"]).arg(connection_to(&target.database));
    if options.no_privileges {
        command.arg("--no-privileges");
    }
    command.stdin(stdio(File::open(&path).map_err(Error::read(&path))?));
    let Some(version) = &origin.timescaledb else {
        // All or nothing: nobody sees a part of it.
        return program.run(command.arg("--single-transaction")).await.map(drop).map_err(with_hint);
    };
    let schema = quoted_name(origin.timescaledb_schema.as_deref().unwrap_or("public"));
    if target.installed.is_none() {
        let sql = format!(
            "create schema if not exists {schema}; create extension timescaledb schema {schema} version {}",
            quoted_text(version)
        );
        // TimescaleDB has other libraries in another session.
        let adding = database::connect(database).await?;
        adding.batch_execute(&sql).await.map_err(Error::server("add TimescaleDB to the database"))?;
    }
    // This session stays: while the restore lasts no other one is let in.
    let session = database::connect(database).await?;
    let before = format!("select {schema}.timescaledb_pre_restore()");
    session.batch_execute(&before).await.map_err(Error::server("begin TimescaleDB's restore"))?;
    if target.refuses_a_setting(program) {
        let (status, text) = program.run_anyway(&mut command).await?;
        let mut errors = text.lines().filter(|line| line.contains("ERROR:"));
        let is_only_that =
            errors.next().is_some_and(|line| line.contains("transaction_timeout")) && errors.next().is_none();
        if !status.success() && !is_only_that {
            return Err(with_hint(program.failure(status, text)));
        }
    } else {
        program.run(command.arg("--exit-on-error")).await.map_err(with_hint)?;
    }
    let after = format!("select {schema}.timescaledb_post_restore()");
    session.batch_execute(&after).await.map_err(Error::server("end TimescaleDB's restore"))
}

/// What can be done if pg_restore fails: catalogs may have what a server of another version does not know.
fn with_hint(error: Error) -> Error {
    let Error::Program { program, status, text } = error else { return error };
    let hint = "drop the database, make it again, and restore with pg_restore of the server's version, or with --rows, which copies \
                the rows into tables that this program makes";
    Error::Program { program, status, text: format!("{text}\n{hint}") }
}

/// The database for `--dbname`; everything else of the connection is in the environment.
fn connection_to(name: &str) -> String {
    format!("dbname='{}'", name.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// The dump makes our schema, unless it is `public`.
async fn drop_empty_schema(client: &Client, database: &config::Database) -> Result<(), Error> {
    if database.schema == "public" {
        return Ok(());
    }
    let sql = format!("drop schema if exists {}", quoted_name(&database.schema));
    client.batch_execute(&sql).await.map_err(Error::server("drop the empty schema of database.schema"))
}

#[cfg(test)]
mod tests {
    use super::connection_to;

    #[test]
    fn a_databases_name_is_not_taken_for_more() {
        assert_eq!(connection_to(r"a' host=b\"), r"dbname='a\' host=b\\'");
    }
}
