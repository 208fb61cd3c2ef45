//! From where each partition is read again after a restore, and whether Kafka still has it.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use crate::cli::Failure;
use crate::config::Config;
use crate::kafka::lookup::{Lookup, is_missing_topic};
use crate::kafka::partition::{LogRange, TopicPartition};
use crate::raw::FILE_CLUSTER;
use crate::repository::backup::{PartitionProgress, SourceProgress};

/// Where a partition continues.
#[derive(Debug, Serialize)]
pub(super) struct Continues {
    pipeline: String,
    topic: String,
    partition: i32,
    next_offset: i64,
    ahead: String,
    /// The first offset that Kafka still has.
    log_start: Option<i64>,
    /// The offset after the last one.
    log_end: Option<i64>,
    /// Offsets below the log's start that the database does not have.
    deleted: Option<i64>,
    /// Why it is not known what Kafka has, or why it does not matter.
    note: Option<String>,
}

impl fmt::Display for Continues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, partition, next_offset, .. } = self;
        write!(f, "partition {partition} of {topic}: is read again from {next_offset}")?;
        if self.ahead != "{}" {
            write!(f, " (except {}, which is applied)", self.ahead)?;
        }
        if let Some(note) = &self.note {
            return write!(f, "; {note}");
        }
        let (Some(start), Some(end)) = (self.log_start, self.log_end) else { return Ok(()) };
        write!(f, "; Kafka has {start} to {end}")?;
        match self.deleted {
            Some(0) if end < *next_offset => {
                write!(f, ": fewer than the database. Kafka has lost messages, and the partition will wait")
            }
            Some(0) => write!(f, ": nothing is missing"),
            Some(count) => write!(
                f,
                ": it has deleted {count} that the database lacks. They come from the journal of a worker if it still has them, \
                 and are a gap otherwise"
            ),
            None => Ok(()),
        }
    }
}

/// Asks Kafka about each partition; without an answer the notes say so.
pub(super) async fn ask(
    config: &Config,
    sources: &[SourceProgress],
    no_kafka: bool,
) -> Result<Vec<Continues>, Failure> {
    let (config, sources) = (config.clone(), sources.to_vec());
    // Requests of librdkafka block.
    let asked = tokio::task::spawn_blocking(move || {
        let found = if no_kafka { Err("Kafka was not asked".to_owned()) } else { Cluster::look(&config, &sources) };
        let each = |source: &SourceProgress| -> Vec<Continues> {
            source.partitions.iter().map(|one| continues(source, one, found.as_ref())).collect()
        };
        // Files that were imported are not read again.
        sources.iter().filter(|source| source.cluster_id != FILE_CLUSTER).flat_map(each).collect()
    });
    asked.await.map_err(|error| Failure::Internal(error.to_string()))
}

/// What the brokers say.
struct Cluster {
    id: String,
    topic_ids: HashMap<String, Option<String>>,
    ranges: HashMap<TopicPartition, LogRange>,
}

impl Cluster {
    fn look(config: &Config, sources: &[SourceProgress]) -> Result<Self, String> {
        let unknown = |why: &str| format!("what Kafka has is not known: {why}");
        let lookup = Lookup::new(&config.kafka).map_err(|error| unknown(&error.to_string()))?;
        let Some(id) = lookup.cluster_id() else {
            let brokers = &config.kafka.brokers;
            return Err(unknown(&lookup.refused().unwrap_or_else(|| format!("{brokers} does not answer"))));
        };
        let names: Vec<&str> =
            sources.iter().filter(|source| source.cluster_id == id).map(|source| source.topic.as_str()).collect();
        let mut topic_ids = HashMap::new();
        for (name, described) in lookup.topics(&names).map_err(|error| unknown(&error.to_string()))? {
            match described {
                Ok(described) => drop(topic_ids.insert(name, described.id)),
                Err(error) if is_missing_topic(&error) => {}
                Err(error) => return Err(unknown(&format!("topic {name}: {error}"))),
            }
        }
        let partitions: Vec<TopicPartition> = sources
            .iter()
            .filter(|source| topic_ids.contains_key(&source.topic))
            .flat_map(|source| source.partitions.iter().map(|one| TopicPartition::new(&source.topic, one.partition)))
            .collect();
        let ranges = lookup.log_ranges(&partitions).map_err(|error| unknown(&error.to_string()))?;
        Ok(Self { id, topic_ids, ranges })
    }

    /// The reason why a source's offsets are not those of the topic that is there now.
    fn stranger(&self, source: &SourceProgress) -> Option<String> {
        if self.id != source.cluster_id {
            return Some(format!("it is of the cluster {}, and the brokers are of {}", source.cluster_id, self.id));
        }
        match self.topic_ids.get(&source.topic) {
            None => Some("Kafka has no such topic any more".to_owned()),
            Some(Some(id)) if *id != source.topic_id => {
                Some("the topic was deleted and recreated since: the new one is read as its own source".to_owned())
            }
            Some(_) => None,
        }
    }
}

fn continues(source: &SourceProgress, partition: &PartitionProgress, cluster: Result<&Cluster, &String>) -> Continues {
    let mut found = Continues {
        pipeline: source.pipeline.clone(),
        topic: source.topic.clone(),
        partition: partition.partition,
        next_offset: partition.next_offset,
        ahead: partition.ahead.clone(),
        log_start: None,
        log_end: None,
        deleted: None,
        note: None,
    };
    let cluster = match cluster {
        Ok(cluster) => cluster,
        Err(why) => {
            found.note = Some(why.clone());
            return found;
        }
    };
    found.note = cluster.stranger(source);
    if found.note.is_some() {
        return found;
    }
    match cluster.ranges.get(&TopicPartition::new(&source.topic, partition.partition)) {
        None => found.note = Some("what Kafka has is not known: the partition's leader does not answer".to_owned()),
        Some(range) => {
            found.log_start = Some(range.start);
            found.log_end = Some(range.end);
            found.deleted = Some((range.start - partition.next_offset).max(0));
        }
    }
    found
}
