//! The database: the server, the tables and the rights.

use super::{Failure, Report};
use crate::config::Config;
use crate::database::schema::SchemaError;
use crate::database::{self, Database, schema};

const KEY: &str = "database.url";

pub(super) async fn check(config: &Config, report: &mut Report) {
    match schema::describe_server(&config.database).await {
        Err(error) => return report.failure(KEY, &Failure::from(error)),
        Ok(server) => {
            let timescaledb = server.timescaledb.map_or("no TimescaleDB".to_owned(), |v| format!("TimescaleDB {v}"));
            let edition = server.edition.as_str();
            report.say("database", format_args!("PostgreSQL {}, {timescaledb}, {edition}", server.version));
        }
    }
    match schema::verify(config).await {
        Ok(_) => {
            report.say("schema", "up to date");
            check_table(config, report).await;
        }
        Err(error) => {
            let key = if matches!(error, SchemaError::NoSchema { .. }) { "database.schema" } else { KEY };
            report.failure(key, &Failure::from(error));
        }
    }
}

async fn check_table(config: &Config, report: &mut Report) {
    let answers = async {
        let database = Database::new(config)?;
        Ok::<_, database::Error>((database.reference().await?, database.look_at_table().await?))
    };
    match answers.await {
        Ok((reference, table)) => {
            report.say("series", reference.describe());
            let direct_compress = table.direct_compress_text();
            report.say("points", format_args!("profile {}; direct compress {direct_compress}", table.profile));
        }
        Err(error) => report.failure(KEY, &Failure::from(error)),
    }
}
