//! `migrate`: creates or updates the tables.

use clap::Args;

use super::{Failure, print_line};
use crate::config::Config;
use crate::database::schema;
use crate::database::schema::roles::{self, Purpose};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    series-ingest migrate\n  \
    series-ingest migrate --worker-role ingest_worker --reader-role grafana --editor-role analyst")]
pub(super) struct Arguments {
    /// Grant this role, which must exist, the rights that the worker needs on the tables, and revoke all others.
    #[arg(long, value_name = "NAME")]
    worker_role: Option<String>,
    /// Grant this role the rights to read series and points, also by views, and revoke all others.
    #[arg(long, value_name = "NAME")]
    reader_role: Option<String>,
    /// Grant this role the rights to read, import, change and delete series and points, and revoke all others.
    #[arg(long, value_name = "NAME")]
    editor_role: Option<String>,
}

pub(super) async fn run(config: &Config, arguments: Arguments) -> Result<(), Failure> {
    config.require_database()?;
    let Arguments { worker_role, reader_role, editor_role } = &arguments;
    let mut names: Vec<&String> = [worker_role, reader_role, editor_role].into_iter().flatten().collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Failure::Usage(format!("the role {:?} is named twice: a role has one purpose", twice[0])));
    }
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
    let roles = [
        (arguments.worker_role, Purpose::Worker),
        (arguments.reader_role, Purpose::Reader),
        (arguments.editor_role, Purpose::Editor),
    ];
    for (role, purpose) in roles {
        let Some(role) = role else { continue };
        roles::grant(config, &role, purpose).await?;
        print_line(format_args!("role {role} has the {}'s rights, and no others, on the tables", purpose.as_str()));
    }
    Ok(())
}
