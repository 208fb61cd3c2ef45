//! A database made for one demo or benchmark, and looked at from outside the write path.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::error::Error;
use super::schema::connect;
use crate::config::{self, Secret};

/// The database; [`Scratch::remove`] takes it away again.
#[derive(Debug)]
pub struct Scratch {
    name: String,
    url: String,
    admin: Client,
    client: Client,
}

/// What the tables hold.
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

impl Scratch {
    /// Makes a database `prefix_<process id>` on the configured server; the role needs the right to create one.
    ///
    /// # Errors
    /// Where the server does not answer, or refuses.
    pub async fn create(database: &config::Database, prefix: &str) -> Result<Self, Error> {
        let name = format!("{prefix}_{}", std::process::id());
        let admin = connect(database).await?;
        for sql in [format!("drop database if exists {name} with (force)"), format!("create database {name}")] {
            admin.batch_execute(&sql).await.map_err(|source| Error::Server { step: "make the database", source })?;
        }
        let url = with_database(database.connection().expose(), &name)?;
        let client = connect(&config::Database { url: Secret::new(url.clone()), ..database.clone() }).await?;
        Ok(Self { name, url, admin, client })
    }

    /// The database's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its URL, with the password.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its URL, without the password.
    pub fn masked_url(&self) -> String {
        config::mask_url(&self.url)
    }

    /// Runs statements.
    ///
    /// # Errors
    /// Where the server does not answer, or refuses.
    pub async fn execute(&self, step: &'static str, sql: &str) -> Result<(), Error> {
        self.client.batch_execute(sql).await.map_err(|source| Error::Server { step, source })
    }

    /// Takes away all points, series and progress.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn empty_tables(&self) -> Result<(), Error> {
        self.execute(
            "empty the tables",
            "truncate time_series_data_points, time_series_metadata, ingest_series, ingest_progress, ingest_gap, \
             ingest_dead_letter, ingest_source; checkpoint",
        )
        .await
    }

    /// The number of offsets applied, of all partitions that were read from their start.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn applied_messages(&self) -> Result<usize, Error> {
        self.count(
            "select coalesce(sum(next_offset + coalesce((select sum(upper(island) - lower(island)) \
             from unnest(ahead) as island), 0)), 0)::bigint from ingest_progress",
        )
        .await
    }

    /// Writes a query's rows of (series, time, column, value) into a file of the server's, in COPY's binary format. Only a
    /// superuser may. The answer is its name.
    ///
    /// # Errors
    /// Where the server does not answer, or refuses.
    pub async fn make_copy_file(&self, rows_sql: &str) -> Result<String, Error> {
        let step = "find the server's data folder";
        let sql = "select current_setting('data_directory')";
        let row = self.client.query_one(sql, &[]).await.map_err(|source| Error::Server { step, source })?;
        let file = format!("{}/{}.copy", row.get::<_, String>(0), self.name);
        let sql = format!("copy ({rows_sql}) to {} (format binary)", quoted(&file));
        self.execute("write the rows to a file", &sql).await?;
        Ok(file)
    }

    /// Copies such a file's rows into the table of points.
    ///
    /// # Errors
    /// Where the server does not answer, or refuses.
    pub async fn copy_from_file(&self, file: &str) -> Result<(), Error> {
        let columns = "time_series_id, \"timestamp\", column_name, value";
        let sql = format!("copy time_series_data_points ({columns}) from {} (format binary)", quoted(file));
        self.execute("copy from a file", &sql).await
    }

    /// Deletes such a file.
    ///
    /// # Errors
    /// Where the server does not answer, or refuses.
    pub async fn remove_copy_file(&self, file: &str) -> Result<(), Error> {
        let command = format!("rm -f \"{file}\"");
        self.execute("delete the file", &format!("copy (select 1) to program {}", quoted(&command))).await
    }

    /// The number of points.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn count_points(&self) -> Result<usize, Error> {
        self.count("select count(*) from time_series_data_points").await
    }

    async fn count(&self, sql: &str) -> Result<usize, Error> {
        Ok(usize::try_from(self.number(sql).await?).unwrap_or(0))
    }

    async fn number(&self, sql: &str) -> Result<i64, Error> {
        let row = self.client.query_one(sql, &[]).await.map_err(|source| Error::Server { step: "count", source })?;
        Ok(row.get(0))
    }

    /// What the tables hold.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn summary(&self) -> Result<TableSummary, Error> {
        let rows = self
            .client
            .query("select time_series_id, column_name, count(*) from time_series_data_points group by 1, 2", &[])
            .await
            .map_err(|source| Error::Server { step: "count", source })?;
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

    /// Takes the database away.
    ///
    /// # Errors
    /// Where the server does not answer, or refuses.
    pub async fn remove(self) -> Result<(), Error> {
        drop(self.client);
        self.admin
            .batch_execute(&format!("drop database if exists {} with (force)", self.name))
            .await
            .map_err(|source| Error::Server { step: "drop the database", source })
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The URL with another database in it.
fn with_database(url: &str, name: &str) -> Result<String, Error> {
    let (base, query) = url.split_once('?').map_or((url, None), |(base, query)| (base, Some(query)));
    let start =
        base.find("://").map(|at| at + 3).ok_or_else(|| Error::Unexpected("database.url is no URL".to_owned()))?;
    let host_end = base[start..].find('/').map_or(base.len(), |at| start + at);
    let query = query.map_or(String::new(), |query| format!("?{query}"));
    Ok(format!("{}/{name}{query}", &base[..host_end]))
}

#[cfg(test)]
mod tests {
    use super::with_database;

    #[test]
    fn only_the_database_of_the_url_changes() {
        for (url, expected) in [
            ("postgresql://u:p@h:1/a?sslmode=disable", "postgresql://u:p@h:1/x?sslmode=disable"),
            ("postgresql://h", "postgresql://h/x"),
            ("postgresql://h/", "postgresql://h/x"),
        ] {
            assert_eq!(with_database(url, "x").unwrap(), expected);
        }
    }
}
