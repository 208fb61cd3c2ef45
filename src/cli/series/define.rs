//! `series create` and `series update`.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::value::RawValue;

use crate::cli::output::print_line;
use crate::cli::{Failure, name_and_value};
use crate::config::Config;
use crate::database::Database;
use crate::database::definition::{Defined, SeriesEdit};
use crate::message::faults::checked_name;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    series-ingest series create seattle-weather --name 'Seattle weather' --columns temp_max,wind --labels site=SEA,floor=2\n  \
    series-ingest series update seattle-weather --description 'NOAA daily' --labels floor= --label 'place=Seattle, WA'\n\n\
    The definition counts like a message series-create that is sent now: a later message replaces it, and an earlier one does \
    not.")]
pub(in crate::cli) struct Arguments {
    /// The id of the series.
    #[arg(value_name = "ID")]
    id: String,
    /// Its name; an empty one removes it.
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Its description; an empty one removes it.
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// The name of its times.
    #[arg(long, value_name = "NAME")]
    time_column: Option<String>,
    /// Its columns in their order, with commas, or several times.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    columns: Vec<String>,
    /// A column, whose name may have commas; may be repeated.
    #[arg(long, value_name = "NAME", conflicts_with = "columns")]
    column: Vec<String>,
    /// Labels, NAME=VALUE with commas, or several times; an empty value removes one. Numbers, true and false are stored as such.
    #[arg(long, value_name = "NAME=VALUE", value_delimiter = ',', value_parser = parse_label)]
    labels: Vec<(String, Option<Box<RawValue>>)>,
    /// A label, whose value may have commas; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_label)]
    label: Vec<(String, Option<Box<RawValue>>)>,
}

fn parse_label(text: &str) -> Result<(String, Option<Box<RawValue>>), String> {
    let (name, value) = name_and_value(text)
        .map_err(|error| format!("{error}: a value with commas is for --label, which takes one label"))?;
    if name.is_empty() {
        return Err("expected a name before =".to_owned());
    }
    if value.is_empty() {
        return Ok((name, None));
    }
    // A number keeps all of its digits.
    let json: Option<Box<RawValue>> = serde_json::from_str(&value).ok();
    let scalar = json.filter(|json| !json.get().starts_with(['{', '[', 'n']));
    let text = || serde_json::value::to_raw_value(&value).map_err(|error| error.to_string());
    Ok((name, Some(scalar.map_or_else(text, Ok)?)))
}

pub(super) async fn run(
    config: &Config,
    database: &Database,
    arguments: Arguments,
    creates: bool,
) -> Result<(), Failure> {
    let edit = edit(config, arguments)?;
    if !creates && edit.changes_nothing() {
        let text =
            "there is nothing to change: say it with --name, --description, --time-column, --columns or --labels";
        return Err(Failure::Usage(text.to_owned()));
    }
    match database.define(&edit, creates).await? {
        Defined::Created => print_line(format_args!("{:?} is created", edit.id)),
        Defined::Updated => print_line(format_args!("{:?} is updated", edit.id)),
        Defined::Missing => {
            let text = format!("there is no series {:?}: create it with `series create`", edit.id);
            return Err(Failure::Usage(text));
        }
        Defined::NotDefined(label) => {
            let text = format!(
                "the label {label:?} of {:?} was not defined: it came with points or from another program, which would bring it \
                 back. Nothing was changed",
                edit.id
            );
            return Err(Failure::Usage(text));
        }
        Defined::TimeIsColumn(name) => {
            let text = format!(
                "the time column of {:?} and one of its columns would both be {name:?}: choose other names with --time-column or \
                 --columns. Nothing was changed",
                edit.id
            );
            return Err(Failure::Usage(text));
        }
        Defined::Exists => {
            let text = format!("the series {:?} is defined already: change it with `series update`", edit.id);
            return Err(Failure::Usage(text));
        }
    }
    Ok(())
}

/// The changes, if a message could have them.
fn edit(config: &Config, arguments: Arguments) -> Result<SeriesEdit, Failure> {
    let Arguments { id, name, description, time_column, columns, column, labels, label } = arguments;
    let columns = Some(if column.is_empty() { columns } else { column }).filter(|columns| !columns.is_empty());
    let labels: Vec<(String, Option<Box<RawValue>>)> = labels.into_iter().chain(label).collect();
    let limit = config.message.limits().max_name_bytes;
    let names = std::iter::once(&id).chain(&time_column).chain(columns.iter().flatten());
    for name in names.chain(labels.iter().map(|(name, _)| name)) {
        let checked = checked_name(0, name, limit);
        checked.map_err(|fault| Failure::Usage(format!("{name:?} is not a name: {}", fault.what)))?;
    }
    let mut sorted: Vec<&String> = columns.iter().flatten().collect();
    sorted.sort_unstable();
    if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Failure::Usage(format!("the column {:?} is named twice", twice[0])));
    }
    let labels: BTreeMap<String, Option<Box<RawValue>>> = labels.into_iter().collect();
    Ok(SeriesEdit { id, name, description, time_column, value_columns: columns, labels })
}
