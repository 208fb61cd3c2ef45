//! `points export`: points into files, each whole or not at all.

use std::collections::HashSet;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::format::FormatArgument;
use super::parts::{Parts, warn_of_ambiguous_columns};
use super::targets::{Target, Targets};
use crate::cli::output::{print_line, print_line_to_standard_error};
use crate::cli::reading::{Reading, say_moments};
use crate::cli::selection::Matching;
use crate::cli::times::{parse_length, parse_time};
use crate::cli::{Failure, progress_bar, signals};
use crate::config::Config;
use crate::files::write::Head;
use crate::files::{Compression, Definition, Form, Format};
use crate::repository::Snapshot;
use crate::repository::export::{Aggregate, Bucket, Duplicates, Options, Part, Plan, plan, read};
use crate::telemetry::one_line;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    series-ingest points export seattle-weather --out weather.parquet      pandas reads it as a frame by time\n  \
    series-ingest points export seattle-weather --from 2024-01-01 --column temp_max --out weather.csv.gz\n  \
    series-ingest points export --match 'plant-*' --label site=a --out plant/    a file for each series\n  \
    series-ingest points export --match '*' --long --out all.parquet       all series in one file\n  \
    series-ingest points export s --bucket 5m --aggregate mean,max --out s.parquet\n  \
    series-ingest points export s --from -7d | head\n  \
    series-ingest points export s --fresh-as-of time-series.points:0:1234   with what this message has\n\n\
    All is as of one moment, unless a standby interrupts it, which is said.\n\
    A file has its name when it is whole; one that exists is not replaced without --overwrite.\n\
    Times are by RFC 3339, dates, or lengths before now, such as -7d; without a zone they are in UTC.")]
pub(in crate::cli) struct Arguments {
    /// The series.
    #[arg(value_name = "ID", required_unless_present_any = ["pattern", "label"], conflicts_with_all = ["pattern", "label"])]
    ids: Vec<String>,
    #[command(flatten)]
    matching: Matching,
    #[command(flatten)]
    reading: Reading,
    /// The first time.
    #[arg(long, value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true)]
    from: Option<i64>,
    /// The first time that is omitted.
    #[arg(long, value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true)]
    until: Option<i64>,
    /// Only these columns, in this order.
    #[arg(long = "column", value_name = "C", num_args = 1..)]
    columns: Vec<String>,
    /// The name of the column of times, instead of the series' own.
    #[arg(long, value_name = "NAME", conflicts_with = "long")]
    time_column: Option<String>,
    /// A row is a time with the values of all columns; this is the default.
    #[arg(long, conflicts_with = "long")]
    wide: bool,
    /// A row is a point: series, timestamp, column, value.
    #[arg(long)]
    long: bool,
    /// The format; by default as the file's name ends, parquet for a folder, and csv for standard output.
    #[arg(long, value_enum)]
    format: Option<FormatArgument>,
    /// The compression; by default zstd for Parquet, and for others as the file's name ends: .gz, .zst.
    #[arg(long, value_enum, value_name = "WHAT")]
    compression: Option<CompressionArgument>,
    /// A file; a folder, for a file of each series, if it exists or ends in /; or - for standard output, the default.
    #[arg(long, value_name = "FILE|DIR|-")]
    out: Option<PathBuf>,
    /// Replace files that exist.
    #[arg(long)]
    overwrite: bool,
    /// Which of several points of a column at the same time: the one with the highest or the lowest id, all, or an error.
    #[arg(long, value_enum, value_name = "WHICH", default_value_t = DuplicatesArgument::Last)]
    duplicates: DuplicatesArgument,
    /// A file for each day or month, in UTC; --out is then a folder.
    #[arg(long, value_enum, value_name = "SPAN")]
    partition_by: Option<PartArgument>,
    /// Aggregates of spans of this length instead of points, such as 5m; they begin at multiples of it since 1970, in UTC.
    #[arg(long, value_name = "LENGTH", value_parser = parse_length)]
    bucket: Option<i64>,
    /// What is computed of each span: a column NAME_mean for the mean of NAME, and so on.
    #[arg(long, value_enum, value_name = "WHAT", value_delimiter = ',', default_value = "mean", requires = "bucket")]
    aggregate: Vec<AggregateArgument>,
    /// Print what was written as one JSON document, on standard error if the rows go to standard output.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CompressionArgument {
    None,
    Gzip,
    Zstd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DuplicatesArgument {
    Last,
    First,
    All,
    Fail,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PartArgument {
    Day,
    Month,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AggregateArgument {
    Mean,
    Min,
    Max,
    Sum,
    Count,
}

impl Arguments {
    fn options(&self) -> Result<Options, Failure> {
        let duplicates = match self.duplicates {
            DuplicatesArgument::Last => Duplicates::Last,
            DuplicatesArgument::First => Duplicates::First,
            DuplicatesArgument::All => Duplicates::All,
            DuplicatesArgument::Fail => Duplicates::Fail,
        };
        let refused = |text: &str| Err(Failure::Usage(text.to_owned()));
        if duplicates == Duplicates::All && !self.long && self.bucket.is_none() {
            return refused("a row of the wide form has one value of a column: --duplicates all is for --long");
        }
        if duplicates == Duplicates::Fail && self.bucket.is_some() {
            return refused("--duplicates fail is not for --bucket: choose last, first or all");
        }
        let aggregate = |one: &AggregateArgument| match one {
            AggregateArgument::Mean => Aggregate::Mean,
            AggregateArgument::Min => Aggregate::Min,
            AggregateArgument::Max => Aggregate::Max,
            AggregateArgument::Sum => Aggregate::Sum,
            AggregateArgument::Count => Aggregate::Count,
        };
        let mut aggregates: Vec<Aggregate> = Vec::new();
        for one in self.aggregate.iter().map(aggregate) {
            if !aggregates.contains(&one) {
                aggregates.push(one);
            }
        }
        Ok(Options {
            from_us: self.from,
            until_us: self.until,
            columns: self.columns.clone(),
            time_column: self.time_column.clone(),
            form: if self.long { Form::Long } else { Form::Wide },
            duplicates,
            bucket: self.bucket.map(|length_us| Bucket { length_us, aggregates }),
            part: self.partition_by.map(|part| match part {
                PartArgument::Day => Part::Day,
                PartArgument::Month => Part::Month,
            }),
            window_points: window_points(),
        })
    }

    fn targets(&self) -> Result<Targets, Failure> {
        let format = self.format.map(Format::from);
        let compression = self.compression.map(|compression| match compression {
            CompressionArgument::None => Compression::None,
            CompressionArgument::Gzip => Compression::Gzip,
            CompressionArgument::Zstd => Compression::Zstd,
        });
        let targets = Targets::new(self.out.as_deref(), format, compression, self.overwrite)?;
        if self.partition_by.is_some() && !matches!(targets.target, Target::Folder(_)) {
            return Err(Failure::Usage("--partition-by writes several files: name a folder, --out DIR/".to_owned()));
        }
        Ok(targets)
    }
}

/// Small where a test wants many windows.
fn window_points() -> usize {
    #[cfg(feature = "planted-bugs")]
    if crate::planted_bugs::is_on("export-windows-are-small") {
        return 20;
    }
    Options::WINDOW_POINTS
}

pub(super) async fn run(config: &Config, arguments: Arguments) -> Result<(), Failure> {
    signals::survive_file_limit()?;
    let (selection, options, targets) =
        (arguments.matching.selection(arguments.ids.clone())?, arguments.options()?, arguments.targets()?);
    let snapshot = arguments.reading.open(config).await?;
    let series = snapshot.series(&selection).await?;
    let series: Vec<Definition> = series.into_iter().map(|one| one.definition).collect();
    if series.is_empty() {
        return Err(Failure::Usage("no series matches: there is nothing to export".to_owned()));
    }
    let is_one = matches!(targets.target, Target::File(_) | Target::Output);
    if is_one && !arguments.long && series.len() > 1 {
        return Err(Failure::Usage(format!(
            "these are {} series, and a file of the wide form has one: name a folder for a file of each, --out DIR/, or write \
             all of them as points with --long",
            series.len()
        )));
    }
    match &targets.target {
        Target::Output => {}
        Target::File(path) => targets.refuse_existing(path)?,
        Target::Folder(folder) if options.part.is_none() => {
            for one in &series {
                targets.refuse_existing(&targets.path_in(folder, &one.id, None))?;
            }
        }
        Target::Folder(_) => {}
    }
    let mut export = Export { snapshot, options, targets, files: Vec::new(), bar: progress_bar(0, "points") };
    let written = if is_one { export.write_one(series).await } else { export.write_folder(series).await };
    export.bar.finish_and_clear();
    if arguments.json {
        let places = export.snapshot.places();
        let document = json!({"files": export.files, "moments": places.len(), "read_from": places});
        if export.targets.target == Target::Output {
            print_line_to_standard_error(document)
        } else {
            print_line(document)
        }
    } else if export.targets.target != Target::Output {
        for file in &export.files {
            let name = one_line(file["file"].as_str().unwrap_or_default());
            print_line(format_args!("{name}: {} rows", file["rows"]));
        }
    }
    if written.is_ok() {
        say_moments(&export.snapshot, "the export");
    }
    written
}

struct Export {
    snapshot: Snapshot,
    options: Options,
    targets: Targets,
    /// What was written, for people and programs.
    files: Vec<Value>,
    bar: ProgressBar,
}

impl Export {
    fn head(&self, plan: &Plan, definitions: Vec<Definition>) -> Head {
        let index = (self.options.form == Form::Wide).then(|| plan.definition.time_column.clone());
        Head { schema: plan.schema.clone(), definitions, index }
    }

    async fn plan(&self, definition: Definition) -> Result<Plan, Failure> {
        let plan = plan(&self.snapshot, definition, &self.options).await?;
        self.bar.inc_length(plan.expected_points);
        Ok(plan)
    }

    fn wrote(&mut self, file: &str, series: usize, rows: u64) {
        self.files.push(json!({"file": file, "series": series, "rows": rows}));
    }

    /// All series into one file, or to standard output.
    async fn write_one(&mut self, series: Vec<Definition>) -> Result<(), Failure> {
        let mut plans = Vec::new();
        for definition in series {
            plans.push(self.plan(definition).await?);
        }
        let Some(first) = plans.first() else { return Ok(()) };
        let head = self.head(first, plans.iter().map(|plan| plan.definition.clone()).collect());
        let (mut writer, name) = match &self.targets.target {
            Target::File(path) => (self.targets.open_file(path, &head)?, path.display().to_string()),
            Target::Output | Target::Folder(_) => (self.targets.open_output(&head)?, "-".to_owned()),
        };
        let (mut rows, mut points) = (0, 0);
        for plan in &plans {
            let progress = |read| self.bar.set_position(points + read);
            let take = &mut |batch: &_| Ok(writer.write(batch)?);
            let done = read(&self.snapshot, plan, &self.options, take, &progress).await?;
            rows += done.rows;
            points += done.points;
        }
        if let Target::File(path) = &self.targets.target {
            warn_of_ambiguous_columns(path, &writer);
        }
        writer.finish()?;
        self.wrote(&name, plans.len(), rows);
        Ok(())
    }

    /// Ends the last file of a series; one without points has a file as well, for its definition.
    fn end(&self, parts: &mut Parts<'_>, plan: &Plan) -> Result<(), Failure> {
        if parts.open.is_none() && parts.done.is_empty() {
            parts.begin(&self.targets, &plan.definition.id, None)?;
        }
        Ok(parts.end()?)
    }

    /// Each series into its own files.
    async fn write_folder(&mut self, series: Vec<Definition>) -> Result<(), Failure> {
        let Target::Folder(folder) = self.targets.target.clone() else { return Ok(()) };
        let (mut points, mut written) = (0, HashSet::new());
        for definition in series {
            let plan = self.plan(definition).await?;
            let mut parts = Parts {
                head: self.head(&plan, vec![plan.definition.clone()]),
                folder: &folder,
                open: None,
                done: Vec::new(),
                written: &mut written,
            };
            if self.options.part.is_none() {
                parts.begin(&self.targets, &plan.definition.id, None)?;
            }
            let progress = |read| self.bar.set_position(points + read);
            let take =
                &mut |batch: &_| Ok(parts.write(&self.targets, &plan.definition.id, self.options.part, batch)?);
            let ended = match read(&self.snapshot, &plan, &self.options, take, &progress).await {
                Ok(read) => {
                    points += read.points;
                    self.end(&mut parts, &plan)
                }
                Err(error) => Err(error.into()),
            };
            for (path, rows) in std::mem::take(&mut parts.done) {
                self.wrote(&path.display().to_string(), 1, rows);
            }
            ended?;
        }
        Ok(())
    }
}
