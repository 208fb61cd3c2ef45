//! What the server has, and the names of the tables in statements.

use super::{Error, Need, Session};
use crate::database::{self, quoted_name, quoted_text};

const SQL: &str = "
select to_regclass('time_series_data_points') is not null,
    exists (select from pg_extension where extname = 'timescaledb'),
    (select quote_ident(nspname) from pg_extension join pg_namespace on pg_namespace.oid = extnamespace
     where extname = 'pg_stat_statements'),
    format('the database %I of PostgreSQL %s%s', current_database(), current_setting('server_version'),
           case when pg_is_in_recovery() then ', a standby' else '' end)";

/// The points as a plain table: one part without a time.
const PLAIN: &str = "(select {points} as relid, null::timestamptz as range_start, null::timestamptz as range_end, \
                     false as is_compressed)";
/// The chunks of the points.
const CHUNKS: &str = "(select pg_class.oid::regclass as relid, range_start, range_end, is_compressed \
                      from timescaledb_information.chunks join pg_namespace on nspname = chunk_schema \
                      join pg_class on relnamespace = pg_namespace.oid and relname = chunk_name \
                      where hypertable_schema = {schema} and hypertable_name = 'time_series_data_points')";

/// What the server has.
#[derive(Debug)]
pub(super) struct Server {
    schema: String,
    is_hypertable: bool,
    /// The schema of `pg_stat_statements`.
    pub(super) statements: Option<String>,
    place: String,
}

impl Server {
    pub(super) async fn of(session: &Session, schema: &str) -> Result<Self, Error> {
        let rows = session.rows(SQL).await?;
        let row =
            rows.first().ok_or_else(|| database::Error::Unexpected("the server says nothing of itself".to_owned()))?;
        if !row.get::<_, bool>(0) {
            return Err(Error::NotMigrated(schema.to_owned()));
        }
        let mut server =
            Self { schema: schema.to_owned(), is_hypertable: false, statements: row.get(2), place: row.get(3) };
        if row.get(1) {
            let sql = "select 1::text from timescaledb_information.hypertables
                       where hypertable_schema = {schema} and hypertable_name = 'time_series_data_points'";
            let found = session.texts(&server.fill(sql)).await?;
            server.is_hypertable = !found.is_empty();
        }
        Ok(server)
    }

    pub(super) fn describe(&self) -> String {
        self.place.clone()
    }

    pub(super) fn has(&self, need: Need) -> bool {
        match need {
            Need::Tables => true,
            Need::Hypertable => self.is_hypertable,
            Need::Statements => self.statements.is_some(),
        }
    }

    /// A statement with the names of this database: `{parts}` are the chunks of the points, or the table itself, `{points}` is
    /// the table, `{schema}` the name of its schema, `{statements}` the schema of `pg_stat_statements`.
    pub(super) fn fill(&self, sql: &str) -> String {
        let points = format!("{}.time_series_data_points", quoted_name(&self.schema));
        sql.replace("{parts}", if self.is_hypertable { CHUNKS } else { PLAIN })
            .replace("{points}", &format!("{}::regclass", quoted_text(&points)))
            .replace("{schema}", &quoted_text(&self.schema))
            .replace("{statements}", self.statements.as_deref().unwrap_or_default())
            .trim()
            .to_owned()
    }
}
