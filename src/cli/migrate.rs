//! `migrate`: creates or updates the tables.

use clap::Args;

use super::{Failure, print_line};
use crate::config::Config;
use crate::database::schema;
use crate::database::schema::roles;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Grant this role, which must exist, the rights that the worker needs on the tables, and revoke all others.
    #[arg(long, value_name = "NAME")]
    worker_role: Option<String>,
}

pub(super) async fn run(config: &Config, arguments: Arguments) -> Result<(), Failure> {
    config.require_database()?;
    let report = schema::migrate_and_report(config, |wait| print_line(wait)).await?;
    if report.applied.is_empty() {
        print_line("the migrations were applied already");
    }
    for name in report.applied {
        print_line(format_args!("applied {name}"));
    }
    for note in report.notes {
        print_line(note);
    }
    if let Some(role) = arguments.worker_role {
        roles::grant_worker(config, &role).await?;
        print_line(format_args!("role {role} has the worker's rights, and no others, on the tables"));
    }
    Ok(())
}
