//! The database: the server, the tables and the rights.

use super::{Failure, Report};
use crate::cli::{say_wait, saying_waits};
use crate::config::Config;
use crate::database::schema::{Edition, SchemaError, Server};
use crate::database::{self, Database, schema};

const KEY: &str = "database.url";

pub(super) async fn check(config: &Config, report: &mut Report) {
    let examination = match schema::examine_and_report(config, say_wait).await {
        Ok(examination) => examination,
        Err(error) => return report.failure(KEY, &Failure::from(error)),
    };
    report_server(&examination.server, report);
    for remark in &examination.remarks {
        if remark.is_problem {
            report.problem(KEY, &remark.text);
        } else {
            report.say("schema", &remark.text);
        }
    }
    if let Some(text) = &examination.too_few_connections {
        report.problem("database.pool_size", text);
    }
    if examination.faults.is_empty() {
        report.say("schema", "up to date");
        check_table(config, report).await;
    }
    for fault in examination.faults {
        let key = if matches!(fault, SchemaError::NoSchema { .. }) { "database.schema" } else { KEY };
        report.failure(key, &Failure::from(fault));
    }
}

fn report_server(server: &Server, report: &mut Report) {
    let timescaledb = match (&server.timescaledb, &server.available) {
        (Some(version), _) => format!("TimescaleDB {version}"),
        (None, Some(version)) => format!("TimescaleDB {version} is installed, and `migrate` adds it to the database"),
        (None, None) => "no TimescaleDB".to_owned(),
    };
    let edition = match server.edition {
        Edition::Plain if server.available.is_some() => String::new(),
        edition => format!(", {}", edition.as_str()),
    };
    report.say("database", format_args!("PostgreSQL {}, {timescaledb}{edition}", server.version));
}

async fn check_table(config: &Config, report: &mut Report) {
    let answers = async {
        let database = Database::new(config)?;
        let asked = async { Ok((database.reference().await?, database.look_at_table().await?)) };
        saying_waits(&database, asked).await
    };
    let answers: Result<_, database::Error> = answers.await;
    match answers {
        Ok((reference, table)) => {
            report.say("series", reference.describe());
            let direct_compress = table.direct_compress_text();
            let points = format!("profile {}; direct compress {direct_compress}", table.profile);
            if table.has_profile() {
                report.say("points", points);
            } else {
                let fix = "run `series-ingest schema set-profile` with the one that it should have";
                report.problem(KEY, format_args!("points: {points}: {fix}"));
            }
        }
        Err(error) => report.failure(KEY, &Failure::from(error)),
    }
}
