//! The tables: numbered migrations by refinery, and after them a step that can be repeated: what depends on the server's
//! TimescaleDB, which may come or change later.

pub mod profile;
pub mod roles;
pub mod set_profile;

pub(super) mod adopt;
pub(super) mod columns;
pub(super) mod inspect;
pub(super) mod migration_lock;
pub(super) mod rights;

mod connection_limits;

use std::future::Future;
use std::time::Duration;

use refinery::Runner;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};
use tracing::{debug, info, warn};

use super::error::{Class, Error, describe};
pub use super::waits::WAIT_REPORT_INTERVAL;
use super::waits::{self, Observer};
use crate::config::{self, OnDuplicate};
use crate::database::Database;
use crate::database::connection::connector::{Connector, Failed};
use crate::database::connection::options::connection_config;
use crate::database::connection::pooler;
use crate::database::connection::settings;
use crate::database::connection::settings::quoted_name;
use crate::database::connection::step::Step;
use columns::{COLUMNS, OtherType, other_type};
use migration_lock::MigrationLock;

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// The table of the applied migrations. refinery's own name for it is every program's that uses refinery.
const HISTORY: &str = "ingest_schema_history";

/// What the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// PostgreSQL's version.
    pub version: String,
    /// TimescaleDB's version; `None` on plain PostgreSQL.
    pub timescaledb: Option<String>,
    /// The version that `migrate` would add to the database.
    pub available: Option<String>,
    /// TimescaleDB's edition.
    pub edition: Edition,
}

/// What the server's TimescaleDB allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edition {
    /// No extension: the points are in a plain table.
    Plain,
    /// Hypertables, without compression and policies.
    Apache,
    /// Hypertables, compression and policies.
    Community,
}

impl Edition {
    /// The edition's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain PostgreSQL",
            Self::Apache => "Apache",
            Self::Community => "community",
        }
    }
}

/// What a migration has done.
#[derive(Debug)]
pub struct Report {
    /// The migrations applied now, by name.
    pub applied: Vec<String>,
    /// What was done, and what could not be done on this server, in sentences.
    pub notes: Vec<String>,
}

/// Why the schema is not what the program needs.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The server does not answer, or refuses.
    #[error(transparent)]
    Database(#[from] Error),
    /// refinery's reason.
    #[error("the migrations failed: {0}")]
    Migration(String),
    /// Migrations are missing.
    #[error(
        "the schema is not migrated ({missing} missing): run `series-ingest migrate`, or set database.migrate_on_start"
    )]
    NotMigrated {
        /// The missing migrations.
        missing: String,
    },
    /// The schema that the configuration names is missing.
    #[error("the schema {schema:?} of database.schema does not exist: run `series-ingest migrate`")]
    NoSchema {
        /// Its name.
        schema: String,
    },
    /// A function of the schema works with the tables of another one.
    #[error(
        "the function {function} works with the tables of another schema, because its own was renamed: run `series-ingest migrate`"
    )]
    Renamed {
        /// The function's name.
        function: String,
    },
    /// The schema is of a later version of this program.
    #[error("the schema has migration {version}, which this version of the program does not know: use a newer one")]
    TooNew {
        /// The highest applied migration.
        version: i32,
    },
    /// The points have no unique index.
    #[error(
        "points.on_duplicate = {rule:?} needs a unique index on the points' time_series_id, column_name and timestamp: run \
         `series-ingest migrate` with this setting"
    )]
    NotUnique {
        /// What the configuration says.
        rule: &'static str,
    },
    /// The points have a unique index, and duplicates are to be appended.
    #[error(
        "the unique index {index} refuses points that come twice, and points.on_duplicate is \"append\": set it to \
         \"ignore\" or \"replace\", or drop the index"
    )]
    Unique {
        /// The index's name.
        index: String,
    },
    /// The unique index cannot be made.
    #[error(
        "points.on_duplicate = {rule:?} needs a unique index, and points are there more than once: {example}. docs/schema.md \
         has the statements that list them and that delete all but one"
    )]
    Duplicates {
        /// What the configuration says.
        rule: &'static str,
        /// The server's words.
        example: String,
    },
    /// Tables of another program have the names of ours, and cannot serve.
    #[error(
        "tables of another program have the names that this one needs, and cannot serve: {problems}. Change that, rename them, \
         or use another schema or database"
    )]
    NotAdopted {
        /// All of them.
        problems: String,
    },
    /// A table is not as the program needs it any more.
    #[error("{0}")]
    Table(String),
    /// The profile cannot be set.
    #[error("{0}")]
    Profile(String),
    /// The worker's role cannot be given its rights.
    #[error("{0}")]
    Role(String),
    /// A column of the points is not of the type that COPY sends.
    #[error(transparent)]
    OtherType(OtherType),
    /// The tables and functions do not do what they are for.
    #[error("what a worker does for each batch fails, because something was changed in the database: {0}")]
    Unusable(Error),
    /// An applied migration is not the one of this program.
    #[error("migration {name} was applied with another content: {}", NO_UPGRADE)]
    Different {
        /// The migration's name.
        name: String,
    },
}

/// What an operator can do with tables that this program's migrations have not made.
const NO_UPGRADE: &str = "the tables are those of another program, or of a version before the first release, which has no \
    upgrade. Name an empty schema or database in database.schema or database.url, or drop these tables: messages that Kafka \
    still has are then written again";

/// A connection outside the pool, without timeouts of statements and transactions, whatever those of the role or the database
/// are: migrations take as long as they need.
pub(super) async fn connect(database: &config::Database) -> Result<Client, Error> {
    // What is wrong with the configuration is no failed connection.
    connection_config(database)?;
    let (client, _) = Connector::new(database)
        .connect()
        .await
        .map_err(|Failed { source, tried }| Error::Connect { source, tried })?;
    let limit = Duration::from_millis(database.connect_timeout_ms);
    // Before anything is set that another client of the pooler's would find.
    let step = Step::Other("look for a pooler");
    let shared = tokio::time::timeout(limit * 4, pooler::is_shared(&client, database)).await;
    if shared.map_err(|_| Error::TimedOut { step, seconds: limit.as_secs() * 4 })?? {
        return Err(Error::SharedSession);
    }
    let sql = format!("{} {WITHOUT_TIMEOUTS}", settings::pinned(database));
    let step = Step::Other("prepare the session");
    let prepared = tokio::time::timeout(limit, client.batch_execute(&sql)).await;
    prepared
        .map_err(|_| Error::TimedOut { step, seconds: limit.as_secs() })?
        .map_err(|source| Error::Server { step, source })?;
    Ok(client)
}

/// PostgreSQL has `transaction_timeout` from version 17 on.
const WITHOUT_TIMEOUTS: &str = "set statement_timeout = 0; set lock_timeout = 0; \
    set idle_in_transaction_session_timeout = 0; set idle_session_timeout = 0; \
    do $$ begin if current_setting('transaction_timeout', true) is not null \
    then perform set_config('transaction_timeout', '0', false); end if; end $$";

/// Brings the schema up to date; nothing happens if it is up to date already.
///
/// # Errors
/// If the server does not answer, or a step fails; steps before it stay.
pub async fn migrate(config: &config::Config) -> Result<Report, SchemaError> {
    migrate_and_report(config, |wait| warn!(wait, "migrate")).await
}

/// The same; `say` gets a sentence when something is waited for, and every 30 s while it is.
///
/// # Errors
/// As those of [`migrate`].
pub async fn migrate_and_report(config: &config::Config, mut say: impl FnMut(&str)) -> Result<Report, SchemaError> {
    let client = connect(&config.database).await?;
    let lock = MigrationLock::acquire(&config.database, None, &mut say).await?;
    let lock = lock.ok_or_else(|| SchemaError::Migration("another migration was not waited for".to_owned()))?;
    let pid = waits::pid_of(&client).await?;
    let report = lock.watch(pid, say, apply(client, config)).await?;
    lock.release().await?;
    Ok(report)
}

async fn apply(mut client: Client, config: &config::Config) -> Result<Report, SchemaError> {
    let mut notes = Vec::new();
    ensure_schema(&client, &config.database, &mut notes).await?;
    check_history(&client).await?;
    adopt::adopt(&mut client, HISTORY, &mut notes).await?;
    let applied = runner()
        .run_async(&mut client)
        .await
        .map_err(|error| SchemaError::Migration(in_full(&error)))?
        .applied_migrations()
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>();
    set_paths(&client, &mut notes).await?;
    if set_profile::cascade(&client, |sql| info!(sql, "schema")).await? {
        notes.push("a series that is deleted takes its points with it".to_owned());
    }
    let can_compress = apply_extension(&client, &config.database, &mut notes).await?;
    // Versions of TimescaleDB make no unique index on what is compressed.
    if config.points.on_duplicate != OnDuplicate::Append {
        make_unique(&client, config, &mut notes).await?;
    }
    if can_compress {
        compress(&client, &config.database, &mut notes).await?;
    }
    Ok(Report { applied, notes })
}

/// Checks that the schema is what this program was built for, and has what the configuration needs.
///
/// # Errors
/// If the server does not answer, or the schema differs: the first of what [`examine`] finds.
pub async fn verify(config: &config::Config) -> Result<Server, SchemaError> {
    Ok(verify_and_report(config, |wait| debug!(wait, "verify")).await?.server)
}

/// The same; `say` gets a sentence while another session's lock is waited for.
///
/// # Errors
/// As those of [`verify`].
pub async fn verify_and_report(config: &config::Config, say: impl FnMut(&str)) -> Result<Verified, SchemaError> {
    let examination = examine_and_report(config, say).await?;
    for Remark { text, is_problem } in &examination.remarks {
        if *is_problem {
            warn!(remark = text, "the tables");
        } else {
            info!(remark = text, "the tables");
        }
    }
    match examination.faults.into_iter().next() {
        Some(fault) => Err(fault),
        None => Ok(Verified { server: examination.server, too_few_connections: examination.too_few_connections }),
    }
}

/// The facts about a schema that a worker can work with.
#[derive(Debug)]
pub struct Verified {
    /// What the server is.
    pub server: Server,
    /// Why the server may refuse connections of the pool.
    pub too_few_connections: Option<String>,
}

/// What was found of the server and the schema.
#[derive(Debug)]
pub struct Examination {
    /// What the server is.
    pub server: Server,
    /// Everything that keeps a worker from writing, or from writing all that it should.
    pub faults: Vec<SchemaError>,
    /// What a worker can live with.
    pub remarks: Vec<Remark>,
    /// Why the server may refuse connections of the pool.
    pub too_few_connections: Option<String>,
}

/// Something that a person should know of the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// A sentence.
    pub text: String,
    /// Whether it is hardly meant to be so.
    pub is_problem: bool,
}

/// Looks at all that a worker depends on in the database.
///
/// # Errors
/// If the server does not answer.
pub async fn examine(config: &config::Config) -> Result<Examination, Error> {
    examine_and_report(config, |wait| debug!(wait, "look at the schema")).await
}

/// The same; `say` gets a sentence while another session's lock is waited for.
///
/// # Errors
/// As those of [`examine`].
pub async fn examine_and_report(config: &config::Config, say: impl FnMut(&str)) -> Result<Examination, Error> {
    in_time(&config.database, Step::Other("look at the schema"), examine_without_limit(config, say)).await?
}

async fn examine_without_limit(config: &config::Config, mut say: impl FnMut(&str)) -> Result<Examination, Error> {
    let client = connect(&config.database).await?;
    wait_for_locks(&client, &config.database).await?;
    let pid = waits::pid_of(&client).await?;
    let observer = Observer::Later(Connector::new(&config.database), None);
    let mut examination = waits::watch(observer, || vec![pid], &mut say, examine_by(&client, config)).await?;
    // The role may have few connections.
    drop(client);
    if examination.faults.is_empty() {
        let database = Database::new(config)?;
        let rehearsed = database.saying_waits(say, rehearse(&database)).await;
        database.close();
        examination.faults.extend(rehearsed?);
    }
    Ok(examination)
}

async fn examine_by(client: &Client, config: &config::Config) -> Result<Examination, Error> {
    let server = server(client).await?;
    let too_few_connections = connection_limits::too_low(client, &config.database).await?;
    let (mut faults, mut remarks) = (Vec::new(), Vec::new());
    match check_migrations(client, &config.database).await {
        // Without its tables there is nothing more to look at.
        Err(fault) => faults.push(fault),
        Ok(()) => examine_tables(client, config, &mut faults, &mut remarks).await?,
    }
    // A question that was not answered is no fault of the schema.
    match faults.iter().position(|fault| matches!(fault, SchemaError::Database(_))) {
        None => Ok(Examination { server, faults, remarks, too_few_connections }),
        Some(index) => match faults.swap_remove(index) {
            SchemaError::Database(error) => Err(error),
            other => Err(Error::Unexpected(other.to_string())),
        },
    }
}

/// Has the session give up a lock that does not come, as those of the pool do.
async fn wait_for_locks(client: &Client, database: &config::Database) -> Result<(), Error> {
    let sql = format!("set lock_timeout = {}", database.lock_timeout_ms);
    client
        .batch_execute(&sql)
        .await
        .map_err(|source| Error::Server { step: Step::Other("prepare the session"), source })
}

async fn examine_tables(
    client: &Client,
    config: &config::Config,
    faults: &mut Vec<SchemaError>,
    remarks: &mut Vec<Remark>,
) -> Result<(), Error> {
    let rule = config.points.on_duplicate;
    faults.extend(rights::missing(client, rule).await?.into_iter().map(SchemaError::Role));
    match inspect::tables(client, faults, remarks).await {
        // What may not be read is named already.
        Err(failure) if failure.is_forbidden() && !faults.is_empty() => {}
        looked => looked?,
    }
    for checked in [check_types(client).await, check_duplicates(client, rule).await] {
        faults.extend(checked.err());
    }
    Ok(())
}

/// Does what a worker does for its first message, without a message and a commit: what no catalog has is met now.
async fn rehearse(database: &Database) -> Result<Option<SchemaError>, Error> {
    match database.rehearse().await {
        Ok(()) => Ok(None),
        // The connections before may still be counted; that the limit is low is reported separately.
        Err(failure) if failure.is_out_of_connections() => Ok(None),
        Err(failure) if matches!(failure.class(), Class::Outage | Class::Retry) || failure.is_restoring() => {
            Err(failure)
        }
        Err(failure) => Ok(Some(SchemaError::Unusable(failure))),
    }
}

async fn check_migrations(client: &Client, database: &config::Database) -> Result<(), SchemaError> {
    check_schema(client, database).await?;
    let known = runner().get_migrations().clone();
    let applied = check_history(client).await?;
    let missing: Vec<String> = known
        .iter()
        .filter(|migration| !applied.iter().any(|row| row.version == migration.version()))
        .map(ToString::to_string)
        .collect();
    if !missing.is_empty() {
        return Err(SchemaError::NotMigrated { missing: missing.join(", ") });
    }
    let newest = known.iter().map(|migration| migration.version()).max().unwrap_or(0);
    if let Some(row) = applied.iter().find(|row| row.version > newest) {
        return Err(SchemaError::TooNew { version: row.version });
    }
    check_paths(client).await
}

async fn check_duplicates(client: &Client, rule: OnDuplicate) -> Result<(), SchemaError> {
    match (unique_index(client).await?, rule) {
        (None, OnDuplicate::Ignore | OnDuplicate::Replace) => Err(SchemaError::NotUnique { rule: rule.as_str() }),
        (Some(index), OnDuplicate::Append) => Err(SchemaError::Unique { index }),
        _ => Ok(()),
    }
}

/// Creates the schema of the tables if it is missing.
async fn ensure_schema(
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
async fn check_schema(client: &Client, database: &config::Database) -> Result<(), SchemaError> {
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

/// A row of the table of applied migrations.
struct AppliedMigration {
    version: i32,
    checksum: String,
}

/// Returns the rows of the table of applied migrations; none if it is missing.
async fn history(client: &Client) -> Result<Vec<AppliedMigration>, Error> {
    let sql = format!("select version::integer, checksum::text from {HISTORY} order by version");
    let rows = match client.query(&sql, &[]).await {
        Ok(rows) => rows,
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Vec::new(),
        Err(source) => return Err(Error::Server { step: Step::Other("read the schema's version"), source }),
    };
    Ok(rows.iter().map(|row| AppliedMigration { version: row.get(0), checksum: row.get(1) }).collect())
}

/// Returns the applied migrations.
///
/// # Errors
/// If one has another content than this program's, or tables of the migrations are there and none is listed: there is no
/// upgrade from them.
async fn check_history(client: &Client) -> Result<Vec<AppliedMigration>, SchemaError> {
    let applied = history(client).await?;
    for migration in runner().get_migrations() {
        let same_version = applied.iter().find(|row| row.version == migration.version());
        if same_version.is_some_and(|row| row.checksum != migration.checksum().to_string()) {
            return Err(SchemaError::Different { name: migration.to_string() });
        }
    }
    if applied.is_empty() {
        let step = Step::Other("look for tables without a history");
        let sql = "select to_regclass('ingest_progress') is not null";
        let row = client.query_one(sql, &[]).await.map_err(|source| Error::Server { step, source })?;
        if row.get(0) {
            return Err(SchemaError::Table(format!(
                "the table ingest_progress is there, and {HISTORY} does not list its migration: {NO_UPGRADE}"
            )));
        }
    }
    Ok(applied)
}

/// The functions that run with their owner's rights and do not look for tables in this schema: it was renamed since they
/// were made.
const STRAYED: &str = "from pg_proc
    where pronamespace = quote_ident(current_schema())::regnamespace and proname like 'ingest\\_%' and prosecdef
        and format('search_path=%I, pg_temp', current_schema()) <> all (coalesce(proconfig, '{}'))";

async fn check_paths(client: &Client) -> Result<(), SchemaError> {
    let step = Step::Other("look for the functions' schema");
    let found = client
        .query_opt(&format!("select proname::text {STRAYED} limit 1"), &[])
        .await
        .map_err(|source| Error::Server { step, source })?;
    found.map_or(Ok(()), |row| Err(SchemaError::Renamed { function: row.get(0) }))
}

/// Has the functions look for tables in the schema that they are in.
async fn set_paths(client: &Client, notes: &mut Vec<String>) -> Result<(), Error> {
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

/// Whether the columns of the points are of the types that COPY sends: the server takes the bytes for what its own are, or
/// refuses all of them.
async fn check_types(client: &Client) -> Result<(), SchemaError> {
    let step = Step::Other("look at the types of columns");
    let rows = client.query(COLUMNS, &[]).await.map_err(|source| Error::Server { step, source })?;
    let columns: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    other_type(&columns).map_or(Ok(()), |other| Err(SchemaError::OtherType(other)))
}

/// What the server is, whatever its schema.
///
/// # Errors
/// If it does not answer.
pub async fn describe_server(database: &config::Database) -> Result<Server, Error> {
    in_time(database, Step::Other("ask for the server's version"), async { server(&connect(database).await?).await })
        .await?
}

/// A question to a server that may be frozen.
pub(super) async fn in_time<T>(
    database: &config::Database,
    step: Step,
    question: impl Future<Output = T>,
) -> Result<T, Error> {
    let limit = Duration::from_millis(database.statement_timeout_ms);
    tokio::time::timeout(limit, question).await.map_err(|_| Error::TimedOut { step, seconds: limit.as_secs() })
}

pub(super) fn runner() -> Runner {
    let mut runner = embedded::migrations::runner();
    runner.set_migration_table_name(HISTORY);
    runner
}

/// The step that asks what the server is.
pub(super) const SERVER_STEP: Step = Step::Other("ask for the server's version");
/// The question what the server is; [`server_of`] reads the answer.
pub(super) const SERVER_SQL: &str = "select current_setting('server_version'),
    (select extversion from pg_extension where extname = 'timescaledb'), current_setting('timescaledb.license', true),
    (select default_version from pg_available_extensions where name = 'timescaledb' and installed_version is null
         and exists (select from pg_settings where name like 'timescaledb%'))";

async fn server(client: &Client) -> Result<Server, Error> {
    let row = client.query_one(SERVER_SQL, &[]).await;
    Ok(server_of(&row.map_err(|source| Error::Server { step: SERVER_STEP, source })?))
}

pub(super) fn server_of(row: &Row) -> Server {
    let timescaledb: Option<String> = row.get(1);
    let license: Option<String> = row.get(2);
    let edition = match (&timescaledb, license.as_deref()) {
        (None, _) => Edition::Plain,
        (Some(_), Some("timescale")) => Edition::Community,
        (Some(_), _) => Edition::Apache,
    };
    Server { version: row.get(0), timescaledb, available: row.get(3), edition }
}

/// Makes the points a hypertable and sets its chunks, as far as the server can; whether it can be compressed.
async fn apply_extension(client: &Client, database: &config::Database, notes: &mut Vec<String>) -> Result<bool, Error> {
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

/// Whether the extension is there, after trying to add it. A server that has its files but did not preload it would end the
/// session at the attempt; if its settings are known, it is preloaded.
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
async fn extension_schema(client: &Client) -> Result<String, Error> {
    let sql = "select nspname::text from pg_extension join pg_namespace on pg_namespace.oid = extnamespace
               where extname = 'timescaledb'";
    let row = client
        .query_one(sql, &[])
        .await
        .map_err(|source| Error::Server { step: Step::Other("look for TimescaleDB's schema"), source })?;
    Ok(quoted_name(row.get(0)))
}

/// Whether the points are a hypertable, after trying to make them one.
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
/// only a superuser may set it while the extension is absent, so no migration does it.
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

/// The name of a unique index on the points' series, column and time, if there is one.
async fn unique_index(client: &Client) -> Result<Option<String>, Error> {
    let found = client
        .query_opt(
            "select indexrelid::regclass::text from pg_index
             where indrelid = 'time_series_data_points'::regclass and indisunique and indisvalid and indimmediate
                 and indpred is null and indexprs is null and indnkeyatts = 3
                 and (select array_agg(attname::text order by attname) from pg_attribute
                      where attrelid = indrelid and attnum = any ((indkey::int2[])[0:2]))
                     = array['column_name', 'time_series_id', 'timestamp']
             limit 1",
            &[],
        )
        .await
        .map_err(|source| Error::Server { step: Step::Other("look for a unique index"), source })?;
    Ok(found.map(|row| row.get(0)))
}

/// Makes the unique index that `points.on_duplicate` needs. The table takes no writes until it is done: hypertables have no
/// `create index concurrently` for unique indexes.
async fn make_unique(client: &Client, config: &config::Config, notes: &mut Vec<String>) -> Result<(), SchemaError> {
    let rule = config.points.on_duplicate;
    if unique_index(client).await?.is_none() {
        let sql = "create unique index idx_time_series_data_points_unique \
                   on time_series_data_points (time_series_id, column_name, \"timestamp\")";
        match run(client, Step::Other("make the unique index"), sql).await {
            Ok(_) => {
                notes.push(format!("the points have a unique index, for points.on_duplicate = {:?}", rule.as_str()))
            }
            Err(Error::Server { source, .. }) if source.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
                return Err(SchemaError::Duplicates { rule: rule.as_str(), example: describe(&source) });
            }
            Err(failure) => return Err(failure.into()),
        }
    }
    if rule == OnDuplicate::Replace {
        make_versions_hypertable(client, &config.database, notes).await?;
    }
    Ok(())
}

/// Makes the points' versions a hypertable as well, if the points are one: old chunks of both can be dropped.
async fn make_versions_hypertable(
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

async fn compress(client: &Client, database: &config::Database, notes: &mut Vec<String>) -> Result<(), Error> {
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
async fn run(client: &Client, step: Step, sql: &str) -> Result<usize, Error> {
    info!(step = step.as_str(), "schema");
    let rows = client.query(sql, &[]).await.map_err(|source| Error::Server { step, source })?;
    Ok(rows.len())
}

/// A text as a literal in SQL, for sessions with `standard_conforming_strings`.
pub(super) fn quoted_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
