//! A database made for one demo or benchmark, and read from outside the write path.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_postgres::Client;
use tokio_postgres::config::Host;

use super::error::Error;
use super::schema::{connect, quoted_text as quoted};
use crate::config::{self, Secret};
use crate::database::connection::step::Step;

/// The database; [`ScratchDatabase::remove`] removes it.
#[derive(Debug)]
pub struct ScratchDatabase {
    name: String,
    url: String,
    database: config::Database,
    admin: Client,
    client: Client,
    /// The server's files that are still to be deleted.
    files: Mutex<HashSet<String>>,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A host and a port.
    Tcp(String, u16),
    /// A socket's file.
    Unix(PathBuf),
}

/// A summary of the tables.
#[derive(Debug)]
pub struct TableSummary {
    /// Rows of points.
    pub points: usize,
    /// Different (series, column, timestamp) among them.
    pub distinct_points: usize,
    /// The sum of the points' values, each rounded to tenths, in tenths.
    pub tenths: i64,
    /// Rows of dead letters.
    pub dead_letters: usize,
    /// Rows of points by series and column.
    pub columns: BTreeMap<(String, String), usize>,
}

impl TableSummary {
    /// Rows of points by column, of one series.
    pub fn columns_of(&self, series: &str) -> BTreeMap<String, usize> {
        let of_series = self.columns.iter().filter(|((id, _), _)| id == series);
        of_series.map(|((_, column), count)| (column.clone(), *count)).collect()
    }
}

impl ScratchDatabase {
    /// Makes a database `prefix_<process id>` on the configured server; the role needs the right to create one.
    ///
    /// # Errors
    /// If the server does not answer, or refuses.
    pub async fn create(database: &config::Database, prefix: &str) -> Result<Self, Error> {
        let name = format!("{prefix}_{}", std::process::id());
        let admin = connect(database).await?;
        let drop = format!("drop database if exists {name} with (force)");
        for sql in [drop, format!("create database {name}{}", encoding(&admin).await?)] {
            admin
                .batch_execute(&sql)
                .await
                .map_err(|source| Error::Server { step: Step::Other("make the database"), source })?;
        }
        let url = config::with_database(database.connection().expose(), &name).ok_or_else(no_url)?;
        let database = config::Database { url: Secret::new(url.clone()), ..database.clone() };
        let client = connect(&database).await?;
        Ok(Self { name, url, database, admin, client, files: Mutex::default() })
    }

    /// The database's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its URL, with the password.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where its server listens, in the order to try.
    ///
    /// # Errors
    /// If the URL cannot be read.
    pub fn addresses(&self) -> Result<Vec<Address>, Error> {
        addresses(&self.url)
    }

    /// Its URL with another port, on loopback, with the password.
    ///
    /// # Errors
    /// If the URL cannot be read.
    pub fn url_by(&self, port: u16) -> Result<String, Error> {
        config::with_server(&self.url, &format!("127.0.0.1:{port}")).ok_or_else(no_url)
    }

    /// Its URL, without the password.
    pub fn masked_url(&self) -> String {
        config::mask_url(&self.url)
    }

    /// Runs statements.
    ///
    /// # Errors
    /// If the server does not answer, or refuses.
    pub async fn execute(&self, step: &'static str, sql: &str) -> Result<(), Error> {
        self.client.batch_execute(sql).await.map_err(|source| Error::Server { step: Step::Other(step), source })
    }

    /// Deletes all points, series and progress.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn empty_tables(&self) -> Result<(), Error> {
        self.execute(
            "empty the tables",
            "truncate time_series_data_points, ingest_point_version, time_series_metadata, ingest_series, ingest_progress, ingest_gap, ingest_dead_letter_count, \
             ingest_dead_letter, ingest_source; checkpoint",
        )
        .await
    }

    /// The number of offsets applied, of all partitions that were read from their start.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn applied_messages(&self) -> Result<usize, Error> {
        self.count(
            "select coalesce(sum(next_offset + coalesce((select sum(upper(island) - lower(island)) \
             from unnest(ahead) as island), 0)), 0)::bigint from ingest_progress",
        )
        .await
    }

    /// Writes a query's rows of (series, time, column, value) into a file on the server, in COPY's binary format, and returns
    /// its name. Only a superuser may.
    ///
    /// # Errors
    /// If the server does not answer, or refuses.
    pub async fn make_copy_file(&self, name: &str, rows_sql: &str) -> Result<String, Error> {
        let step = Step::Other("find the server's data folder");
        let sql = "select current_setting('data_directory')";
        let row = self.client.query_one(sql, &[]).await.map_err(|source| Error::Server { step, source })?;
        let file = format!("{}/{}_{name}.copy", row.get::<_, String>(0), self.name);
        let sql = format!("copy ({rows_sql}) to {} (format binary)", quoted(&file));
        self.files().insert(file.clone());
        self.execute("write the rows to a file", &sql).await?;
        Ok(file)
    }

    /// Copies the rows of such files into the table of points, one after the other, on another connection that has run
    /// `settings` before.
    ///
    /// # Errors
    /// If the server does not answer, or refuses.
    pub async fn copy_from_files(&self, files: &[String], settings: &str) -> Result<(), Error> {
        let client = connect(&self.database).await?;
        let mut sql = format!("{settings};");
        for file in files {
            let columns = "time_series_id, \"timestamp\", column_name, value";
            sql += &format!("copy time_series_data_points ({columns}) from {} (format binary);", quoted(file));
        }
        client
            .batch_execute(&sql)
            .await
            .map_err(|source| Error::Server { step: Step::Other("copy from files"), source })
    }

    /// Deletes such a file.
    ///
    /// # Errors
    /// If the server does not answer, or refuses.
    pub async fn remove_copy_file(&self, file: &str) -> Result<(), Error> {
        self.execute("delete the file", &delete_sql(file)).await?;
        self.files().remove(file);
        Ok(())
    }

    fn files(&self) -> MutexGuard<'_, HashSet<String>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of points.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn count_points(&self) -> Result<usize, Error> {
        self.count("select count(*) from time_series_data_points").await
    }

    /// The number of points in compressed rows.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn count_compressed_points(&self) -> Result<usize, Error> {
        let step = "count the points that are not compressed";
        if self.count("select count(*) from pg_extension where extname = 'timescaledb'").await? == 0 {
            return Ok(0);
        }
        let sql = "select format('select count(*) from only %I.%I', chunk_schema, chunk_name) \
                   from timescaledb_information.chunks where hypertable_name = 'time_series_data_points' and is_compressed";
        let chunks =
            self.client.query(sql, &[]).await.map_err(|source| Error::Server { step: Step::Other(step), source })?;
        let mut compressed = 0;
        for chunk in chunks {
            let sql: String = chunk.get(0);
            let all = self.count(&sql.replace("only ", "")).await?;
            // TimescaleDB counts a compressed chunk's rows as its own, unless that is switched off.
            self.execute(step, "set timescaledb.enable_transparent_decompression = off").await?;
            let uncompressed = self.count(&sql).await;
            self.execute(step, "reset timescaledb.enable_transparent_decompression").await?;
            compressed += all - uncompressed?;
        }
        Ok(compressed)
    }

    async fn count(&self, sql: &str) -> Result<usize, Error> {
        Ok(usize::try_from(self.number(sql).await?).unwrap_or(0))
    }

    async fn number(&self, sql: &str) -> Result<i64, Error> {
        let row = self
            .client
            .query_one(sql, &[])
            .await
            .map_err(|source| Error::Server { step: Step::Other("count"), source })?;
        Ok(row.get(0))
    }

    /// A summary of the tables.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn summary(&self) -> Result<TableSummary, Error> {
        let rows = self
            .client
            .query("select time_series_id, column_name, count(*) from time_series_data_points group by 1, 2", &[])
            .await
            .map_err(|source| Error::Server { step: Step::Other("count"), source })?;
        let columns = rows
            .iter()
            .map(|row| ((row.get(0), row.get(1)), usize::try_from(row.get::<_, i64>(2)).unwrap_or(0)))
            .collect();
        Ok(TableSummary {
            points: self.count_points().await?,
            distinct_points: self
                .count(
                    "select count(*) from (select distinct time_series_id, column_name, \"timestamp\" \
                     from time_series_data_points) as point",
                )
                .await?,
            tenths: self
                .number("select coalesce(sum(round(value * 10)), 0)::bigint from time_series_data_points")
                .await?,
            dead_letters: self.count("select count(*) from ingest_dead_letter").await?,
            columns,
        })
    }

    /// Removes the database, and its files that are left on the server.
    ///
    /// # Errors
    /// If the server does not answer, or refuses.
    pub async fn remove(self) -> Result<(), Error> {
        drop(self.client);
        let (admin, name) = (self.admin, self.name);
        let sql = format!("drop database if exists {name} with (force)");
        admin
            .batch_execute(&sql)
            .await
            .map_err(|source| Error::Server { step: Step::Other("drop the database"), source })?;
        for file in self.files.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let step = Step::Other("delete the file");
            admin.batch_execute(&delete_sql(&file)).await.map_err(|source| Error::Server { step, source })?;
        }
        Ok(())
    }
}

/// The options that make a new database UTF-8 if the server's databases are not.
async fn encoding(client: &Client) -> Result<&'static str, Error> {
    let sql = "select pg_encoding_to_char(encoding) = 'UTF8' from pg_database where datname = 'template1'";
    let row = client
        .query_opt(sql, &[])
        .await
        .map_err(|source| Error::Server { step: Step::Other("look for the server's encoding"), source })?;
    let is_utf8 = row.is_some_and(|row| row.get(0));
    Ok(if is_utf8 { "" } else { " encoding 'UTF8' locale 'C' template template0" })
}

fn delete_sql(file: &str) -> String {
    format!("copy (select 1) to program {}", quoted(&format!("rm -f \"{file}\"")))
}

fn no_url() -> Error {
    Error::Unexpected("database.url is not a URL".to_owned())
}

/// The default port of PostgreSQL.
const PORT: u16 = 5432;

fn addresses(url: &str) -> Result<Vec<Address>, Error> {
    let connection: tokio_postgres::Config =
        url.parse().map_err(|_| Error::Unexpected("database.url cannot be read".to_owned()))?;
    let (hosts, numeric, ports) = (connection.get_hosts(), connection.get_hostaddrs(), connection.get_ports());
    let address = |at: usize| {
        // A single port is that of all hosts.
        let port = ports.get(at).or(ports.first()).copied().unwrap_or(PORT);
        match (numeric.get(at), hosts.get(at)) {
            (Some(numeric), _) => Some(Address::Tcp(numeric.to_string(), port)),
            (None, Some(Host::Tcp(host))) => Some(Address::Tcp(host.clone(), port)),
            (None, Some(Host::Unix(folder))) => Some(Address::Unix(folder.join(format!(".s.PGSQL.{port}")))),
            (None, None) => None,
        }
    };
    Ok((0..hosts.len().max(numeric.len())).filter_map(address).collect())
}

#[cfg(test)]
mod tests {
    use super::{Address, addresses};

    #[test]
    fn a_server_is_found_where_the_connection_would_find_it() {
        let tcp = |host: &str, port| Address::Tcp(host.to_owned(), port);
        for (url, expected) in [
            ("postgresql://u:p@h/a", vec![tcp("h", 5432)]),
            ("postgresql://h1:1,h2:2/a", vec![tcp("h1", 1), tcp("h2", 2)]),
            ("postgresql://h:1/a?hostaddr=10.0.0.1", vec![tcp("10.0.0.1", 1)]),
            ("postgresql:///a?host=/run&port=1", vec![Address::Unix("/run/.s.PGSQL.1".into())]),
        ] {
            assert_eq!(addresses(url).unwrap(), expected, "{url}");
        }
    }
}
