//! `series gaps`.

use clap::Args;
use serde_json::json;
use tracing::Level;

use crate::cli::Failure;
use crate::cli::output::{complain, print_line};
use crate::cli::reading::{Reading, say_moments};
use crate::cli::times::{parse_length, parse_time};
use crate::config::Config;
use crate::repository::chosen_columns;
use crate::telemetry::{escaped, time_us};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    series-ingest series gaps seattle-weather --longer-than 36h\n  \
    series-ingest series gaps seattle-weather --longer-than 1h --column temp_max --from -30d --json\n\n\
    A gap is between two points of a column: before the first and after the last one there is none.")]
pub(in crate::cli) struct Arguments {
    /// The id of the series.
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    reading: Reading,
    /// Only gaps longer than this, such as 36h.
    #[arg(long, value_name = "LENGTH", value_parser = parse_length)]
    longer_than: i64,
    /// Only these columns.
    #[arg(long = "column", value_name = "C", num_args = 1..)]
    columns: Vec<String>,
    /// Only points from this time on.
    #[arg(long, value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true)]
    from: Option<i64>,
    /// Only points before this time.
    #[arg(long, value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true)]
    until: Option<i64>,
    /// Maximum number of gaps of a column.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(i64).range(1..))]
    limit: i64,
    /// As JSON lines.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, arguments: &Arguments) -> Result<(), Failure> {
    let snapshot = arguments.reading.open(config).await?;
    snapshot.one_series(&arguments.id).await?;
    let known: Vec<String> = snapshot.columns(&arguments.id).await?.into_iter().map(|column| column.name).collect();
    let columns = chosen_columns(&arguments.id, known, &arguments.columns)?;
    for column in &columns {
        let range = (arguments.from, arguments.until);
        let gaps = snapshot.time_gaps(&arguments.id, column, range, arguments.longer_than, arguments.limit).await?;
        for gap in &gaps {
            let (after, until) = (time_us(gap.after_us), time_us(gap.until_us));
            let seconds = gap.until_us.saturating_sub(gap.after_us) / 1_000_000;
            if arguments.json {
                print_line(json!({"column": column, "after": after, "until": until, "seconds": seconds}));
            } else {
                print_line(format_args!("{}  {after} to {until}  {seconds} s", escaped(column)));
            }
        }
        if i64::try_from(gaps.len()).is_ok_and(|count| count == arguments.limit) {
            complain(Level::WARN, &format!("{}: there may be more gaps: raise --limit", escaped(column)));
        }
    }
    say_moments(&snapshot, "the list of gaps");
    Ok(())
}
