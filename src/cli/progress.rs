//! `progress show|reset|adopt`: the progress of each partition.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::{Args, Subcommand};

use super::{Failure, print_line, saying_waits};
use crate::config::Config;
use crate::database::{Database, ProgressRow};
use crate::kafka::lookup::{Lookup, is_missing_topic};
use crate::kafka::partition::TopicPartition;
use crate::pipeline;
use crate::raw::{FILE_CLUSTER, Source};
use crate::telemetry::one_line;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print the progress of this pipeline: every offset below next_offset is applied.
    Show {
        /// Only this topic, or file.
        #[arg(long, allow_hyphen_values = true)]
        topic: Option<String>,
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Set the next offset of a source's partitions. Stop the pipeline's workers first. Messages below it are never read again,
    /// messages above it are written again if they were written before.
    Reset(Reset),
    /// Continue the pipeline in another cluster: give a topic of the configured brokers the progress of a source in the old
    /// one. Stop the pipeline's workers first. Messages below the offsets are never read here, messages above them are written.
    ///
    /// series-ingest progress adopt --source 2 --group-offsets
    ///
    /// series-ingest progress adopt --source 2 --offsets 0=1200,1=900 --yes
    #[command(verbatim_doc_comment)]
    Adopt(Adopt),
}

#[derive(Debug, Args)]
pub(super) struct Reset {
    /// The source's number, as `progress show` prints it.
    #[arg(long, required_unless_present = "topic", conflicts_with = "topic")]
    source: Option<i32>,
    /// The topic as it exists in Kafka now; its source is added if it was never read.
    #[arg(long)]
    topic: Option<String>,
    /// Only this partition.
    #[arg(long)]
    partition: Option<i32>,
    /// The next offset to be read.
    #[arg(long)]
    next_offset: i64,
    /// Make the change; without this the command only prints what it would do.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct Adopt {
    /// The number of the source in the other cluster, as `progress show` prints it.
    #[arg(long)]
    source: i32,
    /// The topic in the configured cluster, if it has another name there.
    #[arg(long)]
    topic: Option<String>,
    /// Use the group's offsets in the configured cluster, as a mirror has synchronized them.
    #[arg(long, required_unless_present = "offsets", conflicts_with = "offsets")]
    group_offsets: bool,
    /// The next offset of each partition in the configured cluster, for instance 0=1200,1=900.
    #[arg(long, value_delimiter = ',', value_parser = partition_offset)]
    offsets: Vec<(i32, i64)>,
    /// Continue even if messages above the next offset are applied, which are then written again.
    #[arg(long)]
    accept_duplicates: bool,
    /// Make the change; without this the command only prints what it would do.
    #[arg(long)]
    yes: bool,
}

fn partition_offset(text: &str) -> Result<(i32, i64), String> {
    let parsed = text.split_once('=').and_then(|(partition, offset)| {
        let (partition, offset): (i32, i64) = (partition.trim().parse().ok()?, offset.trim().parse().ok()?);
        (partition >= 0 && offset >= 0).then_some((partition, offset))
    });
    parsed.ok_or_else(|| format!("{text:?} is not PARTITION=OFFSET, for instance 0=1200"))
}

pub(super) async fn run(config: &Config, command: Command) -> Result<(), Failure> {
    config.require_database()?;
    let database = Database::new(config)?;
    saying_waits(&database, run_with(config, &database, command)).await
}

async fn run_with(config: &Config, database: &Database, command: Command) -> Result<(), Failure> {
    match command {
        Command::Show { topic, json } => show(database, topic.as_deref(), json).await,
        Command::Reset(Reset { source: Some(source), partition, next_offset, yes, .. }) => {
            reset(database, source, partition, next_offset, yes).await
        }
        Command::Reset(Reset { topic, partition, next_offset, yes, .. }) => {
            reset_topic(config, database, &topic.unwrap_or_default(), partition, next_offset, yes).await
        }
        Command::Adopt(adopt) => self::adopt(config, database, adopt).await,
    }
}

async fn show(database: &Database, topic: Option<&str>, json: bool) -> Result<(), Failure> {
    let rows = database.progress(topic).await?;
    if json {
        print_line(serde_json::json!({"partitions": rows}));
        return Ok(());
    }
    if rows.is_empty() {
        print_line("no partition was read yet");
        return Ok(());
    }
    let topics: Vec<_> = rows.iter().map(|row| one_line(&row.topic)).collect();
    let width = topics.iter().map(|topic| topic.chars().count()).max().unwrap_or(0).max("topic".len());
    print_line(format_args!(
        "{:>6}  {:width$}  {:>9}  {:>16}  {:<24}  {:<22}  updated_at",
        "source", "topic", "partition", "next_offset", "ahead", "topic_id"
    ));
    for (row, topic) in rows.iter().zip(&topics) {
        print_line(format_args!(
            "{:>6}  {topic:width$}  {:>9}  {:>16}  {:<24}  {:<22}  {}",
            row.source_id, row.partition, row.next_offset, row.ahead, row.topic_id, row.updated_at
        ));
    }
    Ok(())
}

async fn reset(
    database: &Database,
    source: i32,
    partition: Option<i32>,
    next_offset: i64,
    yes: bool,
) -> Result<(), Failure> {
    not_negative(next_offset)?;
    let rows = database.progress(None).await?;
    let chosen: Vec<_> = rows
        .iter()
        .filter(|row| row.source_id == source && partition.is_none_or(|only| only == row.partition))
        .collect();
    let Some(first) = chosen.first() else {
        return Err(Failure::Usage(format!(
            "this pipeline has no such partition of source {source}: see `series-ingest progress show`"
        )));
    };
    for row in &chosen {
        print_line(format_args!(
            "{} partition {}: next_offset {} -> {next_offset}",
            one_line(&row.topic),
            row.partition,
            row.next_offset
        ));
    }
    if is_only_said(yes) {
        return Ok(());
    }
    let changed = database.reset_progress(first.source_key, partition, next_offset).await?;
    print_line(format_args!("{changed} partitions were set"));
    Ok(())
}

/// Sets the progress of a topic as it exists in Kafka now, whether it was read before or not.
async fn reset_topic(
    config: &Config,
    database: &Database,
    topic: &str,
    partition: Option<i32>,
    next_offset: i64,
    yes: bool,
) -> Result<(), Failure> {
    not_negative(next_offset)?;
    let found = in_kafka(config, topic).await?;
    let chosen: Vec<i32> =
        found.ranges.keys().copied().filter(|number| partition.is_none_or(|only| only == *number)).collect();
    if chosen.is_empty() {
        return Err(Failure::Usage(format!("topic {topic} has no such partition")));
    }
    let rows = progress_of(database, &found.source).await?;
    for number in &chosen {
        let now = rows.get(number).map_or_else(|| "none".to_owned(), |row| row.next_offset.to_string());
        print_line(format_args!("{topic} partition {number}: next_offset {now} -> {next_offset}"));
    }
    if is_only_said(yes) {
        return Ok(());
    }
    let firsts: Vec<(i32, i64)> = chosen.iter().map(|number| (*number, next_offset)).collect();
    database.start(&found.source, &firsts).await?;
    let mut changed = chosen.len();
    if let Some(row) = rows.values().find(|row| chosen.contains(&row.partition)) {
        let (key, known) = (row.source_key, rows.keys().filter(|number| chosen.contains(*number)));
        changed -= known.clone().count();
        for number in known {
            changed += database.reset_progress(key, Some(*number), next_offset).await?;
        }
    }
    print_line(format_args!("{changed} partitions were set"));
    Ok(())
}

async fn adopt(config: &Config, database: &Database, adopt: Adopt) -> Result<(), Failure> {
    let rows = database.progress(None).await?;
    let old: Vec<&ProgressRow> = rows.iter().filter(|row| row.source_id == adopt.source).collect();
    let Some(first) = old.first() else {
        return Err(Failure::Usage(format!(
            "this pipeline has no source {}: see `series-ingest progress show`",
            adopt.source
        )));
    };
    if first.cluster_id == FILE_CLUSTER {
        return Err(Failure::Usage(format!(
            "source {} is the file {}, which was imported, and no topic of another cluster",
            adopt.source,
            one_line(&first.topic)
        )));
    }
    let topic = adopt.topic.as_deref().unwrap_or(&first.topic);
    let found = in_kafka(config, topic).await?;
    if found.source.cluster_id == first.cluster_id {
        return Err(Failure::Usage(format!(
            "source {} is of the configured cluster, {}: set kafka.brokers to the new one, or use `progress reset`",
            adopt.source, first.cluster_id
        )));
    }
    let given = if adopt.group_offsets { found.committed.clone() } else { adopt.offsets.iter().copied().collect() };
    let known = progress_of(database, &found.source).await?;
    let group = &config.kafka.group_id;
    let adoption = Adoption { arguments: &adopt, group, topic, found: &found, given: &given, known: &known };
    let mut offsets: Vec<(i32, i64)> = Vec::new();
    for row in &old {
        let offset = adoption.offset_of(row)?;
        print_line(format_args!(
            "{topic} partition {}: {} in the other cluster -> {offset} in {}",
            row.partition, row.next_offset, found.source.cluster_id
        ));
        offsets.push((row.partition, offset));
    }
    if let Some((number, _)) =
        given.iter().find(|(number, _)| !adopt.group_offsets && !old.iter().any(|row| row.partition == **number))
    {
        return Err(Failure::Usage(format!("source {} has no partition {number}", adopt.source)));
    }
    if is_only_said(adopt.yes) {
        return Ok(());
    }
    let now = database.start(&found.source, &offsets).await?.next_offsets;
    // A worker that is still running may have been faster.
    if let Some((number, offset)) = offsets.iter().find(|(number, offset)| now.get(number) != Some(offset)) {
        return Err(Failure::Usage(format!(
            "{topic} partition {number} was not set to {offset}: a worker has started it meanwhile; stop the workers"
        )));
    }
    print_line(format_args!("{} partitions were adopted", offsets.len()));
    Ok(())
}

/// The facts that the adopted offsets depend on.
struct Adoption<'a> {
    arguments: &'a Adopt,
    /// The group's id.
    group: &'a str,
    topic: &'a str,
    found: &'a InKafka,
    /// The offsets that were given, or the group's.
    given: &'a BTreeMap<i32, i64>,
    /// The topic's existing progress in the configured cluster.
    known: &'a BTreeMap<i32, ProgressRow>,
}

impl Adoption<'_> {
    /// Returns the next offset, in the configured cluster, of the partition that has this progress in the other one.
    ///
    /// # Errors
    /// If none is given, or it cannot be adopted.
    fn offset_of(&self, row: &ProgressRow) -> Result<i64, Failure> {
        let (topic, number) = (self.topic, row.partition);
        let Some(offset) = self.given.get(&number).copied() else {
            let whence = if self.arguments.group_offsets {
                format!("group {} has no offset of it in the configured cluster", self.group)
            } else {
                "--offsets does not name it".to_owned()
            };
            return Err(Failure::Usage(format!("{topic} partition {number}: {whence}")));
        };
        if let Some(row) = self.known.get(&number) {
            return Err(Failure::Usage(format!(
                "{topic} partition {number} has progress in the configured cluster already, next_offset {}: use `progress \
                 reset --topic {topic}` to change it",
                row.next_offset
            )));
        }
        let Some((start, end)) = self.found.ranges.get(&number).copied() else {
            return Err(Failure::Usage(format!("topic {topic} has no partition {number} in the configured cluster")));
        };
        if !(start..=end).contains(&offset) {
            return Err(Failure::Usage(format!(
                "{topic} partition {number}: offset {offset} is outside its log, which has {start} to {end}"
            )));
        }
        if row.has_islands() && !self.arguments.accept_duplicates {
            return Err(Failure::Usage(format!(
                "{topic} partition {number}: {}. Run a worker on the other cluster until they are part of next_offset, or give \
                 --accept-duplicates",
                pipeline::islands_elsewhere(&row.ahead)
            )));
        }
        Ok(offset)
    }
}

fn not_negative(next_offset: i64) -> Result<(), Failure> {
    if next_offset < 0 { Err(Failure::Usage("--next-offset must be 0 or more".to_owned())) } else { Ok(()) }
}

/// Returns `true`, and reports it, if nothing is to be changed.
fn is_only_said(yes: bool) -> bool {
    if !yes {
        print_line("nothing was changed: add --yes to do it");
    }
    !yes
}

/// A topic's state on the configured brokers.
struct InKafka {
    source: Arc<Source>,
    /// The start and the end of each partition's log.
    ranges: BTreeMap<i32, (i64, i64)>,
    /// The group's offsets.
    committed: BTreeMap<i32, i64>,
}

async fn in_kafka(config: &Config, topic: &str) -> Result<InKafka, Failure> {
    let (kafka, inputs, name) = (config.kafka.clone(), config.inputs(), topic.to_owned());
    let asked = tokio::task::spawn_blocking(move || -> Result<InKafka, Failure> {
        let lookup = Lookup::new(&kafka)?;
        let described = match lookup.topic(&name) {
            Err(error) if is_missing_topic(&error) => return Err(Failure::Usage(format!("there is no topic {name}"))),
            described => described?,
        };
        let cluster_id = lookup
            .cluster_id()
            .ok_or_else(|| Failure::Unreachable("the brokers do not give the cluster's id".to_owned()))?;
        let partitions: Vec<TopicPartition> =
            (0..).take(described.partitions).map(|number| TopicPartition::new(name.clone(), number)).collect();
        let ranges = lookup.log_ranges(&partitions)?;
        let committed = lookup.committed(&partitions)?;
        let kind = inputs.kind_of(&name);
        Ok(InKafka {
            source: Arc::new(Source { kind, cluster_id, topic: name, topic_id: described.id.unwrap_or_default() }),
            ranges: ranges.into_iter().map(|(partition, range)| (partition.number, (range.start, range.end))).collect(),
            committed: committed.into_iter().map(|(partition, offset)| (partition.number, offset)).collect(),
        })
    });
    asked.await.map_err(|failure| Failure::Internal(failure.to_string()))?
}

/// The progress of a source, by partition.
async fn progress_of(database: &Database, source: &Source) -> Result<BTreeMap<i32, ProgressRow>, Failure> {
    let rows = database.progress(Some(&source.topic)).await?;
    let is_of_source = |row: &ProgressRow| row.cluster_id == source.cluster_id && row.topic_id == source.topic_id;
    Ok(rows.into_iter().filter(is_of_source).map(|row| (row.partition, row)).collect())
}
