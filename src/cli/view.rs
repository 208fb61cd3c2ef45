//! `view create|drop|list`: SQL views of one series.

use std::sync::Arc;

use clap::Subcommand;
use serde_json::json;

use super::Failure;
use super::output::print_line;
use super::reading::Reading;
use crate::config::Config;
use crate::repository::view::{self, View, ViewOptions};
use crate::telemetry::{escaped, list};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create the view of a series, or recreate it with the columns that the series has now.
    #[command(after_help = "Examples:\n  \
        series-ingest view create seattle-weather            select * from series_seattle_weather where date >= '2024-01-01'\n  \
        series-ingest view create 'plant/1' --name plant1 --column power temperature\n\n\
        Who may read the points may read the view. Its role needs CREATE on the schema of the tables, as the owner has.")]
    Create {
        /// The id of the series.
        #[arg(value_name = "ID")]
        id: String,
        /// The name of the view; by default series_ and the id, in lower case.
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Only these columns, in this order.
        #[arg(long = "column", value_name = "C", num_args = 1..)]
        columns: Vec<String>,
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Drop the views of a series; its points stay.
    #[command(after_help = "Example:\n  series-ingest view drop seattle-weather")]
    Drop {
        /// The id of the series.
        #[arg(value_name = "ID")]
        id: String,
    },
    /// List the views of series.
    #[command(after_help = "Example:\n  series-ingest view list --json")]
    List {
        #[command(flatten)]
        reading: Reading,
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(config: Arc<Config>, command: Command) -> Result<(), Failure> {
    if !matches!(command, Command::List { .. }) {
        config.require_database()?;
    }
    let database = &config.database;
    match command {
        Command::Create { id, name, columns, json } => {
            let view = view::create(database, &id, &ViewOptions { name, columns }).await?;
            if json {
                print_line(document(&view));
            } else {
                print_line(format_args!("view {} of the series {:?}: {}", view.name, view.series, columns_of(&view)));
            }
        }
        Command::Drop { id } => {
            let names = view::drop(database, &id).await?;
            print_line(format_args!("dropped {}", list(names.iter().map(String::as_str))));
        }
        Command::List { reading, json } => {
            let views = view::list(&reading.open(&config).await?).await?;
            if json {
                print_line(json!({"views": views.iter().map(document).collect::<Vec<_>>()}));
                return Ok(());
            }
            for view in views {
                print_line(format_args!("{:30}  {}  {}", view.name, escaped(&view.series), columns_of(&view)));
            }
        }
    }
    Ok(())
}

fn columns_of(view: &View) -> String {
    escaped(&list(view.columns.iter().map(String::as_str))).to_string()
}

fn document(view: &View) -> serde_json::Value {
    json!({"name": view.name, "series": view.series, "columns": view.columns})
}
