//! Making a backup: pg_dump and the manifest read the same snapshot.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tokio_postgres::Client;

use super::contents::{self, Windows};
use super::error::Error;
use super::folder::{Backup, DUMP, PartialBackup, sha256};
use super::manifest::{DumpFile, FORM, Manifest, Origin};
use super::programs::{self, Program, stdio};
use super::{Report, Stage};
use crate::config;
use crate::database::schema::{applied_version, newest_version};
use crate::database::{self, quoted_name};

/// Interval between looks at the length of the dump.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The database, and the moment of the transaction, as RFC 3339.
const ORIGIN: &str =
    "select current_database()::text, (select id::text from ingest_database), current_setting('server_version'),
    current_setting('server_version_num')::integer, extension.extversion, extension.nspname::text,
    current_setting('timescaledb.license', true), gen_random_uuid()::text,
    to_char(now() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
    from (values (1)) as one (row)
    left join (select extversion, nspname from pg_extension join pg_namespace on pg_namespace.oid = extnamespace
               where extname = 'timescaledb') as extension on true";

/// The schemas of others: neither the server's, nor an extension's, nor ours.
const OTHER_SCHEMAS: &str = "select nspname::text from pg_namespace
    where nspname !~ '^(pg_|_timescaledb_)' and nspname not in ('information_schema', current_schema())
        and not exists (select from pg_depend where classid = 'pg_namespace'::regclass and objid = pg_namespace.oid and deptype = 'e')
    order by 1";

/// The roles that have privileges in our schema.
const ROLES: &str = "select distinct rolname::text
    from (
        select nspacl as acl from pg_namespace where nspname = current_schema()
        union all select relacl from pg_class where relnamespace = quote_ident(current_schema())::regnamespace
        union all select proacl from pg_proc where pronamespace = quote_ident(current_schema())::regnamespace
    ) as object, aclexplode(acl) as entry
    join pg_roles on pg_roles.oid = grantee
    where grantee <> (select relowner from pg_class where oid = 'ingest_progress'::regclass) and rolname !~ '^pg_'
    order by 1";

/// Makes a backup of the configured database in this folder, which is created if it is missing.
///
/// # Errors
/// If the server does not answer, its tables are not of this program's version, there is no fitting pg_dump, or the folder
/// cannot be written. Nothing is left of it then.
pub async fn create(
    database: &config::Database,
    folder: &Path,
    pg_bin: Option<&Path>,
    report: Report,
) -> Result<Backup, Error> {
    let client = database::connect(database).await?;
    let version = applied_version(&client).await?;
    if version != newest_version() {
        return Err(Error::Target(format!(
            "the schema has migration {version}, and this program's newest is {}: run `series-ingest migrate` of the same \
             version first, or back up with the program that the tables are of",
            newest_version()
        )));
    }
    let begin = "begin isolation level repeatable read read only";
    client.batch_execute(begin).await.map_err(Error::server("begin to read"))?;
    let row = client.query_one(ORIGIN, &[]).await.map_err(Error::server("ask for the server's version"))?;
    let (id, created_at) = (row.get(7), row.get(8));
    let (license, timescaledb): (Option<String>, Option<String>) = (row.get(6), row.get(4));
    let edition = match (&timescaledb, license.as_deref()) {
        (None, _) => "plain PostgreSQL",
        (Some(_), Some("timescale")) => "community",
        (Some(_), _) => "Apache",
    };
    let origin = Origin {
        database: row.get(0),
        id: row.get::<_, Option<String>>(1).unwrap_or_default(),
        postgresql: row.get(2),
        server_version: row.get::<_, i32>(3).unsigned_abs(),
        timescaledb_schema: row.get(5),
        edition: edition.to_owned(),
        schema: database.schema.clone(),
        schema_version: version,
        is_whole_database: timescaledb.is_some() && has_other_hypertables(&client).await?,
        roles: names(&client, ROLES).await?,
        timescaledb,
    };
    let program = programs::find("pg_dump", pg_bin, origin.server_version / 10_000)?;
    let partial = PartialBackup::create(folder)?;
    let (path, file) = partial.create_dump()?;
    let mut command = dump_command(&client, database, &origin, &program).await?;
    let counting = contents::read(&client, Windows::Own, |points| report(Stage::Count, points));
    let ((), contents) = tokio::try_join!(dump(&program, &mut command, file, &report), counting)?;
    let file = File::open(&path).map_err(Error::read(&path))?;
    file.sync_all().map_err(Error::write(&path))?;
    let bytes = file.metadata().map_err(Error::read(&path))?.len();
    let sha256 = sha256(&path, move |read| report(Stage::Hash, read)).await?;
    partial.finish(Manifest {
        form: FORM,
        id,
        created_at,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        pg_dump: program.version,
        origin,
        dump: DumpFile { file: DUMP.to_owned(), bytes, sha256 },
        contents,
    })
}

/// pg_dump of what belongs to our tables, on the transaction's snapshot.
async fn dump_command(
    client: &Client,
    database: &config::Database,
    origin: &Origin,
    program: &Program,
) -> Result<Command, Error> {
    let row = client.query_one("select pg_export_snapshot()", &[]).await;
    let snapshot: String = row.map_err(Error::server("export the snapshot"))?.get(0);
    let mut command = program.command(database)?;
    command.args(["--format=custom", "--no-password", "--no-blobs", "--no-publications", "--no-subscriptions"]);
    if is_consistent() {
        command.arg(format!("--snapshot={snapshot}"));
    }
    if !origin.is_whole_database {
        for schema in names(client, OTHER_SCHEMAS).await? {
            command.arg(format!("--exclude-schema={}", quoted_name(&schema)));
        }
        let extensions =
            "select extname::text from pg_extension where extname in ('timescaledb', 'plpgsql') order by 1 desc";
        if let Some(extension) = names(client, extensions).await?.first() {
            command.arg(format!("--extension={extension}"));
        }
    }
    Ok(command)
}

/// Runs it into this file, and reports the file's length.
async fn dump(program: &Program, command: &mut Command, file: File, report: &Report) -> Result<(), Error> {
    let length = file.try_clone().map_err(Error::write(Path::new(DUMP)))?;
    command.stdout(stdio(file));
    let looking = async {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            if let Ok(found) = length.metadata() {
                report(Stage::Dump, found.len());
            }
        }
    };
    let (status, text) = tokio::select! {
        ended = program.run_anyway(command) => ended?,
        () = looking => return Ok(()),
    };
    if status.success() { Ok(()) } else { Err(program.failure(status, text)) }
}

/// Returns `true` unless a test wants a dump that is not of the manifest's moment.
fn is_consistent() -> bool {
    #[cfg(feature = "planted-bugs")]
    if crate::planted_bugs::is_on("backup-without-snapshot") {
        return false;
    }
    true
}

async fn has_other_hypertables(client: &Client) -> Result<bool, Error> {
    let sql =
        "select exists (select from timescaledb_information.hypertables where hypertable_schema <> current_schema())";
    let row = client.query_one(sql, &[]).await.map_err(Error::server("look for other hypertables"))?;
    Ok(row.get(0))
}

async fn names(client: &Client, sql: &str) -> Result<Vec<String>, Error> {
    let rows = client.query(sql, &[]).await.map_err(Error::server("read the catalog"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
