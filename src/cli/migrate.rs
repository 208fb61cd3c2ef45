//! `migrate`: make or update the tables.

use super::{Failure, print_line};
use crate::config::Config;
use crate::database::schema;

pub(super) async fn run(config: &Config) -> Result<(), Failure> {
    config.require_database()?;
    let report = schema::migrate(config).await?;
    if report.applied.is_empty() {
        print_line("the migrations were applied already");
    }
    for name in report.applied {
        print_line(format_args!("applied {name}"));
    }
    for note in report.notes {
        print_line(note);
    }
    Ok(())
}
